"""Whatever the machine refuses, at whatever moment: no crash, no wrong stop, no false report.

First at the boundary, with every call of every method failing once in each of some situations. Then
below it, where the system calls of the Linux backend fail while real processes are looked at.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from helpers.fake_system import Actor, FakePin, FakeSystem
from helpers.processes import SERVERS, Identity, tcp
from helpers.reports import how
from portfree import free_ports
from portfree._core.free import free
from portfree._system.interface import Owners
from portfree.model import Port, Request

if sys.platform != "linux":
    pytest.skip("the system calls are Linux's", allow_module_level=True)

from portfree._system import linux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from helpers.processes import Processes
    from portfree.model import Report
    from stress.support.figures import Figures

GROUP = "faults"

pytestmark = pytest.mark.usefixtures("unmarked")

ERRORS = {
    name: OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
    for name in ("EPERM", "ESRCH", "EMFILE", "ENOMEM", "EIO")
}
FAILURES: dict[str, Exception | None] = {
    **ERRORS,
    "RuntimeError": RuntimeError("what no one expects"),
}

# Not the clock, which cannot fail, nor what says of a port at first that it is held: see `answer`.
METHODS = (
    *("bind", "sockets", "owners", "holds", "process", "exists", "pids", "pin", "user", "wait"),
    *("output", "alive", "send"),
)


# What a look at a process, or at all of them, says of what it may not see.
NOTHING: dict[str, object] = {
    "owners": Owners({}, unreadable=1),
    "holds": False,
    "bind": "unavailable",
}


# Situations


class Situation(NamedTuple):
    system: FakeSystem
    untouchable: tuple[Actor, ...] = ()
    """What must never get a signal."""
    wait: float = 0.0


def unheld(_: Path) -> Situation:
    return Situation(FakeSystem())


def orphan(project: Path) -> Situation:
    system = FakeSystem()
    master = system.server(cwd=str(project)).ignores("TERM")
    system.fork(master, "worker")
    return Situation(system)


def attended(project: Path) -> Situation:
    """Scope mine, and a server below the caller's own shell: an ancestor has the port as well."""
    system = FakeSystem()
    system.listen(system.shell)
    return Situation(system, (system.shell, system.server(ppid=system.shell.pid, cwd=str(project))))


def shared(project: Path) -> Situation:
    """A socket that an orphan shares with another user's server."""
    system = FakeSystem()
    mine = system.server(cwd=str(project))
    other = system.start("other", owner=77)
    other.holds |= mine.holds
    return Situation(system, (mine, other))


def supervised(project: Path) -> Situation:
    system = FakeSystem()
    supervisor = system.start("supervisor", leads=True, cwd=str(project))
    system.supervise(supervisor, system.server(ppid=supervisor.pid), after=0.05)
    bystander = system.start("bystander", ppid=supervisor.pid, cwd=str(project))
    return Situation(system, (bystander,))


def live_run(project: Path) -> Situation:
    """Another run at work, and a daemon of it that nothing but its mark ties to it."""
    system = FakeSystem()
    runner = system.start("pytest", ppid=system.shell.pid, cwd=str(project))
    run = f"{runner.pid}.{runner.process.start}.abcd"
    server = system.server(ppid=runner.pid, cwd=str(project))
    daemon = system.server(8001, cwd=str(project), marks={"PORTFREE_RUN_ID": run})
    return Situation(system, (runner, server, daemon), wait=0.7)


def closing(_: Path) -> Situation:
    system = FakeSystem()
    system.listen(None, state="closing", closes_in=30.0)
    return Situation(system)


SITUATIONS = (unheld, orphan, attended, shared, supervised, live_run, closing)


class Faulty:
    """A boundary, or a pin, of which the one call of the one method fails."""

    def __init__(self, real: object, fault: Fault) -> None:
        self._real = real
        self._fault = fault

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        found = getattr(self._real, name)
        if name not in METHODS:
            return found

        def asked(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            if self._fault.asked(name):
                return NOTHING[name]
            if name == "wait":  # the real boundary knows its own pins
                args = ([getattr(pin, "_real", pin) for pin in args[0]], *args[1:])
            answer = found(*args, **options)
            return Faulty(answer, self._fault) if isinstance(answer, FakePin) else answer

        return asked


class Fault:
    """What goes wrong, and when."""

    def __init__(self, method: str = "", number: int = 0, failure: Exception | None = None) -> None:
        self.method, self.number, self.failure = method, number, failure
        self.count: Counter[str] = Counter()

    def asked(self, method: str) -> bool:
        """Whether this call gets an answer that tells nothing; or it raises."""
        self.count[method] += 1
        due = method == self.method and self.count[method] == self.number
        if due and self.failure:
            raise self.failure
        return due


def play(situation: Situation, fault: Fault) -> Report:
    system: Any = Faulty(situation.system, fault)
    ports = (Port(8000), Port(8001))
    request = Request(ports, scope="mine", grace=0.5, wait=situation.wait)
    return free(request, system=system)


def wrong_stops(situation: Situation) -> list[str]:
    untouchable = {
        fake.pid
        for fake in (situation.system.caller, situation.system.init, *situation.untouchable)
    }
    return [str(sent) for sent in situation.system.signals if sent.process.pid in untouchable]


def false_reports(situation: Situation, report: Report) -> list[str]:
    system = situation.system
    held = {system.kernel[id_].port for a in system.actors.values() for id_ in a.holds}
    told = {h.pid: how(h) for outcome in report.outcomes for h in outcome.holders}
    notes = str([outcome.notes for outcome in report.outcomes])
    return [
        *(str(o) for o in report.outcomes if o.status != "busy" and o.port in held),
        *(str(o) for o in report.outcomes if o.status == "busy" and not (o.holders or o.notes)),
        *(
            f"{sent} is not in the report"
            for sent in system.signals
            if sent.signal != "CONT"
            and f"SIG{sent.signal}" not in told.get(sent.process.pid, "")
            and f"(pid {sent.process.pid})" not in notes
        ),
    ]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_any_call_of_the_boundary_may_fail(
    situation: Callable[[Path], Situation], figures: Figures, project: Path, *, long: bool
) -> None:
    whole = Fault()
    play(situation(project), whole)
    for method in METHODS:
        # The first bind of each port is not portfree's alone: it has no boundary, and never raises.
        first = 3 if method == "bind" else 1
        numbers = range(first, whole.count[method] + 1)
        for number in numbers if long else [*numbers[:8], *numbers[-2:]]:
            failures = {**FAILURES, **({"nothing": None} if method in NOTHING else {})}
            for name, failure in failures.items():
                processes = situation(project)
                report = play(processes, Fault(method, number, failure))

                wrong, false = wrong_stops(processes), false_reports(processes, report)
                figures.trial(
                    processes.system.now(), wrong_stops=len(wrong), false_reports=len(false)
                )
                what = f"{name} at call {number} of {method}"
                assert not wrong, (what, wrong, report)
                assert not false, (what, false)
                assert processes.system.now() <= processes.wait + 1.0 + 1e-9, what
                assert not processes.system.misuses, what
                assert not processes.system.open_pins, what


# Below the boundary


@contextmanager
def failing(fault: Fault, pids: Sequence[int]) -> Iterator[None]:
    """Let a system call of the Linux backend fail, if it concerns one of these processes."""
    about = {f"/proc/{pid}" for pid in (*pids, "self", os.getpid())}

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            path = args[0] if args and isinstance(args[0], str) else None
            if path is None or path == "/proc" or "/".join(path.split("/")[:3]) in about:
                fault.asked(name)
            return real(*args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("listdir", "readlink", "stat", "pidfd_open"):
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        patch.setattr(linux, "open", wrap("open", open), raising=False)
        patch.setattr(signal, "pidfd_send_signal", wrap("signal", signal.pidfd_send_signal))
        patch.setattr(socket, "socket", wrap("socket", socket.socket))
        yield


CALLS = ("listdir", "readlink", "stat", "pidfd_open", "open", "signal", "socket")


class Held(NamedTuple):
    """A port that a real process holds."""

    port: int
    server: Identity
    runner: Identity | None = None
    """The test run that goes on, for which it must be kept."""


def in_a_live_run(processes: Processes, project: Path) -> Held:
    port = processes.free_port()
    # By its name it is a test runner, and by its parent the server is its own.
    runner = project / "pytest.py"
    runner.write_bytes(SERVERS.read_bytes())
    command = [sys.executable, "-S", str(runner), "--supervise", "--", *tcp(port)]
    started_one = processes.orphan(command, cwd=project)
    return Held(port, started_one.server, started_one.process)


def left_behind(processes: Processes, project: Path) -> Held:
    port = processes.free_port()
    return Held(port, processes.orphan(tcp(port), cwd=project).process)


@pytest.mark.parametrize("situation", [in_a_live_run, left_behind])
def test_any_system_call_may_fail(
    situation: Callable[[Processes, Path], Held],
    figures: Figures,
    processes: Processes,
    project: Path,
    *,
    long: bool,
) -> None:
    held = situation(processes, project)
    pids = [held.server.pid, *([held.runner.pid] if held.runner else [])]
    whole = Fault()
    with failing(whole, pids):
        free_ports(held.port, scope="mine", dry_run=True)
    whole.count["signal"] = 2  # SIGTERM and SIGCONT, where it comes to that
    for call in CALLS:
        # To be told that a live runner is gone, or hidden (hidepid in proc(5)), is to know nothing
        # of it: no other look could tell.
        told = held.runner is not None and call not in ("signal", "socket", "pidfd_open")
        possible = [name for name in ERRORS if not (told and name in ("ESRCH", "EPERM"))]
        # The short version takes some calls, and one of the errors each time.
        for number in range(1, whole.count[call] + 1, 1 if long else 4):
            for name in possible if long else [possible[number % len(possible)]]:
                if not held.server.alive:
                    held = situation(processes, project)
                pids = [held.server.pid, *([held.runner.pid] if held.runner else [])]
                started = time.monotonic()
                with failing(Fault(call, number, ERRORS[name]), pids):
                    report = free_ports(held.port, scope="mine", grace=0.6)
                took = time.monotonic() - started
                what = f"{name} at call {number} of {call}: {report}"

                wrong = held.runner is not None and not held.server.alive
                (outcome,) = report.outcomes
                false = outcome.ok and held.server.alive
                figures.trial(took, wrong_stops=wrong, false_reports=false)
                assert not wrong, what
                assert not false, what
                assert outcome.ok or outcome.holders or outcome.notes, what


# Clocks


@pytest.mark.parametrize("method", ["sockets", "owners", "holds", "process", "pin"])
@pytest.mark.parametrize("leap", [0.4, 3.0, 3600.0])
def test_a_clock_that_leaps_costs_no_step_of_the_escalation(
    figures: Figures, project: Path, method: str, leap: float
) -> None:
    # The machine slept, or so little of it was left for us.
    processes = orphan(project)
    system = processes.system
    system.after_call[method] = lambda: system._tick(system.now() + leap)

    report = play(processes, Fault())

    false = false_reports(processes, report)
    figures.trial(0.0, wrong_stops=len(wrong_stops(processes)), false_reports=len(false))
    assert not false
    signals = [sent.signal for sent in system.signals if sent.signal != "CONT"]
    assert not signals or signals[0] == "TERM"


@pytest.mark.parametrize("leap", [-86_400.0, 86_400.0])
def test_setting_the_clock_confuses_no_processes(
    figures: Figures,
    processes: Processes,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    leap: float,
) -> None:
    held = left_behind(processes, project)
    real, asked = time.time, Counter[str]()

    def leaping() -> float:
        asked["time"] += 1
        return real() + leap * (asked["time"] % 2)

    monkeypatch.setattr(time, "time", leaping)
    started = time.monotonic()
    report = free_ports(held.port, scope="mine")
    figures.trial(time.monotonic() - started, false_reports=not report.ok)
    assert report.freed
    assert not held.server.alive
