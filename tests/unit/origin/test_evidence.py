"""The seven kinds of evidence in their order: the first that applies tells."""

from __future__ import annotations

from typing import get_args

import pytest

from helpers.builders import alive, born, context, holder, orphan, run_id
from helpers.plain_processes import INIT, THEIR_PYTEST, THEIR_SHELL
from helpers.scenes import (
    COPY,
    ENDING,
    FOLDER,
    IN_A_TEST,
    KILLED,
    NOX,
    THEIRS,
    TODAY,
    TODAY_AT_WORK,
    there,
)
from portfree._core.origin import EVIDENCE, Evidence, origin_of

PAIRS = {
    ("descent", "id"): (
        holder(*(born(run_id(THEIRS)), THEIR_PYTEST, THEIR_SHELL, INIT), live_runs=alive(THEIRS)),
        context(),
    ),
    ("id", "mark"): (orphan(marks=run_id(THEIRS) | IN_A_TEST), context()),
    ("mark", "copy"): (holder(COPY._replace(marks=NOX), INIT), context()),
    ("copy", "folder"): (there(KILLED, COPY._replace(cwd=FOLDER)), TODAY),
    ("folder", "arrival"): (there(KILLED), ENDING),
    ("folder", "unreadable"): (there(KILLED), TODAY_AT_WORK),
}


def test_the_seven_kinds_in_this_order() -> None:
    assert tuple(look.__name__.removesuffix("_") for look in EVIDENCE) == get_args(Evidence)


@pytest.mark.parametrize(
    ("first", "second"), [pytest.param(*pair, id=" before ".join(pair)) for pair in PAIRS]
)
def test_the_first_that_applies_tells(first: str, second: str) -> None:
    found, asked = PAIRS[first, second]

    applying = [origin.evidence for look in EVIDENCE if (origin := look(found, asked))]

    assert applying[:2] == [first, second]
    assert origin_of(found, asked) == next(
        look(found, asked) for look in EVIDENCE if look.__name__.removesuffix("_") == first
    )
