"""``portfree run`` adopts what its command leaves behind: a child subreaper (prctl(2))."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    Identity,
    Processes,
    accepts,
    children,
    command_line,
    is_free,
    needs_namespace,
    needs_program,
    stat,
    tcp,
    wait_until,
)
from integration.test_action import Job
from integration.test_run_command import Recorder, Running, portfree_run, states
from portfree import Port
from portfree._cli import child
from portfree._cli import run as _run_command
from portfree._system.linux import LinuxSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("project"), needs_program("setsid")]

# Runs `portfree run` where our parent has had SIGCHLD ignored.
IGNORING = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""

# Runs `portfree run` with a Python that has no ctypes.
WITHOUT_CTYPES = """
import sys
sys.modules["ctypes"] = None
from portfree._cli import run
sys.exit(run.main(sys.argv[1:]))
"""

# Takes the port as soon as the file "go" is there, after which it starts what it is told to, waits
# for that, and ends with its code.
ANCESTOR = """
import os, socket, subprocess, sys, time
port, *command = sys.argv[1:]
run = subprocess.Popen(command)
while not os.path.exists("go"):
    time.sleep(0.005)
server = socket.create_server(("127.0.0.1", int(port)))
sys.exit(run.wait())
"""


@pytest.fixture
def port(processes: Processes) -> Iterator[int]:
    """A port of ours: whoever holds it in the end was started by this test, and is ended."""
    port = processes.free_port()
    yield port
    system = LinuxSystem()
    while sockets := {each.id for each in system.sockets([Port(port)])}:
        for pid in {pid for pids in system.owners(sockets).pids.values() for pid in pids}:
            left = Identity.of(pid)
            left.send(signal.SIGKILL)
            left.wait_gone()


def bash(script: str) -> list[str]:
    return ["bash", "-c", script]


def daemon(port: int, *flags: str) -> str:
    """A line of bash: a server in a session of its own, in another folder, without environment."""
    server = f"(cd /; setsid -f env -i {shlex.join(tcp(port, *flags))})"
    return f"{server}; {until_it_serves(port)}"


def until_it_serves(port: int) -> str:
    return f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do :; done"


def until_reaped(left: int) -> str:
    """A line of bash that waits until its parent has so many children, ended or not."""
    count = 'grep -hs ") [A-Z] $PPID " /proc/[0-9]*/stat | wc -l'
    return f"until [ $({count}) = {left} ]; do :; done"


def comes_up(processes: Processes, port: int, where: Path) -> str:
    """A line of bash after which a server of somebody else has the port."""
    go, script = processes.folder / "go", processes.folder / "server.sh"
    script.write_text(f"until [ -e {go} ]; do :; done; exec {shlex.join(tcp(port))}")
    processes.attended(["bash", str(script)], cwd=where)
    return f"touch {go}; {until_it_serves(port)}"


def holder_of(port: int) -> Identity:
    """The one process that has the port."""
    system = LinuxSystem()
    sockets = {each.id for each in system.sockets([Port(port)])}
    (pid,) = {pid for pids in system.owners(sockets).pids.values() for pid in pids}
    return Identity.of(pid)


def parent(process: Identity) -> int:
    seen = process.stat
    assert seen is not None
    return seen.ppid


def zombies(pid: int) -> list[int]:
    return [each for each in children(pid) if (seen := stat(each)) and seen.state == "Z"]


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


def is_subreaper() -> bool:
    answer = ctypes.c_int()
    assert ctypes.CDLL(None).prctl(37, ctypes.byref(answer), 0, 0, 0) == 0
    return answer.value == 1


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

    def deaf(watched: Collection[int], timeout: float | None) -> child._Signal | None:
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
    timings = child.Timings(patience=0.1, urgent=0.1)

    assert _run_command.main([str(port), "--", *stubborn], timings) == 128 + signal.SIGKILL


# At a terminal


def test_control_c_ends_the_command_and_then_the_daemon(processes: Processes, port: int) -> None:
    script = f"{daemon(port)}; echo up; sleep 1000"
    running = Running(processes, [str(port), "--", *bash(script)], terminal=True)
    running.wait_for("up")
    running.type("\x03")

    assert running.end() == 128 + signal.SIGINT
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


# Who else adopts


def test_what_a_killed_run_inside_has_left_is_adopted_by_the_outer_one(
    processes: Processes, port: int
) -> None:
    inside = f"{daemon(port)}; kill -KILL $PPID; sleep 1000"
    inner = shlex.join([*portfree_run(), str(port), "--", *bash(inside)])
    script = f"{inner}; echo code=$?; read -r line; exit 0"
    words = [str(port), "--", *bash(script)]
    running = Running(processes, words, terminal=True, env={"NO_COLOR": "1"})
    running.wait_for("code=137")

    server = holder_of(port)
    assert parent(server) == running.process.pid
    running.type("\n")
    assert running.end() == 0
    assert f"{port}/tcp: freed" in running.output
    assert not server.alive


@needs_namespace("--pid", "--fork", "--mount-proc")
@pytest.mark.parametrize(("ends", "code"), [("exit 5", 5), ("kill -KILL $$", 128 + signal.SIGKILL)])
def test_as_the_first_process_of_a_container(
    processes: Processes, port: int, ends: str, code: int
) -> None:
    first = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    script = f"{daemon(port)}; for n in {{1..50}}; do setsid -f true; done; echo up; read -r line"
    words = [str(port), "--", *bash(f"{script}; {ends}")]
    running = Running(processes, words, prefix=first, terminal=True, env={"NO_COLOR": "1"})
    running.wait_for("up")
    (run,) = children(running.process.pid)

    # The command, and the daemon.
    wait_until(lambda: len(children(run)) == 2, "the others are reaped")
    assert not zombies(run)
    running.type("\n")
    assert running.end() == code
    assert f"{port}/tcp: freed" in running.output
    assert is_free(port)


def test_so_does_a_step_of_the_action(processes: Processes, port: int, tmp_path: Path) -> None:
    step = Job(processes, tmp_path).step(
        ports=str(port), run=f"{daemon(port)}; exit 4", shell="bash"
    )

    assert step.code == 4
    assert step.outputs["freed"] == f"{port}/tcp"
    assert is_free(port)


def test_without_ctypes_it_goes_on_without(processes: Processes, port: int) -> None:
    script = "setsid -f sleep 1000; echo up; read -r line; exit 3"
    program = [sys.executable, "-c", WITHOUT_CTYPES, str(port), "--", *bash(script)]
    running = Running(processes, [], program=program, terminal=True)
    running.wait_for("up")

    assert len(children(running.process.pid)) == 1
    running.type("\n")
    assert running.end() == 3
    assert "portfree" not in running.output


def test_where_the_system_refuses_it_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def prctl(self, *_: object) -> int:
            return -1

    class Nothing:
        pass

    def fail(_: object) -> None:
        raise OSError("no such library")

    libraries: list[Callable[[object], object]] = [lambda _: Refusing(), lambda _: Nothing(), fail]
    for library in libraries:
        monkeypatch.setattr(ctypes, "CDLL", library)
        with child.adoption() as adopts:
            assert not adopts
    monkeypatch.undo()
    assert not is_subreaper()


def test_the_calling_process_is_left_as_it_was(port: int) -> None:
    assert _run_command.main([str(port), "--", "true"]) == 0
    assert not is_subreaper()

    with child.adoption() as adopts:
        assert adopts
        assert _run_command.main([str(port), "--", "no-such-command"]) == 127
        assert is_subreaper()
    assert not is_subreaper()


# A port that is busy after the command


@pytest.mark.parametrize(("on_busy", "code"), [("fail", 125), ("warn", 0)])
def test_a_port_that_is_busy_after_the_command_is_no_success(
    processes: Processes, elsewhere: Path, project: Path, port: int, on_busy: str, code: int
) -> None:
    script = comes_up(processes, port, elsewhere)
    words = [str(port), "--on-busy", on_busy, "--report", "it.json", "--"]
    running = Running(processes, [*words, *bash(script)])

    assert running.end() == code
    said = f"portfree: the command has succeeded, but {port}/tcp is busy after it: exit code 125"
    assert (said in running.output.splitlines()) is (code == 125)
    assert json.loads((project / "it.json").read_text())["exit_code"] == code
    assert accepts(port)


def test_the_code_of_a_command_that_has_failed_stands(
    processes: Processes, elsewhere: Path, port: int
) -> None:
    script = comes_up(processes, port, elsewhere)
    running = Running(processes, [str(port), "--", *bash(f"{script}; exit 4")])

    assert running.end() == 4
    assert f"{port}/tcp: busy" in running.output
    assert "exit code 125" not in running.output


def test_a_port_that_who_runs_us_has_taken_is_meant_to_be_busy(
    processes: Processes, port: int
) -> None:
    script = f"touch go; {until_it_serves(port)}"
    run = [*portfree_run(), str(port), "--", *bash(script)]
    program = [sys.executable, "-S", "-c", ANCESTOR, str(port), *run]
    running = Running(processes, [], program=program)

    assert running.end() == 0
    assert f"{port}/tcp: busy" in running.output
    assert "why:     self: " in running.output


def test_the_help_tells_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run_command.main(["--help"]) == 0

    text = " ".join(capsys.readouterr().out.split())
    assert "the command has succeeded, but a port is busy after it" in text
    assert "after it: exit with 125 if it has succeeded" in text
