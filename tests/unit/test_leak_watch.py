"""After each test: what listens, whose it is, and who is told. The hooks are pytest's own."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from helpers.fake_system import FakeSystem
from portfree._plugins import leaks_by_test
from portfree._plugins.leak_watch import PROPERTY, Found
from portfree.model import Port
from unit.leak_sessions import NOT_LISTED, PORT, RUN, US, FixtureDef, Session

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from portfree.model import Leaks

pytestmark = pytest.mark.usefixtures("project", "unmarked")


@pytest.fixture
def session(system: FakeSystem) -> Iterator[Session]:
    yield Session(system)
    assert system.misuses == []
    assert system.open_pins == []


# --- tests ---------------------------------------------------------------------------------------


def test_of_a_green_test_the_kernel_is_asked_once(session: Session) -> None:
    system = session.system
    system.server(5432, "postgres")
    session.own(5433)
    session.test()
    system.asked.clear()
    began = system.now()

    for _ in range(10):
        assert session.test() == []

    assert system.asked == {"listeners": 10}
    assert system.now() == began


def test_a_server_is_told_once_with_its_test(session: Session) -> None:
    (found,) = session.test("test_leaks", session.child)

    pid = session.started.pid
    line = f"test_shop.py::test_leaks left server (pid {pid}), still listening on 127.0.0.1:{PORT}"
    assert found == Found(line, pid, "127.0.0.1", PORT, "tcp", own=False, remains=True)
    assert found.port == Port(PORT)
    assert session.item.user_properties == [(PROPERTY, line)]
    session.system.asked.clear()
    assert session.test() == []
    assert session.item.user_properties == []
    assert session.system.asked == {"listeners": 1}
    assert session.started.alive


def test_one_that_opens_another_port_later_is_told_again(session: Session) -> None:
    session.test("test_one", session.child)

    (found,) = session.test("test_two", lambda: session.system.listen(session.started, 43_212))

    assert (found.number, found.line.partition(" ")[0]) == (43_212, "test_shop.py::test_one")
    # The same port on another address is the same leak.
    again = session.test(
        "test_three", lambda: session.system.listen(session.started, PORT, address="::1")
    )
    assert again == []


def test_several_are_told_together(session: Session) -> None:
    def body() -> None:
        session.child()
        session.child(43_212)
        session.own(43_213)

    found = session.test("test_leaks", body)

    assert {each.number for each in found} == {PORT, 43_212, 43_213}
    assert [each.number for each in found if each.own] == [43_213]
    assert len(session.item.user_properties) == 3


def test_a_server_in_the_test_process_is_told_and_never_touched(session: Session) -> None:
    (found,) = session.test("test_leaks", session.own)

    assert found.own
    assert found.line == (
        "test_shop.py::test_leaks left a socket of the test process itself, "
        f"still listening on 127.0.0.1:{PORT}"
    )
    assert session.test() == []
    session.system.caller.let_go()
    (again,) = session.test("test_more", session.own)
    assert again.line.startswith("test_shop.py::test_more left ")
    assert session.system.signals == []


def test_what_listens_in_the_test_process_is_told_by_its_name(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Port]] = []

    def described(address: str, port: Port) -> str:
        asked.append((address, port))
        return "HTTPServer in thread 'Thread-1'"

    monkeypatch.setattr(leaks_by_test, "described", described)
    session.test("test_one", session.child)
    assert asked == [], "it takes a look at all objects"

    (found,) = session.test("test_two", lambda: session.own(43_212))

    assert " left HTTPServer in thread 'Thread-1' of the test process itself, " in found.line
    assert asked == [("127.0.0.1", Port(43_212))]


def test_what_is_closed_in_time_is_no_leak(session: Session) -> None:
    assert session.test("test_it", session.child, at_end=lambda: session.started.end()) == []
    assert session.system.asked.keys() == {"listeners"}


@pytest.mark.parametrize(
    "marks",
    [
        {},
        {"PORTFREE_RUN_ID": "77.500.aaaa"},
        {"PYTEST_CURRENT_TEST": "test_other.py::test_x (call)"},
        {"PORTFREE_RUN_ID": RUN, "PORTFREE_KEEP": "1"},
    ],
    ids=["no marks", "another run", "another pytest", "asks to stay"],
)
def test_what_is_not_of_this_run_is_not_told(session: Session, marks: dict[str, str]) -> None:
    system = session.system
    other = system.start("pytest", ppid=system.shell.pid, argv=("pytest",))

    assert session.test("test_it", lambda: system.server(PORT, ppid=other.pid, marks=marks)) == []
    assert session.test() == []


def test_what_listened_before_the_first_test_is_of_none(system: FakeSystem) -> None:
    system.listen(system.caller, PORT)
    system.server(43_212, ppid=US, marks={"PORTFREE_RUN_ID": RUN})

    assert Session(system).test() == []


@pytest.mark.parametrize(
    ("address", "number", "told"),
    [
        ("0.0.0.0", 40_000, 0),
        ("::", 40_000, 0),
        ("0.0.0.0", 8_125, 1),
        ("::", 32_767, 1),
        ("127.0.0.1", 40_000, 1),
        ("::1", 40_000, 1),
    ],
)
def test_a_udp_socket_that_may_only_send_is_no_server(
    session: Session, address: str, number: int, told: int
) -> None:
    port = Port(number, "udp")

    found = session.test("test_it", lambda: session.child(port, state="bound", address=address))

    assert [each.port for each in found] == [port] * told
    assert ("owners" in session.system.asked) is bool(told), "a look at all processes"
    assert all(each.line.endswith(f":{number}/udp") for each in found)


# --- what is done about it -----------------------------------------------------------------------


def test_with_fail_the_test_fails_in_its_teardown(system: FakeSystem) -> None:
    session = Session(system, "fail")

    with pytest.raises(pytest.fail.Exception, match=r"^test_shop.py::test_it left server \(pid "):
        session.test("test_it", session.child)

    (found,) = session.report()
    assert "which listened on" in found.line
    assert not found.remains
    assert not session.started.alive
    assert session.item.user_properties == [(PROPERTY, found.line)]
    assert session.item.sections == []
    assert session.test() == []


@pytest.mark.parametrize(
    ("refuses", "remains"), [(PermissionError(1, "Operation not permitted"), True), (None, False)]
)
def test_what_could_not_be_stopped_remains(
    system: FakeSystem, refuses: OSError | None, *, remains: bool
) -> None:
    session = Session(system, "stop")

    def body() -> None:
        session.child().refuses = refuses

    (found,) = session.test("test_it", body)

    assert found.remains is session.started.alive is remains
    assert "which listened on" in found.line
    assert session.test() == []


def test_what_went_wrong_first_is_what_one_sees(system: FakeSystem) -> None:
    session = Session(system, "fail")

    def at_end() -> None:
        raise ValueError("of the test")

    with pytest.raises(ValueError, match="of the test"):
        session.test("test_it", session.own, at_end=at_end)

    (found,) = session.report()
    assert session.item.sections == [("teardown", "portfree", found.line)]


def test_before_pluggy_1_1_it_fails_too(system: FakeSystem) -> None:
    session = Session(system, "fail")
    session.test()
    session.own()
    wrapper: Generator[None, Any] = session.watch.pytest_runtest_teardown(session.item)  # type: ignore[arg-type]
    next(wrapper)

    with pytest.raises(pytest.fail.Exception):
        wrapper.send(SimpleNamespace(excinfo=None))


@pytest.mark.parametrize("leaks", ["warn", "stop"])
def test_otherwise_no_test_fails(system: FakeSystem, leaks: Leaks) -> None:
    session = Session(system, leaks)

    (found,) = session.test("test_it", session.child)

    assert found.remains is session.started.alive is (leaks == "warn")


@pytest.mark.parametrize(
    ("leaks", "takes", "told"),
    [("warn", 0.2, 0), ("warn", 0.3, 1), ("stop", 2.9, 0), ("fail", 2.9, 0)],
)
def test_a_server_that_is_ending_is_waited_for(
    system: FakeSystem, leaks: Leaks, takes: float, told: int
) -> None:
    session = Session(system, leaks)

    found = session.test(
        "test_it", session.child, at_end=lambda: system.after(takes, session.started.end)
    )

    assert len(found) == told
    assert system.now() == pytest.approx(min(takes, 0.25) if leaks == "warn" else takes, abs=0.03)
    assert system.signals == []


# --- trouble -------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaks", ["warn", "fail"])
def test_where_the_kernel_tells_nothing_no_test_is_red(system: FakeSystem, leaks: Leaks) -> None:
    session = Session(system, leaks)
    system.fails["listeners"] = NOT_LISTED

    (found,) = session.test("test_one", session.own)

    assert found.line == f"which test leaves a server behind cannot be looked for: {NOT_LISTED!r}"
    assert (found.own, found.remains) == (True, False)
    assert session.item.user_properties == []
    system.asked.clear()
    assert session.test("test_two") == []
    session.watch.finish()
    assert session.watch.take() == []
    assert system.asked == {}


@pytest.mark.parametrize("leaks", ["warn", "fail"])
def test_where_portfree_fails_no_test_is_red(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch, leaks: Leaks
) -> None:
    def find(*_: object) -> None:
        raise KeyError("of ours")

    monkeypatch.setattr(leaks_by_test, "find", find)
    session = Session(system, leaks)

    (found,) = session.test("test_one", session.own)

    assert found.line.endswith("cannot be looked for: KeyError('of ours')")
    assert session.test("test_two", lambda: session.own(43_212)) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, pytest.fail.Exception])
def test_ctrl_c_and_a_timeout_come_through_without_a_warning(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def find(*_: object) -> None:
        raise error

    monkeypatch.setattr(leaks_by_test, "find", find)
    session = Session(system)

    with warnings.catch_warnings(action="error"), pytest.raises(error):
        session.test("test_one", session.own)


def test_no_other_test_waits_for_a_leak_that_a_timeout_has_cut_short(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*_: object) -> None:
        raise pytest.fail.Exception

    with monkeypatch.context() as patch:
        patch.setattr(leaks_by_test, "find", find)
        with pytest.raises(pytest.fail.Exception):
            session.test("test_one", session.own)

    assert session.test("test_two") == []


def test_where_the_kernel_tells_nothing_after_a_timeout_no_test_is_red(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*_: object) -> None:
        session.system.fails["listeners"] = NOT_LISTED
        raise pytest.fail.Exception

    monkeypatch.setattr(leaks_by_test, "find", find)
    with pytest.raises(pytest.fail.Exception):
        session.test("test_one", session.own)

    (found,) = session.report()
    assert not found.is_leak
    assert session.test("test_two") == []


def test_a_rerun_has_no_property_of_what_the_first_run_has_left(session: Session) -> None:
    session.test("test_one", session.own)
    session.item.user_properties.append(("of", "others"))
    assert [name for name, _ in session.item.user_properties] == [PROPERTY, "of"]

    session.hook.pytest_runtest_setup(item=session.item)

    assert session.item.user_properties == [("of", "others")]


def test_a_fixture_is_set_up_where_the_kernel_tells_nothing(session: Session) -> None:
    fixture = FixtureDef("db")

    def body() -> None:
        session.system.fails["listeners"] = NOT_LISTED
        session.set_up(fixture, session.own)
        session.system.fails.clear()

    (found,) = session.test("test_one", body)
    assert found.own


def test_a_fixture_that_fails_may_have_left_a_server(session: Session) -> None:
    fixture = FixtureDef("db", "session")

    def set_up() -> None:
        session.own()
        raise ValueError("of the fixture")

    def body() -> None:
        with pytest.raises(ValueError, match="of the fixture"):
            session.set_up(fixture, set_up)
        session.end(fixture)  # pytest does so at once

    (found,) = session.test("test_one", body)
    assert ", fixture db (session), " in found.line
