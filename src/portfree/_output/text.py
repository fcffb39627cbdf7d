"""Reports for people, at a terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

from portfree._core.redact import age
from portfree._output.words import (
    command,
    consecutive,
    did,
    duration,
    ending_words,
    evidence,
    fate,
    in_order,
    note_words,
    shown,
    was_given_up,
)
from portfree.model import HolderReport, Outcome, Report

_MOST_PIDS = 12

_GREEN, _YELLOW, _RED, _DIM, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


def as_text(
    report: Report, *, color: bool = False, home: str | None = None, now: float | None = None
) -> str:
    """The report for people: a line for each port, and under it who held it, and why.

    *home* is the directory that is written ``~`` (default: the user's own), and *now* the time that
    ages are reckoned from, in seconds since the epoch. Ends without a newline.
    """
    page = _Page(dry_run=report.request.dry_run, color=color, home=home, now=now)
    return "\n".join(line for run in consecutive(report.outcomes) for line in page.lines(run))


class _Page:
    """Turns outcomes into lines, all in the same light: dry run or not, coloured or not."""

    def __init__(self, *, dry_run: bool, color: bool, home: str | None, now: float | None) -> None:
        self._dry_run = dry_run
        self._color = color
        self._home = home
        self._now = now

    def lines(self, run: Sequence[Outcome]) -> Iterator[str]:
        """The lines on one outcome, or on a run of free ports."""
        first, last = run[0], run[-1]
        port = str(first.port)
        if first != last:
            port = f"{first.port.number}-{last.port}"
        yield f"{port}: {self._state(first)}"
        holders = list(in_order(first.holders))
        for at, holder in enumerate(holders):
            # What was waited for; whatever else was kept is told in full.
            given_up = was_given_up(first) or holder.verdict.rule == "live-run"
            if first.status == "freed" and given_up:
                yield "  " + shown(f"{command(holder)} (pid {holder.pid}) gave it up")
                continue
            yield from self._holder(holder)
            nexts = holders[at + 1 :]
            if not any(fate(holder) == fate(other) for other in nexts):
                yield from self._followers(holder, holders, first.holders)
        for note in first.notes:
            yield f"  {shown(note_words(note))}"
            if note.instead:
                yield self._labelled("try", note.instead)

    def _state(self, outcome: Outcome) -> str:
        if outcome.status == "free":
            return self._painted(_GREEN, "free")
        if outcome.status == "freed" and was_given_up(outcome):
            return f"{self._painted(_GREEN, 'free')} after {duration(outcome.seconds)}"
        if outcome.status == "freed":
            return f"{self._painted(_GREEN, 'freed')} in {duration(outcome.seconds)}"
        if outcome.ok:
            return self._painted(_YELLOW, "would be freed")
        return self._painted(_RED, "would stay busy" if self._dry_run else "busy")

    def _holder(self, holder: HolderReport) -> Iterator[str]:
        verdict = holder.verdict
        facts = [f"{did(holder, dry_run=self._dry_run)} {command(holder)} (pid {holder.pid})"]
        if holder.user:
            facts.append(holder.user)
        if holder.started is not None:
            facts.append(f"{age(self._time() - holder.started)} old")
        if holder.cwd:
            facts.append(f"in {self._place(holder.cwd)}")
        # The reason often names these already, and better: it says what follows from them.
        if holder.test and holder.test not in verdict.reason:
            facts.append(f"started in {holder.test}")
        if holder.launcher and holder.launcher not in verdict.reason:
            facts.append(f"started by {holder.launcher}")
        yield "  " + shown(", ".join(facts))
        yield self._labelled("why", f"{verdict.rule}: {verdict.reason}{evidence(holder)}")
        if holder.ending:
            seconds = holder.ending.seconds
            took = f" ({duration(seconds)})" if seconds is not None else ""
            yield self._labelled("how", ending_words(holder.ending) + took)
        if verdict.action == "keep" and verdict.instead:
            yield self._labelled("instead", verdict.instead)

    def _followers(
        self,
        holder: HolderReport,
        in_full: Sequence[HolderReport],
        all_of_them: Sequence[HolderReport],
    ) -> Iterator[str]:
        """Those who share the holder's fate, such as the workers of a server, in a line or two."""
        endings: dict[str, list[int]] = {}
        for other in all_of_them:
            if other not in in_full and fate(other) == fate(holder):
                # Mostly they end with their root. What is worth a word is a signal of their own.
                signals = other.ending.signals if other.ending else ()
                own = "" if holder.ending and signals == holder.ending.signals else signals
                words = ending_words(other.ending) if own else ""
                endings.setdefault(words, []).append(other.pid)
        for words, pids in endings.items():
            some = ", ".join(map(str, pids[:_MOST_PIDS]))
            more = f" and {len(pids) - _MOST_PIDS} more" if len(pids) > _MOST_PIDS else ""
            who = f"{len(pids)} that share its socket: pids"
            if len(pids) == 1:
                who = "1 that shares its socket: pid"
            yield "    " + shown(f"and {who} {some}{more}{words and ': '}{words}")

    def _labelled(self, label: str, text: str) -> str:
        return f"    {self._painted(_DIM, f'{label}:'.ljust(9))}{shown(text)}"

    def _painted(self, color: str, text: str) -> str:
        return f"{color}{text}{_PLAIN}" if self._color else text

    def _time(self) -> float:
        if self._now is None:
            self._now = time.time()
        return self._now

    def _place(self, path: str) -> str:
        # Path.home() raises where there is no home to be found.
        home = os.path.expanduser("~") if self._home is None else self._home  # noqa: PTH111
        home = home.rstrip(os.sep)
        if home and (path == home or path.startswith(home + os.sep)):
            return "~" + path[len(home) :]
        return path
