"""Rule own-run: born in the run that is being ended, or below the caller."""

from __future__ import annotations

import pytest

from helpers.builders import alive, below, born, case, context, holder, orphan, run_id, scene
from helpers.plain_processes import ELSEWHERE, INIT, OUR_PYTEST, OUR_SHELL, process
from helpers.scenes import IN_A_TEST, INNER, OUR_CHILD, OURS, THEIRS
from portfree._core.ancestry import Holder
from portfree._core.context import Context, Phase
from portfree._core.judge import judge

OWN_RUN = [
    case("our child", OUR_CHILD, None, "started by this very process"),
    case(
        "our grandchild",
        below("node x", OUR_PYTEST, OUR_SHELL, INIT),
        None,
        "started by this very process",
    ),
    case(
        "born in the run that is being ended, and adopted",
        holder(born(run_id(OURS), cwd=ELSEWHERE), INIT, live_runs=alive(OURS)),
        OURS,
        "started in this run",
    ),
    case(
        "born in a run that has ended, inside of the one that is being ended",
        holder(born(run_id(OURS, INNER)), INIT, live_runs=alive(OURS)),
        OURS,
        "started in this run",
    ),
    case(
        "born in a test of the run",
        orphan(marks=run_id(OURS) | IN_A_TEST),
        OURS,
        "started in tests/test_api.py::test_search (setup)",
    ),
    case(
        "our child, born in a run of ours that has ended",
        holder(process(2000, marks=run_id(INNER)), OUR_PYTEST, OUR_SHELL, INIT),
        None,
        "started by this very process",
    ),
]


@pytest.mark.parametrize("phase", ["call", "after"])
@pytest.mark.parametrize(("found", "ending", "says"), OWN_RUN)
def test_own_run(found: Holder, ending: str | None, says: str, phase: Phase) -> None:
    verdict = judge(found, context(phase=phase, ending=ending, run=(OURS,) if ending else ()))

    assert (verdict.action, verdict.rule) == ("stop", "own-run")
    assert verdict.reason == says


STARTED_FOR_IT = [
    case("our child", OUR_CHILD),
    case("a daemon that was born in a test after us", orphan(marks=IN_A_TEST)),
    case(
        "such a daemon, born in a run that we are in too",
        holder(born(IN_A_TEST | run_id(OURS)), INIT, live_runs=alive(OURS)),
    ),
]


@pytest.mark.parametrize("found", STARTED_FOR_IT)
def test_before_a_run_what_was_started_for_it_is_kept(found: Holder) -> None:
    verdict = judge(found, context(phase="before", run=(OURS,)))

    assert (verdict.action, verdict.rule) == ("keep", "own-run")
    assert verdict.reason == "started for this run already"


LEFT_BY_AN_EARLIER_ONE = [
    case(
        "a daemon of an earlier test",
        holder(process(850, marks=IN_A_TEST), INIT),
        ("stop", "left-behind"),
    ),
    case("a daemon born in no test", holder(), ("stop", "orphan")),
    case(
        "the daemon of a run before this one: tox and nox open one after the other",
        orphan(marks=IN_A_TEST | run_id(THEIRS)),
        ("stop", "left-behind"),
    ),
    case(
        "our child, from a run before this one: we adopt as pid 1 of a container does",
        holder(process(2000, marks=run_id(THEIRS)), OUR_PYTEST, OUR_SHELL, INIT),
        ("stop", "own-run"),
    ),
]


@pytest.mark.parametrize(("found", "verdict"), LEFT_BY_AN_EARLIER_ONE)
def test_before_a_run_what_an_earlier_one_left_is_stopped(
    found: Holder, verdict: tuple[str, str]
) -> None:
    assert judge(found, context(phase="before"))[:2] == verdict


NOT_OWN_RUN = [
    scene(
        "a run id that only contains that of the run",
        holder(born(run_id(f"{OURS}9"), cwd=ELSEWHERE), INIT, live_runs=frozenset({f"{OURS}9"})),
        "live-run",
        context(ending=OURS),
    ),
    scene(
        "nothing is being ended",
        holder(born(run_id(OURS), cwd=ELSEWHERE), INIT, live_runs=alive(OURS)),
        "attended",
        context(run=(OURS,)),
    ),
    scene("a sibling, not a descendant", below(OUR_SHELL, INIT), "attended"),
    scene(
        "a child of one who had our pid before",
        below(OUR_PYTEST._replace(start=1), INIT),
        "live-run",
    ),
    scene(
        "our child, by way of a run that goes on in another thread (tox -p)",
        holder(
            process(2000, marks=run_id(INNER)), OUR_PYTEST, OUR_SHELL, INIT, live_runs=alive(INNER)
        ),
        "live-run",
    ),
    scene(
        "the proxy of a container that was started in the run that is being ended",
        orphan("rootlessport", marks=run_id(OURS)),
        "container",
        context(ending=OURS),
    ),
    scene("our child, which cannot be pinned", OUR_CHILD._replace(pinned=False), "unknown"),
    scene(
        "the run is being ended, but the environment cannot be read",
        orphan(complete=False),
        "unknown",
        context(ending=OURS),
    ),
]


@pytest.mark.parametrize(("found", "asked", "rule"), NOT_OWN_RUN)
def test_not_own_run(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule
