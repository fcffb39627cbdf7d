"""A session of pytest, as far as the hooks that look for leaks notice."""

from __future__ import annotations

import os
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from helpers.fake_system import FakeSystem
from portfree._core.context import Moment
from portfree._plugins.in_tests import Reports
from portfree._plugins.leak_watch import CARRIED, Found, LeakWatch
from portfree.model import Port, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from helpers.fake_system import Actor
    from portfree.model import Leaks

US = os.getpid()
RUN = f"{US}.1000.9f3c"
PORT = 43_211
NOT_LISTED = OSError(24, "Too many open files")


class Mark(NamedTuple):
    name: str
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = MappingProxyType({})


class Item:
    """As much of a test as the hooks take."""

    def __init__(self, name: str, *marks: Mark) -> None:
        self.nodeid = f"test_shop.py::{name}"
        self.user_properties: list[tuple[str, object]] = []
        self.sections: list[tuple[str, str, str]] = []
        self._marks = marks

    def iter_markers(self, name: str) -> Iterator[Mark]:
        return (mark for mark in self._marks if mark.name == name)

    def add_report_section(self, when: str, key: str, content: str) -> None:
        self.sections.append((when, key, content))


class FixtureDef:
    def __init__(self, argname: str, scope: str = "module") -> None:
        self.argname = argname
        self.scope = scope


class Session:
    """Runs tests as pytest does, as far as the hooks notice."""

    def __init__(
        self,
        system: FakeSystem,
        leaks: Leaks = "warn",
        kind: type[LeakWatch] = LeakWatch,
        ignore: tuple[str, ...] = (),
    ) -> None:
        self.system = system
        request = Request((Port(8000),), leaks=leaks, leaks_ignore=ignore, surface="pytest")
        self.watch = kind(request, Moment("after", RUN), system)
        manager = pytest.PytestPluginManager()
        manager.register(self.watch)
        manager.register(Reports(request, self.watch))
        manager.register(self)
        self.hook = manager.hook
        self.watch.pytest_runtestloop()
        self.item = Item("")
        self.started = system.caller
        self.at_end: Callable[[], object] = lambda: None

    def pytest_runtest_teardown(self) -> None:
        self.at_end()

    def pytest_fixture_setup(self, request: Callable[[], object]) -> object:
        request()
        return True

    def pytest_sessionfinish(self) -> None:
        self.at_end()

    def pytest_runtest_makereport(self) -> object:
        return SimpleNamespace(failed=False)

    def test(
        self,
        name: str = "test_it",
        body: Callable[[], object] = lambda: None,
        *marks: Mark,
        at_end: Callable[[], object] = lambda: None,
    ) -> list[Found]:
        """Run one, and return what its report carries."""
        self.item = Item(name, *marks)
        self.hook.pytest_runtest_setup(item=self.item)
        body()
        self.at_end = at_end
        self.hook.pytest_runtest_teardown(item=self.item, nextitem=None)
        return self.report()

    def report(self, when: str = "teardown") -> list[Found]:
        call = SimpleNamespace(when=when)
        report = self.hook.pytest_runtest_makereport(item=self.item, call=call)
        carried = [Found._make(each) for each in getattr(report, CARRIED, ())]
        return [each for each in carried if each.line]  # else it is what a marker allows

    def set_up(self, fixture: FixtureDef, body: Callable[[], object]) -> None:
        self.hook.pytest_fixture_setup(fixturedef=fixture, request=body)

    def end(self, fixture: FixtureDef) -> None:
        self.hook.pytest_fixture_post_finalizer(fixturedef=fixture, request=None)

    def child(self, port: int | Port = PORT, phase: str = "call", **facts: Any) -> Actor:
        """A server that the present test starts."""
        marks = {"PORTFREE_RUN_ID": RUN}
        if self.item.nodeid and phase:
            marks["PYTEST_CURRENT_TEST"] = f"{self.item.nodeid} ({phase})"
        self.started = self.system.start("server", ppid=US, leads=True, marks=marks)
        self.system.listen(self.started, port, **facts)
        return self.started

    def own(self, port: int = PORT) -> Hashable:
        return self.system.listen(self.system.caller, port)
