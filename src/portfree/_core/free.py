"""One round of `free_ports`: what is settled, who is to be stopped, and whom to wait for.

A port that was freed may be taken again: then it is judged again, `ROUNDS` times at most, and
whoever started the server again is looked at too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from portfree._core import programs, unheld
from portfree._core.ancestry import Holder, named, roots, same, supervisors
from portfree._core.context import Context
from portfree._core.judge import veto
from portfree._core.outcomes import Ledger
from portfree._core.ports import Port
from portfree._core.restarts import Supervisor, judge_supervisor
from portfree._core.stop import Target
from portfree._core.survey import Survey
from portfree._system.interface import Pin, Process, System
from portfree.model import Note, Verdict

ROUNDS = 2

# A live run may give the port up, and it may also be killed and leave its server behind: so often
# it is judged anew, and so often the port is tried in between.
_JUDGE_EVERY = 1.0
_TRY_EVERY = 0.05

# How long a process may take to end once its environment is gone: 130 ms for 700 MiB.
_ENDS_WITHIN = 0.25

# How long a supervisor may take to start a server again: a new interpreter needs most of it.
_RETURNS_WITHIN = 0.5
# supervisord waits for the next tick of its clock: 1.0 s, and up to 0.2 s until the server listens.
_RETURNS_LATE = 1.5


def settle(system: System, held: Sequence[Port], seen: Survey, ledger: Ledger) -> list[Port]:
    """Settle the ports that no socket holds (any more), and return those that are held."""
    findings = unheld.unheld(system, unseen(held, seen))
    for port, finding in findings.items():
        ledger.settle(port, finding.status, finding.notes)
    still_held = [port for port in held if port not in findings]
    ledger.reopen(still_held)
    return still_held


def unseen(held: Sequence[Port], seen: Survey) -> list[Port]:
    """The ports that no socket was seen on: if they are held, somebody has just come."""
    on_ports = {socket.port for socket in seen.sockets}
    return [port for port in held if port not in on_ports]


def vanished(
    system: System,
    seen: Survey,
    verdicts: Mapping[int, Verdict],
    ledger: Ledger,
    deadline: float,
) -> bool:
    """Whether somebody was kept who has ended by now; then nothing was to be said of him.

    A process that ends loses its environment first, its sockets after that, and its directory: who
    is read meanwhile is kept for what could not be read.
    """
    kept = [
        (holder, pin)
        for holder in seen.holders
        if verdicts[holder.pid].action == "keep"
        and not (holder.process.complete and holder.process.cwd)
        and (pin := seen.pin(holder))
    ]
    if kept:
        left = max(0.0, deadline - system.now())
        system.wait([pin for _, pin in kept], min(_ENDS_WITHIN, left))
    ended = [holder for holder, pin in kept if not pin.alive()]
    for holder in ended:
        ledger.forget(holder)
    return bool(ended)


def last_look(system: System, held: Iterable[Port], ledger: Ledger) -> None:
    """Settle what has become free since the last survey, by one try: the time may be over."""
    rest = []
    for port in held:
        if system.bind(port) == "free":
            ledger.settle(port, "free")
        else:
            rest.append(port)
    if not rest:
        return
    taken = set(rest)  # unless the system tells otherwise
    with suppress(OSError):
        taken = {socket.port for socket in system.sockets(rest)}
    # The fading connections of a server that has ended refuse a bind, but no server.
    findings = unheld.unheld(system, [port for port in rest if port not in taken], tries=0)
    for port, finding in findings.items():
        if finding.status == "free":
            ledger.settle(port, "free", finding.notes)


def give_up(system: System, held: Iterable[Port], ledger: Ledger, failure: Exception) -> None:
    """After something that nobody has thought of: say so, and look what is free all the same."""
    ports = list(held)
    for port in ports:
        ledger.settle(port, "busy", [unheld.unexpected(port, failure)])
    with suppress(Exception):  # if it goes wrong again, nothing is known
        last_look(system, ports, ledger)


def choose(
    system: System,
    seen: Survey,
    verdicts: dict[int, Verdict],
    context: Context,
    ledger: Ledger,
) -> list[Target]:
    """Who is to be stopped, by the verdicts; and write everybody down.

    A server that was stopped in the first round and is there again was started by somebody: by
    whom, that decides now.
    """

    def due(holder: Holder) -> bool:
        return all(ledger.rounds(port) < ROUNDS for port in holder.ports)

    targets: list[Target] = []
    notes: dict[Port, Note] = {}
    for holder in roots(seen.holders):
        earlier = [old for port in holder.ports for old in ledger.stopped(port)]
        # Who is still there has not been started again.
        if verdicts[holder.pid].action == "keep" or any(
            same(holder.process, old.process) for old in earlier
        ):
            continue
        if not due(holder):
            again = Note(
                "restarted",
                f"taken again, {ROUNDS} times: somebody starts servers there",
                "stop whoever does, or give the tests another port",
            )
            notes |= dict.fromkeys(holder.ports, again)
            continue
        found = judge_supervisor(holder, earlier, context)
        if found is None:
            continue
        known = next((t for t in targets if same(t.holder.process, found.holder.process)), None)
        if known is not None:
            known.restarts |= holder.ports
            continue
        own = verdicts.get(found.holder.pid)
        if own is not None and own.action == "keep":  # it holds another port, and has to be spared
            reason = f"started again by {named(found.holder.process)}: {own.reason}"
            found = found._replace(verdict=own._replace(reason=reason))
        verdict, pin = _pin_supervisor(system, found)
        if pin is not None:
            seen.pins.append(pin)
            targets.append(Target(found.holder, pin, verdict, restarts=holder.ports))
        elif verdict.action == "keep":
            # Stopped once more, the server would be there once more.
            ids = {socket.id for socket in holder.sockets}
            for other in seen.holders:
                shares = ids & {socket.id for socket in other.sockets}
                if shares or other.descends_from(holder.process):
                    verdicts[other.pid] = verdict
            name = named(found.holder.process)
            notes |= dict.fromkeys(
                holder.ports, Note("restarted", f"started again by {name}", "stop that")
            )
    ledger.judged(seen.holders, verdicts)
    for port, note in notes.items():
        ledger.note(port, note)

    top = {holder.pid for holder in roots(seen.holders)}
    for holder in seen.holders:
        pin, verdict = seen.pin(holder), verdicts[holder.pid]
        if pin is not None and due(holder) and verdict.action == "stop":
            targets.append(Target(holder, pin, verdict, root=holder.pid in top))
    return targets


def _pin_supervisor(system: System, found: Supervisor) -> tuple[Verdict, Pin | None]:
    """The verdict on a supervisor, and its pin if it may be stopped and has not ended."""
    verdict, process = found.verdict, found.holder.process
    if verdict.action == "keep":
        return verdict, None
    try:
        return verdict, system.pin(process)
    except OSError:
        reason = f"started again by {named(process)}, which could not be pinned"
        return Verdict("keep", "unknown", reason, f"stop that: {named(process)}"), None


def approver(targets: Sequence[Target], context: Context) -> Callable[[Survey], list[Holder]]:
    """Says who of a later survey may be signalled too: who is, or descends from, a target that was
    judged, and shares no socket with anybody else.

    Somebody else who has come meanwhile is for the next round to judge, be it that he holds the
    same socket: then it is also seen who has started him.
    """
    chosen = list(targets)  # stop() adds to them

    def may(holder: Holder) -> bool:
        tops = [target.holder for target in chosen]
        belongs = any(_belongs(holder, top) for top in tops)
        return belongs and veto(holder, tops, context) is None

    def approve(fresh: Survey) -> list[Holder]:
        others = {s.id for holder in fresh.holders if not may(holder) for s in holder.sockets}
        return [
            holder
            for holder in fresh.holders
            if may(holder) and not others & {socket.id for socket in holder.sockets}
        ]

    return approve


def _belongs(holder: Holder, target: Holder) -> bool:
    return same(holder.process, target.process) or holder.descends_from(target.process)


def watch_for_return(
    system: System, targets: Sequence[Target], context: Context, deadline: float
) -> None:
    """After a stop, give those who may start a server again the time to do so.

    A supervisor needs some 20 ms and more to notice and to start a process; a port that is free
    until then is not free for the tests. Ends early when they have ended too, as wrappers do, or
    when the port is taken: then the next round judges it.
    """
    stopped = system.now()
    ports = {port for target in targets for port in target.holder.ports}
    parents = {
        process.pid: process
        for target in targets
        if target.root and not target.restarts and target.ended_after is not None
        for process in supervisors(target.holder)
        if not context.is_ours(process)
    }
    late = any(map(programs.restarts_late, parents.values()))
    until = min(stopped + (_RETURNS_LATE if late else _RETURNS_WITHIN), deadline)
    pins = [pin for process in parents.values() if (pin := _pin(system, process))]
    try:
        # Listed rather than probed: a probe could get in the way of the server that comes back.
        while (now := system.now()) < until and not _taken(system, ports):
            alive = [pin for pin in pins if pin.alive()]
            if not alive:
                break
            system.wait(alive, min(_TRY_EVERY, until - now))
    finally:
        for pin in pins:
            pin.close()


def _taken(system: System, ports: Collection[Port]) -> bool:
    try:
        return bool(system.sockets(ports))
    except OSError:
        return True  # it cannot be seen: the next round tries


def _pin(system: System, process: Process) -> Pin | None:
    try:
        return system.pin(process)
    except OSError:
        return None


def wait_for_live_run(
    system: System,
    seen: Survey,
    verdicts: Mapping[int, Verdict],
    until: float,
    notify: Callable[[str], None],
) -> bool:
    """Wait for a live run to give up a port, until the time *until*; False if there is none, or the
    time is over.
    """
    busy = [h for h in seen.holders if verdicts[h.pid].rule == "live-run"]
    pins = [pin for holder in busy if (pin := seen.pin(holder))]
    started = system.now()
    until = min(until, started + _JUDGE_EVERY)
    if not busy or started >= until:
        return False
    ports = {port for holder in busy for port in holder.ports}
    notify(f"waiting for {_list(ports)}: {verdicts[busy[0].pid].reason}")
    while (now := system.now()) < until:
        if any(system.bind(port) == "free" for port in ports) or not all(p.alive() for p in pins):
            break
        system.wait(pins, min(_TRY_EVERY, until - now))
    return True


def _list(ports: Iterable[Port]) -> str:
    return ", ".join(str(port) for port in sorted(ports))
