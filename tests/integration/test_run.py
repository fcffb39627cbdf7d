"""``with free_ports(…)``: a run, from its id to what is said at its end."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from contextlib import nullcontext
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from helpers.processes import Processes, is_free, tcp
from helpers.reports import how
from portfree import FreePortsReport, PortsBusyError, PortSpecError, Report, free_ports
from portfree import run as guard
from portfree._core import run_id
from portfree.errors import PortfreeError, PortsLeakedError
from portfree.model import Port, Request
from portfree.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from portfree._system.interface import Socket

RUN_ID = run_id.RUN_ID

pytestmark = pytest.mark.usefixtures("project")


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment without the run that tests portfree, if there is one."""
    monkeypatch.delenv(RUN_ID, raising=False)
    before = set(run_id.OPEN_HERE)
    yield
    assert before == run_id.OPEN_HERE


def report_on(port: int) -> FreePortsReport:
    return free_ports(port)


# The id


def test_a_run_has_an_id_which_children_inherit(processes: Processes) -> None:
    with report_on(processes.free_port()) as run:
        assert os.environ[RUN_ID] == run.id
        assert run_id.alive(run.id, run._system)
    assert RUN_ID not in os.environ
    assert not run_id.alive(run.id, run._system)  # though this process goes on


def test_a_run_in_a_run(processes: Processes) -> None:
    with report_on(processes.free_port()) as outer:
        with report_on(processes.free_port()) as inner:
            assert run_id.elements(inner.id)[:-1] == run_id.elements(outer.id)
            assert os.environ[RUN_ID] == inner.id
        assert os.environ[RUN_ID] == outer.id


def test_a_run_that_was_there_stays(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_ID, "1.2.3a")

    with report_on(processes.free_port()) as run:
        assert run.id.startswith("1.2.3a/")
    assert os.environ[RUN_ID] == "1.2.3a"


@pytest.mark.parametrize("first", [0, 1])
def test_runs_side_by_side_may_end_in_any_order(processes: Processes, first: int) -> None:
    both = [Run(report_on(processes.free_port())) for _ in range(2)]
    for run in both:
        run.open()

    both[first].close()
    assert RUN_ID in os.environ
    both[1 - first].close()

    assert RUN_ID not in os.environ


def test_the_environment_is_left_alone_if_it_has_changed(processes: Processes) -> None:
    with report_on(processes.free_port()):
        os.environ[RUN_ID] = "8.8.8"
    assert os.environ[RUN_ID] == "8.8.8"
    del os.environ[RUN_ID]

    with report_on(processes.free_port()):
        del os.environ[RUN_ID]
    assert RUN_ID not in os.environ


def test_the_id_can_go_elsewhere(processes: Processes) -> None:
    variables = {"HOME": "/"}
    run = Run(report_on(processes.free_port()), environ=variables)

    run.open()
    assert variables == {"HOME": "/", RUN_ID: run.id}
    assert RUN_ID not in os.environ
    run.close()

    assert variables == {"HOME": "/"}


# The end


def test_what_the_run_has_started_is_stopped_and_nothing_else(processes: Processes) -> None:
    ours, adopted, theirs = (processes.free_port() for _ in range(3))
    with free_ports(ours, adopted, theirs, scope="any") as run:
        child = processes.child(tcp(ours))
        daemon = processes.orphan(tcp(adopted), cwd="/", env={RUN_ID: run.id})
        stranger = processes.attended(tcp(theirs))

    assert run.before.ok
    assert run.after is not None
    assert run.after.freed == (Port(ours), Port(adopted))
    assert run.after.busy == (Port(theirs),)
    assert (child.alive, daemon.alive, stranger.alive) == (False, False, True)


def test_the_end_says_what_was_done(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    port, other = processes.free_port(), processes.free_port()
    caplog.set_level(logging.DEBUG)

    with free_ports(port, other):
        assert caplog.records == []
        processes.child(tcp(port))

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("portfree", "INFO")
    assert record.getMessage().startswith(f"freed {port}/tcp: stopped ")


def test_an_exception_is_not_replaced(processes: Processes) -> None:
    port = processes.free_port()

    run = Run(free_ports(port, on_busy="fail", leaks="fail", grace=0.6))

    def work() -> None:
        with run:
            processes.attended(tcp(port))
            processes.child(tcp(processes.free_port()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()

    assert run.after is not None
    assert run.after.busy == (Port(port),)
    assert len(run.leaks) == 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_the_ports_are_freed_whatever_happens(
    processes: Processes, interruption: type[BaseException]
) -> None:
    port = processes.free_port()

    def work() -> None:
        with free_ports(port):
            processes.child(tcp(port))
            raise interruption

    with pytest.raises(interruption):
        work()

    assert is_free(port)


def test_a_port_that_is_busy_in_the_end_can_be_an_error(processes: Processes) -> None:
    port = processes.free_port()

    with pytest.raises(PortsBusyError, match=str(port)) as caught, free_ports(port, on_busy="fail"):
        processes.attended(tcp(port))

    assert caught.value.report.busy == (Port(port),)


def test_a_port_that_is_busy_from_the_start_is_doubtful(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port))

    with free_ports(port) as run:
        caplog.clear()

    assert [outcome.port for outcome in run.doubtful] == [Port(port)]
    line = caplog.messages[-1]
    assert line.startswith(f"{port}/tcp was busy: these tests may have talked to ")
    assert f"(pid {server.pid}), running since 20" in line


def test_a_report_opens_one_run(processes: Processes) -> None:
    report = report_on(processes.free_port())
    with report:
        pass

    with pytest.raises(RuntimeError, match="has opened a run"), report:
        pytest.fail("the block must not be entered")


def test_a_run_ends_once(processes: Processes) -> None:
    port = processes.free_port()
    with report_on(port) as run:
        after = run.close()
        server = processes.child(tcp(port))

    assert run.after is after is run.close()
    assert server.alive


def test_a_run_that_was_never_opened_has_no_end(processes: Processes) -> None:
    assert Run(report_on(processes.free_port())).close() is None


def test_the_grace_of_the_end_can_be_shorter_and_not_longer(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = []

    def free(request: Request, **_: object) -> Report:
        requests.append(request)
        return Report(request, ())

    monkeypatch.setattr(guard, "free", free)
    for grace in (None, 0.5, 7.0):
        run = Run(free_ports(processes.free_port(), grace=2, wait=9, scope="any"))
        run.open()
        run.close(grace=grace)

    assert [(each.scope, each.wait) for each in requests] == [("orphans", 0.0)] * 3
    assert [each.grace for each in requests] == [2.0, 0.5, 2.0]


def test_a_forked_child_leaves_the_end_to_its_parent(processes: Processes) -> None:
    port = processes.free_port()
    with report_on(port) as run:
        server = processes.child(tcp(port))
        child = os.fork()
        if child == 0:
            try:
                run.__exit__(None, None, None)
                os._exit(0 if run.after is None and os.environ[RUN_ID] == run.id else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert server.alive

    assert not server.alive


def test_bad_input_is_an_error_before_the_block() -> None:
    with pytest.raises(PortSpecError), free_ports(0):
        pytest.fail("the block must not be entered")


# Failures


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("of all things")


def test_a_failure_of_ours_turns_nothing_red(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "free", broken)
    trouble = "the ports could not be looked after at the end: RuntimeError"

    with free_ports(processes.free_port(), leaks="stop"):
        pass

    assert trouble in caplog.text
    for strict in ({"on_busy": "fail"}, {"leaks": "fail"}):
        # It is not green, for what was asked for is not known to be.
        with (
            pytest.raises(PortfreeError, match=trouble),
            free_ports(processes.free_port(), **strict),  # type: ignore[arg-type]
        ):
            pass


@pytest.mark.parametrize("what", ["free", "log_outcomes"])
def test_a_failure_of_ours_hides_nothing_red(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(guard, what, broken)

    with pytest.raises(ZeroDivisionError), free_ports(processes.free_port()):
        raise ZeroDivisionError


def test_a_failure_about_leaks_hides_nothing_that_was_freed(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = processes.free_port()
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(run_id, "new_listeners", broken)

    with report_on(port) as run:
        processes.child(tcp(port))

    assert run.after is not None
    assert run.after.freed == (Port(port),)
    assert "leaks could not be looked for: RuntimeError" in caplog.text
    assert f"freed {port}/tcp" in caplog.text


def test_a_failure_at_the_start_stops_no_work(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(report_on(processes.free_port()))

    def listeners() -> list[Socket]:
        raise OSError("not here")

    run._system.listeners = listeners  # type: ignore[method-assign]
    with run:
        pass

    assert "leaks could not be looked for: OSError" in caplog.text
    assert run.after is not None


@pytest.mark.parametrize(("found", "old"), [("2024.10.9", True), ("2025.2.9", False)])
def test_an_old_nox_hands_no_id_to_its_commands(
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    found: str,
    *,
    old: bool,
) -> None:
    main = ModuleType("__main__")
    main.__file__ = "/venv/bin/nox"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setitem(sys.modules, "nox.sessions", ModuleType("nox.sessions"))
    monkeypatch.setattr("importlib.metadata.version", {"nox": found}.get)
    ran = []

    with free_ports(processes.free_port(), leaks="ignore"):
        pass
    assert caplog.text == ""
    with free_ports(processes.free_port()):
        pass
    assert ("does not hand PORTFREE_RUN_ID to its commands" in caplog.text) is old
    refused = pytest.raises(PortfreeError, match=r"2025\.2\.9 or newer") if old else nullcontext()
    with refused, free_ports(processes.free_port(), leaks="fail"):
        ran.append("the block")
    assert bool(ran) is not old


def test_what_is_raised_is_what_was_to_fail(
    processes: Processes, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = processes.free_port()
    processes.attended(tcp(port), cwd=elsewhere)
    monkeypatch.setattr(run_id, "new_listeners", broken)

    failed = pytest.raises(PortfreeError, match=r"^leaks could not be looked for")
    with failed as caught, free_ports(port, leaks="fail"):
        pass

    assert not isinstance(caught.value, PortsBusyError)


# Leaks, as the block sees them


@pytest.mark.parametrize("leaks", ["ignore", "warn", "stop", "fail"])
def test_leaks_are_treated_as_asked(
    processes: Processes, caplog: pytest.LogCaptureFixture, leaks: str
) -> None:
    port, other = processes.free_port(), processes.free_port()
    expected = pytest.raises(PortsLeakedError) if leaks == "fail" else _nothing()

    with expected as caught, free_ports(port, leaks=leaks, grace=0.6) as run:  # type: ignore[arg-type]
        server = processes.child(tcp(other))

    assert server.alive == (leaks in ("ignore", "warn"))
    assert [leak.port.number for leak in run.leaks] == ([] if leaks == "ignore" else [other])
    assert (f"127.0.0.1:{other}" in caplog.text) == (leaks != "ignore")
    if leaks == "fail":
        assert str(other) in str(caught.value)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.leaks) == (str(caught.value), run.leaks)


def test_a_dry_run_stops_no_leak(processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()

    with free_ports(port, dry_run=True, leaks="stop", grace=0.6) as run:
        servers = processes.child(tcp(port)), processes.child(tcp(other))

    assert all(server.alive for server in servers)
    assert [how(leak.holder) for leak in run.leaks] == [""]


def test_leaks_may_be_configured(processes: Processes, project: Path) -> None:
    port, other = processes.free_port(), processes.free_port()
    table = f'[tool.portfree]\nports = {port}\nleaks = "stop"\ngrace = 0.6\n'
    (project / "pyproject.toml").write_text(table)

    with free_ports():
        server = processes.child(tcp(other))

    assert not server.alive


class _nothing:  # noqa: N801 - as pytest.raises
    value = None

    def __enter__(self) -> _nothing:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is expected."""


def test_a_server_that_a_killed_run_has_left_is_freed_by_the_next_one(processes: Processes) -> None:
    port = processes.free_port()
    dead = processes.run_id(alive=False)
    mark = "tests/test_api.py::test_search (setup)"
    server = processes.orphan(tcp(port), cwd="/", env={RUN_ID: dead, "PYTEST_CURRENT_TEST": mark})

    with report_on(port) as run:
        assert is_free(port)

    assert not server.alive
    (outcome,) = run.before.outcomes
    assert outcome.holders[0].test == mark
