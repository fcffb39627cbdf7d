"""Who holds a port: what two looks at a machine that goes on between them amount to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.fake_system import LOOK, Actor, FakeSystem
from portfree._core.reading import Reader
from portfree._core.survey import survey
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portfree._core.survey import Survey

pytestmark = pytest.mark.usefixtures("project", "unmarked")

PORTS = [Port(8000)]


@pytest.fixture(autouse=True)
def _every_pin_is_closed(system: FakeSystem) -> Iterator[None]:
    yield
    assert system.open_pins == []


def pids(seen: Survey) -> list[int]:
    return [holder.pid for holder in seen.holders]


# Belief


def test_nobody_on_the_port_costs_one_question(system: FakeSystem) -> None:
    with survey(system, PORTS) as seen:
        assert not seen.sockets
        assert not seen.holders
    assert system.asked == {"sockets": 1}


def test_a_holder_is_believed_if_its_socket_is_still_there_5_ms_later(system: FakeSystem) -> None:
    server = system.server()
    with survey(system, PORTS) as seen:
        assert system.now() == LOOK
        assert pids(seen) == [server.pid]
        assert seen.suspects[0].pin in system.open_pins


@pytest.mark.parametrize(("lasts", "believed"), [(0.049, False), (0.051, True)])
def test_a_probe_of_another_program_is_gone_by_then(
    system: FakeSystem, lasts: float, *, believed: bool
) -> None:
    system.probe(8000, lasts=lasts)
    with survey(system, PORTS) as seen:
        assert bool(seen.holders) == bool(seen.sockets) == believed
        assert system.pins_made == believed


@pytest.mark.parametrize(("lasts", "believed"), [(0.051, False), (0.48, False), (0.52, True)])
def test_a_probe_that_has_lost_its_turn_is_given_more_time(
    system: FakeSystem, lasts: float, *, believed: bool
) -> None:
    system.probe(8000, lasts=lasts, running=True)
    with survey(system, PORTS) as seen:
        assert bool(seen.holders) == believed
        assert system.now() < 0.52


def test_who_has_had_its_turn_and_still_has_the_port_is_believed(system: FakeSystem) -> None:
    bound = system.start("bound")
    system.listen(bound, 8000, state="bound")
    bound.process = bound.process._replace(running=True)

    def has_its_turn() -> None:
        bound.process = bound.process._replace(running=False)

    system.after(0.1, has_its_turn)
    with survey(system, PORTS) as seen:
        assert pids(seen) == [bound.pid]
        assert 0.1 <= system.now() < 0.12


def test_a_listener_that_runs_is_no_probe(system: FakeSystem) -> None:
    server = system.server()
    server.process = server.process._replace(running=True)
    with survey(system, PORTS) as seen:
        assert system.now() == LOOK
        assert pids(seen) == [server.pid]


def test_no_time_is_lost_where_the_look_itself_took_that_long(system: FakeSystem) -> None:
    server = system.server()
    system.after_call["owners"] = lambda: system.wait((), 0.2)  # a slow machine
    with survey(system, PORTS) as seen:
        assert system.now() == 0.2
        assert pids(seen) == [server.pid]


def test_a_socket_of_another_port_is_not_the_holders(system: FakeSystem) -> None:
    server = system.server(8000)
    system.listen(server, 9000)
    system.server(18000)
    with survey(system, PORTS) as seen:
        assert [holder.ports for holder in seen.holders] == [{Port(8000)}]
        assert pids(seen) == [server.pid]


def test_tcp_and_udp_are_two_ports(system: FakeSystem) -> None:
    tcp = system.server(8000)
    udp = system.start("udp")
    system.listen(udp, Port(8000, "udp"), state="bound")
    with survey(system, PORTS) as seen:
        assert pids(seen) == [tcp.pid]
    with survey(system, [Port(8000, "udp")]) as seen:
        assert pids(seen) == [udp.pid]


def test_a_client_is_no_holder(system: FakeSystem) -> None:
    client = system.start("client")
    system.listen(client, 8000, state="connected", peer="192.0.2.7:443")
    with survey(system, PORTS) as seen:
        assert seen.sockets == ()


# Owners that go, come and cannot be seen


def test_a_server_that_ends_while_we_look_is_no_hidden_one(system: FakeSystem) -> None:
    server = system.server()
    system.after_call["owners"] = server.end
    with survey(system, PORTS) as seen:
        assert not seen.sockets
        assert not seen.holders


def test_the_second_look_finds_a_socket_that_was_handed_on(system: FakeSystem) -> None:
    # It forks and ends, as whoever makes a daemon of itself does, between the looks at the two.
    old, new = system.server(), system.start("daemon", ppid=1)
    sockets = set(old.holds)
    system.lasting |= sockets

    def hand_on() -> None:
        old.end()
        new.holds |= sockets

    system.after_call["owners"] = hand_on
    with survey(system, PORTS) as seen:
        assert pids(seen) == [new.pid]
        assert seen.unowned(Port(8000)) == []


def test_a_socket_that_nobody_has_open_is_unowned(system: FakeSystem) -> None:
    server = system.server()
    server.hidden = True
    with survey(system, PORTS) as seen:
        assert pids(seen) == []
        assert seen.unreadable == 1
        assert [socket.uid for socket in seen.unowned(Port(8000))] == [system.uid]
        assert seen.unowned(Port(9000)) == []


def test_a_docker_proxy_is_known_by_its_command_line(system: FakeSystem) -> None:
    # Who is not root sees root's docker-proxy, and not what it has open.
    def proxy(address: str, port: int = 8000, owner: int = 0) -> Actor:
        said = ("-proto", "tcp", "-host-ip", address, "-host-port", str(port))
        return system.start("docker-proxy", argv=("/usr/bin/docker-proxy", *said), owner=owner)

    behind = proxy("127.0.0.1")
    system.listen(behind, 8000)
    behind.hidden = True
    system.outputs["docker", "publish=8000/tcp"] = "shop-web-1\tnginx"
    proxy("127.0.0.2")
    proxy("127.0.0.1", 8001)
    proxy("127.0.0.1", owner=system.uid)  # anybody can say so of himself
    with survey(system, PORTS) as seen:
        assert [(holder.pid, holder.engine) for holder in seen.holders] == [
            (behind.pid, "shop-web-1 (image nginx)")
        ]
        assert seen.unowned(Port(8000)) == []
        assert seen.suspects[0].pin is None


def test_a_zombie_holds_nothing(system: FakeSystem) -> None:
    server = system.server()
    system.lasting |= server.holds
    sockets = set(server.holds)
    server.reaped = False
    server.end()
    server.holds = sockets
    with survey(system, PORTS) as seen:
        assert pids(seen) == []


def test_a_holder_that_cannot_be_pinned_is_there_and_unpinned(system: FakeSystem) -> None:
    server = system.server()
    server.unpinnable = OSError(24, "Too many open files")
    with survey(system, PORTS) as seen:
        assert [(h.pid, h.pinned) for h in seen.holders] == [(server.pid, False)]
        assert seen.suspects[0].pin is None


def test_a_pid_that_was_recycled_before_it_was_pinned_is_nobody(system: FakeSystem) -> None:
    server = system.server()
    system.after_call["process"] = lambda: system.recycle(server)
    with survey(system, PORTS) as seen:
        assert pids(seen) == []


def test_pins_are_closed_if_the_look_fails_halfway(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.server()
    system.server()

    def interrupted(_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(system, "user", interrupted)
    with pytest.raises(KeyboardInterrupt):
        survey(system, PORTS)
    assert system.pins_made == 1


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_system_that_lists_nothing_shows_nobody(system: FakeSystem, when: str) -> None:
    system.server()
    error = OSError(24, "Too many open files")
    if when == "at once":
        system.fails["sockets"] = error
    else:
        system.after_call["owners"] = lambda: system.fails.update(sockets=error)
    with survey(system, PORTS) as seen:
        assert not seen.sockets
        assert not seen.holders


def test_whoever_shares_a_socket_is_a_holder_of_it(system: FakeSystem) -> None:
    master = system.server()
    workers = [system.fork(master) for _ in range(3)]
    with survey(system, PORTS) as seen:
        assert pids(seen) == [master.pid, *(w.pid for w in workers)]
        assert len({holder.sockets for holder in seen.holders}) == 1
        assert all(holder.descends_from(master.process) for holder in seen.holders[1:])


def test_a_container_engine_is_asked_what_is_behind_the_port(system: FakeSystem) -> None:
    system.server(8000, "docker-proxy")
    system.server(8000)
    system.listen(system.start("httpd", container="f00d" * 16))
    for asked in ("publish=8000/tcp", f"id={'f00d' * 16}"):
        system.outputs["docker", asked] = f"{asked[:2]}-1\tnginx"
    with survey(system, PORTS) as seen:
        engines = [holder.engine for holder in seen.holders]
    assert engines == ["pu-1 (image nginx)", "", "id-1 (image nginx)"]


def test_the_runs_of_a_holder_are_asked_whether_they_live(system: FakeSystem) -> None:
    controller = system.start("pytest")
    alive = f"{controller.pid}.{controller.process.start}.abcd"
    dead = f"{controller.pid}.1.abcd"
    system.server(marks={"PORTFREE_RUN_ID": f"{alive}/{dead}"})
    with survey(system, PORTS) as seen:
        assert seen.holders[0].live_runs == {alive}


# Lineage


def lineage(system: FakeSystem, server_process: Actor) -> list[str]:
    _, ancestors = Reader(system).lineage(server_process.process)
    return [process.name for process in ancestors]


def test_the_ancestors_come_parent_first(system: FakeSystem) -> None:
    grandparent = system.start("zsh")
    parent = system.start("npm", ppid=grandparent.pid)
    server = system.server(ppid=parent.pid)
    assert lineage(system, server) == ["npm", "zsh", "systemd"]


def test_a_parent_outside_of_our_namespace_ends_the_lineage(system: FakeSystem) -> None:
    assert lineage(system, system.server(ppid=0)) == []


def test_a_hidden_parent_ends_the_lineage_and_is_not_taken_for_gone(system: FakeSystem) -> None:
    server = system.server(ppid=499)  # hidepid: nothing is shown of it
    process, ancestors = Reader(system).lineage(server.process)
    assert ancestors == ()
    assert process.ppid == 499


def test_a_child_that_is_adopted_while_we_look_is_looked_at_again(system: FakeSystem) -> None:
    parent = system.start("npm", ppid=system.shell.pid)
    server = system.server(ppid=parent.pid)
    before = server.process
    parent.end()
    process, ancestors = Reader(system).lineage(before)
    assert (before.ppid, process.ppid) == (parent.pid, 1)
    assert [p.name for p in ancestors] == ["systemd"]


def test_so_is_an_ancestor_that_is_adopted_while_we_look(system: FakeSystem) -> None:
    grandparent = system.start("make", ppid=system.shell.pid)
    parent = system.start("sh", ppid=grandparent.pid)
    server = system.server(ppid=parent.pid)
    system.after_call["process"] = grandparent.end  # after sh was read, before make is
    process, ancestors = Reader(system).lineage(server.process)
    assert process == server.process
    assert [(p.name, p.ppid) for p in ancestors] == [("sh", 1), ("systemd", 0)]


def test_a_pid_that_was_recycled_in_the_lineage_is_no_parent(system: FakeSystem) -> None:
    parent = system.start("npm", ppid=system.shell.pid)
    server = system.server(ppid=parent.pid)
    before = server.process
    stranger = system.recycle(parent)
    process, ancestors = Reader(system).lineage(before)
    assert stranger.pid == before.ppid
    assert process.ppid == 1
    assert [p.name for p in ancestors] == ["systemd"]


def test_a_younger_parent_that_stays_is_not_believed(system: FakeSystem) -> None:
    parent = system.start("npm", start=5_000)
    server = system.server(ppid=parent.pid)
    assert lineage(system, server) == []


def test_the_first_process_may_be_the_youngest(system: FakeSystem) -> None:
    # Ticks may differ in a time namespace of its own.
    system.init.process = system.init.process._replace(start=9_999)
    assert lineage(system, system.server()) == ["systemd"]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_circle_of_parents_ends(system: FakeSystem, length: int) -> None:
    # Windows keeps naming parents that have ended, and their pids come back.
    first = 700
    circle = [
        system.start(f"p{at}", pid=first + at, ppid=first + (at + 1) % length)
        for at in range(length)
    ]
    assert len(lineage(system, circle[0])) == length - 1
