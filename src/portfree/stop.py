"""Stop holders: politely first, for sure in the end, and never anybody else.

Every signal goes through a pin, to a process that was just seen with the socket. Root holders are
signalled, and what they started follows them: workers that are signalled first are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field

from portfree.holder import Holder, named, roots, same
from portfree.ports import Port
from portfree.survey import Survey, survey
from portfree.system.boundary import Pin, Signal, System

# While nobody ends, the sockets are looked at this often: a server may let go of its port and live.
_LOOK_EVERY = 0.025
# A process that has just let go of its socket is mostly about to end: this long we wait to see it.
_LINGER = 0.02
# After this much waiting the user is told for whom.
_PATIENCE = 0.5
# What the kernel may take to clear up behind SIGKILL before the time of the call is over.
_SETTLE = 0.25


@dataclass(slots=True)
class Target:
    """A holder that may be stopped, and what was done to it."""

    holder: Holder
    pin: Pin
    root: bool = True
    must_end: bool = False
    """For a supervisor, which holds no socket: it is done with when it has ended."""
    sent: list[Signal] = field(default_factory=list)
    refused: str = ""
    ended_after: float | None = None
    """Seconds from the first signal until it was seen to have ended, or let go."""


def stop(
    system: System,
    targets: Collection[Target],
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
    else may have the port by now. What was done is left in the targets.
    """
    ids = {socket.id for target in targets for socket in target.holder.sockets}
    ports = {socket.port for target in targets for socket in target.holder.sockets}
    started = system.now()
    kill_at = min(started + grace, deadline - _SETTLE)
    due: list[tuple[float, Signal]] = [
        (started, "TERM"),
        (started + grace / 2, "INT"),
        (kill_at, "KILL"),
    ]
    if grace == 0 or not system.polite:
        due = [(started, "KILL")]
    roots_alive = sum(target.root for target in targets)

    _signal(system, targets, due[0][1], ids)
    last = due.pop(0)[1]
    while True:
        now = system.now()
        for target in targets:
            if target.ended_after is None and not target.pin.alive():
                target.ended_after = now - started
        left = ids & {socket.id for socket in system.sockets(ports)}
        waiting = [target for target in targets if target.pin.alive()]
        if not left and not any(target.must_end for target in waiting):
            break
        if now >= deadline:
            break
        next_due = bool(due) and now >= due[0][0]
        if next_due:
            last = due.pop(0)[1]
        if next_due or sum(target.root for target in waiting) < roots_alive:
            # A stage of the ladder, or a root has ended and left the socket to others.
            roots_alive = sum(target.root for target in waiting)
            if not _signal_again(system, targets, last, ports, ids, approve):
                break
        if now - started > _PATIENCE:
            notify(_waiting_for(waiting, ports, kill_at - now))
        until = min([deadline, *(at for at, _ in due[:1])])
        system.wait(
            [target.pin for target in waiting], max(0.0, min(_LOOK_EVERY, until - system.now()))
        )
    _conclude(system, targets, started)


def _signal(system: System, targets: Iterable[Target], what: Signal, ids: set[Hashable]) -> None:
    for target in targets:
        if not (target.root or what == "KILL"):
            continue
        if target.must_end or system.holds(target.holder.pid, ids):
            _send(target, what)


def _signal_again(
    system: System,
    targets: Collection[Target],
    stage: Signal,
    ports: Collection[Port],
    ids: set[Hashable],
    approve: Callable[[Survey], Iterable[Holder]],
) -> bool:
    """Look who holds the sockets now, and signal those; False if there is nobody that we may."""
    with survey(system, ports) as seen:
        holders = [holder for holder in approve(seen) if ids & {s.id for s in holder.sockets}]
        chosen = holders if stage == "KILL" else roots(holders)
        for holder in chosen:
            known = _find(targets, holder)
            pin = seen.pin(holder)
            target = known or (Target(holder, pin) if pin else None)
            if target is None or not system.holds(holder.pid, ids):
                continue
            # A worker whose master has ended becomes a root, and has not been asked politely yet.
            if stage != "KILL" and "TERM" not in target.sent:
                _send(target, "TERM")
            elif stage not in target.sent:
                _send(target, stage)
    supervisors = [target for target in targets if target.must_end and target.pin.alive()]
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
    except PermissionError as error:
        target.refused = str(error)


def _find(targets: Iterable[Target], holder: Holder) -> Target | None:
    return next((t for t in targets if same(t.holder.process, holder.process)), None)


def _conclude(system: System, targets: Collection[Target], started: float) -> None:
    pending = [target for target in targets if target.ended_after is None]
    if pending:
        system.wait([target.pin for target in pending], _LINGER)
    for target in pending:
        ids = {socket.id for socket in target.holder.sockets}
        if not target.pin.alive() or not system.holds(target.holder.pid, ids):
            target.ended_after = system.now() - started


def what_became(target: Target, *, polite: bool) -> str:
    """What became of a target, in words; empty if nothing was done to it and it lives on."""
    if target.refused:
        return f"the system refused the signal ({target.refused})"
    if not polite and target.sent and not target.pin.alive():
        return "terminated"
    signals = " and ".join(f"SIG{name}" for name in target.sent)
    alive = target.pin.alive()
    if target.ended_after is None:
        return f"still holds the port after {signals}" if target.sent else ""
    if alive:
        return f"let go of the port after {signals}, still draining"
    if target.sent:
        return f"ended after {signals}"
    return "ended by itself" if target.root else "ended with the process that it belongs to"


def _waiting_for(waiting: Iterable[Target], ports: Iterable[Port], left: float) -> str:
    who = (
        ", ".join(named(target.holder.process) for target in waiting if target.root) or "the kernel"
    )
    what = ", ".join(str(port) for port in sorted(ports))
    patience = f", {left:.1f} s more before it is killed" if left > 0 else ""
    return f"waiting for {who} to let go of {what}{patience}"
