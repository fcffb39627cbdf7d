"""The configuration of the pytest plugin, and where the plugin has no business.

Most sessions run in this very process, through pytest's own `pytester`: ten times as fast.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from helpers.processes import tcp
from helpers.project import PASSES, Ended, Project

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from helpers.processes import Processes

pytest_plugins = ["pytester"]


class Here(Project):
    """A project whose pytest runs in this process."""

    pytester: pytest.Pytester

    def pytest(self, *words: str, env: Mapping[str, str] | None = None) -> Ended:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in {**self.variables, **(env or {})}.items():
                patch.setenv(name, value)
            result = self.pytester.runpytest_inprocess(*words)
        return Ended(int(result.ret), result.stdout.str(), result.stderr.str())


@pytest.fixture
def here(processes: Processes, pytester: pytest.Pytester) -> Here:
    addopts = "-p no:hypothesispytest -p no:asyncio"
    # Not in pytester's own folder, which is the home directory too.
    here = Here(processes, pytester.path / "shop", {"PYTEST_ADDOPTS": addopts, "COLUMNS": "200"})
    here.pytester = pytester
    (here / ".git").mkdir()
    here.write("tests/test_it.py", PASSES)
    return here


TABLES = [
    ("pytest.toml", '[pytest]\nfree_ports = ["$PORT"]\n'),
    ("pyproject.toml", '[tool.pytest]\nfree_ports = ["$PORT"]\nfree_ports_grace = 1.5\n'),
    (
        "pyproject.toml",
        "[tool.pytest.ini_options]\nfree_ports = [$PORT]\nfree_ports_grace = 1.5\n",
    ),
    ("pyproject.toml", '[tool.pytest.ini_options]\nfree_ports = "$PORT"\n'),
    ("pyproject.toml", "[tool.portfree]\nports = [$PORT]\nwait = 0\n"),
]


@pytest.mark.parametrize(("file", "text"), TABLES)
def test_tables(here: Here, file: str, text: str) -> None:
    here.write(file, text)

    assert here.pytest().header == f"portfree: {here.port}/tcp, scope orphans: free"


def test_who_says_what(here: Here) -> None:
    table, ini, line = here.port, here.other, here.processes.free_port()
    here.write("pyproject.toml", '[tool.portfree]\nports = [$PORT]\nscope = "mine"\n')
    here.write("pytest.ini", "[pytest]\n")

    def header(*args: str) -> str:
        return here.pytest(*args).header.removeprefix("portfree: ").removesuffix(": free")

    assert header() == f"{table}/tcp, scope mine"
    here.guard(ini)
    assert header() == f"{ini}/tcp, scope mine"
    here.guard(ini, scope="any")
    assert header() == f"{ini}/tcp, scope any"
    assert header("--free-ports", f"{line},1/udp", "--free-ports", "2") == (
        f"{line}/tcp, 1/udp, 2/tcp, scope any"
    )
    assert header("--free-ports-scope=orphans") == f"{ini}/tcp, scope orphans"


def test_a_table_further_up_counts_up_to_the_repository(here: Here) -> None:
    here.write("pyproject.toml", "[tool.portfree]\nports = [$PORT]\n")
    here.write("service/pytest.ini", "[pytest]\n")
    here.write("service/test_service.py", PASSES)
    # It is the suite's folder that counts, not the one that pytest is called in.
    arguments = ("-c", "service/pytest.ini", "--rootdir", "service", "service")

    assert f" {here.port}/tcp, " in here.pytest(*arguments).header
    (here / "service" / ".git").mkdir()
    assert "portfree: " not in here.pytest(*arguments).out


BAD_INI = {
    "free_ports = 80000": "free_ports: '80000' is not a port: ports go from 1 to 65535",
    "free_ports = 1\nfree_ports_scope = orphan": "free_ports_scope is 'orphan': choose one of ",
    "free_ports = 1\nfree_ports_grace = soon": "free_ports_grace is 'soon': give a number",
    "free_ports = 1\nfree_ports_wait = -1": "free_ports_wait is -1.0: give seconds from 0 to ",
    "free_ports = 1\nfree_ports_on_busy = die": "free_ports_on_busy is 'die': choose one of ",
    "free_ports = 1\nfree_ports_leaks = no": "free_ports_leaks is 'no': choose one of ",
}

BAD_TOML = [
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
]

BAD_OPTIONS = [
    (["--free-ports", "80-70"], "--free-ports: '80-70' runs backwards"),
    (["--free-ports="], "--free-ports: '' names no port"),
    (["--free-ports=1", "--free-ports-scope=al"], "--free-ports-scope is 'al': choose one of"),
    (["-o", "free_ports=http"], "-o on the command line: free_ports: 'http' is not a port"),
]


def refusal(here: Here, *words: str) -> str:
    """The one line with which pytest refuses to begin."""
    ended = here.pytest(*words)
    assert ended.code == pytest.ExitCode.USAGE_ERROR
    (line,) = ended.err.strip().splitlines()
    assert line.startswith("ERROR: portfree: ")
    return line.removeprefix("ERROR: portfree: ")


@pytest.mark.parametrize(("ini", "message"), BAD_INI.items())
def test_a_bad_value_in_an_ini_file(here: Here, ini: str, message: str) -> None:
    here.write("pytest.ini", f"[pytest]\n{ini}\n")

    assert refusal(here).startswith(f"{here / 'pytest.ini'}: {message}")


@pytest.mark.parametrize(("table", "parts"), BAD_TOML)
def test_a_bad_value_in_pyproject(here: Here, table: str, parts: Sequence[str]) -> None:
    here.write("pyproject.toml", f"{table}\n")
    if "tool.portfree" in table:  # else pytest itself would read the file that is no TOML
        here.write("pytest.ini", "[pytest]\n")

    line = refusal(here)

    assert [part for part in (str(here / "pyproject.toml"), *parts) if part not in line] == []


@pytest.mark.parametrize(("arguments", "message"), BAD_OPTIONS)
def test_a_bad_value_on_the_command_line(
    here: Here, arguments: Sequence[str], message: str
) -> None:
    assert refusal(here, *arguments).startswith(message)


# Where it has no business


@pytest.mark.parametrize(
    "option",
    [
        *("--collect-only", "--fixtures", "--fixtures-per-test", "--setup-plan", "--cache-show"),
        *("--markers", "--help", "--version"),
    ],
)
def test_a_pytest_that_only_looks_touches_nothing(here: Here, option: str) -> None:
    server = here.orphan(tcp(here.port))
    here.guard(scope="nobody")  # not even read

    ended = here.pytest(option)

    assert ended.code == 0
    assert server.alive
    assert "portfree: " not in ended.out
    assert ended.section == []


def test_setup_only_starts_servers_so_it_frees_ports(here: Here) -> None:
    here.orphan(tcp(here.port))
    here.guard()

    assert here.pytest("--setup-only").header.endswith(": freed")


@pytest.mark.parametrize("options", [[], ["--strict-config"]], ids=" ".join)
def test_it_can_be_turned_off(here: Here, options: list[str]) -> None:
    check_turned_off(here, options)


def test_it_can_be_turned_off_with_xdist(suite: Project) -> None:
    check_turned_off(suite, ["-n", "2"])


def check_turned_off(suite: Project, options: list[str]) -> None:
    server = suite.orphan(tcp(suite.port))
    suite.guard(on_busy="fail")

    ended = suite.pytest(*options, env={"PORTFREE": "0"})

    assert ended.code == 0, ended.out
    assert ended.header == "portfree: turned off by PORTFREE=0 in the environment"
    assert ended.section == []
    assert server.alive


def test_the_plugin_can_be_turned_off(here: Here) -> None:
    server = here.orphan(tcp(here.port))
    here.write("pyproject.toml", "[tool.portfree]\nports = [$PORT]\n")

    ended = here.pytest("-p", "no:portfree")

    assert ended.code == 0
    assert server.alive
    assert "portfree: " not in ended.out


def test_without_ports_nobody_notices_it(suite: Project) -> None:
    suite.write("pytest.ini", "[pytest]\n")
    suite.tests("""
        def test_modules():
            ours = {name for name in sys.modules if name.partition(".")[0] == "portfree"}
            assert ours <= {"portfree", "portfree.pytest_plugin"}
            assert "psutil" not in sys.modules
            assert "PORTFREE_RUN_ID" not in os.environ
    """)

    def without_what_differs_always(output: str) -> list[str]:
        # pytest lists the plugins that are installed; nothing else may tell of us.
        lines = re.sub(r"in [0-9.]+s", "in 0s", output).splitlines()
        return [line for line in lines if not line.startswith("plugins: ")]

    with_it, without = suite.pytest("-v"), suite.pytest("-v", "-p", "no:portfree")

    assert with_it.code == without.code == 0, with_it.out
    assert without_what_differs_always(with_it.out) == without_what_differs_always(without.out)
    assert with_it.err == without.err == ""
