"""Stop holders: politely first, for sure in the end, and never anybody else.

Every signal goes through a pin, to a process that was just seen with the socket. Root holders are
signalled, and what they started follows them: workers that are signalled first are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import ExitStack

from portfree._core.ancestry import Holder, named, roots, same
from portfree._core.survey import Survey, Suspect, survey
from portfree._system.interface import Signal, System
from portfree.model import Port

# While nobody ends, the sockets are looked at this often: a server may let go of its port and live.
_LOOK_EVERY = 0.025
# A process that has just let go of its socket is mostly about to end: this long we wait to see it.
_LINGER = 0.02
# After this much waiting the user is told for whom.
_PATIENCE = 0.5
# What the kernel may take to clear up behind SIGKILL before the time of the call is over.
_SETTLE = 0.25
# For the same reason shorter graces than this do not make a call shorter.
_LEAST_GRACE = 0.5


def longest(grace: float) -> float:
    """The seconds that a call may take: for a server, and for one that is started in its place."""
    return 2 * max(grace, _LEAST_GRACE)


def stop(
    system: System,
    targets: list[Suspect],
    *,
    grace: float,
    deadline: float,
    approve: Callable[[Survey], Iterable[Suspect]],
    notify: Callable[[str], None],
) -> None:
    """Stop the targets, and return when nobody holds their sockets any more, or at the *deadline*.

    The root holders get SIGTERM at once, SIGINT after half the *grace* (some servers wait for their
    clients on the one and end at the other), and whoever is left gets SIGKILL at its end. *approve*
    says who of a fresh survey may be signalled: workers may have been started since, and somebody
    else may have the port by now. What was done is left in the targets, to which such workers are
    added.
    """
    ids = {socket.id for target in targets for socket in target.holder.sockets}
    ports = {socket.port for target in targets for socket in target.holder.sockets}
    started = system.now()
    kill_at = min(started + grace, deadline - _SETTLE)
    if grace and kill_at <= started:
        return  # what cannot be ended properly any more is not begun
    due: list[tuple[float, Signal]] = [
        (started, "TERM"),
        (started + (kill_at - started) / 2, "INT"),
        (kill_at, "KILL"),
    ]
    if grace == 0 or not system.polite:
        due = [(started, "KILL")]
    roots_alive = sum(target.root for target in targets)

    with ExitStack() as late:
        _signal(system, targets, due[0][1], ids)
        last = due.pop(0)[1]
        while True:
            now = system.now()
            for target in targets:
                if target.ended_after is None and not target.alive:
                    target.ended_after = now - started
            left = _left(system, ports, ids)
            waiting = [target for target in targets if target.alive]
            if not left and not any(target.restarts for target in waiting):
                break
            # On a slow machine a look may take longer than a stage: none ends before SIGKILL.
            if (now >= deadline and not due) or _all_refuse(waiting):
                break
            next_due = bool(due) and now >= due[0][0]
            while due and now >= due[0][0]:
                last = due.pop(0)[1]
            if next_due or sum(target.root for target in waiting) < roots_alive:
                # A stage of the ladder, or a root has ended and left the socket to others.
                roots_alive = sum(target.root for target in waiting)
                if not _signal_again(system, targets, last, ports, ids, approve, late):
                    break
            if now - started > _PATIENCE:
                notify(_waiting_for(waiting, ports, kill_at - now))
            until = min([deadline, *(at for at, _ in due[:1])])
            system.wait(
                [t.pin for t in waiting if t.pin], max(0.0, min(_LOOK_EVERY, until - system.now()))
            )
        _conclude(system, targets, started, deadline)


def _left(system: System, ports: Collection[Port], ids: set[Hashable]) -> set[Hashable]:
    """Which of the sockets are still there."""
    try:
        return ids & {socket.id for socket in system.sockets(ports)}
    except OSError:
        return ids  # nobody was seen to let go


def _all_refuse(waiting: Collection[Suspect]) -> bool:
    """Whether the system has refused our signals to every root that is left."""
    at_the_top = [target for target in waiting if target.root]
    return bool(at_the_top) and all(target.refused for target in at_the_top)


def _signal(system: System, targets: Iterable[Suspect], what: Signal, ids: set[Hashable]) -> None:
    for target in targets:
        if not (target.root or what == "KILL"):
            continue
        if target.restarts or system.holds(target.holder.pid, ids):
            _send(target, what)


def _signal_again(
    system: System,
    targets: list[Suspect],
    what: Signal,
    ports: Collection[Port],
    ids: set[Hashable],
    approve: Callable[[Survey], Iterable[Suspect]],
    late: ExitStack,
) -> bool:
    """Look who holds the sockets now, and signal those; False if there is nobody that we may."""
    with survey(system, ports) as seen:
        approved = [s for s in approve(seen) if ids & {socket.id for socket in s.holder.sockets}]
        top = {holder.pid for holder in roots([suspect.holder for suspect in approved])}
        for suspect in approved:
            if what != "KILL" and suspect.holder.pid not in top:
                continue
            target = _find(targets, suspect.holder) or _add(targets, suspect, seen, late)
            if target is None or not system.holds(suspect.holder.pid, ids):
                continue
            # A worker whose master has ended becomes a root, and has not been asked politely yet.
            if what != "KILL" and "TERM" not in target.sent:
                _send(target, "TERM")
            elif what not in target.sent:
                _send(target, what)
    supervisors = [target for target in targets if target.restarts and target.alive]
    for target in supervisors:
        if what not in target.sent:
            _send(target, what)
    return bool(approved or supervisors)


def _send(target: Suspect, what: Signal) -> None:
    try:
        if target.pin and target.pin.send(what):
            target.sent.append(what)
            if what == "TERM":
                # A stopped process (Ctrl-Z, SIGTTIN) gets no other signal before this one.
                target.pin.send("CONT")
    except OSError as error:  # PermissionError, or a sandbox that knows no such call
        target.refused = str(error)


def _find(targets: Iterable[Suspect], holder: Holder) -> Suspect | None:
    return next((t for t in targets if same(t.holder.process, holder.process)), None)


def _add(
    targets: list[Suspect], late_one: Suspect, seen: Survey, late: ExitStack
) -> Suspect | None:
    """A target for a worker that was started since the others were chosen.

    Its pin outlives the survey that made it: until all is done, we look whether it has ended.
    """
    if late_one.pin is None:
        return None
    seen.suspects.remove(late_one)
    late.callback(late_one.pin.close)
    tops = (t.verdict for t in targets if late_one.holder.descends_from(t.holder.process))
    late_one.verdict, late_one.root = next(tops, late_one.verdict), False
    targets.append(late_one)
    return late_one


def _conclude(
    system: System, targets: Collection[Suspect], started: float, deadline: float
) -> None:
    pending = [target for target in targets if target.ended_after is None]
    linger = min(_LINGER, deadline - system.now())
    if pending and linger > 0:
        system.wait([t.pin for t in pending if t.pin], linger)
    for target in targets:
        target.lives = target.alive
    for target in pending:
        ids = {socket.id for socket in target.holder.sockets}
        let_go = ids and not system.holds(target.holder.pid, ids)
        if not target.lives or let_go:
            target.ended_after = system.now() - started


def _waiting_for(waiting: Collection[Suspect], ports: Iterable[Port], left: float) -> str:
    # Workers only if their master has ended before them.
    heads = [target for target in waiting if target.root] or waiting
    who = ", ".join(named(target.holder.process) for target in heads) or "the kernel"
    what = ", ".join(str(port) for port in sorted(ports))
    patience = f", {left:.1f} s more before it is killed" if left > 0 else ""
    return f"waiting for {who} to let go of {what}{patience}"
