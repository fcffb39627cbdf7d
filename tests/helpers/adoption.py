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
    """A port of ours: what holds it in the end was started by this test, and is killed."""
    port = processes.free_port()
    yield port
    system = LinuxSystem()
    while system.sockets([Port(port)]):
        for left in holders_of(port):
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


def holders_of(port: int) -> set[Identity]:
    system = LinuxSystem()
    owners = system.owners({each.id for each in system.sockets([Port(port)])})
    return {Identity.of(pid) for pid in frozenset().union(*owners.pids.values())}


def holder_of(port: int) -> Identity:
    """The one process that has the port."""
    (found,) = holders_of(port)
    return found


def parent(process: Identity) -> int:
    seen = process.stat
    assert seen is not None
    return seen.ppid


def zombies(pid: int) -> list[int]:
    return [each for each in children(pid) if (seen := stat(each)) and seen.state == "Z"]
