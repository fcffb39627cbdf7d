"""The pytest plugin, in real sessions: what is freed before the first test and after the last."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.processes import accepts, http_server, is_free, tcp, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.project import Project


def test_a_free_port_is_said_to_be_free_and_nothing_more(suite: Project, port: int) -> None:
    result = suite.pytest()

    assert result.code == 0
    assert result.header == f"portfree: {port}/tcp, scope orphans: free"
    assert result.section == []
    assert result.err == ""


def test_a_forgotten_server_is_stopped_before_the_first_test(suite: Project, port: int) -> None:
    server = suite.processes.orphan(http_server(port), cwd=suite.folder, listening=port)
    suite.tests("""
        def test_it():
            server = careless.child($PORT)
            server.terminate()
            server.wait()
    """)

    result = suite.pytest()

    assert result.code == 0
    assert not server.alive
    said = f"freed {port}/tcp: stopped "
    assert result.header == f"portfree: {port}/tcp, scope orphans: freed"
    (line,) = result.section
    assert line.startswith(f"before: {said}")
    assert f"-m http.server --bind 127.0.0.1 {port} (pid {server.process.pid})" in line


@pytest.mark.parametrize("quiet", ["-q", "-qq"])
def test_a_quiet_session_says_what_was_stopped_at_the_end(
    suite: Project, port: int, quiet: str
) -> None:
    suite.orphan(tcp(port))

    result = suite.pytest(quiet)

    assert result.code == 0
    assert re.search(rf"^=+ portfree =+\nbefore: freed {port}/tcp: ", result.out, re.MULTILINE)
    assert result.out.count(f"freed {port}/tcp") == 1


def test_ports_in_a_row_are_named_as_a_range(suite: Project, port: int) -> None:
    suite.orphan(tcp(port, "--tcp", f"127.0.0.1:{suite.other}"))
    suite.write("pytest.ini", f"[pytest]\nfree_ports = {port} {suite.other} 1-3 4/udp\n")

    header = suite.pytest("-o", "free_ports_scope=mine").header

    assert ", 1-3/tcp, 4/udp, scope mine: freed: " in header
    assert {f"{port}/tcp", f"{suite.other}/tcp"} <= set(re.split("[,:] ", header)) or (
        f"{port}-{suite.other}/tcp" in header
    )


def test_what_a_session_leaves_on_its_port_is_stopped_after_it(suite: Project, port: int) -> None:
    suite.tests("def test_forgets():\n    careless.child($PORT)\n")

    result = suite.pytest()

    assert result.code == 0
    assert is_free(port)
    (line,) = result.section
    assert line.startswith(f"after: freed {port}/tcp: stopped ")
    assert line.endswith("started in tests/test_it.py::test_forgets (call) (evidence: id)")


def test_a_server_that_a_killed_session_has_left_is_stopped_and_its_test_named(
    suite: Project, port: int
) -> None:
    suite.write(
        "tests/test_api.py",
        """
        import os, pathlib, pytest, careless, time

        @pytest.fixture(scope="session")
        def server():
            server = careless.child($PORT)
            yield
            server.terminate()
            server.wait()

        def test_search(server):
            if "BLOCK" in os.environ:
                pathlib.Path("ready").touch()
                time.sleep(1000)
        """,
    )
    first = suite.start_module("pytest", env={"BLOCK": "1"})
    wait_until((suite / "ready").exists, "the test runs")
    first.kill()
    assert accepts(port)

    result = suite.pytest()

    assert result.code == 0
    assert result.section[0].startswith(f"before: freed {port}/tcp: stopped ")
    assert result.section[0].endswith(
        "started in tests/test_api.py::test_search (setup) (evidence: id)"
    )
    assert is_free(port)


def test_two_sessions_at_once(suite: Project, port: int) -> None:
    suite.tests("""
        def test_it():
            if "FIRST" in os.environ:
                careless.child($PORT)
                pathlib.Path("ready").touch()
                careless.until("go")
                assert careless.accepts($PORT)
    """)
    first = suite.start_module("pytest", env={"FIRST": "1"})
    wait_until((suite / "ready").exists, "the first session runs")

    second = suite.pytest()

    assert second.code == 0
    kept, doubt = second.section
    assert kept.startswith(f"before: {port}/tcp is busy: kept ")
    assert f"(pid {first.process.pid}) in {suite.folder}" in kept
    assert "live-run: in use by pytest" in kept
    assert doubt.startswith(f"{port}/tcp was busy: these tests may have talked to ")
    assert accepts(port)

    third = suite.start_module("pytest", "-o", "free_ports_wait=10")
    third.wait_for(f"portfree: waiting for {port}/tcp: in use by pytest (pid ")
    assert accepts(port)
    (suite / "go").touch()
    one, three = first.ended(), third.ended()
    assert one.code == three.code == 0
    assert one.section[0].startswith(f"after: freed {port}/tcp: ")
    assert not any("was busy" in line for line in three.section)
    assert is_free(port)


@pytest.mark.parametrize("way", ["child", "daemon"])
def test_a_server_that_conftest_starts_survives_and_is_stopped_at_the_end(
    suite: Project, port: int, way: str
) -> None:
    suite.guard(on_busy="fail")
    suite.write("tests/conftest.py", "import careless\ncareless.$WAY($PORT)\n", WAY=way)
    suite.tests("def test_it():\n    assert careless.accepts($PORT)\n")

    # Named, for only then is its conftest.py loaded before the session starts.
    result = suite.pytest("tests")

    assert result.code == 0, result.out
    assert "busy" not in result.header
    assert f": {port}/tcp is in use by this run already: python" in result.header
    assert "started for this run already" in result.header
    assert is_free(port)
    (line,) = result.section
    assert line.startswith(f"after: freed {port}/tcp: ")


def test_a_listener_of_the_session_itself_is_no_obstacle(suite: Project) -> None:
    suite.guard(on_busy="fail")
    suite.write(
        "tests/conftest.py",
        "import socket\nlistener = socket.create_server(('127.0.0.1', $PORT))\n",
    )

    result = suite.pytest("tests")

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
        ({"on_busy": "fail"}, "$PORT/tcp is busy after it, and free_ports_on_busy is fail"),
    ],
)
def test_a_guarded_port_that_the_session_itself_still_holds(
    suite: Project, port: int, options: dict[str, str], why: str
) -> None:
    suite.guard(**options)
    suite.write("tests/test_it.py", UNCLOSED)

    result = suite.pytest()

    assert result.code == (1 if why else 0)
    assert "1 passed" in result.out
    said, *failure = result.section
    assert said.startswith("tests/test_it.py::test_it, fixture server (session), left Thread")
    assert failure == ([f"exit status 1: {why.replace('$PORT', str(port))}"] if why else [])


def test_a_port_of_ours_beside_one_that_is_free(suite: Project, port: int) -> None:
    suite.guard(port, suite.other)
    suite.write(
        "tests/conftest.py",
        "import socket\nlistener = socket.create_server(('127.0.0.1', $PORT))\n",
    )

    header = suite.pytest("tests").header

    assert f"scope orphans: {port}/tcp is in use by this run already" in header


def test_what_was_stopped_before_a_refusal_is_told(
    suite: Project, port: int, elsewhere: Path
) -> None:
    suite.orphan(tcp(suite.other))
    suite.processes.attended(tcp(port), cwd=elsewhere)
    suite.guard(port, suite.other, on_busy="fail")

    result = suite.pytest()

    assert result.code == pytest.ExitCode.USAGE_ERROR
    assert f"{port}/tcp is busy" in result.err
    assert f"freed {suite.other}/tcp: stopped " in result.err


# xdist


def test_with_xdist_the_controller_does_it_once(suite: Project, port: int) -> None:
    one, two = suite.processes.free_port(), suite.processes.free_port()
    suite.orphan(tcp(port))
    suite.guard(leaks="stop", grace=1)
    suite.tests(
        """
        # Each worker starts a server, and does not end before the other has.
        @pytest.mark.parametrize("leaked", [$ONE, $TWO])
        def test_it(leaked):
            if leaked == $ONE:
                careless.child(leaked)
            else:
                careless.daemon(leaked)
                careless.child($PORT)
            pathlib.Path(os.environ["PORTFREE_RUN_ID"].replace("/", "-") + ".run").touch()
            pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).touch()
            careless.until("gw0")
            careless.until("gw1")
        """,
        ONE=one,
        TWO=two,
    )

    result = suite.pytest("-n", "2")

    assert result.code == 0, result.out
    assert len(list(suite.folder.glob("*.run"))) == 1
    before, *leaks = result.section
    assert before.startswith(f"before: freed {port}/tcp: ")
    assert len(leaks) == 3
    assert all("test_it.py::test_it[" in line for line in leaks)
    assert all(map(is_free, (port, one, two)))
    assert result.out.count("portfree: ") == 1


HERE = {
    "-n": ("-n", "2"),
    "the same Python by name": ("--dist", "each", "--tx", f"2*popen//python={sys.executable}"),
}


@pytest.mark.parametrize("args", HERE.values(), ids=HERE)
def test_workers_here_cost_nothing(suite: Project, args: tuple[str, ...]) -> None:
    suite.tests("""
        def test_ids():
            assert os.environ["PORTFREE_RUN_ID"].split(".")[0] == str(os.getppid())
    """)
    suite.write(
        "conftest.py",
        """
        import psutil, sys
        def pytest_testnodeready(node):
            assert len(psutil.Process().children()) <= 2
            loaded = "portfree._plugins.xdist_hosts" in sys.modules
            assert loaded == bool(node.gateway.spec.python)
        """,
    )

    result = suite.pytest(*args)

    assert result.code == 0, result.out
    assert result.section == []


def test_without_xdist_nothing_is_missed(suite: Project) -> None:
    result = suite.pytest("-p", "no:xdist", "-W", "error")

    assert result.code == 0, result.err
    assert result.header.endswith(": free")
