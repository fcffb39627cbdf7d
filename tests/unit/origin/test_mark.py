"""Evidence mark: another mark, of a test runner or a CI job."""

from __future__ import annotations

from functools import partial

import pytest

from helpers.builders import below, beside, born, case, context, holder, neighbour, orphan, scene
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
    ADOPTED_KARMA,
    AROUND,
    AT_WORK,
    ENDED,
    FIRST_TOX,
    GITLAB,
    HERE,
    IN_A_PTY,
    IN_A_TEST,
    IN_THE_WINDOW,
    JOB,
    LEFT,
    NEXTEST,
    NOX,
    PORTFREE_RUN,
    RUNNER,
    SCRIPT,
    TEST,
    TOX,
    VERSION,
    WORKING,
    plain,
    used_by,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.origin import Origin, mark, origin_of
from portfree._system.interface import CI_JOB_IDS

live = partial(used_by, evidence="mark")
ANOTHER_JOB = Origin("mark", "live", "another CI job (CI_JOB_ID 991)")
THEIR_NOX = process(650, "nox -s tests", session=600, terminal="pts/2")


ENDED_RUNS = [
    case("a test", orphan(marks=IN_A_TEST), LEFT),
    case("pytest", orphan(marks=VERSION), LEFT._replace(why=ENDED)),
    case(
        "nox",
        orphan(marks=NOX),
        Origin("mark", "ended", "nox", why="started in nox session tests-3.13"),
    ),
    case(
        "tox",
        orphan(marks=TOX),
        Origin("mark", "ended", "tox", why="started in tox environment py313"),
    ),
    case(
        "cargo-nextest",
        orphan(marks=NEXTEST),
        Origin("mark", "ended", "cargo-nextest", why="started in api::search"),
    ),
    case(
        "a test in a nox session",
        orphan(marks=NOX | VERSION | IN_A_TEST),
        Origin("mark", "ended", "nox", why=f"started in {TEST}"),
    ),
    case(
        "a nox session in a tox environment",
        orphan(marks=TOX | NOX),
        Origin("mark", "ended", "tox", why="started in nox session tests-3.13"),
    ),
    case(
        "its master was adopted",
        holder(born(IN_A_TEST), process(9, "gunicorn x", marks=IN_A_TEST), INIT),
        LEFT,
    ),
    case(
        "its master was adopted, and it has wiped its own",
        holder(process(2000, environment="wiped"), process(9, "gunicorn x", marks=IN_A_TEST), INIT),
        LEFT,
    ),
    case(
        "it was started below a wrapper, without its environment (env -i)",
        below(process(9, "sh start.sh", marks=IN_A_TEST), INIT),
        LEFT,
    ),
    case("nobody adopts (Windows)", holder(born(IN_A_TEST, ppid=None)), LEFT),
    case(
        "one mark has its owner above it, the other one has lost it",
        holder(
            *(born(VERSION | IN_A_TEST), process(9, "tini -- x", marks=VERSION)), *(OUR_SHELL, INIT)
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
    case("script(1) has made its terminal", holder(IN_THE_WINDOW, IN_A_PTY, SCRIPT, INIT), LEFT),
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
]


@pytest.mark.parametrize(("found", "origin"), ENDED_RUNS)
def test_the_mark_of_a_run_that_has_ended(found: Holder, origin: Origin) -> None:
    asked = context(OUR_PYTEST, PORTFREE_RUN, THEIR_SHELL, INIT)

    assert plain(mark(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


LIVE_RUNS = [
    *(
        scene(
            f"{next(iter(marks))}: a runner works in the project",
            orphan(marks=marks),
            live(THEIR_PYTEST),
            AT_WORK,
        )
        for marks in (IN_A_TEST, VERSION, NOX, TOX, NEXTEST)
    ),
    scene("a runner as old as it", orphan(marks=IN_A_TEST, start=700), live(THEIR_PYTEST), AT_WORK),
    scene(
        "a runner that nobody looks after",
        orphan(marks=IN_A_TEST),
        live(THEIR_PYTEST, alone=True),
        beside(THEIR_PYTEST, INIT),
    ),
    scene(
        "a runner of root, who may start anybody's",
        orphan(marks=IN_A_TEST),
        live(THEIR_PYTEST._replace(owner=ROOT), alone=True),
        beside(THEIR_PYTEST._replace(owner=ROOT), INIT),
    ),
    scene(
        "a runner that is a server too, at a terminal",
        orphan(marks=IN_A_TEST),
        live(ADOPTED_KARMA),
        beside(ADOPTED_KARMA, OUR_SHELL, INIT),
    ),
    scene(
        "a runner that does not tell whose it is",
        orphan(marks=IN_A_TEST),
        live(THEIR_PYTEST._replace(owner=None), alone=True),
        beside(THEIR_PYTEST._replace(owner=None), INIT),
    ),
    scene(
        "a runner, and it does not tell whose it is",
        orphan(marks=IN_A_TEST, owner=None),
        live(THEIR_PYTEST),
        AT_WORK,
    ),
    scene(
        "a runner, and it does not tell its project",
        holder(born(IN_A_TEST, cwd="/"), INIT, project=None),
        live(THEIR_PYTEST),
        AT_WORK,
    ),
    scene(
        "a CI agent that was started in the same test works on, in another project",
        orphan(marks=IN_A_TEST),
        live(GITLAB._replace(marks=IN_A_TEST), alone=True),
        context(neighbours=(neighbour(GITLAB._replace(marks=IN_A_TEST), INIT, project=ELSEWHERE),)),
    ),
    scene(
        "a runner that is the second in the list",
        orphan(marks=IN_A_TEST),
        live(THEIR_PYTEST),
        context(neighbours=(neighbour(GITLAB, INIT), *WORKING)),
    ),
    scene(
        "the nox around a killed pytest",
        orphan(marks=NOX | IN_A_TEST),
        live(THEIR_NOX),
        beside(THEIR_NOX, THEIR_SHELL, INIT),
    ),
    scene(
        "a runner, and the first process of our container has adopted it",
        holder(born(IN_A_TEST), FIRST_TOX),
        live(THEIR_PYTEST),
        context(OUR_PYTEST, FIRST_TOX, neighbours=WORKING),
    ),
    scene(
        "a runner, and the portfree run around us has adopted it",
        holder(born(IN_A_TEST), PORTFREE_RUN._replace(pid=690), THEIR_SHELL, INIT),
        live(THEIR_PYTEST),
        context(
            *(OUR_PYTEST, PORTFREE_RUN._replace(pid=690), THEIR_SHELL, INIT), neighbours=WORKING
        ),
    ),
    scene(
        "a runner, and it has wiped a mark that a wrapper above it still has",
        holder(process(2000, environment="wiped"), process(9, "sh x", marks=IN_A_TEST), INIT),
        live(THEIR_PYTEST),
        AT_WORK,
    ),
    scene(
        "another CI job, of an agent beside us",
        orphan(marks=JOB),
        ANOTHER_JOB,
        context(jobs={"CI_JOB_ID": "992"}, neighbours=(neighbour(GITLAB, INIT),)),
    ),
    scene(
        "another CI job, and we are in none", orphan(marks=JOB), ANOTHER_JOB, beside(GITLAB, INIT)
    ),
    scene(
        "another CI job, of our own agent: somebody carries its id",
        orphan(marks=JOB),
        ANOTHER_JOB,
        context(
            *(OUR_PYTEST, GITLAB, INIT),
            neighbours=(neighbour(process(950, "bash", marks=JOB), GITLAB, INIT),),
        ),
    ),
    scene(
        "another CI job, and a test in it: the job says more",
        orphan(marks=JOB | IN_A_TEST),
        ANOTHER_JOB,
        context(neighbours=(neighbour(GITLAB, INIT), *WORKING)),
    ),
    scene(
        "a program on no list sets it",
        holder(born(IN_A_TEST), RUNNER, THEIR_SHELL, INIT),
        live(RUNNER),
    ),
    scene(
        "a program on no list sets it, and was adopted",
        holder(born(IN_A_TEST), RUNNER._replace(terminal=None), INIT),
        live(RUNNER._replace(terminal=None), alone=True),
    ),
    scene(
        "such a program, and who started that is out of sight",
        holder(born(IN_A_TEST), RUNNER),
        live(RUNNER),
    ),
    scene(
        "such a program, above a process manager",
        holder(
            *(born(IN_A_TEST), process(1900, "supervisord -n", marks=IN_A_TEST)),
            *(RUNNER, THEIR_SHELL, INIT),
        ),
        live(RUNNER),
    ),
    scene(
        "such a program, above a master",
        holder(
            *(born(IN_A_TEST), process(1900, "gunicorn x", marks=IN_A_TEST)),
            *(RUNNER, THEIR_SHELL, INIT),
        ),
        live(RUNNER),
    ),
    scene(
        "such a program, which bears another value itself",
        holder(born(NOX), RUNNER._replace(marks={"NOX_CURRENT_SESSION": "x"}), INIT),
        used_by(RUNNER._replace(marks={"NOX_CURRENT_SESSION": "x"}), "mark", alone=True),
    ),
    scene(
        "the pytest around ours, from a conftest.py",
        holder(process(750, marks=VERSION), INIT),
        live(THEIR_PYTEST),
        AROUND._replace(phase="after"),
    ),
    scene(
        "the pytest around ours, as old as it",
        holder(process(750, marks=VERSION, start=700), INIT),
        live(THEIR_PYTEST),
        AROUND._replace(phase="before"),
    ),
    scene(
        "a run of ours around the one that ends, by descent",
        below(OUR_PYTEST, OUR_SHELL, INIT),
        used_by(OUR_PYTEST, "descent"),
        context(phase="after", run=(HERE,)),
    ),
    scene(
        "the same, by its marks",
        orphan(marks=IN_A_TEST),
        used_by(OUR_PYTEST, "descent"),
        context(phase="after", run=(HERE,)),
    ),
    scene(
        "the same, though it has wiped them",
        orphan(environment="wiped"),
        used_by(OUR_PYTEST, "descent"),
        context(phase="before", run=(HERE,)),
    ),
]


@pytest.mark.parametrize(("found", "asked", "origin"), LIVE_RUNS)
def test_the_mark_of_a_run_that_goes_on(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(mark(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


JOBS = [
    ("RUNNER_TRACKING_ID", "/runner/bin/Runner.Worker spawnclient 1 2"),
    ("CI_JOB_ID", "gitlab-runner run"),
    ("BUILD_TAG", "java -jar /opt/agent.jar"),
    ("BUILDKITE_JOB_ID", "buildkite-agent start"),
    ("SYSTEM_JOBID", "/agent/bin/Agent.Worker spawnclient 1 2"),
    ("CIRCLE_WORKFLOW_JOB_ID", "circleci-agent --config x"),
    ("CI_PIPELINE_URL", "woodpecker-agent"),
    ("DRONE_BUILD_LINK", "drone-runner-exec daemon"),
]


@pytest.mark.parametrize(("variable", "agent"), JOBS)
def test_a_job_of_a_ci_that_is_at_work(variable: str, agent: str) -> None:
    found = orphan(marks={variable: "991"})
    working = context(jobs={variable: "992"}, neighbours=(neighbour(process(300, agent), INIT),))
    over = context("pytest", process(300, agent), INIT, jobs={variable: "992"})

    assert variable in CI_JOB_IDS
    assert mark(found, working) == Origin("mark", "live", f"another CI job ({variable} 991)")
    assert origin_of(found, over) is None
    assert origin_of(found, context(jobs={variable: "991"}, neighbours=working.neighbours)) is None
