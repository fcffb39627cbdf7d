"""Which live process may have started a holder, or been forked into it. Pure."""

from __future__ import annotations

from pathlib import PurePath

from portfree._core import programs
from portfree._core.ancestry import Holder, is_copy, launcher
from portfree._core.context import Context, Neighbour
from portfree._system.interface import CI_JOB_IDS, Process


def is_runner(process: Process) -> bool:
    return (programs.is_test_runner(process) or programs.is_ci_agent(process)) and not is_copy(
        process
    )


def may_have_started(near: Neighbour, holder: Holder) -> bool:
    """False must mean that this process has certainly not started the holder."""
    return (
        programs.is_test_runner(near.process)
        and not is_copy(near.process)
        and not (programs.serves(near.process) and is_alone(near.process, near.lineage))
        and near.process.pid != holder.pid
        and near.process.start <= holder.process.start
        and _may_be_of(near.process, holder.process)
        # A server that has gone to / or to a temporary directory does not tell its project.
        and _may_share_a_project(holder, near)
    )


def _may_share_a_project(holder: Holder, near: Neighbour) -> bool:
    """Whether they may work in the same project: without a repository, a package below a folder
    with a pyproject.toml may have one of its own.
    """
    theirs, its = near.project, holder.project
    # Nobody but root sees where root's processes work, and those of containers are mostly root's.
    hides = near.process.cwd is None and near.process.owner == holder.process.owner
    if its is None or its == theirs or hides:
        return True
    if theirs is None or holder.repository is not None:
        return False
    return PurePath(its).is_relative_to(theirs) or PurePath(theirs).is_relative_to(its)


def _may_be_of(runner: Process, child: Process) -> bool:
    """Whether a process of the one's user may have started one of the other's: root may start
    anybody's.
    """
    root = 0 in (runner.owner, child.owner)  # and by sudo, anybody root's
    return root or None in (runner.owner, child.owner) or runner.owner == child.owner


def may_be_original(near: Neighbour, holder: Holder, forked: Process) -> bool:
    """False must mean that the one was certainly not forked from the other."""
    original = near.process
    return (
        original.forked is not True
        and _may_have_had_its_command_line(original, forked)
        and _may_have_had_its_environment(original, forked)
        and original.start <= forked.start
        and _may_be_of(original, forked)
        # Where an ancestor works is not asked, and what it has started may have gone elsewhere.
        and (forked.pid != holder.pid or _may_share_a_project(holder, near))
        and not (programs.serves(original) and is_alone(original, near.lineage))
        and not _in_another_session(original, holder, forked)
    )


def _may_have_had_its_command_line(original: Process, forked: Process) -> bool:
    if original.argv == forked.argv:
        return True
    # A program that gives itself a title may have changed that since.
    if len(original.argv) != 1 or " " not in original.argv[0]:
        return False
    if programs.is_xdist_worker(original):
        return programs.is_xdist_worker(forked)
    return programs.is_test_runner(original) and is_copy(forked)


def _may_have_had_its_environment(original: Process, forked: Process) -> bool:
    told = all(p.environment == "read" and p.complete for p in (original, forked))
    return not told or original.marks == forked.marks


def _in_another_session(original: Process, holder: Holder, forked: Process) -> bool:
    """Whether the copy lives in a session that neither it nor any other copy has made: then it has
    inherited that, and whoever lives in another one is not its original.
    """
    leader = holder.leader
    return (
        leader is not None
        and leader.pid == forked.session
        and leader.forked is False
        and leader.argv != forked.argv
        and original.session is not None
        and original.session != forked.session
    )


def other_job(holder: Holder, context: Context) -> str:
    """The CI job, another one than ours, that it was born in, if that may be going on."""
    for variable in CI_JOB_IDS:
        job = holder.mark(variable)
        if job and job != context.jobs.get(variable) and may_live(variable, job, context):
            return f"{variable} {job}"
    return ""


def may_live(variable: str, job: str, context: Context) -> bool:
    """Whether a CI job may be going on.

    False must mean that it has ended: nobody who descends from a CI agent carries its id, and no
    agent is at work but those that we descend from ourselves.
    """
    return any(
        (is_agent(near.process) and not programs.is_idle_agent(near.process))
        or (near.process.marks.get(variable) == job and any(map(is_agent, near.lineage)))
        for near in context.neighbours
    )


def is_agent(process: Process) -> bool:
    return programs.is_ci_agent(process) and not is_copy(process)


def is_alone(process: Process, lineage: tuple[Process, ...]) -> bool:
    """Whether nobody looks after a process any more."""
    known = bool(lineage) or process.ppid is None
    return known and launcher(Holder(process, lineage=lineage)) is None
