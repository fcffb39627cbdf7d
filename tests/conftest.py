"""Fixtures for all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from helpers.fake_system import FakeSystem
from portfree._system.interface import CI_JOB_IDS, MARKS, XDIST_WORKER
from stress.support.figures import PROPERTY, Figures, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.terminal import TerminalReporter

    from helpers.processes import Processes

settings.register_profile("stress", max_examples=2_000, deadline=None)
# Measuring coverage takes several times as long. The other Pythons try all examples.
settings.register_profile("covered", max_examples=30)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stress",
        action="store_true",
        help="the long version of the hardening tests, with a table of what they add up to",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "stress: only with --stress, for it takes long")
    if config.getoption("--stress"):
        settings.load_profile("stress")
    elif "COVERAGE_RUN" in os.environ:
        settings.load_profile("covered")
    # The folders that pytest would choose tell portfree which session a server was born in, and
    # everything in these tests would be ours. Those of xdist's workers lie in their controller's.
    if not config.option.basetemp:
        config.option.basetemp = tempfile.mkdtemp(prefix="portfree-tests-")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--stress"):
        return
    config.hook.pytest_deselected(
        items=[each for each in items if each.get_closest_marker("stress")]
    )
    items[:] = [each for each in items if not each.get_closest_marker("stress")]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == 0 and not hasattr(session.config, "workerinput"):
        shutil.rmtree(session.config.option.basetemp, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--stress"):
        return
    terminalreporter.write_sep("=", "figures")
    recorded = [
        value
        for found in terminalreporter.stats.values()
        for report in found
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    for line in table(recorded):
        terminalreporter.write_line(line)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Counts the trials of a test, for the group that its file names."""
    counted = Figures(request.module.GROUP)
    yield counted
    # As plain values: under xdist they travel to the controller.
    request.node.user_properties.append((PROPERTY, astuple(counted)))


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether this is the long version of the hardening tests."""
    return bool(request.config.getoption("--stress"))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts real processes, and kills every one of them in the end."""
    from helpers.processes import Processes  # which needs Linux, where tests/unit does not

    folder = tmp_path / "processes"
    folder.mkdir()
    processes = Processes(folder)
    try:
        yield processes
    finally:
        processes.close()


def _project(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{folder.name}"\n')
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our project: a folder with a pyproject.toml, which the test is in."""
    folder = _project(tmp_path / "shop")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Another project, which has nothing to do with ours."""
    return _project(tmp_path / "unrelated")


@pytest.fixture
def open_project() -> Iterator[Path]:
    """A project that every user may look into, which pytest's own folders do not allow."""
    folder = Path(tempfile.mkdtemp(prefix="portfree-"))
    folder.chmod(0o755)
    (folder / "pyproject.toml").touch()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["linux", "portable"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test through both backends: they must say and do the same."""
    name: str = request.param
    monkeypatch.setenv("PORTFREE_BACKEND", name)
    # What has no environment might be another worker's, and would be kept.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    return name


@pytest.fixture
def system() -> FakeSystem:
    return FakeSystem()


@pytest.fixture
def unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run under pytest themselves, and maybe in a CI job: without marks, in neither."""
    for name in (*MARKS, *CI_JOB_IDS, XDIST_WORKER, "SUDO_UID"):
        monkeypatch.delenv(name, raising=False)
