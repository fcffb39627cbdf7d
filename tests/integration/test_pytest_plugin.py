"""The pytest plugin, in real pytest processes that start real servers, and leave some behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from helpers.processes import (
    SERVERS,
    Identity,
    Processes,
    accepts,
    http_server,
    is_free,
    tcp,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What the tests of a suite start their servers with. A server must not have the suite's standard
# output: whoever waits for its end would wait for that of the server.
HELPERS = f"""
import os, socket, subprocess, sys, time

AWAY = '''
import os, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.execv(sys.argv[1], sys.argv[1:])
'''
NOWHERE = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)

def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

def command(port, *flags):
    return [sys.executable, "-S", {str(SERVERS)!r}, "--tcp", f"127.0.0.1:{{port}}", *flags]

def listening(port):
    deadline = time.monotonic() + 20
    while not accepts(port):
        assert time.monotonic() < deadline
        time.sleep(0.005)

def child(port, *flags):
    process = subprocess.Popen(command(port, *flags), **NOWHERE)
    listening(port)
    return process

def daemon(port):
    subprocess.run([sys.executable, "-S", "-c", AWAY, *command(port)], check=True, **NOWHERE)
    listening(port)

def until(path):
    deadline = time.monotonic() + 20
    while not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.005)
"""

TICK = "def test_tick():\n    pass\n"


class Result(NamedTuple):
    """How a run of pytest ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def header(self) -> str:
        """Our line of the header."""
        (line,) = (line for line in self.out.splitlines() if line.startswith("portfree: "))
        return line

    @property
    def section(self) -> list[str]:
        """The lines of our section at the end; none if there is none."""
        found = re.search(r"^=+ portfree =+\n(.*?)^(?:=|!)", self.out, re.DOTALL | re.MULTILINE)
        return found[1].splitlines() if found else []


class Running:
    """A pytest that is at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.identity = Identity.of(process.pid)

    def wait(self) -> Result:
        out, err = self.process.communicate(timeout=60)
        return Result(self.process.returncode, out, err)

    def kill(self) -> None:
        self.process.kill()
        self.wait()


class Suite:
    """A project with tests, in which pytest is run as its developer would."""

    def __init__(self, processes: Processes, folder: Path, bytecode: Path) -> None:
        self.processes = processes
        self.folder = folder
        self._environment = {
            "COLUMNS": "200",
            # Loading hypothesis takes longer than all that is tested here.
            "PYTEST_ADDOPTS": "-p no:hypothesispytest -p no:asyncio",
            # What is loaded by every session is compiled once.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(bytecode),
        }
        (folder / ".git").mkdir(parents=True)
        self.write("tests/helpers.py", HELPERS)

    def write(self, name: str, text: str, **values: object) -> None:
        """Write a file; ``$NAME`` in it is replaced by the value of that name."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        for key, value in values.items():
            text = text.replace(f"${key}", str(value))
        path.write_text(textwrap.dedent(text))

    def guard(self, *ports: int, **settings: object) -> None:
        """Write a pytest.ini that has these ports freed."""
        lines = [f"free_ports = {' '.join(map(str, ports))}"]
        lines += [f"free_ports_{key} = {value}" for key, value in settings.items()]
        self.write("pytest.ini", "\n".join(["[pytest]", *lines, ""]))

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> Running:
        """Start pytest with these arguments."""
        return self.command([sys.executable, "-m", "pytest", *args], env)

    def command(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> Running:
        """Start any command in the project."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.processes.environment({**self._environment, **(env or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Running(process)

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> Result:
        """Run pytest with these arguments."""
        return self.start(*args, env=env).wait()

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def suite(processes: Processes, tmp_path: Path, bytecode: Path) -> Suite:
    return Suite(processes, tmp_path / "shop", bytecode)


@pytest.fixture
def port(processes: Processes) -> int:
    return processes.free_port()


# What a session does


def test_a_free_port_is_said_to_be_free_and_nothing_more(suite: Suite, port: int) -> None:
    suite.guard(port)
    suite.write("tests/test_it.py", TICK)

    result = suite.run()

    assert result.code == 0
    assert result.header == f"portfree: {port}/tcp, scope orphans: free"
    assert result.section == []
    assert result.err == ""


def test_a_forgotten_server_is_stopped_before_the_first_test(suite: Suite, port: int) -> None:
    server = suite.processes.orphan(http_server(port), cwd=suite.folder, listening=port)
    suite.guard(port)
    suite.write(
        "tests/test_it.py",
        """
        import helpers
        def test_it():
            server = helpers.child($PORT)
            server.terminate()
            server.wait()
        """,
        PORT=port,
    )

    result = suite.run()

    assert result.code == 0
    assert not server.alive
    said = f"freed {port}/tcp: stopped "
    assert result.header == f"portfree: {port}/tcp, scope orphans: freed"
    (line,) = result.section
    assert line.startswith(f"before: {said}")
    assert f"-m http.server --bind 127.0.0.1 {port} (pid {server.process.pid})" in line


@pytest.mark.parametrize("quiet", ["-q", "-qq"])
def test_a_quiet_session_says_what_was_stopped_at_the_end(
    suite: Suite, port: int, quiet: str
) -> None:
    suite.processes.orphan(tcp(port), cwd=suite.folder)
    suite.guard(port)
    suite.write("tests/test_it.py", TICK)

    result = suite.run(quiet)

    assert result.code == 0
    assert re.search(rf"^=+ portfree =+\nbefore: freed {port}/tcp: ", result.out, re.MULTILINE)
    assert result.out.count(f"freed {port}/tcp") == 1


def test_ports_in_a_row_are_named_as_a_range(suite: Suite, port: int) -> None:
    other = suite.processes.free_port()
    suite.processes.orphan(tcp(port, "--tcp", f"127.0.0.1:{other}"), cwd=suite.folder)
    suite.guard(port, other)
    suite.write("pytest.ini", f"[pytest]\nfree_ports = {port} {other} 1-3 4/udp\n")
    suite.write("tests/test_it.py", TICK)

    header = suite.run("-o", "free_ports_scope=mine").header

    assert ", 1-3/tcp, 4/udp, scope mine: freed: " in header
    assert {f"{port}/tcp", f"{other}/tcp"} <= set(re.split("[,:] ", header)) or (
        f"{port}-{other}/tcp" in header
    )


def test_what_a_session_leaves_on_its_port_is_stopped_after_it(suite: Suite, port: int) -> None:
    suite.guard(port)
    suite.write(
        "tests/test_it.py",
        "import helpers\ndef test_forgets():\n    helpers.child($PORT)\n",
        PORT=port,
    )

    result = suite.run()

    assert result.code == 0
    assert is_free(port)
    (line,) = result.section
    assert line.startswith(f"after: freed {port}/tcp: stopped ")
    assert line.endswith("started in tests/test_it.py::test_forgets (call) (evidence: id)")


def test_a_server_that_a_killed_session_has_left_is_stopped_and_its_test_named(
    suite: Suite, port: int
) -> None:
    suite.guard(port)
    suite.write(
        "tests/test_api.py",
        """
        import os, pathlib, pytest, helpers, time

        @pytest.fixture(scope="session")
        def server():
            server = helpers.child($PORT)
            yield
            server.terminate()
            server.wait()

        def test_search(server):
            if "BLOCK" in os.environ:
                pathlib.Path("ready").touch()
                time.sleep(1000)
        """,
        PORT=port,
    )
    first = suite.start(env={"BLOCK": "1"})
    wait_until((suite / "ready").exists, "the test runs")
    first.kill()
    assert accepts(port)

    result = suite.run()

    assert result.code == 0
    assert result.section[0].startswith(f"before: freed {port}/tcp: stopped ")
    assert result.section[0].endswith(
        "started in tests/test_api.py::test_search (setup) (evidence: id)"
    )
    assert is_free(port)


def test_two_sessions_at_once(suite: Suite, port: int) -> None:
    suite.guard(port)
    suite.write(
        "tests/test_it.py",
        """
        import os, pathlib, helpers
        def test_it():
            if "FIRST" in os.environ:
                helpers.child($PORT)
                pathlib.Path("ready").touch()
                helpers.until("go")
                assert helpers.accepts($PORT)
        """,
        PORT=port,
    )
    first = suite.start(env={"FIRST": "1"})
    wait_until((suite / "ready").exists, "the first session runs")

    second = suite.run()

    assert second.code == 0
    kept, doubt = second.section
    assert kept.startswith(f"before: {port}/tcp is busy: kept ")
    assert f"(pid {first.process.pid}) in {suite.folder}" in kept
    assert "live-run: in use by pytest" in kept
    assert doubt.startswith(f"{port}/tcp was busy: these tests may have talked to ")
    assert accepts(port)

    third = suite.start("-o", "free_ports_wait=10")
    assert third.process.stderr is not None
    waiting = third.process.stderr.readline()
    assert waiting.startswith(f"portfree: waiting for {port}/tcp: in use by pytest (pid ")
    assert accepts(port)
    (suite / "go").touch()
    one, three = first.wait(), third.wait()
    assert one.code == three.code == 0
    assert one.section[0].startswith(f"after: freed {port}/tcp: ")
    assert not any("was busy" in line for line in three.section)
    assert is_free(port)


@pytest.mark.parametrize("way", ["child", "daemon"])
def test_a_server_that_conftest_starts_survives_and_is_stopped_at_the_end(
    suite: Suite, port: int, way: str
) -> None:
    suite.guard(port, on_busy="fail")
    suite.write("tests/conftest.py", "import helpers\nhelpers.$WAY($PORT)\n", WAY=way, PORT=port)
    suite.write(
        "tests/test_it.py",
        "import helpers\ndef test_it():\n    assert helpers.accepts($PORT)\n",
        PORT=port,
    )

    # Named, for only then is its conftest.py loaded before the session starts.
    result = suite.run("tests")

    assert result.code == 0, result.out
    assert "busy" not in result.header
    assert f": {port}/tcp is in use by this run already: python" in result.header
    assert "started for this run already" in result.header
    assert is_free(port)
    (line,) = result.section
    assert line.startswith(f"after: freed {port}/tcp: ")


def test_a_listener_of_the_session_itself_is_no_obstacle(suite: Suite, port: int) -> None:
    suite.guard(port, on_busy="fail")
    suite.write(
        "tests/conftest.py",
        "import socket\nlistener = socket.create_server(('127.0.0.1', $PORT))\n",
        PORT=port,
    )
    suite.write("tests/test_it.py", TICK)

    result = suite.run("tests")

    assert result.code == 0
    assert "busy" not in result.header
    assert "held by this test run itself" in result.header
    assert result.section == []


UNCLOSED = """
import http.server, threading, pytest

@pytest.fixture(scope="session")
def server():
    handler = http.server.SimpleHTTPRequestHandler
    server = http.server.ThreadingHTTPServer(("127.0.0.1", $PORT), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield  # and nobody closes it

def test_it(server): pass
"""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, ""),
        ({"leaks": "fail"}, "a server was left behind, and free_ports_leaks is fail"),
        ({"on_busy": "fail"}, "$PORT/tcp is busy after it, and free_ports_on_busy is fail"),
    ],
)
def test_a_guarded_port_that_the_session_itself_still_holds(
    suite: Suite, port: int, options: dict[str, str], why: str
) -> None:
    suite.guard(port, **options)
    suite.write("tests/test_it.py", UNCLOSED, PORT=port)

    result = suite.run()

    assert result.code == (1 if why else 0)
    assert "1 passed" in result.out
    said, *failure = result.section
    assert f"the run itself, still listens on 127.0.0.1:{port}" in said
    assert failure == ([f"exit status 1: {why.replace('$PORT', str(port))}"] if why else [])


def test_a_port_of_ours_beside_one_that_is_free(suite: Suite, port: int) -> None:
    other = suite.processes.free_port()
    suite.write("pytest.ini", f"[pytest]\nfree_ports = {port} {other}\n")
    suite.write(
        "tests/conftest.py",
        "import socket\nlistener = socket.create_server(('127.0.0.1', $PORT))\n",
        PORT=port,
    )
    suite.write("tests/test_it.py", TICK)

    header = suite.run("tests").header

    assert f"scope orphans: {port}/tcp is in use by this run already" in header


def test_what_was_stopped_before_a_refusal_is_told(
    suite: Suite, port: int, elsewhere: Path
) -> None:
    other = suite.processes.free_port()
    suite.processes.orphan(tcp(other), cwd=suite.folder)
    suite.processes.attended(tcp(port), cwd=elsewhere)
    suite.write("pytest.ini", f"[pytest]\nfree_ports = {port} {other}\nfree_ports_on_busy = fail\n")
    suite.write("tests/test_it.py", TICK)

    result = suite.run()

    assert result.code == pytest.ExitCode.USAGE_ERROR
    assert f"{port}/tcp is busy" in result.err
    assert f"freed {other}/tcp: stopped " in result.err


# Exit codes


def test_on_busy_fail_starts_no_test(suite: Suite, port: int, elsewhere: Path) -> None:
    server = suite.processes.orphan(tcp(port), cwd=elsewhere)
    suite.guard(port, on_busy="fail")
    suite.write("tests/test_it.py", "open('ran', 'w').close()\n" + TICK)

    result = suite.run()

    assert result.code == pytest.ExitCode.USAGE_ERROR
    assert not (suite / "ran").exists()
    assert server.alive
    (line,) = result.err.strip().splitlines()
    assert line.startswith(
        "ERROR: portfree: no test was started, for free_ports_on_busy is fail, "
        f"and {port}/tcp is busy: kept "
    )
    assert result.out.strip() == ""


def test_on_busy_warn_goes_on_and_says_so_again(suite: Suite, port: int, elsewhere: Path) -> None:
    server = suite.processes.orphan(tcp(port), cwd=elsewhere)
    suite.guard(port)
    suite.write("tests/test_it.py", TICK)

    result = suite.run()

    assert result.code == 0
    assert server.alive
    assert result.header.endswith(": busy")
    # That it is still so at the end needs no third line.
    kept, doubt = result.section
    assert kept.startswith(f"before: {port}/tcp is busy: kept ")
    assert f"(pid {server.process.pid}), running since " in doubt


@pytest.mark.parametrize(
    ("body", "code"),
    [("pass", 1), ("assert False", 1), ("os.kill(os.getpid(), signal.SIGINT)", 2)],
)
def test_a_leak_can_fail_a_green_session_and_hides_no_red_one(
    suite: Suite, port: int, body: str, code: int
) -> None:
    suite.guard(port, leaks="fail")
    suite.write(
        "tests/test_it.py",
        """
        import os, signal, helpers
        def test_it():
            helpers.child($PORT)
            $BODY
        """,
        PORT=suite.processes.free_port(),
        BODY=body,
    )

    result = suite.run()

    assert result.code == code
    status = "exit status 1: " if code == 1 else ""
    assert result.section[-1] == f"{status}a server was left behind, and free_ports_leaks is fail"


def test_a_failing_test_stays_one(suite: Suite, port: int) -> None:
    suite.guard(port)
    suite.write(
        "tests/test_it.py",
        "import helpers\ndef test_it():\n    helpers.child($PORT)\n    assert False\n",
        PORT=port,
    )

    result = suite.run()

    assert result.code == 1
    assert result.section[0].startswith(f"after: freed {port}/tcp: ")
    assert is_free(port)


def test_no_tests_are_still_no_tests(suite: Suite, port: int) -> None:
    suite.guard(port)

    assert suite.run().code == pytest.ExitCode.NO_TESTS_COLLECTED


def test_ctrl_c_ends_the_run_too(suite: Suite, port: int) -> None:
    suite.guard(port)
    suite.write(
        "tests/test_it.py",
        """
        import os, signal, helpers
        def test_it():
            helpers.daemon($PORT)
            os.kill(os.getpid(), signal.SIGINT)
        """,
        PORT=port,
    )

    result = suite.run()

    assert result.code == pytest.ExitCode.INTERRUPTED
    assert result.section[0].startswith(f"after: freed {port}/tcp: ")
    assert is_free(port)


def test_ctrl_c_while_the_ports_are_freed_at_the_end(suite: Suite, port: int) -> None:
    suite.guard(port, grace=50)
    suite.write(
        "tests/test_it.py",
        """
        import helpers
        def test_it():
            helpers.child($PORT, "--ignore", "TERM", "--ignore", "INT")
        """,
        PORT=port,
    )
    session = suite.start()
    assert session.process.stderr is not None
    assert session.process.stderr.readline().startswith("portfree: ")  # waiting for the server

    session.identity.send(signal.SIGINT)
    result = session.wait()

    assert result.code == pytest.ExitCode.INTERRUPTED
    assert result.section == [
        "interrupted: the ports may not have been freed after the tests",
    ]
    assert "1 passed" in result.out


# Leaks


def leaking(suite: Suite, guarded: int, leaks: str) -> tuple[Result, int, int]:
    """Run a session that leaves a child and a daemon on ports of their own."""
    one, two = suite.processes.free_port(), suite.processes.free_port()
    suite.guard(guarded, leaks=leaks)
    suite.write(
        "tests/test_it.py",
        """
        import pytest, helpers

        @pytest.fixture(scope="session")
        def server():
            helpers.child($ONE)

        def test_one(server): pass
        def test_two(): helpers.daemon($TWO)
        """,
        ONE=one,
        TWO=two,
    )
    return suite.run(), one, two


def test_leaks_are_ignored(suite: Suite, port: int) -> None:
    result, one, two = leaking(suite, port, "ignore")

    assert result.code == 0
    assert result.section == []
    assert accepts(one)
    assert accepts(two)


def test_leaks_are_warned_of(suite: Suite, port: int) -> None:
    result, one, two = leaking(suite, port, "warn")

    assert result.code == 0
    first, second = sorted(result.section)
    assert first.startswith("tests/test_it.py::test_one (setup) started ")
    assert first.endswith(f"still listening on 127.0.0.1:{one}")
    assert second.startswith("tests/test_it.py::test_two (call) started ")
    assert second.endswith(f"still listening on 127.0.0.1:{two}")
    assert accepts(one)
    assert accepts(two)


@pytest.mark.parametrize(("leaks", "code"), [("stop", 0), ("fail", 1)])
def test_leaks_are_stopped(suite: Suite, port: int, leaks: str, code: int) -> None:
    result, one, two = leaking(suite, port, leaks)

    assert result.code == code
    assert is_free(one)
    assert is_free(two)
    text = "\n".join(result.section)
    assert "ended after SIGTERM" in text
    assert "test_one (setup)" in text
    assert "test_two (call)" in text
    assert ("exit status 1" in text) == (leaks == "fail")


def test_a_listener_of_the_session_itself_is_reported(suite: Suite, port: int) -> None:
    other = suite.processes.free_port()
    suite.guard(port, leaks="stop")
    suite.write(
        "tests/test_it.py",
        """
        import socket
        def test_it():
            global listener
            listener = socket.create_server(("127.0.0.1", $OTHER))
        """,
        OTHER=other,
    )

    result = suite.run()

    assert result.code == 0
    (line,) = result.section
    assert line.endswith(f"the run itself, still listens on 127.0.0.1:{other}")


def test_servers_of_others_and_servers_that_end_are_no_leaks(
    suite: Suite, port: int, elsewhere: Path
) -> None:
    earlier, meanwhile = suite.processes.free_port(), suite.processes.free_port()
    own = suite.processes.free_port()
    suite.processes.orphan(tcp(earlier), cwd=suite.folder)
    suite.guard(port, leaks="fail")
    suite.write(
        "tests/test_it.py",
        """
        import pathlib, helpers
        def test_it():
            server = helpers.child($OWN)
            pathlib.Path("ready").touch()
            helpers.until("go")
            server.terminate()
        """,
        OWN=own,
    )
    session = suite.start()
    wait_until((suite / "ready").exists, "the test runs")
    other = suite.processes.orphan(tcp(meanwhile), cwd=elsewhere)
    (suite / "go").touch()
    result = session.wait()

    assert result.code == 0
    assert result.section == []
    assert other.alive
    assert accepts(earlier)


# xdist


def test_with_xdist_the_controller_does_it_once(suite: Suite, port: int) -> None:
    one, two = suite.processes.free_port(), suite.processes.free_port()
    suite.processes.orphan(tcp(port), cwd=suite.folder)
    suite.guard(port, leaks="stop")
    suite.write(
        "tests/test_it.py",
        """
        import os, pathlib, pytest, helpers

        # Each worker starts a server, and does not end before the other has.
        @pytest.mark.parametrize("leaked", [$ONE, $TWO])
        def test_it(leaked):
            if leaked == $ONE:
                helpers.child(leaked)
            else:
                helpers.daemon(leaked)
                helpers.child($PORT)
            pathlib.Path(os.environ["PORTFREE_RUN_ID"].replace("/", "-") + ".run").touch()
            pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).touch()
            helpers.until("gw0")
            helpers.until("gw1")
        """,
        ONE=one,
        TWO=two,
        PORT=port,
    )

    result = suite.run("-n", "2")

    assert result.code == 0, result.out
    assert len(list(suite.folder.glob("*.run"))) == 1
    before, after, *leaks = result.section
    assert before.startswith(f"before: freed {port}/tcp: ")
    assert after.startswith(f"after: freed {port}/tcp: ")
    assert len(leaks) == 2
    assert all("test_it.py::test_it[" in line for line in leaks)
    assert all(map(is_free, (port, one, two)))
    assert result.out.count("portfree: ") == 1


# Where it has no business


@pytest.mark.parametrize(
    "option",
    [
        "--collect-only",
        "--fixtures",
        "--fixtures-per-test",
        "--setup-plan",
        "--cache-show",
        "--markers",
        "--help",
        "--version",
    ],
)
def test_a_pytest_that_only_looks_touches_nothing(suite: Suite, port: int, option: str) -> None:
    server = suite.processes.orphan(tcp(port), cwd=suite.folder)
    suite.guard(port, scope="nobody")  # not even read
    suite.write("tests/test_it.py", TICK)

    result = suite.run(option)

    assert result.code == 0
    assert server.alive
    assert "portfree: " not in result.out
    assert result.section == []


def test_setup_only_starts_servers_so_it_frees_ports(suite: Suite, port: int) -> None:
    suite.processes.orphan(tcp(port), cwd=suite.folder)
    suite.guard(port)
    suite.write("tests/test_it.py", TICK)

    assert suite.run("--setup-only").header.endswith(": freed")


def without_what_differs_always(output: str) -> list[str]:
    # pytest lists the plugins that are installed; nothing else may tell of us.
    lines = re.sub(r"in [0-9.]+s", "in 0s", output).splitlines()
    return [line for line in lines if not line.startswith("plugins: ")]


@pytest.mark.parametrize("options", [[], ["--strict-config"], ["-n", "2"]], ids=" ".join)
def test_it_can_be_turned_off(suite: Suite, port: int, options: list[str]) -> None:
    server = suite.processes.orphan(tcp(port), cwd=suite.folder)
    suite.guard(port, on_busy="fail")
    suite.write("tests/test_it.py", TICK)

    result = suite.run(*options, env={"PORTFREE": "0"})

    assert result.code == 0, result.out
    assert result.header == "portfree: turned off by PORTFREE=0 in the environment"
    assert result.section == []
    assert server.alive


def test_without_ports_nobody_notices_it(suite: Suite) -> None:
    suite.write("pyproject.toml", "[project]\nname = 'shop'\n")
    suite.write(
        "tests/test_it.py",
        """
        import os, sys
        def test_modules():
            ours = {name for name in sys.modules if name.partition(".")[0] == "portfree"}
            assert ours <= {"portfree", "portfree.pytest_plugin"}
            assert "psutil" not in sys.modules
            assert "PORTFREE_RUN_ID" not in os.environ
        """,
    )

    with_it, without = suite.run("-v"), suite.run("-v", "-p", "no:portfree")

    assert with_it.code == without.code == 0, with_it.out
    assert without_what_differs_always(with_it.out) == without_what_differs_always(without.out)
    assert with_it.err == without.err == ""


def test_the_plugin_can_be_turned_off(suite: Suite, port: int) -> None:
    server = suite.processes.orphan(tcp(port), cwd=suite.folder)
    suite.write("pyproject.toml", f"[tool.portfree]\nports = [{port}]\n")
    suite.write("tests/test_it.py", TICK)

    result = suite.run("-p", "no:portfree")

    assert result.code == 0
    assert server.alive
    assert "portfree: " not in result.out


# Configuration

PYPROJECT = {
    "native": '[tool.pytest]\nfree_ports = ["$PORT"]\nfree_ports_grace = 1.5\n',
    "ini options": "[tool.pytest.ini_options]\nfree_ports = [$PORT]\nfree_ports_grace = 1.5\n",
    "ini options, a text": '[tool.pytest.ini_options]\nfree_ports = "$PORT"\n',
    "portfree": "[tool.portfree]\nports = [$PORT]\nwait = 0\n",
}


@pytest.mark.parametrize("table", PYPROJECT.values(), ids=PYPROJECT)
def test_tables_of_pyproject(suite: Suite, port: int, table: str) -> None:
    suite.write("pyproject.toml", table, PORT=port)
    suite.write("tests/test_it.py", TICK)

    assert suite.run().header == f"portfree: {port}/tcp, scope orphans: free"


def test_a_pytest_toml(suite: Suite, port: int) -> None:
    suite.write("pytest.toml", '[pytest]\nfree_ports = ["$PORT"]\n', PORT=port)
    suite.write("tests/test_it.py", TICK)

    assert suite.run().header == f"portfree: {port}/tcp, scope orphans: free"


def test_who_says_what(suite: Suite, processes: Processes) -> None:
    table, ini, line = processes.free_port(), processes.free_port(), processes.free_port()
    suite.write("pyproject.toml", f'[tool.portfree]\nports = [{table}]\nscope = "mine"\n')
    suite.write("pytest.ini", "[pytest]\n")
    suite.write("tests/test_it.py", TICK)

    def header(*args: str) -> str:
        return suite.run(*args).header.removeprefix("portfree: ").removesuffix(": free")

    assert header() == f"{table}/tcp, scope mine"
    suite.guard(ini)
    assert header() == f"{ini}/tcp, scope mine"
    suite.guard(ini, scope="any")
    assert header() == f"{ini}/tcp, scope any"
    assert header("--free-ports", f"{line},1/udp", "--free-ports", "2") == (
        f"{line}/tcp, 1/udp, 2/tcp, scope any"
    )
    assert header("--free-ports-scope=orphans") == f"{ini}/tcp, scope orphans"


def test_a_table_further_up_counts_up_to_the_repository(suite: Suite, port: int) -> None:
    suite.write("pyproject.toml", f"[tool.portfree]\nports = [{port}]\n")
    suite.write("service/pytest.ini", "[pytest]\n")
    suite.write("service/test_it.py", TICK)
    # It is the suite's folder that counts, not the one that pytest is called in.
    arguments = ("-c", "service/pytest.ini", "--rootdir", "service", "service")

    assert f" {port}/tcp, " in suite.run(*arguments).header
    (suite / "service" / ".git").mkdir()
    assert "portfree: " not in suite.run(*arguments).out


BAD_INI = {
    "free_ports = 80000": "free_ports: '80000' is not a port: ports go from 1 to 65535",
    "free_ports = 1\nfree_ports_scope = orphan": "free_ports_scope is 'orphan': choose one of ",
    "free_ports = 1\nfree_ports_grace = soon": "free_ports_grace is 'soon': give a number",
    "free_ports = 1\nfree_ports_wait = -1": "free_ports_wait is -1.0: give seconds from 0 to ",
    "free_ports = 1\nfree_ports_on_busy = die": "free_ports_on_busy is 'die': choose one of ",
    "free_ports = 1\nfree_ports_leaks = no": "free_ports_leaks is 'no': choose one of ",
}


@pytest.mark.parametrize(("ini", "message"), BAD_INI.items())
def test_a_bad_value_in_an_ini_file(suite: Suite, ini: str, message: str) -> None:
    suite.write("pytest.ini", f"[pytest]\n{ini}\n")
    suite.write("tests/test_it.py", TICK)

    result = suite.run()

    assert result.code == pytest.ExitCode.USAGE_ERROR
    (line,) = result.err.strip().splitlines()
    assert line.startswith(f"ERROR: portfree: {suite / 'pytest.ini'}: {message}")


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        (
            "[tool.pytest]\nfree_ports = [8000]",
            ["'free_ports'", "item at index 0 is int: 8000", 'write free_ports = ["8000"]'],
        ),
        ("[tool.pytest]\nfree_ports = 8000", ["'free_ports'", "8000", 'free_ports = ["8000"]']),
        (
            '[tool.pytest]\nfree_ports = ["1"]\nfree_ports_grace = "5"',
            ["free_ports_grace is '5': give a number of seconds, such as 3 or 0.5"],
        ),
        (
            '[tool.pytest]\nfree_ports = ["1"]\nfree_ports_grace = true',
            ["free_ports_grace is True: give a number of seconds"],
        ),
        ("[tool.portfree]\nports = [0]", ["[tool.portfree] ports: 0 is not a port"]),
        ("[tool.portfree]\nports = [1]\nscopes = 1", ["has no key 'scopes'"]),
        ('[tool.portfree]\nports = [1]\non-busy = "die"', ["on-busy is 'die': choose one of"]),
    ],
)
def test_a_bad_value_in_pyproject(suite: Suite, table: str, parts: Sequence[str]) -> None:
    suite.write("pyproject.toml", f"{table}\n")
    if "tool.portfree" in table:  # else pytest itself would read the file that is no TOML
        suite.write("pytest.ini", "[pytest]\n")
    suite.write("tests/test_it.py", TICK)

    result = suite.run()

    assert result.code == pytest.ExitCode.USAGE_ERROR
    (line,) = result.err.strip().splitlines()
    assert line.startswith("ERROR: portfree: ")
    for part in (str(suite / "pyproject.toml"), *parts):
        assert part in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--free-ports", "80-70"], "--free-ports: '80-70' runs backwards"),
        (["--free-ports="], "--free-ports: '' names no port"),
        (["--free-ports=1", "--free-ports-scope=al"], "--free-ports-scope is 'al': choose one of"),
        (["-o", "free_ports=http"], "-o on the command line: free_ports: 'http' is not a port"),
    ],
)
def test_a_bad_value_on_the_command_line(
    suite: Suite, arguments: Sequence[str], message: str
) -> None:
    suite.write("tests/test_it.py", TICK)

    result = suite.run(*arguments)

    assert result.code == pytest.ExitCode.USAGE_ERROR
    (line,) = result.err.strip().splitlines()
    assert line.startswith(f"ERROR: portfree: {message}")


# When something goes wrong

BROKEN = """
import portfree.api as module
free = module.free

def broken(*args, phase, **options):
    if phase == "$PHASE":
        raise RuntimeError("out of order")
    return free(*args, phase=phase, **options)

module.free = broken
"""


@pytest.mark.parametrize(
    ("phase", "settings", "code"),
    [
        ("before", {}, 0),
        ("after", {}, 0),
        ("before", {"on_busy": "fail"}, 4),
        ("after", {"leaks": "fail"}, 1),
    ],
)
def test_a_fault_of_ours_turns_nothing_red_unless_asked_to(
    suite: Suite, port: int, phase: str, settings: dict[str, str], code: int
) -> None:
    suite.guard(port, **settings)
    suite.write("conftest.py", BROKEN, PHASE=phase)
    suite.write("tests/test_it.py", TICK)

    result = suite.run()

    assert result.code == code
    when = "before the tests" if phase == "before" else "at the end"
    line = f"the ports could not be looked after {when}: RuntimeError('out of order')"
    if code == pytest.ExitCode.USAGE_ERROR:
        assert result.err.strip() == f"ERROR: portfree: {line}"
    else:
        assert "1 passed" in result.out
        assert result.section[0] == line
        assert "Traceback" not in result.out + result.err


def test_a_fault_of_ours_hides_no_red_test(suite: Suite, port: int) -> None:
    suite.guard(port, leaks="fail")
    suite.write("conftest.py", BROKEN, PHASE="after")
    suite.write("tests/test_it.py", "def test_it():\n    assert False\n")

    result = suite.run()

    assert result.code == 1
    assert "1 failed" in result.out


def test_messages_that_cannot_be_made_turn_nothing_red(suite: Suite, port: int) -> None:
    suite.processes.orphan(tcp(port), cwd=suite.folder)
    suite.guard(port)
    suite.write(
        "conftest.py", "import portfree._output.text as r\nr.summary = lambda outcome: 1 / 0\n"
    )
    suite.write("tests/test_it.py", TICK)

    result = suite.run()

    assert result.code == 0
    assert "ZeroDivisionError" in result.section[0]


def test_a_fixture_that_fails_at_the_very_end(suite: Suite, port: int) -> None:
    # With -x, session fixtures are torn down in pytest_sessionfinish, where a failure is loud.
    suite.guard(port)
    suite.write(
        "tests/test_it.py",
        """
        import pytest, helpers

        @pytest.fixture(scope="session")
        def server():
            helpers.child($PORT)
            yield
            raise RuntimeError("torn")

        def test_one(server): assert False
        def test_two(server): pass
        """,
        PORT=port,
    )

    result = suite.run("-x")

    assert result.code == 1
    assert is_free(port)
    assert f"after: freed {port}/tcp: " in result.out + result.err


# Environment and processes

IN_PROCESS = """
import os, sys, pytest
outer = os.environ.get("PORTFREE_RUN_ID")
codes = [int(pytest.main(["-q", "tests"])) for _ in range(2)]
assert os.environ.get("PORTFREE_RUN_ID") == outer, os.environ["PORTFREE_RUN_ID"]
sys.exit(max(codes))
"""


@pytest.mark.parametrize("outer", [False, True])
def test_the_environment_is_put_back(suite: Suite, port: int, *, outer: bool) -> None:
    suite.guard(port)
    suite.write(
        "tests/test_it.py",
        """
        import os
        def test_it():
            path = os.environ["PORTFREE_RUN_ID"].split("/")
            assert path[-1].startswith(f"{os.getpid()}.")
            assert len(path) == $LENGTH
        """,
        LENGTH=1 + outer,
    )
    env = {"PORTFREE_RUN_ID": suite.processes.run_id(alive=True)} if outer else {}

    result = suite.command([sys.executable, "-c", IN_PROCESS], env).wait()

    assert result.code == 0, result.out + result.err


def test_a_session_that_another_plugin_keeps_from_starting(suite: Suite, port: int) -> None:
    suite.guard(port)
    suite.write(
        "tests/conftest.py",
        """
        import helpers, pytest
        def pytest_sessionstart():
            helpers.child($PORT)
            pytest.exit("not today", returncode=7)
        """,
        PORT=port,
    )
    suite.write("tests/test_it.py", TICK)

    result = suite.command([sys.executable, "-c", IN_PROCESS]).wait()

    assert result.code == 7
    assert is_free(port)
    assert result.err.count(f"portfree: after: freed {port}/tcp: ") == 2


def test_a_conftest_finds_its_port_free_when_the_session_starts(suite: Suite, port: int) -> None:
    suite.processes.orphan(tcp(port), cwd=suite.folder)
    suite.guard(port)
    suite.write(
        "tests/conftest.py",
        "import helpers\ndef pytest_sessionstart():\n    assert not helpers.accepts($PORT)\n",
        PORT=port,
    )
    suite.write("tests/test_it.py", TICK)

    assert suite.run("tests").code == 0


def test_a_forked_child_frees_nothing(suite: Suite, port: int) -> None:
    suite.guard(port)
    suite.write(
        "tests/test_it.py",
        """
        import os, helpers
        def test_it():
            server = helpers.child($PORT)
            child = os.fork()
            if child:
                # The child ends this test and then, as pytest, the session.
                assert os.waitpid(child, 0)[1] == 0
                assert helpers.accepts($PORT)
        """,
        PORT=port,
    )

    result = suite.run("-q", "-W", "ignore")

    assert result.code == 0, result.out
    assert result.out.count("1 passed") == 2
    assert result.out.count(f"after: freed {port}/tcp") == 1


INNER = {
    "in a process of its own": "subprocess.call([sys.executable, '-m', 'pytest', *ARGUMENTS])",
    "in the same process": "pytest.main(ARGUMENTS)",
}


@pytest.mark.parametrize("way", ["child", "daemon"])
@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
@pytest.mark.parametrize("born", ["in a test", "at import"])
def test_an_inner_session_leaves_the_server_of_the_outer_one_alone(
    suite: Suite, port: int, way: str, inner: str, born: str
) -> None:
    other = suite.processes.free_port()
    suite.guard(port, other, leaks="fail")
    suite.write(
        "tests/test_outer.py",
        """
        import os, subprocess, sys, pytest, helpers

        ARGUMENTS = ["inner/test_inner.py", "-c", "pytest.ini", "--noconftest"]

        def test_it():
            if "$BORN" == "in a test":
                helpers.$WAY($PORT)
            assert $INNER == 0
            assert helpers.accepts($PORT)
            assert not helpers.accepts($OTHER)
        """,
        PORT=port,
        OTHER=other,
        WAY=way,
        INNER=inner,
        BORN=born,
    )
    suite.write(
        "tests/conftest.py",
        "import helpers\nif '$BORN' == 'at import':\n    helpers.$WAY($PORT)\n",
        BORN=born,
        WAY=way,
        PORT=port,
    )
    suite.write(
        "inner/test_inner.py",
        "import sys\nsys.path.append('tests')\nimport helpers\n"
        "def test_inner():\n    helpers.$WAY($OTHER)\n",
        OTHER=other,
        WAY=way,
    )

    result = suite.run("tests")

    assert result.code == 0, result.out
    assert f"after: freed {port}/tcp: " in result.out
    assert is_free(port)
