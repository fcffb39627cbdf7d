"""The open handle that stands for a Windows process, on a kernel32 of our own."""

from __future__ import annotations

import ctypes
from ctypes import wintypes
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from portfree._system.interface import Pin, Process, Signal, System
from portfree._system.psutil_base import PortableSystem
from portfree._system.windows import HandlePin, Kernel32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PID = 4321
BORN = 133_485_408_000_000_000  # 2024-01-01 00:00:00 UTC as a FILETIME
START = 1_704_067_200.0  # the same in seconds since the epoch

TERMINATE, QUERY, SYNCHRONIZE = 0x1, 0x1000, 0x100000
ACCESS_DENIED, INVALID_PARAMETER, INVALID_HANDLE = 5, 87, 6
WAIT_TIMEOUT = 258

_Times = Any  # a pointer to a FILETIME: its class is made at run time


@dataclass
class Victim:
    born: int = BORN
    ended: bool = False
    refuses: bool = False
    dies_of: str = "handle"
    """``terminate``: it ends at once. ``handle``: its handle says so only later."""


@dataclass
class FakeDll:
    """Functions as a loaded DLL has them: bare addresses, whose types the caller has to declare."""

    victims: dict[int, Victim] = field(default_factory=dict)
    handles: dict[int, Victim] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    error: int = 0
    open_error: int | None = None
    times_error: int | None = None

    def __post_init__(self) -> None:
        handle, dword, true = wintypes.HANDLE, wintypes.DWORD, wintypes.BOOL
        times = [ctypes.POINTER(wintypes.FILETIME)] * 4
        self._alive: list[object] = []
        self.OpenProcess = self._export(self._open, handle, dword, true, dword)
        self.GetProcessTimes = self._export(self._times, true, handle, *times)
        self.TerminateProcess = self._export(self._terminate, true, handle, wintypes.UINT)
        self.WaitForSingleObject = self._export(self._wait, dword, handle, dword)
        self.CloseHandle = self._export(self._close, true, handle)

    def _export(self, function: Callable[..., object], result: type, *arguments: type) -> object:
        callback = ctypes.CFUNCTYPE(result, *arguments)(function)
        self._alive.append(callback)
        address = ctypes.cast(callback, ctypes.c_void_p).value
        assert address is not None
        return ctypes.CDLL(None)._FuncPtr(address)

    def _open(self, access: int, inherit: int, pid: int) -> int | None:
        assert access == TERMINATE | QUERY | SYNCHRONIZE
        assert not inherit
        if self.open_error is not None:
            self.error = self.open_error
            return None
        if pid not in self.victims:
            self.error = INVALID_PARAMETER
            return None
        handle = (1 << 32) + 16 + 4 * len(self.calls)  # does not fit into 32 bits
        self.handles[handle] = self.victims[pid]
        self.calls.append("open")
        return handle

    def _times(self, handle: int, created: _Times, *others: _Times) -> bool:
        if self.times_error is not None:
            self.error = self.times_error
            return False
        born = self.handles[handle].born
        created.contents.dwHighDateTime, created.contents.dwLowDateTime = divmod(born, 1 << 32)
        for other in others:
            other.contents.dwHighDateTime, other.contents.dwLowDateTime = 7, 7
        return True

    def _terminate(self, handle: int, code: int) -> bool:
        self.calls.append(f"terminate {code}")
        victim = self.handles[handle]
        if victim.dies_of == "somebody else":
            victim.ended = True
        if victim.refuses:
            self.error = ACCESS_DENIED
            return False
        if victim.dies_of == "terminate":
            victim.ended = True
        return True

    def _wait(self, handle: int, milliseconds: int) -> int:
        assert milliseconds <= 1000
        return 0 if self.handles[handle].ended else WAIT_TIMEOUT

    def _close(self, handle: int) -> bool:
        self.calls.append("close")
        del self.handles[handle]
        return True


@pytest.fixture
def dll() -> Iterator[FakeDll]:
    fake = FakeDll({PID: Victim()})
    yield fake
    # The fake raises KeyError for a handle that is not open, which ctypes would merely print.
    assert fake.calls.count("close") <= fake.calls.count("open")


@pytest.fixture
def kernel32(dll: FakeDll) -> Kernel32:
    return Kernel32(cast("ctypes.CDLL", dll), lambda: dll.error)


def pinned(kernel32: Kernel32) -> HandlePin:
    pin = HandlePin.open(PID, START, kernel32)
    assert pin is not None
    return pin


def test_a_process_is_pinned_by_one_open_handle(dll: FakeDll, kernel32: Kernel32) -> None:
    pin = pinned(kernel32)
    assert pin.pid == PID
    assert pin.alive()
    assert pin.send("CONT")
    assert dll.calls == ["open"]
    pin.close()
    assert dll.calls == ["open", "close"]
    assert not dll.handles


@pytest.mark.parametrize("later", [-1_000_000, -10, 10, 1_000_000])
def test_a_recycled_pid_is_not_pinned(dll: FakeDll, kernel32: Kernel32, later: int) -> None:
    dll.victims[PID].born = BORN + later
    assert HandlePin.open(PID, START, kernel32) is None
    assert dll.calls == ["open", "close"]


def test_a_process_that_has_ended_is_not_pinned(dll: FakeDll, kernel32: Kernel32) -> None:
    # Somebody else's handle keeps it: OpenProcess still works.
    dll.victims[PID].ended = True
    assert HandlePin.open(PID, START, kernel32) is None
    assert dll.calls == ["open", "close"]


def test_a_pid_that_nobody_has_is_not_pinned(dll: FakeDll, kernel32: Kernel32) -> None:
    assert HandlePin.open(PID + 4, START, kernel32) is None
    assert dll.calls == []


def test_a_process_that_may_not_be_opened_cannot_be_pinned(
    dll: FakeDll, kernel32: Kernel32
) -> None:
    dll.open_error = ACCESS_DENIED
    with pytest.raises(PermissionError, match="OpenProcess"):
        HandlePin.open(PID, START, kernel32)


def test_another_failure_is_not_taken_for_an_answer(dll: FakeDll, kernel32: Kernel32) -> None:
    dll.open_error = INVALID_HANDLE
    with pytest.raises(OSError, match="OpenProcess failed with Windows error 6") as caught:
        HandlePin.open(PID, START, kernel32)
    assert type(caught.value) is OSError


def test_the_handle_is_closed_if_the_identity_cannot_be_read(
    dll: FakeDll, kernel32: Kernel32
) -> None:
    dll.times_error = INVALID_HANDLE
    with pytest.raises(OSError, match="GetProcessTimes"):
        HandlePin.open(PID, START, kernel32)
    assert dll.calls == ["open", "close"]


@pytest.mark.parametrize("signal", ["TERM", "INT", "KILL"])
def test_every_signal_terminates(dll: FakeDll, kernel32: Kernel32, signal: Signal) -> None:
    dll.victims[PID].dies_of = "terminate"
    pin = pinned(kernel32)
    assert pin.send(signal)
    assert dll.calls == ["open", "terminate 15"]
    assert not pin.alive()
    assert not pin.send(signal)
    assert not pin.send("CONT")
    assert dll.calls == ["open", "terminate 15"]


def test_a_process_that_is_ending_is_not_terminated_twice(dll: FakeDll, kernel32: Kernel32) -> None:
    pin = pinned(kernel32)
    assert pin.send("TERM")
    dll.victims[PID].refuses = True  # as Windows does, from then on
    assert pin.alive()
    assert pin.send("KILL")
    assert dll.calls == ["open", "terminate 15"]


def test_a_refusal_is_said(dll: FakeDll, kernel32: Kernel32) -> None:
    dll.victims[PID].refuses = True
    pin = pinned(kernel32)
    with pytest.raises(PermissionError, match="TerminateProcess"):
        pin.send("TERM")
    assert pin.alive()


def test_a_refusal_by_a_process_that_just_ended_is_none(dll: FakeDll, kernel32: Kernel32) -> None:
    dll.victims[PID].refuses = True
    dll.victims[PID].dies_of = "somebody else"
    assert not pinned(kernel32).send("TERM")


def test_a_closed_pin_never_touches_its_handle_again(dll: FakeDll, kernel32: Kernel32) -> None:
    pin = pinned(kernel32)
    pin.close()
    pin.close()
    with pytest.raises(ValueError, match="closed"):
        pin.alive()
    with pytest.raises(ValueError, match="closed"):
        pin.send("KILL")
    assert dll.calls == ["open", "close"]


def test_the_start_is_rounded_as_psutil_rounds_it(dll: FakeDll, kernel32: Kernel32) -> None:
    dll.victims[PID].born = BORN + 1_234_567
    handle = kernel32.open(PID)
    assert kernel32.created(handle) == 1_704_067_200.1234567
    kernel32.close(handle)


def test_the_portable_system_pins_by_handle_on_windows(dll: FakeDll, kernel32: Kernel32) -> None:
    system: System = PortableSystem(platform="win32", kernel32=lambda: kernel32)
    server = Process(pid=PID, ppid=1, start=START, name="python.exe")
    pin: Pin | None = system.pin(server)
    assert pin is not None
    assert pin.alive()
    dll.victims[PID].ended = True
    system.wait([pin], 60)  # returns at once, or the test hangs
    assert not pin.alive()
    assert not system.polite
    assert system.name == "win32"
    assert system.pin(server) is None
    with pytest.raises(PermissionError):
        system.pin(Process(pid=PID, ppid=1, start=0.0, name="python.exe"))


def test_the_real_library_keeps_its_last_error(
    dll: FakeDll, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, bool]] = []

    def load(name: str, *, use_last_error: bool = False) -> FakeDll:
        loaded.append((name, use_last_error))
        return dll

    monkeypatch.setattr(ctypes, "WinDLL", load, raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: dll.error, raising=False)
    # Without use_last_error, ctypes itself may overwrite the error before it is read.
    kernel32 = Kernel32.load()
    assert loaded == [("kernel32", True)]
    with pytest.raises(ProcessLookupError):
        kernel32.open(PID + 4)


@pytest.mark.parametrize(("answer", "privileged"), [(1, True), (0, False)])
def test_an_administrator_is_privileged(
    monkeypatch: pytest.MonkeyPatch, answer: int, *, privileged: bool
) -> None:
    class Shell32:
        def IsUserAnAdmin(self) -> int:  # noqa: N802  # its name in shlobj_core.h
            return answer

    libraries = {"shell32": Shell32}
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: libraries[name](), raising=False)
    assert PortableSystem(platform="win32").privileged is privileged
