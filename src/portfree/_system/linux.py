"""Linux: sockets from the kernel, processes from /proc, signals through pidfds.

Facts from proc(5), pid_namespaces(7), time_namespaces(7), cgroups(7), pidfd_open(2) and
pidfd_send_signal(2).
"""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import time
from collections.abc import Collection, Hashable, Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from portfree._system import proc_net, sock_diag
from portfree._system.interface import (
    KEPT_VARIABLES,
    MEANINGFUL_IF_EMPTY,
    Bind,
    Environment,
    Lock,
    Owners,
    Pin,
    Process,
    Signal,
    Socket,
)
from portfree._system.probe import PROBING, dual_stack_bind
from portfree.model import Port

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree._core.containers import Engines

_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO in linux/proc_ns.h
_FIRST_TIME_NAMESPACE = 0xEFFFFFFA  # PROC_TIME_INIT_INO
_TICKS = os.sysconf("SC_CLK_TCK")
_PF_FORKNOEXEC = 0x40  # linux/sched.h: "Forked but didn't exec"
_SIGNALS: dict[Signal, signal.Signals] = {
    "TERM": signal.SIGTERM,
    "CONT": signal.SIGCONT,
    "INT": signal.SIGINT,
    "KILL": signal.SIGKILL,
}

# Container engines put the container's id, 64 hexadecimal digits, in the cgroup's name; LXC and
# systemd-nspawn put its name there.
_CONTAINER = re.compile(
    r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])|/lxc(?:\.payload)?[./]([^/]+)|/machine-([^/]+)\.scope"
)

# What a process that goes away under our hands makes of a look at it.
_GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)
# What is gone or hidden is not there for us. Any other error (no descriptor or no memory left) says
# nothing, and must not pass for "there is no such process", which might have been one to spare.
_NOT_SHOWN = (*_GONE, PermissionError)


class LinuxSystem:
    """The `System` of Linux."""

    name = "linux"
    polite = True

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        try:
            _, self._own_depth = self._identity("self")
            self._own_container = _container(_text(f"{proc}/self/cgroup"))
        except OSError:  # then everybody seems to live in another container, and is kept
            self._own_depth, self._own_container = 0, "?"

    @cached_property
    def _engines(self) -> Engines:
        from portfree._core.containers import Engines  # hardly any held port is a container's

        return Engines()

    @property
    def namespace(self) -> str:
        try:
            inode = os.stat(f"{self._proc}/self/ns/pid").st_ino
        except OSError:
            return "?"
        pids = "" if inode == _FIRST_PID_NAMESPACE else str(inode)
        try:
            inode = os.stat(f"{self._proc}/self/ns/time").st_ino
        except OSError:  # a kernel before 5.6, which has no other
            return pids
        return pids if inode == _FIRST_TIME_NAMESPACE else f"{pids}t{inode}"

    # Sockets

    def bind(self, port: Port, *, reuse: bool = False) -> Bind:
        return dual_stack_bind(port, reuse=reuse)

    def sockets(self, ports: Collection[Port], *, connections: bool = False) -> list[Socket]:
        with PROBING:
            try:
                return sock_diag.dump(ports, connections=connections)
            except OSError:
                return proc_net.read(ports, connections=connections)

    def listeners(self) -> list[Socket]:
        try:
            return sock_diag.listeners()
        except OSError:
            return proc_net.listeners()

    def owners(self, ids: Collection[Hashable]) -> Owners:
        wanted = _links(ids)
        pids: dict[Hashable, set[int]] = {}
        unreadable = 0
        for pid in self.pids():
            try:
                for link in self._descriptors(pid):
                    if link in wanted:
                        pids.setdefault(wanted[link], set()).add(pid)
            except PermissionError:
                unreadable += 1
        return Owners({id_: frozenset(found) for id_, found in pids.items()}, unreadable)

    def holds(self, pid: int, ids: Collection[Hashable]) -> bool:
        wanted = _links(ids)
        try:
            return any(link in wanted for link in self._descriptors(pid))
        except OSError:
            return False

    def peers(self, pid: int, *, but: Collection[Hashable] = ()) -> frozenset[int]:
        known = _links(but)
        try:
            own = {
                link
                for link in self._descriptors(pid)
                if link.startswith("socket:") and link not in known
            }
            connections = sock_diag.connections() if own else []
        except OSError:
            return frozenset()
        # The far end of a connection is the one whose own address is this one's peer.
        ends = {
            (c.peer, c.near)
            for c in connections
            if f"socket:[{c.inode}]" in own and c.peer != c.near
        }
        inodes = {c.inode for c in connections if (c.near, c.peer) in ends}
        if not inodes:
            return frozenset()
        owners = self.owners(inodes).pids.values()
        return frozenset(found for pids in owners for found in pids) - {pid}

    def lock(self, folder: str) -> Lock | bool:
        path = f"{folder}/.lock"
        try:
            with open(path, "rb") as file:
                text, made = file.read(32), os.fstat(file.fileno()).st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return os.path.isdir(folder)
        if not text.isdigit():
            raise OSError(errno.EBADMSG, "not a lock of pytest", path)
        return Lock(int(text), made)

    def _descriptors(self, pid: int) -> Iterator[str]:
        """What the open descriptors of a process point to: ``socket:[4711]`` and the like."""
        folder = f"{self._proc}/{pid}"
        try:
            numbers = os.listdir(f"{folder}/fd")
        except _GONE:
            return
        except PermissionError:
            # That of a dead main thread belongs to root, whoever the process belongs to.
            try:
                ours = os.stat(folder).st_uid == os.geteuid()
            except _GONE:
                return
            if not ours or self._living_thread(pid) is None:
                raise
            numbers = []
        if not numbers and (thread := self._living_thread(pid)) is not None:
            # A main thread that has ended takes its view of the descriptors along, while the other
            # threads keep them open: then only /proc/PID/task/*/fd shows them.
            folder = thread
            try:
                numbers = os.listdir(f"{folder}/fd")
            except _GONE:
                return
        yield from _targets(f"{folder}/fd", numbers)

    def _living_thread(self, pid: int) -> str | None:
        """The folder of a thread that outlives its main thread; None if there is none such."""
        folder = f"{self._proc}/{pid}/task"
        try:
            if os.stat(folder).st_nlink <= 3:  # two that every folder has, and the main thread's
                return None
            threads = os.listdir(folder)
        except _NOT_SHOWN:
            return None
        for thread in threads:
            stat = _read_stat(f"{folder}/{thread}/stat")
            if stat is not None and not stat.ended:
                return f"{folder}/{thread}"
        return None

    # Processes

    def pids(self) -> Iterable[int]:
        try:
            return [int(name) for name in os.listdir(self._proc) if name.isdigit()]
        except _NOT_SHOWN:
            return []

    def exists(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)  # signal 0 only asks (kill(2)); it also finds what hidepid hides
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def process(self, pid: int) -> Process | None:
        stat = self._stat(pid)
        if stat is None:
            return None
        folder = f"{self._proc}/{pid}"
        if stat.ended and not stat.zombie:
            # A main thread that has ended takes these along as well.
            folder = self._living_thread(pid) or folder
        owner, depth = self._identity(pid)
        argv = _bytes(f"{folder}/cmdline")
        environment = _bytes(f"{folder}/environ")
        cgroup = _text(f"{folder}/cgroup")
        container = _container(cgroup)
        foreign = depth > self._own_depth or container != self._own_container
        return Process(
            pid=pid,
            ppid=stat.ppid,
            start=stat.start,
            name=stat.name,
            argv=_words(argv or b""),
            owner=owner,
            started=time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - stat.start / _TICKS),
            cwd=_directory(f"{folder}/cwd"),
            session=stat.session,
            terminal=_terminal(stat.terminal),
            foreground=stat.foreground,
            zombie=stat.zombie,
            marks=_marks(environment or b""),
            environment=_state(environment),
            forked=stat.forked,
            stopped=stat.stopped,
            running=stat.running,
            # Nobody has neither, but who is just ending: some kernels show nothing then.
            complete=None not in (argv, environment) and bool(argv or environment),
            unit=_unit(cgroup),
            container=(container or "?") if foreign else None,
            control_group=cgroup or None,
        )

    def pin(self, process: Process) -> Pin | None:
        if _link(f"{self._proc}/self") != str(os.getpid()):
            # unshare --pid without a /proc of its own: a pid means one process there, and another
            # one to the kernel when we ask.
            raise PermissionError(errno.EPERM, "/proc shows another pid namespace than ours")
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            # A kernel before 5.3, or a sandbox that knows no pidfds: the start time is checked
            # before every signal instead.
            pin: _PidfdPin | _TicksPin = _TicksPin(self, process.pid, process.start)
        else:
            pin = _PidfdPin(process.pid, descriptor)
        # The pid may have passed to another process before it was pinned.
        try:
            stat = self._stat(process.pid)
        except OSError:
            pin.close()
            raise
        if stat is None or stat.start != process.start:
            pin.close()
            return None
        return pin

    @property
    def privileged(self) -> bool:
        return os.geteuid() == 0

    def elevate(self) -> str:
        return "sudo " if shutil.which("sudo") else "as root: "

    def container_behind(self, process: Process, port: Port) -> str | None:
        return self._engines.container_behind(process, port)

    def user(self, owner: int | str | None) -> str:
        import pwd

        if owner is None:
            return "?"
        try:
            return pwd.getpwuid(int(owner)).pw_name
        except KeyError:
            return str(owner)

    # Time

    def now(self) -> float:
        return time.monotonic()

    def moment(self) -> float:
        return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)

    def wait(self, pins: Collection[Pin], timeout: float) -> None:
        poll = select.poll()
        blind = False
        for pin in pins:
            if isinstance(pin, _PidfdPin):
                poll.register(pin.descriptor, select.POLLIN)
            else:
                blind = True
        # Without a pidfd there is nothing to wait for: look again soon.
        # A negative timeout would last for ever.
        poll.poll(max(0.0, min(timeout, 0.01 if blind else timeout)) * 1000)

    # Reading /proc

    def _stat(self, pid: int) -> _Stat | None:
        return _read_stat(f"{self._proc}/{pid}/stat")

    def start(self, pid: int) -> int | None:
        """The start ticks of a live process; None if there is none with this pid."""
        stat = self._stat(pid)
        return None if stat is None or stat.zombie else stat.start

    def _identity(self, pid: int | str) -> tuple[int | None, int]:
        """The real uid, and how many pid namespaces deep the process lives (1: the first one)."""
        owner, depth = None, 1
        for line in _text(f"{self._proc}/{pid}/status").splitlines():
            if line.startswith("Uid:"):
                owner = int(line.split()[1])
            elif line.startswith("NSpid:"):
                depth = len(line.split()) - 1
        return owner, depth


class _Stat(NamedTuple):
    """The fields of /proc/PID/stat that we use."""

    name: str
    ended: bool
    """Whether this thread has ended; a process, only if no other thread of it lives."""
    zombie: bool
    stopped: bool
    forked: bool
    ppid: int
    session: int
    terminal: int
    foreground: bool
    running: bool
    start: int


def _read_stat(path: str) -> _Stat | None:
    raw = _bytes(path)
    if not raw:
        return None
    # The name stands in brackets and may itself hold brackets and spaces.
    _, _, start = raw.partition(b"(")
    name, _, fields = start.rpartition(b")")
    try:
        state, ppid, group, session, terminal, foreground, flags, *rest = fields.split()
        ended = state in (b"Z", b"X")
        return _Stat(
            name=os.fsdecode(name),
            ended=ended,
            zombie=ended and int(rest[10]) <= 1,  # field 20: num_threads
            stopped=state in (b"T", b"t"),
            running=state == b"R",
            forked=bool(int(flags) & _PF_FORKNOEXEC),
            ppid=int(ppid),
            session=int(session),
            terminal=int(terminal),
            foreground=int(terminal) != 0 and group == foreground,
            start=int(rest[12]),  # field 22: starttime
        )
    except (ValueError, IndexError):
        return None  # nothing that Linux writes, so nothing that we know


class _PidfdPin:
    """A process held by a pidfd, which never comes to mean another process."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.descriptor = descriptor

    def alive(self) -> bool:
        # Readable once the process has ended with all its threads, reaped or not (pidfd_open(2)).
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return not poll.poll(0)

    def send(self, signal_: Signal) -> bool:
        try:
            signal.pidfd_send_signal(self.descriptor, _SIGNALS[signal_])
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        os.close(self.descriptor)


class _TicksPin:
    """A process held by its pid and start ticks, for a kernel without pidfds."""

    def __init__(self, system: LinuxSystem, pid: int, start: float) -> None:
        self._system = system
        self.pid = pid
        self._start = start

    def alive(self) -> bool:
        return self._system.start(self.pid) == self._start

    def send(self, signal_: Signal) -> bool:
        if not self.alive():
            return False
        try:
            os.kill(self.pid, _SIGNALS[signal_])
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Nothing is held."""


def _targets(folder: str, numbers: Iterable[str]) -> Iterator[str]:
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except _GONE:
        return
    try:
        for number in numbers:
            try:
                # Relative to the folder: to walk from the root each time takes a fifth longer.
                yield os.readlink(number, dir_fd=directory)
            except _GONE:
                continue
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:  # a file's path; that of a socket is short
                    raise
    finally:
        os.close(directory)


def _links(ids: Collection[Hashable]) -> dict[str, Hashable]:
    return {f"socket:[{id_}]": id_ for id_ in ids}


def _bytes(path: str) -> bytes | None:
    """A file of /proc; None if it is gone, or may not be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except _NOT_SHOWN:
        return None


def _text(path: str) -> str:
    return os.fsdecode(_bytes(path) or b"")


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _words(raw: bytes) -> tuple[str, ...]:
    # Programs that set their title (setproctitle, nginx) overwrite argv with one text and pad it.
    words = raw.rstrip(b"\0").split(b"\0")
    return tuple(os.fsdecode(word) for word in words) if raw.strip(b"\0") else ()


def _directory(path: str) -> str | None:
    """The working directory; one that was removed by the path that it had."""
    target = _link(path)
    # d_path() in the kernel's fs/d_path.c says so of a folder that is gone; one may be called so.
    if target and target.endswith(_DELETED) and not os.path.lexists(target):
        return target.removesuffix(_DELETED)
    return target


_DELETED = " (deleted)"


def _state(environment: bytes | None) -> Environment:
    if environment is None:
        return "unreadable"
    # A title that is longer than the old command line runs on into the environment, and may leave
    # some of it behind: what begins with no variable is not what the process was given.
    return "read" if _VARIABLE.match(environment) else "wiped"


_VARIABLE = re.compile(rb"[^=\0]+=")


def _marks(environment: bytes) -> dict[str, str]:
    pairs = (os.fsdecode(line).partition("=") for line in environment.split(b"\0"))
    return {
        name: value
        for name, equals, value in pairs
        if name in KEPT_VARIABLES and (value or (equals and name in MEANINGFUL_IF_EMPTY))
    }


def _terminal(number: int) -> str | None:
    """The name of a terminal from its device number (Documentation/admin-guide/devices.txt)."""
    if number == 0:
        return None
    major, minor = os.major(number), os.minor(number)
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return f"terminal {major}:{minor}"


def _container(cgroup: str) -> str | None:
    for line in cgroup.splitlines():
        # The innermost one: containers run in containers.
        names: list[str] = [name for found in _CONTAINER.findall(line) for name in found if name]
        if names:
            return names[-1]
    return None


def _unit(cgroup: str) -> str | None:
    """The leaf unit of systemd, if it is a service.

    The line of the unified hierarchy starts with ``0::``; on a machine that has only the old one,
    systemd's own starts with ``1:name=systemd:``.
    """
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers in ("", "name=systemd"):
            units = [
                part for part in path.split("/") if part.endswith((".service", ".scope", ".slice"))
            ]
            if units:
                return units[-1] if units[-1].endswith(".service") else None
    return None
