"""What the lineage of a holder tells: who looks after it, and whether it was left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from build import (
    INIT,
    OUR_SHELL,
    PORT,
    USER_MANAGER,
    family,
    holder,
    process,
    socket,
    titled,
)
from portfree.holder import Holder, Launcher, launcher, leader, named, roots, supervisors, was_left
from portfree.ports import Port

if TYPE_CHECKING:
    from portfree.system.boundary import Process

SERVER = process(2000)
TEST = {"PYTEST_CURRENT_TEST": "tests/test_api.py::test_search (setup)"}


def marked(pid: int, command: str = "python server.py") -> Process:
    return process(pid, command, marks=TEST)


# The first process of a container that is no init
APP_AS_PID_1 = process(1, "python entrypoint.py", session=1)
SHELL_AS_PID_1 = process(1, "sh -c 'server; true'", session=1)
SHELL_AT_A_TERMINAL_AS_PID_1 = process(1, "bash", session=1, terminal="pts/0")


# launcher: nobody looks after it. This is what rule `orphan` rests on.


@pytest.mark.parametrize(
    "lineage",
    [
        pytest.param([INIT], id="init"),
        pytest.param([USER_MANAGER, INIT], id="systemd --user"),
        pytest.param([process(7, "tini -- sleep infinity"), INIT], id="tini, not as pid 1"),
        pytest.param([process(9, "/init", name="Relay(9)"), INIT], id="WSL"),
        pytest.param([process(5, "sh -c 'npm run dev'"), INIT], id="a shell without a terminal"),
        pytest.param(
            [process(5, "sh -c server", session=4, terminal="pts/1"), INIT],
            id="a shell in the background of a terminal, which leads no session",
        ),
        pytest.param(
            [
                process(9, "sh -c 'node vite'"),
                titled(8, "npm run dev", name="node"),
                process(7, "node /usr/bin/npx concurrently"),
                process(6, "uv run make dev"),
                process(5, "timeout 60 env A=1 make dev"),
                INIT,
            ],
            id="a chain of wrappers",
        ),
        pytest.param([APP_AS_PID_1], id="pid 1 of a container, of another session"),
        pytest.param([SHELL_AS_PID_1], id="a shell as pid 1, of another session"),
        pytest.param([process(1, "tini -- app", session=2000)], id="tini, of its session"),
    ],
)
def test_nobody_looks_after_who_was_adopted(lineage: list[Process]) -> None:
    assert launcher(holder(SERVER, *lineage)) is None


def test_nobody_looks_after_it_if_its_parent_has_ended_and_nobody_adopts() -> None:
    # As on Windows.
    assert launcher(holder(process(2000, ppid=None))) is None
    assert launcher(holder(process(2000), process(5, "npm run dev", ppid=None))) is None


# launcher: somebody does


@pytest.mark.parametrize(
    ("lineage", "who"),
    [
        pytest.param([OUR_SHELL, INIT], "zsh (pid 800) on pts/1", id="a shell at its terminal"),
        pytest.param(
            [process(9, "npm run dev", session=800, terminal="pts/1"), OUR_SHELL, INIT],
            "zsh (pid 800) on pts/1",
            id="a shell at its terminal, by way of npm",
        ),
        pytest.param(
            [process(9, "login", terminal="tty1"), INIT],
            "login (pid 9) on tty1",
            id="any leader of a session with a terminal",
        ),
        pytest.param(
            [process(9, "sh", session=None, terminal="tty1"), INIT],
            "sh (pid 9) on tty1",
            id="who may lead one",
        ),
        pytest.param(
            [process(9, "sh start.sh", session=8, terminal="pts/1", foreground=True), INIT],
            "sh (pid 9)",
            id="a shell that waits in the foreground",
        ),
        pytest.param([process(9, "python -m pytest"), INIT], "pytest (pid 9)", id="a test runner"),
        pytest.param([process(9, "nodemon server.js"), INIT], "nodemon (pid 9)", id="a supervisor"),
        pytest.param([process(9, "shop-dev"), INIT], "shop-dev (pid 9)", id="a name on no list"),
        pytest.param(
            [process(9, "python init.py"), INIT], "init (pid 9)", id="a script called like an init"
        ),
        pytest.param(
            [process(9, "busybox runsvdir x"), INIT], "runsvdir (pid 9)", id="busybox as supervisor"
        ),
    ],
)
def test_somebody_looks_after_it(lineage: list[Process], who: str) -> None:
    assert str(launcher(holder(SERVER, *lineage))) == who


@pytest.mark.parametrize(
    ("session", "first", "who"),
    [
        pytest.param(1, APP_AS_PID_1, "entrypoint (pid 1)", id="an app, of its session"),
        pytest.param(1, SHELL_AS_PID_1, "sh (pid 1)", id="a shell, of its session"),
        pytest.param(None, APP_AS_PID_1, "entrypoint (pid 1)", id="our session is not known"),
        pytest.param(
            2000, process(1, "app", session=None), "app (pid 1)", id="its session is not known"
        ),
        pytest.param(
            2000,
            SHELL_AT_A_TERMINAL_AS_PID_1,
            "bash (pid 1) on pts/0",
            id="a shell at a terminal (docker run -it), whatever the session",
        ),
    ],
)
def test_in_a_container_the_first_process_may_look_after_it(
    session: int | None, first: Process, who: str
) -> None:
    assert str(launcher(holder(process(2000, session=session), first))) == who


@pytest.mark.parametrize(
    ("own", "lineage", "who"),
    [
        pytest.param(
            process(2000, ppid=0), [], "somebody outside of this container", id="docker exec"
        ),
        pytest.param(
            SERVER,
            [process(5, "sh -c server", ppid=0)],
            "somebody outside of this container",
            id="docker exec sh",
        ),
        pytest.param(process(2000, ppid=77), [], "cannot be seen (pid 77)", id="a hidden parent"),
        pytest.param(
            process(2000, session=2000, terminal="pts/4"),
            [INIT],
            "somebody at the terminal pts/4",
            id="it has a terminal for itself",
        ),
    ],
)
def test_somebody_out_of_sight_looks_after_it(
    own: Process, lineage: list[Process], who: str
) -> None:
    found = launcher(holder(own, *lineage))

    assert found is not None
    assert found.process is None
    assert who in str(found)


def test_a_terminal_that_is_still_open_proves_nothing() -> None:
    # The server of a killed pytest keeps the terminal of the shell that started pytest.
    server = process(2000, session=800, terminal="pts/1")

    assert launcher(holder(server, INIT)) is None


def test_a_launcher_without_a_text_is_named_by_its_process() -> None:
    assert str(Launcher(process(9, "nodemon x"))) == "nodemon (pid 9)"
    assert str(Launcher(None)) == "?"


# was_left: the shape in which those who gave a mark have certainly gone


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([marked(2000), INIT], id="it was adopted itself"),
        pytest.param([marked(2000), USER_MANAGER, INIT], id="by systemd --user"),
        pytest.param([marked(2000), marked(9, "gunicorn app"), INIT], id="its master was adopted"),
        pytest.param([marked(2000), marked(9, "nodemon x"), INIT], id="its supervisor was adopted"),
        pytest.param(
            [marked(2000), process(9, "app"), marked(8, "sh x.sh"), INIT],
            id="somebody between has wiped the mark",
        ),
        pytest.param([marked(2000), APP_AS_PID_1], id="by pid 1 of a container"),
        pytest.param([process(2000, marks=TEST, ppid=None)], id="its parent has ended (Windows)"),
    ],
)
def test_it_was_left_behind(chain: list[Process]) -> None:
    assert was_left(holder(*chain), "PYTEST_CURRENT_TEST")


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([process(2000), INIT], id="it bears no mark"),
        pytest.param([process(2000), marked(9, "app"), INIT], id="only its parent bears it"),
        pytest.param([marked(2000), process(9, "pytest"), INIT], id="the one who set it lives"),
        pytest.param(
            [marked(2000), process(9, "app", marks={"PYTEST_CURRENT_TEST": "another"}), INIT],
            id="its parent bears another value, and lives",
        ),
        pytest.param(
            [marked(2000), marked(9, "zsh"), marked(8, "tmux new"), INIT], id="tmux between"
        ),
        pytest.param([marked(2000), marked(8, "emacs --daemon"), INIT], id="an editor between"),
        pytest.param([marked(2000, "screen -D"), INIT], id="it is a multiplexer itself"),
        pytest.param(
            [marked(2000), process(9, "bash", marks=TEST, terminal="pts/3"), INIT],
            id="a terminal between",
        ),
        pytest.param(
            [process(2000, marks=TEST, session=2000, terminal="pts/3"), INIT],
            id="it has a terminal for itself",
        ),
        pytest.param(
            [process(2000, marks=TEST, session=1), APP_AS_PID_1], id="pid 1 has started it"
        ),
        pytest.param([process(2000, marks=TEST, ppid=0)], id="its parent is outside"),
        pytest.param([process(2000, marks=TEST, ppid=77)], id="its parent cannot be seen"),
    ],
)
def test_it_may_not_have_been_left(chain: list[Process]) -> None:
    assert not was_left(holder(*chain), "PYTEST_CURRENT_TEST")


def in_the_session_of_pid_1(run: str, adopter: Process = APP_AS_PID_1) -> Holder:
    return holder(process(2000, marks={"PORTFREE_RUN_ID": run}, session=1), adopter)


def test_the_first_process_of_a_container_has_not_started_what_another_run_has() -> None:
    assert was_left(in_the_session_of_pid_1("77.1.ab"), "PORTFREE_RUN_ID")
    assert was_left(in_the_session_of_pid_1("1.1.ab/77.1.cd"), "PORTFREE_RUN_ID")


def test_the_first_process_may_have_started_what_its_own_run_has() -> None:
    assert not was_left(in_the_session_of_pid_1("1.1.ab"), "PORTFREE_RUN_ID")
    assert not was_left(in_the_session_of_pid_1("77.1.ab/1.1.cd"), "PORTFREE_RUN_ID")


def test_another_adopter_in_sight_may_have_been_given_an_id_by_hand() -> None:
    started = in_the_session_of_pid_1("77.1.ab", process(9, "app"))

    assert not was_left(started, "PORTFREE_RUN_ID")


# supervisors: who may start it again


@pytest.mark.parametrize(
    ("lineage", "pids"),
    [
        pytest.param([INIT], [], id="an orphan"),
        pytest.param([OUR_SHELL, INIT], [], id="typed in a terminal"),
        pytest.param([process(9, "nodemon x"), OUR_SHELL, INIT], [9], id="nodemon"),
        pytest.param(
            [process(9, "npm start"), process(8, "pm2"), process(7, "x"), INIT],
            [9, 8],
            id="past wrappers",
        ),
        pytest.param([process(9, "tmux"), INIT], [], id="tmux"),
        pytest.param([process(9, "make dev"), INIT], [9], id="wrappers alone"),
        pytest.param([], [], id="nobody in sight"),
    ],
)
def test_who_may_start_it_again(lineage: list[Process], pids: list[int]) -> None:
    assert [found.pid for found in supervisors(holder(SERVER, *lineage))] == pids


# roots, leaders, marks


MASTER = process(100, "gunicorn app")


def worker(pid: int, *ports: Port) -> Holder:
    sockets = {socket(port.number, port) for port in ports or (PORT,)}
    return holder(process(pid, "gunicorn app"), MASTER, INIT, sockets=sockets)


def test_the_master_is_the_root_and_its_workers_follow() -> None:
    master = holder(MASTER, INIT)
    workers = [worker(101), worker(102)]

    assert roots([*workers, master]) == [master]
    assert [leader(each, [*workers, master], PORT) for each in workers] == [master, master]
    assert leader(master, [*workers, master], PORT) is None


def test_who_holds_a_port_that_its_ancestors_do_not_is_a_root_too() -> None:
    master = holder(MASTER, INIT)
    other = worker(101, PORT, Port(9000))

    assert roots([master, other]) == [master, other]


def test_the_nearest_ancestor_leads() -> None:
    master = holder(MASTER, INIT)
    middle = worker(101)
    lowest = holder(process(102), middle.process, MASTER, INIT)

    assert leader(lowest, [master, middle, lowest], PORT) == middle


def test_who_holds_nothing_is_a_root() -> None:
    supervisor = holder(MASTER, INIT, sockets=())

    assert roots([supervisor]) == [supervisor]


def test_a_mark_that_was_wiped_is_found_at_an_ancestor() -> None:
    parent = marked(9, "gunicorn app")

    assert holder(SERVER, parent, INIT).test == TEST["PYTEST_CURRENT_TEST"]
    own = process(2000, marks={"PYTEST_CURRENT_TEST": "mine"})
    assert holder(own, parent, INIT).test == "mine"
    assert holder(SERVER, INIT).test == ""


def test_a_descendant_is_known_by_pid_and_start() -> None:
    recycled = process(9, start=1)

    assert holder(SERVER, process(9, start=2), INIT).descends_from(process(9, start=2))
    assert not holder(SERVER, process(9, start=2), INIT).descends_from(recycled)
    assert not holder(SERVER, INIT).descends_from(SERVER)


def test_a_process_without_any_name_is_named_by_its_pid() -> None:
    assert named(process(9, argv=(), name="")) == "? (pid 9)"
    assert named(process(9, argv=(), name="kworker")) == "kworker (pid 9)"


def test_the_builder_links_a_family() -> None:
    child, parent, top = family(SERVER, MASTER, INIT)

    assert (child.ppid, parent.ppid, top.ppid) == (MASTER.pid, 1, 0)
