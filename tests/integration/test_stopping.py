"""How servers are stopped: politely first, for sure in the end, the root and not its workers."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.processes import (
    Identity,
    Processes,
    accepts,
    children,
    command_line,
    holder,
    is_free,
    launch,
    notes,
    one_backend,
    only,
    supervisor,
    tcp,
    wait_until,
)
from helpers.reports import how, took
from portfree import free_ports

pytestmark = pytest.mark.usefixtures("backend", "project")

needs_gunicorn = pytest.mark.skipif(find_spec("gunicorn") is None, reason="needs gunicorn")
needs_uvicorn = pytest.mark.skipif(find_spec("uvicorn") is None, reason="needs uvicorn")


# The ladder


def test_a_polite_server_ends_after_the_first_signal(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert "SIGTERM" in how(holder(outcome, server))


def test_a_server_that_ignores_sigterm_ends_after_sigint(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--ignore", "TERM"), cwd=project)

    outcome = only(free_ports(port, grace=2.0))

    assert outcome.status == "freed"
    assert "SIGINT" in how(holder(outcome, server))


def test_a_server_that_ignores_both_is_killed(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--ignore", "TERM", "--ignore", "INT"), cwd=project)

    outcome = only(free_ports(port, grace=1.0))

    assert outcome.status == "freed"
    assert "SIGKILL" in how(holder(outcome, server))
    assert (took(holder(outcome, server)) or 0) >= 1.0
    assert not server.alive


def test_a_server_may_take_its_time_to_flush(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    marker = project / "marker"
    server = processes.orphan(tcp(port, "--flush", str(marker)), cwd=project)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert "SIGTERM" in how(holder(outcome, server))
    server.wait_gone()
    assert marker.read_text() == "flushed\n"


def test_a_stopped_server_wakes_up_to_flush(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    marker = project / "marker"
    server = processes.orphan(tcp(port, "--stop-self", "--flush", str(marker)), cwd=project)
    wait_until(lambda: (seen := server.process.stat) and seen.state == "T", "it is stopped")

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    server.wait_gone()
    assert marker.exists()


def test_a_server_that_lets_go_may_finish_its_requests(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    marker = project / "marker"
    server = processes.orphan(tcp(port, "--drain", str(marker)), cwd=project)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert connection.recv(64) == b"accepted\n"

        # Its open connection still has the port's number, so only a server with SO_REUSEADDR can
        # take it over.
        outcome = only(free_ports(port))

        assert outcome.status == "freed"
        assert "draining" in notes(outcome)
        assert str(server.pid) in notes(outcome)["draining"]
        assert is_free(port)
        assert server.alive
    server.wait_gone()
    assert marker.exists()


# Who is signalled


def test_the_master_is_stopped_and_takes_its_workers_along(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    master = processes.orphan(tcp(port, "--workers", "2"), cwd=project)
    workers = master.workers

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, master).root
    for worker in workers:
        found = holder(outcome, worker)
        assert not found.root
        assert found.verdict.action == "stop"
        worker.wait_gone()


@one_backend
def test_workers_whose_master_is_dead_are_stopped_together(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    master = processes.orphan(tcp(port, "--workers", "3"), cwd=project)
    workers = master.workers
    master.process.send(signal.SIGKILL)
    master.wait_gone()
    wait_until(
        lambda: all((seen := worker.stat) and seen.ppid != master.pid for worker in workers),
        "the workers are adopted",
    )

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert {each.pid for each in outcome.holders} == {worker.pid for worker in workers}
    assert all(each.root for each in outcome.holders)


def test_a_shell_around_the_server_is_no_obstacle(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    # `; true` keeps the shell: without it, it would become the server by exec.
    shell = processes.orphan(["sh", "-c", f"{shlex.join(tcp(port))}; true"], cwd=project)
    server = shell.server
    assert server != shell.process

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, server).verdict.rule == "orphan"
    assert [each.pid for each in outcome.holders] == [server.pid]
    shell.wait_gone()


def test_who_shares_a_socket_with_a_kept_holder_is_kept(
    processes: Processes, project: Path, elsewhere: Path
) -> None:
    port = processes.free_port()
    sleep = shlex.join(launch("orphan", ["sleep", "1000"]))
    script = f"cd {project} && {sleep}; cd {elsewhere} && {sleep}"
    # Both sleepers have the listener that they were handed down; who opened it has ended.
    opener = processes.orphan(tcp(port, "--hand-down", "--run", "--", "sh", "-c", script))
    ours, theirs = (Identity(*opener.read("launched")["launched"]) for _ in range(2))
    opener.wait_gone()

    outcome = only(free_ports(port))

    assert outcome.status == "busy"
    assert holder(outcome, ours).verdict.action == "keep"
    assert str(theirs.pid) in holder(outcome, ours).verdict.reason
    assert holder(outcome, theirs).verdict.action == "keep"
    assert ours.alive
    assert theirs.alive


def test_a_thread_that_outlived_its_leader_holds_the_port(
    processes: Processes, project: Path, backend: str
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--dead-main"), cwd=project)
    wait_until(lambda: (seen := server.process.stat) and seen.state == "Z", "the leader has ended")

    outcome = only(free_ports(port, grace=1.0))

    if backend == "linux":
        assert outcome.status == "freed"
        assert holder(outcome, server).verdict.rule == "orphan"
        assert not server.alive
    else:
        assert outcome.status == "busy"
        assert "invisible" in notes(outcome)
        assert server.alive


# Real servers


@needs_gunicorn
def test_gunicorn_with_workers(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    (project / "shop.py").write_text(_WSGI)
    command = [sys.executable, "-m", "gunicorn", "--workers=2", f"--bind=127.0.0.1:{port}"]
    master = processes.orphan([*command, "shop:application"], cwd=project, listening=port)
    workers = wait_until(
        lambda: len(found := children(master.pid)) == 2 and [*map(Identity.of, found)],
        "two workers",
    )
    assert workers

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, master).root
    assert "SIGTERM" in how(holder(outcome, master))
    for process in (master.process, *workers):
        process.wait_gone()


_WSGI = """\
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
"""


@needs_uvicorn
def test_uvicorn_with_reload(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    (project / "shop.py").write_text(_ASGI)
    reloader = processes.orphan([*_uvicorn(port), "--reload"], cwd=project, listening=port)
    # The reloader binds; that its worker is up shows in an answer.
    with _asking(port, "/", b"hello"):
        pass

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, reloader).root
    assert holder(outcome, reloader).verdict.rule == "orphan"
    reloader.wait_gone()
    assert not accepts(port)


@needs_uvicorn
def test_uvicorn_with_an_open_stream(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    (project / "shop.py").write_text(_ASGI)
    server = processes.orphan(_uvicorn(port), cwd=project, listening=port)
    with _asking(port, "/stream", b"tick"):
        outcome = only(free_ports(port, grace=2.0))

    # After SIGTERM uvicorn lets go of the port and waits for the stream, which is its business.
    assert outcome.status == "freed"
    assert "SIGKILL" not in how(holder(outcome, server))
    assert is_free(port)


def _uvicorn(port: int) -> list[str]:
    return [sys.executable, "-m", "uvicorn", f"--port={port}", "shop:application"]


def _asking(port: int, path: str, wanted: bytes) -> socket.socket:
    """A client that has got the beginning of its answer, and keeps the connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    received = b""
    while wanted not in received:
        received += connection.recv(4096)
    return connection


_ASGI = """\
import asyncio

async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": b"tick", "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"hello"})
"""


# Taken again


def test_a_supervisor_that_is_looked_after_is_named_and_spared(
    processes: Processes, elsewhere: Path
) -> None:
    port = processes.free_port()
    started_one = processes.attended(supervisor(tcp(port)), cwd=elsewhere)
    first = started_one.server

    # The scope covers the server, and nothing but the server.
    outcome = only(free_ports(port, scope="mine"))

    assert outcome.status == "busy"
    assert holder(outcome, first).verdict.rule == "mine"
    assert str(started_one.pid) in notes(outcome)["restarted"]
    assert not first.alive
    assert started_one.alive
    wait_until(lambda: accepts(port), "the server is back")


def test_a_supervisor_that_is_an_orphan_itself_is_stopped_with_its_server(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    started_one = processes.orphan(supervisor(tcp(port)), cwd=project)

    outcome = only(free_ports(port, scope="mine"))

    assert outcome.status == "freed"
    started_one.wait_gone()
    assert is_free(port)


def test_a_loop_in_a_forgotten_shell_is_stopped(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    loop = f"while :; do {shlex.join(tcp(port))}; done"
    shell = processes.orphan(["sh", "-c", loop], cwd=project)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    shell.wait_gone()
    assert is_free(port)


@one_backend
def test_a_supervisor_is_left_alone_where_its_server_is(
    processes: Processes, elsewhere: Path
) -> None:
    port = processes.free_port()
    started_one = processes.orphan(supervisor(tcp(port)), cwd=elsewhere)
    server = started_one.server

    outcome = only(free_ports(port))

    assert outcome.status == "busy"
    assert holder(outcome, server).verdict.rule == "attended"
    assert str(started_one.pid) in holder(outcome, server).launcher
    assert server.alive
    assert started_one.alive


@one_backend
def test_other_descendants_and_the_process_group_are_left_alone(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    # A helper of the server's, which has nothing to do with the port, in the same process group.
    server = processes.orphan(tcp(port, "--run", "--", "sleep", "1000"), cwd=project)
    (helper,) = wait_until(lambda: children(server.pid), "it has started its helper")
    # Until it has become `sleep` by exec, it has its parent's sockets open.
    wait_until(lambda: command_line(helper)[:1] == ["sleep"], "the helper is at work")
    identity = Identity.of(helper)
    assert os.getpgid(helper) == os.getpgid(server.pid)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert [each.pid for each in outcome.holders] == [server.pid]
    assert identity.alive
