"""Which live process may have started a holder, or been forked into it. Pure."""

from __future__ import annotations

from pathlib import PurePath

from portfree._core import programs
from portfree._core.ancestry import Holder, is_copy
from portfree._core.context import Context, Neighbour
from portfree._system.interface import CI_JOB_IDS, Process


def is_runner(process: Process) -> bool:
    """Whether it is a test runner or a CI agent, and not merely forked from one."""
    executed = process.forked is not True
    return executed and (programs.is_test_runner(process) or programs.is_ci_agent(process))


def is_agent(process: Process) -> bool:
    return process.forked is not True and programs.is_ci_agent(process)


def other_job(holder: Holder, context: Context) -> str:
    """The CI job, not ours, that a holder was born in, if that job may go on; else empty. It has
    ended if no process below a CI agent carries its id, and no agent but our ancestors is at work.
    """
    for variable in CI_JOB_IDS:
        job = holder.mark(variable)
        if job and job != context.jobs.get(variable):
            for near in context.neighbours:
                works = is_agent(near.process) and not programs.is_idle_agent(near.process)
                carries = near.process.marks.get(variable) == job
                if works or (carries and any(map(is_agent, near.lineage))):
                    return f"{variable} {job}"
    return ""


def may_have_started(near: Neighbour, holder: Holder) -> bool:
    """Whether a test runner may have started a holder; False only if it certainly has not."""
    runner = near.process
    return (
        programs.is_test_runner(runner)
        and is_runner(runner)
        and not (programs.serves(runner) and near.alone)
        and runner.pid != holder.pid
        and runner.start <= holder.process.start
        and _may_be_of(runner, holder.process)
        and _may_share_a_project(near, holder)
    )


def may_be_original(near: Neighbour, holder: Holder, forked: Process) -> bool:
    """Whether *forked*, the holder or its ancestor, may be a fork of it; False only if certain."""
    original = near.process
    if original.forked is True or original.start > forked.start:
        return False
    if original.argv != forked.argv:
        # A program that gives itself a title may have changed it since.
        titled = len(original.argv) == 1 and " " in original.argv[0]
        if programs.is_xdist_worker(original):
            alike = programs.is_xdist_worker(forked)
        else:
            alike = programs.is_test_runner(original) and is_copy(forked)
        if not (titled and alike):
            return False
    if original.readable and forked.readable and original.marks != forked.marks:
        return False
    # Where an ancestor works is not read, and what it has started may have gone elsewhere.
    if forked.pid == holder.pid and not _may_share_a_project(near, holder):
        return False
    if not _may_be_of(original, forked) or (programs.serves(original) and near.alone):
        return False
    # A session that neither the fork nor another fork has made was inherited from the original.
    leader = holder.leader
    if leader is None or leader.pid != forked.session or original.session in (None, forked.session):
        return True
    return leader.forked is not False or leader.argv == forked.argv


def may_be_same_user(one: Process, other: Process) -> bool:
    """Whether two processes have one owner; also if that of either is not told."""
    return one.owner is None or other.owner in (None, one.owner)


def _may_be_of(runner: Process, child: Process) -> bool:
    """Whether a process of one owner may have started a process of the other."""
    owners = {runner.owner, child.owner}
    # Root may start a process as any user, and by sudo any user may start one as root.
    return len(owners) == 1 or None in owners or 0 in owners


def _may_share_a_project(near: Neighbour, holder: Holder) -> bool:
    """Whether they may work in the same project. A server that has gone to / or to a temporary
    directory does not tell its project.
    """
    theirs, its = near.project, holder.project
    # Only root reads where root's processes work, and those of containers are mostly root's.
    hides = near.process.cwd is None and may_be_same_user(near.process, holder.process)
    if its is None or its == theirs or hides:
        return True
    if theirs is None or holder.repository is not None:
        return False
    # Without a repository, a package below a folder with a pyproject.toml may have its own.
    return PurePath(its).is_relative_to(theirs) or PurePath(theirs).is_relative_to(its)
