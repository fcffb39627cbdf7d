"""Who asks: the context of a call, on a machine in memory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.fake_system import FakeSystem, call, entry, only
from portfree._core.caller import context_for
from portfree._core.context import Moment
from portfree._core.reading import project_of
from portfree._core.survey import survey
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from portfree._core.survey import Survey

pytestmark = pytest.mark.usefixtures("project", "unmarked")

PORTS = [Port(8000)]


@pytest.fixture(autouse=True)
def _every_pin_is_closed(system: FakeSystem) -> Iterator[None]:
    yield
    assert system.open_pins == []


def pids(seen: Survey) -> list[int]:
    return [holder.pid for holder in seen.holders]


# Who asks


def test_the_caller_is_this_process_with_the_environment_that_it_has_now(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFREE_RUN_ID", "1.2.ab/3.4.cd")
    monkeypatch.setenv("CI_JOB_ID", "77")
    found = context_for(system, (), scope="any", moment=Moment("after", "3.4.cd"))
    assert found.caller.pid == os.getpid()
    assert [p.name for p in found.lineage] == ["zsh", "systemd"]
    assert found.run == ("1.2.ab",)
    assert found.jobs == {"CI_JOB_ID": "77"}
    assert (found.scope, found.phase, found.ending) == ("any", "after", "3.4.cd")


@pytest.mark.parametrize(
    ("ours", "run"),
    [("1.2.ab/3.4.cd", "1.2.ab"), ("3.4.cd", "5.6.ef"), ("", "5.6.ef"), ("7.8.0a", "7.8.0a")],
)
def test_the_run_around_the_one_that_is_looked_at(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch, ours: str, run: str
) -> None:
    """Before its end its id is in the environment still, and may stand there alone."""
    shell = system.shell
    shell.process = shell.process._replace(marks={"PORTFREE_RUN_ID": "5.6.ef"})
    if ours:
        monkeypatch.setenv("PORTFREE_RUN_ID", ours)
    found = context_for(system, (), scope="orphans", moment=Moment("after", "3.4.cd"))
    assert found.run == (run,)


def test_what_sudo_has_wiped_is_read_from_our_ancestors(system: FakeSystem) -> None:
    agent = system.start("sudo", marks={"CI_JOB_ID": "77", "PORTFREE_RUN_ID": "1.2.ab"})
    system.start("portfree", pid=os.getpid(), ppid=agent.pid)
    found = context_for(system, (), scope="mine", moment=Moment())
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
    assert context_for(system, (), scope="mine", moment=Moment()).owners == owners


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
    pwd = pytest.importorskip("pwd")
    home = tmp_path / "home"
    (home / "shop").mkdir(parents=True)
    (home / ".git").mkdir()
    uid = os.getuid() if of == "us" else 54_321

    def entry_of(asked: int) -> object:
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
    pwd = pytest.importorskip("pwd")

    def nobody(asked: int) -> object:
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
    assert context_for(system, (), scope="orphans", moment=Moment()).project is None


# Neighbours


def neighbours(system: FakeSystem) -> list[str]:
    with survey(system, PORTS) as seen:
        found = context_for(system, seen.holders, scope="orphans", moment=Moment()).neighbours
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
        found = context_for(system, seen.holders, scope="orphans", moment=Moment()).neighbours
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
        found = context_for(system, seen.holders, scope="mine", moment=Moment())
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
