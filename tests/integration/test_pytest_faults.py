"""The pytest plugin, in real sessions: what goes wrong, and sessions in sessions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from helpers.processes import is_free, tcp

if TYPE_CHECKING:
    from helpers.project import Project


BROKEN = """
import portfree._core.free as module
free = module.free

def broken(*args, moment, **options):
    if moment.phase == "$PHASE":
        raise RuntimeError("out of order")
    return free(*args, moment=moment, **options)

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
    suite: Project, phase: str, settings: dict[str, str], code: int
) -> None:
    suite.guard(**settings)
    suite.write("conftest.py", BROKEN, PHASE=phase)

    result = suite.pytest()

    assert result.code == code
    when = "before the tests" if phase == "before" else "at the end"
    line = f"the ports could not be looked after {when}: RuntimeError('out of order')"
    if code == pytest.ExitCode.USAGE_ERROR:
        assert result.err.strip() == f"ERROR: portfree: {line}"
    else:
        assert "1 passed" in result.out
        assert result.section[0] == line
        assert "Traceback" not in result.out + result.err


def test_a_fault_of_ours_hides_no_red_test(suite: Project) -> None:
    suite.guard(leaks="fail")
    suite.write("conftest.py", BROKEN, PHASE="after")
    suite.write("tests/test_it.py", "def test_it():\n    assert False\n")

    result = suite.pytest()

    assert result.code == 1
    assert "1 failed" in result.out


def test_messages_that_cannot_be_made_turn_nothing_red(suite: Project, port: int) -> None:
    suite.orphan(tcp(port))
    suite.write(
        "conftest.py", "import portfree._output.words as r\nr.summary = lambda outcome: 1 / 0\n"
    )

    result = suite.pytest()

    assert result.code == 0
    assert "ZeroDivisionError" in result.section[0]


def test_a_fixture_that_fails_at_the_very_end(suite: Project, port: int) -> None:
    # With -x, session fixtures are torn down in pytest_sessionfinish, where a failure is loud.
    suite.tests("""
        @pytest.fixture(scope="session")
        def server():
            careless.child($PORT)
            yield
            raise RuntimeError("torn")

        def test_one(server): assert False
        def test_two(server): pass
    """)

    result = suite.pytest("-x")

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
def test_the_environment_is_put_back(suite: Project, *, outer: bool) -> None:
    suite.tests(
        """
        def test_it():
            path = os.environ["PORTFREE_RUN_ID"].split("/")
            assert path[-1].startswith(f"{os.getpid()}.")
            assert len(path) == $LENGTH
        """,
        LENGTH=1 + outer,
    )
    env = {"PORTFREE_RUN_ID": suite.processes.run_id(alive=True)} if outer else {}

    result = suite.run(sys.executable, "-c", IN_PROCESS, env=env)

    assert result.code == 0, result.out + result.err


def test_a_session_that_another_plugin_keeps_from_starting(suite: Project, port: int) -> None:
    suite.write(
        "tests/conftest.py",
        """
        import careless, pytest
        def pytest_sessionstart():
            careless.child($PORT)
            pytest.exit("not today", returncode=7)
        """,
    )

    result = suite.run(sys.executable, "-c", IN_PROCESS)

    assert result.code == 7
    assert is_free(port)
    assert result.err.count(f"portfree: after: freed {port}/tcp: ") == 2


def test_a_conftest_finds_its_port_free_when_the_session_starts(suite: Project, port: int) -> None:
    suite.orphan(tcp(port))
    suite.write(
        "tests/conftest.py",
        "import careless\ndef pytest_sessionstart():\n    assert not careless.accepts($PORT)\n",
    )

    assert suite.pytest("tests").code == 0


def test_a_forked_child_frees_nothing(suite: Project, port: int) -> None:
    suite.tests("""
        def test_it():
            server = careless.child($PORT)
            child = os.fork()
            if child:
                # The child ends this test and then, as pytest, the session.
                assert os.waitpid(child, 0)[1] == 0
                assert careless.accepts($PORT)
    """)

    result = suite.pytest("-q", "-W", "ignore")

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
    suite: Project, port: int, way: str, inner: str, born: str
) -> None:
    suite.guard(port, suite.other)
    suite.write(
        "tests/test_outer.py",
        """
        import os, subprocess, sys, pytest, careless

        ARGUMENTS = ["inner/test_inner.py", "-c", "pytest.ini", "--noconftest"]

        def test_it():
            if "$BORN" == "in a test":
                careless.$WAY($PORT)
            assert $INNER == 0
            assert careless.accepts($PORT)
            assert not careless.accepts($OTHER)
        """,
        WAY=way,
        INNER=inner,
        BORN=born,
    )
    suite.write(
        "tests/conftest.py",
        "import careless\nif '$BORN' == 'at import':\n    careless.$WAY($PORT)\n",
        BORN=born,
        WAY=way,
    )
    suite.write(
        "inner/test_inner.py",
        "import sys\nsys.path.append('tests')\nimport careless\n"
        "def test_inner():\n    careless.$WAY($OTHER)\n",
        WAY=way,
    )

    result = suite.pytest("tests")

    assert result.code == 0, result.out
    assert f"after: freed {port}/tcp: " in result.out
    assert is_free(port)
    assert " left " not in "".join(result.section), "what is freed at the end has a line already"
