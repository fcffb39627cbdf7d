"""Why a port is busy though no process holds it, and what to do about that."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from portfree._core.ancestry import named
from portfree._system.interface import Bind, Owners, Socket, System
from portfree.model import Advice, Note, Port, Status

# Other programs probe ports too, and each of their probes refuses ours for some microseconds. So
# often we look again before we believe that an unseen process has the port, and before each look
# the port itself is tried so often, some milliseconds apart.
_TRIES = _BINDS = 5
_PAUSE = 0.004
# Where a look takes its time (psutil asks every process), fewer of them last as long.
_FEWEST = 2
_LONGEST = 0.25


class Finding(NamedTuple):
    """The state of a port that nobody holds, and a note on it where one helps."""

    status: Status
    notes: tuple[Note, ...] = ()


def unheld(system: System, ports: Collection[Port], *, tries: int = _TRIES) -> dict[Port, Finding]:
    """The states of ports that no holder was seen on, all asked at once: a thousand of them must
    not take longer than one. *tries*: how often to ask again while another program passes by.
    Without those that were taken meanwhile, that is, whose socket was seen twice.
    """
    findings: dict[Port, Finding] = {}
    answers: dict[Port, Bind] = {}
    pending = list(ports)
    before: set[Hashable] = set()
    passing: set[Port] = set()
    using: dict[Port, list[Socket]] = {}
    until = system.now() + _LONGEST
    for attempt in range(tries + 1):
        if attempt > _FEWEST and system.now() > until:
            break
        for _ in range(_BINDS if attempt else 1):
            if answers:
                system.wait((), _PAUSE)
            answers |= {port: system.bind(port) for port in pending}
            pending = [port for port in pending if answers[port] == "in-use"]
            if not pending:
                break
        findings |= {p: _answered(system, p, a) for p, a in answers.items() if a != "in-use"}
        if not pending:
            return findings
        using = {}
        with suppress(OSError):  # what cannot be listed is invisible
            for socket in system.sockets(pending, connections=True):
                using.setdefault(socket.port, []).append(socket)
        holding = {port: {s.id for s in found if s.holds} for port, found in using.items()}
        idle = (port for port, ids in holding.items() if not ids)
        usable = [port for port in idle if system.bind(port, reuse=True) == "free"]
        findings |= _with_connections(system, {p: using[p] for p in usable}, usable=True)
        taken = [port for port, ids in holding.items() if before & ids]
        before |= {id_ for ids in holding.values() for id_ in ids}
        passing |= {port for port, ids in holding.items() if ids}
        pending = [port for port in pending if port not in usable and port not in taken]
    for port in pending:
        seen = port in passing  # and never twice
        note = unsteady(system, port) if seen else _invisible(system, port, None)
        findings[port] = Finding("busy", (note,))
    calm = {port: found for port, found in using.items() if port in pending and not holding[port]}
    return findings | _with_connections(system, calm, usable=False)


def _answered(system: System, port: Port, answer: Bind) -> Finding:
    """What a bind has said about a port, if it is not that it is in use."""
    if answer == "free":
        return Finding("free")
    if answer != "denied":
        text = f"{port} could not be tried: the system refused to open a socket"
        note = Note("untested", text, "close files or sockets, then try again")
        return Finding("busy", (note,))
    if system.name == "win32":
        text = f"Windows reserves {port}: it lies in an excluded port range"
        show = f"netsh int ipv4 show excludedportrange protocol={port.protocol}"
        return Finding("busy", (Note("excluded", text, f"{show}; take another port"),))
    text = f"nobody holds {port}, but to bind it takes a privilege that we do not have"
    instead = "" if system.name != "linux" else "see sysctl net.ipv4.ip_unprivileged_port_start"
    return Finding("free", (Note("privileged", text, instead),))


def unsteady(system: System, port: Port) -> Note:
    """A note on a port that was never free, nor held by anybody for long enough to be seen."""
    text = f"somebody takes {port} again and again, for moments only"
    return Note("unsteady", text, f"see who: {_lister(system, port)}")


def unexpected(port: Port, failure: Exception) -> Note:
    """A note on a port that could not be freed, for portfree itself has failed."""
    text = f"something unexpected ended the work on {port}: {failure!r}"
    return Note("unexpected", text, "try again; if that does not help, please report it")


def unowned(system: System, port: Port, sockets: Collection[Socket]) -> Note:
    """A note on sockets that hold a port, and that nobody was seen with."""
    return _invisible(system, port, next((s.uid for s in sockets if s.uid is not None), None))


def _with_connections(
    system: System, using: Mapping[Port, Sequence[Socket]], *, usable: bool
) -> dict[Port, Finding]:
    """The states of ports that are used by connections alone."""
    live = {s.id for sockets in using.values() for s in sockets if s.state != "closing"} - {None}
    owners = system.owners(live) if live else Owners({})  # one look at all processes
    status: Status = "free" if usable else "busy"
    return {
        port: Finding(status, (_connected(system, sockets, owners, usable=usable),))
        for port, sockets in using.items()
    }


def _connected(system: System, sockets: Sequence[Socket], owners: Owners, *, usable: bool) -> Note:
    can = "a server that sets SO_REUSEADDR, as most do, can start now"
    live = [socket for socket in sockets if socket.state != "closing"]
    if not live:
        fade = max((s.closes_in for s in sockets if s.closes_in is not None), default=60.0)
        dead = f"{len(sockets)} connection{'s' * (len(sockets) != 1)}"
        text = f"{dead} of a dead server closing, {fade:.0f} s more"
        if usable:
            return Note("closing", f"{text}; {can}")
        return Note("closing", text, "wait that long, or give the tests another port")
    pids = (pid for socket in live for pid in sorted(owners.pids.get(socket.id, ())))
    owner = next(filter(None, map(system.process, pids)), None)
    whose = named(owner) if owner else "a process that cannot be seen"
    if usable:
        left = f"{len(live)} connection{'s' * (len(live) != 1)} left"
        text = f"{whose} does not listen any more and has {left}; {can}"
        return Note("draining", text)
    peer = f" to {live[0].peer}" if live[0].peer else ""
    text = f"{whose} has a connection{peer} whose own end has this number: no server holds it"
    instead = "wait until it is closed, or close it there; ports below the outgoing range "
    instead += "(sysctl net.ipv4.ip_local_port_range) are not taken that way"
    return Note("outgoing", text, instead)


def _invisible(system: System, port: Port, uid: int | None) -> Note:
    seen = _lister(system, port)
    if uid is None:
        text = f"the system refuses {port} and shows nobody who holds it"
        instead = f"see who: {system.elevate()}{seen}; or give the tests another port"
        return Note("invisible", text, instead)
    me = system.process(os.getpid())
    if me is not None and me.owner == uid and not system.privileged:
        text = f"a process holds {port}: it is yours, and hides (a program with file capabilities "
        text += "or another user's rights, see PR_SET_DUMPABLE in prctl(2), or one in a container)"
        do = f"see who: {system.elevate()}{seen}"
        return Note("invisible", text, advice=Advice(do, "mine", privileged=True))
    who = system.user(uid)
    text = f"a process of {who} (uid {uid}) holds {port}, and cannot be seen from here"
    if system.privileged:
        instead = f"it may live in another container, or we lack CAP_SYS_PTRACE: {seen}"
        return Note("invisible", text, instead)
    do = f"CAP_SYS_PTRACE is missing: ask {who} to stop it"
    return Note("invisible", text, advice=Advice(do, privileged=True))


def _lister(system: System, port: Port) -> str:
    """The command that lists the sockets on a port."""
    if system.name == "linux":
        kind = "-Htanp" if port.protocol == "tcp" else "-Huanp"
        return f"ss {kind} 'sport = :{port.number}'"
    return f"lsof -nP -i{port.protocol}:{port.number}"
