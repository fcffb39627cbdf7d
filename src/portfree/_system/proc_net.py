"""The sockets on a port, read from /proc/net (proc(5)): slower, and the way out where sock_diag is
refused, as under gVisor or a seccomp filter. The kernel lists no TCP sockets there that are bound
and do not listen. The functions raise OSError where the tables cannot be read, or make no sense.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from portfree._system.common import endpoint
from portfree._system.interface import Socket
from portfree._system.sock_diag import TCP_STATES, TIME_WAIT_TIMER, address
from portfree.model import Port, Protocol

_USER_HZ = 100  # the unit of times in /proc/net, whatever the kernel's own tick (asm/param.h)


def read(
    ports: Collection[Port], *, connections: bool, root: Path = Path("/proc/self/net")
) -> list[Socket]:
    """The sockets whose local port is one of *ports*; *connections*: also those that hold none."""
    wanted = set(ports)
    return [
        found
        for protocol in sorted({port.protocol for port in ports})
        for found in _sockets(root, protocol)
        if found.port in wanted and (connections or found.holds)
    ]


def listeners(root: Path = Path("/proc/self/net")) -> list[Socket]:
    """Every listening TCP socket of our network namespace, and every bound UDP socket."""
    return [
        *(found for found in _sockets(root, "tcp") if found.state == "listening"),
        *(found for found in _sockets(root, "udp") if found.state == "bound"),
    ]


def _sockets(root: Path, protocol: Protocol) -> Iterator[Socket]:
    for name, family in ((protocol, socket.AF_INET), (f"{protocol}6", socket.AF_INET6)):
        try:
            lines = (root / name).read_text("latin-1").splitlines()[1:]  # after the heading
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            try:
                yield _row(line, family, protocol)
            except (ValueError, OverflowError):
                raise OSError(errno.EBADMSG, "garbled line", str(root / name)) from None


def _row(line: str, family: socket.AddressFamily, protocol: Protocol) -> Socket:
    _, near, far, state, _, timer, _, uid, _, inode, *_ = line.split()
    near_address, near_port = _end(near, family)
    far_address, far_port = _end(far, family)
    # 03:00001770 is a TIME_WAIT timer with 60 s left, in hundredths of a second.
    kind, _, left = timer.partition(":")
    closes_in = int(left, 16) / _USER_HZ if int(kind, 16) == TIME_WAIT_TIMER else None
    return Socket(
        id=int(inode) or None,
        port=Port(near_port, protocol),
        state=TCP_STATES.get(int(state, 16), "connecting"),
        address=near_address,
        uid=int(uid),
        peer=endpoint(far_address, far_port) if far_port else "",
        closes_in=closes_in,
    )


def _end(text: str, family: socket.AddressFamily) -> tuple[str, int]:
    """``0100007F:1F40`` is 127.0.0.1 and 8000: words of 32 bits in the machine's byte order."""
    words, _, port = text.partition(":")
    if len(words) != (8 if family == socket.AF_INET else 32):
        raise ValueError(f"{words} is no address")
    numbers = (int(words[at : at + 8], 16) for at in range(0, len(words), 8))
    raw = b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
    return address(family, raw), int(port, 16)
