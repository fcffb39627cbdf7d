"""Whether a port is free, by real binds: as Linux is asked, and as the BSDs are."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, cast

import pytest

from helpers.processes import has_ipv6
from portfree._system.probe import dual_stack_bind, each_address_bind
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from helpers.processes import Processes
    from portfree._system.interface import Bind
    from portfree.model import Protocol

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")

HOSTS = [
    "127.0.0.1",
    "127.0.0.2",
    "0.0.0.0",
    pytest.param("::1", marks=needs_ipv6),
    pytest.param("::", marks=needs_ipv6),
]


@pytest.fixture(params=[dual_stack_bind, each_address_bind], ids=["linux", "bsd"])
def bind(request: pytest.FixtureRequest) -> Callable[..., Bind]:
    return cast("Callable[..., Bind]", request.param)


@pytest.fixture
def held(processes: Processes) -> Iterator[Callable[..., Port]]:
    """Hold a port in this very process."""
    sockets: list[socket.socket] = []

    def hold(
        host: str, kind: socket.SocketKind, *options: int, listen: bool = False, number: int = 0
    ) -> Port:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, kind)
        sockets.append(sock)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        number = number or processes.free_port()
        sock.bind((host, number))
        if listen:
            sock.listen()
        return Port(number, "tcp" if kind is socket.SOCK_STREAM else "udp")

    yield hold
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_free_port_is_free_and_stays_so(
    processes: Processes, bind: Callable[..., Bind], protocol: Protocol
) -> None:
    port = Port(processes.free_port(), protocol)
    assert [bind(port), bind(port), bind(port, reuse=True)] == ["free"] * 3


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("listen", [False, True], ids=["bound", "listening"])
@pytest.mark.parametrize("option", [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,)])
def test_a_tcp_holder_refuses_on_every_address(
    held: Callable[..., Port],
    bind: Callable[..., Bind],
    host: str,
    listen: bool,  # noqa: FBT001
    option: tuple[int, ...],
) -> None:
    port = held(host, socket.SOCK_STREAM, *option, listen=listen)
    assert bind(port) == "in-use"
    assert bind(Port(port.number, "udp")) == "free"
    if listen:
        assert bind(port, reuse=True) == "in-use"


@pytest.mark.parametrize("host", HOSTS)
def test_a_udp_holder_is_never_shared_with(
    held: Callable[..., Port], bind: Callable[..., Bind], host: str
) -> None:
    port = held(host, socket.SOCK_DGRAM, socket.SO_REUSEADDR)
    # With SO_REUSEADDR on both sides Linux would let us in.
    assert bind(port) == bind(port, reuse=True) == "in-use"
    assert bind(Port(port.number, "tcp")) == "free"


def test_closing_connections_refuse_only_who_does_not_reuse(
    processes: Processes, bind: Callable[..., Bind]
) -> None:
    port = Port(processes.free_port())
    with socket.create_server(("127.0.0.1", port.number)) as server:
        client = socket.create_connection(("127.0.0.1", port.number))
        accepted, _ = server.accept()
        accepted.close()  # who closes first keeps the connection: the server's port does
        assert client.recv(1) == b""
        client.close()
    assert bind(port) == "in-use"
    assert bind(port, reuse=True) == "free"


def test_the_probe_does_not_disturb_a_holder_that_listens_later(
    processes: Processes, bind: Callable[..., Bind]
) -> None:
    port = Port(processes.free_port())
    with socket.socket() as server:
        server.bind(("127.0.0.1", port.number))
        assert bind(port) == "in-use"
        server.listen()
        socket.create_connection(("127.0.0.1", port.number)).close()
