"""What a run, or one test of it, has left behind on ports that nobody asked about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from portfree._core import programs, run_id
from portfree._core.ancestry import Holder, named, roots
from portfree._core.caller import context_for
from portfree._core.context import Context, Moment
from portfree._core.judge import groups, with_origin
from portfree._core.marks import asks_to_stay
from portfree._core.outcomes import holder_report
from portfree._core.settings import ports_in
from portfree._core.stop import longest, stop
from portfree._core.survey import Suspect, survey, users_of
from portfree._core.targets import approver, judge
from portfree._system.interface import XDIST_WORKER, Process, Socket, System
from portfree.model import Leak, Request, Verdict

# Seconds to wait for servers that fixtures are already shutting down, where a leak is only told.
# Where it would be stopped, or turn the run red, it gets as long as a server that we tell to end.
_LAST_CHANCE = 0.25
_LOOK_EVERY = 0.025


class Place(NamedTuple):
    """Where in a run a server was started, as far as that is known."""

    test: str = ""
    fixture: str = ""


def find_leaks(
    system: System,
    new: set[Socket],
    *,
    known: Collection[Hashable],
    request: Request,
    moment: Moment,
    notify: Callable[[str], None],
    placing: Callable[[Holder, Socket, Context], Place | None] = lambda *_: Place(),
    threads: bool = False,
) -> tuple[Leak, ...]:
    """The listeners that the run, or the test, which ends leaves behind, stopped if the request
    says so.

    *new* are the listeners that were not there when it began, *known* the ids of those that were.
    *placing* tells where a socket of a holder comes from, or None if that may stay open.
    *threads*: whether other threads of this process are at work, which may be closing a listener.
    """
    with survey(system, {socket.port for socket in new}) as seen:
        moment = moment._replace(quiet={socket.port for socket in new})
        context = context_for(system, seen.holders, scope="orphans", moment=moment)
        judge(system, seen, context)
        places = {
            (holder.pid, socket): place
            for holder in seen.holders
            if _is_left(holder, context)
            for socket in holder.sockets & new
            if not is_ignored(socket, holder.process, request.leaks_ignore)
            and (place := placing(holder, socket, context))
        }
        left = [suspect for suspect in seen.suspects if _told(suspect.holder, places)]
        _wait_for_the_last(system, left, context, request, threads=threads)
        new = new & run_id.new_listeners(system, known, request.ports)
        places = {key: place for key, place in places.items() if key[1] in new}
        left = [suspect for suspect in left if _told(suspect.holder, places)]
        top = {holder.pid for holder in roots([suspect.holder for suspect in left])}
        for suspect in left:
            suspect.root = suspect.holder.pid in top
        touched: list[Suspect] = []
        if request.leaks in ("stop", "fail") and not request.dry_run:
            _keep_wanted(system, left, new, places, context)
            touched = _stop(system, left, context, request, notify)
        leaks = []
        for suspect in (each for each in left if each.root):
            ending = suspect.ending(polite=system.polite) if suspect in touched else None
            own = suspect.holder.pid == context.caller.pid
            for socket in _told(suspect.holder, places):
                holder = holder_report(suspect, socket.port, ending)
                place = places[suspect.holder.pid, socket]
                leaks.append(Leak(socket.address, socket.port, holder, own, *place))
        return tuple(leaks)


def _told(holder: Holder, places: Mapping[tuple[int, Socket], Place]) -> list[Socket]:
    """Its sockets that are leaks."""
    found = (socket for socket in holder.sockets if (holder.pid, socket) in places)
    return sorted(found, key=lambda socket: (socket.port, socket.address))


def is_ignored(socket: Socket, process: Process, words: Collection[str]) -> bool:
    """Whether one of these ports and program patterns means it."""
    names = programs.names(process)
    # A Java program is called by its class, org.gradle.launcher.daemon.bootstrap.GradleDaemon.
    names |= {name.rpartition(".")[2] for name in names}
    return any(
        socket.port in ports
        if (ports := ports_in(word))
        else any(fnmatchcase(name, word.lower()) for name in names)
        for word in words
    )


def _is_left(holder: Holder, context: Context) -> bool:
    """Whether it was born in what ends, or is the process that ends it."""
    if asks_to_stay(holder, context):
        return False
    if holder.pid == context.caller.pid:
        return True
    # A server of another worker of pytest-xdist is that worker's to tell of.
    worker = context.caller.marks.get(XDIST_WORKER)
    below = holder.descends_from(context.caller)
    if worker and not below and holder.mark(XDIST_WORKER) != worker:
        return False
    if holder.origin is not None and holder.origin.ours:
        return True
    # Runs that go on in other threads of this process (tox -p) have their servers still.
    return below and not holder.live_runs.difference((*context.run, context.ending))


def _wait_for_the_last(
    system: System,
    left: Collection[Suspect],
    context: Context,
    request: Request,
    *,
    threads: bool,
) -> None:
    """Wait until those that were told to end have done so, or the time for that is over."""
    others = [suspect for suspect in left if suspect.holder.pid != context.caller.pid]
    ids = {socket.id for suspect in left for socket in suspect.holder.sockets}
    theirs = ids.difference(
        socket.id for suspect in left if suspect not in others for socket in suspect.holder.sockets
    )
    # We are never stopped, but a run may fail for us.
    patient = {"stop": theirs, "fail": ids if threads else theirs}.get(request.leaks, ())
    pins = [suspect.pin for suspect in others if suspect.pin]
    began = system.now()
    while ids:
        until = began + (_LAST_CHANCE if ids.isdisjoint(patient) else request.grace)
        if (now := system.now()) >= until:
            break
        ids = ids & {socket.id for socket in system.listeners()}
        pins = [pin for pin in pins if pin.alive()]
        if ids:
            system.wait(pins, min(_LOOK_EVERY, until - now))


def _keep_wanted(
    system: System,
    left: Collection[Suspect],
    new: Collection[Socket],
    places: Mapping[tuple[int, Socket], Place],
    context: Context,
) -> None:
    """Keep those that others use by now, and those that may stay with one of their new sockets, for
    it has no place.
    """
    # What uses a worker uses the whole server.
    for group in groups([suspect.holder for suspect in left]):
        reasons = [
            f"it may stay on {socket.port}"
            for holder in group
            for socket in holder.sockets
            if socket in new and (holder.pid, socket) not in places
        ]
        users = (_outside_user(system, holder, context) for holder in group)
        reasons += [f"{named(user.process)} uses it by now" for user in users if user]
        if reasons:
            for suspect in left:
                if suspect.holder in group:
                    suspect.verdict = Verdict("keep", "attended", reasons[0])


def _stop(
    system: System,
    left: Collection[Suspect],
    context: Context,
    request: Request,
    notify: Callable[[str], None],
) -> list[Suspect]:
    """Stop those that may be stopped; returns whom."""
    # That it came up meanwhile, on a port that nobody guards, is a hint, and no proof.
    targets = [
        suspect
        for suspect in left
        if suspect.pin is not None
        and suspect.verdict.action == "stop"
        and not (suspect.holder.origin and suspect.holder.origin.evidence == "arrival")
    ]
    said: list[str] = []

    def once(line: str) -> None:
        if not said:
            said.append(line)
            notify(line)

    if targets:
        stop(
            system,
            list(targets),
            grace=request.grace,
            deadline=system.now() + longest(request.grace),
            approve=approver(targets, context),
            notify=once,
        )
    return targets


def _outside_user(system: System, holder: Holder, context: Context) -> Holder | None:
    """A process outside of what ends that has a connection to it: it has become a helper that
    others use, such as adb.
    """
    connections = system.sockets(holder.ports, connections=True)
    served = {each.id for each in connections if each.state == "connected"}
    # Without one it is itself the client of those that it is connected to, such as a database.
    for user in users_of(system, holder) if system.holds(holder.pid, served) else ():
        ours = context.is_ours(user.process) or user.descends_from(context.caller)
        origin = with_origin(user, context).origin
        if not ours and not (origin and origin.ours):
            return user
    return None
