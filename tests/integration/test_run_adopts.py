"""``portfree run`` adopts what its command leaves behind: a child subreaper (prctl(2))."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.commands import (
    Recorder,
    Running,
    bash,
    daemon,
    holder_of,
    parent,
    port_of_ours,
    portfree_run,
    states,
    until_it_serves,
    zombies,
)
from helpers.processes import (
    Identity,
    Processes,
    accepts,
    children,
    command_line,
    is_free,
    needs_program,
    stat,
    tcp,
    wait_until,
)
from portfree._cli import child, interrupts
from portfree._cli import run as _run_command

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("project"), needs_program("setsid")]


@pytest.fixture
def port(processes: Processes) -> Iterator[int]:
    with port_of_ours(processes) as port:
        yield port


# Runs `portfree run` where our parent has had SIGCHLD ignored.
IGNORING = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


def until_reaped(left: int) -> str:
    """A line of bash that waits until its parent has so many children, ended or not."""
    count = 'grep -hs ") [A-Z] $PPID " /proc/[0-9]*/stat | wc -l'
    return f"until [ $({count}) = {left} ]; do :; done"


def wait_reaped(process: Identity) -> None:
    def reaped() -> bool:
        seen = stat(process.pid)
        return seen is None or seen.start != process.start

    wait_until(reaped, f"process {process.pid} is reaped")


def ended_child(command: Sequence[str] = ("true",)) -> subprocess.Popen[bytes]:
    """A child of this test run that has ended, and is left to be reaped."""
    child = subprocess.Popen(command)
    wait_until(lambda: child.pid in zombies(os.getpid()), "it has ended")
    return child


# What is known by its descent


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        ("kill -KILL $$", 128 + signal.SIGKILL),
    ],
)
def test_a_daemon_that_shows_nothing_is_known_by_its_descent(
    processes: Processes, port: int, ends: str, code: int
) -> None:
    running = Running(processes, [str(port), "--", *bash(f"{daemon(port)}; {ends}")])

    assert running.end() == code
    assert f"{port}/tcp: freed" in running.output
    assert "own-run: " in running.output
    assert is_free(port)


def test_a_daemon_lives_on_while_the_command_runs(processes: Processes, port: int) -> None:
    script = f"{daemon(port)}; echo up; read -r line"
    running = Running(processes, [str(port), "--", *bash(script)], terminal=True)
    running.wait_for("up")

    server = holder_of(port)
    assert parent(server) == running.process.pid  # it would be init otherwise
    running.type("\n")
    assert running.end() == 0
    assert f"(pid {server.pid})" in running.output
    assert not server.alive


def test_what_lives_on_after_a_killed_command_is_stopped(processes: Processes, port: int) -> None:
    script = f"{shlex.join(tcp(port))} & {until_it_serves(port)}; kill -KILL $$"
    running = Running(processes, [str(port), "--", *bash(script)])

    assert running.end() == 128 + signal.SIGKILL
    assert f"{port}/tcp: freed" in running.output
    assert is_free(port)


def test_what_holds_no_port_is_left_alone(processes: Processes, port: int) -> None:
    script = "setsid -f sleep 1000; echo up; read -r line"
    running = Running(processes, [str(port), "--", *bash(script)], terminal=True)
    running.wait_for("up")
    others = [pid for pid in children(running.process.pid) if command_line(pid)[0] != "bash"]
    sleeper = Identity.of(*others)

    running.type("\n")

    assert running.end() == 0
    assert sleeper.alive
    assert parent(sleeper) != running.process.pid


def test_a_daemon_that_is_ending_gets_its_time(processes: Processes, port: int) -> None:
    pid, marker = processes.folder / "pid", processes.folder / "marker"
    serving = f"echo $$ >{pid}; exec {shlex.join(tcp(port, '--flush', str(marker)))}"
    start = f"setsid -f env -i bash -c {shlex.quote(serving)}; {until_it_serves(port)}"
    running = Running(processes, [str(port), "--", *bash(f"{start}; kill $(<{pid}); exit 3")])

    assert running.end() == 3
    assert is_free(port)
    wait_until(marker.exists, "the daemon has written what must not be lost")


# Whoever is adopted is reaped


@pytest.mark.parametrize(
    "prefix", [[], [sys.executable, "-S", "-c", IGNORING]], ids=["", "SIGCHLD ignored"]
)
def test_it_reaps_what_it_adopts(processes: Processes, port: int, prefix: list[str]) -> None:
    script = "for n in {1..300}; do setsid -f true; done; echo done; read -r line; exit 3"
    words = [str(port), "--", *bash(script)]
    running = Running(processes, words, terminal=True, prefix=prefix)
    running.wait_for("done")

    # The command is left: the others have ended, and none waits to be reaped.
    wait_until(lambda: len(children(running.process.pid)) == 1, "the others are reaped")
    assert not zombies(running.process.pid)
    running.type("\n")
    assert running.end() == 3


def test_a_daemon_that_ends_while_the_command_runs_is_reaped(
    processes: Processes, port: int
) -> None:
    script = f"{daemon(port)}; echo up; read -r line; exit 4"
    running = Running(processes, [str(port), "--", *bash(script)], terminal=True)
    running.wait_for("up")
    server = holder_of(port)

    server.send(signal.SIGKILL)

    wait_reaped(server)
    running.type("\n")
    assert running.end() == 4


def test_a_stopped_command_stays_stopped_while_another_one_is_reaped(
    processes: Processes, port: int
) -> None:
    script = f"{daemon(port)}; echo up; kill -STOP $$; exit 4"
    running = Running(processes, [str(port), "--", *bash(script)])
    running.wait_for("up")
    server = holder_of(port)
    (pid,) = set(children(running.process.pid)) - {server.pid}
    command = Identity.of(pid)
    wait_until(lambda: states(command) == "T", "the command has stopped itself")

    server.send(signal.SIGKILL)

    wait_reaped(server)
    assert states(command) == "T"
    command.send(signal.SIGCONT)
    assert running.end() == 4


def test_what_ends_unheard_is_reaped_all_the_same(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = child._next_signal

    def deaf(watched: Collection[int], timeout: float) -> child._Signal | None:
        # As where another thread has got it.
        got = hear(watched, timeout)
        return None if got is not None and got.number == signal.SIGCHLD else got

    monkeypatch.setattr(child, "_next_signal", deaf)
    monkeypatch.setattr(child, "_LOOK_AGAIN", 0.01)
    script = f"setsid -f true; {until_reaped(len(children(os.getpid())) + 1)}; exit 3"

    assert _run_command.main([str(port), "--", *bash(script)]) == 3


def test_neither_the_command_nor_other_children_hide_anybody() -> None:
    before = ended_child(bash("exit 5"))
    adopted = child._Adopted()
    command, orphan = ended_child(bash("exit 6")), ended_child(bash("exit 7"))
    left = Identity.of(orphan.pid)

    adopted.reap(command.pid)

    wait_reaped(left)
    assert (before.wait(), command.wait()) == (5, 6)
    orphan.wait()  # whose code is lost


def test_a_process_that_calls_it_keeps_its_children(port: int) -> None:
    ours = ended_child(bash("exit 5"))
    with_command = len(children(os.getpid())) + 1
    script = f"for n in {{1..5}}; do setsid -f true; done; {until_reaped(with_command)}"

    assert _run_command.main([str(port), "--", *bash(script)]) == 0
    assert ours.wait() == 5


def test_the_command_is_killed_in_time_whatever_is_adopted_meanwhile(
    processes: Processes, port: int
) -> None:
    storm = "trap '' INT TERM; echo up; while :; do setsid -f true; done"
    driver = {"patience": 0.2, "urgent": 0.2}
    running = Running(processes, [str(port), "--", *bash(storm)], driver=driver)
    running.wait_for("up")

    running.send(signal.SIGINT)

    assert running.end() == 128 + signal.SIGKILL


def test_the_command_is_killed_in_time_even_if_something_ends_all_the_time(
    project: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [signal.SIGINT]

    def hear(*_: object) -> child._Signal:
        due = asked and (project / "up").exists()
        return child._Signal(asked.pop() if due else signal.SIGCHLD, typed=False)

    monkeypatch.setattr(child, "_next_signal", hear)
    stubborn = bash("trap '' INT TERM; touch up; exec sleep 1000")
    timings = interrupts.Timings(patience=0.1, urgent=0.1)

    assert _run_command.main([str(port), "--", *stubborn], timings) == 128 + signal.SIGKILL


# At a terminal


def test_control_c_ends_the_command_and_then_the_daemon(processes: Processes, port: int) -> None:
    script = f"{daemon(port)}; echo up; sleep 1000"
    running = Running(processes, [str(port), "--", *bash(script)], terminal=True)
    running.wait_for("up")
    running.type("\x03")

    assert running.end() == -signal.SIGINT
    assert is_free(port)


def test_a_shell_stops_and_continues_it_with_what_it_has_adopted(
    processes: Processes, port: int, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path)
    shell = ["bash", "--noprofile", "--norc", "-i"]
    running = Running(
        processes, [], program=shell, terminal=True, env={"PS1": "$ ", "HISTFILE": ""}
    )
    # One that has gone away, and one that is still in the foreground.
    script = f"{daemon(port)}; (sleep 1000 &); exec {shlex.join(recorder.command)}"
    running.type(shlex.join([*portfree_run(), str(port), "--", *bash(script)]) + "\n")
    command = recorder.wait_ready()
    run = Identity.of(parent(command))
    server = holder_of(port)
    (pid,) = set(children(run.pid)) - {command.pid, server.pid}
    sleeper = Identity.of(pid)

    running.type("\x1a")
    wait_until(lambda: states(command, run, sleeper) == "TTT", "they are stopped")
    assert accepts(port)
    running.wait_for("Stopped")
    running.type("fg\n")
    wait_until(lambda: states(command, run, sleeper) == "SSS", "they go on")
    sleeper.send(signal.SIGKILL)
    wait_reaped(sleeper)
    running.type("\x03")
    recorder.wait_for("SIGINT")
    run.send(signal.SIGUSR1)
    run.wait_gone()
    running.forget()
    running.type("echo code=$?\n")
    running.wait_for("code=7")
    running.type("exit\n")

    running.end()
    assert recorder.signals == ["SIGINT", "SIGUSR1"]
    assert not server.alive
