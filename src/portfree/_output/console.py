"""The one function that prints a line while things happen."""

from __future__ import annotations

import sys
from contextlib import suppress


def tell(line: str) -> None:
    """Print a line on stderr, safe for a terminal whatever a process has put into it."""
    from portfree._core.redact import safe  # its patterns take 3 ms to compile

    with suppress(OSError, ValueError):  # nobody reads there any more, and there is work to do
        print(f"portfree: {safe(line)}", file=sys.stderr, flush=True)  # noqa: T201
