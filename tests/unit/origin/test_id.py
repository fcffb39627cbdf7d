"""Evidence id: PORTFREE_RUN_ID, its own or its nearest ancestor's."""

from __future__ import annotations

from functools import partial

import pytest

from helpers.builders import (
    alive,
    below,
    beside,
    born,
    context,
    holder,
    miss,
    neighbour,
    orphan,
    run_id,
    scene,
)
from helpers.plain_processes import (
    ELSEWHERE,
    INIT,
    OUR_PYTEST,
    OUR_SHELL,
    ROOT,
    THEIR_PYTEST,
    THEIR_SHELL,
    fork,
    process,
)
from helpers.scenes import (
    ENDED,
    GITLAB,
    IN_A_PORTFREE_RUN,
    IN_A_TEST,
    INNER,
    NODEMON,
    OURS,
    PORTFREE_RUN,
    TEST,
    THEIRS,
    TMUX,
    plain,
    told,
    used_by,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.origin import Origin, id_, origin_of

live = partial(used_by, evidence="id")
LEFT_BY_THEM = Origin("id", "ended", "portfree's run of pid 77", id=THEIRS, why=ENDED)
LEFT_AGENT = GITLAB._replace(marks=run_id(THEIRS))


ID = [
    scene(
        "the run that ends",
        holder(born(run_id(OURS)), INIT, live_runs=alive(OURS)),
        Origin("id", "live", "this run", id=OURS, ours=True),
        context(run=(OURS,), ending=OURS),
    ),
    scene(
        "a run that has ended, in the run that ends",
        holder(born(run_id(OURS, INNER)), INIT, live_runs=alive(OURS)),
        Origin("id", "live", "this run", id=OURS, ours=True),
        context(run=(OURS,), ending=OURS),
    ),
    scene(
        "a run that goes on, in the run that ends",
        holder(born(run_id(OURS, INNER)), INIT, live_runs=alive(OURS, INNER)),
        Origin("id", "live", "another run (pid 78)", id=INNER),
        context(ending=OURS),
    ),
    scene(
        "another run that goes on",
        holder(born(run_id(THEIRS)), INIT, live_runs=alive(THEIRS)),
        Origin("id", "live", "another run (pid 77)", id=THEIRS),
    ),
    scene(
        "another run that goes on, inside of ours",
        holder(born(run_id(OURS, THEIRS)), INIT, live_runs=alive(OURS, THEIRS)),
        Origin("id", "live", "another run (pid 77)", id=THEIRS),
        context(run=(OURS,)),
    ),
    scene(
        "two that go on: the outer one is named",
        holder(born(run_id(THEIRS, INNER)), INIT, live_runs=alive(THEIRS, INNER)),
        Origin("id", "live", "another run (pid 77)", id=THEIRS),
    ),
    scene(
        "the outer one was killed, the inner one goes on",
        holder(born(run_id(THEIRS, INNER)), INIT, live_runs=alive(INNER)),
        Origin("id", "live", "another run (pid 78)", id=INNER),
    ),
    scene(
        "it goes on, and its id was wiped below it",
        holder(
            process(2000, environment="wiped"),
            process(9, "sh x", marks=run_id(THEIRS)),
            INIT,
            live_runs=alive(THEIRS),
        ),
        Origin("id", "live", "another run (pid 77)", id=THEIRS),
    ),
    scene(
        "it goes on in another thread of ours (tox -p)",
        holder(born(run_id(INNER)), OUR_PYTEST, OUR_SHELL, INIT, live_runs=alive(INNER)),
        live(OUR_PYTEST, element=INNER),
    ),
    scene(
        "the same, where nobody looks after us",
        holder(
            *(born(run_id(INNER)), process(9, "node x"), OUR_PYTEST, INIT), live_runs=alive(INNER)
        ),
        live(OUR_PYTEST, element=INNER, alone=True),
        context(OUR_PYTEST, INIT),
    ),
    scene("it has ended", orphan(marks=run_id(THEIRS)), LEFT_BY_THEM),
    scene(
        "it has ended, in a container",
        holder(born(run_id(THEIRS), session=1), process(1, "app", session=1)),
        LEFT_BY_THEM,
    ),
    scene(
        "it has ended, inside of ours",
        holder(born(run_id(OURS, THEIRS)), INIT, live_runs=alive(OURS)),
        LEFT_BY_THEM,
        context(run=(OURS,)),
    ),
    scene(
        "two have ended: the inner one is named", orphan(marks=run_id(INNER, THEIRS)), LEFT_BY_THEM
    ),
    scene(
        "it has ended, and its id was wiped below it",
        holder(process(2000, environment="wiped"), process(9, "app", marks=run_id(THEIRS)), INIT),
        LEFT_BY_THEM,
    ),
    scene(
        "it has ended, and was a test",
        orphan(marks=run_id(THEIRS) | IN_A_TEST),
        LEFT_BY_THEM._replace(why=f"started in {TEST}"),
    ),
    scene(
        "it has ended, and the portfree run around us has adopted what it left",
        holder(born(run_id(OURS, THEIRS), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
        LEFT_BY_THEM,
        IN_A_PORTFREE_RUN,
    ),
    scene(
        "the same, and it was no run inside of ours",
        holder(born(run_id(THEIRS), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
        LEFT_BY_THEM,
        IN_A_PORTFREE_RUN,
    ),
    scene(
        "it has ended, and a CI agent that was started in it works on, in another project",
        orphan(marks=run_id(THEIRS)),
        live(LEFT_AGENT, alone=True),
        context(neighbours=(neighbour(LEFT_AGENT, INIT, project=ELSEWHERE),)),
    ),
    *(
        scene(
            f"it has ended, and a runner does not tell its marks, {what}",
            orphan(marks=run_id(THEIRS)),
            live(hidden, alone=True),
            beside(hidden, INIT),
        )
        for what, hidden in {
            "of its user": THEIR_PYTEST._replace(environment="wiped"),
            "of a user that is not told": THEIR_PYTEST._replace(environment="wiped", owner=None),
        }.items()
    ),
    scene(
        "it has ended, and a runner of root does not tell its marks",
        orphan(marks=run_id(THEIRS)),
        LEFT_BY_THEM,
        beside(THEIR_PYTEST._replace(environment="unreadable", owner=ROOT), INIT),
    ),
    *(
        scene(
            f"{what}: it has ended",
            orphan(marks=run_id(THEIRS)),
            LEFT_BY_THEM,
            beside(agent, INIT),
        )
        for what, agent in {
            "a CI agent of another run": LEFT_AGENT._replace(marks=run_id(INNER)),
            "a CI agent of no run": GITLAB,
            "a younger CI agent": LEFT_AGENT._replace(start=9_999),
            "a fork of a CI agent": fork(LEFT_AGENT, 710),
        }.items()
    ),
    *(
        scene(
            f"{phase}: the run around ours",
            holder(born(run_id(OURS)), INIT, live_runs=alive(OURS)),
            Origin("id", "live", "the run around this one", id=OURS),
            context(run=(OURS,), phase=phase),
        )
        for phase in ("before", "after")
    ),
]


@pytest.mark.parametrize(("found", "asked", "origin"), ID)
def test_id(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(id_(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


NO_ID = [
    miss("it has none", holder()),
    miss("ours", holder(born(run_id(OURS)), INIT, live_runs=alive(OURS)), context(run=(OURS,))),
    miss(
        "ours, which ends, and another one that has it for a part",
        holder(born(run_id(f"{OURS}9")), OUR_SHELL, INIT),
        context(ending=OURS),
    ),
    miss(
        "the run around ours, and nothing begins or ends",
        holder(born(run_id(OURS)), INIT, live_runs=alive(OURS)),
        context(run=(OURS, INNER)),
    ),
    miss(
        "the run around ours has ended",
        orphan(marks=run_id(OURS)),
        context(run=(OURS,), phase="after"),
    ),
    miss(
        "further out than the run around ours",
        holder(born(run_id(THEIRS, OURS)), INIT, live_runs=alive(THEIRS)),
        context(run=(THEIRS, OURS), phase="after"),
    ),
    miss(
        "the run around ours, and one around that has ended",
        holder(born(run_id(THEIRS, OURS)), NODEMON, INIT, live_runs=alive(OURS)),
        context(run=(OURS,), phase="after"),
    ),
    miss(
        "it has ended, and a program that looks after it lives",
        holder(born(run_id(THEIRS)), NODEMON, INIT),
    ),
    miss(
        "it has ended, and tmux is in between",
        holder(born(run_id(THEIRS)), TMUX._replace(marks=run_id(THEIRS)), INIT),
    ),
    miss(
        "it has ended, and somebody sits in between",
        holder(born(run_id(THEIRS)), OUR_SHELL._replace(marks=run_id(THEIRS)), INIT),
    ),
    miss(
        "only the parent has an id that has ended",
        below(process(9, "app", marks=run_id(THEIRS)), INIT),
    ),
    miss(
        "it has ended, and another adopter was given its id",
        holder(born(run_id(THEIRS), session=1), process(9, "app", session=1), process(1, "app")),
    ),
    miss(
        "the portfree run around us has started it",
        holder(born(run_id(OURS), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
        IN_A_PORTFREE_RUN,
    ),
]


@pytest.mark.parametrize(("found", "asked", "instead"), NO_ID)
def test_no_id(found: Holder, asked: Context, instead: str) -> None:
    assert id_(found, asked) is None
    assert told(found, asked) == instead
