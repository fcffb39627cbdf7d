"""``portfree run``: real commands, real signals, real terminals."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    PATIENCE,
    Identity,
    Processes,
    accepts,
    children,
    is_free,
    launch,
    tcp,
    wait_until,
)
from portfree import Report
from portfree._cli import child
from portfree._cli import run as _run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

pytestmark = pytest.mark.usefixtures("project")

# A command that writes down what it is and which signals it gets, one word a line. SIGUSR1 ends it
# with code 7: whatever was sent before that has arrived by then, once or twice.
RECORDER = """
import os, signal, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def say(text):
    os.write(log, text.encode() + b"\\n")
def got(number, _):
    say(signal.Signals(number).name)
    if number == signal.SIGUSR1 or signal.Signals(number).name in sys.argv[2:]:
        os._exit(7)
for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1", "SIGHUP"):
    if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
        signal.signal(getattr(signal, name), got)
say(f"ready {os.getpid()}")
while True:
    signal.pause()
"""

# A command that starts a server, waits until it serves, and ends in the way that it was told.
LEAVER = """
import json, os, socket, subprocess, sys, time
how, port, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
subprocess.Popen(command, stdin=subprocess.DEVNULL)
while socket.socket().connect_ex(("127.0.0.1", port)):
    time.sleep(0.005)
if how.startswith("SIG"):
    import signal
    os.kill(os.getpid(), getattr(signal, how))
sys.exit(int(how))
"""

# Runs `portfree run` with other timings, or as on a system that does not tell who sent a signal.
DRIVER = """
import json, sys
from portfree._cli import child, run
settings = json.loads(sys.argv[1])
child._SENDER_IS_TOLD = settings.pop("sender_is_told", True)
sys.exit(run.main(sys.argv[2:], child.Timings(**settings)))
"""


class Running:
    """A ``portfree run`` under way; its stdout and stderr are one pipe, or one terminal."""

    def __init__(
        self,
        processes: Processes,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
        driver: Mapping[str, object] | None = None,
        prefix: Sequence[str] = (),
        program: Sequence[str] = (),
    ) -> None:
        start = [*portfree_run(driver), *words]
        mine, theirs = pty.openpty() if terminal else os.pipe()
        processes._open.callback(os.close, mine)
        try:
            self.process = subprocess.Popen(
                program or [*prefix, *start],
                env=processes.environment(env),
                stdin=theirs if terminal else subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                preexec_fn=_take_terminal if terminal else None,
            )
        finally:
            os.close(theirs)
        processes._children.append(self.process)
        self._mine = mine
        self.output = ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to portfree alone."""
        self.process.send_signal(number)

    def type(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until it has written this, on stdout or stderr."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.output:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._mine], [], [], max(left, 0))
            chunk = self._read() if ready else b""
            if not chunk:
                pytest.fail(f"waited in vain for {text!r}, there was only:\n{self.output}")

    def hang_up(self) -> None:
        """Close the terminal."""
        os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), self._mine)

    def forget(self) -> None:
        self.output = ""

    def end(self) -> int:
        """Wait for its end, and return the exit code.

        Not for the end of its output: what it leaves behind has that open too.
        """
        ended = os.pidfd_open(self.process.pid)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self._mine, select.POLLIN)
        deadline = time.monotonic() + PATIENCE
        while ready := dict(poll.poll(max(0, deadline - time.monotonic()) * 1000)):
            if self._mine in ready:
                if not self._read():
                    poll.unregister(self._mine)
            else:  # it has ended, and all that it has written is read
                break
        os.close(ended)
        if self.process.poll() is None:
            pytest.fail(f"it did not end, and wrote only:\n{self.output}")
        return self.process.wait()

    def _read(self) -> bytes:
        try:
            chunk = os.read(self._mine, 65536)
        except OSError:  # EIO: nobody has the other end of the terminal open any more
            chunk = b""
        self.output += chunk.decode(errors="replace")
        return chunk


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def portfree_run(driver: Mapping[str, object] | None = None) -> list[str]:
    if driver is None:
        return [sys.executable, "-m", "portfree", "run"]
    return [sys.executable, "-c", DRIVER, json.dumps(driver)]


def leaver(how: int | str, port: int, command: Sequence[str]) -> list[str]:
    return [sys.executable, "-S", "-c", LEAVER, str(how), str(port), *command]


class Recorder:
    """The command that writes down what happens to it."""

    def __init__(self, folder: Path, *, ends_at: Sequence[str] = ()) -> None:
        self._log = folder / f"recorder-{os.urandom(4).hex()}"
        self.command = [sys.executable, "-S", "-c", RECORDER, str(self._log), *ends_at]

    @property
    def lines(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    @property
    def signals(self) -> list[str]:
        return self.lines[1:]

    def wait_ready(self) -> Identity:
        wait_until(lambda: self.lines, "the command runs")
        return Identity.of(int(self.lines[0].split()[1]))

    def wait_for(self, word: str) -> None:
        wait_until(lambda: word in self.signals, f"the command gets {word}")


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def run(
    processes: Processes,
    *words: str,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> tuple[int, str]:
    running = Running(processes, words, env=env, prefix=prefix)
    return running.end(), running.output


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


# Exit codes


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (shell("exit 3"), 3),
        (shell("exit 255"), 255),
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

    said = json.loads(file.read_text())
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

    missing, there = (child.CannotRunError(name, refused) for name in ("nowhere", "there"))

    assert (missing.code, str(missing)) == (127, "nowhere: No such file or directory")
    assert (there.code, str(there)) == (126, "there: Permission denied")
    assert child.CannotRunError(str(tmp_path / "nowhere"), refused).code == 126


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


def test_a_command_that_ends_unheard_has_ended_all_the_same(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = child._next_signal

    def deaf(watched: Collection[int], timeout: float | None) -> child._Signal | None:
        # As where another thread has got it.
        got = hear(watched, timeout)
        return None if got is not None and got.number == signal.SIGCHLD else got

    monkeypatch.setattr(child, "_next_signal", deaf)
    monkeypatch.setattr(child, "_LOOK_AGAIN", 0.05)

    assert _run_command.main([str(processes.free_port()), "--", "sh", "-c", "exit 3"]) == 3


# Leaks


@pytest.mark.parametrize(
    ("leaks", "code", "alive"),
    [
        (None, 0, True),
        ("ignore", 0, True),
        ("warn", 0, True),
        ("stop", 0, False),
        ("fail", 125, False),
    ],
)
def test_servers_on_other_ports(
    processes: Processes, leaks: str | None, code: int, *, alive: bool
) -> None:
    port, other = processes.free_port(), processes.free_port()
    words = [] if leaks is None else ["--leaks", leaks]
    mark = "tests/test_api.py::test_search (setup)"

    ended, output = run(
        processes,
        str(port),
        *words,
        "--",
        *leaver(0, other, tcp(other)),
        env={"PYTEST_CURRENT_TEST": mark},
    )

    assert ended == code
    assert accepts(other) == alive
    assert (f"127.0.0.1:{other}" in output) == (leaks != "ignore")
    assert (f"{mark} started " in output) == (leaks != "ignore")


def test_a_failure_is_not_hidden_by_leaks(processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()

    code, _ = run(processes, str(port), "--leaks", "fail", "--", *leaver(3, other, tcp(other)))

    assert code == 3
    assert not accepts(other)


# What is said


def test_the_report_says_it_all(processes: Processes, project: Path) -> None:
    port, other = processes.free_port(), processes.free_port()
    server = processes.attended(tcp(port), cwd=project)
    words = [str(port), "--leaks", "stop", "--report", "report.json", "--"]

    run(processes, *words, *leaver(3, other, tcp(other)))

    report = json.loads((project / "report.json").read_text())
    assert (report["version"], report["ok"], report["exit_code"]) == (1, True, 3)
    (before,), (after,) = report["before"]["outcomes"], report["after"]["outcomes"]
    assert (before["status"], after["status"]) == ("freed", "free")
    assert before["holders"][0]["pid"] == server.pid
    (leak,) = report["leaks"]
    assert (leak["address"], leak["port"], leak["own"]) == ("127.0.0.1", other, False)
    assert leak["holder"]["ending"]["signals"] == ["SIGTERM"]


def test_the_report_of_a_command_that_was_not_started(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    processes.attended(tcp(port), cwd=project)

    code, _ = run(processes, str(port), "--scope", "orphans", "--report", "it.json", "--", "true")

    report = json.loads((project / "it.json").read_text())
    assert code == report["exit_code"] == 125
    assert (report["ok"], report["after"], report["leaks"]) == (False, None, [])


def test_quietly_only_what_is_wrong_is_said(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    processes.attended(tcp(port), cwd=project)

    assert run(processes, "-q", str(port), "--", *leaver(0, port, tcp(port))) == (0, "")


def test_nobody_needs_to_read_what_is_said(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    processes.attended(tcp(port), cwd=project)
    reader, writer = os.pipe()
    os.close(reader)

    process = subprocess.run(
        [*portfree_run(), str(port), "--", *leaver(3, port, tcp(port))],
        env=processes.environment(),
        stderr=writer,
        check=False,
    )

    os.close(writer)
    assert process.returncode == 3
    assert is_free(port)


# Signals


@pytest.mark.parametrize("terminal", [False, True], ids=["alone", "at a terminal"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_us_is_passed_on(
    processes: Processes, recorder: Recorder, number: signal.Signals, *, terminal: bool
) -> None:
    running = Running(
        processes, [str(processes.free_port()), "--", *recorder.command], terminal=terminal
    )
    recorder.wait_ready()

    running.send(number)
    recorder.wait_for(number.name)
    running.send(signal.SIGUSR1)

    assert running.end() == 7
    assert recorder.signals == [number.name, "SIGUSR1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_ports_are_freed_after_a_signal(processes: Processes, number: signal.Signals) -> None:
    port = processes.free_port()
    command = [
        "python3",
        "-c",
        "import signal, subprocess, sys; subprocess.Popen(sys.argv[1:]); signal.pause()",
    ]
    running = Running(
        processes, [str(port), "--", *command, *tcp(port, "--ignore", number.name[3:])]
    )
    wait_until(lambda: accepts(port), "the server serves")

    running.send(number)

    code = running.end()
    assert code == 128 + number or (number == signal.SIGINT and code == 1)
    assert is_free(port)


def test_a_signal_for_the_whole_group_arrives_once(
    processes: Processes, recorder: Recorder
) -> None:
    running = Running(processes, [str(processes.free_port()), "--", *recorder.command])
    recorder.wait_ready()

    os.killpg(running.process.pid, signal.SIGINT)
    recorder.wait_for("SIGINT")
    running.send(signal.SIGUSR1)

    assert running.end() == 7
    assert recorder.signals == ["SIGINT", "SIGUSR1"]


def test_without_a_terminal_all_that_the_command_has_started_is_told(
    processes: Processes, recorder: Recorder
) -> None:
    script = shlex.join(recorder.command)
    running = Running(processes, [str(processes.free_port()), "--", *shell(f"{script}; exit 9")])
    recorder.wait_ready()

    running.send(signal.SIGINT)
    recorder.wait_for("SIGINT")
    running.send(signal.SIGUSR1)

    assert running.end() in (9, 128 + signal.SIGINT, 128 + signal.SIGUSR1)
    assert recorder.signals == ["SIGINT", "SIGUSR1"]


@pytest.mark.parametrize("terminal", [False, True], ids=["alone", "at a terminal"])
def test_an_alarm_that_was_set_for_us_ends_the_command(
    processes: Processes, *, terminal: bool
) -> None:
    # What stands in for timeout(1) on macOS: perl -e 'alarm 60; exec @ARGV' portfree run …
    port = processes.free_port()
    alarmed = "import os, signal, sys; signal.alarm(1); os.execv(sys.argv[1], sys.argv[1:])"
    serving = shell(f"{shlex.join(tcp(port))} & exec sleep 1000")
    prefix = [sys.executable, "-S", "-c", alarmed]
    running = Running(processes, [str(port), "--", *serving], prefix=prefix, terminal=terminal)

    assert running.end() == 128 + signal.SIGALRM
    assert is_free(port)


# At a terminal


def test_the_command_is_at_the_terminal(processes: Processes) -> None:
    script = "for n in 0 1 2; do test -t $n || exit 1; done; read line </dev/tty; echo got $line"
    running = Running(processes, [str(processes.free_port()), "--", *shell(script)], terminal=True)

    running.type("typed\n")

    assert running.end() == 0
    assert "got typed" in running.output


@pytest.mark.parametrize("told", [True, False], ids=["sender told", "sender guessed"])
@pytest.mark.parametrize(("key", "number"), [("\x03", "SIGINT"), ("\x1c", "SIGQUIT")])
def test_a_key_is_one_signal(
    processes: Processes, recorder: Recorder, key: str, number: str, *, told: bool
) -> None:
    words = [str(processes.free_port()), "--", *recorder.command]
    running = Running(processes, words, terminal=True, driver={"sender_is_told": told})
    recorder.wait_ready()

    running.type(key)
    recorder.wait_for(number)
    running.send(signal.SIGUSR1)

    assert running.end() == 7
    assert recorder.signals == [number, "SIGUSR1"]


def test_a_terminal_that_hangs_up(processes: Processes) -> None:
    port = processes.free_port()
    recorder = Recorder(processes.folder, ends_at=["SIGHUP"])
    serving = shell(f"{shlex.join(tcp(port))} & exec {shlex.join(recorder.command)}")
    running = Running(processes, [str(port), "--", *serving], terminal=True)
    recorder.wait_ready()
    wait_until(lambda: accepts(port), "the server serves")

    running.hang_up()

    assert running.process.wait(PATIENCE) == 7
    assert is_free(port)


def test_control_c_is_passed_on_to_who_has_left_our_group(
    processes: Processes, recorder: Recorder
) -> None:
    command = [
        sys.executable,
        "-S",
        "-c",
        "import os, sys; os.setpgid(0, 0); os.execv(sys.argv[1], sys.argv[1:])",
    ]
    words = [str(processes.free_port()), "--", *command, *recorder.command]
    running = Running(processes, words, terminal=True)
    recorder.wait_ready()

    running.type("\x03")
    recorder.wait_for("SIGINT")
    running.send(signal.SIGUSR1)

    assert running.end() == 7
    assert recorder.signals == ["SIGINT", "SIGUSR1"]


def test_the_second_control_c_ends_the_cleanup(processes: Processes) -> None:
    port = processes.free_port()
    stubborn = tcp(port, "--ignore", "TERM", "--ignore", "INT")
    words = [str(port), "--grace", "60", "--", *leaver(0, port, stubborn)]
    running = Running(processes, words, terminal=True)
    running.wait_for("waiting for")

    running.type("\x03")
    running.wait_for("Ctrl-C once more leaves them")
    assert not is_free(port)
    running.type("\x03")

    assert running.end() == 130
    assert f"the cleanup was cut short: {port}/tcp is held by " in running.output
    assert "(pid " in running.output


def test_the_second_control_c_counts_from_the_start(processes: Processes) -> None:
    port = processes.free_port()
    stubborn = tcp(port, "--ignore", "TERM", "--ignore", "INT")
    waits = (
        "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
        "subprocess.Popen(sys.argv[1:]); signal.pause()"
    )
    words = [str(port), "--grace", "60", "--", sys.executable, "-S", "-c", waits, *stubborn]
    running = Running(processes, words, terminal=True)
    wait_until(lambda: accepts(port), "the server serves")

    running.type("\x03")
    running.wait_for("waiting for")
    running.type("\x03")

    assert running.end() == 130
    assert "once more" not in running.output
    assert f"the cleanup was cut short: {port}/tcp is held by " in running.output


def test_a_shell_stops_and_continues_it(processes: Processes, recorder: Recorder) -> None:
    shell = ["bash", "--noprofile", "--norc", "-i"]
    running = Running(
        processes, [], program=shell, terminal=True, env={"PS1": "$ ", "HISTFILE": ""}
    )
    port = processes.free_port()

    running.type(shlex.join([*portfree_run(), str(port), "--", *recorder.command]) + "\n")
    command = recorder.wait_ready()
    seen = command.stat
    assert seen is not None
    parent = Identity.of(seen.ppid)
    running.type("\x1a")
    wait_until(lambda: states(command, parent) == "TT", "both are stopped")
    running.wait_for("Stopped")
    running.type("fg\n")
    wait_until(lambda: states(command, parent) == "SS", "both go on")
    running.type("\x03")
    recorder.wait_for("SIGINT")
    parent.send(signal.SIGUSR1)
    parent.wait_gone()
    running.forget()
    running.type("echo code=$?\n")
    running.wait_for("code=7")
    running.type("exit\n")

    running.end()
    assert recorder.signals == ["SIGINT", "SIGUSR1"]


def states(*processes: Identity) -> str:
    return "".join(seen.state for process in processes if (seen := process.stat))


# Together


def test_one_in_another(processes: Processes, recorder: Recorder) -> None:
    outer, inner = processes.free_port(), processes.free_port()
    words = [str(outer), "--", *portfree_run(), str(inner), "--", *recorder.command]
    running = Running(processes, words)
    command = recorder.wait_ready()

    run_id = marks(command.pid)["PORTFREE_RUN_ID"]
    seen = command.stat
    assert seen is not None
    assert [int(element.split(".")[0]) for element in run_id.split("/")] == [
        running.process.pid,
        seen.ppid,
    ]
    running.send(signal.SIGINT)
    recorder.wait_for("SIGINT")
    running.send(signal.SIGUSR1)

    assert running.end() == 7
    assert recorder.signals == ["SIGINT", "SIGUSR1"]


def test_control_c_for_one_in_another(processes: Processes, recorder: Recorder) -> None:
    words = [str(processes.free_port()), "--", *portfree_run(), str(processes.free_port()), "--"]
    running = Running(processes, [*words, *recorder.command], terminal=True)
    recorder.wait_ready()

    running.type("\x03")
    recorder.wait_for("SIGINT")
    running.send(signal.SIGUSR1)

    assert running.end() == 7
    assert recorder.signals == ["SIGINT", "SIGUSR1"]


def marks(pid: int) -> dict[str, str]:
    pairs = (line.partition("=") for line in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return {name: value for name, _, value in pairs}


def test_two_at_once_do_not_stop_each_others_servers(
    processes: Processes, recorder: Recorder
) -> None:
    port = processes.free_port()
    serving = shell(f"{shlex.join(tcp(port))} & exec {shlex.join(recorder.command)}")
    first = Running(processes, [str(port), "--", *serving])
    recorder.wait_ready()
    wait_until(lambda: accepts(port), "the server of the first one serves")

    code, output = run(processes, str(port), "--", "true")
    assert code == 125
    assert "in use by" in output
    assert accepts(port)

    second = Running(processes, [str(port), "--wait", "60", "--", *shell("exit 4")])
    second.wait_for("waiting for")
    first.send(signal.SIGUSR1)
    assert first.end() == 7
    assert second.end() == 4


# A step of a CI job that is cancelled: SIGINT to us alone, later SIGTERM, later the end


def test_a_cancelled_command_gets_its_time_and_no_more(
    processes: Processes, recorder: Recorder
) -> None:
    port = processes.free_port()
    serving = shell(f"{shlex.join(tcp(port))} & exec {shlex.join(recorder.command)}")
    timings = {"patience": 0.4, "urgent": 0.2, "grace": 0.2}
    running = Running(processes, [str(port), "--", *serving], driver=timings)
    command = recorder.wait_ready()
    wait_until(lambda: accepts(port), "the server serves")

    running.send(signal.SIGINT)

    assert running.end() == 137
    assert recorder.signals == ["SIGINT", "SIGTERM"]
    assert not command.alive
    assert is_free(port)


def test_a_cancelled_command_may_end_by_itself(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    recorder = Recorder(project, ends_at=["SIGINT"])
    running = Running(processes, [str(port), "--", *recorder.command])
    recorder.wait_ready()

    running.send(signal.SIGINT)

    assert running.end() == 7
    assert recorder.signals == ["SIGINT"]


def test_sigterm_after_sigint_means_hurry(processes: Processes, recorder: Recorder) -> None:
    port = processes.free_port()
    serving = shell(f"{shlex.join(tcp(port))} & exec {shlex.join(recorder.command)}")
    timings = {"patience": 1000, "urgent": 0.2, "grace": 0.2}
    running = Running(processes, [str(port), "--", *serving], driver=timings)
    recorder.wait_ready()
    wait_until(lambda: accepts(port), "the server serves")

    running.send(signal.SIGINT)
    recorder.wait_for("SIGINT")
    running.send(signal.SIGTERM)

    assert running.end() == 137
    assert recorder.signals == ["SIGINT", "SIGTERM"]
    assert is_free(port)


def test_what_a_shell_has_started_does_not_outlive_the_cancelling(
    processes: Processes, recorder: Recorder
) -> None:
    words = ["--", *shell(f"{shlex.join(recorder.command)}; exit 9")]
    timings = {"patience": 0.3, "urgent": 0.2}
    running = Running(processes, [str(processes.free_port()), *words], driver=timings)
    command = recorder.wait_ready()

    running.send(signal.SIGINT)
    running.end()

    command.wait_gone()


def test_a_stopped_command_is_cancelled_too(processes: Processes) -> None:
    timings = {"patience": 0.2, "urgent": 20}
    words = [str(processes.free_port()), "--"]
    running = Running(processes, [*words, "sh", "-c", "kill -STOP $$; exit 9"], driver=timings)
    (command,) = wait_until(lambda: children(running.process.pid), "it has been started")
    stopped = Identity.of(command)
    wait_until(lambda: states(stopped) == "T", "it has stopped itself")

    running.send(signal.SIGINT)

    assert running.end() in (128 + signal.SIGINT, 128 + signal.SIGTERM)


@pytest.mark.parametrize("told", [True, False], ids=["sender told", "sender guessed"])
def test_control_c_sets_no_time(processes: Processes, *, told: bool) -> None:
    words = [str(processes.free_port()), "--", *slow_to_end("SIGINT")]
    driver = {"patience": 0.01, "urgent": 0.01, "sender_is_told": told}
    running = Running(processes, words, terminal=True, driver=driver)
    running.wait_for("ready")

    running.type("\x03")

    assert running.end() == 9


def test_a_hangup_sets_no_time(processes: Processes) -> None:
    words = [str(processes.free_port()), "--", *slow_to_end("SIGHUP")]
    running = Running(processes, words, driver={"patience": 0.01, "urgent": 0.01})
    running.wait_for("ready")

    running.send(signal.SIGHUP)

    assert running.end() == 9


def slow_to_end(number: str) -> list[str]:
    """A command that takes half a second to end after this signal, with code 9."""
    script = f"""
import os, signal, time
signal.signal(signal.{number}, lambda *_: (time.sleep(0.5), os._exit(9)))
print("ready", flush=True)
while True:
    signal.pause()
"""
    return [sys.executable, "-S", "-c", script]


def test_where_the_sender_is_guessed_the_time_runs_all_the_same(
    processes: Processes, recorder: Recorder
) -> None:
    driver = {"patience": 0.2, "urgent": 0.1, "sender_is_told": False}
    running = Running(
        processes, [str(processes.free_port()), "--", *recorder.command], driver=driver
    )
    recorder.wait_ready()

    running.send(signal.SIGINT)

    assert running.end() == 137
    assert recorder.signals == ["SIGINT", "SIGTERM"]


# Windows, through a fake


class FakePopen:
    """A command on Windows: it goes on until it is killed, or for some rounds of waiting."""

    rounds = 0
    code = 0
    hook: Callable[[], None] | None = None
    killed = False
    words: Sequence[str] = ()

    def __init__(self, words: Sequence[str]) -> None:
        type(self).words = words

    def wait(self, timeout: float) -> int:
        assert timeout > 0
        cls = type(self)
        if cls.killed:
            return 1
        if cls.rounds == 0:
            return cls.code
        cls.rounds -= 1
        if cls.hook:
            cls.hook()
        raise subprocess.TimeoutExpired("fake", timeout)

    def kill(self) -> None:
        type(self).killed = True


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> type[FakePopen]:
    fresh = type("Fresh", (FakePopen,), {})
    monkeypatch.setattr(subprocess, "Popen", fresh)
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR2, raising=False)
    monkeypatch.setattr(child, "_KEYS", {signal.SIGINT, signal.SIGUSR2})
    for name in (
        "pthread_sigmask",
        "SIGCHLD",
        "SIGALRM",
        "SIGHUP",
        "SIGQUIT",
        "SIGUSR1",
        "SIGUSR2",
    ):
        monkeypatch.delattr(signal, name)
    monkeypatch.setattr(child, "_on_posix", child._on_windows)
    return fresh


@pytest.mark.parametrize(
    ("status", "code"),
    [(0, 0), (3, 3), (0xC000013A, 130), (0xC0000005, 0xC0000005 - 2**32), (2**31 - 1, 2**31 - 1)],
)
def test_exit_codes_of_windows(
    processes: Processes, windows: type[FakePopen], status: int, code: int
) -> None:
    windows.code, windows.rounds = status, 2

    assert _run_command.main([str(processes.free_port()), "--", "sh", "-c", "x"]) == code
    assert windows.words[0].endswith("/sh")
    assert windows.words[1:] == ["-c", "x"]


def test_control_c_on_windows_is_left_to_the_command(
    processes: Processes, windows: type[FakePopen]
) -> None:
    windows.code, windows.rounds = 5, 3
    windows.hook = staticmethod(lambda: os.kill(os.getpid(), signal.SIGINT))

    assert _run_command.main([str(processes.free_port()), "--", "sh"]) == 5


def test_control_break_on_windows_announces_the_end(
    processes: Processes, windows: type[FakePopen]
) -> None:
    windows.rounds = -1
    windows.hook = staticmethod(lambda: os.kill(os.getpid(), signal.SIGBREAK))  # type: ignore[attr-defined]

    timings = child.Timings(urgent=0.0)
    assert _run_command.main([str(processes.free_port()), "--", "sh"], timings) == 1
    assert windows.killed


@pytest.mark.usefixtures("windows")
def test_a_command_that_windows_cannot_start(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise FileNotFoundError(2, "The system cannot find the file specified")

    monkeypatch.setattr(subprocess, "Popen", fail)

    assert _run_command.main([str(processes.free_port()), "--", "nonsense"]) == 127
