"""Real servers, left behind as people leave them behind, and freed in every way.

A test file lists `ServerSpec`s, and `generate` makes `Trial`s of them. A trial starts the server,
waits until it answers, has its port freed, and asserts what must be true then of any server. It
finds out by itself which processes have the port open, and does not ask portfree.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from helpers.processes import (
    Identity,
    Processes,
    Started,
    accepts,
    is_free,
    pids,
    stat,
    tcp,
    wait_until,
)
from portfree._output.json import as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from _pytest.mark import ParameterSet

    from portfree.model import Scope
    from stress.support.figures import Figures

Left = Literal["orphan", "test", "attended", "terminal"]
"""How it was started: as an orphan, by a test whose pytest was killed since, or by a program that
still looks after it, so that it must be kept."""

Way = Literal["library", "command", "plugin"]
"""How its port is freed."""

LEFT: tuple[Left, ...] = ("orphan", "test")
WAYS: tuple[Way, ...] = ("library", "command", "plugin")

REASONS = {
    "left-behind": "started in ",
    "orphan": "nobody looks after it",
    "mine": "scope mine takes it in",
    "attended": "stop it there, or: ",
    "other-user": "it belongs to ",
    "service": "looks after it, and would start it again",
}
"""What must be said where a rule has decided."""

_LISTEN = "0A"  # in /proc/net/tcp

KEEPING = {"attended", "other-user", "service"}
"""The rules that keep a holder."""

REQUEST = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

# The test of a pytest that is killed.
_STARTING_TEST = """
import signal, subprocess

def test_it():
    subprocess.run({command!r}, cwd={folder!r}, check=True)
    signal.pause()  # it has gone to the background by itself
"""

# The test of a pytest that has the port freed.
_FREEING_TEST = """
import socket

def test_the_port_is_ours():
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", {port}))
        sock.listen()
"""
# A client that keeps its connection whatever happens, and tells that it has an answer.
_CLIENT = """
import json, os, signal, socket, sys
port, request = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
try:
    connection = socket.create_connection(("127.0.0.1", port), 20)
except ConnectionRefusedError:
    connection = socket.create_connection(("::1", port), 20)
connection.sendall(request)
if request:
    connection.recv(1)
os.write(int(os.environ["STAGE_READY"]), json.dumps({"pid": os.getpid()}).encode() + b"\\n")
while True:
    signal.pause()
"""


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """A server that people leave behind.

    In its command line, its environment and its files ``$PORT`` and ``$FOLDER`` stand for the port
    and for the folder that it lives in.
    """

    name: str
    command: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    stress: bool = False
    """Whether it is left out of the short version: another one shows nearly the same."""
    programs: Sequence[str] = ()
    """The programs that it takes."""
    modules: Sequence[str] = ()
    """What it takes that is installed beside portfree, by the names that are imported."""
    prepare: Callable[[RunningServer], object] | None = None
    """What else is to be done before it is started."""
    ready: Callable[[RunningServer], bool] | None = None
    """What must be true before its port is freed, beside that it accepts connections."""
    holders: int = 1
    """How many processes have the port open when it is up."""
    request: str = REQUEST
    """What a client says to get an answer; nothing: it just connects."""
    launcher: str = ""
    """The program that looks after it, which is no wrapper and does not have the port open."""
    drains: bool = False
    """Whether it lets go of the port, and then lives until its client is gone."""
    stays: bool = False
    """Whether the processes between it and init live on, and wait for a change or an order."""
    wipes: bool = False
    """Whether it overwrites its environment, and with it the marks of a test."""
    forced: bool = False
    """Whether nothing but SIGKILL ends it."""
    scope: Scope | None = None
    """The scope that is asked for, if not the one of each way."""
    rules: Mapping[tuple[Left, Scope], str] = field(default_factory=dict)
    """The rule that decides on it, where that is not the one that `rule` tells."""
    check: Callable[[RunningServer], bool] | None = None
    """What must come true when it was stopped: that it shut down politely."""

    @property
    def missing(self) -> str:
        """What it takes and is not here."""
        programs = (f"the program {each}" for each in self.programs if not shutil.which(each))
        modules = (each for each in self.modules if find_spec(each) is None)
        return ", ".join([*programs, *modules])

    def rule(self, left: Left, scope: Scope) -> str:
        """The rule that must decide on its root holders."""
        if (left, scope) in self.rules:
            return self.rules[left, scope]
        if left == "test" and not self.wipes:
            return "left-behind"
        if left in LEFT and not self.launcher:
            return "orphan"
        return "attended" if scope == "orphans" else "mine"


class RunningServer:
    """A server that is up: its folder, and the processes that belong to it."""

    def __init__(self, spec: ServerSpec, left: Left, processes: Processes, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.processes = processes
        self.port = processes.free_port()
        self._log = Path()
        folder.mkdir()
        for name, text in spec.files.items():
            self.write(name, text)
        if spec.prepare:
            spec.prepare(self)
        before = {*pids()}
        started_one = self._start(left)
        try:
            wait_until(self._is_up, f"{spec.name} is up")
        except pytest.fail.Exception as failed:
            pytest.fail(f"{failed}\n{self.log}")
        finally:
            if left == "test":
                started_one.process.send(signal.SIGKILL)
                started_one.wait_gone()
            strangers = before | {who.pid for who in (started_one.launcher,) if who}
            # The kernel writes its table in parts, and may leave out a line between two of them.
            holding = next(filter(None, (holders(self.port) for _ in range(5))), set())
            above = {pid for each in holding for pid in _lineage(each)} - holding - strangers
            below = {pid for pid in pids() if not holding.isdisjoint(_lineage(pid))} - holding
            self.holders = _identities(holding)
            """The processes that have the port open."""
            self.ancestors = _identities(above)
            """The processes between them and init."""
            self.descendants = _identities(below)
            """What they have started."""
            # A process that has overwritten our token would not be found in the end.
            processes._known.update(self.family)

    @property
    def family(self) -> set[Identity]:
        """All processes that belong to it."""
        return self.holders | self.ancestors | self.descendants

    @property
    def roots(self) -> set[Identity]:
        """The holders that no other holder has started."""
        pids = {each.pid for each in self.holders}
        return {each for each in self.holders if pids.isdisjoint(_lineage(each.pid))}

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")

    def filled(self, text: str) -> str:
        """The text with our port and our folder."""
        return text.replace("$PORT", str(self.port)).replace("$FOLDER", str(self.folder))

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.filled(text))

    def read(self, name: str) -> str:
        """What is in a file; nothing if there is none (yet)."""
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def connect(self) -> Started:
        """A client that is connected, and an orphan like the server."""
        request = self.spec.request.encode().hex()  # it may have zeros in it
        command = [sys.executable, "-S", "-c", _CLIENT, str(self.port), request]
        client = self.processes.orphan(command, cwd=self.folder)
        client.wait_ready()
        return client

    def _start(self, left: Left) -> Started:
        # What it writes down of itself does not concern the user who runs the tests.
        env = {"HOME": str(self.folder)}
        env |= {name: self.filled(value) for name, value in self.spec.env.items()}
        command, cwd = [self.filled(word) for word in self.spec.command], self.folder
        if left == "test":
            test = self.folder.parent / f"test_{self.folder.name}.py"
            test.write_text(_STARTING_TEST.format(command=command, folder=str(self.folder)))
            command, cwd = _pytest(self.port, test), test.parent
        started_one = self.processes.start(
            "orphan" if left == "test" else left, command, cwd=cwd, env=env
        )
        self._log = started_one.log
        return started_one

    def _is_up(self) -> bool:
        return (
            any(accepts(self.port, host) for host in ("127.0.0.1", "::1"))
            and len(holders(self.port)) == self.spec.holders
            and (self.spec.ready is None or self.spec.ready(self))
        )


class Said(NamedTuple):
    """What one way of freeing a port said."""

    ok: bool
    """Whether the port is free now."""
    text: str
    seconds: float = 0.0
    """How long the call took, if it says so."""
    holders: Sequence[dict[str, Any]] | None = None
    """What is said of each holder, as in JSON; the plugin has no place for that."""


class Trial(NamedTuple):
    """A server, how it is left, and in which way its port is freed then."""

    spec: ServerSpec
    left: Left
    way: Way

    @property
    def scope(self) -> Scope:
        if self.spec.scope:
            return self.spec.scope
        # A person who types the command asks for that very port; the hooks act on their own.
        return "mine" if self.way == "command" and self.left in LEFT else "orphans"

    def run(
        self, processes: Processes, project: Path, figures: Figures, *, neighbour: bool = False
    ) -> RunningServer:
        """Start the server, have its port freed, and assert what must be true then.

        With a *neighbour*: while another server of its kind works on another port.
        """
        rule = self.spec.rule(self.left, self.scope)
        others = (
            [RunningServer(self.spec, "orphan", processes, project / "neighbour")]
            if neighbour
            else []
        )
        running = RunningServer(self.spec, self.left, processes, project / "server")
        spared = {each for other in others for each in other.family}
        # These two are orphans in this project, but the port is not theirs.
        client = running.connect().process
        spared |= {client, processes.orphan(tcp(processes.free_port()), cwd=running.folder).process}
        if rule in KEEPING:
            spared |= running.family
        elif self.spec.stays:
            spared |= running.ancestors

        said = _ask(self.way, running, project, self.scope)

        free = is_free(running.port) and not holders(running.port)
        hurt = [each for each in spared if not each.alive]
        figures.trial(said.seconds, wrong_stops=len(hurt), false_reports=said.ok != free)
        assert said.ok == free == (rule not in KEEPING), said.text
        assert not hurt, said.text
        self._assert_explained(running, said, rule)
        if free:
            if self.spec.drains:
                client.send(signal.SIGKILL)
            for each in running.family - spared:
                each.wait_gone()
            if self.spec.check:
                check = self.spec.check
                what = f"{self.spec.name} has shut down politely"
                wait_until(lambda: check(running), f"{what}: {said.text}\n{running.log}")
            assert not holders(running.port)
        return running

    def _assert_explained(self, running: RunningServer, said: Said, rule: str) -> None:
        named = {int(pid) for pid in re.findall(r'\bpid"?:? (\d+)', said.text)}
        assert named & {each.pid for each in running.family}, said.text
        assert REASONS[rule].replace("$PORT", str(running.port)) in said.text, said.text
        if rule == "attended":
            assert f"started by {self.spec.launcher}" in said.text, said.text
        if said.holders is not None:
            told = {each["pid"]: each for each in said.holders}
            assert {each.pid for each in running.holders} <= told.keys(), said.text
            roots = [told[each.pid] for each in running.roots]
            assert {each["verdict"]["rule"] for each in roots} == {rule}, said.text
            if rule not in KEEPING:
                killed = any(
                    "SIGKILL" in (each["ending"] or {}).get("signals", ()) for each in roots
                )
                assert killed == self.spec.forced, said.text


def generate(metafunc: pytest.Metafunc, specs: Iterable[ServerSpec]) -> None:
    """Give the argument ``trial`` of a test its values.

    In the short version each server is freed once, in a way that changes from one to the next.
    """
    if "trial" not in metafunc.fixturenames:
        return
    everything = [*product(LEFT, WAYS)]
    long = metafunc.config.getoption("--stress")
    at = 0
    trials = []
    for spec in specs:
        some = everything if long else [everything[at % len(everything)]]
        trials += [Trial(spec, left, way) for left, way in some]
        at += not spec.stress
    metafunc.parametrize("trial", [*map(parameter, trials)])


def parameter(trial: Trial) -> ParameterSet:
    """The trial as a parameter of a test, which is skipped where the server is missing."""
    spec, left, way = trial
    marks = [pytest.mark.skipif(bool(spec.missing), reason=f"needs {spec.missing}")]
    marks += [pytest.mark.stress] if spec.stress else []
    return pytest.param(trial, id=f"{spec.name}-{left}-{way}", marks=marks)


def holders(port: int) -> set[int]:
    """The processes that listen on the TCP port, by /proc/net/tcp and /proc/*/fd (proc(5))."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{inode}]")
    return {pid for pid in pids() if inodes and not inodes.isdisjoint(_open_files(pid))}


def _open_files(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):  # it has ended, or is another user's
        for descriptor in os.listdir(folder):  # noqa: PTH208
            with suppress(OSError):
                yield os.readlink(f"{folder}/{descriptor}")  # noqa: PTH115


def _identities(pids: Iterable[int]) -> set[Identity]:
    return {Identity(pid, seen.start) for pid in pids if (seen := stat(pid))}


def _lineage(pid: int) -> Iterator[int]:
    while (seen := stat(pid)) and seen.ppid:
        yield (pid := seen.ppid)


def _ask(way: Way, running: RunningServer, project: Path, scope: Scope) -> Said:
    match way:
        case "library":
            report = running.processes.call(running.port, cwd=project, scope=scope).report()
            return _said(as_json(report))
        case "command":
            command = [sys.executable, "-m", "portfree", "--json", f"--scope={scope}"]
            done = _run(running.processes, [*command, str(running.port)], project)
            assert done.stdout, done
            said = _said(done.stdout)
            assert done.returncode == (0 if said.ok else 1), done
            return said
        case "plugin":
            test = project / "test_freeing.py"
            test.write_text(_FREEING_TEST.format(port=running.port))
            command = [*_pytest(running.port, test), f"--free-ports-scope={scope}"]
            done = _run(running.processes, command, project)
            ok = f"freed {running.port}/tcp" in done.stdout
            assert done.returncode == (0 if ok else 1), done
            return Said(ok, done.stdout)


def _said(text: str) -> Said:
    report = json.loads(text)
    (outcome,) = report["outcomes"]
    return Said(report["ok"], text, report["seconds"], outcome["holders"])


def _pytest(port: int, test: Path) -> list[str]:
    # Loading hypothesis takes longer than all that happens here.
    unused = [f"-pno:{name}" for name in ("hypothesispytest", "asyncio", "cacheprovider")]
    return [sys.executable, "-m", "pytest", "-s", *unused, f"--free-ports={port}", str(test)]


def _run(
    processes: Processes, command: Sequence[str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=processes.environment({"COLUMNS": "200"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
