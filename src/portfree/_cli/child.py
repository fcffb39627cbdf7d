"""Runs a command as a parent that outlives it: its signals, its terminal and its exit code.

Where there is a terminal, the command stays in our process group: Ctrl-C and Ctrl-Z reach it
directly, and a shell stops both of us together. Without one (CI, a container, a service) it gets a
group of its own: a signal that somebody sends to us is passed on to all that it has started, once,
as Ctrl-C would be.

On Linux we also adopt what the command leaves behind: as an init does, we reap it when it ends.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from portfree._cli.interrupts import KEYS, CannotRunError, Ended, Interrupts, Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    Notice = Callable[[str], None]

# Linux tells whether a signal was typed at the terminal or sent by a process (sigaction(2)).
_SENDER_IS_TOLD = sys.platform == "linux"

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


@contextmanager
def adoption() -> Iterator[bool]:
    """In this block, what loses its parent below us becomes our child, as that of an init does.

    So a daemon that has wiped its environment, and left its session, still descends from the run
    that it was started in. False where the system knows no such thing: then it goes without.
    """
    before = _set_subreaper(1)
    try:
        yield before is not None or (sys.platform == "linux" and os.getpid() == 1)
    finally:
        if before is not None:
            _set_subreaper(before)


def _set_subreaper(value: int) -> int | None:
    """Set whether we are a child subreaper (prctl(2)).

    Returns what it was before; None where it cannot be set.
    """
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError, MemoryError):
        return None  # no ctypes, no C library to load, or no memory that it may write code to
    before = ctypes.c_int()
    nothing = (ctypes.c_ulong(),) * 3
    if prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), *nothing) != 0:
        return None
    if prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(value), *nothing) != 0:
        return None
    return before.value


def run_command(
    words: Sequence[str], interrupts: Interrupts, notify: Notice, timings: Timings
) -> Ended:
    """Run the command, pass on to it what is sent to us, and return when it has ended.

    *notify* gets a line when its end has to be hastened. Raises `CannotRunError`.
    """
    if os.name == "nt":
        from portfree._cli.child_windows import run_on_windows  # subprocess: 6 ms

        return run_on_windows(words, interrupts, notify, timings)
    return _run_on_posix(words, interrupts, notify, timings)


class _Command:
    """The command, as our child."""

    def __init__(self, words: Sequence[str], interrupts: Interrupts, notify: Notice) -> None:
        self.code: int | None = None
        self._name = words[0]
        self._notify = notify
        self._own_group = not _has_terminal()
        spawn = os.posix_spawnp
        if self._own_group:
            spawn = partial(spawn, setpgroup=0)
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

    def running(self) -> bool:
        """Whether it runs; if it has ended, it is reaped."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code
        return self.code is None

    def has_ended(self) -> bool:
        """Whether it has ended, without reaping it."""
        if not hasattr(os, "waitid"):  # macOS has it from Python 3.13
            return True
        return bool(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def has_got(self) -> bool:
        """Whether a signal from the terminal has reached the command too."""
        try:
            return not self._own_group and os.getpgid(self.pid) == os.getpgrp()
        except ProcessLookupError:  # what macOS says of a zombie
            return True

    def send(self, number: int) -> None:
        """Send it a signal: it has not been reaped, so its pid is still its own."""
        try:
            if self._own_group:
                with suppress(ProcessLookupError):  # it has moved to another group
                    os.killpg(self.pid, number)
                    return
            os.kill(self.pid, number)
        except PermissionError:  # sudo, say
            self._notify(
                f"{signal.Signals(number).name} could not be passed on: {self._name} (pid "
                f"{self.pid}) runs as another user"
            )


class _Adopted:
    """What the command leaves behind, and the system makes our children.

    As long as the command runs, nothing else in our process starts a child: every other one is
    adopted, but for those that we have from before. Who calls us in its own process waits for these
    itself.
    """

    def __init__(self) -> None:
        """Before the command is started."""
        self._others = _children() if _has_children() else frozenset()

    def reap(self, command: int) -> None:
        """Reap those that have ended, and nothing but those."""
        spared = self._others | {command}
        while ended := _ended_child():
            if ended in spared:
                # Until that is reaped, the kernel may show no other one.
                for pid in _children() - spared:
                    _reap(pid)
                break
            _reap(ended)


def _ended_child() -> int | None:
    """A child of ours that has ended, and is left to be reaped."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there are no children
        return None
    return ended.si_pid if ended else None


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # another thread was faster
        os.waitpid(pid, os.WNOHANG)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _children() -> frozenset[int]:
    """Our children, ended or not, as far as they can be seen."""
    # Not by /proc/self/task/*/children: only some kernels have that.
    found = set()
    try:
        names = os.listdir("/proc")  # noqa: PTH208
    except OSError:
        names = []
    for name in filter(str.isdigit, names):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
            # After the name, which stands in brackets and may hold anything, comes field 3.
            parent = file.read().rpartition(b")")[2].split()[1]
            if int(parent) == os.getpid():
                found.add(int(name))
    return frozenset(found)


# Where other threads live in our process, SIGCHLD may be delivered to one of them, and is lost: so
# often, in seconds, we look after the command without having been told.
_LOOK_AGAIN = 1.0


def _run_on_posix(
    words: Sequence[str], interrupts: Interrupts, notify: Notice, timings: Timings
) -> Ended:
    adopted = _Adopted() if interrupts.adopts else None
    command = _Command(words, interrupts, notify)
    end = _End(command, notify, timings)
    while True:
        left = end.seconds_left()
        until = _LOOK_AGAIN if left is None else min(left, _LOOK_AGAIN)
        got = _next_signal(interrupts.watched, until)
        if got is None or got.number == signal.SIGCHLD:
            ended = command.has_ended()  # asked once: if it ends after that, SIGCHLD comes again
            if ended and end.over:
                # SIGTERM ends a shell, and not the tests that it has started. As long as it has not
                # been reaped, the group is certainly the one that we have made for it.
                command.send(signal.SIGKILL)
            running = not ended or command.running()
            if adopted is not None:
                adopted.reap(command.pid)
            if not running:
                break
            # After a signal too: what is adopted may end so often that there always is one.
            if end.seconds_left() == 0 and not end.hasten():
                break
        else:
            interrupts.count += got.number in KEYS
            alone = not (got.typed and command.has_got())
            if alone:
                command.send(got.number)
            end.heed(got.number, alone=alone)
    return Ended(128 + signal.SIGKILL if command.code is None else command.code, end.asked)


class _End:
    """How the command is brought to its end once somebody has asked us, and not it, to end.

    Ctrl-C at a terminal asks the command, and its user decides how long that may take. SIGHUP may
    mean "read your configuration again". Neither sets us a time.
    """

    def __init__(self, command: _Command, notify: Notice, timings: Timings) -> None:
        self.asked = False
        """Whether somebody has asked us to end."""
        self.over = False
        """Whether the time that the command was given is over."""
        self._command = command
        self._notify = notify
        self._timings = timings
        self._until: float | None = None
        self._steps = [signal.SIGTERM, signal.SIGKILL]

    def seconds_left(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def heed(self, number: int, *, alone: bool) -> None:
        """Somebody has sent us this signal."""
        if number == signal.SIGTERM and signal.SIGTERM in self._steps:
            self._steps.remove(signal.SIGTERM)  # it was passed on
        elif number != signal.SIGTERM and not (number == signal.SIGINT and alone):
            return
        until = time.monotonic() + (
            self._timings.urgent
            if self.asked and number == signal.SIGTERM
            else self._timings.patience
        )
        self._until = until if self._until is None else min(until, self._until)
        self.asked = True

    def hasten(self) -> bool:
        """Its time is over: the next step; False if there is none."""
        if not self._steps:
            self._notify("the command could not be killed")
            return False
        self.over = True
        step = self._steps.pop(0)
        self._notify(f"the command goes on: {step.name}")
        self._command.send(step)
        self._command.send(signal.SIGCONT)  # a stopped process gets no other signal before
        self._until = time.monotonic() + self._timings.urgent
        return True


class _Signal(NamedTuple):
    number: int
    typed: bool
    """Whether a key at the terminal sent it, and so to all of the foreground process group."""


def _next_signal(watched: Collection[int], timeout: float | None) -> _Signal | None:
    """Wait for a signal, or for the *timeout*."""
    signals = {*watched, signal.SIGCHLD}
    if _SENDER_IS_TOLD:
        if timeout is None:
            info = signal.sigwaitinfo(signals)
        elif (seen := signal.sigtimedwait(signals, timeout)) is None:
            return None
        else:
            info = seen
        # The kernel's own are positive (SI_KERNEL), a process's are not (SI_USER, SI_TKILL).
        return _Signal(info.si_signo, info.si_code > 0 and info.si_signo in KEYS)
    # macOS has neither: an alarm takes the place of the timeout, and who has sent it is guessed.
    signal.setitimer(signal.ITIMER_REAL, 0 if timeout is None else max(timeout, 0.001))
    number = signal.sigwait(signals)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if number == signal.SIGALRM and timeout is not None:
        return None
    return _Signal(number, number in KEYS and _in_foreground())


def _has_terminal() -> bool:
    return _foreground() is not None


def _in_foreground() -> bool:
    return _foreground() == os.getpgrp()


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
