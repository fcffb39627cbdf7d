"""The grammar of ports, the same on every surface."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfree import PortfreeError, PortSpecError, free_ports
from portfree._cli.main import main
from portfree._core.ports import HIGHEST, LOWEST, WIDEST_RANGE, parse_ports
from portfree.model import Port

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = st.integers(LOWEST, HIGHEST)
PROTOCOLS = st.sampled_from(["tcp", "udp"])
PORTS = st.builds(Port, NUMBERS, PROTOCOLS)


@pytest.mark.parametrize(
    ("specs", "ports"),
    [
        ([8000], "8000/tcp"),
        (["8000"], "8000/tcp"),
        (["8000/tcp", "8125/udp"], "8000/tcp 8125/udp"),
        (["8000/TCP", "8125/Udp"], "8000/tcp 8125/udp"),
        (["8000-8002"], "8000/tcp 8001/tcp 8002/tcp"),
        (["8000-8001/udp"], "8000/udp 8001/udp"),
        (["8000-8000"], "8000/tcp"),
        (["8000, 8001,8002\n8003\t8004"], "8000/tcp 8001/tcp 8002/tcp 8003/tcp 8004/tcp"),
        ([" 8000 ,, "], "8000/tcp"),
        ([9, "8", 7], "9/tcp 8/tcp 7/tcp"),
        ([8000, "8000", "8000/udp", "8000-8001"], "8000/tcp 8000/udp 8001/tcp"),
        ([1, 65535], "1/tcp 65535/tcp"),
        (["08000"], "8000/tcp"),
        ([], ""),
    ],
)
def test_ports_are_read(specs: list[int | str], ports: str) -> None:
    assert " ".join(map(str, parse_ports(*specs))) == ports


@given(st.lists(PORTS, max_size=20))
def test_a_port_is_written_as_it_is_read(ports: list[Port]) -> None:
    unique = tuple(dict.fromkeys(ports))

    assert parse_ports(*map(str, ports)) == unique
    if ports:
        assert parse_ports(", ".join(map(str, ports))) == unique


@given(NUMBERS, st.integers(0, WIDEST_RANGE - 1), PROTOCOLS)
def test_a_range_holds_both_its_ends_and_all_between(low: int, more: int, protocol: str) -> None:
    high = min(low + more, HIGHEST)
    ports = parse_ports(f"{low}-{high}/{protocol}")

    assert [port.number for port in ports] == list(range(low, high + 1))
    assert {port.protocol for port in ports} == {protocol}


@given(st.one_of(st.text(), st.text("0123456789-/,tcpud \n"), st.integers()))
def test_whatever_is_given_is_ports_or_one_clear_line(spec: int | str) -> None:
    try:
        ports, said = parse_ports(spec), ""
    except PortSpecError as error:
        ports, said = (), str(error)
    assert bool(ports) != bool(said)
    assert said.isprintable()
    assert len(said) < 300
    assert all(LOWEST <= port.number <= HIGHEST for port in ports)
    assert len(set(ports)) == len(ports)


# What is no port, and what the message must name it as.
BAD: list[tuple[object, str]] = [
    (0, "0"),
    (65536, "65536"),
    (-1, "-1"),
    (10**9, "1000000000"),
    (True, "True (bool)"),
    (False, "False (bool)"),
    (8000.0, "8000.0 (float)"),
    (None, "None (NoneType)"),
    (b"8000", "b'8000' (bytes)"),
    ([8000], "[8000] is a list, not a port"),
    ((8000, 8001), "(8000, 8001) is a tuple, not a port"),
    ({8000}, "{8000} is a set, not a port"),
    (range(3), "range(0, 3) is a range, not a port"),
]
BAD_TEXTS = [
    ("0", "'0'"),
    ("65536", "'65536'"),
    ("-1", "'-1'"),
    ("abc", "'abc'"),
    ("8000x", "'8000x'"),
    ("", "'' names no port"),
    (" , ", "' , ' names no port"),
    ("8000-7000", "'8000-7000' runs backwards: write 7000-8000"),
    ("8000/sctp", "'8000/sctp' is not a port: the protocol is tcp or udp"),
    ("8000/", "'8000/'"),
    ("8000.0", "'8000.0'"),
    ("1-65535", "'1-65535' spans 65535 ports, more than 1024: so wide a range takes in"),
    ("1-1025", "'1-1025' spans 1025 ports"),
    ("8000-", "'8000-'"),
    ("8000-70000", "'8000-70000'"),
    ("0-10", "'0-10'"),
    ("8000 8000x", "'8000x'"),
    ("٨٠٠٠", "'٨٠٠٠'"),  # Arabic digits
    ("8_000", "'8_000'"),
    ("+8000", "'+8000'"),
    ("9" * 10_000, "'" + "9" * 56 + "..."),
    ("80\x1b[31m", r"'80\x1b[31m'"),
]


@pytest.mark.parametrize(("spec", "named"), [*BAD, *BAD_TEXTS])
def test_what_is_no_port_is_refused_by_the_library(
    spec: object, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portfree.api.free", _must_not_be_called)

    with pytest.raises(PortSpecError) as caught:
        free_ports(8000, cast("int", spec))

    assert named in str(caught.value)
    assert str(caught.value).isprintable()
    assert isinstance(caught.value, PortfreeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("spec", "named"), BAD_TEXTS)
def test_what_is_no_port_is_refused_by_the_command(
    spec: str,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("portfree._cli.main.free", _must_not_be_called)
    monkeypatch.chdir(tmp_path)

    assert main(["8000", spec]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("portfree: ")
    assert named in err
    assert err.count("\n") == 1
    assert err.removesuffix("\n").isprintable()


def test_a_list_gets_the_hint_to_unpack_it() -> None:
    with pytest.raises(PortSpecError, match=r"free_ports\(\*ports\)"):
        parse_ports([8000, 8001])  # type: ignore[arg-type]


def _must_not_be_called(*_: object, **__: object) -> None:
    raise AssertionError("bad input must be refused before anything is done")
