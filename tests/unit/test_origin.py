"""The evidence: where a holder was born, what proves it, and whether that run goes on.

Each of the seven kinds has a table of what it tells, and a table of near misses with what tells
instead. Then come their order, what they mean for those who have a port and for those who want it,
and what holds for every input.

The scene is that of `build`: an orphaned ``python server.py`` (pid 2000) on port 8000, in our
project ``~/shop``; we are a pytest (pid 900) in a terminal that calls portfree.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, get_args

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers.builders import (
    BOB,
    ELSEWHERE,
    HOME,
    INIT,
    ME,
    OUR_PYTEST,
    OUR_SHELL,
    PROJECT,
    ROOT,
    THEIR_PYTEST,
    THEIR_SHELL,
    USER_MANAGER,
    context,
    fork,
    holder,
    neighbour,
    process,
    socket,
    titled,
)
from portfree.model import Advice
from portfree._core.ancestry import Holder, SessionFolder, is_copy
from portfree._core.context import Context, Neighbour, Phase
from portfree._core.judge import judge, with_origin
from portfree._core.marks import asks_to_stay, birth, is_siblings, may_be_for_this_run
from portfree._core.origin import (
    EVIDENCE,
    Evidence,
    Origin,
    State,
    arrival,
    copy,
    descent,
    folder,
    id_,
    mark,
    needs_neighbours,
    origin_of,
    unreadable,
)
from portfree.model import Port
from portfree._system.interface import CI_JOB_IDS, MARKS, Environment, Lock, Process
from portfree.model import SCOPES, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    from helpers.builders import Facts, Findings

# The ids of runs, elements of PORTFREE_RUN_ID. Which of their controllers live, a scene says.
OURS, THEIRS, INNER = "812.34567.9f3c", "77.1000.07ab", "78.1001.5e3c"
HERE = "900.900.9f3c"  # a run that the caller itself has open

TEST = "tests/test_api.py::test_search (setup)"
IN_A_TEST = {"PYTEST_CURRENT_TEST": TEST}
VERSION = {"PYTEST_VERSION": "9.0.1"}
NOX = {"NOX_CURRENT_SESSION": "tests-3.13"}
TOX = {"TOX_ENV_DIR": "/x/.tox/py313"}
NEXTEST = {"NEXTEST_TEST_NAME": "api::search"}
JOB = {"CI_JOB_ID": "991"}
ENDED = "the run that started it has ended"

IDLE_AGENT = process(500, "/runner/bin/Runner.Listener run")
AGENT = process(600, "/runner/bin/Runner.Worker spawnclient 1 2")
GITLAB = process(300, "gitlab-runner run")
STEP, OTHER_STEP = process(610, "bash -e step.sh"), process(620, "bash -e background.sh")
PORTFREE_RUN = process(700, "python -m portfree run 9000 -- make check", session=600)
NODEMON = process(9, "nodemon server.js")
TMUX = process(9, "tmux new")

WORKING = (neighbour(THEIR_PYTEST, THEIR_SHELL, INIT),)
AT_WORK = context(neighbours=WORKING)


def case(name: str, *situation: object) -> object:
    return pytest.param(*situation, id=name)


def miss(
    name: str, found: Holder, asked: Context | None = None, instead: str = "nothing"
) -> object:
    """A scene in which one kind of evidence tells nothing, and another one does."""
    return pytest.param(found, asked or context(), instead, id=name)


def run_id(*elements: str) -> dict[str, str]:
    return {"PORTFREE_RUN_ID": "/".join(elements)}


def born(given: Mapping[str, str], **facts: Unpack[Facts]) -> Process:
    """The server of a scene, with marks."""
    return process(2000)._replace(**facts)._replace(marks=given)


def alive(*elements: str) -> frozenset[str]:
    return frozenset(elements)


def used_by(
    runner: Process, run: str, evidence: Evidence, *, alone: bool = False, element: str = ""
) -> Origin:
    """The origin of what a live runner may have started."""
    return Origin(evidence, "live", run, id=element, runner=runner, alone=alone)


def plain(origin: Origin | None) -> Origin | None:
    """An origin, with its runner as the scenes write it: whose child that is, they say apart."""
    if origin is None or origin.runner is None:
        return origin
    return origin._replace(runner=origin.runner._replace(ppid=0))


def told(found: Holder, asked: Context) -> str:
    origin = origin_of(found, asked)
    return f"{origin.evidence} {origin.state}" if origin else "nothing"


# descent: an ancestor is a test runner or a CI agent, and none of ours


KARMA = process(2000, "node node_modules/.bin/karma start")
ADOPTED_KARMA = process(77, "karma start")
FIRST_TOX = process(1, "tox -p")
FORKSERVER = process(710, "python -c 'from multiprocessing.forkserver import main; main()'")
XDIST = process(705, "python -m pytest -n2")
EXECNET = "python -c 'import sys;exec(eval(sys.stdin.readline()))'"
OUR_NOX, INNER_PYTEST = process(700, "nox"), process(77, "pytest inner")
IN_NOX = context(OUR_PYTEST, OUR_NOX, THEIR_SHELL, INIT)
IN_A_STEP = context(process(900, "pytest"), STEP, AGENT, INIT)


def below(*above: Process) -> Holder:
    return holder(process(), *above)


@pytest.mark.parametrize(
    ("found", "asked", "origin"),
    [
        case(
            "a runner",
            below(THEIR_PYTEST, THEIR_SHELL, INIT),
            context(),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "descent"),
        ),
        case(
            "a runner, by way of wrappers",
            below(process(9, "npm run dev"), THEIR_PYTEST, THEIR_SHELL, INIT),
            context(),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "descent"),
        ),
        case(
            "a runner, and it is a fork of it (multiprocessing)",
            holder(fork(THEIR_PYTEST, 2000), THEIR_PYTEST, THEIR_SHELL, INIT),
            context(),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "descent"),
        ),
        case(
            "a runner, by way of a fork of it (pytest-forked)",
            below(fork(THEIR_PYTEST, 710), THEIR_PYTEST, THEIR_SHELL, INIT),
            context(),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "descent"),
        ),
        case(
            "a runner, by way of its forkserver",
            holder(fork(FORKSERVER, 2000), FORKSERVER, THEIR_PYTEST, THEIR_SHELL, INIT),
            context(),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "descent"),
        ),
        case(
            "a runner, by way of a worker of pytest-xdist",
            below(process(710, EXECNET), XDIST, THEIR_SHELL, INIT),
            context(),
            used_by(XDIST, "pytest (pid 705)", "descent"),
        ),
        case(
            "it is a runner itself",
            holder(THEIR_PYTEST, THEIR_SHELL, INIT),
            context(),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "descent"),
        ),
        case(
            "a runner that was adopted",
            below(THEIR_PYTEST, INIT),
            context(),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "descent", alone=True),
        ),
        case(
            "a runner that was adopted, below a wrapper",
            below(THEIR_PYTEST, process(9, "uv run pytest"), USER_MANAGER, INIT),
            context(),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "descent", alone=True),
        ),
        case(
            "it is a runner itself, and was adopted",
            holder(THEIR_PYTEST, INIT),
            context(),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "descent", alone=True),
        ),
        case(
            "a runner that is the first process of a container",
            below(FIRST_TOX),
            context(process(900, "pytest", ppid=0)),
            used_by(FIRST_TOX, "tox (pid 1)", "descent"),
        ),
        case(
            "a runner below one of ours",
            below(INNER_PYTEST, OUR_NOX, THEIR_SHELL, INIT),
            IN_NOX,
            used_by(INNER_PYTEST, "pytest (pid 77)", "descent"),
        ),
        case(
            "a runner that had our pid before us",
            below(OUR_PYTEST._replace(start=1), OUR_SHELL, INIT),
            context(),
            used_by(OUR_PYTEST._replace(start=1), "pytest (pid 900)", "descent"),
        ),
        case(
            "a runner that has a pid of ours, and is none of us",
            below(OUR_PYTEST._replace(pid=901, start=900), OUR_SHELL, INIT),
            context(),
            used_by(OUR_PYTEST._replace(pid=901, start=900), "pytest (pid 901)", "descent"),
        ),
        case(
            "a CI agent",
            below(AGENT, IDLE_AGENT, OUR_SHELL, INIT),
            context(),
            used_by(AGENT, "runner.worker (pid 600)", "descent"),
        ),
        case(
            "a portfree run beside us, which has adopted what an inner run has left",
            holder(born(run_id(INNER)), PORTFREE_RUN, THEIR_SHELL, INIT),
            context(),
            used_by(PORTFREE_RUN, "portfree (pid 700)", "descent"),
        ),
        case(
            "a runner that is a server too, at a terminal",
            holder(KARMA, OUR_SHELL, INIT),
            context(),
            used_by(KARMA, "karma (pid 2000)", "descent"),
        ),
        case(
            "such a runner that was adopted, and has started it",
            below(ADOPTED_KARMA, INIT),
            context(),
            used_by(ADOPTED_KARMA, "karma (pid 77)", "descent", alone=True),
        ),
        case(
            "a runner that was adopted and is none that serves",
            holder(process(2000, "vitest --ui"), INIT),
            context(),
            used_by(process(2000, "vitest --ui"), "vitest (pid 2000)", "descent", alone=True),
        ),
        case(
            "a runner in the run around the one that ends",
            holder(born(run_id(OURS)), INNER_PYTEST, OUR_SHELL, INIT),
            context(run=(OURS, INNER), ending=INNER),
            used_by(INNER_PYTEST, "pytest (pid 77)", "descent"),
        ),
        case(
            "our own CI agent, by way of another step than ours",
            below(OTHER_STEP, AGENT, INIT),
            IN_A_STEP,
            Origin("descent", "live", "another step of this CI job, which goes on"),
        ),
        case(
            "our own CI agent, by way of what an other step has started",
            below(process(630, "node x"), OTHER_STEP, AGENT, INIT),
            IN_A_STEP,
            Origin("descent", "live", "another step of this CI job, which goes on"),
        ),
    ],
)
def test_descent(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(descent(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


@pytest.mark.parametrize(
    ("found", "asked", "instead"),
    [
        miss("nobody", holder()),
        miss("its name only", below(process(9, "vim test_pytest.py"), INIT)),
        miss("its name for an argument", below(process(9, "make pytest"), INIT)),
        miss("a portfree that runs nothing", below(process(9, "portfree 8000"), INIT)),
        miss("ours", below(OUR_PYTEST, OUR_SHELL, INIT)),
        miss("ours, further up", below(process(9, "node x"), OUR_NOX, THEIR_SHELL, INIT), IN_NOX),
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
        miss("the same, below a wrapper", holder(KARMA, process(9, "sh -c karma"), INIT)),
        miss(
            "a tool that only serves here",
            holder(process(2000, "playwright run-server --port 8000"), OUR_SHELL, INIT),
        ),
        miss("our own CI agent, and our step", below(STEP, AGENT, INIT), IN_A_STEP),
        miss("our own CI agent, which holds the port itself", holder(AGENT, INIT), IN_A_STEP),
        miss(
            "our own CI agent, and another job of it",
            holder(process(), OTHER_STEP._replace(marks=JOB), GITLAB, INIT),
            context(
                *(process(900, "pytest"), STEP, GITLAB, INIT),
                neighbours=(neighbour(OTHER_STEP._replace(marks=JOB), GITLAB, INIT),),
            ),
            "mark live",
        ),
        miss(
            "our own test runner, and another branch below it",
            below(OTHER_STEP, OUR_NOX, INIT),
            context(process(900, "pytest"), STEP, OUR_NOX, INIT),
        ),
    ],
)
def test_no_descent(found: Holder, asked: Context, instead: str) -> None:
    assert descent(found, asked) is None
    assert told(found, asked) == instead


# id: PORTFREE_RUN_ID, its own or its nearest ancestor's

IN_A_PORTFREE_RUN = context(OUR_PYTEST, PORTFREE_RUN, THEIR_SHELL, INIT, run=(OURS,))
LEFT_BY_THEM = Origin("id", "ended", "portfree's run of pid 77", id=THEIRS, why=ENDED)


@pytest.mark.parametrize(
    ("found", "asked", "origin"),
    [
        case(
            "the run that ends",
            holder(born(run_id(OURS)), INIT, live_runs=alive(OURS)),
            context(run=(OURS,), ending=OURS),
            Origin("id", "live", "this run", id=OURS, ours=True),
        ),
        case(
            "a run that has ended, in the run that ends",
            holder(born(run_id(OURS, INNER)), INIT, live_runs=alive(OURS)),
            context(run=(OURS,), ending=OURS),
            Origin("id", "live", "this run", id=OURS, ours=True),
        ),
        case(
            "a run that goes on, in the run that ends",
            holder(born(run_id(OURS, INNER)), INIT, live_runs=alive(OURS, INNER)),
            context(ending=OURS),
            Origin("id", "live", "another run (pid 78)", id=INNER),
        ),
        case(
            "another run that goes on",
            holder(born(run_id(THEIRS)), INIT, live_runs=alive(THEIRS)),
            context(),
            Origin("id", "live", "another run (pid 77)", id=THEIRS),
        ),
        case(
            "another run that goes on, inside of ours",
            holder(born(run_id(OURS, THEIRS)), INIT, live_runs=alive(OURS, THEIRS)),
            context(run=(OURS,)),
            Origin("id", "live", "another run (pid 77)", id=THEIRS),
        ),
        case(
            "two that go on: the outer one is named",
            holder(born(run_id(THEIRS, INNER)), INIT, live_runs=alive(THEIRS, INNER)),
            context(),
            Origin("id", "live", "another run (pid 77)", id=THEIRS),
        ),
        case(
            "the outer one was killed, the inner one goes on",
            holder(born(run_id(THEIRS, INNER)), INIT, live_runs=alive(INNER)),
            context(),
            Origin("id", "live", "another run (pid 78)", id=INNER),
        ),
        case(
            "it goes on, and its id was wiped below it",
            holder(
                process(2000, environment="wiped"),
                process(9, "sh x", marks=run_id(THEIRS)),
                INIT,
                live_runs=alive(THEIRS),
            ),
            context(),
            Origin("id", "live", "another run (pid 77)", id=THEIRS),
        ),
        case(
            "it goes on in another thread of ours (tox -p)",
            holder(born(run_id(INNER)), OUR_PYTEST, OUR_SHELL, INIT, live_runs=alive(INNER)),
            context(),
            used_by(OUR_PYTEST, "pytest (pid 900)", "id", element=INNER),
        ),
        case(
            "the same, where nobody looks after us",
            holder(
                *(born(run_id(INNER)), process(9, "node x"), OUR_PYTEST, INIT),
                live_runs=alive(INNER),
            ),
            context(OUR_PYTEST, INIT),
            used_by(OUR_PYTEST, "pytest (pid 900)", "id", element=INNER, alone=True),
        ),
        case("it has ended", holder(born(run_id(THEIRS)), INIT), context(), LEFT_BY_THEM),
        case(
            "it has ended, in a container",
            holder(born(run_id(THEIRS), session=1), process(1, "app", session=1)),
            context(),
            LEFT_BY_THEM,
        ),
        case(
            "it has ended, inside of ours",
            holder(born(run_id(OURS, THEIRS)), INIT, live_runs=alive(OURS)),
            context(run=(OURS,)),
            LEFT_BY_THEM,
        ),
        case(
            "two have ended: the inner one is named",
            holder(born(run_id(INNER, THEIRS)), INIT),
            context(),
            LEFT_BY_THEM,
        ),
        case(
            "it has ended, and its id was wiped below it",
            holder(
                process(2000, environment="wiped"), process(9, "app", marks=run_id(THEIRS)), INIT
            ),
            context(),
            LEFT_BY_THEM,
        ),
        case(
            "it has ended, and was a test",
            holder(born(run_id(THEIRS) | IN_A_TEST), INIT),
            context(),
            LEFT_BY_THEM._replace(why=f"started in {TEST}"),
        ),
        case(
            "it has ended, and the portfree run around us has adopted what it left",
            holder(born(run_id(OURS, THEIRS), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
            IN_A_PORTFREE_RUN,
            LEFT_BY_THEM,
        ),
        case(
            "the same, and it was no run inside of ours",
            holder(born(run_id(THEIRS), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
            IN_A_PORTFREE_RUN,
            LEFT_BY_THEM,
        ),
        *(
            case(
                f"{phase}: the run around ours",
                holder(born(run_id(OURS)), INIT, live_runs=alive(OURS)),
                context(run=(OURS,), phase=phase),
                Origin("id", "live", "the run around this one", id=OURS),
            )
            for phase in ("before", "after")
        ),
    ],
)
def test_id(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(id_(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


@pytest.mark.parametrize(
    ("found", "asked", "instead"),
    [
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
            holder(born(run_id(OURS)), INIT),
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
            holder(process(), process(9, "app", marks=run_id(THEIRS)), INIT),
        ),
        miss(
            "it has ended, and another adopter was given its id",
            holder(
                born(run_id(THEIRS), session=1), process(9, "app", session=1), process(1, "app")
            ),
        ),
        miss(
            "the portfree run around us has started it",
            holder(born(run_id(OURS), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
            IN_A_PORTFREE_RUN,
        ),
    ],
)
def test_no_id(found: Holder, asked: Context, instead: str) -> None:
    assert id_(found, asked) is None
    assert told(found, asked) == instead


# mark: another one, of a test runner or a CI job

LEFT = Origin("mark", "ended", "pytest", why=f"started in {TEST}")
ANOTHER_JOB = Origin("mark", "live", "another CI job (CI_JOB_ID 991)")
THEIR_NOX = process(650, "nox -s tests", session=600, terminal="pts/2")
RUNNER = process(9, "python run_tests.py", session=600, terminal="pts/2")
SCRIPT = process(1980, "script -qc 'sh -c server' /dev/null", marks=IN_A_TEST)
IN_A_PTY = process(1990, "sh -c server", marks=IN_A_TEST, terminal="pts/7")
EMULATOR = process(1980, "shopterm", marks=IN_A_TEST)
WINDOW = process(1990, "bash", marks=IN_A_TEST, terminal="pts/7")
IN_THE_WINDOW = born(IN_A_TEST, session=1990, terminal="pts/7")
AROUND = context(process(900, "python -m pytest inner"), THEIR_PYTEST, THEIR_SHELL, INIT)


@pytest.mark.parametrize(
    ("found", "origin"),
    [
        case("a test", holder(born(IN_A_TEST), INIT), LEFT),
        case("pytest", holder(born(VERSION), INIT), LEFT._replace(why=ENDED)),
        case(
            "nox",
            holder(born(NOX), INIT),
            Origin("mark", "ended", "nox", why="started in nox session tests-3.13"),
        ),
        case(
            "tox",
            holder(born(TOX), INIT),
            Origin("mark", "ended", "tox", why="started in tox environment py313"),
        ),
        case(
            "cargo-nextest",
            holder(born(NEXTEST), INIT),
            Origin("mark", "ended", "cargo-nextest", why="started in api::search"),
        ),
        case(
            "a test in a nox session",
            holder(born(NOX | VERSION | IN_A_TEST), INIT),
            Origin("mark", "ended", "nox", why=f"started in {TEST}"),
        ),
        case(
            "a nox session in a tox environment",
            holder(born(TOX | NOX), INIT),
            Origin("mark", "ended", "tox", why="started in nox session tests-3.13"),
        ),
        case(
            "its master was adopted",
            holder(born(IN_A_TEST), process(9, "gunicorn x", marks=IN_A_TEST), INIT),
            LEFT,
        ),
        case(
            "its master was adopted, and it has wiped its own",
            holder(
                process(2000, environment="wiped"), process(9, "gunicorn x", marks=IN_A_TEST), INIT
            ),
            LEFT,
        ),
        case(
            "it was started below a wrapper, without its environment (env -i)",
            holder(process(), process(9, "sh start.sh", marks=IN_A_TEST), INIT),
            LEFT,
        ),
        case("nobody adopts (Windows)", holder(born(IN_A_TEST, ppid=None)), LEFT),
        case(
            "one mark has its owner above it, the other one has lost it",
            holder(
                *(born(VERSION | IN_A_TEST), process(9, "tini -- x", marks=VERSION)),
                *(OUR_SHELL, INIT),
            ),
            LEFT,
        ),
        case(
            "the portfree run around us has adopted it",
            holder(born(IN_A_TEST, session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
            LEFT,
        ),
        case(
            "below a fork of the runner, which was adopted",
            holder(born(IN_A_TEST), fork(THEIR_PYTEST, 710), INIT),
            LEFT,
        ),
        case(
            "script(1) has made its terminal",
            holder(IN_THE_WINDOW, IN_A_PTY, SCRIPT, INIT),
            LEFT,
        ),
        case(
            "expect(1) has made its terminal",
            holder(
                born(IN_A_TEST, terminal="pts/7"),
                process(1980, "expect login.exp", marks=IN_A_TEST),
                INIT,
            ),
            LEFT,
        ),
        case(
            "a program on no list has made its terminal (pexpect), and no shell waits there",
            holder(IN_THE_WINDOW, IN_A_PTY, process(1980, "python x.py", marks=IN_A_TEST), INIT),
            LEFT,
        ),
        case(
            "a process manager that was started in the test",
            holder(born(IN_A_TEST), process(9, "supervisord -n", marks=IN_A_TEST), INIT),
            LEFT,
        ),
    ],
)
def test_the_mark_of_a_run_that_has_ended(found: Holder, origin: Origin) -> None:
    asked = context(OUR_PYTEST, PORTFREE_RUN, THEIR_SHELL, INIT)

    assert plain(mark(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


@pytest.mark.parametrize(
    ("found", "asked", "origin"),
    [
        *(
            case(
                f"{next(iter(marks))}: a runner works in the project",
                holder(born(marks), INIT),
                AT_WORK,
                used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
            )
            for marks in (IN_A_TEST, VERSION, NOX, TOX, NEXTEST)
        ),
        case(
            "a runner as old as it",
            holder(born(IN_A_TEST, start=700), INIT),
            AT_WORK,
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
        ),
        case(
            "a runner that nobody looks after",
            holder(born(IN_A_TEST), INIT),
            context(neighbours=(neighbour(THEIR_PYTEST, INIT),)),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark", alone=True),
        ),
        case(
            "a runner of root, who may start anybody's",
            holder(born(IN_A_TEST), INIT),
            context(neighbours=(neighbour(THEIR_PYTEST._replace(owner=ROOT), INIT),)),
            used_by(THEIR_PYTEST._replace(owner=ROOT), "pytest (pid 700)", "mark", alone=True),
        ),
        case(
            "a runner that is a server too, at a terminal",
            holder(born(IN_A_TEST), INIT),
            context(neighbours=(neighbour(ADOPTED_KARMA, OUR_SHELL, INIT),)),
            used_by(ADOPTED_KARMA, "karma (pid 77)", "mark"),
        ),
        case(
            "a runner that does not tell whose it is",
            holder(born(IN_A_TEST), INIT),
            context(neighbours=(neighbour(THEIR_PYTEST._replace(owner=None), INIT),)),
            used_by(THEIR_PYTEST._replace(owner=None), "pytest (pid 700)", "mark", alone=True),
        ),
        case(
            "a runner, and it does not tell whose it is",
            holder(born(IN_A_TEST, owner=None), INIT),
            AT_WORK,
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
        ),
        case(
            "a runner, and it does not tell its project",
            holder(born(IN_A_TEST, cwd="/"), INIT, project=None),
            AT_WORK,
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
        ),
        case(
            "a runner that is the second in the list",
            holder(born(IN_A_TEST), INIT),
            context(neighbours=(neighbour(GITLAB, INIT), *WORKING)),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
        ),
        case(
            "the nox around a killed pytest",
            holder(born(NOX | IN_A_TEST), INIT),
            context(neighbours=(neighbour(THEIR_NOX, THEIR_SHELL, INIT),)),
            used_by(THEIR_NOX, "nox (pid 650)", "mark"),
        ),
        case(
            "a runner, and the first process of our container has adopted it",
            holder(born(IN_A_TEST), FIRST_TOX),
            context(OUR_PYTEST, FIRST_TOX, neighbours=WORKING),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
        ),
        case(
            "a runner, and the portfree run around us has adopted it",
            holder(born(IN_A_TEST), PORTFREE_RUN._replace(pid=690), THEIR_SHELL, INIT),
            context(
                *(OUR_PYTEST, PORTFREE_RUN._replace(pid=690), THEIR_SHELL, INIT),
                neighbours=WORKING,
            ),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
        ),
        case(
            "a runner, and it has wiped a mark that a wrapper above it still has",
            holder(process(2000, environment="wiped"), process(9, "sh x", marks=IN_A_TEST), INIT),
            AT_WORK,
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
        ),
        case(
            "another CI job, of an agent beside us",
            holder(born(JOB), INIT),
            context(jobs={"CI_JOB_ID": "992"}, neighbours=(neighbour(GITLAB, INIT),)),
            ANOTHER_JOB,
        ),
        case(
            "another CI job, and we are in none",
            holder(born(JOB), INIT),
            context(neighbours=(neighbour(GITLAB, INIT),)),
            ANOTHER_JOB,
        ),
        case(
            "another CI job, of our own agent: somebody carries its id",
            holder(born(JOB), INIT),
            context(
                *(OUR_PYTEST, GITLAB, INIT),
                neighbours=(neighbour(process(950, "bash", marks=JOB), GITLAB, INIT),),
            ),
            ANOTHER_JOB,
        ),
        case(
            "another CI job, and a test in it: the job says more",
            holder(born(JOB | IN_A_TEST), INIT),
            context(neighbours=(neighbour(GITLAB, INIT), *WORKING)),
            ANOTHER_JOB,
        ),
        case(
            "a program on no list sets it",
            holder(born(IN_A_TEST), RUNNER, THEIR_SHELL, INIT),
            context(),
            used_by(RUNNER, "run_tests (pid 9)", "mark"),
        ),
        case(
            "a program on no list sets it, and was adopted",
            holder(born(IN_A_TEST), RUNNER._replace(terminal=None), INIT),
            context(),
            used_by(RUNNER._replace(terminal=None), "run_tests (pid 9)", "mark", alone=True),
        ),
        case(
            "such a program, and who started that is out of sight",
            holder(born(IN_A_TEST), RUNNER),
            context(),
            used_by(RUNNER, "run_tests (pid 9)", "mark"),
        ),
        case(
            "such a program, above a process manager",
            holder(
                *(born(IN_A_TEST), process(1900, "supervisord -n", marks=IN_A_TEST)),
                *(RUNNER, THEIR_SHELL, INIT),
            ),
            context(),
            used_by(RUNNER, "run_tests (pid 9)", "mark"),
        ),
        case(
            "such a program, above a master",
            holder(
                *(born(IN_A_TEST), process(1900, "gunicorn x", marks=IN_A_TEST)),
                *(RUNNER, THEIR_SHELL, INIT),
            ),
            context(),
            used_by(RUNNER, "run_tests (pid 9)", "mark"),
        ),
        case(
            "such a program, which bears another value itself",
            holder(born(NOX), RUNNER._replace(marks={"NOX_CURRENT_SESSION": "x"}), INIT),
            context(),
            used_by(
                RUNNER._replace(marks={"NOX_CURRENT_SESSION": "x"}),
                "run_tests (pid 9)",
                "mark",
                alone=True,
            ),
        ),
        case(
            "the pytest around ours, from a conftest.py",
            holder(process(750, marks=VERSION), INIT),
            AROUND._replace(phase="after"),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
        ),
        case(
            "the pytest around ours, as old as it",
            holder(process(750, marks=VERSION, start=700), INIT),
            AROUND._replace(phase="before"),
            used_by(THEIR_PYTEST, "pytest (pid 700)", "mark"),
        ),
        case(
            "a run of ours around the one that ends, by descent",
            holder(process(), OUR_PYTEST, OUR_SHELL, INIT),
            context(phase="after", run=(HERE,)),
            used_by(OUR_PYTEST, "pytest (pid 900)", "descent"),
        ),
        case(
            "the same, by its marks",
            holder(born(IN_A_TEST), INIT),
            context(phase="after", run=(HERE,)),
            used_by(OUR_PYTEST, "pytest (pid 900)", "descent"),
        ),
        case(
            "the same, though it has wiped them",
            holder(process(2000, environment="wiped"), INIT),
            context(phase="before", run=(HERE,)),
            used_by(OUR_PYTEST, "pytest (pid 900)", "descent"),
        ),
    ],
)
def test_the_mark_of_a_run_that_goes_on(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(mark(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


@pytest.mark.parametrize(
    "asked",
    [
        case("younger", context(neighbours=(neighbour(THEIR_PYTEST._replace(start=2001), INIT),))),
        case(
            "in another project",
            context(neighbours=(neighbour(THEIR_PYTEST, INIT, project=ELSEWHERE),)),
        ),
        case("in no project", context(neighbours=(neighbour(THEIR_PYTEST, INIT, project=None),))),
        case(
            "of another user",
            context(neighbours=(neighbour(THEIR_PYTEST._replace(owner=BOB), INIT),)),
        ),
        case("no test runner", context(neighbours=(neighbour(process(700, "make"), INIT),))),
        case("a CI agent", context(neighbours=(neighbour(GITLAB, INIT),))),
        case(
            "a fork of one that has ended",
            context(neighbours=(neighbour(fork(THEIR_PYTEST, 710), INIT),)),
        ),
        case(
            "a server that is called like one, and was adopted",
            context(neighbours=(neighbour(ADOPTED_KARMA, INIT),)),
        ),
        case(
            "a portfree run, which would have given it an id",
            context(neighbours=(neighbour(PORTFREE_RUN, THEIR_SHELL, INIT),)),
        ),
    ],
)
def test_who_has_certainly_not_started_what_was_born_in_a_test(asked: Context) -> None:
    found = holder(born(IN_A_TEST), INIT)

    assert plain(mark(found, asked)) == LEFT
    assert plain(origin_of(found, asked)) == LEFT


def test_a_server_that_is_called_like_a_runner_has_not_started_itself() -> None:
    found = holder(KARMA._replace(marks=IN_A_TEST), INIT)
    asked = context(neighbours=(Neighbour(found.process, found.lineage, PROJECT),))

    assert plain(origin_of(found, asked)) == LEFT


@pytest.mark.parametrize(
    ("found", "asked", "instead"),
    [
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
        miss("it is tmux", holder(process(2000, "tmux new", marks=IN_A_TEST), INIT)),
        miss(
            "an editor between",
            holder(born(IN_A_TEST), process(9, "emacs --daemon", marks=IN_A_TEST), INIT),
        ),
        miss(
            "a terminal emulator between",
            holder(
                *(IN_THE_WINDOW, WINDOW, process(1980, "xterm", marks=IN_A_TEST)),
                INIT,
            ),
        ),
        miss(
            "a terminal emulator on no list, and somebody sits in it",
            holder(IN_THE_WINDOW, WINDOW, EMULATOR, INIT),
        ),
        miss(
            "the same, and it is the shell that holds the port",
            holder(WINDOW, EMULATOR, INIT),
        ),
        miss(
            "script(1), and somebody sits in it",
            holder(IN_THE_WINDOW, WINDOW, SCRIPT, INIT),
        ),
        miss(
            "a terminal that was there before the test",
            holder(born(IN_A_TEST), OUR_SHELL._replace(marks=IN_A_TEST), INIT),
        ),
        miss("it has a terminal for itself", holder(born(IN_A_TEST, terminal="pts/5"), INIT)),
        miss(
            "it has a terminal, and does not tell its session",
            holder(
                *(born(IN_A_TEST, terminal="pts/5", session=None),),
                *(process(9, "gunicorn x", marks=IN_A_TEST), INIT),
            ),
        ),
        miss("a shell set it", holder(born(IN_A_TEST), process(9, "sh x.sh"), OUR_SHELL, INIT)),
        miss(
            "a wrapper set it (env PYTEST_VERSION=9 server)",
            holder(born(VERSION), process(9, "env PYTEST_VERSION=9 server"), OUR_SHELL, INIT),
        ),
        miss("somebody at a terminal set it", holder(born(IN_A_TEST), OUR_SHELL, INIT)),
        miss(
            "a process manager set it",
            holder(born(IN_A_TEST), process(9, "supervisord -n"), INIT),
        ),
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
        miss(
            "only its parent bears one",
            holder(process(), process(9, "app", marks=IN_A_TEST), INIT),
        ),
        miss(
            "a CI job: ours",
            holder(born(JOB), INIT),
            context(jobs=JOB, neighbours=(neighbour(GITLAB, INIT),)),
        ),
        miss(
            "a CI job: its agent waits for another one",
            holder(born(JOB), INIT),
            context(neighbours=(neighbour(IDLE_AGENT, INIT),)),
        ),
        miss("a CI job: nobody is at work but runners", holder(born(JOB), INIT), AT_WORK),
        miss(
            "a CI job: only a fork of an agent is left",
            holder(born(JOB), INIT),
            context(neighbours=(neighbour(fork(GITLAB, 710), INIT),)),
        ),
        miss(
            "a CI job: who carries its id descends from no agent",
            holder(born(JOB), INIT),
            context(neighbours=(neighbour(process(950, "sh", marks=JOB), INIT),)),
        ),
        miss(
            "a CI job: who carries its id descends from a fork of one",
            holder(born(JOB), INIT),
            context(
                neighbours=(neighbour(process(950, "sh", marks=JOB), fork(GITLAB, 710), INIT),)
            ),
        ),
        miss(
            "a CI job: who descends from an agent carries another id",
            holder(born(JOB), INIT),
            context(
                neighbours=(
                    neighbour(process(950, "sh", marks={"CI_JOB_ID": "7"}), IDLE_AGENT, INIT),
                )
            ),
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
            holder(process(), OUR_PYTEST, OUR_SHELL, INIT),
            context(run=(HERE,)),
        ),
        miss(
            "a hook, and the run around ours is of another process",
            holder(process(), OUR_PYTEST, OUR_SHELL, INIT),
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
            holder(process(2000, environment="wiped", control_group="/x"), INIT),
            context(OUR_PYTEST._replace(control_group="/y"), INIT, phase="after", run=(HERE,)),
        ),
    ],
)
def test_no_mark(found: Holder, asked: Context, instead: str) -> None:
    assert mark(found, asked) is None
    assert told(found, asked) == instead


@pytest.mark.parametrize(
    ("variable", "agent"),
    [
        ("RUNNER_TRACKING_ID", "/runner/bin/Runner.Worker spawnclient 1 2"),
        ("CI_JOB_ID", "gitlab-runner run"),
        ("BUILD_TAG", "java -jar /opt/agent.jar"),
        ("BUILDKITE_JOB_ID", "buildkite-agent start"),
        ("SYSTEM_JOBID", "/agent/bin/Agent.Worker spawnclient 1 2"),
        ("CIRCLE_WORKFLOW_JOB_ID", "circleci-agent --config x"),
        ("CI_PIPELINE_URL", "woodpecker-agent"),
        ("DRONE_BUILD_LINK", "drone-runner-exec daemon"),
    ],
)
def test_a_job_of_a_ci_that_is_at_work(variable: str, agent: str) -> None:
    found = holder(born({variable: "991"}), INIT)
    working = context(jobs={variable: "992"}, neighbours=(neighbour(process(300, agent), INIT),))
    over = context(process(900, "pytest"), process(300, agent), INIT, jobs={variable: "992"})

    assert variable in CI_JOB_IDS
    assert mark(found, working) == Origin("mark", "live", f"another CI job ({variable} 991)")
    assert origin_of(found, over) is None
    assert origin_of(found, context(jobs={variable: "991"}, neighbours=working.neighbours)) is None


# copy: it, or an ancestor, was forked from a runner and has executed no program since

COPY = fork(THEIR_PYTEST, 2000)  # with the session, the terminal and the directory of that pytest
LEFT_COPY = Origin("copy", "ended", "pytest", why="it is a fork of a pytest that has ended")
OF_PYTEST = used_by(THEIR_PYTEST, "pytest (pid 700)", "copy")
ELSEWHERE_PYTEST = THEIR_PYTEST._replace(session=800, terminal="pts/1", cwd=ELSEWHERE)
OTHER_TERMINAL = THEIR_PYTEST._replace(session=800, terminal="pts/1")
SEATED = THEIR_SHELL._replace(forked=False)
SCRIPTED = process(700, "python run_tests.py", session=600, terminal="pts/2")
OUR_TWIN = OUR_PYTEST._replace(pid=700, start=700)
RETITLED = titled(700, "[pytest tests/slow] test_b", name="pytest", session=600)


def beside(original: Process, *above: Process, project: str | None = PROJECT) -> Context:
    """Who asks, while another process lives."""
    return context(
        neighbours=(neighbour(original, *(above or (THEIR_SHELL, INIT)), project=project),)
    )


@pytest.mark.parametrize(
    ("found", "asked", "origin"),
    [
        case("of a pytest that was killed", holder(COPY, INIT), context(), LEFT_COPY),
        case(
            "of a nox",
            holder(fork(process(700, "/venv/bin/python /venv/bin/nox"), 2000), INIT),
            context(),
            Origin("copy", "ended", "nox", why="it is a fork of a nox that has ended"),
        ),
        case(
            "above it",
            holder(process(), fork(THEIR_PYTEST, 710), INIT),
            context(),
            LEFT_COPY._replace(
                why="pytest (pid 710) above it is a fork of a pytest that has ended"
            ),
        ),
        case(
            "above it, by way of another one",
            holder(process(), fork(THEIR_PYTEST, 720), fork(THEIR_PYTEST, 710), INIT),
            context(),
            LEFT_COPY._replace(
                why="pytest (pid 720) above it is a fork of a pytest that has ended"
            ),
        ),
        case(
            "of a fork, which leads a session with a terminal (pty.fork)",
            holder(COPY._replace(session=710), fork(THEIR_PYTEST, 710, session=710), INIT),
            context(),
            LEFT_COPY,
        ),
        case("nobody adopts", holder(COPY._replace(ppid=None)), context(), LEFT_COPY),
        case("that pytest lives (it forked twice)", holder(COPY, INIT), AT_WORK, OF_PYTEST),
        case(
            "that pytest lives, and another one was killed (pytest-forked)",
            holder(COPY, INIT),
            context(neighbours=(neighbour(fork(THEIR_PYTEST, 710), INIT), *WORKING)),
            OF_PYTEST,
        ),
        case(
            "that pytest lives, and nobody looks after it",
            holder(COPY, INIT),
            beside(THEIR_PYTEST, INIT),
            OF_PYTEST._replace(alone=True),
        ),
        case(
            "that pytest lives, and is as old",
            holder(COPY._replace(start=700), INIT),
            AT_WORK,
            OF_PYTEST,
        ),
        case(
            "that pytest lives, and it does not tell its project any more",
            holder(COPY._replace(cwd="/"), INIT, project=None),
            AT_WORK,
            OF_PYTEST,
        ),
        case(
            "that pytest lives, and it is not told whether it was forked (macOS)",
            holder(COPY, INIT),
            beside(THEIR_PYTEST._replace(forked=None)),
            OF_PYTEST,
        ),
        case(
            "that pytest is known to have executed itself",
            holder(COPY, INIT),
            beside(THEIR_PYTEST._replace(forked=False)),
            used_by(THEIR_PYTEST._replace(forked=False), "pytest (pid 700)", "copy"),
        ),
        case(
            "that pytest was called with another title at the time",
            holder(COPY, INIT),
            beside(RETITLED),
            used_by(RETITLED, "pytest (pid 700)", "copy"),
        ),
        case(
            "a pytest of another session, and it has made its own (setsid)",
            holder(COPY._replace(session=2000), INIT, leader=COPY._replace(session=2000)),
            beside(OTHER_TERMINAL),
            used_by(OTHER_TERMINAL, "pytest (pid 700)", "copy"),
        ),
        case(
            "the same, by way of another fork, which leads it",
            holder(COPY._replace(session=710), INIT, leader=fork(THEIR_PYTEST, 710, session=710)),
            beside(OTHER_TERMINAL),
            used_by(OTHER_TERMINAL, "pytest (pid 700)", "copy"),
        ),
        case(
            "a pytest that leads its session, and has not told whether it was forked",
            holder(
                COPY._replace(session=650),
                INIT,
                leader=THEIR_PYTEST._replace(pid=650, session=650, forked=False),
            ),
            beside(OTHER_TERMINAL),
            used_by(OTHER_TERMINAL, "pytest (pid 700)", "copy"),
        ),
        case(
            "a pytest of another session, and the leader of its own has ended",
            holder(COPY, INIT),
            beside(OTHER_TERMINAL),
            used_by(OTHER_TERMINAL, "pytest (pid 700)", "copy"),
        ),
        case(
            "a pytest of another session, and it is not told whether its leader was forked",
            holder(COPY, INIT, leader=THEIR_SHELL),
            beside(OTHER_TERMINAL),
            used_by(OTHER_TERMINAL, "pytest (pid 700)", "copy"),
        ),
        case(
            "a pytest that does not tell its session",
            holder(COPY, INIT, leader=SEATED),
            beside(THEIR_PYTEST._replace(session=None)),
            used_by(THEIR_PYTEST._replace(session=None), "pytest (pid 700)", "copy"),
        ),
        case(
            "who is said to lead its session leads another one",
            holder(COPY._replace(session=650), INIT, leader=SEATED),
            beside(OTHER_TERMINAL),
            used_by(OTHER_TERMINAL, "pytest (pid 700)", "copy"),
        ),
        case(
            "two pytests with the same command line, in two terminals: it stayed with that one",
            holder(COPY, INIT, leader=SEATED),
            context(
                neighbours=(
                    neighbour(OTHER_TERMINAL._replace(pid=690, start=690), OUR_SHELL, INIT),
                    *WORKING,
                )
            ),
            OF_PYTEST,
        ),
        case(
            "two pytests with the same command line, in two projects: it stayed in that one",
            holder(COPY, INIT),
            context(
                neighbours=(neighbour(ELSEWHERE_PYTEST, INIT, project=ELSEWHERE), *WORKING),
            ),
            OF_PYTEST,
        ),
        case(
            "of us, who call",
            holder(fork(OUR_PYTEST, 2000), INIT),
            context(),
            used_by(OUR_PYTEST, "pytest (pid 900)", "copy")._replace(ours=True),
        ),
        case(
            "of us, for a hook",
            holder(fork(OUR_PYTEST, 2000), INIT),
            context(phase="after", run=(OURS,)),
            used_by(OUR_PYTEST, "pytest (pid 900)", "copy")._replace(ours=True),
        ),
        case(
            "of us, or of another one with our command line, which lives",
            holder(fork(OUR_PYTEST, 2000), INIT),
            beside(OUR_TWIN),
            used_by(OUR_TWIN, "pytest (pid 700)", "copy"),
        ),
        case(
            "of us, while another one with our command line is younger",
            holder(fork(OUR_PYTEST, 2000), INIT),
            beside(OUR_TWIN._replace(start=2001)),
            used_by(OUR_PYTEST, "pytest (pid 900)", "copy")._replace(ours=True),
        ),
        case(
            "of us, while the caller is such a fork itself",
            holder(fork(OUR_PYTEST, 2000), INIT),
            context(fork(OUR_PYTEST, 910), OUR_PYTEST, OUR_SHELL, INIT, phase="after"),
            used_by(OUR_PYTEST, "pytest (pid 900)", "copy"),
        ),
        case(
            "above it, of a pytest that lives, and it has gone to another project",
            holder(born({}, cwd=ELSEWHERE), fork(THEIR_PYTEST, 710), INIT, project=ELSEWHERE),
            AT_WORK,
            OF_PYTEST,
        ),
        case(
            "of the nox around us, for a hook",
            holder(fork(OUR_NOX, 2000), INIT),
            IN_NOX._replace(phase="after"),
            used_by(OUR_NOX, "nox (pid 700)", "copy"),
        ),
        case(
            "of the controller of pytest-xdist, for a worker of it",
            holder(fork(XDIST, 2000), INIT),
            context(process(710, EXECNET, marks={"PYTEST_XDIST_WORKER": "gw0"}), XDIST, INIT),
            used_by(XDIST, "pytest (pid 705)", "copy"),
        ),
        case(
            "a script that runs tests, and somebody looks after that",
            holder(fork(SCRIPTED, 2000), INIT),
            beside(SCRIPTED),
            used_by(SCRIPTED, "run_tests (pid 700)", "copy"),
        ),
        case(
            "of a worker of pytest-xdist, which lives",
            holder(fork(process(710, EXECNET, session=600), 2000), INIT),
            beside(process(710, EXECNET, session=600), XDIST, THEIR_SHELL, INIT),
            used_by(process(710, EXECNET, session=600), "python (pid 710)", "copy"),
        ),
    ],
)
def test_copy(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(copy(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


@pytest.mark.parametrize(
    "asked",
    [
        case("younger", beside(THEIR_PYTEST._replace(start=2001))),
        case("with another command line", beside(THEIR_PYTEST._replace(argv=("pytest", "-x")))),
        case("of another user", beside(THEIR_PYTEST._replace(owner=BOB))),
        case("in another project", beside(ELSEWHERE_PYTEST, project=ELSEWHERE)),
        case("in another terminal", beside(OTHER_TERMINAL)),
        case("a fork itself", beside(fork(THEIR_PYTEST, 710))),
        case(
            "a program with a title, and no runner",
            beside(titled(700, "nginx: master process", session=600)),
        ),
        case("a runner of one word", beside(process(700, "pytest", session=600))),
        case(
            "a runner at a path with a space",
            beside(process(700, argv=("/my tools/python", "-m", "pytest", "-x"), session=600)),
        ),
    ],
)
def test_who_has_certainly_not_been_forked(asked: Context) -> None:
    found = holder(COPY, INIT, leader=SEATED)

    assert plain(copy(found, asked)) == LEFT_COPY
    assert plain(origin_of(found, asked)) == LEFT_COPY


@pytest.mark.parametrize(
    ("found", "asked", "instead"),
    [
        miss("it has executed a program", holder(process(2000, "make pytest", forked=False), INIT)),
        miss("it looks like no runner", holder(fork(process(700), 2000), INIT)),
        miss(
            "it does not tell",
            holder(THEIR_PYTEST._replace(forked=None), INIT),
            None,
            "descent live",
        ),
        miss("somebody started it", holder(COPY, process(9, "shopctl"), INIT)),
        miss("it is suspended below a shell", holder(COPY, THEIR_SHELL, INIT)),
        miss("who started it is out of sight", holder(COPY._replace(ppid=77))),
        miss("a terminal for itself", holder(COPY._replace(session=2000), INIT)),
        miss("tmux between", holder(process(), TMUX, fork(THEIR_PYTEST, 5), INIT)),
        miss(
            "of the nox around us, which a call does not spare",
            holder(fork(OUR_NOX, 2000), INIT),
            IN_NOX,
        ),
        miss("a script that runs tests has ended", holder(fork(SCRIPTED, 2000), INIT)),
        miss(
            "nobody looks after such a script",
            holder(fork(SCRIPTED, 2000), INIT),
            beside(SCRIPTED, INIT),
        ),
        miss(
            "such a script with other arguments",
            holder(fork(SCRIPTED, 2000), INIT),
            beside(process(700, "python run_tests.py --slow", session=600)),
        ),
        miss(
            "a pytest that has changed its title",
            holder(fork(SCRIPTED, 2000), INIT),
            beside(RETITLED),
        ),
        miss(
            "such a script in another project",
            holder(fork(SCRIPTED, 2000), INIT),
            beside(SCRIPTED, project=ELSEWHERE),
        ),
        miss(
            "it has executed that script itself",
            holder(process(2000, "python run_tests.py", forked=False), INIT),
            beside(SCRIPTED),
        ),
        miss(
            "somebody looks after the fork of a script",
            holder(fork(SCRIPTED, 2000), process(9, "shopctl"), INIT),
            beside(SCRIPTED),
        ),
    ],
)
def test_no_copy(found: Holder, asked: Context, instead: str) -> None:
    assert copy(found, asked) is None
    assert told(found, asked) == instead


def test_a_copy_of_ours_where_one_run_surrounds_another_belongs_to_either() -> None:
    found = holder(fork(OUR_PYTEST, 850), INIT)
    asked = context(OUR_PYTEST._replace(start=800), OUR_SHELL, INIT, phase="after", run=(HERE,))

    origin = copy(found, asked)

    assert origin is not None
    assert (origin.state, origin.ours) == ("live", False)


# folder: its directory lies in a base temporary folder of pytest

FOLDER = "/tmp/pytest-of-me/pytest-7"
DAY = 86_400.0
NOW = 1_000 * DAY
OWNER = THEIR_PYTEST._replace(started=NOW - 100)
LOCKED = SessionFolder(FOLDER, exists=True, lock=Lock(700, NOW - 99), process=OWNER)
KILLED = LOCKED._replace(process=None)
UNLOCKED = SessionFolder(FOLDER, exists=True)
REMOVED = SessionFolder(FOLDER, exists=False)
LEFT_IN = Origin(
    "folder",
    "ended",
    "pytest, pytest-7",
    why="it runs in the temporary folder of test_search, of a pytest that has ended",
)
TODAY = context(time=NOW)
TODAY_AT_WORK = context(time=NOW, neighbours=WORKING)


def redis(**facts: Unpack[Facts]) -> Process:
    """A server that wipes its environment, in the temporary folder of a test."""
    plain = process(2000, "redis-server *:8000", environment="wiped", started=NOW - 60)
    return plain._replace(cwd=f"{FOLDER}/test_search0")._replace(**facts)


def there(
    found: SessionFolder,
    own: Process | None = None,
    *above: Process,
    **findings: Unpack[Findings],
) -> Holder:
    chain = (own or redis(), *(above or (INIT,)))
    return holder(*chain, project=None, folder=found)._replace(**findings)


@pytest.mark.parametrize(
    ("found", "asked", "origin"),
    [
        case("its pytest was killed", there(KILLED), TODAY, LEFT_IN),
        case("its pytest was killed, and another one works", there(KILLED), TODAY_AT_WORK, LEFT_IN),
        case("its pytest has ended by itself", there(UNLOCKED), TODAY, LEFT_IN),
        case("the same, and another one works", there(UNLOCKED), TODAY_AT_WORK, LEFT_IN),
        case("the folder is gone too", there(REMOVED), TODAY, LEFT_IN),
        case(
            "its environment can be read, and a test has dropped what was in it",
            there(UNLOCKED, redis(environment="read")),
            TODAY,
            LEFT_IN,
        ),
        case(
            "its pid has passed to another one",
            there(LOCKED._replace(process=process(700, "vim notes", started=NOW - 96.9))),
            TODAY,
            LEFT_IN,
        ),
        case(
            "in the folder of a fixture of a worker of pytest-xdist",
            there(UNLOCKED, redis(cwd=f"{FOLDER}/popen-gw0/test_index12/data")),
            TODAY,
            LEFT_IN._replace(
                why="it runs in the temporary folder of test_index, of a pytest that has ended"
            ),
        ),
        *(
            case(
                name,
                there(UNLOCKED, redis(cwd=cwd)),
                TODAY,
                LEFT_IN._replace(
                    why="it runs in the temporary folder pytest-7 of a pytest that has ended"
                ),
            )
            for name, cwd in (
                ("in the folder itself", FOLDER),
                ("in the folder of a factory", f"{FOLDER}/data0"),
                ("in a folder that is called like a test further down", f"{FOLDER}/a/b/test_c0"),
            )
        ),
        case(
            "its master works there too, and was adopted",
            there(KILLED, redis(), process(9, "redis-sentinel", cwd=FOLDER), INIT),
            TODAY,
            LEFT_IN,
        ),
        *(
            case(
                f"its master still works there, and it {what}",
                there(KILLED, redis(cwd=cwd), process(9, "redis-sentinel", cwd=FOLDER), INIT),
                TODAY,
                LEFT_IN._replace(
                    why="it runs in the temporary folder pytest-7 of a pytest that has ended"
                ),
            )
            for what, cwd in (("has gone home", HOME), ("does not tell where it works", None))
        ),
        case(
            "its pytest lives",
            there(LOCKED),
            TODAY,
            used_by(OWNER, "pytest (pid 700)", "folder"),
        ),
        *(
            case(
                f"its pytest lives, and its start is told {seconds} s later than its lock",
                there(LOCKED._replace(process=OWNER._replace(started=NOW - 99 + seconds))),
                TODAY,
                used_by(OWNER._replace(started=NOW - 99 + seconds), "pytest (pid 700)", "folder"),
            )
            for seconds in (1, 2)
        ),
        case(
            "its pytest lives, and does not tell since when",
            there(LOCKED._replace(process=THEIR_PYTEST)),
            TODAY,
            used_by(THEIR_PYTEST, "pytest (pid 700)", "folder"),
        ),
        case(
            "who has locked it cannot be seen",
            there(LOCKED._replace(process=None, hidden=True)),
            TODAY,
            Origin("folder", "live", "pytest (pid 700)"),
        ),
        case(
            "its pytest are we",
            there(LOCKED._replace(lock=Lock(900, NOW), process=OUR_PYTEST)),
            TODAY,
            used_by(OUR_PYTEST, "pytest (pid 900)", "folder")._replace(ours=True),
        ),
        case(
            "its pytest are we, in a run around the one that ends",
            there(LOCKED._replace(lock=Lock(900, NOW), process=OUR_PYTEST), redis(start=850)),
            context(time=NOW, phase="after", run=(HERE,)),
            used_by(OUR_PYTEST, "pytest (pid 900)", "folder"),
        ),
        case(
            "its pytest surrounds us, and we are a hook",
            there(LOCKED),
            AROUND._replace(time=NOW, phase="after"),
            used_by(OWNER, "pytest (pid 700)", "folder"),
        ),
        case(
            "its pytest is our controller of pytest-xdist",
            there(LOCKED._replace(lock=Lock(705, NOW), process=XDIST._replace(ppid=1))),
            context(process(710, EXECNET, marks={"PYTEST_XDIST_WORKER": "gw0"}), XDIST, INIT),
            used_by(XDIST, "pytest (pid 705)", "folder"),
        ),
        case(
            "the folder is gone, and a pytest works that may have removed it",
            there(REMOVED),
            TODAY_AT_WORK,
            used_by(THEIR_PYTEST, "pytest (pid 700)", "folder"),
        ),
        case(
            "the lock is gone, and a pytest has worked for days",
            there(UNLOCKED, redis(started=NOW - 3 * DAY - 1)),
            TODAY_AT_WORK,
            used_by(THEIR_PYTEST, "pytest (pid 700)", "folder"),
        ),
        case(
            "the lock is gone, a pytest works, and it does not tell its age",
            there(UNLOCKED, redis(started=None)),
            TODAY_AT_WORK,
            used_by(THEIR_PYTEST, "pytest (pid 700)", "folder"),
        ),
        case(
            "the lock is gone, and what is as old as a lock lasts was left",
            there(UNLOCKED, redis(started=NOW - 3 * DAY)),
            TODAY_AT_WORK,
            LEFT_IN,
        ),
        case(
            "it is old, and its pytest was killed",
            there(KILLED, redis(started=NOW - 5 * DAY)),
            TODAY_AT_WORK,
            LEFT_IN,
        ),
        case("it is old, and nobody works", there(UNLOCKED, redis(started=0.0)), TODAY, LEFT_IN),
    ],
)
def test_folder(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(folder(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


@pytest.mark.parametrize(
    ("found", "asked", "instead"),
    [
        miss("it lies in none", holder(process(2000, environment="wiped"), INIT)),
        miss(
            "somebody sits there, and started it",
            there(KILLED, redis(), OUR_SHELL._replace(cwd=FOLDER), INIT),
        ),
        miss(
            "the same, by way of a script (nohup ./start.sh &)",
            there(
                *(KILLED, redis(), process(9, "sh start.sh", cwd=FOLDER, session=800)),
                *(OUR_SHELL._replace(cwd=FOLDER), INIT),
            ),
        ),
        miss(
            "somebody sat there, has gone home, and started it",
            there(KILLED, redis(), OUR_SHELL._replace(cwd=HOME), INIT),
        ),
        miss(
            "somebody has a terminal there that has no shell (docker exec -it)",
            there(KILLED, redis(terminal="pts/5"), INIT),
        ),
        miss("a program started it there", there(KILLED, redis(), NODEMON, INIT)),
        miss(
            "tmux was started there",
            there(KILLED, redis(), TMUX._replace(cwd=FOLDER), INIT),
        ),
        miss("who started it is out of sight", holder(redis(ppid=77), folder=KILLED)),
        miss(
            "its pytest surrounds us, and we call",
            there(LOCKED, redis(environment="read")),
            AROUND._replace(time=NOW),
        ),
        miss(
            "its master works elsewhere, and was adopted",
            there(KILLED, redis(), process(9, "gunicorn x", cwd=PROJECT), INIT),
        ),
        miss(
            "its master does not tell where it works, and was adopted",
            there(KILLED, redis(), process(9, "gunicorn x", cwd=None), INIT),
        ),
        miss("it has gone home by now", there(KILLED, redis(cwd=HOME))),
        miss(
            "it has gone to a folder that is called alike", there(KILLED, redis(cwd=f"{FOLDER}7"))
        ),
    ],
)
def test_no_folder(found: Holder, asked: Context, instead: str) -> None:
    assert folder(found, asked) is None
    assert told(found, asked) == instead


# arrival: it came up during the run that ends, on a port that was free, by itself

ENDING = context(
    ending=OURS, run=(OURS,), began=1000, quiet=frozenset({Port(8000), Port(8001)}), phase="after"
)
DAEMON = process(2000, "redis-server *:8000", environment="wiped")
CAME_UP = Origin("arrival", "live", "this run", id=OURS, ours=True)


@pytest.mark.parametrize(
    "found",
    [
        case("it was adopted", holder(DAEMON, INIT)),
        case("it began with the run", holder(DAEMON._replace(start=1000), INIT)),
        case("below a wrapper", holder(DAEMON, process(9, "sh -c redis"), USER_MANAGER, INIT)),
        case("it does not tell its project", holder(DAEMON._replace(cwd="/"), INIT, project=None)),
        case(
            "it has two of the ports",
            holder(DAEMON, INIT, sockets=[socket(1), socket(2, Port(8001))]),
        ),
    ],
)
def test_arrival(found: Holder) -> None:
    assert arrival(found, ENDING) == CAME_UP
    assert origin_of(found, ENDING) == CAME_UP


def test_an_arrival_in_our_own_service() -> None:
    found = holder(DAEMON._replace(unit="ci.service"), INIT)

    assert arrival(found, ENDING._replace(unit="ci.service")) == CAME_UP
    assert arrival(found, ENDING._replace(unit="other.service")) is None


def test_an_arrival_in_our_own_control_group() -> None:
    asked = ENDING._replace(caller=ENDING.caller._replace(control_group="/x"))

    assert arrival(holder(DAEMON._replace(control_group="/x"), INIT), asked) == CAME_UP
    assert arrival(holder(DAEMON, INIT), asked) is None


@pytest.mark.parametrize(
    ("found", "asked", "instead"),
    [
        miss("nothing ends", holder(DAEMON, INIT), ENDING._replace(ending=None)),
        miss(
            "another run is open in this process", holder(DAEMON, INIT), ENDING._replace(began=None)
        ),
        miss("it is older than the run", holder(DAEMON._replace(start=999), INIT), ENDING),
        miss(
            "the port was held when it began",
            holder(DAEMON, INIT),
            ENDING._replace(quiet=frozenset()),
        ),
        miss(
            "one of its ports was held when it began",
            holder(DAEMON, INIT, sockets=[socket(1), socket(2, Port(9000))]),
            ENDING,
        ),
        miss(
            "its environment can be read", holder(DAEMON._replace(environment="read"), INIT), ENDING
        ),
        miss(
            "its environment is hidden",
            holder(DAEMON._replace(environment="unreadable", complete=False), INIT),
            ENDING,
        ),
        miss("it is another user's", holder(DAEMON._replace(owner=BOB), INIT), ENDING),
        miss("whose it is is not told", holder(DAEMON._replace(owner=None), INIT), ENDING),
        miss(
            "it lies in another project",
            holder(DAEMON._replace(cwd=ELSEWHERE), INIT, project=ELSEWHERE),
            ENDING,
        ),
        miss("it is a service", holder(DAEMON._replace(unit="redis.service"), INIT), ENDING),
        miss("somebody started it", holder(DAEMON, NODEMON, INIT), ENDING),
        miss("somebody at a terminal started it", holder(DAEMON, OUR_SHELL, INIT), ENDING),
        miss(
            "it lives in another control group",
            holder(DAEMON._replace(control_group="/x"), INIT),
            ENDING._replace(caller=ENDING.caller._replace(control_group="/y")),
        ),
        miss(
            "its control group is told, and ours is not",
            holder(DAEMON._replace(control_group="/x"), INIT),
            ENDING,
        ),
        miss(
            "another runner may have started it",
            holder(DAEMON, INIT),
            ENDING._replace(neighbours=WORKING),
            "unreadable live",
        ),
        miss(
            "another test of the runner around us may have started it",
            holder(DAEMON, INIT),
            ENDING._replace(lineage=(OUR_NOX, INIT)),
        ),
        miss(
            "another worker of our pytest-xdist may have started it",
            holder(DAEMON, INIT),
            ENDING._replace(
                caller=process(710, EXECNET, marks={"PYTEST_XDIST_WORKER": "gw0"}),
                lineage=(XDIST, INIT),
            ),
            "unreadable live",
        ),
        miss("it is our child", holder(DAEMON, OUR_PYTEST, OUR_SHELL, INIT), ENDING),
    ],
)
def test_no_arrival(found: Holder, asked: Context, instead: str) -> None:
    assert arrival(found, asked) is None
    assert told(found, asked) == instead


@pytest.mark.parametrize(
    "near",
    [
        case("in another project", neighbour(THEIR_PYTEST, INIT, project=ELSEWHERE)),
        case("a fork", neighbour(fork(THEIR_PYTEST, 710), INIT)),
        case("younger", neighbour(THEIR_PYTEST._replace(start=2001), INIT)),
    ],
)
def test_an_arrival_that_this_runner_has_not_started(near: Neighbour) -> None:
    assert arrival(holder(DAEMON, INIT), ENDING._replace(neighbours=(near,))) == CAME_UP


# unreadable: its environment cannot be read, or was wiped

HIDDEN = process(2000, environment="unreadable", complete=False)
OF_ANYBODY = used_by(THEIR_PYTEST, "pytest (pid 700)", "unreadable")
IN_GW0 = context(process(710, EXECNET, marks={"PYTEST_XDIST_WORKER": "gw0"}), XDIST, INIT)


@pytest.mark.parametrize(
    ("found", "asked", "origin"),
    [
        case("wiped", holder(DAEMON, INIT), AT_WORK, OF_ANYBODY),
        case("hidden", holder(HIDDEN, INIT), AT_WORK, OF_ANYBODY),
        case("incomplete", holder(process(2000, complete=False), INIT), AT_WORK, OF_ANYBODY),
        case(
            "in no project",
            holder(DAEMON._replace(cwd="/"), INIT, project=None),
            AT_WORK,
            OF_ANYBODY,
        ),
        case(
            "a portfree run may have started it",
            holder(DAEMON, INIT),
            context(neighbours=(neighbour(PORTFREE_RUN, THEIR_SHELL, INIT),)),
            used_by(PORTFREE_RUN, "portfree (pid 700)", "unreadable"),
        ),
        case(
            "another worker of our controller of pytest-xdist may have started it",
            holder(DAEMON, INIT),
            IN_GW0,
            used_by(XDIST, "pytest (pid 705)", "unreadable"),
        ),
        case(
            "the same, and it is as old as that",
            holder(DAEMON._replace(start=705), INIT),
            IN_GW0,
            used_by(XDIST, "pytest (pid 705)", "unreadable"),
        ),
        case(
            "somebody started it who has no terminal",
            holder(DAEMON, NODEMON, INIT),
            AT_WORK,
            OF_ANYBODY,
        ),
        case(
            "somebody sits above the one who has adopted it",
            holder(DAEMON, process(9, "tini -- make"), OUR_SHELL, INIT),
            AT_WORK,
            OF_ANYBODY,
        ),
    ],
)
def test_unreadable(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(unreadable(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


@pytest.mark.parametrize(
    ("found", "asked", "instead"),
    [
        miss("it reads well", holder(process(2000, environment="read"), INIT), AT_WORK),
        miss("nobody is at work", holder(DAEMON, INIT)),
        miss(
            "a runner works in another project",
            holder(DAEMON, INIT),
            context(neighbours=(neighbour(THEIR_PYTEST, INIT, project=ELSEWHERE),)),
        ),
        miss("a younger runner works", holder(DAEMON._replace(start=699), INIT), AT_WORK),
        miss(
            "a runner of another user works",
            holder(DAEMON, INIT),
            context(neighbours=(neighbour(THEIR_PYTEST._replace(owner=BOB), INIT),)),
        ),
        miss(
            "a fork of a runner is left",
            holder(DAEMON, INIT),
            context(neighbours=(neighbour(fork(THEIR_PYTEST, 710), INIT),)),
        ),
        miss("somebody at a terminal started it", holder(DAEMON, OUR_SHELL, INIT), AT_WORK),
        miss(
            "somebody at a terminal started it, by way of a script",
            holder(DAEMON, process(9, "sh x.sh", session=800), OUR_SHELL, INIT),
            AT_WORK,
        ),
        miss(
            "it has a terminal for itself", holder(DAEMON._replace(terminal="pts/5"), INIT), AT_WORK
        ),
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
    ],
)
def test_not_unreadable(found: Holder, asked: Context, instead: str) -> None:
    assert unreadable(found, asked) is None
    assert told(found, asked) == instead


# What else the rules ask


@pytest.mark.parametrize(
    "found",
    [
        case("it bears a mark", holder(born(IN_A_TEST), INIT)),
        case("a mark of CI", holder(born(JOB), INIT)),
        case("an ancestor bears one", holder(process(), NODEMON, STEP._replace(marks=NOX), INIT)),
        case("its environment was wiped", holder(DAEMON, INIT)),
        case("its environment is hidden", holder(process(2000, environment="unreadable"), INIT)),
        case("it is incomplete", holder(process(2000, complete=False), INIT)),
        case("it is a fork of a runner", holder(COPY, NODEMON, INIT)),
        case("an ancestor is one", holder(process(), fork(GITLAB, 710), INIT)),
        case("it is in a folder of pytest", there(UNLOCKED, redis(environment="read"))),
        case("it is a fork of anything, and was adopted", holder(fork(SCRIPTED, 2000), INIT)),
    ],
)
def test_it_takes_the_neighbours_to_tell(found: Holder) -> None:
    assert needs_neighbours(found)


@pytest.mark.parametrize(
    "found",
    [
        case("it reads well", holder()),
        case("it descends from a runner", below(THEIR_PYTEST, THEIR_SHELL, INIT)),
        case("it is a fork, and somebody looks after it", holder(fork(SCRIPTED, 2000), SCRIPTED)),
        case("its parent was adopted", holder(fork(SCRIPTED, 2000), SCRIPTED, INIT)),
        case("it has executed a program, and was adopted", holder(process(2000, forked=False))),
        case("it does not tell whether it did", holder(process(2000, forked=None), INIT)),
    ],
)
def test_it_takes_no_neighbours_to_tell(found: Holder) -> None:
    assert not needs_neighbours(found)


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        case("our child", below(OUR_PYTEST, OUR_SHELL, INIT), context()),
        case("a fork of us", holder(fork(OUR_PYTEST, 2000), INIT), context()),
        case(
            "in our own temporary folder",
            there(LOCKED._replace(lock=Lock(900, NOW), process=OUR_PYTEST)),
            TODAY,
        ),
        case("born in a test after us", holder(born(IN_A_TEST), INIT), context()),
        case("born in a nox session after us", holder(born(NOX), INIT), context()),
        case("as old as we are", holder(born(IN_A_TEST, start=900), INIT), context()),
        case("it has wiped its environment after us", holder(DAEMON, INIT), context()),
    ],
)
def test_what_may_have_been_started_for_the_run_that_begins(found: Holder, asked: Context) -> None:
    found = with_origin(found, asked)

    assert may_be_for_this_run(found, asked)
    # A conftest.py has started it: the run may count on it.
    assert judge(found, asked._replace(phase="before"))[:2] == ("keep", "own-run")


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        case("born in no test", holder(), context()),
        case("older than we are", holder(born(IN_A_TEST, start=899), INIT), context()),
        case("it has wiped its environment before us", holder(DAEMON._replace(start=1)), context()),
        case("its environment is hidden", holder(HIDDEN, INIT), context()),
        case("a CI job", holder(born(JOB), INIT), context()),
        case("a fork of another one", holder(COPY, INIT), AT_WORK),
        case(
            "in another control group",
            holder(born(IN_A_TEST, control_group="/x"), INIT),
            context(OUR_PYTEST._replace(control_group="/y"), INIT),
        ),
        case("below our parent", below(OUR_SHELL, INIT), context()),
    ],
)
def test_what_was_not_started_for_the_run_that_begins(found: Holder, asked: Context) -> None:
    assert not may_be_for_this_run(with_origin(found, asked), asked)


OF_GW1 = {"PYTEST_XDIST_WORKER": "gw1"}


@pytest.mark.parametrize(
    "found",
    [
        case("another worker", holder(process(711, EXECNET), XDIST, INIT)),
        case("what it has started", below(process(711, EXECNET), XDIST, INIT)),
        case("what it has started, adopted", holder(born(OF_GW1), INIT)),
        case("the same, as old as our controller", holder(born(OF_GW1, start=705), INIT)),
    ],
)
def test_what_belongs_to_another_worker_of_our_xdist(found: Holder) -> None:
    assert is_siblings(found, IN_GW0)


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        case("our own", holder(process(), IN_GW0.caller, XDIST, INIT), IN_GW0),
        case("our own, adopted", holder(born({"PYTEST_XDIST_WORKER": "gw0"}), INIT), IN_GW0),
        case("nobody's", holder(), IN_GW0),
        case("older than our controller", holder(born(OF_GW1, start=704), INIT), IN_GW0),
        case("of another run", holder(born(OF_GW1 | run_id(THEIRS)), INIT), IN_GW0),
        case("another worker, and we are none", holder(born(OF_GW1), INIT), context()),
        case(
            "another worker, and we only have the name of one",
            holder(born(OF_GW1), INIT),
            context(IN_GW0.caller, OUR_SHELL, INIT),
        ),
    ],
)
def test_what_belongs_to_no_other_worker_of_our_xdist(found: Holder, asked: Context) -> None:
    assert not is_siblings(found, asked)


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        ({}, ""),
        (VERSION, ""),
        (IN_A_TEST | NOX, f"started in {TEST}"),
        (NEXTEST, "started in api::search"),
        (NOX | TOX, "started in nox session tests-3.13"),
        (TOX, "started in tox environment py313"),
    ],
)
def test_where_it_was_born_in_words(marks: Mapping[str, str], says: str) -> None:
    assert birth(holder(born(marks), INIT)) == says


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        ({}, ""),
        ({"PORTFREE_KEEP": "1"}, "PORTFREE_KEEP=1"),
        ({"PORTFREE_KEEP": "yes"}, ""),
        ({"BUILD_ID": "dontKillMe"}, "BUILD_ID=dontKillMe"),
        ({"BUILD_ID": "12"}, ""),
        ({"JENKINS_NODE_COOKIE": "dontKillMe"}, "JENKINS_NODE_COOKIE=dontKillMe"),
        ({"RUNNER_TRACKING_ID": ""}, "an empty RUNNER_TRACKING_ID"),
        ({"RUNNER_TRACKING_ID": "github_1"}, ""),
    ],
)
def test_who_asks_to_be_left_running(marks: Mapping[str, str], says: str) -> None:
    assert asks_to_stay(holder(born(marks), INIT), context()) == says
    # What was wiped, or is the same for all below, still stands above.
    above = process(9, "sh x", marks=marks)
    assert asks_to_stay(holder(process(), above, INIT), context()) == says


def test_an_empty_id_that_ours_is_too_asks_for_nothing() -> None:
    found = holder(born({"RUNNER_TRACKING_ID": ""}), INIT)
    agent = AGENT._replace(marks={"RUNNER_TRACKING_ID": ""})

    assert asks_to_stay(found, context(OUR_PYTEST, agent, INIT)) == ""


# The order: the first that applies

BOTH = {
    ("descent", "id"): (
        holder(*(born(run_id(THEIRS)), THEIR_PYTEST, THEIR_SHELL, INIT), live_runs=alive(THEIRS)),
        context(),
    ),
    ("id", "mark"): (holder(born(run_id(THEIRS) | IN_A_TEST), INIT), context()),
    ("mark", "copy"): (holder(COPY._replace(marks=NOX), INIT), context()),
    ("copy", "folder"): (there(KILLED, COPY._replace(cwd=FOLDER)), TODAY),
    ("folder", "arrival"): (there(KILLED), ENDING),
    ("folder", "unreadable"): (there(KILLED), TODAY_AT_WORK),
}


def test_the_seven_kinds_in_this_order() -> None:
    assert tuple(look.__name__.removesuffix("_") for look in EVIDENCE) == get_args(Evidence)


@pytest.mark.parametrize(
    ("first", "second"), [pytest.param(*pair, id=" before ".join(pair)) for pair in BOTH]
)
def test_the_first_that_applies_tells(first: str, second: str) -> None:
    found, asked = BOTH[first, second]

    applying = [origin.evidence for look in EVIDENCE if (origin := look(found, asked))]

    assert applying[:2] == [first, second]
    assert origin_of(found, asked) == next(
        look(found, asked) for look in EVIDENCE if look.__name__.removesuffix("_") == first
    )


# What it means: whose a holder is, and the narrowest scope in which portfree stops it


def narrowest(found: Holder, asked: Context) -> str:
    stops = [
        scope for scope in SCOPES if judge(found, asked._replace(scope=scope)).action == "stop"
    ]
    return next(iter(stops), "never")


def story(
    name: str, found: Holder, rule: str, stopped: str, asked: Context | None = None
) -> object:
    return pytest.param(found, asked or context(), rule, stopped, id=name)


OUTSIDE = {"cwd": ELSEWHERE}
PM2 = titled(9, "PM2 v5.3.0: God Daemon (/home/me/.pm2)", cwd=HOME)
FORWARD = "ssh -NL 8000:db:5432 build.example"
KUBECTL = "kubectl port-forward svc/db 8000:5432"
MUX = titled(2000, "ssh: /home/me/.ssh/cm [mux]", name="ssh", environment="wiped", cwd="/")


@pytest.mark.parametrize(
    ("found", "asked", "rule", "stopped"),
    [
        # Forks of test runners
        story(
            "multiprocessing: the child of a killed pytest, elsewhere",
            holder(COPY._replace(cwd=ELSEWHERE), INIT, project=ELSEWHERE),
            "left-behind",
            "orphans",
        ),
        story(
            "multiprocessing: the child of a pytest that lives",
            holder(COPY, THEIR_PYTEST, THEIR_SHELL, INIT),
            "live-run",
            "any",
        ),
        story("a daemon of a pytest that lives", holder(COPY, INIT), "live-run", "any", AT_WORK),
        story(
            "the server of a forked child of a killed pytest",
            holder(process(), fork(THEIR_PYTEST, 710), INIT),
            "left-behind",
            "orphans",
        ),
        story(
            "a fork of a pytest that has ended keeps nothing else",
            holder(born(IN_A_TEST), INIT),
            "left-behind",
            "orphans",
            context(neighbours=(neighbour(COPY._replace(pid=710, start=710), INIT),)),
        ),
        story(
            "a fork of a pytest that has ended keeps no other fork of it",
            holder(COPY, INIT),
            "left-behind",
            "orphans",
            context(neighbours=(neighbour(fork(THEIR_PYTEST, 710), INIT),)),
        ),
        story(
            "a child of a forkserver whose pytest was killed",
            holder(fork(FORKSERVER._replace(marks=IN_A_TEST), 2000), INIT),
            "left-behind",
            "orphans",
        ),
        story(
            "the server of an xdist worker whose controller was killed",
            holder(born(VERSION | IN_A_TEST), process(710, EXECNET, marks=VERSION), INIT),
            "left-behind",
            "orphans",
        ),
        # Redis wipes its environment
        story("redis: its pytest lives", there(LOCKED), "live-run", "any", TODAY),
        story("redis: its pytest was killed", there(KILLED), "left-behind", "orphans", TODAY),
        story("redis: its pytest has ended", there(UNLOCKED), "left-behind", "orphans", TODAY),
        story("redis: its folder is gone", there(REMOVED), "left-behind", "orphans", TODAY),
        story(
            "redis: its folder is gone, and some pytest works",
            there(REMOVED),
            "live-run",
            "any",
            TODAY_AT_WORK,
        ),
        story(
            "redis: another one has the pid of its pytest",
            there(LOCKED._replace(process=process(700, "vim", started=NOW - 10))),
            "left-behind",
            "orphans",
            TODAY,
        ),
        story(
            "redis: in the project, and some pytest works",
            holder(DAEMON, INIT),
            "live-run",
            "any",
            AT_WORK,
        ),
        story("redis: in the project, and nobody works", holder(DAEMON, INIT), "orphan", "orphans"),
        story(
            "redis: of the system",
            holder(DAEMON._replace(cwd="/var/lib/redis"), INIT, project=None),
            "attended",
            "mine",
        ),
        story(
            "redis: it came up during our run",
            holder(DAEMON._replace(cwd="/"), INIT, project=None),
            "own-run",
            "orphans",
            ENDING,
        ),
        # A person who looks into an old folder of pytest
        story(
            "a person in an old folder of pytest: a server",
            there(UNLOCKED, born({}, cwd=FOLDER), OUR_SHELL._replace(cwd=FOLDER), INIT),
            "attended",
            "mine",
            TODAY,
        ),
        story(
            "a person in an old folder of pytest: a server with nohup",
            there(UNLOCKED, born({}, cwd=FOLDER, session=800), OUR_SHELL, INIT),
            "attended",
            "mine",
            TODAY,
        ),
        story(
            "a person in an old folder of pytest: the shell itself, which has inherited a socket",
            there(UNLOCKED, OUR_SHELL._replace(cwd=FOLDER), INIT),
            "attended",
            "mine",
            context(process(900, "portfree 8000"), process(810, "zsh", terminal="pts/9"), INIT),
        ),
        # Servers that are called like test runners
        story(
            "karma of a killed test",
            holder(KARMA._replace(marks=IN_A_TEST), INIT),
            "left-behind",
            "orphans",
        ),
        story(
            "karma of a pytest that lives",
            holder(KARMA, THEIR_PYTEST, THEIR_SHELL, INIT),
            "live-run",
            "any",
        ),
        story("karma by hand", holder(KARMA, OUR_SHELL, INIT), "live-run", "any"),
        story("karma, adopted", holder(KARMA, INIT), "orphan", "orphans"),
        story(
            "karma, adopted, elsewhere",
            holder(KARMA._replace(cwd=ELSEWHERE), INIT),
            "attended",
            "mine",
        ),
        story(
            "playwright run-server by hand",
            holder(process(2000, "node /x/.bin/playwright run-server"), OUR_SHELL, INIT),
            "attended",
            "project",
        ),
        story(
            "playwright run-server of a killed test",
            holder(process(2000, "node /x/.bin/playwright run-server", marks=IN_A_TEST), INIT),
            "left-behind",
            "orphans",
        ),
        story(
            "playwright run-server, adopted",
            holder(process(2000, "playwright run-server"), INIT),
            "orphan",
            "orphans",
        ),
        story("a pytest that goes on, adopted", holder(THEIR_PYTEST, INIT), "live-run", "any"),
        # Terminals that were made in a test
        story(
            "script(1) in a killed test",
            holder(IN_THE_WINDOW, IN_A_PTY, SCRIPT, INIT),
            "left-behind",
            "orphans",
        ),
        story(
            "script(1) without marks",
            holder(
                *(process(2000, session=1990, terminal="pts/7"), IN_A_PTY._replace(marks={})),
                *(SCRIPT._replace(marks={}), INIT),
            ),
            "orphan",
            "orphans",
        ),
        story(
            "script(1) by hand",
            holder(
                *(process(2000, session=1990, terminal="pts/7"), WINDOW._replace(marks={})),
                *(process(1980, "script"), OUR_SHELL, INIT),
            ),
            "attended",
            "project",
        ),
        story(
            "xterm in a killed test",
            holder(IN_THE_WINDOW, WINDOW, process(1980, "xterm", marks=IN_A_TEST), INIT),
            "attended",
            "project",
        ),
        story(
            "another terminal emulator in a killed test",
            holder(IN_THE_WINDOW, WINDOW, EMULATOR, INIT),
            "attended",
            "project",
        ),
        # What forwards a port
        *(
            story(
                f"{command.split()[0]}: a forward of a killed test",
                holder(process(2000, command, marks=IN_A_TEST, cwd=HOME), INIT),
                "left-behind",
                "orphans",
            )
            for command in (FORWARD, KUBECTL)
        ),
        *(
            story(
                f"{command.split()[0]}: a forward that somebody left running here",
                holder(process(2000, command), INIT),
                "attended",
                "project",
            )
            for command in (FORWARD, KUBECTL)
        ),
        *(
            story(
                f"{command.split()[0]}: a forward that somebody left running elsewhere",
                holder(process(2000, command, cwd=HOME), INIT),
                "attended",
                "mine",
            )
            for command in (FORWARD, KUBECTL)
        ),
        *(
            story(
                f"{command.split()[0]}: a forward at a terminal",
                holder(process(2000, command, session=800, terminal="pts/1"), OUR_SHELL, INIT),
                "attended",
                "project",
            )
            for command in (FORWARD, KUBECTL)
        ),
        story(
            "ssh: a session with a forward",
            holder(
                process(2000, "ssh -L 8000:db:5432 build.example", session=800, terminal="pts/1"),
                OUR_SHELL,
                INIT,
            ),
            "attended",
            "never",
        ),
        story(
            "ssh: what other sessions share", holder(MUX, INIT, project=None), "attended", "never"
        ),
        # Who asks to be left running
        *(
            story(
                f"{name}={value}: an orphan",
                holder(born({name: value}), INIT),
                "attended",
                "project",
            )
            for name, value in (
                ("PORTFREE_KEEP", "1"),
                ("BUILD_ID", "dontKillMe"),
                ("JENKINS_NODE_COOKIE", "dontKillMe"),
                ("RUNNER_TRACKING_ID", ""),
            )
        ),
        *(
            story(
                f"{name}={value}: of a killed test",
                holder(born({name: value} | IN_A_TEST, cwd=ELSEWHERE), INIT),
                "attended",
                "project",
            )
            for name, value in (
                ("PORTFREE_KEEP", "1"),
                ("BUILD_ID", "dontKillMe"),
                ("JENKINS_NODE_COOKIE", "dontKillMe"),
                ("RUNNER_TRACKING_ID", ""),
            )
        ),
        story(
            "PORTFREE_KEEP=1: of our own run",
            holder(born({"PORTFREE_KEEP": "1"} | run_id(OURS)), INIT),
            "attended",
            "project",
            ENDING,
        ),
        story(
            "PORTFREE_KEEP=1: our child",
            holder(born({"PORTFREE_KEEP": "1"}), OUR_PYTEST, OUR_SHELL, INIT),
            "attended",
            "project",
        ),
        story(
            "PORTFREE_KEEP=1: said by its parent",
            holder(process(), process(9, "sh x", marks={"PORTFREE_KEEP": "1"}), INIT),
            "attended",
            "project",
        ),
        story("PORTFREE_KEEP=0", holder(born({"PORTFREE_KEEP": "0"}), INIT), "orphan", "orphans"),
        story("BUILD_ID=12", holder(born({"BUILD_ID": "12"}), INIT), "orphan", "orphans"),
        story(
            "an empty RUNNER_TRACKING_ID, and so is ours (nektos/act)",
            holder(born({"RUNNER_TRACKING_ID": ""}), INIT),
            "orphan",
            "orphans",
            context(OUR_PYTEST._replace(marks={"RUNNER_TRACKING_ID": ""}), OUR_SHELL, INIT),
        ),
        # Places
        story(
            "a package of a monorepo",
            holder(born({}, cwd=f"{PROJECT}/packages/web"), INIT, repository=PROJECT),
            "orphan",
            "orphans",
        ),
        story(
            "a package that has a pyproject.toml, and there is no repository",
            holder(
                born({}, cwd=f"{PROJECT}/packages/web"), INIT, project=f"{PROJECT}/packages/web"
            ),
            "orphan",
            "orphans",
        ),
        story(
            "a repository below ours",
            holder(
                born({}, cwd=f"{PROJECT}/vendor/x"),
                INIT,
                project=f"{PROJECT}/vendor/x",
                repository=f"{PROJECT}/vendor/x",
            ),
            "attended",
            "mine",
        ),
        story(
            "a repository below ours, and what a killed test has left there",
            holder(
                born(IN_A_TEST, cwd=f"{PROJECT}/vendor/x"),
                INIT,
                project=f"{PROJECT}/vendor/x",
                repository=f"{PROJECT}/vendor/x",
            ),
            "left-behind",
            "orphans",
        ),
        story(
            "attended, in our project", holder(process(), OUR_SHELL, INIT), "attended", "project"
        ),
        story(
            "attended, in another project",
            holder(born({}, cwd=ELSEWHERE), OUR_SHELL, INIT),
            "attended",
            "mine",
        ),
        story(
            "a live run in our project",
            holder(process(), THEIR_PYTEST, THEIR_SHELL, INIT),
            "live-run",
            "any",
        ),
        # portfree run, which adopts
        story(
            "portfree run around us: what an inner run has left",
            holder(born(run_id(OURS, INNER), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
            "left-behind",
            "orphans",
            IN_A_PORTFREE_RUN,
        ),
        story(
            "portfree run around us: what an inner run that goes on has started",
            holder(
                born(run_id(OURS, INNER)), PORTFREE_RUN, THEIR_SHELL, INIT, live_runs=alive(INNER)
            ),
            "live-run",
            "any",
            IN_A_PORTFREE_RUN,
        ),
        story(
            "portfree run beside us: what an inner run has left",
            holder(
                born(run_id(THEIRS, INNER)),
                PORTFREE_RUN,
                THEIR_SHELL,
                INIT,
                live_runs=alive(THEIRS),
            ),
            "live-run",
            "any",
        ),
        story(
            "portfree run around us: what a killed test has left",
            holder(born(run_id(OURS) | IN_A_TEST), PORTFREE_RUN, THEIR_SHELL, INIT),
            "left-behind",
            "orphans",
            IN_A_PORTFREE_RUN,
        ),
        story(
            "portfree run around us: what has gone into a session of its own",
            holder(born(run_id(OURS)), PORTFREE_RUN, THEIR_SHELL, INIT),
            "orphan",
            "orphans",
            IN_A_PORTFREE_RUN,
        ),
        story(
            "portfree run around us: what is in its session",
            holder(born(run_id(OURS), session=600), PORTFREE_RUN, THEIR_SHELL, INIT),
            "attended",
            "project",
            IN_A_PORTFREE_RUN,
        ),
        # Wrappers
        *(
            story(
                f"{command}: adopted",
                holder(process(), process(9, command), INIT),
                "orphan",
                "orphans",
            )
            for command in (
                *("bun run dev", "bunx vite", "deno task dev", "go run .", "cargo run --release"),
                *("dotnet run", "pixi run dev", "mise run dev", "just dev", "task dev"),
                *("node /x/.bin/concurrently 'npm:dev'", "python /x/bin/honcho start"),
                *("node /x/.bin/npm-run-all -p dev", "node /x/.bin/run-p dev", "foreman start"),
            )
        ),
        *(
            story(
                f"{command}: with a terminal, adopted",
                holder(
                    process(2000, session=800, terminal="pts/1"),
                    process(9, command, session=800, terminal="pts/1"),
                    INIT,
                ),
                "attended",
                "project",
            )
            for command in (
                "node /x/.bin/concurrently 'npm:dev'",
                "honcho start",
                "foreman start",
                "run-s dev",
            )
        ),
        *(
            story(
                f"{command}: it looks after what it started",
                holder(process(), process(9, command), INIT),
                "attended",
                "project",
            )
            for command in (
                "bun server.ts",
                "deno run server.ts",
                "go tool x",
                "cargo watch -x run",
                "dotnet watch run",
            )
        ),
    ],
)
def test_whose_it_is(found: Holder, asked: Context, rule: str, stopped: str) -> None:
    assert judge(found, asked).rule == rule
    assert narrowest(found, asked) == stopped


def test_a_runner_that_was_adopted_says_how_old_it_is() -> None:
    verdict = judge(holder(THEIR_PYTEST._replace(started=NOW - 3 * 3_600), INIT), context(time=NOW))

    assert verdict.reason == (
        "in use by pytest (pid 700, adopted, 3 h old: nobody waits for its result) in ~/shop"
    )
    assert verdict.advice == Advice()


def test_a_runner_that_was_adopted_may_not_tell_its_age() -> None:
    verdict = judge(holder(process(), THEIR_PYTEST, INIT), context(time=NOW))

    assert "in use by pytest (pid 700, adopted: nobody waits" in verdict.reason


# Process managers: they serve several projects, and start again what is stopped

MANAGERS = [
    case("pm2", PM2, "pm2 stop server (pm2 list names them)"),
    case(
        "forever",
        process(9, "node /x/forever/bin/monitor server.js"),
        "forever stop server (forever list names them)",
    ),
    case(
        "supervisord",
        process(9, "python /usr/bin/supervisord -n"),
        "supervisorctl stop server (supervisorctl status names them)",
    ),
    case(
        "circusd",
        process(9, "python /x/bin/circusd x.ini"),
        "circusctl stop server (circusctl status names them)",
    ),
    case("overmind", process(9, "overmind start"), "overmind stop server (overmind ps names them)"),
    case(
        "process-compose",
        process(9, "process-compose up"),
        "process-compose process stop server (process-compose list names them)",
    ),
    case("runsv", process(9, "runsv web"), "sv down web"),
    case("s6", process(9, "s6-supervise /run/service/web"), "s6-svc -d /run/service/web"),
    case("monit", process(9, "monit -c x"), "monit stop server (monit summary names them)"),
    case("god", process(9, "ruby /usr/bin/god -c x"), "god stop server (god status names them)"),
]


@pytest.mark.parametrize(("manager", "advice"), MANAGERS)
def test_what_a_process_manager_looks_after_is_kept(manager: Process, advice: str) -> None:
    for found in (
        holder(process(), manager, INIT),
        holder(process(3000, "gunicorn: worker"), process(2000), manager, INIT),
        holder(process(), process(8, "sh x.sh"), manager, OUR_SHELL, INIT),
        holder(born(IN_A_TEST), manager, INIT),
    ):
        verdict = judge(found, context())

        assert (verdict.action, verdict.rule) == ("keep", "service")
        assert narrowest(found, context()) == "never"
        assert f"(pid {manager.pid}) looks after it, and would start it again" in verdict.reason
    assert judge(holder(process(), manager, INIT), context()).instead == advice


@pytest.mark.parametrize(("manager", "advice"), MANAGERS)
def test_a_process_manager_itself_is_kept(manager: Process, advice: str) -> None:
    verdict = judge(holder(manager, INIT), context())

    assert (verdict.action, verdict.rule) == ("keep", "service")
    assert "is a process manager, which may serve other projects too" in verdict.reason
    assert verdict.instead == advice.replace(" server ", " NAME ")
    assert narrowest(holder(manager, INIT), context()) == "never"


@pytest.mark.parametrize(("manager", "advice"), MANAGERS)
def test_a_process_manager_that_a_killed_test_has_left_is_stopped(
    manager: Process, advice: str
) -> None:
    manager = manager._replace(marks=IN_A_TEST)

    assert advice
    wrapper = process(8, "npm run services", marks=IN_A_TEST)
    for found in (
        holder(manager, INIT),
        holder(born(IN_A_TEST), manager, INIT),
        holder(born(IN_A_TEST), manager, wrapper, INIT),
    ):
        assert judge(found, context())[:2] == ("stop", "left-behind")


def test_what_our_own_process_manager_looks_after_is_attended() -> None:
    manager = process(9, "supervisord -n")
    verdict = judge(holder(process(), manager, INIT), context(OUR_PYTEST, manager, INIT))

    assert (verdict.action, verdict.rule) == ("keep", "attended")
    assert verdict.reason == "started by supervisord (pid 9) in ~/shop"


def test_an_app_that_an_interpreter_runs_without_a_name_is_called_name() -> None:
    verdict = judge(holder(process(2000, "python -c 'serve()'"), PM2, INIT), context())

    assert verdict.instead == "pm2 stop NAME (pm2 list names them)"


# What holds for every input: random machines, with runners, forks of them, and people

# A machine that is busy with other tests is no fault.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

_COMMANDS = st.sampled_from(
    [
        *("python server.py", "gunicorn app", "nodemon x", "shopctl", "sh -c server", "bash"),
        *("npm run dev", "tini -- app", "systemd --user", "tmux new", "xterm", "supervisord"),
        *["python -m pytest"] * 5,
        *("nox", "python -m portfree run -- x", "karma"),
        *("gitlab-runner run", "Runner.Listener", "script x", "python run_tests.py", "ssh -N x"),
        *("concurrently x", "go run ."),
    ]
)
_MARKS = {
    **dict.fromkeys(MARKS, ("x", "y")),
    "PORTFREE_RUN_ID": tuple(
        "/".join(path) for path in ((OURS,), (THEIRS,), (OURS, INNER), (THEIRS, INNER), (HERE,))
    ),
    "PYTEST_XDIST_WORKER": ("gw0", "gw1"),
    "CI_JOB_ID": ("990", "991"),
    "RUNNER_TRACKING_ID": ("", "github_1"),
    "PORTFREE_KEEP": ("1",),
}
_ENVIRONMENTS: tuple[Environment, ...] = ("read", "read", "read", "wiped")
_PLACES = st.sampled_from([PROJECT, PROJECT, PROJECT, ELSEWHERE, HOME, "/", FOLDER, None])


@st.composite
def _marks(draw: st.DrawFn) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(sorted(_MARKS)), max_size=2))
    return {name: draw(st.sampled_from(_MARKS[name])) for name in names}


@st.composite
def _processes(draw: st.DrawFn) -> list[Process]:
    """A tree of processes, from pid 1 down; some are forks of their parents, some were adopted."""
    first = draw(st.sampled_from([INIT, INIT, process(1, "app", session=1), FIRST_TOX]))
    found = [first]
    for pid in range(2, draw(st.integers(3, 9))):
        parent = draw(st.sampled_from(found))
        own = process(pid, draw(_COMMANDS), marks=draw(_marks()), forked=False)
        may_fork = parent.pid != 1 and parent.name != "karma"  # Node.js forks nothing
        if may_fork and draw(st.sampled_from([False, False, True])):
            own = fork(parent, pid, forked=draw(st.sampled_from([True, True, None])))
        terminal = draw(st.sampled_from([None, None, None, "pts/1"]))
        environment = draw(st.sampled_from(_ENVIRONMENTS))
        found.append(
            own._replace(
                # 0: from outside of the container; 77: out of sight.
                ppid=draw(st.sampled_from([*[parent.pid] * 5, *[1] * 5, 0, 77])),
                owner=draw(st.sampled_from([*[ME] * 12, BOB, ROOT, None])),
                cwd=draw(_PLACES),
                session=draw(st.sampled_from([pid, parent.session, parent.session, 1, None])),
                terminal=terminal,
                foreground=terminal is not None and draw(st.booleans()),
                marks={} if environment == "wiped" else own.marks,
                environment=environment,
                complete=draw(st.sampled_from([*[True] * 15, False])),
                started=draw(st.sampled_from([None, NOW - 100, NOW - 4 * DAY])),
                control_group=draw(st.sampled_from([None, "/a", "/a", "/b"])),
            )
        )
    return found


def _lineage(own: Process, everybody: list[Process]) -> tuple[Process, ...]:
    by_pid = {each.pid: each for each in everybody}
    found: list[Process] = []
    child = own
    while child.ppid and (parent := by_pid.get(child.ppid)):
        found.append(parent)
        child = parent
    return tuple(found)


def _project(place: str | None) -> str | None:
    return place if place in (PROJECT, ELSEWHERE) else None


class Machine(NamedTuple):
    holder: Holder
    context: Context
    others: tuple[Neighbour, ...]
    """The live processes that are none of us, whether the context knows of them or not."""


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    everybody = draw(_processes())
    own = draw(st.sampled_from(everybody[1:]))
    # We may descend from anybody but the holder, and mostly do from nobody here.
    above = draw(st.sampled_from([None, None, *(each for each in everybody if each != own)]))
    caller = process(900, "pytest tests/unit", session=800, terminal="pts/1")
    caller = caller._replace(start=draw(st.integers(1, 9)), marks=draw(_marks()))
    ours = (caller, *((above, *_lineage(above, everybody)) if above else (OUR_SHELL, INIT)))
    session_folder = None
    if own.cwd == FOLDER:
        lock = draw(st.sampled_from([None, Lock(700, NOW - 99)]))
        session_folder = SessionFolder(
            FOLDER,
            exists=lock is not None or draw(st.booleans()),
            lock=lock,
            process=draw(st.sampled_from([None, *everybody])) if lock else None,
            hidden=draw(st.booleans()),
        )
    lineage = _lineage(own, everybody)
    forked = next((each for each in (own, *lineage) if each.forked), None)
    found = Holder(
        process=own,
        sockets=frozenset({socket()}),
        lineage=lineage,
        project=_project(own.cwd),
        repository=draw(st.sampled_from([None, _project(own.cwd)])),
        leader=next((each for each in everybody if forked and each.pid == forked.session), None),
        folder=session_folder,
        live_runs=draw(st.frozensets(st.sampled_from((OURS, THEIRS, INNER, HERE)))),
    )
    others = tuple(
        Neighbour(each, _lineage(each, everybody), _project(each.cwd))
        for each in everybody
        if each not in ours
    )
    asked = context(
        phase=draw(st.sampled_from(get_args(Phase))),
        time=NOW,
        project=draw(st.sampled_from([PROJECT, PROJECT, None])),
        run=draw(st.sampled_from([(), (OURS,), (OURS, INNER), (HERE,)])),
        ending=draw(st.sampled_from([None, None, OURS, INNER])),
        began=draw(st.sampled_from([None, 1, 4])),
        quiet=draw(st.sampled_from([frozenset[Port](), frozenset({Port(8000)})])),
        jobs=draw(st.sampled_from([{}, {"CI_JOB_ID": "990"}])),
        neighbours=tuple(each for each in others if draw(st.booleans())),
    )
    caller = caller._replace(ppid=ours[1].pid)
    return Machine(found, asked._replace(caller=caller, lineage=ours[1:]), others)


@patient
@given(machines())
def test_an_origin_is_complete_and_its_text_goes_into_json(machine: Machine) -> None:
    origin = origin_of(machine.holder, machine.context)
    assume(origin is not None)
    assert origin is not None

    told = origin._replace(runner=None)._asdict()
    assert json.loads(json.dumps(told)) == told
    assert origin.evidence in get_args(Evidence)
    assert origin.state in get_args(State)
    assert origin.run
    assert "None" not in origin.run + origin.why
    # What has ended says what was seen; what is live says whose it is.
    assert bool(origin.why) == (origin.state == "ended")
    assert origin.state == "live" or not (origin.runner or origin.alone or origin.ours)
    assert origin.runner is not None or not origin.alone


@patient
@given(machines())
def test_the_origin_is_what_the_first_evidence_tells(machine: Machine) -> None:
    found, asked = machine.holder, machine.context
    all_told = [origin for look in EVIDENCE if (origin := look(found, asked))]

    assert origin_of(found, asked) == (all_told[0] if all_told else None)


@patient
@given(machines())
def test_no_evidence_takes_a_live_runner_for_a_fork(machine: Machine) -> None:
    origin = origin_of(machine.holder, machine.context)

    assert origin is None or origin.runner is None or not is_copy(origin.runner)


@patient
@given(machines())
def test_who_needs_no_neighbours_is_told_nothing_by_them(machine: Machine) -> None:
    assume(not needs_neighbours(machine.holder))
    with_all = machine.context._replace(neighbours=machine.others)
    without = machine.context._replace(neighbours=())

    assert origin_of(machine.holder, with_all) == origin_of(machine.holder, without)


def _hide(found: Holder, change: Callable[[Process], Process]) -> Holder:
    return found._replace(process=change(found.process))


def _lock_hidden(found: Holder) -> Holder:
    if found.folder is None:
        return found
    unreadable = found.folder._replace(exists=True, lock=Lock(0, 0.0), process=None, hidden=True)
    return found._replace(folder=unreadable)


# What could not be read is never taken for a no.
_HIDE: dict[str, Callable[[Holder], Holder]] = {
    "the environment": lambda h: _hide(
        h, lambda p: p._replace(marks={}, environment="unreadable", complete=False)
    ),
    "whether a runner was forked": lambda h: (
        _hide(h, lambda p: p._replace(forked=None)) if is_copy(h.process) else h
    ),
    "whether any runner above it was forked": lambda h: h._replace(
        lineage=tuple(p._replace(forked=None) if is_copy(p) else p for p in h.lineage)
    ),
    "who leads its session": lambda h: h._replace(leader=None),
    "the lock of its folder": _lock_hidden,
    "who has locked its folder": lambda h: h._replace(
        folder=h.folder and h.folder._replace(process=None, hidden=True)
    ),
    "the ancestors": lambda h: h._replace(lineage=h.lineage[:1]),
    "the parent": lambda h: h._replace(lineage=()),
    "the owner": lambda h: _hide(h, lambda p: p._replace(owner=None)),
    "the session": lambda h: _hide(h, lambda p: p._replace(session=None)),
    "the sessions of its ancestors": lambda h: h._replace(
        lineage=tuple(p._replace(session=None) for p in h.lineage)
    ),
    "its age": lambda h: _hide(h, lambda p: p._replace(started=None)),
}


@pytest.mark.parametrize("hidden", _HIDE)
@patient
@given(machine=machines())
def test_what_is_hidden_never_turns_keep_into_stop(hidden: str, machine: Machine) -> None:
    found, asked = machine.holder, machine.context

    if judge(found, asked).action == "keep":
        assert judge(_HIDE[hidden](found), asked).action == "keep"


@patient
@given(machines())
def test_what_is_hidden_of_the_neighbours_never_turns_keep_into_stop(machine: Machine) -> None:
    found, asked = machine.holder, machine.context
    hidden = asked._replace(
        neighbours=tuple(
            near._replace(process=near.process._replace(forked=None, owner=None, session=None))
            for near in asked.neighbours
        )
    )

    if judge(found, asked).action == "keep":
        assert judge(found, hidden).action == "keep"


@patient
@given(machines(), st.sampled_from(SCOPES))
def test_who_else_is_at_work_never_turns_keep_into_stop(machine: Machine, scope: Scope) -> None:
    found, asked = machine.holder, machine.context._replace(scope=scope)
    for near in machine.others:
        crowded = asked._replace(neighbours=(*asked.neighbours, near))
        if judge(found, asked).action == "keep":
            assert judge(found, crowded).action == "keep"


@patient
@given(machines())
def test_a_wider_scope_stops_no_less(machine: Machine) -> None:
    stops = [
        judge(machine.holder, machine.context._replace(scope=scope)).action == "stop"
        for scope in SCOPES
    ]

    assert stops == sorted(stops)


# Found by random worlds


def test_a_fork_may_have_started_a_server_in_another_project() -> None:
    original = process(700, "python -m pytest", forked=False, cwd=ELSEWHERE)
    copied = fork(original, 1500, session=700)
    found = holder(process(), copied, INIT)
    asked = context(neighbours=(neighbour(original, THEIR_SHELL, INIT, project=ELSEWHERE),))

    assert judge(found, asked).rule == "live-run"


def test_an_editor_that_is_connected_is_somebody_at_work() -> None:
    editor = holder(process(500, "emacs --daemon"), INIT, sockets=())

    verdict = judge(holder(users=(editor,)), context())

    assert (verdict.action, verdict.rule) == ("keep", "attended")


def test_what_comes_up_in_another_container_is_not_of_our_run() -> None:
    daemon = process(2000, environment="wiped", container="f00d")
    asked = context(
        OUR_SHELL, INIT, phase="after", ending="1.2.3", began=1.0, quiet=frozenset({Port(8000)})
    )

    assert judge(holder(daemon, INIT), asked).rule == "container"
    inside = holder(daemon._replace(container=None), INIT)
    assert judge(inside, asked).rule == "own-run"
