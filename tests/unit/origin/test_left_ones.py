"""What the lineage of a holder proves: that it was adopted, or left behind with a mark."""

from __future__ import annotations

import pytest

from helpers.builders import case, holder
from helpers.plain_processes import INIT, THEIR_PYTEST, USER_MANAGER, fork, process
from helpers.scenes import APP_AS_PID_1, SERVER, marked
from portfree._core.ancestry import (
    Holder,
    bearer,
    is_adopted,
    is_copy,
    is_interactive,
    leads_terminal,
    left_at,
    was_left,
)
from portfree._system.interface import Process

IN_A_TEST = {"PYTEST_CURRENT_TEST": "tests/test_api.py::test_search (setup)"}


LEFT_ONES = [
    case("it was adopted itself", [marked(2000), INIT]),
    case("by systemd --user", [marked(2000), USER_MANAGER, INIT]),
    case("its master was adopted", [marked(2000), marked(9, "gunicorn app"), INIT]),
    case("its supervisor was adopted", [marked(2000), marked(9, "nodemon x"), INIT]),
    case(
        "somebody between has wiped the mark",
        [marked(2000), process(9, "app"), marked(8, "sh x.sh"), INIT],
    ),
    case("by pid 1 of a container", [marked(2000), APP_AS_PID_1]),
    case("its parent has ended (Windows)", [process(2000, marks=IN_A_TEST, ppid=None)]),
]


@pytest.mark.parametrize("chain", LEFT_ONES)
def test_it_was_left_behind(chain: list[Process]) -> None:
    assert was_left(holder(*chain), "PYTEST_CURRENT_TEST")


NOT_LEFT = [
    case("it bears no mark", [process(2000), INIT]),
    case("only its parent bears it", [process(2000), marked(9, "app"), INIT]),
    case("the one who set it lives", [marked(2000), process(9, "pytest"), INIT]),
    case(
        "its parent bears another value, and lives",
        [marked(2000), process(9, "app", marks={"PYTEST_CURRENT_TEST": "another"}), INIT],
    ),
    case("tmux between", [marked(2000), marked(9, "zsh"), marked(8, "tmux new"), INIT]),
    case("an editor between", [marked(2000), marked(8, "emacs --daemon"), INIT]),
    case("it is a multiplexer itself", [marked(2000, "screen -D"), INIT]),
    case(
        "a terminal between",
        [marked(2000), process(9, "bash", marks=IN_A_TEST, terminal="pts/3"), INIT],
    ),
    case(
        "it has a terminal for itself",
        [process(2000, marks=IN_A_TEST, session=2000, terminal="pts/3"), INIT],
    ),
    case("pid 1 has started it", [process(2000, marks=IN_A_TEST, session=1), APP_AS_PID_1]),
    case("its parent is outside", [process(2000, marks=IN_A_TEST, ppid=0)]),
    case("its parent cannot be seen", [process(2000, marks=IN_A_TEST, ppid=77)]),
]


@pytest.mark.parametrize("chain", NOT_LEFT)
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

    assert not was_left(holder(server, "portfree run -- x", INIT), "PORTFREE_RUN_ID")


WIPED = process(2000, environment="wiped")


BEARERS = [
    case("nobody", [process(2000), INIT], None),
    case("itself", [marked(2000), INIT], 0),
    case("its parent too", [marked(2000), marked(9), INIT], 1),
    case("and one above others", [marked(2000), process(9), marked(8), INIT], 2),
    case("only its parent, no wrapper", [process(2000), marked(9), INIT], None),
    case("only a wrapper above it", [process(2000), marked(9, "sh x"), INIT], 1),
    case("further up", [process(2000), process(9, "sh x"), marked(8, "env x"), INIT], 2),
    case(
        "above a wrapper that has it not, no wrapper",
        [process(2000), process(9, "sh x"), marked(8), INIT],
        None,
    ),
    case("it was wiped", [WIPED, marked(9), INIT], 1),
    case("wiped more than once", [WIPED, process(9, environment="wiped"), marked(8), INIT], 2),
    case("wiped, and its parent has it not", [WIPED, process(9), marked(8), INIT], None),
    case("wiped, and nobody has it", [WIPED, INIT], None),
    case("it cannot be read", [process(2000, environment="unreadable"), marked(9), INIT], 1),
    case(
        "its parent has another value",
        [process(2000, marks={"PYTEST_CURRENT_TEST": "b"}), marked(9), INIT],
        0,
    ),
    case(
        "a wrapper above it has another value",
        [process(2000, marks={"PYTEST_CURRENT_TEST": "b"}), marked(9, "sh x"), INIT],
        0,
    ),
    case(
        "the nearest value counts",
        [
            *(WIPED, process(9, marks={"PYTEST_CURRENT_TEST": "b"})),
            *(marked(8), process(7, marks={"PYTEST_CURRENT_TEST": "b"}), INIT),
        ],
        3,
    ),
    case("an empty one", [process(2000, marks={"PYTEST_CURRENT_TEST": ""}), INIT], None),
]


@pytest.mark.parametrize(("chain", "place"), BEARERS)
def test_the_topmost_bearer(chain: list[Process], place: int | None) -> None:
    assert bearer(holder(*chain), "PYTEST_CURRENT_TEST") == place


FORKED = fork(THEIR_PYTEST, 710)


LEFT_AT = [
    pytest.param([SERVER, INIT], 0, True, id="adopted"),
    pytest.param([SERVER, process(9, "app"), INIT], 0, False, id="started by somebody"),
    pytest.param([SERVER, process(9, "app"), INIT], 1, True, id="its parent was adopted"),
    pytest.param([process(2000, ppid=None)], 0, True, id="its parent has ended"),
    pytest.param([process(2000, ppid=9)], 0, False, id="its parent is out of sight"),
    pytest.param([SERVER, FORKED, INIT], 0, True, id="by a fork, which was adopted"),
    pytest.param([SERVER, FORKED, FORKED, INIT], 0, True, id="by way of two of them"),
    pytest.param(
        [SERVER, FORKED._replace(ppid=None)], 0, True, id="by a fork, whose parent has ended"
    ),
    pytest.param([SERVER, FORKED, THEIR_PYTEST, INIT], 0, False, id="by a fork of a live one"),
    pytest.param([SERVER, FORKED._replace(ppid=9)], 0, False, id="by a fork of one out of sight"),
    pytest.param(
        [SERVER, THEIR_PYTEST._replace(forked=None), INIT], 0, False, id="by no known fork"
    ),
    pytest.param([SERVER, process(9, "tmux"), INIT], 1, False, id="tmux was adopted"),
    pytest.param([SERVER, process(9, "tmux"), FORKED, INIT], 1, False, id="tmux, by a fork"),
    pytest.param(
        [process(2000, terminal="pts/5"), INIT], 0, False, id="with a terminal for itself"
    ),
]


@pytest.mark.parametrize(("chain", "at", "left"), LEFT_AT)
def test_who_was_left(chain: list[Process], at: int, *, left: bool) -> None:
    assert left_at(holder(*chain), at) is left


WERE_ADOPTED = [
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
]


@pytest.mark.parametrize(("chain", "at", "adopted"), WERE_ADOPTED)
def test_who_was_adopted(chain: list[Process], at: int, *, adopted: bool) -> None:
    assert is_adopted(holder(*chain), at) is adopted


AT_A_TERMINAL = process(2000, terminal="pts/5")
A_SHELL = process(9, "bash", terminal="pts/5")


SEATS = [
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
]


@pytest.mark.parametrize(("chain", "sits"), SEATS)
def test_where_somebody_may_sit(chain: list[Process], *, sits: bool) -> None:
    assert is_interactive(chain) is sits


def test_who_leads_a_terminal() -> None:
    assert leads_terminal(AT_A_TERMINAL)
    assert leads_terminal(AT_A_TERMINAL._replace(session=None))
    assert not leads_terminal(AT_A_TERMINAL._replace(session=9))
    assert not leads_terminal(SERVER)


LOOKALIKES = [
    pytest.param(FORKED, True, id="a fork of pytest"),
    pytest.param(fork(process(9, "gitlab-runner run"), 10), True, id="a fork of a CI agent"),
    pytest.param(fork(process(9, "python -m nox"), 10), True, id="a fork of nox"),
    pytest.param(fork(SERVER, 10), False, id="a fork of a server"),
    pytest.param(THEIR_PYTEST._replace(forked=False), False, id="pytest"),
    pytest.param(THEIR_PYTEST._replace(forked=None), False, id="pytest, as macOS tells it"),
]


@pytest.mark.parametrize(("found", "copied"), LOOKALIKES)
def test_what_only_looks_like_a_runner(found: Process, *, copied: bool) -> None:
    assert is_copy(found) is copied
