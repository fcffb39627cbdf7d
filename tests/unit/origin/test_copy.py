"""Evidence copy: it, or an ancestor, was forked from a test runner, and has executed nothing."""

from __future__ import annotations

from functools import partial

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
    scene,
)
from helpers.plain_processes import (
    BOB,
    ELSEWHERE,
    INIT,
    OUR_PYTEST,
    OUR_SHELL,
    THEIR_PYTEST,
    THEIR_SHELL,
    fork,
    process,
    titled,
)
from helpers.scenes import (
    AT_WORK,
    COPY,
    EXECNET,
    HERE,
    IN_NOX,
    OUR_NOX,
    OURS,
    SCRIPTED,
    TMUX,
    WORKING,
    XDIST,
    plain,
    told,
    used_by,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree._core.origin import Origin, copy, origin_of

live = partial(used_by, evidence="copy")
LEFT_COPY = Origin("copy", "ended", "pytest", why="it is a fork of a pytest that has ended")
OF_PYTEST = live(THEIR_PYTEST)
ELSEWHERE_PYTEST = THEIR_PYTEST._replace(session=800, terminal="pts/1", cwd=ELSEWHERE)
OTHER_TERMINAL = THEIR_PYTEST._replace(session=800, terminal="pts/1")
SEATED = THEIR_SHELL._replace(forked=False)
OUR_TWIN = OUR_PYTEST._replace(pid=700, start=700)
RETITLED = titled(700, "[pytest tests/slow] test_b", name="pytest", session=600)


COPIES = [
    scene("of a pytest that was killed", holder(COPY, INIT), LEFT_COPY),
    scene(
        "of a nox",
        holder(fork(process(700, "/venv/bin/python /venv/bin/nox"), 2000), INIT),
        Origin("copy", "ended", "nox", why="it is a fork of a nox that has ended"),
    ),
    scene(
        "above it",
        below(fork(THEIR_PYTEST, 710), INIT),
        LEFT_COPY._replace(why="pytest (pid 710) above it is a fork of a pytest that has ended"),
    ),
    scene(
        "above it, by way of another one",
        below(fork(THEIR_PYTEST, 720), fork(THEIR_PYTEST, 710), INIT),
        LEFT_COPY._replace(why="pytest (pid 720) above it is a fork of a pytest that has ended"),
    ),
    scene(
        "of a fork, which leads a session with a terminal (pty.fork)",
        holder(COPY._replace(session=710), fork(THEIR_PYTEST, 710, session=710), INIT),
        LEFT_COPY,
    ),
    scene("nobody adopts", holder(COPY._replace(ppid=None)), LEFT_COPY),
    scene("that pytest lives (it forked twice)", holder(COPY, INIT), OF_PYTEST, AT_WORK),
    scene(
        "that pytest lives, and another one was killed (pytest-forked)",
        holder(COPY, INIT),
        OF_PYTEST,
        context(neighbours=(neighbour(fork(THEIR_PYTEST, 710), INIT), *WORKING)),
    ),
    scene(
        "that pytest lives, and nobody looks after it",
        holder(COPY, INIT),
        OF_PYTEST._replace(alone=True),
        beside(THEIR_PYTEST, INIT),
    ),
    scene(
        "that pytest lives, and is as old",
        holder(COPY._replace(start=700), INIT),
        OF_PYTEST,
        AT_WORK,
    ),
    scene(
        "that pytest lives, and it does not tell its project any more",
        holder(COPY._replace(cwd="/"), INIT, project=None),
        OF_PYTEST,
        AT_WORK,
    ),
    scene(
        "that pytest lives, and it is not told whether it was forked (macOS)",
        holder(COPY, INIT),
        OF_PYTEST,
        beside(THEIR_PYTEST._replace(forked=None)),
    ),
    scene(
        "that pytest is known to have executed itself",
        holder(COPY, INIT),
        live(THEIR_PYTEST._replace(forked=False)),
        beside(THEIR_PYTEST._replace(forked=False)),
    ),
    scene(
        "that pytest was called with another title at the time",
        holder(COPY, INIT),
        live(RETITLED),
        beside(RETITLED),
    ),
    scene(
        "a pytest of another session, and it has made its own (setsid)",
        holder(COPY._replace(session=2000), INIT, leader=COPY._replace(session=2000)),
        live(OTHER_TERMINAL),
        beside(OTHER_TERMINAL),
    ),
    scene(
        "the same, by way of another fork, which leads it",
        holder(COPY._replace(session=710), INIT, leader=fork(THEIR_PYTEST, 710, session=710)),
        live(OTHER_TERMINAL),
        beside(OTHER_TERMINAL),
    ),
    scene(
        "a pytest that leads its session, and has not told whether it was forked",
        holder(
            COPY._replace(session=650),
            INIT,
            leader=THEIR_PYTEST._replace(pid=650, session=650, forked=False),
        ),
        live(OTHER_TERMINAL),
        beside(OTHER_TERMINAL),
    ),
    scene(
        "a pytest of another session, and the leader of its own has ended",
        holder(COPY, INIT),
        live(OTHER_TERMINAL),
        beside(OTHER_TERMINAL),
    ),
    scene(
        "a pytest of another session, and it is not told whether its leader was forked",
        holder(COPY, INIT, leader=THEIR_SHELL),
        live(OTHER_TERMINAL),
        beside(OTHER_TERMINAL),
    ),
    scene(
        "a pytest that does not tell its session",
        holder(COPY, INIT, leader=SEATED),
        live(THEIR_PYTEST._replace(session=None)),
        beside(THEIR_PYTEST._replace(session=None)),
    ),
    scene(
        "who is said to lead its session leads another one",
        holder(COPY._replace(session=650), INIT, leader=SEATED),
        live(OTHER_TERMINAL),
        beside(OTHER_TERMINAL),
    ),
    scene(
        "two pytests with the same command line, in two terminals: it stayed with that one",
        holder(COPY, INIT, leader=SEATED),
        OF_PYTEST,
        context(
            neighbours=(
                neighbour(OTHER_TERMINAL._replace(pid=690, start=690), OUR_SHELL, INIT),
                *WORKING,
            )
        ),
    ),
    scene(
        "two pytests with the same command line, in two projects: it stayed in that one",
        holder(COPY, INIT),
        OF_PYTEST,
        context(neighbours=(neighbour(ELSEWHERE_PYTEST, INIT, project=ELSEWHERE), *WORKING)),
    ),
    scene(
        "of us, who call",
        holder(fork(OUR_PYTEST, 2000), INIT),
        live(OUR_PYTEST)._replace(ours=True),
    ),
    scene(
        "of us, for a hook",
        holder(fork(OUR_PYTEST, 2000), INIT),
        live(OUR_PYTEST)._replace(ours=True),
        context(phase="after", run=(OURS,)),
    ),
    scene(
        "of us, or of another one with our command line, which lives",
        holder(fork(OUR_PYTEST, 2000), INIT),
        live(OUR_TWIN),
        beside(OUR_TWIN),
    ),
    scene(
        "of us, while another one with our command line is younger",
        holder(fork(OUR_PYTEST, 2000), INIT),
        live(OUR_PYTEST)._replace(ours=True),
        beside(OUR_TWIN._replace(start=2001)),
    ),
    scene(
        "of us, while the caller is such a fork itself",
        holder(fork(OUR_PYTEST, 2000), INIT),
        live(OUR_PYTEST),
        context(fork(OUR_PYTEST, 910), OUR_PYTEST, OUR_SHELL, INIT, phase="after"),
    ),
    scene(
        "above it, of a pytest that lives, and it has gone to another project",
        holder(born({}, cwd=ELSEWHERE), fork(THEIR_PYTEST, 710), INIT, project=ELSEWHERE),
        OF_PYTEST,
        AT_WORK,
    ),
    scene(
        "of the nox around us, for a hook",
        holder(fork(OUR_NOX, 2000), INIT),
        live(OUR_NOX),
        IN_NOX._replace(phase="after"),
    ),
    scene(
        "of the controller of pytest-xdist, for a worker of it",
        holder(fork(XDIST, 2000), INIT),
        live(XDIST),
        context(process(710, EXECNET, marks={"PYTEST_XDIST_WORKER": "gw0"}), XDIST, INIT),
    ),
    scene(
        "a script that runs tests, and somebody looks after that",
        holder(fork(SCRIPTED, 2000), INIT),
        live(SCRIPTED),
        beside(SCRIPTED),
    ),
    scene(
        "of a worker of pytest-xdist, which lives",
        holder(fork(process(710, EXECNET, session=600), 2000), INIT),
        live(process(710, EXECNET, session=600)),
        beside(process(710, EXECNET, session=600), XDIST, THEIR_SHELL, INIT),
    ),
]


@pytest.mark.parametrize(("found", "asked", "origin"), COPIES)
def test_copy(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(copy(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


NOT_FORKED = [
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
]


@pytest.mark.parametrize("asked", NOT_FORKED)
def test_who_has_certainly_not_been_forked(asked: Context) -> None:
    found = holder(COPY, INIT, leader=SEATED)

    assert plain(copy(found, asked)) == LEFT_COPY
    assert plain(origin_of(found, asked)) == LEFT_COPY


NO_COPY = [
    miss("it has executed a program", orphan("make pytest", forked=False)),
    miss("it looks like no runner", holder(fork(process(700), 2000), INIT)),
    miss(
        "it does not tell", holder(THEIR_PYTEST._replace(forked=None), INIT), None, "descent live"
    ),
    miss("somebody started it", holder(COPY, "shopctl", INIT)),
    miss("it is suspended below a shell", holder(COPY, THEIR_SHELL, INIT)),
    miss("who started it is out of sight", holder(COPY._replace(ppid=77))),
    miss("a terminal for itself", holder(COPY._replace(session=2000), INIT)),
    miss("tmux between", below(TMUX, fork(THEIR_PYTEST, 5), INIT)),
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
        "a pytest that has changed its title", holder(fork(SCRIPTED, 2000), INIT), beside(RETITLED)
    ),
    miss(
        "such a script in another project",
        holder(fork(SCRIPTED, 2000), INIT),
        beside(SCRIPTED, project=ELSEWHERE),
    ),
    miss(
        "it has executed that script itself",
        orphan("python run_tests.py", forked=False),
        beside(SCRIPTED),
    ),
    miss(
        "somebody looks after the fork of a script",
        holder(fork(SCRIPTED, 2000), "shopctl", INIT),
        beside(SCRIPTED),
    ),
]


@pytest.mark.parametrize(("found", "asked", "instead"), NO_COPY)
def test_no_copy(found: Holder, asked: Context, instead: str) -> None:
    assert copy(found, asked) is None
    assert told(found, asked) == instead


def test_a_copy_of_ours_where_one_run_surrounds_another_belongs_to_either() -> None:
    found = holder(fork(OUR_PYTEST, 850), INIT)
    asked = context(OUR_PYTEST._replace(start=800), OUR_SHELL, INIT, phase="after", run=(HERE,))

    origin = copy(found, asked)

    assert origin is not None
    assert (origin.state, origin.ours) == ("live", False)


def test_a_fork_may_have_started_a_server_in_another_project() -> None:
    original = process(700, "python -m pytest", forked=False, cwd=ELSEWHERE)
    copied = fork(original, 1500, session=700)
    found = below(copied, INIT)
    asked = beside(original, THEIR_SHELL, INIT, project=ELSEWHERE)

    assert judge(found, asked).rule == "live-run"
