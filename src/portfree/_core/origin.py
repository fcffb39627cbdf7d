"""Where a holder was born: which run, what proves it, and whether that run goes on. Pure.

An environment block alone is too weak a witness: servers wipe theirs, tests drop it, and a fork has
that of the process it was forked from. So there are seven kinds of evidence, one function each, and
the first that has something to say gives the origin. The rules of `verdict` ask for the origin
alone; no rule reads a mark.

``live`` means: somebody may be at work there. ``ended`` must be proved: whoever could still be at
work was looked for, and cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Literal, NamedTuple

from portfree._core import programs, run_id
from portfree._core.ancestry import (
    Holder,
    bearer,
    is_adopted,
    is_copy,
    launcher,
    leads_terminal,
    left_at,
    named,
    same,
    seats,
    was_left,
)
from portfree._core.context import Context, Neighbour
from portfree._core.neighbours import (
    is_alone,
    is_runner,
    may_be_original,
    may_have_started,
    other_job,
)
from portfree._system.interface import MARKS, XDIST_WORKER, Process

Evidence = Literal["descent", "id", "mark", "copy", "folder", "arrival", "unreadable"]
State = Literal["live", "ended", "unknown"]

# Those that a test runner sets, and not portfree.
_OF_RUNNERS = tuple(mark for mark in MARKS if mark != run_id.RUN_ID)

# A session that lasts longer than this is taken for dead by the next one, which removes its lock
# and, later, its folder (LOCK_TIMEOUT in pytest's _pytest/pathlib.py). In seconds.
_LOCKS_LAST = 3 * 86_400

# How much later than its process a lock may have been made for sure, where the clock was set or a
# file system rounds times. In seconds.
_CLOCKS_DIFFER = 2.0


class Origin(NamedTuple):
    """The run that a holder was born in."""

    evidence: Evidence
    state: State
    run: str = ""
    """The run as messages name it, such as ``"pytest (pid 77)"``; empty if that is not known."""
    id: str = ""
    """The element of its run id, if it has one."""
    runner: Process | None = None
    """The live process that it belongs to."""
    alone: bool = False
    """Whether nobody looks after that process any more."""
    why: str = ""
    """What was seen, in words, of a run that has ended."""
    ours: bool = False
    """Whether it is the run that is being ended, or whoever asks has started it."""


def origin_of(holder: Holder, context: Context) -> Origin | None:
    """The origin of a holder; None if it was born outside of every run."""
    return next((found for look in EVIDENCE if (found := look(holder, context))), None)


def birth(holder: Holder) -> str:
    """Where it was born, as its environment has it: a test, a nox session or a tox environment."""
    if holder.test:
        return f"started in {holder.test}"
    if session := holder.mark("NOX_CURRENT_SESSION"):
        return f"started in nox session {session}"
    if folder := holder.mark("TOX_ENV_DIR"):
        return f"started in tox environment {PurePath(folder).name}"
    return ""


def may_be_for_this_run(holder: Holder, context: Context) -> bool:
    """Whether it may have been started by us, for the run that is about to begin: a conftest.py,
    say, has daemonised it while it was imported.
    """
    if holder.origin and holder.origin.ours:
        return True
    born = any(holder.mark(mark) for mark in _OF_RUNNERS) or holder.process.environment == "wiped"
    return holder.descends_from(context.caller) or (
        born and holder.process.start >= context.caller.start and _in_same_group(holder, context)
    )


def asks_to_stay(holder: Holder, context: Context) -> str:
    """The variable with which it asks to be left running, as one writes it; empty if none."""
    if holder.mark("PORTFREE_KEEP") == "1":
        return "PORTFREE_KEEP=1"
    for name in ("BUILD_ID", "JENKINS_NODE_COOKIE"):
        if holder.mark(name) == "dontKillMe":
            return f"{name}=dontKillMe"

    def untracked(processes: Iterable[Process]) -> bool:
        return any(process.marks.get("RUNNER_TRACKING_ID") == "" for process in processes)

    # Where ours is empty as well, as in every step of nektos/act, nobody has asked for anything.
    if untracked(holder.upward()) and not untracked(context.ours):
        return "an empty RUNNER_TRACKING_ID"
    return ""


def is_siblings(holder: Holder, context: Context) -> bool:
    """Whether it belongs to our xdist controller, and to none of its workers but another one."""
    controller = context.xdist_controller
    if controller is None or holder.descends_from(context.caller):
        return False
    if holder.descends_from(controller):
        return True
    # A worker's server that has been daemonised descends from nobody, but bears the worker's name.
    # What was there before our controller, or was born in another run, comes from other workers.
    return (
        holder.mark(XDIST_WORKER) not in ("", context.caller.marks[XDIST_WORKER])
        and controller.start <= holder.process.start
        and not foreign_runs(holder, context)
    )


# The evidence, in order.


def descent(holder: Holder, context: Context) -> Origin | None:
    """An ancestor is a test runner or a CI agent, and not one of ours: what is shared proves
    nothing, for the `portfree run` around us has adopted what an inner run has left.
    """
    runner = _runner(holder)
    if runner is None or _is_of_ending_run(holder, context):
        return None
    if not context.is_ours(runner):
        return _in_use("descent", runner, _above(holder, runner))
    # A step of our own CI job beside ours (``background: true``) is another run. What a step that
    # is over has left behind was adopted, and descends from no agent any more.
    chain = list(holder.upward())
    below = chain[: chain.index(runner)]
    beside = programs.is_ci_agent(runner) and below and not any(map(context.is_ours, below))
    if beside and not other_job(holder, context):
        return Origin("descent", "live", "another step of this CI job, which goes on")
    return None


def id_(holder: Holder, context: Context) -> Origin | None:
    """``PORTFREE_RUN_ID``, its own or its nearest ancestor's."""
    elements = run_id.elements(holder.mark(run_id.RUN_ID))
    if _is_of_ending_run(holder, context):
        return Origin("id", "live", "this run", context.ending or "", ours=True)
    foreign = foreign_runs(holder, context)
    for element in foreign:
        if element in holder.live_runs and element != context.ending:
            runner = next(filter(is_runner, holder.lineage), None)
            if runner:
                return _in_use("id", runner, _above(holder, runner))._replace(id=element)
            return Origin("id", "live", f"another run (pid {element.split('.')[0]})", element)
    if foreign and was_left(holder, run_id.RUN_ID):
        if live := _inside(foreign[-1], holder, context) or _at_work(holder, context):
            return live
        return Origin("id", "ended", _ended_run(foreign[-1]), foreign[-1], why=_born(holder))
    # For a hook: what belongs to the live run that surrounds its own (pytest in pytest).
    if context.phase != "call" and elements and not foreign and elements[-1] in holder.live_runs:
        return Origin("id", "live", "the run around this one", elements[-1])
    return None


def mark(holder: Holder, context: Context) -> Origin | None:
    """Another mark: of a test runner or a CI job."""
    if surrounding := _surrounding(holder, context):
        return surrounding
    if job := other_job(holder, context):
        return Origin("mark", "live", f"another CI job ({job})")
    told = bool(foreign_runs(holder, context))  # the id says which run, and that it has ended
    born = any(map(holder.mark, _OF_RUNNERS))
    if born and not told and (found := _by_neighbours("mark", holder, context)):
        return found
    # A fork of another worker of our xdist controller has no worker's name.
    nameless = born and not told and not holder.mark(XDIST_WORKER)
    if nameless and (controller := _may_be_our_controllers(holder, context)):
        return controller
    born_in = [name for name in _OF_RUNNERS if bearer(holder, name) is not None]
    if any(was_left(holder, name) for name in born_in):
        if live := _at_work(holder, context):
            return live
        return Origin("mark", "ended", _runner_of(born_in), why=_born(holder))
    if setter := next((p for name in born_in if (p := _setter(holder, name, context))), None):
        return _in_use("mark", setter, _above(holder, setter))
    return None


def copy(holder: Holder, context: Context) -> Origin | None:
    """It, or an ancestor, was forked from a test runner and has executed no program since: it has
    that one's command line and environment, in which no mark is.

    Live while an older process of that user with the same command line, which did execute it,
    lives; where the copy has not moved, in the same session and project.
    """
    chain = list(holder.upward())
    at = next((at for at, process in enumerate(chain) if is_copy(process)), None)
    if at is None:
        return _copy_of_a_script(holder, context)
    for near in context.neighbours:
        if may_be_original(near, holder, chain[at]):
            return _in_use("copy", near.process, near.lineage)
    for process in context.ours:
        if may_be_original(Neighbour(process, (), context.project), holder, chain[at]):
            if left_at(holder, at) or holder.descends_from(context.caller):
                return _our_own("copy", process, context)
            return Origin("copy", "live", named(process), runner=process)
    if not left_at(holder, at):
        return None
    if live := _locked(holder, context):
        return live
    what = programs.program(chain[at])
    who = "it is" if at == 0 else f"{named(chain[at])} above it is"
    why = f"{who} a fork of a {what} that has ended"
    return Origin("copy", "ended", what, why=why)


def folder(holder: Holder, context: Context) -> Origin | None:
    """Its directory lies in a base temporary folder of pytest, whose lock names the session."""
    found = holder.folder
    if found is None:
        return None
    left = _was_left_in(holder, found.path)
    if not left and _is_seated(holder):
        return None  # somebody has gone there to have a look
    place = PurePath(found.path).name
    if found.lock is not None:
        owner = found.process
        dead = owner is None and not found.hidden
        # A process that is younger than the lock has got the pid of the one that made it.
        # So seems one whose clock was set forward since; a test runner is given the benefit.
        recycled = (
            owner is not None
            and owner.started is not None
            and owner.started > found.lock.made + _CLOCKS_DIFFER
            and not (programs.is_test_runner(owner) and not is_copy(owner))
        )
        if not dead and not recycled:
            if owner is None:
                return Origin("folder", "live", f"pytest (pid {found.lock.pid})")
            if context.is_ours(owner):
                return _our_own("folder", owner, context)
            return Origin("folder", "live", named(owner), runner=owner)
    # The user may have removed the folder, and pytest the lock of a session that lasts for days.
    elif (not found.exists or _is_old(holder, context)) and (
        live := _by_neighbours("folder", holder, context)
    ):
        return live
    if not left:
        return None
    why = f"it runs in the temporary folder {place} of a pytest that has ended"
    if test := _test_folder(holder):
        why = f"it runs in the temporary folder of {test}, of a pytest that has ended"
    return Origin("folder", "ended", f"pytest, {place}", why=why)


def arrival(holder: Holder, context: Context) -> Origin | None:
    """For the run that is being ended: it has come up since that began, on a port that was free,
    and whoever started it has gone, as a server goes that makes itself a daemon.
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
    process = holder.process
    if (process.environment == "read" and process.complete) or _is_seated(holder):
        return None
    if controller := _may_be_our_controllers(holder, context):
        return controller._replace(evidence="unreadable")
    return _by_neighbours("unreadable", holder, context)


EVIDENCE: tuple[Callable[[Holder, Context], Origin | None], ...] = (
    descent,
    id_,
    mark,
    copy,
    folder,
    arrival,
    unreadable,
)


# What they ask for.


def foreign_runs(holder: Holder, context: Context) -> tuple[str, ...]:
    """The runs that it was born in and we were not, outermost first."""
    return run_id.beyond(run_id.elements(holder.mark(run_id.RUN_ID)), context.run)


def _is_of_ending_run(holder: Holder, context: Context) -> bool:
    """Whether the run that is being ended has started it, itself or by one that has ended."""
    elements = run_id.elements(holder.mark(run_id.RUN_ID))
    if context.ending not in elements:
        return False
    return not holder.live_runs.intersection(elements[elements.index(context.ending) + 1 :])


def needs_neighbours(holder: Holder) -> bool:
    """Whether its origin depends on who else is at work: it, or an ancestor, whose marks count
    where its own were wiped, bears a mark, or it does not show whether it does.
    """
    process = holder.process
    return (
        process.environment != "read"
        or not process.complete
        or any(each.marks or is_copy(each) for each in holder.upward())
        or holder.folder is not None
        or (process.forked is True and is_adopted(holder, 0))
    )


def _runner(holder: Holder) -> Process | None:
    """The nearest live test runner or CI agent, be it the holder itself."""
    # A server that is merely called like a test runner, or was one, is not in use by itself.
    alone = programs.serves(holder.process) and launcher(holder) is None
    return next(filter(is_runner, holder.lineage if alone else holder.upward()), None)


def _surrounding(holder: Holder, context: Context) -> Origin | None:
    """For a hook: it belongs to the live run around its own, as far as marks and descent tell."""
    if context.phase == "call" or run_id.elements(holder.mark(run_id.RUN_ID)):
        return None
    # Where one run surrounds another in the same process, descent does not tell them apart.
    if context.surrounded_here and may_be_for_this_run(holder, context):
        return Origin("descent", "live", named(context.caller), runner=context.caller)
    # A conftest.py that is imported before a run begins gives its servers no id.
    if holder.mark("PYTEST_VERSION") and not holder.test:
        for process in context.lineage:
            between = process.start <= holder.process.start < context.caller.start
            if between and programs.is_pytest(process):
                return Origin("mark", "live", named(process), runner=process)
    return None


def _may_be_our_controllers(holder: Holder, context: Context) -> Origin | None:
    """Our own xdist controller's other workers are at work, too."""
    controller = context.xdist_controller
    if (
        controller is None
        or controller.start > holder.process.start
        or holder.descends_from(context.caller)
    ):
        return None
    return Origin("mark", "live", named(controller), runner=controller)


def _at_work(holder: Holder, context: Context) -> Origin | None:
    """The live process that it was forked from, or the live session in whose folder it works: then
    no mark proves an end.
    """
    forked = copy(holder, context)
    return forked if forked and forked.state == "live" else _locked(holder, context)


def _locked(holder: Holder, context: Context) -> Origin | None:
    """The live session in whose temporary folder it works: then nothing proves an end."""
    found = folder(holder, context)
    return found if found and found.state == "live" else None


def _copy_of_a_script(holder: Holder, context: Context) -> Origin | None:
    """The same for a program on no list (``python run_tests.py``), if somebody looks after it."""
    process = holder.process
    if process.forked is not True or not is_adopted(holder, 0):
        return None
    # What somebody types in a shell is no run; and that such a program is one is a guess, which
    # must not stand against who asks for his own.
    if programs.is_interactive_shell(process) or context.scope != "orphans":
        return None
    for near in context.neighbours:
        looked_after = not is_alone(near.process, near.lineage)
        if looked_after and may_be_original(near, holder, process):
            return _in_use("copy", near.process, near.lineage)
    return None


def _setter(holder: Holder, name: str, context: Context) -> Process | None:
    """The live process that has set a mark, if it is a program that looks after what it starts: the
    nearest one above those that bear the same value.
    """
    top = bearer(holder, name)
    assert top is not None
    chain = list(holder.upward())
    if top + 1 >= len(chain) or seats(chain[: top + 1]) or is_adopted(holder, top):
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


def _was_left_in(holder: Holder, place: str) -> bool:
    """Whether nobody who sits elsewhere has started it there: of those that work in this folder,
    the topmost one was adopted.
    """
    inside = [at for at, process in enumerate(holder.upward()) if _lies_in(process.cwd, place)]
    return bool(inside) and left_at(holder, max(inside))


def _lies_in(cwd: str | None, place: str) -> bool:
    return cwd is not None and PurePath(cwd).is_relative_to(place)


def _is_old(holder: Holder, context: Context) -> bool:
    """Whether it may be older than pytest lets a lock be; so may be what does not tell its age."""
    started = holder.process.started
    return started is None or context.time - started > _LOCKS_LAST


def _test_folder(holder: Holder) -> str:
    """The test whose temporary folder it works in, by the name that tmp_path gives."""
    cwd, found = holder.process.cwd, holder.folder
    if cwd is None or found is None or not PurePath(cwd).is_relative_to(found.path):
        return ""
    for part in PurePath(cwd).relative_to(found.path).parts[:2]:
        if part.startswith("test"):
            return re.sub(r"\d+$", "", part)
    return ""


def _in_same_group(holder: Holder, context: Context) -> bool:
    """Whether its control group is ours, where both are told: a process hands it on."""
    theirs, ours = holder.process.control_group, context.caller.control_group
    return theirs is None or ours is None or theirs == ours


def _is_seated(holder: Holder) -> bool:
    """Whether somebody sits at a terminal above it, of which it descends: then nobody else has
    started it.
    """
    for at, process in enumerate(holder.upward()):
        if leads_terminal(process) or programs.is_multiplexer(process):
            return True
        if is_adopted(holder, at):
            break
    return False


def _our_own(evidence: Evidence, runner: Process, context: Context) -> Origin | None:
    """The origin of what the caller, or an ancestor of it, has started.

    What is shared proves nothing where somebody just asks for the port; but for a hook, and for a
    worker of pytest-xdist, it belongs to the run around.
    """
    if runner.pid == context.caller.pid:
        ours = not context.surrounded_here
        return Origin(evidence, "live", named(runner), runner=runner, ours=ours)
    controller = context.xdist_controller
    if context.phase == "call" and not (controller and same(runner, controller)):
        return None
    return Origin(evidence, "live", named(runner), runner=runner)


def _in_use(evidence: Evidence, runner: Process, lineage: tuple[Process, ...]) -> Origin:
    alone = is_alone(runner, lineage)
    return Origin(evidence, "live", named(runner), runner=runner, alone=alone)


def _above(holder: Holder, process: Process) -> tuple[Process, ...]:
    chain = tuple(holder.upward())
    return chain[chain.index(process) + 1 :]


def _born(holder: Holder) -> str:
    return birth(holder) or "the run that started it has ended"


def _ended_run(element: str) -> str:
    return f"portfree's run of pid {element.split('.')[0]}"


def _runner_of(marks: Sequence[str]) -> str:
    kinds = {"NOX": "nox", "TOX": "tox", "NEXTEST": "cargo-nextest"}
    return kinds.get(marks[-1].split("_")[0], "pytest")


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
            return _in_use(evidence, near.process, near.lineage)
    return None


def _inside(element: str, holder: Holder, context: Context) -> Origin | None:
    """The live test runner that an ended run has started: it gives its own servers that run's id,
    if none of its own.
    """
    for near in context.neighbours:
        # A worker of pytest-xdist may have overwritten its environment with a title.
        told = (
            process.marks.get(run_id.RUN_ID, "")
            for process in (near.process, *near.lineage)
            if process.environment == "read"
            and process.complete
            and process.pid != 1
            and not programs.is_listed_reaper(process)
        )
        # Nobody but root reads the environments of root's processes: they are not suspected.
        hides = near.process.owner == holder.process.owner
        id_ = next(told, element if hides else "")
        if element in run_id.elements(id_) and may_have_started(near, holder):
            return _in_use("id", near.process, near.lineage)
    return None
