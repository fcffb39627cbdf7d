"""What the lineage of a holder tells: what looks after it, and what is its root."""

from __future__ import annotations

import pytest

from helpers.builders import case, family, holder, socket
from helpers.plain_processes import INIT, OUR_SHELL, PORT, USER_MANAGER, process, titled
from helpers.scenes import APP_AS_PID_1, IN_A_TEST, SERVER, marked
from portfree._core.ancestry import (
    Holder,
    Launcher,
    launcher,
    leader,
    named,
    roots,
    same,
    supervisors,
)
from portfree._system.interface import Process
from portfree.model import Port

SHELL_AS_PID_1 = process(1, "sh -c 'server; true'", session=1)
SHELL_AT_A_TERMINAL_AS_PID_1 = process(1, "bash", session=1, terminal="pts/0")


ADOPTED = [
    case("init", [INIT]),
    case("systemd --user", [USER_MANAGER, INIT]),
    case("tini, not as pid 1", [process(7, "tini -- sleep infinity"), INIT]),
    case("WSL", [process(9, "/init", name="Relay(9)"), INIT]),
    case("a shell without a terminal", [process(5, "sh -c 'npm run dev'"), INIT]),
    case(
        "a shell in the background of a terminal, which leads no session",
        [process(5, "sh -c server", session=4, terminal="pts/1"), INIT],
    ),
    case(
        "a chain of wrappers",
        [
            "sh -c 'node vite'",
            titled(8, "npm run dev", name="node"),
            process(7, "node /usr/bin/npx concurrently"),
            process(6, "uv run make dev"),
            process(5, "timeout 60 env A=1 make dev"),
            INIT,
        ],
    ),
    case("a wrapper by its subcommand", ["bun run dev", INIT]),
    case("who starts several, adopted", ["honcho start", INIT]),
    case(
        "a wrapper in the foreground, which is no shell",
        [process(9, "npm start", session=8, terminal="pts/1", foreground=True), INIT],
    ),
    case("script(1), adopted", ["script -qc server", INIT]),
    case(
        "a shell at the terminal that script(1) has made for it",
        [process(9, "sh x", terminal="pts/7"), process(8, "script -qc 'sh x'"), INIT],
    ),
    case(
        "the same, by expect(1), in the foreground there",
        [
            process(9, "sh x", terminal="pts/7", foreground=True),
            process(8, "expect x.exp", session=800, terminal="pts/1"),
            INIT,
        ],
    ),
    case("portfree run, of another session", [process(9, "portfree run -- make", session=9), INIT]),
    case("pid 1 of a container, of another session", [APP_AS_PID_1]),
    case("a shell as pid 1, of another session", [SHELL_AS_PID_1]),
    case("tini, of its session", [process(1, "tini -- app", session=2000)]),
]


@pytest.mark.parametrize("lineage", ADOPTED)
def test_nobody_looks_after_who_was_adopted(lineage: list[Process]) -> None:
    assert launcher(holder(SERVER, *lineage)) is None


def test_nobody_looks_after_it_if_its_parent_has_ended_and_nobody_adopts() -> None:
    # As on Windows.
    assert launcher(holder(process(2000, ppid=None))) is None
    assert launcher(holder(process(2000), process(5, "npm run dev", ppid=None))) is None


LAUNCHERS = [
    case("a shell at its terminal", [OUR_SHELL, INIT], "zsh (pid 800) on pts/1"),
    case(
        "a shell at its terminal, by way of npm",
        [process(9, "npm run dev", session=800, terminal="pts/1"), OUR_SHELL, INIT],
        "zsh (pid 800) on pts/1",
    ),
    case(
        "any leader of a session with a terminal",
        [process(9, "login", terminal="tty1"), INIT],
        "login (pid 9) on tty1",
    ),
    case(
        "who may lead one",
        [process(9, "sh", session=None, terminal="tty1"), INIT],
        "sh (pid 9) on tty1",
    ),
    case(
        "a shell that waits in the foreground",
        [process(9, "sh start.sh", session=8, terminal="pts/1", foreground=True), INIT],
        "sh (pid 9)",
    ),
    case("a test runner", ["python -m pytest", INIT], "pytest (pid 9)"),
    case("a supervisor", ["nodemon server.js", INIT], "nodemon (pid 9)"),
    case("a name on no list", ["shop-dev", INIT], "shop-dev (pid 9)"),
    case(
        "who starts several, and has a terminal",
        [process(9, "honcho start", session=8, terminal="pts/1"), INIT],
        "honcho (pid 9)",
    ),
    case("no wrapper", ["bun server.ts", INIT], "server.ts (pid 9)"),
    case(
        "somebody in script(1)",
        [process(9, "bash", terminal="pts/7"), process(8, "script"), INIT],
        "bash (pid 9) on pts/7",
    ),
    case(
        "script(1) has not made that terminal",
        [
            process(9, "sh x", terminal="pts/1"),
            process(8, "script -c x", session=800, terminal="pts/1"),
            INIT,
        ],
        "sh (pid 9) on pts/1",
    ),
    case(
        "another one has made that terminal",
        [process(9, "sh x", terminal="pts/7"), process(8, "sudo sh x"), INIT],
        "sh (pid 9) on pts/7",
    ),
    case(
        "script(1) has made it for another one",
        [
            process(9, "sh x", session=7, terminal="pts/7", foreground=True),
            process(8, "script -c x"),
            INIT,
        ],
        "sh (pid 9)",
    ),
    case(
        "somebody has started script(1)",
        [process(9, "sh x", terminal="pts/7"), process(8, "script -c x"), OUR_SHELL, INIT],
        "zsh (pid 800) on pts/1",
    ),
    case(
        "portfree run, of its session",
        [process(9, "portfree run -- make", session=2000), INIT],
        "portfree (pid 9)",
    ),
    case("a script called like an init", ["python init.py", INIT], "init (pid 9)"),
    case("busybox as supervisor", ["busybox runsvdir x", INIT], "runsvdir (pid 9)"),
]


@pytest.mark.parametrize(("lineage", "who"), LAUNCHERS)
def test_somebody_looks_after_it(lineage: list[Process], who: str) -> None:
    assert str(launcher(holder(SERVER, *lineage))) == who


FIRST_PROCESSES = [
    case("an app, of its session", 1, APP_AS_PID_1, "entrypoint (pid 1)"),
    case("a shell, of its session", 1, SHELL_AS_PID_1, "sh (pid 1)"),
    case("our session is not known", None, APP_AS_PID_1, "entrypoint (pid 1)"),
    case("its session is not known", 2000, process(1, "app", session=None), "app (pid 1)"),
    case(
        "a shell at a terminal (docker run -it), whatever the session",
        2000,
        SHELL_AT_A_TERMINAL_AS_PID_1,
        "bash (pid 1) on pts/0",
    ),
]


@pytest.mark.parametrize(("session", "first", "who"), FIRST_PROCESSES)
def test_in_a_container_the_first_process_may_look_after_it(
    session: int | None, first: Process, who: str
) -> None:
    assert str(launcher(holder(process(2000, session=session), first))) == who


OUT_OF_SIGHT = [
    case("docker exec", process(2000, ppid=0), [], "somebody outside of this container"),
    case(
        "docker exec sh",
        SERVER,
        [process(5, "sh -c server", ppid=0)],
        "somebody outside of this container",
    ),
    case("a hidden parent", process(2000, ppid=77), [], "cannot be seen (pid 77)"),
    case(
        "it has a terminal for itself",
        process(2000, session=2000, terminal="pts/4"),
        [INIT],
        "somebody at the terminal pts/4",
    ),
]


@pytest.mark.parametrize(("own", "lineage", "who"), OUT_OF_SIGHT)
def test_somebody_out_of_sight_looks_after_it(
    own: Process, lineage: list[Process], who: str
) -> None:
    found = launcher(holder(own, *lineage))

    assert found is not None
    assert found.process is None
    assert who in str(found)


def test_nobody_sits_at_the_terminal_that_script_has_made_for_the_server_itself() -> None:
    server = process(2000, terminal="pts/7")

    assert launcher(holder(server, "script -qc server", INIT)) is None
    assert launcher(holder(server, "sh x", INIT)) is not None


def test_a_terminal_that_is_still_open_proves_nothing() -> None:
    # The server of a killed pytest keeps the terminal of the shell that started pytest.
    server = process(2000, session=800, terminal="pts/1")

    assert launcher(holder(server, INIT)) is None


def test_a_launcher_without_a_text_is_named_by_its_process() -> None:
    assert str(Launcher(process(9, "nodemon x"))) == "nodemon (pid 9)"
    assert str(Launcher(None)) == "?"


def test_a_process_is_the_same_by_pid_and_start() -> None:
    assert same(SERVER, SERVER._replace(name="x"))
    assert not same(SERVER, SERVER._replace(start=1))
    assert not same(SERVER, SERVER._replace(pid=1))


RESTARTERS = [
    case("an orphan", [INIT], []),
    case("typed in a terminal", [OUR_SHELL, INIT], []),
    case("nodemon", ["nodemon x", OUR_SHELL, INIT], [9]),
    case("past wrappers", ["npm start", "pm2", "x", INIT], [9, 8]),
    case("tmux", ["tmux", INIT], []),
    case("wrappers alone", ["make dev", INIT], [9]),
    case("nobody in sight", [], []),
]


@pytest.mark.parametrize(("lineage", "pids"), RESTARTERS)
def test_who_may_start_it_again(lineage: list[Process], pids: list[int]) -> None:
    assert [found.pid for found in supervisors(holder(SERVER, *lineage))] == pids


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

    assert holder(SERVER, parent, INIT).test == IN_A_TEST["PYTEST_CURRENT_TEST"]
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
