"""A report that comes back from root as JSON is the one that went out."""

from __future__ import annotations

import json

from helpers.reports import BUSY, FREE, FREED, report_of
from portfree import Advice, Ending, Note
from portfree._cli import sudo


def test_a_report_survives_the_way_through_json() -> None:
    ending = Ending("goes-on", ("SIGTERM",))
    note = Note("restarted", "started again", "stop that", Advice("stop it", "mine"), ending)
    report = report_of(FREED, BUSY, FREE._replace(notes=(note,)))

    assert sudo.report_of(json.loads(json.dumps(report))) == report
