"""Linux: what the kernel lists on a port, by netlink and as text, and who has it open."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if sys.platform != "linux":
    pytest.skip("netlink is Linux's", allow_module_level=True)

from helpers.processes import has_ipv6
from portfree._system import proc_net, sock_diag
from portfree._system.linux import LinuxSystem
from portfree.model import Port, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portfree._system.interface import Socket

IPPROTO_MPTCP = 262


needs_v6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


def _has_mptcp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


needs_mptcp = pytest.mark.skipif(not _has_mptcp(), reason="needs a kernel with MPTCP")

V4, V6 = socket.AF_INET, pytest.param(socket.AF_INET6, marks=needs_v6)
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(
    opened: ExitStack,
    family: socket.AddressFamily = socket.AF_INET,
    kind: int = socket.SOCK_STREAM,
    *,
    port: int = 0,
    protocol: int = 0,
    options: Sequence[int] = (),
) -> tuple[socket.socket, Port]:
    sock = opened.enter_context(socket.socket(family, kind, protocol))
    for option in options:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    sock.bind((LOOPBACK[family], port))
    name: Protocol = "udp" if kind == socket.SOCK_DGRAM else "tcp"
    return sock, Port(sock.getsockname()[1], name)


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def looked_up(port: Port, *, connections: bool = False) -> list[tuple[object, str, str]]:
    found = sock_diag.dump([port], connections=connections)
    assert all(each.port == port for each in found)
    return [(each.id, each.state, each.address) for each in found]


# Real sockets


@pytest.mark.parametrize("family", [V4, V6])
def test_a_listener(opened: ExitStack, family: socket.AddressFamily) -> None:
    sock, port = bound(opened, family)
    sock.listen()
    assert looked_up(port) == [(inode(sock), "listening", LOOPBACK[family])]
    (found,) = sock_diag.dump([port], connections=False)
    assert found.uid == os.getuid()
    assert found.holds
    assert (found.peer, found.closes_in) == ("", None)


@pytest.mark.parametrize("family", [V4, V6])
def test_a_socket_that_is_bound_and_does_not_listen(
    opened: ExitStack, family: socket.AddressFamily
) -> None:
    sock, port = bound(opened, family)
    found = looked_up(port)
    if not found:
        pytest.skip("needs a kernel that lists these (6.8)")
    assert found == [(inode(sock), "bound", LOOPBACK[family])]


@pytest.mark.parametrize("family", [V4, V6])
def test_a_udp_server_and_a_udp_client(opened: ExitStack, family: socket.AddressFamily) -> None:
    server, port = bound(opened, family, socket.SOCK_DGRAM)
    client, other = bound(opened, family, socket.SOCK_DGRAM)
    client.connect(server.getsockname())
    assert looked_up(port) == [(inode(server), "bound", LOOPBACK[family])]
    assert looked_up(other) == []  # it merely has the number at its end
    (found,) = sock_diag.dump([other], connections=True)
    assert (found.id, found.state, found.holds) == (inode(client), "connected", False)
    host = "[::1]" if family == socket.AF_INET6 else "127.0.0.1"
    assert found.peer == f"{host}:{port.number}"


def test_tcp_and_udp_on_one_number_are_two_ports(opened: ExitStack) -> None:
    udp, port = bound(opened, kind=socket.SOCK_DGRAM)
    try:
        tcp, _ = bound(opened, port=port.number)
    except OSError:
        pytest.skip("the number is in use for TCP")
    tcp.listen()
    assert [id_ for id_, *_ in looked_up(port)] == [inode(udp)]
    assert [id_ for id_, *_ in looked_up(Port(port.number))] == [inode(tcp)]
    both = sock_diag.dump([port, Port(port.number)], connections=False)
    assert {found.id for found in both} == {inode(udp), inode(tcp)}


def test_every_socket_of_a_reuseport_group(opened: ExitStack) -> None:
    options = [socket.SO_REUSEPORT]
    first, port = bound(opened, options=options)
    others = [bound(opened, port=port.number, options=options)[0] for _ in range(3)]
    for sock in (first, *others):
        sock.listen()
    assert {id_ for id_, *_ in looked_up(port)} == {inode(s) for s in (first, *others)}


@needs_mptcp
@pytest.mark.parametrize("family", [V4, V6])
def test_a_multipath_listener(opened: ExitStack, family: socket.AddressFamily) -> None:
    # Servers written in Go open these without being asked, since Go 1.24.
    sock, port = bound(opened, family, protocol=IPPROTO_MPTCP)
    sock.listen()
    assert looked_up(port) == [(inode(sock), "listening", LOOPBACK[family])]


def test_connections_are_listed_only_if_asked_for(opened: ExitStack) -> None:
    server, port = bound(opened)
    server.listen()
    client = opened.enter_context(socket.create_connection(server.getsockname()))
    accepted, _ = server.accept()
    opened.enter_context(accepted)
    assert [state for _, state, _ in looked_up(port)] == ["listening"]
    states = {id_: state for id_, state, _ in looked_up(port, connections=True)}
    assert states == {inode(server): "listening", inode(accepted): "connected"}
    (end,) = sock_diag.dump([Port(client.getsockname()[1])], connections=True)
    assert (end.id, end.state, end.peer) == (
        inode(client),
        "connected",
        f"127.0.0.1:{port.number}",
    )


@pytest.mark.parametrize("source", ["netlink", "text"])
def test_a_closing_connection_and_how_long_it_closes(opened: ExitStack, source: str) -> None:
    server, port = bound(opened)
    server.listen()
    client = opened.enter_context(socket.create_connection(server.getsockname()))
    accepted, _ = server.accept()
    accepted.close()  # who closes first has TIME_WAIT
    assert client.recv(1) == b""
    client.close()
    server.close()

    def look() -> list[Socket]:
        if source == "text":
            return proc_net.read([port], connections=True)
        return sock_diag.dump([port], connections=True)

    assert source == "text" or sock_diag.dump([port], connections=False) == []
    (found,) = look()
    assert (found.id, found.state, found.holds) == (None, "closing", False)
    assert found.closes_in is not None
    assert 0 < found.closes_in <= 60


def test_many_ports_in_one_look_are_the_same_as_one_by_one(opened: ExitStack) -> None:
    ports: list[Port] = []
    for at in range(30):
        sock, port = bound(opened, kind=(socket.SOCK_STREAM, socket.SOCK_DGRAM)[at % 2])
        if at % 4 == 0:
            sock.listen()
        ports.append(port)
    together = sock_diag.dump(ports, connections=False)
    apart = [found for port in ports for found in sock_diag.dump([port], connections=False)]
    assert {found.id for found in together} == {found.id for found in apart}
    assert {found.port for found in together} == {found.port for found in apart} <= set(ports)
    assert len(together) == len(apart)


def test_ports_that_merely_look_alike_are_not_listed(opened: ExitStack) -> None:
    sock, port = bound(opened)
    sock.listen()
    for other in (port.number + 1, port.number // 10, (port.number * 256) % 65536 or 1):
        if other != port.number:
            ids = [found.id for found in sock_diag.dump([Port(other)], connections=True)]
            assert inode(sock) not in ids


def test_no_ports_no_sockets() -> None:
    assert sock_diag.dump([], connections=True) == []
    assert proc_net.read([], connections=True) == []


def test_every_listener_whatever_its_port(opened: ExitStack) -> None:
    (tcp, port), (silent, _) = bound(opened), bound(opened)
    udp, there = bound(opened, kind=socket.SOCK_DGRAM)
    tcp.listen()
    for every in (sock_diag.listeners(), proc_net.listeners()):
        found = {each.id: each for each in every}
        assert found[inode(tcp)].port == port
        assert found[inode(udp)].port == there
        assert inode(silent) not in found
        assert {each.state for each in found.values()} == {"listening", "bound"}


@pytest.mark.parametrize("family", [V4, V6])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_text_tells_the_same_of_servers(
    opened: ExitStack, family: socket.AddressFamily, kind: int
) -> None:
    sock, port = bound(opened, family, kind)
    if kind == socket.SOCK_STREAM:
        sock.listen()
    by_netlink = sock_diag.dump([port], connections=False)
    assert proc_net.read([port], connections=False) == by_netlink != []


def test_the_text_tells_the_same_of_connections(opened: ExitStack) -> None:
    server, port = bound(opened)
    server.listen()
    opened.enter_context(socket.create_connection(server.getsockname()))
    opened.enter_context(server.accept()[0])

    def by_id(found: list[Socket]) -> dict[object, Socket]:
        return {each.id: each for each in found}

    by_netlink = by_id(sock_diag.dump([port], connections=True))
    assert by_id(proc_net.read([port], connections=True)) == by_netlink
    assert len(by_netlink) == 2


# Sockets and their owners


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EPROTONOSUPPORT, errno.EMFILE])
def test_where_netlink_is_refused_the_text_is_read(
    opened: ExitStack, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    sock, port = bound(opened)
    sock.listen()
    real = socket.socket

    def refuse(family: int, *how: int) -> socket.socket:
        if family == socket.AF_NETLINK:
            raise OSError(refusal, os.strerror(refusal))
        return real(family, *how)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        (found,) = LinuxSystem().sockets([port])
        everything = LinuxSystem().listeners()
    assert found.id == inode(sock)
    assert found in everything


def test_a_bind_says_whether_the_port_is_free(opened: ExitStack) -> None:
    sock, port = bound(opened)
    sock.listen()
    assert LinuxSystem().bind(port) == "in-use"
    assert LinuxSystem().bind(port, reuse=True) == "in-use"
    sock.close()
    assert LinuxSystem().bind(port) == "free"
