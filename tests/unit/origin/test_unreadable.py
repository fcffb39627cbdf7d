"""Evidence unreadable: its environment cannot be read, or was wiped."""

from __future__ import annotations

from functools import partial

import pytest

from helpers.builders import below, beside, case, context, holder, miss, orphan, scene
from helpers.plain_processes import (
    BOB,
    ELSEWHERE,
    INIT,
    OUR_SHELL,
    THEIR_PYTEST,
    THEIR_SHELL,
    fork,
    process,
)
from helpers.scenes import (
    AT_WORK,
    COPY,
    DAEMON,
    GITLAB,
    HIDDEN,
    IN_A_TEST,
    IN_GW0,
    IN_NOX,
    JOB,
    NODEMON,
    NOX,
    OUR_NOX,
    PORTFREE_RUN,
    SCRIPTED,
    STEP,
    TMUX,
    UNLOCKED,
    WORKING,
    XDIST,
    plain,
    redis,
    there,
    told,
    used_by,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.origin import Origin, needs_neighbours, origin_of, unreadable

live = partial(used_by, evidence="unreadable")
OF_ANYBODY = live(THEIR_PYTEST)


UNREADABLE = [
    scene("wiped", holder(DAEMON, INIT), OF_ANYBODY, AT_WORK),
    scene("hidden", holder(HIDDEN, INIT), OF_ANYBODY, AT_WORK),
    scene("incomplete", orphan(complete=False), OF_ANYBODY, AT_WORK),
    scene(
        "in no project", holder(DAEMON._replace(cwd="/"), INIT, project=None), OF_ANYBODY, AT_WORK
    ),
    scene(
        "a portfree run may have started it",
        holder(DAEMON, INIT),
        live(PORTFREE_RUN),
        beside(PORTFREE_RUN, THEIR_SHELL, INIT),
    ),
    scene(
        "another worker of our controller of pytest-xdist may have started it",
        holder(DAEMON, INIT),
        live(XDIST),
        IN_GW0,
    ),
    scene(
        "the same, and it is as old as that",
        holder(DAEMON._replace(start=705), INIT),
        live(XDIST),
        IN_GW0,
    ),
    scene(
        "somebody started it who has no terminal",
        holder(DAEMON, NODEMON, INIT),
        OF_ANYBODY,
        AT_WORK,
    ),
    scene(
        "somebody sits above the one who has adopted it",
        holder(DAEMON, "tini -- make", OUR_SHELL, INIT),
        OF_ANYBODY,
        AT_WORK,
    ),
]


@pytest.mark.parametrize(("found", "asked", "origin"), UNREADABLE)
def test_unreadable(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(unreadable(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


NOT_UNREADABLE = [
    miss("it reads well", orphan(environment="read"), AT_WORK),
    miss("nobody is at work", holder(DAEMON, INIT)),
    miss(
        "a runner works in another project",
        holder(DAEMON, INIT),
        beside(THEIR_PYTEST, INIT, project=ELSEWHERE),
    ),
    miss("a younger runner works", holder(DAEMON._replace(start=699), INIT), AT_WORK),
    miss(
        "a runner of another user works",
        holder(DAEMON, INIT),
        beside(THEIR_PYTEST._replace(owner=BOB), INIT),
    ),
    miss("a fork of a runner is left", holder(DAEMON, INIT), beside(fork(THEIR_PYTEST, 710), INIT)),
    miss("somebody at a terminal started it", holder(DAEMON, OUR_SHELL, INIT), AT_WORK),
    miss(
        "somebody at a terminal started it, by way of a script",
        holder(DAEMON, process(9, "sh x.sh", session=800), OUR_SHELL, INIT),
        AT_WORK,
    ),
    miss("it has a terminal for itself", holder(DAEMON._replace(terminal="pts/5"), INIT), AT_WORK),
    miss("tmux started it", holder(DAEMON, TMUX, INIT), AT_WORK),
    miss(
        "it is older than our controller of pytest-xdist",
        holder(DAEMON._replace(start=704), INIT),
        IN_GW0,
    ),
    miss("it is our own", holder(DAEMON, IN_GW0.caller, XDIST, INIT), IN_GW0),
    miss(
        "a name of a worker that is left in the environment of a shell",
        holder(DAEMON, INIT),
        context(IN_GW0.caller, OUR_SHELL, INIT),
    ),
    miss(
        "it is the child of our own runner, and another one works",
        holder(DAEMON, OUR_NOX, INIT),
        IN_NOX._replace(neighbours=WORKING),
    ),
]


@pytest.mark.parametrize(("found", "asked", "instead"), NOT_UNREADABLE)
def test_not_unreadable(found: Holder, asked: Context, instead: str) -> None:
    assert unreadable(found, asked) is None
    assert told(found, asked) == instead


NEIGHBOURS_TELL = [
    case("it bears a mark", orphan(marks=IN_A_TEST)),
    case("a mark of CI", orphan(marks=JOB)),
    case("an ancestor bears one", below(NODEMON, STEP._replace(marks=NOX), INIT)),
    case("its environment was wiped", holder(DAEMON, INIT)),
    case("its environment is hidden", orphan(environment="unreadable")),
    case("it is incomplete", orphan(complete=False)),
    case("it is a fork of a runner", holder(COPY, NODEMON, INIT)),
    case("an ancestor is one", below(fork(GITLAB, 710), INIT)),
    case("it is in a folder of pytest", there(UNLOCKED, redis(environment="read"))),
    case("it is a fork of anything, and was adopted", holder(fork(SCRIPTED, 2000), INIT)),
]


@pytest.mark.parametrize("found", NEIGHBOURS_TELL)
def test_it_takes_the_neighbours_to_tell(found: Holder) -> None:
    assert needs_neighbours(found)


NO_NEIGHBOURS_TELL = [
    case("it reads well", holder()),
    case("it descends from a runner", below(THEIR_PYTEST, THEIR_SHELL, INIT)),
    case("it is a fork, and somebody looks after it", holder(fork(SCRIPTED, 2000), SCRIPTED)),
    case("its parent was adopted", holder(fork(SCRIPTED, 2000), SCRIPTED, INIT)),
    case("it has executed a program, and was adopted", holder(process(2000, forked=False))),
    case("it does not tell whether it did", orphan(forked=None)),
]


@pytest.mark.parametrize("found", NO_NEIGHBOURS_TELL)
def test_it_takes_no_neighbours_to_tell(found: Holder) -> None:
    assert not needs_neighbours(found)
