"""Daemons that a command leaves, and which process has adopted them."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from helpers.processes import Identity, Processes, children, stat, tcp
from portfree import Port
from portfree._system.linux import LinuxSystem


@contextmanager
def port_of_ours(processes: Processes) -> Iterator[int]:
    """A port of ours: whoever holds it in the end was started by this test, and is ended."""
    port = processes.free_port()
    yield port
    system = LinuxSystem()
    while sockets := {each.id for each in system.sockets([Port(port)])}:
        for pid in {pid for pids in system.owners(sockets).pids.values() for pid in pids}:
            left = Identity.of(pid)
            left.send(signal.SIGKILL)
            left.wait_gone()


def bash(script: str) -> list[str]:
    return ["bash", "-c", script]


def daemon(port: int, *flags: str) -> str:
    """A line of bash: a server in a session of its own, in another folder, without environment."""
    server = f"(cd /; setsid -f env -i {shlex.join(tcp(port, *flags))})"
    return f"{server}; {until_it_serves(port)}"


def until_it_serves(port: int) -> str:
    return f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do :; done"


def holder_of(port: int) -> Identity:
    """The one process that has the port."""
    system = LinuxSystem()
    sockets = {each.id for each in system.sockets([Port(port)])}
    (pid,) = {pid for pids in system.owners(sockets).pids.values() for pid in pids}
    return Identity.of(pid)


def parent(process: Identity) -> int:
    seen = process.stat
    assert seen is not None
    return seen.ppid


def zombies(pid: int) -> list[int]:
    return [each for each in children(pid) if (seen := stat(each)) and seen.state == "Z"]
