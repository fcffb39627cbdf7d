"""The operating system through psutil: for macOS, Windows and the BSDs.

It runs on Linux as well, where it sees less than `linux` does: no TCP socket that is bound without
listening, and not who holds one if only a thread that outlived its leader does.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import Signals
from socket import SOCK_STREAM, socket
from typing import Any, TypeVar
from typing import Protocol as Interface

import psutil

from portfree._core.containers import Engines
from portfree._system.interface import (
    KEPT_VARIABLES,
    MEANINGFUL_IF_EMPTY,
    Bind,
    Lock,
    Owners,
    Pin,
    Process,
    Signal,
    Socket,
    State,
)
from portfree._system.probe import PROBING, dual_stack_bind, each_address_bind, exclusive_bind
from portfree._system.sock_diag import unmapped
from portfree._system.windows import HandlePin, Kernel32, elevated
from portfree.model import Port, Protocol

T = TypeVar("T")


_UNKNOWN = 0.0  # the start of a process that does not tell it

# How often to look whether a process has ended. There is nothing to wait for: psutil's own wait()
# returns only when the parent has reaped it.
_INTERVAL = 0.01

# For how long a list of terminals is good: processes come and go at them at the pace of people.
_MOMENT = 0.5

# Tools that answer in some 10 ms; one that hangs must not take the whole call with it.
_PATIENCE = 2.0

# What psutil raises for a process that does not let us look. AccessDenied, mostly; but some errors
# of the kernel come through as they are, on macOS for instance (psutil issues 2708 and 2854).
_REFUSALS = (psutil.AccessDenied, OSError, RuntimeError, SystemError)

_STATES: Mapping[str, State] = {
    psutil.CONN_LISTEN: "listening",
    psutil.CONN_ESTABLISHED: "connected",
    psutil.CONN_CLOSE_WAIT: "connected",
    psutil.CONN_SYN_SENT: "connecting",
    psutil.CONN_SYN_RECV: "connecting",
}

# As netstat(1) of macOS writes them.
_FADING = ("FIN_WAIT_1", "FIN_WAIT_2", "CLOSING", "LAST_ACK", "TIME_WAIT")

Output = Callable[[Sequence[str]], str | None]
"""Runs a program and returns what it wrote; None if that failed."""


class _Connection(Interface):
    """What psutil tells of a socket: its ``pconn``. An address is empty where there is none."""

    @property
    def laddr(self) -> tuple[Any, ...]: ...

    @property
    def raddr(self) -> tuple[Any, ...]: ...

    @property
    def type(self) -> int: ...

    @property
    def status(self) -> str: ...


class _Service(Interface):
    """A Windows service, as psutil tells of it."""

    def name(self) -> str: ...

    def pid(self) -> int | None: ...


def _output(argv: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


class PortableSystem:
    """A `System` on psutil.

    *platform*, *factory* (of sockets), *output* (of programs) and *kernel32* stand for the system
    that it runs on, so that a test on Linux can play another one.
    """

    def __init__(
        self,
        *,
        platform: str = sys.platform,
        factory: Callable[[int, int], socket] = socket,
        output: Output = _output,
        kernel32: Callable[[], Kernel32] = Kernel32.load,
    ) -> None:
        self._platform = platform
        self._factory = factory
        self._output = output
        self._kernel32 = kernel32
        self._terminals = _Terminals(output)
        self._engines = Engines()
        self._services: _Services | None = None
        if platform == "darwin":
            self._services = _Services(lambda: _launchd_jobs(output))
        elif platform == "win32":
            self._services = _Services(_windows_services)

    @property
    def name(self) -> str:
        return self._platform

    @property
    def namespace(self) -> str:
        if self._platform != "linux":
            return ""
        from portfree._system.linux import LinuxSystem  # run ids of both backends must agree

        return LinuxSystem().namespace

    @property
    def privileged(self) -> bool:
        return elevated() if self._platform == "win32" else os.geteuid() == 0

    def elevate(self) -> str:
        if self._platform == "win32":
            return "as an administrator: "
        return "sudo " if shutil.which("sudo") else "as root: "

    @property
    def polite(self) -> bool:
        return self._platform != "win32"

    # Ports and sockets

    def bind(self, port: Port, *, reuse: bool = False) -> Bind:
        if self._platform == "win32":
            return exclusive_bind(port, factory=self._factory)
        if self._platform == "linux":
            return dual_stack_bind(port, reuse=reuse, factory=self._factory)
        return each_address_bind(port, reuse=reuse, factory=self._factory)

    def sockets(self, ports: Collection[Port], *, connections: bool = False) -> list[Socket]:
        kind = _kind(port.protocol for port in ports)
        with PROBING:
            seen, _ = _look_at_all(kind)
            every = [found for sockets in seen.values() for found in sockets]
            if self._platform == "linux":
                every += _unowned(kind)
        if self._platform == "darwin" and connections:
            every += _fading(self._output)
        return list(
            dict.fromkeys(
                found for found in every if found.port in ports and (connections or found.holds)
            )
        )

    def listeners(self) -> list[Socket]:
        seen, _ = _look_at_all("tcp")
        every = (found for sockets in seen.values() for found in sockets)
        return list(dict.fromkeys(found for found in every if found.state == "listening"))

    def owners(self, ids: Collection[Hashable]) -> Owners:
        asked = frozenset(ids)
        seen, unreadable = _look_at_all("inet")
        pids: dict[Hashable, set[int]] = {}
        for pid, sockets in seen.items():
            for found in sockets:
                if found.id in asked:
                    pids.setdefault(found.id, set()).add(pid)
        return Owners({id_: frozenset(owners) for id_, owners in pids.items()}, unreadable)

    def peers(self, pid: int, *, but: Collection[Hashable] = ()) -> frozenset[int]:  # noqa: ARG002
        try:
            own = list(_look_at(pid, "tcp"))
        except (psutil.NoSuchProcess, *_REFUSALS):
            return frozenset()
        ends = {(_far(found), _near(found)) for found in own if found.state == "connected"}
        if not ends:
            return frozenset()
        seen, _ = _look_at_all("tcp")
        return frozenset(
            other
            for other, sockets in seen.items()
            if other != pid and any((_near(found), _far(found)) in ends for found in sockets)
        )

    def lock(self, folder: str) -> Lock | bool:
        path = Path(folder, ".lock")
        try:
            text, made = path.read_text("ascii"), path.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return Path(folder).is_dir()
        except UnicodeError:
            text, made = "", 0.0
        if not text.isdigit():
            raise OSError(errno.EBADMSG, "not a lock of pytest", str(path))
        return Lock(int(text), made)

    def holds(self, pid: int, ids: Collection[Hashable]) -> bool:
        try:
            return any(found.id in ids for found in _look_at(pid, "inet"))
        except (psutil.NoSuchProcess, *_REFUSALS):
            return False  # not seen to hold one: what cannot be read is no proof

    # Processes

    def exists(self, pid: int) -> bool:
        return psutil.pid_exists(pid)

    def process(self, pid: int) -> Process | None:
        try:
            proc, start = self._open(pid)
            with proc.oneshot():
                facts = self._facts(proc, start)
            # Asked one by one, the facts could be those of two processes that had the pid in turn.
            return facts if self._open(pid)[1] == start else None
        except psutil.NoSuchProcess:
            return None

    def pids(self) -> Iterable[int]:
        return psutil.pids()

    def pin(self, process: Process) -> Pin | None:
        if process.zombie:
            return None
        # To kill(2), 0 and below are process groups.
        if process.start == _UNKNOWN or process.pid <= 0:
            raise PermissionError(f"pid {process.pid} cannot be told from a later process")
        if self._platform == "win32":
            return HandlePin.open(process.pid, process.start, self._kernel32())
        pin = _StartPin(self, process.pid, process.start)
        return pin if pin.alive() else None

    def user(self, owner: int | str | None) -> str:
        if owner is None:
            return "?"
        if isinstance(owner, str):
            return owner
        import pwd  # there is none on Windows, where owners are texts

        try:
            return pwd.getpwuid(owner).pw_name
        except KeyError:
            return str(owner)

    def runs(self, pid: int, start: float) -> bool:
        """Whether the process with this identity still runs."""
        try:
            proc, now = self._open(pid)
            return now == start and not _zombie(proc)
        except psutil.NoSuchProcess:
            return False

    def _open(self, pid: int) -> tuple[psutil.Process, float]:
        """A process and its start: ticks since boot on Linux, else seconds since the epoch.

        psutil's own start time moves on Linux when the clock is set, for it adds the time of boot;
        that is taken off again, and what is left is the number that the `linux` backend reads. The
        order of the two calls matters: psutil before 7.1 remembers the time of boot from the last
        time that it was asked for.
        """
        boot = psutil.boot_time() if self._platform == "linux" else 0.0
        proc = psutil.Process(pid)
        created = _ask(proc.create_time)
        if created is None:
            return proc, _UNKNOWN
        if self._platform == "linux":
            return proc, round((created - boot) * os.sysconf("SC_CLK_TCK"))
        return proc, created

    def _facts(self, proc: psutil.Process, start: float) -> Process:
        started = _ask(proc.create_time)
        argv, environ, cwd = _ask(proc.cmdline), _ask(proc.environ), _ask(proc.cwd) or None
        if self._platform == "darwin" and not environ:
            # The kernel hides the environment of programs that System Integrity Protection
            # restricts, and psutil returns an empty one then (its issue 2084).
            environ = None
        complete = start != _UNKNOWN and None not in (argv, environ, cwd)
        unit = None
        if self._services is not None:
            unit = self._services.of(proc.pid, started)
            complete = complete and self._services.known
        terminal, foreground = self._terminal(proc)
        ppid, owner = self._parent(proc, started), self._owner(proc)
        if ppid is None and self._platform != "win32":
            owner = None  # a parent that is not told must not pass for one that has ended
        status = _ask(proc.status)
        return Process(
            pid=proc.pid,
            ppid=ppid,
            start=start,
            name=_ask(proc.name) or "",
            argv=tuple(argv or ()),
            owner=owner,
            started=started,
            cwd=cwd,
            session=self._session(proc.pid),
            terminal=terminal,
            foreground=foreground,
            zombie=_zombie(proc),
            marks={
                name: value
                for name, value in (environ or {}).items()
                if name in KEPT_VARIABLES and (value or name in MEANINGFUL_IF_EMPTY)
            },
            environment="unreadable" if environ is None else "read" if environ else "wiped",
            complete=complete,
            stopped=status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP),
            # Elsewhere every process runs, by what psutil is told.
            running=self._platform == "linux" and status == psutil.STATUS_RUNNING,
            unit=unit,
        )

    def _parent(self, proc: psutil.Process, started: float | None) -> int | None:
        """The parent's pid; None on Windows if the parent has ended.

        Windows keeps naming a parent that has ended, whose pid may be another process's by now:
        one that is younger than its child.
        """
        ppid = _ask(proc.ppid)
        if ppid is None or self._platform != "win32":
            return ppid
        try:
            born = _ask(psutil.Process(ppid).create_time)
        except psutil.NoSuchProcess:
            return None
        if born is None or started is None:
            return ppid
        return ppid if born <= started else None

    def _owner(self, proc: psutil.Process) -> int | str | None:
        if self._platform == "win32":
            return _ask(proc.username)
        uids = _ask(proc.uids)
        return None if uids is None else uids.real

    def _session(self, pid: int) -> int | None:
        if self._platform == "win32":
            return None
        try:
            return os.getsid(pid)
        except OSError:
            return None

    def _terminal(self, proc: psutil.Process) -> tuple[str | None, bool]:
        """The controlling terminal, and whether the process is in the foreground of it."""
        if self._platform == "win32":
            return None, False
        seen = self._terminals.of(proc.pid)
        if seen is not None:
            return seen
        device = _ask(proc.terminal)
        return None if device is None else device.removeprefix("/dev/"), False

    def container_behind(self, process: Process, port: Port) -> str | None:
        return self._engines.container_behind(process, port)

    # Time

    def now(self) -> float:
        return time.monotonic()

    def moment(self) -> float:
        if self._platform == "linux":
            return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        return time.time()

    def wait(self, pins: Collection[Pin], timeout: float) -> None:
        end = self.now() + timeout
        while all(pin.alive() for pin in pins):
            left = end - self.now()
            if left <= 0:
                return
            time.sleep(min(left, _INTERVAL))


class _StartPin:
    """A process held by its pid and start, compared again right before each signal (a `Pin`).

    Between the comparison and the signal lie some microseconds; macOS and the BSDs offer nothing
    like Linux's pidfd, and give pids out in turn, so that one does not come back at once.
    """

    def __init__(self, system: PortableSystem, pid: int, start: float) -> None:
        self._system = system
        self._pid = pid
        self._start = start

    @property
    def pid(self) -> int:
        return self._pid

    def alive(self) -> bool:
        return self._system.runs(self._pid, self._start)

    def send(self, signal: Signal) -> bool:
        if not self.alive():
            return False
        try:
            os.kill(self._pid, Signals[f"SIG{signal}"])
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """There is nothing to let go of."""


class _Terminals:
    """Who is at which terminal, as ps(1) tells.

    psutil 7 knows only the terminals that were there when it first looked, and a server in a newer
    one would seem to have none. Nor does it tell the foreground: a ``+`` in the state stands for
    "in the foreground process group of its control terminal", on macOS and on Linux.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._seen: dict[int, tuple[str | None, bool]] = {}
        self._until = 0.0

    def of(self, pid: int) -> tuple[str | None, bool] | None:
        """Its terminal, and whether it is in the foreground; None if ps does not know it."""
        # All at once: a survey asks for many processes within a moment.
        if time.monotonic() > self._until or (self._seen and pid not in self._seen):
            self._seen = self._read()
            self._until = time.monotonic() + _MOMENT
        return self._seen.get(pid)

    def _read(self) -> dict[int, tuple[str | None, bool]]:
        seen: dict[int, tuple[str | None, bool]] = {}
        # One -o each: on BSD, what follows the "=" is a heading up to the end of the argument.
        listed = self._output(["ps", "-A", "-o", "pid=", "-o", "tty=", "-o", "stat="])
        for line in (listed or "").splitlines():
            match line.split():
                case [pid, terminal, state] if pid.isdecimal():
                    seen[int(pid)] = (terminal if terminal.strip("?-") else None, "+" in state)
        return seen


class _Services:
    """The names of services by the pids that run them, read when first asked for."""

    def __init__(self, read: Callable[[], Mapping[int, str] | None]) -> None:
        self._read = read
        self._names: Mapping[int, str] = {}
        self._read_at: float | None = None
        self.known = True
        """Whether the list could be read, the last time."""

    def of(self, pid: int, started: float | None) -> str | None:
        """The service that a process runs, read again if the process is younger than the list."""
        if self._read_at is None or (self.known and (started or 0.0) > self._read_at):
            self._read_at = time.time()
            names = self._read()
            self.known = names is not None
            self._names = names or {}
        return self._names.get(pid)


def _launchd_jobs(output: Output) -> Mapping[int, str] | None:
    """The jobs of launchd: ``launchctl list`` writes PID, status and label, with tabs between."""
    text = output(["launchctl", "list"])
    if text is None:
        return None
    jobs = {}
    for line in text.splitlines():
        pid, _, rest = line.partition("\t")
        label = rest.partition("\t")[2]
        # An app with a window is a job as well, but nobody restarts it.
        if pid.isdecimal() and label and not label.startswith("application."):
            jobs[int(pid)] = label
    return jobs


def _windows_services() -> Mapping[int, str] | None:
    every: Callable[[], Iterable[_Service]] = vars(psutil)["win_service_iter"]  # on Windows alone
    services: dict[int, str] = {}
    try:
        for service in every():
            pid = _ask(service.pid)
            if pid:  # it runs, was not removed since, and lets us know
                services.setdefault(pid, service.name())
    except _REFUSALS:
        return None
    return services


def _ask(question: Callable[[], T]) -> T | None:
    """An answer of psutil; None if the process keeps it to itself, or has nothing to tell any more.

    psutil says "no such process" of some facts of a zombie too, so that is for others to find out.
    """
    try:
        return question()
    except (psutil.NoSuchProcess, *_REFUSALS):
        return None


def _zombie(proc: psutil.Process) -> bool:
    if _ask(proc.status) not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return False
    # Linux shows a process as a zombie whose main thread has ended while others go on. They keep
    # its sockets open. A real zombie counts one thread there, and none can be counted on macOS.
    return (_ask(proc.num_threads) or 0) <= 1


def _look_at_all(kind: str) -> tuple[dict[int, list[Socket]], int]:
    """The sockets of every process, and how many processes did not let us look.

    Process by process, since psutil.net_connections() needs root on macOS, and names one of several
    holders on Linux.
    """
    seen: dict[int, list[Socket]] = {}
    unreadable = 0
    for pid in psutil.pids():
        try:
            seen[pid] = list(_look_at(pid, kind))
        except psutil.NoSuchProcess:
            continue  # ended since, or a zombie, which holds nothing
        except _REFUSALS:
            unreadable += 1
    return seen, unreadable


def _look_at(pid: int, kind: str) -> Iterator[Socket]:
    proc: Any = psutil.Process(pid)
    # Called connections() before psutil 6.
    connections = getattr(proc, "net_connections", None) or proc.connections
    every: Iterable[_Connection] = connections(kind=kind)
    for connection in every:
        if connection.laddr:
            yield _socket(connection)


def _unowned(kind: str) -> Iterator[Socket]:
    """On Linux: the sockets of nobody, and those of processes that we may not look at."""
    for connection in psutil.net_connections(kind):
        if connection.pid is None and connection.laddr:
            yield _socket(connection)


def _fading(output: Output) -> Iterator[Socket]:
    """On macOS: the connections that outlived their process, which netstat(1) alone lists.

    A line reads ``tcp4 0 0 127.0.0.1.8000 127.0.0.1.53412 TIME_WAIT``: the port comes after the
    last dot. Other states are of no use here, since an address may be cut short.
    """
    for line in (output(["netstat", "-an", "-p", "tcp"]) or "").splitlines():
        words = line.split()
        if len(words) < 6 or not words[0].startswith("tcp") or words[5] not in _FADING:
            continue
        address, _, number = words[3].rpartition(".")
        host, _, far = words[4].rpartition(".")
        if number.isdecimal():
            peer = _endpoint((host, far))
            yield Socket(None, Port(int(number), "tcp"), "fading", address, peer=peer)


def _socket(connection: _Connection) -> Socket:
    """A socket as psutil lists it: without an inode, so its addresses have to tell it apart."""
    protocol: Protocol = "tcp" if connection.type == SOCK_STREAM else "udp"
    address, number = connection.laddr[:2]
    peer = _endpoint(connection.raddr) if connection.raddr else ""
    id_ = (protocol, address, number, peer) if peer else (protocol, address, number)
    state = _state(connection, protocol)
    return Socket(
        # Nobody's, even if Windows lists it as the idle process's.
        id=None if state == "fading" else id_,
        port=Port(number, protocol),
        state=state,
        address=address,
        peer=peer,
    )


def _near(found: Socket) -> str:
    return _endpoint((unmapped(found.address), found.port.number))


def _far(found: Socket) -> str:
    return unmapped(found.peer)


def _state(connection: _Connection, protocol: Protocol) -> State:
    if connection.status in _STATES:
        return _STATES[connection.status]
    if not connection.raddr:
        return "bound"
    return "connected" if protocol == "udp" else "fading"


def _endpoint(address: tuple[Any, ...]) -> str:
    host, number = address[:2]
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def _kind(protocols: Iterable[str]) -> str:
    """The narrowest of psutil's kinds of connection: half the work, for one protocol."""
    asked = set(protocols)
    return asked.pop() if len(asked) == 1 else "inet"
