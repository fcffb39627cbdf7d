"""Which test has left a server: one suite with a leaking test of each kind, in real sessions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from helpers.project import Project

# Everything listens on a port that the system chooses, and tells it by being the last line that
# its test prints: what is left is compared with that.
KINDS = '''
import asyncio, http.server, multiprocessing, os, socket, socketserver, subprocess, sys, threading
import unittest
import pytest

LISTEN = """
import os, socket, sys, time
listener = socket.socket(socket.AF_INET, getattr(socket, sys.argv[2]))
listener.bind(("127.0.0.1", 0))
if sys.argv[2] == "SOCK_STREAM":
    listener.listen()
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(listener.getsockname()[1]))
os.replace(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
KEEP = []
QUIET = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


def ready(path):
    while not os.path.exists(path):
        os.sched_yield()


def words(path, kind="SOCK_STREAM"):
    return [sys.executable, "-I", "-S", "-c", LISTEN, str(path), kind]


def start(path, kind="SOCK_STREAM", **options):
    KEEP.append(subprocess.Popen(words(path, kind), **QUIET, **options))
    ready(path)


def serve(path):
    with open(os.devnull, "r+") as null:
        for fd in (0, 1, 2):
            os.dup2(null.fileno(), fd)
    with socketserver.TCPServer(("127.0.0.1", 0), None) as server:
        path.write_text("")
        server.serve_forever()


def in_thread():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, name="the shop", daemon=True).start()


def daemonise(path, env):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.execve(sys.executable, words(path), env)
        os._exit(0)
    os.wait()
    ready(path)


def test_green():
    pass


def test_subprocess(tmp_path):
    start(tmp_path / "up")


def test_subprocess_without_environment(tmp_path):
    start(tmp_path / "up", env={})


def test_subprocess_in_a_session_of_its_own(tmp_path):
    start(tmp_path / "up", start_new_session=True)


def test_double_fork(tmp_path):
    daemonise(tmp_path / "up", os.environ)


def test_udp(tmp_path):
    start(tmp_path / "up", "SOCK_DGRAM")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method, tmp_path):
    process = multiprocessing.get_context(method).Process(
        target=serve, args=(tmp_path / "up",), daemon=True
    )
    process.start()
    KEEP.append(process)
    ready(tmp_path / "up")


def test_thread():
    in_thread()


def test_socket():
    KEEP.append(socket.create_server(("127.0.0.1", 0)))


def test_udp_socket():
    KEEP.append(socket.socket(type=socket.SOCK_DGRAM))
    KEEP[-1].bind(("127.0.0.1", 0))


def test_client_of_udp():
    KEEP.append(socket.socket(type=socket.SOCK_DGRAM))
    KEEP[-1].sendto(b"", ("127.0.0.1", 9))


def test_asyncio():
    loop = asyncio.new_event_loop()
    server = asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    KEEP.append((loop, loop.run_until_complete(server)))


@pytest.fixture
def function_fixture(tmp_path):
    start(tmp_path / "up")


def test_function_fixture(function_fixture):
    pass


@pytest.fixture(scope="module")
def module_fixture(tmp_path_factory):
    start(tmp_path_factory.mktemp("module") / "up")


def test_module_fixture(module_fixture):
    pass


def test_module_fixture_again(module_fixture):
    pass


@pytest.fixture(scope="session")
def session_fixture(tmp_path_factory):
    start(tmp_path_factory.mktemp("session") / "up")


def test_session_fixture(session_fixture):
    pass


@pytest.fixture(scope="module")
def tidy_fixture(tmp_path_factory):
    start(tmp_path_factory.mktemp("tidy") / "up")
    server = KEEP.pop()
    yield
    server.kill()


@pytest.fixture(scope="module", params=["one", "two"])
def parametrised_fixture(request, tmp_path_factory):
    start(tmp_path_factory.mktemp("parametrised") / "up")


def test_parametrised_fixture(parametrised_fixture):
    pass


class TestClass:
    @pytest.fixture(scope="class")
    def class_fixture(self, tmp_path_factory):
        start(tmp_path_factory.mktemp("class") / "up")

    def test_class_fixture(self, class_fixture):
        pass

    def test_in_a_class(self, tmp_path, class_fixture):
        start(tmp_path / "up")


class TestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        in_thread()

    def test_one(self):
        pass

    def test_two(self):
        in_thread()


def documented():
    """
    >>> in_thread()
    """


def test_subtests(subtests):
    with subtests.test("one"):
        in_thread()


def test_last(tidy_fixture):
    pass
'''

ASYNC = """
import asyncio
import pytest


@pytest.fixture
async def async_fixture():
    return await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def test_async_fixture(async_fixture):
    KEEP.append(async_fixture)


async def test_async():
    KEEP.append(await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0))


KEEP = []
"""

FILE, ASYNC_FILE = "tests/test_kinds.py", "tests/test_async.py"

# The test that is named, the fixture, and how often each leaks.
LEAKS = {
    **{
        (f"{FILE}::test_{name}", ""): 1
        for name in (
            *("subprocess", "subprocess_without_environment", "subprocess_in_a_session_of_its_own"),
            *("double_fork", "udp", "multiprocessing[fork]", "multiprocessing[spawn]"),
            *("multiprocessing[forkserver]", "thread", "socket", "udp_socket", "asyncio"),
            *("function_fixture", "subtests"),
        )
    },
    (f"{FILE}::test_module_fixture", "module_fixture (module)"): 1,
    (f"{FILE}::test_session_fixture", "session_fixture (session)"): 1,
    (f"{FILE}::test_parametrised_fixture[one]", "parametrised_fixture (module)"): 1,
    (f"{FILE}::test_parametrised_fixture[two]", "parametrised_fixture (module)"): 1,
    (f"{FILE}::TestClass::test_class_fixture", "class_fixture (class)"): 1,
    (f"{FILE}::TestClass::test_in_a_class", ""): 1,
    (f"{FILE}::TestCase::test_one", "setUpClass (class)"): 1,
    (f"{FILE}::TestCase::test_two", ""): 1,
    (f"{FILE}::test_kinds.documented", ""): 1,
    (f"{ASYNC_FILE}::test_async_fixture", ""): 1,
    (f"{ASYNC_FILE}::test_async", ""): 1,
}


@pytest.fixture
def kinds(suite: Project) -> Project:
    suite.write(FILE, KINDS)
    suite.write(ASYNC_FILE, ASYNC)
    suite.variables["PYTEST_ADDOPTS"] = "-p no:hypothesispytest -p no:anyio --doctest-modules"
    suite.guard(grace=1)
    text = (suite / "pytest.ini").read_text()
    suite.write("pytest.ini", f"{text}asyncio_mode = auto\n")
    return suite


def named(lines: Iterable[str]) -> dict[tuple[str, str], int]:
    """The tests and fixtures that these lines name, and how often."""
    found: dict[tuple[str, str], int] = {}
    for line in lines:
        if "generated xml file" in line:
            continue
        match = re.match(r"(\S+?)(?:, fixture (.+?\)),)? left .*listen(?:ing|ed) on", line)
        assert match, line
        key = (match[1], match[2] or "")
        found[key] = found.get(key, 0) + 1
    return found


def test_each_kind_of_leak_is_told_once_with_its_test(kinds: Project) -> None:
    result = kinds.pytest("--junitxml=it.xml", "tests")

    assert result.code == 0, result.out
    assert named(result.section) == LEAKS
    properties = ET.parse(kinds / "it.xml").iter("property")
    told = [each.get("value", "") for each in properties if each.get("name") == "portfree_leak"]
    assert named(told) == LEAKS


def test_where_a_leak_fails_a_test_it_is_that_one(kinds: Project) -> None:
    result = kinds.pytest("--free-ports-leaks=fail", "tests")

    assert result.code == pytest.ExitCode.TESTS_FAILED
    assert named(result.section) == LEAKS
    errors = re.findall(r"^ERROR (\S+)", result.out, re.MULTILINE)
    of_tests = {test for test, fixture in LEAKS if not fixture}
    assert of_tests <= set(errors)
    # What a fixture of a wider scope has left shows where that scope ends.
    assert set(errors) - of_tests <= {
        f"{FILE}::TestClass::test_in_a_class",
        f"{FILE}::TestCase::test_two",
        f"{FILE}::test_last",
        f"{FILE}::test_parametrised_fixture[two]",
    }
    stopped = [line for line in result.section if ": ended after SIG" in line]
    assert all("of the test process itself" not in line for line in stopped)
    remain = [line for line in result.section if line not in stopped]
    assert all("of the test process itself" in line for line in remain), remain


# nox -s compat tries each kind of distribution.
@pytest.mark.parametrize("dist", ["load", "loadfile"])
def test_workers_of_xdist_find_and_the_controller_tells(kinds: Project, dist: str) -> None:
    result = kinds.pytest("-n2", f"--dist={dist}", "tests")

    assert result.code == 0, result.out
    found = named(result.section)
    # A fixture of a wider scope is set up in each worker that needs it, by another test each.
    fixtures = {key for key in found if key[1]}
    assert {key: n for key, n in found.items() if key not in fixtures} == {
        key: n for key, n in LEAKS.items() if not key[1]
    }
    assert {fixture for _, fixture in fixtures} == {fixture for _, fixture in LEAKS if fixture}
    assert all(found[key] == 1 for key in fixtures)
