"""Rule live-run: a run that goes on uses it. Five variants, and the near misses of each."""

from __future__ import annotations

import pytest

from helpers.builders import (
    alive,
    below,
    beside,
    born,
    case,
    context,
    holder,
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
    THEIR_PYTEST,
    THEIR_SHELL,
    process,
)
from helpers.scenes import (
    AGENT,
    AT_WORK,
    FIRST_TOX,
    GITLAB,
    HERE,
    IDLE_AGENT,
    IN_A_TEST,
    INNER,
    JOB,
    OUR_CHILD,
    OURS,
    STEP,
    THEIRS,
    VERSION,
    WORKING,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context, Phase
from portfree._core.judge import judge
from portfree._system.interface import CI_JOB_IDS
from portfree.model import Advice, Scope

LIVE_RUN = [
    # Its run id has a live controller.
    scene(
        "run id: its controller lives",
        holder(born(run_id(THEIRS)), INIT, live_runs=alive(THEIRS)),
        "in use by another run (pid 77) in ~/shop",
    ),
    scene(
        "run id: inside of ours",
        holder(born(run_id(OURS, THEIRS)), INIT, live_runs=alive(OURS, THEIRS)),
        "in use by another run (pid 77) in ~/shop",
        context(run=(OURS,)),
    ),
    scene(
        "run id: the outer run was killed, the inner goes on",
        holder(born(run_id(THEIRS, INNER)), INIT, live_runs=alive(INNER)),
        "in use by another run (pid 78) in ~/shop",
    ),
    scene(
        "run id: wiped, but its parent still has it",
        below(process(9, "sh x", marks=run_id(THEIRS)), INIT, live_runs=alive(THEIRS)),
        "in use by another run (pid 77) in ~/shop",
    ),
    scene(
        "run id: garbled, so that it may live",
        holder(born(run_id("garbled")), INIT, live_runs=frozenset({"garbled"})),
        "in use by another run",
    ),
    # Its nearest live test runner or CI agent is not one of our ancestors.
    scene(
        "a test runner above it",
        below(process(77, "python -m pytest"), OUR_SHELL, INIT),
        "in use by pytest (pid 77) in ~/shop",
    ),
    scene(
        "a test runner above it, by way of wrappers",
        below("npm run dev", process(77, "nox"), OUR_SHELL, INIT),
        "in use by nox (pid 77) in ~/shop",
    ),
    scene(
        "a test runner that holds the port itself",
        holder(process(77, "pytest"), OUR_SHELL, INIT),
        "in use by pytest (pid 77) in ~/shop",
    ),
    scene(
        "a test runner below one of ours",
        below(process(77, "pytest"), process(700, "nox"), INIT),
        "in use by pytest (pid 77) in ~/shop",
        context(OUR_PYTEST, process(700, "nox"), INIT),
    ),
    scene(
        "a CI agent above it",
        below(AGENT, IDLE_AGENT, INIT),
        "in use by runner.worker (pid 600) in ~/shop",
    ),
    # It carries another CI job's id, and that job may be alive.
    scene(
        "CI job: an agent is at work",
        orphan(marks={"RUNNER_TRACKING_ID": "github_1"}),
        "in use by another CI job (RUNNER_TRACKING_ID github_1) in ~/shop",
        beside(AGENT, IDLE_AGENT, INIT),
    ),
    *(
        scene(
            f"CI job: by its {variable}",
            orphan(marks={variable: "991"}),
            f"in use by another CI job ({variable} 991) in ~/shop",
            context(jobs={variable: "992"}, neighbours=(neighbour(GITLAB, INIT),)),
        )
        for variable in CI_JOB_IDS
    ),
    scene(
        "CI job: of the agent that runs ours too",
        orphan(marks=JOB),
        "in use by another CI job (CI_JOB_ID 991) in ~/shop",
        context(
            OUR_PYTEST,
            GITLAB,
            INIT,
            jobs={"CI_JOB_ID": "992"},
            neighbours=(neighbour(process(950, "bash", marks=JOB), GITLAB, INIT),),
        ),
    ),
    scene(
        "CI job: the id was wiped, but its parent still has it",
        below(process(950, "sh x", marks=JOB), GITLAB, INIT),
        "in use by another CI job (CI_JOB_ID 991) in ~/shop",
        context(
            OUR_PYTEST,
            GITLAB,
            INIT,
            jobs={"CI_JOB_ID": "992"},
            neighbours=(neighbour(process(950, "sh x", marks=JOB), GITLAB, INIT),),
        ),
    ),
    # It was born in a test without a run id, and an unrelated live test runner, older than it,
    # works in the same project.
    scene(
        "daemon: a pytest works in the project",
        orphan(marks=IN_A_TEST),
        "in use by pytest (pid 700) in ~/shop",
        AT_WORK,
    ),
    *(
        scene(
            f"daemon: born in a test by its {mark}",
            orphan(marks={mark: "x"}),
            "in use by pytest (pid 700) in ~/shop",
            AT_WORK,
        )
        for mark in ("PYTEST_VERSION", "NOX_CURRENT_SESSION", "TOX_ENV_DIR")
    ),
    scene(
        "daemon: it does not tell its project",
        holder(born(IN_A_TEST, cwd="/"), INIT, project=None),
        "in use by pytest (pid 700) in ~/shop",
        AT_WORK,
    ),
    scene(
        "daemon: its run id is ours too, which says nothing",
        holder(born(IN_A_TEST | run_id(OURS)), INIT, live_runs=alive(OURS)),
        "in use by pytest (pid 700) in ~/shop",
        context(run=(OURS,), neighbours=WORKING),
    ),
    scene(
        "daemon: macOS hides whether it was born in a test",
        holder(process(2000, complete=False, environment="unreadable"), process(1, "launchd")),
        "in use by pytest (pid 700) in ~/shop",
        context(platform="darwin", neighbours=WORKING),
    ),
    scene(
        "daemon: adopted by our own runner, the first process of a container",
        holder(born(IN_A_TEST), FIRST_TOX),
        "in use by pytest (pid 700) in ~/shop",
        context(OUR_PYTEST, FIRST_TOX, neighbours=WORKING),
    ),
]


@pytest.mark.parametrize("scope", ["orphans", "mine"])
@pytest.mark.parametrize(("found", "asked", "says"), LIVE_RUN)
def test_live_run(found: Holder, asked: Context, says: str, scope: Scope) -> None:
    verdict = judge(found, asked._replace(scope=scope))

    assert (verdict.action, verdict.rule) == ("keep", "live-run")
    assert says in verdict.reason
    assert verdict.advice == Advice()


def test_live_run_without_a_directory() -> None:
    nowhere = THEIR_PYTEST._replace(cwd=None)
    verdict = judge(holder(process(2000, cwd=None), nowhere, THEIR_SHELL, INIT), context())

    assert verdict.reason == "in use by pytest (pid 700) in a directory that cannot be read"


NOT_LIVE_RUN = [
    scene("run id: its controller has ended", orphan(marks=run_id(THEIRS)), "left-behind"),
    scene(
        "run id: ours, which says nothing",
        holder(born(run_id(OURS)), INIT, live_runs=alive(OURS)),
        "orphan",
        context(run=(OURS,)),
    ),
    scene(
        "run id: the run around ours",
        holder(born(run_id(OURS)), INIT, live_runs=alive(OURS)),
        "orphan",
        context(run=(OURS, INNER)),
    ),
    scene(
        "a test runner above it that is our ancestor too",
        below(process(700, "nox"), INIT),
        "attended",
        context(OUR_PYTEST, process(700, "nox"), INIT),
    ),
    scene(
        "a CI agent above it that is our ancestor too, and our own step below that",
        below(STEP, AGENT, IDLE_AGENT, INIT),
        "attended",
        context(OUR_PYTEST, STEP, AGENT, IDLE_AGENT, INIT),
    ),
    scene("no test runner above it, only its name", below("vim test_pytest.py", INIT), "attended"),
    scene(
        "CI job: ours",
        orphan(marks=JOB),
        "orphan",
        context(jobs=JOB, neighbours=(neighbour(GITLAB, INIT),)),
    ),
    scene(
        "CI job: all agents are idle",
        orphan(marks={"RUNNER_TRACKING_ID": "github_1"}),
        "orphan",
        beside(IDLE_AGENT, INIT),
    ),
    scene("CI job: no agents", orphan(marks=JOB), "orphan", AT_WORK),
    scene(
        "CI job: who carries it descends from no agent",
        orphan(marks=JOB),
        "orphan",
        beside(process(950, "sh", marks=JOB), INIT),
    ),
    scene(
        "CI job: who descends from an agent carries another one",
        orphan(marks=JOB),
        "orphan",
        beside(process(950, "sh", marks={"CI_JOB_ID": "7"}), IDLE_AGENT, INIT),
    ),
    scene(
        "daemon: the runner is younger",
        holder(process(650, marks=IN_A_TEST), INIT),
        "left-behind",
        AT_WORK,
    ),
    scene(
        "daemon: the runner works in another project",
        orphan(marks=IN_A_TEST),
        "left-behind",
        beside(THEIR_PYTEST, THEIR_SHELL, INIT, project=ELSEWHERE),
    ),
    scene(
        "daemon: the runner works in no project",
        orphan(marks=IN_A_TEST),
        "left-behind",
        beside(THEIR_PYTEST, THEIR_SHELL, INIT, project=None),
    ),
    scene(
        "daemon: the neighbour is no test runner",
        orphan(marks=IN_A_TEST),
        "left-behind",
        beside(IDLE_AGENT, INIT),
    ),
    scene("daemon: not born in a test", holder(), "orphan", AT_WORK),
    scene(
        "daemon: its run is known, and has ended",
        orphan(marks=IN_A_TEST | run_id(THEIRS)),
        "left-behind",
        AT_WORK,
    ),
    scene(
        "a descendant of our own runner",
        holder(process(2000, marks=IN_A_TEST), process(700, "nox"), INIT),
        "attended",
        context(OUR_PYTEST, process(700, "nox"), INIT, neighbours=WORKING),
    ),
]


@pytest.mark.parametrize(("found", "asked", "rule"), NOT_LIVE_RUN)
def test_not_live_run(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


OF_LIVE_RUNS = [
    case("by its runner", below(THEIR_PYTEST, THEIR_SHELL, INIT)),
    case(
        "by its run id", holder(born(run_id(THEIRS), cwd=ELSEWHERE), INIT, live_runs=alive(THEIRS))
    ),
]


@pytest.mark.parametrize("found", OF_LIVE_RUNS)
def test_with_scope_any_live_runs_do_not_count(found: Holder) -> None:
    verdict = judge(found, context(scope="any"))

    # And nobody claims that the run has ended.
    assert (verdict.action, verdict.rule) == ("stop", "mine")


INNER_ONE = process(900, "python -m pytest inner")


# A hook acts for one run alone. What belongs to the run around it (pytest in pytest) is in use.
OF_THE_RUN_AROUND_OURS = [
    scene(
        "its run id is that of the run around ours",
        holder(process(850, marks=run_id(OURS)), INIT, live_runs=alive(OURS)),
        "in use by the run around this one in ~/shop",
        context(run=(OURS,)),
    ),
    scene(
        "the run around ours began before there was an id: a conftest.py started it",
        holder(process(750, marks=VERSION), INIT),
        "in use by pytest (pid 700) in ~/shop",
        context(INNER_ONE, THEIR_PYTEST, THEIR_SHELL, INIT),
    ),
]


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize(("found", "asked", "says"), OF_THE_RUN_AROUND_OURS)
def test_what_belongs_to_the_run_around_ours_is_in_use(
    found: Holder, asked: Context, says: str, phase: Phase
) -> None:
    verdict = judge(found, asked._replace(phase=phase))

    assert (verdict.action, verdict.rule) == ("keep", "live-run")
    assert verdict.reason == says


def test_our_child_may_belong_to_a_run_of_ours_around_the_one_that_ends() -> None:
    verdict = judge(OUR_CHILD, context(phase="after", run=(HERE,)))

    assert (verdict.action, verdict.rule) == ("keep", "live-run")
    assert verdict.reason == "in use by pytest (pid 900) in ~/shop"


OF_NO_RUN_AROUND_OURS = [
    scene(
        "somebody asks for the port: no hook",
        holder(process(850, marks=run_id(OURS)), INIT, live_runs=alive(OURS)),
        "orphan",
        context(run=(OURS,)),
    ),
    scene(
        "the run around ours has ended",
        holder(process(850, marks=run_id(OURS)), INIT),
        "orphan",
        context(run=(OURS,), phase="after"),
    ),
    scene(
        "born further in, in a run that has ended",
        holder(process(850, marks=run_id(OURS, INNER)), INIT, live_runs=alive(OURS)),
        "left-behind",
        context(run=(OURS,), phase="after"),
    ),
    scene(
        "older than the pytest around ours",
        holder(process(650, marks=VERSION), INIT),
        "left-behind",
        context(INNER_ONE, THEIR_PYTEST, INIT, phase="after"),
    ),
    scene(
        "born in a test, which tells when it was born",
        holder(process(750, marks=VERSION | IN_A_TEST), INIT),
        "left-behind",
        context(INNER_ONE, THEIR_PYTEST, INIT, phase="after"),
    ),
    scene(
        "what surrounds us is no pytest",
        holder(process(750, marks=VERSION), INIT),
        "left-behind",
        context(INNER_ONE, process(700, "nox"), INIT, phase="after"),
    ),
]


@pytest.mark.parametrize(("found", "asked", "rule"), OF_NO_RUN_AROUND_OURS)
def test_what_does_not_belong_to_the_run_around_ours(
    found: Holder, asked: Context, rule: str
) -> None:
    assert judge(found, asked).rule == rule
