"""Words for what a report says: one plain line each, for logs, and the parts that all pages share.

Everything that came from a process goes through `safe`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from portfree._core.redact import safe, shorten
from portfree.model import Ending, HolderReport, Leak, Note, Outcome, Verdict

# Wide enough for a command with its options, short enough to leave the rest of the line in sight.
_COMMAND = 120
_LINE = 500


def summary(outcome: Outcome) -> str:
    """One plain line on one port, for a log: ``freed 8000/tcp: stopped …``."""
    port = outcome.port
    if outcome.status == "free":
        said = f"{port} is free"
    elif outcome.status == "freed" and was_given_up(outcome):
        said = f"{port} is free after {duration(outcome.seconds)}"
    elif outcome.status == "freed":
        said = f"freed {port}"
    else:
        said = f"{port} would be freed" if outcome.ok else f"{port} is busy"
    details = [
        *_holders_in_short(outcome),
        *(_advice(note_words(note), note) for note in outcome.notes),
    ]
    return f"{said}: {'; '.join(details)}" if details else said


def leak_line(leak: Leak) -> str:
    """One plain line on a listener that a run has left behind."""
    holder = leak.holder
    address = f"[{leak.address}]" if ":" in leak.address else leak.address
    what = f"{address}:{leak.port.number}"
    if leak.port.protocol == "udp":
        what += "/udp"
    who = f"{command(holder)} (pid {holder.pid})"
    # Of one that was kept for the processes that use it, that is told; ours is kept in any case.
    used = holder.verdict.rule == "attended" and not leak.own
    if holder.ending:
        state = f"which listened on {what}: {ending_words(holder.ending)}"
    else:
        state = f"still listening on {what}" + (f": {holder.verdict.reason}" if used else "")
    if leak.test:
        test = f"{leak.test}, fixture {leak.fixture}," if leak.fixture else leak.test
        if leak.own:
            server = leak.server or "a socket"
            return shown(f"{test} left {server} of the test process itself, {state}")
        return shown(f"{test} left {who}, {state}")
    if leak.own:
        return shown(f"{holder.name} (pid {holder.pid}), the run itself, still listens on {what}")
    if holder.origin and holder.origin.evidence == "arrival":
        return shown(f"{who} came up during this run, and still listens on {what}")
    return shown(f"{holder.test or 'this run'} started {who}, {state}")


def doubt(outcome: Outcome) -> str:
    """One plain line on a port that was busy while a run went on."""
    holders = [holder for holder in outcome.holders if holder.root]
    names = ", ".join(f"{command(holder)} (pid {holder.pid})" for holder in holders)
    since = min((h.started for h in holders if h.started is not None), default=None)
    running = "" if since is None else f", running since {timestamp(since)}"
    return shown(f"{outcome.port} was busy: these tests may have talked to {names}{running}")


def _holders_in_short(outcome: Outcome) -> Iterator[str]:
    holders = [holder for holder in outcome.holders if holder.root] or list(outcome.holders)
    if not holders:
        return
    # Whoever keeps it busy comes first, and whoever was stopped: no more may be read.
    last = "stop" if outcome.status == "busy" else "keep"
    holders.sort(key=lambda holder: holder.verdict.action == last)
    first, others = holders[0], len(holders) - 1
    more = f" (and {others} more)" if others else ""
    if outcome.status == "freed" and was_given_up(outcome):
        yield shown(f"{command(first)} (pid {first.pid}) gave it up{more}")
        return
    done = did(first, dry_run=outcome.status == "busy" and outcome.ok)
    verdict = first.verdict
    if verdict.action == "stop":
        ending = first.ending
        failed = f": {ending_words(ending)}" if ending and ending.seconds is None else ""
        why = f", {verdict.reason}{evidence(first)}{failed}"
    else:
        why = f": {verdict.rule}: {verdict.reason}"
    yield _advice(f"{done} {command(first)} (pid {first.pid}){why}{more}", verdict)


def _advice(text: str, source: Verdict | Note) -> str:
    return shown("; ".join(filter(None, (text, source.instead))))


def was_given_up(outcome: Outcome) -> bool:
    """Whether the port came free by itself, while portfree waited."""
    return all(holder.verdict.action == "keep" for holder in outcome.holders)


def did(holder: HolderReport, *, dry_run: bool) -> str:
    stop = holder.verdict.action == "stop"
    if dry_run:
        return "would stop" if stop else "would keep"
    if not stop:
        return "kept"
    if holder.ending is None:  # it might have been stopped if another were not kept
        return "left alone"
    return "could not stop" if holder.ending.seconds is None else "stopped"


def command(holder: HolderReport) -> str:
    command = holder.command or holder.name or "a process"
    program, blank, rest = command.partition(" ")
    # Where an interpreter is installed says little, and takes half of the line.
    if program[:1] not in ("'", '"'):  # that is, the path has no blank in it
        program = program.replace("\\", "/").rpartition("/")[2] or program
    return shorten(program + blank + rest, _COMMAND)


def evidence(holder: HolderReport) -> str:
    """For a holder that is stopped for its origin: what shows that."""
    proved = holder.verdict.action == "stop" and holder.verdict.rule in ("own-run", "left-behind")
    return f" (evidence: {holder.origin.evidence})" if proved and holder.origin else ""


def shown(text: str) -> str:
    return safe(shorten(text, _LINE))


def duration(seconds: float) -> str:
    return f"{max(seconds * 1000, 1):.0f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def timestamp(epoch: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def consecutive(outcomes: Iterable[Outcome]) -> Iterator[list[Outcome]]:
    """The outcomes one by one, but three and more free ports in a row as one."""
    run: list[Outcome] = []
    for outcome in outcomes:
        if run and not _follows(run[-1], outcome):
            yield from _split(run)
            run = []
        run.append(outcome)
    yield from _split(run)


def _follows(one: Outcome, other: Outcome) -> bool:
    return (
        all(each.status == "free" and not each.notes for each in (one, other))
        and other.port.protocol == one.port.protocol
        and other.port.number == one.port.number + 1
    )


def _split(run: list[Outcome]) -> list[list[Outcome]]:
    return [run] if len(run) > 2 else [[outcome] for outcome in run]


def in_order(holders: Sequence[HolderReport]) -> Iterator[HolderReport]:
    """The holders that are shown in full: the roots, and who is judged unlike all of those."""
    fates = set()
    for holder in holders:
        if holder.root:
            fates.add(fate(holder))
            yield holder
    for holder in holders:
        if not holder.root and fate(holder) not in fates:
            yield holder


def fate(holder: HolderReport) -> tuple[str, str]:
    return holder.verdict.action, holder.verdict.rule


def note_words(note: Note) -> str:
    return f"{note.text}: {ending_words(note.ending)}" if note.ending else note.text


def ending_words(ending: Ending | None) -> str:
    """What became of a process: ``ended after SIGTERM and SIGINT``; empty for None."""
    if ending is None:
        return ""
    after = f" after {' and '.join(ending.signals)}" if ending.signals else ""
    return {
        "ended": f"ended{after}",
        "by-itself": "ended by itself",
        "with-parent": "ended with the process that it belongs to",
        "terminated": "terminated",
        "let-go": f"let go of the port{after}, still draining",
        "refused": f"the system refused the signal{after} ({ending.error})",
        "remains": f"still holds the port{after}",
        "goes-on": f"goes on{after}",
    }[ending.how]
