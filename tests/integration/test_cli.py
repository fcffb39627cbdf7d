"""The command: what it asks for, what it prints where, and how it exits."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.reports import Fake
from portfree import Port
from portfree._cli.main import main
from portfree._output.console import in_color

if TYPE_CHECKING:
    pass


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
    monkeypatch.setattr("portfree._cli.main.as_text", lambda *_, **__: "müsli")

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
