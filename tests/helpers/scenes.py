"""The runs, marks and processes that the scenes of rules and evidence share."""

from __future__ import annotations

from typing import Any

from helpers.builders import below, born, context, holder, neighbour, process, titled
from helpers.plain_processes import INIT, OUR_PYTEST, OUR_SHELL, THEIR_PYTEST, THEIR_SHELL, fork
from portfree._core.ancestry import Holder, SessionFolder, named
from portfree._core.context import Context
from portfree._core.judge import judge
from portfree._core.origin import Evidence, Origin, origin_of
from portfree._system.interface import Lock, Process
from portfree.model import SCOPES, Port

TWELVE = (
    *("self", "own-run", "container", "protected", "unknown", "other-user"),
    *("live-run", "left-behind", "service", "orphan", "mine", "attended"),
)

# The ids of runs, elements of PORTFREE_RUN_ID. Which of their controllers live, a scene says.
OURS, THEIRS, INNER = "812.34567.9f3c", "77.1000.07ab", "78.1001.5e3c"
HERE = "900.900.9f3c"  # a run that the caller itself has open
TEST = "tests/test_api.py::test_search (setup)"
IN_A_TEST = {"PYTEST_CURRENT_TEST": TEST}
VERSION = {"PYTEST_VERSION": "9.0.1"}
NOX = {"NOX_CURRENT_SESSION": "tests-3.13"}
TOX = {"TOX_ENV_DIR": "/x/.tox/py313"}
NEXTEST = {"NEXTEST_TEST_NAME": "api::search"}
JOB = {"CI_JOB_ID": "991"}
ENDED = "the run that started it has ended"
IDLE_AGENT = process(500, "/runner/bin/Runner.Listener run")
AGENT = process(600, "/runner/bin/Runner.Worker spawnclient 1 2")
GITLAB = process(300, "gitlab-runner run")
OUR_CHILD = below(OUR_PYTEST, OUR_SHELL, INIT)
STEP, OTHER_STEP = process(610, "bash -e step.sh"), process(620, "bash -e background.sh")
PORTFREE_RUN = process(700, "python -m portfree run 9000 -- make check", session=600)
NODEMON = process(9, "nodemon server.js")
TMUX = process(9, "tmux new")
WORKING = (neighbour(THEIR_PYTEST, THEIR_SHELL, INIT),)
AT_WORK = context(neighbours=WORKING)


def used_by(
    runner: Process, evidence: Evidence, *, alone: bool = False, element: str = ""
) -> Origin:
    """The origin of what a live runner may have started."""
    return Origin(evidence, "live", named(runner), id=element, runner=runner, alone=alone)


def plain(origin: Origin | None) -> Origin | None:
    """An origin, with its runner as the scenes write it: whose child that is, they say apart."""
    if origin is None or origin.runner is None:
        return origin
    return origin._replace(runner=origin.runner._replace(ppid=0))


def told(found: Holder, asked: Context) -> str:
    origin = origin_of(found, asked)
    return f"{origin.evidence} {origin.state}" if origin else "nothing"


KARMA = process(2000, "node node_modules/.bin/karma start")
ADOPTED_KARMA = process(77, "karma start")
FIRST_TOX = process(1, "tox -p")
FORKSERVER = process(710, "python -c 'from multiprocessing.forkserver import main; main()'")
XDIST = process(705, "python -m pytest -n2")
EXECNET = "python -c 'import sys;exec(eval(sys.stdin.readline()))'"
OUR_NOX, INNER_PYTEST = process(700, "nox"), process(77, "pytest inner")
IN_NOX = context(OUR_PYTEST, OUR_NOX, THEIR_SHELL, INIT)
IN_A_PORTFREE_RUN = context(OUR_PYTEST, PORTFREE_RUN, THEIR_SHELL, INIT, run=(OURS,))
LEFT = Origin("mark", "ended", "pytest", why=f"started in {TEST}")
RUNNER = process(9, "python run_tests.py", session=600, terminal="pts/2")
SCRIPT = process(1980, "script -qc 'sh -c server' /dev/null", marks=IN_A_TEST)
IN_A_PTY = process(1990, "sh -c server", marks=IN_A_TEST, terminal="pts/7")
EMULATOR = process(1980, "shopterm", marks=IN_A_TEST)
WINDOW = process(1990, "bash", marks=IN_A_TEST, terminal="pts/7")
IN_THE_WINDOW = born(IN_A_TEST, session=1990, terminal="pts/7")
AROUND = context("python -m pytest inner", THEIR_PYTEST, THEIR_SHELL, INIT)
COPY = fork(THEIR_PYTEST, 2000)  # with the session, the terminal and the directory of that pytest
SCRIPTED = process(700, "python run_tests.py", session=600, terminal="pts/2")
FOLDER = "/tmp/pytest-of-me/pytest-7"
DAY = 86_400.0
NOW = 1_000 * DAY
OWNER = THEIR_PYTEST._replace(started=NOW - 100)
LOCKED = SessionFolder(FOLDER, exists=True, lock=Lock(700, NOW - 99), process=OWNER)
KILLED = LOCKED._replace(process=None)
UNLOCKED = SessionFolder(FOLDER, exists=True)
REMOVED = SessionFolder(FOLDER, exists=False)
TODAY = context(time=NOW)
TODAY_AT_WORK = context(time=NOW, neighbours=WORKING)


def redis(**facts: Any) -> Process:
    """A server that wipes its environment, in the temporary folder of a test."""
    plain = process(2000, "redis-server *:8000", environment="wiped", started=NOW - 60)
    return plain._replace(cwd=f"{FOLDER}/test_search0")._replace(**facts)


def there(
    found: SessionFolder, own: Process | None = None, *above: Process, **findings: Any
) -> Holder:
    chain = (own or redis(), *(above or (INIT,)))
    return holder(*chain, project=None, folder=found)._replace(**findings)


ENDING = context(
    ending=OURS, run=(OURS,), began=1000, quiet=frozenset({Port(8000), Port(8001)}), phase="after"
)
DAEMON = process(2000, "redis-server *:8000", environment="wiped")
HIDDEN = process(2000, environment="unreadable", complete=False)
IN_GW0 = context(process(710, EXECNET, marks={"PYTEST_XDIST_WORKER": "gw0"}), XDIST, INIT)


def narrowest(found: Holder, asked: Context) -> str:
    stops = [
        scope for scope in SCOPES if judge(found, asked._replace(scope=scope)).action == "stop"
    ]
    return next(iter(stops), "never")


PM2 = titled(9, "PM2 v5.3.0: God Daemon (/home/me/.pm2)", cwd="/home/me")
MUX = titled(2000, "ssh: /home/me/.ssh/cm [mux]", name="ssh", environment="wiped", cwd="/")
SERVER = process(2000)


def marked(pid: int, command: str = "python server.py") -> Process:
    return process(pid, command, marks=IN_A_TEST)


# The first process of a container that is no init
APP_AS_PID_1 = process(1, "python entrypoint.py", session=1)
