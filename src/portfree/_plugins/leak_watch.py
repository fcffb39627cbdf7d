"""Which test has left a server behind: registered in every process that runs tests.

After the teardown of each test the kernel is asked what listens. What is new is looked at closer
(`leaks_by_test`): if it was born in this test run, it belongs to the test, or to the fixture of a
wider scope that was being set up when it came up. Such a server may go on until that scope ends.

A worker of pytest-xdist, and the child of pytest-forked, send what they have found with the report
of the test, to the process that tells it to people.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Generator, Hashable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pytest

from portfree._core import settings
from portfree._core.run_id import may_be_client
from portfree._output.words import leak_line
from portfree._plugins.shared import harmless
from portfree.errors import PortfreeError
from portfree.model import Port

if TYPE_CHECKING:
    from portfree._core.context import Moment
    from portfree._system.interface import Socket, System
    from portfree.model import Leak, Request

_T = TypeVar("_T")

MARKER = "allow_port_leaks"
PROPERTY = "portfree_leak"
"""The property of a test case in JUnit's XML."""
CARRIED = "portfree_leaks"
"""What a report, or the output of a worker, carries."""


class Found(NamedTuple):
    """A leak, as it goes from process to process."""

    line: str
    """Empty for what a test may leave, which the end of the run need not tell either."""
    pid: int
    address: str
    number: int
    protocol: str
    own: bool
    remains: bool
    """Whether it was still listening when it was told."""

    @property
    def port(self) -> Port:
        return Port(self.number, "udp" if self.protocol == "udp" else "tcp")

    @property
    def is_leak(self) -> bool:
        """Whether it is one, and not what a test may leave, or that nothing could be looked for."""
        return bool(self.line and self.pid)

    @property
    def where(self) -> tuple[int, str, Port]:
        """The process, the address and the port."""
        return self.pid, self.address, self.port


class Fixture:
    """A fixture of a wider scope than one test. It may have servers as long as it is set up."""

    def __init__(
        self,
        name: str,
        test: str,
        began: tuple[float, float],
        known: frozenset[Hashable],
    ) -> None:
        self.name = name
        self.test = test
        """The test that has set it up, as the first to use it."""
        self.began = began
        self.known = known
        """The ids of the sockets that were there then."""
        self.ready = (math.inf, math.inf)
        """When it was set up: as `Process.start` tells it, and by the newest pid, for that is told
        in ticks of a clock.
        """
        self.lives = True


class History:
    """What has happened in this process so far."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.tests: list[str] = []
        self.began: list[float] = []
        """When each of them began, as `Process.start` tells it."""
        self.allowed: dict[str, tuple[str, ...]] = {}
        """The ports and programs that a test may leave, if any."""
        self.let: set[tuple[int, str, Port]] = set()
        """The pids, addresses and ports of what was found since the last look and is allowed."""
        self.fixtures: list[Fixture] = []
        self.opened: dict[Hashable, Fixture] = {}
        """Which fixture has opened a socket, by its id."""
        self.told: set[tuple[int, int, str]] = set()
        """The pids, ports and protocols of leaks that need not be told again."""


class LeakWatch:
    """Looks after each test for what it has left behind."""

    def __init__(self, request: Request, moment: Moment, system: System) -> None:
        """*moment*: the end of the run that the tests belong to."""
        self._system = system
        self._request = request._replace(ports=(), wait=0.0)
        self._moment = moment
        self._history = History()
        self._known: frozenset[Hashable] = frozenset()
        self._set_up: dict[Any, Fixture] = {}
        self._ended = self._broken = False
        self._found: list[Found] = []
        """For the report of the present test; to be taken."""
        self._all: list[Found] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """What listens already is of no test."""
        self._known = self._safely(self._ids, self._known)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._history.began.append(self._system.moment())
        self._history.tests.append(item.nodeid)
        # What an earlier run of the same test has left is in the report of that run.
        if item.user_properties:
            item.user_properties = [each for each in item.user_properties if each[0] != PROPERTY]
        if allowed := tuple(_allowed(item)):
            self._history.allowed[item.nodeid] = allowed

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None]:
        fixture = None
        if fixturedef.scope != "function" and self._history.tests:
            fixture = self._safely(lambda: self._begin(fixturedef), None)
        yield
        if fixture is not None:
            self._safely(lambda: self._is_ready(fixture), None)

    def _begin(self, fixturedef: pytest.FixtureDef[Any]) -> Fixture:
        # pytest makes a fixture of setUpClass, setup_module and their like.
        of_pytest = re.match(r"_(?:xunit|unittest)_(\w+?)_fixture", fixturedef.argname)
        name = f"{of_pytest[1] if of_pytest else fixturedef.argname} ({fixturedef.scope})"
        began = (self._system.moment(), self._system.newest() or 0)
        fixture = Fixture(name, self._history.tests[-1], began, self._ids())
        self._history.fixtures.append(fixture)
        self._set_up[fixturedef] = fixture
        return fixture

    def _is_ready(self, fixture: Fixture) -> None:
        fixture.ready = (self._system.moment(), self._system.newest() or math.inf)
        for id_ in self._ids() - fixture.known:
            # One that it has asked for may have opened it already.
            self._history.opened.setdefault(id_, fixture)

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if fixture := self._set_up.pop(fixturedef, None):
            fixture.lives = False
            self._ended = True

    # Around all others, for what counts is what is left when they are done.
    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any]:
        outcome = yield
        leaks: tuple[Leak, ...] = ()
        error: BaseException | None = None
        try:
            leaks = self._look()
        except KeyboardInterrupt as other:
            error = other
        except pytest.fail.Exception as other:  # from pytest-timeout
            error = other
            # Or the next test would wait for it, and run into its timeout too. The end of the run
            # tells of it.
            self._known, self._ended = self._safely(self._ids, self._known), False
        said = [leak_line(leak) for leak in leaks]
        item.user_properties += ((PROPERTY, line) for line in said)
        if said and self._request.leaks == "fail":
            if outcome.excinfo is None:
                error = pytest.fail.Exception("\n".join(said), pytrace=False)
            else:  # what went wrong first is what one must see
                item.add_report_section("teardown", "portfree", "\n".join(said))
        if error is None:
            return
        # pluggy warns of what a wrapper raises, and raises that warning where warnings are errors.
        if hasattr(outcome, "force_exception"):
            outcome.force_exception(error)
        else:  # before pluggy 1.1
            raise error

    def hear(self, leaks: Iterable[Found]) -> None:
        """What the child of pytest-forked has told need not be told again."""
        self._history.told |= {(each.pid, each.number, each.protocol) for each in leaks}

    def finish(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Look once more, for fixtures that have ended with the session, and not with a test.

        Returns what they have left, and what has ended by itself since it was told: it only took
        its time.
        """
        if not self._history.tests:
            return [], []
        self._look()
        return self.take(), self._safely(self._ended_by_themselves, [])

    def _ended_by_themselves(self) -> list[tuple[Any, ...]]:
        here = {(socket.address, socket.port) for socket in self._system.listeners()}
        told = [each for each in self._all if each.remains and not each.own]
        return [tuple(each) for each in told if (each.address, each.port) not in here]

    def take(self) -> list[tuple[Any, ...]]:
        """What was found since the last time, in plain values; mostly nothing."""
        if not self._found:
            return []
        found, self._found = self._found, []
        self._all += found
        return [tuple(each) for each in found]

    def _safely(self, do: Callable[[], _T], otherwise: _T) -> _T:
        """Do it, and nothing of this kind again if that fails: it turns no test red."""
        trouble: list[str] = []
        if not self._broken:
            with harmless(trouble):
                otherwise = do()
        for why in trouble:
            self._broken = True
            line = f"which test leaves a server behind cannot be looked for: {why}"
            self._found.append(Found(line, 0, "", 0, "tcp", own=True, remains=False))
        return otherwise

    def _ids(self) -> frozenset[Hashable]:
        return frozenset(socket.id for socket in self._system.listeners())

    def _look(self) -> tuple[Leak, ...]:
        """What the present test, and the fixtures that ended with it, have left behind."""
        leaks: tuple[Leak, ...] = self._safely(self._new_leaks, ())
        for leak in leaks:
            holder = leak.holder
            self._history.told.add((holder.pid, *leak.port))
            remains = holder.ending is None or holder.ending.seconds is None
            self._found.append(
                Found(leak_line(leak), holder.pid, leak.address, *leak.port, leak.own, remains)
            )
        for pid, address, port in self._history.let:
            self._found.append(Found("", pid, address, *port, own=False, remains=True))
        self._history.let.clear()
        return leaks

    def _new_leaks(self) -> tuple[Leak, ...]:
        sockets = self._system.listeners()
        ids = frozenset(socket.id for socket in sockets)
        leaks = () if ids <= self._known and not self._ended else self._look_closer(sockets)
        self._known, self._ended = ids, False
        return leaks

    def _look_closer(self, sockets: Iterable[Socket]) -> tuple[Leak, ...]:
        opened = self._history.opened
        new = {
            socket
            for socket in sockets
            if not may_be_client(socket)
            and (
                not opened[socket.id].lives if socket.id in opened else socket.id not in self._known
            )
        }
        if not new:
            return ()
        from portfree._plugins.leaks_by_test import find  # mostly nothing was left

        leaks = find(self._system, new, self._known, self._request, self._moment, self._history)
        for id_ in [id_ for id_, fixture in opened.items() if not fixture.lives]:
            del opened[id_]
        return leaks


class WorkerWatch(LeakWatch):
    """In a worker of pytest-xdist."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.hear(map(Found._make, getattr(report, CARRIED, ())))

    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        yield
        session.config.workeroutput[CARRIED] = self.finish()  # type: ignore[attr-defined]


def _allowed(item: pytest.Item) -> Iterable[str]:
    """The ports and programs that a test may leave, by its markers."""
    for marker in item.iter_markers(MARKER):
        given: object = marker.args or marker.kwargs or ("*",)
        try:
            words: Any = settings.check("leaks_ignore", given, f"@pytest.mark.{MARKER}")
        except PortfreeError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        yield from words
