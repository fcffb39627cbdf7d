"""The border to the operating system: what portfree asks of it, and the facts that come back.

The rest sees the machine only through a `System`, and a test can put its own in its place: so the
branches for macOS and Windows, and every failure of the kernel, are tested on Linux. A `System`
reports facts and never judges. They are named tuples: loading dataclasses, and making classes with
them, would cost the first call on a held port as much as its look at the machine.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from portfree.model import Port

Bind = Literal["free", "in-use", "denied", "unavailable"]
"""What bind(2) said: it worked; EADDRINUSE; EACCES or EPERM; or something else (no such address
family, no memory), from which nothing is known."""

State = Literal["listening", "bound", "connected", "connecting", "closing"]
"""What a socket does with its port: ``listening`` and ``bound`` hold it; ``bound`` is neither
listening nor connected, as every UDP server is. ``connected`` and ``connecting`` only use the
number at their own end. ``closing`` is a closed connection that the kernel keeps for a while
(TIME_WAIT, FIN_WAIT2 and the like, RFC 9293 3.3.2)."""

Signal = Literal["TERM", "CONT", "INT", "KILL"]

MARKS = (
    "PORTFREE_RUN_ID",
    "PYTEST_CURRENT_TEST",
    "PYTEST_VERSION",
    "NOX_CURRENT_SESSION",
    "TOX_ENV_DIR",
    "NEXTEST_TEST_NAME",
)
"""Environment variables that tell where a process was born."""

CI_JOB_IDS = (
    "RUNNER_TRACKING_ID",
    "CI_JOB_ID",
    "BUILD_TAG",
    "BUILDKITE_JOB_ID",
    "SYSTEM_JOBID",
    "CIRCLE_WORKFLOW_JOB_ID",
    "TEAMCITY_BUILD_PROPERTIES_FILE",
    "CI_PIPELINE_URL",
    "DRONE_BUILD_LINK",
)
"""Environment variables that name a CI job, each job by another value: GitHub Actions, GitLab,
Jenkins, Buildkite, Azure Pipelines, CircleCI, TeamCity, Woodpecker, Drone."""

XDIST_WORKER = "PYTEST_XDIST_WORKER"
"""Environment variable that names a worker of pytest-xdist."""

CI_STEP = "GITHUB_ACTION"
"""Environment variable that names the step of a CI job: its id, or ``__run_2`` for the second that
has none (GitHub's reference of default variables)."""

KEEP = ("PORTFREE_KEEP", "BUILD_ID", "JENKINS_NODE_COOKIE")
"""Environment variables with which a process asks to be left running: our own, and those that
Jenkins' ProcessTreeKiller heeds if they are ``dontKillMe``."""

SUDO_UID = "SUDO_UID"
"""Environment variable of sudo(8): the user who called it."""

KEPT_VARIABLES = frozenset((*MARKS, *CI_JOB_IDS, XDIST_WORKER, CI_STEP, *KEEP, SUDO_UID))
"""All that is kept of a process's environment."""

MEANINGFUL_IF_EMPTY = frozenset({"RUNNER_TRACKING_ID"})
"""Variables of which an empty value says something: this one, emptied, asks GitHub's runner to
leave the process running when the job ends."""

Environment = Literal["read", "wiped", "unreadable"]
"""What a look at a process's environment gave. ``wiped``: not one ``NAME=`` was in it, as programs
leave it that put their title there (redis, PostgreSQL, setproctitle), or that were given none."""

NOTHING: Mapping[str, str] = MappingProxyType({})
"""The default of mappings: one for all, which cannot be filled."""


class Socket(NamedTuple):
    """A socket on one of the asked ports, as the kernel lists it."""

    id: Hashable
    """Equal for the same socket in every process: the inode on Linux. Sockets that cannot be told
    apart share an id, so that no process is stopped for a socket that another may share. None for
    a connection that belongs to no process any more."""
    port: Port
    state: State
    address: str
    """The local address, such as ``"127.0.0.1"`` or ``"::"``."""
    uid: int | None = None
    """Its owner, where the kernel tells (Linux does of every socket, without privilege)."""
    peer: str = ""
    """The other end of a connection, ``"192.0.2.7:443"``."""
    closes_in: float | None = None
    """In how many seconds the kernel forgets a closing connection, where it tells."""

    @property
    def holds(self) -> bool:
        """Whether this socket keeps others from serving on the port. One that is connected to
        itself does: a client that asks again and again for a server on a port of the outgoing range
        once gets that number for its own end (TCP's simultaneous open, RFC 9293 3.5).
        """
        return self.state in ("listening", "bound") or self.of_itself

    @property
    def of_itself(self) -> bool:
        """Whether this is a connection of a socket to itself."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return self.state == "connected" and self.peer == f"{host}:{self.port.number}"


class Process(NamedTuple):
    """A process as it was seen once. ``pid`` and ``start`` together are its identity. What could
    not be read is None (``()`` or ``{}`` for a collection, and then ``complete`` is false): the
    verdict takes that for "unknown", never for "no".
    """

    pid: int
    ppid: int | None
    """0 where the parent lies outside our pid namespace, and for the first process; None where the
    parent has ended and no other process adopted the child, as on Windows."""
    start: float
    """When it started, to be compared with that of other processes: clock ticks since boot on Linux
    (proc(5), field 22 of stat), else seconds since the epoch."""
    name: str
    """The kernel's short name: at most 15 bytes on Linux."""
    argv: tuple[str, ...] = ()
    """The command line, with the secrets that are in it."""
    owner: int | str | None = None
    """The real uid; on Windows ``DOMAIN\\user``."""
    started: float | None = None
    """The same in seconds since the epoch: to show its age, not to identify it."""
    cwd: str | None = None
    session: int | None = None
    """The session id (getsid(2))."""
    terminal: str | None = None
    """Its controlling terminal, such as ``"pts/3"``; None if it has none."""
    foreground: bool = False
    """Whether it is in the foreground process group of that terminal."""
    zombie: bool = False
    """Dead and not yet reaped, with no thread that still lives."""
    marks: Mapping[str, str] = NOTHING
    """The `KEPT_VARIABLES` that its environment had at its start; nothing else of it is kept."""
    environment: Environment = "read"
    complete: bool = True
    """Whether the environment and the command line could be read; off Linux, the directory too."""
    forked: bool | None = None
    """Whether it has executed no program since it was forked: then its command line and environment
    are those of the process that it was forked from. None where that is not told."""
    stopped: bool = False
    """Whether it is suspended (Ctrl-Z, SIGSTOP)."""
    running: bool = False
    """Whether it runs, or waits for nothing but its turn to."""
    control_group: str | None = None
    """Its control group (cgroups(7)), which its children inherit."""
    unit: str | None = None
    """The service that it runs: ``nginx.service`` (the leaf of its systemd cgroup), a launchd
    label, the name of a Windows service."""
    container: str | None = None
    """The container that it runs in, if not ours: its id, or ``"?"`` if that is not told."""

    @property
    def leads_session(self) -> bool:
        return self.session == self.pid

    @property
    def readable(self) -> bool:
        """Whether all that its environment says is known."""
        return self.environment == "read" and self.complete


class Lock(NamedTuple):
    """A lock file that names the process that made it, as in a temporary folder of pytest."""

    pid: int
    made: float
    """When it was made, in seconds since the epoch."""


class Owners(NamedTuple):
    """Which processes have which socket open."""

    pids: Mapping[Hashable, frozenset[int]]
    """Socket id to pids; an id that no process was seen with is absent."""
    unreadable: int = 0
    """How many processes did not let us look at their descriptors."""


class Pin(Protocol):
    """A process held by its identity, so that a recycled pid is never signalled."""

    @property
    def pid(self) -> int: ...

    def alive(self) -> bool:
        """Whether the process still runs. A zombie with no living thread does not."""

    def send(self, signal: Signal) -> bool:
        """Send a signal; False if the process was gone. PermissionError if the kernel refuses."""

    def close(self) -> None:
        """Let go of it; the pin is of no use any more."""


class System(Protocol):
    """The operating system, as portfree needs it. Times are in seconds."""

    name: str
    """`sys.platform`: ``"linux"``, ``"darwin"``, ``"win32"``, …"""
    polite: bool
    """Whether a foreign process can be asked to end (false on Windows)."""

    @property
    def namespace(self) -> str:
        """The pid and time namespace (namespaces(7)) in which pids and starts mean what they mean
        here; empty in the machine's first ones, and where there are none.
        """

    @property
    def privileged(self) -> bool:
        """Whether we may signal the processes of other users."""

    def elevate(self) -> str:
        """What one writes before a command that takes the rights of root: ``"sudo "``."""

    def bind(self, port: Port, *, reuse: bool = False) -> Bind:
        """Try to bind the port on every address, and let go; *reuse*: as with SO_REUSEADDR."""

    def sockets(self, ports: Collection[Port], *, connections: bool = False) -> list[Socket]:
        """The sockets that hold one of *ports*; with *connections*, also those that merely have the
        number at their own end. Raises OSError if the system does not tell.
        """

    def listeners(self) -> list[Socket]:
        """Every listening TCP socket, and every UDP socket that is bound and not connected. Raises
        OSError if the system does not tell.
        """

    @property
    def lists_quickly(self) -> bool:
        """Whether `listeners` costs well below a millisecond, so that one may ask all the time."""

    def owners(self, ids: Collection[Hashable]) -> Owners:
        """Every process that has one of these sockets open, from one look at all processes."""

    def holds(self, pid: int, ids: Collection[Hashable]) -> bool:
        """Whether this process was seen to have one of these sockets open right now."""

    def peers(self, pid: int, *, but: Collection[Hashable] = ()) -> frozenset[int]:
        """The processes with a TCP connection to this one; *but*: its sockets that are none."""

    def lock(self, folder: str) -> Lock | bool:
        """The lock in a pytest folder, or whether that is there; OSError if it cannot be told."""

    def moment(self) -> float:
        """The present time, in the unit of `Process.start`."""

    def newest(self) -> int | None:
        """The pid that was given last; None if the system does not tell."""

    def process(self, pid: int) -> Process | None:
        """The facts about a process; None if there is no such process (any more)."""

    def exists(self, pid: int) -> bool:
        """Whether there is a process with this pid, be it hidden from us or not."""

    def pids(self) -> Iterable[int]:
        """Every process that can be seen."""

    def pin(self, process: Process) -> Pin | None:
        """Pin a process; None if it is gone, or the pid is another's; OSError if it cannot be."""

    def user(self, owner: int | str | None) -> str:
        """A user's name for people; the number itself if it has none."""

    def output(self, argv: Sequence[str], timeout: float) -> str | None:
        """What a program writes; None if it does not start, fails, or takes longer than that."""

    def now(self) -> float:
        """A monotonic clock."""

    def wait(self, pins: Collection[Pin], timeout: float) -> None:
        """Return when one of the pinned processes has ended, or after *timeout*."""
