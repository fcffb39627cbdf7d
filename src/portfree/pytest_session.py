"""The run of a test session, and what there is to say of it; for the plugin, and for other hosts.

Nothing in here needs pytest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from portfree.ports import Port
from portfree.report import Outcome, Report, Request

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree.guard import Run

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
        request = self._request
        strict = request.on_busy == "fail"
        try:
            from portfree._free import free
            from portfree.guard import Run

            run = Run(free(request, notice=self._notice, phase="before"), notice=self._notice)
            if strict and (busy := _in_the_way(run.before)):
                found = "; ".join(map(_summary, busy))
                return f"no test was started, for free_ports_on_busy is fail, and {found}"
            run.open()
        except Exception as error:  # noqa: BLE001 - what goes wrong in here must turn no run red
            self._failed("before", error)
            return self._trouble.pop() if strict else ""
        self._run = run
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
        except Exception as error:  # noqa: BLE001
            self._failed("after", error)
            self.failure = not_looked_after(self._request)
        else:
            self.failure = _verdict(run)

    def headline(self) -> str:
        """One line: which ports, and what was done before the tests."""
        if self._run is None:
            return "; ".join(self._trouble)
        try:
            done = _in_short(self._run.before.outcomes)
        except Exception as error:  # noqa: BLE001
            done = repr(error)
        return f"{_listed(self._request.ports)}, scope {self._request.scope}: {done}"

    def lines(self) -> list[Line]:
        """What was stopped, kept and left behind; nothing if nothing was."""
        try:
            return [*self._lines(), *((trouble, True) for trouble in self._trouble)]
        except Exception as error:  # noqa: BLE001
            return [(f"what was done cannot be shown: {error!r}", True)]

    def _lines(self) -> Iterator[Line]:
        if (run := self._run) is None:
            return
        before = [each for each in run.before.outcomes if _is_worth_a_line(each)]
        for outcome in before:
            yield f"before: {_summary(outcome)}", not outcome.ok
        for outcome in run.after.outcomes if run.after else ():
            known = any(_is_the_same(outcome, each) for each in before)
            if _is_worth_a_line(outcome) and not known:
                yield f"after: {_summary(outcome)}", not outcome.ok
        doubtful = run.doubtful if self._ended else ()
        if doubtful or run.leaks:
            from portfree.render import doubt, leak_line

            for outcome in doubtful:
                yield doubt(outcome), True
            for leak in run.leaks:
                yield leak_line(leak), True

    def _failed(self, when: str, error: Exception) -> None:
        self._trouble.append(f"the ports could not be looked after {when} the tests: {error!r}")


def not_looked_after(request: Request) -> str:
    """Why a session must not end green if nobody knows what is on the ports; empty if it may."""
    if "fail" in (request.on_busy, request.leaks):
        return "the ports could not be looked after"
    return ""


def _verdict(run: Run) -> str:
    """Why a session with this run must not end green; empty if it may."""
    request = run.before.request
    if request.leaks == "fail" and run.leaks:
        return "the tests have left a server behind, and free_ports_leaks is fail"
    if request.on_busy == "fail" and run.after and _in_the_way(run.after):
        return "a port stayed busy, and free_ports_on_busy is fail"
    return ""


def _in_the_way(report: Report) -> list[Outcome]:
    """The ports that are busy, but not with a server that conftest.py has started for this run."""
    return [outcome for outcome in report.outcomes if not outcome.ok and not _is_our_own(outcome)]


def _is_our_own(outcome: Outcome) -> bool:
    return (
        outcome.status == "busy"
        and bool(outcome.holders)
        and all(
            holder.verdict.action == "keep" and holder.verdict.rule in ("self", "own-run")
            for holder in outcome.holders
        )
    )


def _is_worth_a_line(outcome: Outcome) -> bool:
    return (outcome.status != "free" or bool(outcome.notes)) and not _is_our_own(outcome)


def _summary(outcome: Outcome) -> str:
    from portfree.render import summary  # mostly there is nothing to say

    return summary(outcome)


def _is_the_same(one: Outcome, other: Outcome) -> bool:
    """Whether two looks at a port saw it in the same hands."""
    return (one.port, one.status) == (other.port, other.status) == (one.port, "busy") and {
        holder.pid for holder in one.holders
    } == {holder.pid for holder in other.holders}


def _in_short(outcomes: Sequence[Outcome]) -> str:
    """What was done, for a line that has to hold all of it: the summary tells the rest."""
    told = [each for each in outcomes if each.status != "free" or each.notes]
    if not told:
        return "free"
    if len(told) == 1:
        return _summary(told[0])
    parts = []
    for status in ("freed", "busy"):
        ports = tuple(each.port for each in told if each.status == status)
        if ports:
            parts.append(f"{status}: {_listed(ports)}")
    return "; ".join(parts) or "free"


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
