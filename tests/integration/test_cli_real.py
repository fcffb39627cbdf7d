"""The command for real: as root, and with real servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.processes import http_server, tcp, wait_until
from helpers.reports import Fake
from portfree import Port
from portfree._cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.processes import Processes


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
