"""The README, in parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block, and the heading that it stands under."""

    heading: str
    language: str
    text: str


def _blocks() -> Iterator[Block]:
    heading = ""
    for found in re.finditer(
        r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL
    ):
        if found[1]:
            heading = found[1]
        else:
            yield Block(heading, found[2], found[3])


BLOCKS = list(_blocks())


def block(heading: str, language: str, part: str = "") -> str:
    """The one block of that language under the heading that has this *part*."""
    (found,) = [b for b in BLOCKS if b[:2] == (heading, language) and part in b.text]
    return found.text


def section(heading: str) -> str:
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    """The rows of the tables under a heading, their heads included."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
