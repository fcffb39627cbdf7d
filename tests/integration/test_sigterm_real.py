"""SIGTERM ends a real test session as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from helpers.processes import PATIENCE, children, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from helpers.processes import Processes

    Start = Callable[..., subprocess.Popen[str]]

CONFTEST = """\
import os
import signal
from pathlib import Path

import pytest

HERE = Path(__file__).parent

def note(what):
    with (HERE / "notes").open("a") as notes:
        notes.write(what + "\\n")

def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        note("restored" if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else "not restored")

@pytest.fixture(scope="session", autouse=True)
def server():
    yield
    note("ended server")

@pytest.fixture
def client():
    yield
    note("ended client")
"""

WAITING = """\
import time
from conftest import note

def test_waiting(client):
    note("waiting")
    time.sleep(60)

def test_next():
    note("next")
"""

ASYNC = """\
import asyncio
from conftest import note

def test_waiting(client):
    async def main():
        note("waiting")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            note("cancelled")
    asyncio.run(main())
"""

FORKING = """\
import multiprocessing
import signal
import time

def test_fork():
    for _ in range(50):  # some are hit while they are being forked
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join()
        assert process.exitcode == -signal.SIGTERM
"""


@pytest.fixture
def start(project: Path, processes: Processes) -> Iterator[Start]:
    """Starts pytest on one test file, in a session that SIGTERM ends as Ctrl-C does."""
    started = []

    def start(test: str, *options: str) -> subprocess.Popen[str]:
        (project / "conftest.py").write_text(CONFTEST)
        guarded = f"free_ports = {processes.free_port()}\nfree_ports_sigterm = true\n"
        (project / "pytest.ini").write_text(f"[pytest]\n{guarded}")
        (project / "test_it.py").write_text(test)
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=project,
            env=processes.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_for(project: Path, note: str, times: int = 1) -> None:
    wait_until(lambda: notes(project).count(note) == times, f"it notes {note!r}")


def notes(project: Path) -> list[str]:
    file = project / "notes"
    return file.read_text().splitlines() if file.exists() else []


def test_the_fixtures_are_ended_and_the_status_is_143(start: Start, project: Path) -> None:
    process = start(WAITING)
    wait_for(project, "waiting")

    process.terminate()
    output, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == 143
    assert notes(project) == ["waiting", "ended client", "ended server", "restored"]
    assert "KeyboardInterrupt" in output
    assert "no tests ran" in output


def test_a_second_one_does_not_end_the_teardown(start: Start, project: Path) -> None:
    ending = WAITING.replace("import time\n", "import signal, time\nimport pytest\n").replace(
        "def test_waiting(client):",
        "@pytest.fixture\ndef slow():\n    yield\n    signal.raise_signal(signal.SIGTERM)\n"
        "    note('ended slow')\n\ndef test_waiting(client, slow):",
    )
    process = start(ending)
    wait_for(project, "waiting")

    process.terminate()
    process.communicate(timeout=PATIENCE)

    assert process.returncode == 143
    assert notes(project)[1:] == ["ended slow", "ended client", "ended server", "restored"]


def test_a_session_that_gets_none_ends_as_ever(start: Start, project: Path) -> None:
    process = start(WAITING, "-k", "next")
    process.communicate(timeout=PATIENCE)

    assert process.returncode == 0
    assert notes(project) == ["next", "ended server", "restored"]


def test_asyncio_cancels_what_runs(start: Start, project: Path) -> None:
    process = start(ASYNC)
    wait_for(project, "waiting")

    process.terminate()
    process.communicate(timeout=PATIENCE)

    assert process.returncode == 143
    assert notes(project)[1:] == ["cancelled", "ended client", "ended server", "restored"]


def test_a_fork_can_be_terminated(start: Start) -> None:
    process = start(FORKING)
    output, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0, output


def test_where_ctrl_c_is_ignored(start: Start, project: Path) -> None:
    """A shell without job control starts what it puts into the background like that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(WAITING)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(project, "waiting")

    process.terminate()
    process.communicate(timeout=PATIENCE)

    assert process.returncode == 143
    assert "ended server" in notes(project)


needs_xdist = pytest.mark.skipif(find_spec("xdist") is None, reason="needs pytest-xdist")


@needs_xdist
def test_the_workers_of_xdist_end_with_their_fixtures(start: Start, project: Path) -> None:
    both = WAITING + "\ntest_other = test_waiting\n"
    process = start(both, "-n", "2", "-k", "waiting or other")
    wait_for(project, "waiting", 2)

    process.terminate()
    process.communicate(timeout=PATIENCE)

    assert process.returncode == 143
    assert sorted(notes(project)[2:]) == [
        *["ended client"] * 2,
        *["ended server"] * 2,
        "restored",
    ]


@needs_xdist
def test_a_worker_of_xdist_dies_of_it(start: Start, project: Path) -> None:
    """It has no handler; xdist replaces it, and tells which test it ran."""
    process = start(WAITING, "-n", "1", "-k", "waiting")
    wait_for(project, "waiting")
    (worker,) = children(process.pid)

    os.kill(worker, signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == 1
    assert "crashed while running 'test_it.py::test_waiting'" in output
    assert notes(project) == ["waiting", "restored"]


OTHER_HANDLER = """\
import signal

signal.signal(signal.SIGTERM, lambda number, frame: None)
"""


def test_a_handler_of_another_stays(start: Start, project: Path) -> None:
    (project / "other.py").write_text(OTHER_HANDLER)
    test = "import signal\n\ndef test_it():\n    signal.raise_signal(signal.SIGTERM)\n"
    process = start(test, "-p", "other")
    output, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0, output
    assert "free_ports_sigterm does nothing: other.<lambda> handles SIGTERM already" in output
    assert notes(project)[-1] == "not restored"


def test_a_bad_value_is_refused(start: Start) -> None:
    process = start("", "-o", "free_ports_sigterm=perhaps")
    output, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    assert "free_ports_sigterm is 'perhaps': give true or false" in output
