"""``with free_ports(…)`` in a noxfile, through real nox."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.processes import PATIENCE, READY, SERVERS, Processes, accepts, is_free, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# What the sessions run: a command that starts a server and leaves it behind, as a careless test
# does. It then ends with this code, or waits until a file is there.
COMMAND = f"""\
import os, signal, subprocess, sys, time

port, *rest = sys.argv[1:]
reader, writer = os.pipe()
subprocess.Popen(
    [sys.executable, "-S", {str(SERVERS)!r}, "--tcp", f"127.0.0.1:{{port}}"],
    env={{**os.environ, {READY!r}: str(writer)}},
    pass_fds=[writer], start_new_session=True,
)
os.close(writer)
if not os.read(reader, 1):
    sys.exit(f"no server on {{port}}")
open(f"serves-{{port}}", "w").close()
if rest and rest[0].isdigit():
    sys.exit(int(rest[0]))
while rest and not os.path.exists(rest[0]):
    time.sleep(0.01)
"""

NOXFILE = """\
import pathlib, sys, time

import nox

from portfree import free_ports

PORT, OTHER = {ports}


def careless(session, *words):
    session.run(sys.executable, "-S", "command.py", *map(str, words), external=True)


def until(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.01)


@nox.session(venv_backend="none")
def tests(session):
    with free_ports(PORT):
        careless(session, PORT, *session.posargs)


@nox.session(venv_backend="none")
def unguarded(session):
    careless(session, PORT)


@nox.session(venv_backend="none")
def gives_up(session):
    with free_ports(PORT):
        careless(session, PORT)
        session.error("no more of this")


@nox.session(venv_backend="none")
def strict(session):
    with free_ports(PORT, leaks="fail"):
        careless(session, OTHER)


@nox.session(venv_backend="none")
def slip(session):
    with free_ports("80000"):
        session.error("not reached")


@nox.session(venv_backend="none", allow_parallel=True)
def one(session):
    with free_ports(PORT):
        careless(session, PORT, "two-has-looked")


@nox.session(venv_backend="none", allow_parallel=True)
def two_on_the_same_port(session):
    until(f"serves-{{PORT}}")
    with free_ports(PORT) as run:
        pathlib.Path("busy").write_text(" ".join(map(str, run.before.busy)))
        session.log("rule: " + run.before.outcomes[0].holders[0].verdict.rule)
    pathlib.Path("two-has-looked").touch()


@nox.session(venv_backend="none", allow_parallel=True)
def two_on_another_port(session):
    until(f"serves-{{PORT}}")
    with free_ports(OTHER) as run:
        careless(session, OTHER)
    session.log(f"freed: {{run.after.freed[0]}}")
    pathlib.Path("two-has-looked").touch()
"""

needs_parallel = pytest.mark.skipif(
    importlib.util.find_spec("nox._parallel") is None, reason="needs nox with --parallel"
)
TELLS_PARALLEL = ", allow_parallel=True"


class Nox:
    """A project with a noxfile that guards a port."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._stage = processes
        self.folder = folder
        self.port, self.other = processes.free_port(), processes.free_port()
        noxfile = NOXFILE.format(ports=f"{self.port}, {self.other}")
        if importlib.util.find_spec("nox._parallel") is None:
            noxfile = noxfile.replace(TELLS_PARALLEL, "")
        (folder / "noxfile.py").write_text(noxfile)
        (folder / "command.py").write_text(COMMAND)
        self._log = folder / "log"

    @property
    def output(self) -> str:
        return self._log.read_text()

    def start(self, *words: str, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        # To a file: with a pipe we would wait for what the commands leave behind.
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "nox", *words],
                cwd=self.folder,
                env=self._stage.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._stage._children.append(process)
        return process

    def run(self, *words: str, prefix: Sequence[str] = ()) -> int:
        return self.start(*words, prefix=prefix).wait(3 * PATIENCE)


@pytest.fixture
def nox(processes: Processes, project: Path) -> Nox:
    return Nox(processes, project)


def test_a_session_that_succeeds(nox: Nox) -> None:
    assert nox.run("-s", "tests") == 0

    assert is_free(nox.port)
    assert f"portfree > freed {nox.port}/tcp: stopped " in nox.output
    assert "started in nox session tests" in nox.output


def test_a_command_that_fails(nox: Nox) -> None:
    assert nox.run("-s", "tests", "--", "3") == 1

    assert is_free(nox.port)
    assert "failed with exit code 3" in nox.output
    assert f"portfree > freed {nox.port}/tcp" in nox.output


def test_a_session_that_gives_up(nox: Nox) -> None:
    assert nox.run("-s", "gives_up") == 1

    assert is_free(nox.port)
    assert "no more of this" in nox.output


def test_control_c(nox: Nox) -> None:
    process = nox.start("-s", "tests", "--", "never")
    wait_until(lambda: (nox.folder / f"serves-{nox.port}").exists(), "the server serves")

    os.killpg(process.pid, signal.SIGINT)

    assert process.wait(PATIENCE) == 130
    assert is_free(nox.port)
    assert f"portfree > freed {nox.port}/tcp" in nox.output


def test_a_session_that_leaks_and_the_next_one(nox: Nox) -> None:
    assert nox.run("-s", "unguarded", "tests") == 0

    assert is_free(nox.port)
    assert nox.output.count(f"portfree > freed {nox.port}/tcp") == 2
    assert "started in nox session unguarded" in nox.output


def test_two_guarded_sessions_that_leak(nox: Nox) -> None:
    assert nox.run("-s", "gives_up", "tests") == 1

    assert is_free(nox.port)
    assert "Session tests was successful" in nox.output
    assert nox.output.count(f"portfree > freed {nox.port}/tcp") == 2


def test_a_nox_that_was_killed_and_the_next_one(nox: Nox) -> None:
    process = nox.start("-s", "tests", "--", "never")
    wait_until(lambda: (nox.folder / f"serves-{nox.port}").exists(), "the server serves")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    assert accepts(nox.port)

    assert nox.run("-s", "tests") == 0

    assert is_free(nox.port)
    assert nox.output.count(f"portfree > freed {nox.port}/tcp") == 2


def test_leaks_can_be_forbidden(nox: Nox) -> None:
    assert nox.run("-s", "strict") == 1

    assert not accepts(nox.other)
    assert f"127.0.0.1:{nox.other}: ended after SIGTERM" in nox.output


def test_a_slip_names_the_value(nox: Nox) -> None:
    assert nox.run("-s", "slip") == 1

    assert "'80000' is not a port: ports go from 1 to 65535" in nox.output


def test_in_portfree_run(nox: Nox) -> None:
    prefix = [sys.executable, "-m", "portfree", "run", str(nox.port), "--"]

    assert nox.run("-s", "unguarded", prefix=prefix) == 0
    assert is_free(nox.port)
    assert f"{nox.port}/tcp: freed" in nox.output

    assert nox.run("-s", "tests", "--", "3", prefix=prefix) == 1
    assert is_free(nox.port)
    assert f"portfree > freed {nox.port}/tcp" in nox.output


def test_control_c_in_portfree_run(nox: Nox) -> None:
    prefix = [sys.executable, "-m", "portfree", "run", str(nox.port), "--"]
    process = nox.start("-s", "tests", "--", "never", prefix=prefix)
    wait_until(lambda: (nox.folder / f"serves-{nox.port}").exists(), "the server serves")

    os.killpg(process.pid, signal.SIGINT)

    assert process.wait(PATIENCE) == 130
    assert is_free(nox.port)
    assert f"portfree > freed {nox.port}/tcp" in nox.output


@needs_parallel
def test_parallel_sessions_on_different_ports(nox: Nox) -> None:
    assert nox.run("-j", "2", "-s", "one", "two_on_another_port") == 0

    assert f"freed: {nox.other}/tcp" in nox.output
    assert is_free(nox.port)
    assert is_free(nox.other)


@needs_parallel
def test_parallel_sessions_on_the_same_port(nox: Nox) -> None:
    assert nox.run("-j", "2", "-s", "one", "two_on_the_same_port") == 0

    assert (nox.folder / "busy").read_text() == f"{nox.port}/tcp"
    assert "rule: live-run" in nox.output
    assert f"{nox.port}/tcp was busy: these tests may have talked to" in nox.output
    assert is_free(nox.port)
