"""The options that ``portfree`` and ``portfree run`` share, and the request that they add up to.

Words that are all ports need no parser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from portfree._core import settings
from portfree._core.ports import parse_ports
from portfree.errors import PortfreeError
from portfree.model import ON_BUSY, SCOPES, Leaks, OnBusy, Request, Scope

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Options:
    """What either command line says; these are the values where it says nothing."""

    ports: Sequence[str] = ()
    scope: Scope | None = None
    grace: float | None = None
    wait: float | None = None
    on_busy: OnBusy | None = None
    leaks: Leaks | None = None
    leaks_ignore: Sequence[str] | None = None
    dry_run = False
    quiet = False
    json = False
    sudo = False
    report: str | None = None
    version = False
    help = False


def read(words: Sequence[str], parser: Callable[[], ArgumentParser]) -> Options:
    """The options that the words say, with a parser only if it takes one."""
    options = Options()
    if words and not any(word.startswith("-") for word in words):
        options.ports = words  # nothing but ports, as mostly: argparse would be a tenth of the time
        return options
    for before, word in zip(("", *words), words, strict=False):
        # Of -1 a parser would say that it knows no such option.
        if word[:1] == "-" and word[1:2].isdigit() and before not in ("--grace", "--wait"):
            parse_ports(word)
    return parser().parse_intermixed_args(words, namespace=options)


def options_parser(prog: str, text: str, more: str, *, usage: str, busy: str) -> ArgumentParser:
    """A parser for ports and what to do about them; *busy* explains ``--on-busy``."""
    import argparse  # 6 ms

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise PortfreeError(f"{message} ({prog} --help explains the options)")

    parser = Parser(
        prog=prog,
        description=text,
        epilog=more,
        usage=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # the defaults are those of Options
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("ports", nargs="*", metavar="PORT", help="a port, or a range of ports")
    add(
        "--scope",
        metavar=choices(SCOPES),
        help="what to stop: orphans (left behind, or nothing looks after them), project (yours "
        "that run in this project, but for those that a live run uses), mine (all of yours but "
        "for those; the default), or any",
    )
    add(
        "--grace",
        metavar="SECONDS",
        type=settings.number,
        help="how long a server may take to shut down before it is killed (default: 3)",
    )
    add(
        "--wait",
        metavar="SECONDS",
        type=settings.number,
        help="how long to wait for a live run to give a port up (default: 0)",
    )
    add("--on-busy", metavar=choices(ON_BUSY), help=busy)
    add("-h", "--help", action="store_true", help="print this")
    return parser


def choices(values: Sequence[str]) -> str:
    return f"{{{','.join(values)}}}"


def request(options: Options) -> Request:
    """What is asked for, merged with ``[tool.portfree]`` where no ports are named."""
    table = None
    if not options.ports:
        from portfree._core import pyproject  # pathlib and more: 4 ms

        table = pyproject.load(".")
    # What is typed asks for just that port, so `mine`; hooks say `--scope orphans`.
    given = {name: getattr(options, name) for name in settings.NAMES}
    ports = parse_ports(*options.ports)
    return settings.request("command", ports, given, table, scope="mine", on_busy="fail")
