"""The rules in their order: each decides something, and the first that matches decides."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from helpers.builders import below, context, holder, orphan, run_id
from helpers.plain_processes import (
    BOB,
    ELSEWHERE,
    INIT,
    OUR_PYTEST,
    OUR_SHELL,
    THEIR_PYTEST,
    THEIR_SHELL,
    process,
)
from helpers.scenes import IN_A_TEST, OURS, TWELVE
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge, with_origin
from portfree._core.rules import RULES


class Situation(NamedTuple):
    holder: Holder
    context: Context
    action: str


EXAMPLES = {
    "self": Situation(holder(OUR_PYTEST, OUR_SHELL, INIT), context(), "keep"),
    "own-run": Situation(below(OUR_PYTEST, OUR_SHELL, INIT), context(), "stop"),
    "container": Situation(orphan("docker-proxy"), context(), "keep"),
    "protected": Situation(orphan("sshd -D"), context(), "keep"),
    "unknown": Situation(holder(pinned=False), context(), "keep"),
    "other-user": Situation(orphan(owner=BOB), context(), "keep"),
    "live-run": Situation(below(THEIR_PYTEST, THEIR_SHELL, INIT), context(), "keep"),
    "left-behind": Situation(orphan(marks=IN_A_TEST, cwd=ELSEWHERE), context(), "stop"),
    "service": Situation(orphan(unit="shop.service"), context(), "keep"),
    "orphan": Situation(holder(), context(), "stop"),
    "mine": Situation(below(OUR_SHELL, INIT), context(scope="mine"), "stop"),
    "attended": Situation(below(OUR_SHELL, INIT), context(), "keep"),
}


@pytest.mark.parametrize("rule", TWELVE)
def test_every_rule_decides_something(rule: str) -> None:
    situation = EXAMPLES[rule]

    verdict = judge(situation.holder, situation.context)

    assert (verdict.rule, verdict.action) == (rule, situation.action)
    assert verdict.reason


def test_there_are_twelve_rules_in_this_order() -> None:
    assert [rule.__name__.strip("_").replace("_", "-") for rule in RULES] == [*TWELVE]
    assert set(EXAMPLES) == set(TWELVE)


# For each pair of neighbours a scene in which both match.
PAIRS = {
    ("self", "own-run"): (
        holder(OUR_PYTEST._replace(marks=run_id(OURS)), OUR_SHELL, INIT),
        context(ending=OURS),
    ),
    ("own-run", "container"): (
        holder(process(2000, container="f00d"), OUR_PYTEST, OUR_SHELL, INIT),
        context(),
    ),
    ("container", "protected"): (orphan("sshd -D", container="f00d"), context()),
    ("protected", "unknown"): (holder("sshd -D", INIT, pinned=False), context()),
    ("unknown", "other-user"): (holder(process(2000, owner=BOB), INIT, pinned=False), context()),
    ("other-user", "live-run"): (
        holder(process(2000, owner=BOB), THEIR_PYTEST, THEIR_SHELL, INIT),
        context(),
    ),
    # A run is live or has ended, never both: before left-behind stands what no live run uses.
    ("left-behind", "service"): (orphan(marks=IN_A_TEST, unit="shop.service"), context()),
    ("service", "orphan"): (orphan(unit="shop.service"), context()),
    ("orphan", "mine"): (holder(), context(scope="mine")),
    ("mine", "attended"): (below(OUR_SHELL, INIT), context(scope="mine")),
}


@pytest.mark.parametrize(
    ("first", "second"), [pytest.param(*pair, id=" before ".join(pair)) for pair in PAIRS]
)
def test_the_first_rule_that_matches_decides(first: str, second: str) -> None:
    found, asked = PAIRS[first, second]
    found = with_origin(found, asked)
    matching = [verdict.rule for rule in RULES if (verdict := rule(found, asked))]

    assert matching[:2] == [first, second]
    assert judge(found, asked).rule == first
