"""The parser that ``portfree`` and ``portfree run`` share; words that are all ports need none."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import NoReturn

from portfree._core import settings
from portfree.errors import PortfreeError
from portfree.model import LEAKS, ON_BUSY, SCOPES


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PortfreeError(f"{message} ({self.prog} --help explains the options)")


def options_parser(
    prog: str, text: str, more: str, *, usage: str, busy: str
) -> argparse.ArgumentParser:
    """A parser for ports and what to do about them; *busy* explains ``--on-busy``."""
    parser = _Parser(
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


def leaks_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--leaks",
        metavar=choices(LEAKS),
        help="servers that the command leaves on other ports: warn is the default; fail stops "
        "them, and exits with 125 if the command has succeeded",
    )


def choices(values: Sequence[str]) -> str:
    return f"{{{','.join(values)}}}"


def as_typed(words: Sequence[str]) -> str:
    """Words as one types them in a shell."""
    return shlex.join(words)
