"""Many at once: calls, guarded runs, and other programs that use the port meanwhile.

What must hold whatever comes and goes: no process is stopped wrongly, no call reports a busy port
that is free, and nothing crashes.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from helpers.processes import (
    PATIENCE,
    SERVERS,
    Processes,
    Started,
    client,
    is_free,
    one_backend,
    only,
    serve,
    tcp,
    udp,
    wait_until,
)
from portfree import Outcome, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portfree.model import Scope
    from stress.support.figures import Figures

GROUP = "crowds"

pytestmark = pytest.mark.usefixtures("backend", "project")

SUPPORT = Path(__file__).parent / "support"
CROWD = SUPPORT / "crowds.py"
RESTLESS = str(SUPPORT / "restless_servers.py")


def crowd(
    processes: Processes, project: Path, members: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Let them all do what they want at once, and return what each of them says (crowds.py)."""
    asked = [{"options": {}, **member} for member in members]
    process = subprocess.run(
        [sys.executable, str(CROWD), *map(json.dumps, asked)],
        cwd=project,
        env=processes.environment({"PORTFREE_BACKEND": os.environ["PORTFREE_BACKEND"]}),
        stdout=subprocess.PIPE,
        timeout=6 * PATIENCE,
        check=True,
    )
    answers: list[dict[str, Any]] = json.loads(process.stdout)
    errors = [each["error"] for each in answers if "error" in each]
    assert not errors, errors[0]
    return answers


def restless(command: Sequence[str]) -> list[str]:
    """The same server, with more habits."""
    return [RESTLESS if word == str(SERVERS) else word for word in command]


@dataclass
class Bystanders:
    """Processes that have nothing to do with it, and write down every signal that they get."""

    processes: Processes
    records: list[tuple[Started, Path]] = field(default_factory=list)

    def add(self, command: Sequence[str], cwd: Path, *, attended: bool = False) -> None:
        record = self.processes.folder / f"signals-{secrets.token_hex(4)}"
        start = self.processes.attended if attended else self.processes.orphan
        self.records.append((start(restless([*command, "--record", str(record)]), cwd=cwd), record))

    def hit(self) -> int:
        """How many of them got a signal, or are dead."""
        return sum(
            not started_one.alive or record.read_text() != ""
            for started_one, record in self.records
        )


# Many calls

# How the servers are that all want to stop: what they take beyond one signal.
HABITS: tuple[tuple[str, ...], ...] = (("--ignore", "TERM"), ("--workers", "3"), ())


@one_backend  # psutil reads each socket of each process: fifty who do that get in their own way
def test_many_calls_for_one_port(
    processes: Processes, project: Path, elsewhere: Path, figures: Figures, *, long: bool
) -> None:
    rounds, size = (20, 10) if long else (1, 3)
    for habit in (HABITS * rounds)[:rounds]:
        port, neighbour, other = processes.free_ports(lambda port: (port, port + 1, port * 10))
        server = processes.orphan(tcp(port, *habit), cwd=project)
        bystanders = Bystanders(processes)
        bystanders.add(client(port), elsewhere)
        bystanders.add(tcp(neighbour), elsewhere)
        bystanders.add(tcp(other), project)

        asked = {"ports": [port], "options": {"grace": 6.0}}
        answers = crowd(
            processes,
            project,
            [
                *[{"kind": "process", **asked}] * 2 * size,
                {"kind": "threads", "threads": 2 * size, **asked},
                *[{"kind": "command", **asked}] * size,
            ],
        )

        hit = bystanders.hit()
        busy = [each for each in answers if not each["report"]["ok"]]
        for at, each in enumerate(answers):
            wrong = hit if at == 0 else 0
            figures.trial(each["seconds"], wrong_stops=wrong, false_reports=each in busy)
        assert len(answers) == 5 * size
        assert not hit
        assert not busy, json.dumps(busy[0])
        assert any(each["report"]["outcomes"][0]["status"] == "freed" for each in answers)
        assert is_free(port)
        server.wait_gone()


def test_threads_do_not_take_each_other_for_holders(
    processes: Processes, figures: Figures, *, long: bool
) -> None:
    # A thread that has bound its probe may have to wait for the interpreter's lock to let go of it.
    port = processes.free_port()
    until = time.monotonic() + (20.0 if long else 0.5)
    seconds: list[float] = []
    busy: list[Outcome] = []

    def spin() -> None:
        while time.monotonic() < until:
            sum(range(1000))

    def ask_again() -> None:
        while time.monotonic() < until:
            started = time.monotonic()
            outcome = only(free_ports(port, grace=1.0))
            seconds.append(time.monotonic() - started)
            if outcome.status != "free":
                busy.append(outcome)

    threads = [threading.Thread(target=work) for work in [spin] * 4 + [ask_again] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in seconds:
        figures.trial(each)
    assert not busy


# Many runs


@one_backend
def test_many_guarded_runs(
    processes: Processes, project: Path, figures: Figures, tmp_path: Path, *, long: bool
) -> None:
    for number in range(10 if long else 1):
        a, b, c, *own = ports = [processes.free_port() for _ in range(13 if long else 7)]
        # Half of the runs have a port to themselves, the others want what others want too.
        wanted = [[port] for port in own] + [[a], [a, b], [b], [b, c], [c]] * (2 if long else 1)
        members = [
            {
                "kind": ("guard", "run")[n % 2],
                "ports": wanted[n],
                "options": {"grace": 3.0, "wait": 20.0 if n % 3 else 0.0},
                "seconds": 0.3,
                "records": str(tmp_path / f"signals-{number}-{n}"),
            }
            for n in range(len(wanted))
        ]

        answers = crowd(processes, project, members)

        for n, (member, each) in enumerate(zip(members, answers, strict=True)):
            passes = [each[when] for when in ("before", "after") if each[when]]
            wrong = [sender for sender in senders(member) if sender != each["pid"]]
            took = max(seen["seconds"] for seen in passes)
            figures.trial(took, wrong_stops=len(wrong))
            assert not wrong, f"stopped by {wrong}: {each}"
            assert each["lived"] == each["up"], each
            # Who is refused, or finds the port taken in the end, hears of the run that has it.
            kept = {rule for seen in passes for rule in keeping(seen)}
            assert kept <= {"live-run"}, each
            if each["refused"]:
                assert kept
            if n < len(own):
                assert each["up"], each
                assert each["after"]["ok"], each
        assert all(map(is_free, ports))
        wait_until(lambda: not list(processes.members()), "no process of a run is left")


def senders(member: dict[str, Any]) -> list[int]:
    """Who has sent signals to the servers of a run: their pids."""
    files = [Path(f"{member['records']}-{port}") for port in member["ports"]]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [int(line.split()[1]) for line in lines]


def keeping(report: dict[str, Any]) -> Iterator[str]:
    """The rules that kept the holders of busy ports."""
    for outcome in report["outcomes"]:
        if outcome["status"] == "busy":
            assert outcome["holders"], outcome
            for each in outcome["holders"]:
                if each["verdict"]["action"] == "keep":
                    yield each["verdict"]["rule"]


# Others who come and go


def test_a_storm_of_forks(
    processes: Processes, project: Path, elsewhere: Path, figures: Figures, *, long: bool
) -> None:
    bystanders = Bystanders(processes)
    bystanders.add(serve("--storm", "8"), elsewhere)  # children that end at once, and hold nothing
    for _ in range(15 if long else 1):
        port = processes.free_port()
        # Each child has the listening socket, for the time that it lives.
        server = processes.orphan(restless(tcp(port, "--storm", "8")), cwd=project)

        outcome = ask(port, figures, bystanders, grace=2.0)

        assert outcome.status == "freed", outcome
        assert not server.alive


def test_a_server_that_is_another_process_every_moment(
    processes: Processes, project: Path, elsewhere: Path, figures: Figures, *, long: bool
) -> None:
    bystanders = Bystanders(processes)
    bystanders.add(tcp(processes.free_port()), elsewhere)
    for _ in range(4 if long else 1):
        port = processes.free_port()
        processes.orphan(restless(tcp(port, "--wander", "4" if long else "1")), cwd=project)

        outcome = ask(port, figures, bystanders, grace=1.0)

        # Whether a look catches it is chance; but what is said must be so.
        if outcome.ok:
            assert is_free(port), outcome
        wait_until(partial(is_free, port), "it has come to its end")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_servers_that_come_and_go(
    processes: Processes,
    elsewhere: Path,
    figures: Figures,
    backend: str,
    kind: str,
    *,
    long: bool,
) -> None:
    # They listen for 5 ms at most, which is as long as one must be seen to be believed.
    port = processes.free_port()
    bystanders = Bystanders(processes)
    for _ in range(2):
        bystanders.add(_on(kind, port, "--flicker", "0.005", "0.005"), elsewhere, attended=True)
    for _ in range({"linux": (20, 2000), "portable": (2, 50)}[backend][long]):
        outcome = ask(f"{port}/{kind}", figures, bystanders, grace=1.0)

        # One may be seen for long enough, and is then rightly kept.
        assert outcome.ok or outcome.holders or outcome.notes
        assert all(each.verdict.action == "keep" for each in outcome.holders)


@pytest.mark.parametrize("kind", ["bound", "tcp", "udp"])
def test_probes_of_other_programs(
    processes: Processes,
    elsewhere: Path,
    figures: Figures,
    backend: str,
    kind: str,
    *,
    long: bool,
) -> None:
    port = processes.free_port()
    bystanders = Bystanders(processes)
    for _ in range(2):
        bystanders.add(_on(kind, port, "--flicker", "0", "0"), elsewhere, attended=True)
    asked = f"{port}/udp" if kind == "udp" else f"{port}/tcp"
    for _ in range({"linux": (50, 2000), "portable": (2, 20)}[backend][long]):
        # Who holds the port, and is ours, would be stopped: a probe does not hold it.
        outcome = ask(asked, figures, bystanders, scope="mine", grace=1.0)

        # One that was descheduled in the middle may be seen for long enough to be believed. That it
        # is looked at again before any signal keeps it safe. psutil is slow: two that take the port
        # without a pause may leave it no time to find the port free, and then it says what it saw.
        if backend == "portable" and not outcome.ok:
            figures.false_reports += 1
            assert {each.kind for each in outcome.notes} <= {"unsteady", "invisible"}
            continue
        assert outcome.ok, outcome


def test_a_probed_port_is_freed(
    processes: Processes, project: Path, elsewhere: Path, figures: Figures, *, long: bool
) -> None:
    for _ in range(10 if long else 1):
        port = processes.free_port()
        server = processes.orphan(tcp(port), cwd=project)
        bystanders = Bystanders(processes)
        bystanders.add(_on("bound", port, "--flicker", "0", "0"), elsewhere, attended=True)

        outcome = ask(port, figures, bystanders, scope="mine", grace=2.0)

        assert outcome.status == "freed", outcome
        assert [each.pid for each in outcome.holders] == [server.pid]


def ask(
    port: int | str,
    figures: Figures,
    bystanders: Bystanders,
    *,
    grace: float,
    scope: Scope = "orphans",
) -> Outcome:
    """One trial: call `free_ports`, and look whether it hit a bystander."""
    if os.environ["PORTFREE_BACKEND"] == "portable":
        grace *= 10  # psutil reads the sockets process by process: seconds, if there are thousands
    started = time.monotonic()
    outcome = only(free_ports(port, scope=scope, grace=grace))
    seconds = time.monotonic() - started
    hit = bystanders.hit()
    # The caller knows whether the port can be free at all.
    figures.trial(seconds, wrong_stops=hit)
    assert not hit, outcome
    return outcome


def _on(kind: str, port: int, *flags: str) -> list[str]:
    match kind:
        case "udp":
            return udp(port, *flags)
        case "bound":
            return serve("--bound", f"127.0.0.1:{port}", *flags)
        case _:
            return tcp(port, *flags)
