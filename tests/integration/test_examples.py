"""The example, as its README tells it: a run is killed half-way, and the next one just works."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.processes import HERE, Identity, Processes, accepts, children, is_free, wait_until
from helpers.project import TEST, Project

if TYPE_CHECKING:
    from pathlib import Path

TESTED = TEST.replace("test_api", "test_shop")

COMMANDS = {
    "pytest": "pytest",
    # An environment that is there already gets nothing installed (-R), so pytest is the one here.
    "nox": "nox -R -s tests",
    "tox": "tox run --skip-env-install -x testenv.allowlist_externals=pytest",
    "portfree run": "portfree run $PORT -- pytest",
}


@pytest.fixture
def example(processes: Processes, tmp_path: Path) -> Project:
    """A copy of the example, on a port that is free."""
    pytest.importorskip("flask", reason="the example needs Flask")
    source = HERE.parents[1] / "examples" / "shop"
    ignored = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(source, tmp_path / "shop", ignore=ignored)
    example = Project(processes, tmp_path / "shop")
    for file in example.folder.rglob("*.*"):
        file.write_text(file.read_text().replace("8000", str(example.port)))
    return example


def kill_a_run_half_way(example: Project) -> Identity:
    """Run the tests, kill the run as soon as its server is up, and return the server."""
    running = example.start_module("pytest")
    wait_until(lambda: accepts(example.port), "the shop is open")
    (server,) = map(Identity.of, children(running.process.pid))
    running.kill()
    assert accepts(example.port)
    # A run waits for a delivery so that somebody can kill it; the next one need not.
    shop = example / "shop.py"
    shop.write_text(shop.read_text().replace("DELIVERY = 3.0", "DELIVERY = 0.1"))
    return server


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_run_after_a_killed_one_passes_and_names_the_test(
    example: Project, command: str
) -> None:
    if command.startswith("nox"):
        virtualenv = (sys.executable, "-m", "virtualenv", "--quiet", "--no-download")
        example.done(*virtualenv, ".nox/tests")
    server = kill_a_run_half_way(example)

    said = example.done(*command.replace("$PORT", str(example.port)).split())

    assert "2 passed" in said
    assert f"(pid {server.pid})" in said
    assert f"started in {TESTED}" in said
    assert not server.alive
    assert is_free(example.port)


def test_without_the_line_the_old_server_is_still_there(example: Project) -> None:
    server = kill_a_run_half_way(example)

    # Of the two tests the one that waits for no delivery.
    example.run("pytest", "-k", "search", env={"PORTFREE": "0"})

    assert server.alive
