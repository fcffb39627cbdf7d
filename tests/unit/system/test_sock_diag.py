"""Lists of sockets that make no sense: answers of netlink, and the text of /proc/net."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfree._system import proc_net, sock_diag
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portfree._system.interface import Socket

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

    def setsockopt(self, *option: object) -> None:
        assert option

    def send(self, data: bytes) -> int:
        self.asked += 1
        return len(data)

    def recvmsg(self, size: int) -> tuple[bytes, list[Any], int, None]:
        assert size >= 32_768  # what the kernel fills at once
        if not self._answers:
            raise TimeoutError("timed out")
        return self._answers.pop(0), [], self._flags, None


def dump(link: Link, port: int = 8000, *, connections: bool = False) -> list[Socket]:
    with (
        mock.patch.object(socket, "socket", return_value=link),
        mock.patch.object(socket, "AF_NETLINK", 16, create=True),  # there is none but on Linux
    ):
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
    with pytest.raises(OSError, match=r"directory|denied"):
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
