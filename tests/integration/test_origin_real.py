"""Which run a server was born in, with real programs: what shows it, and what it must not be taken
for. Whatever a killed pytest has left is freed by the next call, and what a live one uses is kept.
"""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    Identity,
    Processes,
    Started,
    accepts,
    holder,
    needs_namespace,
    needs_program,
    notes,
    one_backend,
    only,
    rules,
    tcp,
    wait_until,
)
from portfree import Port, Report
from portfree._system.linux import LinuxSystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from portfree import Outcome
    from portfree.model import Scope

# psutil does not tell whether a process was forked, which connections a process has at a glance, or
# the raw environment of one: what is unknown there keeps.
pytestmark = [pytest.mark.usefixtures("backend", "project"), one_backend]

HELPERS = """\
import multiprocessing, os, signal, socket, subprocess, sys, time
import pytest

PORT = {port}
SERVER = {server!r}
QUIET = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def answer():
    listener = socket.create_server(("127.0.0.1", PORT))
    while True:
        listener.accept()[0].close()


def forked(times=1):
    for _ in range(times):
        if os.fork():
            return
        os.setsid()
    answer()


@pytest.fixture
def server(tmp_path):
{start}
    yield


def test_it(server):
    os.write(int(os.environ["STAGE_READY"]), b'{{"pid": %d}}\\n' % os.getpid())
    while True:
        signal.pause()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place for the folders of pytest, with a short name: multiprocessing has sockets there."""
    with tempfile.TemporaryDirectory(prefix="pf-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield


@pytest.fixture
def port(processes: Processes) -> Iterator[int]:
    """A port of ours: what holds it in the end was started by this test, and is killed."""
    port = processes.free_port()
    yield port
    while found := holders(port):
        for each in found:
            each.send(signal.SIGKILL)
            each.wait_gone()


def holders(port: int) -> list[Identity]:
    """Who has the port open, whatever its environment says."""
    system = LinuxSystem()
    sockets = {each.id for each in system.sockets([Port(port)])}
    owners = system.owners(sockets).pids.values() if sockets else ()
    return [Identity.of(pid) for pids in owners for pid in pids if pid != os.getpid()]


def pytest_run(processes: Processes, folder: Path, port: int, start: str, *options: str) -> Started:
    """A pytest in the midst of a test, for which a fixture has started a server."""
    tests = folder / "tests"
    tests.mkdir(exist_ok=True)
    # Without -S, which is for servers that have their environment: this finds what is installed.
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    text = HELPERS.format(port=port, server=server, start=textwrap.indent(start, "    "))
    (tests / "test_api.py").write_text(text)
    runner = processes.orphan(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_api.py", *options],
        cwd=folder,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TMPDIR": os.environ["TMPDIR"]},
    )
    runner.wait_ready()
    wait_until(lambda: accepts(port), "the server listens")
    return runner


def kill(runner: Started, port: int) -> None:
    """End a run as the kernel does, which leaves no time for anything."""
    runner.process.send(signal.SIGKILL)
    runner.wait_gone()
    wait_until(
        lambda: all(
            (seen := each.stat) is None or seen.ppid != runner.pid for each in holders(port)
        ),
        "its server is adopted",
    )


def ask(processes: Processes, port: int, cwd: Path, scope: Scope = "orphans") -> Outcome:
    """Ask from outside of that run."""
    return only(processes.call(port, cwd=cwd, scope=scope).report())


# Each start, and what shows where the server was born once its run has been killed.

DAEMON = ["redis-server", "--port", "{port}", "--save", "", "--daemonize", "yes", "--dir"]

LEFT = {
    "a fork": ('multiprocessing.get_context("fork").Process(target=answer).start()', "copy"),
    "a fork of a fork": ("forked(2)", "copy"),
    "a child of a fork server": (
        'multiprocessing.get_context("forkserver").Process(target=answer).start()',
        "mark",
    ),
    "an environment of its own": (
        'subprocess.Popen(SERVER, env={"PATH": os.environ["PATH"]}, cwd=tmp_path, **QUIET)',
        "folder",
    ),
    "an environment of its own, below a shell": (
        'subprocess.Popen(["sh", "-c", "env -i \\"$@\\"; true", "sh", *SERVER], **QUIET)',
        "mark",
    ),
    "no environment at all": ("subprocess.Popen(SERVER, env={}, cwd=tmp_path, **QUIET)", "folder"),
    "a terminal of its own": (
        'subprocess.Popen(["script", "-qfc", " ".join(SERVER), "/dev/null"], **QUIET)',
        "mark",
    ),
    "a session of its own": ("subprocess.Popen(SERVER, start_new_session=True, **QUIET)", "mark"),
}


@pytest.mark.parametrize(("start", "evidence"), LEFT.values(), ids=LEFT)
def test_what_a_killed_pytest_has_left_is_freed_and_a_live_one_keeps_it(
    processes: Processes, project: Path, port: int, start: str, evidence: str
) -> None:
    if "script" in start and shutil.which("script") is None:
        pytest.skip("needs the program script")
    runner = pytest_run(processes, project, port, start)

    alive = ask(processes, port, project, scope="mine")

    assert alive.status == "busy"
    assert set(rules(alive).values()) == {"live-run"}

    kill(runner, port)
    dead = ask(processes, port, project)

    assert dead.status == "freed", dead
    (root,) = (each for each in dead.holders if each.root)
    assert root.verdict.rule == "left-behind"
    assert root.origin is not None
    assert (root.origin.evidence, root.origin.state) == (evidence, "ended")
    assert not holders(port)


@needs_program("redis-server")
@pytest.mark.parametrize("place", ["project", "tmp_path"])
def test_redis_wipes_its_environment(
    processes: Processes, project: Path, port: int, place: str
) -> None:
    where = "os.getcwd()" if place == "project" else "str(tmp_path)"
    command = [word.format(port=port) for word in DAEMON]
    runner = pytest_run(processes, project, port, f"subprocess.run([*{command}, {where}], **QUIET)")

    alive = ask(processes, port, project)

    assert alive.status == "busy"
    assert f"pytest (pid {runner.pid}" in alive.holders[0].verdict.reason
    (found,) = alive.holders
    assert found.origin is not None
    assert (found.verdict.rule, found.origin.state) == ("live-run", "live")
    assert found.origin.evidence == ("unreadable" if place == "project" else "folder")

    kill(runner, port)
    dead = ask(processes, port, project)

    assert dead.status == "freed"
    expected = "orphan" if place == "project" else "left-behind"
    assert set(rules(dead).values()) == {expected}


def test_a_folder_whose_session_has_ended_by_itself_tells_too(
    processes: Processes, project: Path, port: int
) -> None:
    start = (
        'daemon = ["setsid", "-f", *SERVER]\n'
        'subprocess.run(daemon, env={"PATH": os.environ["PATH"]}, cwd=tmp_path, **QUIET)'
    )
    runner = pytest_run(processes, project, port, start)
    runner.process.send(signal.SIGINT)
    runner.wait_gone()

    outcome = ask(processes, port, project)

    assert outcome.status == "freed", outcome
    (found,) = outcome.holders
    assert found.origin is not None
    assert (found.origin.evidence, found.origin.state) == ("folder", "ended")
    assert "the temporary folder of test_it" in found.verdict.reason


def test_a_person_who_looks_into_an_old_folder_of_pytest_keeps_a_server_there(
    processes: Processes, project: Path, port: int
) -> None:
    folder = processes.folder / "pytest-of-me" / "pytest-3" / "test_it0"
    folder.mkdir(parents=True)
    shell = ["bash", "-c", f'cd "{folder}"; "$@"; true', "bash"]
    processes.start("terminal", [*shell, *tcp(port)], cwd=project)

    outcome = ask(processes, port, project)

    assert outcome.status == "busy", outcome
    assert set(rules(outcome).values()) == {"attended"}


@pytest.mark.parametrize("tool", ["karma", "kubectl"])
def test_a_server_that_is_called_like_a_tool_goes_with_its_run(
    processes: Processes, project: Path, port: int, tool: str
) -> None:
    program = project / "bin" / tool
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport socket\n"
        f's = socket.create_server(("127.0.0.1", {port}))\nwhile True: s.accept()[0].close()\n'
    )
    program.chmod(0o755)
    runner = pytest_run(processes, project, port, f'subprocess.Popen(["{program}", "x"], **QUIET)')
    kill(runner, port)

    outcome = ask(processes, port, project)

    assert outcome.status == "freed", outcome
    assert set(rules(outcome).values()) == {"left-behind"}


def test_a_forward_is_no_mere_orphan(processes: Processes, project: Path, port: int) -> None:
    program = project / "kubectl"
    program.symlink_to(sys.executable)
    server = processes.orphan([str(program), *tcp(port)[1:]], cwd=project)

    kept = ask(processes, port, project)

    assert holder(kept, server).verdict.rule == "attended"
    assert "forwards the port" in holder(kept, server).verdict.reason
    assert ask(processes, port, project, scope="project").status == "freed"


# Place


@needs_program("git")
@pytest.mark.parametrize("scope", ["orphans", "project"])
def test_a_worktree_below_the_project_is_another_project(
    processes: Processes, project: Path, port: int, scope: Scope
) -> None:
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for words in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "x"],
        ["worktree", "add", "--quiet", ".worktrees/feature", "-b", "feature"],
    ):
        subprocess.run(["git", *author, *words], cwd=project, check=True, capture_output=True)
    server = processes.orphan(tcp(port), cwd=project / ".worktrees" / "feature")

    outcome = ask(processes, port, project, scope=scope)

    assert holder(outcome, server).verdict.rule == "attended"
    assert "a repository of its own" in holder(outcome, server).verdict.reason
    assert server.alive


def test_the_packages_of_a_monorepo_are_one_project(
    processes: Processes, project: Path, port: int
) -> None:
    (project / ".git").mkdir()
    for name in ("one", "two"):
        (project / name).mkdir()
        (project / name / "pyproject.toml").touch()
    processes.orphan(tcp(port), cwd=project / "one")

    assert ask(processes, port, project / "two").status == "freed"


def test_a_folder_that_was_deleted_and_made_anew_is_the_same_place(
    processes: Processes, project: Path, port: int
) -> None:
    server = processes.orphan(tcp(port), cwd=project)
    os.chdir("/")
    shutil.rmtree(project)
    project.mkdir()
    (project / "pyproject.toml").touch()

    outcome = ask(processes, port, project)

    assert holder(outcome, server).verdict.rule == "orphan"
    assert outcome.status == "freed", outcome


# Attendance


def connected(port: int) -> list[str]:
    """A program that has a connection with the port, and does nothing with it."""
    return ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}; exec sleep 1000"]


@pytest.mark.parametrize("attended", [True, False])
def test_an_orphan_that_an_attended_process_of_the_project_is_connected_to_is_kept(
    processes: Processes, project: Path, port: int, *, attended: bool
) -> None:
    server = processes.orphan(tcp(port), cwd=project)
    start = processes.attended if attended else processes.orphan
    client = start(connected(port), cwd=project)
    wait_until(lambda: client.pid in LinuxSystem().peers(server.pid), "the client is connected")

    outcome = ask(processes, port, project)

    if attended:
        assert holder(outcome, server).verdict.rule == "attended"
        assert f"sleep (pid {client.pid})" in holder(outcome, server).verdict.reason
        assert server.alive
    else:
        assert outcome.status == "freed", outcome


def test_a_client_from_elsewhere_keeps_no_orphan(
    processes: Processes, project: Path, elsewhere: Path, port: int
) -> None:
    server = processes.orphan(tcp(port), cwd=project)
    client = processes.attended(connected(port), cwd=elsewhere)
    wait_until(lambda: client.pid in LinuxSystem().peers(server.pid), "the client is connected")

    assert ask(processes, port, project).status == "freed"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORTFREE_KEEP", "1"),
        ("BUILD_ID", "dontKillMe"),
        ("JENKINS_NODE_COOKIE", "dontKillMe"),
        ("RUNNER_TRACKING_ID", ""),
    ],
)
def test_what_asks_to_stay_is_kept_until_its_port_is_asked_for(
    processes: Processes, project: Path, port: int, variable: str, value: str
) -> None:
    server = processes.orphan(tcp(port), cwd=project, env={variable: value})

    kept = holder(ask(processes, port, project), server)

    assert (kept.verdict.action, kept.verdict.rule) == ("keep", "attended")
    assert variable in kept.verdict.reason
    assert ask(processes, port, project, scope="mine").status == "freed"


def test_a_suspended_server_says_where_it_waits(
    processes: Processes, project: Path, port: int
) -> None:
    server = processes.attended(tcp(port), cwd=project)
    server.process.send(signal.SIGSTOP)
    wait_until(lambda: (seen := server.process.stat) and seen.state == "T", "it is stopped")

    kept = holder(ask(processes, port, project), server)

    assert "it is suspended" in kept.verdict.reason


@pytest.mark.parametrize("scope", ["orphans", "project", "mine"])
def test_scope_project_stops_what_is_looked_after_in_this_project(
    processes: Processes, project: Path, elsewhere: Path, port: int, scope: Scope
) -> None:
    other = processes.free_port()
    here = processes.attended(tcp(port), cwd=project)
    there = processes.attended(tcp(other), cwd=elsewhere)

    processes.call(port, other, cwd=project, scope=scope).report()

    assert here.alive is (scope == "orphans")
    assert there.alive is (scope in ("orphans", "project"))


# What arrives while a run goes on


def run_around(
    processes: Processes, project: Path, port: int, command: str, *, before: str = ":"
) -> Outcome:
    """What the end of a run around a command of bash finds on the port. It sees no other test
    runner: ours would do for one that has started what is there.
    """
    answer = processes.folder / "answer"
    code = (
        "import pickle, subprocess, sys\n"
        "from portfree import free_ports\n"
        "with free_ports(int(sys.argv[2])) as run:\n"
        '    subprocess.run(["bash", "-c", sys.argv[3]], check=True)\n'
        'open(sys.argv[1], "wb").write(pickle.dumps(run.after))\n'
    )
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "tini", "-g", "--"]
    asks = [sys.executable, "-c", code, str(answer), str(port), command]
    words = [*alone, "bash", "-c", f'{before}; exec "$@"', "bash", *asks]
    subprocess.run(words, cwd=project, env=processes.environment(), check=True)
    report = pickle.loads(answer.read_bytes())
    assert isinstance(report, Report)
    return only(report)


@needs_program("tini")
@needs_namespace("--pid", "--fork", "--mount-proc")
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_daemon_without_a_trace_is_of_the_run_during_which_it_came_up(
    processes: Processes, project: Path, elsewhere: Path, port: int, when: str
) -> None:
    waits = f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do :; done"
    starts = f"cd {elsewhere.parent}; setsid -f env -i {shlex.join(tcp(port))}; cd -; {waits}"

    if when == "before":
        outcome = run_around(processes, project, port, ":", before=starts)
    else:
        outcome = run_around(processes, project, port, starts)

    (found,) = outcome.holders
    if when == "before":
        assert (found.verdict.rule, outcome.status) == ("attended", "busy")
    else:
        assert (found.verdict.rule, outcome.status) == ("own-run", "freed")
        assert found.origin is not None
        assert found.origin.evidence == "arrival"


def test_a_socket_that_is_connected_to_itself_is_left_behind_like_a_server(
    processes: Processes, project: Path, port: int
) -> None:
    code = (
        "import os, socket, time\n"
        "s = socket.socket()\n"
        f's.bind(("127.0.0.1", {port}))\n'
        f's.connect(("127.0.0.1", {port}))\n'
        'os.write(int(os.environ["STAGE_READY"]), b\'{"pid": %d}\\n\' % os.getpid())\n'
        "time.sleep(1000)\n"
    )
    process = processes.orphan([sys.executable, "-S", "-c", code], cwd=project)
    process.wait_ready()

    outcome = ask(processes, port, project)

    assert holder(outcome, process).verdict.rule == "orphan"
    assert not process.alive
    # Both ends were there, so the kernel keeps the connection for a minute (RFC 9293, 3.6).
    assert "closing" in notes(outcome)
