"""The operating system through psutil: what macOS, Windows and the BSDs share, and the BSDs."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from signal import Signals
from socket import SOCK_STREAM
from typing import Any, NamedTuple, TypeVar

import psutil

from portfree._system.common import CommonSystem, endpoint, ends, kept
from portfree._system.interface import Owners, Pin, Process, Signal, Socket, State
from portfree._system.probe import PROBING, each_address_bind
from portfree.model import Port, Protocol

T = TypeVar("T")

UNKNOWN = 0.0
"""The start of a process that does not tell it."""

PATIENCE = 2.0
"""How many seconds a tool of the system gets: it needs some 10 ms, and may hang."""

# psutil raises AccessDenied for a process that does not let us look, but some errors of the kernel
# come through as they are, on macOS for instance (psutil issues 2708 and 2854).
REFUSALS = (psutil.AccessDenied, OSError, RuntimeError, SystemError)

# How often to look whether a process has ended: psutil's own wait() is for its parent.
_INTERVAL = 0.01
# For how long a list of terminals is good: processes come and go at them at the pace of people.
_MOMENT = 0.5

_STATES: Mapping[str, State] = {
    psutil.CONN_LISTEN: "listening",
    psutil.CONN_ESTABLISHED: "connected",
    psutil.CONN_CLOSE_WAIT: "connected",
    psutil.CONN_SYN_SENT: "connecting",
    psutil.CONN_SYN_RECV: "connecting",
}


class Seat(NamedTuple):
    """Whose a process is, and where it was started."""

    owner: int | str | None
    session: int | None = None
    terminal: str | None = None
    foreground: bool = False


class PsutilSystem(CommonSystem):
    """A `System` on psutil, as it is on the BSDs; a class for each other system is made of it."""

    name = sys.platform
    namespace = ""
    lists_quickly = False
    bind = staticmethod(each_address_bind)

    def __init__(self) -> None:
        self._terminals: dict[int, tuple[str | None, bool]] = {}
        self._terminals_until = 0.0
        self._services: Mapping[int, str] | None = {}
        self._services_at: float | None = None

    def sockets(self, ports: Collection[Port], *, connections: bool = False) -> list[Socket]:
        with PROBING:
            every = self._every_socket(_kind(port.protocol for port in ports))
        wanted = (each for each in every if each.port in ports and (connections or each.holds))
        return list(dict.fromkeys(wanted))

    def listeners(self) -> list[Socket]:
        wanted = {"tcp": "listening", "udp": "bound"}
        every = self._every_socket("inet")
        return list(dict.fromkeys(s for s in every if s.state == wanted[s.port.protocol]))

    def owners(self, ids: Collection[Hashable]) -> Owners:
        seen, unreadable = _look_at_all(self._candidates(ids), kind_of(ids))
        have = {pid: {each.id for each in sockets} for pid, sockets in seen.items()}
        pids = {id_: frozenset(pid for pid, own in have.items() if id_ in own) for id_ in ids}
        return Owners({id_: found for id_, found in pids.items() if found}, unreadable)

    def holds(self, pid: int, ids: Collection[Hashable]) -> bool:
        try:
            return any(each.id in ids for each in _look_at(pid, kind_of(ids)))
        except (psutil.NoSuchProcess, *REFUSALS):
            return False  # what cannot be read is no proof

    def peers(self, pid: int, *, but: Collection[Hashable] = ()) -> frozenset[int]:  # noqa: ARG002
        try:
            own = {ends(each) for each in _look_at(pid, "tcp") if each.state == "connected"}
        except (psutil.NoSuchProcess, *REFUSALS):
            return frozenset()
        seen, _ = _look_at_all(psutil.pids() if own else (), "tcp")
        return frozenset(
            other
            for other, sockets in seen.items()
            if other != pid and any(ends(each)[::-1] in own for each in sockets)
        )

    def _every_socket(self, kind: str) -> list[Socket]:
        seen, _ = _look_at_all(psutil.pids(), kind)
        return [each for sockets in seen.values() for each in sockets]

    def _candidates(self, ids: Collection[Hashable]) -> Iterable[int]:  # noqa: ARG002
        """The processes that may have one of these sockets open."""
        return psutil.pids()

    def pids(self) -> Iterable[int]:
        return psutil.pids()

    def exists(self, pid: int) -> bool:
        return psutil.pid_exists(pid)

    def process(self, pid: int) -> Process | None:
        try:
            proc = psutil.Process(pid)
            start = self.start(proc)
            with proc.oneshot():
                facts = self._facts(proc, start)
            # Asked one by one, the facts could be those of two processes that had the pid in turn.
            return facts if self.start(psutil.Process(pid)) == start else None
        except psutil.NoSuchProcess:
            return None

    def pin(self, process: Process) -> Pin | None:
        if process.zombie:
            return None
        # To kill(2), 0 and below are process groups.
        if process.start == UNKNOWN or process.pid <= 0:
            raise PermissionError(f"pid {process.pid} cannot be told from a later process")
        pin = PsutilPin(self, process.pid, process.start)
        return pin if pin.alive() else None

    def start(self, proc: psutil.Process) -> float:
        """See `Process.start`; UNKNOWN if it is not told."""
        return ask(proc.create_time) or UNKNOWN

    def signal(self, proc: psutil.Process, signal: Signal) -> None:
        """Send a signal. Raises psutil.NoSuchProcess if the pid is another process's by now."""
        proc.send_signal(Signals[f"SIG{signal}"])

    def _facts(self, proc: psutil.Process, start: float) -> Process:
        """The facts as psutil has them; a subclass corrects what its system tells differently."""
        started = ask(proc.create_time)
        argv, environ, cwd = ask(proc.cmdline), ask(proc.environ), ask(proc.cwd) or None
        ppid, status, seat = ask(proc.ppid), ask(proc.status), self._seat(proc)
        # A process younger than the list of services may be one that is not on it yet.
        late = self._services is not None and (started or 0.0) > (self._services_at or 0.0)
        if self._services_at is None or late:
            self._services_at = time.time()
            self._services = self._running_services()
        complete = start != UNKNOWN and None not in (argv, environ, cwd, self._services)
        return Process(
            pid=proc.pid,
            ppid=ppid,
            start=start,
            name=ask(proc.name) or "",
            argv=tuple(argv or ()),
            # A parent that is not told must not pass for one that has ended.
            owner=None if ppid is None else seat.owner,
            started=started,
            cwd=cwd,
            session=seat.session,
            terminal=seat.terminal,
            foreground=seat.foreground,
            zombie=_zombie(proc),
            marks=kept((environ or {}).items()),
            environment="unreadable" if environ is None else "read" if environ else "wiped",
            complete=complete,
            stopped=status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP),
            unit=(self._services or {}).get(proc.pid),
        )

    def _seat(self, proc: psutil.Process) -> Seat:
        uids = ask(proc.uids)
        owner = None if uids is None else uids.real
        try:
            session = os.getsid(proc.pid)
        except OSError:
            session = None
        # psutil 7 knows only the terminals that were there when it first looked, and a server in a
        # newer one would seem to have none; nor does it tell the foreground. ps(1) tells both, of
        # all processes at once, since a survey asks for many within a moment.
        missing = self._terminals and proc.pid not in self._terminals
        if time.monotonic() > self._terminals_until or missing:
            # One -o each: on BSD, what follows the "=" is a heading up to the end of the argument.
            command = ["ps", "-A", "-o", "pid=", "-o", "tty=", "-o", "stat="]
            lines = map(str.split, (self.output(command, PATIENCE) or "").splitlines())
            self._terminals = {
                # A + stands for "in the foreground process group of its control terminal".
                int(line[0]): (line[1] if line[1].strip("?-") else None, "+" in line[2])
                for line in lines
                if len(line) == 3 and line[0].isdecimal()
            }
            self._terminals_until = time.monotonic() + _MOMENT
        if (seen := self._terminals.get(proc.pid)) is not None:
            return Seat(owner, session, *seen)
        device = ask(proc.terminal)
        return Seat(owner, session, device and device.removeprefix("/dev/"))

    def _running_services(self) -> Mapping[int, str] | None:
        """The names of services by the pids that run them; None if they cannot be listed."""
        return {}

    def moment(self) -> float:
        return time.time()

    def newest(self) -> int | None:
        return None

    def wait(self, pins: Collection[Pin], timeout: float) -> None:
        end = self.now() + timeout
        while all(pin.alive() for pin in pins):
            left = end - self.now()
            if left <= 0:
                return
            time.sleep(min(left, _INTERVAL))


class PsutilPin:
    """A process held by its pid and start, compared again right before each signal, by us and by
    psutil. Microseconds lie between that and the signal: macOS and the BSDs offer nothing like a
    pidfd, but give pids out in turn, so that one does not come back at once.
    """

    def __init__(self, system: PsutilSystem, pid: int, start: float) -> None:
        self._system = system
        self.pid = pid
        self._start = start

    def alive(self) -> bool:
        return self._find() is not None

    def send(self, signal: Signal) -> bool:
        try:
            if proc := self._find():
                self._system.signal(proc, signal)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied as refusal:
            text = f"pid {self.pid} may not be signalled"
            raise PermissionError(errno.EPERM, text) from refusal
        return proc is not None

    def close(self) -> None:
        """Nothing is held."""

    def _find(self) -> psutil.Process | None:
        try:
            proc = psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            return None
        return proc if self._system.start(proc) == self._start and not _zombie(proc) else None


def ask(question: Callable[[], T]) -> T | None:
    """An answer of psutil; None if the process keeps it to itself, or has nothing to tell any more:
    psutil says "no such process" of some facts of a zombie too.
    """
    try:
        return question()
    except (psutil.NoSuchProcess, *REFUSALS):
        return None


def _zombie(proc: psutil.Process) -> bool:
    if ask(proc.status) not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return False
    # Linux shows a process as a zombie whose main thread has ended while others go on. They keep
    # its sockets open. A real zombie counts one thread there, and none can be counted on macOS.
    return (ask(proc.num_threads) or 0) <= 1


class _Id(NamedTuple):
    """What tells sockets apart where there is no inode."""

    protocol: Protocol
    address: str
    port: int
    peer: str


def _look_at_all(pids: Iterable[int], kind: str) -> tuple[dict[int, list[Socket]], int]:
    """The sockets of these processes, and how many did not let us look. Process by process, since
    psutil.net_connections() needs root on macOS, and names one of several holders on Linux.
    """
    seen: dict[int, list[Socket]] = {}
    unreadable = 0
    for pid in pids:
        try:
            seen[pid] = _look_at(pid, kind)
        except psutil.NoSuchProcess:
            continue  # ended since, or a zombie, which holds nothing
        except REFUSALS:
            unreadable += 1
    return seen, unreadable


def _look_at(pid: int, kind: str) -> list[Socket]:
    proc: Any = psutil.Process(pid)
    # Called connections() before psutil 6.
    connections = getattr(proc, "net_connections", None) or proc.connections
    return read_sockets(connections(kind=kind))


def read_sockets(connections: Iterable[Any]) -> list[Socket]:
    """Sockets from psutil's ``pconn`` or ``sconn``; without those that have no address."""
    found = []
    for connection in connections:
        if not connection.laddr:
            continue
        protocol: Protocol = "tcp" if connection.type == SOCK_STREAM else "udp"
        address, number = connection.laddr[:2]
        peer = endpoint(*connection.raddr[:2]) if connection.raddr else ""
        used: State = "connected" if protocol == "udp" else "closing"
        state = _STATES.get(connection.status, used if peer else "bound")
        # A closing one is no process's, even if Windows lists it as the idle process's.
        id_ = None if state == "closing" else _Id(protocol, address, number, peer)
        found.append(Socket(id_, Port(number, protocol), state, address, peer=peer))
    return found


def kind_of(ids: Iterable[Hashable]) -> str:
    """The narrowest of psutil's kinds of connection that all these sockets are of."""
    return _kind(f"{i.protocol}{6 if ':' in i.address else 4}" for i in ids if isinstance(i, _Id))


def _kind(asked: Iterable[str]) -> str:
    """The narrowest kind with all of these: psutil reads a table for each, pid by pid."""
    kinds = set(asked)
    protocols = {kind[:3] for kind in kinds}
    if len(protocols) != 1:
        return "inet"
    return kinds.pop() if len(kinds) == 1 else protocols.pop()
