"""A test failed because an address was already in use: recognise that, and explain the port.

Loaded only where a test has failed.
"""

from __future__ import annotations

import linecache
import re
import socket
import traceback
from collections.abc import Collection, Iterator
from itertools import islice
from types import FrameType
from typing import Any

from portfree._core.free import free
from portfree._output.text import as_text
from portfree._output.words import consecutive
from portfree.model import Port, Request

# EADDRINUSE of Linux, of macOS and the BSDs, and WSAEADDRINUSE of Windows.
_IN_USE = frozenset({98, 48, 10048})
# WSAEACCES: what Windows says instead where the holder wants the address for itself alone. It has
# other causes too, so that it counts only for a bind.
_FORBIDDEN = 10013

# Not what stands right behind a quote, which is data or code: match="address already in use". Nor
# the "email address already in use" of a sign-up form.
_WORDS = re.compile(
    r"""(?<!mail\ )(?<!["'`])\baddress\ (?:already\ )?in\ use\b     # libc; musl says less
      | (?<!["'`])\b(?:WSA)?EADDRINUSE\b | \bAddrInUse\b             # node, Docker; Rust
      | (?:\[Errno\ |\[WinError\ |\bOSError\()(?:98|48|10048)[\],]  # whatever the language is
      | \bonly\ one\ usage\ of\ each\ socket\ address
      | \bconnection\ in\ use:                                       # gunicorn
      | \bport\b[^\n]{0,40}?\balready\ (?:be\ )?(?:in\ use|allocated|taken)\b
      | \bport\ \d+\ is\ (?:in\ use|occupied|taken|not\ available)\b # Flask, Vite; Streamlit
      | \balready\ (?:running|listening)\ on\ port\ \d+
      | \bbind\b[^\n]{0,100}(?:forbidden\ by\ its\ access\ permissions|\[winerror\ 10013\])
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A socket of the file system: its address is a path.
_PATH = re.compile(r"unix:|\baddress (?:already in use:? )?['\"]?/", re.IGNORECASE)
# Only hosts that cannot be misread: "test_shop.py:12", "node:net:1908" and "12:30:15" are none.
_PORT = re.compile(
    r"""\(\s*["'][^"'\n]{0,100}["'],\s*(\d{1,5})\b          # ('127.0.0.1', 8000)
      | (?: \b\d{1,3}(?:\.\d{1,3}){3} | \[[0-9a-f:.%\w]*\] | \* | \blocalhost | ://[\w.-]+
          | (?<![\w:])[0-9a-f:]*::[0-9a-f.:]*? | \b(?:tcp|udp)[46]?\ [\w.-]*
        ):(\d{1,5})\b(?!\.\d)(?::[\d.]+:\d+)?                # Docker adds the inner address
      | \bports?(?:\ number)?["']?\s?[:=]?\s?(\d{1,5})\b
      | \bnio2?-(\d{1,5})\b                                # ["http-nio-8080"]
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A line beside the words gives the port if it tells of listening, too.
_BESIDE = re.compile(r"bind|listen|\brunning on\b|\bnio2?-", re.IGNORECASE)
_UDP = re.compile(r"\budp\b|\bbind EADDRINUSE", re.IGNORECASE)  # node says "listen" for TCP
_COLOR = re.compile(r"\x1b\[[\d;]*m")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_PORT_NAME = re.compile(r"(?:.*_)?port(?:_?number)?", re.IGNORECASE)

_FARTHEST = 150
"""How many characters may stand between the words and the port in a line."""
_MOST_TEXT = 1_000_000
_MOST_IN_LINE = 20

Found = list[tuple[int, bool]]
"""Ports, each with whether it is of UDP."""


def ports_in_use(
    error: BaseException | None, text: str, configured: Collection[Port]
) -> tuple[Port, ...] | None:
    """The ports that were in use already when a test failed; None if nothing says that they were.

    Looked at are the *error* with its causes, contexts and groups, and the *text*: what pytest
    shows of the failure, and what was captured. The port is the one that the error names, then the
    one next to the words in the text, then the *configured* ones: empty if there are none.
    """
    said = on_path = False
    found: Found = []
    for each in _with_causes(error):
        told = _in_error(each)
        said = said or told is not None
        on_path = on_path or (told is None and getattr(each, "errno", None) in _IN_USE)
        found += told or ()
    if not found and not on_path:
        told = _in_text(text)
        said = said or told is not None
        found += told or ()
    if not said:
        return None
    # Few texts name the protocol: what is configured for UDP alone is meant so.
    ports = (
        Port(number, "udp" if udp or _only_udp(number, configured) else "tcp")
        for number, udp in found
    )
    return tuple(dict.fromkeys(ports)) or tuple(configured)


def explain(ports: Collection[Port], request: Request) -> str:
    """Who holds these ports, since when, started in which test, and what to do about it."""
    report = free(request._replace(ports=tuple(ports), dry_run=True, wait=0.0))
    # A free port may have a note: closing connections refuse a bind without SO_REUSEADDR.
    told = tuple(each for each in report.outcomes if each.status != "free" or each.notes)
    if told:
        return as_text(report._replace(outcomes=told))
    rows = [(row[0].port, row[-1].port) for row in consecutive(report.outcomes)]
    names = [str(one) if one == last else f"{one.number}-{last}" for one, last in rows]
    verb = "is" if len(report.outcomes) == 1 else "are"
    return f"{', '.join(names)} {verb} free by now" if names else ""


def _only_udp(number: int, configured: Collection[Port]) -> bool:
    return Port(number, "udp") in configured and Port(number) not in configured


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and all that it came from."""
    rest = [error]
    seen = set()
    while rest:
        each = rest.pop(0)
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            rest += getattr(each, "exceptions", ()) if isinstance(each, BaseExceptionGroup) else ()
            rest += (each.__cause__, each.__context__)


def _in_error(error: BaseException) -> Found | None:
    """The ports that an error names; empty if it names none, None if it is about something else,
    such as a socket of the file system.
    """
    texts = [str(error), *getattr(error, "__notes__", ())]
    # What a command has printed is in no traceback: CalledProcessError, TimeoutExpired.
    for name in ("output", "stderr"):
        printed = getattr(error, name, None)
        texts.append(printed.decode(errors="replace") if isinstance(printed, bytes) else printed)
    found = _in_text("\n".join(each for each in texts if isinstance(each, str)))
    if found or not isinstance(error, OSError):
        return found
    codes = {error.errno, getattr(error, "winerror", None)}
    steps = list(traceback.walk_tb(error.__traceback__))
    lines = [linecache.getline(frame.f_code.co_filename, at or 0) for frame, at in steps]
    forbidden = _FORBIDDEN in codes and bool(lines) and "bind(" in lines[-1]
    if not (codes & _IN_USE or forbidden) or _PATH.search(str(error)):
        return None
    for (frame, _), line in zip(reversed(steps), reversed(lines), strict=True):
        values = list(_values(frame, line))
        sockets = [value for _, value in values if isinstance(value, socket.socket)]
        if any(each.family == getattr(socket, "AF_UNIX", None) for each in sockets):
            return None
        udp = any(each.type == socket.SOCK_DGRAM for each in sockets)
        numbers = _numbers(line) + [
            value[1] if isinstance(value, tuple) else value
            for name, value in values
            if _is_address(value) or (_PORT_NAME.fullmatch(name) and _is_port(value))
        ]
        if numbers:
            return [(number, udp) for number in numbers]
    return []


def _values(frame: FrameType, line: str) -> Iterator[tuple[str, Any]]:
    """What the names in a line of a frame stand for, also the parts of ``self.config.port``."""
    for dotted in _NAME.findall(line):
        name, *attributes = dotted.split(".")
        value = frame.f_locals.get(name, frame.f_globals.get(name))
        yield name, value
        for name in attributes:
            try:  # no property is run for that
                value = object.__getattribute__(value, "__dict__").get(name)
            except AttributeError:
                break
            yield name, value


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def _is_address(value: object) -> bool:
    """Whether it is what Python calls an address: ``("127.0.0.1", 8000)``, with more for IPv6."""
    return (
        isinstance(value, tuple)
        and len(value) in (2, 4)
        and isinstance(value[0], str)
        and _is_port(value[1])
    )


def _in_text(text: str) -> Found | None:
    """The ports next to the words in a text; empty if there are none, None without the words."""
    if len(text) > _MOST_TEXT:  # a server says it when it starts, a test when it ends
        text = f"{text[: _MOST_TEXT // 2]}\n{text[-_MOST_TEXT // 2 :]}"
    text = _COLOR.sub("", text)
    if not _WORDS.search(text):
        return None
    # What a command has printed often comes as one line, its newlines escaped.
    lines = re.split(r"\r?\n|\\r\\n|\\n", text)
    said = False
    found: Found = []
    for at, line in enumerate(lines):
        for words in islice(_WORDS.finditer(line), _MOST_IN_LINE):
            start, end = max(words.start() - _FARTHEST, 0), words.end() + _FARTHEST
            # pytest shows the source of a test, with the words that it expects or tells about.
            code = line.startswith(("    ", ">")) and re.search("[\"'#]", line[: words.start()])
            if code or _PATH.search(line, start, end):
                continue
            said = True
            near = [at - 1, at + 1, at - 2, at + 2]
            beside = [lines[i] for i in near if 0 <= i < len(lines) and _BESIDE.search(lines[i])]
            numbers = _numbers(line, words) or [n for each in beside for n in _numbers(each)]
            found += [(number, bool(_UDP.search(line, start, end))) for number in numbers[:1]]
    return found if said else None


def _numbers(line: str, words: re.Match[str] | None = None) -> list[int]:
    """The ports in a line; where it has the words, those next to them, the nearest first."""
    start, end = words.span() if words else (0, 0)
    found = []
    for match in _PORT.finditer(line, max(start - _FARTHEST, 0), end + _FARTHEST):
        number = int(next(filter(None, match.groups())))
        if 0 < number < 65536:
            found.append((max(match.start() - end, start - match.end(), 0), number))
    return [number for _, number in sorted(found, key=lambda each: each[0])]
