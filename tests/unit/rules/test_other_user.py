"""Rule other-user: whose it is, and whether we were asked to and could stop it."""

from __future__ import annotations

import pytest

from helpers.builders import case, context, holder, orphan, scene
from helpers.plain_processes import BOB, INIT, ME, OUR_PYTEST, ROOT, process
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree.model import Advice, Scope

BOBS = orphan(owner=BOB)
BY_SUDO = context(OUR_PYTEST._replace(owner=ROOT), INIT, owners=frozenset({BOB}), privileged=True)
ASK = Advice("ask bob to stop it")
AS_ROOT = ASK._replace(privileged=True)


OTHER_USER = [
    case("scope orphans", context(), AS_ROOT),
    case("scope mine", context(scope="mine"), AS_ROOT),
    case("scope any, no privilege", context(scope="any"), AS_ROOT),
    case("root, scope mine", context(scope="mine", privileged=True), ASK),
    case(
        "root, by sudo of somebody else",
        context(OUR_PYTEST._replace(owner=ROOT), INIT, privileged=True, owners=frozenset({ME})),
        AS_ROOT,
    ),
]


@pytest.mark.parametrize(("asked", "advice"), OTHER_USER)
def test_other_user(asked: Context, advice: Advice) -> None:
    verdict = judge(BOBS, asked)

    assert (verdict.action, verdict.rule) == ("keep", "other-user")
    assert verdict.reason == "it belongs to bob"
    assert verdict.advice == advice


NOT_OTHER_USER = [
    scene("ours", holder(), "orphan"),
    scene("of who called sudo", BOBS, "orphan", BY_SUDO),
    scene(
        "root's, started by who called sudo",
        orphan(owner=ROOT, marks={"SUDO_UID": str(BOB)}),
        "orphan",
        BY_SUDO,
    ),
    scene(
        "root's, below what was started by who called sudo",
        holder(
            *(process(2000, owner=ROOT), process(9, "sh x", marks={"SUDO_UID": str(BOB)})), INIT
        ),
        "orphan",
        BY_SUDO,
    ),
    scene("anybody's, as root", BOBS, "orphan", context(scope="any", privileged=True)),
]


@pytest.mark.parametrize(("found", "asked", "rule"), NOT_OTHER_USER)
def test_not_other_user(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


@pytest.mark.parametrize("marks", [{}, {"SUDO_UID": str(ME)}, {"SUDO_UID": "0"}])
@pytest.mark.parametrize("scope", ["orphans", "project", "mine"])
def test_under_sudo_what_root_itself_has_started_is_another_users(
    marks: dict[str, str], scope: Scope
) -> None:
    verdict = judge(orphan(owner=ROOT, marks=marks), BY_SUDO._replace(scope=scope))

    assert (verdict.action, verdict.rule) == ("keep", "other-user")
    assert verdict.advice == Advice("ask root to stop it", privileged=True)


@pytest.mark.parametrize("marks", [{}, {"SUDO_UID": str(BOB)}])
def test_to_have_called_sudo_gives_nobody_to_others(marks: dict[str, str]) -> None:
    found = orphan(owner=BOB, marks=marks)
    assert judge(found, context(privileged=True)).rule == "other-user"


def test_a_user_without_a_name_is_named_by_the_number() -> None:
    verdict = judge(orphan(owner=4711), context())

    assert verdict.reason == "it belongs to 4711"
