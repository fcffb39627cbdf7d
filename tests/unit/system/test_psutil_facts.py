"""What psutil says, and what is made of it, on any system: no process is real here."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from signal import Signals
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from helpers.fake_psutil import FakePsutil
from portfree._system import portable, psutil_base
from portfree._system.interface import Pin, Process, System
from portfree._system.psutil_base import PsutilSystem
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portfree._system.interface import Signal, State
    from portfree.model import Protocol

FAR = ("192.0.2.7", 443)
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
Address = tuple[str, int] | tuple[()]


class Tools(PsutilSystem):
    """A system whose programs write what a test says, and count how often they were asked."""

    def __init__(self, **told: str | None) -> None:
        super().__init__()
        self.told = told
        self.asked: list[Sequence[str]] = []

    def output(self, argv: Sequence[str], timeout: float) -> str | None:
        assert timeout > 0
        self.asked.append(argv)
        return self.told.get(argv[0])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakePsutil:
    return FakePsutil(monkeypatch)


@pytest.fixture
def system() -> Tools:
    return Tools()


def facts(system: System, pid: int = 7) -> Process:
    process = system.process(pid)
    assert process is not None
    return process


def pinned(system: System, pid: int = 7) -> Pin:
    pin = system.pin(facts(system, pid))
    assert pin is not None
    return pin


def connection(
    status: str, *, near: Address = ("127.0.0.1", 8000), far: Address = (), kind: int = TCP
) -> SimpleNamespace:
    return SimpleNamespace(status=status, laddr=near, raddr=far, type=kind)


LISTENING = connection(psutil.CONN_LISTEN)


# Sockets


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (LISTENING, "listening"),
        (connection(psutil.CONN_CLOSE), "bound"),  # as macOS has it
        (connection(psutil.CONN_NONE), "bound"),
        (connection(psutil.CONN_NONE, kind=UDP), "bound"),
        (connection(psutil.CONN_NONE, kind=UDP, far=FAR), "connected"),
        (connection(psutil.CONN_ESTABLISHED, far=FAR), "connected"),
        (connection(psutil.CONN_CLOSE_WAIT, far=FAR), "connected"),
        (connection(psutil.CONN_SYN_SENT, far=FAR), "connecting"),
        (connection(psutil.CONN_SYN_RECV, far=FAR), "connecting"),
        (connection(psutil.CONN_FIN_WAIT1, far=FAR), "closing"),
        (connection(psutil.CONN_FIN_WAIT2, far=FAR), "closing"),
        (connection(psutil.CONN_LAST_ACK, far=FAR), "closing"),
        (connection(psutil.CONN_CLOSING, far=FAR), "closing"),
        (connection(psutil.CONN_TIME_WAIT, far=FAR), "closing"),
        (connection(psutil.CONN_CLOSE, far=FAR), "closing"),  # reset, its descriptor still open
    ],
)
def test_every_state_of_a_socket(
    machine: FakePsutil, system: Tools, seen: SimpleNamespace, state: State
) -> None:
    machine.add(net_connections=[seen])
    protocol: Protocol = "udp" if seen.type == UDP else "tcp"
    (found,) = system.sockets([Port(8000, protocol)], connections=True)
    assert found.state == state
    assert found.peer == ("192.0.2.7:443" if seen.raddr else "")
    assert (found.id is None) == (state == "closing")
    assert system.sockets([Port(8000, protocol)]) == ([found] if found.holds else [])
    serves = state == ("bound" if protocol == "udp" else "listening")
    assert system.listeners() == ([found] if serves else [])


def test_sockets_are_told_apart_by_protocol_address_port_and_peer(
    machine: FakePsutil, system: Tools
) -> None:
    machine.add(
        net_connections=[
            LISTENING,
            connection(psutil.CONN_LISTEN, near=("::1", 8000)),
            connection(psutil.CONN_LISTEN, near=("127.0.0.1", 18000)),
            connection(psutil.CONN_NONE, kind=UDP),
            connection(psutil.CONN_ESTABLISHED, far=FAR),
            connection(psutil.CONN_ESTABLISHED, far=("2001:db8::7", 443)),
            connection(psutil.CONN_NONE, near=()),
        ]
    )
    machine.add(8, net_connections=[LISTENING])
    ports = [Port(8000), Port(8000, "udp"), Port(18000)]
    seen = system.sockets(ports, connections=True)
    assert len({each.id for each in seen}) == len(seen) == 6
    assert sorted(s.peer for s in seen if s.peer) == ["192.0.2.7:443", "[2001:db8::7]:443"]
    (shared,) = (s for s in system.sockets([Port(8000)]) if s.address == "127.0.0.1")
    assert system.owners([shared.id]).pids == {shared.id: {7, 8}}


V4, V6 = LISTENING, connection(psutil.CONN_LISTEN, near=("::1", 8000))
DATAGRAM = connection(psutil.CONN_NONE, kind=UDP)


@pytest.mark.parametrize(
    ("ports", "seen", "kinds"),
    [
        ([Port(8000)], [V4], ("tcp", "tcp4")),
        ([Port(8000)], [V6], ("tcp", "tcp6")),
        ([Port(8000)], [V4, V6], ("tcp", "tcp")),
        ([Port(8000, "udp")], [DATAGRAM], ("udp", "udp4")),
        ([Port(8000), Port(8000, "udp")], [V4, DATAGRAM], ("inet", "inet")),
    ],
)
def test_nothing_is_listed_that_nobody_asked_for(
    machine: FakePsutil,
    system: Tools,
    ports: list[Port],
    seen: list[SimpleNamespace],
    kinds: tuple[str, str],
) -> None:
    process = machine.add(net_connections=seen)
    ids = [found.id for found in system.sockets(ports)]
    assert system.holds(7, ids)
    assert system.owners(ids).pids == {id_: {7} for id_ in ids}
    first, *others = (kind for _, kind in process.asked)
    assert (first, *set(others)) == kinds


def test_one_process_that_cannot_be_read_does_not_hide_the_others(
    machine: FakePsutil, system: Tools
) -> None:
    errors = (
        psutil.AccessDenied(1),
        psutil.NoSuchProcess(2),
        psutil.ZombieProcess(3),
        OSError(0, "Undefined error: 0"),
        SystemError("proc_cmdline returned a result with an exception set"),
    )
    for pid, error in enumerate(errors, start=1):
        machine.add(pid, net_connections=error)
    machine.add(6, net_connections=[LISTENING])
    (seen,) = system.sockets([Port(8000)])
    owners = system.owners([seen.id])
    assert owners.pids == {seen.id: {6}}
    assert owners.unreadable == 3  # an ended process and a zombie hold nothing
    assert [system.holds(pid, {seen.id}) for pid in range(1, 8)] == [False] * 5 + [True, False]
    assert [system.peers(pid) for pid in range(1, 8)] == [frozenset()] * 7


def test_psutil_before_6_is_understood(machine: FakePsutil, system: Tools) -> None:
    process = machine.add(connections=[LISTENING])
    del process.facts["net_connections"]
    (seen,) = system.sockets([Port(8000)])
    assert system.holds(7, {seen.id})


def test_the_far_end_of_a_connection_has_its_addresses_the_other_way_round(
    machine: FakePsutil, system: Tools
) -> None:
    def connected(near: Address, far: Address) -> SimpleNamespace:
        return connection(psutil.CONN_ESTABLISHED, near=near, far=far)

    here, mapped = ("127.0.0.1", 8000), ("::ffff:127.0.0.1", 5000)
    machine.add(7, net_connections=[LISTENING, connected(here, ("127.0.0.1", 5000))])
    machine.add(8, net_connections=[connected(mapped, ("::ffff:127.0.0.1", 8000))])
    machine.add(9, net_connections=[LISTENING])
    assert system.peers(7) == {8}
    assert system.peers(8) == {7}
    assert system.peers(9) == frozenset()


# Processes


def test_the_facts(machine: FakePsutil, system: Tools) -> None:
    marks = {"PORTFREE_RUN_ID": "1.2.3", "RUNNER_TRACKING_ID": ""}
    machine.add(environ={**marks, "CI_JOB_ID": "", "PASSWORD": "hunter2"})
    assert facts(system) == Process(
        pid=7,
        ppid=1,
        start=107.0,
        started=107.0,
        name="server",
        argv=("python", "server.py"),
        owner=1000,
        cwd="/home/me/shop",
        session=7,
        marks=marks,
    )
    assert system.process(8) is None
    assert (system.name, system.namespace, system.polite) == (sys.platform, "", True)
    assert list(system.pids()) == [7]


@pytest.mark.parametrize("fact", ["cmdline", "environ", "cwd"])
@pytest.mark.parametrize(
    "error", [psutil.AccessDenied(), OSError(errno.EIO, "no"), SystemError("no"), RuntimeError()]
)
def test_a_fact_that_cannot_be_read_makes_the_facts_incomplete(
    machine: FakePsutil, system: Tools, fact: str, error: Exception
) -> None:
    machine.add(**{"environ": {"TOX_ENV_DIR": "x"}, fact: error})
    seen = facts(system)
    assert not seen.complete
    assert (seen.argv == ()) == (fact == "cmdline")
    assert (seen.marks == {}) == (fact == "environ") == (seen.environment == "unreadable")
    assert (seen.cwd is None) == (fact == "cwd")
    assert (seen.start, seen.owner) == (107.0, 1000)


def test_other_facts_may_be_missing_too(
    machine: FakePsutil, system: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> int:
        raise PermissionError

    machine.add(**dict.fromkeys(("name", "uids", "terminal"), psutil.AccessDenied()))
    monkeypatch.setattr(os, "getsid", refuse)
    seen = facts(system)
    assert (seen.name, seen.owner, seen.terminal, seen.session) == ("", None, None, None)
    # A parent that is not told must not pass for one that has ended.
    machine.add(ppid=psutil.AccessDenied())
    assert (facts(system).ppid, facts(system).owner) == (None, None)


def test_an_empty_environment_is_wiped_and_no_missing_one(
    machine: FakePsutil, system: Tools
) -> None:
    machine.add(environ={})
    assert (facts(system).environment, facts(system).complete) == ("wiped", True)


@pytest.mark.parametrize(
    ("status", "threads", "zombie", "stopped"),
    [
        (psutil.STATUS_ZOMBIE, 1, True, False),
        (psutil.STATUS_DEAD, psutil.AccessDenied(), True, False),
        (psutil.STATUS_ZOMBIE, 2, False, False),
        (psutil.STATUS_STOPPED, 1, False, True),
        (psutil.STATUS_TRACING_STOP, 1, False, True),
        (psutil.STATUS_RUNNING, 1, False, False),
    ],
)
def test_what_a_process_is_doing(
    machine: FakePsutil,
    system: Tools,
    status: str,
    threads: object,
    *,
    zombie: bool,
    stopped: bool,
) -> None:
    machine.add(status=status, num_threads=threads)
    seen = facts(system)
    assert (seen.zombie, seen.stopped, seen.running) == (zombie, stopped, False)
    assert (system.pin(seen) is None) == zombie


def test_the_facts_of_two_processes_are_never_mixed(
    machine: FakePsutil, system: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = iter([machine.add(create_time=1.0), machine.add(create_time=2.0)])
    monkeypatch.setattr(psutil, "Process", lambda _: next(each))
    assert system.process(7) is None


# Terminals

PS = ["ps", "-A", "-o", "pid=", "-o", "tty=", "-o", "stat="]


def test_terminals_are_read_for_all_processes_at_once(machine: FakePsutil) -> None:
    # None of them is written "?" on Linux, "??" on macOS and "-" on FreeBSD.
    told = "1 ? Ss\n 22 ttys003 S+\n 23 ttys003 S\n24 ??  Ss\n 25 - S\nps: what?\n"
    system = Tools(ps=told)
    for pid in (1, 22, 23, 24, 25, 26):
        machine.add(pid)
    seen = [facts(system, pid) for pid in (1, 22, 23, 24, 25)]
    assert [(each.terminal, each.foreground) for each in seen] == [
        (None, False),
        ("ttys003", True),
        ("ttys003", False),
        (None, False),
        (None, False),
    ]
    assert system.asked == [PS]
    system.told["ps"] = "26 ttys004 S+\n"  # started since
    assert (facts(system, 26).terminal, facts(system, 26).foreground) == ("ttys004", True)
    assert system.asked == [PS, PS]


def test_terminals_are_read_again_after_a_moment(
    machine: FakePsutil, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    machine.add()
    system = Tools(ps="7 ttys003 S+\n")
    assert facts(system).foreground
    system.told["ps"] = "7 ttys003 S\n"
    assert facts(system).foreground
    now += 60
    assert not facts(system).foreground
    assert system.asked == [PS, PS]


def test_without_ps_psutil_tells_of_terminals(machine: FakePsutil, system: Tools) -> None:
    machine.add(terminal="/dev/pts/7")
    assert (facts(system).terminal, facts(system).foreground) == ("pts/7", False)
    machine.add(terminal=None)
    assert facts(system).terminal is None
    assert system.asked == [PS]


# Pins


@pytest.mark.parametrize("name", ["TERM", "CONT", "INT", "KILL"])
def test_each_signal_is_the_one_it_says(machine: FakePsutil, system: Tools, name: Signal) -> None:
    if f"SIG{name}" not in Signals.__members__:
        pytest.skip("not on Windows")
    process = machine.add()
    pin = pinned(system)
    assert pin.pid == 7
    assert pin.send(name)
    assert process.signals() == [("send_signal", Signals[f"SIG{name}"])]
    pin.close()


@pytest.mark.parametrize("start", [106.0, 108.0])
def test_a_recycled_pid_is_neither_pinned_nor_signalled(
    machine: FakePsutil, system: Tools, start: float
) -> None:
    process = machine.add()
    pin = pinned(system)
    assert system.pin(facts(system)._replace(start=start)) is None
    process.facts["create_time"] = start
    assert not pin.alive()
    assert not pin.send("TERM")
    assert process.signals() == []


def test_a_pid_that_is_recycled_right_before_the_signal_is_refused_by_psutil(
    machine: FakePsutil, system: Tools
) -> None:
    machine.add(send_signal=psutil.NoSuchProcess(7, msg="its PID has been reused"))
    assert not pinned(system).send("TERM")


def test_what_may_not_be_signalled_is_said(machine: FakePsutil, system: Tools) -> None:
    machine.add(send_signal=psutil.AccessDenied(7))
    with pytest.raises(PermissionError, match="pid 7 may not be signalled"):
        pinned(system).send("TERM")


def test_a_process_that_is_gone_is_not_pinned_nor_alive(machine: FakePsutil, system: Tools) -> None:
    machine.add()
    seen, pin = facts(system), pinned(system)
    machine.processes.clear()
    assert system.pin(seen) is None
    assert not pin.alive()
    assert not pin.send("TERM")
    system.wait([pin], 600)  # returns at once, or the test hangs


def test_a_process_that_does_not_tell_its_start_cannot_be_pinned(
    machine: FakePsutil, system: Tools
) -> None:
    process = machine.add()
    pin = pinned(system)
    process.facts["create_time"] = psutil.AccessDenied()
    seen = facts(system)
    assert not seen.complete
    assert seen.started is None
    with pytest.raises(PermissionError, match="pid 7"):
        system.pin(seen)
    assert not pin.alive()
    assert not pin.send("TERM")
    assert process.signals() == []


@pytest.mark.parametrize("pid", [0, -1])
def test_a_process_group_is_never_signalled(system: Tools, pid: int) -> None:
    with pytest.raises(PermissionError):
        system.pin(Process(pid=pid, ppid=0, start=1, name="kernel_task"))


def test_waiting_ends_when_its_time_is_over(
    machine: FakePsutil, system: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0, slept=[])

    def sleep(seconds: float) -> None:
        clock.slept.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", sleep)
    machine.add()
    for pins in ([pinned(system)], []):
        clock.now, clock.slept = 0.0, []
        system.wait(pins, 0.25)
        assert clock.now == pytest.approx(0.25)
        assert max(clock.slept) <= psutil_base._INTERVAL


# What all systems share


def test_users_have_names(system: Tools) -> None:
    pwd: Any = pytest.importorskip("pwd")
    uid: int = vars(os)["getuid"]()
    assert system.user(uid) == pwd.getpwuid(uid).pw_name
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    nobody = next(uid for uid in range(54321, 60000) if uid not in taken)
    assert system.user(nobody) == str(nobody)
    assert system.user(None) == "?"
    assert system.user("DOMAIN\\user") == "DOMAIN\\user"


@pytest.mark.parametrize(("uid", "privileged"), [(0, True), (1000, False)])
def test_root_is_privileged(
    system: Tools, monkeypatch: pytest.MonkeyPatch, uid: int, *, privileged: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid, raising=False)
    assert system.privileged is privileged


@pytest.mark.parametrize(("found", "says"), [("/bin/sudo", "sudo "), (None, "as root: ")])
def test_how_to_become_root(
    system: Tools, monkeypatch: pytest.MonkeyPatch, found: str | None, says: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: found)
    assert system.elevate() == says


def test_the_output_of_a_program() -> None:
    def output(code: str, timeout: float = 60.0) -> str | None:
        return PsutilSystem().output([sys.executable, "-S", "-c", code], timeout)

    write = r"import os; os.write(1, b'a\n\xff')"
    assert output(write) == "a\n\N{REPLACEMENT CHARACTER}"
    assert output(f"{write}; os._exit(3)") is None
    assert output("import os; os.kill(os.getpid(), 9)") is None
    assert output("input()", 60.0) is None  # there is nothing to read
    assert output("import time; time.sleep(1000)", 0.05) is None
    assert PsutilSystem().output(["portfree-no-such-program"], 60.0) is None


@pytest.mark.parametrize(
    ("platform", "name"),
    [("linux", "linux"), ("darwin", "darwin"), ("win32", "win32"), ("freebsd14", sys.platform)],
)
def test_each_platform_has_its_own_class(platform: str, name: str) -> None:
    if platform == "linux" != sys.platform:
        pytest.skip("loads what only Linux has")
    system = portable(platform)
    assert isinstance(system, PsutilSystem)
    assert system.name == name
    assert (type(system) is PsutilSystem) == (platform == "freebsd14")
