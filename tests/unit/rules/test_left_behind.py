"""Rule left-behind: it was born in a run that has certainly ended."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from helpers.builders import below, born, case, context, holder, orphan, run_id, scene
from helpers.plain_processes import ELSEWHERE, INIT, OUR_SHELL, PROJECT, USER_MANAGER, process
from helpers.scenes import IN_A_TEST, OURS, THEIRS
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree._system.interface import Process

LEFT_BEHIND = [
    case("run id", run_id(THEIRS), "the run that started it has ended"),
    case("run id inside of ours", run_id(OURS, THEIRS), "the run that started it has ended"),
    case("test", IN_A_TEST, "started in tests/test_api.py::test_search (setup)"),
    case("pytest", {"PYTEST_VERSION": "9.0.1"}, "the run that started it has ended"),
    case("nox", {"NOX_CURRENT_SESSION": "tests-3.13"}, "started in nox session tests-3.13"),
    case("tox", {"TOX_ENV_DIR": "/x/.tox/py313"}, "started in tox environment py313"),
    case(
        "several",
        run_id(THEIRS) | {"NOX_CURRENT_SESSION": "tests"} | IN_A_TEST,
        "started in tests/test_api.py::test_search (setup)",
    ),
]


@pytest.mark.parametrize(("marks", "says"), LEFT_BEHIND)
@pytest.mark.parametrize("cwd", [PROJECT, ELSEWHERE, "/", None])
def test_left_behind(marks: Mapping[str, str], says: str, cwd: str | None) -> None:
    verdict = judge(orphan(marks=marks, cwd=cwd), context(run=(OURS,)))

    assert (verdict.action, verdict.rule) == ("stop", "left-behind")
    assert verdict.reason == says


ADOPTERS = [
    case("init", [INIT]),
    case("systemd --user", [USER_MANAGER, INIT]),
    case("tini", [process(1, "tini")]),
    case("WSL", [process(9, "/init", name="Relay(8)"), INIT]),
    case("pid 1 of a container", [process(1, "sleep infinity", session=1)]),
    case("a master that bears the mark too", [process(9, "gunicorn x", marks=IN_A_TEST), INIT]),
    case("nobody (Windows)", []),
]


@pytest.mark.parametrize("lineage", ADOPTERS)
def test_left_behind_to_whoever_adopts(lineage: list[Process]) -> None:
    server = process(2000, marks=IN_A_TEST, cwd=ELSEWHERE, ppid=None)

    assert judge(holder(server, *lineage), context()).rule == "left-behind"


IN_TMUX = process(9, "tmux new", marks=IN_A_TEST)


NOT_LEFT_BEHIND = [
    scene("no mark", orphan(cwd=ELSEWHERE), "attended"),
    scene(
        "only its run id, and that is ours too",
        orphan(marks=run_id(OURS), cwd=ELSEWHERE),
        "attended",
        context(run=(OURS,)),
    ),
    scene("tmux between", holder(born(IN_A_TEST), IN_TMUX, INIT), "attended"),
    scene("tmux is it itself", orphan("tmux new", marks=IN_A_TEST), "attended"),
    scene(
        "a shell at a terminal between",
        holder(born(IN_A_TEST), OUR_SHELL._replace(marks=IN_A_TEST), INIT),
        "attended",
    ),
    scene(
        "the topmost with the mark was not adopted",
        holder(born(IN_A_TEST), "supervisord", INIT),
        "service",
    ),
    scene(
        "its own mark, another one than its parent's",
        holder(
            born({"NOX_CURRENT_SESSION": "a"}),
            process(9, "app", marks={"NOX_CURRENT_SESSION": "b"}),
            INIT,
        ),
        "live-run",
    ),
    scene(
        "only its parent has a mark", below(process(9, "app", marks=IN_A_TEST), INIT), "attended"
    ),
]


@pytest.mark.parametrize(("found", "asked", "rule"), NOT_LEFT_BEHIND)
def test_not_left_behind(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule
