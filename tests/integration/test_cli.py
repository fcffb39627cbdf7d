"""The command: what it asks for, what it prints where, and how it exits."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.processes import http_server, tcp, wait_until
from portfree import HolderReport, Outcome, Port, Report, Verdict
from portfree._cli.main import main
from portfree._output.console import in_color

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.processes import Processes
    from portfree.model import Request

KEPT = HolderReport(
    pid=77,
    name="node",
    command="node server.js",
    user="alice",
    uid=1000,
    started=None,
    cwd=None,
    launcher="",
    test="",
    addresses=(),
    root=True,
    verdict=Verdict("keep", "attended", "started by zsh (pid 9)", "stop it there"),
)


class Fake:
    """Stands in for `free`: remembers what it was asked, and finds the busy ports busy."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.busy: tuple[int, ...] = ()
        self.line = ""
        self.error: type[BaseException] | None = None

    def __call__(self, request: Request, *, notice: Callable[[str], None] | None = None) -> Report:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        if notice is not None and self.line:
            notice(self.line)
        return Report(request, tuple(map(self._outcome, request.ports)))

    def _outcome(self, port: Port) -> Outcome:
        if port.number in self.busy:
            return Outcome(port, "busy", ok=False, holders=(KEPT,))
        return Outcome(port, "free")

    @property
    def request(self) -> Request:
        """The one request that there was."""
        (request,) = self.requests
        return request


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    fake = Fake()
    monkeypatch.setattr("portfree._cli.main.free", fake)
    (tmp_path / ".git").mkdir()  # nothing above this directory is ours
    monkeypatch.chdir(tmp_path)
    return fake


# --- what is asked for ---------------------------------------------------------------------------


def test_ports_are_all_that_it_takes(fake: Fake) -> None:
    assert main(["8000", "8125/udp", "9000-9001"]) == 0

    assert fake.request.ports == (Port(8000), Port(8125, "udp"), Port(9000), Port(9001))
    assert fake.request[1:6] == ("mine", 3.0, 0.0, "fail", False)


def test_every_option_arrives(fake: Fake) -> None:
    line = "8000 --scope any --grace 0.5 --wait=2 --on-busy warn --dry-run"

    assert main(shlex.split(line)) == 0

    assert fake.request[1:6] == ("any", 0.5, 2.0, "warn", True)


def test_options_and_ports_may_be_mixed(fake: Fake) -> None:
    assert main(shlex.split("1 --dry-run 2 -q 3 --scope orphans -- 4")) == 0

    assert [port.number for port in fake.request.ports] == [1, 2, 3, 4]


def test_the_words_of_the_process_are_the_default(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["portfree", "8000"])

    assert main() == 0

    assert fake.request.ports == (Port(8000),)


def test_without_ports_those_of_the_project_are_freed(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.portfree]\nports = [8000]\nscope = 'orphans'\ngrace = 1\nwait = 2\non-busy = 'warn'"
    )
    fake.busy = (8000,)

    assert main([]) == 0

    assert fake.request.ports == (Port(8000),)
    assert fake.request[1:6] == ("orphans", 1.0, 2.0, "warn", False)


def test_options_win_over_the_project(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.portfree]\nports = [8000]\nscope = 'orphans'\ngrace = 1\nwait = 2\non-busy = 'warn'"
    )

    assert main(shlex.split("--scope mine --grace 0 --wait 0 --on-busy fail")) == 0

    assert fake.request[1:6] == ("mine", 0.0, 0.0, "fail", False)


def test_what_the_project_leaves_out_is_as_ever(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.portfree]\nports = 8000")

    assert main([]) == 0

    assert fake.request[1:6] == ("mine", 3.0, 0.0, "fail", False)


def test_with_ports_no_configuration_is_read(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.portfree]\nthis is no TOML")

    assert main(["8000"]) == 0
    assert main(["--scope", "any", "8000"]) == 0
    assert main([]) == 2
    assert len(fake.requests) == 2


# --- exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "busy", "code"),
    [
        ("8000 8001", (), 0),
        ("8000 8001", (8001,), 1),
        ("8000 8001 --on-busy fail", (8001,), 1),
        ("8000 8001 --on-busy warn", (8001,), 0),
        ("8000 8001 --dry-run", (), 0),
        ("8000 8001 --dry-run", (8000,), 1),
        ("8000 8001 --json", (8000,), 1),
        ("8000 8001 -q", (8000,), 1),
    ],
)
def test_the_exit_code_says_whether_a_port_is_busy(
    fake: Fake, line: str, busy: tuple[int, ...], code: int
) -> None:
    fake.busy = busy

    assert main(shlex.split(line)) == code


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--scope all 8000", "--scope is 'all': choose one of orphans, project, mine, any"),
        ("--grace -1 8000", "--grace is -1.0: give seconds from 0 to 86400 (one day)"),
        ("--grace=-1 8000", "--grace is -1.0: give seconds from 0 to 86400 (one day)"),
        ("--grace nan 8000", "--grace is nan: give seconds from 0 to 86400 (one day)"),
        ("--wait inf 8000", "--wait is inf: give seconds from 0 to 86400 (one day)"),
        ("--wait soon 8000", "--wait is 'soon': give a number of seconds, such as 3 or 0.5"),
        ("--on-busy stop 8000", "--on-busy is 'stop': choose one of warn, fail"),
        ("--force 8000", "unrecognized arguments: --force (portfree --help explains the options)"),
        ("--dry 8000", "unrecognized arguments: --dry (portfree --help explains the options)"),
        ("--gr 1 8000", "unrecognized arguments: --gr (portfree --help explains the options)"),
        ("8000 --grace", None),
        ("-1", "'-1' is not a port: write 8000, 8000/tcp, 8125/udp or 8000-8010"),
        ("8000 -1", "'-1' is not a port: write 8000, 8000/tcp, 8125/udp or 8000-8010"),
        ("--dry-run -1/tcp", "'-1/tcp' is not a port: write 8000, 8000/tcp, 8125/udp or 8000-8010"),
        ("-- -1", "'-1' is not a port: write 8000, 8000/tcp, 8125/udp or 8000-8010"),
        ("''", "'' names no port: write 8000, 8000/tcp, 8125/udp or 8000-8010"),
        ("-q ''", "'' names no port: write 8000, 8000/tcp, 8125/udp or 8000-8010"),
        ("--$'\x1b[2J' 8000", None),
    ],
)  # fmt: skip
def test_a_slip_is_one_line_and_nothing_is_done(
    fake: Fake, capsys: pytest.CaptureFixture[str], line: str, said: str | None
) -> None:
    assert main(shlex.split(line)) == 2

    out, err = capsys.readouterr()
    assert (out, fake.requests) == ("", [])
    assert err.removesuffix("\n").isprintable()
    assert err.endswith("\n")
    if said is not None:
        assert err == f"portfree: {said}\n"


def test_without_ports_anywhere_it_says_how_to_give_them(
    fake: Fake, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err == (
        "portfree: no ports: give them, portfree 8000, or list them in pyproject.toml: "
        "[tool.portfree] ports = [8000]\n"
    )

    (tmp_path / "pyproject.toml").write_text("[tool.portfree]\nscope = 'any'")
    assert main(["--dry-run"]) == 2
    said = f"portfree: no ports in [tool.portfree] of {tmp_path}/pyproject.toml: give them, "
    assert capsys.readouterr().err.startswith(said)
    assert fake.requests == []


def test_broken_configuration_is_one_line(
    fake: Fake, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.portfree]\nports = [8000")

    assert main([]) == 2

    err = capsys.readouterr().err
    assert err.startswith(f"portfree: {tmp_path}/pyproject.toml is not valid TOML: ")
    assert err.count("\n") == 1
    assert fake.requests == []


def test_an_interruption_is_one_line_that_says_what_may_be_left(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.error = KeyboardInterrupt

    assert main(["8000", "8001"]) == 130

    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "portfree: interrupted: a server that was asked to stop may still be ending, or hold its "
        "port; look: portfree --dry-run 8000 8001\n"
    )


# --- output --------------------------------------------------------------------------------------


def test_the_report_goes_to_stdout(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.busy = (8001,)

    main(["8000", "8001"])

    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "8000/tcp: free\n"
        "8001/tcp: busy\n"
        "  kept node server.js (pid 77), alice\n"
        "    why:     attended: started by zsh (pid 9)\n"
        "    instead: stop it there\n"
    )


def test_quietly_only_what_stays_busy_is_said_and_on_stderr(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.line = "waiting for node"
    assert main(["-q", "8000"]) == 0
    assert capsys.readouterr() == ("", "")

    fake.busy = (8001,)
    assert main(["8000", "8001", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("8001/tcp: busy\n  kept node server.js (pid 77), alice\n")


@pytest.mark.parametrize("flags", ["--json", "--json -q"])
def test_the_json_is_all_that_stdout_gets(
    fake: Fake, capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    fake.busy = (8001,)
    fake.line = "waiting for node"

    assert main(shlex.split(f"8000 8001 {flags}")) == 1

    report = json.loads(capsys.readouterr().out)
    assert report["version"] == 1
    assert [outcome["status"] for outcome in report["outcomes"]] == ["free", "busy"]


def test_a_long_wait_is_announced_on_stderr(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.line = "waiting for evil\x1b[2J (pid 5)"

    main(["8000"])

    assert capsys.readouterr() == (
        "8000/tcp: free\n",
        "portfree: waiting for evil\\x1b[2J (pid 5)\n",
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "colored"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "0"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_color_is_for_terminals_that_want_it(
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    *,
    colored: bool,
    quiet: bool,
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr" if quiet else "stdout", terminal)
    fake.busy = (8000,)

    main(["8000", "-q"] if quiet else ["8000"])

    assert ("\x1b[31mbusy" in terminal.getvalue()) is colored


@pytest.mark.usefixtures("fake")
def test_no_color_for_files_pipes_and_old_windows_consoles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NO_COLOR", "TERM", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    main(["8000"])
    assert "\x1b" not in capsys.readouterr().out

    monkeypatch.setattr("portfree._output.console.os.name", "nt")
    assert not in_color(Terminal())
    monkeypatch.setenv("WT_SESSION", "1")
    assert in_color(Terminal())
    assert not in_color(None)


def test_help_names_every_option_and_exit_code(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help", "not a port"]) == 0

    out = capsys.readouterr().out
    for word in (
        *("--dry-run", "--json", "--scope", "--grace", "--wait", "--on-busy", "--sudo"),
        *("--quiet", "--version", "orphans", "mine", "any", "[tool.portfree]", "exit codes:"),
    ):
        assert word in out
    assert fake.requests == []


def test_the_version_is_that_of_the_project(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0

    assert capsys.readouterr().out == f"portfree {version('portfree')}\n"
    assert fake.requests == []


@pytest.mark.usefixtures("fake")
def test_a_stdout_that_cannot_write_every_letter_gets_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr("portfree._output.text.as_text", lambda *_, **__: "müsli")

    assert main(["8000"]) == 0

    assert raw.getvalue() == b"m\\xfcsli\n"


def test_without_stdout_and_stderr_the_work_is_done_all_the_same(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.busy = (8001,)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    assert main(["8000"]) == 0
    assert main(["8000", "8001"]) == 1
    assert main(["-q", "8001"]) == 1
    assert main(["0"]) == 2


def test_without_stderr_nothing_of_it_goes_to_stdout(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.busy = (8001,)
    fake.line = "waiting for node"
    monkeypatch.setattr(sys, "stderr", None)

    assert main(["-q", "8001"]) == 1
    assert main(["0"]) == 2
    assert main(["8000"]) == 0
    assert capsys.readouterr().out == "8000/tcp: free\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EPIPE, ""),
        (errno.ENOSPC, "portfree: cannot write to stdout: No space left on device\n"),
    ],
)
def test_a_stdout_that_fails_does_not_hide_that_a_port_is_busy(
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    number: int,
    said: str,
) -> None:
    class Broken(io.StringIO):
        def flush(self) -> None:
            raise OSError(number, os.strerror(number))

        def fileno(self) -> int:
            return descriptor

    fake.busy = (8000,)
    with (tmp_path / "stdout").open("w") as file:
        descriptor = file.fileno()
        monkeypatch.setattr(sys, "stdout", Broken())
        assert main(["8000"]) == 1
        # What is written to it from now on, such as the buffer at exit, goes nowhere.
        assert os.fstat(descriptor).st_rdev == os.stat(os.devnull).st_rdev  # noqa: PTH116

    assert capsys.readouterr().err == said


# --- as root -------------------------------------------------------------------------------------


@pytest.fixture
def sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a sudo of our own on the path, with this shell script as its work."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def install(script: str) -> None:
        path = folder / "sudo"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return install


# Does as sudo does, but for the rights.
AS_SUDO = 'printf "%s\\n" "$*" >> calls; [ "$*" = "-n true" ] && exit 0; shift 2; exec "$@"'


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_root_does_the_work_and_we_show_it(
    processes: Processes,
    sudo: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    sudo(AS_SUDO)
    port = processes.free_port()
    server = processes.orphan(tcp(port))

    assert main([*words, "--sudo", "--grace", "1", str(port)]) == 0

    said, err = capfd.readouterr()
    assert (f'"pid": {server.pid}' if words else f"(pid {server.pid})") in said
    assert err == ""
    first, second = Path("calls").read_text().splitlines()
    assert first == "-n true"
    assert second.startswith(f"-n -- {sys.executable} -I -c import sys; sys.path.append(")


def test_what_root_runs_is_this_package_and_nothing_from_here(
    processes: Processes,
    sudo: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    sudo(AS_SUDO)
    # The current directory and PYTHONPATH offer traps, which only a careless start falls into.
    for trap in ("portfree.py", "argparse.py", "re.py"):
        (tmp_path / trap).write_text("raise SystemExit('trapped')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    assert main(["--sudo", str(processes.free_port())]) == 0


@pytest.mark.usefixtures("fake")
def test_bad_input_never_gets_as_far_as_sudo(sudo: Callable[[str], None], tmp_path: Path) -> None:
    sudo("touch called")

    assert main(["--sudo", "8000x"]) == 2
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'sudo: a password is required' >&2; exit 1",
            (
                "--sudo: sudo: a password is required; "
                "run sudo -v first, or ask for a rule without a password"
            ),
        ),
        (
            "exit 1",
            "--sudo: sudo refused; run sudo -v first, or ask for a rule without a password",
        ),
    ],
)
def test_a_sudo_that_wants_a_password_is_one_line(
    fake: Fake,
    sudo: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    script: str,
    said: str,
) -> None:
    sudo(script)

    assert main(["--sudo", "8000"]) == 2
    assert capsys.readouterr().err == f"portfree: {said}\n"
    assert fake.requests == []


@pytest.mark.usefixtures("fake")
def test_no_sudo_at_all_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert main(["--sudo", "8000"]) == 2

    assert capsys.readouterr().err == (
        "portfree: --sudo: sudo cannot be run (No such file or directory); "
        "run portfree as root, or leave --sudo out\n"
    )


def test_root_needs_no_sudo(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert main(["--sudo", "8000"]) == 0
    assert fake.request.ports == (Port(8000),)


@pytest.mark.usefixtures("fake")
def test_there_is_no_sudo_on_windows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(os, "geteuid")

    assert main(["--sudo", "8000"]) == 2
    assert "run portfree as an administrator" in capsys.readouterr().err


# --- for real ------------------------------------------------------------------------------------


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "portfree", *words]


def _run(
    processes: Processes, *words: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*words),
        cwd=cwd,
        env=processes.environment(env),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_free_port(processes: Processes) -> None:
    port = processes.free_port()

    done = _run(processes, str(port))

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{port}/tcp: free\n", "")


def test_a_server_is_stopped_and_named_once(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(http_server(port), cwd=project, listening=port)

    done = _run(processes, str(port), cwd=project)

    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0].startswith(f"{port}/tcp: freed in ")
    assert "stopped " in lines[1]
    assert "-m http.server " in lines[1]
    assert f"(pid {server.pid}), " in lines[1]
    assert lines[3].startswith("    how:     ended after SIGTERM (")
    assert len(lines) == 4
    server.wait_gone()


def test_a_dry_run_leaves_it_alone(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)

    done = _run(processes, "--dry-run", "--json", str(port), cwd=project)

    (outcome,) = json.loads(done.stdout)["outcomes"]
    assert done.returncode == 0
    assert (outcome["status"], outcome["ok"]) == ("busy", True)
    assert [holder["pid"] for holder in outcome["holders"]] == [server.pid]
    assert server.alive


def test_a_server_that_is_kept(processes: Processes, elsewhere: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=elsewhere)

    done = _run(processes, "--scope", "orphans", str(port))
    quiet = _run(processes, "-q", "--scope", "orphans", str(port))
    warned = _run(processes, "--on-busy", "warn", "--scope", "orphans", str(port))

    assert (done.returncode, quiet.returncode, warned.returncode) == (1, 1, 0)
    assert done.stdout.startswith(f"{port}/tcp: busy\n  kept ")
    assert f"(pid {server.pid})" in done.stdout
    assert "    instead: " in done.stdout
    assert (quiet.stdout, done.stderr) == ("", "")
    assert quiet.stderr.startswith(f"{port}/tcp: busy\n  kept ")
    assert warned.stdout.startswith(f"{port}/tcp: busy\n  kept ")
    assert server.alive


@pytest.mark.parametrize("spec", ["0", "65536", "-1", "abc", "", "8000-7000", "1-65535"])
def test_bad_ports_for_real(processes: Processes, spec: str) -> None:
    done = _run(processes, spec)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"portfree: '{spec}' ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(processes: Processes) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            _command("--help"),
            env=processes.environment(),
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(processes: Processes) -> None:
    port = processes.free_port()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            _command(str(port)),
            env=processes.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert done.returncode == 3
    assert done.stderr == b"portfree: cannot write to stdout: No space left on device\n"


def test_a_command_is_for_portfree_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["8000", "--scope", "any", "--", "pytest", "-x"]) == 2
    assert capsys.readouterr().err == (
        "portfree: to run a command, write: portfree run 8000 --scope any -- pytest -x\n"
    )
    assert main(["--dry-run", "8000", "--", "sh", "-c", "a b"]) == 2
    assert capsys.readouterr().err.endswith(": portfree run 8000 -- sh -c 'a b'\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_stderr_that_fails_keeps_no_server_alive(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--ignore", "TERM"), cwd=project)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            _command("--grace", "1.2", str(port)),
            env=processes.environment(),
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
        )
        wrong = subprocess.run(
            _command("99999"), env=processes.environment(), stderr=full, check=False
        )

    assert done.returncode == 0, done.stdout
    assert not server.alive
    assert wrong.returncode == 2


def test_the_usage_tells_of_portfree_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "usage: portfree [PORT ...] [options]",
        "       portfree run [PORT ...] [options] -- COMMAND ...",
    ]


def test_control_c_while_it_waits(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--ignore", "TERM", "--ignore", "INT"), cwd=project)

    with subprocess.Popen(
        _command(str(port), "--grace", "3600"),
        cwd=project,
        env=processes.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        # It says for whom it waits, so it has signalled and is at it.
        line = wait_until(process.stderr.readline, "a line on whom it waits for")
        process.send_signal(signal.SIGINT)
        rest, out = process.stderr.read(), process.stdout.read()

    assert process.returncode == 130
    assert line.startswith("portfree: waiting for ")
    assert f"(pid {server.pid})" in line
    assert rest.startswith("portfree: interrupted: ")
    assert f"portfree --dry-run {port} --grace 3600" in rest
    assert rest.count("\n") == 1
    assert out == ""
    assert server.alive


def test_a_free_port_loads_nothing_that_is_slow_to_import(processes: Processes) -> None:
    paths = f"import sys; sys.path[:0] = {sys.path!r}"
    code = (
        "from portfree._cli.main import main; code = main(sys.argv[1:]);"
        "print(*sorted(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        # Without site (-S), which would load what start-up hooks of other packages ask for.
        [sys.executable, "-I", "-S", "-c", f"{paths}; {code}", str(processes.free_port())],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.splitlines()[-1].split())

    slow = {
        *("argparse", "dataclasses", "inspect", "json", "logging", "pathlib", "psutil", "shutil"),
        *(
            "subprocess",
            "tempfile",
            "tomllib",
            "urllib",
            "portfree._core.pyproject",
        ),
    }
    assert "portfree._cli.main" in loaded
    assert not slow & loaded
