"""Rounds: everybody once, in an order that changes, again and again.

Contestants that are measured one after the other, each for a minute, are also measured against what
the machine happened to do in that minute. pyperf has no such rounds; it has what they are built of:
a worker process that measures one round (programs/look.py), runs that can be added to a benchmark,
and the statistics of it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyperf

from benchmarks.stage import ENVIRONMENT, PROGRAMS, StageError, bindable, orphan
from benchmarks.table import Growth, Point, Row

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 10.0
"""Seconds until a port has to be bindable."""

ENDLESS = 30.0
"""Seconds until a process is given up."""

State = tuple[str, "Callable[[], AbstractContextManager[object]]"]
"""A name, and what makes the machine so."""

IDLE: State = ("idle", nullcontext)

Say = Callable[[str], None]


class FailedError(Exception):
    """A contestant did not do what it is there for; the message says so in the table."""


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    measure: Callable[[], Sequence[float]]
    """One round: some values, in seconds."""
    missing: str = ""
    """Why it cannot be measured here."""
    rounds: int | None = None
    """At most so many, for what takes seconds."""


@dataclass(frozen=True, slots=True)
class Section:
    """Contestants for one question; the others are compared with the first."""

    title: str
    contestants: Sequence[Contestant]


@dataclass(frozen=True, slots=True)
class Axis:
    """One panel of the plot: what grows, and who is measured at each point."""

    title: str
    points: Sequence[int]
    make: Callable[[int], AbstractContextManager[int]]
    """Makes the machine so; gives the point's true place on the axis."""
    contestants: Callable[[int], Sequence[Contestant]]


@dataclass(slots=True)
class Tally:
    """What was measured of one contestant, at one place."""

    runs: list[pyperf.Run] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def measure(self, contestant: Contestant) -> None:
        try:
            values = contestant.measure()
        except FailedError as error:
            self.failures[str(error)] += 1
            return
        metadata = {"name": contestant.name, "unit": "second"}
        self.runs.append(pyperf.Run(values, metadata=metadata, collect_metadata=False))

    def benchmark(self) -> pyperf.Benchmark | None:
        return pyperf.Benchmark(self.runs) if self.runs else None


def play(
    sections: Sequence[Section], rounds: int, say: Say, states: Sequence[State] = (IDLE,)
) -> list[Row]:
    """Measure everybody in every state, a round after the other, and sum up."""
    tallies: defaultdict[tuple[str, str, str], Tally] = defaultdict(Tally)
    absent: dict[str, str] = {}
    for turn in range(rounds):
        for state, make in states:
            if state in absent:
                continue
            try:
                with make():
                    for section, contestant in _order(sections, turn):
                        tallies[section.title, contestant.name, state].measure(contestant)
            except StageError as error:
                absent[state] = str(error)
        say(f"round {turn + 1} of {rounds}")
    return [
        _row(
            Row(section=section.title, name=contestant.name, state=state),
            tallies[section.title, contestant.name, state],
            contestant.missing or absent.get(state, ""),
        )
        for section in sections
        for contestant in section.contestants
        for state, _ in states
    ]


def grow(axes: Sequence[Axis], rounds: int, say: Say) -> list[Growth]:
    """Measure everybody at every point of the axes, a round after the other, and sum up."""
    tallies: defaultdict[tuple[str, str, int], Tally] = defaultdict(Tally)
    places: dict[tuple[str, int], int] = {}
    for turn in range(rounds):
        for axis in axes:
            for point in axis.points:
                section = Section(axis.title, axis.contestants(point))
                with axis.make(point) as place:
                    places.setdefault((axis.title, point), place)
                    for _, contestant in _order([section], turn):
                        tallies[axis.title, contestant.name, point].measure(contestant)
        say(f"round {turn + 1} of {rounds}")
    grown = [Growth(title=axis.title, points=[]) for axis in axes]
    for (title, name, point), tally in tallies.items():
        benchmark = tally.benchmark()
        if benchmark is not None:
            (panel,) = (each for each in grown if each["title"] == title)
            panel["points"].append(
                Point(
                    name=name,
                    x=places[title, point],
                    median=benchmark.median(),
                    mad=benchmark.median_abs_dev(),
                )
            )
    for panel in grown:
        panel["points"].sort(key=lambda point: (point["name"], point["x"]))
    return grown


def _order(sections: Sequence[Section], turn: int) -> list[tuple[Section, Contestant]]:
    """Who is measured in this round, in an order of its own, which is the same in every run."""
    order = [
        (section, contestant)
        for section in sections
        for contestant in section.contestants
        if not contestant.missing and (contestant.rounds is None or turn < contestant.rounds)
    ]
    random.Random(turn).shuffle(order)
    return order


def _row(row: Row, tally: Tally, missing: str) -> Row:
    if missing:
        row["missing"] = missing
    if tally.failures:
        row["failures"] = dict(tally.failures)
    benchmark = tally.benchmark()
    if benchmark is not None:
        row["median"] = benchmark.median()
        row["mad"] = benchmark.median_abs_dev()
        row["values"] = [float(f"{value:.6g}") for value in benchmark.get_values()]
    return row


# --- how a contestant is measured -----------------------------------------------------------------


def look(
    subject: str, folder: Path, first: int, count: int = 1, *, loops: int = 1, values: int = 3
) -> Callable[[], Sequence[float]]:
    """In-process, by a worker of pyperf: one warm-up, then some values of so many loops each."""

    def measure() -> Sequence[float]:
        result = folder / "look.json"
        result.unlink(missing_ok=True)
        ours = (subject, str(first), str(count))
        theirs = ("--worker", "--loops", str(loops), "--warmups", "1", "--values", str(values))
        command = [sys.executable, str(PROGRAMS / "look.py"), *ours, *theirs, "-q"]
        _check([*command, "-o", str(result)], folder)
        seen: tuple[float, ...] = pyperf.Benchmark.load(str(result)).get_values()
        return seen

    return measure


def command(words: Sequence[str], folder: Path, *, code: int = 0) -> Callable[[], Sequence[float]]:
    """A process, from its start to its end with this exit code."""

    def measure() -> Sequence[float]:
        started = time.perf_counter()
        ended = _run(words, folder)
        seconds = time.perf_counter() - started
        if ended.returncode != code:
            said = ended.stdout.strip().splitlines()[-1:] or ["nothing"]
            raise FailedError(f"exit code {ended.returncode}, and it said: {said[0][:100]}")
        return [seconds]

    return measure


def frees(
    words: Sequence[str], folder: Path, port: int, *, says: str = ""
) -> Callable[[], Sequence[float]]:
    """A process that stops a fresh server, from its start until its end and the port is bindable.

    *says*: what it has to print.
    """

    def measure() -> Sequence[float]:
        with orphan(port, folder):
            started = time.perf_counter()
            ended = _run(words, folder)
            while not bindable(port):
                if time.perf_counter() - started > PATIENCE:
                    raise FailedError(f"the port was not free after {PATIENCE:g} s")
            seconds = time.perf_counter() - started
        if says not in ended.stdout:
            raise FailedError(f"it did not say {says!r}")
        return [seconds]

    return measure


def calls(
    python: str, folder: Path, kind: str, port: int, number: int
) -> Callable[[], Sequence[float]]:
    """``free_ports(port)`` in a fresh process: its first call (0), or its second (1)."""
    outcome = {"free": "free", "held": "freed"}[kind]

    def measure() -> Sequence[float]:
        words = [python, str(PROGRAMS / "call.py"), kind, str(port), str(PROGRAMS / "orphan.py")]
        said = json.loads(_check(words, folder))
        if said["statuses"] != [outcome] * 2:
            raise FailedError(f"the outcomes were {said['statuses']}")
        if said["psutil"]:
            raise FailedError("psutil was imported")
        return [said["seconds"][number]]

    return measure


def _run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            cwd=folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=ENDLESS,
        )
    except subprocess.TimeoutExpired:
        raise FailedError(f"it had not ended after {ENDLESS:g} s") from None


def _check(words: Sequence[str], folder: Path) -> str:
    """Run one of our own programs, which has to succeed."""
    done = _run(words, folder)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stdout}")
    return done.stdout
