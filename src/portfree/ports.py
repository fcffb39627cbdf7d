"""What was asked for: ports and the grammar they are written in.

Every surface (library, command line, TOML, plugins, action) reads ports through `parse_ports`.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from portfree.errors import PortSpecError

Protocol = Literal["tcp", "udp"]

# Sixteen-bit in TCP (RFC 9293, 3.1) and UDP (RFC 768); 0 means "pick one for me" to bind(2).
LOWEST, HIGHEST = 1, 65535

# A range asks to stop servers that nobody named one by one. Past this width it is far likelier a
# slip (8000-80000, 1-65535) than a wish, and it would take in ports of unrelated programs.
WIDEST_RANGE = 1024

_SPEC = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?(?:/([A-Za-z0-9]+))?", re.ASCII)
_FORMS = "write 8000, 8000/tcp, 8125/udp or 8000-8010"


class Port(NamedTuple):
    """A port number (1 to 65535) and its protocol, ``"tcp"`` or ``"udp"``."""

    number: int
    protocol: Protocol = "tcp"

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol}"


def parse_ports(*specs: int | str) -> tuple[Port, ...]:
    """Read ports, each an int or a text such as ``"8000-8002, 8125/udp"``.

    Texts hold any number of ports, split at spaces, commas and newlines; a port without a protocol
    is TCP. The order is kept, and a port named twice is returned once.

    Raises `PortSpecError`, naming the offending value, for anything else.
    """
    ports: dict[Port, None] = {}
    for spec in specs:
        ports.update(dict.fromkeys(_parse_one(spec)))
    return tuple(ports)


def _parse_one(spec: object) -> list[Port]:
    if isinstance(spec, str):
        words = spec.replace(",", " ").split()
        if not words:
            raise PortSpecError(f"{spec!r} names no port: {_FORMS}")
        return [port for word in words for port in _parse_word(word)]
    if isinstance(spec, int) and not isinstance(spec, bool):
        return [Port(_in_range(spec, str(spec)))]
    if isinstance(spec, (list, tuple, set, frozenset, range)):
        raise PortSpecError(
            f"{_short(spec)} is a {type(spec).__name__}, not a port: give the ports one by one, "
            "free_ports(8000, 8001), or unpack it, free_ports(*ports)"
        )
    raise PortSpecError(
        f"{_short(spec)} ({type(spec).__name__}) is not a port: give an int or a text; {_FORMS}"
    )


def _parse_word(word: str) -> list[Port]:
    match = _SPEC.fullmatch(word)
    if match is None:
        raise PortSpecError(f"{_short(word)} is not a port: {_FORMS}")
    first, last, protocol = match.groups()
    low = _in_range(int(first), word)
    high = low if last is None else _in_range(int(last), word)
    if high < low:
        raise PortSpecError(f"{word!r} runs backwards: write {high}-{low}")
    if high - low >= WIDEST_RANGE:
        raise PortSpecError(
            f"{word!r} spans {high - low + 1} ports, more than {WIDEST_RANGE}: so wide a range "
            "takes in ports of programs that have nothing to do with your tests; name fewer"
        )
    return [Port(number, _protocol(protocol, word)) for number in range(low, high + 1)]


def _in_range(number: int, word: str) -> int:
    if LOWEST <= number <= HIGHEST:
        return number
    raise PortSpecError(f"{_short(word)} is not a port: ports go from {LOWEST} to {HIGHEST}")


def _protocol(name: str | None, word: str) -> Protocol:
    match (name or "tcp").lower():
        case "tcp":
            return "tcp"
        case "udp":
            return "udp"
    raise PortSpecError(f"{word!r} is not a port: the protocol is tcp or udp")


def _short(value: object) -> str:
    """A value as an error message shows it: quoted, escaped, and never a page long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
