"""``portfree run`` in a job that is cancelled, and on Windows through a fake."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.commands import (
    Recorder,
    Running,
    shell,
    states,
)
from helpers.processes import (
    Identity,
    Processes,
    accepts,
    children,
    is_free,
    tcp,
    wait_until,
)
from portfree._cli import child_windows, interrupts
from portfree._cli import run as _run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.usefixtures("project")


# A step of a CI job that is cancelled: SIGINT to us alone, later SIGTERM, later the end


def test_a_cancelled_command_gets_its_time_and_no_more(
    processes: Processes, recorder: Recorder
) -> None:
    port = processes.free_port()
    serving = shell(f"{shlex.join(tcp(port))} & exec {shlex.join(recorder.command)}")
    timings = {"patience": 0.4, "urgent": 0.2, "grace": 0.2}
    running = Running(processes, [str(port), "--", *serving], driver=timings)
    command = recorder.wait_ready()
    wait_until(lambda: accepts(port), "the server serves")

    running.send(signal.SIGINT)

    assert running.end() == 137
    assert recorder.signals == ["SIGINT", "SIGTERM"]
    assert not command.alive
    assert is_free(port)


def test_a_cancelled_command_may_end_by_itself(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    recorder = Recorder(project, ends_at=["SIGINT"])
    running = Running(processes, [str(port), "--", *recorder.command])
    recorder.wait_ready()

    running.send(signal.SIGINT)

    assert running.end() == 7
    assert recorder.signals == ["SIGINT"]


def test_sigterm_after_sigint_means_hurry(processes: Processes, recorder: Recorder) -> None:
    port = processes.free_port()
    serving = shell(f"{shlex.join(tcp(port))} & exec {shlex.join(recorder.command)}")
    timings = {"patience": 1000, "urgent": 0.2, "grace": 0.2}
    running = Running(processes, [str(port), "--", *serving], driver=timings)
    recorder.wait_ready()
    wait_until(lambda: accepts(port), "the server serves")

    running.send(signal.SIGINT)
    recorder.wait_for("SIGINT")
    running.send(signal.SIGTERM)

    assert running.end() == 137
    assert recorder.signals == ["SIGINT", "SIGTERM"]
    assert is_free(port)


def test_what_a_shell_has_started_does_not_outlive_the_cancelling(
    processes: Processes, recorder: Recorder
) -> None:
    words = ["--", *shell(f"{shlex.join(recorder.command)}; exit 9")]
    timings = {"patience": 0.3, "urgent": 0.2}
    running = Running(processes, [str(processes.free_port()), *words], driver=timings)
    command = recorder.wait_ready()

    running.send(signal.SIGINT)
    running.end()

    command.wait_gone()


def test_a_stopped_command_is_cancelled_too(processes: Processes) -> None:
    timings = {"patience": 0.2, "urgent": 20}
    words = [str(processes.free_port()), "--"]
    running = Running(processes, [*words, "sh", "-c", "kill -STOP $$; exit 9"], driver=timings)
    (command,) = wait_until(lambda: children(running.process.pid), "it has been started")
    stopped = Identity.of(command)
    wait_until(lambda: states(stopped) == "T", "it has stopped itself")

    running.send(signal.SIGINT)

    assert running.end() in (128 + signal.SIGINT, 128 + signal.SIGTERM)


@pytest.mark.parametrize("told", [True, False], ids=["sender told", "sender guessed"])
def test_control_c_sets_no_time(processes: Processes, *, told: bool) -> None:
    words = [str(processes.free_port()), "--", *slow_to_end("SIGINT")]
    driver = {"patience": 0.01, "urgent": 0.01, "sender_is_told": told}
    running = Running(processes, words, terminal=True, driver=driver)
    running.wait_for("ready")

    running.type("\x03")

    assert running.end() == 9


def test_a_hangup_sets_no_time(processes: Processes) -> None:
    words = [str(processes.free_port()), "--", *slow_to_end("SIGHUP")]
    running = Running(processes, words, driver={"patience": 0.01, "urgent": 0.01})
    running.wait_for("ready")

    running.send(signal.SIGHUP)

    assert running.end() == 9


def slow_to_end(number: str) -> list[str]:
    """A command that takes half a second to end after this signal, with code 9."""
    script = f"""
import os, signal, time
signal.signal(signal.{number}, lambda *_: (time.sleep(0.5), os._exit(9)))
print("ready", flush=True)
while True:
    signal.pause()
"""
    return [sys.executable, "-S", "-c", script]


def test_where_the_sender_is_guessed_the_time_runs_all_the_same(
    processes: Processes, recorder: Recorder
) -> None:
    driver = {"patience": 0.2, "urgent": 0.1, "sender_is_told": False}
    running = Running(
        processes, [str(processes.free_port()), "--", *recorder.command], driver=driver
    )
    recorder.wait_ready()

    running.send(signal.SIGINT)

    assert running.end() == 137
    assert recorder.signals == ["SIGINT", "SIGTERM"]


# Windows, through a fake


class FakePopen:
    """A command on Windows: it goes on until it is killed, or for some rounds of waiting."""

    rounds = 0
    code = 0
    hook: Callable[[], None] | None = None
    killed = False
    words: Sequence[str] = ()

    def __init__(self, words: Sequence[str]) -> None:
        type(self).words = words

    def wait(self, timeout: float) -> int:
        assert timeout > 0
        cls = type(self)
        if cls.killed:
            return 1
        if cls.rounds == 0:
            return cls.code
        cls.rounds -= 1
        if cls.hook:
            cls.hook()
        raise subprocess.TimeoutExpired("fake", timeout)

    def kill(self) -> None:
        type(self).killed = True


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> type[FakePopen]:
    fresh = type("Fresh", (FakePopen,), {})
    monkeypatch.setattr(subprocess, "Popen", fresh)
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR2, raising=False)
    monkeypatch.setattr(interrupts, "KEYS", {signal.SIGINT, signal.SIGUSR2})
    for name in (
        "pthread_sigmask",
        "SIGCHLD",
        "SIGALRM",
        "SIGHUP",
        "SIGQUIT",
        "SIGUSR1",
        "SIGUSR2",
    ):
        monkeypatch.delattr(signal, name)
    monkeypatch.setattr(_run_command, "run_command", child_windows.run_on_windows)
    return fresh


@pytest.mark.parametrize(
    ("status", "code"),
    [(0, 0), (3, 3), (0xC000013A, 130), (0xC0000005, 0xC0000005 - 2**32), (2**31 - 1, 2**31 - 1)],
)
def test_exit_codes_of_windows(
    processes: Processes, windows: type[FakePopen], status: int, code: int
) -> None:
    windows.code, windows.rounds = status, 2

    assert _run_command.main([str(processes.free_port()), "--", "sh", "-c", "x"]) == code
    assert windows.words[0].endswith("/sh")
    assert windows.words[1:] == ["-c", "x"]


def test_control_c_on_windows_is_left_to_the_command(
    processes: Processes, windows: type[FakePopen]
) -> None:
    windows.code, windows.rounds = 5, 3
    windows.hook = staticmethod(lambda: os.kill(os.getpid(), signal.SIGINT))

    assert _run_command.main([str(processes.free_port()), "--", "sh"]) == 5


def test_control_break_on_windows_announces_the_end(
    processes: Processes, windows: type[FakePopen]
) -> None:
    windows.rounds = -1
    windows.hook = staticmethod(lambda: os.kill(os.getpid(), signal.SIGBREAK))  # type: ignore[attr-defined]

    timings = interrupts.Timings(urgent=0.0)
    assert _run_command.main([str(processes.free_port()), "--", "sh"], timings) == 1
    assert windows.killed


@pytest.mark.usefixtures("windows")
def test_a_command_that_windows_cannot_start(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise FileNotFoundError(2, "The system cannot find the file specified")

    monkeypatch.setattr(subprocess, "Popen", fail)

    assert _run_command.main([str(processes.free_port()), "--", "nonsense"]) == 127
