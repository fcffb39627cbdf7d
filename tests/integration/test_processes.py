"""Our own helpers: a test that passes on a server that is not there would prove nothing."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from helpers.processes import (
    Identity,
    Processes,
    accepts,
    children,
    client,
    environment,
    has_ipv6,
    http_server,
    is_free,
    needs_root,
    serve,
    supervisor,
    tcp,
    udp,
    wait_until,
)


def test_an_orphan_has_lost_its_parent_and_its_sessions_leader(
    processes: Processes, tmp_path: Path
) -> None:
    port = processes.free_port()

    server = processes.orphan(tcp(port), cwd=tmp_path)

    seen = server.process.stat
    assert seen is not None
    assert seen.ppid != os.getpid()
    assert seen.session not in (os.getsid(0), server.pid)
    assert accepts(port)
    assert Path(f"/proc/{server.pid}/cwd").readlink() == tmp_path


def test_an_adopted_orphan_stays_in_our_session(processes: Processes) -> None:
    server = processes.start("adopted", tcp(processes.free_port()))

    seen = server.process.stat
    assert seen is not None
    assert seen.ppid != os.getpid()
    assert seen.session == os.getsid(0)


def test_an_attended_server_has_a_living_parent_that_is_not_ours(processes: Processes) -> None:
    server = processes.attended(tcp(processes.free_port()))

    assert server.launcher is not None
    assert children(server.launcher.pid) == [server.pid]
    server.process.send(signal.SIGKILL)
    server.wait_gone()
    assert server.launcher.alive


def test_a_server_in_a_terminal_leads_its_session(processes: Processes) -> None:
    server = processes.start("terminal", tcp(processes.free_port()))

    seen = server.process.stat
    assert seen is not None
    assert seen.session == server.pid
    assert seen.terminal != 0


def test_no_mark_of_this_test_run_reaches_a_process(processes: Processes) -> None:
    server = processes.orphan(tcp(processes.free_port()), env={"NOX_CURRENT_SESSION": "tests"})

    variables = environment(server.pid).split(b"\0")
    assert b"NOX_CURRENT_SESSION=tests" in variables
    assert not [each for each in variables if each.startswith(b"PYTEST_")]


def test_no_process_is_left_afterwards(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    port = processes.free_port()
    master = processes.orphan(tcp(port, "--workers", "2"))
    wiped = processes.orphan(tcp(processes.free_port(), "--wipe"))
    shell = processes.orphan(["sh", "-c", "sleep 1000; true"])
    wait_until(lambda: children(shell.pid), "the shell starts its command")
    again = processes.orphan(supervisor(tcp(processes.free_port())))
    started = [master.process, *master.workers, wiped.process, shell.process, again.process]

    processes.close()

    assert not [process for process in started if process.alive]
    assert not list(processes.members())
    assert is_free(port)


def test_ports_are_reserved_until_the_end(tmp_path: Path) -> None:
    first, second = Processes(tmp_path), Processes(tmp_path)
    port = first.free_port()

    assert not second.claim(port)
    first.close()
    assert second.claim(port)
    second.close()


def test_http_server(processes: Processes) -> None:
    port = processes.free_port()

    processes.orphan(http_server(port), listening=port)

    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.0 200")


def test_a_server_ignores_what_it_is_told_to(processes: Processes) -> None:
    server = processes.orphan(tcp(processes.free_port(), "--ignore", "TERM", "--ignore", "INT"))

    status = Path(f"/proc/{server.pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)  # one bit a signal, from 1 on
    assert ignored & 1 << signal.SIGTERM - 1
    assert ignored & 1 << signal.SIGINT - 1


def test_a_server_flushes_when_it_is_asked_to_end(processes: Processes, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    server = processes.orphan(tcp(processes.free_port(), "--flush", str(marker)))

    server.process.send(signal.SIGTERM)

    server.wait_gone()
    assert marker.exists()


def test_a_server_stops_itself(processes: Processes) -> None:
    server = processes.orphan(tcp(processes.free_port(), "--stop-self"))

    wait_until(lambda: (seen := server.process.stat) and seen.state == "T", "it is stopped")


def test_a_master_replaces_a_worker(processes: Processes) -> None:
    master = processes.orphan(tcp(processes.free_port(), "--workers", "2"))
    first = master.workers[0]

    first.send(signal.SIGKILL)

    first.wait_gone()

    def replaced() -> bool:
        workers = children(master.pid)
        return len(workers) == 2 and first.pid not in workers

    wait_until(replaced, "there are two workers, and another one in the place of the first")


def test_a_thread_outlives_its_leader_and_keeps_the_port(processes: Processes) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--dead-main"))

    wait_until(lambda: (seen := server.process.stat) and seen.state == "Z", "the leader has ended")
    assert server.alive
    assert accepts(port)
    if os.geteuid() == 0:  # to anybody else, a dead leader shows no descriptors at all
        assert not list(Path(f"/proc/{server.pid}/fd").iterdir())


def test_a_draining_server_lets_go_and_finishes(processes: Processes, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--drain", str(marker)))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert connection.recv(64) == b"accepted\n"
        server.process.send(signal.SIGTERM)
        wait_until(lambda: not accepts(port), "it lets go of the port")
        assert server.alive
    server.wait_gone()
    assert marker.exists()


def test_a_server_wipes_its_title_and_environment(processes: Processes) -> None:
    server = processes.orphan(tcp(processes.free_port(), "--wipe"))

    assert Path(f"/proc/{server.pid}/cmdline").read_bytes().rstrip(b"\0") == b"worker: idle"
    assert not environment(server.pid).strip(b"\0")


def test_a_supervisor_starts_its_child_again(processes: Processes) -> None:
    port = processes.free_port()
    started_one = processes.orphan(supervisor(tcp(port)))
    first = started_one.server

    first.send(signal.SIGKILL)

    started_one.wait_ready()
    assert started_one.server != first
    assert started_one.process != first
    assert accepts(port)


def test_a_client_keeps_its_connection(processes: Processes) -> None:
    port = processes.free_port()
    processes.orphan(tcp(port))

    assert processes.orphan(client(port)).alive


def test_sockets_that_do_not_listen_on_tcp_in_v4(processes: Processes) -> None:
    datagrams, bound = processes.free_port(), processes.free_port()
    processes.orphan(udp(datagrams))
    processes.orphan(serve("--bound", f"127.0.0.1:{bound}"))

    assert not is_free(datagrams, socket.SOCK_DGRAM)
    assert is_free(datagrams)
    assert not accepts(bound)
    with socket.socket() as sock, pytest.raises(OSError, match="in use"):
        sock.bind(("127.0.0.1", bound))
    if has_ipv6():
        port = processes.free_port()
        processes.orphan(tcp(port, host="[::1]"))
        assert accepts(port, "::1")
        assert not accepts(port)


def test_servers_share_a_port(processes: Processes) -> None:
    port = processes.free_port()
    first = processes.orphan(tcp(port, "--reuseport"))
    second = processes.orphan(tcp(port, "--reuseport"))

    assert first.alive
    assert second.alive


@needs_root
def test_a_server_runs_as_another_user(processes: Processes) -> None:
    server = processes.orphan(tcp(processes.free_port(), "--uid", "65534"))

    assert Path(f"/proc/{server.pid}").stat().st_uid == 65534


def test_run_ids_of_the_living_and_the_dead(processes: Processes) -> None:
    def controller(run_id: str) -> Identity:
        pid, start, *_ = run_id.split(".")
        return Identity(int(pid), int(start))

    assert controller(processes.run_id(alive=True)).alive
    assert not controller(processes.run_id(alive=False)).alive
