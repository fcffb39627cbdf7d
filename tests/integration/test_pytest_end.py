"""The pytest plugin, in real sessions: exit codes, and what is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.processes import accepts, is_free, tcp, wait_until
from helpers.project import PASSES

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.project import Project


def test_on_busy_fail_starts_no_test(suite: Project, port: int, elsewhere: Path) -> None:
    server = suite.processes.orphan(tcp(port), cwd=elsewhere)
    suite.guard(on_busy="fail")
    suite.write("tests/test_it.py", "open('ran', 'w').close()\n" + PASSES)

    result = suite.pytest()

    assert result.code == pytest.ExitCode.USAGE_ERROR
    assert not (suite / "ran").exists()
    assert server.alive
    (line,) = result.err.strip().splitlines()
    assert line.startswith(
        "ERROR: portfree: no test was started, for free_ports_on_busy is fail, "
        f"and {port}/tcp is busy: kept "
    )
    assert result.out.strip() == ""


def test_on_busy_warn_goes_on_and_says_so_again(suite: Project, port: int, elsewhere: Path) -> None:
    server = suite.processes.orphan(tcp(port), cwd=elsewhere)

    result = suite.pytest()

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
    suite: Project, body: str, code: int
) -> None:
    suite.guard(leaks="fail", grace=1)
    suite.tests(
        """
        def test_it():
            careless.child($OTHER)
            $BODY
        """,
        BODY=body,
    )

    result = suite.pytest()

    assert result.code == code
    line, *failure = result.section
    assert line.startswith("tests/test_it.py::test_it left ")
    assert line.endswith(": ended after SIGTERM")
    # A test that was interrupted has no teardown that could fail.
    why = "a server was left behind, and free_ports_leaks is fail"
    assert failure == ([why] if code == 2 else [])


def test_a_failing_test_stays_one(suite: Project, port: int) -> None:
    suite.tests("def test_it():\n    careless.child($PORT)\n    assert False\n")

    result = suite.pytest()

    assert result.code == 1
    assert result.section[0].startswith(f"after: freed {port}/tcp: ")
    assert is_free(port)


def test_no_tests_are_still_no_tests(suite: Project) -> None:
    (suite / "tests/test_it.py").unlink()

    assert suite.pytest().code == pytest.ExitCode.NO_TESTS_COLLECTED


def test_ctrl_c_ends_the_run_too(suite: Project, port: int) -> None:
    suite.tests("""
        def test_it():
            careless.daemon($PORT)
            os.kill(os.getpid(), signal.SIGINT)
    """)

    result = suite.pytest()

    assert result.code == pytest.ExitCode.INTERRUPTED
    assert result.section[0].startswith(f"after: freed {port}/tcp: ")
    assert is_free(port)


def test_ctrl_c_while_the_ports_are_freed_at_the_end(suite: Project) -> None:
    suite.guard(grace=50)
    suite.tests("""
        def test_it():
            careless.child($PORT, "--ignore", "TERM", "--ignore", "INT")
    """)
    session = suite.start_module("pytest")
    session.wait_for("portfree: waiting for ")

    session.signal()
    result = session.ended()

    assert result.code == pytest.ExitCode.INTERRUPTED
    left, interrupted = result.section
    assert left.startswith("tests/test_it.py::test_it left ")
    assert interrupted == "interrupted: the ports may not have been freed after the tests"
    assert "1 passed" in result.out


# Leaks


@pytest.mark.parametrize(("leaks", "code"), [("ignore", 0), ("warn", 0), ("stop", 0), ("fail", 1)])
def test_leaks(suite: Project, leaks: str, code: int) -> None:
    one, two = suite.other, suite.processes.free_port()
    # They get so long to end by themselves before they are stopped.
    suite.guard(leaks=leaks, grace=1)
    suite.tests(
        """
        @pytest.fixture(scope="session")
        def server():
            careless.child($ONE)

        def test_one(server): pass
        def test_two(): careless.daemon($TWO)
        """,
        ONE=one,
        TWO=two,
    )

    result = suite.pytest()

    assert result.code == code
    stopped = leaks in ("stop", "fail")
    assert [is_free(one), is_free(two)] == [stopped] * 2
    if leaks == "ignore":
        assert result.section == []
        return
    first, second = result.section
    for line, test, port in zip(
        sorted((first, second)),
        ("test_one, fixture server (session),", "test_two"),
        (one, two),
        strict=True,
    ):
        assert line.startswith(f"tests/test_it.py::{test} left ")
        end = f"127.0.0.1:{port}: ended after SIGTERM"
        assert (end in line) if stopped else line.endswith(f"still listening on 127.0.0.1:{port}")
    assert ("ERROR at teardown of test_two" in result.out) is (code == 1)


def test_a_listener_of_the_session_itself_is_reported(suite: Project) -> None:
    suite.guard(leaks="stop")
    suite.tests("""
        def test_it():
            global listener
            listener = socket.create_server(("127.0.0.1", $OTHER))
    """)

    result = suite.pytest()

    assert result.code == 0
    (line,) = result.section
    assert line == (
        "tests/test_it.py::test_it left a socket of the test process itself, "
        f"still listening on 127.0.0.1:{suite.other}"
    )


def test_servers_of_others_and_servers_that_end_are_no_leaks(
    suite: Project, elsewhere: Path
) -> None:
    earlier, meanwhile = suite.processes.free_port(), suite.processes.free_port()
    own = suite.processes.free_port()
    suite.orphan(tcp(earlier))
    suite.guard(leaks="fail")
    suite.tests(
        """
        def test_it():
            server = careless.child($OWN)
            pathlib.Path("ready").touch()
            careless.until("go")
            server.terminate()
        """,
        OWN=own,
    )
    session = suite.start_module("pytest")
    wait_until((suite / "ready").exists, "the test runs")
    other = suite.processes.orphan(tcp(meanwhile), cwd=elsewhere)
    (suite / "go").touch()
    result = session.ended()

    assert result.code == 0
    assert result.section == []
    assert other.alive
    assert accepts(earlier)
