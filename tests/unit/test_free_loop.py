"""`free_ports` from the outside, on a machine in memory: what it asks, says, logs and raises."""

from __future__ import annotations

import io
import logging
import pickle
import sys
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from helpers.fake_system import FakeSystem, call, only
from portfree import PortfreeError, PortsBusyError, PortSpecError, free_ports
from portfree._core.free import free
from portfree._output.console import tell
from portfree.model import Port, Report, Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("project", "unmarked")


@pytest.fixture
def _staged(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the machine in memory under the public function."""
    monkeypatch.setattr("portfree._core.free.bind", system.bind)
    monkeypatch.setattr("portfree._core.loop.current", lambda: system)


started_one = pytest.mark.usefixtures("_staged")


# The free path


def test_free_ports_are_asked_for_with_one_bind_each(system: FakeSystem) -> None:
    report = call(system, 8000, Port(8125, "udp"))
    assert report.ok
    assert system.asked == {"bind": 2}


def test_only_the_ports_that_are_held_are_looked_into(system: FakeSystem) -> None:
    system.server(8001)
    looked: list[set[Port]] = []
    sockets = system.sockets

    def listen(ports: list[Port], *, connections: bool = False) -> object:
        looked.append(set(ports))
        return sockets(ports, connections=connections)

    system.sockets = listen  # type: ignore[assignment, method-assign]
    call(system, 8000, 8001, 8002)
    assert all(ports == {Port(8001)} for ports in looked)


def test_no_process_is_read_before_a_port_is_held(system: FakeSystem) -> None:
    call(system)
    assert "process" not in system.asked


# What it raises


@started_one
def test_it_warns_by_default_and_returns_the_report(
    system: FakeSystem, caplog: pytest.LogCaptureFixture
) -> None:
    system.server(owner=77)
    with caplog.at_level(logging.DEBUG, logger="portfree"):
        report = free_ports(8000)
    assert not report.ok
    assert [(r.name, r.levelno) for r in caplog.records] == [("portfree", logging.WARNING)]
    assert "8000/tcp is busy" in caplog.text


@started_one
def test_what_was_stopped_is_logged_as_information(
    system: FakeSystem, caplog: pytest.LogCaptureFixture
) -> None:
    server = system.server()
    with caplog.at_level(logging.DEBUG, logger="portfree"):
        assert free_ports(8000, scope="mine").freed == (Port(8000),)
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert f"(pid {server.pid})" in caplog.text


@started_one
@pytest.mark.usefixtures("system")
def test_free_ports_are_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="portfree"):
        assert free_ports(8000, "8125/udp").ok
    assert caplog.records == []


@started_one
def test_nor_is_a_note_on_one(system: FakeSystem, caplog: pytest.LogCaptureFixture) -> None:
    system.binds[Port(80)] = "denied"
    with caplog.at_level(logging.DEBUG, logger="portfree"):
        report = free_ports(80)
    assert [note.kind for note in only(report).notes] == ["privileged"]
    assert caplog.records == []


@started_one
def test_on_busy_fail_raises_what_stayed_busy(system: FakeSystem) -> None:
    system.server(8000)
    system.server(8001, owner=77)
    with pytest.raises(PortsBusyError) as raised:
        free_ports(8000, 8001, scope="mine", on_busy="fail")
    error = raised.value
    assert "8001/tcp is busy" in str(error)
    assert "8000" not in str(error)
    assert [o.status for o in error.report.outcomes] == ["freed", "busy"]
    assert isinstance(error, PortfreeError)


@started_one
def test_on_busy_fail_raises_nothing_if_all_is_well(system: FakeSystem) -> None:
    system.server()
    assert free_ports(8000, scope="mine", on_busy="fail").ok


@started_one
def test_a_dry_run_fails_only_for_what_would_stay_busy(system: FakeSystem) -> None:
    system.server(8000)
    assert free_ports(8000, scope="mine", on_busy="fail", dry_run=True).ok
    system.server(8001, owner=77)
    with pytest.raises(PortsBusyError):
        free_ports(8001, scope="mine", on_busy="fail", dry_run=True)
    assert system.signals == []


@started_one
def test_the_error_crosses_the_border_of_a_process(system: FakeSystem) -> None:
    system.server(owner=77)
    with pytest.raises(PortsBusyError) as raised:
        free_ports(8000, on_busy="fail")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert type(copy) is PortsBusyError
    assert str(copy) == str(raised.value)
    assert copy.report == raised.value.report


# What it asks for


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scope": "all"}, "scope"),
        ({"scope": 1}, "scope"),
        ({"grace": -1}, "grace"),
        ({"grace": float("nan")}, "grace"),
        ({"grace": "3"}, "grace"),
        ({"grace": True}, "grace"),
        ({"wait": float("inf")}, "wait"),
        ({"on_busy": "raise"}, "on_busy"),
    ],
)
@started_one
def test_a_bad_option_is_named_and_nothing_is_touched(
    system: FakeSystem, options: dict[str, object], words: str
) -> None:
    system.server()
    with pytest.raises(PortfreeError, match=words):
        free_ports(8000, **options)  # type: ignore[arg-type]
    assert system.asked == {}


@pytest.mark.parametrize("port", [0, 65536, -1, "abc", "", True, 1.5, [8000], "8000-7000"])
@started_one
def test_a_bad_port_is_named_and_nothing_is_touched(system: FakeSystem, port: object) -> None:
    system.server()
    with pytest.raises(PortSpecError):
        free_ports(8000, port)  # type: ignore[arg-type]
    assert system.asked == {}


def asked(*ports: int | str, **options: Any) -> Request:
    """What `free_ports` makes of its arguments."""
    with mock.patch("portfree.api.free", lambda request, **_: Report(request, ())):
        return free_ports(*ports, **options).request


def test_the_defaults_are_the_documented_ones() -> None:
    assert asked(8000) == Request((Port(8000),), "orphans", 3.0, 0.0, "warn")


def test_without_ports_the_table_says_them_and_all_that_is_not_given(project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[tool.portfree]\nports = [8000, "8125/udp"]\nscope = "mine"\ngrace = 1\nwait = 2.5\n'
        'on-busy = "fail"\n'
    )
    ports = (Port(8000), Port(8125, "udp"))
    assert asked() == Request(ports, "mine", 1.0, 2.5, "fail")
    given = asked(scope="any", grace=0, wait=0, on_busy="warn", dry_run=True)
    assert given == Request(ports, "any", 0.0, 0.0, "warn", dry_run=True)


def test_explicit_ports_read_no_table(project: Path) -> None:
    (project / "pyproject.toml").write_text("this is no TOML")
    assert asked(8000).ports == (Port(8000),)
    with pytest.raises(PortfreeError):
        asked()


@pytest.mark.parametrize("table", ["", "[tool.portfree]\n", "[tool.portfree]\nports = []\n"])
def test_no_ports_anywhere_is_an_error_that_says_how_to_give_them(
    project: Path, table: str
) -> None:
    (project / "pyproject.toml").write_text(table)
    with pytest.raises(PortSpecError, match=r"free_ports\(8000\)"):
        free_ports()


# What it says meanwhile


@started_one
def test_the_one_line_goes_to_stderr(
    system: FakeSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    system.server(name="slow").takes(TERM=1.0)
    free_ports(8000, scope="mine")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("portfree: waiting for slow (pid ")
    assert err.count("\n") == 1


def closed() -> io.TextIOBase:
    stream = io.StringIO()
    stream.close()
    return stream


class Full(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [closed, Full, lambda: None])
def test_nobody_to_listen_is_no_reason_to_stop_working(
    monkeypatch: pytest.MonkeyPatch, stream: Callable[[], object]
) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    tell("waiting")


def test_silence_is_possible(system: FakeSystem) -> None:
    system.server().takes(TERM=2.0)
    report = free(Request((Port(8000),), scope="mine"), notice=None, system=system)
    assert report.ok


def test_one_line_is_enough_for_many_waits(system: FakeSystem) -> None:
    runner = system.start("pytest", ppid=system.shell.pid)
    system.server(8000, ppid=runner.pid)
    system.server(8001).ignores("TERM", "INT")
    notices: list[str] = []
    call(system, 8000, 8001, wait=3.0, notices=notices)
    assert len(notices) == 1


# The bound


@pytest.mark.parametrize("grace", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("wait", [0.0, 2.0])
def test_the_worst_of_machines_costs_no_more_than_the_bound(grace: float, wait: float) -> None:
    system = FakeSystem()
    runner = system.start("pytest", ppid=system.shell.pid)
    system.server(8000, ppid=runner.pid)
    system.server(8001).ignores("TERM", "INT", "KILL")
    nanny = system.start("nanny", leads=True)
    system.supervise(nanny, system.server(8002, ppid=nanny.pid), after=0.3, port=8002)
    system.binds[Port(8003)] = "in-use"
    system.server(8004).hidden = True
    system.listen(None, 8005, state="closing", closes_in=60.0)

    report = call(system, *range(8000, 8007), grace=grace, wait=wait)  # asserts it

    assert [o.status for o in report.outcomes][-2:] == ["free", "free"]
    assert not report.ok


def test_the_seconds_of_the_report_are_those_that_passed(system: FakeSystem) -> None:
    system.server().takes(TERM=0.7)
    report = call(system)
    assert report.seconds == system.now()
    assert only(report).seconds == pytest.approx(report.seconds)
