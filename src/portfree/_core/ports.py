"""What was asked for: ports and the grammar they are written in.

Every surface (library, command line, TOML, plugins, action) reads ports through `parse_ports`.
"""

from portfree.errors import PortSpecError, shown
from portfree.model import Port, Protocol

# Sixteen-bit in TCP (RFC 9293, 3.1) and UDP (RFC 768); 0 means "pick one for me" to bind(2).
LOWEST, HIGHEST = 1, 65535

# A range asks to stop servers that nobody named one by one. Past this width it is far likelier a
# slip (8000-80000, 1-65535) than a wish, and it would take in ports of unrelated programs.
WIDEST_RANGE = 1024

_FORMS = "write 8000, 8000/tcp, 8125/udp or 8000-8010"


def argument(port: Port) -> str:
    """A port as people type it: ``8000``, ``8125/udp``."""
    return str(port.number) if port.protocol == "tcp" else str(port)


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
        return [Port(_in_range(spec, spec))]
    if isinstance(spec, (list, tuple, set, frozenset, range)):
        raise PortSpecError(
            f"{shown(spec)} is a {type(spec).__name__}, not a port: give the ports one by one, "
            "free_ports(8000, 8001), or unpack it, free_ports(*ports)"
        )
    raise PortSpecError(
        f"{shown(spec)} ({type(spec).__name__}) is not a port: give an int or a text; {_FORMS}"
    )


def _parse_word(word: str) -> list[Port]:
    # Taken apart by hand: compiling a pattern would take longer than all the rest of a free port.
    numbers, slash, protocol = word.partition("/")
    first, dash, last = numbers.partition("-")
    if not _is_number(first) or (dash and not _is_number(last)) or (slash and not protocol):
        raise PortSpecError(f"{shown(word)} is not a port: {_FORMS}")
    low = _in_range(int(first), word)
    high = _in_range(int(last), word) if dash else low
    if high < low:
        raise PortSpecError(f"{word!r} runs backwards: write {high}-{low}")
    if high - low >= WIDEST_RANGE:
        raise PortSpecError(
            f"{word!r} spans {high - low + 1} ports, more than {WIDEST_RANGE}: so wide a range "
            "takes in ports of programs that have nothing to do with your tests; name fewer"
        )
    spoken = _protocol(protocol, word)
    return [Port(number, spoken) for number in range(low, high + 1)]


def _is_number(text: str) -> bool:
    # isdigit() alone takes the digits of every script; and nobody writes ports with ten of them.
    return text.isascii() and text.isdigit() and len(text) < 10


def _in_range(number: int, spec: int | str) -> int:
    if LOWEST <= number <= HIGHEST:
        return number
    raise PortSpecError(f"{shown(spec)} is not a port: ports go from {LOWEST} to {HIGHEST}")


def _protocol(name: str, word: str) -> Protocol:
    match name.lower():
        case "" | "tcp":
            return "tcp"
        case "udp":
            return "udp"
    raise PortSpecError(f"{shown(word)} is not a port: the protocol is tcp or udp")
