"""Whether an installed portfree does its work, or leaves others in peace, beside a tool as it is.

    python tests/smoke.py pytest
    python tests/smoke.py pytest-xdist leaks

The second one: whether it tells, once, which test has left a server behind.

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
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import requires, version
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import psutil

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
        # A pipe might stay open in a server that is left behind.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env={**kept, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            output.seek(0)
            return done.returncode, output.read()

    def listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


def check_pytest(project: Project, *options: str) -> None:
    """Inert without ports, and beside a pytest too old; else the port is freed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    with project.left():
        code, output = project.run(*command)
        expect(code == 0 and "portfree: " not in output and project.listens(), output)
        code, output = project.run(*command, "--free-ports", str(project.port))
        if is_supported("pytest"):
            expect(code == 0 and f"before: freed {project.port}/tcp" in output, output)
            expect(not project.listens(), output)
        else:
            expect(code == 0 and output.count("portfree: ") == 1, output)
            expect("it needs pytest 7 or newer" in output and project.listens(), output)
    if is_supported("pytest") and not options:
        check_leaks("pytest")


def check_xdist(project: Project) -> None:
    check_pytest(project, "-n", "2")


# Two tests that leave something behind, and two that do not.
SUITE = """
import socket, subprocess, sys

def start():
    words = [sys.executable, "serve.py"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    with open("pids", "a") as pids:
        pids.write(f"{server.pid}\\n")
    assert server.stdout.readline() == b"ready\\n"
    server.stdout.close()
    server.returncode = 0  # or there is a ResourceWarning

KEPT = []

def test_first(): pass
def test_server(): start()
def test_socket(): KEPT.append(socket.create_server(("127.0.0.1", 0)))
def test_last(): pass
"""

SERVE = """
import os, signal, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print("ready", flush=True)
os.dup2(os.open(os.devnull, os.O_RDWR), 1)
signal.alarm(120)
signal.pause()
"""

SUBTESTS = """
def test_with_subtests(subtests):
    for number in range(3):
        with subtests.test(number=number):
            if number == 1:
                start()
"""

# In the same event loop: a server that is closed, one that is not, and one of a test.
ASYNC = """
import asyncio, pytest
$IMPORT

async def serve():
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    KEPT.append(server)
    return server

@$FIXTURE
async def closed():
    server = await serve()
    yield server
    server.close()
    await server.wait_closed()

@$FIXTURE
async def unclosed():
    yield await serve()

@$MARK
async def test_uses(closed, unclosed): pass
@$MARK
async def test_async(closed): await serve()
@$MARK
async def test_async_server(unclosed): start()
def test_at_the_end(): pass
"""
OF_FIXTURE = "test_uses, fixture unclosed (session),"
ANYIO = """
@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"
"""


class Use(NamedTuple):
    """How a plugin of pytest is used while tests leave servers behind."""

    plugins: str = ""
    options: str = ""
    shows: str = ""
    """What its use looks like in the output."""
    more: str = ""
    """More tests."""
    more_leaks: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    """Tests that leave nothing behind beside this plugin."""
    modes: tuple[str, ...] = ("warn", "fail")
    """What `leaks` is."""

    def expected(self, leaks: str) -> Counter[str]:
        """Who leaves something behind, and how often."""
        names = {"test_server", "test_socket", *self.more_leaks} - {*self.harmless}
        again = "--dist each" in self.options or ("--reruns" in self.options and leaks == "fail")
        return Counter({f"test_it.py::{name}": 2 if again else 1 for name in names})


def async_suite(fixture: str, mark: str, more: str = "") -> str:
    head, *_ = fixture.split(".")
    text = ASYNC.replace("$FIXTURE", fixture).replace("$MARK", mark)
    return text.replace("$IMPORT", f"import {head}{more}")


ASYNC_LEAKS = (OF_FIXTURE, "test_async", "test_async_server")
USES = {
    "pytest": [Use()],
    "pytest-xdist": [
        Use("xdist", "-n 2 --dist load"),
        Use("xdist", "-n 2 --dist each"),
        Use("xdist", "-n 2 --dist loadscope", modes=("fail",)),
        Use("xdist", "-n 2 --dist loadfile", modes=("fail",)),
        Use("xdist", "-n 2 --dist worksteal", modes=("fail",)),
    ],
    "pytest-asyncio": [
        Use(
            "asyncio",
            shows="asyncio: mode=",
            more=async_suite(
                'pytest_asyncio.fixture(scope="session", loop_scope="session")',
                'pytest.mark.asyncio(loop_scope="session")',
            ),
            more_leaks=ASYNC_LEAKS,
        )
    ],
    "anyio": [
        Use(
            "anyio",
            more=async_suite('pytest.fixture(scope="session")', "pytest.mark.anyio", ANYIO),
            more_leaks=ASYNC_LEAKS,
        )
    ],
    "pytest-timeout": [Use("timeout", "--timeout 60", "timeout: 60")],
    "pytest-rerunfailures": [Use("rerunfailures", "--reruns 1")],
    "pytest-cov": [Use("pytest_cov", "--cov=.", "coverage: ")],
    "pytest-sugar": [Use("sugar", "--force-sugar", "100%")],
    "pytest-html": [Use("metadata html", "--html=report.html", "Generated html report")],
    # What listens in the child ends with it.
    "pytest-forked": [Use("pytest_forked", "--forked", harmless=("test_socket",))],
    "pytest-subtests": [
        Use("subtests", "", "subtests passed", SUBTESTS, more_leaks=("test_with_subtests",))
    ],
}


def check_leaks(tool: str) -> None:
    """Each leak is told once, and of the right test, which fails for it if that is asked for."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(check_use, use, mode) for use in USES[tool] for mode in use.modes]
        for run in runs:
            run.result()


def check_use(use: Use, leaks: str) -> None:
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        project = Project(Path(folder).resolve())
        project.write("test_it.py", SUITE + use.more)
        project.write("serve.py", SERVE)
        project.write("pids", "")
        plugins = [word for name in ["portfree", *use.plugins.split()] for word in ("-p", name)]
        given = ["--free-ports=1", f"--free-ports-leaks={leaks}", "--free-ports-grace=0.3"]
        given.append("--junitxml=junit.xml")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugins]
        try:
            code, output = project.run(
                *command, "-rE", *given, *use.options.split(), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"
            )
            report = ET.parse(project.folder / "junit.xml")
        finally:
            end_servers(project.folder / "pids")
    expected = use.expected(leaks)
    leaks_of_cases = [
        (each.get("value") or "").partition(" left ")[0]
        for each in report.iterfind("*/testcase/properties/property[@name='portfree_leak']")
    ]
    expect(Counter(leaks_of_cases) == expected, f"{leaks_of_cases}\n{output}")
    told = re.search(r"^=+ portfree =+\n(.*?)^(?:[=-]{5}|$)", output, re.M | re.S)
    lines = told[1].splitlines() if told else []
    expect(Counter(line.partition(" left ")[0] for line in lines) == expected, output)
    expect(use.shows in output, output)
    failed = {re.sub(r".*::|, fixture.*", "", name) for name in expected}
    if OF_FIXTURE in use.more_leaks:  # it is found where the fixture ends
        failed = failed - {"test_uses"} | {"test_at_the_end"}
    if leaks == "warn":
        expect(code == 0, output)
    else:
        expect(code == 1, output)
        expect(set(re.findall(r"ERROR at teardown of (\w+)", output)) == failed, output)


def end_servers(pids: Path) -> None:
    for pid in map(int, pids.read_text().split()):
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(pid)
            if "serve.py" in server.cmdline():
                server.kill()


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
    tool, *mode = sys.argv[1:]
    if mode == ["leaks"]:
        check_leaks(tool)
    else:
        with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
            CHECKS[tool](Project(Path(folder).resolve()))
    print(f"portfree and {tool} {version(tool)} get on with each other")  # noqa: T201


if __name__ == "__main__":
    main()
