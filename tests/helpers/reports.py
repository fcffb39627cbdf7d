"""What a report says became of a holder, as the text for people has it."""

from __future__ import annotations

from portfree._output.words import ending_words
from portfree.model import HolderReport


def how(holder: HolderReport) -> str:
    """Such as ``ended after SIGTERM``; empty if nothing was done to it."""
    return ending_words(holder.ending)


def took(holder: HolderReport) -> float | None:
    """Seconds from the first signal until it had ended."""
    return holder.ending.seconds if holder.ending else None
