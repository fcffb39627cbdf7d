"""What the rules ask besides the origin: for which run, by which worker, in which test."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from helpers.builders import below, case, context, holder, orphan, run_id
from helpers.plain_processes import INIT, OUR_PYTEST, OUR_SHELL, fork, process
from helpers.scenes import (
    AGENT,
    AT_WORK,
    COPY,
    DAEMON,
    EXECNET,
    HIDDEN,
    IN_A_TEST,
    IN_GW0,
    JOB,
    LOCKED,
    NEXTEST,
    NOW,
    NOX,
    TEST,
    THEIRS,
    TODAY,
    TOX,
    VERSION,
    XDIST,
    there,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge, with_origin
from portfree._core.marks import asks_to_stay, birth, is_siblings, may_be_for_this_run
from portfree._system.interface import Lock

FOR_THIS_RUN = [
    case("our child", below(OUR_PYTEST, OUR_SHELL, INIT), context()),
    case("a fork of us", holder(fork(OUR_PYTEST, 2000), INIT), context()),
    case(
        "in our own temporary folder",
        there(LOCKED._replace(lock=Lock(900, NOW), process=OUR_PYTEST)),
        TODAY,
    ),
    case("born in a test after us", orphan(marks=IN_A_TEST), context()),
    case("born in a nox session after us", orphan(marks=NOX), context()),
    case("as old as we are", orphan(marks=IN_A_TEST, start=900), context()),
    case("it has wiped its environment after us", holder(DAEMON, INIT), context()),
]


@pytest.mark.parametrize(("found", "asked"), FOR_THIS_RUN)
def test_what_may_have_been_started_for_the_run_that_begins(found: Holder, asked: Context) -> None:
    found = with_origin(found, asked)

    assert may_be_for_this_run(found, asked)
    # A conftest.py has started it: the run may count on it.
    assert judge(found, asked._replace(phase="before"))[:2] == ("keep", "own-run")


NOT_FOR_THIS_RUN = [
    case("born in no test", holder(), context()),
    case("older than we are", orphan(marks=IN_A_TEST, start=899), context()),
    case("it has wiped its environment before us", holder(DAEMON._replace(start=1)), context()),
    case("its environment is hidden", holder(HIDDEN, INIT), context()),
    case("a CI job", orphan(marks=JOB), context()),
    case("a fork of another one", holder(COPY, INIT), AT_WORK),
    case(
        "in another control group",
        orphan(marks=IN_A_TEST, control_group="/x"),
        context(OUR_PYTEST._replace(control_group="/y"), INIT),
    ),
    case("below our parent", below(OUR_SHELL, INIT), context()),
]


@pytest.mark.parametrize(("found", "asked"), NOT_FOR_THIS_RUN)
def test_what_was_not_started_for_the_run_that_begins(found: Holder, asked: Context) -> None:
    assert not may_be_for_this_run(with_origin(found, asked), asked)


OF_GW1 = {"PYTEST_XDIST_WORKER": "gw1"}


SIBLINGS = [
    case("another worker", holder(process(711, EXECNET), XDIST, INIT)),
    case("what it has started", below(process(711, EXECNET), XDIST, INIT)),
    case("what it has started, adopted", orphan(marks=OF_GW1)),
    case("the same, as old as our controller", orphan(marks=OF_GW1, start=705)),
]


@pytest.mark.parametrize("found", SIBLINGS)
def test_what_belongs_to_another_worker_of_our_xdist(found: Holder) -> None:
    assert is_siblings(found, IN_GW0)


NO_SIBLINGS = [
    case("our own", below(IN_GW0.caller, XDIST, INIT), IN_GW0),
    case("our own, adopted", orphan(marks={"PYTEST_XDIST_WORKER": "gw0"}), IN_GW0),
    case("nobody's", holder(), IN_GW0),
    case("older than our controller", orphan(marks=OF_GW1, start=704), IN_GW0),
    case("of another run", orphan(marks=OF_GW1 | run_id(THEIRS)), IN_GW0),
    case("another worker, and we are none", orphan(marks=OF_GW1), context()),
    case(
        "another worker, and we only have the name of one",
        orphan(marks=OF_GW1),
        context(IN_GW0.caller, OUR_SHELL, INIT),
    ),
]


@pytest.mark.parametrize(("found", "asked"), NO_SIBLINGS)
def test_what_belongs_to_no_other_worker_of_our_xdist(found: Holder, asked: Context) -> None:
    assert not is_siblings(found, asked)


BIRTHS = [
    ({}, ""),
    (VERSION, ""),
    (IN_A_TEST | NOX, f"started in {TEST}"),
    (NEXTEST, "started in api::search"),
    (NOX | TOX, "started in nox session tests-3.13"),
    (TOX, "started in tox environment py313"),
]


@pytest.mark.parametrize(("marks", "says"), BIRTHS)
def test_where_it_was_born_in_words(marks: Mapping[str, str], says: str) -> None:
    assert birth(orphan(marks=marks)) == says


WISHES = [
    ({}, ""),
    ({"PORTFREE_KEEP": "1"}, "PORTFREE_KEEP=1"),
    ({"PORTFREE_KEEP": "yes"}, ""),
    ({"BUILD_ID": "dontKillMe"}, "BUILD_ID=dontKillMe"),
    ({"BUILD_ID": "12"}, ""),
    ({"JENKINS_NODE_COOKIE": "dontKillMe"}, "JENKINS_NODE_COOKIE=dontKillMe"),
    ({"RUNNER_TRACKING_ID": ""}, "an empty RUNNER_TRACKING_ID"),
    ({"RUNNER_TRACKING_ID": "github_1"}, ""),
]


@pytest.mark.parametrize(("marks", "says"), WISHES)
def test_who_asks_to_be_left_running(marks: Mapping[str, str], says: str) -> None:
    assert asks_to_stay(orphan(marks=marks), context()) == says
    # What was wiped, or is the same for all below, still stands above.
    above = process(9, "sh x", marks=marks)
    assert asks_to_stay(below(above, INIT), context()) == says


def test_an_empty_id_that_ours_is_too_asks_for_nothing() -> None:
    found = orphan(marks={"RUNNER_TRACKING_ID": ""})
    agent = AGENT._replace(marks={"RUNNER_TRACKING_ID": ""})

    assert asks_to_stay(found, context(OUR_PYTEST, agent, INIT)) == ""
