"""May this holder be stopped, and why: twelve rules, and the first that matches decides.

Pure: a holder and a context in, a verdict out, no look at the machine. Whatever could not be read
arrives here as "unknown", and unknown means keep: every ``stop`` names its proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Literal

from portfree import names, runs
from portfree.holder import Holder, launcher, leader, named, roots, same, was_left
from portfree.report import Scope, Verdict
from portfree.system.boundary import CI_JOB_IDS, MARKS, XDIST_WORKER, Process

Phase = Literal["call", "before", "after"]
"""When portfree acts: because somebody called it, or as a hook, before or after a run."""

_BORN_IN_A_TEST = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION", "NOX_CURRENT_SESSION", "TOX_ENV_DIR")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A live test runner or CI agent, or a process that carries a CI job's id: neither the caller nor
    one of its ancestors."""

    process: Process
    lineage: tuple[Process, ...] = ()
    project: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
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
    jobs: Mapping[str, str] = field(default_factory=dict)
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
        if self.home and (path == self.home or path.startswith(self.home + "/")):
            return "~" + path[len(self.home) :]
        return path


@dataclass(frozen=True, slots=True)
class Supervisor:
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
        judged = {holder.pid: judge(holder, context) for holder in roots(group)}
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
                verdicts[holder.pid] = _shared(judged[deciding.pid], deciding)
    return verdicts


def veto(holder: Holder, context: Context) -> Verdict | None:
    """What keeps a holder even if it is no root and its root may be stopped; None if nothing does."""
    for rule in (_self, _container, _protected):
        if verdict := rule(holder, context):
            return verdict
    return None


def judge_supervisor(new: Holder, old: Iterable[Holder], context: Context) -> Supervisor | None:
    """Who started a holder again after the *old* ones were stopped, and may it be stopped itself.

    The supervisor is the live parent that old and new share, be there a wrapper between. It holds
    nothing, so that somebody asked for the port is no reason to stop it: it takes a proof that it was
    left there (rules `own-run`, `left-behind`, `orphan`).
    """
    for at, parent in enumerate(new.lineage):
        if any(same(parent, other) for holder in old for other in holder.lineage):
            if parent.pid == 1 or names.is_listed_reaper(parent):
                return None
            above = replace(
                new, process=parent, sockets=frozenset(), lineage=new.lineage[at + 1 :], pinned=True
            )
            verdict = judge(above, context)
            if verdict.rule not in ("own-run", "left-behind", "orphan") or verdict.action == "keep":
                rule = "attended" if verdict.action == "stop" else verdict.rule
                name = named(parent)
                verdict = Verdict("keep", rule, f"started again by {name}", f"stop that: {name}")
            return Supervisor(above, verdict)
        if not names.is_wrapper(parent):
            return None
    return None


# The rules, in order. Each gives its verdict, or None where it has nothing to say.


def _self(holder: Holder, context: Context) -> Verdict | None:
    process = holder.process
    if context.is_ours(process):
        whom = f"{named(process)}, " + (
            "the caller" if same(process, context.caller) else "an ancestor of the caller"
        )
    elif _is_siblings(holder, context):
        whom = f"{named(process)}, of another worker of pytest-xdist"
    else:
        return None
    return Verdict(
        "keep",
        "self",
        f"held by this test run itself ({whom})",
        "close it where it is opened, or give the tests another port",
    )


def _is_siblings(holder: Holder, context: Context) -> bool:
    """Whether it belongs to our xdist controller, and to none of its workers but another one."""
    controller = context.xdist_controller
    return (
        controller is not None
        and holder.descends_from(controller)
        and not holder.descends_from(context.caller)
    )


def _own_run(holder: Holder, context: Context) -> Verdict | None:
    if context.ending and context.ending in runs.elements(
        holder.process.marks.get(runs.RUN_ID, "")
    ):
        return Verdict("stop", "own-run", _born(holder, "started in this run"))
    if _foreign_run(holder, context) in holder.live_runs:
        return None  # it descends from us by way of a run that goes on: rule live-run
    if context.phase == "before" and _may_be_for_this_run(holder, context):
        return Verdict(
            "keep", "own-run", "started for this run already", "nothing, if that is meant"
        )
    if holder.descends_from(context.caller):
        return Verdict("stop", "own-run", _born(holder, "started by this process"))
    return None


def _may_be_for_this_run(holder: Holder, context: Context) -> bool:
    if holder.descends_from(context.caller):
        return True
    # What was started after us, in a test, and has been adopted since: a conftest.py, say, has
    # daemonised it while it was imported.
    return _born_in_a_test(holder) and _older(context.caller, holder.process)


def _container(holder: Holder, context: Context) -> Verdict | None:
    process = holder.process
    number = min(port.number for port in holder.ports) if holder.ports else 0
    if names.is_container_engine(process):
        if holder.engine:
            stop = f"docker stop {holder.engine.split()[0]}"
            return Verdict("keep", "container", f"published by container {holder.engine}", stop)
        return Verdict(
            "keep",
            "container",
            f"{named(process)} publishes the port for a container",
            f"docker ps --filter publish={number}, then: docker stop NAME",
        )
    if process.container is not None:
        name = process.container[:12]
        stop = "stop that container" if name == "?" else f"docker stop {name}"
        return Verdict("keep", "container", f"runs in another container ({name})", stop)
    if any(p.pid in context.main_service for p in holder.upward()):
        return Verdict(
            "keep",
            "container",
            "it is the main service of this container",
            "give the tests another port, or a container of their own: docker compose run",
        )
    return None


def _protected(holder: Holder, context: Context) -> Verdict | None:
    process = holder.process
    numbers = {port.number for port in holder.ports}
    if process.pid == 1 or (context.platform == "win32" and process.pid <= 4):
        what, instead = "the first process of the system", "give the tests another port"
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
    process = holder.process
    if holder.pinned and process.owner is not None:
        return None
    missing = "who it belongs to could not be read" if holder.pinned else "it could not be pinned"
    return Verdict(
        "keep",
        "unknown",
        f"{missing}, so a signal might reach another process",
        f"try again; if that does not help, look at it: ps -fp {process.pid}"
        if context.platform != "win32"
        else f"try again; if that does not help, look at it: tasklist /fi 'pid eq {process.pid}'",
    )


def _other_user(holder: Holder, context: Context) -> Verdict | None:
    owner = holder.process.owner
    if owner in context.owners:
        return None
    if context.scope == "any" and context.privileged:
        return None
    who = holder.user or str(owner)
    again = f"portfree --scope any {_ports(holder)}"
    return Verdict(
        "keep",
        "other-user",
        f"it belongs to {who}",
        f"ask {who} to stop it, or: "
        + (again if context.privileged or context.platform == "win32" else f"sudo {again}"),
    )


def _live_run(holder: Holder, context: Context) -> Verdict | None:
    if context.scope == "any":
        return None
    if _foreign_run(holder, context) in holder.live_runs:
        runner = next((p for p in holder.lineage if _is_runner(p)), None)
        return _in_use(runner, holder, context, "a run that goes on")
    runner = next((p for p in holder.upward() if _is_runner(p)), None)
    if runner is not None and not context.is_ours(runner):
        return _in_use(runner, holder, context)
    for variable in CI_JOB_IDS:
        job = holder.process.marks.get(variable)
        if job and job != context.jobs.get(variable) and _may_live(variable, job, context):
            return _in_use(None, holder, context, f"another CI job ({variable} {job})")
    if runner is None and _born_in_a_test(holder) and not holder.mark(runs.RUN_ID):
        for neighbour in context.neighbours:
            if _may_have_started(neighbour, holder):
                return _in_use(neighbour.process, holder, context)
    return None


def _is_runner(process: Process) -> bool:
    return names.is_test_runner(process) or names.is_ci_agent(process)


def _foreign_run(holder: Holder, context: Context) -> str | None:
    """The outermost run that it was born in and we were not."""
    return runs.beyond(runs.elements(holder.mark(runs.RUN_ID)), context.run)


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
        "wait until that is done (--wait SECONDS), or give one of the two another port",
    )


def _left_behind(holder: Holder, context: Context) -> Verdict | None:
    for mark in MARKS:
        if mark == runs.RUN_ID and _foreign_run(holder, context) is None:
            continue  # an id that is ours too proves nothing
        if was_left(holder, mark):
            return Verdict(
                "stop", "left-behind", _born(holder, "the run that started it has ended")
            )
    return None


def _service(holder: Holder, context: Context) -> Verdict | None:
    unit = holder.process.unit
    if unit is None or unit == context.unit or names.is_launcher_unit(unit):
        return None
    starter = launcher(holder)
    if starter and starter.process and starter.process.terminal:
        return None  # somebody typed it, in a terminal that happens to live in that unit
    match context.platform:
        case "darwin":
            stop = f"launchctl bootout gui/$UID/{unit} (or: brew services stop)"
        case "win32":
            stop = f"sc stop {unit}"
        case _:
            by_user = any("--user" in p.argv for p in holder.lineage if p.pid != 1)
            stop = f"systemctl {'--user ' if by_user else ''}stop {unit}"
    return Verdict("keep", "service", f"it is the service {unit}", stop)


def _orphan(holder: Holder, context: Context) -> Verdict | None:
    cwd = holder.process.cwd
    if not (context.project and cwd and PurePath(cwd).is_relative_to(context.project)):
        return None
    if launcher(holder) is not None:
        return None
    return Verdict(
        "stop", "orphan", f"nobody looks after it, and it runs in {context.path(context.project)}"
    )


def _mine(holder: Holder, context: Context) -> Verdict | None:
    if context.scope == "orphans":
        return None
    starter = launcher(holder)
    by = f", started by {starter}" if starter else ""
    return Verdict("stop", "mine", f"scope {context.scope}{by}")


def _attended(holder: Holder, context: Context) -> Verdict:
    process = holder.process
    starter = launcher(holder)
    if starter:
        reason = f"started by {starter} in {context.path(process.cwd)}"
    elif context.project is None:
        reason = f"nobody looks after it, but there is no project here that {context.path(process.cwd)} is in"
    else:
        reason = (
            f"nobody looks after it, but it runs in {context.path(process.cwd)}, "
            f"not in {context.path(context.project)}"
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
    return " ".join(
        str(port.number) if port.protocol == "tcp" else str(port) for port in sorted(holder.ports)
    )


def _kept(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.action == "keep"


def _shared(verdict: Verdict, other: Holder) -> Verdict:
    return verdict._replace(reason=f"shares the socket of {named(other.process)}: {verdict.reason}")


def _groups(holders: Iterable[Holder]) -> list[list[Holder]]:
    """The holders, sorted into groups that stand or fall together: they share a socket, or one is the
    other's ancestor on the same port."""
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
                or any(p.pid == holder.pid for p in other.lineage)
                and other.ports & holder.ports
                for other in group
            )
        ]
        groups = [group for group in groups if group not in tied]
        groups.append([*(other for group in tied for other in group), holder])
    return groups
