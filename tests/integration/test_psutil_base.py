"""The backend on psutil: with real processes on Linux, and as macOS and Windows would have it."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn

import psutil
import pytest

from helpers.processes import (
    NOBODY,
    Identity,
    Processes,
    client,
    needs_program,
    needs_root,
    serve,
    stat,
    tcp,
    udp,
    wait_until,
)
from portfree._core.containers import _Container
from portfree._system import psutil_base as portable
from portfree._system.interface import Pin, Process, Socket, System
from portfree._system.linux import LinuxSystem
from portfree._system.psutil_base import PortableSystem
from portfree.model import Port

PSLINUX = sys.modules["psutil._pslinux"]  # below psutil.Process, which caches some of its answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from portfree._system.interface import Signal, State
    from portfree.model import Protocol


@pytest.fixture
def system() -> System:
    return PortableSystem()


def facts(system: System, pid: int) -> Process:
    process = system.process(pid)
    assert process is not None
    return process


def pinned(system: System, pid: int) -> Pin:
    pin = system.pin(facts(system, pid))
    assert pin is not None
    return pin


# Sockets


def test_a_listener_is_seen_with_its_holder_and_no_other_port_is(
    processes: Processes, system: System
) -> None:
    port, other = Port(processes.free_port()), Port(processes.free_port())
    server = processes.orphan(tcp(port.number))
    processes.orphan(tcp(other.number))

    (seen,) = system.sockets([port])

    assert (seen.port, seen.state, seen.address, seen.peer) == (port, "listening", "127.0.0.1", "")
    assert seen.holds
    assert system.owners([seen.id]).pids == {seen.id: {server.pid}}
    assert system.holds(server.pid, {seen.id})
    assert not system.holds(os.getpid(), {seen.id})
    assert system.sockets([Port(port.number, "udp")]) == []
    assert {s.port for s in system.listeners()} >= {port, other}


def test_a_client_uses_the_port_and_does_not_hold_it(processes: Processes, system: System) -> None:
    port = Port(processes.free_port())
    server = processes.orphan(tcp(port.number))
    visitor = processes.orphan(client(port.number))

    (listener,) = system.sockets([port])
    every = system.sockets([port], connections=True)

    assert sorted(s.state for s in every) == ["connected", "listening"]
    (accepted,) = (s for s in every if s.state == "connected")
    assert accepted.peer.startswith("127.0.0.1:")
    assert accepted.id != listener.id
    assert system.owners([listener.id, accepted.id]).pids == {
        listener.id: {server.pid},
        accepted.id: {server.pid},
    }
    assert not system.holds(visitor.pid, {listener.id, accepted.id})
    # At the client's own end, the number is in use as well.
    (near,) = system.sockets([Port(int(accepted.peer.rpartition(":")[2]))], connections=True)
    assert (near.state, near.peer) == ("connected", f"127.0.0.1:{port.number}")
    assert not near.holds
    assert near not in system.listeners()


def test_everybody_who_inherited_a_listener_holds_it(processes: Processes, system: System) -> None:
    port = Port(processes.free_port())
    master = processes.orphan(tcp(port.number, "--workers", "2"))
    (seen,) = system.sockets([port])
    everybody = {master.pid, *(worker.pid for worker in master.workers)}
    assert len(everybody) == 3
    assert system.owners([seen.id]).pids == {seen.id: everybody}


def test_servers_that_share_a_port_cannot_be_told_apart(
    processes: Processes, system: System
) -> None:
    port = Port(processes.free_port())
    one = processes.orphan(tcp(port.number, "--reuseport"))
    two = processes.orphan(tcp(port.number, "--reuseport"))
    (seen,) = system.sockets([port])
    assert system.owners([seen.id]).pids == {seen.id: {one.pid, two.pid}}


def test_udp_and_tcp_on_one_number_are_two_ports(processes: Processes, system: System) -> None:
    number = processes.free_port()
    speaker = processes.orphan(udp(number))
    server = processes.orphan(tcp(number))
    (datagrams,) = system.sockets([Port(number, "udp")])
    (stream,) = system.sockets([Port(number, "tcp")])
    assert (datagrams.state, stream.state) == ("bound", "listening")
    assert system.owners([datagrams.id]).pids == {datagrams.id: {speaker.pid}}
    assert system.owners([stream.id]).pids == {stream.id: {server.pid}}
    assert set(system.sockets([Port(number, "udp"), Port(number, "tcp")])) == {datagrams, stream}


def test_a_connected_udp_socket_holds_nothing(processes: Processes, system: System) -> None:
    port = Port(processes.free_port(), "udp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port.number))
        sock.connect(("127.0.0.1", 9))
        assert system.sockets([port]) == []
        (seen,) = system.sockets([port], connections=True)
        assert (seen.state, seen.peer) == ("connected", "127.0.0.1:9")


def test_holding_is_looked_up_anew_each_time(processes: Processes, system: System) -> None:
    port = Port(processes.free_port())
    with socket.create_server(("127.0.0.1", port.number)):
        (seen,) = system.sockets([port])
        assert system.holds(os.getpid(), {seen.id})
    assert not system.holds(os.getpid(), {seen.id})
    assert system.owners([seen.id]).pids == {}
    assert system.sockets([port]) == []


def test_fading_connections_belong_to_nobody(processes: Processes, system: System) -> None:
    port = Port(processes.free_port())
    with socket.create_server(("127.0.0.1", port.number)) as server:
        visitor = socket.create_connection(("127.0.0.1", port.number))
        accepted, _ = server.accept()
        accepted.close()
        assert visitor.recv(1) == b""
        visitor.close()
    assert system.sockets([port]) == []
    (left,) = system.sockets([port], connections=True)
    assert (left.id, left.state, left.holds) == (None, "fading", False)


@needs_root
def test_what_may_not_be_read_is_counted_and_proves_nothing(
    processes: Processes, tmp_path: Path
) -> None:
    port = Port(processes.free_port())
    server = processes.orphan(tcp(port.number))
    probe = (
        "import os, sys; from portfree._core.ports import Port;"
        "from portfree._system.psutil_base import PortableSystem;"
        f"os.setgid({NOBODY}); os.setuid({NOBODY});"
        f"system = PortableSystem(); (seen,) = system.sockets([Port({port.number})]);"
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


class Connection(SimpleNamespace):
    """A socket as psutil lists it."""

    def __init__(
        self,
        status: str,
        *,
        near: tuple[str, int] | tuple[()] = ("127.0.0.1", 8000),
        far: tuple[str, int] | tuple[()] = (),
        kind: int = socket.SOCK_STREAM,
    ) -> None:
        super().__init__(status=status, laddr=near, raddr=far, type=kind, pid=None)


class Table:
    """What psutil says of processes that do not exist: their sockets, or an exception."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str = "net_connections") -> None:
        self.method = method
        self.sockets: dict[int, Sequence[Connection] | Exception] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(psutil, "pids", lambda: list(self.sockets))
        monkeypatch.setattr(psutil, "Process", self.process)

    def process(self, pid: int) -> object:
        if pid not in self.sockets:
            raise psutil.NoSuchProcess(pid)
        return SimpleNamespace(pid=pid, **{self.method: lambda kind: self.look(pid, kind)})

    def look(self, pid: int, kind: str) -> Sequence[Connection]:
        self.asked.append(kind)
        sockets = self.sockets[pid]
        if isinstance(sockets, Exception):
            raise sockets
        return sockets


FAR = ("192.0.2.7", 443)
MAC = PortableSystem(platform="darwin", output=lambda _: None)


@pytest.mark.parametrize(
    ("connection", "state"),
    [
        (Connection(psutil.CONN_LISTEN), "listening"),
        (Connection(psutil.CONN_CLOSE), "bound"),  # as macOS has it
        (Connection(psutil.CONN_NONE), "bound"),
        (Connection(psutil.CONN_NONE, kind=socket.SOCK_DGRAM), "bound"),
        (Connection(psutil.CONN_NONE, kind=socket.SOCK_DGRAM, far=FAR), "connected"),
        (Connection(psutil.CONN_ESTABLISHED, far=FAR), "connected"),
        (Connection(psutil.CONN_CLOSE_WAIT, far=FAR), "connected"),
        (Connection(psutil.CONN_SYN_SENT, far=FAR), "connecting"),
        (Connection(psutil.CONN_SYN_RECV, far=FAR), "connecting"),
        (Connection(psutil.CONN_FIN_WAIT1, far=FAR), "fading"),
        (Connection(psutil.CONN_FIN_WAIT2, far=FAR), "fading"),
        (Connection(psutil.CONN_LAST_ACK, far=FAR), "fading"),
        (Connection(psutil.CONN_CLOSING, far=FAR), "fading"),
        (Connection(psutil.CONN_TIME_WAIT, far=FAR), "fading"),
        (Connection(psutil.CONN_CLOSE, far=FAR), "fading"),  # reset, its descriptor still open
    ],
)
def test_every_state_of_a_socket(
    monkeypatch: pytest.MonkeyPatch, connection: Connection, state: State
) -> None:
    table = Table(monkeypatch)
    table.sockets[7] = [connection]
    protocol: Protocol = "udp" if connection.type == socket.SOCK_DGRAM else "tcp"
    (seen,) = MAC.sockets([Port(8000, protocol)], connections=True)
    assert seen.state == state
    assert seen.peer == ("192.0.2.7:443" if connection.raddr else "")
    assert (seen.id is None) == (state == "fading")
    assert MAC.sockets([Port(8000, protocol)]) == ([seen] if seen.holds else [])
    assert MAC.listeners() == ([seen] if state == "listening" else [])


def test_sockets_are_told_apart_by_protocol_address_port_and_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = Table(monkeypatch)
    table.sockets[7] = [
        Connection(psutil.CONN_LISTEN),
        Connection(psutil.CONN_LISTEN, near=("::1", 8000)),
        Connection(psutil.CONN_LISTEN, near=("127.0.0.1", 18000)),
        Connection(psutil.CONN_NONE, kind=socket.SOCK_DGRAM),
        Connection(psutil.CONN_ESTABLISHED, far=FAR),
        Connection(psutil.CONN_ESTABLISHED, far=("2001:db8::7", 443)),
        Connection(psutil.CONN_NONE, near=()),
    ]
    table.sockets[8] = [Connection(psutil.CONN_LISTEN)]
    ports = [Port(8000), Port(8000, "udp"), Port(18000)]
    seen = MAC.sockets(ports, connections=True)
    assert len({s.id for s in seen}) == len(seen) == 6
    assert sorted(s.peer for s in seen if s.peer) == ["192.0.2.7:443", "[2001:db8::7]:443"]
    (shared,) = (s for s in MAC.sockets([Port(8000)]) if s.address == "127.0.0.1")
    assert MAC.owners([shared.id]).pids == {shared.id: {7, 8}}


def test_half_the_work_for_one_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(monkeypatch)
    table.sockets[7] = []
    for ports in ([Port(1)], [Port(1, "udp")], [Port(1), Port(2, "udp")]):
        MAC.sockets(ports)
    assert table.asked == ["tcp", "udp", "inet"]


def test_one_process_that_cannot_be_read_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = Table(monkeypatch)
    table.sockets = {
        1: psutil.AccessDenied(1),
        2: psutil.NoSuchProcess(2),
        3: psutil.ZombieProcess(3),
        4: OSError(0, "Undefined error: 0"),
        5: SystemError("proc_cmdline returned a result with an exception set"),
        6: [Connection(psutil.CONN_LISTEN)],
    }
    (seen,) = MAC.sockets([Port(8000)])
    owners = MAC.owners([seen.id])
    assert owners.pids == {seen.id: {6}}
    assert owners.unreadable == 3  # an ended process and a zombie hold nothing
    assert [MAC.holds(pid, {seen.id}) for pid in range(1, 8)] == [False] * 5 + [True, False]


def test_psutil_before_6_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(monkeypatch, method="connections")
    table.sockets[7] = [Connection(psutil.CONN_LISTEN)]
    (seen,) = MAC.sockets([Port(8000)])
    assert MAC.holds(7, {seen.id})


NETSTAT = """\
Active Internet connections (including servers)
Proto Recv-Q Send-Q  Local Address          Foreign Address        (state)
tcp4       0      0  127.0.0.1.8000         127.0.0.1.53412        TIME_WAIT
tcp6       0      0  fe80::1234:5678.8000   fe80::1234:5678.53413  FIN_WAIT_2
tcp4       0      0  127.0.0.1.18000        127.0.0.1.53414        TIME_WAIT
tcp4       0      0  127.0.0.1.53412        127.0.0.1.8000         TIME_WAIT
tcp4       0      0  127.0.0.1.8000         127.0.0.1.53415        ESTABLISHED
tcp4       0      0  *.8000                 *.*                    LISTEN
udp4       0      0  *.8000                 *.*
tcp4       0      0  *.*                    *.*                    CLOSED
tcp4       0      0  *.*                    *.*                    TIME_WAIT
"""


def test_on_macos_netstat_tells_of_fading_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(monkeypatch)
    table.sockets[7] = [Connection(psutil.CONN_LISTEN)]
    asked: list[Sequence[str]] = []

    def output(argv: Sequence[str]) -> str:
        asked.append(argv)
        return NETSTAT

    mac = PortableSystem(platform="darwin", output=output)
    (listener,) = mac.sockets([Port(8000)])
    assert asked == []
    port = Port(8000)
    assert mac.sockets([port], connections=True) == [
        listener,
        Socket(None, port, "fading", "127.0.0.1", peer="127.0.0.1:53412"),
        Socket(None, port, "fading", "fe80::1234:5678", peer="[fe80::1234:5678]:53413"),
    ]
    assert asked == [["netstat", "-an", "-p", "tcp"]]
    # Without netstat, what psutil lists is left.
    assert MAC.sockets([port], connections=True) == [listener]


# Processes


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


def test_an_empty_environment_is_no_missing_one_on_linux(
    processes: Processes, system: System
) -> None:
    server = processes.orphan(["env", "-i", "sleep", "1000"])
    wait_until(lambda: system.process(server.pid), "it can be looked at")
    seen = wait_until(
        lambda: (p := facts(system, server.pid)).argv[0] == "sleep" and p, "env has become sleep"
    )
    assert isinstance(seen, Process)
    assert (seen.marks, seen.complete) == ({}, True)
    # The kernel of macOS hands out an empty one for programs that it protects.
    as_on_macos = facts(MAC, server.pid)
    assert (as_on_macos.marks, as_on_macos.complete) == ({}, False)


@needs_program("ps")
def test_who_is_in_the_foreground_of_a_terminal(processes: Processes, system: System) -> None:
    port = processes.free_port()
    leader = processes.start("terminal", tcp(port))
    seen = facts(system, leader.server.pid)
    assert seen.terminal is not None
    assert seen.terminal.startswith("pts/")
    assert seen.leads_session
    assert seen.foreground
    other = facts(LinuxSystem(), leader.server.pid)
    assert (seen.terminal, seen.foreground) == (other.terminal, other.foreground)


@needs_program("ps")
def test_who_is_in_the_background_of_a_terminal(processes: Processes, system: System) -> None:
    # With job control (-m), a shell gives each of its jobs a process group of its own.
    command = "set -m; " + " ".join(map(_quoted, tcp(processes.free_port()))) + " & wait"
    shell = processes.start("terminal", ["sh", "-c", command])
    seen = facts(system, shell.server.pid)
    assert seen.terminal is not None
    assert not seen.leads_session
    assert not seen.foreground


def _quoted(word: str) -> str:
    return f"'{word}'"


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


class Ps:
    """Stands for ps, and counts how often it is asked."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.asked = 0

    def __call__(self, argv: Sequence[str]) -> str | None:
        assert list(argv) == ["ps", "-A", "-o", "pid=", "-o", "tty=", "-o", "stat="]
        self.asked += 1
        return self.text


def test_terminals_are_read_for_everybody_at_once() -> None:
    # None of them is written "?" on Linux, "??" on macOS and "-" on FreeBSD.
    ps = Ps("1 ? Ss\n 22 ttys003 S+\n 23 ttys003 S\n24 ??  Ss\n 25 - S\nps: what?\n")
    terminals = portable._Terminals(ps)
    assert [terminals.of(pid) for pid in (1, 22, 23, 24, 25)] == [
        (None, False),
        ("ttys003", True),
        ("ttys003", False),
        (None, False),
        (None, False),
    ]
    assert ps.asked == 1
    ps.text = "26 ttys004 S+\n"
    assert terminals.of(26) == ("ttys004", True)  # started since
    assert ps.asked == 2


def test_terminals_are_read_again_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    ps = Ps("22 ttys003 S+\n")
    terminals = portable._Terminals(ps)
    assert terminals.of(22) == ("ttys003", True)
    ps.text = "22 ttys003 S\n"
    assert terminals.of(22) == ("ttys003", True)
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert terminals.of(22) == ("ttys003", False)
    assert ps.asked == 2


def test_without_ps_psutil_tells_of_terminals(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    ps = Ps(None)
    system = PortableSystem(output=ps)
    monkeypatch.setattr(PSLINUX.Process, "terminal", lambda _: "/dev/pts/7")
    seen = facts(system, server.pid)
    assert (seen.terminal, seen.foreground) == ("pts/7", False)
    monkeypatch.setattr(PSLINUX.Process, "terminal", lambda _: None)
    assert facts(system, server.pid).terminal is None
    assert ps.asked == 1


def test_a_process_that_does_not_exist(system: System) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert system.process(child.pid) is None
    assert not system.holds(child.pid, {("tcp", "127.0.0.1", 1)})


def test_a_zombie_is_gone(system: System) -> None:
    child = subprocess.Popen(["true"])
    try:
        wait_until(lambda: (seen := stat(child.pid)) and seen.state == "Z", "it ends")
        seen = facts(system, child.pid)
        assert seen.zombie
        assert not seen.complete
        assert system.pin(seen) is None
    finally:
        child.wait()


def test_a_thread_that_outlives_its_leader_is_alive(processes: Processes, system: System) -> None:
    server = processes.orphan(tcp(processes.free_port(), "--dead-main"))
    wait_until(lambda: (seen := stat(server.pid)) and seen.state == "Z", "the main thread ends")
    seen = facts(system, server.pid)
    assert not seen.zombie
    pin = pinned(system, server.pid)
    assert pin.alive()
    assert pin.send("KILL")
    server.wait_gone()
    assert not pin.alive()


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


def test_the_facts_of_two_processes_are_never_mixed(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = PortableSystem()
    server = processes.orphan(tcp(processes.free_port()))
    times = iter([1, 2])
    opened = system._open
    monkeypatch.setattr(system, "_open", lambda pid: (opened(pid)[0], next(times)))
    assert system.process(server.pid) is None


def refuse(error: Exception) -> Callable[..., NoReturn]:
    def raise_it(*_: object, **__: object) -> NoReturn:
        raise error

    return raise_it


@pytest.mark.parametrize("fact", ["cmdline", "environ", "cwd"])
@pytest.mark.parametrize(
    "error", [psutil.AccessDenied(), OSError(errno.EIO, "no"), SystemError("no"), RuntimeError()]
)
def test_a_fact_that_cannot_be_read_makes_the_facts_incomplete(
    processes: Processes,
    system: System,
    monkeypatch: pytest.MonkeyPatch,
    fact: str,
    error: Exception,
) -> None:
    server = processes.orphan(tcp(processes.free_port()), env={"TOX_ENV_DIR": "x"})
    complete = facts(system, server.pid)
    monkeypatch.setattr(psutil.Process, fact, refuse(error))
    seen = facts(system, server.pid)
    assert not seen.complete
    assert (seen.argv == ()) == (fact == "cmdline")
    assert (seen.marks == {}) == (fact == "environ")
    assert (seen.cwd is None) == (fact == "cwd")
    assert (seen.start, seen.owner) == (complete.start, complete.owner)


def test_other_facts_may_be_missing_too(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    system = PortableSystem(output=lambda _: None)
    for name in ("name", "uids", "terminal", "ppid"):
        monkeypatch.setattr(PSLINUX.Process, name, refuse(psutil.AccessDenied()))
    monkeypatch.setattr(os, "getsid", refuse(PermissionError()))
    seen = facts(system, server.pid)
    assert (seen.name, seen.owner, seen.terminal, seen.ppid) == ("", None, None, None)
    assert seen.session is None


def test_who_does_not_tell_its_start_cannot_be_pinned(
    processes: Processes, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    pin = pinned(system, server.pid)
    monkeypatch.setattr(psutil.Process, "create_time", refuse(psutil.AccessDenied()))
    seen = facts(system, server.pid)
    assert not seen.complete
    assert seen.started is None
    with pytest.raises(PermissionError, match=str(server.pid)):
        system.pin(seen)
    assert not pin.alive()
    assert not pin.send("KILL")
    assert server.alive


def test_users_have_names(system: System) -> None:
    assert system.user(os.getuid()) == pwd.getpwuid(os.getuid()).pw_name
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    nobody = next(uid for uid in range(54321, 60000) if uid not in taken)
    assert system.user(nobody) == str(nobody)
    assert system.user(None) == "?"
    assert system.user("DOMAIN\\user") == "DOMAIN\\user"


def test_the_machine_and_what_we_may_do_on_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert system.name == sys.platform
    assert system.polite
    assert system.namespace == LinuxSystem().namespace
    assert (MAC.name, MAC.polite, MAC.namespace) == ("darwin", True, "")
    assert system.now() <= time.monotonic() <= system.now()
    for uid, answer in ((0, True), (1000, False)):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert system.privileged is answer


def test_a_container_is_asked_for_at_its_engine(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Process(pid=1, ppid=0, start=1, name="docker-proxy")
    monkeypatch.setattr(
        "portfree._core.containers._ask", lambda engine, which, _: [_Container(engine, which)]
    )
    assert system.container_behind(proxy, Port(8000)) == "docker (image publish=8000/tcp)"
    assert system.exists(os.getpid())


# Services


LAUNCHCTL = """\
PID\tStatus\tLabel
-\t0\tcom.example.idle
123\t0\thomebrew.mxcl.nginx
124\t-15\tapplication.com.example.editor.1234.5678
125\t0\torg.example with a space
garbage
126
"""


class Launchd:
    """Stands for launchctl, and counts how often it is asked."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.asked = 0

    def __call__(self, argv: Sequence[str]) -> str | None:
        if argv[0] != "launchctl":
            return None
        assert list(argv) == ["launchctl", "list"]
        self.asked += 1
        return self.text


def test_launchd_jobs_are_services_and_apps_are_not() -> None:
    launchd = Launchd(LAUNCHCTL)
    assert portable._launchd_jobs(launchd) == {
        123: "homebrew.mxcl.nginx",
        125: "org.example with a space",
    }


def test_a_launchd_job_is_named(processes: Processes) -> None:
    job, other = (processes.orphan(tcp(processes.free_port())) for _ in range(2))
    launchd = Launchd(f"PID\tStatus\tLabel\n{job.pid}\t0\torg.example.job\n")
    mac = PortableSystem(platform="darwin", output=launchd)
    assert facts(mac, job.pid).unit == "org.example.job"
    assert facts(mac, other.pid).unit is None
    assert facts(mac, job.pid).complete
    assert launchd.asked == 1
    # Seconds since the epoch there, to the bit what psutil says.
    assert facts(mac, job.pid).start == psutil.Process(job.pid).create_time()


def test_a_process_younger_than_the_list_makes_it_read_again(processes: Processes) -> None:
    launchd = Launchd("")
    mac = PortableSystem(platform="darwin", output=launchd)
    facts(mac, os.getpid())
    # psutil counts from a time of boot in whole seconds: only a later second is surely later.
    began = time.time()
    wait_until(lambda: time.time() > began + 1.1, "the clock goes on")
    server = processes.orphan(tcp(processes.free_port()))
    launchd.text = f"{server.pid}\t0\torg.example.restarted\n"
    assert facts(mac, os.getpid()).unit is None
    assert launchd.asked == 1
    assert facts(mac, server.pid).unit == "org.example.restarted"
    assert launchd.asked == 2


def test_without_launchctl_nothing_is_known_of_services(processes: Processes) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    launchd = Launchd(None)
    mac = PortableSystem(platform="darwin", output=launchd)
    for _ in range(2):
        assert (facts(mac, server.pid).unit, facts(mac, server.pid).complete) == (None, False)
    assert launchd.asked == 1


# Windows


class Service:
    def __init__(self, name: str, pid: int | Exception | None) -> None:
        self._name, self._pid = name, pid

    def name(self) -> str:
        return self._name

    def pid(self) -> int | None:
        if isinstance(self._pid, Exception):
            raise self._pid
        return self._pid


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> PortableSystem:
    services = [
        Service("Stopped", None),
        Service("Removed", psutil.NoSuchProcess(0)),
        Service("Secret", psutil.AccessDenied()),
        Service("Ours", os.getpid()),
        Service("SharesOurProcess", os.getpid()),
    ]
    monkeypatch.setattr(psutil, "win_service_iter", lambda: iter(services), raising=False)

    def output(argv: Sequence[str]) -> str | None:
        pytest.fail(f"ran {argv}")

    return PortableSystem(platform="win32", output=output)


def test_a_windows_process(processes: Processes, windows: PortableSystem) -> None:
    seen = facts(windows, os.getpid())
    assert seen.unit == "Ours"
    assert seen.owner == psutil.Process().username()
    assert seen.session is None
    assert seen.terminal is None
    assert seen.complete
    server = processes.orphan(tcp(processes.free_port()))
    assert facts(windows, server.pid).unit is None
    assert windows.namespace == ""


def test_windows_services_that_cannot_be_listed(
    windows: PortableSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "win_service_iter", refuse(OSError(5, "denied")))
    assert not facts(windows, os.getpid()).complete


def test_a_windows_parent_is_believed_only_if_it_can_be_one(
    processes: Processes, windows: PortableSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = processes.child(tcp(processes.free_port()))
    assert facts(windows, child.pid).ppid == os.getpid()

    # The parent has ended, and nobody has its pid.
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(PSLINUX.Process, "ppid", lambda _: ended.pid)
    assert facts(windows, child.pid).ppid is None

    # The parent has ended, and its pid is a younger process's.
    began = time.time()
    wait_until(lambda: time.time() > began + 0.05, "a younger process has a later start")
    younger = processes.child(tcp(processes.free_port()))
    monkeypatch.setattr(PSLINUX.Process, "ppid", lambda _: younger.pid)
    assert facts(windows, child.pid).ppid is None

    # What cannot be compared is believed: a parent that lives keeps its child from being orphaned.
    monkeypatch.setattr(psutil.Process, "create_time", refuse(psutil.AccessDenied()))
    assert facts(windows, child.pid).ppid == younger.pid


# Pins


def test_a_signal_through_the_pin_ends_the_process(processes: Processes, system: System) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    pin = pinned(system, server.pid)
    assert pin.pid == server.pid
    assert pin.alive()
    assert pin.send("TERM")
    server.wait_gone()
    assert not pin.alive()
    assert not pin.send("KILL")
    pin.close()


def test_a_process_is_gone_as_a_zombie_and_when_it_was_reaped(system: System) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    try:
        pin = pinned(system, child.pid)
        assert pin.send("KILL")
        wait_until(lambda: not pin.alive(), "it ends")
        assert facts(system, child.pid).zombie
        assert not pin.send("KILL")
    finally:
        child.kill()
        child.wait()
    assert not pin.alive()
    assert not pin.send("KILL")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("TERM", signal.SIGTERM),
        ("CONT", signal.SIGCONT),
        ("INT", signal.SIGINT),
        ("KILL", signal.SIGKILL),
    ],
)
def test_each_signal_is_the_one_it_says(
    processes: Processes, system: System, monkeypatch: pytest.MonkeyPatch, name: Signal, number: int
) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    pin = pinned(system, server.pid)
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, signal: sent.append((pid, signal)))
    assert pin.send(name)
    assert sent == [(server.pid, number)]


def test_a_stopped_process_goes_on(processes: Processes, system: System) -> None:
    server = processes.orphan(tcp(processes.free_port(), "--stop-self"))
    wait_until(lambda: (seen := stat(server.pid)) and seen.state == "T", "it stops")
    assert pinned(system, server.pid).send("CONT")
    wait_until(lambda: (seen := stat(server.pid)) and seen.state != "T", "it goes on")


def test_a_recycled_pid_is_neither_pinned_nor_signalled(
    processes: Processes, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    seen = facts(system, server.pid)
    monkeypatch.setattr(os, "kill", refuse(AssertionError("signalled")))
    for start in (seen.start - 1, seen.start + 1):
        stranger = Process(pid=seen.pid, ppid=1, start=start, name=seen.name)
        assert system.pin(stranger) is None
        pin = portable._StartPin(PortableSystem(), seen.pid, start)
        assert not pin.send("KILL")
    assert server.alive


@pytest.mark.parametrize("pid", [0, -1])
def test_a_process_group_is_never_signalled(system: System, pid: int) -> None:
    with pytest.raises(PermissionError):
        system.pin(Process(pid=pid, ppid=0, start=1, name="kernel_task"))


def test_what_the_kernel_says_to_a_signal(
    processes: Processes, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    pin = pinned(system, server.pid)
    monkeypatch.setattr(os, "kill", refuse(ProcessLookupError()))
    assert not pin.send("TERM")  # it ended between the look and the signal
    monkeypatch.setattr(os, "kill", refuse(PermissionError()))
    with pytest.raises(PermissionError):
        pin.send("TERM")


def test_waiting_ends_when_the_first_one_does(processes: Processes, system: System) -> None:
    one, two = (processes.orphan(tcp(processes.free_port())) for _ in range(2))
    pins = [pinned(system, one.pid), pinned(system, two.pid)]
    waiter = threading.Thread(target=system.wait, args=(pins, 600), daemon=True)
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    assert pins[1].send("KILL")
    waiter.join(20)
    assert not waiter.is_alive()
    assert pins[0].alive()
    system.wait(pins, 600)  # one has ended already: returns at once, or the test hangs


def test_waiting_ends_when_its_time_is_over(processes: Processes, system: System) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    for pins in ([pinned(system, server.pid)], []):
        before = system.now()
        system.wait(pins, 0.05)
        assert system.now() - before >= 0.05
    assert Identity.of(server.pid).alive


# Programs


def test_the_output_of_a_program() -> None:
    assert portable._output(["printf", "a\\n\\377"]) == "a\n\N{REPLACEMENT CHARACTER}"
    assert portable._output(["sh", "-c", "echo half; exit 3"]) is None
    assert portable._output(["portfree-no-such-program"]) is None


def test_a_program_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "_PATIENCE", 0.05)
    assert portable._output(["sleep", "1000"]) is None


def test_the_tests_are_not_alone_with_fakes(processes: Processes) -> None:
    # The one instance that everybody gets, with nothing replaced.
    port = Port(processes.free_port())
    processes.orphan(serve("--tcp", f"127.0.0.1:{port.number}"))
    assert PortableSystem().bind(port) == "in-use"
    assert PortableSystem().bind(Port(processes.free_port())) == "free"
