"""What portfree does in every process that runs tests: also in the workers of pytest-xdist."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from typing import Any

import pytest

from portfree._core import settings
from portfree._core.context import Moment
from portfree._core.run_id import RUN_ID
from portfree._plugins.leak_watch import CARRIED, LeakWatch, WorkerWatch
from portfree._plugins.shared import harmless
from portfree._system import current
from portfree.model import Request


def join(config: pytest.Config, plain: Mapping[str, Any]) -> None:
    """Register what looks after the tests in a worker, as its controller has asked for it."""
    with harmless([]):
        register(config, settings.from_plain(plain))


def register(
    config: pytest.Config, request: Request, moment: Moment | None = None
) -> LeakWatch | None:
    """Register what looks after the tests in this process; returns what looks for leaks, if it is
    asked for, and the system tells quickly enough what listens.

    *moment*: the end of the run; in a worker, the environment tells of it.
    """
    plugins = config.pluginmanager
    system = current()
    watch: LeakWatch | None = None
    if request.leaks != "ignore" and system.lists_quickly:
        if moment is not None:
            watch = LeakWatch(request, moment, system)
        else:
            ending = os.environ.get(RUN_ID, "").rpartition("/")[2]
            watch = WorkerWatch(request, Moment("after", ending or None), system)
        plugins.register(watch, "portfree-leaks")
    plugins.register(Reports(request, watch), "portfree-reports")
    return watch


class Reports:
    """Adds to the report of a test what it has left behind and, where it has failed because an
    address was in use, who has the port.
    """

    def __init__(self, request: Request, watch: LeakWatch | None) -> None:
        self._request = request
        self._watch = watch

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, Any]:
        outcome = yield
        report = outcome.get_result()
        if report.failed:
            self._explain(report, call)
        if self._watch is not None and call.when == "teardown" and (leaks := self._watch.take()):
            setattr(report, CARRIED, leaks)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, Any]:
        outcome = yield
        report = outcome.get_result()
        if report.failed:
            self._explain(report, report.__dict__.get("call"))

    def _explain(
        self, report: pytest.TestReport | pytest.CollectReport, call: pytest.CallInfo[Any] | None
    ) -> None:
        from portfree._plugins import address_in_use  # mostly no test fails

        with harmless([]):
            error = call.excinfo.value if call and call.excinfo else None
            text = "\n".join([report.longreprtext, *(content for _, content in report.sections)])
            ports = address_in_use.ports_in_use(error, text, self._request.ports)
            if ports and (said := address_in_use.explain(ports, self._request)):
                report.sections.append(("portfree", said))
