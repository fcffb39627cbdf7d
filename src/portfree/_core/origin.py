"""Which run a holder was born in, what proves it, and whether that run goes on. Pure.

An environment alone proves too little: servers wipe theirs, tests drop it, and a fork has that of
the process it was forked from. So there are seven kinds of evidence, one function each, and the
first that finds something gives the origin. ``live`` means that the run may go on. ``ended`` must
be proved: whatever could still be at work was looked for, and cannot be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Literal, NamedTuple

from portfree._core import programs, run_id
from portfree._core.ancestry import (
    Holder,
    bearer,
    is_adopted,
    is_copy,
    is_interactive,
    launcher,
    leads_terminal,
    left_at,
    named,
    same,
    was_left,
)
from portfree._core.context import Context, Neighbour
from portfree._core.marks import (
    OF_RUNNERS,
    birth,
    foreign_runs,
    is_of_ending_run,
    may_be_for_this_run,
    runs,
)
from portfree._core.neighbours import (
    is_agent,
    is_runner,
    may_be_original,
    may_be_same_user,
    may_have_started,
    other_job,
)
from portfree._system.interface import XDIST_WORKER, Process

Evidence = Literal["descent", "id", "mark", "copy", "folder", "arrival", "unreadable"]
State = Literal["live", "ended", "unknown"]

# The next session takes one that is older than this for dead, and removes its lock and, later, its
# folder (LOCK_TIMEOUT in pytest's _pytest/pathlib.py). In seconds.
_LOCKS_LAST = 3 * 86_400


_RUN_ENDED = "the run that started it has ended"


class Origin(NamedTuple):
    """The run that a holder was born in."""

    evidence: Evidence
    state: State
    run: str = ""
    """The run as messages name it, such as ``"pytest (pid 77)"``; empty if unknown."""
    id: str = ""
    """The element of its run id, if it has one."""
    runner: Process | None = None
    """The live process that it belongs to."""
    alone: bool = False
    """Whether no process looks after the runner any more."""
    why: str = ""
    """What proves that the run has ended, in words."""
    ours: bool = False
    """Whether it is the run that is being ended, or the caller's own."""


_Look = Callable[[Holder, Context], Origin | None]


def origin_of(holder: Holder, context: Context) -> Origin | None:
    """The origin of a holder; None if it was born outside of every run."""
    return next((found for look in EVIDENCE if (found := look(holder, context))), None)


# The evidence, in order.


def descent(holder: Holder, context: Context) -> Origin | None:
    """An ancestor is a test runner or a CI agent, and not one of ours: what is shared proves
    nothing, for the `portfree run` around us has adopted what an inner run has left.
    """
    runner = _runner(holder)
    if runner is None or is_of_ending_run(holder, context):
        return None
    if not context.is_ours(runner):
        return _in_use("descent", _in_lineage(holder, runner))
    # A step of our own CI job beside ours (``background: true``) is another run. What a finished
    # step has left behind was adopted, and descends from no agent any more.
    chain = list(holder.upward())
    below = chain[: chain.index(runner)]
    beside = programs.is_ci_agent(runner) and below and not any(map(context.is_ours, below))
    if beside and not other_job(holder, context):
        return Origin("descent", "live", "another step of this CI job, which goes on")
    return None


def id_(holder: Holder, context: Context) -> Origin | None:
    """``PORTFREE_RUN_ID``, its own or its nearest ancestor's."""
    if is_of_ending_run(holder, context):
        return Origin("id", "live", "this run", context.ending or "", ours=True)
    foreign = foreign_runs(holder, context)
    for element in foreign:
        if element in holder.live_runs and element != context.ending:
            runner = next(filter(is_runner, holder.lineage), None)
            if runner:
                return _in_use("id", _in_lineage(holder, runner))._replace(id=element)
            return Origin("id", "live", f"another run (pid {element.split('.')[0]})", element)
    if foreign and was_left(holder, run_id.RUN_ID):
        inner = foreign[-1]
        if live := (
            _in_ended_run(inner, holder, context)
            or _by_agent("id", run_id.RUN_ID, holder, context)
            or _live(holder, context, copy, folder)
        ):
            return live
        run = f"portfree's run of pid {inner.split('.')[0]}"
        return Origin("id", "ended", run, inner, why=birth(holder) or _RUN_ENDED)
    # A hook acts for one run: what belongs to the live run around that (pytest in pytest) is used.
    elements = runs(holder)
    if context.phase != "call" and elements and not foreign and elements[-1] in holder.live_runs:
        return Origin("id", "live", "the run around this one", elements[-1])
    return None


def mark(holder: Holder, context: Context) -> Origin | None:
    """Another mark, of a test runner or a CI job."""
    if context.phase != "call" and not runs(holder):
        # For a hook, the live run around its own. Where one run surrounds another in the same
        # process, descent does not tell them apart.
        if context.surrounded_here and may_be_for_this_run(holder, context):
            return Origin("descent", "live", named(context.caller), runner=context.caller)
        # A conftest.py that is imported before a run begins gives its servers no id.
        early = holder.mark("PYTEST_VERSION") and not holder.test
        for process in filter(programs.is_pytest, context.lineage if early else ()):
            if process.start <= holder.process.start < context.caller.start:
                return Origin("mark", "live", named(process), runner=process)
    if job := other_job(holder, context):
        return Origin("mark", "live", f"another CI job ({job})")
    # A foreign id tells which run it was, and that it has ended.
    if not foreign_runs(holder, context) and any(map(holder.mark, OF_RUNNERS)):
        if found := _by_neighbours("mark", holder, context):
            return found
        # A fork of another worker of our xdist controller has no worker's name.
        if not holder.mark(XDIST_WORKER) and (found := _by_our_controller("mark", holder, context)):
            return found
    born_in = [name for name in OF_RUNNERS if bearer(holder, name) is not None]
    left = [name for name in born_in if was_left(holder, name)]
    if left:
        agents = (_by_agent("mark", name, holder, context) for name in left)
        if live := next(filter(None, agents), None) or _live(holder, context, copy, folder):
            return live
        runners = {"NOX": "nox", "TOX": "tox", "NEXTEST": "cargo-nextest"}
        run = runners.get(born_in[-1].split("_")[0], "pytest")
        return Origin("mark", "ended", run, why=birth(holder) or _RUN_ENDED)
    if setter := next((p for name in born_in if (p := _setter(holder, name, context))), None):
        return _in_use("mark", _in_lineage(holder, setter))
    return None


def copy(holder: Holder, context: Context) -> Origin | None:
    """It, or an ancestor, was forked from a test runner and has executed no program since: it has
    the runner's command line and environment, in which no mark is. Live while an older process of
    the same user with that command line lives that did execute it; where the copy has not moved, in
    the same session and project.
    """
    chain = list(holder.upward())
    at = next((at for at, process in enumerate(chain) if is_copy(process)), None)
    if at is None:
        # A program on no list (``python run_tests.py``) with a live launcher is as good. What a
        # person types in a shell is no run. That such a program is one is a guess, which must not
        # stand against a caller that asks for its own.
        script = holder.process
        typed = programs.is_interactive_shell(script) or context.scope != "orphans"
        if script.forked is True and is_adopted(holder, 0) and not typed:
            for near in context.neighbours:
                if not near.alone and may_be_original(near, holder, script):
                    return _in_use("copy", near)
        return None
    for near in context.neighbours:
        if may_be_original(near, holder, chain[at]):
            return _in_use("copy", near)
    for process in context.ours:
        if may_be_original(Neighbour(process, (), context.project), holder, chain[at]):
            if left_at(holder, at) or holder.descends_from(context.caller):
                return _our_own("copy", process, context)
            return Origin("copy", "live", named(process), runner=process)
    if not left_at(holder, at):
        return None
    if live := _live(holder, context, folder):
        return live
    what = programs.program(chain[at])
    which = "it is" if at == 0 else f"{named(chain[at])} above it is"
    return Origin("copy", "ended", what, why=f"{which} a fork of a {what} that has ended")


def folder(holder: Holder, context: Context) -> Origin | None:
    """Its directory lies in a base temporary folder of pytest, whose lock names the session."""
    found = holder.folder
    if found is None:
        return None
    # Of the processes that work there, the topmost one was adopted.
    at_work = enumerate(PurePath(p.cwd) if p.cwd else None for p in holder.upward())
    inside = [at for at, cwd in at_work if cwd and cwd.is_relative_to(found.path)]
    left = bool(inside) and left_at(holder, max(inside))
    if not left and _is_seated(holder):
        return None  # a person has gone there to have a look
    lock, owner = found.lock, found.process
    if lock is not None and found.in_use:
        if owner is None:
            return Origin("folder", "live", f"pytest (pid {lock.pid})")
        if context.is_ours(owner):
            return _our_own("folder", owner, context)
        return Origin("folder", "live", named(owner), runner=owner)
    if lock is None:
        # The user may have removed the folder, and pytest the lock of a session that lasts.
        started = holder.process.started
        old = started is None or context.time - started > _LOCKS_LAST
        if (old or not found.exists) and (live := _by_neighbours("folder", holder, context)):
            return live
    if not left:
        return None
    place, test = PurePath(found.path).name, found.test(holder.process.cwd)
    where = f"folder of {test}," if test else f"folder {place}"
    why = f"it runs in the temporary {where} of a pytest that has ended"
    return Origin("folder", "ended", f"pytest, {place}", why=why)


def arrival(holder: Holder, context: Context) -> Origin | None:
    """Only for the run that is being ended: it came up since that began, on a port that was free,
    and its parent has ended, as that of a server that makes itself a daemon.
    """
    process = holder.process
    came_up = (
        context.ending is not None
        and context.began is not None
        and process.start >= context.began
        and holder.ports <= context.quiet
        and process.environment == "wiped"
        and process.owner in (*context.owners, context.caller.owner)
        and process.unit in (None, context.unit)
        and process.container is None
        and process.cwd is not None
        and holder.project in (None, context.project)
        and launcher(holder) is None
        and process.control_group == context.caller.control_group
        # Other tests of a runner around us may be at work meanwhile.
        and not any(map(is_runner, context.lineage))
    )
    if not came_up or _by_neighbours("arrival", holder, context):
        return None
    return Origin("arrival", "live", "this run", context.ending or "", ours=True)


def unreadable(holder: Holder, context: Context) -> Origin | None:
    """Its environment cannot be read, or was wiped: then any live test runner may have started it
    that is older, of the same user, and in the same project.
    """
    if holder.process.readable or _is_seated(holder):
        return None
    by_ours = _by_our_controller("unreadable", holder, context)
    return by_ours or _by_neighbours("unreadable", holder, context)


EVIDENCE: tuple[_Look, ...] = (descent, id_, mark, copy, folder, arrival, unreadable)


def needs_neighbours(holder: Holder) -> bool:
    """Whether its origin depends on what else is at work: it, or an ancestor, whose marks count
    where its own were wiped, bears a mark, or does not show whether it does.
    """
    process = holder.process
    return (
        not process.readable
        or any(each.marks or is_copy(each) for each in holder.upward())
        or holder.folder is not None
        or (process.forked is True and is_adopted(holder, 0))
    )


# What the evidence asks for.


def _runner(holder: Holder) -> Process | None:
    """The nearest live test runner or CI agent: the holder or an ancestor."""
    # A server that is merely called like a test runner, or was one, is not in use by itself.
    alone = programs.serves(holder.process) and launcher(holder) is None
    return next(filter(is_runner, holder.lineage if alone else holder.upward()), None)


def _live(holder: Holder, context: Context, *looks: _Look) -> Origin | None:
    """What other evidence finds alive, so that no mark proves an end."""
    found = (look(holder, context) for look in looks)
    return next((origin for origin in found if origin and origin.state == "live"), None)


def _by_our_controller(evidence: Evidence, holder: Holder, context: Context) -> Origin | None:
    """Our own xdist controller, whose other workers are at work, if it may have started it."""
    controller = context.xdist_controller
    if controller is None or holder.descends_from(context.caller):
        return None
    older = controller.start <= holder.process.start
    return Origin(evidence, "live", named(controller), runner=controller) if older else None


def _by_neighbours(evidence: Evidence, holder: Holder, context: Context) -> Origin | None:
    """The live run of an unrelated test runner that may have started an adopted holder."""
    # A runner that is the first process of a container adopts what other runners have started.
    above = _runner(holder)
    if above is not None and above.pid != 1 and not programs.runs_commands(above):
        return None
    for near in context.neighbours:
        # What a `portfree run` starts carries its id, if it has any mark at all.
        gives_id = evidence == "mark" and programs.runs_commands(near.process)
        if may_have_started(near, holder) and not gives_id:
            return _in_use(evidence, near)
    return None


def _in_ended_run(element: str, holder: Holder, context: Context) -> Origin | None:
    """A live test runner that an ended run has started: its servers have that run's id."""
    for near in context.neighbours:
        # A worker of pytest-xdist may have overwritten its environment with a title.
        told = (
            process.marks.get(run_id.RUN_ID, "")
            for process in (near.process, *near.lineage)
            if process.readable and process.pid != 1 and not programs.is_listed_reaper(process)
        )
        # Only root reads the environments of root's processes: they are not suspected.
        hides = may_be_same_user(near.process, holder.process)
        value = next(told, element if hides else "")
        if element in run_id.elements(value) and may_have_started(near, holder):
            return _in_use("id", near)
    return None


def _by_agent(evidence: Evidence, name: str, holder: Holder, context: Context) -> Origin | None:
    """A live CI agent with the holder's own value of a mark: the run that set it has ended, but not
    the agent that was started there, and it passes the mark on to its jobs, in any project.
    """
    for near in context.neighbours:
        agent = near.process
        older = agent.start <= holder.process.start
        if older and is_agent(agent) and agent.marks.get(name) == holder.mark(name):
            return _in_use(evidence, near)
    return None


def _setter(holder: Holder, name: str, context: Context) -> Process | None:
    """The live process that has set a mark, if it is one that looks after what it starts."""
    top = bearer(holder, name)
    assert top is not None
    chain = list(holder.upward())
    if top + 1 >= len(chain) or is_interactive(chain[: top + 1]) or is_adopted(holder, top):
        return None
    process = chain[top + 1]
    silent = (
        context.is_ours(process)
        or process.pid == 1
        or is_copy(process)
        or programs.is_wrapper(process)
        or programs.is_shell(process)
        or programs.is_multiplexer(process)
        or programs.process_manager(process)
        or programs.runs_commands(process)
        or leads_terminal(process)
    )
    return None if silent else process


def _is_seated(holder: Holder) -> bool:
    """Whether it descends from a person's terminal: then nothing else has started it."""
    for at, process in enumerate(holder.upward()):
        if leads_terminal(process) or programs.is_multiplexer(process):
            return True
        if is_adopted(holder, at):
            break
    return False


def _our_own(evidence: Evidence, runner: Process, context: Context) -> Origin | None:
    """The origin of what the caller, or an ancestor of it, has started: what is shared proves
    nothing in a plain call, but belongs to the run around a hook, or a worker of pytest-xdist.
    """
    controller = context.xdist_controller
    caller = runner.pid == context.caller.pid
    if not caller and context.phase == "call" and not (controller and same(runner, controller)):
        return None
    ours = caller and not context.surrounded_here
    return Origin(evidence, "live", named(runner), runner=runner, ours=ours)


def _in_use(evidence: Evidence, near: Neighbour) -> Origin:
    runner = near.process
    return Origin(evidence, "live", named(runner), runner=runner, alone=near.alone)


def _in_lineage(holder: Holder, process: Process) -> Neighbour:
    chain = tuple(holder.upward())
    return Neighbour(process, chain[chain.index(process) + 1 :])
