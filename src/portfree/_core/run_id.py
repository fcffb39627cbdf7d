"""Runs: guarded stretches of work, and the ids that tell what was born in them.

``PORTFREE_RUN_ID`` is a path of elements, outermost first: ``812.34567.9f3c/904.34810.07ab``. One
element is ``PID.START.NONCE`` of the run's controller, the process that opened the run and will end
it; in another pid or time namespace than the machine's first one, ``PID.START.NONCE.NAMESPACE``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Hashable, Sequence

from portfree._system.interface import Socket, System
from portfree.model import Port

RUN_ID = "PORTFREE_RUN_ID"

OPEN_HERE: set[str] = set()
"""The elements of the runs that this process has open."""

# By how many milliseconds two looks at one process may differ where its start is a time of day: it
# moves a little when the clock is set.
_CLOCKS_DIFFER = 2000

# The lowest port that systems choose for a client: 32768 on Linux (ip(7), ip_local_port_range), and
# 49152 elsewhere (RFC 6335, 6).
_OUTGOING = 32_768

_ELEMENT = re.compile(
    r"([0-9]+)\.([0-9]+|t[0-9]+)\.([0-9a-f]+)(?:\.([0-9]+|[0-9]*t[0-9]+))?", re.ASCII
)


def elements(path: str) -> tuple[str, ...]:
    """The elements of a run id, outermost first."""
    return tuple(path.split("/")) if path else ()


def beyond(theirs: Sequence[str], ours: Collection[str]) -> tuple[str, ...]:
    """The elements of their run id that are not ours too, outermost first: the runs that they were
    born in and we were not.
    """
    return tuple(element for element in theirs if element not in ours)


def alive(element: str, system: System) -> bool:
    """Whether the controller of a run lives.

    False must mean that it certainly has ended: no process has its pid, or the process that has it
    started at another time. An element that cannot be read, or comes from another namespace, where
    pids mean other processes or clocks show other times, counts as alive.
    """
    match = _ELEMENT.fullmatch(element)
    if match is None:
        return True
    pid, start, _, namespace = match.groups()
    if (namespace or "") != system.namespace:
        return True
    if int(pid) == os.getpid():
        # Several runs may share a process (tox runs environments in threads), and we know ours.
        return element in OPEN_HERE
    process = system.process(int(pid))
    if process is None:
        return system.exists(int(pid))  # hidden from us (hidepid in proc(5)), or gone
    if process.zombie:
        return False
    now = start_token(process.start)
    # Where a start is not told (0), or one is in ticks and one in seconds, the pid has to do.
    if process.start <= 0 or start == "0" or now.startswith("t") != start.startswith("t"):
        return True
    if now.startswith("t"):
        return abs(int(now[1:]) - int(start[1:])) <= _CLOCKS_DIFFER
    return now == start


def start_token(start: float) -> str:
    """A start time as run ids write it: ticks as they are, seconds as ``t`` and milliseconds."""
    return f"t{round(start * 1000)}" if isinstance(start, float) else str(start)


def new_listeners(
    system: System, known: Collection[Hashable], ports: Collection[Port]
) -> set[Socket]:
    """The listeners on other ports than these that were not there when their ids were *known*."""
    return {
        socket
        for socket in system.listeners()
        if socket.id not in known and socket.port not in ports and not may_be_client(socket)
    }


def may_be_client(socket: Socket) -> bool:
    """Whether it may be a UDP socket that only sends: the system has given it any port then, on
    every address. A server on such a port names its address, mostly 127.0.0.1.
    """
    on_every_address = socket.address in ("0.0.0.0", "::")  # noqa: S104 - nothing is bound to it
    return socket.port.protocol == "udp" and on_every_address and socket.port.number >= _OUTGOING


def new_element(system: System) -> str:
    """An element for a run that this process opens."""
    me = system.process(os.getpid())
    start = start_token(me.start) if me else "0"
    namespace = f".{system.namespace}" if system.namespace else ""
    return f"{os.getpid()}.{start}.{os.urandom(4).hex()}{namespace}"


def ended_here(element: str) -> bool:
    """Whether it is a run of this process, and has ended."""
    return element.startswith(f"{os.getpid()}.") and element not in OPEN_HERE
