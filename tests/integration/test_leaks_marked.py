"""Tests, and their fixtures, that may leave servers: the marker allow_port_leaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.processes import accepts
from helpers.project import Project

if TYPE_CHECKING:
    from collections.abc import Sequence


# Which listener a word means


# The marker


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["", "xdist"])
def test_a_marked_test_may_leave_servers(
    suite: Project, allowed: int, options: Sequence[str]
) -> None:
    one, two, three = (suite.processes.free_port() for _ in range(3))
    suite.guard(leaks="fail", grace=0.6)
    suite.tests(
        """
        @pytest.mark.allow_port_leaks
        def test_all():
            careless.child($ONE)
            global server
            server = socket.create_server(("127.0.0.1", $TWO))

        @pytest.mark.allow_port_leaks($ALLOWED, "adb")
        def test_one():
            careless.child($ALLOWED)
            careless.child($OTHER)

        @pytest.mark.allow_port_leaks("careless*", "servers*")
        class TestProgram:
            def test_it(self):
                careless.child($THREE)

        def test_unmarked(): pass
        """,
        ONE=one,
        TWO=two,
        THREE=three,
        ALLOWED=allowed,
    )

    ended = suite.pytest("--strict-markers", *options)

    assert ended.code == 1
    (line,) = ended.section
    assert line.startswith("tests/test_it.py::test_one left ")
    assert f"127.0.0.1:{suite.other}: ended after SIGTERM" in line
    assert "4 passed, 1 error" in ended.out
    assert [accepts(port) for port in (one, three, allowed, suite.other)] == [True] * 3 + [False]


def test_the_marker_is_known_without_ports_too(suite: Project) -> None:
    suite.write("pytest.ini", "[pytest]\n")
    suite.tests("@pytest.mark.allow_port_leaks\ndef test_it(): pass\n")

    assert suite.pytest("--strict-markers").code == 0
    assert "@pytest.mark.allow_port_leaks(" in suite.pytest("--markers").out


FIXTURE = """\
@pytest.fixture(scope="module")
def server(): careless.child($OTHER)

@pytest.fixture(scope="module")
def own():
    global kept
    kept = socket.create_server(("127.0.0.1", $OWN))
"""


@pytest.mark.parametrize("words", ["", "($OTHER, $OWN)"])
def test_a_marked_test_may_set_up_a_fixture_that_leaves_servers(suite: Project, words: str) -> None:
    suite.guard(leaks="fail", grace=0.6)
    text = f"""
@pytest.mark.allow_port_leaks{words}
def test_sets_up(server, own): pass
def test_uses(server): pass
"""
    suite.tests(FIXTURE + text, OWN=suite.processes.free_port())

    ended = suite.pytest()

    assert ended.code == 0, ended.out
    assert ended.section == []
    assert accepts(suite.other)


def test_a_marked_test_answers_for_no_fixture_that_another_has_set_up(suite: Project) -> None:
    suite.guard()
    text = """
def test_sets_up(server): pass
@pytest.mark.allow_port_leaks
def test_uses(server): pass
"""
    suite.tests(FIXTURE + text, OWN=1)

    (line,) = suite.pytest().section

    assert line.startswith("tests/test_it.py::test_sets_up, fixture server (module), left ")


def test_what_the_server_of_a_marked_test_opens_later_is_allowed_too(suite: Project) -> None:
    suite.guard()
    suite.tests("""
        LATER = '''
        import os, socket, time
        while not os.path.exists("go"): time.sleep(0.005)
        server = socket.create_server(("127.0.0.1", $OTHER))
        time.sleep(1000)
        '''

        @pytest.mark.allow_port_leaks
        def test_starts_it(): careless.start([sys.executable, "-S", "-c", LATER])
        def test_sees_it():
            pathlib.Path("go").touch()
            careless.wait_until(lambda: careless.accepts($OTHER))
        """)

    ended = suite.pytest()

    assert ended.code == 0
    assert ended.section == []


def test_a_bad_word_in_a_marker_fails_its_test_alone(suite: Project) -> None:
    suite.guard(leaks="warn")
    suite.tests("""
        @pytest.mark.allow_port_leaks(70000)
        def test_bad(): pass
        def test_leaves(): careless.child($OTHER)
    """)

    ended = suite.pytest()

    assert ended.code == 1
    assert "1 passed, 1 error" in ended.out
    assert "allow_port_leaks: '70000' is not a port: ports go from 1 to 65535" in ended.out
    (line,) = ended.section
    assert line.startswith("tests/test_it.py::test_leaves left ")


def test_a_fixture_and_its_last_test_each_leave_a_listener_of_the_process(suite: Project) -> None:
    suite.guard()
    text = """
def test_sets_up(own): pass
def test_leaves():
    global other
    other = socket.create_server(("127.0.0.1", $OTHER))
"""
    own = suite.processes.free_port()
    suite.tests(FIXTURE + text, OWN=own)

    lines = {line.rpartition(":")[2]: line for line in suite.pytest().section}

    assert lines[str(own)].startswith("tests/test_it.py::test_sets_up, fixture own (module), left ")
    assert lines[str(suite.other)].startswith("tests/test_it.py::test_leaves left ")
