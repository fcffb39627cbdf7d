"""Rule orphan: nothing looks after it, and it is in our project."""

from __future__ import annotations

import pytest

from helpers.builders import below, case, context, holder, orphan
from helpers.plain_processes import ELSEWHERE, HOME, INIT, OUR_SHELL, PROJECT, process, titled
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge

ORPHANS = [
    case("in the project's folder", holder()),
    case("below it", orphan(cwd=f"{PROJECT}/src/web")),
    case("in a folder that was deleted", orphan(cwd=f"{PROJECT}/x (deleted)")),
    case(
        "wrappers between, npm by its title",
        holder("node vite", "sh -c 'node vite'", titled(8, "npm run dev", name="node"), INIT),
    ),
    case("wrappers between, npm by its command line", below("node /usr/bin/npm run dev", INIT)),
    case("its terminal is still open", orphan(session=800, terminal="pts/1")),
    case("pid 1 is no init, and of another session", below(process(1, "sleep 9"))),
    case("nobody adopts (Windows)", holder(process(2000, ppid=None))),
]


@pytest.mark.parametrize("found", ORPHANS)
def test_orphan(found: Holder) -> None:
    verdict = judge(found, context())

    assert (verdict.action, verdict.rule) == ("stop", "orphan")
    assert verdict.reason == "nobody looks after it, and it runs in ~/shop"


NOT_ORPHAN = [
    case("in another project", orphan(cwd=ELSEWHERE), context()),
    case("in a folder that starts alike", orphan(cwd=f"{PROJECT}-v2"), context()),
    case("above our project", orphan(cwd=HOME), context()),
    case("in /", orphan(cwd="/"), context()),
    case("where it is cannot be read", orphan(cwd=None), context()),
    case("we are in no project", holder(), context(project=None)),
    case("our project would be the home directory", holder(), context(project=HOME)),
    case("our project would be /", holder(), context(project="/")),
    case("a shell at a terminal", below(OUR_SHELL, INIT), context()),
    case(
        "a shell that waits in the foreground",
        below(process(9, "sh x", session=8, terminal="pts/1", foreground=True), INIT),
        context(),
    ),
    case("a supervisor", below("nodemon x", INIT), context()),
    case("a name on no list", below("shopctl", INIT), context()),
    case(
        "pid 1 is no init, and of its session",
        holder(process(2000, session=1), process(1, "app", session=1)),
        context(),
    ),
    case(
        "pid 1 is a shell at a terminal (docker run -it)",
        below(process(1, "bash", terminal="pts/0")),
        context(),
    ),
    case("its parent is outside (docker exec)", holder(process(2000, ppid=0)), context()),
    case("its parent cannot be seen", holder(process(2000, ppid=77)), context()),
    case("it has a terminal for itself", orphan(terminal="pts/5"), context()),
    case("it outlives by design", orphan("emacs --daemon"), context()),
]


@pytest.mark.parametrize(("found", "asked"), NOT_ORPHAN)
def test_not_orphan(found: Holder, asked: Context) -> None:
    assert judge(found, asked).rule == "attended"
    assert judge(found, asked._replace(scope="mine")).rule == "mine"
