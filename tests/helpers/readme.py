"""The README, in parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block, and the heading that it stands under."""

    heading: str
    language: str
    text: str


SECTIONS = dict(part.split("\n", 1) for part in f"\n{README}".split("\n## "))
BLOCKS = [
    Block(heading, *found)
    for heading, text in SECTIONS.items()
    for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]


def block(heading: str, language: str, part: str = "") -> str:
    """The one block of that language under the heading that has this *part*."""
    (found,) = [b for b in BLOCKS if b[:2] == (heading, language) and part in b.text]
    return found.text


def section(heading: str) -> str:
    return SECTIONS[heading]


def rows(heading: str) -> list[list[str]]:
    """The rows of the tables under a heading, their heads included."""
    lines = [line for line in SECTIONS[heading].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
