"""One round of `free_ports`: what is settled, who is to be stopped, and whom to wait for.

A port that was freed may be taken again: then it is judged again, `ROUNDS` times at most, and whoever
started the server again is looked at too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from portfree import explain
from portfree.holder import Holder, named, roots, same
from portfree.ledger import Ledger
from portfree.ports import Port
from portfree.report import Note, Verdict
from portfree.stop import Target
from portfree.survey import Survey
from portfree.system.boundary import System
from portfree.verdict import Context, judge_all, judge_supervisor, veto

ROUNDS = 2

# A live run may give the port up, and it may also be killed and leave its server behind: so often it
# is judged anew, and so often the port is tried in between.
_JUDGE_EVERY = 1.0
_TRY_EVERY = 0.05


def settle(system: System, held: Sequence[Port], seen: Survey, ledger: Ledger) -> list[Port]:
    """Settle the ports that no socket holds (any more), and return those that are held."""
    still_held = []
    for port in held:
        if any(socket.port == port for socket in seen.sockets):
            still_held.append(port)
            continue
        finding = explain.unheld(system, port)
        if finding is None:
            still_held.append(port)  # somebody has just taken it
        else:
            ledger.settle(port, finding.status, finding.notes)
    return still_held


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
    supervisors: dict[int, Target] = {}
    notes: dict[Port, Note] = {}
    for holder in roots(seen.holders):
        earlier = [old for port in holder.ports for old in ledger.stopped(port)]
        found = judge_supervisor(holder, earlier, context)
        if found is None or verdicts[holder.pid].action == "keep":
            continue
        above = found.holder
        pin = None if found.verdict.action == "keep" else system.pin(above.process)
        if pin is not None:
            seen.pins.append(pin)
            supervisors[above.pid] = Target(above, pin, must_end=True)
        else:
            # Stopped once more, the server would be there once more.
            ids = {socket.id for socket in holder.sockets}
            for other in seen.holders:
                if ids & {socket.id for socket in other.sockets}:
                    verdicts[other.pid] = found.verdict
            again = Note("restarted", f"started again by {named(above.process)}", "stop that")
            notes |= dict.fromkeys(holder.ports, again)
    ledger.judged(seen.holders, verdicts)
    for port, note in notes.items():
        ledger.note(port, note)

    top = {holder.pid for holder in roots(seen.holders)}
    targets = list(supervisors.values())
    for holder in seen.holders:
        pin = seen.pin(holder)
        due = all(ledger.rounds(port) < ROUNDS for port in holder.ports)
        if pin is not None and due and verdicts[holder.pid].action == "stop":
            targets.append(Target(holder, pin, root=holder.pid in top))
    return targets


def approver(targets: Sequence[Target], context: Context) -> Callable[[Survey], list[Holder]]:
    """Says who of a later survey may be signalled too: who is, or descends from, a target that was
    judged; who can be stopped on his own account; and nobody who shares a socket with anybody else."""

    def approve(fresh: Survey) -> list[Holder]:
        verdicts = judge_all(fresh.holders, context)

        def may(holder: Holder) -> bool:
            if any(_belongs(holder, target.holder) for target in targets):
                return holder.pinned and veto(holder, context) is None
            return verdicts[holder.pid].action == "stop"

        others = {s.id for holder in fresh.holders if not may(holder) for s in holder.sockets}
        return [
            holder
            for holder in fresh.holders
            if may(holder) and not others & {socket.id for socket in holder.sockets}
        ]

    return approve


def _belongs(holder: Holder, target: Holder) -> bool:
    return same(holder.process, target.process) or holder.descends_from(target.process)


def wait_for_live_run(
    system: System,
    seen: Survey,
    verdicts: Mapping[int, Verdict],
    until: float,
    notify: Callable[[str], None],
) -> bool:
    """Wait for a live run to give up a port, until the time *until*; False if there is none, or the
    time is over."""
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
