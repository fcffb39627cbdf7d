"""A Windows process, held by one open handle.

While a handle is open, Windows does not give the pid to anybody else, so what is ended through the
handle is what was looked at. psutil opens a new handle for every question and swallows refusals of
TerminateProcess, which is why portfree asks kernel32 itself.
"""

from __future__ import annotations

import ctypes
import errno
from ctypes import wintypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from portfree._system.interface import Signal

# processthreadsapi.h and winnt.h, "Process Security and Access Rights".
_PROCESS_TERMINATE = 0x0001
_PROCESS_QUERY_LIMITED_INFORMATION = 0x1000
_SYNCHRONIZE = 0x00100000
_ACCESS = _PROCESS_TERMINATE | _PROCESS_QUERY_LIMITED_INFORMATION | _SYNCHRONIZE

_ERROR_ACCESS_DENIED = 5
_ERROR_INVALID_PARAMETER = 87  # what OpenProcess says of a pid that nobody has
_WAIT_OBJECT_0 = 0

_EXIT_CODE = 15  # of a process that was terminated, the same as psutil's and Python's os.kill

# A process that is being terminated refuses a second termination some moments before its handle
# says that it ended ("TerminateProcess is asynchronous", in its reference).
_ENDING_MS = 100

_EPOCH = 116_444_736_000_000_000  # 1970-01-01 as a FILETIME: 100 ns since 1601-01-01


def elevated() -> bool:
    """Whether we run as an administrator, who may end the processes of others."""
    windows: Any = ctypes  # type checkers on other systems do not know the name
    return bool(windows.WinDLL("shell32").IsUserAnAdmin())


class Kernel32:
    """The five functions of kernel32.dll that a pin needs."""

    def __init__(self, library: ctypes.CDLL, last_error: Callable[[], int]) -> None:
        self._library = library
        self._last_error = last_error
        # Without their types, handles would be cut to 32 bits.
        handle, dword, true = wintypes.HANDLE, wintypes.DWORD, wintypes.BOOL
        times = (ctypes.POINTER(wintypes.FILETIME),) * 4
        library.OpenProcess.argtypes, library.OpenProcess.restype = (dword, true, dword), handle
        library.GetProcessTimes.argtypes = (handle, *times)
        library.TerminateProcess.argtypes = (handle, wintypes.UINT)
        library.WaitForSingleObject.argtypes = (handle, dword)
        library.WaitForSingleObject.restype = dword
        library.CloseHandle.argtypes = (handle,)

    @classmethod
    def load(cls) -> Kernel32:
        """The real one."""
        windows: Any = ctypes
        return cls(windows.WinDLL("kernel32", use_last_error=True), windows.get_last_error)

    def open(self, pid: int) -> int:
        """A handle; ProcessLookupError if there is no such process, PermissionError if refused."""
        handle = self._library.OpenProcess(_ACCESS, False, pid)  # noqa: FBT003  # no keywords in C
        if not handle:
            raise self._error("OpenProcess")
        return int(handle)

    def created(self, handle: int) -> float:
        """When the process was created, in seconds since the epoch: to the bit what psutil says."""
        times = [wintypes.FILETIME() for _ in range(4)]  # created, exited, in the kernel, outside
        if not self._library.GetProcessTimes(handle, *[ctypes.byref(time) for time in times]):
            raise self._error("GetProcessTimes")
        ticks = (times[0].dwHighDateTime << 32) + times[0].dwLowDateTime
        # In the same steps as psutil's _to_unix_time(), for both to round alike.
        return float(ticks - _EPOCH) / 10_000_000

    def ended(self, handle: int, within_ms: int = 0) -> bool:
        """Whether the process has ended, or does so in time."""
        return bool(self._library.WaitForSingleObject(handle, within_ms) == _WAIT_OBJECT_0)

    def terminate(self, handle: int) -> None:
        """End the process at once; PermissionError if refused."""
        if not self._library.TerminateProcess(handle, _EXIT_CODE):
            raise self._error("TerminateProcess")

    def close(self, handle: int) -> None:
        self._library.CloseHandle(handle)

    def _error(self, function: str) -> OSError:
        code = self._last_error()
        if code == _ERROR_ACCESS_DENIED:
            return PermissionError(errno.EACCES, f"{function}: access is denied")
        if code == _ERROR_INVALID_PARAMETER:
            return ProcessLookupError(errno.ESRCH, f"{function}: no such process")
        return OSError(f"{function} failed with Windows error {code}")


class HandlePin:
    """A process held by an open handle (a `Pin`)."""

    def __init__(self, pid: int, handle: int, kernel32: Kernel32) -> None:
        self._pid = pid
        self._handle: int | None = handle
        self._kernel32 = kernel32
        self._terminated = False

    @classmethod
    def open(cls, pid: int, start: float, kernel32: Kernel32) -> HandlePin | None:
        """Pin the process that has this pid and start; None if it is gone.

        Raises PermissionError if it may not be opened for termination.
        """
        try:
            handle = kernel32.open(pid)
        except ProcessLookupError:
            return None
        pin = cls(pid, handle, kernel32)
        try:
            same = kernel32.created(handle) == start and pin.alive()
        except OSError:
            pin.close()
            raise
        if same:
            return pin
        pin.close()
        return None

    @property
    def pid(self) -> int:
        return self._pid

    def alive(self) -> bool:
        return not self._kernel32.ended(self._open_handle())

    def send(self, signal: Signal) -> bool:
        """End the process, for Windows has no way to ask it; CONT does nothing."""
        handle = self._open_handle()
        if self._kernel32.ended(handle):
            return False
        if signal == "CONT" or self._terminated:
            return True  # ending already: nothing more can be done to it
        try:
            self._kernel32.terminate(handle)
        except PermissionError:
            # Also what a process says that somebody else has just ended.
            if self._kernel32.ended(handle, _ENDING_MS):
                return False
            raise
        self._terminated = True
        return True

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._kernel32.close(handle)

    def _open_handle(self) -> int:
        # Windows soon gives the number of a closed handle to another one.
        if self._handle is None:
            raise ValueError(f"the pin of pid {self._pid} is closed")
        return self._handle
