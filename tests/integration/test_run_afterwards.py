"""``portfree run``: who else adopts, and a port that is busy after the command."""

from __future__ import annotations

import ctypes
import shlex
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.commands import (
    Running,
    bash,
    daemon,
    holder_of,
    parent,
    port_of_ours,
    portfree_run,
    until_it_serves,
    zombies,
)
from helpers.job import Job
from helpers.processes import (
    Processes,
    accepts,
    children,
    is_free,
    needs_namespace,
    needs_program,
    tcp,
    wait_until,
)
from helpers.schema import check
from portfree._cli import child
from portfree._cli import run as _run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("project"), needs_program("setsid")]


@pytest.fixture
def port(processes: Processes) -> Iterator[int]:
    with port_of_ours(processes) as port:
        yield port


# Runs `portfree run` with a Python that has no ctypes.
WITHOUT_CTYPES = """
import sys
sys.modules["ctypes"] = None
from portfree._cli import run
sys.exit(run.main(sys.argv[1:]))
"""

# Takes the port as soon as the file "go" is there, after which it starts what it is told to, waits
# for that, and ends with its code.
ANCESTOR = """
import os, socket, subprocess, sys, time
port, *command = sys.argv[1:]
run = subprocess.Popen(command)
while not os.path.exists("go"):
    time.sleep(0.005)
server = socket.create_server(("127.0.0.1", int(port)))
sys.exit(run.wait())
"""


def comes_up(processes: Processes, port: int, where: Path) -> str:
    """A line of bash after which a server of somebody else has the port."""
    go, script = processes.folder / "go", processes.folder / "server.sh"
    script.write_text(f"until [ -e {go} ]; do :; done; exec {shlex.join(tcp(port))}")
    processes.attended(["bash", str(script)], cwd=where)
    return f"touch {go}; {until_it_serves(port)}"


def is_subreaper() -> bool:
    answer = ctypes.c_int()
    assert ctypes.CDLL(None).prctl(37, ctypes.byref(answer), 0, 0, 0) == 0
    return answer.value == 1


# Who else adopts


def test_what_a_killed_run_inside_has_left_is_adopted_by_the_outer_one(
    processes: Processes, port: int
) -> None:
    inside = f"{daemon(port)}; kill -KILL $PPID; sleep 1000"
    inner = shlex.join([*portfree_run(), str(port), "--", *bash(inside)])
    script = f"{inner}; echo code=$?; read -r line; exit 0"
    words = [str(port), "--", *bash(script)]
    running = Running(processes, words, terminal=True, env={"NO_COLOR": "1"})
    running.wait_for("code=137")

    server = holder_of(port)
    assert parent(server) == running.process.pid
    running.type("\n")
    assert running.end() == 0
    assert f"{port}/tcp: freed" in running.output
    assert not server.alive


@needs_namespace("--pid", "--fork", "--mount-proc")
@pytest.mark.parametrize(("ends", "code"), [("exit 5", 5), ("kill -KILL $$", 128 + signal.SIGKILL)])
def test_as_the_first_process_of_a_container(
    processes: Processes, port: int, ends: str, code: int
) -> None:
    first = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    script = f"{daemon(port)}; for n in {{1..50}}; do setsid -f true; done; echo up; read -r line"
    words = [str(port), "--", *bash(f"{script}; {ends}")]
    running = Running(processes, words, prefix=first, terminal=True, env={"NO_COLOR": "1"})
    running.wait_for("up")
    (run,) = children(running.process.pid)

    # The command, and the daemon.
    wait_until(lambda: len(children(run)) == 2, "the others are reaped")
    assert not zombies(run)
    running.type("\n")
    assert running.end() == code
    assert f"{port}/tcp: freed" in running.output
    assert is_free(port)


def test_so_does_a_step_of_the_action(processes: Processes, port: int, tmp_path: Path) -> None:
    step = Job(processes, tmp_path).step(
        ports=str(port), run=f"{daemon(port)}; exit 4", shell="bash"
    )

    assert step.code == 4
    assert step.outputs["freed"] == f"{port}/tcp"
    assert is_free(port)


def test_without_ctypes_it_goes_on_without(processes: Processes, port: int) -> None:
    script = "setsid -f sleep 1000; echo up; read -r line; exit 3"
    program = [sys.executable, "-c", WITHOUT_CTYPES, str(port), "--", *bash(script)]
    running = Running(processes, [], program=program, terminal=True)
    running.wait_for("up")

    assert len(children(running.process.pid)) == 1
    running.type("\n")
    assert running.end() == 3
    assert "portfree" not in running.output


def test_where_the_system_refuses_it_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def prctl(self, *_: object) -> int:
            return -1

    class Nothing:
        pass

    def fail(_: object) -> None:
        raise OSError("no such library")

    libraries: list[Callable[[object], object]] = [lambda _: Refusing(), lambda _: Nothing(), fail]
    for library in libraries:
        monkeypatch.setattr(ctypes, "CDLL", library)
        with child.adoption() as adopts:
            assert not adopts
    monkeypatch.undo()
    assert not is_subreaper()


def test_the_calling_process_is_left_as_it_was(port: int) -> None:
    assert _run_command.main([str(port), "--", "true"]) == 0
    assert not is_subreaper()

    with child.adoption() as adopts:
        assert adopts
        assert _run_command.main([str(port), "--", "no-such-command"]) == 127
        assert is_subreaper()
    assert not is_subreaper()


# A port that is busy after the command


@pytest.mark.parametrize(("on_busy", "code"), [("fail", 125), ("warn", 0)])
def test_a_port_that_is_busy_after_the_command_is_no_success(
    processes: Processes, elsewhere: Path, project: Path, port: int, on_busy: str, code: int
) -> None:
    script = comes_up(processes, port, elsewhere)
    words = [str(port), "--on-busy", on_busy, "--report", "it.json", "--"]
    running = Running(processes, [*words, *bash(script)])

    assert running.end() == code
    said = f"portfree: the command has succeeded, but {port}/tcp is busy after it: exit code 125"
    assert (said in running.output.splitlines()) is (code == 125)
    assert check((project / "it.json").read_text(), "run")["exit_code"] == code
    assert accepts(port)


def test_the_code_of_a_command_that_has_failed_stands(
    processes: Processes, elsewhere: Path, port: int
) -> None:
    script = comes_up(processes, port, elsewhere)
    running = Running(processes, [str(port), "--", *bash(f"{script}; exit 4")])

    assert running.end() == 4
    assert f"{port}/tcp: busy" in running.output
    assert "exit code 125" not in running.output


def test_a_port_that_who_runs_us_has_taken_is_meant_to_be_busy(
    processes: Processes, port: int
) -> None:
    script = f"touch go; {until_it_serves(port)}"
    run = [*portfree_run(), str(port), "--", *bash(script)]
    program = [sys.executable, "-S", "-c", ANCESTOR, str(port), *run]
    running = Running(processes, [], program=program)

    assert running.end() == 0
    assert f"{port}/tcp: busy" in running.output
    assert "why:     self: " in running.output


def test_the_help_tells_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run_command.main(["--help"]) == 0

    text = " ".join(capsys.readouterr().out.split())
    assert "the command has succeeded, but a port is busy after it" in text
    assert "after it: exit with 125 if it has succeeded" in text
