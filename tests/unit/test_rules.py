"""The decision table: twelve rules, and the first that matches decides.

Read it as the specification. `EXAMPLES` has one scene for each rule; then each rule has a table of
what it decides and a table of near misses, with the rule that decides those; then come the order of
the rules, holders that share sockets, supervisors, and what holds for every input.

A scene without a word about it is that of `build`: an orphaned ``python server.py`` (pid 2000) on
port 8000, in our project ``~/shop``; we are a pytest (pid 900) in a terminal, and the scope is
`orphans`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.builders import (
    BOB,
    ELSEWHERE,
    HOME,
    INIT,
    ME,
    OUR_PYTEST,
    OUR_SHELL,
    PROJECT,
    ROOT,
    THEIR_PYTEST,
    THEIR_SHELL,
    USER_MANAGER,
    Circumstances,
    context,
    holder,
    neighbour,
    process,
    socket,
    titled,
)
from portfree.model import Advice
from portfree._core.context import Context, Neighbour, Phase
from portfree._core.judge import judge, judge_all, veto, with_origin
from portfree.model import Port
from portfree._core.restarts import judge_supervisor
from portfree._core.rules import RULES
from portfree._system.interface import CI_JOB_IDS, MARKS, Process
from portfree.model import SCOPES, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from portfree._core.ancestry import Holder

TWELVE = (
    "self",
    "own-run",
    "container",
    "protected",
    "unknown",
    "other-user",
    "live-run",
    "left-behind",
    "service",
    "orphan",
    "mine",
    "attended",
)

# The ids of runs, elements of PORTFREE_RUN_ID. Which of their controllers live, a scene says.
OURS, THEIRS, INNER = "812.34567.9f3c", "77.1000.07ab", "78.1001.5e3c"
IN_A_TEST = {"PYTEST_CURRENT_TEST": "tests/test_api.py::test_search (setup)"}
CI = {"CI_JOB_ID": "991"}

IDLE_AGENT = process(500, "/runner/bin/Runner.Listener run")
AGENT = process(600, "/runner/bin/Runner.Worker spawnclient 1 2")
GITLAB = process(300, "gitlab-runner run")
STEP, OTHER_STEP = process(610, "bash -e step.sh"), process(620, "bash -e background.sh")


def born(marks: Mapping[str, str], *, cwd: str | None = PROJECT) -> Process:
    """The server of a scene, with marks."""
    return process(2000, marks=marks, cwd=cwd)


def run_id(*elements: str) -> dict[str, str]:
    return {"PORTFREE_RUN_ID": "/".join(elements)}


def case(name: str, *situation: object) -> object:
    return pytest.param(*situation, id=name)


# One scene for each rule.


class Situation(NamedTuple):
    holder: Holder
    context: Context
    action: str


EXAMPLES = {
    "self": Situation(holder(OUR_PYTEST, OUR_SHELL, INIT), context(), "keep"),
    "own-run": Situation(holder(process(), OUR_PYTEST, OUR_SHELL, INIT), context(), "stop"),
    "container": Situation(holder(process(2000, "docker-proxy"), INIT), context(), "keep"),
    "protected": Situation(holder(process(2000, "sshd -D"), INIT), context(), "keep"),
    "unknown": Situation(holder(pinned=False), context(), "keep"),
    "other-user": Situation(holder(process(2000, owner=BOB), INIT), context(), "keep"),
    "live-run": Situation(holder(process(), THEIR_PYTEST, THEIR_SHELL, INIT), context(), "keep"),
    "left-behind": Situation(holder(born(IN_A_TEST, cwd=ELSEWHERE), INIT), context(), "stop"),
    "service": Situation(holder(process(2000, unit="shop.service"), INIT), context(), "keep"),
    "orphan": Situation(holder(), context(), "stop"),
    "mine": Situation(holder(process(), OUR_SHELL, INIT), context(scope="mine"), "stop"),
    "attended": Situation(holder(process(), OUR_SHELL, INIT), context(), "keep"),
}


@pytest.mark.parametrize("rule", TWELVE)
def test_every_rule_decides_something(rule: str) -> None:
    situation = EXAMPLES[rule]

    verdict = judge(situation.holder, situation.context)

    assert (verdict.rule, verdict.action) == (rule, situation.action)
    assert verdict.reason


def test_there_are_twelve_rules_in_this_order() -> None:
    assert [rule.__name__.strip("_").replace("_", "-") for rule in RULES] == [*TWELVE]
    assert set(EXAMPLES) == set(TWELVE)


# The first that matches decides: for each pair of neighbours a scene in which both do.

BOTH = {
    ("self", "own-run"): (
        holder(OUR_PYTEST._replace(marks=run_id(OURS)), OUR_SHELL, INIT),
        context(ending=OURS),
    ),
    ("own-run", "container"): (
        holder(process(2000, container="f00d"), OUR_PYTEST, OUR_SHELL, INIT),
        context(),
    ),
    ("container", "protected"): (
        holder(process(2000, "sshd -D", container="f00d"), INIT),
        context(),
    ),
    ("protected", "unknown"): (
        holder(process(2000, "sshd -D"), INIT, pinned=False),
        context(),
    ),
    ("unknown", "other-user"): (holder(process(2000, owner=BOB), INIT, pinned=False), context()),
    ("other-user", "live-run"): (
        holder(process(2000, owner=BOB), THEIR_PYTEST, THEIR_SHELL, INIT),
        context(),
    ),
    # A run is live or has ended, never both: before left-behind stands what no live run uses.
    ("left-behind", "service"): (
        holder(process(2000, marks=IN_A_TEST, unit="shop.service"), INIT),
        context(),
    ),
    ("service", "orphan"): (holder(process(2000, unit="shop.service"), INIT), context()),
    ("orphan", "mine"): (holder(), context(scope="mine")),
    ("mine", "attended"): (holder(process(), OUR_SHELL, INIT), context(scope="mine")),
}


@pytest.mark.parametrize(
    ("first", "second"),
    [pytest.param(*pair, id=" before ".join(pair)) for pair in BOTH],
)
def test_the_first_rule_that_matches_decides(first: str, second: str) -> None:
    found, asked = BOTH[first, second]
    found = with_origin(found, asked)
    matching = [verdict.rule for rule in RULES if (verdict := rule(found, asked))]

    assert matching[:2] == [first, second]
    assert judge(found, asked).rule == first


# 1. self: the caller, one of its ancestors, or its own xdist controller or sibling

CONTROLLER = process(705, "python -m pytest -n2")
WORKER = process(710, "python -c 'import execnet'", marks={"PYTEST_XDIST_WORKER": "gw0"})
SIBLING = process(711, "python -c 'import execnet'")
COVERED = process(705, "coverage run -m pytest -n2")
IN_A_WORKER = context(WORKER, CONTROLLER, INIT)
OF_A_SIBLING = {"PYTEST_XDIST_WORKER": "gw1"} | IN_A_TEST


@pytest.mark.parametrize(
    ("found", "asked", "says"),
    [
        case(
            "the caller",
            holder(OUR_PYTEST, OUR_SHELL, INIT),
            context(),
            "held by this test run itself (pytest, pid 900)",
        ),
        case(
            "its test runner",
            holder(process(71, "pytest"), INIT),
            context(process(900, "portfree 8000"), process(71, "pytest"), INIT),
            "held by this test run itself (pytest, pid 71)",
        ),
        case(
            "a caller that is no test",
            holder(process(900, "python shop.py"), INIT),
            context(process(900, "python shop.py"), INIT),
            "held by this very process (shop, pid 900)",
        ),
        case(
            "an ancestor that is no test",
            holder(process(71, "ttyd zsh"), INIT),
            context(process(900, "portfree 8000"), OUR_SHELL, process(71, "ttyd zsh"), INIT),
            "held by an ancestor of this very process (ttyd, pid 71)",
        ),
        case(
            "an ancestor, though its start is told otherwise",
            holder(OUR_PYTEST._replace(start=901), OUR_SHELL, INIT),
            context(),
            "held by this test run itself (pytest, pid 900)",
        ),
        case(
            "the xdist controller",
            holder(CONTROLLER, INIT),
            IN_A_WORKER,
            "held by this test run itself (pytest, pid 705)",
        ),
        case(
            "an xdist sibling",
            holder(SIBLING, CONTROLLER, INIT),
            IN_A_WORKER,
            "held by this test run itself (python, pid 711, by way of pytest-xdist)",
        ),
        case(
            "an xdist sibling's server",
            holder(process(), SIBLING, CONTROLLER, INIT),
            IN_A_WORKER,
            "held by this test run itself (server, pid 2000, by way of pytest-xdist)",
        ),
        case(
            "an xdist sibling's server that became a daemon",
            holder(process(2000, marks=OF_A_SIBLING), INIT),
            IN_A_WORKER,
            "by way of pytest-xdist",
        ),
        case(
            "an xdist sibling, where coverage runs pytest",
            holder(SIBLING, COVERED, INIT),
            context(WORKER, COVERED, INIT),
            "by way of pytest-xdist",
        ),
    ],
)
@pytest.mark.parametrize("scope", SCOPES)
def test_self(found: Holder, asked: Context, says: str, scope: Scope) -> None:
    verdict = judge(found, asked._replace(scope=scope))

    assert (verdict.action, verdict.rule) == ("keep", "self")
    assert says in verdict.reason


def test_an_ancestor_that_belongs_to_the_system_has_better_advice() -> None:
    verdict = judge(holder(INIT), context())

    assert verdict.reason == "held by an ancestor of this very process (init, pid 1)"
    assert "systemctl list-sockets" in verdict.instead


@pytest.mark.parametrize(
    ("found", "asked", "rule"),
    [
        case(
            "another child of our ancestor",
            holder(process(), OUR_SHELL, INIT),
            context(),
            "attended",
        ),
        case(
            "our own server, in a worker",
            holder(process(), WORKER, CONTROLLER, INIT),
            IN_A_WORKER,
            "own-run",
        ),
        case(
            "another pytest's worker",
            holder(process(), SIBLING, THEIR_PYTEST, THEIR_SHELL, INIT),
            IN_A_WORKER,
            "live-run",
        ),
        case(
            "the daemon of a worker that is older than our controller",
            holder(process(600, marks=OF_A_SIBLING), INIT),
            IN_A_WORKER,
            "left-behind",
        ),
        case(
            "the daemon of a worker of another run, which has ended",
            holder(process(2000, marks=OF_A_SIBLING | run_id(THEIRS)), INIT),
            IN_A_WORKER,
            "left-behind",
        ),
        case(
            "a worker's name that is left in the environment of a shell",
            holder(process(), OUR_SHELL, INIT),
            context(process(900, "portfree 8000", marks=WORKER.marks), OUR_SHELL, INIT),
            "attended",
        ),
    ],
)
def test_not_self(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


# 2. own-run: carries the id of the run that is being ended, or descends from the caller

OUR_CHILD = holder(process(), OUR_PYTEST, OUR_SHELL, INIT)


@pytest.mark.parametrize("phase", ["call", "after"])
@pytest.mark.parametrize(
    ("found", "ending", "says"),
    [
        case("our child", OUR_CHILD, None, "started by this very process"),
        case(
            "our grandchild",
            holder(process(), process(9, "node x"), OUR_PYTEST, OUR_SHELL, INIT),
            None,
            "started by this very process",
        ),
        case(
            "born in the run that is being ended, and adopted",
            holder(born(run_id(OURS), cwd=ELSEWHERE), INIT, live_runs=frozenset({OURS})),
            OURS,
            "started in this run",
        ),
        case(
            "born in a run that has ended, inside of the one that is being ended",
            holder(born(run_id(OURS, INNER)), INIT, live_runs=frozenset({OURS})),
            OURS,
            "started in this run",
        ),
        case(
            "born in a test of the run",
            holder(born(run_id(OURS) | IN_A_TEST), INIT),
            OURS,
            "started in tests/test_api.py::test_search (setup)",
        ),
        case(
            "our child, born in a run of ours that has ended",
            holder(process(2000, marks=run_id(INNER)), OUR_PYTEST, OUR_SHELL, INIT),
            None,
            "started by this very process",
        ),
    ],
)
def test_own_run(found: Holder, ending: str | None, says: str, phase: Phase) -> None:
    verdict = judge(found, context(phase=phase, ending=ending, run=(OURS,) if ending else ()))

    assert (verdict.action, verdict.rule) == ("stop", "own-run")
    assert verdict.reason == says


@pytest.mark.parametrize(
    "found",
    [
        case("our child", OUR_CHILD),
        case("a daemon that was born in a test after us", holder(born(IN_A_TEST), INIT)),
        case(
            "such a daemon, born in a run that we are in too",
            holder(born(IN_A_TEST | run_id(OURS)), INIT, live_runs=frozenset({OURS})),
        ),
    ],
)
def test_before_a_run_what_was_started_for_it_is_kept(found: Holder) -> None:
    verdict = judge(found, context(phase="before", run=(OURS,)))

    assert (verdict.action, verdict.rule) == ("keep", "own-run")
    assert verdict.reason == "started for this run already"


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        case(
            "a daemon of an earlier test",
            holder(process(850, marks=IN_A_TEST), INIT),
            ("stop", "left-behind"),
        ),
        case("a daemon born in no test", holder(), ("stop", "orphan")),
        case(
            "the daemon of a run before this one: tox and nox open one after the other",
            holder(born(IN_A_TEST | run_id(THEIRS)), INIT),
            ("stop", "left-behind"),
        ),
        case(
            "our child, from a run before this one: we adopt as pid 1 of a container does",
            holder(process(2000, marks=run_id(THEIRS)), OUR_PYTEST, OUR_SHELL, INIT),
            ("stop", "own-run"),
        ),
    ],
)
def test_before_a_run_what_an_earlier_one_left_is_stopped(
    found: Holder, verdict: tuple[str, str]
) -> None:
    assert judge(found, context(phase="before"))[:2] == verdict


@pytest.mark.parametrize(
    ("found", "asked", "rule"),
    [
        case(
            "a run id that only contains that of the run",
            holder(
                born(run_id(f"{OURS}9"), cwd=ELSEWHERE), INIT, live_runs=frozenset({f"{OURS}9"})
            ),
            context(ending=OURS),
            "live-run",
        ),
        case(
            "nothing is being ended",
            holder(born(run_id(OURS), cwd=ELSEWHERE), INIT, live_runs=frozenset({OURS})),
            context(run=(OURS,)),
            "attended",
        ),
        case(
            "a sibling, not a descendant",
            holder(process(), OUR_SHELL, INIT),
            context(),
            "attended",
        ),
        case(
            "a child of one who had our pid before",
            holder(process(), OUR_PYTEST._replace(start=1), INIT),
            context(),
            "live-run",
        ),
        case(
            "our child, by way of a run that goes on in another thread (tox -p)",
            holder(
                process(2000, marks=run_id(INNER)),
                OUR_PYTEST,
                OUR_SHELL,
                INIT,
                live_runs=frozenset({INNER}),
            ),
            context(),
            "live-run",
        ),
        case(
            "the proxy of a container that was started in the run that is being ended",
            holder(process(2000, "rootlessport", marks=run_id(OURS)), INIT),
            context(ending=OURS),
            "container",
        ),
        case(
            "our child, which cannot be pinned",
            OUR_CHILD._replace(pinned=False),
            context(),
            "unknown",
        ),
        case(
            "the run is being ended, but the environment cannot be read",
            holder(process(2000, complete=False), INIT),
            context(ending=OURS),
            "unknown",
        ),
    ],
)
def test_not_own_run(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


# 3. container: somebody else's container, or our own one's main service

PROXY = process(2000, "docker-proxy -host-port 8000", owner=ROOT)
CONTAINER_ID = "4f1c0ffee" + "0" * 55


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("found", "says", "instead"),
    [
        *(
            case(
                name,
                holder(process(2000, name, owner=ROOT), INIT),
                f"{name} (pid 2000) publishes the port for a container",
                "podman ps, then: podman stop NAME"
                if engine == "podman"
                else "docker ps --filter publish=8000, then: docker stop NAME",
            )
            for name, engine in (
                ("docker-proxy", "docker"),
                ("dockerd", "docker"),
                ("containerd-shim", "docker"),
                ("com.docker.backend", "docker"),
                ("orbstack", "docker"),
                ("colima", "docker"),
                ("conmon", "podman"),
                ("rootlessport", "podman"),
                ("slirp4netns", "podman"),
                ("pasta", "podman"),
            )
        ),
        case(
            "an engine that tells the container",
            holder(PROXY, INIT, engine="shop-web-1 (image nginx, compose project shop)"),
            "published by container shop-web-1 (image nginx, compose project shop)",
            "docker stop shop-web-1",
        ),
        case(
            "podman",
            holder(process(2000, "rootlessport"), INIT, engine="web (image nginx)"),
            "published by container web (image nginx)",
            "podman stop web",
        ),
        case(
            "a process in a container",
            holder(process(2000, container=CONTAINER_ID), INIT),
            "runs in another container (4f1c0ffee000)",
            "stop that container: docker stop 4f1c0ffee000, or the same with podman",
        ),
        case(
            "a process in a container that its engine names",
            holder(process(2000, container=CONTAINER_ID), INIT, engine="web (image nginx)"),
            "runs in container web (image nginx)",
            "docker stop web",
        ),
        case(
            "a process in a container of podman",
            holder(
                process(2000, container=CONTAINER_ID),
                process(9, "conmon"),
                INIT,
                engine="web (image nginx)",
            ),
            "runs in container web (image nginx)",
            "podman stop web",
        ),
        case(
            "a process in a container, where the system does not tell",
            holder(process(2000), process(9, f"containerd-shim-runc-v2 -id {CONTAINER_ID}"), INIT),
            "runs in another container (4f1c0ffee000)",
            "stop that container: docker stop 4f1c0ffee000, or the same with podman",
        ),
        case(
            "a process in a container of which nothing tells",
            holder(process(2000), process(9, "conmon"), INIT),
            "runs in another container (?)",
            "stop that container",
        ),
        case(
            "a port for UDP",
            holder(PROXY, INIT, sockets=[socket(1, Port(8125, "udp"))]),
            "docker-proxy (pid 2000) publishes the port for a container",
            "docker ps --filter publish=8125/udp, then: docker stop NAME",
        ),
        case(
            "a process in a container of another kind",
            holder(process(2000, container="build-machine"), INIT),
            "runs in another container (build-machine)",
            "stop that container",
        ),
        case(
            "a process in a container that does not tell its name",
            holder(process(2000, container="?"), INIT),
            "runs in another container (?)",
            "stop that container",
        ),
    ],
)
def test_container(found: Holder, says: str, instead: str, scope: Scope) -> None:
    verdict = judge(found, context(scope=scope, privileged=True))

    assert (verdict.action, verdict.rule) == ("keep", "container")
    assert (verdict.reason, verdict.instead) == (says, instead)


# We came in by `docker compose exec web pytest`: our ancestry ends outside, and not at pid 1.
PUT_IN = context(process(900, "pytest", ppid=0), main_service=frozenset({1, 7}))
FIRST = process(1, "tini -- gunicorn app")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    "found",
    [
        case("pid 1 itself", holder(process(1, "gunicorn app"))),
        case("the child of pid 1", holder(process(7, "gunicorn app"), FIRST)),
        case("a worker of it", holder(process(), process(7, "gunicorn app"), FIRST)),
    ],
)
def test_the_main_service_of_our_container_is_kept(found: Holder, scope: Scope) -> None:
    verdict = judge(found, PUT_IN._replace(scope=scope))

    assert (verdict.action, verdict.rule) == ("keep", "container")
    assert verdict.reason == "it is the main service of this container"


@pytest.mark.parametrize(
    ("found", "asked", "rule"),
    [
        case("an orphan beside the main service", holder(process(), FIRST), PUT_IN, "orphan"),
        case(
            "the main service, for who descends from pid 1",
            holder(process(7, "gunicorn app"), FIRST),
            context(process(900, "pytest"), FIRST),
            "orphan",
        ),
        case(
            "who was started beside us, seen from a container without a pid namespace",
            holder(process(), process(9, "conmon"), INIT),
            context(process(900, "pytest"), process(9, "conmon"), INIT),
            "attended",
        ),
        case(
            "who uses a container", holder(process(2000, "docker run x"), INIT), context(), "orphan"
        ),
    ],
)
def test_not_container(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


# 4. protected: what belongs to the system, and what only carries a port elsewhere


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("platform", "found", "instead"),
    [
        case(
            "linux: systemd as pid 1",
            "linux",
            holder(INIT),
            "systemctl list-sockets names its socket unit: systemctl stop that",
        ),
        case("linux: another pid 1", "linux", holder(process(1, "app")), "another port"),
        case(
            "linux: systemd --user",
            "linux",
            holder(USER_MANAGER, INIT),
            "systemctl --user list-sockets",
        ),
        case(
            "linux: resolved", "linux", holder(process(9, "systemd-resolved"), INIT), "another port"
        ),
        case("linux: sshd", "linux", holder(process(9, "sshd -D"), INIT), "another port"),
        case(
            "linux: VS Code's server",
            "linux",
            holder(process(9, "/home/me/.vscode-server/bin/1/node x.js"), INIT),
            "the editor's list of forwarded ports",
        ),
        case("darwin: launchd", "darwin", holder(process(1, "/sbin/launchd")), "another port"),
        case("darwin: a part", "darwin", holder(process(9, "rapportd"), INIT), "another port"),
        case(
            "darwin: AirPlay on 5000",
            "darwin",
            holder(process(9, "ControlCenter"), INIT, sockets=[socket(1, Port(5000))]),
            "turn AirPlay Receiver off",
        ),
        case(
            "darwin: AirPlay on 7000, by its short name",
            "darwin",
            holder(process(9, "ControlCe"), INIT, sockets=[socket(1, Port(7000))]),
            "turn AirPlay Receiver off",
        ),
        case(
            "darwin: ControlCenter on another port",
            "darwin",
            holder(process(9, "ControlCenter"), INIT),
            "another port",
        ),
        case(
            "win32: System", "win32", holder(process(4, "System")), "netsh http show servicestate"
        ),
        case("win32: pid 0", "win32", holder(process(0, "Idle")), "netsh"),
        case(
            "win32: svchost", "win32", holder(process(9, "svchost.exe", ppid=None)), "another port"
        ),
        case("win32: WSL", "win32", holder(process(9, "wslrelay.exe", ppid=None)), "another port"),
    ],
)
def test_protected(platform: str, found: Holder, instead: str, scope: Scope) -> None:
    # We do not descend from pid 1, or it would be one of us.
    outside = process(900, "portfree 8000", ppid=0)
    verdict = judge(found, context(outside, platform=platform, scope=scope, privileged=True))

    assert (verdict.action, verdict.rule) == ("keep", "protected")
    assert instead in verdict.instead


@pytest.mark.parametrize(
    ("platform", "found"),
    [
        case(
            "a script called services.py",
            "win32",
            holder(process(2000, "python services.py", ppid=None)),
        ),
        case("a script called init.py", "linux", holder(process(2000, "python init.py"), INIT)),
        case("a script called code.py", "linux", holder(process(2000, "python code.py"), INIT)),
        case("Linux: a program called registry", "linux", holder(process(2000, "registry"), INIT)),
        case("Linux: pid 4", "linux", holder(process(4), INIT)),
        case("Linux: a program called rapportd", "linux", holder(process(9, "rapportd"), INIT)),
        case("Linux: ControlCenter", "linux", holder(process(9, "controlce"), INIT)),
        case("Windows: pid 5", "win32", holder(process(5, ppid=None))),
        case(
            "macOS: a server on 5000",
            "darwin",
            holder(process(), INIT, sockets=[socket(1, Port(5000))]),
        ),
        case("ssh-agent", "linux", holder(process(2000, "ssh-agent"), INIT)),
    ],
)
def test_not_protected(platform: str, found: Holder) -> None:
    assert judge(found, context(platform=platform)).rule == "orphan"


# 5. unknown: what could not be read or pinned


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("found", "says"),
    [
        case("not pinned", holder(pinned=False), "it could not be pinned"),
        case("no owner", holder(process(2000, owner=None), INIT), "whose it is could not be read"),
        case(
            "no environment",
            holder(process(2000, complete=False), INIT),
            "its environment could not be read",
        ),
    ],
)
def test_unknown(found: Holder, says: str, scope: Scope) -> None:
    verdict = judge(found, context(scope=scope, privileged=True))

    assert (verdict.action, verdict.rule) == ("keep", "unknown")
    assert says in verdict.reason
    assert "ps -fp 2000" in verdict.instead


def test_unknown_names_the_command_of_its_platform() -> None:
    verdict = judge(holder(pinned=False), context(platform="win32"))

    assert 'tasklist /v /fi "pid eq 2000"' in verdict.instead


@pytest.mark.parametrize(
    ("found", "asked", "rule"),
    [
        case("known", holder(), context(), "orphan"),
        case(
            "of somebody else, whose environment we cannot read: that he has it says more",
            holder(process(2000, owner=BOB, complete=False), INIT),
            context(),
            "other-user",
        ),
        case(
            "macOS, where environments are hidden",
            holder(process(2000, complete=False), process(1, "launchd")),
            context(platform="darwin"),
            "orphan",
        ),
    ],
)
def test_not_unknown(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


# 6. other-user: whose it is, and whether we were asked to and could stop it

BOBS = holder(process(2000, owner=BOB), INIT)
BY_SUDO = context(OUR_PYTEST._replace(owner=ROOT), INIT, owners=frozenset({BOB}), privileged=True)
ASK = Advice("ask bob to stop it")
AS_ROOT = ASK._replace(privileged=True)


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        case("scope orphans", context(), AS_ROOT),
        case("scope mine", context(scope="mine"), AS_ROOT),
        case("scope any, no privilege", context(scope="any"), AS_ROOT),
        case("root, scope mine", context(scope="mine", privileged=True), ASK),
        case(
            "root, by sudo of somebody else",
            context(OUR_PYTEST._replace(owner=ROOT), INIT, privileged=True, owners=frozenset({ME})),
            AS_ROOT,
        ),
    ],
)
def test_other_user(asked: Context, advice: Advice) -> None:
    verdict = judge(BOBS, asked)

    assert (verdict.action, verdict.rule) == ("keep", "other-user")
    assert verdict.reason == "it belongs to bob"
    assert verdict.advice == advice


@pytest.mark.parametrize(
    ("found", "asked", "rule"),
    [
        case("ours", holder(), context(), "orphan"),
        case("of who called sudo", BOBS, BY_SUDO, "orphan"),
        case(
            "root's, started by who called sudo",
            holder(process(2000, owner=ROOT, marks={"SUDO_UID": str(BOB)}), INIT),
            BY_SUDO,
            "orphan",
        ),
        case(
            "root's, below what was started by who called sudo",
            holder(
                *(process(2000, owner=ROOT), process(9, "sh x", marks={"SUDO_UID": str(BOB)})),
                INIT,
            ),
            BY_SUDO,
            "orphan",
        ),
        case("anybody's, as root", BOBS, context(scope="any", privileged=True), "orphan"),
    ],
)
def test_not_other_user(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


@pytest.mark.parametrize("marks", [{}, {"SUDO_UID": str(ME)}, {"SUDO_UID": "0"}])
@pytest.mark.parametrize("scope", ["orphans", "project", "mine"])
def test_under_sudo_what_root_itself_has_started_is_another_users(
    marks: dict[str, str], scope: Scope
) -> None:
    verdict = judge(
        holder(process(2000, owner=ROOT, marks=marks), INIT), BY_SUDO._replace(scope=scope)
    )

    assert (verdict.action, verdict.rule) == ("keep", "other-user")
    assert verdict.advice == Advice("ask root to stop it", privileged=True)


@pytest.mark.parametrize("marks", [{}, {"SUDO_UID": str(BOB)}])
def test_to_have_called_sudo_gives_nobody_to_others(marks: dict[str, str]) -> None:
    found = holder(process(2000, owner=BOB, marks=marks), INIT)
    assert judge(found, context(privileged=True)).rule == "other-user"


def test_a_user_without_a_name_is_named_by_the_number() -> None:
    verdict = judge(holder(process(2000, owner=4711), INIT), context())

    assert verdict.reason == "it belongs to 4711"


# 7. live-run: somebody is using it right now. Five variants, and the near misses of each.

TOX_AS_PID_1 = process(1, "tox -p", session=1)
WORKING = (neighbour(THEIR_PYTEST, THEIR_SHELL, INIT),)


@pytest.mark.parametrize("scope", ["orphans", "mine"])
@pytest.mark.parametrize(
    ("found", "asked", "says"),
    [
        # Its run id has a live controller.
        case(
            "run id: its controller lives",
            holder(born(run_id(THEIRS)), INIT, live_runs=frozenset({THEIRS})),
            context(),
            "in use by another run (pid 77) in ~/shop",
        ),
        case(
            "run id: inside of ours",
            holder(born(run_id(OURS, THEIRS)), INIT, live_runs=frozenset({OURS, THEIRS})),
            context(run=(OURS,)),
            "in use by another run (pid 77) in ~/shop",
        ),
        case(
            "run id: the outer run was killed, the inner goes on",
            holder(born(run_id(THEIRS, INNER)), INIT, live_runs=frozenset({INNER})),
            context(),
            "in use by another run (pid 78) in ~/shop",
        ),
        case(
            "run id: wiped, but its parent still has it",
            holder(
                process(),
                process(9, "sh x", marks=run_id(THEIRS)),
                INIT,
                live_runs=frozenset({THEIRS}),
            ),
            context(),
            "in use by another run (pid 77) in ~/shop",
        ),
        case(
            "run id: garbled, so that it may live",
            holder(born(run_id("garbled")), INIT, live_runs=frozenset({"garbled"})),
            context(),
            "in use by another run",
        ),
        # Its nearest live test runner or CI agent is not one of our ancestors.
        case(
            "a test runner above it",
            holder(process(), process(77, "python -m pytest"), OUR_SHELL, INIT),
            context(),
            "in use by pytest (pid 77) in ~/shop",
        ),
        case(
            "a test runner above it, by way of wrappers",
            holder(process(), process(9, "npm run dev"), process(77, "nox"), OUR_SHELL, INIT),
            context(),
            "in use by nox (pid 77) in ~/shop",
        ),
        case(
            "a test runner that holds the port itself",
            holder(process(77, "pytest"), OUR_SHELL, INIT),
            context(),
            "in use by pytest (pid 77) in ~/shop",
        ),
        case(
            "a test runner below one of ours",
            holder(process(), process(77, "pytest"), process(700, "nox"), INIT),
            context(OUR_PYTEST, process(700, "nox"), INIT),
            "in use by pytest (pid 77) in ~/shop",
        ),
        case(
            "a CI agent above it",
            holder(process(), AGENT, IDLE_AGENT, INIT),
            context(),
            "in use by runner.worker (pid 600) in ~/shop",
        ),
        # It carries another CI job's id, and that job may be alive.
        case(
            "CI job: an agent is at work",
            holder(born({"RUNNER_TRACKING_ID": "github_1"}), INIT),
            context(neighbours=(neighbour(AGENT, IDLE_AGENT, INIT),)),
            "in use by another CI job (RUNNER_TRACKING_ID github_1) in ~/shop",
        ),
        *(
            case(
                f"CI job: by its {variable}",
                holder(born({variable: "991"}), INIT),
                context(jobs={variable: "992"}, neighbours=(neighbour(GITLAB, INIT),)),
                f"in use by another CI job ({variable} 991) in ~/shop",
            )
            for variable in CI_JOB_IDS
        ),
        case(
            "CI job: of the agent that runs ours too",
            holder(born(CI), INIT),
            context(
                OUR_PYTEST,
                GITLAB,
                INIT,
                jobs={"CI_JOB_ID": "992"},
                neighbours=(neighbour(process(950, "bash", marks=CI), GITLAB, INIT),),
            ),
            "in use by another CI job (CI_JOB_ID 991) in ~/shop",
        ),
        case(
            "CI job: the id was wiped, but its parent still has it",
            holder(process(), process(950, "sh x", marks=CI), GITLAB, INIT),
            context(
                OUR_PYTEST,
                GITLAB,
                INIT,
                jobs={"CI_JOB_ID": "992"},
                neighbours=(neighbour(process(950, "sh x", marks=CI), GITLAB, INIT),),
            ),
            "in use by another CI job (CI_JOB_ID 991) in ~/shop",
        ),
        # It was born in a test without a run id, and an unrelated live test runner, older than it,
        # works in the same project.
        case(
            "daemon: a pytest works in the project",
            holder(born(IN_A_TEST), INIT),
            context(neighbours=WORKING),
            "in use by pytest (pid 700) in ~/shop",
        ),
        *(
            case(
                f"daemon: born in a test by its {mark}",
                holder(born({mark: "x"}), INIT),
                context(neighbours=WORKING),
                "in use by pytest (pid 700) in ~/shop",
            )
            for mark in ("PYTEST_VERSION", "NOX_CURRENT_SESSION", "TOX_ENV_DIR")
        ),
        case(
            "daemon: it does not tell its project",
            holder(born(IN_A_TEST, cwd="/"), INIT, project=None),
            context(neighbours=WORKING),
            "in use by pytest (pid 700) in ~/shop",
        ),
        case(
            "daemon: its run id is ours too, which says nothing",
            holder(born(IN_A_TEST | run_id(OURS)), INIT, live_runs=frozenset({OURS})),
            context(run=(OURS,), neighbours=WORKING),
            "in use by pytest (pid 700) in ~/shop",
        ),
        case(
            "daemon: macOS hides whether it was born in a test",
            holder(process(2000, complete=False, environment="unreadable"), process(1, "launchd")),
            context(platform="darwin", neighbours=WORKING),
            "in use by pytest (pid 700) in ~/shop",
        ),
        case(
            "daemon: adopted by our own runner, the first process of a container",
            holder(born(IN_A_TEST), TOX_AS_PID_1),
            context(OUR_PYTEST, TOX_AS_PID_1, neighbours=WORKING),
            "in use by pytest (pid 700) in ~/shop",
        ),
    ],
)
def test_live_run(found: Holder, asked: Context, says: str, scope: Scope) -> None:
    verdict = judge(found, asked._replace(scope=scope))

    assert (verdict.action, verdict.rule) == ("keep", "live-run")
    assert says in verdict.reason
    assert verdict.advice == Advice()


def test_live_run_without_a_directory() -> None:
    nowhere = THEIR_PYTEST._replace(cwd=None)
    verdict = judge(holder(process(2000, cwd=None), nowhere, THEIR_SHELL, INIT), context())

    assert verdict.reason == "in use by pytest (pid 700) in a directory that cannot be read"


@pytest.mark.parametrize(
    ("found", "asked", "rule"),
    [
        case(
            "run id: its controller has ended",
            holder(born(run_id(THEIRS)), INIT),
            context(),
            "left-behind",
        ),
        case(
            "run id: ours, which says nothing",
            holder(born(run_id(OURS)), INIT, live_runs=frozenset({OURS})),
            context(run=(OURS,)),
            "orphan",
        ),
        case(
            "run id: the run around ours",
            holder(born(run_id(OURS)), INIT, live_runs=frozenset({OURS})),
            context(run=(OURS, INNER)),
            "orphan",
        ),
        case(
            "a test runner above it that is our ancestor too",
            holder(process(), process(700, "nox"), INIT),
            context(OUR_PYTEST, process(700, "nox"), INIT),
            "attended",
        ),
        case(
            "a CI agent above it that is our ancestor too, and our own step below that",
            holder(process(), STEP, AGENT, IDLE_AGENT, INIT),
            context(OUR_PYTEST, STEP, AGENT, IDLE_AGENT, INIT),
            "attended",
        ),
        case(
            "no test runner above it, only its name",
            holder(process(), process(9, "vim test_pytest.py"), INIT),
            context(),
            "attended",
        ),
        case(
            "CI job: ours",
            holder(born(CI), INIT),
            context(jobs=CI, neighbours=(neighbour(GITLAB, INIT),)),
            "orphan",
        ),
        case(
            "CI job: all agents are idle",
            holder(born({"RUNNER_TRACKING_ID": "github_1"}), INIT),
            context(neighbours=(neighbour(IDLE_AGENT, INIT),)),
            "orphan",
        ),
        case("CI job: no agents", holder(born(CI), INIT), context(neighbours=WORKING), "orphan"),
        case(
            "CI job: who carries it descends from no agent",
            holder(born(CI), INIT),
            context(neighbours=(neighbour(process(950, "sh", marks=CI), INIT),)),
            "orphan",
        ),
        case(
            "CI job: who descends from an agent carries another one",
            holder(born(CI), INIT),
            context(
                neighbours=(
                    neighbour(process(950, "sh", marks={"CI_JOB_ID": "7"}), IDLE_AGENT, INIT),
                )
            ),
            "orphan",
        ),
        case(
            "daemon: the runner is younger",
            holder(process(650, marks=IN_A_TEST), INIT),
            context(neighbours=WORKING),
            "left-behind",
        ),
        case(
            "daemon: the runner works in another project",
            holder(born(IN_A_TEST), INIT),
            context(neighbours=(neighbour(THEIR_PYTEST, THEIR_SHELL, INIT, project=ELSEWHERE),)),
            "left-behind",
        ),
        case(
            "daemon: the runner works in no project",
            holder(born(IN_A_TEST), INIT),
            context(neighbours=(neighbour(THEIR_PYTEST, THEIR_SHELL, INIT, project=None),)),
            "left-behind",
        ),
        case(
            "daemon: the neighbour is no test runner",
            holder(born(IN_A_TEST), INIT),
            context(neighbours=(neighbour(IDLE_AGENT, INIT),)),
            "left-behind",
        ),
        case("daemon: not born in a test", holder(), context(neighbours=WORKING), "orphan"),
        case(
            "daemon: its run is known, and has ended",
            holder(born(IN_A_TEST | run_id(THEIRS)), INIT),
            context(neighbours=WORKING),
            "left-behind",
        ),
        case(
            "a descendant of our own runner",
            holder(process(2000, marks=IN_A_TEST), process(700, "nox"), INIT),
            context(OUR_PYTEST, process(700, "nox"), INIT, neighbours=WORKING),
            "attended",
        ),
    ],
)
def test_not_live_run(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


@pytest.mark.parametrize(
    "found",
    [
        case("by its runner", holder(process(), THEIR_PYTEST, THEIR_SHELL, INIT)),
        case(
            "by its run id",
            holder(born(run_id(THEIRS), cwd=ELSEWHERE), INIT, live_runs=frozenset({THEIRS})),
        ),
    ],
)
def test_with_scope_any_live_runs_do_not_count(found: Holder) -> None:
    verdict = judge(found, context(scope="any"))

    # And nobody claims that the run has ended.
    assert (verdict.action, verdict.rule) == ("stop", "mine")


# A hook acts for one run alone. What belongs to the run around it (pytest in pytest) is in use.

INNER_PYTEST = process(900, "python -m pytest inner")
HERE = "900.900.9f3c"  # a run that the caller itself has open
CONFTEST = {"PYTEST_VERSION": "9.0.1"}


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize(
    ("found", "asked", "says"),
    [
        case(
            "its run id is that of the run around ours",
            holder(process(850, marks=run_id(OURS)), INIT, live_runs=frozenset({OURS})),
            context(run=(OURS,)),
            "in use by the run around this one in ~/shop",
        ),
        case(
            "the run around ours began before there was an id: a conftest.py started it",
            holder(process(750, marks=CONFTEST), INIT),
            context(INNER_PYTEST, THEIR_PYTEST, THEIR_SHELL, INIT),
            "in use by pytest (pid 700) in ~/shop",
        ),
    ],
)
def test_what_belongs_to_the_run_around_ours_is_in_use(
    found: Holder, asked: Context, says: str, phase: Phase
) -> None:
    verdict = judge(found, asked._replace(phase=phase))

    assert (verdict.action, verdict.rule) == ("keep", "live-run")
    assert verdict.reason == says


def test_our_child_may_belong_to_a_run_of_ours_around_the_one_that_ends() -> None:
    verdict = judge(OUR_CHILD, context(phase="after", run=(HERE,)))

    assert (verdict.action, verdict.rule) == ("keep", "live-run")
    assert verdict.reason == "in use by pytest (pid 900) in ~/shop"


@pytest.mark.parametrize(
    ("found", "asked", "rule"),
    [
        case(
            "somebody asks for the port: no hook",
            holder(process(850, marks=run_id(OURS)), INIT, live_runs=frozenset({OURS})),
            context(run=(OURS,)),
            "orphan",
        ),
        case(
            "the run around ours has ended",
            holder(process(850, marks=run_id(OURS)), INIT),
            context(run=(OURS,), phase="after"),
            "orphan",
        ),
        case(
            "born further in, in a run that has ended",
            holder(process(850, marks=run_id(OURS, INNER)), INIT, live_runs=frozenset({OURS})),
            context(run=(OURS,), phase="after"),
            "left-behind",
        ),
        case(
            "older than the pytest around ours",
            holder(process(650, marks=CONFTEST), INIT),
            context(INNER_PYTEST, THEIR_PYTEST, INIT, phase="after"),
            "left-behind",
        ),
        case(
            "born in a test, which tells when it was born",
            holder(process(750, marks=CONFTEST | IN_A_TEST), INIT),
            context(INNER_PYTEST, THEIR_PYTEST, INIT, phase="after"),
            "left-behind",
        ),
        case(
            "what surrounds us is no pytest",
            holder(process(750, marks=CONFTEST), INIT),
            context(INNER_PYTEST, process(700, "nox"), INIT, phase="after"),
            "left-behind",
        ),
    ],
)
def test_what_does_not_belong_to_the_run_around_ours(
    found: Holder, asked: Context, rule: str
) -> None:
    assert judge(found, asked).rule == rule


# 8. left-behind: it was born in a run that has certainly ended


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        case("run id", run_id(THEIRS), "the run that started it has ended"),
        case("run id inside of ours", run_id(OURS, THEIRS), "the run that started it has ended"),
        case("test", IN_A_TEST, "started in tests/test_api.py::test_search (setup)"),
        case("pytest", {"PYTEST_VERSION": "9.0.1"}, "the run that started it has ended"),
        case("nox", {"NOX_CURRENT_SESSION": "tests-3.13"}, "started in nox session tests-3.13"),
        case("tox", {"TOX_ENV_DIR": "/x/.tox/py313"}, "started in tox environment py313"),
        case(
            "several",
            run_id(THEIRS) | {"NOX_CURRENT_SESSION": "tests"} | IN_A_TEST,
            "started in tests/test_api.py::test_search (setup)",
        ),
    ],
)
@pytest.mark.parametrize("cwd", [PROJECT, ELSEWHERE, "/", None])
def test_left_behind(marks: Mapping[str, str], says: str, cwd: str | None) -> None:
    verdict = judge(holder(born(marks, cwd=cwd), INIT), context(run=(OURS,)))

    assert (verdict.action, verdict.rule) == ("stop", "left-behind")
    assert verdict.reason == says


@pytest.mark.parametrize(
    "lineage",
    [
        case("init", [INIT]),
        case("systemd --user", [USER_MANAGER, INIT]),
        case("tini", [process(1, "tini")]),
        case("WSL", [process(9, "/init", name="Relay(8)"), INIT]),
        case("pid 1 of a container", [process(1, "sleep infinity", session=1)]),
        case("a master that bears the mark too", [process(9, "gunicorn x", marks=IN_A_TEST), INIT]),
        case("nobody (Windows)", []),
    ],
)
def test_left_behind_to_whoever_adopts(lineage: list[Process]) -> None:
    server = process(2000, marks=IN_A_TEST, cwd=ELSEWHERE, ppid=None)

    assert judge(holder(server, *lineage), context()).rule == "left-behind"


IN_TMUX = process(9, "tmux new", marks=IN_A_TEST)


@pytest.mark.parametrize(
    ("found", "asked", "rule"),
    [
        case("no mark", holder(process(2000, cwd=ELSEWHERE), INIT), context(), "attended"),
        case(
            "only its run id, and that is ours too",
            holder(born(run_id(OURS), cwd=ELSEWHERE), INIT),
            context(run=(OURS,)),
            "attended",
        ),
        case("tmux between", holder(born(IN_A_TEST), IN_TMUX, INIT), context(), "attended"),
        case(
            "tmux is it itself",
            holder(process(2000, "tmux new", marks=IN_A_TEST), INIT),
            context(),
            "attended",
        ),
        case(
            "a shell at a terminal between",
            holder(born(IN_A_TEST), OUR_SHELL._replace(marks=IN_A_TEST), INIT),
            context(),
            "attended",
        ),
        case(
            "the topmost with the mark was not adopted",
            holder(born(IN_A_TEST), process(9, "supervisord"), INIT),
            context(),
            "service",
        ),
        case(
            "its own mark, another one than its parent's",
            holder(
                born({"NOX_CURRENT_SESSION": "a"}),
                process(9, "app", marks={"NOX_CURRENT_SESSION": "b"}),
                INIT,
            ),
            context(),
            "live-run",
        ),
        case(
            "only its parent has a mark",
            holder(process(), process(9, "app", marks=IN_A_TEST), INIT),
            context(),
            "attended",
        ),
    ],
)
def test_not_left_behind(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


# 9. service: a service manager keeps it, and would start it again


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("platform", "found", "instead"),
    [
        case(
            "systemd",
            "linux",
            holder(process(2000, unit="nginx.service"), INIT),
            "systemctl stop nginx.service",
        ),
        case(
            "systemd, of the user",
            "linux",
            holder(process(2000, unit="shop.service"), USER_MANAGER, INIT),
            "systemctl --user stop shop.service",
        ),
        case(
            "systemd, a name that a shell would change",
            "linux",
            holder(process(2000, unit=r"my\x2dshop.service"), INIT),
            r"systemctl stop 'my\x2dshop.service'",
        ),
        case(
            "systemd-run",
            "linux",
            holder(process(2000, unit="run-u42.service"), INIT),
            "systemctl stop run-u42.service",
        ),
        case(
            "Jenkins itself, which is more than an agent",
            "linux",
            holder(process(2000, "java -jar jenkins.war", unit="jenkins.service"), INIT),
            "systemctl stop jenkins.service",
        ),
        case(
            "Emacs itself, whose unit holds what others start",
            "linux",
            holder(process(2000, "emacs --daemon", unit="emacs.service"), USER_MANAGER, INIT),
            "systemctl --user stop emacs.service",
        ),
        case(
            "launchd",
            "darwin",
            holder(process(2000, unit="homebrew.mxcl.redis"), process(1, "launchd")),
            "launchctl bootout gui/$UID/homebrew.mxcl.redis (or: brew services stop)",
        ),
        case(
            "launchd, an application",
            "darwin",
            holder(process(2000, unit="application.com.shop.App.1.2"), process(1, "launchd")),
            "quit that application",
        ),
        case(
            "Windows",
            "win32",
            holder(process(2000, unit="My Shop", ppid=None)),
            'as an administrator: sc.exe stop "My Shop"',
        ),
    ],
)
def test_service(platform: str, found: Holder, instead: str, scope: Scope) -> None:
    verdict = judge(found, context(platform=platform, scope=scope))

    assert (verdict.action, verdict.rule) == ("keep", "service")
    assert verdict.reason == f"it is the service {found.process.unit}"
    assert verdict.instead == instead


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        case("beside ours", holder(process(), OTHER_STEP, AGENT, INIT), ("keep", "live-run")),
        case("ours itself", holder(process(), STEP, AGENT, INIT), ("stop", "mine")),
        case("one that is over: adopted", holder(process(), INIT), ("stop", "orphan")),
    ],
)
def test_a_server_of_another_step_of_our_own_ci_job(
    found: Holder, verdict: tuple[str, str]
) -> None:
    judged = judge(found, context(process(900, "pytest"), STEP, AGENT, INIT, scope="mine"))

    assert (judged.action, judged.rule) == verdict
    if verdict[0] == "keep":
        assert "another step of this CI job, which goes on" in judged.reason


def test_an_agent_is_a_service_even_to_who_may_stop_live_runs() -> None:
    agent = holder(GITLAB._replace(unit="gitlab-runner.service"), INIT)

    assert judge(agent, context(scope="mine")).rule == "live-run"
    assert judge(agent, context(scope="any")).rule == "service"


@pytest.mark.parametrize(
    "unit",
    [
        *("user@1000.service", "app-shop@1.service", "cron.service", "atd.service", "sshd.service"),
        *("actions.runner.me-shop.a.service", "gitlab-runner.service", "buildkite-agent.service"),
    ],
)
def test_what_somebody_started_by_way_of_a_unit_is_no_service(unit: str) -> None:
    assert judge(holder(process(2000, unit=unit), INIT), context()).rule == "orphan"


@pytest.mark.parametrize(
    ("found", "asked", "rule"),
    [
        case("no unit", holder(), context(), "orphan"),
        case(
            "our own unit",
            holder(process(2000, unit="ci.service"), INIT),
            context(unit="ci.service"),
            "orphan",
        ),
        case(
            "typed in a terminal inside of a service",
            holder(
                process(2000, unit="cockpit.service"),
                OUR_SHELL._replace(unit="cockpit.service"),
                process(9, "cockpit-bridge"),
                INIT,
            ),
            context(),
            "attended",
        ),
    ],
)
def test_not_service(found: Holder, asked: Context, rule: str) -> None:
    assert judge(found, asked).rule == rule


# 10. orphan: nobody looks after it, and it is in our project


@pytest.mark.parametrize(
    "found",
    [
        case("in the project's folder", holder()),
        case("below it", holder(process(2000, cwd=f"{PROJECT}/src/web"), INIT)),
        case(
            "in a folder that was deleted",
            holder(process(2000, cwd=f"{PROJECT}/x (deleted)"), INIT),
        ),
        case(
            "wrappers between, npm by its title",
            holder(
                process(2000, "node vite"),
                process(9, "sh -c 'node vite'"),
                titled(8, "npm run dev", name="node"),
                INIT,
            ),
        ),
        case(
            "wrappers between, npm by its command line",
            holder(process(), process(9, "node /usr/bin/npm run dev"), INIT),
        ),
        case(
            "its terminal is still open", holder(process(2000, session=800, terminal="pts/1"), INIT)
        ),
        case("pid 1 is no init, and of another session", holder(process(), process(1, "sleep 9"))),
        case("nobody adopts (Windows)", holder(process(2000, ppid=None))),
    ],
)
def test_orphan(found: Holder) -> None:
    verdict = judge(found, context())

    assert (verdict.action, verdict.rule) == ("stop", "orphan")
    assert verdict.reason == "nobody looks after it, and it runs in ~/shop"


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        case("in another project", holder(process(2000, cwd=ELSEWHERE), INIT), context()),
        case(
            "in a folder that starts alike",
            holder(process(2000, cwd=f"{PROJECT}-v2"), INIT),
            context(),
        ),
        case("above our project", holder(process(2000, cwd=HOME), INIT), context()),
        case("in /", holder(process(2000, cwd="/"), INIT), context()),
        case("where it is cannot be read", holder(process(2000, cwd=None), INIT), context()),
        case("we are in no project", holder(), context(project=None)),
        case("our project would be the home directory", holder(), context(project=HOME)),
        case("our project would be /", holder(), context(project="/")),
        case("a shell at a terminal", holder(process(), OUR_SHELL, INIT), context()),
        case(
            "a shell that waits in the foreground",
            holder(
                process(), process(9, "sh x", session=8, terminal="pts/1", foreground=True), INIT
            ),
            context(),
        ),
        case("a supervisor", holder(process(), process(9, "nodemon x"), INIT), context()),
        case("a name on no list", holder(process(), process(9, "shopctl"), INIT), context()),
        case(
            "pid 1 is no init, and of its session",
            holder(process(2000, session=1), process(1, "app", session=1)),
            context(),
        ),
        case(
            "pid 1 is a shell at a terminal (docker run -it)",
            holder(process(), process(1, "bash", terminal="pts/0")),
            context(),
        ),
        case("its parent is outside (docker exec)", holder(process(2000, ppid=0)), context()),
        case("its parent cannot be seen", holder(process(2000, ppid=77)), context()),
        case(
            "it has a terminal for itself",
            holder(process(2000, terminal="pts/5"), INIT),
            context(),
        ),
        case("it outlives by design", holder(process(2000, "emacs --daemon"), INIT), context()),
    ],
)
def test_not_orphan(found: Holder, asked: Context) -> None:
    assert judge(found, asked).rule == "attended"
    assert judge(found, asked._replace(scope="mine")).rule == "mine"


# 11. mine: who names a port may stop what holds it


@pytest.mark.parametrize(
    ("scope", "found", "says"),
    [
        case(
            "mine",
            "mine",
            holder(process(), OUR_SHELL, INIT),
            "started by zsh (pid 800) on pts/1, and scope mine takes it in",
        ),
        case(
            "mine, an orphan in another project",
            "mine",
            holder(process(2000, cwd=ELSEWHERE), INIT),
            "nobody looks after it, and scope mine takes it in",
        ),
        case(
            "any",
            "any",
            holder(process(), process(9, "nodemon x"), INIT),
            "started by nodemon (pid 9), and scope any takes it in",
        ),
    ],
)
def test_mine(scope: Scope, found: Holder, says: str) -> None:
    verdict = judge(found, context(scope=scope))

    assert (verdict.action, verdict.rule) == ("stop", "mine")
    assert verdict.reason == says


# 12. attended: anything else. Who started it, where, and what to do.


@pytest.mark.parametrize(
    ("found", "asked", "says"),
    [
        case(
            "a shell",
            holder(process(), OUR_SHELL, INIT),
            context(),
            "started by zsh (pid 800) on pts/1 in ~/shop",
        ),
        case(
            "a supervisor, in the home directory",
            holder(process(2000, cwd=HOME), process(9, "nodemon x"), INIT),
            context(),
            "started by nodemon (pid 9) in ~",
        ),
        case(
            "in a directory that cannot be read",
            holder(process(2000, cwd=None), OUR_SHELL, INIT),
            context(),
            "started by zsh (pid 800) on pts/1 in a directory that cannot be read",
        ),
        case(
            "docker exec",
            holder(process(2000, ppid=0, cwd="/app"), sockets=[socket()]),
            context(),
            "started by somebody outside of this container (docker exec or the like) in /app",
        ),
        case(
            "a terminal for itself",
            holder(process(2000, terminal="pts/5"), INIT),
            context(),
            "started by somebody at the terminal pts/5 in ~/shop",
        ),
        case(
            "an orphan elsewhere",
            holder(process(2000, cwd=ELSEWHERE), INIT),
            context(),
            "nobody looks after it any more, but it runs in ~/unrelated, outside of ~/shop, and "
            "nothing shows that a test run has left it",
        ),
        case(
            "an orphan, and no project",
            holder(),
            context(project=None),
            "nobody looks after it any more, but it runs in ~/shop, and we are in no project: "
            "there is no pyproject.toml or .git here or above, so nothing tells that it is ours to "
            "stop",
        ),
        case(
            "what outlives by design",
            holder(process(2000, "emacs --daemon"), INIT),
            context(),
            "emacs (pid 2000) is meant to run on by itself, and runs in ~/shop",
        ),
        case(
            "a path of Windows",
            holder(process(2000, cwd=r"C:\Users\me\x", ppid=77)),
            context(home=r"C:\Users\me", platform="win32"),
            r"started by a process that cannot be seen (pid 77) in ~\x",
        ),
        case(
            "a home that only starts alike",
            holder(process(2000, cwd="/home/meg"), OUR_SHELL, INIT),
            context(),
            "started by zsh (pid 800) on pts/1 in /home/meg",
        ),
    ],
)
def test_attended(found: Holder, asked: Context, says: str) -> None:
    verdict = judge(found, asked)

    assert (verdict.action, verdict.rule) == ("keep", "attended")
    assert verdict.reason == says
    assert verdict.advice == Advice("stop it there", "mine")


# Several holders: who shares a socket, or holds a port below another, shares the verdict.

MASTER = process(100, "gunicorn app")


def below(pid: int, *sockets_: int, parent: Process = MASTER) -> Holder:
    return holder(
        process(pid, "gunicorn app"),
        parent,
        INIT,
        sockets=[socket(id_) for id_ in sockets_ or (1,)],
    )


def actions(holders: list[Holder], asked: Context) -> dict[int, tuple[str, str]]:
    return {pid: verdict[:2] for pid, verdict in judge_all(holders, asked).items()}


def test_workers_take_the_verdict_of_their_master() -> None:
    verdicts = judge_all([below(102), holder(MASTER, INIT), below(101)], context())

    assert {verdict[:2] for verdict in verdicts.values()} == {("stop", "orphan")}
    assert verdicts[100].reason.startswith("nobody looks after it")
    assert verdicts[101].reason.startswith("shares the socket of gunicorn (pid 100): nobody")


def test_workers_of_a_kept_master_are_kept_for_its_reason() -> None:
    master = holder(MASTER, OUR_SHELL, INIT)
    worker = holder(process(101, marks=IN_A_TEST), MASTER, OUR_SHELL, INIT)

    verdicts = judge_all([master, worker], context())

    assert verdicts[101][:2] == ("keep", "attended")
    assert verdicts[101].instead == verdicts[100].instead


def test_a_worker_with_a_socket_of_its_own_goes_with_its_master() -> None:
    verdicts = judge_all([holder(MASTER, INIT), below(101, 2)], context())

    assert verdicts[101][:2] == ("stop", "orphan")
    assert verdicts[101].reason.startswith("belongs to the same server as gunicorn (pid 100)")


def test_a_worker_is_judged_itself_where_only_its_master_holds_the_port() -> None:
    # Nothing is between them: each holds a port of its own.
    worker = holder(
        process(101, unit="shop.service"), MASTER, INIT, sockets=[socket(2, Port(9000))]
    )

    assert actions([holder(MASTER, INIT), worker], context()) == {
        100: ("stop", "orphan"),
        101: ("keep", "service"),
    }


def test_one_root_that_is_kept_keeps_all_who_share_its_socket() -> None:
    orphan, attended = below(101, 1, parent=INIT), holder(process(102), OUR_SHELL, INIT)

    verdicts = judge_all([orphan, attended], context())

    assert verdicts[101][:2] == ("keep", "attended")
    assert verdicts[101].reason.startswith("shares the socket of server (pid 102): started by zsh")
    assert verdicts[102].reason.startswith("started by zsh")


def test_who_is_kept_keeps_by_way_of_others() -> None:
    # 101 and 102 share one socket, 102 and 103 another.
    first = holder(process(101), INIT, sockets=[socket(1)])
    second = holder(process(102), INIT, sockets=[socket(1), socket(2)])
    third = holder(process(103), OUR_SHELL, INIT, sockets=[socket(2)])

    for order in ([first, second, third], [third, first, second], [first, third, second]):
        assert {verdict[0] for verdict in actions(order, context()).values()} == {"keep"}


def test_two_who_are_kept_keep_their_own_reasons() -> None:
    theirs, attended = (
        holder(process(101), THEIR_PYTEST, THEIR_SHELL, INIT),
        holder(process(102), OUR_SHELL, INIT),
    )

    assert actions([theirs, attended], context()) == {
        101: ("keep", "live-run"),
        102: ("keep", "attended"),
    }


def test_servers_with_sockets_of_their_own_are_judged_apart() -> None:
    # SO_REUSEPORT: two servers on one port, and neither is the other's parent.
    orphan = holder(process(101), INIT, sockets=[socket(1)])
    attended = holder(process(102), OUR_SHELL, INIT, sockets=[socket(2)])

    assert actions([orphan, attended], context()) == {
        101: ("stop", "orphan"),
        102: ("keep", "attended"),
    }


@pytest.mark.parametrize(
    ("follower", "asked", "rule"),
    [
        case(
            "we have the socket ourselves",
            holder(OUR_PYTEST, MASTER, INIT),
            # Our own ancestors could not be read.
            context(OUR_PYTEST._replace(ppid=MASTER.pid)),
            "self",
        ),
        case(
            "a container has it",
            holder(process(101, container="f00d"), MASTER, INIT),
            context(),
            "container",
        ),
        case(
            "a part of the system has it",
            holder(process(101, "sshd -D"), MASTER, INIT),
            context(),
            "protected",
        ),
    ],
)
def test_a_follower_that_must_not_be_stopped_keeps_its_root(
    follower: Holder, asked: Context, rule: str
) -> None:
    verdicts = judge_all([holder(MASTER, INIT), follower], asked)

    assert {pid: verdict[:2] for pid, verdict in verdicts.items()} == {
        MASTER.pid: ("keep", rule),
        follower.pid: ("keep", rule),
    }
    found = veto(follower, (), asked)
    assert found is not None
    assert found.rule == rule


def test_an_ordinary_follower_has_no_veto() -> None:
    assert veto(below(101), (), context()) is None


def test_ancestors_in_a_circle_are_each_judged() -> None:
    # A pid that passed to another process while we looked.
    one, other = process(101, ppid=102), process(102, ppid=101)

    circle = [holder(one, other), holder(other, one)]

    assert set(judge_all(circle, context())) == {101, 102}


def test_nobody_is_judged_if_nobody_holds() -> None:
    assert judge_all([], context()) == {}


# Who starts a server again

OLD = process(150)


def restarted(*above: Process) -> tuple[Holder, list[Holder]]:
    """A new holder, and the old one that was stopped, under the same parents."""
    return holder(process(2000), *above), [holder(OLD, *above)]


@pytest.mark.parametrize(
    ("above", "asked", "rule"),
    [
        case("orphan", [process(9, "nodemon x"), INIT], context(), "orphan"),
        case(
            "left-behind",
            [process(9, "nodemon x", marks=IN_A_TEST, cwd=ELSEWHERE), INIT],
            context(),
            "left-behind",
        ),
        case(
            "own-run",
            [process(9, "nodemon x"), OUR_PYTEST, INIT],
            context(OUR_PYTEST, INIT),
            "own-run",
        ),
    ],
)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_supervisor_that_was_left_there_is_stopped(
    above: list[Process], asked: Context, rule: str, scope: Scope
) -> None:
    _, old = restarted(*above)
    # It starts what it starts by way of a shell.
    new = holder(process(2000), process(1999, "sh -c server"), *above)

    found = judge_supervisor(new, old, asked._replace(scope=scope))

    assert found is not None
    assert found.holder.pid == 9
    assert not found.holder.sockets
    assert found.verdict[:2] == ("stop", rule)


@pytest.mark.parametrize(
    ("above", "asked", "name", "rule"),
    [
        case(
            "attended", [process(9, "nodemon x"), OUR_SHELL, INIT], context(), "nodemon", "attended"
        ),
        case(
            "it was only asked for the port",
            [process(9, "nodemon x"), OUR_SHELL, INIT],
            context(scope="any"),
            "nodemon",
            "attended",
        ),
        case("we", [OUR_PYTEST, OUR_SHELL, INIT], context(), "pytest", "self"),
        case("a shell at its terminal", [OUR_SHELL, INIT], context(), "zsh", "self"),
        case(
            "bob's", [process(9, "nodemon x", owner=BOB), INIT], context(), "nodemon", "other-user"
        ),
    ],
)
def test_a_supervisor_is_named_otherwise(
    above: list[Process], asked: Context, name: str, rule: str
) -> None:
    new, old = restarted(*above)

    found = judge_supervisor(new, old, asked)

    assert found is not None
    assert found.verdict[:2] == ("keep", rule)
    assert found.verdict.reason == f"started again by {name} (pid {above[0].pid})"
    assert found.verdict.instead == f"stop that: {name} (pid {above[0].pid})"


def test_a_supervisor_in_a_run_that_nobody_asked_about_is_kept() -> None:
    above = [process(9, "nodemon x", marks=run_id(THEIRS)), INIT]
    # What it starts is given another id, and only of that one it is known that its run has ended.
    new = holder(process(2000, marks=run_id(INNER)), *above)

    found = judge_supervisor(new, [holder(OLD, *above)], context())

    assert found is not None
    assert found.verdict[:2] == ("keep", "live-run")


@pytest.mark.parametrize(
    ("new", "old"),
    [
        case("nobody was stopped", holder(process(), process(9, "nodemon x"), INIT), []),
        case("both were adopted", *restarted(INIT)),
        case(
            "both were adopted by a portfree run",
            *restarted(process(9, "portfree run 8000 -- x"), INIT),
        ),
        case("both were adopted by systemd --user", *restarted(USER_MANAGER, INIT)),
        case(
            "they have no parent in common",
            holder(process(), process(9, "nodemon x"), OUR_SHELL, INIT),
            [holder(OLD, INIT)],
        ),
        case(
            "only a grandparent in common, which may have started them apart",
            holder(process(), process(10, "nodemon x"), process(9, "foreman"), INIT),
            [holder(OLD, process(9, "foreman"), INIT)],
        ),
        case("nobody above in sight", holder(process(2000, ppid=77)), [holder(OLD, INIT)]),
        case(
            "only wrappers above in sight",
            holder(process(), process(9, "sh x", ppid=0)),
            [holder(OLD, INIT)],
        ),
    ],
)
def test_no_supervisor(new: Holder, old: list[Holder]) -> None:
    assert judge_supervisor(new, old, context()) is None


# What holds for every input: random process trees, with random people in them

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
# A machine that is busy with other tests is no fault.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

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


def _lineage(own: Process, everybody: list[Process]) -> tuple[Process, ...]:
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
    ours = (caller, *_lineage(caller, everybody))
    live = draw(st.frozensets(st.sampled_from(_ELEMENTS)))
    holding = draw(st.lists(st.sampled_from(everybody), min_size=1, unique_by=lambda p: p.pid))
    holders = []
    for own in holding:
        ids = draw(st.sets(st.integers(1, 3), min_size=1))
        base = holder(own, sockets=[socket(id_, Port(8000 + (id_ == 3))) for id_ in ids])
        holders.append(
            base._replace(
                process=own,
                lineage=_lineage(own, everybody),
                pinned=draw(st.sampled_from([True] * 5 + [False])),
                project=draw(st.sampled_from([PROJECT, ELSEWHERE, None])),
                live_runs=live,
            )
        )
    others = draw(st.lists(st.sampled_from(everybody), max_size=3))
    own_ids = draw(st.sampled_from([(), (OURS,), (OURS, INNER), (THEIRS,)]))
    circumstances = Circumstances(
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
            Neighbour(each, _lineage(each, everybody), PROJECT)
            for each in others
            if each not in ours
        ),
        main_service=draw(st.sampled_from([frozenset[int](), frozenset({1, 2})])),
    )
    return Machine(holders, context(**circumstances)._replace(caller=caller, lineage=ours[1:]))


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
