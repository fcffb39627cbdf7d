"""What to stop: the holders by their verdicts, and the supervisors that start a holder again.

A port that was freed may be taken again: then it is judged again, `ROUNDS` times at most, and the
process that started the server again is judged too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from portfree._core import programs
from portfree._core.ancestry import named, roots, same, supervisors
from portfree._core.context import Context
from portfree._core.judge import judge_all, veto, with_origin
from portfree._core.outcomes import Outcomes
from portfree._core.restarts import Supervisor, judge_supervisor
from portfree._core.survey import Survey, Suspect, find_users
from portfree._system.interface import System
from portfree.model import Note, Port, Verdict

ROUNDS = 2

# How long a supervisor may take to start a server again: a new interpreter needs most of it.
_RETURNS_WITHIN = 0.5
# supervisord waits for the next tick of its clock: 1.0 s, and up to 0.2 s until the server listens.
_RETURNS_LATE = 1.5
_LOOK_EVERY = 0.05


def judge(system: System, seen: Survey, context: Context) -> None:
    """Add its origin and its verdict to each suspect."""
    for suspect in seen.suspects:
        suspect.holder = with_origin(suspect.holder, context)
    for _ in range(2):
        verdicts = judge_all(seen.holders, context)
        top = {holder.pid for holder in roots(seen.holders)}
        for suspect in seen.suspects:
            suspect.verdict = verdicts[suspect.holder.pid]
            suspect.root = suspect.holder.pid in top
        if not find_users(system, seen):
            break


def choose(
    system: System, seen: Survey, context: Context, outcomes: Outcomes, late: ExitStack
) -> list[Suspect]:
    """The suspects to stop, supervisors first, whose pins *late* closes; records all verdicts."""
    due = {
        holder.pid
        for holder in seen.holders
        if all(outcomes.record(port).rounds < ROUNDS for port in holder.ports)
    }
    found: list[Suspect] = []
    notes: dict[Port, Note] = {}
    for suspect in seen.suspects:
        holder = suspect.holder
        earlier = [old for port in holder.ports for old in outcomes.record(port).stopped]
        # A process that was there before has not been started again.
        still = any(same(holder.process, old.process) for old in earlier)
        if not suspect.root or suspect.verdict.action == "keep" or still:
            continue
        if holder.pid not in due:
            text = f"taken again, {ROUNDS} times: something starts servers there"
            again = Note("restarted", text, "stop that, or give the tests another port")
            notes |= dict.fromkeys(holder.ports, again)
        elif supervisor := judge_supervisor(holder, earlier, context):
            notes |= _add_supervisor(system, supervisor, suspect, seen, found, late)
    outcomes.add_verdicts(seen.suspects)
    for port, note in notes.items():
        outcomes.note(port, note)
    chosen = (each for each in seen.suspects if each.pin and each.verdict.action == "stop")
    return [*found, *(each for each in chosen if each.holder.pid in due)]


def _add_supervisor(
    system: System,
    supervisor: Supervisor,
    server: Suspect,
    seen: Survey,
    found: list[Suspect],
    late: ExitStack,
) -> dict[Port, Note]:
    """Add the supervisor that has started a server again to those *found*, if it may be stopped.
    Else the server is kept too, for it would come back; the notes say so.
    """
    above, verdict, ports = supervisor.holder, supervisor.verdict, server.holder.ports
    name = named(above.process)
    for known in found:
        if same(known.holder.process, above.process):
            known.restarts |= ports
            return {}
    for other in seen.suspects:
        # It holds another port, and must be kept for that.
        if other.holder.pid == above.pid and other.verdict.action == "keep":
            reason = f"started again by {name}: {other.verdict.reason}"
            verdict = other.verdict._replace(reason=reason)
    if verdict.action == "stop":
        try:
            pin = system.pin(above.process)
        except OSError:
            reason = f"started again by {name}, which could not be pinned"
            verdict = Verdict("keep", "unknown", reason, f"stop that: {name}")
        else:
            if pin is not None:
                late.callback(pin.close)
                found.append(Suspect(above, pin, verdict, restarts=ports))
            return {}
    for other in seen.suspects:
        shares = server.holder.ids & other.holder.ids
        if shares or other.holder.descends_from(server.holder.process):
            other.verdict = verdict
    return dict.fromkeys(ports, Note("restarted", f"started again by {name}", "stop that"))


def approver(targets: Sequence[Suspect], context: Context) -> Callable[[Survey], list[Suspect]]:
    """Says which suspects of a later survey may be signalled too: those that are, or descend from,
    a target that was judged, and that share no socket with another process. A new holder is left to
    the next round even if it shares the socket: then it is known what has started it.
    """
    tops = [target.holder for target in targets]

    def may(suspect: Suspect) -> bool:
        chain = list(suspect.holder.upward())
        belongs = any(same(process, top.process) for process in chain for top in tops)
        return belongs and veto(suspect.holder, tops, context) is None

    def approve(fresh: Survey) -> list[Suspect]:
        approved = list(filter(may, fresh.suspects))
        others = {id_ for each in fresh.suspects if each not in approved for id_ in each.holder.ids}
        return [suspect for suspect in approved if suspect.holder.ids.isdisjoint(others)]

    return approve


def watch_for_return(
    system: System, targets: Sequence[Suspect], context: Context, deadline: float
) -> None:
    """After a stop, give the processes that may start a server again the time to do so: 20 ms and
    more, and a port that is free until then is not free for the tests. Ends early when they have
    ended too, as wrappers do, or when the port is taken: then the next round judges it.
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
    with ExitStack() as closing:
        pins = []
        for process in parents.values():
            with suppress(OSError):
                if pin := system.pin(process):
                    closing.callback(pin.close)
                    pins.append(pin)
        while (now := system.now()) < until and (pins := [pin for pin in pins if pin.alive()]):
            try:
                # Listed rather than probed: a probe could be in the way of what comes back.
                if system.sockets(ports):
                    break
            except OSError:
                break  # it cannot be seen: the next round tries
            system.wait(pins, min(_LOOK_EVERY, until - now))
