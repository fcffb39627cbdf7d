"""Reports for people and for programs. Everything that came from a process goes through `safe`.

The JSON of `as_json` is an object. Its ``version`` changes when a field goes away or changes its
meaning; fields may be added without notice. What is not known, or does not apply, is ``null``.

======================  ==========================================================================
``version``             1
``ok``                  whether every port can be used now (dry run: could be, without it)
``seconds``             how long the whole call took
``request``             what was asked for: ``ports`` (texts such as ``"8000/tcp"``), ``scope``
                        (``orphans``, ``project``, ``mine``, ``any``), ``grace``, ``wait``
                        (seconds), ``on_busy`` (``warn``, ``fail``), ``dry_run``
``outcomes``            one object for each port, in the order in which they were asked for
======================  ==========================================================================

An outcome:

======================  ==========================================================================
``port``, ``protocol``  the number, and ``tcp`` or ``udp``
``status``              ``free``: it was free; ``freed``: it was held, and was then seen free;
                        ``busy``: it still is (in a dry run: every port that is held)
``ok``                  whether this port can be used now (dry run: could be, without it)
``seconds``             how long it took until it was free, or until portfree gave up
``holders``             the processes that had the port open
``notes``               what no holder explains: objects of ``kind``, ``text``, ``instead`` (what to
                        do about it) and ``advice`` (as of a verdict)
======================  ==========================================================================

A holder:

======================  ==========================================================================
``pid``, ``name``       the process, and the short name that the system has for it
``command``             its command line; secrets are ``***``, and a long one is shortened
``user``, ``uid``       who it belongs to
``started``             when it started: UTC, ISO 8601, ``"2026-01-31T12:00:00Z"``
``started_epoch``       the same in seconds since 1970
``cwd``                 its working directory
``launcher``            who started it and still looks after it
``test``                the test that it was born in, as pytest names it
``origin``              the run that it was born in: ``evidence`` (``descent``, ``id``, ``mark``,
                        ``copy``, ``folder``, ``arrival``, ``unreadable``), ``state`` (``live``,
                        ``ended``), ``run`` and ``test``
``step``                the step of a GitHub Actions job that it was born in
``addresses``           the local addresses of its sockets on this port
``root``                whether no ancestor of it holds the port too
``verdict``             ``action`` (``stop``, ``keep``), ``rule`` and ``reason``: why; ``instead``:
                        what to do instead, and ``advice``: the same as data, where a setting helps
                        (``wait``: whether that does; ``scope``: the narrowest one that takes it in;
                        ``privileged``: whether it takes other rights besides)
``ended``               what became of it, if it was told to stop
``seconds``             how long that took, from the first signal
======================  ==========================================================================
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portfree._core.advice import Advice
    from portfree._core.ports import Port
    from portfree.model import HolderReport, Leak, Note, Outcome, Report, Request, Verdict

# `text` is imported where something is to be shown that came from a process: its patterns take as
# long to compile as `portfree 8000` takes for all its work on a free port.

# Wide enough for a command with its options, short enough to leave the rest of the line in sight.
_COMMAND = 120
_LINE = 500
_MOST_PIDS = 12

# A step's summary may have a megabyte, and shows ten annotations of each kind.
_MOST_ROWS = 300
_MOST_ANNOTATIONS = 10

_COLUMNS = ("when", "port", "outcome", "process", "started", "what was done", "time")

# What means something in Markdown, in its tables, in HTML or to GitHub (@name, #1, :tada:, $x$).
_MARKUP = frozenset("\\`*_{}[]<>|&#@:!$~^\"'")

_GREEN, _YELLOW, _RED, _DIM, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


def as_text(
    report: Report, *, color: bool = False, home: str | None = None, now: float | None = None
) -> str:
    """The report for people: a line for each port, and under it who held it, and why.

    *home* is the directory that is written ``~`` (default: the user's own), and *now* the time that
    ages are reckoned from, in seconds since the epoch. Ends without a newline.
    """
    page = _Page(dry_run=report.request.dry_run, color=color, home=home, now=now)
    return "\n".join(line for run in _runs(report.outcomes) for line in page.lines(run))


def as_json(report: Report) -> str:
    """The report for programs, as this module's docstring describes it. Ends without a newline."""
    import json

    return json.dumps(as_object(report), indent=2)


def as_object(report: Report) -> dict[str, object]:
    """The same as an object that JSON can take."""
    request = report.request
    return {
        "version": 1,
        "ok": report.ok,
        "seconds": round(report.seconds, 6),
        "request": {
            "ports": [str(port) for port in request.ports],
            "scope": request.scope,
            "grace": request.grace,
            "wait": request.wait,
            "on_busy": request.on_busy,
            "dry_run": request.dry_run,
        },
        "outcomes": [_outcome(outcome) for outcome in report.outcomes],
    }


def leak_as_object(leak: Leak) -> dict[str, object]:
    """A leak as an object that JSON can take: where it listens, ``own`` (whether it is the process
    that opened the run), and the ``holder``, as described above.
    """
    return {
        "address": _text(leak.address),
        "port": leak.port.number,
        "protocol": leak.port.protocol,
        "own": leak.own,
        "holder": _holder(leak.holder),
    }


def summary(outcome: Outcome) -> str:
    """One plain line on one port, for a log: ``freed 8000/tcp: stopped …``."""
    port = outcome.port
    if outcome.status == "free":
        said = f"{port} is free"
    elif outcome.status == "freed" and _was_given_up(outcome):
        said = f"{port} is free after {_duration(outcome.seconds)}"
    elif outcome.status == "freed":
        said = f"freed {port}"
    else:
        said = f"{port} would be freed" if outcome.ok else f"{port} is busy"
    details = [*_holders_in_short(outcome), *(_advice(note.text, note) for note in outcome.notes)]
    return f"{said}: {'; '.join(details)}" if details else said


def leak_line(leak: Leak) -> str:
    """One plain line on a listener that a run has left behind."""
    holder = leak.holder
    address = f"[{leak.address}]" if ":" in leak.address else leak.address
    what = f"{address}:{leak.port.number}"
    if leak.own:
        return _shown(f"{holder.name} (pid {holder.pid}), the run itself, still listens on {what}")
    if holder.origin and holder.origin.evidence == "arrival":
        who = f"{_command(holder)} (pid {holder.pid})"
        return _shown(f"{who} came up during this run, and still listens on {what}")
    started = f"{holder.test or 'this run'} started {_command(holder)} (pid {holder.pid})"
    if holder.ended:
        return _shown(f"{started}, which listened on {what}: {holder.ended}")
    return _shown(f"{started}, still listening on {what}")


def doubt(outcome: Outcome) -> str:
    """One plain line on a port that was busy while a run went on."""
    holders = [holder for holder in outcome.holders if holder.root]
    names = ", ".join(f"{_command(holder)} (pid {holder.pid})" for holder in holders)
    since = min((h.started for h in holders if h.started is not None), default=None)
    running = "" if since is None else f", running since {_timestamp(since)}"
    return _shown(f"{outcome.port} was busy: these tests may have talked to {names}{running}")


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


def _holders_in_short(outcome: Outcome) -> Iterator[str]:
    holders = [holder for holder in outcome.holders if holder.root] or list(outcome.holders)
    if not holders:
        return
    # Whoever keeps it busy comes first, and whoever was stopped: no more may be read.
    last = "stop" if outcome.status == "busy" else "keep"
    holders.sort(key=lambda holder: holder.verdict.action == last)
    first, others = holders[0], len(holders) - 1
    more = f" (and {others} more)" if others else ""
    if outcome.status == "freed" and _was_given_up(outcome):
        yield _shown(f"{_command(first)} (pid {first.pid}) gave it up{more}")
        return
    did = _did(first, dry_run=outcome.status == "busy" and outcome.ok)
    verdict = first.verdict
    if verdict.action == "stop":
        failed = f": {first.ended}" if first.ended and first.seconds is None else ""
        why = f", {verdict.reason}{_evidence(first)}{failed}"
    else:
        why = f": {verdict.rule}: {verdict.reason}"
    yield _advice(f"{did} {_command(first)} (pid {first.pid}){why}{more}", verdict)


def _was_given_up(outcome: Outcome) -> bool:
    """Whether the port came free by itself, while portfree waited."""
    return all(holder.verdict.action == "keep" for holder in outcome.holders)


def _advice(text: str, source: Verdict | Note) -> str:
    return _shown("; ".join(filter(None, (text, source.instead))))


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
        holders = list(_in_order(first.holders))
        for at, holder in enumerate(holders):
            # What was waited for; whatever else was kept is told in full.
            given_up = _was_given_up(first) or holder.verdict.rule == "live-run"
            if first.status == "freed" and given_up:
                yield "  " + _shown(f"{_command(holder)} (pid {holder.pid}) gave it up")
                continue
            yield from self._holder(holder)
            nexts = holders[at + 1 :]
            if not any(_kin(holder) == _kin(other) for other in nexts):
                yield from self._followers(holder, holders, first.holders)
        for note in first.notes:
            yield f"  {_shown(note.text)}"
            if note.instead:
                yield self._labelled("try", note.instead)

    def _state(self, outcome: Outcome) -> str:
        if outcome.status == "free":
            return self._painted(_GREEN, "free")
        if outcome.status == "freed" and _was_given_up(outcome):
            return f"{self._painted(_GREEN, 'free')} after {_duration(outcome.seconds)}"
        if outcome.status == "freed":
            return f"{self._painted(_GREEN, 'freed')} in {_duration(outcome.seconds)}"
        if outcome.ok:
            return self._painted(_YELLOW, "would be freed")
        return self._painted(_RED, "would stay busy" if self._dry_run else "busy")

    def _holder(self, holder: HolderReport) -> Iterator[str]:
        verdict = holder.verdict
        facts = [f"{_did(holder, dry_run=self._dry_run)} {_command(holder)} (pid {holder.pid})"]
        if holder.user:
            facts.append(holder.user)
        if holder.started is not None:
            from portfree._core.redact import age

            facts.append(f"{age(self._time() - holder.started)} old")
        if holder.cwd:
            facts.append(f"in {self._place(holder.cwd)}")
        # The reason often names these already, and better: it says what follows from them.
        if holder.test and holder.test not in verdict.reason:
            facts.append(f"started in {holder.test}")
        if holder.launcher and holder.launcher not in verdict.reason:
            facts.append(f"started by {holder.launcher}")
        yield "  " + _shown(", ".join(facts))
        yield self._labelled("why", f"{verdict.rule}: {verdict.reason}{_evidence(holder)}")
        if holder.ended:
            took = f" ({_duration(holder.seconds)})" if holder.seconds is not None else ""
            yield self._labelled("how", holder.ended + took)
        if verdict.action == "keep" and verdict.instead:
            yield self._labelled("instead", verdict.instead)

    def _followers(
        self,
        holder: HolderReport,
        shown: Sequence[HolderReport],
        all_of_them: Sequence[HolderReport],
    ) -> Iterator[str]:
        """Those who share the holder's fate, such as the workers of a server, in a line or two."""
        fates: dict[str, list[int]] = {}
        for other in all_of_them:
            if other not in shown and _kin(other) == _kin(holder):
                # Mostly they end with their root. What is worth a word is a signal of their own.
                own = other.ended if "SIG" in other.ended and other.ended != holder.ended else ""
                fates.setdefault(own, []).append(other.pid)
        for fate, pids in fates.items():
            some = ", ".join(map(str, pids[:_MOST_PIDS]))
            more = f" and {len(pids) - _MOST_PIDS} more" if len(pids) > _MOST_PIDS else ""
            who = f"{len(pids)} that share its socket: pids"
            if len(pids) == 1:
                who = "1 that shares its socket: pid"
            yield "    " + _shown(f"and {who} {some}{more}{fate and ': '}{fate}")

    def _labelled(self, label: str, text: str) -> str:
        return f"    {self._painted(_DIM, f'{label}:'.ljust(9))}{_shown(text)}"

    def _painted(self, color: str, text: str) -> str:
        return f"{color}{text}{_PLAIN}" if self._color else text

    def _time(self) -> float:
        if self._now is None:
            import time

            self._now = time.time()
        return self._now

    def _place(self, path: str) -> str:
        import os

        # Path.home() raises where there is no home to be found.
        home = os.path.expanduser("~") if self._home is None else self._home  # noqa: PTH111
        home = home.rstrip(os.sep)
        if home and (path == home or path.startswith(home + os.sep)):
            return "~" + path[len(home) :]
        return path


def _runs(outcomes: Iterable[Outcome]) -> Iterator[list[Outcome]]:
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


def _evidence(holder: HolderReport) -> str:
    """For a holder that is stopped for its origin: what shows that."""
    proved = holder.verdict.action == "stop" and holder.verdict.rule in ("own-run", "left-behind")
    return f" (evidence: {holder.origin.evidence})" if proved and holder.origin else ""


def _in_order(holders: Sequence[HolderReport]) -> Iterator[HolderReport]:
    """The holders that are shown in full: the roots, and who is judged unlike all of those."""
    fates = set()
    for holder in holders:
        if holder.root:
            fates.add(_kin(holder))
            yield holder
    for holder in holders:
        if not holder.root and _kin(holder) not in fates:
            yield holder


def _kin(holder: HolderReport) -> tuple[str, str]:
    return holder.verdict.action, holder.verdict.rule


def _did(holder: HolderReport, *, dry_run: bool) -> str:
    stop = holder.verdict.action == "stop"
    if dry_run:
        return "would stop" if stop else "would keep"
    if not stop:
        return "kept"
    if holder.seconds is not None:
        return "stopped"
    # Nothing was done to a holder that might have been stopped if another were not kept.
    return "could not stop" if holder.ended else "left alone"


def _command(holder: HolderReport) -> str:
    from portfree._core.redact import shorten

    command = holder.command or holder.name or "a process"
    program, blank, rest = command.partition(" ")
    # Where an interpreter is installed says little, and takes half of the line.
    if program[:1] not in ("'", '"'):  # that is, the path has no blank in it
        program = program.replace("\\", "/").rpartition("/")[2] or program
    return shorten(program + blank + rest, _COMMAND)


def _shown(text: str) -> str:
    from portfree._core.redact import safe, shorten

    return safe(shorten(text, _LINE))


def _duration(seconds: float) -> str:
    return f"{max(seconds * 1000, 1):.0f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


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
    for run in _runs(report.outcomes):
        first, last = run[0], run[-1]
        port = str(first.port) if first == last else f"{first.port.number}-{last.port}"
        state = f"**{first.status}**" if first.status == "busy" else first.status
        time = _duration(first.seconds) if first.status == "freed" else ""
        if not first.holders and not first.notes:
            yield when, port, state, "", "", "", time
        for holder in _in_order(first.holders):
            verdict = holder.verdict
            why = f"{verdict.rule}: {verdict.reason}{_evidence(holder)}"
            did = [f"{_did(holder, dry_run=report.request.dry_run)}: {holder.ended or why}"]
            did += [why] if holder.ended else []
            did += [verdict.instead] if verdict.action == "keep" and verdict.instead else []
            took = _took(holder) or time
            yield when, port, state, *_holder_cells(holder), _cell("; ".join(did)), took
        for note in first.notes:
            text = "; ".join(filter(None, (note.text, note.instead)))
            yield when, port, state, "", "", _cell(text), "" if first.holders else time


def _leak_cells(leak: Leak) -> tuple[str, ...]:
    holder = leak.holder
    did = holder.ended or f"still listening on {leak.address}"
    return str(leak.port), "**left behind**", *_holder_cells(holder), _cell(did), _took(holder)


def _holder_cells(holder: HolderReport) -> tuple[str, str]:
    facts = ", ".join(filter(None, (f" (pid {holder.pid})", holder.user)))
    step = f"step {holder.step}" if holder.step else ""
    launcher = f"by {holder.launcher}" if holder.launcher else ""
    origin = holder.test or step or launcher
    return f"<code>{_cell(_command(holder))}</code>{_cell(facts)}", _cell(origin)


def _took(holder: HolderReport) -> str:
    return "" if holder.seconds is None else _duration(holder.seconds)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Text that no reader of Markdown or HTML takes for anything else."""
    shown = "".join(f"&#{ord(c)};" if c in _MARKUP else c for c in _shown(text))
    return shown.replace("www.", "www&#46;")


def command_data(text: str) -> str:
    """The message of a workflow command, escaped as the runner reads it (ActionCommand.cs)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _outcome(outcome: Outcome) -> dict[str, object]:
    return {
        "port": outcome.port.number,
        "protocol": outcome.port.protocol,
        "status": outcome.status,
        "ok": outcome.ok,
        "seconds": round(outcome.seconds, 6),
        "holders": [_holder(holder) for holder in outcome.holders],
        "notes": [
            {
                "kind": note.kind,
                "text": _text(note.text),
                "instead": _text(note.instead),
                "advice": _advice_object(note.advice),
            }
            for note in outcome.notes
        ],
    }


def _holder(holder: HolderReport) -> dict[str, object]:
    verdict = holder.verdict
    return {
        "pid": holder.pid,
        "name": _text(holder.name),
        "command": _text(holder.command),
        "user": _text(holder.user),
        "uid": holder.uid,
        "started": None if holder.started is None else _timestamp(holder.started),
        "started_epoch": None if holder.started is None else round(holder.started, 3),
        "cwd": _text(holder.cwd),
        "launcher": _text(holder.launcher),
        "test": _text(holder.test),
        "step": _text(holder.step),
        "origin": None
        if holder.origin is None
        else {name: _text(value) for name, value in holder.origin._asdict().items()},
        "addresses": [_text(address) for address in holder.addresses],
        "root": holder.root,
        "verdict": {
            "action": verdict.action,
            "rule": verdict.rule,
            "reason": _text(verdict.reason),
            "instead": _text(verdict.instead),
            "advice": _advice_object(verdict.advice),
        },
        "ended": _text(holder.ended),
        "seconds": None if holder.seconds is None else round(holder.seconds, 6),
    }


def _advice_object(advice: Advice | None) -> dict[str, object] | None:
    if advice is None:
        return None
    return {"wait": not advice.do, "scope": advice.scope, "privileged": advice.privileged}


def _text(text: str | None) -> str | None:
    from portfree._core.redact import safe

    return safe(text) if text else None


def _timestamp(epoch: float) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
