"""What fixtures leave, what may be left, and how leaks go from process to process."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from helpers.fake_system import FakeSystem
from portfree._plugins.leak_watch import CARRIED, MARKER, Found, WorkerWatch
from portfree.model import Port
from unit.leak_sessions import PORT, RUN, FixtureDef, Item, Mark, Session

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.usefixtures("project", "unmarked")


@pytest.fixture
def session(system: FakeSystem) -> Iterator[Session]:
    yield Session(system)
    assert system.misuses == []
    assert system.open_pins == []


# --- fixtures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_the_server_of_a_wide_fixture_is_looked_at_when_that_ends(
    session: Session, scope: str, *, own: bool
) -> None:
    system, fixture = session.system, FixtureDef("db", scope)
    start = session.own if own else lambda: session.child(phase="setup")

    session.test("test_one", lambda: session.set_up(fixture, start))
    session.test("test_two")
    assert "owners" not in system.asked
    (found,) = session.test("test_three", at_end=lambda: session.end(fixture))

    assert found.line.startswith(f"test_shop.py::test_one, fixture db ({scope}), left ")
    assert found.own is own
    assert session.test() == []


def test_one_that_its_fixture_has_stopped_is_no_leak(session: Session) -> None:
    fixture = FixtureDef("db")
    session.test("test_one", lambda: session.set_up(fixture, session.child))

    def end() -> None:
        session.started.end()
        session.end(fixture)

    assert session.test("test_two", at_end=end) == []
    assert "owners" not in session.system.asked


def test_one_that_listens_late_is_its_fixtures_all_the_same(session: Session) -> None:
    fixture, system = FixtureDef("db", "session"), session.system

    def body() -> None:
        session.set_up(fixture, lambda: session.child(phase="setup").let_go())
        system.wait((), 1.0)

    session.test("test_one", body)
    assert session.test("test_two", lambda: system.listen(session.started, PORT)) == []
    assert session.test("test_three") == []
    (found,) = session.test("test_four", at_end=lambda: session.end(fixture))
    assert found.line.startswith("test_shop.py::test_one, fixture db (session), left server")


def test_what_comes_up_after_the_setup_is_of_the_test(session: Session) -> None:
    def body() -> None:
        session.set_up(FixtureDef("db", "session"), lambda: None)
        session.system.wait((), 1.0)
        session.child(phase="")

    (found,) = session.test("test_one", body)
    assert found.line.startswith("test_shop.py::test_one left server")


def test_a_fixture_that_ends_with_the_session(session: Session) -> None:
    fixture = FixtureDef("db", "session")
    session.test("test_one", lambda: session.set_up(fixture, session.own))

    session.end(fixture)
    left, ended = session.watch.finish()

    (found,) = map(Found._make, left)
    assert found.line.startswith("test_shop.py::test_one, fixture db (session), left a socket")
    assert ended == []
    assert session.watch.take() == []


def test_what_only_took_its_time_to_end_is_taken_back(session: Session) -> None:
    (slow,) = session.test("test_one", session.child)
    session.started.end()

    left, ended = session.watch.finish()

    assert (left, list(map(Found._make, ended))) == ([], [slow])


def test_without_a_test_the_end_looks_at_nothing(session: Session) -> None:
    session.own()
    session.watch.finish()

    assert session.watch.take() == []
    assert session.system.asked == {"listeners": 1}


def test_the_fixture_of_one_test_is_a_part_of_it(session: Session) -> None:
    fixture = FixtureDef("server", "function")

    (found,) = session.test(
        "test_it", lambda: session.set_up(fixture, lambda: session.child(phase="setup"))
    )

    assert found.line.startswith("test_shop.py::test_it left server")


def test_what_a_fixture_asks_another_one_for_is_of_the_other(session: Session) -> None:
    inner, outer = FixtureDef("inner", "session"), FixtureDef("outer", "module")

    session.test(
        "test_one", lambda: session.set_up(outer, lambda: session.set_up(inner, session.own))
    )
    assert session.test("test_two", at_end=lambda: session.end(outer)) == []
    (found,) = session.test("test_three", at_end=lambda: session.end(inner))
    assert ", fixture inner (session), " in found.line


def test_a_fixture_is_set_up_again_for_each_of_its_parameters(session: Session) -> None:
    fixture = FixtureDef("db", "module")
    session.test("test_it[a]", lambda: session.set_up(fixture, session.own))

    def next_one() -> None:
        session.end(fixture)
        session.set_up(fixture, lambda: session.own(43_212))

    (first,) = session.test("test_it[b]", next_one)
    (second,) = session.test("test_more", at_end=lambda: session.end(fixture))

    assert (first.number, second.number) == (PORT, 43_212)
    assert first.line.startswith("test_shop.py::test_it[a], fixture db (module), ")
    assert second.line.startswith("test_shop.py::test_it[b], fixture db (module), ")


def test_the_test_and_a_fixture_that_ends_with_it_leave_one_each(session: Session) -> None:
    fixture = FixtureDef("db", "module")
    session.test("test_one", lambda: session.set_up(fixture, session.own))

    found = session.test(
        "test_two", lambda: session.own(43_212), at_end=lambda: session.end(fixture)
    )

    assert {each.number: each.line.partition(" left ")[0] for each in found} == {
        PORT: "test_shop.py::test_one, fixture db (module),",
        43_212: "test_shop.py::test_two",
    }


@pytest.mark.parametrize(
    ("argname", "name"),
    [
        ("_xunit_setup_module_fixture_test_shop", "setup_module"),
        ("_xunit_setup_class_fixture_TestShop", "setup_class"),
        ("_unittest_setUpClass_fixture_TestShop", "setUpClass"),
        ("_db_fixture", "_db_fixture"),
    ],
)
def test_a_fixture_that_pytest_makes_is_called_as_people_know_it(
    session: Session, argname: str, name: str
) -> None:
    fixture = FixtureDef(argname, "class")

    (found,) = session.test(
        "test_it", lambda: session.set_up(fixture, session.own), at_end=lambda: session.end(fixture)
    )

    assert f", fixture {name} (class), " in found.line


# --- what may be left ----------------------------------------------------------------------------


def allow(*args: object) -> Mark:
    return Mark(MARKER, args)


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        (allow(), 0),
        (allow(PORT), 0),
        (allow("43000-44000"), 0),
        (allow("serv*"), 0),
        (allow("adb, serv*"), 0),
        (allow("adb", f"5037 {PORT}"), 0),
        (allow("adb", 5037), 1),
        (Mark("slow"), 1),
    ],
)
def test_a_test_may_leave_what_its_marker_says(session: Session, mark: Mark, told: int) -> None:
    assert len(session.test("test_it", session.child, mark)) == told
    assert session.test("test_next") == []


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (allow(70_000), "allow_port_leaks: "),
        (allow("1-65535"), "allow_port_leaks: '1-65535' spans 65535 ports"),
        (allow(None), "allow_port_leaks is (None,): list ports and programs, such as "),
        (Mark(MARKER, (), {"ports": PORT}), "allow_port_leaks is {'ports': 43211}: list ports "),
    ],
)
def test_a_marker_that_names_neither_fails_its_test_alone(
    session: Session, mark: Mark, message: str
) -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        session.test("test_one", session.child, mark)

    assert str(caught.value).startswith(f"@pytest.mark.{message}")
    assert caught.value.__suppress_context__
    assert len(session.test("test_two", session.child)) == 1


def test_a_marker_is_for_its_test_alone(session: Session) -> None:
    session.test("test_one", lambda: None, allow())

    assert len(session.test("test_two", session.child)) == 1


def test_a_fixture_may_leave_what_the_test_that_has_set_it_up_may(session: Session) -> None:
    fixture = FixtureDef("db")
    session.test("test_one", lambda: session.set_up(fixture, session.child), allow(PORT))

    assert session.test("test_two", at_end=lambda: session.end(fixture)) == []


def test_the_last_test_says_nothing_for_the_fixtures_that_end_with_it(session: Session) -> None:
    fixture = FixtureDef("db")
    session.test("test_one", lambda: session.set_up(fixture, session.child))

    found = session.test("test_two", session.own, allow(), at_end=lambda: session.end(fixture))
    assert [each.line.partition(" left ")[0] for each in found] == [
        "test_shop.py::test_one, fixture db (module),"
    ]


def test_what_the_settings_name_is_never_told(system: FakeSystem) -> None:
    session = Session(system, ignore=("serv*",))

    assert session.test("test_it", session.child) == []
    assert len(session.test("test_two", session.own)) == 1


# --- from process to process ---------------------------------------------------------------------


def test_only_the_report_of_the_teardown_carries_leaks(session: Session) -> None:
    session.item = Item("test_it")
    session.hook.pytest_runtest_setup(item=session.item)
    session.own()
    session.watch._look()

    assert session.report("setup") == session.report("call") == []
    assert len(session.report("teardown")) == 1
    assert session.report("teardown") == []


def test_leaks_travel_as_plain_values(session: Session) -> None:
    session.hook.pytest_runtest_setup(item=Item("test_it"))
    session.own()
    session.child(Port(8125, "udp"), state="bound")

    taken, _ = session.watch.finish()

    assert len(taken) == 2
    assert {type(value) for each in taken for value in each} == {str, int, bool}
    assert all(type(each) is tuple for each in taken)
    found = [Found._make(each) for each in taken]
    assert [Found._make(each) for each in json.loads(json.dumps(taken))] == found
    execnet = pytest.importorskip("execnet")
    assert [Found._make(each) for each in execnet.loads(execnet.dumps(taken))] == found
    assert {each.port for each in found} == {Port(PORT), Port(8125, "udp")}


def test_what_the_child_of_pytest_forked_has_told_is_not_told_again(session: Session) -> None:
    session.hook.pytest_runtest_setup(item=Item("test_it"))
    child = session.child()
    found = Found("a line", child.pid, "127.0.0.1", PORT, "tcp", own=False, remains=True)

    session.watch.hear([found])

    assert session.test("test_next") == []


def test_a_worker_hears_it_from_the_report(system: FakeSystem) -> None:
    session = Session(system, kind=WorkerWatch)
    session.hook.pytest_runtest_setup(item=Item("test_it"))
    found = Found("x", session.child().pid, "127.0.0.1", PORT, "tcp", own=False, remains=True)

    session.hook.pytest_runtest_logreport(report=SimpleNamespace(**{CARRIED: [tuple(found)]}))
    session.hook.pytest_runtest_logreport(report=SimpleNamespace())

    assert session.test("test_next") == []


def test_a_worker_of_xdist_sends_what_ended_with_it(system: FakeSystem) -> None:
    session, fixture = Session(system, kind=WorkerWatch), FixtureDef("db", "session")
    session.test("test_one", lambda: session.set_up(fixture, session.own))
    output: dict[str, tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]] = {}
    config = SimpleNamespace(workeroutput=output)

    session.at_end = lambda: session.end(fixture)
    session.hook.pytest_sessionfinish(session=SimpleNamespace(config=config), exitstatus=0)

    left, ended = output[CARRIED]
    (found,) = map(Found._make, left)
    assert ended == []
    assert found.line.startswith("test_shop.py::test_one, fixture db (session), left ")


def test_a_worker_has_found_nothing(system: FakeSystem) -> None:
    session = Session(system, kind=WorkerWatch)
    session.test()
    config = SimpleNamespace(workeroutput={})

    session.hook.pytest_sessionfinish(session=SimpleNamespace(config=config), exitstatus=0)

    assert config.workeroutput == {CARRIED: ([], [])}


def test_what_another_worker_has_started_is_that_ones_to_tell(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    session = Session(system, kind=WorkerWatch)

    def started(worker: str, port: int) -> None:
        marks = {"PORTFREE_RUN_ID": RUN, "PYTEST_XDIST_WORKER": worker}
        system.server(port, marks=marks)

    def body() -> None:
        started("gw1", PORT)
        started("gw0", 43_212)

    (found,) = session.test("test_it", body)
    assert found.number == 43_212
