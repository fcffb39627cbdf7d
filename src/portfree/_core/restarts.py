"""What starts a holder again as soon as it is stopped, and whether that may be stopped. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from portfree._core import programs
from portfree._core.ancestry import Holder, named, same
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree._core.marks import runs
from portfree.model import Verdict


class Supervisor(NamedTuple):
    """The process that starts a holder again, and the verdict on it."""

    holder: Holder
    verdict: Verdict


def judge_supervisor(new: Holder, old: Iterable[Holder], context: Context) -> Supervisor | None:
    """The process that started a holder again after the *old* ones were stopped: the live parent
    that old and new share, even with a wrapper between. It holds nothing, so a request for the port
    is no reason to stop it: that takes a proof that it was left there (rules `own-run`,
    `left-behind`, `orphan`).
    """
    lineage = iter(new.lineage)
    for parent in lineage:
        if any(same(parent, other) for holder in old for other in holder.lineage):
            break
        if not programs.is_wrapper(parent):
            return None
    else:
        return None
    if parent.pid == 1 or programs.is_listed_reaper(parent) or programs.runs_commands(parent):
        return None  # they were adopted by it
    above = new._replace(process=parent, sockets=frozenset(), lineage=(*lineage,), pinned=True)
    # Whether they live was only asked of its child's runs.
    unasked = set(runs(above)).difference(runs(new))
    above = above._replace(live_runs=new.live_runs | unasked)
    verdict = judge(above, context)
    if verdict.rule not in ("own-run", "left-behind", "orphan") or verdict.action == "keep":
        rule = "attended" if verdict.action == "stop" else verdict.rule
        name = named(parent)
        verdict = Verdict("keep", rule, f"started again by {name}", f"stop that: {name}")
    return Supervisor(above, verdict)
