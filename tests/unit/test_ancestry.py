"""What the lineage of a holder tells: who looks after it, and whether it was left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.builders import (
    INIT,
    OUR_SHELL,
    PORT,
    THEIR_PYTEST,
    USER_MANAGER,
    family,
    fork,
    holder,
    process,
    socket,
    titled,
)
from portfree._core.ancestry import (
    Holder,
    Launcher,
    bearer,
    is_adopted,
    is_copy,
    is_interactive,
    launcher,
    leader,
    leads_terminal,
    left_at,
    named,
    roots,
    same,
    supervisors,
    was_left,
)
from portfree.model import Port

if TYPE_CHECKING:
    from portfree._system.interface import Process

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
        pytest.param([process(9, "bun run dev"), INIT], id="a wrapper by its subcommand"),
        pytest.param([process(9, "honcho start"), INIT], id="who starts several, adopted"),
        pytest.param(
            [process(9, "npm start", session=8, terminal="pts/1", foreground=True), INIT],
            id="a wrapper in the foreground, which is no shell",
        ),
        pytest.param([process(9, "script -qc server"), INIT], id="script(1), adopted"),
        pytest.param(
            [process(9, "sh x", terminal="pts/7"), process(8, "script -qc 'sh x'"), INIT],
            id="a shell at the terminal that script(1) has made for it",
        ),
        pytest.param(
            [
                process(9, "sh x", terminal="pts/7", foreground=True),
                process(8, "expect x.exp", session=800, terminal="pts/1"),
                INIT,
            ],
            id="the same, by expect(1), in the foreground there",
        ),
        pytest.param(
            [process(9, "portfree run -- make", session=9), INIT],
            id="portfree run, of another session",
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
            [process(9, "honcho start", session=8, terminal="pts/1"), INIT],
            "honcho (pid 9)",
            id="who starts several, and has a terminal",
        ),
        pytest.param([process(9, "bun server.ts"), INIT], "server.ts (pid 9)", id="no wrapper"),
        pytest.param(
            [process(9, "bash", terminal="pts/7"), process(8, "script"), INIT],
            "bash (pid 9) on pts/7",
            id="somebody in script(1)",
        ),
        pytest.param(
            [
                process(9, "sh x", terminal="pts/1"),
                process(8, "script -c x", session=800, terminal="pts/1"),
                INIT,
            ],
            "sh (pid 9) on pts/1",
            id="script(1) has not made that terminal",
        ),
        pytest.param(
            [process(9, "sh x", terminal="pts/7"), process(8, "sudo sh x"), INIT],
            "sh (pid 9) on pts/7",
            id="another one has made that terminal",
        ),
        pytest.param(
            [
                process(9, "sh x", session=7, terminal="pts/7", foreground=True),
                process(8, "script -c x"),
                INIT,
            ],
            "sh (pid 9)",
            id="script(1) has made it for another one",
        ),
        pytest.param(
            [process(9, "sh x", terminal="pts/7"), process(8, "script -c x"), OUR_SHELL, INIT],
            "zsh (pid 800) on pts/1",
            id="somebody has started script(1)",
        ),
        pytest.param(
            [process(9, "portfree run -- make", session=2000), INIT],
            "portfree (pid 9)",
            id="portfree run, of its session",
        ),
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


def test_nobody_sits_at_the_terminal_that_script_has_made_for_the_server_itself() -> None:
    server = process(2000, terminal="pts/7")

    assert launcher(holder(server, process(9, "script -qc server"), INIT)) is None
    assert launcher(holder(server, process(9, "sh x"), INIT)) is not None


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


def in_the_session_of_portfree_run(run: str, mark: str = "PORTFREE_RUN_ID") -> Holder:
    server = process(2000, marks={mark: run}, session=9)
    return holder(server, process(9, "portfree run -- make", terminal="pts/1"), INIT)


def test_a_portfree_run_has_not_started_what_another_run_has() -> None:
    assert was_left(in_the_session_of_portfree_run("77.1.ab"), "PORTFREE_RUN_ID")
    assert was_left(in_the_session_of_portfree_run("9.1.ab/77.1.cd"), "PORTFREE_RUN_ID")
    assert not was_left(in_the_session_of_portfree_run("77.1.ab/9.1.cd"), "PORTFREE_RUN_ID")
    assert not was_left(in_the_session_of_portfree_run("9.1.cd"), "PORTFREE_RUN_ID")


def test_a_portfree_run_gives_no_other_mark() -> None:
    found = in_the_session_of_portfree_run("tests", "NOX_CURRENT_SESSION")

    assert was_left(found, "NOX_CURRENT_SESSION")


def test_where_somebody_sits_below_a_portfree_run_nothing_was_left() -> None:
    server = process(2000, "tmux new", marks={"PORTFREE_RUN_ID": "77.1.ab"})

    assert not was_left(holder(server, process(9, "portfree run -- x"), INIT), "PORTFREE_RUN_ID")


# bearer: the topmost one with its value of a mark


WIPED = process(2000, environment="wiped")


@pytest.mark.parametrize(
    ("chain", "place"),
    [
        pytest.param([process(2000), INIT], None, id="nobody"),
        pytest.param([marked(2000), INIT], 0, id="itself"),
        pytest.param([marked(2000), marked(9), INIT], 1, id="its parent too"),
        pytest.param([marked(2000), process(9), marked(8), INIT], 2, id="and one above others"),
        pytest.param([process(2000), marked(9), INIT], None, id="only its parent, no wrapper"),
        pytest.param([process(2000), marked(9, "sh x"), INIT], 1, id="only a wrapper above it"),
        pytest.param(
            [process(2000), process(9, "sh x"), marked(8, "env x"), INIT], 2, id="further up"
        ),
        pytest.param(
            [process(2000), process(9, "sh x"), marked(8), INIT],
            None,
            id="above a wrapper that has it not, no wrapper",
        ),
        pytest.param([WIPED, marked(9), INIT], 1, id="it was wiped"),
        pytest.param(
            [WIPED, process(9, environment="wiped"), marked(8), INIT], 2, id="wiped more than once"
        ),
        pytest.param(
            [WIPED, process(9), marked(8), INIT], None, id="wiped, and its parent has it not"
        ),
        pytest.param([WIPED, INIT], None, id="wiped, and nobody has it"),
        pytest.param(
            [process(2000, environment="unreadable"), marked(9), INIT], 1, id="it cannot be read"
        ),
        pytest.param(
            [process(2000, marks={"PYTEST_CURRENT_TEST": "b"}), marked(9), INIT],
            0,
            id="its parent has another value",
        ),
        pytest.param(
            [process(2000, marks={"PYTEST_CURRENT_TEST": "b"}), marked(9, "sh x"), INIT],
            0,
            id="a wrapper above it has another value",
        ),
        pytest.param(
            [
                *(WIPED, process(9, marks={"PYTEST_CURRENT_TEST": "b"})),
                *(marked(8), process(7, marks={"PYTEST_CURRENT_TEST": "b"}), INIT),
            ],
            3,
            id="the nearest value counts",
        ),
        pytest.param(
            [process(2000, marks={"PYTEST_CURRENT_TEST": ""}), INIT], None, id="an empty one"
        ),
    ],
)
def test_the_topmost_bearer(chain: list[Process], place: int | None) -> None:
    assert bearer(holder(*chain), "PYTEST_CURRENT_TEST") == place


# left_at, is_adopted: who has lost the one that started it


COPY = fork(THEIR_PYTEST, 710)


@pytest.mark.parametrize(
    ("chain", "at", "left"),
    [
        pytest.param([SERVER, INIT], 0, True, id="adopted"),
        pytest.param([SERVER, process(9, "app"), INIT], 0, False, id="started by somebody"),
        pytest.param([SERVER, process(9, "app"), INIT], 1, True, id="its parent was adopted"),
        pytest.param([process(2000, ppid=None)], 0, True, id="its parent has ended"),
        pytest.param([process(2000, ppid=9)], 0, False, id="its parent is out of sight"),
        pytest.param([SERVER, COPY, INIT], 0, True, id="by a fork, which was adopted"),
        pytest.param([SERVER, COPY, COPY, INIT], 0, True, id="by way of two of them"),
        pytest.param(
            [SERVER, COPY._replace(ppid=None)], 0, True, id="by a fork, whose parent has ended"
        ),
        pytest.param([SERVER, COPY, THEIR_PYTEST, INIT], 0, False, id="by a fork of a live one"),
        pytest.param([SERVER, COPY._replace(ppid=9)], 0, False, id="by a fork of one out of sight"),
        pytest.param(
            [SERVER, THEIR_PYTEST._replace(forked=None), INIT], 0, False, id="by no known fork"
        ),
        pytest.param([SERVER, process(9, "tmux"), INIT], 1, False, id="tmux was adopted"),
        pytest.param([SERVER, process(9, "tmux"), COPY, INIT], 1, False, id="tmux, by a fork"),
        pytest.param(
            [process(2000, terminal="pts/5"), INIT], 0, False, id="with a terminal for itself"
        ),
    ],
)
def test_who_was_left(chain: list[Process], at: int, *, left: bool) -> None:
    assert left_at(holder(*chain), at) is left


@pytest.mark.parametrize(
    ("chain", "at", "adopted"),
    [
        pytest.param([SERVER, INIT], 0, True, id="by init"),
        pytest.param([SERVER, process(9, "app"), INIT], 0, False, id="by nobody"),
        pytest.param([SERVER, process(9, "app"), INIT], 1, True, id="its parent was"),
        pytest.param([SERVER, INIT], 1, False, id="the first process has no parent"),
        pytest.param([process(2000, ppid=None)], 0, True, id="its parent has ended"),
        pytest.param([process(2000, ppid=9)], 0, False, id="its parent is out of sight"),
        pytest.param([process(2000, session=1), APP_AS_PID_1], 0, False, id="started by pid 1"),
        pytest.param([SERVER, APP_AS_PID_1], 0, True, id="by pid 1"),
        pytest.param([SERVER, process(9, "portfree run -- x"), INIT], 0, True, id="portfree run"),
        pytest.param([SERVER, process(9, "portfree 8000"), INIT], 0, False, id="portfree alone"),
        pytest.param([SERVER, process(9, "app", session=9), INIT], 0, False, id="another one"),
    ],
)
def test_who_was_adopted(chain: list[Process], at: int, *, adopted: bool) -> None:
    assert is_adopted(holder(*chain), at) is adopted


# is_interactive, leads_terminal: whether somebody may sit there


AT_A_TERMINAL = process(2000, terminal="pts/5")
A_SHELL = process(9, "bash", terminal="pts/5")


@pytest.mark.parametrize(
    ("chain", "sits"),
    [
        pytest.param([SERVER], False, id="a server"),
        pytest.param([AT_A_TERMINAL], True, id="the topmost one leads a terminal"),
        pytest.param([AT_A_TERMINAL._replace(session=9)], False, id="it only has one"),
        pytest.param([AT_A_TERMINAL._replace(session=None)], True, id="it may lead one"),
        pytest.param([AT_A_TERMINAL, SERVER], False, id="a server leads one that was made for it"),
        pytest.param([A_SHELL, SERVER], True, id="a shell waits there"),
        pytest.param([SERVER, A_SHELL, SERVER], True, id="a shell waits there, further up"),
        pytest.param(
            [process(9, "bash x.sh", terminal="pts/5"), SERVER], False, id="a script runs there"
        ),
        pytest.param([process(9, "bash"), SERVER], False, id="a shell has no terminal"),
        pytest.param(
            [process(9, "bash", session=8, terminal="pts/5"), SERVER],
            False,
            id="a shell in the background of one",
        ),
        pytest.param(
            [AT_A_TERMINAL._replace(session=None), SERVER], True, id="who may lead one, below"
        ),
        pytest.param([SERVER._replace(session=None), SERVER], False, id="it has no terminal"),
        pytest.param([process(9, "tmux")], True, id="tmux"),
        pytest.param([SERVER, process(9, "xterm"), SERVER], True, id="xterm, in between"),
        pytest.param([process(9, "emacs --daemon"), SERVER], True, id="an editor, below"),
        pytest.param([SERVER, process(9, "supervisord")], False, id="a process manager, on top"),
    ],
)
def test_where_somebody_may_sit(chain: list[Process], *, sits: bool) -> None:
    assert is_interactive(chain) is sits


def test_who_leads_a_terminal() -> None:
    assert leads_terminal(AT_A_TERMINAL)
    assert leads_terminal(AT_A_TERMINAL._replace(session=None))
    assert not leads_terminal(AT_A_TERMINAL._replace(session=9))
    assert not leads_terminal(SERVER)


# is_copy: who only looks like a test runner


@pytest.mark.parametrize(
    ("found", "copied"),
    [
        pytest.param(COPY, True, id="a fork of pytest"),
        pytest.param(fork(process(9, "gitlab-runner run"), 10), True, id="a fork of a CI agent"),
        pytest.param(fork(process(9, "python -m nox"), 10), True, id="a fork of nox"),
        pytest.param(fork(SERVER, 10), False, id="a fork of a server"),
        pytest.param(THEIR_PYTEST._replace(forked=False), False, id="pytest"),
        pytest.param(THEIR_PYTEST._replace(forked=None), False, id="pytest, as macOS tells it"),
    ],
)
def test_what_only_looks_like_a_runner(found: Process, *, copied: bool) -> None:
    assert is_copy(found) is copied


def test_a_process_is_the_same_by_pid_and_start() -> None:
    assert same(SERVER, SERVER._replace(name="x"))
    assert not same(SERVER, SERVER._replace(start=1))
    assert not same(SERVER, SERVER._replace(pid=1))


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
