"""What both backends say and do alike, with real processes on Linux."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    Identity,
    Processes,
    client,
    needs_program,
    stat,
    tcp,
    udp,
    wait_until,
)
from portfree._system.interface import Pin, Process, System
from portfree._system.linux import LinuxSystem
from portfree._system.psutil_linux import PsutilLinuxSystem
from portfree.model import Port

if TYPE_CHECKING:
    pass


@pytest.fixture(params=[LinuxSystem, PsutilLinuxSystem], ids=["linux", "portable"])
def system(request: pytest.FixtureRequest) -> System:
    made: System = request.param()
    return made


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
    assert not system.holds(server.pid, {1})
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


def test_closing_connections_belong_to_nobody(processes: Processes, system: System) -> None:
    port = Port(processes.free_port())
    with socket.create_server(("127.0.0.1", port.number)) as server:
        visitor = socket.create_connection(("127.0.0.1", port.number))
        accepted, _ = server.accept()
        accepted.close()
        assert visitor.recv(1) == b""
        visitor.close()
    assert system.sockets([port]) == []
    (left,) = system.sockets([port], connections=True)
    assert (left.id, left.state, left.holds) == (None, "closing", False)


# Processes


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


@needs_program("ps")
def test_who_is_in_the_foreground_of_a_terminal(processes: Processes, system: System) -> None:
    port = processes.free_port()
    leader = processes.start("terminal", tcp(port))
    seen = facts(system, leader.server.pid)
    assert seen.terminal is not None
    assert seen.terminal.startswith("pts/")
    assert seen.leads_session
    assert seen.foreground


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
        if isinstance(system, PsutilLinuxSystem):
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


# Pins


def test_a_signal_through_the_pin_ends_the_process(processes: Processes, system: System) -> None:
    server = processes.orphan(tcp(processes.free_port()))
    pin = pinned(system, server.pid)
    assert pin.pid == server.pid
    assert pin.alive()
    assert pin.send("TERM")
    server.wait_gone()
    assert not pin.alive()
    if isinstance(system, PsutilLinuxSystem):  # a pidfd takes signals until its process is reaped
        assert not pin.send("KILL")
    pin.close()


def test_a_process_is_gone_as_a_zombie_and_when_it_was_reaped(system: System) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    try:
        before, pin = facts(system, child.pid), pinned(system, child.pid)
        assert not before.zombie
        assert pin.send("KILL")
        system.wait([pin], 600)  # returns when it has ended, reaped or not, or the test hangs
        assert not pin.alive()
        after = facts(system, child.pid)
        assert (after.zombie, after.start) == (True, before.start)
        if isinstance(system, PsutilLinuxSystem):
            assert not pin.send("KILL")
    finally:
        child.kill()
        child.wait()
    assert not pin.alive()
    assert not pin.send("KILL")
    assert system.process(child.pid) is None
    assert system.pin(before) is None


def test_a_stopped_process_goes_on(processes: Processes, system: System) -> None:
    server = processes.orphan(tcp(processes.free_port(), "--stop-self"))
    wait_until(lambda: (seen := stat(server.pid)) and seen.state == "T", "it stops")
    assert pinned(system, server.pid).send("CONT")
    wait_until(lambda: (seen := stat(server.pid)) and seen.state != "T", "it goes on")


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
