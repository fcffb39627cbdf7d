"""``portfree run``: signals, the terminal, and one in another."""

from __future__ import annotations

import os
import shlex
import signal
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
    states,
)
from helpers.processes import (
    PATIENCE,
    Identity,
    Processes,
    accepts,
    is_free,
    tcp,
    wait_until,
)

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("project")


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

    assert running.end() == (-number if number == signal.SIGINT else 128 + number)
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

    assert running.end() in (9, -signal.SIGINT, 128 + signal.SIGUSR1)
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

    assert running.end() == -signal.SIGINT
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


@pytest.mark.parametrize("around", [[], portfree_run()], ids=["", "portfree run"])
def test_control_c_ends_a_loop_of_a_shell(processes: Processes, around: list[str]) -> None:
    ports = [str(processes.free_port()) for _ in range(2)]
    command = shlex.join([*portfree_run(), ports[0], "--", *shell("echo up; exec sleep 1000")])
    loop = ["bash", "-c", f"while :; do {command}; done"]
    program = [*around, ports[1], "--", *loop] if around else loop
    running = Running(processes, [], program=program, terminal=True)
    running.wait_for("up")

    running.type("\x03")

    assert running.end() == -signal.SIGINT
    assert running.output.count("up") == 1


@pytest.mark.skipif(
    Path("/proc/sys/kernel/core_pattern").read_bytes().startswith(b"|"),
    reason="a program takes every core",
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_shell_sees_the_signal_of_the_command_and_no_core(
    processes: Processes, number: signal.Signals
) -> None:
    command = shell(f"ulimit -c 0; kill -{number.name[3:]} $$")
    words = shlex.join([*portfree_run(), str(processes.free_port()), "--", *command])
    script = f"ulimit -c $(ulimit -Hc); {words}; echo code=$?"
    running = Running(processes, [], program=["bash", "-c", script])

    assert running.end() == 0
    assert running.output.endswith(f"code={128 + number}\n")
    assert "dumped" not in running.output


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
