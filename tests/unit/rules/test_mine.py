"""Rule mine: a caller that names a port may stop what holds it."""

from __future__ import annotations

import pytest

from helpers.builders import below, case, context, orphan
from helpers.plain_processes import ELSEWHERE, INIT, OUR_SHELL
from portfree._core.ancestry import Holder
from portfree._core.judge import judge
from portfree.model import Scope

MINE = [
    case(
        "mine",
        "mine",
        below(OUR_SHELL, INIT),
        "started by zsh (pid 800) on pts/1, and scope mine takes it in",
    ),
    case(
        "mine, an orphan in another project",
        "mine",
        orphan(cwd=ELSEWHERE),
        "nobody looks after it, and scope mine takes it in",
    ),
    case(
        "any",
        "any",
        below("nodemon x", INIT),
        "started by nodemon (pid 9), and scope any takes it in",
    ),
]


@pytest.mark.parametrize(("scope", "found", "says"), MINE)
def test_mine(scope: Scope, found: Holder, says: str) -> None:
    verdict = judge(found, context(scope=scope))

    assert (verdict.action, verdict.rule) == ("stop", "mine")
    assert verdict.reason == says
