"""Reports for programs: JSON as ``portfree/schema.json`` describes it.

Its ``version`` changes when a field goes away or changes its meaning; fields may be added without
notice. What is not known, or does not apply, is ``null``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from portfree._core.redact import safe
from portfree._output.words import timestamp
from portfree.model import Advice, Ending, HolderReport, Leak, Outcome, Report


def as_json(report: Report) -> str:
    """The report for programs. Ends without a newline."""
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
            "leaks": request.leaks,
            "leaks_ignore": list(request.leaks_ignore),
        },
        "outcomes": [_outcome(outcome) for outcome in report.outcomes],
    }


def run_as_json(
    before: Report,
    after: Report | None,
    leaks: Iterable[Leak],
    *,
    exit_code: int,
    green: bool,
) -> str:
    """What ``portfree run --report`` writes. *green*: whether no setting forbids a green end."""
    content = {
        "version": 1,
        "ok": green and before.ok and (after is None or after.ok),
        "exit_code": exit_code,
        "before": as_object(before),
        "after": None if after is None else as_object(after),
        "leaks": [leak_as_object(leak) for leak in leaks],
    }
    return json.dumps(content, indent=2)


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
                "ending": _ending(note.ending),
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
        "started": None if holder.started is None else timestamp(holder.started),
        "started_epoch": None if holder.started is None else round(holder.started, 3),
        "cwd": _text(holder.cwd),
        "launcher": _text(holder.launcher),
        "test": _text(holder.test),
        "step": _text(holder.step),
        "origin": None
        if holder.origin is None
        else {name: _text(value) for name, value in holder.origin._asdict().items()},
        "addresses": [safe(address) for address in holder.addresses],
        "root": holder.root,
        "verdict": {
            "action": verdict.action,
            "rule": verdict.rule,
            "reason": _text(verdict.reason),
            "instead": _text(verdict.instead),
            "advice": _advice_object(verdict.advice),
        },
        "ending": _ending(holder.ending),
    }


def _ending(ending: Ending | None) -> dict[str, object] | None:
    if ending is None:
        return None
    return {
        "how": ending.how,
        "signals": list(ending.signals),
        "seconds": None if ending.seconds is None else round(ending.seconds, 6),
        "error": _text(ending.error),
    }


def _advice_object(advice: Advice | None) -> dict[str, object] | None:
    if advice is None:
        return None
    return {"wait": not advice.do, "scope": advice.scope, "privileged": advice.privileged}


def _text(text: str | None) -> str | None:
    return safe(text) if text else None
