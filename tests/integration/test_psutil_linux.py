"""What the backend on psutil does in its own way, with real processes on Linux."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from helpers.processes import (
    NOBODY,
    Processes,
    needs_program,
    needs_root,
    serve,
    tcp,
)
from portfree._system import current, psutil_base
from portfree._system.interface import Pin, Process, Socket, System
from portfree._system.linux import LinuxSystem
from portfree._system.psutil_linux import PsutilLinuxSystem
from portfree.model import Port

if TYPE_CHECKING:
    from pathlib import Path

    from portfree._system.interface import Signal

PSLINUX = sys.modules["psutil._pslinux"]  # below psutil.Process, which caches some of its answers


@pytest.fixture
def system() -> System:
    return PsutilLinuxSystem()


def facts(system: System, pid: int) -> Process:
    process = system.process(pid)
    assert process is not None
    return process


def pinned(system: System, pid: int) -> Pin:
    pin = system.pin(facts(system, pid))
    assert pin is not None
    return pin


def test_psutil_reads_the_tables_of_those_alone_that_share_a_socket(
    processes: Processes, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It reads them anew for each process: with hundreds of servers, that took seconds.
    port = Port(processes.free_port())
    master = processes.orphan(tcp(port.number, "--workers", "2"))
    others = {processes.orphan(tcp(processes.free_port())).pid for _ in range(3)}
    everybody = {master.pid, *(worker.pid for worker in master.workers)}
    asked: list[int] = []
    look = psutil_base._look_at

    def count(pid: int, kind: str) -> list[Socket]:
        asked.append(pid)
        return look(pid, kind)

    monkeypatch.setattr(psutil_base, "_look_at", count)
    (seen,) = system.sockets([port])
    assert system.listeners()
    assert asked == []
    assert system.owners([seen.id]).pids == {seen.id: everybody}
    assert set(asked) >= everybody
    assert not others & set(asked)

    # The one that psutil names may close the socket meanwhile: then all are asked.
    every = [found._replace(fd=99_999) for found in psutil.net_connections("tcp4")]
    monkeypatch.setattr(psutil, "net_connections", lambda _: every)
    assert system.owners([seen.id]).pids == {seen.id: everybody}


def test_servers_that_share_a_port_cannot_be_told_apart(
    processes: Processes, system: System
) -> None:
    port = Port(processes.free_port())
    one = processes.orphan(tcp(port.number, "--reuseport"))
    two = processes.orphan(tcp(port.number, "--reuseport"))
    (seen,) = system.sockets([port])
    assert system.owners([seen.id]).pids == {seen.id: {one.pid, two.pid}}


@needs_root
def test_what_may_not_be_read_is_counted_and_proves_nothing(
    processes: Processes, tmp_path: Path
) -> None:
    port = Port(processes.free_port())
    server = processes.orphan(tcp(port.number))
    probe = (
        "import os, sys; from portfree._core.ports import Port;"
        "from portfree._system.psutil_linux import PsutilLinuxSystem;"
        f"os.setgid({NOBODY}); os.setuid({NOBODY});"
        f"system = PsutilLinuxSystem(); (seen,) = system.sockets([Port({port.number})]);"
        "owners = system.owners([seen.id]);"
        f"process = system.process({server.pid}); pin = system.pin(process);"
        "denied = None\n"
        "try: pin.send('CONT')\n"
        "except PermissionError as error: denied = error\n"
        f"print(dict(owners.pids), owners.unreadable > 0, system.holds({server.pid}, [seen.id]),"
        "process.complete, process.cwd, process.owner, denied is not None, pin.alive(),"
        "system.privileged, seen.state, sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import psutil; {probe}"],
        cwd=tmp_path,
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "{}|True|False|False|None|0|True|True|False|listening", done


def test_the_facts_are_those_of_the_linux_backend(processes: Processes, system: System) -> None:
    marks = {"PORTFREE_RUN_ID": "1.2.3", "PYTEST_CURRENT_TEST": "test_a", "CI_JOB_ID": "9"}
    port = processes.free_port()
    server = processes.orphan(
        tcp(port), env={**marks, "PASSWORD": "hunter2", "PYTEST_XDIST_WORKER": "gw1"}
    )
    seen, other = facts(system, server.pid), facts(LinuxSystem(), server.pid)
    assert seen.marks == {**marks, "PYTEST_XDIST_WORKER": "gw1"}
    assert seen.started is not None
    assert other.started is not None
    assert abs(seen.started - other.started) < 1.5  # the time of boot is told in whole seconds
    for name in ("pid", "ppid", "start", "argv", "owner", "cwd", "session", "terminal", "marks"):
        assert getattr(seen, name) == getattr(other, name), name
    assert isinstance(seen.start, int)
    assert seen.name.startswith(other.name)
    assert seen.complete
    assert not seen.zombie
    assert not seen.foreground
    assert seen.unit is seen.container is None
    assert seen.argv[-1] == f"127.0.0.1:{port}"
    assert server.pid in set(system.pids())


@needs_program("ps")
def test_a_terminal_that_was_opened_since_the_last_look(
    processes: Processes, system: System
) -> None:
    # psutil makes its table of terminals once, and 7.2 never again.
    first = processes.start("terminal", tcp(processes.free_port()))
    seen = facts(system, first.server.pid).terminal
    second = processes.start("terminal", tcp(processes.free_port()))
    other = facts(system, second.server.pid).terminal
    assert seen is not None
    assert other is not None
    assert seen != other


def test_setting_the_clock_makes_nobody_another_process(
    processes: Processes, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    before, pin = facts(system, server.pid), pinned(system, server.pid)
    boot = psutil.boot_time()
    monkeypatch.setattr(PSLINUX, "boot_time", lambda: boot + 3600)
    monkeypatch.setattr(PSLINUX, "BOOT_TIME", boot + 3600, raising=False)  # psutil before 7.1
    after = facts(system, server.pid)
    assert after.started is not None
    assert before.started is not None
    assert after.started > before.started + 3000  # psutil's own time did move
    assert after.start == before.start
    assert pin.alive()


def test_psutil_itself_refuses_a_pid_that_is_recycled_right_before_the_signal(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    system = PsutilLinuxSystem()
    pin = pinned(system, server.pid)
    signal_ = system.signal
    real = PSLINUX.Process.create_time

    def recycled(proc: psutil.Process, name: Signal) -> None:
        monkeypatch.setattr(PSLINUX.Process, "create_time", lambda *a, **k: real(*a, **k) + 1)
        with pytest.raises(psutil.NoSuchProcess, match="reused"):
            proc.send_signal(signal.SIGKILL)
        signal_(proc, name)

    monkeypatch.setattr(system, "signal", recycled)
    assert not pin.send("KILL")
    assert server.alive


def test_the_one_system_that_everybody_gets(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFREE_BACKEND", "portable")
    system = current()
    assert type(system) is PsutilLinuxSystem
    assert (system.name, system.polite) == ("linux", True)
    assert system.namespace == LinuxSystem().namespace
    assert system.exists(os.getpid())
    port = Port(processes.free_port())
    processes.orphan(serve("--tcp", f"127.0.0.1:{port.number}"))
    assert system.bind(port) == "in-use"
    assert system.bind(Port(processes.free_port())) == "free"
