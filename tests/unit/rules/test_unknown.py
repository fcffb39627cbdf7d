"""Rule unknown: what could not be read or pinned."""

from __future__ import annotations

import pytest

from helpers.builders import case, context, holder, orphan, scene
from helpers.plain_processes import BOB, process
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree.model import SCOPES, Scope

UNKNOWN = [
    case("not pinned", holder(pinned=False), "it could not be pinned"),
    case("no owner", orphan(owner=None), "whose it is could not be read"),
    case("no environment", orphan(complete=False), "its environment could not be read"),
]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("found", "says"), UNKNOWN)
def test_unknown(found: Holder, says: str, scope: Scope) -> None:
    verdict = judge(found, context(scope=scope, privileged=True))

    assert (verdict.action, verdict.rule) == ("keep", "unknown")
    assert says in verdict.reason
    assert "ps -fp 2000" in verdict.instead


def test_unknown_names_the_command_of_its_platform() -> None:
    verdict = judge(holder(pinned=False), context(platform="win32"))

    assert 'tasklist /v /fi "pid eq 2000"' in verdict.instead


NOT_UNKNOWN = [
    scene("known", holder(), "orphan"),
    scene(
        "of somebody else, whose environment we cannot read: that he has it says more",
        orphan(owner=BOB, complete=False),
        "other-user",
    ),
    scene(
        "macOS, where environments are hidden",
        holder(process(2000, complete=False), process(1, "launchd")),
        "orphan",
        context(platform="darwin"),
    ),
]


@pytest.mark.parametrize(("found", "asked", "rule"), NOT_UNKNOWN)
def test_not_unknown(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule
