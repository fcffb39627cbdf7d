"""``[tool.portfree]``: the ports and settings of a project, from its pyproject.toml.

    [tool.portfree]
    ports = [8000, "9000-9010", "8125/udp"]   # or one of these alone
    scope = "mine"                            # orphans, project, mine, any
    grace = 5.0                               # seconds
    wait = 0                                  # seconds
    on-busy = "fail"                          # warn, fail
    leaks = "warn"                            # ignore, warn, stop, fail
    leaks-ignore = [5037, "gradle*"]          # ports and programs that may be left

All keys may be left out.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from portfree._core.ports import parse_ports
from portfree._core.settings import check, closest
from portfree.errors import PortfreeError, PortSpecError, shown
from portfree.model import Port

KEYS = ("ports", "scope", "grace", "wait", "on-busy", "leaks", "leaks-ignore")


class Table(NamedTuple):
    """What a ``[tool.portfree]`` table says, checked."""

    path: Path
    """The pyproject.toml that it came from."""
    ports: tuple[Port, ...]
    settings: Mapping[str, object]
    """By their names in Python, without those that it leaves out."""


def load(start: Path | str) -> Table | None:
    """Read the nearest ``[tool.portfree]`` from the directory *start* upwards.

    A pyproject.toml without that table is passed by. The search ends with the repository's root,
    which is the directory that holds ``.git``, or without a repository, with the file system's.

    Returns None if there is no such table. Raises `PortfreeError`, and for ports `PortSpecError`,
    in one line that names the file, the key and the value, if it cannot be read.
    """
    try:
        directory = Path(start).absolute()
    except FileNotFoundError as error:
        raise PortfreeError("the current directory has been deleted") from error
    for folder in (directory, *directory.parents):
        path = folder / "pyproject.toml"
        table = _table(path)
        if table is not None:
            return _checked(path, table)
        if (folder / ".git").exists():
            return None
    return None


def _table(path: Path) -> dict[str, Any] | None:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise PortfreeError(f"{path} cannot be read: {error.strerror}") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise PortfreeError(f"{path} is UTF-16: save it as UTF-8, as TOML has to be")
    # Most projects have no such table, and need not wait for a TOML parser to find that out.
    if not may_have_table(content):
        return None
    import tomllib

    try:
        tools = tomllib.loads(content.decode()).get("tool")
    # ValueError: no TOML, or no UTF-8. RecursionError: brackets by the thousand.
    except (ValueError, RecursionError) as error:
        raise PortfreeError(f"{path} is not valid TOML: {error}") from error
    table = tools.get("portfree") if isinstance(tools, dict) else None
    if table is None or isinstance(table, dict):
        return table
    raise PortfreeError(
        f"{path}: tool.portfree is {shown(table)}: make it a table, [tool.portfree]"
    )


def may_have_table(content: bytes) -> bool:
    """Whether it is worth to parse a pyproject.toml; the pytest plugin asks the same."""
    return b"tool.portfree" in content or (b"[tool]" in content and b"portfree" in content)


def _checked(path: Path, table: dict[str, Any]) -> Table:
    for key in table:
        if key not in KEYS:
            raise PortfreeError(f"{path}: [tool.portfree] {_unknown(key)}")
    try:
        ports = _ports(table.get("ports", []))
        found = {
            key.replace("-", "_"): check(key.replace("-", "_"), value, key)
            for key, value in table.items()
            if key != "ports"
        }
    except PortSpecError as error:
        raise PortSpecError(f"{path}: [tool.portfree] ports: {error}") from error
    except PortfreeError as error:
        raise PortfreeError(f"{path}: [tool.portfree] {error}") from error
    return Table(path, ports, found)


def _unknown(key: str) -> str:
    guess = closest(key, KEYS)
    hint = f"did you mean {guess}?" if guess else f"its keys are {', '.join(KEYS)}"
    return f"has no key {shown(key)}: {hint}"


def _ports(value: object) -> tuple[Port, ...]:
    if isinstance(value, (int, str)):
        value = [value]
    if not isinstance(value, list):
        raise PortSpecError(f'{shown(value)} is no list: write [8000, "9000-9010"]')
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (int, str)):
            kind = type(item).__name__
            raise PortSpecError(
                f"{shown(item)} ({kind}) is not a port: write 8000, "
                '"8000/tcp", "8125/udp" or "8000-8010"'
            )
    return parse_ports(*value)
