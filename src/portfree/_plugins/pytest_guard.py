"""The guard of a pytest session, registered as a plugin where there are ports to free."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import pytest

from portfree._output.console import tell
from portfree._plugins.shared import begin, lines, refusal
from portfree.conclusion import Conclusion, is_own
from portfree.model import Outcome, Port, Request
from portfree.run import Run

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from portfree._plugins.xdist_hosts import Hosts, Worker


class PortGuard:
    """Frees the ports before the first test and after the last one, on xdist's other hosts too."""

    def __init__(self, config: pytest.Config, request: Request) -> None:
        self._config = config
        self._request = request
        self._pid = os.getpid()
        self._run: Run | None = None
        self._before = self._after = Conclusion()
        self._hosts: Hosts | None = None
        self._ended = self._told = self._interrupted = self._red = False

    def begin(self) -> None:
        """Free the ports and open a run; `pytest.UsageError` if no test may be started."""
        self._run, self._before = begin(self._request, "the tests", self._notice)
        self._refuse(refusal(self._run, self._before))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Worker) -> None:
        """The same on the host of a worker that xdist is about to start, if that is another one."""
        spec = node.gateway.spec
        if spec.popen and not spec.python and not spec.via:  # as with -n: a child of ours
            return
        if self._hosts is None:
            from portfree._plugins.xdist_hosts import Hosts  # it loads execnet

            self._hosts = Hosts(self._request, self._run.id if self._run else "")
        self._refuse(self._hosts.welcome(node))

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
        self._red = session.exitstatus == pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:
        """The same where another plugin kept the session from its start, or from its end."""
        self._end()
        for line, _ in self._take_lines():
            tell(line)

    def pytest_report_header(self) -> str:
        """Which ports are guarded, and what was done for that; the summary tells more."""
        if self._run is None:
            return f"portfree: {'; '.join(self._before.warnings)}"
        found = filter(None, [_in_short(self._run.before.outcomes), *self._before.notes])
        ports = _listed(self._request.ports)
        return f"portfree: {ports}, scope {self._request.scope}: {'; '.join(found)}"

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """What was stopped, kept and left behind; nothing if nothing was."""
        if said := self._take_lines():
            terminalreporter.write_sep("=", "portfree")
            for line, markup in said:
                terminalreporter.write_line(line, **markup)

    def _refuse(self, why: str) -> None:
        if why:
            raise pytest.UsageError(f"portfree: {why}")

    def _end(self) -> None:
        """End the runs and free the ports again, once, and in the process that began it alone."""
        if self._ended or os.getpid() != self._pid:
            return
        self._ended = True
        try:
            if self._hosts is not None:
                self._hosts.end()
            if self._run is not None:
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
        return self._after.failure("pytest") or (self._hosts.failure if self._hosts else "")

    def _take_lines(self) -> list[tuple[str, dict[str, bool]]]:
        """The lines for the end of the session, with their colours; and no second time."""
        if self._told or os.getpid() != self._pid:
            return []
        self._told = True
        said = [*lines(self._before, "before: "), *lines(self._after, "after: ")]
        if self._interrupted:
            said.append(("interrupted: the ports may not have been freed after the tests", True))
        if self._hosts is not None:
            said += self._hosts.lines()
        coloured = [(text, {"yellow": True} if warning else {}) for text, warning in said]
        if self._failure:
            status = "exit status 1: " if self._red else ""
            coloured.append((f"{status}{self._failure}", {"red": True}))
        return coloured

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
