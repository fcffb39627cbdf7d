"""``portfree run``, and commands to run with it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from helpers.processes import PATIENCE, Identity, Processes, children, stat, tcp, wait_until
from portfree import Port
from portfree._system.linux import LinuxSystem

# A command that writes down what it is and which signals it gets, one word a line. SIGUSR1 ends it
# with code 7: whatever was sent before that has arrived by then, once or twice.
RECORDER = """
import os, signal, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def say(text):
    os.write(log, text.encode() + b"\\n")
def got(number, _):
    say(signal.Signals(number).name)
    if number == signal.SIGUSR1 or signal.Signals(number).name in sys.argv[2:]:
        os._exit(7)
for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1", "SIGHUP"):
    if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
        signal.signal(getattr(signal, name), got)
say(f"ready {os.getpid()}")
while True:
    signal.pause()
"""

# Runs `portfree run` with other timings, or as on a system that does not tell who sent a signal.
DRIVER = """
import json, sys
from portfree._cli import child, interrupts, run
settings = json.loads(sys.argv[1])
child._SENDER_IS_TOLD = settings.pop("sender_is_told", True)
sys.exit(run.main(sys.argv[2:], interrupts.Timings(**settings)))
"""


class Running:
    """A ``portfree run`` under way; its stdout and stderr are one pipe, or one terminal."""

    def __init__(
        self,
        processes: Processes,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
        driver: Mapping[str, object] | None = None,
        prefix: Sequence[str] = (),
        program: Sequence[str] = (),
    ) -> None:
        mine, theirs = pty.openpty() if terminal else os.pipe()
        processes._open.callback(os.close, mine)
        try:
            self.process = processes.popen(
                program or [*prefix, *portfree_run(driver), *words],
                env,
                stdin=theirs if terminal else subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                preexec_fn=partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0) if terminal else None,
            )
        finally:
            os.close(theirs)
        self._mine, self.output = mine, ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to portfree alone."""
        self.process.send_signal(number)

    def type(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until it has written this, on stdout or stderr."""
        while text not in self.output:
            ready = select.select([self._mine], [], [], PATIENCE)[0]
            if not ready or not self._read():
                pytest.fail(f"waited in vain for {text!r}, there was only:\n{self.output}")

    def hang_up(self) -> None:
        """Close the terminal."""
        os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), self._mine)

    def forget(self) -> None:
        self.output = ""

    def end(self) -> int:
        """Wait for its end, and return the exit code.

        Not for the end of its output: what it leaves behind has that open too.
        """
        ended, unread = os.pidfd_open(self.process.pid), [self._mine]
        while (ready := select.select([ended, *unread], [], [], PATIENCE)[0]) != [ended]:
            if not ready:
                pytest.fail(f"it did not end, and wrote only:\n{self.output}")
            if self._mine in ready and not self._read():
                unread.clear()
        os.close(ended)
        return self.process.wait()

    def _read(self) -> bytes:
        try:
            chunk = os.read(self._mine, 65536)
        except OSError:  # EIO: nobody has the other end of the terminal open any more
            chunk = b""
        self.output += chunk.decode(errors="replace")
        return chunk


def portfree_run(driver: Mapping[str, object] | None = None) -> list[str]:
    if driver is None:
        return [sys.executable, "-m", "portfree", "run"]
    return [sys.executable, "-c", DRIVER, json.dumps(driver)]


def leaver(how: int | str, port: int, command: Sequence[str]) -> list[str]:
    """A command that starts a server, waits until it serves, and ends with a code or a signal."""
    end = f"exit {how}" if isinstance(how, int) else f"kill -{how[3:]} $$"
    return bash(f"{shlex.join(command)} </dev/null & {until_it_serves(port)}; {end}")


class Recorder:
    """The command that writes down what happens to it."""

    def __init__(self, folder: Path, *, ends_at: Sequence[str] = ()) -> None:
        self._log = folder / f"recorder-{os.urandom(4).hex()}"
        self.command = [sys.executable, "-S", "-c", RECORDER, str(self._log), *ends_at]

    @property
    def lines(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    @property
    def signals(self) -> list[str]:
        return self.lines[1:]

    def wait_ready(self) -> Identity:
        wait_until(lambda: self.lines, "the command runs")
        return Identity.of(int(self.lines[0].split()[1]))

    def wait_for(self, word: str) -> None:
        wait_until(lambda: word in self.signals, f"the command gets {word}")


def run(processes: Processes, *words: str, **options: Any) -> tuple[int, str]:
    running = Running(processes, words, **options)
    return running.end(), running.output


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def states(*processes: Identity) -> str:
    return "".join(seen.state for process in processes if (seen := process.stat))


# Daemons that a command leaves, and which process has adopted them


@contextmanager
def port_of_ours(processes: Processes) -> Iterator[int]:
    """A port of ours: what holds it in the end was started by this test, and is killed."""
    port = processes.free_port()
    yield port
    system = LinuxSystem()
    while system.sockets([Port(port)]):
        for left in holders_of(port):
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


def holders_of(port: int) -> set[Identity]:
    system = LinuxSystem()
    owners = system.owners({each.id for each in system.sockets([Port(port)])})
    return {Identity.of(pid) for pid in frozenset().union(*owners.pids.values())}


def holder_of(port: int) -> Identity:
    """The one process that has the port."""
    (found,) = holders_of(port)
    return found


def parent(process: Identity) -> int:
    seen = process.stat
    assert seen is not None
    return seen.ppid


def zombies(pid: int) -> list[int]:
    return [each for each in children(pid) if (seen := stat(each)) and seen.state == "Z"]
