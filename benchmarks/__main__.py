"""Measure, and write what came out: ``nox -s bench``, or ``python -m benchmarks --wheel FILE``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import contestants
from benchmarks.contestants import Place
from benchmarks.growth import plot
from benchmarks.measure import grow, play
from benchmarks.stage import free_range
from benchmarks.table import Results, markdown
from benchmarks.tools import Tools, machine

if TYPE_CHECKING:
    from benchmarks.measure import Say
    from benchmarks.table import Growth, Row

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True, help="portfree, as users get it")
    parser.add_argument("--quick", action="store_true", help="few values: does it work, roughly?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write")
    options = parser.parse_args()
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up then too

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr, flush=True)

    facts = machine()  # before we load it ourselves
    # Not in the project: the servers are to be orphans of a project of their own.
    with tempfile.TemporaryDirectory(prefix="portfree-bench-") as folder:
        say("installing what it is compared with")
        tools = Tools(Path(folder), options.wheel.resolve())
        rows, grown = _measure(tools, Path(folder), say, quick=options.quick)
        versions = tools.versions()
    results = Results(
        date=time.strftime("%Y-%m-%d"),
        seconds=round(time.monotonic() - started),
        quick=options.quick,
        machine=facts,
        versions=versions,
        rows=rows,
        growth=grown,
    )
    options.results.mkdir(exist_ok=True)
    (options.results / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.results / "results.md").write_text(markdown(results))
    plot(grown, options.results / "growth.svg")
    print(markdown(results))


def _measure(
    tools: Tools, folder: Path, say: Say, *, quick: bool
) -> tuple[list[Row], list[Growth]]:
    project = folder / "project"
    project.mkdir()
    (project / "pyproject.toml").touch()
    free = free_range(1002)
    place = Place(tools, project, free=free, held=free + 1000, stop=free + 1001)
    rounds = (1, 1, 2, 1, 1) if quick else (7, 20, 60, 7, 3)
    in_process, commands, hooks, by_test, growth = rounds
    say("in-process, idle and loaded")
    rows = play(contestants.in_process(place), in_process, say, contestants.states(place))
    say("commands")
    rows += play(contestants.commands(place), commands, say)
    say("hooks")
    rows += play(contestants.hooks(place), hooks, say)
    say("tests, idle and loaded")
    rows += play(contestants.by_test(place), by_test, say, contestants.states(place))
    say("growth")
    return rows, grow(contestants.growth(place), growth, say)


if __name__ == "__main__":
    main()
