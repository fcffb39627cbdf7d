"""Servers that may be left behind: by the configuration, by a marker, and since others use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.builders import case, process
from helpers.processes import accepts, client, is_free, tcp, wait_until
from helpers.project import Ended, Project
from portfree import PortfreeError, free_ports
from portfree._core.leaks import is_ignored
from portfree._system.interface import Socket
from portfree.model import Port
from portfree.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from helpers.processes import Processes, Started

# Which listener a word means

GRADLE = "java -cp lib.jar org.gradle.launcher.daemon.bootstrap.GradleDaemon 8.5"


ADB = process(2000, "/opt/android/adb -L tcp:5037 fork-server server")
LISTENER = Socket(1, Port(5037), "listening", "127.0.0.1")


@pytest.mark.parametrize("word", ["5037", "5037/tcp", "5030-5040", "adb", "ADB", "ad*", "*"])
def test_a_word_that_means_it(word: str) -> None:
    assert is_ignored(LISTENER, ADB, [word])
    assert is_ignored(LISTENER, ADB, ["1", "no", word])


@pytest.mark.parametrize("word", ["5038", "5038-5040", "5037/udp", "ad", "gradle*"])
def test_a_word_that_means_another(word: str) -> None:
    assert not is_ignored(LISTENER, ADB, [word])


def test_a_java_program_goes_by_its_class() -> None:
    assert is_ignored(LISTENER, process(2000, GRADLE), ["gradle*"])
    assert not is_ignored(LISTENER, process(2000, GRADLE), ["kotlin*"])


# On every surface

LEAVES_TWO = """\
import careless

def test_it():
    careless.child($ALLOWED)
    careless.child($OTHER)
"""


def told(ended: Ended) -> list[int]:
    """The ports of the leaks that pytest's summary tells of."""
    return [int(line.rpartition("127.0.0.1:")[2].partition(":")[0]) for line in ended.section]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        case(
            "ini",
            "pytest.ini",
            "[pytest]\nfree_ports = $PORT\nfree_ports_leaks_ignore = adb $ALLOWED\n",
        ),
        case(
            "ini, with commas and lines",
            "pytest.ini",
            "[pytest]\nfree_ports = $PORT\nfree_ports_leaks_ignore =\n    adb, gradle*\n"
            "    $ALLOWED-$ALLOWED\n",
        ),
        case(
            "ini_options",
            "pyproject.toml",
            "[tool.pytest.ini_options]\nfree_ports = [$PORT]\n"
            'free_ports_leaks_ignore = ["adb", $ALLOWED]\n',
        ),
        case(
            "native TOML",
            "pyproject.toml",
            '[tool.pytest]\nfree_ports = ["$PORT"]\nfree_ports_leaks_ignore = ["$ALLOWED"]\n',
        ),
        case(
            "tool.portfree",
            "pyproject.toml",
            '[tool.portfree]\nports = [$PORT]\nleaks-ignore = ["adb", $ALLOWED]\n',
        ),
    ],
)
def test_pytest(suite: Project, allowed: int, file: str, text: str) -> None:
    (suite / "pytest.ini").unlink()
    suite.write(file, text, ALLOWED=allowed)
    suite.tests(LEAVES_TWO, ALLOWED=allowed)

    ended = suite.pytest()

    assert ended.code == 0
    assert told(ended) == [suite.other]


def test_what_is_ignored_does_not_fail_and_is_not_stopped(suite: Project, allowed: int) -> None:
    suite.guard(leaks="fail", grace=1, leaks_ignore=allowed)
    suite.tests("def test_it(): careless.child($ALLOWED)\n", ALLOWED=allowed)

    ended = suite.pytest()

    assert ended.code == 0
    assert ended.section == []
    assert accepts(allowed)


def test_workers_of_xdist_are_told_too(suite: Project, allowed: int) -> None:
    suite.guard(leaks_ignore=allowed)
    suite.tests(LEAVES_TWO, ALLOWED=allowed)

    assert told(suite.pytest("-n", "1")) == [suite.other]


@pytest.mark.parametrize("table", [False, True], ids=["option", "tool.portfree"])
def test_portfree_run(suite: Project, allowed: int, *, table: bool) -> None:
    words = [str(suite.port), "--leaks-ignore", "adb, gradle*", "--leaks-ignore", str(allowed)]
    if table:
        text = '[tool.portfree]\nports = $PORT\nleaks-ignore = "$ALLOWED"\n'
        suite.write("pyproject.toml", text, ALLOWED=allowed)
        words = []
    suite.write("leave.py", f"import careless\n{leaving(allowed)}\n{leaving(suite.other)}\n")

    ended = suite.module(
        "portfree", "run", *words, "--", "python", "leave.py", env={"PYTHONPATH": "tests"}
    )

    assert ended.code == 0
    assert f":{suite.other}" in ended.err
    assert f":{allowed}" not in ended.err


def leaving(port: int) -> str:
    return f"careless.child({port})"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("as_int", [True, False])
def test_the_library(processes: Processes, allowed: int, *, as_int: bool) -> None:
    words = [allowed if as_int else f"{allowed}/tcp", "adb"]
    with Run(free_ports(processes.free_port(), leaks_ignore=words)) as run:
        processes.child(tcp(allowed))
        left = processes.child(tcp(processes.free_port()))

    assert [leak.holder.pid for leak in run.leaks] == [left.pid]


@pytest.mark.usefixtures("project")
def test_the_library_by_the_name_of_a_program(processes: Processes, allowed: int) -> None:
    with Run(free_ports(processes.free_port(), leaks_ignore=["servers*"])) as run:
        processes.child(tcp(allowed))

    assert run.leaks == ()


def test_tox(suite: Project, allowed: int) -> None:
    suite.write("leave.py", f"import careless\n{leaving(allowed)}\n{leaving(suite.other)}\n")
    suite.write(
        "tox.ini",
        "[testenv:a]\nskip_install = true\npass_env = *\nset_env = PYTHONPATH=tests\n"
        "free_ports = $PORT\nfree_ports_leaks_ignore =\n    adb gradle*\n    $ALLOWED\n"
        "commands = python leave.py\n",
        ALLOWED=allowed,
    )

    ended = suite.module("tox", "run", "-e", "a")

    assert ended.code == 0, ended
    assert f":{suite.other}" in ended.out
    assert f":{allowed}" not in ended.out


# Bad values


BAD_FILES = [
    case(
        "ini",
        "pytest.ini",
        "[pytest]\nfree_ports = 1\nfree_ports_leaks_ignore = adb 70000\n",
        "free_ports_leaks_ignore: '70000' is not a port",
    ),
    case(
        "ini, a range",
        "pytest.ini",
        "[pytest]\nfree_ports = 1\nfree_ports_leaks_ignore = 20-10\n",
        "free_ports_leaks_ignore: '20-10' runs backwards",
    ),
    case(
        "ini_options",
        "pyproject.toml",
        "[tool.pytest.ini_options]\nfree_ports = 1\nfree_ports_leaks_ignore = [0]\n",
        "free_ports_leaks_ignore: '0' is not a port",
    ),
    case(
        "native TOML",
        "pyproject.toml",
        '[tool.pytest]\nfree_ports = ["1"]\nfree_ports_leaks_ignore = 5037\n',
        "'free_ports_leaks_ignore' expects a list",
    ),
    case(
        "tool.portfree",
        "pyproject.toml",
        "[tool.portfree]\nports = 1\nleaks-ignore = [70000]\n",
        "[tool.portfree] leaks-ignore: '70000' is not a port",
    ),
    case(
        "tool.portfree, of another type",
        "pyproject.toml",
        "[tool.portfree]\nports = 1\nleaks-ignore = [true]\n",
        "[tool.portfree] leaks-ignore is [True]: list ports and programs",
    ),
]


@pytest.mark.parametrize(("file", "text", "message"), BAD_FILES)
def test_a_bad_value_in_a_file(suite: Project, file: str, text: str, message: str) -> None:
    (suite / "pytest.ini").unlink()
    suite.write(file, text)

    ended = suite.pytest()

    assert ended.code == pytest.ExitCode.USAGE_ERROR
    (line,) = ended.err.strip().splitlines()
    assert line.startswith(f"ERROR: portfree: {suite / file}: ")
    assert message in line


def test_a_bad_value_on_the_command_line_of_pytest(suite: Project) -> None:
    ended = suite.pytest("-o", "free_ports_leaks_ignore=adb 5037-80000")

    assert ended.code == pytest.ExitCode.USAGE_ERROR
    (line,) = ended.err.strip().splitlines()
    key = "-o on the command line: free_ports_leaks_ignore"
    assert line.startswith(f"ERROR: portfree: {key}: '5037-80000' is not a port")


def test_a_bad_value_on_the_command_line(suite: Project) -> None:
    ended = suite.module("portfree", "run", "1", "--leaks-ignore", "adb,70000", "--", "true")

    assert ended.code == 125
    (line,) = ended.err.splitlines()
    assert line.startswith("portfree: --leaks-ignore: '70000' is not a port")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([70000], "leaks_ignore: '70000' is not a port"),
        ([1.5], r"leaks_ignore is \[1.5\]: list ports and programs, such as "),
        (None, ""),
    ],
)
def test_a_bad_value_for_the_library(
    processes: Processes, value: Sequence[int] | None, message: str
) -> None:
    port = processes.free_port()
    if message:
        with pytest.raises(PortfreeError, match=f"^{message}"):
            free_ports(port, leaks_ignore=value)
    else:
        assert free_ports(port, leaks_ignore=value).request.leaks_ignore == ()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        case(
            "ini",
            "tox.ini",
            "[testenv:a]\nfree_ports = $PORT\nfree_ports_leaks_ignore = 0\n",
            "free_ports_leaks_ignore: '0' is not a port: ports go from 1 to 65535",
        ),
        case(
            "TOML",
            "tox.toml",
            '[env.a]\nfree_ports = ["$PORT"]\nfree_ports_leaks_ignore = [5037]\n',
            "failed to load a.free_ports_leaks_ignore: 5037 is not of type 'str'",
        ),
    ],
)
def test_a_bad_value_for_tox(suite: Project, file: str, text: str, message: str) -> None:
    suite.write(file, f"{text}skip_install = true\n")

    ended = suite.module("tox", "run", "-e", "a")

    assert ended.code != 0
    line = ended.line("portfree: environment a in ")
    assert line.endswith(f"{suite / file}: {message}")


# Helpers that others use by now


USED = """\
def test_it():
    careless.child($OTHER$FLAGS)
    pathlib.Path("ready").touch()
    careless.until("go")
"""


def used_from_outside(suite: Project, elsewhere: Path) -> tuple[Started, Ended]:
    """Run the tests, with a process that connects to their server; and that process."""
    session = suite.start_module("pytest")
    wait_until((suite / "ready").exists, "the test runs")
    user = suite.processes.orphan(client(suite.other), cwd=elsewhere)
    (suite / "go").touch()
    return user, session.ended()


@pytest.mark.parametrize("flags", ["", ', "--workers", "2"'], ids=["one process", "workers"])
@pytest.mark.parametrize("leaks", ["stop", "fail"])
def test_what_others_use_is_told_and_never_stopped(
    suite: Project, elsewhere: Path, leaks: str, flags: str
) -> None:
    suite.guard(leaks=leaks, grace=0.6)
    suite.tests(USED, FLAGS=flags)

    user, ended = used_from_outside(suite, elsewhere)

    assert user.alive
    assert accepts(suite.other)
    assert ended.code == (leaks == "fail")
    line = ended.section[0]
    assert line.startswith("tests/test_it.py::test_it left ")
    assert f"still listening on 127.0.0.1:{suite.other}: " in line
    assert line.endswith(f" (pid {user.pid}) uses it by now")


def test_portfree_run_stops_nothing_that_others_use(
    suite: Project, elsewhere: Path, backend: str
) -> None:
    suite.write("leave.py", f"import careless\n{leaving(suite.other)}\ncareless.until('go')\n")
    words = ("portfree", "run", str(suite.port), "--leaks", "stop", "--grace", "0.6", "--")
    env = {"PYTHONPATH": "tests", "PORTFREE_BACKEND": backend}
    run = suite.start_module(*words, "python", "leave.py", env=env)
    wait_until(lambda: accepts(suite.other), "the server listens")
    user = suite.processes.orphan(client(suite.other), cwd=elsewhere)
    (suite / "go").touch()

    ended = run.ended()

    assert accepts(suite.other)
    line = ended._replace(out=ended.err).line(f"still listening on 127.0.0.1:{suite.other}: ")
    assert line.endswith(f" (pid {user.pid}) uses it by now")


def test_a_client_of_the_run_itself_is_no_outside_user(suite: Project) -> None:
    suite.guard(leaks="stop", grace=0.6)
    suite.tests("""
        def test_it():
            global connection
            careless.child($OTHER)
            connection = socket.create_connection(("127.0.0.1", $OTHER))
            command = [sys.executable, "-S", careless.SERVERS, "--connect", "127.0.0.1:$OTHER"]
            careless.start(command)
    """)

    ended = suite.pytest()

    assert ended.section[0].endswith(": ended after SIGTERM")
    assert is_free(suite.other)


def test_what_a_server_is_connected_to_does_not_use_it(suite: Project, elsewhere: Path) -> None:
    database = suite.processes.free_port()
    suite.processes.orphan(tcp(database), cwd=elsewhere)
    suite.guard(leaks="stop", grace=0.6)
    suite.tests(
        """
        SERVER = '''
        import socket, time
        database = socket.create_connection(("127.0.0.1", $DATABASE))
        server = socket.create_server(("127.0.0.1", $OTHER))
        time.sleep(1000)
        '''

        def test_it():
            careless.start([sys.executable, "-S", "-c", SERVER])
            careless.wait_until(lambda: careless.accepts($OTHER))
        """,
        DATABASE=database,
    )

    ended = suite.pytest()

    assert ended.section[0].endswith(": ended after SIGTERM")
    assert accepts(database)


@pytest.mark.parametrize("marker", [False, True], ids=["configured", "marked"])
def test_a_server_that_may_stay_on_one_port_is_told_on_others_and_not_stopped(
    suite: Project, allowed: int, *, marker: bool
) -> None:
    suite.guard(leaks="stop", grace=0.6, leaks_ignore="adb" if marker else allowed)
    suite.tests(
        """
        @pytest.mark.$MARKER
        def test_it(): careless.child($OTHER, "--tcp", "127.0.0.1:$ALLOWED")
        """,
        MARKER=f"allow_port_leaks({allowed})" if marker else "usefixtures()",
        ALLOWED=allowed,
    )

    (line,) = suite.pytest().section

    end = f"still listening on 127.0.0.1:{suite.other}: it may stay on {allowed}/tcp"
    assert line.endswith(end)
    assert accepts(suite.other)
    assert accepts(allowed)
