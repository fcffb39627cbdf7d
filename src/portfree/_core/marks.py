"""What a holder's marks tell: the runs, the test and the worker that it was born in. Pure."""

from __future__ import annotations

from pathlib import PurePath

from portfree._core import run_id
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._system.interface import KEEP, MARKS, XDIST_WORKER

OF_RUNNERS = tuple(mark for mark in MARKS if mark != run_id.RUN_ID)
"""The marks that test runners set, not portfree."""


def runs(holder: Holder) -> tuple[str, ...]:
    return run_id.elements(holder.mark(run_id.RUN_ID))


def is_of_ending_run(holder: Holder, context: Context) -> bool:
    """Whether the run that is being ended has started it, itself or by a run that has ended."""
    elements = runs(holder)
    if context.ending not in elements:
        return False
    return not holder.live_runs.intersection(elements[elements.index(context.ending) + 1 :])


def birth(holder: Holder) -> str:
    """Where it was born, as its environment tells: a test, a nox session or a tox environment."""
    place = holder.test
    if not place and (session := holder.mark("NOX_CURRENT_SESSION")):
        place = f"nox session {session}"
    elif not place and (folder := holder.mark("TOX_ENV_DIR")):
        place = f"tox environment {PurePath(folder).name}"
    return f"started in {place}" if place else ""


def may_be_for_this_run(holder: Holder, context: Context) -> bool:
    """Whether we may have started it for the run that begins, as a conftest.py that is imported."""
    if (holder.origin and holder.origin.ours) or holder.descends_from(context.caller):
        return True
    process, caller = holder.process, context.caller
    # A process hands its control group on.
    groups = {process.control_group, caller.control_group} - {None}
    born = any(map(holder.mark, OF_RUNNERS)) or process.environment == "wiped"
    return born and process.start >= caller.start and len(groups) < 2


def asks_to_stay(holder: Holder, context: Context) -> str:
    """The variable by which it asks to be left running, as one writes it; empty if none."""
    for name in KEEP:
        asks = "1" if name == "PORTFREE_KEEP" else "dontKillMe"
        if holder.mark(name) == asks:
            return f"{name}={asks}"
    its = [process.marks.get("RUNNER_TRACKING_ID") for process in holder.upward()]
    ours = [process.marks.get("RUNNER_TRACKING_ID") for process in context.ours]
    # Where ours is empty as well, as in every step of nektos/act, that asks for nothing.
    return "an empty RUNNER_TRACKING_ID" if "" in its and "" not in ours else ""


def is_siblings(holder: Holder, context: Context) -> bool:
    """Whether it belongs to our xdist controller, by way of another worker than us."""
    controller = context.xdist_controller
    if controller is None or holder.descends_from(context.caller):
        return False
    # A worker's server that became a daemon descends from no worker, but bears the worker's name.
    # What is older than our controller, or was born in another run, comes from other workers.
    others = holder.mark(XDIST_WORKER) not in ("", context.caller.marks[XDIST_WORKER])
    younger = controller.start <= holder.process.start and not foreign_runs(holder, context)
    return holder.descends_from(controller) or (others and younger)


def foreign_runs(holder: Holder, context: Context) -> tuple[str, ...]:
    """The runs that it was born in and we were not, outermost first."""
    return run_id.beyond(runs(holder), context.run)
