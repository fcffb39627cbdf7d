"""What the two ends of a run come to: what is worth saying, and what must not end green.

Decided here for every surface; a surface turns levels into colours, log levels or annotations, and
a problem into its exit code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from portfree._core.advice import key
from portfree._core.redact import safe
from portfree._output.words import doubt, leak_line, summary
from portfree.model import HolderReport, Leak, Outcome, Port, Report, Surface


class Problem(NamedTuple):
    """Why a run must not end green."""

    setting: Literal["on_busy", "leaks"]
    """The setting that says so: it is ``fail``."""
    what: str


class Conclusion(NamedTuple):
    """What one end of a run comes to."""

    shown: tuple[Outcome, ...] = ()
    """The outcomes that are worth showing."""
    notes: tuple[str, ...] = ()
    """Lines that are good to know."""
    warnings: tuple[str, ...] = ()
    """Lines on what is wrong."""
    problems: tuple[Problem, ...] = ()
    leaks: tuple[Leak, ...] = ()
    """All that was left behind, with what the run's own process holds of the guarded ports."""

    def why(self, joint: str = "; ") -> str:
        """Why the run must not end green; empty if it may."""
        return joint.join(problem.what for problem in self.problems)

    def failure(self, surface: Surface) -> str:
        """The same, with the settings that say so, as that surface spells them."""
        return "; ".join(
            f"{problem.what}, and {key(surface, problem.setting)} is fail"
            for problem in self.problems
        )


def of_beginning(before: Report, *, pid: int | None = None) -> Conclusion:
    """Whether a run may begin, after its ports were freed. Raises nothing.

    *pid*: the process that will open the run (default: this one).
    """
    return _guarded(before, lambda: _beginning(before, os.getpid() if pid is None else pid))


def of_end(
    before: Report,
    after: Report | None,
    leaks: Iterable[Leak],
    *,
    trouble: str = "",
    pid: int = 0,
    told: Collection[tuple[int, str, Port]] = (),
) -> Conclusion:
    """What a run has left, once its ports were freed again, as far as they were. Raises nothing.

    *trouble*: what portfree itself could not do, in words. *pid*: the process that opened the run.
    *told*: the pids, addresses and ports of leaks that need no second line.
    """
    return _guarded(before, lambda: _end(before, after, leaks, trouble=trouble, pid=pid, told=told))


def _guarded(before: Report, conclude: Callable[[], Conclusion]) -> Conclusion:
    try:
        return conclude()
    except Exception as failure:  # noqa: BLE001 - what goes wrong here must turn no run red
        return _unknown(before, f"what was found cannot be told: {failure!r}")


def _unknown(before: Report, trouble: str) -> Conclusion:
    """Where portfree itself has failed: red if the run was not to be green without what it does."""
    request, trouble = before.request, safe(trouble)
    problems: list[Problem] = []
    if request.strict:
        problems.append(Problem("leaks" if request.leaks == "fail" else "on_busy", trouble))
    return Conclusion(warnings=(trouble,), problems=tuple(problems))


def _beginning(before: Report, pid: int) -> Conclusion:
    told = _told(before)
    own = [outcome for outcome in told if is_own(outcome, pid)]
    strict = before.request.on_busy == "fail"
    busy = [outcome for outcome in told if strict and not outcome.ok and outcome not in own]
    return Conclusion(
        shown=tuple(outcome for outcome in told if outcome not in own),
        notes=tuple(map(_in_use_already, own)),
        problems=tuple(Problem("on_busy", summary(outcome)) for outcome in busy),
    )


def _end(
    before: Report,
    after: Report | None,
    leaks: Iterable[Leak],
    *,
    trouble: str,
    pid: int,
    told: Collection[tuple[int, str, Port]],
) -> Conclusion:
    request = before.request
    known = {outcome.port: outcome for outcome in before.outcomes}
    # What the process held before the run began it holds on purpose.
    outcomes = [each for each in _told(after) if not (is_own(each, pid) and _is_same(each, known))]
    own = (leak for outcome in outcomes for leak in _held_by(pid, outcome))
    left = (*leaks, *(leak for leak in own if (pid, leak.address, leak.port) not in told))
    # What an ancestor has opened meanwhile is the work of who runs us.
    busy = [
        str(outcome.port)
        for outcome in outcomes
        if not outcome.ok and not (_is_of_ancestors(outcome) and not _held_by(pid, outcome))
    ]
    unknown = _unknown(before, trouble) if trouble else Conclusion()

    problems = []
    if left and request.leaks == "fail":
        problems.append(Problem("leaks", _servers(len(left))))
    if busy and request.on_busy == "fail":
        is_ = "is" if len(busy) == 1 else "are"
        problems.append(Problem("on_busy", f"{', '.join(busy)} {is_} busy after it"))
    # A port that was busy all the time has a doubt below.
    shown = [o for o in outcomes if not is_own(o, pid) and not _is_same(o, known)]
    return Conclusion(
        shown=tuple(shown),
        warnings=(*map(doubt, doubtful(before, pid)), *map(leak_line, left), *unknown.warnings),
        problems=(*problems, *unknown.problems),
        leaks=left,
    )


def _told(report: Report | None) -> list[Outcome]:
    """The outcomes that there is something to say of."""
    # Connections close for a minute after each run, and most servers can have such a port.
    return [
        outcome
        for outcome in (report.outcomes if report else ())
        if outcome.status != "free" or any(note.kind != "closing" for note in outcome.notes)
    ]


def doubtful(before: Report, pid: int) -> list[Outcome]:
    """The ports that were busy while the run went on: it may have talked to somebody else."""
    return [
        outcome
        for outcome in before.outcomes
        if outcome.status == "busy" and outcome.holders and not is_own(outcome, pid)
    ]


def is_own(outcome: Outcome, pid: int) -> bool:
    """Whether the process that opens the run has the port, or what was started for it already."""
    return (
        outcome.status == "busy"
        and bool(outcome.holders)
        and all(
            holder.verdict.action == "keep"
            and (holder.verdict.rule == "own-run" or holder.pid == pid)
            for holder in outcome.holders
        )
    )


def _is_of_ancestors(outcome: Outcome) -> bool:
    return bool(outcome.holders) and all(
        holder.verdict.rule in ("self", "own-run") and holder.verdict.action == "keep"
        for holder in outcome.holders
    )


def _in_use_already(outcome: Outcome) -> str:
    holder = _first(outcome)
    return (
        f"{outcome.port} is in use by this run already: {holder.name} (pid {holder.pid}), "
        f"{holder.verdict.reason}"
    )


def _first(outcome: Outcome) -> HolderReport:
    return next((each for each in outcome.holders if each.root), outcome.holders[0])


def _held_by(pid: int, outcome: Outcome) -> list[Leak]:
    """What the process that opened the run still has open on one of its ports."""
    return [
        Leak(address, outcome.port, holder, own=True)
        for holder in outcome.holders
        if outcome.status == "busy" and holder.pid == pid
        for address in holder.addresses
    ]


def _is_same(outcome: Outcome, known: Mapping[Port, Outcome]) -> bool:
    """Whether the port is in the same hands as when the run began."""
    earlier = known.get(outcome.port)
    return (
        earlier is not None
        and bool(outcome.holders)
        and (outcome.status, earlier.status) == ("busy", "busy")
        and {each.pid for each in outcome.holders} == {each.pid for each in earlier.holders}
    )


def _servers(number: int) -> str:
    return "a server was left behind" if number == 1 else f"{number} servers were left behind"
