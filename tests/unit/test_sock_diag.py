"""What the kernel lists on a port: by netlink, as text, and where an answer makes no sense."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfree.model import Port, Protocol

if sys.platform != "linux":
    pytest.skip("netlink is Linux's", allow_module_level=True)

from portfree._system import proc_net, sock_diag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from portfree._system.interface import Socket

IPPROTO_MPTCP = 262


def _has(family: socket.AddressFamily, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> bool:
    try:
        with socket.socket(family, kind, protocol) as sock:
            sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    except OSError:
        return False
    return True


needs_v6 = pytest.mark.skipif(not _has(socket.AF_INET6), reason="needs IPv6")
needs_mptcp = pytest.mark.skipif(
    not _has(socket.AF_INET, protocol=IPPROTO_MPTCP), reason="needs a kernel with MPTCP"
)

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
    assert (found.peer, found.fades_in) == ("", None)


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
def test_a_fading_connection_and_how_long_it_fades(opened: ExitStack, source: str) -> None:
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
    assert (found.id, found.state, found.holds) == (None, "fading", False)
    assert found.fades_in is not None
    assert 50 < found.fades_in <= 60


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
    udp, _ = bound(opened, kind=socket.SOCK_DGRAM)
    tcp.listen()
    for source in (sock_diag.listeners, proc_net.listeners):
        found = {each.id: each for each in source()}
        assert found[inode(tcp)].port == port
        assert {inode(silent), inode(udp)}.isdisjoint(found)
        assert {each.state for each in found.values()} == {"listening"}


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


# Answers that make no sense

HEADER = struct.Struct("=IHHII")
DONE, ERROR = 3, 2


def message(kind: int, payload: bytes = b"", *, flags: int = 0, sequence: int = 1) -> bytes:
    raw = HEADER.pack(HEADER.size + len(payload), kind, flags, sequence, 0) + payload
    return raw + bytes(-len(raw) % 4)


def row(port: int, *, state: int = 10, number: int = 4711, uid: int = 1000) -> bytes:
    sockid = struct.pack(">HH", port, 0) + bytes(32) + bytes(12)
    return struct.pack("=BBBB", 2, state, 0, 0) + sockid + struct.pack("=5I", 0, 0, 0, uid, number)


class Link:
    """A netlink socket with answers that were written before the questions."""

    def __init__(self, *answers: bytes, flags: int = 0) -> None:
        self._answers = list(answers)
        self._flags = flags
        self.asked = 0

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None: ...

    def settimeout(self, seconds: float) -> None:
        assert seconds

    def send(self, data: bytes) -> int:
        self.asked += 1
        return len(data)

    def recvmsg(self, size: int) -> tuple[bytes, list[Any], int, None]:
        assert size >= 32_768  # what the kernel fills at once
        if not self._answers:
            raise TimeoutError("timed out")
        return self._answers.pop(0), [], self._flags, None


def dump(link: Link, port: int = 8000, *, connections: bool = False) -> list[Socket]:
    with mock.patch.object(socket, "socket", return_value=link):
        return sock_diag.dump([Port(port)], connections=connections)


def test_a_staged_answer_is_read_like_a_real_one() -> None:
    link = Link(message(20, row(8000)) + message(20, row(18000)), message(DONE), message(DONE))
    (found,) = dump(link)
    assert (found.id, found.port, found.uid, found.state) == (4711, Port(8000), 1000, "listening")
    assert link.asked == 2  # both families


def test_a_list_that_changed_while_it_was_read_is_asked_for_again() -> None:
    intr = 0x10
    link = Link(
        message(20, row(8000, number=1), flags=intr) + message(DONE),
        message(20, row(8000, number=2), sequence=2) + message(DONE, sequence=2),
        message(DONE),
    )
    assert [found.id for found in dump(link)] == [2]


def test_but_not_for_ever() -> None:
    changing = [
        message(20, row(8000), flags=0x10, sequence=n) + message(DONE, sequence=n)
        for n in range(1, 100)
    ]
    link = Link(*changing[:5], message(DONE))
    assert len(dump(link)) == 1
    assert link.asked == 6


def test_what_is_left_of_an_earlier_answer_is_passed_over() -> None:
    link = Link(
        message(20, row(8000, number=1), sequence=9) + message(DONE, sequence=9),
        message(20, row(8000, number=2)) + message(DONE),
        message(DONE),
    )
    assert [found.id for found in dump(link)] == [2]


def code(number: int) -> bytes:
    return struct.pack("=i", number)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (message(ERROR, code(-errno.EPERM)), errno.EPERM),
        (message(ERROR, code(-errno.ENOENT)), errno.ENOENT),
        (message(ERROR, code(5)), errno.EBADMSG),
        (message(ERROR, code(-(2**31))), errno.EBADMSG),
        (message(ERROR, b"\1"), errno.EBADMSG),
        (message(ERROR), errno.EBADMSG),
        # A kernel without udp_diag lists nothing, and says why at the end.
        (message(DONE, code(-errno.ENOENT)), errno.ENOENT),
        (message(20, b"short"), errno.EBADMSG),
        (message(20, row(8000))[:-8], errno.EBADMSG),
        (b"\0" * 7, errno.EBADMSG),
        (b"\0" * 16, errno.EBADMSG),
        (b"", errno.EBADMSG),
    ],
)
def test_an_error_is_raised_as_one(answer: bytes, expected: int) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011
        dump(Link(answer, message(DONE), message(DONE)))
    assert raised.value.errno == expected


@pytest.mark.parametrize("ending", [b"", code(0)])
def test_an_end_without_an_error_is_a_good_one(ending: bytes) -> None:
    # Two families, each asked for the port, and for a connection of a socket to itself.
    assert dump(Link(*[message(DONE, ending)] * 4)) == []


def test_an_answer_that_was_cut_off_is_no_answer() -> None:
    with pytest.raises(OSError, match="truncated"):
        dump(Link(message(20, row(8000)), flags=socket.MSG_TRUNC))


def test_a_kernel_that_stays_silent_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        dump(Link(message(20, row(8000))))


good = st.builds(
    lambda ports, end: b"".join(message(20, row(port)) for port in ports) + end,
    st.lists(st.integers(0, 65535), max_size=3),
    st.sampled_from([b"", message(DONE), message(DONE, code(-2))]),
)


@st.composite
def garbled(draw: st.DrawFn) -> bytes:
    """A good answer, in which some bytes have become others, are missing, or are too many."""
    raw = bytearray(draw(good))
    for _ in range(draw(st.integers(0, 4))):
        if raw:
            raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(raw)))
    return bytes(raw[:cut]) + draw(st.binary(max_size=8))


@given(answers=st.lists(st.one_of(st.binary(max_size=200), garbled()), max_size=6))
@settings(max_examples=300, deadline=None)
def test_no_answer_does_worse_than_an_os_error(answers: list[bytes]) -> None:
    try:
        found = dump(Link(*answers), connections=True)
    except OSError as error:
        assert not isinstance(error, BlockingIOError)  # noqa: PT017
    else:
        assert all(each.port == Port(8000) for each in found)


# The text of /proc/net

HEADING = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout"
)
LISTENING = (
    "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000"
    "  1000        0 4711 1 0000000000000000 100 0 0 10 0"
)


def tables(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    for name in ("tcp", "tcp6", "udp", "udp6"):
        (folder / name).write_text(HEADING + "\n", encoding=encoding)
    (folder / "tcp").write_bytes(f"{HEADING}\n{text}\n".encode(encoding, "surrogateescape"))
    return folder


def test_a_line_of_text(tmp_path: Path) -> None:
    (found,) = proc_net.read([Port(8000)], connections=False, root=tables(tmp_path, LISTENING))
    assert (found.id, found.address, found.state, found.uid) == (
        4711,
        "127.0.0.1",
        "listening",
        1000,
    )


def test_a_kernel_without_ipv6_has_no_such_table(tmp_path: Path) -> None:
    root = tables(tmp_path, LISTENING)
    (root / "tcp6").unlink()
    assert len(proc_net.read([Port(8000)], connections=False, root=root)) == 1
    assert len(proc_net.listeners(root=root)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        LISTENING.replace("0100007F", "0100"),
        LISTENING.replace("0100007F", "-1"),
        LISTENING.replace(":1F40", ""),
        LISTENING.replace("4711", "many"),
        LISTENING.replace(" 0A ", " ZZ "),
        LISTENING.replace(" 00:00000000", " 03:soon"),
        LISTENING[:60],
        "\xff\xfe",
    ],
)
def test_a_garbled_line_is_an_os_error(tmp_path: Path, line: str) -> None:
    root = tables(tmp_path, line, encoding="latin-1")
    with pytest.raises(OSError, match="garbled"):
        proc_net.read([Port(8000)], connections=True, root=root)
    with pytest.raises(OSError, match="garbled"):
        proc_net.listeners(root=root)


def test_tables_that_may_not_be_read_are_an_os_error(tmp_path: Path) -> None:
    (tables(tmp_path, LISTENING) / "udp").unlink()
    (tmp_path / "udp").mkdir()
    with pytest.raises(OSError, match="directory"):
        proc_net.read([Port(8000, "udp")], connections=False, root=tmp_path)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_no_text_does_worse_than_an_os_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    fields = LISTENING.split()
    changed = st.text(alphabet="0123456789ABCDEFabcdef:-_ xé", max_size=12)
    for _ in range(data.draw(st.integers(0, 3))):
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(changed)
    line = data.draw(st.one_of(st.just(" ".join(fields)), st.text(max_size=80)))
    root = tables(tmp_path_factory.mktemp("net"), line.encode("utf-8", "replace").decode())
    look: Callable[[], list[Socket]]
    for look in (
        lambda: proc_net.read([Port(8000)], connections=True, root=root),
        lambda: proc_net.listeners(root=root),
    ):
        try:
            found = look()
        except OSError:
            continue
        assert all(isinstance(each.port.number, int) for each in found)
