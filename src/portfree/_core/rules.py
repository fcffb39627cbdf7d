"""May this holder be stopped, and why: twelve rules, and the first that matches decides.

Pure: no look at the machine. What could not be read arrives here as "unknown", and unknown means
keep: every ``stop`` names its proof.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import PurePath

from portfree._core import programs, redact
from portfree._core.ancestry import Holder, launcher, named
from portfree._core.context import Context
from portfree._core.marks import asks_to_stay, birth, foreign_runs, is_siblings, may_be_for_this_run
from portfree._core.ports import argument
from portfree.model import Advice, Verdict

_CONTAINER_ID = re.compile("[0-9a-f]{12,64}")


# The rules, in order. Each gives its verdict, or None where it has nothing to say.


def self_(holder: Holder, context: Context) -> Verdict | None:
    process = holder.process
    which = f"{programs.program(process) or '?'}, pid {process.pid}"
    # The pid alone is enough: our ancestors are alive, so no other process has their pids.
    if any(process.pid == own.pid for own in context.ours):
        if any(map(programs.is_test_runner, holder.upward())):
            reason = f"held by this test run itself ({which})"
        elif process.pid == context.caller.pid:
            reason = f"held by this very process ({which})"
        else:
            reason = f"held by an ancestor of this very process ({which})"
    elif is_siblings(holder, context):
        reason = f"held by this test run itself ({which}, by way of pytest-xdist)"
    else:
        return None
    # For some ancestors there is better advice: systemd, sshd, an editor.
    better = protected(holder, context)
    instead = "close it where it was opened, or give the tests another port"
    return Verdict("keep", "self", reason, better.instead if better else instead)


def own_run(holder: Holder, context: Context) -> Verdict | None:
    if programs.is_container_engine(holder.process):
        return None  # podman's descend from their caller, and end with their container
    origin = holder.origin
    begins = context.phase == "before"
    may_stop = not _unread(holder, context) and not _may_stay(holder, context)
    if may_stop and origin and origin.ours and not begins:
        came_up = "it came up during this run, on a port that was free before, by itself"
        why = came_up if origin.evidence == "arrival" else "started in this run"
        return Verdict("stop", "own-run", birth(holder) or why)
    foreign = foreign_runs(holder, context)
    if holder.live_runs.intersection(foreign):
        return None  # it descends from us by way of a run that goes on: rule live-run
    # What was born in a run that has ended is not for this one: nox opens one after the other.
    ended = origin is not None and origin.state == "ended" and origin.evidence != "mark"
    if begins and not foreign and not ended and may_be_for_this_run(holder, context):
        do = "nothing, if the tests are to use it; otherwise start it later, or on another port"
        return Verdict("keep", "own-run", "started for this run already", do)
    # Where one run surrounds another in the same process, descent does not tell them apart.
    two_runs = context.phase == "after" and context.surrounded_here
    if may_stop and holder.descends_from(context.caller) and not two_runs:
        return Verdict("stop", "own-run", birth(holder) or "started by this very process")
    return None


def _may_stay(holder: Holder, context: Context) -> bool:
    return context.scope == "orphans" and bool(asks_to_stay(holder, context))


def container(holder: Holder, context: Context) -> Verdict | None:
    process, name = holder.process, holder.engine
    engine = "podman" if any(map(programs.is_podman, holder.upward())) else "docker"
    publishes = programs.is_container_engine(process)
    other = process.container or ""  # an id, or "?", if it is not ours
    if process.container is None:
        # Where the system does not tell, the container's first parent has the id in its argv.
        shims = filter(programs.is_container_shim, holder.lineage)
        if shim := next((p for p in shims if not context.is_ours(p)), None):
            other = next(filter(_CONTAINER_ID.fullmatch, shim.argv), "?")
    if name and (publishes or other):
        reason = f"{'published by' if publishes else 'runs in'} container {name}"
        instead = f"{engine} stop {shlex.quote(name.split()[0])}"
    elif publishes and name is None and programs.program(process) == "docker-proxy":
        reason = f"{named(process)} publishes the port for a container that {engine} does not know"
        reason += " (any more)"
        instead = f"{engine} ps -a names those that are stopped; if it is gone: sudo kill "
        instead += str(process.pid)
    elif publishes:
        reason = f"{named(process)} publishes the port for a container"
        port = argument(min(holder.ports)) if holder.ports else "PORT"
        # Podman knows no such filter, and says "is an invalid filter".
        find = "podman ps" if engine == "podman" else f"docker ps --filter publish={port}"
        instead = f"{find}, then: {engine} stop NAME"
    elif _CONTAINER_ID.fullmatch(other):
        reason = f"runs in another container ({other[:12]})"
        instead = f"stop that container: docker stop {other[:12]}, or the same with podman"
    elif other:
        reason, instead = f"runs in another container ({other})", "stop that container"
    # The first process adopts all orphans: to have it for an ancestor proves nothing.
    elif any(p.pid in context.main_service for p in holder.upward() if p.pid != 1) or (
        process.pid == 1 and context.main_service
    ):
        reason = "it is the main service of this container"
        instead = "give the tests another port, or a container of their own: docker compose run"
    else:
        return None
    return Verdict("keep", "container", reason, instead)


def protected(holder: Holder, context: Context) -> Verdict | None:
    process = holder.process
    airplay = {port.number for port in holder.ports} & {5000, 7000}
    if context.platform == "win32" and process.pid <= 4:
        what = "the Windows kernel, which serves HTTP for other programs"
        instead = "netsh http show servicestate names them"
    elif context.platform == "linux" and programs.is_systemd(process):
        user = "" if process.pid == 1 else "--user "
        what = "the service manager, which keeps the port open for a service"
        instead = f"systemctl {user}list-sockets names its socket unit: systemctl {user}stop that"
    elif process.pid == 1:
        what = "the first process of this system or container"
        instead = "give the tests another port"
    elif context.platform == "darwin" and airplay and "controlce" in process.name.lower():
        what = "AirPlay Receiver of macOS"
        instead = "System Settings, General, AirDrop & Handoff: turn AirPlay Receiver off"
    elif programs.is_editor_helper(process):
        what = "it belongs to an editor, which may be forwarding the port"
        instead = "close the port in the editor's list of forwarded ports"
    elif programs.is_operating_system(process, context.platform):
        what, instead = "part of the operating system", "give the tests another port"
    else:
        return None
    return Verdict("keep", "protected", f"{named(process)}: {what}", instead)


def unknown(holder: Holder, context: Context) -> Verdict | None:
    missing, pid = _unread(holder, context), holder.pid
    known = holder.pinned and holder.process.owner is not None
    if not missing or (known and not _in_reach(holder, context)):
        return None  # that it is another user's says more: rule other-user
    look = f'tasklist /v /fi "pid eq {pid}"' if context.platform == "win32" else f"ps -fp {pid}"
    instead = f"try again; if that does not help, look at it: {look}"
    return Verdict("keep", "unknown", missing, instead)


def _unread(holder: Holder, context: Context) -> str:
    """What must be known of a holder, and could not be read; empty if all is known."""
    if not holder.pinned:
        return "it could not be pinned, so that a signal might reach another process"
    if holder.process.owner is None:
        return "whose it is could not be read"
    # macOS shows the environment of hardly any process: evidence `unreadable` allows for that.
    if not holder.process.complete and context.platform != "darwin":
        hides = " (it is yours, and hides)" if context.owns(holder) else ""
        return f"its environment could not be read{hides}, so that it may belong to a live run"
    return ""


def other_user(holder: Holder, context: Context) -> Verdict | None:
    if _in_reach(holder, context):
        return None
    owner = holder.user or str(holder.process.owner)
    # A caller that came by sudo needs it again.
    by_sudo = context.caller.owner not in context.owners
    advice = Advice(f"ask {owner} to stop it", privileged=by_sudo or not context.privileged)
    return Verdict("keep", "other-user", f"it belongs to {owner}", advice=advice)


def _in_reach(holder: Holder, context: Context) -> bool:
    """Whether it is ours, or other users' processes were asked for and the kernel lets us."""
    return context.owns(holder) or (context.scope == "any" and context.privileged)


def live_run(holder: Holder, context: Context) -> Verdict | None:
    origin = holder.origin
    if origin is None or origin.state != "live" or origin.ours:
        return None
    # No scope includes what the run that begins has started itself.
    started = context.phase == "before" and holder.descends_from(context.caller)
    if context.scope == "any" and not started:
        return None
    runner, run = origin.runner, origin.run
    cwd = (runner.cwd if runner else None) or holder.process.cwd
    if runner is not None and origin.alone:
        age = f", {redact.age(context.time - runner.started)} old" if runner.started else ""
        run = f"{run.removesuffix(')')}, adopted{age}: nobody waits for its result)"
    reason = f"in use by {run} in {context.path(cwd)}"
    return Verdict("keep", "live-run", reason, advice=Advice())


def left_behind(holder: Holder, context: Context) -> Verdict | None:
    origin = holder.origin
    if origin is None or origin.state != "ended" or _may_stay(holder, context):
        return None
    shared = programs.is_shared_ssh(holder.process)  # others work through it
    return None if shared else Verdict("stop", "left-behind", origin.why)


def service(holder: Holder, context: Context) -> Verdict | None:
    process, unit, chain = holder.process, holder.process.unit, list(holder.upward())
    manager = next(filter(programs.process_manager, chain), None)
    if manager is not None and not context.is_ours(manager):
        app = None
        reason = f"{named(manager)} is a process manager, which may serve other projects too"
        if manager.pid != holder.pid:
            # It knows its own child by a name, not what that has started.
            app = chain[chain.index(manager) - 1]
            reason = f"{named(manager)} looks after it, and would start it again"
        return Verdict("keep", "service", reason, programs.manager_advice(manager, app))
    if unit is None or unit == context.unit:
        return None
    # Such a unit holds what others start, and the program that starts it: cron, Emacs, a CI agent.
    starts = programs.is_multiplexer(process) or programs.is_ci_agent(process)
    if programs.is_launcher_unit(unit) and not starts:
        return None
    starter = launcher(holder)
    if starter and starter.process and starter.process.terminal:
        return None  # it was typed in a terminal that happens to live in that unit
    match context.platform:
        case "darwin" if unit.startswith("application."):
            stop = "quit that application"
        case "darwin":
            stop = f"launchctl bootout gui/$UID/{shlex.quote(unit)} (or: brew services stop)"
        case "win32":
            stop = f'as an administrator: sc.exe stop "{unit}"'
        case _:
            by_user = any(programs.is_systemd(p) and p.pid != 1 for p in holder.lineage)
            stop = f"systemctl {'--user ' if by_user else ''}stop {shlex.quote(unit)}"
    return Verdict("keep", "service", f"it is the service {unit}", stop)


def orphan(holder: Holder, context: Context) -> Verdict | None:
    if not _in_project(holder, context) or launcher(holder) is not None:
        return None
    if programs.is_multiplexer(holder.process) or programs.is_forwarder(holder.process):
        return None  # it is meant to outlive its parent
    if _may_stay(holder, context) or _user_at_work(holder, context):
        return None
    reason = f"nobody looks after it, and it runs in {context.path(context.project)}"
    return Verdict("stop", "orphan", reason)


def _user_at_work(holder: Holder, context: Context) -> Holder | None:
    """A process of our project that is connected to it, as to a debugger's adapter."""
    for user in holder.users:
        # A person uses an editor or a terminal even if its parent has ended.
        attended = launcher(user) is not None or programs.is_multiplexer(user.process)
        if attended and _in_project(user, context) and not context.is_ours(user.process):
            return user
    return None


def _in_project(holder: Holder, context: Context) -> bool:
    cwd, project = holder.process.cwd, context.project
    if cwd is None or project is None or project == context.home:
        return False
    place = PurePath(project)
    if place == PurePath(place.anchor) or not PurePath(cwd).is_relative_to(place):
        return False
    # A repository below ours (a worktree, a clone, a submodule) is another project.
    return holder.repository is None or place.is_relative_to(holder.repository)


def mine(holder: Holder, context: Context) -> Verdict | None:
    if context.scope == "orphans" or programs.is_interactive_ssh(holder.process):
        return None
    starter = launcher(holder)
    by = f"started by {starter}" if starter else "nobody looks after it"
    if context.scope == "project":
        if not _in_project(holder, context):
            return None
        by += f", it runs in {context.path(context.project)}"
    return Verdict("stop", "mine", f"{by}, and scope {context.scope} takes it in")


def attended(holder: Holder, context: Context) -> Verdict:
    """What speaks for it or, where nothing looks after it any more, what proof is missing."""
    process, name, do = holder.process, named(holder.process), "stop it there"
    where, project = context.path(process.cwd), context.path(context.project)
    starter = launcher(holder)
    by = f", started by {starter}" if starter else ""
    if programs.is_interactive_ssh(process):
        reason = f"{name} is a session that somebody works in, started in {where}"
        instead = "end that session, or give the tests another port"
        return Verdict("keep", "attended", reason, instead)
    if process.stopped:
        at = f" at {process.terminal}" if process.terminal else ""
        reason = f"it is suspended (Ctrl-Z{at}){by}, in {where}"
        if at:
            do = f"at {process.terminal}: fg to go on with it, or kill %1 if it is the only job"
    elif asked := asks_to_stay(holder, context):
        reason = f"it asks to be left running ({asked}){by}, in {where}"
    elif starter:
        reason = f"started by {starter} in {where}"
    elif user := _user_at_work(holder, context):
        reason = f"{named(user.process)}, which is looked after, is connected to it, in {where}"
    elif programs.is_forwarder(process):
        reason = f"{name} forwards the port to another machine, as it was told to in {where}"
    elif _in_project(holder, context):
        reason = f"{name} is meant to run on by itself, and runs in {where}"
    elif programs.opens_no_ports(process):
        reason = f"{name} has inherited the socket of a server that ended, in {where}"
    else:
        reason = f"nobody looks after it any more, but it runs in {where}"
        if context.project is None:
            reason += ", and we are in no project: there is no pyproject.toml or .git here or above"
            reason += ", so nothing tells that it is ours to stop"
        elif holder.repository and PurePath(holder.repository).is_relative_to(context.project):
            reason += f", which is a repository of its own below {project}"
        else:
            reason += f", outside of {project}, and nothing shows that a test run has left it"
    return Verdict("keep", "attended", reason, advice=Advice(do, "mine"))


RULES: tuple[Callable[[Holder, Context], Verdict | None], ...] = (
    self_,
    own_run,
    container,
    protected,
    unknown,
    other_user,
    live_run,
    left_behind,
    service,
    orphan,
    mine,
    attended,
)
