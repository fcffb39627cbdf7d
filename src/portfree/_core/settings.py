"""The one way in: what a surface was given, merged with ``[tool.portfree]``, and checked once.

Every surface refuses the same values in the same words, and names a setting as it spells it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from portfree._core.advice import key
from portfree._core.ports import parse_ports
from portfree.errors import PortfreeError, PortSpecError, shown
from portfree.model import LEAKS, ON_BUSY, SCOPES, Port, Request, Surface

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree._core.pyproject import Table

# poll(2) counts its timeout in milliseconds and in 32 bits, which is some 24 days. A day leaves
# room for the sum of several waits, and nobody who means seconds needs more.
LONGEST = 86_400.0

_CHOICES: dict[str, tuple[str, ...]] = {"scope": SCOPES, "on_busy": ON_BUSY, "leaks": LEAKS}

NAMES = (*_CHOICES, "grace", "wait", "dry_run", "leaks_ignore")
"""The settings, by their names in Python."""

# How one gives ports there.
_EXAMPLES: dict[Surface, str] = {
    "library": "free_ports(8000)",
    "command": "portfree 8000",
    "pytest": "free_ports = 8000",
    "tox": "free_ports = 8000",
    "action": "with: ports: 8000",
}


def request(
    surface: Surface,
    ports: tuple[Port, ...],
    given: Mapping[str, object],
    table: Table | None = None,
    *,
    name: Callable[[str], str] | None = None,
    **defaults: object,
) -> Request:
    """What is asked for: as it was given there, else as the table has it, else by default.

    *given*: values by their names in Python; None says nothing. *name*: how that surface spells
    such a name, for messages. *defaults*: where they differ from those of `Request`.

    Raises `PortSpecError` if nobody has named a port, and `PortfreeError` for a bad value.
    """
    name = name or partial(key, surface)
    ports = ports or (table.ports if table else ())
    if not ports:
        raise PortSpecError(
            f"no ports{_why_none(table)}: give them, {_EXAMPLES[surface]}, or list them in "
            "pyproject.toml: [tool.portfree] ports = [8000]"
        )
    found: dict[str, Any] = dict(defaults)
    if table is not None:
        found |= table.settings
    for setting in NAMES:
        if given.get(setting) is not None:
            found[setting] = check(setting, given[setting], name(setting))
    return Request(ports=ports, surface=surface, **found)


def as_plain(request: Request) -> dict[str, Any]:
    """A request in values that JSON and execnet take to another process."""
    return {**request._asdict(), "ports": list(map(str, request.ports))}


def from_plain(values: Mapping[str, Any]) -> Request:
    """The request that `as_plain` has made these of."""
    ports, ignored = parse_ports(*values["ports"]), tuple(values["leaks_ignore"])
    return Request(**{**values, "ports": ports, "leaks_ignore": ignored})


def _why_none(table: Table | None) -> str:
    return "" if table is None else f" in [tool.portfree] of {table.path}"


def check(setting: str, value: object, name: str) -> object:
    """The value of a setting, as `Request` has it; a time in seconds as a float.

    Raises `PortfreeError` for another one, in a line that calls it by *name*.
    """
    if setting in _CHOICES:
        return _one_of(_CHOICES[setting], value, name)
    if setting == "dry_run":
        if isinstance(value, bool):
            return value
        raise PortfreeError(f"{name} is {shown(value)}: give True or False")
    if setting == "leaks_ignore":
        return _ignored(value, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PortfreeError(f"{name} is {shown(value)}: give a number of seconds, such as 3 or 0.5")
    if not 0 <= value <= LONGEST:  # false for NaN too
        raise PortfreeError(
            f"{name} is {shown(value)}: give seconds from 0 to {LONGEST:.0f} (one day)"
        )
    return float(value)


def _ignored(value: object, name: str) -> tuple[str, ...]:
    """Ports and program patterns, one by one. Raises `PortfreeError` for what is neither."""
    words: list[str] = []
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(each, bool) or not isinstance(each, (int, str)):
            raise PortfreeError(
                f'{name} is {shown(value)}: list ports and programs, such as "5037", "gradle*"'
            )
        words += str(each).replace(",", " ").split()
    for word in words:
        try:
            ports_in(word)
        except PortSpecError as error:
            raise PortfreeError(f"{name}: {error}") from error
    return tuple(words)


def ports_in(word: str) -> tuple[Port, ...]:
    """The ports that a word names; none if it is the pattern of a program's name.

    Raises `PortSpecError` for a port that is none.
    """
    return parse_ports(word) if word.partition("/")[0].replace("-", "").isdigit() else ()


def number(text: Any) -> Any:  # noqa: ANN401 - None says nothing, and what is no number stays
    """What a text says, if that is a number; else the text, for `check` to refuse."""
    try:
        return float(text) if isinstance(text, str) else text
    except ValueError:
        return text


def _one_of(choices: tuple[str, ...], value: object, name: str) -> str:
    for choice in choices:
        if value == choice:
            return choice
    guess = closest(value, choices) if isinstance(value, str) else ""
    hint = f" (did you mean {guess}?)" if guess else ""
    raise PortfreeError(f"{name} is {shown(value)}: choose one of {', '.join(choices)}{hint}")


def closest(word: str, choices: Sequence[str]) -> str:
    """The choice that was probably meant; empty if none looks like it."""
    from difflib import get_close_matches  # 4 ms, for an error

    return next(iter(get_close_matches(word.lower().replace("_", "-"), choices, n=1)), "")
