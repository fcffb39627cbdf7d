"""What the trials of the hardening tests add up to: how many there were, and how they went.

A test file that counts names its ``GROUP``; its tests take the fixture `figures` and call
`Figures.trial` for each trial. `nox -s stress` runs the long version and prints the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

PROPERTY = "portfree-figures"


@dataclass
class Figures:
    """The trials of one test."""

    group: str
    trials: int = 0
    wrong_stops: int = 0
    """Processes that got a signal, and must not have got it."""
    false_reports: int = 0
    """Ports that were reported free or freed and were not, or busy and were free."""
    longest: float = 0.0
    """Seconds that the longest call took."""

    def trial(self, seconds: float, *, wrong_stops: int = 0, false_reports: int = 0) -> None:
        """Count one trial, with how long its call took. What went wrong the test asserts itself."""
        self.trials += 1
        self.wrong_stops += wrong_stops
        self.false_reports += false_reports
        self.longest = max(self.longest, seconds)


def table(tests: Iterable[Any]) -> list[str]:
    """The sums by group, from what the tests have recorded, as a Markdown table."""
    sums: dict[str, Figures] = {}
    for recorded in tests:
        each = Figures(*recorded)
        total = sums.setdefault(each.group, Figures(each.group))
        total.trials += each.trials
        total.wrong_stops += each.wrong_stops
        total.false_reports += each.false_reports
        total.longest = max(total.longest, each.longest)
    return [
        "| group | trials | wrong stops | false reports | longest call |",
        "|---|---|---|---|---|",
        *(
            f"| {group} | {total.trials} | {total.wrong_stops} | {total.false_reports} "
            f"| {total.longest:.2f} s |"
            for group, total in sorted(sums.items())
        ),
    ]
