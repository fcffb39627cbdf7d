"""What starts a server again, and whether that may be stopped."""

from __future__ import annotations

import pytest

from helpers.builders import below, case, context, holder, run_id
from helpers.plain_processes import (
    BOB,
    ELSEWHERE,
    INIT,
    OUR_PYTEST,
    OUR_SHELL,
    USER_MANAGER,
    process,
)
from helpers.scenes import IN_A_TEST, INNER, THEIRS
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.restarts import judge_supervisor
from portfree._system.interface import Process
from portfree.model import SCOPES, Scope

OLD = process(150)


def restarted(*above: Process) -> tuple[Holder, list[Holder]]:
    """A new holder, and the old one that was stopped, under the same parents."""
    return holder(process(2000), *above), [holder(OLD, *above)]


LEFT_THERE = [
    case("orphan", [process(9, "nodemon x"), INIT], context(), "orphan"),
    case(
        "left-behind",
        [process(9, "nodemon x", marks=IN_A_TEST, cwd=ELSEWHERE), INIT],
        context(),
        "left-behind",
    ),
    case(
        "own-run", [process(9, "nodemon x"), OUR_PYTEST, INIT], context(OUR_PYTEST, INIT), "own-run"
    ),
]


@pytest.mark.parametrize(("above", "asked", "rule"), LEFT_THERE)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_supervisor_that_was_left_there_is_stopped(
    above: list[Process], asked: Context, rule: str, scope: Scope
) -> None:
    _, old = restarted(*above)
    # It starts what it starts by way of a shell.
    new = holder(process(2000), process(1999, "sh -c server"), *above)

    found = judge_supervisor(new, old, asked._replace(scope=scope))

    assert found is not None
    assert found.holder.pid == 9
    assert not found.holder.sockets
    assert found.verdict[:2] == ("stop", rule)


NAMED = [
    case("attended", [process(9, "nodemon x"), OUR_SHELL, INIT], context(), "nodemon", "attended"),
    case(
        "it was only asked for the port",
        [process(9, "nodemon x"), OUR_SHELL, INIT],
        context(scope="any"),
        "nodemon",
        "attended",
    ),
    case("we", [OUR_PYTEST, OUR_SHELL, INIT], context(), "pytest", "self"),
    case("a shell at its terminal", [OUR_SHELL, INIT], context(), "zsh", "self"),
    case("bob's", [process(9, "nodemon x", owner=BOB), INIT], context(), "nodemon", "other-user"),
]


@pytest.mark.parametrize(("above", "asked", "name", "rule"), NAMED)
def test_a_supervisor_is_named_otherwise(
    above: list[Process], asked: Context, name: str, rule: str
) -> None:
    new, old = restarted(*above)

    found = judge_supervisor(new, old, asked)

    assert found is not None
    assert found.verdict[:2] == ("keep", rule)
    assert found.verdict.reason == f"started again by {name} (pid {above[0].pid})"
    assert found.verdict.instead == f"stop that: {name} (pid {above[0].pid})"


def test_a_supervisor_in_a_run_that_nobody_asked_about_is_kept() -> None:
    above = [process(9, "nodemon x", marks=run_id(THEIRS)), INIT]
    # What it starts is given another id, and only of that one it is known that its run has ended.
    new = holder(process(2000, marks=run_id(INNER)), *above)

    found = judge_supervisor(new, [holder(OLD, *above)], context())

    assert found is not None
    assert found.verdict[:2] == ("keep", "live-run")


NO_SUPERVISOR = [
    case("nobody was stopped", below("nodemon x", INIT), []),
    case("both were adopted", *restarted(INIT)),
    case(
        "both were adopted by a portfree run",
        *restarted(process(9, "portfree run 8000 -- x"), INIT),
    ),
    case("both were adopted by systemd --user", *restarted(USER_MANAGER, INIT)),
    case("they have no parent in common", below("nodemon x", OUR_SHELL, INIT), [holder(OLD, INIT)]),
    case(
        "only a grandparent in common, which may have started them apart",
        below(process(10, "nodemon x"), process(9, "foreman"), INIT),
        [holder(OLD, "foreman", INIT)],
    ),
    case("nobody above in sight", holder(process(2000, ppid=77)), [holder(OLD, INIT)]),
    case("only wrappers above in sight", below(process(9, "sh x", ppid=0)), [holder(OLD, INIT)]),
]


@pytest.mark.parametrize(("new", "old"), NO_SUPERVISOR)
def test_no_supervisor(new: Holder, old: list[Holder]) -> None:
    assert judge_supervisor(new, old, context()) is None
