"""Reports for programs."""

from __future__ import annotations

from helpers.reports import BUSY, FREE, FREED, HOUR, KEPT, NOW, report_of
from helpers.schema import check
from portfree import HolderReport, Note, Outcome, Port
from portfree._output.json import as_json


def _with(holder: HolderReport) -> Outcome:
    return Outcome(Port(8000), "busy", ok=False, holders=(holder,))


# --- JSON ----------------------------------------------------------------------------------------


def test_the_json_has_the_same_facts_in_a_stable_shape() -> None:
    note = Note("closing", "3 connections closing")
    report = report_of(FREED, BUSY, FREE._replace(notes=(note,)))

    assert check(as_json(report)) == {
        "version": 1,
        "ok": False,
        "seconds": 0.125,
        "request": {
            "ports": ["8000/tcp", "8001/tcp", "8002/tcp"],
            "scope": "mine",
            "grace": 3.0,
            "wait": 0.0,
            "on_busy": "warn",
            "dry_run": False,
            "leaks": "warn",
            "leaks_ignore": [],
        },
        "outcomes": [
            {
                "port": 8000,
                "protocol": "tcp",
                "status": "freed",
                "ok": True,
                "seconds": 0.1234,
                "holders": [
                    {
                        "pid": 4242,
                        "name": "python3",
                        "command": "python3 -m http.server 8000",
                        "user": "alice",
                        "uid": 1000,
                        "started": "2027-01-15T05:00:00Z",
                        "started_epoch": NOW - 3 * HOUR,
                        "cwd": "/home/alice/shop",
                        "launcher": None,
                        "test": "tests/test_api.py::test_search (setup)",
                        "step": None,
                        "origin": {
                            "evidence": "mark",
                            "state": "ended",
                            "run": "pytest",
                            "test": "tests/test_api.py::test_search (setup)",
                        },
                        "addresses": ["0.0.0.0"],
                        "root": True,
                        "verdict": {
                            "action": "stop",
                            "rule": "left-behind",
                            "reason": "started in tests/test_api.py::test_search (setup)",
                            "instead": None,
                            "advice": None,
                        },
                        "ending": {
                            "how": "ended",
                            "signals": ["SIGTERM"],
                            "seconds": 0.0123,
                            "error": None,
                        },
                    }
                ],
                "notes": [],
            },
            {
                "port": 8001,
                "protocol": "tcp",
                "status": "busy",
                "ok": False,
                "seconds": 0.002,
                "holders": [
                    {
                        "pid": 77,
                        "name": "node",
                        "command": "node server.js",
                        "user": "alice",
                        "uid": 1000,
                        "started": "2027-01-15T07:57:30Z",
                        "started_epoch": NOW - 150,
                        "cwd": "/home/alice/shop/web",
                        "launcher": "zsh (pid 9) on pts/3",
                        "test": None,
                        "step": None,
                        "origin": None,
                        "addresses": ["127.0.0.1", "::1"],
                        "root": True,
                        "verdict": {
                            "action": "keep",
                            "rule": "attended",
                            "reason": "started by zsh (pid 9) on pts/3",
                            "instead": "stop it there, or: portfree 8001",
                            "advice": {"wait": False, "scope": "mine", "privileged": False},
                        },
                        "ending": None,
                    }
                ],
                "notes": [],
            },
            {
                "port": 8002,
                "protocol": "tcp",
                "status": "free",
                "ok": True,
                "seconds": 0.0,
                "holders": [],
                "notes": [
                    {
                        "kind": "closing",
                        "text": "3 connections closing",
                        "instead": None,
                        "advice": None,
                        "ending": None,
                    }
                ],
            },
        ],
    }


def test_what_is_not_known_is_null() -> None:
    outcome = _with(KEPT._replace(started=None, cwd=None, uid=None, user=""))

    (holder,) = check(as_json(report_of(outcome)))["outcomes"][0]["holders"]

    unknown = {key for key, value in holder.items() if value is None}
    assert unknown == {
        *("started", "started_epoch", "cwd", "uid", "user", "test", "step", "origin"),
        "ending",
    }
