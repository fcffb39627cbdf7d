"""``with free_ports(…)`` in a noxfile, through real nox."""

from __future__ import annotations

import importlib.util
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.processes import accepts, is_free
from helpers.project import Project

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.processes import Processes

NOXFILE = """\
import pathlib, sys

import careless, nox

from portfree import free_ports

PORT, OTHER = $PORT, $OTHER


def leave(session, *words):
    session.run(sys.executable, "-S", "careless.py", *map(str, words), external=True)


@nox.session(venv_backend="none")
def tests(session):
    with free_ports(PORT):
        leave(session, PORT, *session.posargs)


@nox.session(venv_backend="none")
def unguarded(session):
    leave(session, PORT)


@nox.session(venv_backend="none")
def gives_up(session):
    with free_ports(PORT):
        leave(session, PORT)
        session.error("no more of this")


@nox.session(venv_backend="none")
def strict(session):
    with free_ports(PORT, leaks="fail", grace=1):
        leave(session, OTHER)


@nox.session(venv_backend="none")
def slip(session):
    with free_ports("80000"):
        session.error("not reached")


@nox.session(venv_backend="none", allow_parallel=True)
def one(session):
    with free_ports(PORT):
        leave(session, PORT, 0, "two-has-looked")


@nox.session(venv_backend="none", allow_parallel=True)
def two_on_the_same_port(session):
    careless.until(f"serves-{PORT}")
    with free_ports(PORT) as run:
        pathlib.Path("busy").write_text(" ".join(map(str, run.before.busy)))
        session.log("rule: " + run.before.outcomes[0].holders[0].verdict.rule)
    pathlib.Path("two-has-looked").touch()


@nox.session(venv_backend="none", allow_parallel=True)
def two_on_another_port(session):
    careless.until(f"serves-{PORT}")
    with free_ports(OTHER) as run:
        leave(session, OTHER)
    session.log(f"freed: {run.after.freed[0]}")
    pathlib.Path("two-has-looked").touch()
"""

needs_parallel = pytest.mark.skipif(
    importlib.util.find_spec("nox._parallel") is None, reason="needs nox with --parallel"
)
TELLS_PARALLEL = ", allow_parallel=True"


IN_RUN = (sys.executable, "-m", "portfree", "run")


@pytest.fixture
def nox(processes: Processes, project: Path) -> Project:
    """A project with a noxfile that guards a port."""
    nox = Project(processes, project)
    parallel = importlib.util.find_spec("nox._parallel") is not None
    nox.write("noxfile.py", NOXFILE if parallel else NOXFILE.replace(TELLS_PARALLEL, ""))
    nox.write_careless("careless.py")
    return nox


def test_a_session_that_succeeds(nox: Project) -> None:
    ended = nox.module("nox", "-s", "tests")

    assert ended.code == 0
    assert is_free(nox.port)
    assert f"portfree > freed {nox.port}/tcp: stopped " in ended.out
    assert "started in nox session tests" in ended.out


def test_a_command_that_fails(nox: Project) -> None:
    ended = nox.module("nox", "-s", "tests", "--", "3")

    assert ended.code == 1
    assert is_free(nox.port)
    assert "failed with exit code 3" in ended.out
    assert f"portfree > freed {nox.port}/tcp" in ended.out


def test_a_session_that_gives_up(nox: Project) -> None:
    ended = nox.module("nox", "-s", "gives_up")

    assert ended.code == 1
    assert is_free(nox.port)
    assert "no more of this" in ended.out


def test_control_c(nox: Project) -> None:
    running = nox.start_module("nox", "-s", "tests", "--", "0", "never")
    running.wait_for("run id:")

    running.signal()

    ended = running.ended()
    assert ended.code == 130
    assert is_free(nox.port)
    assert f"portfree > freed {nox.port}/tcp" in ended.out


def test_a_session_that_leaks_and_the_next_one(nox: Project) -> None:
    ended = nox.module("nox", "-s", "unguarded", "tests")

    assert ended.code == 0
    assert is_free(nox.port)
    assert ended.out.count(f"portfree > freed {nox.port}/tcp") == 2
    assert "started in nox session unguarded" in ended.out


def test_two_guarded_sessions_that_leak(nox: Project) -> None:
    ended = nox.module("nox", "-s", "gives_up", "tests")

    assert ended.code == 1
    assert is_free(nox.port)
    assert "Session tests was successful" in ended.out
    assert ended.out.count(f"portfree > freed {nox.port}/tcp") == 2


def test_a_nox_that_was_killed_and_the_next_one(nox: Project) -> None:
    running = nox.start_module("nox", "-s", "tests", "--", "0", "never")
    running.wait_for("run id:")
    running.signal(signal.SIGKILL)
    running.ended()
    assert accepts(nox.port)

    ended = nox.module("nox", "-s", "tests")

    assert ended.code == 0
    assert is_free(nox.port)
    assert ended.out.count(f"portfree > freed {nox.port}/tcp") == 2


def test_leaks_can_be_forbidden(nox: Project) -> None:
    ended = nox.module("nox", "-s", "strict")

    assert ended.code == 1
    assert not accepts(nox.other)
    assert f"127.0.0.1:{nox.other}: ended after SIGTERM" in ended.out


def test_a_slip_names_the_value(nox: Project) -> None:
    ended = nox.module("nox", "-s", "slip")

    assert ended.code == 1
    assert "'80000' is not a port: ports go from 1 to 65535" in ended.out


def test_in_portfree_run(nox: Project) -> None:
    prefix = [*IN_RUN, str(nox.port), "--", sys.executable, "-m", "nox"]

    ended = nox.run(*prefix, "-s", "unguarded")

    assert ended.code == 0
    assert is_free(nox.port)
    assert f"{nox.port}/tcp: freed" in ended.out

    ended = nox.run(*prefix, "-s", "tests", "--", "3")

    assert ended.code == 1
    assert is_free(nox.port)
    assert f"portfree > freed {nox.port}/tcp" in ended.out


def test_control_c_in_portfree_run(nox: Project) -> None:
    prefix = [*IN_RUN, str(nox.port), "--", sys.executable, "-m", "nox"]
    running = nox.start(*prefix, "-s", "tests", "--", "0", "never")
    running.wait_for("run id:")

    running.signal()

    ended = running.ended()
    assert ended.code == 130
    assert is_free(nox.port)
    assert f"portfree > freed {nox.port}/tcp" in ended.out


@needs_parallel
def test_parallel_sessions_on_different_ports(nox: Project) -> None:
    ended = nox.module("nox", "-j", "2", "-s", "one", "two_on_another_port")

    assert ended.code == 0
    assert f"freed: {nox.other}/tcp" in ended.out
    assert is_free(nox.port)
    assert is_free(nox.other)


@needs_parallel
def test_parallel_sessions_on_the_same_port(nox: Project) -> None:
    ended = nox.module("nox", "-j", "2", "-s", "one", "two_on_the_same_port")

    assert ended.code == 0
    assert (nox / "busy").read_text() == f"{nox.port}/tcp"
    assert "rule: live-run" in ended.out
    assert f"{nox.port}/tcp was busy: these tests may have talked to" in ended.out
    assert is_free(nox.port)
