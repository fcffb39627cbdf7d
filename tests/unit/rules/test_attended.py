"""Rule attended: anything else. What started it, where, and what to do."""

from __future__ import annotations

import pytest

from helpers.builders import below, context, holder, orphan, scene, socket
from helpers.plain_processes import ELSEWHERE, HOME, INIT, OUR_SHELL, process
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree.model import Advice

ATTENDED = [
    scene("a shell", below(OUR_SHELL, INIT), "started by zsh (pid 800) on pts/1 in ~/shop"),
    scene(
        "a supervisor, in the home directory",
        holder(process(2000, cwd=HOME), "nodemon x", INIT),
        "started by nodemon (pid 9) in ~",
    ),
    scene(
        "in a directory that cannot be read",
        holder(process(2000, cwd=None), OUR_SHELL, INIT),
        "started by zsh (pid 800) on pts/1 in a directory that cannot be read",
    ),
    scene(
        "docker exec",
        holder(process(2000, ppid=0, cwd="/app"), sockets=[socket()]),
        "started by somebody outside of this container (docker exec or the like) in /app",
    ),
    scene(
        "a terminal for itself",
        orphan(terminal="pts/5"),
        "started by somebody at the terminal pts/5 in ~/shop",
    ),
    scene(
        "an orphan elsewhere",
        orphan(cwd=ELSEWHERE),
        "nobody looks after it any more, but it runs in ~/unrelated, outside of ~/shop, and "
        "nothing shows that a test run has left it",
    ),
    scene(
        "an orphan, and no project",
        holder(),
        "nobody looks after it any more, but it runs in ~/shop, and we are in no project: "
        "there is no pyproject.toml or .git here or above, so nothing tells that it is ours to "
        "stop",
        context(project=None),
    ),
    scene(
        "what outlives by design",
        orphan("emacs --daemon"),
        "emacs (pid 2000) is meant to run on by itself, and runs in ~/shop",
    ),
    scene(
        "a path of Windows",
        holder(process(2000, cwd=r"C:\Users\me\x", ppid=77)),
        r"started by a process that cannot be seen (pid 77) in ~\x",
        context(home=r"C:\Users\me", platform="win32"),
    ),
    scene(
        "a home that only starts alike",
        holder(process(2000, cwd="/home/meg"), OUR_SHELL, INIT),
        "started by zsh (pid 800) on pts/1 in /home/meg",
    ),
]


@pytest.mark.parametrize(("found", "asked", "says"), ATTENDED)
def test_attended(found: Holder, asked: Context, says: str) -> None:
    verdict = judge(found, asked)

    assert (verdict.action, verdict.rule) == ("keep", "attended")
    assert verdict.reason == says
    assert verdict.advice == Advice("stop it there", "mine")
