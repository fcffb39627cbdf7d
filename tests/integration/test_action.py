"""The GitHub Action: what its step does, how it is set up, and the whole of it under nektos/act."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.job import ROOT, SCRIPT, Job, leaking, mark
from helpers.processes import accepts, needs_program, tcp, wait_until
from helpers.reports import HOSTILE, cells
from portfree import Port, PortfreeError
from portfree._cli import action, sudo
from portfree.model import Request

if TYPE_CHECKING:
    from helpers.processes import Processes


# The step


def test_free_ports_need_no_words(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    step = job.step(ports=str(port))
    assert (step.code, step.log) == (0, f"{port}/tcp: free\n")
    assert step.outputs | {"report": ""} == {"ok": "true", "freed": "", "busy": "", "report": ""}
    assert step.page == ""


def test_a_server_that_was_left_behind_is_stopped_and_shown(job: Job, processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()
    server = processes.orphan(tcp(port), env=mark(processes))
    step = job.step(ports=f"{port}\n{other}")
    server.wait_gone()
    assert step.code == 0
    assert step.outputs["ok"] == "true"
    assert step.outputs["freed"] == f"{port}/tcp"
    ((_, state, process, born, did, took), _) = cells(step.page)
    assert state == "freed"
    assert f"(pid {server.pid})" in process
    assert "test&#95;search" in born
    assert "left-behind" in did
    assert took.endswith(" ms")
    assert step.commands == ["::group::portfree: the ports and who held them", "::endgroup::"]
    assert [o["status"] for o in step.report["before"]["outcomes"]] == ["freed", "free"]


def test_a_server_that_is_in_use_is_kept_and_fails_the_step(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port))
    step = job.step(ports=str(port))
    assert step.code == 1
    assert (step.outputs["ok"], step.outputs["busy"]) == ("false", f"{port}/tcp")
    assert "**busy**" in step.page
    (error,) = [line for line in step.commands if line.startswith("::error")]
    assert f"{port}/tcp is busy: kept" in error

    step = job.step(ports=str(port), on_busy="warn")
    assert (step.code, step.outputs["ok"]) == (0, "false")

    step = job.step(ports=str(port), run="touch started")
    assert (step.code, step.outputs["busy"]) == (125, f"{port}/tcp")
    assert "the command was not started" in step.log
    assert not (job.workspace / "started").exists()
    assert step.report["after"] is None
    assert server.alive

    step = job.step(ports=str(port), run="touch started", on_busy="warn")
    assert (step.code, step.outputs["ok"]) == (0, "false")
    assert "these tests may have talked to" in step.log
    assert (job.workspace / "started").exists()
    assert server.alive


def test_on_githubs_own_runners_the_whole_machine_is_ours(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port))
    step = job.step({"RUNNER_ENVIRONMENT": "github-hosted"}, ports=str(port))
    server.wait_gone()
    assert (step.code, step.outputs["freed"]) == (0, f"{port}/tcp")


BAD = [
    ({"ports": "8000; touch pwned"}, "'8000;' is not a port"),
    ({"ports": "$(touch pwned)"}, "'$(touch' is not a port"),
    ({"ports": "`touch pwned`"}, "'`touch' is not a port"),
    ({"ports": "-1"}, "-1"),
    ({"ports": "70000"}, "70000"),
    ({"ports": HOSTILE}, "is not a port"),
    ({"ports": "8000", "scope": "all"}, "scope is 'all'"),
    ({"ports": "8000", "grace": "soon"}, "grace is 'soon'"),
    ({"ports": "8000", "wait": "-3"}, "wait is -3"),
    ({"ports": "8000", "on_busy": "cry"}, "on-busy is 'cry'"),
    ({"ports": "8000", "leaks": "plug"}, "leaks is 'plug'"),
    ({"ports": "8000", "sudo": "yes"}, "sudo is 'yes'"),
    ({"ports": "8000", "shell": "zsh; touch pwned"}, "shell is 'zsh; touch pwned'"),
    ({"ports": "8000", "working_directory": "nowhere"}, "working-directory is 'nowhere'"),
    ({}, "no ports"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_input_is_an_error_and_nothing_runs(
    job: Job, inputs: dict[str, str], message: str
) -> None:
    step = job.step(**inputs, run="touch pwned")
    assert step.code == 2
    (error,) = step.commands
    assert error.startswith("::error title=portfree::")
    assert message in error
    assert step.outputs == {"ok": "false", "freed": "", "busy": "", "report": ""}
    assert [path.name for path in job.workspace.iterdir()] == [".git"]


def test_what_no_input_says_the_configuration_does(job: Job, processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()
    shop = job.workspace / "shop"
    shop.mkdir()
    (shop / "pyproject.toml").write_text(
        f"[tool.portfree]\nports = [{port}]\nscope = 'any'\ngrace = 1.5\nwait = 2\n"
        "on-busy = 'warn'\nleaks = 'ignore'\nleaks-ignore = [5037, 'gradle*']\n"
    )
    said = {
        "scope": "any",
        "grace": 1.5,
        "wait": 2.0,
        "on_busy": "warn",
        "dry_run": False,
        "leaks": "ignore",
        "leaks_ignore": ["5037", "gradle*"],
    }
    step = job.step(working_directory="shop")
    assert step.report["before"]["request"] == {"ports": [f"{port}/tcp"], **said}
    step = job.step(working_directory="shop", ports=str(other), scope="mine", grace="0.5")
    asked = {"ports": [f"{other}/tcp"], "scope": "mine", "grace": 0.5}
    assert step.report["before"]["request"] == {**said, **asked}
    step = job.step(ports=str(other))
    assert step.report["before"]["request"] == {
        "ports": [f"{other}/tcp"],
        "scope": "orphans",
        "grace": 3.0,
        "wait": 0.0,
        "on_busy": "fail",
        "dry_run": False,
        "leaks": "warn",
        "leaks_ignore": [],
    }


def test_the_command_finds_the_job_as_it_was(job: Job, processes: Processes) -> None:
    script = "import json, os; json.dump([os.getcwd(), dict(os.environ)], open('seen', 'w'))"
    (job.workspace / "sub").mkdir()
    step = job.step(
        {"MINE": "a b"},
        ports=str(processes.free_port()),
        run=script,
        shell=f"{sys.executable} {{0}}",
        working_directory="sub",
    )
    assert step.code == 0, step.log
    where, seen = json.loads((job.workspace / "sub" / "seen").read_text())
    assert where == str(job.workspace / "sub")
    assert seen["MINE"] == "a b"
    assert seen["PATH"] == os.environ["PATH"]
    assert not [name for name in seen if name.startswith("PORTFREE_INPUT_")]


@pytest.mark.parametrize(
    ("shell", "run", "code"),
    [
        ("", "false\ntouch on", 1),
        ("", "false | true\ntouch on\nexit 3", 3),
        ("bash", "false | true\ntouch on", 1),
        ("sh", "exit 7", 7),
        ("python", "import sys\nsys.exit(5)", 5),
        (f"{shlex.quote(sys.executable)} -I {{0}}", "import sys\nsys.exit(sys.flags.isolated)", 1),
        ("bash -u {0}", "echo $nothing", 1),
        ("no-such-shell {0}", "true", 127),
    ],
)
def test_the_command_ends_the_step(
    job: Job, processes: Processes, shell: str, run: str, code: int
) -> None:
    step = job.step(ports=str(processes.free_port()), run=run, shell=shell)
    assert step.code == code
    assert (job.workspace / "on").exists() == (code == 3)
    assert step.outputs["ok"] == ("false" if code == 127 else "true")


def test_scripts_are_written_as_the_runner_does(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    assert action._script("cmd", "dir", folder) == [
        *("cmd", "/D", "/E:ON", "/V:OFF", "/S", "/C", "CALL", str(folder / "step.cmd"))
    ]
    assert (folder / "step.cmd").read_text() == "@echo off\ndir\n"
    for shell in ("pwsh", "powershell"):
        assert action._script(shell, "ls\r\n", folder) == [
            *(shell, "-command", f". '{folder / 'step.ps1'}'")
        ]
    assert (folder / "step.ps1").read_text().splitlines() == [
        "$ErrorActionPreference = 'stop'",
        "ls",
        "",
        "if ((Test-Path -LiteralPath variable:\\LASTEXITCODE)) { exit $LASTEXITCODE }",
    ]


@needs_program("setsid")
@pytest.mark.parametrize("leaks", ["", "fail"])
def test_a_server_on_another_port_is_a_leak(job: Job, processes: Processes, leaks: str) -> None:
    port, other = processes.free_port(), processes.free_port()
    step = job.step(ports=str(port), run=leaking(other), shell="bash", leaks=leaks)
    assert step.code == (125 if leaks else 0), step.log
    (line,) = step.commands
    assert line.startswith("::error title=" if leaks else "::warning title=")
    assert f"127.0.0.1:{other}" in line
    assert step.report["leaks"][0]["port"] == other
    assert cells(step.page)[-1][:3] == ["after", f"{other}/tcp", "**left behind**"]
    assert accepts(other) == (not leaks)


@needs_program("setsid")
def test_a_server_on_the_port_is_stopped_after_the_command(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    step = job.step(ports=str(port), run=leaking(port, "exit 4"), shell="bash")
    assert step.code == 4
    assert not accepts(port)
    assert step.outputs["freed"] == f"{port}/tcp"
    assert [row[:3] for row in cells(step.page)] == [
        ["before", f"{port}/tcp", "free"],
        ["after", f"{port}/tcp", "freed"],
    ]


def test_a_command_that_fails_as_we_do_has_not_succeeded(job: Job, processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()
    step = job.step(ports=str(port), run=leaking(other, "exit 125"), shell="bash", leaks="fail")
    assert step.code == 125
    assert f"127.0.0.1:{other}" in step.log
    assert "has succeeded" not in step.log


def test_a_port_that_is_busy_afterwards_fails_the_step(job: Job, processes: Processes) -> None:
    port = processes.free_port()
    run = ": >here\nuntil [ -e go ]; do sleep 0.05; done"
    process = job.start(ports=str(port), run=run)
    wait_until((job.workspace / "here").exists, "the command runs")
    server = processes.attended(tcp(port))
    (job.workspace / "go").touch()
    step = job.end(process)
    assert step.code == 125
    assert (step.outputs["ok"], step.outputs["busy"]) == ("false", f"{port}/tcp")
    assert [row[2] for row in cells(step.page)] == ["free", "**busy**"]
    assert server.alive


def test_a_hostile_process_says_nothing_to_the_runner(job: Job, processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()
    processes.orphan([*tcp(port), "--", HOSTILE], env=mark(processes))
    processes.attended([*tcp(other), "--", HOSTILE])
    step = job.step(ports=f"{port},{other}")
    assert step.code == 1
    group, end, error = step.commands
    assert (group, end) == ("::group::portfree: the ports and who held them", "::endgroup::")
    assert error.startswith(f"::error title=portfree::{other}/tcp is busy")
    assert len(step.outputs) == 4
    assert [len(row) for row in cells(step.page)] == [6, 6]
    assert "<img" not in step.page


def test_every_input_is_declared_handed_on_and_explained() -> None:
    if not SCRIPT.exists():
        pytest.skip("needs the repository")
    text = (ROOT / "action.yml").read_text()
    inputs = {field.replace("_", "-") for field in action._Inputs._fields}
    declared, given = text.split("\noutputs:\n")
    assert set(re.findall(r"(?m)^  ([a-z-]+):$", declared.split("\ninputs:\n")[1])) == inputs
    assert declared.count('default: ""') == len(inputs)
    handed_on = dict(re.findall(r"PORTFREE_INPUT_([A-Z_]+): \$\{\{ inputs\.([a-z-]+) }}", given))
    assert {name.replace("_", "-").lower(): name_ for name, name_ in handed_on.items()} == {
        name: name for name in inputs
    }
    # What a user wrote is never a part of a script.
    (script,) = re.findall(r"(?m)^ +run: (.*)$", given)
    assert "${{" not in script
    explained = re.findall(r"(?m)^\| `([a-z-]+)` \|", (ROOT / "README.md").read_text())
    assert {*inputs, "ok", "freed", "busy", "report"} <= set(explained)


# A cancelled step. The runner sends SIGINT, SIGTERM 7.5 s later, and SIGKILL after 2.5 s more.


def cancel(process: subprocess.Popen[bytes]) -> float:
    """End it as the runner does; how long it took."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    for patience, number in ((7.5, signal.SIGTERM), (2.5, signal.SIGKILL)):
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    return time.monotonic() - began


@needs_program("setsid")
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_cancelled_command_leaves_no_server(
    job: Job, processes: Processes, *, stubborn: bool
) -> None:
    port = processes.free_port()
    ignoring = "trap '' INT TERM\n" if stubborn else ""
    run = ignoring + leaking(port, ": >here\nsleep 100\nsleep 100")
    process = job.start(ports=str(port), run=run, shell="bash")
    wait_until((job.workspace / "here").exists, "the command runs")
    assert cancel(process) < 10
    step = job.end(process)
    assert step.code not in (0, -signal.SIGKILL), step.log
    assert not accepts(port)
    assert step.outputs["freed"] == f"{port}/tcp"
    assert step.page


@pytest.mark.parametrize("run", ["", "touch started"])
def test_a_step_that_is_cancelled_while_it_frees_does_so_in_a_hurry(
    job: Job, processes: Processes, run: str
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--ignore", "TERM", "--ignore", "INT"), env=mark(processes))
    process = job.start(ports=str(port), grace="60", run=run)
    wait_until(lambda: "waiting" in job.log(), "it waits for the server")
    assert cancel(process) < 7.5
    step = job.end(process)
    assert step.code == 130
    assert step.outputs["freed"] == f"{port}/tcp"
    assert not (job.workspace / "started").exists()
    server.wait_gone()


# As root


def test_sudo_frees_as_root_and_runs_the_command_as_us(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "sudo"
    # -n --, and then what is run.
    program.write_text('#!/bin/sh\necho "$1 $2" >"$0.called"\nshift 2\nexec "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    port = processes.free_port()
    server = processes.orphan(tcp(port), env=mark(processes))
    request = Request((Port(port),), scope="mine")
    found = sudo.free_as_root(request, captured=True)
    server.wait_gone()
    assert (tmp_path / "bin" / "sudo.called").read_text() == "-n --\n"
    assert (found.request, found.freed) == (request, (Port(port),))

    program.write_text('#!/bin/sh\necho "sudo: a password is required" >&2\nexit 1\n')
    with pytest.raises(
        PortfreeError, match=r"^sudo: sudo: a password is required; run sudo -v first"
    ):
        sudo.free_as_root(request, captured=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PortfreeError, match=r"^sudo: sudo cannot be run"):
        sudo.free_as_root(request, captured=True)


def test_a_failure_of_ours_keeps_no_command_from_running(
    job: Job, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.chdir(job.workspace)
    monkeypatch.setenv("RUNNER_TEMP", str(job.temp))
    monkeypatch.setattr("portfree._core.free.bind", fail)
    monkeypatch.setattr(action, "_details", say_nothing)
    request = Request((Port(processes.free_port()),), leaks="ignore")
    done = action._around(action._Inputs(run="touch started; exit 4"), request, as_root=False)
    assert done.code == 4
    assert (job.workspace / "started").exists()
    assert done.run is not None
    (outcome,) = done.before.outcomes
    assert outcome.notes[0].text.endswith("could not be looked for: broken")


def say_nothing(*_: object) -> None:
    """What needs the log of a step, which there is none of."""
