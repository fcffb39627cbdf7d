"""Who starts a holder again as soon as it is stopped. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from portfree._core import programs, run_id
from portfree._core.ancestry import Holder, named, same
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree.model import Verdict


class Supervisor(NamedTuple):
    """Who starts a holder again as soon as it is stopped, and the verdict on it."""

    holder: Holder
    verdict: Verdict


def judge_supervisor(new: Holder, old: Iterable[Holder], context: Context) -> Supervisor | None:
    """Who started a holder again after the *old* ones were stopped, and may it be stopped itself.

    The supervisor is the live parent that old and new share, be there a wrapper between. It holds
    nothing, so that somebody asked for the port is no reason to stop it: it takes a proof that it
    was left there (rules `own-run`, `left-behind`, `orphan`).
    """
    for at, parent in enumerate(new.lineage):
        if any(same(parent, other) for holder in old for other in holder.lineage):
            adopts = programs.is_listed_reaper(parent) or programs.runs_commands(parent)
            if parent.pid == 1 or adopts:
                return None
            above = _supervisor_as_holder(new, at)
            verdict = judge(above, context)
            if verdict.rule not in ("own-run", "left-behind", "orphan") or verdict.action == "keep":
                rule = "attended" if verdict.action == "stop" else verdict.rule
                name = named(parent)
                verdict = Verdict("keep", rule, f"started again by {name}", f"stop that: {name}")
            return Supervisor(above, verdict)
        if not programs.is_wrapper(parent):
            return None
    return None


def _supervisor_as_holder(new: Holder, at: int) -> Holder:
    """The ancestor of a holder, at this place in its lineage, as if it held the port."""
    parent = new.lineage[at]
    above = new._replace(
        process=parent, sockets=frozenset(), lineage=new.lineage[at + 1 :], pinned=True
    )
    # Only of its child's runs it was asked whether they live.
    unasked = set(_runs(above)).difference(_runs(new))
    return above._replace(live_runs=new.live_runs | unasked)


def _runs(holder: Holder) -> tuple[str, ...]:
    return run_id.elements(holder.mark(run_id.RUN_ID))
