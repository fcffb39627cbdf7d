"""Evidence folder: its directory lies in a base temporary folder of pytest."""

from __future__ import annotations

from functools import partial

import pytest

from helpers.builders import context, holder, miss, orphan, scene
from helpers.plain_processes import (
    HOME,
    INIT,
    OUR_PYTEST,
    OUR_SHELL,
    PROJECT,
    THEIR_PYTEST,
    process,
)
from helpers.scenes import (
    AROUND,
    DAY,
    EXECNET,
    FOLDER,
    HERE,
    KILLED,
    LOCKED,
    NODEMON,
    NOW,
    OWNER,
    REMOVED,
    TMUX,
    TODAY,
    TODAY_AT_WORK,
    UNLOCKED,
    XDIST,
    plain,
    redis,
    there,
    told,
    used_by,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.origin import Origin, folder, origin_of
from portfree._system.interface import Lock

live = partial(used_by, evidence="folder")


LEFT_IN = Origin(
    "folder",
    "ended",
    "pytest, pytest-7",
    why="it runs in the temporary folder of test_search, of a pytest that has ended",
)


FOLDERS = [
    scene("its pytest was killed", there(KILLED), LEFT_IN, TODAY),
    scene("its pytest was killed, and another one works", there(KILLED), LEFT_IN, TODAY_AT_WORK),
    scene("its pytest has ended by itself", there(UNLOCKED), LEFT_IN, TODAY),
    scene("the same, and another one works", there(UNLOCKED), LEFT_IN, TODAY_AT_WORK),
    scene("the folder is gone too", there(REMOVED), LEFT_IN, TODAY),
    scene(
        "its environment can be read, and a test has dropped what was in it",
        there(UNLOCKED, redis(environment="read")),
        LEFT_IN,
        TODAY,
    ),
    scene(
        "its pid has passed to another one",
        there(LOCKED._replace(process=process(700, "vim notes", started=NOW - 96.9))),
        LEFT_IN,
        TODAY,
    ),
    scene(
        "in the folder of a fixture of a worker of pytest-xdist",
        there(UNLOCKED, redis(cwd=f"{FOLDER}/popen-gw0/test_index12/data")),
        LEFT_IN._replace(
            why="it runs in the temporary folder of test_index, of a pytest that has ended"
        ),
        TODAY,
    ),
    *(
        scene(
            name,
            there(UNLOCKED, redis(cwd=cwd)),
            LEFT_IN._replace(
                why="it runs in the temporary folder pytest-7 of a pytest that has ended"
            ),
            TODAY,
        )
        for name, cwd in (
            ("in the folder itself", FOLDER),
            ("in the folder of a factory", f"{FOLDER}/data0"),
            ("in a folder that is called like a test further down", f"{FOLDER}/a/b/test_c0"),
        )
    ),
    scene(
        "its master works there too, and was adopted",
        there(KILLED, redis(), process(9, "redis-sentinel", cwd=FOLDER), INIT),
        LEFT_IN,
        TODAY,
    ),
    *(
        scene(
            f"its master still works there, and it {what}",
            there(KILLED, redis(cwd=cwd), process(9, "redis-sentinel", cwd=FOLDER), INIT),
            LEFT_IN._replace(
                why="it runs in the temporary folder pytest-7 of a pytest that has ended"
            ),
            TODAY,
        )
        for what, cwd in (("has gone home", HOME), ("does not tell where it works", None))
    ),
    scene("its pytest lives", there(LOCKED), live(OWNER), TODAY),
    *(
        scene(
            f"its pytest lives, and its start is told {seconds} s later than its lock",
            there(LOCKED._replace(process=OWNER._replace(started=NOW - 99 + seconds))),
            live(OWNER._replace(started=NOW - 99 + seconds)),
            TODAY,
        )
        for seconds in (1, 2)
    ),
    scene(
        "its pytest lives, and does not tell since when",
        there(LOCKED._replace(process=THEIR_PYTEST)),
        live(THEIR_PYTEST),
        TODAY,
    ),
    scene(
        "who has locked it cannot be seen",
        there(LOCKED._replace(process=None, hidden=True)),
        Origin("folder", "live", "pytest (pid 700)"),
        TODAY,
    ),
    scene(
        "its pytest are we",
        there(LOCKED._replace(lock=Lock(900, NOW), process=OUR_PYTEST)),
        live(OUR_PYTEST)._replace(ours=True),
        TODAY,
    ),
    scene(
        "its pytest are we, in a run around the one that ends",
        there(LOCKED._replace(lock=Lock(900, NOW), process=OUR_PYTEST), redis(start=850)),
        live(OUR_PYTEST),
        context(time=NOW, phase="after", run=(HERE,)),
    ),
    scene(
        "its pytest surrounds us, and we are a hook",
        there(LOCKED),
        live(OWNER),
        AROUND._replace(time=NOW, phase="after"),
    ),
    scene(
        "its pytest is our controller of pytest-xdist",
        there(LOCKED._replace(lock=Lock(705, NOW), process=XDIST._replace(ppid=1))),
        live(XDIST),
        context(process(710, EXECNET, marks={"PYTEST_XDIST_WORKER": "gw0"}), XDIST, INIT),
    ),
    scene(
        "the folder is gone, and a pytest works that may have removed it",
        there(REMOVED),
        live(THEIR_PYTEST),
        TODAY_AT_WORK,
    ),
    scene(
        "the lock is gone, and a pytest has worked for days",
        there(UNLOCKED, redis(started=NOW - 3 * DAY - 1)),
        live(THEIR_PYTEST),
        TODAY_AT_WORK,
    ),
    scene(
        "the lock is gone, a pytest works, and it does not tell its age",
        there(UNLOCKED, redis(started=None)),
        live(THEIR_PYTEST),
        TODAY_AT_WORK,
    ),
    scene(
        "the lock is gone, and what is as old as a lock lasts was left",
        there(UNLOCKED, redis(started=NOW - 3 * DAY)),
        LEFT_IN,
        TODAY_AT_WORK,
    ),
    scene(
        "it is old, and its pytest was killed",
        there(KILLED, redis(started=NOW - 5 * DAY)),
        LEFT_IN,
        TODAY_AT_WORK,
    ),
    scene("it is old, and nobody works", there(UNLOCKED, redis(started=0.0)), LEFT_IN, TODAY),
]


@pytest.mark.parametrize(("found", "asked", "origin"), FOLDERS)
def test_folder(found: Holder, asked: Context, origin: Origin) -> None:
    assert plain(folder(found, asked)) == origin
    assert plain(origin_of(found, asked)) == origin


NO_FOLDER = [
    miss("it lies in none", orphan(environment="wiped")),
    miss(
        "somebody sits there, and started it",
        there(KILLED, redis(), OUR_SHELL._replace(cwd=FOLDER), INIT),
    ),
    miss(
        "the same, by way of a script (nohup ./start.sh &)",
        there(
            *(KILLED, redis(), process(9, "sh start.sh", cwd=FOLDER, session=800)),
            *(OUR_SHELL._replace(cwd=FOLDER), INIT),
        ),
    ),
    miss(
        "somebody sat there, has gone home, and started it",
        there(KILLED, redis(), OUR_SHELL._replace(cwd=HOME), INIT),
    ),
    miss(
        "somebody has a terminal there that has no shell (docker exec -it)",
        there(KILLED, redis(terminal="pts/5"), INIT),
    ),
    miss("a program started it there", there(KILLED, redis(), NODEMON, INIT)),
    miss("tmux was started there", there(KILLED, redis(), TMUX._replace(cwd=FOLDER), INIT)),
    miss("who started it is out of sight", holder(redis(ppid=77), folder=KILLED)),
    miss(
        "its pytest surrounds us, and we call",
        there(LOCKED, redis(environment="read")),
        AROUND._replace(time=NOW),
    ),
    miss(
        "its master works elsewhere, and was adopted",
        there(KILLED, redis(), process(9, "gunicorn x", cwd=PROJECT), INIT),
    ),
    miss(
        "its master does not tell where it works, and was adopted",
        there(KILLED, redis(), process(9, "gunicorn x", cwd=None), INIT),
    ),
    miss("it has gone home by now", there(KILLED, redis(cwd=HOME))),
    miss("it has gone to a folder that is called alike", there(KILLED, redis(cwd=f"{FOLDER}7"))),
]


@pytest.mark.parametrize(("found", "asked", "instead"), NO_FOLDER)
def test_no_folder(found: Holder, asked: Context, instead: str) -> None:
    assert folder(found, asked) is None
    assert told(found, asked) == instead
