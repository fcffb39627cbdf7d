"""What a run has left behind on ports that nobody asked about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable

from portfree._core import run_id
from portfree._core.ancestry import Holder, roots
from portfree._core.context import Context
from portfree._core.free import approver
from portfree._core.judge import judge_all, with_origin
from portfree._core.marks import asks_to_stay
from portfree._core.outcomes import holder_report
from portfree._core.stop import Target, longest, stop, what_became
from portfree._core.survey import Survey, context_for, survey
from portfree._system.interface import Pin, Socket, System
from portfree.model import Leak, Request

# A server that a fixture has just told to end is no leak. Where one would be stopped, or turn the
# run red, it may take as long over that as a server that we tell to end; else so long, in seconds.
_LAST_CHANCE = 0.25
_LOOK_EVERY = 0.025


def find_leaks(
    system: System,
    new: set[Socket],
    *,
    known: Collection[Hashable],
    request: Request,
    ending: str,
    began: float | None,
    notify: Callable[[str], None],
) -> tuple[Leak, ...]:
    """The listeners that the run *ending* leaves behind, stopped if the request says so.

    *new* are the listeners that were not there when it began, *known* the ids of those that were.
    """
    with survey(system, {socket.port for socket in new}) as seen:
        context = context_for(
            system,
            seen.holders,
            scope="orphans",
            phase="after",
            ending=ending,
            began=began,
            quiet={socket.port for socket in new},
        )
        seen.holders = tuple(with_origin(holder, context) for holder in seen.holders)
        left = [holder for holder in seen.holders if _is_left(holder, new, context)]
        others = [holder for holder in left if holder.pid != context.caller.pid]
        matters = request.leaks in ("stop", "fail")
        _wait_for_the_last(system, others, seen, request.grace if matters else _LAST_CHANCE)
        new = new & run_id.new_listeners(system, known, request.ports)
        left = [holder for holder in left if _is_left(holder, new, context)]
        verdicts = judge_all(seen.holders, context)
        top = {holder.pid for holder in roots(left)}
        targets = [
            Target(holder, pin, root=holder.pid in top)
            for holder in left
            if matters
            and not request.dry_run
            and verdicts[holder.pid].action == "stop"
            # That it came up meanwhile, on a port that nobody guards, is a hint, and no proof.
            and not _has_merely_arrived(holder)
            and (pin := seen.pin(holder))
        ]
        if targets:
            stop(
                system,
                targets,
                grace=request.grace,
                deadline=system.now() + longest(request.grace),
                approve=approver(targets, context),
                notify=notify,
            )
        became = {t.holder.pid: what_became(t, polite=system.polite) for t in targets}
        return tuple(
            Leak(
                address=socket.address,
                port=socket.port,
                holder=holder_report(
                    holder,
                    socket.port,
                    verdicts[holder.pid],
                    root=True,
                    ended=became.get(holder.pid, ""),
                ),
                own=holder.pid == context.caller.pid,
            )
            for holder in left
            if holder.pid in top
            for socket in sorted(holder.sockets & new, key=lambda one: (one.port, one.address))
        )


def _is_left(holder: Holder, new: Collection[Socket], context: Context) -> bool:
    """Whether a holder of one of these sockets was born in the run that ends, or is its opener."""
    if not any(socket in new for socket in holder.sockets):
        return False
    if asks_to_stay(holder, context):
        return False
    if holder.pid == context.caller.pid or (holder.origin is not None and holder.origin.ours):
        return True
    # Runs that go on in other threads of this process (tox -p) have their servers still.
    others = holder.live_runs.difference(context.run)
    return holder.descends_from(context.caller) and not others


def _has_merely_arrived(holder: Holder) -> bool:
    return holder.origin is not None and holder.origin.evidence == "arrival"


def _wait_for_the_last(
    system: System, left: Collection[Holder], seen: Survey, patience: float
) -> None:
    """Wait until those that were told to end have done so, or the time for that is over."""
    until = system.now() + patience
    ids = {socket.id for holder in left for socket in holder.sockets}
    pins: list[Pin] = [pin for holder in left if (pin := seen.pin(holder))]
    while (now := system.now()) < until:
        pins = [pin for pin in pins if pin.alive()]
        if not pins or not ids & {socket.id for socket in system.listeners()}:
            return
        system.wait(pins, min(_LOOK_EVERY, until - now))
