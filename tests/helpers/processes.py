"""Real processes for tests: start them, wait until they are ready, kill what is left of them.

Nothing here waits for time. A process is ready when it says so on a pipe or when its port accepts
a connection, and it is gone when /proc says so. What a test has started is found again by pid *and*
start ticks, and by the value of `TOKEN` in its environment, which every descendant inherits. No
process is ever looked for by its name: several test runs may share a machine.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partialmethod
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pytest

from portfree import HolderReport, Outcome, PortfreeError, Report
from portfree._system.interface import CI_JOB_IDS, MARKS
from portfree._system.linux import LinuxSystem

HERE = Path(__file__).parent
SERVERS = HERE / "servers.py"
LAUNCH = HERE / "launch.py"
CALLER = HERE / "caller.py"

TOKEN = "STAGE_TOKEN"
READY = "STAGE_READY"

PATIENCE = 60.0
"""Seconds until a test gives up: only a test that fails waits so long, whatever the load is."""

NOBODY = 65534
"""An unprivileged user, which owns nothing else here."""

# What tells a process where it was born, and must not reach the processes of a test from the run
# that tests portfree. TMUX and GITHUB_ would make a launcher or a CI job of us.
_LEAKING = (
    *(*MARKS, *CI_JOB_IDS, "PORTFREE_", "NOX_", "TOX_", "PYTEST_", "TMUX", "GITHUB_", "RUNNER_"),
    *("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"),
)

Mode = Literal["orphan", "adopted", "attended", "terminal", "child"]

_T = TypeVar("_T")

# For tests of what lies above the backends, which is the same with either.
one_backend = pytest.mark.parametrize("backend", ["linux"], indirect=True)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def needs_program(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"needs the program {name}")


def needs_namespace(*flags: str) -> pytest.MarkDecorator:
    """Skip where the kernel, or our place in it, makes no namespace of that kind."""
    command = ["unshare", *flags, "true"]
    made = shutil.which("unshare") and not subprocess.run(command, capture_output=True).returncode
    return pytest.mark.skipif(not made, reason=f"cannot run `{' '.join(command)}` here")


# Conditions


def wait_until(condition: Callable[[], _T], what: str) -> _T:
    """Return the first true answer of *condition*; fail, naming *what*, when patience is over."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE:g} s in vain: {what}")
        time.sleep(0.005)
    return answer


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server accepts connections there.

    The client closes first, so what is left of the connection keeps the client's port, not ours.
    """
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


# Facts from /proc


class Stat(NamedTuple):
    """Some of what proc(5) says in /proc/PID/stat."""

    state: str
    ppid: int
    session: int
    terminal: int
    threads: int
    start: int


def stat(pid: int) -> Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # After the name, which stands in brackets and may hold anything, comes field 3.
    fields = text.rpartition(")")[2].split()
    return Stat(fields[0], *(int(fields[at]) for at in (1, 3, 4, 17, 19)))


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def children(pid: int) -> list[int]:
    return [each for each in pids() if (seen := stat(each)) is not None and seen.ppid == pid]


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, or another user's
        return b""


class Identity(NamedTuple):
    """A process for sure: a pid comes to mean another process, the two together never do."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Identity:
        seen = stat(pid)
        assert seen is not None, f"process {pid} is gone"
        return cls(pid, seen.start)

    @property
    def stat(self) -> Stat | None:
        """What /proc says of it; None if it has ended, reaped or not."""
        seen = stat(self.pid)
        if seen is None or seen.start != self.start:
            return None
        # A main thread that has ended is a zombie too, for as long as another thread lives.
        return None if seen.state in "ZX" and seen.threads <= 1 else seen

    @property
    def alive(self) -> bool:
        return self.stat is not None

    def send(self, number: signal.Signals) -> None:
        """Signal this very process, or none."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.alive:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    def wait_gone(self) -> None:
        wait_until(lambda: not self.alive, f"process {self.pid} ends")


# What to start


def serve(*flags: str) -> list[str]:
    """The command line of one of our servers (servers.py)."""
    # Without site: our servers need nothing installed, and start twice as fast.
    return [sys.executable, "-S", str(SERVERS), *flags]


def tcp(port: int, *flags: str, host: str = "127.0.0.1") -> list[str]:
    return serve("--tcp", f"{host}:{port}", *flags)


def udp(port: int, *flags: str, host: str = "127.0.0.1") -> list[str]:
    return serve("--udp", f"{host}:{port}", *flags)


def client(port: int) -> list[str]:
    return serve("--connect", f"127.0.0.1:{port}")


def supervisor(command: Sequence[str]) -> list[str]:
    """A program that starts the command again whenever it ends."""
    return serve("--supervise", "--", *command)


def http_server(port: int) -> list[str]:
    return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]


class Started:
    """A process that a test has started. The pids in `facts` are as it sees them itself."""

    def __init__(self, descriptor: int, log: Path) -> None:
        self.log = log
        self.process = Identity(0, 0)
        """The process that was started: the server, or the shell or the supervisor around it."""
        self.launcher: Identity | None = None
        """The process that looks after it, if one does."""
        self.facts: dict[str, Any] = {}
        self._descriptor = descriptor
        self._rest = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.alive

    @property
    def server(self) -> Identity:
        """The server itself, where something is wrapped around it."""
        return Identity.of(self.facts["pid"])

    @property
    def workers(self) -> list[Identity]:
        return [Identity.of(pid) for pid in self.facts["workers"]]

    def wait_ready(self) -> None:
        """Wait until the server says (again, if a supervisor restarts it) that it is ready."""
        self.facts = self.read("pid")

    def wait_gone(self) -> None:
        self.process.wait_gone()

    def read(self, key: str) -> dict[str, Any]:
        """The next line of JSON that has the *key*, from the pipe that all of them write to."""
        facts: dict[str, Any] = {}
        while key not in facts:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                facts, self._rest = json.loads(line), rest
                continue
            ready, _, _ = select.select([self._descriptor], [], [], PATIENCE)
            chunk = os.read(self._descriptor, 65536) if ready else b""
            if not chunk:
                why = "it ended" if ready else f"nothing came in {PATIENCE:g} s"
                pytest.fail(f"no {key!r} from the process: {why}\n{self.log.read_text()}")
            self._rest += chunk
        return facts


class Call(NamedTuple):
    """A call of `free_ports` under way in a process of its own."""

    process: subprocess.Popen[bytes]

    def answer(self) -> Report | PortfreeError:
        output, errors = self.process.communicate(timeout=PATIENCE)
        assert output, f"the call ended with {self.process.returncode}:\n{errors.decode()}"
        assert not self.process.returncode, errors
        answer: Report | PortfreeError = pickle.loads(output)
        return answer

    def report(self) -> Report:
        answer = self.answer()
        assert isinstance(answer, Report)
        return answer


class Processes:
    """Starts processes, and clears away every one of them in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._known: set[Identity] = set()
        self._children: list[subprocess.Popen[bytes]] = []
        self._open = ExitStack()

    # Ports

    def free_port(self) -> int:
        """A port that is free for TCP and UDP, and that no other test here will take."""
        return self.free_ports(lambda port: (port,))[0]

    def free_ports(self, family: Callable[[int], Sequence[int]]) -> Sequence[int]:
        """The same, for a family of ports that belong together, made from the first one."""
        # Below the range that outgoing connections take theirs from at random.
        candidates = range(2000, 6500) if len(family(2000)) > 1 else range(20000, 30000)
        for first in random.sample(candidates, len(candidates)):
            with ExitStack() as reserved:
                if all(self.claim(port, reserved) for port in family(first)):
                    self._open.push(reserved.pop_all())
                    return family(first)
        raise AssertionError("no free port")

    def claim(self, port: int, until: ExitStack | None = None) -> bool:
        """Reserve this very port, if it is free."""
        # An abstract socket (unix(7)) is a reservation that all users of the machine see, and that
        # ends with us however we end.
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0portfree-tests-{port}")
            _bind_everywhere(port)
        except OSError:
            claim.close()
            return False
        (until or self._open).callback(claim.close)
        return True

    # Processes

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Ours, without what tells of the run that we are in, and with our token."""
        kept = {name: said for name, said in os.environ.items() if not name.startswith(_LEAKING)}
        return {**kept, TOKEN: self.token, **(extra or {})}

    def popen(
        self, command: Sequence[str], env: Mapping[str, str] | None, /, **options: Any
    ) -> subprocess.Popen[bytes]:
        """A child of this test run in our `environment`; *measured*: by coverage, if we are."""
        variables = self.environment(env)
        if not options.pop("measured", True):
            variables = {k: v for k, v in variables.items() if not k.startswith("COVERAGE_")}
        options = {"stdin": subprocess.DEVNULL, **options}
        self._children.append(subprocess.Popen(command, env=variables, **options))
        return self._children[-1]

    def start(
        self,
        mode: Mode,
        command: Sequence[str],
        *,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        listening: int | None = None,
    ) -> Started:
        """Start a command, and return when it is ready.

        One of our own servers says so itself; for any other command give the port on which it is
        *listening* then. Without one, it is enough that the command was started. *mode* is that of
        launch.py, or ``"child"`` for a child of this test run.
        """
        log = self.folder / f"{secrets.token_hex(4)}.log"
        reader, writer = os.pipe()
        self._open.callback(os.close, reader)
        try:
            with log.open("wb") as output:
                process = self.popen(
                    launch(mode, command),
                    {**(env or {}), READY: str(writer)},
                    measured=False,  # the servers are no code of ours
                    cwd=cwd or self.folder,
                    stdout=output,
                    stderr=output,
                    pass_fds=[writer],
                )
        finally:
            os.close(writer)
        started = Started(reader, log)
        if mode == "child":
            self._remember(process.pid)
            started.process = Identity.of(process.pid)
        else:
            process.wait(PATIENCE)  # the launcher, which leaves what it started behind
            said = started.read("launched" if mode in ("orphan", "adopted") else "launcher")
            roles = {role: Identity(*which) for role, which in said.items()}
            self._known.update(roles.values())
            started.process, started.launcher = roles["launched"], roles.get("launcher")
        if listening is not None:
            wait_until(lambda: accepts(listening), f"{command[0]} listens on {listening}")
        elif any(SERVERS.name in word for word in command):
            started.wait_ready()
        for pid in (started.facts.get("pid"), *started.facts.get("workers", ())):
            self._remember(pid)
        return started

    orphan = partialmethod(start, "orphan")
    attended = partialmethod(start, "attended")
    child = partialmethod(start, "child")

    def call(
        self,
        *ports: int | str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        **request: Any,
    ) -> Call:
        """Call `free_ports` as `calling` says, in a process of its own behind a *prefix*."""
        backend = {k: v for k, v in os.environ.items() if k == "PORTFREE_BACKEND"}
        process = self.popen(
            [*prefix, *calling(*ports, **request)],
            {**backend, **(env or {})},
            measured=request.get("uid") is None,  # another user may not write down what was covered
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return Call(process)

    def run_id(self, *, alive: bool) -> str:
        """The id of a run whose controller lives, or lived."""
        controller = self.orphan(["sleep", "1000"]).process
        if not alive:
            controller.send(signal.SIGKILL)
            controller.wait_gone()
        element = f"{controller.pid}.{controller.start}.{secrets.token_hex(4)}"
        namespace = LinuxSystem().namespace
        return f"{element}.{namespace}" if namespace else element

    def members(self) -> Iterator[int]:
        """Every process that has our token in its environment."""
        return filter(self._is_ours, pids())

    def _is_ours(self, pid: int) -> bool:
        return f"{TOKEN}={self.token}".encode() in environment(pid).split(b"\0")

    def close(self) -> None:
        """Kill whatever is left, by identity, and wait until it is gone."""
        wait_until(self._clear, "all processes have ended")
        for process in self._children:
            with process:  # which closes its pipes
                process.wait(PATIENCE)
        self._open.close()

    def _clear(self) -> bool:
        # Again and again, since a supervisor may have started something in the meantime.
        for pid in self.members():
            self._remember(pid)
        left = [process for process in self._known if process.alive]
        for process in left:
            process.send(signal.SIGKILL)
        return not left

    def _remember(self, pid: int | None) -> None:
        # In a pid namespace of its own a process knows itself by a number that another process has
        # here, so only the token proves that it is ours.
        if pid is not None and self._is_ours(pid):
            with suppress(AssertionError):  # gone in the meantime
                self._known.add(Identity.of(pid))


def calling(
    *ports: int | str, cwd: Path, uid: int | None = None, files: int | None = None, **options: Any
) -> list[str]:
    """The command line of a call of `free_ports` (caller.py): in *cwd*, as *uid*, and with no more
    than so many *files* to open.
    """
    request = {"ports": ports, "options": options, "cwd": str(cwd), "uid": uid, "files": files}
    return [sys.executable, str(CALLER), json.dumps(request)]


def launch(mode: str, command: Sequence[str]) -> list[str]:
    """The command line that starts a command in that way (launch.py)."""
    if mode == "child":
        return [*command]
    launched = [sys.executable, "-S", str(LAUNCH), mode, "--", *command]
    # What looks after a command is an orphan itself: nothing leads up to this test run.
    return launched if mode in ("orphan", "adopted") else launch("orphan", launched)


def _bind_everywhere(port: int) -> None:
    """Raise OSError if the port is taken, for TCP or UDP, on any address."""
    addresses = [(socket.AF_INET, "0.0.0.0"), *([(socket.AF_INET6, "::")] if has_ipv6() else [])]
    for (family, address), kind in product(addresses, (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
        with socket.socket(family, kind) as sock:
            if family is socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))


@cache
def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


# What a report says


def only(report: Report) -> Outcome:
    """The outcome of a call for one port."""
    (outcome,) = report.outcomes
    return outcome


def holder(outcome: Outcome, process: Started | Identity) -> HolderReport:
    """What the outcome says of this process."""
    found = [each for each in outcome.holders if each.pid == process.pid]
    assert len(found) == 1, f"no single holder {process.pid} in {outcome}"
    return found[0]


def rules(outcome: Outcome) -> dict[int, str]:
    """The rule that decided on each holder, by pid."""
    return {each.pid: each.verdict.rule for each in outcome.holders}


def notes(outcome: Outcome) -> dict[str, str]:
    """The notes, by kind."""
    return {note.kind: f"{note.text} {note.instead}" for note in outcome.notes}


def tail(folder: Path) -> str:
    """The end of a path, which messages name alike wherever the home directory is."""
    return f"/{folder.parent.name}/{folder.name}"


def is_free(port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> bool:
    """Whether a server, with SO_REUSEADDR as most have it, can have the port."""
    try:
        if kind is socket.SOCK_STREAM:
            socket.create_server(("0.0.0.0", port)).close()
        else:
            with socket.socket(socket.AF_INET, kind) as sock:
                sock.bind(("0.0.0.0", port))
    except OSError:
        return False
    return True
