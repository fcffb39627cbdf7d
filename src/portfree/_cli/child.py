"""Runs a command as its parent: its signals, its terminal and its exit code.

At a terminal, the command stays in our process group: Ctrl-C and Ctrl-Z reach it directly, and with
it the rest of a pipeline, make, npm or a script that we are a part of. (In a group of its own, with
the terminal handed over to it, as tini does, none of these hears of Ctrl-C, and ``cat |`` in front
of us may read no more.) Without a terminal (CI, a container, a service) it gets a group of its own:
what is sent to us is passed on to all that it has started, once, as Ctrl-C would be.

On Linux we also adopt what the command leaves behind: as an init does, we reap it when it ends.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from portfree._cli.interrupts import KEYS, CannotRunError, Ended, Interrupts, Timings
from portfree._output.console import tell

# Linux tells whether a signal was typed at the terminal or sent by a process (sigaction(2)).
_SENDER_IS_TOLD = sys.platform == "linux"

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37

# So often, in seconds, we look after the command without a signal: where other threads live in our
# process, SIGCHLD may be delivered to one of them, and is lost.
_LOOK_AGAIN = 1.0


def run_command(words: Sequence[str], interrupts: Interrupts, timings: Timings) -> Ended:
    """Run the command, pass on to it what is sent to us, and return when it has ended.

    Raises `CannotRunError`.
    """
    if os.name == "nt":
        from portfree._cli.child_windows import run_on_windows  # subprocess: 4 ms

        return run_on_windows(words, interrupts, timings)
    adopted = _Adopted() if interrupts.adopts else None
    command = _Command(words, interrupts, timings)
    while True:
        got = _next_signal(interrupts.watched, min(command.seconds_left(), _LOOK_AGAIN))
        if got is not None and got.number != signal.SIGCHLD:
            interrupts.count += got.number in KEYS
            if not (got.typed and command.is_in_our_group()):
                command.pass_on(got.number)
            continue
        ended = command.reap()
        if adopted is not None:
            adopted.reap(command.pid)
        # After SIGCHLD too: what is adopted may end so often that there always is one.
        if ended is None and command.seconds_left() == 0:
            ended = command.hasten()
        if ended is not None:
            return ended


def die_of(number: int) -> None:
    """End our process by this signal, as it has ended the command; returns if we are init.

    After Ctrl-C a shell goes on with its script where what it runs exits, even with 130: that it
    has handled the signal itself (https://www.cons.org/cracauer/sigint.html).
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):
            stream.flush()
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # of SIGQUIT: our memory says nothing
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.raise_signal(number)


class _Command:
    """The command, as our child, and how it is brought to its end when we are asked to end."""

    def __init__(self, words: Sequence[str], interrupts: Interrupts, timings: Timings) -> None:
        self._name, self._timings = words[0], timings
        self._asked = self._late = False  # we were asked to end; its time for that is over
        self._until = math.inf
        self._steps = [signal.SIGTERM, signal.SIGKILL]
        self._own_group = _foreground() is None
        spawn = partial(os.posix_spawnp, setpgroup=0) if self._own_group else os.posix_spawnp
        try:
            self.pid = spawn(
                words[0],
                list(words),
                os.environ,
                setsigmask=interrupts.outside,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them, for itself
            )
        except OSError as error:
            raise CannotRunError(words[0], error) from error

    def reap(self) -> Ended | None:
        """Reap it, if it has ended."""
        if self._late:
            # SIGTERM ends a shell, and not the tests that it has started. As long as it has not
            # been reaped, the group is certainly the one that we have made for it.
            if hasattr(os, "waitid") and not os.waitid(  # macOS: from Python 3.13
                os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
            ):
                return None  # asked once: if it ends after that, SIGCHLD comes again
            self._send(signal.SIGKILL)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        code = os.waitstatus_to_exitcode(status)
        return Ended(code if code >= 0 else 128 - code, max(0, -code), self._asked)

    def is_in_our_group(self) -> bool:
        """Whether a key at the terminal reaches it too."""
        try:
            return not self._own_group and os.getpgid(self.pid) == os.getpgrp()
        except ProcessLookupError:  # what macOS says of a zombie
            return True

    def pass_on(self, number: int) -> None:
        """Pass on a signal that was sent to us, and set a time if that asks us to end.

        Ctrl-C at a terminal asks the command, and its user decides how long that may take. SIGHUP
        may mean "read your configuration again". Neither sets a time.
        """
        self._send(number)
        if number not in (signal.SIGINT, signal.SIGTERM):
            return
        hurry = self._asked and number == signal.SIGTERM
        if number == signal.SIGTERM and signal.SIGTERM in self._steps:
            self._steps.remove(signal.SIGTERM)
        patience = self._timings.urgent if hurry else self._timings.patience
        self._until = min(self._until, time.monotonic() + patience)
        self._asked = True

    def seconds_left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def hasten(self) -> Ended | None:
        """Its time is over: take the next step; if there is none, it counts as ended."""
        if not self._steps:
            tell("the command could not be killed")
            return Ended(128 + signal.SIGKILL, hurried=True)
        self._late = True
        step = self._steps.pop(0)
        tell(f"the command goes on: {step.name}")
        self._send(step)
        self._send(signal.SIGCONT)  # a stopped process gets no other signal before
        self._until = time.monotonic() + self._timings.urgent
        return None

    def _send(self, number: int) -> None:
        """Send it a signal: it has not been reaped, so its pid is still its own."""
        try:
            if self._own_group:
                with suppress(ProcessLookupError):  # it has moved to another group
                    os.killpg(self.pid, number)
                    return
            os.kill(self.pid, number)
        except PermissionError:  # sudo, say
            tell(
                f"{signal.Signals(number).name} could not be passed on: {self._name} (pid "
                f"{self.pid}) runs as another user"
            )


class _Signal(NamedTuple):
    number: int
    typed: bool
    """Whether a key at the terminal sent it, and so to all of the foreground process group."""


def _next_signal(watched: Collection[int], timeout: float) -> _Signal | None:
    """Wait for a signal, or for the *timeout*."""
    signals = {*watched, signal.SIGCHLD}
    if _SENDER_IS_TOLD:
        info = signal.sigtimedwait(signals, timeout)
        # The kernel's own are positive (SI_KERNEL), a process's are not (SI_USER, SI_TKILL).
        return info and _Signal(info.si_signo, info.si_code > 0 and info.si_signo in KEYS)
    # macOS has no such wait, and tells no sender: a key is likely where we are in the foreground.
    deadline = time.monotonic() + timeout
    while not signal.sigpending() & signals:
        if time.monotonic() >= deadline:
            return None
        time.sleep(min(timeout, 0.02))
    number = signal.sigwait(signals)
    return _Signal(number, number in KEYS and _foreground() == os.getpgrp())


def _foreground() -> int | None:
    """The process group in the foreground of our terminal; None if we have no terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.tcgetpgrp(terminal)
    except OSError:  # it has hung up
        return None
    finally:
        os.close(terminal)


# --- what the command leaves behind --------------------------------------------------------------


@contextmanager
def adoption() -> Iterator[bool]:
    """In this block, what loses its parent below us becomes our child (a subreaper, prctl(2)).

    So a daemon that has wiped its environment, and left its session, still descends from the run
    that it was started in. False where the system knows no such thing: then it goes without.
    """
    if sys.platform != "linux":
        yield False
        return
    done = False
    # No ctypes, no C library to load, or no memory that it may write code to.
    with suppress(ImportError, OSError, AttributeError, MemoryError):
        import ctypes

        prctl, before, nothing = ctypes.CDLL(None).prctl, ctypes.c_int(), (ctypes.c_ulong(),) * 3
        done = (
            prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), *nothing) == 0
            and prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), *nothing) == 0
        )
    try:
        yield done or os.getpid() == 1
    finally:
        if done:
            prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(before.value), *nothing)


class _Adopted:
    """The children that the command leaves to us; made before the command is started.

    While the command runs, nothing else in our process starts a child: every other one is adopted,
    but for those that we have from before, which the program that calls us waits for itself.
    """

    def __init__(self) -> None:
        self._others: frozenset[int] = frozenset()
        with suppress(ChildProcessError):  # mostly, and a look at all of /proc is saved
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self._others = _children()

    def reap(self, command: int) -> None:
        """Reap those that have ended, and nothing but those."""
        spared = self._others | {command}
        with suppress(ChildProcessError):  # there are no children, or another thread was faster
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                # Until a spared one is reaped, the kernel may show no other one: look at them all.
                hidden = ended.si_pid in spared
                for pid in _children() - spared if hidden else (ended.si_pid,):
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                if hidden:
                    break


def _children() -> frozenset[int]:
    """Our children, ended or not, as far as they can be seen."""
    # Not by /proc/self/task/*/children: only some kernels have that.
    found = set()
    with suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                # After the name, which stands in brackets and may hold anything, comes field 3.
                parent = file.read().rpartition(b")")[2].split()[1]
                if int(parent) == os.getpid():
                    found.add(int(name))
    return frozenset(found)
