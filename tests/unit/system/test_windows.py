"""Windows, on any system: what psutil says there, and what is made of it."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import psutil
import pytest

from helpers.fake_psutil import FakePsutil
from portfree._system.interface import Process
from portfree._system.windows import WindowsSystem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portfree._system.interface import Pin, Signal


class Windows(WindowsSystem):
    """Windows has none of the programs that the others ask."""

    def output(self, argv: Sequence[str], timeout: float) -> str | None:
        pytest.fail(f"ran {argv} for {timeout} s")

    def facts(self, pid: int = 7) -> Process:
        found = self.process(pid)
        assert found is not None
        return found

    def pinned(self) -> Pin:
        pin = self.pin(self.facts())
        assert pin is not None
        return pin


class Service:
    def __init__(self, name: str, pid: int | Exception | None) -> None:
        self._name, self._pid = name, pid

    def name(self) -> str:
        return self._name

    def pid(self) -> int | None:
        if isinstance(self._pid, Exception):
            raise self._pid
        return self._pid


SERVICES = [
    Service("Stopped", None),
    Service("Removed", psutil.NoSuchProcess(0)),
    Service("Secret", psutil.AccessDenied()),
    Service("Ours", 7),
    Service("SharesOurProcess", 7),
]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakePsutil:
    monkeypatch.setattr(psutil, "win_service_iter", lambda: iter(SERVICES), raising=False)
    machine = FakePsutil(monkeypatch)
    machine.add(1, create_time=50.0)
    process = machine.add()
    for name in ("uids", "terminal"):  # psutil has these on POSIX alone
        del process.facts[name]
    return machine


# Facts


def test_a_process(machine: FakePsutil) -> None:
    machine.add(8)
    system = Windows()
    assert system.facts() == Process(
        pid=7,
        ppid=1,
        start=107.0,
        started=107.0,
        name="server",
        argv=("python", "server.py"),
        owner="SHOP\\me",
        cwd="/home/me/shop",
        unit="Ours",
    )
    assert system.facts(8).unit is None
    assert (system.name, system.namespace, system.polite) == ("win32", "", False)
    assert system.elevate() == "as an administrator: "
    assert system.user("SHOP\\me") == "SHOP\\me"


@pytest.mark.usefixtures("machine")
def test_services_that_cannot_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> None:
        raise OSError(5, "denied")

    monkeypatch.setattr(psutil, "win_service_iter", denied)
    assert (Windows().facts().complete, Windows().facts().unit) == (False, None)


@pytest.mark.parametrize(
    ("parent", "believed"),
    [
        ({"create_time": 106.0}, True),
        ({"create_time": 107.0}, True),
        ({"create_time": 108.0}, False),  # it has ended, and its pid is a younger process's
        (None, False),  # it has ended, and no process has its pid
        # What cannot be compared is believed: a parent that lives attends to its child.
        ({"create_time": psutil.AccessDenied()}, True),
    ],
)
def test_a_parent_is_believed_only_if_it_can_be_one(
    machine: FakePsutil, parent: dict[str, object] | None, *, believed: bool
) -> None:
    machine.processes.pop(1)
    if parent is not None:
        machine.add(1, **parent)
    assert Windows().facts().ppid == (1 if believed else None)
    assert Windows().facts().owner == "SHOP\\me"


def test_a_process_that_hides_its_start_keeps_its_parent(machine: FakePsutil) -> None:
    machine.add(create_time=psutil.AccessDenied())
    assert Windows().facts().ppid == 1


@pytest.mark.parametrize(("answer", "privileged"), [(1, True), (0, False)])
def test_an_administrator_is_privileged(
    monkeypatch: pytest.MonkeyPatch, answer: int, *, privileged: bool
) -> None:
    class Shell32:
        def IsUserAnAdmin(self) -> int:  # noqa: N802  # its name in shlobj_core.h
            return answer

    libraries = {"shell32": Shell32}
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: libraries[name](), raising=False)
    assert WindowsSystem().privileged is privileged


# Pins


@pytest.mark.parametrize("signal", ["TERM", "INT", "KILL"])
def test_every_signal_terminates(machine: FakePsutil, signal: Signal) -> None:
    pin = Windows().pinned()
    assert pin.pid == 7
    assert pin.send(signal)
    assert machine.processes[7].signals() == [("kill",)]
    machine.processes.pop(7)
    assert not pin.alive()
    assert not pin.send(signal)
    pin.close()


def test_nothing_is_sent_to_go_on(machine: FakePsutil) -> None:
    pin = Windows().pinned()
    assert pin.send("CONT")
    assert pin.alive()
    assert machine.processes[7].signals() == []


@pytest.mark.parametrize("start", [106.0, 106.9999999, 107.0000001, 108.0])
def test_a_recycled_pid_is_neither_pinned_nor_terminated(machine: FakePsutil, start: float) -> None:
    system = Windows()
    pin = system.pinned()
    assert system.pin(system.facts()._replace(start=start)) is None
    machine.processes[7].facts["create_time"] = start
    assert not pin.alive()
    assert not pin.send("KILL")
    assert machine.processes[7].signals() == []


def test_a_pid_that_is_recycled_right_before_the_signal_is_refused_by_psutil(
    machine: FakePsutil,
) -> None:
    machine.processes[7].facts["kill"] = psutil.NoSuchProcess(7, msg="its PID has been reused")
    assert not Windows().pinned().send("KILL")


def test_a_refusal_is_said(machine: FakePsutil) -> None:
    machine.processes[7].facts["kill"] = psutil.AccessDenied(7)
    pin = Windows().pinned()
    with pytest.raises(PermissionError, match="pid 7 may not be signalled"):
        pin.send("TERM")
    assert pin.alive()


def test_a_process_that_has_ended_is_not_pinned(machine: FakePsutil) -> None:
    system, seen = Windows(), Windows().facts()
    machine.processes.pop(7)
    assert system.pin(seen) is None


def test_a_process_that_does_not_tell_its_start_cannot_be_pinned(machine: FakePsutil) -> None:
    machine.add(create_time=psutil.AccessDenied())
    with pytest.raises(PermissionError, match="cannot be told from a later process"):
        Windows().pinned()
