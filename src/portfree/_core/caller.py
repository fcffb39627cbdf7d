"""Who asks: reads from the system what the rules know besides the holders."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence

from portfree._core import programs, run_id
from portfree._core.ancestry import Holder, roots
from portfree._core.context import Context, Moment, Neighbour
from portfree._core.origin import needs_neighbours
from portfree._core.reading import Reader, current_folder, home, project_of, sudo_user
from portfree._system.interface import CI_JOB_IDS, KEPT_VARIABLES, Process, System
from portfree.model import Scope


def context_for(
    system: System,
    holders: Collection[Holder],
    *,
    scope: Scope,
    moment: Moment,
) -> Context:
    """Who asks, and what else goes on, as far as the verdict on these holders needs it."""
    reader = Reader(system)
    seen = system.process(os.getpid())
    me = seen or Process(pid=os.getpid(), ppid=0, start=0, name="portfree")
    me, lineage = reader.lineage(me)
    # /proc shows the environment that a process started with, os.environ the one it has now.
    now = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    me = me._replace(marks=now)
    chain = (me, *lineage)

    def inherited(name: str) -> str:
        return next((p.marks[name] for p in chain if name in p.marks), "")

    return Context(
        caller=me,
        lineage=lineage,
        platform=system.name,
        scope=scope,
        phase=moment.phase,
        owners=_owners(system, me),
        privileged=system.privileged,
        time=time.time(),
        home=str(home()),
        project=project_of(current_folder()),
        # sudo wipes the environment, but our ancestors still have theirs.
        run=_run(chain, moment.ending),
        ending=moment.ending,
        began=moment.began,
        quiet=frozenset(moment.quiet),
        jobs={name: inherited(name) for name in CI_JOB_IDS if inherited(name)},
        unit=me.unit,
        neighbours=_neighbours(reader, chain, holders),
        main_service=_main_service(reader, chain) if holders else frozenset(),
    )


def _run(ours: Sequence[Process], ending: str | None) -> tuple[str, ...]:
    """The run that we live in. One that is looked at while it goes on, after one of its tests, is
    none around that; but where its id stands alone, an ancestor may tell of another.
    """
    for process in ours:
        elements = run_id.elements(process.marks.get(run_id.RUN_ID, ""))
        if around := tuple(element for element in elements if element != ending):
            return around
    return ()


def _owners(system: System, me: Process) -> frozenset[int | str]:
    # Only root may claim to act for somebody else, and then that somebody is who called sudo.
    if system.privileged and (caller := sudo_user()):
        return frozenset(caller)
    return frozenset() if me.owner is None else frozenset({me.owner})


def _neighbours(
    reader: Reader, ours: Collection[Process], holders: Collection[Holder]
) -> tuple[Neighbour, ...]:
    """Who may have started these holders: the live test runners and CI agents, who carries a CI
    job's id, and who has the command line of one that was forked; without us.
    """
    unclear = [holder for holder in roots(holders) if needs_neighbours(holder)]
    if not unclear:
        return ()
    own = {process.pid for process in ours}
    forked = {h.process.argv for h in unclear if h.process.forked and h.process.argv}
    found = []
    for process in reader.everything():
        interesting = (
            programs.is_test_runner(process)
            or programs.is_ci_agent(process)
            or any(job in process.marks for job in CI_JOB_IDS)
            or (process.argv in forked and not process.forked)
        )
        if interesting and process.pid not in own:
            process, lineage = reader.lineage(process)
            found.append(Neighbour(process, lineage, project_of(process.cwd)))
    return tuple(found)


def _main_service(reader: Reader, ours: tuple[Process, ...]) -> frozenset[int]:
    """The main service of our container, if we were put into it from outside (docker exec).

    Then our own ancestry ends outside, and not at the container's first process.
    """
    top = ours[-1]
    if top.pid == 1 or top.ppid != 0:
        return frozenset()
    first = reader.process(1)
    children = [process for process in reader.everything() if process.ppid == 1]
    # If the first process is hidden from us, every child of it may be the one.
    if first is not None and programs.is_listed_reaper(first):
        children = sorted(children, key=lambda process: process.start)[:1]
    elif first is not None:
        children = [process for process in children if process.session == first.session]
    return frozenset(process.pid for process in children)
