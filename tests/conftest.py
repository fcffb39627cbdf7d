"""Fixtures for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Starts real processes, and clears away every one of them, whatever the test does."""
    folder = tmp_path / "stage"
    folder.mkdir()
    stage = Stage(folder)
    try:
        yield stage
    finally:
        stage.close()


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


@pytest.fixture(params=["linux", "portable"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test through both backends: they must say and do the same."""
    name: str = request.param
    monkeypatch.setenv("PORTFREE_BACKEND", name)
    return name
