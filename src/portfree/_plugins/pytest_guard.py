"""The run of a test session, and what there is to say of it; for the plugin, and for other hosts.

Nothing in here needs pytest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from portfree._core.context import Moment
from portfree._core.free import free
from portfree._output.words import summary
from portfree.conclusion import Conclusion, is_own, of_beginning
from portfree.errors import PortfreeError
from portfree.model import Outcome, Port, Request
from portfree.run import Run

Line = tuple[str, bool]
"""Something to say at the end of the session, and whether it is a warning."""


class SessionRun:
    """Frees the ports before the first test and after the last one. Raises nothing but Ctrl-C."""

    def __init__(self, request: Request, notice: Callable[[str], None]) -> None:
        self._request = request
        self._notice = notice
        self._pid = os.getpid()
        self._run: Run | None = None
        self._trouble: list[str] = []
        self._beginning = self._end = Conclusion()
        self._ended = False
        self.failure = ""
        """Why the session must not end green."""
        self.interrupted = False

    @property
    def id(self) -> str:
        """The run's id; empty if it could not be opened."""
        return self._run.id if self._run else ""

    def before(self) -> str:
        """Free the ports and open the run. Returns why no test may be started; empty if it may."""
        try:
            run = Run(
                free(self._request, notice=self._notice, moment=Moment("before")),
                notice=self._notice,
            )
            found = of_beginning(run.before)
            if found.problems:
                freed = tuple(outcome for outcome in found.shown if outcome.ok)
                self._beginning = found._replace(shown=freed, notes=())
                return f"no test was started, for free_ports_on_busy is fail, and {found.why()}"
            run.open()
        except Exception as error:  # noqa: BLE001 - what goes wrong in here must turn no run red
            why = str(error) if isinstance(error, PortfreeError) else repr(error)
            trouble = f"the ports could not be looked after before the tests: {why}"
            if self._request.strict:
                return trouble
            self._trouble.append(trouble)
            return ""
        self._run, self._beginning = run, found
        return ""

    def after(self) -> None:
        """End the run and free the ports again, once, and in the process that began it alone."""
        run = self._run
        if run is None or self._ended or os.getpid() != self._pid:
            return
        self._ended = True
        try:
            run.close()
        except KeyboardInterrupt:
            self.interrupted = True
            self._trouble.append("interrupted: the ports may not have been freed after the tests")
            return
        self._end = run.conclusion()
        self.failure = self._end.failure("pytest")

    def headline(self) -> str:
        """One line: which ports, and what was found; the summary tells more."""
        if self._run is None:
            return "; ".join(self._trouble)
        found = filter(None, [_in_short(self._run.before.outcomes), *self._beginning.notes])
        return f"{_listed(self._request.ports)}, scope {self._request.scope}: {'; '.join(found)}"

    def lines(self) -> list[Line]:
        """What was stopped, kept and left behind; nothing if nothing was."""
        try:
            return [*self._lines(), *((trouble, True) for trouble in self._trouble)]
        except Exception as failure:  # noqa: BLE001 - what cannot be said turns no run red
            return [(f"what was done cannot be told: {failure!r}", True)]

    def _lines(self) -> list[Line]:
        said: list[Line] = []
        for when, found in (("before", self._beginning), ("after", self._end)):
            said += [(f"{when}: {summary(outcome)}", not outcome.ok) for outcome in found.shown]
            said += [(warning, True) for warning in found.warnings]
        return said


def _in_short(outcomes: Sequence[Outcome]) -> str:
    """The states of the ports, those of each kind together."""
    kinds: dict[str, list[Port]] = {}
    rest = [outcome for outcome in outcomes if not is_own(outcome, os.getpid())]
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
