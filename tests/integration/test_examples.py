"""The example, as its README tells it: a run is killed half-way, and the next one just works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    HERE,
    PATIENCE,
    Identity,
    Processes,
    accepts,
    children,
    is_free,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SHOP = HERE.parents[1] / "examples" / "shop"
TEST = "tests/test_shop.py::test_search (setup)"


class Example:
    """A copy of the example, on a port that is free."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.port = processes.free_port()
        self._folder = folder
        # The runners are installed where these tests run, and so is what the example needs.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._variables = processes.environment({"PATH": path})
        self._killed: subprocess.Popen[bytes] | None = None
        shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for file in folder.rglob("*.*"):
            file.write_text(file.read_text().replace("8000", str(self.port)))

    def kill_a_run_half_way(self) -> Identity:
        """Run the tests, kill the run as soon as its server is up, and return the server."""
        self._killed = subprocess.Popen(
            [sys.executable, "-m", "pytest"],
            cwd=self._folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: accepts(self.port), "the shop is open")
        (server,) = map(Identity.of, children(self._killed.pid))
        self.close()
        assert accepts(self.port)
        return server

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        # Nobody has to wait for a delivery but who wants to kill a run.
        shop = self._folder / "shop.py"
        shop.write_text(shop.read_text().replace("DELIVERY = 3.0", "DELIVERY = 0.1"))
        return subprocess.run(
            command,
            cwd=self._folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
            start_new_session=True,
        )

    def close(self) -> None:
        if self._killed is not None:
            self._killed.send_signal(signal.SIGKILL)
            self._killed.wait(PATIENCE)


@pytest.fixture
def example(processes: Processes, tmp_path: Path) -> Iterator[Example]:
    pytest.importorskip("flask", reason="the example needs Flask")
    example = Example(processes, tmp_path / "shop")
    try:
        yield example
    finally:
        example.close()


def plain_pytest(_: Example) -> Sequence[str]:
    return ["pytest"]


def nox(example: Example) -> Sequence[str]:
    # An environment that is there already gets nothing installed (-R), so pytest is the one here.
    virtualenv = [sys.executable, "-m", "virtualenv", "--quiet", "--no-download", ".nox/tests"]
    assert example.run(*virtualenv).returncode == 0
    return ["nox", "-R", "-s", "tests"]


def tox(_: Example) -> Sequence[str]:
    return ["tox", "run", "--skip-env-install", "-x", "testenv.allowlist_externals=pytest"]


def portfree_run(example: Example) -> Sequence[str]:
    return ["portfree", "run", str(example.port), "--", "pytest"]


@pytest.mark.parametrize("again", [plain_pytest, nox, tox, portfree_run])
def test_the_run_after_a_killed_one_passes_and_names_the_test(
    example: Example, again: Callable[[Example], Sequence[str]]
) -> None:
    command = again(example)
    server = example.kill_a_run_half_way()

    done = example.run(*command)

    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert f"(pid {server.pid})" in done.stdout
    assert f"started in {TEST}" in done.stdout
    assert not server.alive
    assert is_free(example.port)


def test_without_the_line_the_old_server_is_still_there(example: Example) -> None:
    server = example.kill_a_run_half_way()

    example.run("env", "PORTFREE=0", "pytest")

    assert server.alive
