"""The facts that tell where a process was born, on both backends: its environment, whether it was
forked, who is connected to it, and the lock of a folder of pytest.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.processes import Processes, serve, tcp, wait_until
from portfree import Port
from portfree._system.common import unmapped
from portfree._system.interface import Lock, Socket
from portfree._system.linux import LinuxSystem
from portfree._system.psutil_linux import PsutilLinuxSystem as PortableSystem

if TYPE_CHECKING:
    from pathlib import Path

    from portfree._system.interface import Process, System

SYSTEMS = [pytest.param(LinuxSystem, id="linux"), pytest.param(PortableSystem, id="portable")]

# Ends when its input does, and says that it is there.
FORKED = """\
import os, time
if os.fork() == 0:
    {then}
    os.write(int(os.environ["STAGE_READY"]), b'{{"pid": %d}}\\n' % os.getpid())
    time.sleep(1000)
time.sleep(1000)
"""


def facts(system: System, pid: int) -> Process:
    found = system.process(pid)
    assert found is not None
    return found


def forked(processes: Processes, then: str = "pass") -> int:
    """The pid of a process that was forked, and has executed nothing since."""
    started_one = processes.orphan([sys.executable, "-S", "-c", FORKED.format(then=then)])
    started_one.wait_ready()
    pid: int = started_one.facts["pid"]
    return pid


def test_a_fork_is_told_from_what_was_executed(processes: Processes) -> None:
    system = LinuxSystem()
    pid = forked(processes)

    copy = facts(system, pid)
    assert copy.ppid is not None
    original = facts(system, copy.ppid)

    assert (copy.forked, original.forked) == (True, False)
    assert copy.argv == original.argv
    assert facts(PortableSystem(), pid).forked is None  # psutil does not tell


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    ("prefix", "flags", "environment"),
    [
        ([], [], "read"),
        (["env", "-i", "ONE=1"], [], "read"),
        (["env", "-i"], [], "wiped"),
        ([], ["--wipe"], "wiped"),
    ],
)
def test_an_environment_is_read_or_wiped(
    processes: Processes,
    system: type[LinuxSystem | PortableSystem],
    prefix: list[str],
    flags: list[str],
    environment: str,
) -> None:
    port = processes.free_port()
    if prefix:  # it cannot say that it is ready
        processes.attended([*prefix, *tcp(port, *flags)], listening=port)
    else:
        processes.attended(tcp(port, *flags))
    (found,) = LinuxSystem().sockets([Port(port)])
    (holders,) = LinuxSystem().owners([found.id]).pids.values()
    (pid,) = holders

    try:
        assert facts(system(), pid).environment == environment
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("raw", "environment"),
    [
        (b"HOME=/x\0LANG=C\0", "read"),
        (b"", "wiped"),
        (b"\0\0\0\0", "wiped"),
        (b" title that ran on\0\0LANG=C\0", "wiped"),
        (b"=x\0LANG=C\0", "wiped"),
        (None, "unreadable"),
    ],
)
def test_what_is_left_of_an_environment(
    tmp_path: Path, raw: bytes | None, environment: str
) -> None:
    proc = tmp_path / "proc"
    shutil.copytree(
        f"/proc/{os.getpid()}",
        proc / "self",
        symlinks=True,
        ignore=lambda _, names: [n for n in names if n not in ("status", "cgroup")],
    )
    (proc / "77").mkdir()
    fields = ["S", "1", "77", "77", "0", "-1", str(0x40), *["0"] * 10, "1", "0", "4711"]
    (proc / "77" / "stat").write_text(f"77 (x) {' '.join(fields)}")
    (proc / "77" / "cmdline").write_bytes(b"x\0")
    if raw is not None:
        (proc / "77" / "environ").write_bytes(raw)

    found = LinuxSystem(str(proc)).process(77)

    assert found is not None
    assert (found.environment, found.forked, found.start) == (environment, True, 4711)


def test_a_directory_that_was_removed_is_still_that_place(
    processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    started_one = processes.orphan(["sleep", "1000"], cwd=folder)
    folder.rmdir()

    for system in (LinuxSystem(), PortableSystem()):
        assert facts(system, started_one.pid).cwd == str(folder)


def test_a_directory_may_be_called_deleted(processes: Processes, tmp_path: Path) -> None:
    folder = tmp_path / "old (deleted)"
    folder.mkdir()
    started_one = processes.orphan(["sleep", "1000"], cwd=folder)

    assert facts(LinuxSystem(), started_one.pid).cwd == str(folder)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_process_that_runs(
    processes: Processes, system: type[LinuxSystem | PortableSystem]
) -> None:
    busy = processes.child([sys.executable, "-S", "-c", "while True: pass"])
    idle = processes.child(tcp(processes.free_port()))
    wait_until(lambda: facts(system(), busy.pid).running, "it runs")
    wait_until(lambda: not facts(system(), idle.pid).running, "it waits")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_stopped_process(
    processes: Processes, system: type[LinuxSystem | PortableSystem]
) -> None:
    started_one = processes.orphan(["sleep", "1000"])
    assert not facts(system(), started_one.pid).stopped

    started_one.process.send(signal.SIGSTOP)
    wait_until(lambda: facts(system(), started_one.pid).stopped, "it is stopped")


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_present_moment_is_later_than_a_start(
    processes: Processes, system: type[LinuxSystem | PortableSystem]
) -> None:
    before = system().moment()
    start = facts(system(), processes.orphan(["sleep", "1000"]).pid).start

    assert before <= start <= system().moment()


# Connections


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_far_end_of_a_connection(
    processes: Processes, system: type[LinuxSystem | PortableSystem]
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port))
    alone = system().peers(server.pid)
    client = processes.orphan(serve("--connect", f"127.0.0.1:{port}"))

    assert alone == frozenset()
    wait_until(lambda: system().peers(server.pid) == {client.pid}, "the client is seen")
    assert system().peers(client.pid) == {server.pid}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_far_end_where_one_end_speaks_ipv6(
    processes: Processes, system: type[LinuxSystem | PortableSystem]
) -> None:
    port = processes.free_port()
    family = socket.AF_INET6
    with socket.create_server(("::", port), family=family, dualstack_ipv6=True) as listener:
        connect = f"exec 3<>/dev/tcp/127.0.0.1/{port}; exec sleep 1000"
        client = processes.orphan(["bash", "-c", connect])
        connection, _ = listener.accept()
        with connection:
            assert system().peers(client.pid) == {os.getpid()}


def test_a_process_that_has_ended_has_no_connections(processes: Processes) -> None:
    started_one = processes.orphan(["sleep", "1000"])
    started_one.process.send(signal.SIGKILL)
    started_one.wait_gone()

    assert LinuxSystem().peers(started_one.pid) == frozenset()
    assert PortableSystem().peers(started_one.pid) == frozenset()


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("::", "::"),
    ],
)
def test_mapped_addresses(address: str, plain: str) -> None:
    assert unmapped(address) == plain


def test_a_connection_of_a_socket_to_itself_holds_its_port(processes: Processes) -> None:
    port = processes.free_port()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
        sock.connect(("127.0.0.1", port))

        for system in (LinuxSystem(), PortableSystem()):
            (found,) = system.sockets([Port(port)])
            assert (found.of_itself, found.holds, found.state) == (True, True, "connected")


def test_other_connections_hold_nothing() -> None:
    connection = Socket(1, Port(80), "connected", "127.0.0.1", peer="127.0.0.1:81")
    assert not connection.holds
    assert Socket(1, Port(80), "connected", "::1", peer="[::1]:80").holds
    assert not Socket(1, Port(80), "closing", "::1", peer="[::1]:80").holds


# The lock of a folder of pytest


@pytest.mark.parametrize("system", SYSTEMS)
def test_locks(tmp_path: Path, system: type[LinuxSystem | PortableSystem]) -> None:
    folder = tmp_path / "pytest-3"
    assert system().lock(str(folder)) is False

    folder.mkdir()
    assert system().lock(str(folder)) is True

    (folder / ".lock").write_text("4711")
    os.utime(folder / ".lock", (1, 1_700_000_000))
    assert system().lock(str(folder)) == Lock(4711, 1_700_000_000.0)

    (folder / ".lock").write_text("somebody")
    with pytest.raises(OSError, match="not a lock"):
        system().lock(str(folder))
