"""Stop holders: politely first, for sure in the end, and never anybody else.

Every signal goes through a pin, to a process that was just seen with the socket. Root holders are
signalled, and what they started follows them: workers that are signalled first are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import ExitStack

from portfree._core.ancestry import Holder, named, roots, same
from portfree._core.ports import Port
from portfree._core.survey import Survey, survey
from portfree._system.interface import Pin, Signal, System
from portfree.model import Verdict

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


class Target:
    """A holder that may be stopped, and what was done to it."""

    def __init__(
        self,
        holder: Holder,
        pin: Pin,
        why: Verdict | None = None,
        *,
        root: bool = True,
        restarts: frozenset[Port] = frozenset(),
    ) -> None:
        """*why*: the verdict that lets us stop it. *restarts*: for a supervisor, which holds no
        socket, the ports on which it starts servers again; it is done with when it has ended.
        """
        self.holder = holder
        self.pin = pin
        self.why = why
        self.root = root
        self.restarts = restarts
        self.sent: list[Signal] = []
        self.refused = ""
        self.ended_after: float | None = None
        """Seconds from the first signal until it was seen to have ended, or let go."""
        self.lives = True
        """Whether it was still alive when we were done."""


def longest(grace: float) -> float:
    """The seconds that a call may take: for a server, and for one that is started in its place."""
    return 2 * max(grace, _LEAST_GRACE)


def stop(
    system: System,
    targets: list[Target],
    *,
    grace: float,
    deadline: float,
    approve: Callable[[Survey], Iterable[Holder]],
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
                if target.ended_after is None and not target.pin.alive():
                    target.ended_after = now - started
            left = _left(system, ports, ids)
            waiting = [target for target in targets if target.pin.alive()]
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
                [target.pin for target in waiting], max(0.0, min(_LOOK_EVERY, until - system.now()))
            )
        _conclude(system, targets, started, deadline)


def _left(system: System, ports: Collection[Port], ids: set[Hashable]) -> set[Hashable]:
    """Which of the sockets are still there."""
    try:
        return ids & {socket.id for socket in system.sockets(ports)}
    except OSError:
        return ids  # nobody was seen to let go


def _all_refuse(waiting: Collection[Target]) -> bool:
    """Whether the system has refused our signals to every root that is left."""
    at_the_top = [target for target in waiting if target.root]
    return bool(at_the_top) and all(target.refused for target in at_the_top)


def _signal(system: System, targets: Iterable[Target], what: Signal, ids: set[Hashable]) -> None:
    for target in targets:
        if not (target.root or what == "KILL"):
            continue
        if target.restarts or system.holds(target.holder.pid, ids):
            _send(target, what)


def _signal_again(
    system: System,
    targets: list[Target],
    stage: Signal,
    ports: Collection[Port],
    ids: set[Hashable],
    approve: Callable[[Survey], Iterable[Holder]],
    late: ExitStack,
) -> bool:
    """Look who holds the sockets now, and signal those; False if there is nobody that we may."""
    with survey(system, ports) as seen:
        holders = [holder for holder in approve(seen) if ids & {s.id for s in holder.sockets}]
        chosen = holders if stage == "KILL" else roots(holders)
        for holder in chosen:
            target = _find(targets, holder) or _add(targets, holder, seen, late)
            if target is None or not system.holds(holder.pid, ids):
                continue
            # A worker whose master has ended becomes a root, and has not been asked politely yet.
            if stage != "KILL" and "TERM" not in target.sent:
                _send(target, "TERM")
            elif stage not in target.sent:
                _send(target, stage)
    supervisors = [target for target in targets if target.restarts and target.pin.alive()]
    for target in supervisors:
        if stage not in target.sent:
            _send(target, stage)
    return bool(holders or supervisors)


def _send(target: Target, what: Signal) -> None:
    try:
        if target.pin.send(what):
            target.sent.append(what)
            if what == "TERM":
                # A stopped process (Ctrl-Z, SIGTTIN) gets no other signal before this one.
                target.pin.send("CONT")
    except OSError as error:  # PermissionError, or a sandbox that knows no such call
        target.refused = str(error)


def _find(targets: Iterable[Target], holder: Holder) -> Target | None:
    return next((t for t in targets if same(t.holder.process, holder.process)), None)


def _add(targets: list[Target], holder: Holder, seen: Survey, late: ExitStack) -> Target | None:
    """A target for a worker that was started since the others were chosen.

    Its pin outlives the survey that made it: until all is done, we look whether it has ended.
    """
    pin = seen.pin(holder)
    if pin is None:
        return None
    seen.pins.remove(pin)
    late.callback(pin.close)
    of = next((t.why for t in targets if holder.descends_from(t.holder.process)), None)
    target = Target(holder, pin, of, root=False)
    targets.append(target)
    return target


def _conclude(system: System, targets: Collection[Target], started: float, deadline: float) -> None:
    pending = [target for target in targets if target.ended_after is None]
    linger = min(_LINGER, deadline - system.now())
    if pending and linger > 0:
        system.wait([target.pin for target in pending], linger)
    for target in targets:
        target.lives = target.pin.alive()
    for target in pending:
        ids = {socket.id for socket in target.holder.sockets}
        let_go = ids and not system.holds(target.holder.pid, ids)
        if not target.lives or let_go:
            target.ended_after = system.now() - started


def what_became(target: Target, *, polite: bool) -> str:
    """What became of a target, in words; empty if nothing was done to it and it lives on."""
    after = " after " + " and ".join(f"SIG{name}" for name in target.sent) if target.sent else ""
    if target.refused and target.lives:
        return f"the system refused the signal{after} ({target.refused})"
    if not polite and target.sent and not target.lives:
        return "terminated"
    if target.ended_after is None:
        goes_on = "goes on" if target.restarts else "still holds the port"
        return f"{goes_on}{after}" if after else ""
    if target.lives:
        return f"let go of the port{after}, still draining"
    if after:
        return f"ended{after}"
    return "ended by itself" if target.root else "ended with the process that it belongs to"


def _waiting_for(waiting: Collection[Target], ports: Iterable[Port], left: float) -> str:
    # Workers only if their master has ended before them.
    heads = [target for target in waiting if target.root] or waiting
    who = ", ".join(named(target.holder.process) for target in heads) or "the kernel"
    what = ", ".join(str(port) for port in sorted(ports))
    patience = f", {left:.1f} s more before it is killed" if left > 0 else ""
    return f"waiting for {who} to let go of {what}{patience}"
