"""The pre-commit hook, through real pre-commit and real git."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.processes import HERE, Processes, http_server, needs_program, tcp

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_program("git")

# What pip says where it cannot reach an index.
NO_INDEX = ("No matching distribution found", "NewConnectionError", "Could not fetch URL")

TEST = "tests/test_api.py::test_search (setup)"

# Whoever runs these tests may have hooks, templates or a signing key of their own.
_GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "A. Tester",
    "GIT_AUTHOR_EMAIL": "tester@example.org",
    "GIT_COMMITTER_NAME": "A. Tester",
    "GIT_COMMITTER_EMAIL": "tester@example.org",
}


class Repository:
    """A git repository whose hooks come from pre-commit."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self._variables = variables
        folder.mkdir(exist_ok=True)
        self.run("git", "init", "--quiet", "--initial-branch=main")

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def run(self, *command: str) -> str:
        done = self.ask(*command)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def pre_commit(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.ask(sys.executable, "-m", "pre_commit", *words)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "All of it")


def variables(processes: Processes, home: Path) -> dict[str, str]:
    # When these tests run in a git hook themselves, git tells us about that repository.
    inherited = processes.environment({**_GIT, "PRE_COMMIT_HOME": str(home)})
    return {k: v for k, v in inherited.items() if k in _GIT or not k.startswith("GIT_")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pre-commit keeps what it has installed, for all tests here."""
    return tmp_path_factory.mktemp("pre-commit")


@pytest.fixture
def repository(processes: Processes, project: Path, home: Path) -> Repository:
    """A repository that uses ours as its hook, which pip installs from a clean export."""
    environment = variables(processes, home)
    hooks = home.parent / f"{home.name}-hooks"
    if not hooks.exists():
        hooks.mkdir()
        for name in ("src", "pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml"):
            origin = HERE.parents[1] / name
            if origin.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(origin, hooks / name, ignore=ignored)
            else:
                shutil.copy(origin, hooks / name)
        Repository(hooks, environment).commit()
    head = Repository(hooks, environment).run("git", "rev-parse", "HEAD").strip()
    repository = Repository(project, environment)
    (project / ".pre-commit-config.yaml").write_text(
        "default_install_hook_types: [pre-push]\n"
        f"repos:\n- repo: {hooks}\n  rev: {head}\n  hooks:\n  - id: free-ports\n"
    )
    installed = repository.pre_commit("install", "--install-hooks")
    if any(sign in installed.stdout for sign in NO_INDEX):
        pytest.skip(f"pip gets no packages here: {installed.stdout[-500:]}")
    assert installed.returncode == 0, installed.stdout
    return repository


def test_a_push_frees_what_was_left_behind_and_is_not_blocked(
    processes: Processes, repository: Repository, tmp_path: Path
) -> None:
    left, used = processes.free_port(), processes.free_port()
    table = f'[project]\nname = "shop"\n[tool.portfree]\nports = [{left}, {used}]\n'
    (repository.folder / "pyproject.toml").write_text(table)
    repository.commit()
    remote = tmp_path / "remote.git"
    repository.run("git", "init", "--quiet", "--bare", str(remote))
    folder = repository.folder
    old = processes.orphan(tcp(left), cwd=folder, env={"PYTEST_CURRENT_TEST": TEST})
    live = processes.attended(http_server(used), cwd=folder, listening=used)

    said = repository.run("git", "push", str(remote), "main")

    assert not old.alive
    assert live.alive
    assert f"{left}/tcp: freed" in said
    assert f"started in {TEST}" in said
    assert f"{used}/tcp: busy" in said
    assert f"pid {live.pid}" in said
    head = repository.run("git", "rev-parse", "HEAD")
    assert repository.run("git", f"--git-dir={remote}", "rev-parse", "main") == head


def test_by_hand_with_ports_as_arguments(processes: Processes, repository: Repository) -> None:
    port = processes.free_port()
    config = repository.folder / ".pre-commit-config.yaml"
    config.write_text(config.read_text() + f'    args: ["{port}"]\n')
    repository.commit()
    old = processes.orphan(tcp(port), cwd=repository.folder)  # bears no mark, but is in our project

    done = repository.pre_commit("run", "--hook-stage", "manual", "free-ports")

    assert done.returncode == 0, done.stdout
    assert f"{port}/tcp: freed" in done.stdout
    assert not old.alive


def test_without_ports_it_says_what_is_missing(repository: Repository) -> None:
    repository.commit()

    done = repository.pre_commit("run", "--hook-stage", "manual", "free-ports")

    assert done.returncode == 1
    assert "[tool.portfree] ports = [8000]" in done.stdout
