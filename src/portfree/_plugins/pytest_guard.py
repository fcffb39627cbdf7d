"""The guard of a pytest session, registered as a plugin where there are ports to free."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from portfree._core import settings
from portfree._output.console import tell
from portfree._plugins import in_tests
from portfree._plugins.leak_watch import CARRIED, Found, LeakWatch
from portfree._plugins.shared import begin, harmless, lines, refusal
from portfree._plugins.sigterm import Sigterm
from portfree.conclusion import Conclusion, is_own
from portfree.model import Outcome, Port, Request
from portfree.run import Run

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from portfree._plugins.xdist_hosts import Hosts, Worker


class PortGuard:
    """Frees the ports before the first test and after the last one, on xdist's other hosts too."""

    def __init__(self, config: pytest.Config, request: Request, *, sigterm: bool = False) -> None:
        """*sigterm*: whether SIGTERM is to end the tests as Ctrl-C does."""
        self._config = config
        self._request = request
        self._sigterm = Sigterm() if sigterm else None
        self._watch: LeakWatch | None = None
        self._leaks: list[Found] = []
        """What tests have left behind."""
        self._unfailed = False
        """Whether some of that was found when it was too late for a test to fail for it."""
        self._notes: list[str] = []
        self._pid = os.getpid()
        self._run: Run | None = None
        self._before = self._after = Conclusion()
        self._hosts: Hosts | None = None
        self._ended = self._told = self._interrupted = self._red = False

    def begin(self) -> None:
        """Free the ports and open a run; `pytest.UsageError` if no test may be started."""
        self._run, self._before = begin(self._request, "the tests", self._notice)
        self._refuse(refusal(self._run, self._before))
        if self._run is not None and self._run.id:
            with harmless(self._notes):
                self._watch = in_tests.register(self._config, self._request, self._run.moment())
        if self._sigterm is not None and (trouble := self._sigterm.install()):
            self._notes.append(trouble)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Worker) -> None:
        """The same on the host of a worker that xdist is about to start, if that is another one."""
        node.workerinput["portfree"] = settings.as_plain(self._request)
        spec = node.gateway.spec
        if spec.popen and not spec.python and not spec.via:  # as with -n: a child of ours
            return
        if self._hosts is None:
            from portfree._plugins.xdist_hosts import Hosts  # it loads execnet

            self._hosts = Hosts(self._request, self._run.id if self._run else "")
        self._refuse(self._hosts.welcome(node))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Worker) -> None:
        """Hear what fixtures have left that ended with a worker, and not with a test."""
        # xdist calls this twice for a worker that `pytest.exit` or Ctrl-C has ended.
        found, ended = getattr(node, "workeroutput", {}).pop(CARRIED, ((), ()))
        self._add_late(self._there(found, node), ended)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hear what a test has left behind."""
        carried = getattr(report, CARRIED, None)
        if carried is None:
            return
        found = self._there(carried, getattr(report, "node", None))
        self._leaks += found
        if self._watch is not None:
            self._watch.hear(found)
        # `pytest.skip` in a teardown, and xfail, keep the test from its error.
        if report.skipped and any(each.is_leak for each in found):
            self._unfailed = True

    # Around all others, for they may end fixtures and the workers of xdist, and some of them may
    # fail; but within that of the terminal, which then prints the summary.
    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """End the run and free the ports again."""
        yield
        self._end()
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            if self._interrupted:
                session.exitstatus = pytest.ExitCode.INTERRUPTED
            elif self._failure:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._sigterm is not None and self._sigterm.received:
            session.exitstatus = self._sigterm.status
        self._red = session.exitstatus == pytest.ExitCode.TESTS_FAILED
        with harmless([]):
            self._tell_junit()

    def pytest_unconfigure(self) -> None:
        """The same where another plugin kept the session from its start, or from its end."""
        self._end()
        if self._sigterm is not None:
            self._sigterm.restore()
        for line, _ in self._take_lines():
            tell(line)

    def pytest_report_header(self) -> str:
        """Which ports are guarded, and what was done for that; the summary tells more."""
        if self._run is None:
            return f"portfree: {'; '.join(self._before.warnings)}"
        short = _in_short(self._run.before.outcomes)
        found = filter(None, [short, *self._before.notes, *self._notes])
        ports = _listed(self._request.ports)
        return f"portfree: {ports}, scope {self._request.scope}: {'; '.join(found)}"

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """What was stopped, kept and left behind; nothing if nothing was."""
        if said := self._take_lines():
            terminalreporter.write_sep("=", "portfree")
            for line, markup in said:
                terminalreporter.write_line(line, **markup)

    def _there(self, carried: Iterable[Any], node: Worker | None) -> list[Found]:
        """What a worker has found, with the name of its host if that is another one."""
        found = list(map(Found._make, carried))
        name = self._hosts.name_of(node) if self._hosts and node else ""
        if not name:
            return found
        # A port that is freed there after the tests has a line then.
        guarded = () if self._request.leaks in ("stop", "fail") else self._request.ports
        return [
            each._replace(line=each.line and f"host {name}: {each.line}")
            for each in found
            if each.port not in guarded
        ]

    def _add_late(self, found: list[Found], ended: Iterable[Any]) -> None:
        """What was found when the tests were over, and what has ended since it was told."""
        gone = {each.where for each in map(Found._make, ended)}
        self._leaks = [each for each in self._leaks if each.where not in gone] + found
        self._unfailed = self._unfailed or any(each.is_leak for each in found)

    def _refuse(self, why: str) -> None:
        if why:
            raise pytest.UsageError(f"portfree: {why}")

    def _end(self) -> None:
        """End the runs and free the ports again, once, and in the process that began it alone."""
        if self._ended or os.getpid() != self._pid:
            return
        self._ended = True
        try:
            if self._watch is not None:
                found, ended = self._watch.finish()
                self._add_late(self._there(found, None), ended)
            if self._hosts is not None:
                self._hosts.end()
            if self._run is not None:
                self._run.told |= {each.where for each in self._leaks if each.remains}
                self._run.close()
        except KeyboardInterrupt:
            self._interrupted = True
        try:
            if self._hosts is not None:
                self._hosts.wait()
        except KeyboardInterrupt:
            self._interrupted = True
        if self._run is not None and self._run.id:
            self._after = self._run.conclusion()

    @property
    def _failure(self) -> str:
        """Why the session must not end green."""
        if self._unfailed and self._request.leaks == "fail":
            return "a server was left behind, and free_ports_leaks is fail"
        return self._after.failure("pytest") or (self._hosts.failure if self._hosts else "")

    def _take_lines(self) -> list[tuple[str, dict[str, bool]]]:
        """The lines for the end of the session, with their colours; and no second time."""
        if self._told or os.getpid() != self._pid:
            return []
        self._told = True
        said = [*lines(self._before, "before: ")]
        said += [
            (leak.line, True) for leak in self._leaks if leak.line and not self._was_freed(leak)
        ]
        said += lines(self._after, "after: ")
        if self._interrupted:
            said.append(("interrupted: the ports may not have been freed after the tests", True))
        if self._hosts is not None:
            said += self._hosts.lines()
        coloured = [(text, {"yellow": True} if warning else {}) for text, warning in said]
        if self._failure:
            status = "exit status 1: " if self._red else ""
            coloured.append((f"{status}{self._failure}", {"red": True}))
        return coloured

    def _was_freed(self, leak: Found) -> bool:
        """Whether it has a line already, for it was on a port that is freed after the tests."""
        return leak.remains and any(
            outcome.port == leak.port and holder.pid == leak.pid
            for outcome in self._after.shown
            for holder in outcome.holders
        )

    def _tell_junit(self) -> None:
        """Add what was freed, and what is busy, to the properties of the suite."""
        junit = sys.modules.get("_pytest.junitxml")
        xml = junit and self._config.stash.get(junit.xml_key, None)
        run = self._run
        if not xml or run is None:
            return
        properties = {
            f"portfree_{what}_{when}": " ".join(map(str, getattr(report, what)))
            for when, report in (("before", run.before), ("after", run.after))
            if report is not None
            for what in ("freed", "busy")
        }
        for name, value in properties.items():
            if value:
                xml.add_global_property(name, value)
        if any(properties.values()):
            xml.pytest_sessionfinish()  # it has written the file already, and does so again

    def _notice(self, line: str) -> None:
        """Say something while it happens, also in the middle of a line of dots."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.flush()
        tell(line)


def _in_short(outcomes: Sequence[Outcome]) -> str:
    """The states of the ports, those of each kind together."""
    rest = [outcome for outcome in outcomes if not is_own(outcome, os.getpid())]
    kinds: dict[str, list[Port]] = {}
    for outcome in rest:
        kinds.setdefault(outcome.status, []).append(outcome.port)
    if len(kinds) == 1 and len(rest) == len(outcomes):
        return next(iter(kinds))
    told = [kind for kind in ("freed", "busy") if kind in kinds]
    return "; ".join(f"{kind}: {_listed(kinds[kind])}" for kind in told)


def _listed(ports: Sequence[Port]) -> str:
    """The ports, those in a row as a range: ``8000-8010/tcp, 8125/udp``."""
    rows: list[list[Port]] = []
    for port in ports:
        last = rows[-1][-1] if rows else None
        if last and (last.number + 1, last.protocol) == port:
            rows[-1].append(port)
        else:
            rows.append([port])
    return ", ".join(str(row[0]) if len(row) == 1 else f"{row[0].number}-{row[-1]}" for row in rows)
