"""``portfree run``: real commands, real signals, real terminals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.commands import (
    Recorder,
    Running,
    leaver,
    portfree_run,
    run,
    shell,
)
from helpers.processes import (
    Processes,
    is_free,
    launch,
    tcp,
)
from helpers.schema import check
from portfree import Report
from portfree._cli import child, interrupts
from portfree._cli import run as _run_command
from portfree._cli.main import main

if TYPE_CHECKING:
    from collections.abc import Collection

pytestmark = pytest.mark.usefixtures("project")


# Exit codes


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (shell("exit 3"), 3),
        (shell("exit 255"), 255),
        (shell("kill -INT $$"), -signal.SIGINT),
        (shell("kill -QUIT $$"), -signal.SIGQUIT),
        (shell("kill -TERM $$"), 143),
        (shell("kill -KILL $$"), 137),
        (["/"], 126),
        (["no-such-command-anywhere"], 127),
    ],
    ids=lambda value: None if isinstance(value, int) else " ".join(value),
)
def test_the_exit_code_is_that_of_the_command(
    processes: Processes, command: list[str], code: int
) -> None:
    assert run(processes, str(processes.free_port()), "--", *command)[0] == code


def test_a_file_that_cannot_be_run(processes: Processes, project: Path) -> None:
    script = project / "script"
    script.write_text("true\n")

    code, output = run(processes, str(processes.free_port()), "--", "./script")
    assert (code, "./script: Permission denied" in output) == (126, True)

    script.chmod(0o755)  # it does not say by whom it is to be run
    code, output = run(processes, str(processes.free_port()), "--", "./script")
    assert (code, "./script: Exec format error" in output) == (126, True)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["PORT"], "no command: give it after --"),
        (["PORT", "--"], "no command: give it after --"),
        (["PORT", "--", ""], "no command: give it after --"),
        (["80000", "--", "true"], "ports go from 1 to 65535"),
        (["-1", "--", "true"], "is not a port"),
        (["PORT", "--leaks", "yes", "--", "true"], "--leaks is 'yes': choose one of"),
        (["PORT", "--grace", "soon", "--", "true"], "--grace is 'soon'"),
        (["PORT", "--nonsense", "--", "true"], "portfree run --help explains the options"),
        (["PORT", "--report", "no/such/folder", "--", "true"], "--report no/such/folder: No such"),
        (["--", "true"], "no ports"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_slip_is_one_line_and_nothing_is_started(
    processes: Processes, words: list[str], complaint: str
) -> None:
    words = [str(processes.free_port()) if word == "PORT" else word for word in words]

    code, output = run(processes, *words)

    assert code == 125
    assert output.startswith("portfree: ")
    assert complaint in output
    assert output.count("\n") == 1


def test_help_explains_options_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run_command.main(["--help"]) == 0

    text = capsys.readouterr().out
    for word in ("--scope", "--grace", "--wait", "--on-busy", "--leaks", "--report", "125", "127"):
        assert word in text


# What the command finds


def test_nothing_is_said_where_nothing_was_done(processes: Processes) -> None:
    process = subprocess.run(
        [*portfree_run(), str(processes.free_port()), "--", "cat"],
        env=processes.environment(),
        input=b"through and through",
        capture_output=True,
        check=False,
    )

    assert (process.returncode, process.stdout, process.stderr) == (0, b"through and through", b"")


def test_other_descriptors_are_passed_on(processes: Processes) -> None:
    reader, writer = os.pipe()

    subprocess.run(
        [*portfree_run(), str(processes.free_port()), "--", "bash", "-c", f"echo here >&{writer}"],
        env=processes.environment(),
        pass_fds=[writer],
        check=True,
    )

    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read() == "here\n"


def test_the_command_has_the_signal_mask_and_dispositions_that_we_had(processes: Processes) -> None:
    status = ["grep", "^Sig[BI]", "/proc/self/status"]
    plain = subprocess.run(status, capture_output=True, text=True, check=True).stdout

    code, output = run(processes, str(processes.free_port()), "--", *status)

    assert code == 0
    assert signal_sets(output) == signal_sets(plain)


def signal_sets(status: str) -> dict[str, int]:
    pairs = (line.split() for line in status.splitlines())
    # Signals 32 and 33 are the C library's own: a child of its posix_spawn() ignores them.
    return {name: int(bits, 16) & 0x7FFF_FFFF for name, bits in pairs}


def test_what_nohup_ignores_stays_ignored(processes: Processes, recorder: Recorder) -> None:
    words = [str(processes.free_port()), "--", *recorder.command]
    running = Running(processes, words, prefix=["nohup"])
    recorder.wait_ready()

    running.send(signal.SIGHUP)
    running.send(signal.SIGUSR1)

    assert running.end() == 7
    assert recorder.signals == ["SIGUSR1"]


def test_a_parent_that_ignores_its_children(processes: Processes) -> None:
    words = [str(processes.free_port()), "--", *shell("exit 3")]
    ignoring = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    start = [sys.executable, "-c", ignoring + "os.execv(sys.argv[1], sys.argv[1:])"]

    assert run(processes, *words, prefix=start)[0] == 3


# Before and after


def test_the_port_is_free_for_the_command(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port), cwd=project)

    code, output = run(
        processes,
        str(port),
        "--",
        sys.executable,
        "-c",
        f"import socket; socket.create_server(('127.0.0.1', {port}))",
    )

    assert code == 0
    assert not server.alive
    assert f"{port}/tcp: freed" in output
    assert f"(pid {server.pid})" in output


def test_the_scope_is_for_the_beginning(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port), cwd=project)

    code, output = run(processes, str(port), "--scope", "orphans", "--", "touch", "started")

    assert code == 125
    assert server.alive
    assert not (project / "started").exists()
    assert output.count("\n") == output.count("portfree: the command was not started: ") == 1
    assert f"(pid {server.pid})" in output


def test_a_port_that_stays_busy_can_be_put_up_with(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port), cwd=project)

    code, output = run(
        processes, str(port), "--scope", "orphans", "--on-busy", "warn", "--", *shell("exit 4")
    )

    assert code == 4
    assert server.alive
    assert output.count(f"{port}/tcp: busy") == 1
    assert f"{port}/tcp was busy: these tests may have talked to" in output.splitlines()[-1]


@pytest.mark.parametrize("how", [0, 5, "SIGKILL"])
@pytest.mark.parametrize("mode", ["child", "orphan"])
def test_what_the_command_leaves_on_the_port_is_stopped(
    processes: Processes, how: int | str, mode: str
) -> None:
    port = processes.free_port()
    server = tcp(port) if mode == "child" else launch(mode, tcp(port))

    code, output = run(
        processes, str(port), "--", *leaver(how, port, server), env={"STAGE_READY": "2"}
    )

    assert code == (137 if how == "SIGKILL" else how)
    assert f"{port}/tcp: freed" in output
    assert is_free(port)


def test_who_took_the_port_meanwhile_is_not_stopped(
    processes: Processes, project: Path, recorder: Recorder
) -> None:
    port = processes.free_port()
    running = Running(processes, [str(port), "--", *recorder.command])
    recorder.wait_ready()
    stranger = processes.attended(tcp(port), cwd=project)

    running.send(signal.SIGUSR1)

    assert running.end() == 7
    assert stranger.alive
    assert f"{port}/tcp: busy" in running.output


def test_without_ports_those_of_the_project(processes: Processes, project: Path) -> None:
    port, other = processes.free_port(), processes.free_port()
    table = f'[tool.portfree]\nports = {port}\nleaks = "fail"\n'
    (project / "pyproject.toml").write_text(table)
    server = processes.attended(tcp(port), cwd=project)

    code, output = run(processes, "--", *leaver(0, other, tcp(other)))

    assert code == 125
    assert not server.alive
    assert f"127.0.0.1:{other}: ended after SIGTERM" in output


def test_an_unexpected_failure_keeps_no_command_from_running(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> Report:
        raise RuntimeError("of all things")

    monkeypatch.setattr("portfree._core.free.bind", fail)
    monkeypatch.setattr("portfree.run.free", fail)
    words = [str(processes.free_port()), "--on-busy", "warn", "--", "sh", "-c", "exit 3"]

    assert _run_command.main(words) == 3
    said = capfd.readouterr().err
    assert "could not be looked for: of all things" in said
    assert "the ports could not be looked after at the end: RuntimeError" in said


@pytest.mark.parametrize("option", ["--dry-run", "--json", "--sudo"])
def test_options_of_the_other_command_are_named_with_what_to_do(
    option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run_command.main(["8000", option, "--", "true"]) == 125
    assert capfd.readouterr().err.startswith(f"portfree: portfree run has no {option}: ")


def test_a_report_on_a_command_that_is_not_found(processes: Processes, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    words = [str(processes.free_port()), "--report", str(file), "--", "no-such-command"]

    assert _run_command.main(words) == 127

    said = check(file.read_text(), "run")
    assert (said["exit_code"], said["ok"]) == (127, True)
    assert said["after"]["outcomes"][0]["status"] == "free"


def test_no_report_is_better_than_an_empty_one(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFREE_BACKEND", "nonsense")
    file = tmp_path / "report.json"
    words = [str(processes.free_port()), "--report", str(file), "--", "true"]

    assert _run_command.main(words) == 125
    assert not file.exists()
    assert _run_command.main([*words[:2], "/dev/null", *words[3:]]) == 125
    assert Path("/dev/null").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_report_that_cannot_be_written(
    processes: Processes, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [str(processes.free_port()), "--report", "/dev/full", "--", "sh", "-c", "exit 3"]

    assert _run_command.main(words) == 3

    assert capfd.readouterr().err == (
        "portfree: the report could not be written: No space left on device\n"
    )


def test_a_folder_on_the_path_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For which execvp(3) says EACCES, whatever is looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "there").touch()
    refused = PermissionError(errno.EACCES, "Permission denied")

    missing, there = (interrupts.CannotRunError(name, refused) for name in ("nowhere", "there"))

    assert (missing.code, str(missing)) == (127, "nowhere: No such file or directory")
    assert (there.code, str(there)) == (126, "there: Permission denied")
    assert interrupts.CannotRunError(str(tmp_path / "nowhere"), refused).code == 126


def test_interrupted_before_the_command(
    processes: Processes,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(_run_command, "free", interrupted)

    assert _run_command.main([str(processes.free_port()), "--", "touch", "started"]) == 130
    assert "portfree: interrupted" in capfd.readouterr().err
    assert not (project / "started").exists()


def test_it_leaves_the_calling_process_as_it_was(processes: Processes) -> None:
    def state() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        return handlers, signal.pthread_sigmask(signal.SIG_BLOCK, ()), dict(os.environ)

    before = state()
    assert _run_command.main([str(processes.free_port()), "--", "true"]) == 0
    assert state() == before
    assert _run_command.main([str(processes.free_port()), "--", "no-such-command"]) == 127
    assert state() == before
    words = [str(processes.free_port()), "--", *shell("kill -INT $$")]
    assert main(["run", *words]) == 128 + signal.SIGINT
    assert state() == before


def test_a_command_that_ends_unheard_has_ended_all_the_same(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = child._next_signal

    def deaf(watched: Collection[int], timeout: float) -> child._Signal | None:
        # As where another thread has got it.
        got = hear(watched, timeout)
        return None if got is not None and got.number == signal.SIGCHLD else got

    monkeypatch.setattr(child, "_next_signal", deaf)
    monkeypatch.setattr(child, "_LOOK_AGAIN", 0.05)

    assert _run_command.main([str(processes.free_port()), "--", "sh", "-c", "exit 3"]) == 3
