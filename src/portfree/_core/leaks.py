"""What a run has left behind on ports that nobody asked about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable

from portfree._core import run_id
from portfree._core.ancestry import Holder, roots
from portfree._core.caller import context_for
from portfree._core.context import Context, Moment
from portfree._core.marks import asks_to_stay
from portfree._core.outcomes import holder_report
from portfree._core.stop import longest, stop
from portfree._core.survey import Suspect, survey
from portfree._core.targets import approver, judge
from portfree._system.interface import Socket, System
from portfree.model import Leak, Request

# Seconds to wait for servers that fixtures are already shutting down, where a leak is only told.
# Where it would be stopped, or turn the run red, it gets as long as a server that we tell to end.
_LAST_CHANCE = 0.25
_LOOK_EVERY = 0.025


def find_leaks(
    system: System,
    new: set[Socket],
    *,
    known: Collection[Hashable],
    request: Request,
    moment: Moment,
    notify: Callable[[str], None],
) -> tuple[Leak, ...]:
    """The listeners that the run which ends leaves behind, stopped if the request says so.

    *new* are the listeners that were not there when it began, *known* the ids of those that were.
    """
    matters = request.leaks in ("stop", "fail")
    with survey(system, {socket.port for socket in new}) as seen:
        moment = moment._replace(quiet={socket.port for socket in new})
        context = context_for(system, seen.holders, scope="orphans", moment=moment)
        judge(system, seen, context)
        left = [s for s in seen.suspects if _is_left(s.holder, new, context)]
        others = [s for s in left if s.holder.pid != context.caller.pid]
        _wait_for_the_last(system, others, request.grace if matters else _LAST_CHANCE)
        new = new & run_id.new_listeners(system, known, request.ports)
        left = [suspect for suspect in left if not new.isdisjoint(suspect.holder.sockets)]
        top = {holder.pid for holder in roots([suspect.holder for suspect in left])}
        for suspect in left:
            suspect.root = suspect.holder.pid in top
        targets = [suspect for suspect in left if matters and _may_be_stopped(suspect)]
        if targets and not request.dry_run:
            stop(
                system,
                list(targets),
                grace=request.grace,
                deadline=system.now() + longest(request.grace),
                approve=approver(targets, context),
                notify=notify,
            )
        touched = () if request.dry_run else targets
        return tuple(
            Leak(
                socket.address,
                socket.port,
                holder_report(
                    suspect,
                    socket.port,
                    suspect.ending(polite=system.polite) if suspect in touched else None,
                ),
                own=suspect.holder.pid == context.caller.pid,
            )
            for suspect in left
            if suspect.root
            for socket in sorted(suspect.holder.sockets & new, key=lambda s: (s.port, s.address))
        )


def _may_be_stopped(suspect: Suspect) -> bool:
    # That it came up meanwhile, on a port that nobody guards, is a hint, and no proof.
    arrived = suspect.holder.origin is not None and suspect.holder.origin.evidence == "arrival"
    return suspect.pin is not None and suspect.verdict.action == "stop" and not arrived


def _is_left(holder: Holder, new: Collection[Socket], context: Context) -> bool:
    """Whether a holder of one of these sockets was born in the run that ends, or has opened it."""
    if not any(socket in new for socket in holder.sockets) or asks_to_stay(holder, context):
        return False
    if holder.pid == context.caller.pid or (holder.origin is not None and holder.origin.ours):
        return True
    # Runs that go on in other threads of this process (tox -p) have their servers still.
    others = holder.live_runs.difference(context.run)
    return holder.descends_from(context.caller) and not others


def _wait_for_the_last(system: System, left: Collection[Suspect], seconds: float) -> None:
    """Wait until those that were told to end have done so, or the time for that is over."""
    until = system.now() + seconds
    ids = {socket.id for suspect in left for socket in suspect.holder.sockets}
    pins = [suspect.pin for suspect in left if suspect.pin]
    while (now := system.now()) < until:
        pins = [pin for pin in pins if pin.alive()]
        if not pins or not ids & {socket.id for socket in system.listeners()}:
            return
        system.wait(pins, min(_LOOK_EVERY, until - now))
