"""The pre-commit hook, through real pre-commit and real git."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from helpers.processes import HERE, Processes, http_server, needs_program, tcp
from helpers.project import NO_INDEX, TEST, Project

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_program("git")

# Whoever runs these tests may have hooks, templates or a signing key of their own.
GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "A. Tester",
    "GIT_AUTHOR_EMAIL": "tester@example.org",
    "GIT_COMMITTER_NAME": "A. Tester",
    "GIT_COMMITTER_EMAIL": "tester@example.org",
}


def git_init(processes: Processes, folder: Path, home: Path) -> Project:
    """A git repository that takes its hooks from pre-commit."""
    repository = Project(processes, folder, {**GIT, "PRE_COMMIT_HOME": str(home)})
    repository.done("git", "init", "--quiet", "--initial-branch=main")
    return repository


def commit(repository: Project) -> str:
    repository.done("git", "add", "--all")
    repository.done("git", "commit", "--quiet", "--message", "All of it")
    return repository.done("git", "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pre-commit keeps what it has installed, for all tests here."""
    return tmp_path_factory.mktemp("pre-commit")


@pytest.fixture
def repository(
    processes: Processes, project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A repository that uses ours as its hook, which pip installs from a clean export."""
    # When these tests run in a git hook themselves, git tells us about that repository.
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    hooks = home / "hooks"
    if not (home / "head").exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE.parents[1] / "src", hooks / "src", ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml"):
            shutil.copy(HERE.parents[1] / name, hooks / name)
        (home / "head").write_text(commit(git_init(processes, hooks, home)))
    repository = git_init(processes, project, home)
    repository.write(
        ".pre-commit-config.yaml",
        "default_install_hook_types: [pre-push]\n"
        f"repos:\n- repo: {hooks}\n  rev: {(home / 'head').read_text()}\n"
        "  hooks:\n  - id: free-ports\n",
    )
    installed = repository.module("pre_commit", "install", "--install-hooks")
    if any(sign in installed.out for sign in NO_INDEX):
        pytest.skip(f"pip gets no packages here: {installed.out[-500:]}")
    assert installed.code == 0, installed.out
    return repository


def test_a_push_frees_what_was_left_behind_and_is_not_blocked(
    repository: Project, tmp_path: Path
) -> None:
    left, used = repository.port, repository.other
    repository.write(
        "pyproject.toml", '[project]\nname = "shop"\n[tool.portfree]\nports = [$PORT, $OTHER]\n'
    )
    head = commit(repository)
    remote = tmp_path / "remote.git"
    repository.done("git", "init", "--quiet", "--bare", str(remote))
    old = repository.orphan(tcp(left), PYTEST_CURRENT_TEST=TEST)
    live = repository.processes.attended(http_server(used), cwd=repository.folder, listening=used)

    said = repository.done("git", "push", str(remote), "main")

    assert not old.alive
    assert live.alive
    assert f"{left}/tcp: freed" in said
    assert f"started in {TEST}" in said
    assert f"{used}/tcp: busy" in said
    assert f"pid {live.pid}" in said
    assert repository.done("git", f"--git-dir={remote}", "rev-parse", "main").strip() == head


def test_by_hand_with_ports_as_arguments(repository: Project) -> None:
    config = repository / ".pre-commit-config.yaml"
    config.write_text(config.read_text() + f'    args: ["{repository.port}"]\n')
    commit(repository)
    old = repository.orphan(tcp(repository.port))  # bears no mark, but is in our project

    said = repository.module("pre_commit", "run", "--hook-stage", "manual", "free-ports")

    assert said.code == 0, said.out
    assert f"{repository.port}/tcp: freed" in said.out
    assert not old.alive


def test_without_ports_it_says_what_is_missing(repository: Project) -> None:
    commit(repository)

    said = repository.module("pre_commit", "run", "--hook-stage", "manual", "free-ports")

    assert said.code == 1
    assert "[tool.portfree] ports = [8000]" in said.out
