"""What a run, or a test, leaves behind: who is told, waited for and stopped, and who is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from helpers.builders import case, process, socket
from helpers.fake_system import FakeSystem
from portfree._core.context import Moment
from portfree._core.leaks import Place, find_leaks, is_ignored
from portfree.model import Ending, Leak, Port, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.fake_system import Actor

pytestmark = pytest.mark.usefixtures("project", "unmarked")

US = os.getpid()
RUN = f"{US}.1000.9f3c"
PORT = 43_211
OURS = {"PORTFREE_RUN_ID": RUN}


@pytest.fixture
def system() -> Iterator[FakeSystem]:
    system = FakeSystem()
    yield system
    assert system.misuses == []
    assert system.open_pins == []
    assert US not in {sent.process.pid for sent in system.signals}


def find(
    system: FakeSystem,
    *,
    place: Place | None = Place(),  # noqa: B008
    began: float | None = None,
    notices: list[str] | None = None,
    threads: bool = False,
    **asked: Any,
) -> tuple[Leak, ...]:
    """What is left of all that listens now."""
    return find_leaks(
        system,
        set(system.listeners()),
        known=(),
        request=Request((Port(8000),), **asked),
        moment=Moment("after", RUN, began),
        notify=([] if notices is None else notices).append,
        placing=lambda _holder, _socket, _context: place,
        threads=threads,
    )


def server(system: FakeSystem, port: int = PORT, name: str = "server", ppid: int = US) -> Actor:
    return system.server(port, name, ppid=ppid, marks=OURS)


# --- what is let alone ---------------------------------------------------------------------------

GRADLE = "java -Xmx64m -cp gradle.jar org.gradle.launcher.daemon.bootstrap.GradleDaemon 8.5"


@pytest.mark.parametrize(
    ("words", "command", "ignored"),
    [
        case("nothing", "", "server", 0),
        case("its port", "8000", "server", 1),
        case("another port", "8001", "server", 0),
        case("its range", "7990-8000", "server", 1),
        case("another range", "8001-8010", "server", 0),
        case("its port and protocol", "8000/tcp", "server", 1),
        case("the other protocol", "8000/udp", "server", 0),
        case("one of many", "epmd 5037 8000-8001", "server", 1),
        case("its name", "adb", "/opt/android/adb -L tcp:5037 fork-server server", 1),
        case("in another case", "ADB", "adb", 1),
        case("a name that only begins so", "adb", "adbd", 0),
        case("a word of its command", "server", "adb server", 0),
        case("a pattern", "ep?d", "/usr/bin/epmd -daemon", 1),
        case("all", "*", "server", 1),
        case("a script", "mock_api", "python tools/mock_api.py", 1),
        case("its interpreter", "python*", "python tools/mock_api.py", 1),
        case("a module", "http.server", "python -m http.server 8000", 1),
        case("a Java class", "GradleDaemon", GRADLE, 1),
        case("a pattern of one", "gradle*", GRADLE, 1),
        case("the same with its package", "org.gradle.*", GRADLE, 1),
        case("a part of its package", "launcher", GRADLE, 0),
        case("a program with a number", "8000x", "8000x", 1),
    ],
)
def test_ports_and_programs_may_be_left(words: str, command: str, ignored: int) -> None:
    assert is_ignored(socket(), process(command=command), words.split()) == bool(ignored)


def test_a_server_is_told_without_the_port_that_is_ignored(system: FakeSystem) -> None:
    system.listen(server(system), 5037)

    (leak,) = find(system, leaks_ignore=("5037",))
    assert leak.port == Port(PORT)
    assert find(system, leaks_ignore=("5037", str(PORT))) == ()


def test_where_there_is_a_place_it_is_told(system: FakeSystem) -> None:
    child = server(system)
    system.listen(child, PORT, address="::1")

    leaks = find(system, place=Place("test_x", "db (module)"))

    assert [(each.address, each.test, each.fixture, each.own) for each in leaks] == [
        ("127.0.0.1", "test_x", "db (module)", False),
        ("::1", "test_x", "db (module)", False),
    ]
    assert find(system, place=None) == ()


@pytest.mark.parametrize(
    "marks",
    [
        {"PORTFREE_KEEP": "1"},
        {"BUILD_ID": "dontKillMe"},
        {"JENKINS_NODE_COOKIE": "dontKillMe"},
        {"RUNNER_TRACKING_ID": ""},
    ],
)
def test_what_asks_to_stay_is_not_told(system: FakeSystem, marks: dict[str, str]) -> None:
    system.server(PORT, ppid=US, marks={**OURS, **marks})

    assert find(system) == ()


@pytest.mark.parametrize(
    ("ppid", "marks", "told"),
    [
        case("our child", US, {}, 1),
        case("adopted, with our id", 1, OURS, 1),
        case("adopted, of a run in ours that has ended", 1,
             {"PORTFREE_RUN_ID": f"{RUN}/77.500.aaaa"}, 1),
        case("adopted, without marks", 1, {}, 0),
        case("adopted, of another run", 1, {"PORTFREE_RUN_ID": "77.500.aaaa"}, 0),
    ],
)  # fmt: skip
def test_what_was_born_in_the_run_is_told(
    system: FakeSystem, ppid: int, marks: dict[str, str], told: int
) -> None:
    system.server(PORT, ppid=ppid, marks=marks)

    assert len(find(system)) == told


def test_a_server_with_workers_is_told_once(system: FakeSystem) -> None:
    master = server(system, name="gunicorn")
    for _ in range(3):
        system.fork(master)

    (leak,) = find(system)
    assert leak.holder.pid == master.pid


# --- the waiting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaks", "takes", "grace", "left"),
    [
        ("warn", 0.2, 3.0, 0),
        ("warn", 0.3, 3.0, 1),
        ("stop", 2.9, 3.0, 0),
        ("fail", 2.9, 3.0, 0),
        ("fail", 0.9, 1.0, 0),
        ("fail", 1.1, 1.0, 1),
    ],
)
def test_one_that_is_ending_gets_as_long_as_one_that_is_told_to(
    system: FakeSystem, leaks: str, takes: float, grace: float, left: int
) -> None:
    child = server(system)
    system.after(takes, child.end)

    assert len(find(system, leaks=leaks, grace=grace)) == left
    if not left:
        assert system.now() == pytest.approx(takes, abs=0.026)
        assert system.signals == []


def test_one_that_lives_on_without_its_socket_is_no_leak(system: FakeSystem) -> None:
    child = server(system)
    system.after(1.0, child.let_go)

    assert find(system, leaks="fail") == ()
    assert system.now() == pytest.approx(1.0, abs=0.026)
    assert child.alive


def test_of_two_sockets_the_one_that_stays_is_told(system: FakeSystem) -> None:
    child = server(system)
    system.after(0.1, child.let_go)
    system.after(0.1, lambda: system.listen(child, 43_212, id="stays"))
    system.listen(child, 43_212, id="stays")

    (leak,) = find(system)
    assert leak.port == Port(43_212)


def test_nothing_is_waited_for_where_nothing_is_left(system: FakeSystem) -> None:
    system.server(PORT)
    began = system.now()

    assert find(system, leaks="fail") == ()
    assert system.now() - began == pytest.approx(0.005)  # of the survey


def test_a_thread_of_ours_may_be_closing_its_listener(system: FakeSystem) -> None:
    id_ = system.listen(system.caller, PORT)
    system.after(2.0, lambda: system.kernel.pop(id_))

    assert find(system, leaks="fail", grace=3.0, threads=True) == ()


def test_our_own_servers_get_no_grace(system: FakeSystem) -> None:
    system.listen(system.caller, PORT)

    (leak,) = find(system, leaks="fail", grace=3.0)
    assert leak.own
    assert system.now() == pytest.approx(0.255)


@pytest.mark.parametrize(("takes", "until"), [(1.0, 1.0), (0.1, 0.255)])
def test_once_the_others_have_ended_ours_get_none_either(
    system: FakeSystem, takes: float, until: float
) -> None:
    system.listen(system.caller, PORT)
    child = server(system, 43_212)
    system.after(takes, child.end)

    (leak,) = find(system, leaks="fail", grace=3.0)

    assert leak.own
    assert system.now() == pytest.approx(until, abs=0.026)


def test_a_copy_of_the_test_process_gets_none_either(system: FakeSystem) -> None:
    system.listen(system.caller, PORT)
    child = system.fork(system.caller)

    (leak,) = find(system, leaks="fail")

    assert leak.own
    assert child.alive
    assert system.now() == pytest.approx(0.255)


# --- stopped or kept -----------------------------------------------------------------------------


@pytest.mark.parametrize("leaks", ["stop", "fail"])
def test_a_leak_is_stopped_where_that_is_asked_for(system: FakeSystem, leaks: str) -> None:
    child = server(system)

    (leak,) = find(system, leaks=leaks)

    assert leak.holder.ending == Ending("ended", ("SIGTERM",), 0.0)
    assert not child.alive
    assert [signal for signal, _ in system.sent(child)] == ["TERM"]


@pytest.mark.parametrize("asked", [{"leaks": "warn"}, {"leaks": "stop", "dry_run": True}])
def test_otherwise_nothing_is_touched(system: FakeSystem, asked: dict[str, Any]) -> None:
    child = server(system)

    (leak,) = find(system, **asked)

    assert leak.holder.ending is None
    assert child.alive
    assert system.signals == []


def test_what_cannot_be_pinned_is_told_and_kept(system: FakeSystem) -> None:
    child = server(system)
    child.unpinnable = PermissionError()

    (leak,) = find(system, leaks="stop")

    assert leak.holder.ending is None
    assert child.alive


def test_a_server_that_ends_late_is_told_as_it_is(system: FakeSystem) -> None:
    child = server(system)
    child.ignores("TERM", "INT")

    (leak,) = find(system, leaks="stop", grace=1.0)

    assert leak.holder.ending is not None
    assert leak.holder.ending.signals[0] == "SIGTERM"


def test_that_one_takes_its_time_is_said_once(system: FakeSystem) -> None:
    notices: list[str] = []
    slow, quick = server(system), server(system, 43_212)
    slow.ignores("TERM").takes(INT=1.0)

    find(system, leaks="stop", notices=notices)

    assert not slow.alive
    assert not quick.alive
    (notice,) = notices
    assert notice.startswith(f"waiting for server (pid {slow.pid}) to let go of ")


def outsider(system: FakeSystem) -> Actor:
    """A person's program, which has nothing to do with the run."""
    return system.start("studio", ppid=system.shell.pid, argv=("studio",))


def connect(system: FakeSystem, client: Actor, server: Actor) -> None:
    port = next(system.kernel[id_].port for id_ in server.holds)
    system.listen(server, port, state="connected", peer="127.0.0.1:40000")
    system.connected[server.pid] = {client.pid}


def test_what_it_is_connected_to_itself_does_not_use_it(system: FakeSystem) -> None:
    api, postgres = server(system), outsider(system)
    system.connected[api.pid] = {postgres.pid}

    find(system, leaks="stop")

    assert not api.alive


def test_one_that_others_use_by_now_is_kept(system: FakeSystem) -> None:
    adb, studio = server(system, name="adb"), outsider(system)
    connect(system, studio, adb)

    (leak,) = find(system, leaks="fail")

    assert adb.alive
    assert system.signals == []
    assert leak.holder.verdict[:3] == (
        "keep",
        "attended",
        f"studio (pid {studio.pid}) uses it by now",
    )


def test_one_whose_worker_others_use_is_kept_as_a_whole(system: FakeSystem) -> None:
    master, studio = server(system, name="gunicorn"), outsider(system)
    worker = system.fork(master)
    connect(system, studio, worker)

    (leak,) = find(system, leaks="stop")

    assert master.alive
    assert worker.alive
    assert system.signals == []
    assert leak.holder.pid == master.pid
    assert leak.holder.verdict.rule == "attended"


def test_that_another_server_is_used_keeps_only_that_one(system: FakeSystem) -> None:
    adb, api, studio = server(system, name="adb"), server(system, 43_212), outsider(system)
    connect(system, studio, adb)

    find(system, leaks="stop")

    assert adb.alive
    assert not api.alive


@pytest.mark.parametrize("who", ["us", "our child", "its child", "of the run", "ended"])
def test_the_run_itself_is_no_other_user(system: FakeSystem, who: str) -> None:
    child = server(system)
    user = {
        "us": lambda: system.caller,
        "our child": lambda: system.start("client", ppid=US),
        "its child": lambda: system.start("client", ppid=child.pid),
        "of the run": lambda: system.start("client", marks=OURS, leads=True),
        "ended": lambda: outsider(system),
    }[who]()
    connect(system, user, child)
    if who == "ended":
        user.end()

    find(system, leaks="stop")

    assert not child.alive


def test_that_one_came_up_meanwhile_is_no_proof(system: FakeSystem) -> None:
    daemon = system.start("daemon", environment="wiped", leads=True)
    system.listen(daemon, PORT)

    (leak,) = find(system, leaks="stop", began=1000.0)

    assert leak.holder.origin is not None
    assert leak.holder.origin.evidence == "arrival"
    assert daemon.alive
    assert find(system, leaks="stop") == ()
