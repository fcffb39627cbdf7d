"""How each system is asked whether a port is free, on sockets of our own."""

from __future__ import annotations

import errno
import socket
import sys
from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest

from portfree._system import portable, probe
from portfree._system.probe import dual_stack_bind, each_address_bind, exclusive_bind
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portfree._system.interface import Bind

EXCLUSIVE = ~4  # SO_EXCLUSIVEADDRUSE, where SO_REUSEADDR is 4
Where = tuple[int, str]

V4_LOOPBACK: Where = (socket.AF_INET, "127.0.0.1")
V4_ANY: Where = (socket.AF_INET, "0.0.0.0")
V6_LOOPBACK: Where = (socket.AF_INET6, "::1")
V6_ANY: Where = (socket.AF_INET6, "::")


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
    assert exclusive_bind(PORT, reuse=reuse, factory=network) == "free"
    assert network.binds == EVERYWHERE
    options = {option for level, option, _ in network.options if level == socket.SOL_SOCKET}
    assert options == {EXCLUSIVE}
    assert len(network.options) == 4 + 2


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", "dual_stack_bind"),
        ("darwin", "each_address_bind"),
        ("freebsd14", "each_address_bind"),
        ("win32", "exclusive_bind"),
    ],
)
def test_each_system_is_asked_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, platform: str, expected: str
) -> None:
    if platform != "linux" or sys.platform == "linux":  # which loads what only Linux has
        assert portable(platform).bind is getattr(probe, expected)

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
    assert asked == [expected]
