"""For a test session, SIGTERM does what Ctrl-C does: ``free_ports_sigterm = true``.

pytest dies of SIGTERM at once, and leaves behind what its fixtures have started. With Ctrl-C it
ends the fixtures first.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from types import FrameType


class Sigterm:
    """Makes SIGTERM raise KeyboardInterrupt in the main thread, once, until `restore`.

    After that it is ignored: many senders send it twice, one to the process and one to its group,
    and the second one must not end the teardown. Ctrl-C and SIGKILL do.

    Only for the process that tests: a fork dies of SIGTERM as ever, for that is how the `terminate`
    of multiprocessing ends it. A worker of pytest-xdist needs none: it dies of SIGTERM, but when
    the controller ends, execnet tells its workers to end, and sends SIGINT to one that still runs
    a test after 5 seconds. Windows sends no SIGTERM: there this changes nothing.
    """

    status = 128 + signal.SIGTERM
    """The exit status of a session that SIGTERM has ended, as a shell tells it: 143."""

    def __init__(self) -> None:
        self._installed = False
        self._interrupted = False
        self._received = False
        self._before = threading.local()

    @property
    def received(self) -> bool:
        """Whether SIGTERM came: then the session's exit status is to be `STATUS`."""
        return self._received

    def install(self) -> str:
        """Set the handler. Returns one line to say if that cannot be, and an empty one if it is."""
        handler = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread():
            why = "pytest does not run in the main thread"
        elif handler == signal.SIG_IGN:
            why = "SIGTERM is ignored here"
        elif handler != signal.SIG_DFL:
            name = getattr(handler, "__qualname__", None) or type(handler).__qualname__
            why = f"{getattr(handler, '__module__', '?')}.{name} handles SIGTERM already"
        elif _is_caught():
            why = "something outside of Python, such as faulthandler, handles SIGTERM already"
        else:
            signal.signal(signal.SIGTERM, self._interrupt)
            self._installed = True
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(
                    before=self._block, after_in_parent=self._unblock, after_in_child=self._leave
                )
            return ""
        return f"free_ports_sigterm does nothing: {why}"

    def restore(self) -> None:
        """Set SIGTERM back, unless something else has set it meanwhile. Harmless if repeated."""
        if self._installed and signal.getsignal(signal.SIGTERM) == self._interrupt:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._installed = False

    def _block(self) -> None:
        """Before a fork: Python forgets a signal that comes before the child has its own handlers,
        and whoever sent it would wait for ever.
        """
        if self._installed:
            self._before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _unblock(self) -> None:
        mask = self._before.__dict__.pop("mask", None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _leave(self) -> None:
        self.restore()
        self._unblock()

    def _interrupt(self, _: int, frame: FrameType | None) -> None:
        at_fork = (Sigterm._block.__code__, Sigterm._unblock.__code__)
        if any(each.f_code in at_fork for each, _ in traceback.walk_stack(frame)):
            # Python drops what is raised in there.
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
            return
        self._received = True
        if self._interrupted:
            return
        ctrl_c = signal.getsignal(signal.SIGINT)
        try:
            if callable(ctrl_c):  # that of asyncio or trio cancels what runs, and raises later
                ctrl_c(signal.SIGINT, frame)
            else:  # a shell starts what it puts into the background with SIGINT ignored
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            self._interrupted = True
            raise


def _is_caught() -> bool:
    """Whether SIGTERM has a handler that Python does not know. Only Linux tells."""
    try:
        with open("/proc/self/status", "rb") as file:  # noqa: PTH123 - no need of pathlib
            caught = next(line for line in file if line.startswith(b"SigCgt:")).split()[1]
    except (OSError, StopIteration):
        return False
    return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)
