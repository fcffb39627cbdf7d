"""Whether an installed portfree does its work, or leaves others in peace, beside a tool as it is.

    python tests/smoke.py pytest

``nox -s compat`` runs it beside the oldest and the newest versions. It is a program, and no test:
what it runs beside may be a pytest that is too old for ours.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import requires, version
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Starts a server on the port, as a run does that leaves it behind, and ends when it listens.
LEAVE = """
import os, signal, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork():
    os._exit(0)
os.setsid()
for stream in (0, 1, 2):
    os.dup2(os.open(os.devnull, os.O_RDWR), stream)
signal.alarm(120)  # whatever becomes of us, it does not stay
signal.pause()
"""


class Project:
    """A project of its own, and a server that was left behind in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        (folder / ".git").mkdir()
        self.write("test_it.py", "def test_it(): pass\n")
        self.write("leave.py", LEAVE)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text).replace("$PORT", str(self.port)))

    @contextmanager
    def left(self) -> Iterator[None]:
        """Something is left on the port; afterwards nothing is."""
        subprocess.run([sys.executable, "leave.py", str(self.port)], cwd=self.folder, check=True)
        try:
            yield
        finally:
            command = [sys.executable, "-m", "portfree", str(self.port)]
            subprocess.run(command, cwd=self.folder, stdout=subprocess.DEVNULL, check=True)

    def run(self, *command: str, **variables: str) -> tuple[int, str]:
        """The exit code and the output of a command in the project."""
        kept = {name: value for name, value in os.environ.items() if "_SESSION" not in name}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**kept, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


def check_pytest(project: Project, *options: str) -> None:
    """Inert without ports, and with them the port is freed, or refused by a pytest too old."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    with project.left():
        code, output = project.run(*command)
        expect(code == 0 and "portfree: " not in output and project.listens(), output)
        code, output = project.run(*command, "--free-ports", str(project.port))
        if is_supported("pytest"):
            expect(code == 0 and f"before: freed {project.port}/tcp" in output, output)
            expect(not project.listens(), output)
        else:
            expect(code == 4 and "portfree needs pytest 7 or newer" in output, output)
            expect("Traceback" not in output and project.listens(), output)


def check_xdist(project: Project) -> None:
    check_pytest(project, "-n", "2")


def check_tox(project: Project) -> None:
    command = [sys.executable, "-m", "tox", "-e", "py"]
    head = "[tox]\nskipsdist = true\nno_package = true\n[testenv]\n"
    commands = "commands = python -c pass\n"
    project.write("tox.ini", head + commands)
    with project.left():
        code, output = project.run(*command)
        expect(code == 0 and "portfree: " not in output and project.listens(), output)
        project.write("tox.ini", f"{head}free_ports = $PORT\nfree_ports_leaks = fail\n{commands}")
        code, output = project.run(*command)
        if is_supported("tox"):
            expect(code == 0 and f"freed {project.port}/tcp" in output, output)
            expect(not project.listens(), output)
            project.write("tox.ini", f"{head}free_ports = 1\nfree_ports_leaks = fail\n{LEAKING}")
            code, output = project.run(*command)
            expect(code != 0 and "a server was left behind" in output, output)
        else:
            expect(code != 0 and "needs tox 4 or newer" in output, output)
            expect("Traceback" not in output and project.listens(), output)


LEAKING = "commands = python leave.py $PORT\n"

NOXFILE = """
import nox
from portfree import free_ports

@nox.session(python=False)
def tests(session):
    with free_ports($PORT):
        session.run("python", "-c", "pass", external=True)

@nox.session(python=False)
def leaks(session):
    with free_ports(1, leaks="fail"):
        session.run("python", "leave.py", "$PORT", external=True)
"""


def check_nox(project: Project) -> None:
    project.write("noxfile.py", NOXFILE)
    command = [sys.executable, "-m", "nox", "-s"]
    with project.left():
        code, output = project.run(*command, "tests")
        expect(code == 0 and f"freed {project.port}/tcp" in output, output)
        expect(not project.listens(), output)
        expect(is_supported("nox") or "does not hand PORTFREE_RUN_ID" in output, output)
        code, output = project.run(*command, "leaks")
        said = "started" if is_supported("nox") else "does not hand PORTFREE_RUN_ID"
        expect(code != 0 and said in output, output)
        expect(not project.listens(), output)


def check_pre_commit(project: Project) -> None:
    """The hook, from a repository that has what is here now."""
    hooks = project.folder / "hooks"
    ignored = shutil.ignore_patterns(".git", ".nox", ".*_cache", "__pycache__", "tests", "dist")
    shutil.copytree(ROOT, hooks, ignore=ignored)
    (project.folder / ".git").rmdir()
    me = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    for folder in (hooks, project.folder):
        for words in (["init", "-q"], ["add", "-A", "."], [*me, "commit", "-q", "-m", "all"]):
            done = project.run("git", "-C", str(folder), *words)
            expect(done[0] == 0, done[1])
    project.write("pyproject.toml", "[tool.portfree]\nports = [$PORT]\n")
    words = ["try-repo", str(hooks), "free-ports", "--hook-stage", "manual", "--all-files"]
    home = {"PRE_COMMIT_HOME": str(project.folder / "home")}
    with project.left():
        code, output = project.run(sys.executable, "-m", "pre_commit", *words, **home)
        expect(code == 0 and f"{project.port}/tcp: freed" in output, output)
        expect(not project.listens(), output)


CHECKS: dict[str, Callable[[Project], None]] = {
    "pytest": check_pytest,
    "pytest-xdist": check_xdist,
    "tox": check_tox,
    "nox": check_nox,
    "pre-commit": check_pre_commit,
}


def is_supported(tool: str) -> bool:
    """Whether this version is no older than the one that portfree's metadata asks for."""
    (least,) = re.findall(rf"^{tool}>=([\d.]+); extra", "\n".join(requires("portfree") or ()), re.M)
    return numbers(version(tool)) >= numbers(least)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


def expect(fact: bool, output: str) -> None:  # noqa: FBT001
    if not fact:
        raise SystemExit(f"portfree and its host do not do what they should:\n{output}")


def main() -> None:
    (tool,) = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        CHECKS[tool](Project(Path(folder).resolve()))
    print(f"portfree and {tool} {version(tool)} get on with each other")  # noqa: T201


if __name__ == "__main__":
    main()
