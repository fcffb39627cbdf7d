"""Rule self: the caller, one of its ancestors, or its own xdist controller or sibling."""

from __future__ import annotations

import pytest

from helpers.builders import below, context, holder, orphan, run_id, scene
from helpers.plain_processes import INIT, OUR_PYTEST, OUR_SHELL, THEIR_PYTEST, THEIR_SHELL, process
from helpers.scenes import IN_A_TEST, THEIRS, XDIST
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree.model import SCOPES, Scope

WORKER = process(710, "python -c 'import execnet'", marks={"PYTEST_XDIST_WORKER": "gw0"})
SIBLING = process(711, "python -c 'import execnet'")
COVERED = process(705, "coverage run -m pytest -n2")
IN_A_WORKER = context(WORKER, XDIST, INIT)
OF_A_SIBLING = {"PYTEST_XDIST_WORKER": "gw1"} | IN_A_TEST


SELF = [
    scene(
        "the caller",
        holder(OUR_PYTEST, OUR_SHELL, INIT),
        "held by this test run itself (pytest, pid 900)",
    ),
    scene(
        "its test runner",
        holder(process(71, "pytest"), INIT),
        "held by this test run itself (pytest, pid 71)",
        context("portfree 8000", process(71, "pytest"), INIT),
    ),
    scene(
        "a caller that is no test",
        holder(process(900, "python shop.py"), INIT),
        "held by this very process (shop, pid 900)",
        context("python shop.py", INIT),
    ),
    scene(
        "an ancestor that is no test",
        holder(process(71, "ttyd zsh"), INIT),
        "held by an ancestor of this very process (ttyd, pid 71)",
        context("portfree 8000", OUR_SHELL, process(71, "ttyd zsh"), INIT),
    ),
    scene(
        "an ancestor, though its start is told otherwise",
        holder(OUR_PYTEST._replace(start=901), OUR_SHELL, INIT),
        "held by this test run itself (pytest, pid 900)",
    ),
    scene(
        "the xdist controller",
        holder(XDIST, INIT),
        "held by this test run itself (pytest, pid 705)",
        IN_A_WORKER,
    ),
    scene(
        "an xdist sibling",
        holder(SIBLING, XDIST, INIT),
        "held by this test run itself (python, pid 711, by way of pytest-xdist)",
        IN_A_WORKER,
    ),
    scene(
        "an xdist sibling's server",
        below(SIBLING, XDIST, INIT),
        "held by this test run itself (server, pid 2000, by way of pytest-xdist)",
        IN_A_WORKER,
    ),
    scene(
        "an xdist sibling's server that became a daemon",
        orphan(marks=OF_A_SIBLING),
        "by way of pytest-xdist",
        IN_A_WORKER,
    ),
    scene(
        "an xdist sibling, where coverage runs pytest",
        holder(SIBLING, COVERED, INIT),
        "by way of pytest-xdist",
        context(WORKER, COVERED, INIT),
    ),
]


@pytest.mark.parametrize(("found", "asked", "says"), SELF)
@pytest.mark.parametrize("scope", SCOPES)
def test_self(found: Holder, asked: Context, says: str, scope: Scope) -> None:
    verdict = judge(found, asked._replace(scope=scope))

    assert (verdict.action, verdict.rule) == ("keep", "self")
    assert says in verdict.reason


def test_an_ancestor_that_belongs_to_the_system_has_better_advice() -> None:
    verdict = judge(holder(INIT), context())

    assert verdict.reason == "held by an ancestor of this very process (init, pid 1)"
    assert "systemctl list-sockets" in verdict.instead


NOT_SELF = [
    scene("another child of our ancestor", below(OUR_SHELL, INIT), "attended"),
    scene("our own server, in a worker", below(WORKER, XDIST, INIT), "own-run", IN_A_WORKER),
    scene(
        "another pytest's worker",
        below(SIBLING, THEIR_PYTEST, THEIR_SHELL, INIT),
        "live-run",
        IN_A_WORKER,
    ),
    scene(
        "the daemon of a worker that is older than our controller",
        holder(process(600, marks=OF_A_SIBLING), INIT),
        "left-behind",
        IN_A_WORKER,
    ),
    scene(
        "the daemon of a worker of another run, which has ended",
        orphan(marks=OF_A_SIBLING | run_id(THEIRS)),
        "left-behind",
        IN_A_WORKER,
    ),
    scene(
        "a worker's name that is left in the environment of a shell",
        below(OUR_SHELL, INIT),
        "attended",
        context(process(900, "portfree 8000", marks=WORKER.marks), OUR_SHELL, INIT),
    ),
]


@pytest.mark.parametrize(("found", "asked", "rule"), NOT_SELF)
def test_not_self(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule
