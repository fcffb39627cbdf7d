"""Many pytest sessions under load: no server that only takes its time to end is called a leak, and
none that is left behind is missed, or blamed on another test.
"""

from __future__ import annotations

import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from helpers.commands import port_of_ours
from helpers.processes import Processes, is_free
from helpers.project import Project
from stress.support import leaky

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from helpers.project import Ended
    from stress.support.figures import Figures

GROUP = "leaks by test"

AT_ONCE = 3 * (os.cpu_count() or 1)

SLOW = ("session", "module", "function", "body", "own")
"""Where a server is told to end that then needs some time for it."""
PLACES = ("body", "function", "module", "session")
"""Where a server is started that is left behind."""

FIXTURES = """\
import leaky, pytest
PLAN = $PLAN

def fixture(scope):
    @pytest.fixture(scope=scope, name=scope)
    def set_up():
        $SET_UP

    return set_up

for_function, for_module, for_session = map(fixture, ("function", "module", "session"))
"""

SHUTS_DOWN = """\
from conftest import PLAN
import leaky

def test_session(session): pass
def test_module(module): pass
def test_function(function): pass
def test_body():
    with leaky.terminated(*PLAN["body"]): pass
def test_own():
    with leaky.thread_told_to_end(*PLAN["own"]): pass
def test_http(function):
    with leaky.http_server(PLAN["http"]): pass
def test_asyncio():
    with leaky.asyncio_server(PLAN["asyncio"]): pass
"""


@pytest.fixture
def load(processes: Processes) -> None:
    """Processes that take whatever time the processors have left."""
    busy = ["nice", "-n", "19", sys.executable, "-S", "-c", "while True: pass"]
    for _ in range(2 * (os.cpu_count() or 1)):
        processes.child(busy)


@contextmanager
def suite(folder: Path, leaks: str) -> Iterator[Project]:
    """A project of its own, with processes of its own: several are at work at once."""
    folder.mkdir()
    with closing(Processes(folder)) as processes:
        variables = {"PYTEST_ADDOPTS": "-p no:hypothesispytest -p no:asyncio -p no:anyio"}
        project = Project(processes, folder / "shop", variables)
        (project / ".git").mkdir()
        project.guard(leaks=leaks, grace=3)
        project.write("tests/leaky.py", Path(leaky.__file__).read_text())
        yield project


def shut_down(folder: Path, chance: random.Random) -> str:
    """A session that leaves nothing behind; returns what is wrong with it."""
    with suite(folder, "fail") as project:
        plan: dict[str, object] = {
            name: (
                project.processes.free_port(),
                chance.uniform(0, 2),
                chance.choice(("first", "last")),
            )
            for name in SLOW
        }
        plan |= {name: project.processes.free_port() for name in ("http", "asyncio")}
        set_up = "with leaky.terminated(*PLAN[scope]): yield"
        project.write("tests/conftest.py", FIXTURES, PLAN=plan, SET_UP=set_up)
        tests = SHUTS_DOWN.split("\ndef ")
        tests[1:] = chance.sample(tests[1:], len(tests) - 1)
        project.write("tests/test_it.py", "\ndef ".join(tests))
        project.write("tests/test_then.py", "def test_then(session): pass\n")
        ended = project.pytest()
        right = ended.code == 0 and not ended.section and "8 passed" in ended.out
        return "" if right else f"{plan}\n{ended.out}"


def leave(folder: Path, chance: random.Random, number: int) -> str:
    """A session of which one test leaves a server behind; returns what is wrong with it."""
    kinds, leaks = [*leaky.LEAVE], ("fail", "warn")[number % 2]
    kind, place = kinds[number // 2 % len(kinds)], chance.choice(PLACES)
    culprit = chance.randrange(5)
    with suite(folder, leaks) as project, port_of_ours(project.processes) as port:
        act = f"leaky.LEAVE[{kind!r}]({port})"
        project.write("tests/conftest.py", FIXTURES, PLAN={}, SET_UP=f"{act}; yield")
        lines = ["import leaky"]
        for each in range(5):
            body = f"leaky.used({project.other})" if chance.random() < 0.5 else "pass"
            wants = "" if place == "body" or each != culprit else place
            if place == "body" and each == culprit:
                body = act
            lines.append(f"def test_{each}({wants}): {body}")
        project.write("tests/test_it.py", "\n".join([*lines, ""]))
        project.write("tests/test_then.py", "def test_then(): pass\n")
        ended = project.pytest("--junitxml=out.xml")
        wrong = what_is_wrong(project, ended, leaks, place, port, f"test_{culprit}")
        if not wrong and leaks == "fail" and not is_free(port):
            wrong = "it still listens"
        return wrong and f"{leaks}, {kind}, {place}, test_{culprit}: {wrong}\n{ended.out}"


def what_is_wrong(
    project: Project, ended: Ended, leaks: str, place: str, port: int, culprit: str
) -> str:
    wider = place in ("module", "session")
    lines = [line for line in ended.section if f":{port}" in line]
    fixture = f", fixture {place} ({place})," if wider else ""
    if ended.code != (leaks == "fail"):
        return f"exit code {ended.code}"
    if len(lines) != 1 or not lines[0].startswith(f"tests/test_it.py::{culprit}{fixture} left "):
        return f"told: {lines}"
    cases = [*ET.parse(project / "out.xml").iter("testcase")]
    told = [case for case in cases if case.find(".//property[@name='portfree_leak']") is not None]
    failed = [case for case in cases if case.find("error") is not None]
    # What a fixture leaves is found when it ends, with the last test of its scope.
    last = {"module": "test_4", "session": "test_then"}.get(place, culprit)
    if [case.get("name") for case in told] != [last]:
        return f"JUnit tells it of {[case.get('name') for case in told]}"
    if failed != (told if leaks == "fail" else []):
        return f"an error in {[case.get('name') for case in failed]}"
    return ""


def run_all(
    folder: Path, figures: Figures, count: int, session: Callable[[Path, random.Random, int], str]
) -> None:
    """So many sessions, several at a time; what is wrong with any of them fails the test."""
    seed = random.randrange(1 << 30)

    def one(number: int) -> tuple[float, str]:
        began = time.monotonic()
        wrong = session(folder / str(number), random.Random(f"{seed}-{number}"), number)
        return time.monotonic() - began, wrong

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(one, range(count)))
    for seconds, wrong in results:
        figures.trial(seconds, false_reports=bool(wrong))
    failures = [wrong for _, wrong in results if wrong]
    assert not failures, f"{len(failures)} of {count}, seed {seed}; the first:\n{failures[0]}"


@pytest.mark.usefixtures("load")
def test_servers_that_take_their_time_to_end_are_no_leaks(
    tmp_path: Path, figures: Figures, *, long: bool
) -> None:
    run_all(
        tmp_path,
        figures,
        200 if long else 20,
        lambda folder, chance, _: shut_down(folder, chance),
    )


@pytest.mark.usefixtures("load")
def test_no_leak_is_missed(tmp_path: Path, figures: Figures, *, long: bool) -> None:
    run_all(tmp_path, figures, 200 if long else 20, leave)
