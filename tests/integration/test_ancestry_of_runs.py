"""Whose a real server is: runs, multiplexers, services and other users."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    NOBODY,
    READY,
    Identity,
    Processes,
    Started,
    children,
    command_line,
    holder,
    launch,
    needs_program,
    needs_root,
    notes,
    one_backend,
    only,
    rules,
    serve,
    tcp,
    wait_until,
)
from portfree import Port, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portfree.model import Scope

pytestmark = pytest.mark.usefixtures("backend", "project")


# left-behind and live-run: marks and runs


@pytest.mark.parametrize(
    ("mark", "value", "named"),
    [
        ("PYTEST_CURRENT_TEST", "tests/test_api.py::test_search (setup)", "test_search (setup)"),
        ("NOX_CURRENT_SESSION", "tests-3.11", "tests-3.11"),
        ("TOX_ENV_DIR", "/nowhere/.tox/py311", "py311"),
    ],
)
def test_a_marked_orphan_is_left_behind_wherever_it_runs(
    processes: Processes, elsewhere: Path, mark: str, value: str, named: str
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=elsewhere, env={mark: value})

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    found = holder(outcome, server)
    assert found.verdict.rule == "left-behind"
    assert named in found.verdict.reason
    assert found.test == (value if mark == "PYTEST_CURRENT_TEST" else "")


@one_backend
def test_a_marked_server_that_is_looked_after_is_kept(
    processes: Processes, elsewhere: Path
) -> None:
    port = processes.free_port()
    server = processes.orphan(
        # The mark is older than the one who looks after the server.
        serve("--run", "--", *tcp(port)),
        cwd=elsewhere,
        env={"NOX_CURRENT_SESSION": "dev"},
    )
    server.wait_ready()  # the one inside
    attended = processes.attended(
        ["env", "NOX_CURRENT_SESSION=dev", *tcp(other := processes.free_port())], cwd=elsewhere
    )

    # The same mark all the way up to the reaper: left behind. Set by a program that lives: not.
    left, kept = free_ports(port, other).outcomes

    assert rules(left) == {server.facts["pid"]: "left-behind"}
    assert left.status == "freed"
    assert holder(kept, attended).verdict.rule == "live-run"
    assert kept.status == "busy"


def test_the_orphan_of_a_dead_run_is_left_behind(processes: Processes, elsewhere: Path) -> None:
    port = processes.free_port()
    run = processes.run_id(alive=False)
    server = processes.orphan(tcp(port), cwd=elsewhere, env={"PORTFREE_RUN_ID": run})

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, server).verdict.rule == "left-behind"


@pytest.mark.parametrize("scope", ["orphans", "mine"])
def test_the_orphan_of_a_live_run_is_in_use(
    processes: Processes, project: Path, scope: Scope
) -> None:
    port = processes.free_port()
    run = processes.run_id(alive=True)
    server = processes.orphan(tcp(port), cwd=project, env={"PORTFREE_RUN_ID": run})

    outcome = only(free_ports(port, scope=scope))

    assert outcome.status == "busy"
    assert holder(outcome, server).verdict.rule == "live-run"
    assert server.alive


def test_a_pid_that_came_to_another_process_keeps_no_run_alive(
    processes: Processes, elsewhere: Path
) -> None:
    port = processes.free_port()
    pid, start, nonce = processes.run_id(alive=True).split(".", 2)
    recycled = f"{pid}.{int(start) - 1}.{nonce}"
    server = processes.orphan(tcp(port), cwd=elsewhere, env={"PORTFREE_RUN_ID": recycled})

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, server).verdict.rule == "left-behind"


def test_a_live_pytest_keeps_its_server_and_a_killed_one_leaves_it(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    runner = _pytest_with_a_server(processes, project, tcp(port))
    server = runner.server

    alive = only(processes.call(port, cwd=project, scope="mine").report())

    assert alive.status == "busy"
    assert (alive.holders[0].pid, alive.holders[0].verdict.rule) == (server.pid, "live-run")
    assert f"pytest (pid {runner.pid}, adopted, " in alive.holders[0].verdict.reason
    assert server.alive

    runner.process.send(signal.SIGKILL)
    runner.wait_gone()
    wait_until(lambda: (seen := server.stat) and seen.ppid != runner.pid, "it is adopted")

    dead = only(processes.call(port, cwd=project).report())

    assert dead.status == "freed"
    (found,) = dead.holders
    assert (found.pid, found.verdict.rule) == (server.pid, "left-behind")
    assert found.test == "tests/test_api.py::test_search (setup)"
    assert found.test in found.verdict.reason
    assert not server.alive


@one_backend
def test_the_daemon_of_a_live_pytest_is_in_use(processes: Processes, project: Path) -> None:
    # It has no parent that tells: but it was born in a test, here, and a pytest works here.
    port = processes.free_port()
    runner = _pytest_with_a_server(processes, project, launch("orphan", tcp(port)))

    outcome = only(processes.call(port, cwd=project, scope="mine").report())

    assert outcome.status == "busy"
    assert rules(outcome) == {runner.facts["pid"]: "live-run"}


def _pytest_with_a_server(processes: Processes, project: Path, command: list[str]) -> Started:
    """A pytest in the middle of a test that uses a server, which a session fixture started."""
    tests = project / "tests"
    tests.mkdir()
    (tests / "test_api.py").write_text(_TEST.format(command=command, ready=READY))
    runner = processes.orphan(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_api.py"],
        cwd=project,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    runner.wait_ready()
    return runner


_TEST = """\
import os, signal, subprocess, pytest

@pytest.fixture(scope="session")
def server():
    process = subprocess.Popen({command!r}, pass_fds=[int(os.environ[{ready!r}])])
    yield
    process.kill()
    process.wait()

def test_search(server):
    while True:
        signal.pause()
"""


@one_backend
def test_the_server_of_a_ci_agent_that_is_at_work_is_in_use(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    job = {"RUNNER_TRACKING_ID": f"github_{processes.token}"}
    become = "import os; os.execvp('sleep', ['Runner.Worker', '1000'])"
    agent = processes.orphan([sys.executable, "-S", "-c", become], env=job)
    wait_until(lambda: command_line(agent.pid)[0] == "Runner.Worker", "the agent is at work")
    server = processes.orphan(tcp(port), cwd=project, env=job)

    outcome = only(free_ports(port))

    assert outcome.status == "busy"
    assert holder(outcome, server).verdict.rule == "live-run"
    assert server.alive


# Multiplexers keep the environment that they were started with


@needs_program("tmux")
def test_a_tmux_that_was_started_in_a_run_is_kept(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    with _tmux(processes, project, tcp(port)) as (server, tmux):
        outcome = only(free_ports(port))

        assert outcome.status == "busy"
        found = holder(outcome, server)
        assert (found.verdict.action, found.verdict.rule) == ("keep", "attended")
        assert server.alive

        named = only(free_ports(port, scope="mine"))

        assert named.status == "freed"
        assert holder(named, server).verdict.rule == "mine"
        assert tmux.alive


@contextmanager
def _tmux(
    processes: Processes, project: Path, command: list[str]
) -> Iterator[tuple[Identity, Identity]]:
    """A command in a tmux whose own environment bears the marks of a run that has ended."""
    # A socket's path may have 107 bytes (unix(7)), and pytest's folders are deep.
    with tempfile.TemporaryDirectory(prefix="pf-") as folder:
        tmux = ["tmux", "-S", f"{folder}/s", "-f", os.devnull]
        port = int(command[command.index("--tcp") + 1].rpartition(":")[2])
        marks = {"PORTFREE_RUN_ID": processes.run_id(alive=False), "NOX_CURRENT_SESSION": "tests"}
        # A second window keeps tmux alive when the command of the first one has ended.
        two = [*command, ";", "new-window", "sleep", "1000"]
        processes.orphan(
            [*tmux, "new-session", "-d", "-x80", "-y24", "env", "-u", READY, *two],
            cwd=project,
            env=marks,
            listening=port,
        )
        says = [*tmux, "display-message", "-p", "#{pid}"]
        pid = int(subprocess.run(says, check=True, capture_output=True, text=True).stdout)
        (server,) = [p for p in children(pid) if any(str(port) in w for w in command_line(p))]
        yield Identity.of(server), Identity.of(pid)


# service: whose service manager looks after it


@needs_root
def test_a_service_is_kept(processes: Processes, project: Path, backend: str) -> None:
    if backend == "portable":
        pytest.skip("psutil tells no unit of systemd")
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)
    with _unit(f"portfree-test-{processes.token}.service", server.process) as unit:
        outcome = only(free_ports(port, scope="mine"))

        assert outcome.status == "busy"
        found = holder(outcome, server)
        assert (found.verdict.action, found.verdict.rule) == ("keep", "service")
        assert f"systemctl stop {unit}" in found.verdict.instead
        assert server.alive


@contextmanager
def _unit(name: str, process: Identity) -> Iterator[str]:
    """Put a process where systemd puts those of a service: into a control group of that name."""
    for hierarchy in (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup")):
        group = hierarchy / name
        try:
            group.mkdir()
            (group / "cgroup.procs").write_text(str(process.pid))
        except OSError:
            if group.exists():
                group.rmdir()
            continue
        break
    else:
        pytest.skip("no control group can be made here")
    try:
        yield name
    finally:
        process.send(signal.SIGKILL)
        process.wait_gone()
        wait_until(lambda: _removed(group), f"{group} is empty")


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


# other-user


@pytest.fixture
def open_project() -> Iterator[Path]:
    """A project that every user may look into, which pytest's own folders do not allow."""
    folder = Path(tempfile.mkdtemp(prefix="portfree-"))
    folder.chmod(0o755)
    (folder / "pyproject.toml").write_text("")
    yield folder
    shutil.rmtree(folder)


@needs_root
@pytest.mark.parametrize("scope", ["orphans", "mine", "any"])
def test_an_unprivileged_caller_cannot_stop_the_server_of_another_user(
    processes: Processes, open_project: Path, scope: Scope
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=open_project)

    outcome = only(processes.call(port, cwd=open_project, uid=NOBODY, scope=scope).report())

    assert (outcome.status, outcome.ok) == ("busy", False)
    # Who has its sockets cannot be seen; whose they are, the kernel tells on Linux.
    assert outcome.holders == () or rules(outcome) == {server.pid: "other-user"}
    if not outcome.holders:
        assert "sudo" in notes(outcome)["invisible"]
    assert server.alive


@needs_root
@one_backend
def test_the_kernel_tells_whose_the_server_is(processes: Processes, open_project: Path) -> None:
    port = processes.free_port()
    processes.orphan(tcp(port, "--uid", "65533"), cwd=open_project)

    call = processes.call(port, cwd=open_project, uid=NOBODY, env={"PORTFREE_BACKEND": "linux"})

    assert "65533" in notes(only(call.report()))["invisible"]


@needs_root
def test_an_unprivileged_caller_stops_its_own_orphan(
    processes: Processes, open_project: Path
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--uid", str(NOBODY)), cwd=open_project)

    outcome = only(processes.call(port, cwd=open_project, uid=NOBODY).report())

    assert outcome.status == "freed"
    assert holder(outcome, server).verdict.rule == "orphan"
    assert not server.alive


@needs_root
@one_backend
def test_a_caller_that_may_not_look_around_tells_so_and_goes_on(
    processes: Processes, project: Path
) -> None:
    # pytest's folders belong to root alone: the project cannot even be looked for.
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--uid", str(NOBODY)), cwd=project)

    report = processes.call(port, processes.free_port(), cwd=project, uid=NOBODY).report()

    assert report.outcomes[1].status == "free"
    assert holder(report.outcomes[0], server).verdict.action in ("stop", "keep")


@needs_root
@pytest.mark.parametrize("scope", ["orphans", "mine"])
def test_root_keeps_the_server_of_another_user(
    processes: Processes, project: Path, scope: Scope
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--uid", str(NOBODY)), cwd=project)

    outcome = only(free_ports(port, scope=scope))

    assert outcome.status == "busy"
    found = holder(outcome, server)
    assert (found.verdict.action, found.verdict.rule) == ("keep", "other-user")
    assert found.uid == NOBODY
    assert server.alive


@needs_root
@one_backend
def test_root_may_stop_it_if_asked_for_anybody(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--uid", str(NOBODY)), cwd=project)

    outcome = only(free_ports(port, scope="any"))

    assert outcome.port == Port(port)
    assert outcome.status == "freed"
    assert not server.alive


@needs_root
@one_backend
def test_under_sudo_the_servers_of_who_called_it_are_ours(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--uid", str(NOBODY)), cwd=project)

    outcome = only(processes.call(port, cwd=project, env={"SUDO_UID": str(NOBODY)}).report())

    assert outcome.status == "freed"
    assert holder(outcome, server).verdict.rule == "orphan"


@needs_root
def test_under_sudo_mine_is_who_called_it(processes: Processes, open_project: Path) -> None:
    by_sudo = {"SUDO_UID": str(NOBODY)}
    port, other = processes.free_port(), processes.free_port()
    roots = processes.attended(tcp(port), cwd=open_project)
    ours = processes.attended(tcp(other), cwd=open_project, env=by_sudo)

    kept, freed = (
        only(processes.call(each, cwd=open_project, scope="mine", env=by_sudo).report())
        for each in (port, other)
    )

    assert holder(kept, roots).verdict.rule == "other-user"
    assert roots.alive
    assert holder(freed, ours).verdict.rule == "mine"
    assert not ours.alive
