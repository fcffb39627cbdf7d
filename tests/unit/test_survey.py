"""Who holds a port: what two looks at a machine that goes on between them amount to."""

from __future__ import annotations

import os
import pwd
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.fake_system import LOOK, Actor, FakeSystem, call, entry, only, system, unmarked
from portfree._core.ports import Port
from portfree._core.survey import Reader, context_for, project_of, survey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from portfree._core.survey import Survey

__all__ = ["system", "unmarked"]

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
        assert seen.pin(seen.holders[0]) in system.open_pins


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
        assert seen.pin(seen.holders[0]) is None


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
        assert seen.pin(seen.holders[0]) is None


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


# Who asks


def test_the_caller_is_this_process_with_the_environment_that_it_has_now(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFREE_RUN_ID", "1.2.ab/3.4.cd")
    monkeypatch.setenv("CI_JOB_ID", "77")
    found = context_for(system, (), scope="any", phase="after", ending="3.4.cd")
    assert found.caller.pid == os.getpid()
    assert [p.name for p in found.lineage] == ["zsh", "systemd"]
    assert found.run == ("1.2.ab", "3.4.cd")
    assert found.jobs == {"CI_JOB_ID": "77"}
    assert (found.scope, found.phase, found.ending) == ("any", "after", "3.4.cd")


def test_what_sudo_has_wiped_is_read_from_our_ancestors(system: FakeSystem) -> None:
    agent = system.start("sudo", marks={"CI_JOB_ID": "77", "PORTFREE_RUN_ID": "1.2.ab"})
    system.start("portfree", pid=os.getpid(), ppid=agent.pid)
    found = context_for(system, (), scope="mine", phase="call")
    assert found.run == ("1.2.ab",)
    assert found.jobs == {"CI_JOB_ID": "77"}


def test_a_caller_that_cannot_see_itself_owns_nothing(system: FakeSystem) -> None:
    del system.actors[os.getpid()]
    server = system.server()
    report = call(system, scope="any")
    assert entry(report, server).verdict.rule == "other-user"
    assert system.signals == []


@pytest.mark.parametrize(
    ("privileged", "value", "owners"),
    [
        (True, "1234", {1234}),
        (True, "0", {0}),
        (True, "", {0}),
        (True, "me", {0}),
        (True, "-1", {0}),
        (True, "²", {0}),
        (False, "1234", {1000}),
    ],
)
def test_only_root_may_act_for_who_called_sudo(
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    owners: set[int],
    *,
    privileged: bool,
) -> None:
    system = FakeSystem(privileged=privileged, uid=0 if privileged else 1000)
    monkeypatch.setenv("SUDO_UID", value)
    assert context_for(system, (), scope="mine", phase="call").owners == owners


# Our project


def test_the_project_is_the_repository_and_without_one_the_nearest_pyproject(
    tmp_path: Path,
) -> None:
    inner = tmp_path / "repo" / "pkg" / "src"
    inner.mkdir(parents=True)
    assert project_of(str(inner)) is None
    (tmp_path / "repo" / "pyproject.toml").touch()
    (tmp_path / "repo" / "pkg" / "pyproject.toml").touch()
    assert project_of(str(inner)) == str(tmp_path / "repo" / "pkg")
    assert project_of(str(tmp_path / "repo")) == str(tmp_path / "repo")
    (tmp_path / "repo" / ".git").mkdir()  # a monorepo: its packages are one project
    assert project_of(str(inner)) == str(tmp_path / "repo")
    (inner / ".git").touch()  # that of a worktree or a submodule is a file
    assert project_of(str(inner)) == str(inner)


@pytest.mark.parametrize("folder", [None, "/", "/proc/self", "/no/such/folder"])
def test_these_folders_are_in_no_project(folder: str | None) -> None:
    assert project_of(folder) is None


def test_a_home_directory_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "shop").mkdir(parents=True)
    (home / ".git").mkdir()  # dotfiles
    assert project_of(str(home / "shop")) == str(home)
    monkeypatch.setenv("HOME", str(home))
    assert project_of(str(home / "shop")) is None


@pytest.mark.parametrize("of", ["us", "who called sudo"])
def test_it_is_none_either_where_home_names_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    home = tmp_path / "home"
    (home / "shop").mkdir(parents=True)
    (home / ".git").mkdir()
    uid = os.getuid() if of == "us" else 54_321

    def entry_of(asked: int) -> pwd.struct_passwd:
        if asked != uid:
            raise KeyError(asked)
        return pwd.struct_passwd(("me", "x", uid, uid, "", str(home), "/bin/sh"))

    monkeypatch.setattr(pwd, "getpwuid", entry_of)
    monkeypatch.setenv("HOME", str(tmp_path / "another"))
    if of == "who called sudo":
        assert project_of(str(home / "shop")) == str(home)
        monkeypatch.setenv("SUDO_UID", str(uid))
    assert project_of(str(home / "shop")) is None


def test_windows_has_no_list_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pwd", None)
    (tmp_path / ".git").mkdir()
    assert project_of(str(tmp_path)) == str(tmp_path)


def test_without_any_home_there_is_still_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(asked: int) -> pwd.struct_passwd:
        raise KeyError(asked)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME")
    (tmp_path / ".git").mkdir()
    assert project_of(str(tmp_path)) == str(tmp_path)


def test_a_folder_that_we_may_not_look_into_is_in_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server that has dropped its privileges may stand where we cannot go.
    def refuse(path: str | Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        found = project_of(str(tmp_path / "secret"))
    assert found is None


def test_a_directory_that_was_deleted_under_us_is_no_project(
    system: FakeSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert context_for(system, (), scope="orphans", phase="call").project is None


# Neighbours


def neighbours(system: FakeSystem) -> list[str]:
    with survey(system, PORTS) as seen:
        found = context_for(system, seen.holders, scope="orphans", phase="call").neighbours
        return [neighbour.process.name for neighbour in found]


def test_runners_agents_and_jobs_are_neighbours(system: FakeSystem) -> None:
    system.start("pytest", ppid=system.shell.pid)
    system.start("Runner.Worker")
    system.start("job", marks={"CI_JOB_ID": "7"})
    system.start("vim")
    zombie = system.start("nox")
    zombie.reaped = False
    zombie.end()
    system.server(marks={"PYTEST_VERSION": "9"})
    assert sorted(neighbours(system)) == ["Runner.Worker", "job", "pytest"]


def test_we_and_our_ancestors_are_no_neighbours(system: FakeSystem) -> None:
    nox = system.start("nox", ppid=system.shell.pid)
    system.start("pytest", pid=os.getpid(), ppid=nox.pid)
    system.server(marks={"PYTEST_VERSION": "9"})
    assert neighbours(system) == []


def test_nobody_looks_around_for_a_holder_that_no_mark_tells_of(system: FakeSystem) -> None:
    system.start("pytest")
    system.server()
    # As for everybody but root: that a mark of an ancestor could not be read changes no verdict.
    first = system.actors[1]
    first.process = first.process._replace(complete=False)
    assert neighbours(system) == []
    assert "pids" not in system.asked


def test_who_may_bear_a_mark_is_looked_around_for(system: FakeSystem) -> None:
    system.start("pytest")
    server = system.server()
    server.process = server.process._replace(complete=False)
    assert neighbours(system) == ["pytest"]


def test_a_mark_of_an_ancestor_counts_where_its_own_were_wiped(
    system: FakeSystem, project: Path
) -> None:
    # A live pytest has made a daemon of `sh -c "env -i server"`, and works in our project.
    runner = system.start("pytest", ppid=system.shell.pid, cwd=str(project))
    shell = system.start("sh", cwd=str(project), marks={"PYTEST_VERSION": "9"}, leads=True)
    server = system.server(ppid=shell.pid, cwd=str(project))

    report = call(system, scope="orphans")

    assert system.signals == []
    assert entry(report, server).verdict.rule == "live-run"
    assert str(runner.pid) in entry(report, server).verdict.reason


def test_the_project_of_a_neighbour_is_known(system: FakeSystem, project: Path) -> None:
    system.start("pytest", cwd=str(project / "sub"))
    system.server(marks={"PYTEST_VERSION": "9"})
    with survey(system, PORTS) as seen:
        found = context_for(system, seen.holders, scope="orphans", phase="call").neighbours
    assert [neighbour.project for neighbour in found] == [str(project)]


# The main service of our container


def in_container(first: str, *, entered: bool) -> FakeSystem:
    """A container with that program as its first process; we came by docker exec, or from it."""
    system = FakeSystem()
    system.actors.clear()
    system.init = system.start(first, pid=1, ppid=0, argv=(first,))
    shell = system.start("bash", ppid=0 if entered else 1, leads=True)
    system.caller = system.start("pytest", pid=os.getpid(), ppid=shell.pid)
    return system


def main_service(system: FakeSystem) -> set[int]:
    with survey(system, PORTS) as seen:
        found = context_for(system, seen.holders, scope="mine", phase="call")
        return set(found.main_service)


def test_under_an_init_its_oldest_child_is_the_main_service() -> None:
    system = in_container("tini", entered=True)
    main, _ = system.server(), system.start("orphan", start=2_000, leads=True)
    assert main_service(system) == {main.pid}
    report = call(system, scope="any")
    assert entry(report, main).verdict.rule == "container"
    assert system.signals == []


def test_under_a_shell_the_children_in_its_session_are_the_main_service() -> None:
    system = in_container("sh", entered=True)
    main = system.start("server", session=system.init.process.session)
    system.listen(main)
    orphan = system.server(8001)
    assert main_service(system) == {main.pid}
    assert orphan.process.session != system.init.process.session


def test_if_the_first_process_is_hidden_every_child_of_it_may_be_the_one() -> None:
    system = in_container("tini", entered=True)
    main, other = system.server(), system.start("other", leads=True)
    del system.actors[1]
    assert main_service(system) == {main.pid, other.pid}


def test_who_descends_from_the_first_process_knows_no_main_service() -> None:
    system = in_container("tini", entered=False)
    system.server()
    assert main_service(system) == set()


def test_on_a_plain_machine_there_is_no_main_service(system: FakeSystem) -> None:
    system.server()
    assert main_service(system) == set()


def test_the_first_process_itself_may_call() -> None:
    system = FakeSystem()
    system.actors.clear()
    system.start("systemd", pid=1, ppid=0)
    system.start("portfree", pid=os.getpid(), ppid=1)
    server = system.server(cwd="/")
    report = call(system, scope="mine")
    assert only(report).status == "freed"
    assert entry(report, server).verdict.rule == "mine"
