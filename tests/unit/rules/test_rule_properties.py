"""What holds for every verdict: random process trees, with random marks and terminals."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.builders import context, holder, socket
from helpers.plain_processes import BOB, ELSEWHERE, HOME, INIT, ME, PROJECT, ROOT, process
from helpers.scenes import INNER, OURS, THEIRS, TWELVE
from portfree._core import run_id
from portfree._core.ancestry import Holder
from portfree._core.context import Context, Neighbour, Phase
from portfree._core.judge import judge, judge_all, veto
from portfree._system.interface import CI_JOB_IDS, MARKS, Process
from portfree.model import SCOPES, Port

# A machine that is busy with other tests is no fault.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


_COMMANDS = st.sampled_from(
    [
        *("python server.py", "gunicorn app", "node vite", "nodemon x", "shopctl", "sleep 9"),
        *("sh -c server", "bash", "npm run dev", "make dev", "sudo server", "busybox sh"),
        *("tini -- app", "systemd --user", "python init.py", "tmux new", "emacs --daemon"),
        *("python -m pytest", "nox", "portfree run -- x", "coverage run -m pytest"),
        *("Runner.Worker", "Runner.Listener", "gitlab-runner run", "docker-proxy", "sshd", "ssh x"),
        *("code", "systemd-resolved", "java -jar jenkins.war"),
    ]
)


_ELEMENTS = (OURS, THEIRS, INNER, "garbled")


_VALUES = {
    "PORTFREE_RUN_ID": [
        "/".join(path) for path in ((OURS,), (THEIRS,), (OURS, INNER), (THEIRS, INNER))
    ],
    "PYTEST_XDIST_WORKER": ["gw0", "gw1"],
}


@st.composite
def _processes(draw: st.DrawFn) -> list[Process]:
    """A machine: a tree of processes, from pid 1 down, each with a random past."""
    first = draw(st.sampled_from([INIT, process(1, "tini -- x"), process(1, "sh x", session=1)]))
    found = [first]
    for pid in range(2, draw(st.integers(3, 9))):
        parent = draw(st.sampled_from(found))
        # 0: from outside of the container; 77: out of sight.
        ppid = draw(st.sampled_from([parent.pid] * 6 + [1, 1, 0, 77]))
        names = draw(
            st.lists(st.sampled_from([*MARKS, *CI_JOB_IDS, "PYTEST_XDIST_WORKER"]), max_size=3)
        )
        terminal = draw(st.sampled_from([None, None, None, "pts/1"]))
        found.append(
            process(
                pid,
                draw(_COMMANDS),
                ppid=ppid,
                owner=draw(st.sampled_from([ME, ME, ME, BOB, ROOT, None])),
                cwd=draw(st.sampled_from([PROJECT, PROJECT, ELSEWHERE, HOME, "/", None])),
                session=draw(st.sampled_from([pid, parent.session, 1, None])),
                terminal=terminal,
                foreground=terminal is not None and draw(st.booleans()),
                marks={
                    name: draw(st.sampled_from(_VALUES.get(name, ["x", "y"]))) for name in names
                },
                complete=draw(st.sampled_from([True] * 5 + [False])),
                unit=draw(st.sampled_from([None] * 4 + ["shop.service", "cron.service"])),
                container=draw(st.sampled_from([None] * 7 + ["f00d"])),
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


class Machine(NamedTuple):
    holders: list[Holder]
    context: Context


@st.composite
def machines(draw: st.DrawFn, platform: str | None = None) -> Machine:
    everybody = draw(_processes())
    caller = draw(st.sampled_from(everybody))
    ours = (caller, *lineage_of(caller, everybody))
    live = draw(st.frozensets(st.sampled_from(_ELEMENTS)))
    holding = draw(st.lists(st.sampled_from(everybody), min_size=1, unique_by=lambda p: p.pid))
    holders = []
    for own in holding:
        ids = draw(st.sets(st.integers(1, 3), min_size=1))
        base = holder(own, sockets=[socket(id_, Port(8000 + (id_ == 3))) for id_ in ids])
        holders.append(
            base._replace(
                process=own,
                lineage=lineage_of(own, everybody),
                pinned=draw(st.sampled_from([True] * 5 + [False])),
                project=draw(st.sampled_from([PROJECT, ELSEWHERE, None])),
                live_runs=live,
            )
        )
    others = draw(st.lists(st.sampled_from(everybody), max_size=3))
    # What our ancestors bear is ours.
    told = next((p.marks[run_id.RUN_ID] for p in ours if run_id.RUN_ID in p.marks), "")
    outside = st.sampled_from([(), (OURS,), (OURS, INNER), (THEIRS,)])
    own_ids = run_id.elements(told) or draw(outside)
    asked = context(
        platform=platform or draw(st.sampled_from(["linux", "darwin", "win32"])),
        scope=draw(st.sampled_from(SCOPES)),
        phase=draw(st.sampled_from(get_args(Phase))),
        privileged=draw(st.booleans()),
        owners=draw(
            st.sampled_from([frozenset[int | str]({ME}), frozenset[int | str]({ME, ROOT})])
        ),
        project=draw(st.sampled_from([PROJECT, PROJECT, None, HOME, "/"])),
        run=own_ids,
        ending=draw(st.sampled_from([None, OURS, INNER])),
        jobs=draw(st.sampled_from([{}, {"CI_JOB_ID": "x"}])),
        unit=draw(st.sampled_from([None, "shop.service"])),
        neighbours=tuple(
            Neighbour(each, lineage_of(each, everybody), PROJECT)
            for each in others
            if each not in ours
        ),
        main_service=draw(st.sampled_from([frozenset[int](), frozenset({1, 2})])),
    )
    return Machine(holders, asked._replace(caller=caller, lineage=ours[1:]))


@patient
@given(machines())
def test_never_the_caller_nor_an_ancestor(machine: Machine) -> None:
    own = {each.pid for each in machine.context.ours}

    for pid, verdict in judge_all(machine.holders, machine.context).items():
        assert verdict.action == "keep" or pid not in own


@patient
@given(machines())
def test_never_the_first_process(machine: Machine) -> None:
    for found in machine.holders:
        if found.pid == 1:
            assert judge(found, machine.context).action == "keep"
    assert judge_all(machine.holders, machine.context).get(1, ("keep",))[0] == "keep"


@patient
@given(machines())
def test_never_what_could_not_be_pinned_or_told(machine: Machine) -> None:
    for found in machine.holders:
        if not found.pinned or found.process.owner is None:
            assert judge(found, machine.context).action == "keep"


@patient
@given(machines())
def test_never_another_users_unless_asked_and_able(machine: Machine) -> None:
    asked = machine.context
    for found in machine.holders:
        verdict = judge(found, asked)
        if found.process.owner in asked.owners or (asked.scope == "any" and asked.privileged):
            continue
        # What we have started ourselves, under sudo for example, is ours.
        assert verdict.action == "keep" or verdict.rule == "own-run"


@patient
@given(machines())
def test_never_a_container_nor_a_part_of_the_system(machine: Machine) -> None:
    verdicts = judge_all(machine.holders, machine.context)
    for found in machine.holders:
        if veto(found, (), machine.context) and judge(found, machine.context).rule != "own-run":
            assert verdicts[found.pid].action == "keep"


@patient
@given(machines())
def test_who_shares_a_socket_shares_the_action(machine: Machine) -> None:
    verdicts = judge_all(machine.holders, machine.context)

    assert set(verdicts) == {found.pid for found in machine.holders}
    for one in machine.holders:
        for other in machine.holders:
            if {s.id for s in one.sockets} & {s.id for s in other.sockets}:
                assert verdicts[one.pid].action == verdicts[other.pid].action


@patient
@given(machines())
def test_every_verdict_says_why_and_every_keep_what_to_do(machine: Machine) -> None:
    for verdict in judge_all(machine.holders, machine.context).values():
        assert verdict.rule in TWELVE
        assert verdict.reason
        assert verdict.instead or verdict.advice or verdict.action == "stop"
        assert "None" not in verdict.reason + verdict.instead


@patient
@given(machines(), st.randoms(use_true_random=False))
def test_neither_time_nor_order_changes_a_verdict(machine: Machine, random: Random) -> None:
    shuffled = list(machine.holders)
    random.shuffle(shuffled)

    first = judge_all(machine.holders, machine.context)

    assert judge_all(machine.holders, machine.context) == first
    again = judge_all(shuffled, machine.context)
    assert {pid: v.action for pid, v in again.items()} == {
        pid: v.action for pid, v in first.items()
    }


@patient
@given(machines())
def test_a_wider_scope_stops_no_less(machine: Machine) -> None:
    for found in machine.holders:
        stops = [
            judge(found, machine.context._replace(scope=scope)).action == "stop" for scope in SCOPES
        ]
        assert stops == sorted(stops)


@patient
@given(machines())
def test_before_a_run_nobody_is_stopped_who_is_kept_otherwise(machine: Machine) -> None:
    for found in machine.holders:
        if judge(found, machine.context._replace(phase="call")).action == "keep":
            assert judge(found, machine.context._replace(phase="before")).action == "keep"


# What could not be read is never taken for a no. (Of an ancestor it is only asked what its command
# line and its session tell, which everybody may read.)
_HIDE: dict[str, Callable[[Holder], Holder]] = {
    "the pin": lambda h: h._replace(pinned=False),
    "the owner": lambda h: h._replace(process=h.process._replace(owner=None)),
    "the directory": lambda h: h._replace(process=h.process._replace(cwd=None, complete=False)),
    "the environment": lambda h: h._replace(
        process=h.process._replace(marks={}, complete=False), live_runs=frozenset()
    ),
    "the command line": lambda h: h._replace(process=h.process._replace(argv=(), complete=False)),
    "the session": lambda h: h._replace(process=h.process._replace(session=None)),
    "the ancestors": lambda h: h._replace(lineage=h.lineage[:1]),
    "the parent": lambda h: h._replace(lineage=()),
}


@pytest.mark.parametrize("hidden", _HIDE)
@patient
@given(machine=machines(platform="linux"))
def test_what_is_hidden_never_turns_keep_into_stop(hidden: str, machine: Machine) -> None:
    # By its scope alone, a port is freed from whoever cannot be seen to be in use.
    asked = machine.context._replace(scope="orphans", main_service=frozenset())
    for found in machine.holders:
        if judge(found, asked).action == "keep":
            assert judge(_HIDE[hidden](found), asked).action == "keep"
