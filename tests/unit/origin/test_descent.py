"""Evidence descent: an ancestor is a test runner or a CI agent, and not one of ours."""

from __future__ import annotations

from functools import partial

import pytest

from helpers.builders import below, born, context, holder, miss, neighbour, orphan, run_id, scene
from helpers.plain_processes import (
    INIT,
    OUR_PYTEST,
    OUR_SHELL,
    THEIR_PYTEST,
    THEIR_SHELL,
    USER_MANAGER,
    fork,
    process,
)
from helpers.scenes import (
    ADOPTED_KARMA,
    AGENT,
    EXECNET,
    FIRST_TOX,
    FORKSERVER,
    GITLAB,
    IDLE_AGENT,
    IN_NOX,
    INNER,
    INNER_PYTEST,
    JOB,
    KARMA,
    OTHER_STEP,
    OUR_NOX,
    OURS,
    PORTFREE_RUN,
    STEP,
    XDIST,
    plain,
    told,
    used_by,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.origin import Origin, descent, origin_of

live = partial(used_by, evidence="descent")
IN_A_STEP = context("pytest", STEP, AGENT, INIT)


DESCENT = [
    scene("a runner", below(THEIR_PYTEST, THEIR_SHELL, INIT), live(THEIR_PYTEST)),
    scene(
        "a runner, by way of wrappers",
        below("npm run dev", THEIR_PYTEST, THEIR_SHELL, INIT),
        live(THEIR_PYTEST),
    ),
    scene(
        "a runner, and it is a fork of it (multiprocessing)",
        holder(fork(THEIR_PYTEST, 2000), THEIR_PYTEST, THEIR_SHELL, INIT),
        live(THEIR_PYTEST),
    ),
    scene(
        "a runner, by way of a fork of it (pytest-forked)",
        below(fork(THEIR_PYTEST, 710), THEIR_PYTEST, THEIR_SHELL, INIT),
        live(THEIR_PYTEST),
    ),
    scene(
        "a runner, by way of its forkserver",
        holder(fork(FORKSERVER, 2000), FORKSERVER, THEIR_PYTEST, THEIR_SHELL, INIT),
        live(THEIR_PYTEST),
    ),
    scene(
        "a runner, by way of a worker of pytest-xdist",
        below(process(710, EXECNET), XDIST, THEIR_SHELL, INIT),
        live(XDIST),
    ),
    scene("it is a runner itself", holder(THEIR_PYTEST, THEIR_SHELL, INIT), live(THEIR_PYTEST)),
    scene("a runner that was adopted", below(THEIR_PYTEST, INIT), live(THEIR_PYTEST, alone=True)),
    scene(
        "a runner that was adopted, below a wrapper",
        below(THEIR_PYTEST, "uv run pytest", USER_MANAGER, INIT),
        live(THEIR_PYTEST, alone=True),
    ),
    scene(
        "it is a runner itself, and was adopted",
        holder(THEIR_PYTEST, INIT),
        live(THEIR_PYTEST, alone=True),
    ),
    scene(
        "a runner that is the first process of a container",
        below(FIRST_TOX),
        live(FIRST_TOX),
        context(process(900, "pytest", ppid=0)),
    ),
    scene(
        "a runner below one of ours",
        below(INNER_PYTEST, OUR_NOX, THEIR_SHELL, INIT),
        live(INNER_PYTEST),
        IN_NOX,
    ),
    scene(
        "a runner that had our pid before us",
        below(OUR_PYTEST._replace(start=1), OUR_SHELL, INIT),
        live(OUR_PYTEST._replace(start=1)),
    ),
    scene(
        "a runner that has a pid of ours, and is none of us",
        below(OUR_PYTEST._replace(pid=901, start=900), OUR_SHELL, INIT),
        live(OUR_PYTEST._replace(pid=901, start=900)),
    ),
    scene("a CI agent", below(AGENT, IDLE_AGENT, OUR_SHELL, INIT), live(AGENT)),
    scene(
        "a portfree run beside us, which has adopted what an inner run has left",
        holder(born(run_id(INNER)), PORTFREE_RUN, THEIR_SHELL, INIT),
        live(PORTFREE_RUN),
    ),
    scene(
        "a runner that is a server too, at a terminal", holder(KARMA, OUR_SHELL, INIT), live(KARMA)
    ),
    scene(
        "such a runner that was adopted, and has started it",
        below(ADOPTED_KARMA, INIT),
        live(ADOPTED_KARMA, alone=True),
    ),
    scene(
        "a runner that was adopted and is none that serves",
        orphan("vitest --ui"),
        used_by(process(2000, "vitest --ui"), "descent", alone=True),
    ),
    scene(
        "a runner in the run around the one that ends",
        holder(born(run_id(OURS)), INNER_PYTEST, OUR_SHELL, INIT),
        live(INNER_PYTEST),
        context(run=(OURS, INNER), ending=INNER),
    ),
    scene(
        "our own CI agent, by way of another step than ours",
        below(OTHER_STEP, AGENT, INIT),
        Origin("descent", "live", "another step of this CI job, which goes on"),
        IN_A_STEP,
    ),
    scene(
        "our own CI agent, by way of what an other step has started",
        below(process(630, "node x"), OTHER_STEP, AGENT, INIT),
        Origin("descent", "live", "another step of this CI job, which goes on"),
        IN_A_STEP,
    ),
]


@pytest.mark.parametrize(("found", "asked", "origin"), DESCENT)
def test_descent(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(descent(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


NO_DESCENT = [
    miss("nobody", holder()),
    miss("its name only", below("vim test_pytest.py", INIT)),
    miss("its name for an argument", below("make pytest", INIT)),
    miss("a portfree that runs nothing", below("portfree 8000", INIT)),
    miss("ours", below(OUR_PYTEST, OUR_SHELL, INIT)),
    miss("ours, further up", below("node x", OUR_NOX, THEIR_SHELL, INIT), IN_NOX),
    miss(
        "the portfree run around us, which has adopted what an inner run has left",
        holder(born(run_id(OURS, INNER)), PORTFREE_RUN, THEIR_SHELL, INIT),
        context(OUR_PYTEST, PORTFREE_RUN, THEIR_SHELL, INIT, run=(OURS,)),
        "id ended",
    ),
    miss(
        "a runner in the run that ends",
        holder(born(run_id(OURS)), INNER_PYTEST, OUR_SHELL, INIT),
        context(ending=OURS),
        "id live",
    ),
    miss("a fork of a runner", below(fork(THEIR_PYTEST, 710), INIT), None, "copy ended"),
    miss("it is one itself", holder(fork(THEIR_PYTEST, 710), INIT), None, "copy ended"),
    miss("a fork of a CI agent", below(fork(GITLAB, 710), INIT), None, "copy ended"),
    miss("a runner that is a server too, adopted", holder(KARMA, INIT)),
    miss("the same, below a wrapper", holder(KARMA, "sh -c karma", INIT)),
    miss(
        "a tool that only serves here", holder("playwright run-server --port 8000", OUR_SHELL, INIT)
    ),
    miss("our own CI agent, and our step", below(STEP, AGENT, INIT), IN_A_STEP),
    miss("our own CI agent, which holds the port itself", holder(AGENT, INIT), IN_A_STEP),
    miss(
        "our own CI agent, and another job of it",
        below(OTHER_STEP._replace(marks=JOB), GITLAB, INIT),
        context(
            *(process(900, "pytest"), STEP, GITLAB, INIT),
            neighbours=(neighbour(OTHER_STEP._replace(marks=JOB), GITLAB, INIT),),
        ),
        "mark live",
    ),
    miss(
        "our own test runner, and another branch below it",
        below(OTHER_STEP, OUR_NOX, INIT),
        context("pytest", STEP, OUR_NOX, INIT),
    ),
]


@pytest.mark.parametrize(("found", "asked", "instead"), NO_DESCENT)
def test_no_descent(found: Holder, asked: Context, instead: str) -> None:
    assert descent(found, asked) is None
    assert told(found, asked) == instead
