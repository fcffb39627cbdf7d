"""What looks like evidence mark, and is none."""

from __future__ import annotations

import pytest

from helpers.builders import (
    below,
    beside,
    born,
    case,
    context,
    holder,
    miss,
    neighbour,
    orphan,
    run_id,
)
from helpers.plain_processes import (
    BOB,
    ELSEWHERE,
    INIT,
    OUR_PYTEST,
    OUR_SHELL,
    PROJECT,
    THEIR_PYTEST,
    THEIR_SHELL,
    fork,
    process,
)
from helpers.scenes import (
    ADOPTED_KARMA,
    AROUND,
    AT_WORK,
    EMULATOR,
    GITLAB,
    HERE,
    IDLE_AGENT,
    IN_A_TEST,
    IN_NOX,
    IN_THE_WINDOW,
    JOB,
    KARMA,
    LEFT,
    OUR_NOX,
    OURS,
    PORTFREE_RUN,
    RUNNER,
    SCRIPT,
    THEIRS,
    TMUX,
    VERSION,
    WINDOW,
    WORKING,
    plain,
    told,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context, Neighbour
from portfree._core.origin import mark, origin_of

NOT_STARTERS = [
    case("younger", beside(THEIR_PYTEST._replace(start=2001), INIT)),
    case("in another project", beside(THEIR_PYTEST, INIT, project=ELSEWHERE)),
    case("in no project", beside(THEIR_PYTEST, INIT, project=None)),
    case("of another user", beside(THEIR_PYTEST._replace(owner=BOB), INIT)),
    case("no test runner", beside(process(700, "make"), INIT)),
    case("a CI agent", beside(GITLAB, INIT)),
    case("a fork of one that has ended", beside(fork(THEIR_PYTEST, 710), INIT)),
    case("a server that is called like one, and was adopted", beside(ADOPTED_KARMA, INIT)),
    case(
        "a portfree run, which would have given it an id", beside(PORTFREE_RUN, THEIR_SHELL, INIT)
    ),
]


@pytest.mark.parametrize("asked", NOT_STARTERS)
def test_who_has_certainly_not_started_what_was_born_in_a_test(asked: Context) -> None:
    found = orphan(marks=IN_A_TEST)

    assert plain(mark(found, asked)) == LEFT
    assert plain(origin_of(found, asked)) == LEFT


def test_a_server_that_is_called_like_a_runner_has_not_started_itself() -> None:
    found = holder(KARMA._replace(marks=IN_A_TEST), INIT)
    asked = context(neighbours=(Neighbour(found.process, found.lineage, PROJECT),))

    assert plain(origin_of(found, asked)) == LEFT


NO_MARK = [
    miss("it bears none", holder()),
    miss("it bears none, and a runner works in the project", holder(), AT_WORK),
    miss(
        "its run is known, and has ended",
        holder(born(IN_A_TEST | run_id(THEIRS)), OUR_SHELL, INIT),
        AT_WORK,
    ),
    miss(
        "a runner works in the project, but it descends from ours",
        holder(born(IN_A_TEST), OUR_NOX, THEIR_SHELL, INIT),
        IN_NOX._replace(neighbours=WORKING),
    ),
    miss("tmux between", holder(born(IN_A_TEST), TMUX._replace(marks=IN_A_TEST), INIT)),
    miss("it is tmux", orphan("tmux new", marks=IN_A_TEST)),
    miss(
        "an editor between",
        holder(born(IN_A_TEST), process(9, "emacs --daemon", marks=IN_A_TEST), INIT),
    ),
    miss(
        "a terminal emulator between",
        holder(*(IN_THE_WINDOW, WINDOW, process(1980, "xterm", marks=IN_A_TEST)), INIT),
    ),
    miss(
        "a terminal emulator on no list, and somebody sits in it",
        holder(IN_THE_WINDOW, WINDOW, EMULATOR, INIT),
    ),
    miss("the same, and it is the shell that holds the port", holder(WINDOW, EMULATOR, INIT)),
    miss("script(1), and somebody sits in it", holder(IN_THE_WINDOW, WINDOW, SCRIPT, INIT)),
    miss(
        "a terminal that was there before the test",
        holder(born(IN_A_TEST), OUR_SHELL._replace(marks=IN_A_TEST), INIT),
    ),
    miss("it has a terminal for itself", orphan(marks=IN_A_TEST, terminal="pts/5")),
    miss(
        "it has a terminal, and does not tell its session",
        holder(
            *(born(IN_A_TEST, terminal="pts/5", session=None),),
            *(process(9, "gunicorn x", marks=IN_A_TEST), INIT),
        ),
    ),
    miss("a shell set it", holder(born(IN_A_TEST), "sh x.sh", OUR_SHELL, INIT)),
    miss(
        "a wrapper set it (env PYTEST_VERSION=9 server)",
        holder(born(VERSION), "env PYTEST_VERSION=9 server", OUR_SHELL, INIT),
    ),
    miss("somebody at a terminal set it", holder(born(IN_A_TEST), OUR_SHELL, INIT)),
    miss("a process manager set it", holder(born(IN_A_TEST), "supervisord -n", INIT)),
    miss(
        "the first process of a container may have set it",
        holder(born(IN_A_TEST, session=1), process(1, "app", session=1)),
        context(process(900, "pytest", ppid=0)),
    ),
    miss(
        "somebody who sits in a program may have set it",
        holder(born(IN_A_TEST), process(9, "ipython", terminal="pts/3"), INIT),
    ),
    miss(
        "a fork of ours set it",
        holder(born(IN_A_TEST), fork(OUR_PYTEST, 910), OUR_PYTEST, OUR_SHELL, INIT),
        context(),
        "copy live",
    ),
    miss(
        "an editor between, and who started that lives",
        holder(born(IN_A_TEST), process(9, "emacs", marks=IN_A_TEST), RUNNER, INIT),
    ),
    miss("tmux set it", holder(born(IN_A_TEST), TMUX, INIT)),
    miss("we set it", holder(born(IN_A_TEST), OUR_PYTEST, OUR_SHELL, INIT)),
    miss("who set it is out of sight", holder(born(IN_A_TEST, ppid=77))),
    miss("only its parent bears one", below(process(9, "app", marks=IN_A_TEST), INIT)),
    miss(
        "a CI job: ours",
        orphan(marks=JOB),
        context(jobs=JOB, neighbours=(neighbour(GITLAB, INIT),)),
    ),
    miss("a CI job: its agent waits for another one", orphan(marks=JOB), beside(IDLE_AGENT, INIT)),
    miss("a CI job: nobody is at work but runners", orphan(marks=JOB), AT_WORK),
    miss(
        "a CI job: only a fork of an agent is left",
        orphan(marks=JOB),
        beside(fork(GITLAB, 710), INIT),
    ),
    miss(
        "a CI job: who carries its id descends from no agent",
        orphan(marks=JOB),
        beside(process(950, "sh", marks=JOB), INIT),
    ),
    miss(
        "a CI job: who carries its id descends from a fork of one",
        orphan(marks=JOB),
        beside(process(950, "sh", marks=JOB), fork(GITLAB, 710), INIT),
    ),
    miss(
        "a CI job: who descends from an agent carries another id",
        orphan(marks=JOB),
        beside(process(950, "sh", marks={"CI_JOB_ID": "7"}), IDLE_AGENT, INIT),
    ),
    miss(
        "a call, and the pytest around ours may have started it",
        holder(process(750, marks=VERSION), OUR_SHELL, INIT),
        AROUND,
    ),
    miss(
        "the pytest around ours is younger",
        holder(process(650, marks=VERSION), OUR_SHELL, INIT),
        AROUND._replace(phase="after"),
    ),
    miss(
        "it is as old as ours, and not older",
        holder(process(900, marks=VERSION), OUR_SHELL, INIT),
        AROUND._replace(phase="after"),
    ),
    miss(
        "it was born in a test, which tells when",
        holder(process(750, marks=VERSION | IN_A_TEST), OUR_SHELL, INIT),
        AROUND._replace(phase="after"),
    ),
    miss(
        "around us is no pytest but a nox",
        holder(process(750, marks=VERSION), OUR_SHELL, INIT),
        IN_NOX._replace(phase="after"),
    ),
    miss(
        "it bears no mark of a pytest",
        holder(process(750), OUR_SHELL, INIT),
        AROUND._replace(phase="after"),
    ),
    miss(
        "it has an id, which tells more",
        holder(process(750, marks=VERSION | run_id(THEIRS)), OUR_SHELL, INIT),
        AROUND._replace(phase="after"),
    ),
    miss(
        "a call, in a run around the one that ends",
        below(OUR_PYTEST, OUR_SHELL, INIT),
        context(run=(HERE,)),
    ),
    miss(
        "a hook, and the run around ours is of another process",
        below(OUR_PYTEST, OUR_SHELL, INIT),
        context(phase="after", run=(OURS,)),
    ),
    miss(
        "a hook in such a run, and it bears nothing and was adopted",
        holder(),
        context(phase="after", run=(HERE,)),
    ),
    miss(
        "the same, and it is older than us",
        holder(process(850, environment="wiped"), INIT),
        context(phase="after", run=(HERE,)),
    ),
    miss(
        "the same, and it lives in another control group",
        orphan(environment="wiped", control_group="/x"),
        context(OUR_PYTEST._replace(control_group="/y"), INIT, phase="after", run=(HERE,)),
    ),
]


@pytest.mark.parametrize(("found", "asked", "instead"), NO_MARK)
def test_no_mark(found: Holder, asked: Context, instead: str) -> None:
    assert mark(found, asked) is None
    assert told(found, asked) == instead
