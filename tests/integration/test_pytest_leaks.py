"""The pytest plugin, in real sessions: which test has left a server behind, in odd endings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from portfree._core import run_id
from portfree._system import current

if TYPE_CHECKING:
    from helpers.project import Project

OPEN = """
KEPT = []
def listen():
    KEPT.append(socket.create_server(("127.0.0.1", 0)))
"""


def who(section: list[str]) -> list[str]:
    return [line.partition(" left ")[0] for line in section if line.startswith("tests/")]


@pytest.mark.parametrize("options", [[], ["-n", "1"]])
@pytest.mark.parametrize("ending", ["pytest.exit('enough')", "raise KeyboardInterrupt"])
def test_what_the_end_of_a_session_finds_is_told_once(
    suite: Project, options: list[str], ending: str
) -> None:
    suite.guard(leaks="fail", grace=0.3)
    suite.tests(
        f"""{OPEN}
@pytest.fixture(scope="session")
def server():
    listen()

def test_first(server):
    pass

def test_ends():
    careless.child($OTHER)
    $ENDING
""",
        ENDING=ending,
    )

    result = suite.pytest(*options)

    assert result.code == pytest.ExitCode.INTERRUPTED
    assert sorted(who(result.section)) == [
        "tests/test_it.py::test_ends",
        "tests/test_it.py::test_first, fixture server (session),",
    ]
    assert result.section[-1] == "a server was left behind, and free_ports_leaks is fail"


def test_a_listener_of_a_test_is_not_that_of_a_fixture_which_ends_with_it(suite: Project) -> None:
    suite.guard(leaks="warn")
    suite.tests(
        f"""{OPEN}
@pytest.fixture(scope="module")
def server():
    listen()

def test_first(server):
    pass

def test_last():
    listen()
"""
    )

    result = suite.pytest()

    assert result.code == 0
    assert sorted(who(result.section)) == [
        "tests/test_it.py::test_first, fixture server (module),",
        "tests/test_it.py::test_last",
    ]


@pytest.mark.parametrize("options", [[], ["-n", "1"]])
def test_a_skip_in_the_teardown_hides_no_leak(suite: Project, options: list[str]) -> None:
    suite.guard(leaks="fail")
    suite.tests(
        f"""{OPEN}
@pytest.fixture
def late():
    yield
    pytest.skip("too late")

def test_it(late):
    listen()
"""
    )

    result = suite.pytest(*options)

    assert result.code == pytest.ExitCode.TESTS_FAILED
    assert who(result.section) == ["tests/test_it.py::test_it"]
    assert result.section[-1].startswith("exit status 1: a server was left behind")


@pytest.mark.parametrize("strict", [True, False])
def test_an_expected_failure_hides_no_leak(suite: Project, *, strict: bool) -> None:
    suite.guard(leaks="fail")
    suite.tests(f"{OPEN}\n@pytest.mark.xfail(strict={strict})\ndef test_it():\n    listen()\n")

    result = suite.pytest()

    assert result.code == pytest.ExitCode.TESTS_FAILED
    assert who(result.section) == ["tests/test_it.py::test_it"]


@pytest.mark.parametrize("ending", ["xfail", "skip in the teardown"])
def test_what_a_test_may_leave_turns_nothing_red_however_it_ends(
    suite: Project, ending: str
) -> None:
    suite.guard(leaks="fail", grace=0.3)
    suite.tests(
        f"""{OPEN}
@pytest.fixture
def late():
    yield
    if "$ENDING" != "xfail":
        pytest.skip("too late")

@pytest.mark.allow_port_leaks
@pytest.mark.xfail("$ENDING" == "xfail", reason="expected")
def test_it(late):
    listen()
    assert "$ENDING" != "xfail"
""",
        ENDING=ending,
    )

    result = suite.pytest()

    assert result.code == 0, result.out
    assert result.section == []


def test_a_run_around_that_the_session_was_not_told_of_hides_no_leak(suite: Project) -> None:
    """As in a nox session that keeps its environment from pytest, below the run of the noxfile."""
    around = run_id.new_element(current())
    suite.tests(
        """
        def test_it():
            null = subprocess.DEVNULL
            words = careless.command($OTHER)
            subprocess.Popen(words, env={}, stdin=null, stdout=null, stderr=null)
            careless.wait_until(lambda: careless.accepts($OTHER))
        """
    )
    words = f"env -u PORTFREE_RUN_ID {sys.executable} -m pytest; true"

    result = suite.run("sh", "-c", words, env={"PORTFREE_RUN_ID": around})

    assert who(result.section) == ["tests/test_it.py::test_it"]
