"""Why a port is busy though no process holds it, and what to do about that."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from portfree.holder import named
from portfree.ports import Port
from portfree.report import Note, Status
from portfree.system.boundary import Socket, System

# Other programs probe ports too, and each of their probes refuses ours for some microseconds. So
# often we try again, a few milliseconds apart, before we believe that somebody unseen has the port.
_TRIES = 25
_PAUSE = 0.004


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of a port that nobody holds, and a note on it where one helps."""

    status: Status
    notes: tuple[Note, ...] = ()


def unheld(system: System, port: Port) -> Finding | None:
    """The state of a port that no holder was seen on; None if one has come meanwhile."""
    answer = system.bind(port)
    for _ in range(_TRIES):
        if answer != "in-use":
            break
        sockets = system.sockets([port], connections=True)
        if any(socket.holds for socket in sockets):
            return None
        if sockets:
            return _with_connections(system, port, sockets)
        system.wait((), _PAUSE)
        answer = system.bind(port)
    match answer:
        case "free":
            return Finding("free")
        case "denied":
            return _denied(system, port)
        case "unavailable":
            text = f"{port} could not be tried: the system refused to open a socket"
            return _busy(Note("untested", text, "close files or sockets, then try again"))
        case _:
            return _busy(_invisible(system, port, None))


def unowned(system: System, port: Port, sockets: Collection[Socket]) -> Note:
    """A note on sockets that hold a port, and that nobody was seen with."""
    return _invisible(system, port, next((s.uid for s in sockets if s.uid is not None), None))


def _with_connections(system: System, port: Port, sockets: list[Socket]) -> Finding:
    usable = system.bind(port, reuse=True) == "free"
    status: Status = "free" if usable else "busy"
    can = "a server that sets SO_REUSEADDR, as most do, can start now"
    live = [socket for socket in sockets if socket.state != "fading"]
    if not live:
        left = max((s.fades_in for s in sockets if s.fades_in is not None), default=60.0)
        text = f"{_count(len(sockets), 'connection')} of a dead server fading, {left:.0f} s more"
        if usable:
            return Finding(status, (Note("fading", f"{text}; {can}"),))
        return Finding(
            status, (Note("fading", text, "wait that long, or give the tests another port"),)
        )
    whose = _whose(system, live[0])
    if usable:
        left_over = _count(len(live), "connection")
        text = f"{whose} does not listen any more and has {left_over} left; {can}"
        return Finding(status, (Note("draining", text),))
    peer = f" to {live[0].peer}" if live[0].peer else ""
    text = f"{whose} has a connection{peer} whose own end has this number: no server holds it"
    instead = (
        "wait until it is closed, or close it there; ports below the outgoing range "
        "(sysctl net.ipv4.ip_local_port_range) are not taken that way"
    )
    return Finding(status, (Note("outgoing", text, instead),))


def _busy(note: Note) -> Finding:
    return Finding("busy", (note,))


def _whose(system: System, socket: Socket) -> str:
    if socket.id is not None:
        for pid in sorted(system.owners([socket.id]).pids.get(socket.id, ())):
            if process := system.process(pid):
                return named(process)
    return "a process that cannot be seen"


def _denied(system: System, port: Port) -> Finding:
    if system.name == "win32":
        text = f"Windows reserves {port}: it lies in an excluded port range"
        instead = (
            f"netsh int ipv4 show excludedportrange protocol={port.protocol}; take another port"
        )
        return _busy(Note("excluded", text, instead))
    text = f"nobody holds {port}, but to bind it takes a privilege that we do not have"
    instead = "" if system.name != "linux" else "see sysctl net.ipv4.ip_unprivileged_port_start"
    return Finding("free", (Note("privileged", text, instead),))


def _invisible(system: System, port: Port, uid: int | None) -> Note:
    seen = (
        f"ss -Htanp 'sport = :{port.number}'"
        if system.name == "linux"
        else f"lsof -nP -i:{port.number}"
    )
    if uid is None:
        text = f"the system refuses {port} and shows nobody who holds it"
        return Note("invisible", text, f"look as root: sudo {seen}; or give the tests another port")
    text = f"a process of {system.user(uid)} (uid {uid}) holds {port}, and cannot be seen from here"
    missing = "" if system.privileged else "CAP_SYS_PTRACE is missing: "
    instead = f"{missing}ask {system.user(uid)}, or: sudo portfree {port.number}"
    if system.privileged:
        instead = f"it may live in another container or sandbox: {seen}"
    return Note("invisible", text, instead)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
