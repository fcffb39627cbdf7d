"""From what was measured to what a reader sees. No clock, no process: only numbers and words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

# Names of sections and contestants that the targets ask for.
FREE = "Is this port free?"
FREE_10 = "Are these 10 ports free?"
FREE_1000 = "Are these 1000 ports free?"
HOLDER = "Who holds this port?"
COMMAND_FREE = "The command, on a free port"
COMMAND_HELD = "From a held port to a bindable one"
PYTEST = "A pytest session with one empty test"
RUN = "The run command"

ONE = "free_ports(8000)"
THOUSAND = "free_ports(1000 ports)"
BINDS = "1000 bare binds"
LOOK = "free_ports(8000, dry_run=True)"
PSUTIL = "psutil.net_connections()"
LSOF = "lsof -nP -iTCP:8000 …"
FIRST = "free_ports(8000), first call of a process"
SECOND = "free_ports(8000), second call"
COMMAND = "portfree 8000"
BARE = "python -c pass"
LOOP = "the netstat loop: 3 tries of 2 s"
NPM = ("kill-port 8000", "fkill --silent :8000")
ABSENT = "portfree not installed"
INERT = "installed, not configured"
SESSION = "What a guarded pytest session does, once all it needs is loaded"
LINKS = "the links of all descriptors, read and compared"
LOADED = "not configured, but the modules of a guarded session loaded"
QUIET = "one free port, leaks ignored"
GUARDED = "one free port, leaks looked for"
TESTS = 10_000
PER_TEST = f"A guarded pytest session with {TESTS} empty tests"


class Row(TypedDict, total=False):
    """What was measured of one contestant in one state."""

    section: str
    name: str
    state: str
    median: float
    """Seconds."""
    mad: float
    """The median distance from the median."""
    values: list[float]
    missing: str
    failures: dict[str, int]


class Point(TypedDict):
    """One point of a line in the plot."""

    name: str
    x: int
    median: float
    mad: float


class Growth(TypedDict):
    """One panel of the plot."""

    title: str
    points: list[Point]


class Results(TypedDict):
    """All of one run: results.json."""

    date: str
    seconds: float
    quick: bool
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row]
    growth: list[Growth]


# --- tables ---------------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    parts = ["# How fast portfree is", _preface(results), "## What it is to reach", ""]
    parts += targets_table(judge(results["rows"]))
    sections = dict.fromkeys(row["section"] for row in results["rows"])
    for title in sections:
        rows = [row for row in results["rows"] if row["section"] == title]
        parts += ["", f"## {title}", "", *section_table(rows)]
    return "\n".join([*parts, "", "![growth](growth.svg)", ""])


def _preface(results: Results) -> str:
    machine, versions = results["machine"], results["versions"]
    warning = " **A quick run: few values, do not quote it.**" if results["quick"] else ""
    if machine["load_before"] > machine["cpus"] / 4:
        warning += f" **The machine was busy with other things: load {machine['load_before']:g}.**"
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"\nMeasured on {results['date']} in {results['seconds'] / 60:.1f} minutes by "
        f"`nox -s bench`.{warning}\n\n"
        f"{machine['cpu'] or 'unknown CPU'}, {machine['cpus']} CPUs, {machine['memory_gib']} GiB; "
        f"{machine['platform']}; Python {machine['python']}; {machine['processes']} processes and "
        f"{machine['sockets']} TCP sockets when idle. {named}.\n\n"
        "Each figure is a median, ± the median absolute deviation; × compares with the first line "
        "of its table, measured in turn with it. *Loaded*: 1000 more processes with 10 descriptors "
        "each, and 10 000 more TCP sockets.\n"
    )


def section_table(rows: Sequence[Row]) -> list[str]:
    """One section: a line for each contestant, two columns for each state."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    states = list(dict.fromkeys(row["state"] for row in rows))
    several = len(states) > 1
    head = [cell for state in states for cell in (state if several else "time", "×")]
    if several:
        head.append(f"{states[1]} ÷ {states[0]}")
    table = [_line(["", *head]), _line(["---", *["---:"] * len(head)])]
    for name in names:
        cells, medians = [name.replace("|", "\\|")], []
        for state in states:
            row = find(rows, name, state)
            yardstick = find(rows, names[0], state).get("median")
            cells += [figure(row), ratio(row.get("median"), yardstick)]
            medians.append(row.get("median"))
        if several:
            cells.append(ratio(medians[1], medians[0]))
        table.append(_line(cells))
    return table


def figure(row: Row) -> str:
    """What stands in the cell: a time, or why there is none."""
    if row.get("missing"):
        return f"left out: {row['missing']}"
    failures = [f"{count} × {why}" for why, count in row.get("failures", {}).items()]
    median = row.get("median")
    if median is None:
        return "; ".join(failures) or "not measured"
    spread = f" ± {duration(row['mad'])}" if row["mad"] else ""  # one value has none
    return "; ".join([duration(median) + spread, *failures])


def duration(seconds: float) -> str:
    """Three digits, and the unit that they look best with."""
    unit, size = next(
        (unit for unit in (("s", 1.0), ("ms", 1e-3)) if seconds >= unit[1]), ("µs", 1e-6)
    )
    return f"{float(f'{seconds / size:.3g}'):g} {unit}"


def ratio(value: float | None, yardstick: float | None) -> str:
    return "" if value is None or not yardstick else f"{float(f'{value / yardstick:.2g}'):g}"


def find(rows: Sequence[Row], name: str, state: str = "idle", section: str = "") -> Row:
    """The row of a contestant; an empty one if it was not measured."""
    for row in rows:
        if (row["name"], row["state"]) == (name, state) and section in ("", row["section"]):
            return row
    return Row()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# --- what it is to reach --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A limit, and what was measured; both in seconds, or both plain numbers."""

    what: str
    value: float | None
    limit: float | None
    at_least: bool = False
    unit: str = "×"
    why: str = ""
    """What stands in the way, if it is missed."""

    @property
    def verdict(self) -> str:
        if self.value is None or self.limit is None:
            return "not measured"
        if (self.value >= self.limit) if self.at_least else (self.value <= self.limit):
            return "met"
        if self.unit == "s":
            return f"**missed by {duration(abs(self.value - self.limit))}**"
        return f"**missed by {abs(self.value - self.limit):.2g}**"

    def show(self, value: float | None) -> str:
        if value is None:
            return ""
        if self.unit == "×":
            return f"{float(f'{value:.3g}'):g} ×"
        return f"-{duration(-value)}" if value < 0 else duration(value)


def targets_table(targets: Sequence[Target]) -> list[str]:
    lines = [_line(["", "to reach", "measured", ""]), _line(["---", "---:", "---:", "---"])]
    for target in targets:
        bound = f"{'≥' if target.at_least else '≤'} {target.show(target.limit)}"
        verdict = target.verdict
        if verdict.startswith("**missed") and target.why:
            verdict += f": {target.why}"
        lines.append(_line([target.what, bound, target.show(target.value), verdict]))
    return lines


def judge(rows: Sequence[Row]) -> list[Target]:
    """What the project wants to reach, with what was measured."""

    def median(section: str, name: str, state: str = "idle") -> float | None:
        return find(rows, name, state, section).get("median")

    def grown(section: str, name: str) -> float | None:
        return _divide(median(section, name, "loaded"), median(section, name))

    held, look = median(HOLDER, LOOK, "loaded"), median(HOLDER, LOOK)
    floor = median(HOLDER, LINKS, "loaded")
    soon = None if look is None else 10e-3 + look
    command = median(COMMAND_FREE, COMMAND)
    absent, inert = median(PYTEST, ABSENT), median(PYTEST, INERT)
    spread = find(rows, ABSENT, section=PYTEST).get("mad")
    return [
        Target("one free port, in-process", median(FREE, ONE), 50e-6, unit="s"),
        Target(
            "1000 free ports, in-process",
            median(FREE_1000, THOUSAND),
            10e-3,
            unit="s",
            why=f"1000 bare binds are {ratio(median(FREE_1000, BINDS), 1e-3)} ms of it",
        ),
        Target("one free port: loaded ÷ idle", grown(FREE, ONE), 1.5),
        Target("1000 free ports: loaded ÷ idle", grown(FREE_1000, THOUSAND), 1.5),
        Target("psutil, in comparison: loaded ÷ idle", grown(FREE, PSUTIL), 10, at_least=True),
        Target(
            "look at a held port, loaded: portfree ÷ lsof",
            _divide(held, median(HOLDER, LSOF, "loaded")),
            1,
        ),
        Target(
            "look at a held port, loaded: psutil ÷ portfree",
            _divide(median(HOLDER, PSUTIL, "loaded"), held),
            3,
            at_least=True,
            why="all of it but a tenth is the links of the descriptors, read one by one, which "
            f"psutil reads too: they alone give {ratio(median(HOLDER, PSUTIL, 'loaded'), floor)}",
        ),
        *(
            Target(
                f"{name}: 10 ms and one look",
                median(COMMAND_HELD, name),
                soon,
                unit="s",
                why="that much is the import of what a held port needs, from Python's library "
                "mostly; test runners have loaded most of it before",
            )
            for name in (FIRST, SECOND)
        ),
        Target(f"{LOOP}, in comparison", median(COMMAND_HELD, LOOP), 1.0, at_least=True, unit="s"),
        Target(
            "command on a free port: portfree ÷ python -c pass",
            _divide(command, median(COMMAND_FREE, BARE)),
            2.5,
        ),
        *(
            Target(
                f"command on a free port: {name} ÷ portfree",
                _divide(median(COMMAND_FREE, name), command),
                2,
                at_least=True,
            )
            for name in NPM
        ),
        Target(
            "pytest: not configured − not installed, within the spread of the latter",
            _minus(inert, absent),
            spread,
            unit="s",
        ),
        *(
            Target(
                f"pytest: {name}, beyond loading the plugin",
                median(SESSION, name),
                2e-3,
                unit="s",
            )
            for name in (QUIET, GUARDED)
        ),
        *(
            Target(
                f"pytest: looking for leaks, for each test, {state}",
                _divide(
                    _minus(median(PER_TEST, GUARDED, state), median(PER_TEST, QUIET, state)), TESTS
                ),
                100e-6,
                unit="s",
            )
            for state in ("idle", "loaded")
        ),
    ]


def _divide(value: float | None, by: float | None) -> float | None:
    return None if value is None or not by else value / by


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
