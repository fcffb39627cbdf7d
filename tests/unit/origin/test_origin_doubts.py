"""What looks like an end and is none: each of these was taken for a proof once. All are kept."""

from __future__ import annotations

import pytest

from helpers.builders import beside, born, context, holder, neighbour, orphan, run_id, socket
from helpers.plain_processes import (
    ELSEWHERE,
    INIT,
    ME,
    OUR_PYTEST,
    OUR_SHELL,
    PROJECT,
    ROOT,
    THEIR_PYTEST,
    THEIR_SHELL,
    fork,
    process,
    titled,
)
from helpers.scenes import (
    ADOPTED_KARMA,
    AT_WORK,
    COPY,
    DAEMON,
    ENDING,
    EXECNET,
    FOLDER,
    IN_A_TEST,
    IN_THE_WINDOW,
    LOCKED,
    MUX,
    NOW,
    NOX,
    OWNER,
    PORTFREE_RUN,
    VERSION,
    WORKING,
    XDIST,
    there,
)
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge, judge_all
from portfree._core.origin import copy, descent, folder
from portfree._system.interface import Lock, Process

GW0 = {"PYTEST_XDIST_WORKER": "gw0"}
TEAMCITY = {"TEAMCITY_BUILD_PROPERTIES_FILE": "991"}
CIRCLECI = {"CIRCLE_WORKFLOW_JOB_ID": "991"}
GW0 = {"PYTEST_XDIST_WORKER": "gw0"}
GONE = "77.77.abcd"


def pytest_in(element: str) -> Process:
    return process(700, "pytest", marks=VERSION | run_id(element), session=600)


def assert_kept(found: Holder, asked: Context | None = None) -> None:
    verdict = judge(found, asked or context())
    assert verdict.action == "keep", verdict


AGENTS = [
    (TEAMCITY, "java -ea -cp x jetbrains.buildServer.agent.AgentMain -file y"),
    (CIRCLECI, "/usr/bin/circleci-runner machine -c x"),
    (CIRCLECI, "/opt/circleci/circleci-launch-agent --config x"),
]


@pytest.mark.parametrize(("marks", "agent"), AGENTS)
def test_the_job_of_an_agent_that_is_at_work(marks: dict[str, str], agent: str) -> None:
    step = neighbour(process(1900, "sh step.sh", marks=marks), process(300, agent), INIT)
    assert_kept(orphan(marks=marks), context(neighbours=(step,)))


SHELLS = [
    "bash --rcfile /opt/idea/x.bash -i",
    "bash --init-file /x/shellIntegration-bash.sh",
    "bash -O extglob",
    "bash -o vi",
    "busybox sh",
    "nu",
    "xonsh",
    "pwsh",
    "fish --init-command 'source x'",
]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_in_a_terminal_that_nobody_knows(shell: str) -> None:
    seat = process(1990, shell, marks=IN_A_TEST, terminal="pts/7")
    editor = process(1980, "java -cp x com.intellij.idea.Main", marks=IN_A_TEST)
    assert_kept(holder(IN_THE_WINDOW, seat, editor, INIT))


@pytest.mark.parametrize("found", [born(IN_A_TEST), COPY], ids=["mark", "copy"])
def test_a_project_in_the_folder_of_a_live_session(found: Process) -> None:
    place = f"{FOLDER}/test_search0/repo"
    moved = found._replace(cwd=place)
    inside = there(LOCKED, moved, project=place, repository=place)
    assert_kept(inside, context(time=NOW, neighbours=WORKING))


def test_a_package_without_a_repository_is_of_the_project_above_it() -> None:
    place = f"{PROJECT}/packages/web"
    assert_kept(holder(born(IN_A_TEST, cwd=place), INIT, project=place), AT_WORK)


def test_the_fork_of_another_worker_of_our_own_xdist() -> None:
    sibling = process(711, EXECNET, marks=VERSION, session=600)
    us = process(710, EXECNET, marks=GW0 | VERSION)
    assert_kept(holder(fork(sibling, 2000), INIT), context(us, XDIST, INIT))


def test_the_fork_of_a_worker_that_has_changed_its_title_since() -> None:
    old, new = (
        titled(711, f"[pytest-xdist running] {test}", name="[pytest-xdist r", session=600)
        for test in ("one", "two")
    )
    near = (neighbour(XDIST, THEIR_SHELL, INIT), neighbour(new, XDIST, THEIR_SHELL, INIT))
    assert_kept(holder(fork(old, 2000), INIT), context(neighbours=near))


def test_the_fork_of_a_worker_that_had_no_title_yet() -> None:
    old = process(711, EXECNET, marks=VERSION, session=600)
    new = titled(711, "[pytest-xdist running] one", name="[pytest-xdist r", session=600)
    near = (neighbour(XDIST, THEIR_SHELL, INIT), neighbour(new, XDIST, THEIR_SHELL, INIT))
    assert_kept(holder(fork(old, 2000), INIT), context(neighbours=near))


def test_the_title_of_our_own_worker_is_not_that_of_any_other_runner() -> None:
    us = titled(710, "[pytest-xdist running] one", name="[pytest-xdist r")
    found = copy(holder(COPY, INIT), context(us, XDIST, INIT))
    assert found is not None
    assert found.state == "ended"


@pytest.mark.parametrize(
    "found", [born(run_id(GONE)), fork(pytest_in(GONE), 2000)], ids=["Popen", "fork"]
)
def test_a_live_pytest_goes_on_without_the_nox_that_was_killed(found: Process) -> None:
    inner = neighbour(pytest_in(GONE), INIT)
    assert_kept(holder(found, INIT), context(neighbours=(inner,)))
    outside = neighbour(pytest_in("5.5.aa"), INIT)
    assert judge(holder(found, INIT), context(neighbours=(outside,))).action == "stop"


def test_a_worker_with_a_title_is_in_the_run_of_its_controller() -> None:
    worker = titled(711, "[pytest-xdist running] one", name="[x", environment="wiped")
    left = holder(born(run_id(GONE), cwd="/"), INIT, project=None)
    for controller, action in ((XDIST, "stop"), (XDIST._replace(marks=run_id(GONE)), "keep")):
        near = neighbour(worker, controller, THEIR_SHELL, INIT)
        assert judge(left, context(neighbours=(near,))).action == action


def test_the_fork_of_a_program_on_no_list_is_theirs_only_where_nobody_asks_for_it() -> None:
    program = process(600, "python run_tests.py")
    near = neighbour(program, THEIR_SHELL, INIT)
    found = holder(fork(program, 2000), INIT)
    assert_kept(found, context(neighbours=(near,)))
    assert judge(found, context(neighbours=(near,), scope="mine")).action == "stop"


def test_a_runner_of_roots_that_nobody_may_read() -> None:
    hidden = THEIR_PYTEST._replace(environment="unreadable", complete=False, cwd=None)
    left = holder(born(run_id(GONE), cwd="/"), INIT, project=None)
    for owner, action in ((ME, "keep"), (ROOT, "stop")):
        near = neighbour(hidden._replace(owner=owner), INIT)._replace(project=None)
        assert judge(left, context(neighbours=(near,))).action == action


def test_a_runner_that_does_not_tell_where_it_works() -> None:
    hidden = neighbour(THEIR_PYTEST._replace(cwd=None), INIT)._replace(project=None)
    assert_kept(orphan(marks=VERSION), context(neighbours=(hidden,)))
    roots = hidden._replace(process=hidden.process._replace(owner=ROOT))
    assert judge(orphan(marks=VERSION), context(neighbours=(roots,))).action == "stop"


@pytest.mark.parametrize("command", ["pytest", "Runner.Worker"])
def test_the_fork_of_a_runner_that_goes_on_without_the_one_around_it(command: str) -> None:
    inner = process(700, command, marks=IN_A_TEST, session=600)
    other = inner._replace(marks=run_id(GONE))
    for original, action in ((inner, "keep"), (other, "stop")):
        near = neighbour(original, INIT)._replace(
            project=ELSEWHERE if original is other else PROJECT
        )
        found = holder(fork(inner, 2000), INIT)
        assert judge(found, context(neighbours=(near,))).action == action


def test_a_left_server_below_which_a_live_run_has_the_port_too() -> None:
    left = process(600, "python serve.py", marks=IN_A_TEST)
    agent = process(700, "Runner.Worker", marks=IN_A_TEST)
    master = holder(left, INIT)
    inner = holder(born(IN_A_TEST, ppid=700), agent, left, INIT, sockets=[socket(2)])

    verdicts = judge_all([master, inner], context())

    assert {verdict.action for verdict in verdicts.values()} == {"keep"}


def test_before_a_run_scope_any_spares_what_it_has_started() -> None:
    inner = process(950, "pytest inner")
    found = holder(born(run_id(GONE)), inner, OUR_PYTEST, INIT, live_runs=frozenset({GONE}))
    assert_kept(found, context(phase="before", scope="any"))
    assert judge(found, context(scope="any")).action == "stop"


def test_a_server_below_others_in_the_folder_of_a_live_session() -> None:
    launcher = process(1990, "shopctl start", cwd="/tmp")
    owner = OWNER._replace(ppid=1)
    found = there(LOCKED._replace(process=owner))._replace(lineage=(launcher, INIT))
    assert_kept(found, context(time=NOW, scope="mine"))
    seated = found._replace(lineage=(launcher, THEIR_SHELL, INIT))
    assert judge(seated, context(time=NOW, scope="mine")).action == "stop"


def test_two_looks_at_the_controller_of_our_xdist() -> None:
    owner = XDIST._replace(ppid=1, started=NOW - 100.0001)
    asked = context(process(710, EXECNET, marks=GW0), XDIST._replace(started=NOW - 100), INIT)

    found = folder(there(LOCKED._replace(lock=Lock(705, NOW), process=owner)), asked)

    assert found is not None
    assert found.state == "live"


def test_a_lock_is_older_than_its_session_where_the_clock_was_set() -> None:
    owner = OWNER._replace(started=NOW + 3500)
    asked = context(time=NOW + 3600, neighbours=WORKING)
    assert_kept(there(LOCKED._replace(process=owner)), asked)


def test_roots_server_may_be_of_anybodys_test_by_sudo() -> None:
    owners = frozenset[int | str]({ROOT, ME})
    asked = context(neighbours=WORKING, owners=owners, privileged=True)
    assert_kept(orphan(marks=IN_A_TEST, owner=ROOT), asked)


def test_a_fork_like_ours_whose_parent_lives_out_of_sight() -> None:
    assert_kept(holder(fork(OUR_PYTEST, 2000, session=2000, ppid=77)))


def test_an_arrival_in_a_directory_that_cannot_be_read() -> None:
    assert_kept(holder(DAEMON._replace(cwd=None), INIT, project=None), ENDING)


def test_an_adopter_that_does_not_show_its_environment() -> None:
    hidden = PORTFREE_RUN._replace(marks={}, environment="unreadable", complete=False)
    found = holder(born(NOX, session=600), hidden, THEIR_SHELL, INIT)
    assert_kept(found, context(OUR_PYTEST, hidden, THEIR_SHELL, INIT))


def test_an_ssh_that_other_sessions_share() -> None:
    shared = MUX._replace(environment="read", marks=IN_A_TEST)
    assert_kept(holder(shared, INIT, project=None))


def test_what_has_wiped_its_environment_has_not_that_of_its_process_manager() -> None:
    app = process(2000, "node app", environment="wiped", cwd=ELSEWHERE)
    manager = process(9, "supervisord -n", marks=IN_A_TEST)
    assert_kept(holder(app, manager, INIT, project=ELSEWHERE))


def test_on_windows_nobody_adopts() -> None:
    found = descent(
        holder(process(2000), THEIR_PYTEST._replace(ppid=None)), context(platform="win32")
    )
    assert found is not None
    assert found.alone


def test_what_asks_to_stay_is_told_though_somebody_looks_after_it() -> None:
    verdict = judge(holder(born({"PORTFREE_KEEP": "1"}), OUR_PYTEST, OUR_SHELL, INIT), context())
    assert "PORTFREE_KEEP=1" in verdict.reason


def test_an_abandoned_karma_keeps_no_fork_of_its_own() -> None:
    found = holder(fork(ADOPTED_KARMA, 2000), INIT)
    asked = beside(ADOPTED_KARMA, INIT)
    assert judge(found, asked).action == "stop"
