"""May this holder be stopped, and why: twelve rules, and the first that matches decides.

Pure: a holder and a context in, a verdict out, no look at the machine. Whatever could not be read
arrives here as "unknown", and unknown means keep: every ``stop`` names its proof.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Literal, NamedTuple

from portfree import names, runs
from portfree.holder import Holder, launcher, leader, named, roots, same, was_left
from portfree.ports import argument
from portfree.report import Scope, Verdict
from portfree.system.boundary import CI_JOB_IDS, MARKS, NOTHING, XDIST_WORKER, Process

Phase = Literal["call", "before", "after"]
"""When portfree acts: because somebody called it, or as a hook, before or after a run."""

_BORN_IN_A_TEST = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION", "NOX_CURRENT_SESSION", "TOX_ENV_DIR")

_CONTAINER_ID = re.compile("[0-9a-f]{12,64}")


class Neighbour(NamedTuple):
    """A live test runner or CI agent, or a process that carries a CI job's id; neither the caller
    nor one of its ancestors.
    """

    process: Process
    lineage: tuple[Process, ...] = ()
    project: str | None = None


class Context(NamedTuple):
    """Who asks, and what else is going on: all that the rules know besides the holder."""

    caller: Process
    lineage: tuple[Process, ...] = ()
    """The caller's ancestors, parent first."""
    platform: str = "linux"
    """`sys.platform`."""
    scope: Scope = "orphans"
    phase: Phase = "call"
    owners: frozenset[int | str] = frozenset()
    """The users that count as us: our own, and under sudo the one who called it."""
    privileged: bool = False
    """Whether the kernel lets us signal everybody."""
    home: str = ""
    project: str | None = None
    """The project we work in: the nearest folder with a pyproject.toml or a .git above the working
    directory; never the root or the home directory, which would make everything ours."""
    run: tuple[str, ...] = ()
    """The elements of the run id that we live in."""
    ending: str | None = None
    """The element of the run that is being ended."""
    jobs: Mapping[str, str] = NOTHING
    """The CI job ids that we carry."""
    unit: str | None = None
    """The service that we run in."""
    neighbours: tuple[Neighbour, ...] = ()
    main_service: frozenset[int] = frozenset()
    """The pids of our container's main service, if we entered it from outside."""

    @property
    def ours(self) -> tuple[Process, ...]:
        """The caller and its ancestors."""
        return (self.caller, *self.lineage)

    def is_ours(self, process: Process) -> bool:
        return any(same(process, own) for own in self.ours)

    @property
    def xdist_controller(self) -> Process | None:
        """In a worker of pytest-xdist, the process that started it and its siblings."""
        if XDIST_WORKER not in self.caller.marks:
            return None
        return next((p for p in self.lineage if names.is_test_runner(p)), None)

    def path(self, path: str | None) -> str:
        """A directory as messages name it."""
        if path is None:
            return "a directory that cannot be read"
        if self.home and (
            path == self.home or path.startswith((f"{self.home}/", f"{self.home}\\"))
        ):
            return "~" + path[len(self.home) :]
        return path


class Supervisor(NamedTuple):
    """Who starts a holder again as soon as it is stopped, and the verdict on it."""

    holder: Holder
    verdict: Verdict


def judge(holder: Holder, context: Context) -> Verdict:
    """The verdict on one holder."""
    return next(verdict for rule in RULES if (verdict := rule(holder, context)))


def judge_all(holders: Sequence[Holder], context: Context) -> dict[int, Verdict]:
    """The verdict on each of the holders, by pid.

    Root holders are judged, and everybody who shares their sockets takes their verdict: if one of
    those who share is kept, all of them are, for a signal to one can break the others.
    """
    verdicts: dict[int, Verdict] = {}
    for group in _groups(holders):
        # Ancestors that form a circle leave no root; then each is judged.
        judged = {holder.pid: judge(holder, context) for holder in roots(group) or group}
        for holder in group:
            if holder.pid not in judged and (verdict := veto(holder, context)):
                judged[holder.pid] = verdict
        keeper = next((holder for holder in group if _kept(judged.get(holder.pid))), None)
        deciding = keeper or next(holder for holder in group if holder.pid in judged)
        for holder in group:
            own = judged.get(holder.pid)
            if own is not None and (keeper is None or _kept(own)):
                verdicts[holder.pid] = own
            else:
                verdicts[holder.pid] = _as_for(deciding, judged[deciding.pid], holder)
    return verdicts


def veto(holder: Holder, context: Context) -> Verdict | None:
    """What keeps a holder even where its root may be stopped; None if nothing does."""
    for rule in (_self, _container, _protected):
        if verdict := rule(holder, context):
            return verdict
    return None


def judge_supervisor(new: Holder, old: Iterable[Holder], context: Context) -> Supervisor | None:
    """Who started a holder again after the *old* ones were stopped, and may it be stopped itself.

    The supervisor is the live parent that old and new share, be there a wrapper between. It holds
    nothing, so that somebody asked for the port is no reason to stop it: it takes a proof that it
    was left there (rules `own-run`, `left-behind`, `orphan`).
    """
    for at, parent in enumerate(new.lineage):
        if any(same(parent, other) for holder in old for other in holder.lineage):
            if parent.pid == 1 or names.is_listed_reaper(parent):
                return None
            above = _supervisor_as_holder(new, at)
            verdict = judge(above, context)
            if verdict.rule not in ("own-run", "left-behind", "orphan") or verdict.action == "keep":
                rule = "attended" if verdict.action == "stop" else verdict.rule
                name = named(parent)
                verdict = Verdict("keep", rule, f"started again by {name}", f"stop that: {name}")
            return Supervisor(above, verdict)
        if not names.is_wrapper(parent):
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


# The rules, in order. Each gives its verdict, or None where it has nothing to say.


def _self(holder: Holder, context: Context) -> Verdict | None:
    process = holder.process
    who = f"{names.program(process) or '?'}, pid {process.pid}"
    # By the pid alone: those are alive, so that nobody else can have their pids.
    if any(process.pid == own.pid for own in context.ours):
        if any(map(names.is_test_runner, holder.upward())):
            reason = f"held by this test run itself ({who})"
        elif process.pid == context.caller.pid:
            reason = f"held by this very process ({who})"
        else:
            reason = f"held by an ancestor of this very process ({who})"
    elif _is_siblings(holder, context):
        reason = f"held by this test run itself ({who}, by way of pytest-xdist)"
    else:
        return None
    # An ancestor may be one that has better advice: systemd, sshd, an editor.
    protected = _protected(holder, context)
    instead = "close it where it was opened, or give the tests another port"
    return Verdict("keep", "self", reason, protected.instead if protected else instead)


def _is_siblings(holder: Holder, context: Context) -> bool:
    """Whether it belongs to our xdist controller, and to none of its workers but another one."""
    controller = context.xdist_controller
    if controller is None or holder.descends_from(context.caller):
        return False
    if holder.descends_from(controller):
        return True
    # A worker's server that has been daemonised descends from nobody, but bears the worker's name.
    # What was there before our controller, or was born in another run, comes from other workers.
    worker = holder.mark(XDIST_WORKER)
    return (
        worker not in ("", context.caller.marks[XDIST_WORKER])
        and _older(controller, holder.process)
        and not _foreign_runs(holder, context)
    )


def _own_run(holder: Holder, context: Context) -> Verdict | None:
    if names.is_container_engine(holder.process):
        return None  # podman's descend from who called it, and end with their container
    known = not _unread(holder, context)
    if (
        known
        and context.ending
        and context.ending in runs.elements(holder.process.marks.get(runs.RUN_ID, ""))
    ):
        return Verdict("stop", "own-run", _born(holder, "started in this run"))
    foreign = _foreign_runs(holder, context)
    if holder.live_runs.intersection(foreign):
        return None  # it descends from us by way of a run that goes on: rule live-run
    # What was born in a run that has ended is not for this one: nox opens one after the other.
    if context.phase == "before" and not foreign and _may_be_for_this_run(holder, context):
        return Verdict(
            "keep",
            "own-run",
            "started for this run already",
            "nothing, if the tests are to use it; otherwise start it later, or on another port",
        )
    # Where one run surrounds another in the same process, descent does not tell them apart.
    if (
        known
        and holder.descends_from(context.caller)
        and not (context.phase == "after" and _surrounding_here(context))
    ):
        return Verdict("stop", "own-run", _born(holder, "started by this very process"))
    return None


def _may_be_for_this_run(holder: Holder, context: Context) -> bool:
    # What was started after us, in a test, and has been adopted since: a conftest.py, say, has
    # daemonised it while it was imported.
    return holder.descends_from(context.caller) or (
        _born_in_a_test(holder) and _older(context.caller, holder.process)
    )


def _container(holder: Holder, context: Context) -> Verdict | None:
    process = holder.process
    engine = "podman" if any(map(names.is_podman, holder.upward())) else "docker"
    publishes = names.is_container_engine(process)
    container = _other_container(holder, context)
    if holder.engine and (publishes or container):
        tie = "published by" if publishes else "runs in"
        stop = f"{engine} stop {shlex.quote(holder.engine.split()[0])}"
        return Verdict("keep", "container", f"{tie} container {holder.engine}", stop)
    if publishes:
        port = argument(min(holder.ports)) if holder.ports else "PORT"
        # Podman knows no such filter, and says "is an invalid filter".
        find = "podman ps" if engine == "podman" else f"docker ps --filter publish={port}"
        return Verdict(
            "keep",
            "container",
            f"{named(process)} publishes the port for a container",
            f"{find}, then: {engine} stop NAME",
        )
    if container:
        return Verdict(
            "keep",
            "container",
            f"runs in another container ({_short(container)})",
            "stop that container"
            + (
                f": docker stop {_short(container)}, or the same with podman"
                if _CONTAINER_ID.fullmatch(container)
                else ""
            ),
        )
    # The first process adopts every orphan: to have it for an ancestor says nothing.
    if any(p.pid in context.main_service for p in holder.upward() if p.pid != 1) or (
        process.pid == 1 and context.main_service
    ):
        return Verdict(
            "keep",
            "container",
            "it is the main service of this container",
            "give the tests another port, or a container of their own: docker compose run",
        )
    return None


def _other_container(holder: Holder, context: Context) -> str:
    """The container that it runs in, if that is not ours: its id, or ``"?"``; else empty."""
    if holder.process.container is not None:
        return holder.process.container
    # Where the system does not tell, it still descends from the parent of all that is in it, whose
    # command line has the id.
    shims = (p for p in holder.lineage if names.is_container_shim(p) and not context.is_ours(p))
    if shim := next(shims, None):
        return next(filter(_CONTAINER_ID.fullmatch, shim.argv), "?")
    return ""


def _short(container: str) -> str:
    return container[:12] if _CONTAINER_ID.fullmatch(container) else container


def _protected(holder: Holder, context: Context) -> Verdict | None:
    process = holder.process
    numbers = {port.number for port in holder.ports}
    if context.platform == "win32" and process.pid <= 4:
        what = "the Windows kernel, which serves HTTP for other programs"
        instead = "netsh http show servicestate names them"
    elif context.platform == "linux" and names.is_systemd(process):
        user = "" if process.pid == 1 else "--user "
        what = "the service manager, which keeps the port open for a service"
        instead = f"systemctl {user}list-sockets names its socket unit: systemctl {user}stop that"
    elif process.pid == 1:
        what = "the first process of this system or container"
        instead = "give the tests another port"
    elif (
        context.platform == "darwin"
        and numbers & {5000, 7000}
        and "controlce" in process.name.lower()
    ):
        what = "AirPlay Receiver of macOS"
        instead = "System Settings, General, AirDrop & Handoff: turn AirPlay Receiver off"
    elif names.is_forwarder(process):
        what, instead = (
            "it forwards the port to another machine",
            "end the forwarding where it was started",
        )
    elif names.is_editor_helper(process):
        what = "it belongs to an editor, which may be forwarding the port"
        instead = "close the port in the editor's list of forwarded ports"
    elif names.is_operating_system(process, context.platform):
        what, instead = "part of the operating system", "give the tests another port"
    else:
        return None
    return Verdict("keep", "protected", f"{named(process)}: {what}", instead)


def _unknown(holder: Holder, context: Context) -> Verdict | None:
    missing = _unread(holder, context)
    known = holder.pinned and holder.process.owner is not None
    if not missing or (known and not _in_reach(holder, context)):
        return None  # that it is somebody else's says more: rule other-user
    pid = holder.pid
    look = f'tasklist /v /fi "pid eq {pid}"' if context.platform == "win32" else f"ps -fp {pid}"
    return Verdict(
        "keep", "unknown", missing, f"try again; if that does not help, look at it: {look}"
    )


def _unread(holder: Holder, context: Context) -> str:
    """What it takes to know a holder, and could not be had; empty if it is known."""
    if not holder.pinned:
        return "it could not be pinned, so that a signal might reach another process"
    if holder.process.owner is None:
        return "whose it is could not be read"
    # macOS shows the environment of hardly any process: there rule live-run makes allowance for it.
    if not holder.process.complete and context.platform != "darwin":
        return "its environment could not be read, so that it may belong to a run that goes on"
    return ""


def _other_user(holder: Holder, context: Context) -> Verdict | None:
    if _in_reach(holder, context):
        return None
    who = holder.user or str(holder.process.owner)
    again = f"portfree --scope any {_ports(holder)}"
    if context.platform == "win32":
        again = f"as an administrator: {again}"
    elif not context.privileged:
        again = f"sudo {again}"
    return Verdict(
        "keep", "other-user", f"it belongs to {who}", f"ask {who} to stop it, or: {again}"
    )


def _in_reach(holder: Holder, context: Context) -> bool:
    """Whether it is ours, or other users' processes were asked for and the kernel lets us."""
    return holder.process.owner in context.owners or (context.scope == "any" and context.privileged)


def _live_run(holder: Holder, context: Context) -> Verdict | None:
    if context.scope == "any":
        return None
    for run in _foreign_runs(holder, context):
        if run in holder.live_runs:
            runner = next((p for p in holder.lineage if _is_runner(p)), None)
            return _in_use(runner, holder, context, f"another run (pid {run.split('.')[0]})")
    if surrounding := _in_surrounding_run(holder, context):
        return surrounding
    runner = next((p for p in holder.upward() if _is_runner(p)), None)
    if runner is not None and not context.is_ours(runner):
        return _in_use(runner, holder, context)
    for variable in CI_JOB_IDS:
        job = holder.mark(variable)
        if job and job != context.jobs.get(variable) and _may_live(variable, job, context):
            return _in_use(None, holder, context, f"another CI job ({variable} {job})")
    if runner is not None and _is_in_another_step(holder, runner, context):
        return _in_use(None, holder, context, "another step of this CI job, which goes on")
    # A run that has ended tells who has left it. One that is ours too, or none, tells nothing.
    told = bool(_foreign_runs(holder, context))
    born = _born_in_a_test(holder) or not holder.process.complete
    # A runner that is the first process of a container adopts what other runners have started.
    adopted = runner is None or runner.pid == 1
    if adopted and born and not told:
        for neighbour in context.neighbours:
            if _may_have_started(neighbour, holder):
                return _in_use(neighbour.process, holder, context)
    return None


def _in_surrounding_run(holder: Holder, context: Context) -> Verdict | None:
    """For a hook: keep what belongs to the live run that surrounds its own (pytest in pytest)."""
    if context.phase == "call":
        return None
    born_in = _runs(holder)
    if born_in:
        # What was born further in, in a run that has ended, was left there.
        surrounds = not _foreign_runs(holder, context) and born_in[-1] in holder.live_runs
        return _in_use(None, holder, context, "the run around this one") if surrounds else None
    if _surrounding_here(context) and (
        holder.descends_from(context.caller) or _may_be_for_this_run(holder, context)
    ):
        return _in_use(context.caller, holder, context)
    # A conftest.py that is imported before a run begins gives its servers no id.
    if holder.mark("PYTEST_VERSION") and not holder.test:
        for process in context.lineage:
            older = _older(process, holder.process) and not _older(context.caller, holder.process)
            if older and names.is_pytest(process):
                return _in_use(process, holder, context)
    return None


def _surrounding_here(context: Context) -> bool:
    """Whether the run that ends or begins lies within another one of the same process."""
    return any(element.split(".")[0] == str(context.caller.pid) for element in context.run)


def _is_in_another_step(holder: Holder, runner: Process, context: Context) -> bool:
    """Whether our own CI agent runs it in a step beside ours (``background: true``).

    What a step that is over has left behind was adopted, and descends from no agent any more.
    """
    if not names.is_ci_agent(runner):
        return False
    chain = list(holder.upward())
    at = chain.index(runner)
    return at > 0 and not any(context.is_ours(process) for process in chain[:at])


def _is_runner(process: Process) -> bool:
    return names.is_test_runner(process) or names.is_ci_agent(process)


def _runs(holder: Holder) -> tuple[str, ...]:
    return runs.elements(holder.mark(runs.RUN_ID))


def _foreign_runs(holder: Holder, context: Context) -> tuple[str, ...]:
    """The runs that it was born in and we were not, outermost first."""
    return runs.beyond(_runs(holder), context.run)


def _may_live(variable: str, job: str, context: Context) -> bool:
    """Whether a CI job may be going on.

    False must mean that it has ended: nobody who descends from a CI agent carries its id, and no
    agent is at work but those that we descend from ourselves.
    """
    return any(
        (names.is_ci_agent(near.process) and not names.is_idle_agent(near.process))
        or (near.process.marks.get(variable) == job and any(map(names.is_ci_agent, near.lineage)))
        for near in context.neighbours
    )


def _may_have_started(neighbour: Neighbour, holder: Holder) -> bool:
    """Whether an unrelated test runner may be the one that started an adopted holder."""
    return (
        names.is_test_runner(neighbour.process)
        and _older(neighbour.process, holder.process)
        # A server that has gone to / or to a temporary directory does not tell its project.
        and (holder.project is None or holder.project == neighbour.project)
    )


def _in_use(runner: Process | None, holder: Holder, context: Context, what: str = "") -> Verdict:
    who = named(runner) if runner else what
    cwd = (runner.cwd if runner else None) or holder.process.cwd
    return Verdict(
        "keep",
        "live-run",
        f"in use by {who} in {context.path(cwd)}",
        "wait until that is done (--wait SECONDS), or give one of the two another port; "
        f"to stop it all the same: portfree --scope any {_ports(holder)}",
    )


def _left_behind(holder: Holder, context: Context) -> Verdict | None:
    foreign = _foreign_runs(holder, context)
    if holder.live_runs.intersection(foreign):
        return None
    for mark in MARKS:
        if mark == runs.RUN_ID and not foreign:
            continue  # an id that is ours too proves nothing
        if was_left(holder, mark):
            return Verdict(
                "stop", "left-behind", _born(holder, "the run that started it has ended")
            )
    return None


def _service(holder: Holder, context: Context) -> Verdict | None:
    process, unit = holder.process, holder.process.unit
    if unit is None or unit == context.unit:
        return None
    # Such a unit holds what others start, and the one who lets them: cron, Emacs, a CI agent.
    lets = names.is_multiplexer(process) or names.is_ci_agent(process)
    if names.is_launcher_unit(unit) and not lets:
        return None
    starter = launcher(holder)
    if starter and starter.process and starter.process.terminal:
        return None  # somebody typed it, in a terminal that happens to live in that unit
    match context.platform:
        case "darwin" if unit.startswith("application."):
            stop = "quit that application"
        case "darwin":
            stop = f"launchctl bootout gui/$UID/{shlex.quote(unit)} (or: brew services stop)"
        case "win32":
            stop = f'as an administrator: sc.exe stop "{unit}"'
        case _:
            by_user = any(names.is_systemd(p) and p.pid != 1 for p in holder.lineage)
            stop = f"systemctl {'--user ' if by_user else ''}stop {shlex.quote(unit)}"
    return Verdict("keep", "service", f"it is the service {unit}", stop)


def _orphan(holder: Holder, context: Context) -> Verdict | None:
    if not _in_project(holder, context) or launcher(holder) is not None:
        return None
    if names.is_multiplexer(holder.process):
        return None  # it is meant to outlive who started it
    return Verdict(
        "stop", "orphan", f"nobody looks after it, and it runs in {context.path(context.project)}"
    )


def _in_project(holder: Holder, context: Context) -> bool:
    cwd, project = holder.process.cwd, context.project
    if cwd is None or project is None or project == context.home:
        return False
    place = PurePath(project)
    return place != PurePath(place.anchor) and PurePath(cwd).is_relative_to(place)


def _mine(holder: Holder, context: Context) -> Verdict | None:
    if context.scope == "orphans":
        return None
    starter = launcher(holder)
    by = f"started by {starter}" if starter else "nobody looks after it"
    return Verdict("stop", "mine", f"{by}, and scope {context.scope} takes it in")


def _attended(holder: Holder, context: Context) -> Verdict:
    process = holder.process
    starter = launcher(holder)
    where = context.path(process.cwd)
    if starter:
        reason = f"started by {starter} in {where}"
    elif _in_project(holder, context):
        reason = f"{named(process)} is meant to run on by itself, and runs in {where}"
    elif context.project is None:
        reason = (
            f"nobody looks after it, but it runs in {where}, and we are in no project: "
            "there is no pyproject.toml or .git here or above"
        )
    else:
        reason = (
            f"nobody looks after it, but it runs in {where}, not in {context.path(context.project)}"
        )
    return Verdict("keep", "attended", reason, f"stop it there, or: portfree {_ports(holder)}")


RULES: tuple[Callable[[Holder, Context], Verdict | None], ...] = (
    _self,
    _own_run,
    _container,
    _protected,
    _unknown,
    _other_user,
    _live_run,
    _left_behind,
    _service,
    _orphan,
    _mine,
    _attended,
)


def _born_in_a_test(holder: Holder) -> bool:
    return any(holder.mark(mark) for mark in _BORN_IN_A_TEST)


def _born(holder: Holder, otherwise: str) -> str:
    if holder.test:
        return f"started in {holder.test}"
    if session := holder.mark("NOX_CURRENT_SESSION"):
        return f"started in nox session {session}"
    if folder := holder.mark("TOX_ENV_DIR"):
        return f"started in tox environment {PurePath(folder).name}"
    return otherwise


def _older(one: Process, other: Process) -> bool:
    return one.start <= other.start


def _ports(holder: Holder) -> str:
    return " ".join(map(argument, sorted(holder.ports)))


def _kept(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.action == "keep"


def _as_for(deciding: Holder, verdict: Verdict, holder: Holder) -> Verdict:
    ids = {socket.id for socket in deciding.sockets}
    shares = any(socket.id in ids for socket in holder.sockets)
    tie = "shares the socket of" if shares else "belongs to the same server as"
    return verdict._replace(reason=f"{tie} {named(deciding.process)}: {verdict.reason}")


def _groups(holders: Iterable[Holder]) -> list[list[Holder]]:
    """The holders, sorted into groups that stand or fall together: they share a socket, or one is
    the other's ancestor on the same port.
    """
    everybody = list(holders)
    groups: list[list[Holder]] = []
    for holder in everybody:
        ties = {socket.id for socket in holder.sockets}
        leaders = {found.pid for port in holder.ports if (found := leader(holder, everybody, port))}
        tied = [
            group
            for group in groups
            if any(
                other.pid in leaders
                or ties & {socket.id for socket in other.sockets}
                or (any(p.pid == holder.pid for p in other.lineage) and other.ports & holder.ports)
                for other in group
            )
        ]
        groups = [group for group in groups if group not in tied]
        groups.append([*(other for group in tied for other in group), holder])
    return groups
