"""Whether a port is free: try to bind it, and let go at once.

The only question that is asked when every port is free. It never listens, for a probe that does
disturbs a holder that has bound and is about to listen.
"""

from __future__ import annotations

import os
import sys

# What `socket` is built on: that would cost a third of the time that Python takes to start.
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from _thread import RLock
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EPERM

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from collections.abc import Callable

    from portfree._system.interface import Bind
    from portfree.model import Port

# Winsock's numbers stand beside POSIX's: on Windows Python gives 10013 as EACCES and leaves the
# others as they are (winerror_to_errno in CPython's PC/errmap.h).
_IN_USE = (EADDRINUSE, 10048)
_DENIED = (EACCES, EPERM, 10013)
_NO_SUCH_FAMILY = (EAFNOSUPPORT, EADDRNOTAVAIL, 10047, 10049)

_SO_EXCLUSIVEADDRUSE = ~4  # winsock2.h: ((int)(~SO_REUSEADDR)); the socket module has it there only

_V4_ANY, _V4_LOOPBACK = "0.0.0.0", "127.0.0.1"  # noqa: S104  # bound, never listened on
_V6_ANY, _V6_LOOPBACK = "::", "::1"

PROBING = RLock()
"""Held while a probe has the port bound. Another thread of ours that lists the sockets or forks in
that time waits for it: it would take us for a holder, or leave the socket to the child."""

if hasattr(os, "register_at_fork"):
    release = PROBING.release
    os.register_at_fork(before=PROBING.acquire, after_in_parent=release, after_in_child=release)


def bind(port: Port) -> Bind:
    """Whether the port is free on the system that we run on."""
    if sys.platform == "win32":
        return exclusive_bind(port)
    return dual_stack_bind(port) if sys.platform == "linux" else each_address_bind(port)


def dual_stack_bind(
    port: Port, *, reuse: bool = False, factory: Callable[[int, int], socket] = socket
) -> Bind:
    """Bind the port on every address of both families at once, as Linux allows: one bind to ``::``
    with V6ONLY off is refused by a holder on any address. With *reuse* it is not refused by closing
    connections, nor by a TCP socket that is bound, does not listen and has SO_REUSEADDR itself
    (socket(7)): free then means free only if the kernel lists no holder either.
    """
    # Never for UDP: there it lets two servers share a port, and nothing closes (socket(7)).
    option = SO_REUSEADDR if reuse and port.protocol == "tcp" else None
    said = _try(factory, AF_INET6, _V6_ANY, port, option, v6only=0)
    # Not remembered: it costs a microsecond, and a wrong memory would miss a holder on ::1.
    return said or _try(factory, AF_INET, _V4_ANY, port, option) or "unavailable"


def each_address_bind(
    port: Port, *, reuse: bool = False, factory: Callable[[int, int], socket] = socket
) -> Bind:
    """Bind the port on the loopback and on every address, one family after the other, as on macOS:
    BSD lets a wildcard and a specific address share a port if SO_REUSEADDR is set, and the two
    families do not see each other with V6ONLY on.
    """
    return _try_each(factory, port, SO_REUSEADDR if reuse and port.protocol == "tcp" else None)


def exclusive_bind(
    port: Port,
    *,
    reuse: bool = False,  # noqa: ARG001
    factory: Callable[[int, int], socket] = socket,
) -> Bind:
    """Bind the port on each address as Windows wants it, with SO_EXCLUSIVEADDRUSE: without it, a
    bind to another address than the holder's succeeds. *reuse* changes nothing: SO_REUSEADDR takes
    a port away from its holder there, and closing connections refuse none.
    """
    return _try_each(factory, port, _SO_EXCLUSIVEADDRUSE)


def _try_each(factory: Callable[[int, int], socket], port: Port, option: int | None) -> Bind:
    v4 = [_try(factory, AF_INET, at, port, option) for at in (_V4_LOOPBACK, _V4_ANY)]
    v6 = [_try(factory, AF_INET6, at, port, option) for at in (_V6_LOOPBACK, _V6_ANY)]
    # The worst answer counts; a family that this machine does not have says nothing.
    worst: tuple[Bind, ...] = ("in-use", "denied", "unavailable", "free")
    return next((answer for answer in worst if answer in (*v4, *v6)), "unavailable")


def _try(
    factory: Callable[[int, int], socket],
    family: int,
    address: str,
    port: Port,
    option: int | None,
    v6only: int = 1,
) -> Bind | None:
    """What a bind says; None if this machine does not have the family."""
    with PROBING:
        sock = None
        try:
            sock = factory(family, SOCK_STREAM if port.protocol == "tcp" else SOCK_DGRAM)
            if family == AF_INET6:
                sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, v6only)
            if option is not None:
                sock.setsockopt(SOL_SOCKET, option, 1)
            sock.bind((address, port.number))
        except OSError as error:
            if error.errno in _NO_SUCH_FAMILY:
                return None
            if error.errno in _IN_USE:
                return "in-use"
            return "denied" if error.errno in _DENIED else "unavailable"
        finally:
            if sock is not None:
                sock.close()
    return "free"
