"""Prints on the terminal: the one function for a line while things happen, and what it needs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from portfree._core.redact import safe

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from typing import TextIO


def tell(line: str) -> None:
    """Print a line on stderr, safe for a terminal whatever a process has put into it."""
    write_error(f"portfree: {safe(line)}")


def write_error(text: str) -> None:
    """Write to stderr; if nobody reads there, the work and its exit code stand."""
    if sys.stderr is None:  # print() would take None for stdout
        return
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    except (OSError, ValueError):
        with suppress(OSError):  # what is left in the buffer would fail once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def write(text: str) -> str:
    """Print to stdout, also where it cannot take every character.

    Returns why it cannot be written; empty if it can, or if nobody reads there any more.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        # What is left in the buffer would be written once more at exit, and fail once more, with a
        # traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "" if isinstance(error, BrokenPipeError) else str(error.strerror)
    return ""


def in_color(stream: TextIO | None) -> bool:
    """Whether to colour: only on a terminal, and never with NO_COLOR (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    # Windows Terminal says that it is one; older consoles print the escapes as they are.
    if os.name == "nt" and "WT_SESSION" not in os.environ:
        return False
    return stream is not None and stream.isatty()
