"""Reports for GitHub Actions: Markdown for the page of a job, and annotations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from portfree._output.words import (
    command,
    consecutive,
    did,
    duration,
    ending_words,
    evidence,
    in_order,
    leak_line,
    note_words,
    shown,
    summary,
)
from portfree.model import HolderReport, Leak, Outcome, Port, Report, Request

# A step's summary may have a megabyte, and shows ten annotations of each kind.
_MOST_ROWS = 300
_MOST_ANNOTATIONS = 10

_COLUMNS = ("when", "port", "outcome", "process", "started", "what was done", "time")

# What means something in Markdown, in its tables, in HTML or to GitHub (@name, #1, :tada:, $x$).
_MARKUP = frozenset("\\`*_{}[]<>|&#@:!$~^\"'")


def as_markdown(before: Report, after: Report | None = None, leaks: Sequence[Leak] = ()) -> str:
    """The report as a table for the page of a CI job; for a run: of its begin, its end, its leaks.

    Ends with a newline.
    """
    rows = list(_rows("before", before))
    if after is not None:
        rows += _rows("after", after)
    rows += [("after", *_leak_cells(leak)) for leak in leaks]
    first = 0 if after is not None else 1  # one pass needs no column that says which
    lines = [f"### portfree: {_headline(before, after, leaks)}", ""]
    lines += [_row(_COLUMNS[first:]), _row(["---"] * len(_COLUMNS[first:]))]
    lines += [_row(row[first:]) for row in rows[:_MOST_ROWS]]
    if len(rows) > _MOST_ROWS:
        lines += ["", f"And {len(rows) - _MOST_ROWS} more rows: the report has them all."]
    return "\n".join([*lines, "", ""])


def as_annotations(
    request: Request,
    outcomes: Iterable[Outcome],
    warnings: Iterable[str] = (),
    leaks: Iterable[Leak] = (),
) -> list[str]:
    """Workflow commands of GitHub Actions: on each port that is busy, and on each warning."""
    level = "error" if request.on_busy == "fail" else "warning"
    found = [(level, summary(outcome)) for outcome in outcomes if not outcome.ok]
    wrong = set(map(leak_line, leaks)) if request.leaks == "fail" else set()
    found += [("error" if line in wrong else "warning", line) for line in warnings]
    # The runner shows ten of each kind and drops the others in silence.
    shown, hidden = found[:_MOST_ANNOTATIONS], found[_MOST_ANNOTATIONS:]
    if hidden:
        shown[-1] = (hidden[0][0], f"{len(hidden) + 1} more: the summary of this step has them all")
    return [f"::{level} title=portfree::{command_data(text)}" for level, text in shown]


def command_data(text: str) -> str:
    """The message of a workflow command, escaped as the runner reads it (ActionCommand.cs)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _headline(before: Report, after: Report | None, leaks: Sequence[Leak]) -> str:
    reports = [report for report in (before, after) if report is not None]
    busy = list(dict.fromkeys(port for report in reports for port in report.busy))
    freed = list(dict.fromkeys(port for report in reports for port in report.freed))
    parts = []
    if busy:
        parts.append(f"**{_some(busy)} busy**")
    if freed:
        parts.append(f"{_some(freed)} freed")
    if leaks:
        parts.append("1 server left behind" if len(leaks) == 1 else f"{len(leaks)} servers left")
    return ", ".join(parts) or f"{_some(before.request.ports)} free"


def _some(ports: Sequence[Port]) -> str:
    more = f" and {len(ports) - 3} more" if len(ports) > 3 else ""
    return ", ".join(map(str, ports[:3])) + more


def _rows(when: str, report: Report) -> Iterator[tuple[str, ...]]:
    for run in consecutive(report.outcomes):
        first, last = run[0], run[-1]
        port = str(first.port) if first == last else f"{first.port.number}-{last.port}"
        state = f"**{first.status}**" if first.status == "busy" else first.status
        time = duration(first.seconds) if first.status == "freed" else ""
        if not first.holders and not first.notes:
            yield when, port, state, "", "", "", time
        for holder in in_order(first.holders):
            verdict = holder.verdict
            why = f"{verdict.rule}: {verdict.reason}{evidence(holder)}"
            ended = ending_words(holder.ending)
            done = [f"{did(holder, dry_run=report.request.dry_run)}: {ended or why}"]
            done += [why] if ended else []
            done += [verdict.instead] if verdict.action == "keep" and verdict.instead else []
            took = _took(holder) or time
            yield when, port, state, *_holder_cells(holder), _cell("; ".join(done)), took
        for note in first.notes:
            text = "; ".join(filter(None, (note_words(note), note.instead)))
            yield when, port, state, "", "", _cell(text), "" if first.holders else time


def _leak_cells(leak: Leak) -> tuple[str, ...]:
    holder = leak.holder
    did = ending_words(holder.ending) or f"still listening on {leak.address}"
    return str(leak.port), "**left behind**", *_holder_cells(holder), _cell(did), _took(holder)


def _holder_cells(holder: HolderReport) -> tuple[str, str]:
    facts = ", ".join(filter(None, (f" (pid {holder.pid})", holder.user)))
    step = f"step {holder.step}" if holder.step else ""
    launcher = f"by {holder.launcher}" if holder.launcher else ""
    origin = holder.test or step or launcher
    return f"<code>{_cell(command(holder))}</code>{_cell(facts)}", _cell(origin)


def _took(holder: HolderReport) -> str:
    seconds = holder.ending.seconds if holder.ending else None
    return "" if seconds is None else duration(seconds)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Text that no reader of Markdown or HTML takes for anything else."""
    escaped = "".join(f"&#{ord(c)};" if c in _MARKUP else c for c in shown(text))
    return escaped.replace("www.", "www&#46;")
