"""Fixtures for tests that run commands in a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.project import PASSES, Project

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
