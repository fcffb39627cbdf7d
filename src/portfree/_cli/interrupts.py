"""What a command needs on every system: its times, its end, and the signals for us meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from portfree.errors import PortfreeError

# The exit codes of timeout(1).
_CANNOT_RUN, _NOT_FOUND = 126, 127

# What ends a process that does nothing about it, and is sent to make it do something.
_PASSED_ON = ("INT", "TERM", "HUP", "QUIT", "ALRM", "USR1", "USR2", "BREAK")

# What a key sends. Not SIGHUP: of a terminal that hangs up, only the session's leader is told.
KEYS = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGQUIT", "SIGBREAK") if hasattr(signal, name)
)


class Timings(NamedTuple):
    """How much time is left when we are asked to end, in seconds.

    GitHub Actions cancels a step with SIGINT, SIGTERM 7.5 s later, and the end 2.5 s after that.
    """

    patience: float = 5.0
    """How long the command may take to end by itself."""
    urgent: float = 0.5
    """The same after SIGTERM, if it was asked before."""
    grace: float = 0.5
    """How long a server may take to end then."""


TIMINGS = Timings()


class Ended(NamedTuple):
    """How the command ended."""

    code: int
    signal: int = 0
    """The one that has ended it; its code is 128 more."""
    hurried: bool = False
    """Whether we were asked to end, and there is little time left."""
    cut_short: bool = False
    """Whether the cleanup after it was interrupted."""


class CannotRunError(PortfreeError):
    """The command cannot be run."""

    def __init__(self, command: str, error: OSError) -> None:
        # Of a folder on the path that may not be read, execvp(3) says EACCES, whatever it looks
        # for. os.path takes such a folder for one without the file, where Path raises.
        missing = error.errno == errno.ENOENT or not (
            os.path.dirname(command)  # noqa: PTH120
            or any(os.path.lexists(os.path.join(folder, command)) for folder in os.get_exec_path())  # noqa: PTH118
        )
        why = os.strerror(errno.ENOENT) if missing else error.strerror or error
        super().__init__(f"{command}: {why}")
        self.code = _NOT_FOUND if missing else _CANNOT_RUN


class Interrupts:
    """Keeps the signals that would end us from doing so.

    While the command runs they are blocked (on Windows: counted), and while we clean up, the second
    Ctrl-C since the start is a `KeyboardInterrupt`. What was ignored when we were started, as by
    nohup(1), stays ignored: by us, and by the command.
    """

    def __init__(self, *, adopts: bool = False) -> None:
        self.adopts = adopts
        """Whether what loses its parent below us becomes our child, so that SIGCHLD tells of it."""
        numbers = (getattr(signal, f"SIG{name}", None) for name in _PASSED_ON)
        self.watched = frozenset(
            number for number in numbers if number and signal.getsignal(number) != signal.SIG_IGN
        )
        self.outside: Collection[int] = ()
        """The signals that were blocked when we were started."""
        self.count = 0
        """How often Ctrl-C was typed."""
        self.asked: float | None = None
        """Windows: when Ctrl-Break came, with which a CI agent announces the end."""
        self._cleaning = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        # A handler is what makes SIGCHLD wait for us: BSD drops signals that nothing handles, and
        # children leave no exit code where our parent has had SIGCHLD ignored.
        handled = self.watched | ({signal.SIGCHLD} if hasattr(signal, "SIGCHLD") else set())
        if hasattr(signal, "pthread_sigmask"):
            self.outside = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
        for number in handled:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        # Let out what came meanwhile while it is still harmless.
        self._unblock()
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """In this block a second Ctrl-C is a `KeyboardInterrupt`."""
        self._cleaning = True
        try:
            self._unblock()
            yield
        finally:
            self._cleaning = False

    def _unblock(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, self.outside)

    def _handle(self, number: int, frame: object) -> None:  # noqa: ARG002
        if number == getattr(signal, "SIGBREAK", None) and self.asked is None:
            self.asked = time.monotonic()
        if number not in KEYS:
            return
        self.count += 1
        if self._cleaning and self.count > 1:
            self._cleaning = False
            raise KeyboardInterrupt
        if self._cleaning:
            # Past Python's buffers, in which the interrupted code may be at work.
            with suppress(OSError):
                os.write(2, b"portfree: freeing the ports; Ctrl-C once more leaves them\n")
