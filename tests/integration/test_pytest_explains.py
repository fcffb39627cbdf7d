"""A test that fails for an address in use says who has it, in a real session."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from helpers.processes import tcp

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.project import Project

BINDS = "socket.create_server(('127.0.0.1', $OTHER)).close()"

# Where in a test file that fails.
PHASES = {
    "setup": f"""
        @pytest.fixture
        def server():
            {BINDS}

        def test_it(server):
            pass
        """,
    "call": f"""
        def test_it():
            {BINDS}
        """,
    "teardown": f"""
        @pytest.fixture
        def server():
            yield
            {BINDS}

        def test_it(server):
            pass
        """,
    "collection": BINDS,
    "the output of a program": """
        def test_it():
            subprocess.run([sys.executable, "-m", "http.server", "$OTHER", "--bind", "127.0.0.1"])
            assert False
        """,
}


def explained(out: str) -> list[str]:
    """The lines of our sections in the reports of tests."""
    found = re.findall(r"^-+ portfree -+\n(.*?)^[-=_]", out, re.DOTALL | re.MULTILINE)
    return [line for section in found for line in section.splitlines()]


@pytest.mark.parametrize("words", [[], ["-n1"]], ids=["alone", "in a worker of xdist"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_failure_says_who_has_the_port(
    suite: Project, elsewhere: Path, phase: str, words: list[str]
) -> None:
    server = suite.processes.attended(tcp(suite.other), cwd=elsewhere)
    suite.guard(suite.other)
    suite.tests(PHASES[phase])

    result = suite.pytest(*words)

    assert result.code != 0
    first, who, why, *_ = explained(result.out)
    assert first == f"{suite.other}/tcp: would stay busy"
    assert f"(pid {server.pid})" in who
    assert "why:" in why


def test_other_failures_get_no_section(suite: Project) -> None:
    suite.processes.attended(tcp(suite.other), cwd=suite.folder)
    suite.tests("def test_it():\n    assert False\n")

    result = suite.pytest()

    assert result.code == 1
    assert explained(result.out) == []


def test_nothing_is_loaded_for_a_green_test(suite: Project) -> None:
    suite.tests(
        """
        def test_it():
            loaded = [name for name in sys.modules if name.startswith("portfree._plugins.")]
            assert "portfree._plugins.in_tests" in loaded
            assert "portfree._plugins.address_in_use" not in loaded
            assert "portfree._plugins.leaks_by_test" not in loaded
        """
    )

    assert suite.pytest().code == 0


def test_the_suite_has_what_was_freed_and_what_is_busy(suite: Project, elsewhere: Path) -> None:
    busy = suite.other
    suite.orphan(tcp(suite.port))
    suite.processes.attended(tcp(busy), cwd=elsewhere)
    suite.guard(suite.port, busy)

    result = suite.pytest("--junitxml=it.xml")

    assert result.code == 0
    file = ET.parse(suite / "it.xml")
    found = {
        each.get("name"): each.get("value") for each in file.iterfind("testsuite/properties/*")
    }
    assert found == {
        "portfree_freed_before": f"{suite.port}/tcp",
        "portfree_busy_before": f"{busy}/tcp",
        "portfree_busy_after": f"{busy}/tcp",
    }
    assert len(file.findall("testsuite/testcase")) == 1


def test_closing_connections_of_a_free_port_get_no_line(suite: Project, port: int) -> None:
    suite.tests(
        """
        def test_it():
            with socket.create_server(("127.0.0.1", $PORT)) as listener:
                client = socket.create_connection(("127.0.0.1", $PORT))
                listener.accept()[0].close()
                client.close()
        """
    )

    result = suite.pytest()

    assert result.code == 0
    assert result.header == f"portfree: {port}/tcp, scope orphans: free"
    assert result.section == []
    assert suite.pytest().section == []


@pytest.mark.parametrize(
    ("option", "value", "bad"),
    [("leaks", "fail", "fial"), ("on-busy", "fail", "x"), ("wait", "0", "-1"), ("grace", "1", "x")],
)
def test_options_of_the_command_line_come_first(
    suite: Project, option: str, value: str, bad: str
) -> None:
    assert suite.pytest(f"--free-ports-{option}={value}").code == 0

    result = suite.pytest(f"--free-ports-{option}={bad}")

    assert result.code == pytest.ExitCode.USAGE_ERROR
    (line,) = result.err.strip().splitlines()
    assert line.startswith(f"ERROR: portfree: --free-ports-{option} is ")
