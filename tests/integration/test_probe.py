"""Whether a port is free: real binds on Linux, and our own sockets for what Linux cannot show."""

from __future__ import annotations

import errno
import socket
import sys
from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest

from helpers.processes import has_ipv6
from portfree._system import probe
from portfree._system.probe import dual_stack_bind, each_address_bind, exclusive_bind
from portfree._system.psutil_base import PortableSystem
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from helpers.processes import Processes
    from portfree._system.interface import Bind
    from portfree.model import Protocol

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")

EXCLUSIVE = ~4  # SO_EXCLUSIVEADDRUSE, where SO_REUSEADDR is 4
Where = tuple[int, str]

V4_LOOPBACK: Where = (socket.AF_INET, "127.0.0.1")
V4_ANY: Where = (socket.AF_INET, "0.0.0.0")
V6_LOOPBACK: Where = (socket.AF_INET6, "::1")
V6_ANY: Where = (socket.AF_INET6, "::")

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


def test_fading_connections_refuse_only_who_does_not_reuse(
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


# Sockets of our own


class Network:
    """Makes sockets, notes what is done with them, and refuses what it is told to refuse."""

    def __init__(
        self,
        refused: dict[Where, int] | None = None,
        no_family: Mapping[int, int] | None = None,
    ) -> None:
        self.refused = refused or {}
        self.no_family = no_family or {}
        self.binds: list[Where] = []
        self.kinds: Counter[int] = Counter()
        self.options: list[tuple[int, int, int]] = []
        self.open = 0

    def __call__(self, family: int, kind: int) -> socket.socket:
        if family in self.no_family:
            raise OSError(self.no_family[family], "no such family")
        self.kinds[kind] += 1
        return cast("socket.socket", FakeSocket(self, family))


class FakeSocket:
    """Has no listen(): a probe that listened would fail here."""

    def __init__(self, network: Network, family: int) -> None:
        self.network = network
        self.family = family
        self.network.open += 1
        assert self.network.open == 1, "the last one is still open"

    def close(self) -> None:
        self.network.open -= 1

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.network.options.append((level, option, value))

    def bind(self, address: tuple[str, int]) -> None:
        where = (self.family, address[0])
        assert address[1] == 8000
        self.network.binds.append(where)
        if code := self.network.refused.get(where):
            raise OSError(code, "refused")


PORT = Port(8000)
EVERYWHERE = [V4_LOOPBACK, V4_ANY, V6_LOOPBACK, V6_ANY]
WSAEACCES, WSAEADDRINUSE, WSAEAFNOSUPPORT, WSAEADDRNOTAVAIL = 10013, 10048, 10047, 10049


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (errno.EADDRINUSE, "in-use"),
        (WSAEADDRINUSE, "in-use"),
        (errno.EACCES, "denied"),
        (errno.EPERM, "denied"),
        (WSAEACCES, "denied"),
        (errno.EMFILE, "unavailable"),
        (errno.ENOBUFS, "unavailable"),
    ],
)
@pytest.mark.parametrize("ask", [dual_stack_bind, each_address_bind, exclusive_bind])
def test_what_a_refusal_means(ask: Callable[..., Bind], code: int, answer: Bind) -> None:
    assert ask(PORT, factory=Network(refused={V6_ANY: code})) == answer
    # Whether the socket or its bind was refused.
    assert ask(PORT, factory=Network(no_family={socket.AF_INET6: code})) == answer


def test_one_bind_asks_for_both_families() -> None:
    network = Network()
    assert dual_stack_bind(PORT, factory=network) == "free"
    assert network.binds == [V6_ANY]
    assert network.options == [(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)]


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize("refused", [None, errno.EADDRINUSE])
def test_without_ipv6_the_other_family_decides(code: int, refused: int | None) -> None:
    answer = "in-use" if refused else "free"
    taken = {V4_ANY: refused} if refused else {}
    network = Network(taken, no_family={socket.AF_INET6: code})
    assert dual_stack_bind(PORT, factory=network) == answer
    assert network.binds == [V4_ANY]
    network = Network({V6_ANY: code, **taken})
    assert dual_stack_bind(PORT, factory=network) == answer
    assert network.binds == [V6_ANY, V4_ANY]


def test_without_any_family_nothing_is_known() -> None:
    absent: dict[int, int] = {
        socket.AF_INET: errno.EAFNOSUPPORT,
        socket.AF_INET6: errno.EAFNOSUPPORT,
    }
    for ask in (dual_stack_bind, each_address_bind, exclusive_bind):
        assert ask(PORT, factory=Network(no_family=absent)) == "unavailable"


@pytest.mark.parametrize("where", EVERYWHERE)
@pytest.mark.parametrize("ask", [each_address_bind, exclusive_bind])
def test_one_refusal_among_four_addresses_is_enough(ask: Callable[..., Bind], where: Where) -> None:
    network = Network({where: errno.EADDRINUSE})
    assert ask(PORT, factory=network) == "in-use"
    assert network.binds == EVERYWHERE


@pytest.mark.parametrize("ask", [each_address_bind, exclusive_bind])
def test_a_holder_outweighs_a_refusal_and_a_refusal_an_absent_family(
    ask: Callable[..., Bind],
) -> None:
    mixed = {V4_LOOPBACK: errno.EACCES, V6_LOOPBACK: errno.EADDRINUSE}
    assert ask(PORT, factory=Network(mixed)) == "in-use"
    mixed = {V4_LOOPBACK: errno.EACCES, V6_LOOPBACK: errno.EMFILE}
    assert ask(PORT, factory=Network(mixed)) == "denied"
    mixed = {V6_LOOPBACK: WSAEADDRNOTAVAIL, V6_ANY: WSAEAFNOSUPPORT}
    assert ask(PORT, factory=Network(mixed)) == "free"


def test_on_bsd_the_families_are_kept_apart_and_tcp_may_reuse() -> None:
    network = Network()
    assert each_address_bind(PORT, reuse=True, factory=network) == "free"
    v6only = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    reuse = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    assert Counter(network.options) == {v6only: 2, reuse: 4}
    assert network.kinds == {socket.SOCK_STREAM: 4}
    network = Network()
    assert each_address_bind(Port(8000, "udp"), reuse=True, factory=network) == "free"
    assert Counter(network.options) == {v6only: 2}
    assert network.kinds == {socket.SOCK_DGRAM: 4}


@pytest.mark.parametrize("reuse", [False, True])
def test_on_windows_no_port_is_ever_stolen(reuse: bool) -> None:  # noqa: FBT001
    network = Network()
    system = PortableSystem(platform="win32", factory=network)
    assert system.bind(PORT, reuse=reuse) == "free"
    assert network.binds == EVERYWHERE
    options = {option for level, option, _ in network.options if level == socket.SOL_SOCKET}
    assert options == {EXCLUSIVE}
    assert len(network.options) == 4 + 2


@pytest.mark.parametrize(
    ("platform", "binds"), [("linux", 1), ("darwin", 4), ("freebsd14", 4), ("win32", 4)]
)
def test_each_system_is_asked_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, platform: str, binds: int
) -> None:
    network = Network({V6_ANY: errno.EADDRINUSE})
    assert PortableSystem(platform=platform, factory=network).bind(PORT) == "in-use"
    assert len(network.binds) == binds

    asked: list[str] = []

    def note(name: str) -> Callable[[Port], Bind]:
        def answer(_: Port) -> Bind:
            asked.append(name)
            return "free"

        return answer

    for name in ("dual_stack_bind", "each_address_bind", "exclusive_bind"):
        monkeypatch.setattr(probe, name, note(name))
    monkeypatch.setattr(sys, "platform", platform)
    assert probe.bind(PORT) == "free"
    expected = {"linux": "dual_stack_bind", "win32": "exclusive_bind"}
    assert asked == [expected.get(platform, "each_address_bind")]
