"""What holds for every origin: random machines, with test runners, forks of them, and people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple, get_args

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers.builders import context, socket
from helpers.plain_processes import (
    BOB,
    ELSEWHERE,
    HOME,
    INIT,
    ME,
    OUR_SHELL,
    PROJECT,
    ROOT,
    fork,
    process,
)
from helpers.scenes import DAY, FIRST_TOX, FOLDER, HERE, INNER, NOW, OURS, THEIRS
from portfree._core.ancestry import Holder, SessionFolder, is_copy
from portfree._core.context import Context, Neighbour, Phase
from portfree._core.judge import judge
from portfree._core.origin import EVIDENCE, Evidence, State, needs_neighbours, origin_of
from portfree._system.interface import MARKS, Environment, Lock, Process
from portfree.model import SCOPES, Port, Scope

# A machine that is busy with other tests is no fault.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


_COMMANDS = st.sampled_from(
    [
        *("python server.py", "gunicorn app", "nodemon x", "shopctl", "sh -c server", "bash"),
        *("npm run dev", "tini -- app", "systemd --user", "tmux new", "xterm", "supervisord"),
        *["python -m pytest"] * 5,
        *("nox", "python -m portfree run -- x", "karma"),
        *("gitlab-runner run", "Runner.Listener", "script x", "python run_tests.py", "ssh -N x"),
        *("concurrently x", "go run ."),
    ]
)


_MARKS = {
    **dict.fromkeys(MARKS, ("x", "y")),
    "PORTFREE_RUN_ID": tuple(
        "/".join(path) for path in ((OURS,), (THEIRS,), (OURS, INNER), (THEIRS, INNER), (HERE,))
    ),
    "PYTEST_XDIST_WORKER": ("gw0", "gw1"),
    "CI_JOB_ID": ("990", "991"),
    "RUNNER_TRACKING_ID": ("", "github_1"),
    "PORTFREE_KEEP": ("1",),
}


_ENVIRONMENTS: tuple[Environment, ...] = ("read", "read", "read", "wiped")
_PLACES = st.sampled_from([PROJECT, PROJECT, PROJECT, ELSEWHERE, HOME, "/", FOLDER, None])


@st.composite
def _marks(draw: st.DrawFn) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(sorted(_MARKS)), max_size=2))
    return {name: draw(st.sampled_from(_MARKS[name])) for name in names}


@st.composite
def _processes(draw: st.DrawFn) -> list[Process]:
    """A tree of processes, from pid 1 down; some are forks of their parents, some were adopted."""
    first = draw(st.sampled_from([INIT, INIT, process(1, "app", session=1), FIRST_TOX]))
    found = [first]
    for pid in range(2, draw(st.integers(3, 9))):
        parent = draw(st.sampled_from(found))
        own = process(pid, draw(_COMMANDS), marks=draw(_marks()), forked=False)
        may_fork = parent.pid != 1 and parent.name != "karma"  # Node.js forks nothing
        if may_fork and draw(st.sampled_from([False, False, True])):
            own = fork(parent, pid, forked=draw(st.sampled_from([True, True, None])))
        terminal = draw(st.sampled_from([None, None, None, "pts/1"]))
        environment = draw(st.sampled_from(_ENVIRONMENTS))
        found.append(
            own._replace(
                # 0: from outside of the container; 77: out of sight.
                ppid=draw(st.sampled_from([*[parent.pid] * 5, *[1] * 5, 0, 77])),
                owner=draw(st.sampled_from([*[ME] * 12, BOB, ROOT, None])),
                cwd=draw(_PLACES),
                session=draw(st.sampled_from([pid, parent.session, parent.session, 1, None])),
                terminal=terminal,
                foreground=terminal is not None and draw(st.booleans()),
                marks={} if environment == "wiped" else own.marks,
                environment=environment,
                complete=draw(st.sampled_from([*[True] * 15, False])),
                started=draw(st.sampled_from([None, NOW - 100, NOW - 4 * DAY])),
                control_group=draw(st.sampled_from([None, "/a", "/a", "/b"])),
            )
        )
    return found


def lineage_of(own: Process, everybody: list[Process]) -> tuple[Process, ...]:
    by_pid = {each.pid: each for each in everybody}
    found: list[Process] = []
    child = own
    while child.ppid and (parent := by_pid.get(child.ppid)):
        found.append(parent)
        child = parent
    return tuple(found)


def _project(place: str | None) -> str | None:
    return place if place in (PROJECT, ELSEWHERE) else None


class Machine(NamedTuple):
    holder: Holder
    context: Context
    others: tuple[Neighbour, ...]
    """The live processes that are none of us, whether the context knows of them or not."""


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    everybody = draw(_processes())
    own = draw(st.sampled_from(everybody[1:]))
    # We may descend from anybody but the holder, and mostly do from nobody here.
    above = draw(st.sampled_from([None, None, *(each for each in everybody if each != own)]))
    caller = process(900, "pytest tests/unit", session=800, terminal="pts/1")
    caller = caller._replace(start=draw(st.integers(1, 9)), marks=draw(_marks()))
    ours = (caller, *((above, *lineage_of(above, everybody)) if above else (OUR_SHELL, INIT)))
    session_folder = None
    if own.cwd == FOLDER:
        lock = draw(st.sampled_from([None, Lock(700, NOW - 99)]))
        session_folder = SessionFolder(
            FOLDER,
            exists=lock is not None or draw(st.booleans()),
            lock=lock,
            process=draw(st.sampled_from([None, *everybody])) if lock else None,
            hidden=draw(st.booleans()),
        )
    lineage = lineage_of(own, everybody)
    forked = next((each for each in (own, *lineage) if each.forked), None)
    found = Holder(
        process=own,
        sockets=frozenset({socket()}),
        lineage=lineage,
        project=_project(own.cwd),
        repository=draw(st.sampled_from([None, _project(own.cwd)])),
        leader=next((each for each in everybody if forked and each.pid == forked.session), None),
        folder=session_folder,
        live_runs=draw(st.frozensets(st.sampled_from((OURS, THEIRS, INNER, HERE)))),
    )
    others = tuple(
        Neighbour(each, lineage_of(each, everybody), _project(each.cwd))
        for each in everybody
        if each not in ours
    )
    asked = context(
        phase=draw(st.sampled_from(get_args(Phase))),
        time=NOW,
        project=draw(st.sampled_from([PROJECT, PROJECT, None])),
        run=draw(st.sampled_from([(), (OURS,), (OURS, INNER), (HERE,)])),
        ending=draw(st.sampled_from([None, None, OURS, INNER])),
        began=draw(st.sampled_from([None, 1, 4])),
        quiet=draw(st.sampled_from([frozenset[Port](), frozenset({Port(8000)})])),
        jobs=draw(st.sampled_from([{}, {"CI_JOB_ID": "990"}])),
        neighbours=tuple(each for each in others if draw(st.booleans())),
    )
    caller = caller._replace(ppid=ours[1].pid)
    return Machine(found, asked._replace(caller=caller, lineage=ours[1:]), others)


@patient
@given(machines())
def test_an_origin_is_complete_and_its_text_goes_into_json(machine: Machine) -> None:
    origin = origin_of(machine.holder, machine.context)
    assume(origin is not None)
    assert origin is not None

    told = origin._replace(runner=None)._asdict()
    assert json.loads(json.dumps(told)) == told
    assert origin.evidence in get_args(Evidence)
    assert origin.state in get_args(State)
    assert origin.run
    assert "None" not in origin.run + origin.why
    # What has ended says what was seen; what is live says whose it is.
    assert bool(origin.why) == (origin.state == "ended")
    assert origin.state == "live" or not (origin.runner or origin.alone or origin.ours)
    assert origin.runner is not None or not origin.alone


@patient
@given(machines())
def test_the_origin_is_what_the_first_evidence_tells(machine: Machine) -> None:
    found, asked = machine.holder, machine.context
    all_told = [origin for look in EVIDENCE if (origin := look(found, asked))]

    assert origin_of(found, asked) == (all_told[0] if all_told else None)


@patient
@given(machines())
def test_no_evidence_takes_a_live_runner_for_a_fork(machine: Machine) -> None:
    origin = origin_of(machine.holder, machine.context)

    # But a session that is run in a fork (multiprocessing) has a lock that names it.
    by_lock = origin is not None and origin.evidence == "folder"
    assert origin is None or origin.runner is None or by_lock or not is_copy(origin.runner)


@patient
@given(machines())
def test_who_needs_no_neighbours_is_told_nothing_by_them(machine: Machine) -> None:
    assume(not needs_neighbours(machine.holder))
    with_all = machine.context._replace(neighbours=machine.others)
    without = machine.context._replace(neighbours=())

    assert origin_of(machine.holder, with_all) == origin_of(machine.holder, without)


def _hide(found: Holder, change: Callable[[Process], Process]) -> Holder:
    return found._replace(process=change(found.process))


def _lock_hidden(found: Holder) -> Holder:
    if found.folder is None:
        return found
    unreadable = found.folder._replace(exists=True, lock=Lock(0, 0.0), process=None, hidden=True)
    return found._replace(folder=unreadable)


# What could not be read is never taken for a no.
_HIDE: dict[str, Callable[[Holder], Holder]] = {
    "the environment": lambda h: _hide(
        h, lambda p: p._replace(marks={}, environment="unreadable", complete=False)
    ),
    "whether a runner was forked": lambda h: (
        _hide(h, lambda p: p._replace(forked=None)) if is_copy(h.process) else h
    ),
    "whether any runner above it was forked": lambda h: h._replace(
        lineage=tuple(p._replace(forked=None) if is_copy(p) else p for p in h.lineage)
    ),
    "who leads its session": lambda h: h._replace(leader=None),
    "the lock of its folder": _lock_hidden,
    "who has locked its folder": lambda h: h._replace(
        folder=h.folder and h.folder._replace(process=None, hidden=True)
    ),
    "the ancestors": lambda h: h._replace(lineage=h.lineage[:1]),
    "the parent": lambda h: h._replace(lineage=()),
    "the owner": lambda h: _hide(h, lambda p: p._replace(owner=None)),
    "the session": lambda h: _hide(h, lambda p: p._replace(session=None)),
    "the sessions of its ancestors": lambda h: h._replace(
        lineage=tuple(p._replace(session=None) for p in h.lineage)
    ),
    "its age": lambda h: _hide(h, lambda p: p._replace(started=None)),
}


@pytest.mark.parametrize("hidden", _HIDE)
@patient
@given(machine=machines())
def test_what_is_hidden_never_turns_keep_into_stop(hidden: str, machine: Machine) -> None:
    found, asked = machine.holder, machine.context

    if judge(found, asked).action == "keep":
        assert judge(_HIDE[hidden](found), asked).action == "keep"


@patient
@given(machines())
def test_what_is_hidden_of_the_neighbours_never_turns_keep_into_stop(machine: Machine) -> None:
    found, asked = machine.holder, machine.context
    hidden = asked._replace(
        neighbours=tuple(
            near._replace(process=near.process._replace(forked=None, owner=None, session=None))
            for near in asked.neighbours
        )
    )

    if judge(found, asked).action == "keep":
        assert judge(found, hidden).action == "keep"


@patient
@given(machines(), st.sampled_from(SCOPES))
def test_who_else_is_at_work_never_turns_keep_into_stop(machine: Machine, scope: Scope) -> None:
    found, asked = machine.holder, machine.context._replace(scope=scope)
    for near in machine.others:
        crowded = asked._replace(neighbours=(*asked.neighbours, near))
        if judge(found, asked).action == "keep":
            assert judge(found, crowded).action == "keep"


@patient
@given(machines())
def test_a_wider_scope_stops_no_less(machine: Machine) -> None:
    stops = [
        judge(machine.holder, machine.context._replace(scope=scope)).action == "stop"
        for scope in SCOPES
    ]

    assert stops == sorted(stops)
