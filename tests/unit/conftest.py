"""Fixtures for the tests that start no process."""

from __future__ import annotations

import pytest

from helpers.fake_system import FakeSystem
from portfree._system.interface import CI_JOB_IDS, MARKS, XDIST_WORKER


@pytest.fixture
def system() -> FakeSystem:
    return FakeSystem()


@pytest.fixture
def unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run under pytest themselves, and maybe in a CI job: without marks, in neither."""
    for name in (*MARKS, *CI_JOB_IDS, XDIST_WORKER, "SUDO_UID"):
        monkeypatch.delenv(name, raising=False)
