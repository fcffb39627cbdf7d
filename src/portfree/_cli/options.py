"""The options that ``portfree`` and ``portfree run`` share, and the request that they add up to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from portfree._core import settings
from portfree._core.ports import parse_ports
from portfree.model import Leaks, OnBusy, Request, Scope

if TYPE_CHECKING:
    from argparse import ArgumentParser

_T = TypeVar("_T", bound="Options")


class Options:
    """What the command line says; these are the values where it says nothing."""

    ports: Sequence[str] = ()
    scope: Scope | None = None
    grace: float | None = None
    wait: float | None = None
    on_busy: OnBusy | None = None
    leaks: Leaks | None = None
    dry_run = False
    quiet = False
    help = False


def read(words: Sequence[str], options: _T, parser: Callable[[], ArgumentParser]) -> _T:
    """Fill in the options, with a parser only if it takes one."""
    if words and not any(word.startswith("-") for word in words):
        options.ports = words  # nothing but ports, as mostly: argparse would be a tenth of the time
        return options
    for before, word in zip(("", *words), words, strict=False):
        # Of -1 a parser would say that it knows no such option.
        if word[:1] == "-" and word[1:2].isdigit() and before not in ("--grace", "--wait"):
            parse_ports(word)
    return parser().parse_intermixed_args(words, namespace=options)


def request(options: Options) -> Request:
    """What is asked for, merged with ``[tool.portfree]`` where no ports are named."""
    table = None
    if not options.ports:
        from portfree._core import pyproject  # pathlib and more: 4 ms

        table = pyproject.load(".")
    # Who types the command asked for that port, so `mine`; hooks say `--scope orphans`.
    given = {name: getattr(options, name) for name in settings.NAMES}
    ports = parse_ports(*options.ports)
    return settings.request("command", ports, given, table, scope="mine", on_busy="fail")
