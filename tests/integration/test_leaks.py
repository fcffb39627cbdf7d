"""What a run has left behind on ports that nobody asked about."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from helpers.processes import Processes, http_server, tcp, wait_until
from helpers.reports import how
from portfree import free_ports
from portfree._core import leaks, run_id
from portfree._output.words import leak_line
from portfree.model import Ending, HolderReport, Leak, Port, Verdict
from portfree.run import Run

if TYPE_CHECKING:
    from portfree.model import Ending, Leaks

RUN_ID = run_id.RUN_ID

pytestmark = pytest.mark.usefixtures("project")

# What a listener is, each backend tells in its own way.
on_both_backends = pytest.mark.usefixtures("backend")


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment without the run that tests portfree, if there is one."""
    monkeypatch.delenv(RUN_ID, raising=False)


def guarded(processes: Processes, leaks: Leaks = "warn", grace: float = 0.6) -> Run:
    """A run that guards a port of its own."""
    return Run(free_ports(processes.free_port(), leaks=leaks, grace=grace))


def found(run: Run) -> list[tuple[int, str, int]]:
    return [(leak.holder.pid, leak.address, leak.port.number) for leak in run.leaks]


def test_nothing_is_left(processes: Processes) -> None:
    with guarded(processes) as run:
        server = processes.child(tcp(processes.free_port()))
        server.process.send(signal.SIGKILL)
        server.wait_gone()

    assert run.leaks == ()


def test_who_has_left_nothing_looks_at_no_process(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def survey(*_: object) -> None:
        pytest.fail("nobody needs to be looked at")

    monkeypatch.setattr(leaks, "survey", survey)
    run = guarded(processes)
    # Whatever else goes on here: nobody has started to listen.
    listeners = run._system.listeners()
    monkeypatch.setattr(run._system, "listeners", lambda: listeners)
    with run:
        pass

    assert run.leaks == ()


@on_both_backends
def test_a_child_that_serves_on(processes: Processes) -> None:
    port = processes.free_port()

    with guarded(processes) as run:
        server = processes.child(tcp(port))

    assert found(run) == [(server.pid, "127.0.0.1", port)]
    (leak,) = run.leaks
    assert not leak.own
    assert leak.holder.verdict.rule == "own-run"
    assert how(leak.holder) == ""
    assert server.alive


@on_both_backends
def test_a_daemon_that_serves_on(processes: Processes) -> None:
    port = processes.free_port()
    mark = "tests/test_api.py::test_search (setup)"

    with guarded(processes, "stop", grace=1.0) as run:
        server = processes.orphan(
            tcp(port), cwd="/", env={RUN_ID: run.id, "PYTEST_CURRENT_TEST": mark}
        )

    assert found(run) == [(server.pid, "127.0.0.1", port)]
    assert not server.alive
    (leak,) = run.leaks
    assert leak.holder.test == mark
    assert leak_line(leak).startswith(f"{mark} started ")
    assert leak_line(leak).endswith(f"listened on 127.0.0.1:{port}: ended after SIGTERM")


def test_a_real_server(processes: Processes) -> None:
    port = processes.free_port()

    with guarded(processes, "stop") as run:
        server = processes.child(http_server(port), listening=port)

    assert found(run) == [(server.pid, "127.0.0.1", port)]
    assert not server.alive


def test_a_stubborn_one_is_killed(processes: Processes) -> None:
    port = processes.free_port()

    with guarded(processes, "stop", grace=0.2) as run:
        server = processes.child(tcp(port, "--ignore", "TERM", "--ignore", "INT"))

    assert not server.alive
    assert how(run.leaks[0].holder).endswith("SIGKILL")


@on_both_backends
def test_workers_are_one_leak(processes: Processes) -> None:
    port = processes.free_port()

    with guarded(processes, "stop") as run:
        server = processes.child(tcp(port, "--workers", "2"))
        workers = server.workers

    assert found(run) == [(server.pid, "127.0.0.1", port)]
    wait_until(lambda: not any(worker.alive for worker in workers), "the workers end")


def test_several_addresses_are_several_lines(processes: Processes) -> None:
    one, other = processes.free_port(), processes.free_port()
    low, high = min(one, other), max(one, other)

    with guarded(processes) as run:
        processes.child([*tcp(high), *tcp(low)[3:]])

    assert [leak.port.number for leak in run.leaks] == [low, high]


@on_both_backends
def test_the_test_process_itself_is_told_of_and_never_stopped(processes: Processes) -> None:
    port = processes.free_port()

    with socket.socket() as sock, guarded(processes, "stop") as run:
        sock.bind(("127.0.0.1", port))
        sock.listen()

    assert found(run) == [(os.getpid(), "127.0.0.1", port)]
    (leak,) = run.leaks
    assert leak.own
    assert how(leak.holder) == ""
    assert "the run itself, still listens on" in leak_line(leak)


def test_who_has_inherited_a_socket_from_the_test_process_is_not_stopped(
    processes: Processes,
) -> None:
    port = processes.free_port()

    with socket.socket() as sock, guarded(processes, "stop") as run:
        sock.bind(("127.0.0.1", port))
        sock.listen()
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
    try:
        assert found(run) == [(os.getpid(), "127.0.0.1", port)]
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@on_both_backends
def test_what_was_there_before_is_not_touched(processes: Processes) -> None:
    before = processes.child(tcp(processes.free_port()))

    with guarded(processes, "stop") as run:
        pass

    assert run.leaks == ()
    assert before.alive


def test_what_others_have_started_is_not_touched(processes: Processes) -> None:
    with guarded(processes, "stop") as run:
        orphan = processes.orphan(tcp(processes.free_port()))
        attended = processes.attended(tcp(processes.free_port()))

    assert run.leaks == ()
    assert orphan.alive
    assert attended.alive


def test_the_ports_that_were_asked_for_are_no_leaks(processes: Processes) -> None:
    port = processes.free_port()

    with free_ports(port, leaks="fail") as run:
        processes.child(tcp(port))

    assert run.leaks == ()


def test_who_was_told_to_end_has_a_moment(processes: Processes) -> None:
    port = processes.free_port()
    marker = processes.folder / "marker"

    with guarded(processes, "fail", grace=20.0) as run:
        server = processes.child(tcp(port, "--flush", str(marker), "--flush-seconds", "0.05"))
        server.process.send(signal.SIGTERM)

    assert run.leaks == ()
    assert marker.exists()


def test_a_run_that_goes_on_in_another_thread_has_its_servers_still(processes: Processes) -> None:
    port = processes.free_port()
    ending, other = guarded(processes, "stop"), guarded(processes, "stop")
    variables: dict[str, str] = {}
    other._environ = variables
    ending.open()
    other.open()
    server = processes.child(tcp(port), env=variables)

    ending.close()
    assert ending.leaks == ()
    assert server.alive

    other.close()
    assert found(other) == [(server.pid, "127.0.0.1", port)]
    assert not server.alive


def test_a_run_in_a_run_answers_for_its_own(processes: Processes) -> None:
    mine, its = processes.free_port(), processes.free_port()
    with guarded(processes) as outer:
        first = processes.child(tcp(mine), env={RUN_ID: outer.id})
        with guarded(processes, "stop") as inner:
            second = processes.child(tcp(its), env={RUN_ID: inner.id})
        assert first.alive
        assert not second.alive

    assert found(inner) == [(second.pid, "127.0.0.1", its)]
    assert found(outer) == [(first.pid, "127.0.0.1", mine)]


# Lines


def a_leak(
    address: str = "127.0.0.1", *, test: str = "", ending: Ending | None = None, own: bool = False
) -> Leak:
    holder = HolderReport(
        pid=4242,
        name="python3",
        command="python server.py",
        user="ada",
        uid=1000,
        started=None,
        cwd=None,
        launcher="",
        test=test,
        addresses=(address,),
        root=True,
        verdict=Verdict("stop", "own-run", "started in this run"),
        ending=ending,
    )
    return Leak(address, Port(43211), holder, own=own)


def test_a_leak_is_told_in_a_line() -> None:
    test = "tests/test_api.py::test_search (setup)"

    assert leak_line(a_leak(test=test)) == (
        f"{test} started python server.py (pid 4242), still listening on 127.0.0.1:43211"
    )
    assert leak_line(a_leak("::1")) == (
        "this run started python server.py (pid 4242), still listening on [::1]:43211"
    )
    assert leak_line(a_leak(ending=Ending("ended", ("SIGTERM",), 0.1))) == (
        "this run started python server.py (pid 4242), which listened on 127.0.0.1:43211: "
        "ended after SIGTERM"
    )
    assert leak_line(a_leak(own=True)) == (
        "python3 (pid 4242), the run itself, still listens on 127.0.0.1:43211"
    )


def test_a_leak_cannot_write_to_the_terminal() -> None:
    assert "\x1b" not in leak_line(a_leak(test="tests/\x1b[2J::test"))
