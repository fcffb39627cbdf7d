"""The whole way, from a held port to a report, with servers that real people leave behind."""

from __future__ import annotations

import logging
import os
import pickle
import pwd
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    Processes,
    holder,
    http_server,
    is_free,
    one_backend,
    only,
    serve,
    supervisor,
    tail,
    tcp,
    wait_until,
)
from helpers.reports import how, took
from portfree import Port, PortfreeError, PortsBusyError, PortSpecError, Report, free_ports

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("backend", "project")


def test_a_free_port_is_free(processes: Processes) -> None:
    port = processes.free_port()

    report = free_ports(port)

    assert isinstance(report, Report)
    assert report.ok
    assert report.freed == report.busy == ()
    outcome = only(report)
    assert (outcome.port, outcome.status, outcome.ok) == (Port(port), "free", True)
    assert outcome.holders == ()
    assert outcome.notes == ()


def test_a_forgotten_http_server_is_stopped_and_named(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    before = time.time()
    server = processes.orphan(http_server(port), cwd=project, listening=port)

    report = free_ports(port)

    assert report.ok
    assert report.freed == (Port(port),)
    assert not server.alive
    assert is_free(port)
    found = holder(only(report), server)
    assert found.verdict.action == "stop"
    assert found.verdict.rule == "orphan"
    assert tail(project) in found.verdict.reason
    assert found.command.endswith(f"-m http.server --bind 127.0.0.1 {port}")
    assert found.user == pwd.getpwuid(os.getuid()).pw_name
    assert found.uid == os.getuid()
    assert found.cwd == str(project)
    assert found.addresses == ("127.0.0.1",)
    assert found.root
    assert found.launcher == found.test == ""
    assert "SIGTERM" in how(found)
    assert found.started is not None
    assert before - 2 < found.started < time.time() + 2  # ticks are coarse
    seconds = took(found)
    assert seconds is not None
    assert 0 <= seconds <= only(report).seconds <= report.seconds


@one_backend
def test_a_second_call_finds_it_free(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    processes.orphan(tcp(port), cwd=project)

    assert only(free_ports(port)).status == "freed"
    assert only(free_ports(port)).status == "free"


@one_backend
def test_a_server_in_a_folder_of_the_project(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    folder = project / "deep" / "inside"
    folder.mkdir(parents=True)
    processes.orphan(tcp(port), cwd=folder)

    assert only(free_ports(port)).status == "freed"


def test_the_server_of_another_project_is_left_alone(processes: Processes, elsewhere: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=elsewhere)

    report = free_ports(port)

    assert not report.ok
    assert report.busy == (Port(port),)
    found = holder(only(report), server)
    assert (found.verdict.action, found.verdict.rule) == ("keep", "attended")
    assert tail(elsewhere) in found.verdict.reason
    assert str(port) in found.verdict.instead
    assert how(found) == ""
    assert took(found) is None
    assert server.alive


def test_a_dry_run_touches_nothing(processes: Processes, project: Path, elsewhere: Path) -> None:
    ours, theirs = processes.free_port(), processes.free_port()
    left, foreign = (
        processes.orphan(tcp(ours), cwd=project),
        processes.orphan(tcp(theirs), cwd=elsewhere),
    )

    report = free_ports(ours, theirs, processes.free_port(), dry_run=True)

    would, would_not, free = report.outcomes
    assert (would.status, would.ok) == ("busy", True)
    assert (would_not.status, would_not.ok) == ("busy", False)
    assert (free.status, free.ok) == ("free", True)
    assert not report.ok
    assert holder(would, left).verdict.action == "stop"
    assert how(holder(would, left)) == ""
    assert holder(would_not, foreign).verdict.action == "keep"
    assert left.alive
    assert foreign.alive


@one_backend
def test_a_busy_port_can_be_an_error(processes: Processes, project: Path, elsewhere: Path) -> None:
    ours, theirs = processes.free_port(), processes.free_port()
    processes.orphan(tcp(ours), cwd=project)
    server = processes.orphan(tcp(theirs), cwd=elsewhere)

    with pytest.raises(PortsBusyError, match=str(theirs)) as caught:
        free_ports(ours, theirs, on_busy="fail")

    report = caught.value.report
    assert report.freed == (Port(ours),)
    assert report.busy == (Port(theirs),)
    assert server.alive
    assert pickle.loads(pickle.dumps(caught.value)).report == report


@one_backend
def test_no_error_where_every_port_is_free_in_the_end(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    processes.orphan(tcp(port), cwd=project)

    assert free_ports(port, on_busy="fail").ok


@one_backend
def test_the_order_of_the_outcomes_is_that_of_the_ports(
    processes: Processes, project: Path
) -> None:
    first, second, third = (processes.free_port() for _ in range(3))
    processes.orphan(tcp(second), cwd=project)

    report = free_ports(third, f"{second}/tcp, {first}/udp", third)

    assert [outcome.port for outcome in report.outcomes] == [
        Port(third),
        Port(second),
        Port(first, "udp"),
    ]
    assert [outcome.status for outcome in report.outcomes] == ["free", "freed", "free"]


def test_one_server_on_several_ports(processes: Processes, project: Path) -> None:
    first, second = processes.free_port(), processes.free_port()
    addresses = (f"127.0.0.1:{first}", f"127.0.0.1:{second}")
    server = processes.orphan(serve("--tcp", addresses[0], "--tcp", addresses[1]), cwd=project)

    report = free_ports(first, second)

    assert report.freed == (Port(first), Port(second))
    assert [holder(outcome, server).verdict.rule for outcome in report.outcomes] == ["orphan"] * 2


@one_backend
def test_many_stubborn_servers_share_one_grace(processes: Processes, project: Path) -> None:
    ports = [processes.free_port() for _ in range(6)]
    for port in ports:
        processes.orphan(tcp(port, "--ignore", "TERM", "--ignore", "INT"), cwd=project)

    report = free_ports(*ports, grace=0.5)

    assert report.freed == tuple(map(Port, ports))
    # One after the other, the call would take at least as long as all of them together.
    each = [took(found) or 0 for outcome in report.outcomes for found in outcome.holders]
    assert report.seconds < sum(each)


@one_backend
def test_a_server_that_always_comes_back_does_not_keep_the_call_for_ever(
    processes: Processes, elsewhere: Path
) -> None:
    port = processes.free_port()
    started_one = processes.attended(supervisor(tcp(port, "--ignore", "TERM")), cwd=elsewhere)

    free_ports(port, scope="mine", grace=0.4, wait=0.2)

    assert started_one.alive


@one_backend
def test_no_grace_at_all(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--ignore", "TERM", "--ignore", "INT"), cwd=project)

    assert only(free_ports(port, grace=0)).status == "freed"
    server.wait_gone()


@pytest.mark.parametrize("spec", ["8000x", "0", "{port}-1", "{port}/sctp"])
@one_backend
def test_nothing_is_signalled_for_a_slip(processes: Processes, project: Path, spec: str) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)

    with pytest.raises(PortSpecError):
        free_ports(port, spec.format(port=port))

    assert server.alive


@one_backend
def test_what_was_stopped_and_what_stayed_busy_is_logged(
    processes: Processes, project: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = processes.free_port(), processes.free_port()
    left, foreign = (
        processes.orphan(tcp(ours), cwd=project),
        processes.orphan(tcp(theirs), cwd=elsewhere),
    )

    with caplog.at_level(logging.DEBUG, logger="portfree"):
        free_ports(ours, theirs, processes.free_port())

    logged = {record.levelno: record.getMessage() for record in caplog.records}
    assert sorted(logged) == [logging.INFO, logging.WARNING]
    assert str(ours) in logged[logging.INFO]
    assert str(left.pid) in logged[logging.INFO]
    assert str(theirs) in logged[logging.WARNING]
    assert str(foreign.pid) in logged[logging.WARNING]


@one_backend
def test_a_live_run_is_waited_for_and_gives_the_port_up(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    server = processes.attended(
        tcp(port), cwd=project, env={"PORTFREE_RUN_ID": processes.run_id(alive=True)}
    )
    call = processes.call(port, cwd=project, wait=1000.0)  # the test has a limit of its own

    assert call.process.stderr is not None
    said = call.process.stderr.readline().decode()  # half a second into the wait: for what
    server.process.send(signal.SIGKILL)

    report = call.report()
    assert str(port) in said
    assert tail(project) in said
    assert report.ok


def test_a_live_run_that_does_not_end_is_waited_for_no_longer_than_asked(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    server = processes.attended(
        tcp(port), cwd=project, env={"PORTFREE_RUN_ID": processes.run_id(alive=True)}
    )

    report = free_ports(port, wait=0.3)

    assert report.busy == (Port(port),)
    assert holder(only(report), server).verdict.rule == "live-run"
    assert report.seconds >= 0.3
    assert server.alive


@one_backend
def test_secrets_in_a_command_line_are_masked(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(
        [sys.executable, "-c", _LISTEN, str(port), "--password", "hunter2", "API_TOKEN=s3cr3t"],
        cwd=project,
        listening=port,
    )

    command = holder(only(free_ports(port)), server).command

    assert "hunter2" not in command
    assert "s3cr3t" not in command
    assert "--password" in command


_LISTEN = """\
import signal, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    signal.pause()
"""


@one_backend
def test_the_process_that_asks_may_use_the_port_at_once(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    processes.orphan(tcp(port), cwd=project)

    assert free_ports(port).ok

    # As strict as a server can be: without SO_REUSEADDR, on every address.
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", port))
        sock.listen()


def test_servers_that_end_while_we_look_are_no_trouble(processes: Processes, project: Path) -> None:
    ports = [processes.free_port() for _ in range(4)]
    servers = [processes.orphan(tcp(port), cwd=project) for port in ports]
    for server in servers:
        server.process.send(signal.SIGTERM)

    report = free_ports(*ports)

    assert report.ok
    wait_until(lambda: not any(server.alive for server in servers), "they are gone")


def test_a_dry_run_is_one_or_none() -> None:
    with pytest.raises(PortfreeError, match=r"^dry_run is 'no': give True or False$"):
        free_ports(8000, dry_run="no")  # type: ignore[arg-type]


def test_an_unknown_backend_is_refused_on_a_free_port_too(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFREE_BACKEND", "nonsense")
    with pytest.raises(PortfreeError, match="'nonsense': choose one of linux, portable"):
        free_ports(processes.free_port())


def test_a_report_and_a_run_can_be_read_by_people(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    assert str(free_ports(port)) == f"{port}/tcp: free"

    with free_ports(port) as run:
        assert str(run) == f"before:\n{port}/tcp: free"
        server = processes.orphan(tcp(port), cwd=project)

    before, after = str(run).split("\nafter:\n")
    assert before == f"before:\n{port}/tcp: free"
    assert after.startswith(f"{port}/tcp: freed in ")
    assert f"(pid {server.pid})" in after
