"""Fixtures for tests that run commands in a project."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from helpers.commands import Recorder
from helpers.job import ROOT, SCRIPT, Job
from helpers.project import PASSES, Project
from helpers.reports import Fake

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.processes import Processes


@pytest.fixture
def suite(processes: Processes, tmp_path: Path) -> Project:
    """A repository with tests, in which pytest is run and frees a port."""
    variables = {
        "COLUMNS": "200",
        # Loading them takes longer than all that is tested here.
        "PYTEST_ADDOPTS": "-p no:hypothesispytest -p no:asyncio -p no:anyio",
    }
    suite = Project(processes, tmp_path / "shop", variables, apart=True)
    (suite / ".git").mkdir()
    suite.write("tests/test_it.py", PASSES)
    suite.guard()
    suite.write_careless("tests/careless.py")
    return suite


@pytest.fixture
def port(suite: Project) -> int:
    """The port that the suite guards."""
    return suite.port


@pytest.fixture
def allowed(processes: Processes) -> int:
    """A port that servers may be left on, where `Project.other` is none."""
    return processes.free_port()


@pytest.fixture
def job(processes: Processes, tmp_path: Path) -> Job:
    return Job(processes, tmp_path)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like $RUNNER_TEMP in which the action's environment has been built once."""
    if not SCRIPT.exists():
        pytest.skip("needs the repository: there is no action in a source distribution")
    folder = tmp_path_factory.mktemp("installed")
    env = {**os.environ, "RUNNER_TEMP": str(folder), "GITHUB_ACTION_PATH": str(ROOT)}
    done = subprocess.run(["bash", str(SCRIPT)], env=env, capture_output=True, text=True)
    assert "portfree: installed in " in done.stdout, done
    return folder


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    fake = Fake()
    monkeypatch.setattr("portfree._cli.main.free", fake)
    (tmp_path / ".git").mkdir()  # nothing above this directory is ours
    monkeypatch.chdir(tmp_path)
    return fake
