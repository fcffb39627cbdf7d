"""Which test, or which fixture, a server belongs to that came up while tests ran."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from helpers.builders import born, case, context, holder, process, socket
from helpers.plain_processes import INIT, OUR_PYTEST, OUR_SHELL
from portfree._core.leaks import Place
from portfree._plugins import leaks_by_test
from portfree._plugins.leak_watch import Fixture, History
from portfree._plugins.leaks_by_test import _being_set_up, _born
from portfree.model import Port

if TYPE_CHECKING:
    from portfree._core.ancestry import Holder
    from portfree._core.context import Context
    from portfree._system.interface import Process

US = OUR_PYTEST.pid
FIRST, SECOND = "test_shop.py::test_first", "test_shop.py::test_second[a (b)]"
FIXTURE = "db (module)"


def fixture(
    began: float = 1500,
    ready: float = 1510,
    *,
    test: str = FIRST,
    name: str = FIXTURE,
    lives: bool = True,
    newest: float = 5000,
) -> Fixture:
    """*newest*: the pid that was given last when it was set up; the one before was 50."""
    found = Fixture(name, test, (began, 50), frozenset())
    found.ready, found.lives = (ready, newest), lives
    return found


def place(found: Holder, asked: Context, past: History, at: int = 0) -> Place | None:
    """Where one of its sockets comes from: the first one, by their ids."""
    sockets = sorted(found.sockets, key=lambda socket: str(socket.id))
    return leaks_by_test.place(found, sockets[at], asked, past)


def history(*fixtures: Fixture, pid: int = US) -> History:
    """Two tests, of which the second has just ended, and the fixtures."""
    found = History()
    found.pid = pid
    found.tests, found.began = [FIRST, SECOND], [1499, 1700]
    found.fixtures = list(fixtures)
    return found


def marked(test: str, start: float = 1800) -> Holder:
    return holder(born({"PYTEST_CURRENT_TEST": test}, start=start), INIT)


def unmarked(start: float) -> Holder:
    return holder(process(start=start), INIT)


def own(*ids: int) -> Holder:
    return holder(OUR_PYTEST, OUR_SHELL, INIT, sockets=[socket(id_) for id_ in ids or (1,)])


MARKED_PARENT = marked(f"{FIRST} (call)").process._replace(pid=1800)

# --- the test ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "test"),
    [
        case("in a test", marked(f"{FIRST} (call)"), FIRST),
        case("in its setup", marked(f"{FIRST} (setup)"), FIRST),
        case("in its teardown", marked(f"{FIRST} (teardown)"), FIRST),
        case("in one with such a name", marked(f"{SECOND} (call)", 1600), SECOND),
        case("of its parent", holder(process(), MARKED_PARENT, INIT), FIRST),
        case("in a test of another process", marked("test_other.py::test_x (call)"), SECOND),
        case("the same, earlier", marked("test_other.py::test_x (call)", 1600), FIRST),
        case("only by its birth", unmarked(1600), FIRST),
        case("just before the second", unmarked(1699), FIRST),
        case("in the tick in which the second began", unmarked(1700), SECOND),
        case("later", unmarked(9000), SECOND),
        case("in the test process", own(), SECOND),
    ],
)
def test_a_server_is_of_the_test_that_it_was_born_in(found: Holder, test: str) -> None:
    assert place(found, context(), history()) == Place(test)


def test_what_came_up_before_the_first_test_is_of_none() -> None:
    assert place(unmarked(1498), context(), history()) is None
    assert place(unmarked(1498), context(), History()) is None


def test_the_child_of_pytest_forked_ends_with_its_test() -> None:
    assert place(own(), context(), history(pid=US - 1)) is None
    assert place(marked(f"{FIRST} (call)"), context(), history(pid=US - 1)) == Place(FIRST)


def test_what_was_told_is_not_told_again() -> None:
    past = history()
    past.told = {(2000, 8000, "tcp"), (US, 8000, "tcp")}

    assert place(unmarked(1600), context(), past) is None
    assert place(own(), context(), past) == Place(SECOND), "another socket of the same process"
    past.told = {(2000, 8001, "tcp"), (2000, 8000, "udp"), (2001, 8000, "tcp")}
    assert place(unmarked(1600), context(), past) == Place(FIRST)


# --- the fixture ---------------------------------------------------------------------------------

BY_MARK = f"{FIRST} (setup)"


@pytest.mark.parametrize(
    ("found", "ready", "whose"),
    [
        case("before", unmarked(1499), 1510, "test"),
        case("in its first tick", unmarked(1500), 1510, "fixture"),
        case("before its last tick", unmarked(1509), 1510, "fixture"),
        case("in its last tick", unmarked(1510), 1510, "fixture"),
        case("all in one tick", unmarked(1500), 1500, "fixture"),
        case("after", unmarked(1511), 1510, "test"),
        case("in the setup, in its last tick", marked(BY_MARK, 1510), 1510, "fixture"),
        case("in the setup, all in one tick", marked(BY_MARK, 1500), 1500, "fixture"),
        case("in the setup, before", marked(BY_MARK, 1499), 1510, "test"),
        case("in the setup, after", marked(BY_MARK, 1511), 1510, "test"),
        case("in the call, all in one tick", marked(f"{FIRST} (call)", 1500), 1500, "test"),
        case("in another test's setup", marked(f"{SECOND} (setup)", 1505), 1510, "test"),
        case("in the setup of one elsewhere", marked("x.py::y (setup)", 1505), 1510, "test"),
    ],
)
def test_a_server_is_of_the_fixture_that_was_being_set_up(
    found: Holder, ready: float, whose: str
) -> None:
    of_fixture = whose == "fixture"
    ended = history(fixture(ready=ready, lives=False))
    living = history(fixture(ready=ready))

    there = place(found, context(), ended)
    assert (there == Place(FIRST, FIXTURE)) is of_fixture
    assert (place(found, context(), living) is None) is of_fixture
    assert bool(living.opened) is of_fixture, "to be looked at when it ends"


@pytest.mark.parametrize("found", [unmarked(1510), marked(BY_MARK, 1510)])
def test_in_its_last_tick_the_pids_tell_whether_it_had_been_set_up(found: Holder) -> None:
    for newest, whose in ((1999, Place(FIRST)), (2000, Place(FIRST, FIXTURE))):
        past = history(fixture(lives=False, newest=newest))
        assert place(found, context(), past) == whose


def test_in_its_first_tick_too() -> None:
    early = holder(process(50, start=1500), INIT)

    assert place(early, context(), history(fixture(lives=False))) == Place(FIRST)


def test_of_fixtures_within_one_another_the_innermost_has_started_it() -> None:
    outer = fixture(1500, 1520, name="outer (session)", lives=False)
    inner = fixture(1505, 1515, name="inner (module)", lives=False)

    for start, name in ((1502, outer.name), (1505, inner.name), (1514, inner.name), (1516, "")):
        found = place(marked(BY_MARK, start), context(), history(outer, inner))
        assert found == Place(FIRST, name or outer.name), start


@pytest.mark.parametrize("test", [FIRST, ""])
def test_a_fixture_may_be_set_up_still_while_a_test_of_another_thread_ends(test: str) -> None:
    going_on = fixture(ready=math.inf)

    assert _being_set_up(history(going_on), (1600, 2000), test) is going_on
    assert _being_set_up(history(going_on), (1499, 2000), test) is None
    assert _being_set_up(history(), (1600, 2000), test) is None


@pytest.mark.parametrize("found", [own(), unmarked(1800), marked(f"{FIRST} (call)")])
def test_what_a_fixture_has_opened_is_its_own_whatever_else_tells(found: Holder) -> None:
    past = history(lives := fixture())
    past.opened = {1: lives}

    assert place(found, context(), past) is None
    lives.lives = False
    assert place(found, context(), past) == Place(FIRST, FIXTURE)


def test_what_another_fixture_has_opened_is_not_its() -> None:
    past = history(fixture())
    past.opened = {2: fixture(lives=False)}

    assert place(own(), context(), past) == Place(SECOND)
    assert place(own(1, 2), context(), past, 1) == Place(FIRST, FIXTURE)
    assert place(own(1, 2), context(), past, 0) == Place(SECOND)


@pytest.mark.parametrize(
    ("allowed", "left"),
    [((), True), (("8000",), False), (("server*",), False), (("8001", "adb"), True)],
)
@pytest.mark.parametrize("of_fixture", [True, False])
def test_a_test_and_its_fixtures_may_leave_what_its_marker_allows(
    allowed: tuple[str, ...], *, left: bool, of_fixture: bool
) -> None:
    found = holder(process(command="server", start=1505), INIT)
    past = history(fixture(lives=False)) if of_fixture else history()
    past.allowed = {FIRST: allowed, SECOND: ("*",)}

    whose = Place(FIRST, FIXTURE if of_fixture else "")
    assert place(found, context(), past) == (whose if left else None)


def test_it_may_leave_one_port_and_not_another() -> None:
    two = holder(process(start=1505), INIT, sockets=[socket(1), socket(2, Port(8001))])
    past = history(fixture(lives=False))
    past.allowed = {FIRST: ("8000",)}

    assert place(two, context(), past, 0) is None
    assert place(two, context(), past, 1) == Place(FIRST, FIXTURE)


# --- its birth -----------------------------------------------------------------------------------

SERVER = process(2000, start=2000)
SHELL = process(1500, "sh -c ./serve", start=1500)
FORKSERVER = process(
    1000, "python -c 'from multiprocessing.forkserver import main; main(3)'", start=1000
)


@pytest.mark.parametrize(
    ("found", "when"),
    [
        case("adopted", holder(SERVER, INIT), 2000),
        case("nothing above is known", holder(SERVER), 2000),
        case("our child", holder(SERVER, OUR_PYTEST, OUR_SHELL, INIT), 2000),
        case("below a shell", holder(SERVER, SHELL, OUR_PYTEST, OUR_SHELL, INIT), 1500),
        case("below an adopted shell", holder(SERVER, SHELL, INIT), 1500),
        case("below what is older than we are", holder(SERVER, process(850), INIT), 2000),
        case("in our own tick, below init", holder(process(2000, start=900), INIT), 900),
        case("of the forkserver", holder(SERVER, FORKSERVER, OUR_PYTEST, INIT), 2000),
        case("below one of these", holder(SERVER, SHELL, FORKSERVER, OUR_PYTEST, INIT), 1500),
        case("ourselves", holder(OUR_PYTEST, OUR_SHELL, INIT), 900),
    ],
)
def test_a_server_was_started_when_the_topmost_below_us_was(found: Holder, when: float) -> None:
    assert _born(found, context())[0] == when


def test_what_started_in_the_same_tick_as_we_did_is_below_us() -> None:
    def started(*above: Process) -> float:
        return _born(holder(process(start=901), *above, OUR_PYTEST, INIT), context())[0]

    assert started(process(899, "sh", start=900)) == 900
