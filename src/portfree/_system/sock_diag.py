"""The sockets on a port, asked of the Linux kernel by NETLINK_SOCK_DIAG (sock_diag(7)).

Needs no privilege, and costs the same with ten processes or ten thousand. Structures:
linux/netlink.h, linux/inet_diag.h; states: include/net/tcp_states.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator
from functools import lru_cache

from portfree._system.common import endpoint
from portfree._system.interface import Socket, State
from portfree.model import Port, Protocol

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2 up to its sockid: family, protocol, …, states
_SOCKID = struct.Struct(">HH16s16s4s8s")  # inet_diag_sockid: ports, addresses, interface, cookie
_MESSAGE = struct.Struct("=BBBB48s5I")  # inet_diag_msg: family, state, …, sockid, …, uid, inode

_NO_COOKIE = b"\xff" * 8  # INET_DIAG_NOCOOKIE
_A_SECOND = struct.pack("@ll", 1, 0)  # timeval

# One bit a state. BOUND_INACTIVE is one only in this mask (since Linux 6.8; older kernels ignore
# the bit): the sockets come back as CLOSE, and the kernel does not apply the port filter to them.
ESTABLISHED, _CLOSE, LISTEN, _BOUND_INACTIVE = 1, 7, 10, 13
_HOLDING = 1 << LISTEN | 1 << _BOUND_INACTIVE
_ANY_STATE = 0x3FFF

TCP_STATES: dict[int, State] = {
    1: "connected",  # ESTABLISHED
    2: "connecting",  # SYN_SENT
    3: "connecting",  # SYN_RECV
    4: "closing",  # FIN_WAIT1
    5: "closing",  # FIN_WAIT2
    6: "closing",  # TIME_WAIT
    _CLOSE: "bound",
    8: "connected",  # CLOSE_WAIT: our end is still open
    9: "closing",  # LAST_ACK
    LISTEN: "listening",
    11: "closing",  # CLOSING
    12: "connecting",  # NEW_SYN_RECV
}

TIME_WAIT_TIMER = 3  # idiag_timer; milliseconds are left of it in idiag_expires

_PROTOCOLS: dict[Protocol, int] = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_FEW = 8  # ports that are asked for one by one
_ATTEMPTS = 5  # for a list that changed while it was read


def dump(ports: Collection[Port], *, connections: bool) -> list[Socket]:
    """The sockets whose local port is one of *ports*; *connections*: also those that hold nothing.
    Raises OSError where the kernel does not answer (gVisor, a seccomp filter, no such protocol
    family), and for an answer that makes no sense.
    """
    found: list[Socket] = []
    with _link() as link:
        for protocol in sorted({port.protocol for port in ports}):
            numbers = {port.number for port in ports if port.protocol == protocol}
            # A UDP socket is CLOSE or ESTABLISHED, and the mask does not pay for so short a list.
            states = _ANY_STATE if connections or protocol == "udp" else _HOLDING
            only = next(iter(numbers)) if len(numbers) == 1 else 0  # 0: the kernel filters none
            listed = _list(link, protocol, states, only)
            listed = [each for each in listed if each.port.number in numbers]
            found += [each for each in listed if connections or each.holds]
        if not connections:
            # Connections of sockets to themselves. To ask for both ends at once costs the kernel a
            # walk through its table, and us nothing more.
            missing = {p.number for p in ports if p.protocol == "tcp"}
            missing -= {each.port.number for each in found}
            for number in sorted(missing) if len(missing) <= _FEW else [0]:
                listed = _list(link, "tcp", 1 << ESTABLISHED, number, number)
                listed = [each for each in listed if each.of_itself]
                found += [each for each in listed if each.port.number in missing]
    return found


def listeners() -> list[Socket]:
    """Every listening TCP socket of our network namespace, and every UDP socket that is bound and
    not connected. Raises OSError like `dump`.
    """
    with _link() as link:
        return _list(link, "tcp", 1 << LISTEN) + _list(link, "udp", 1 << _CLOSE)


def connections() -> list[Socket]:
    """Every TCP connection of our network namespace. Raises OSError like `dump`."""
    with _link() as link:
        return _list(link, "tcp", 1 << ESTABLISHED)


def _link() -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    # A timeout of Python's takes a poll(2) before each recv(2), and leaks are looked for after
    # every test.
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _A_SECOND)
    return link


def _list(
    link: socket.socket, protocol: Protocol, states: int, near_port: int = 0, far_port: int = 0
) -> list[Socket]:
    """One question about both families, and the answers. A port of 0 means any."""
    found: list[Socket] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for attempt in range(1, _ATTEMPTS + 1):
            link.send(_question(family, protocol, states, near_port, far_port, attempt))
            answer = list(_answer(link, attempt))
            if not any(flags & _NLM_F_DUMP_INTR for flags, _ in answer):
                break
        found += [_read(payload, family, protocol) for _, payload in answer]
    return found


@lru_cache(maxsize=16)
def _question(
    family: int, protocol: Protocol, states: int, near_port: int, far_port: int, sequence: int
) -> bytes:
    body = _REQUEST.pack(family, _PROTOCOLS[protocol], 0, 0, states) + _SOCKID.pack(
        near_port, far_port, bytes(16), bytes(16), bytes(4), _NO_COOKIE
    )
    length, flags = _HEADER.size + len(body), _NLM_F_REQUEST | _NLM_F_DUMP
    return _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, flags, sequence, 0) + body


def _answer(link: socket.socket, sequence: int) -> Iterator[tuple[int, bytes]]:
    """The messages of one dump: flags and payload of each."""
    while True:
        data, _, flags, _ = link.recvmsg(65536)
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, "sock_diag: truncated answer")
        if not data:
            raise OSError(errno.EBADMSG, "sock_diag: empty answer")
        for kind, message_flags, number, payload in _messages(data):
            if number != sequence:
                continue  # what is left of an answer that was given up
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                (said,) = struct.unpack_from("=i", payload) if len(payload) >= 4 else (0,)
                code = -said if -4096 < said < 0 else 0  # MAX_ERRNO in linux/err.h
                # A kernel without udp_diag says at the end, and nowhere else, that it cannot tell.
                if kind == _NLMSG_DONE and not code:
                    return
                code = code or errno.EBADMSG
                raise OSError(code, f"sock_diag: {os.strerror(code)}")
            yield message_flags, payload


# Of one look to the next mostly nothing has changed.
@lru_cache(maxsize=16)
def _messages(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    at = 0
    while at < len(data):
        length, kind, flags, sequence = 0, 0, 0, 0
        if len(data) - at >= _HEADER.size:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise OSError(errno.EBADMSG, "sock_diag: garbled answer")
        found.append((kind, flags, sequence, data[at + _HEADER.size : at + length]))
        at += length + 3 & ~3  # messages are aligned to four bytes
    return found


@lru_cache(maxsize=512)
def _read(payload: bytes, family: socket.AddressFamily, protocol: Protocol) -> Socket:
    if len(payload) < _MESSAGE.size:
        raise OSError(errno.EBADMSG, "sock_diag: garbled answer")
    _, state, timer, _, sockid, expires, _, _, uid, inode = _MESSAGE.unpack_from(payload)
    near_port, far_port, near, far, _, _ = _SOCKID.unpack(sockid)
    return Socket(
        id=inode or None,  # 0: no process has it any more
        port=Port(near_port, protocol),
        state=TCP_STATES.get(state, "connecting"),
        address=address(family, near),
        uid=uid,
        peer=endpoint(address(family, far), far_port) if far_port else "",
        closes_in=expires / 1000 if timer == TIME_WAIT_TIMER else None,
    )


def address(family: socket.AddressFamily, raw: bytes) -> str:
    """An address as people write it, from the sixteen bytes of inet_diag_sockid."""
    return socket.inet_ntop(family, raw[:4] if family == socket.AF_INET else raw)
