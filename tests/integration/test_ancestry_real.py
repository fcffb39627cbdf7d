"""Whose a server is: each rule of the decision table with real processes around it."""

from __future__ import annotations

import os
import shlex
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    Processes,
    holder,
    launch,
    needs_program,
    one_backend,
    only,
    rules,
    tcp,
    wait_until,
)
from portfree import free_ports

if TYPE_CHECKING:
    from portfree.model import Scope

pytestmark = pytest.mark.usefixtures("backend", "project")


# self: the caller and its ancestors


def test_the_caller_itself_is_kept(processes: Processes) -> None:
    port = processes.free_port()
    with socket.create_server(("127.0.0.1", port)):
        outcome = only(free_ports(port, scope="any"))

    (found,) = outcome.holders
    assert found.pid == os.getpid()
    assert (found.verdict.action, found.verdict.rule) == ("keep", "self")
    assert outcome.status == "busy"


@pytest.mark.parametrize("handed_down", [False, True])
def test_an_ancestor_is_kept(processes: Processes, project: Path, *, handed_down: bool) -> None:
    port = processes.free_port()
    flags = ["--hand-down"] if handed_down else []

    report = processes.call(
        port, cwd=project, scope="any", prefix=tcp(port, *flags, "--run", "--")
    ).report()

    outcome = only(report)
    assert outcome.status == "busy"
    assert set(rules(outcome).values()) == {"self"}
    assert len(outcome.holders) == (2 if handed_down else 1)


@one_backend
def test_a_sibling_that_shares_an_ancestors_socket_is_kept(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    # As in a prefork server, one of whose workers asks for the port to be freed.
    worker = ["sh", "-c", 'sleep 1000 & "$@"; kill $!', "sh"]

    report = processes.call(
        port,
        cwd=project,
        scope="any",
        prefix=[*tcp(port, "--hand-down", "--run", "--"), *worker],
    ).report()

    outcome = only(report)
    assert outcome.status == "busy"
    assert len(outcome.holders) == 4  # the server, the shell, its sleep, and the caller
    assert {each.verdict.action for each in outcome.holders} == {"keep"}


# own-run: what we have started ourselves


def test_our_own_child_is_stopped(processes: Processes, elsewhere: Path) -> None:
    port = processes.free_port()
    server = processes.child(tcp(port), cwd=elsewhere)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, server).verdict.rule == "own-run"
    assert not server.alive


@one_backend
def test_our_own_grandchild_is_stopped(processes: Processes, elsewhere: Path) -> None:
    port = processes.free_port()
    shell = processes.child(["sh", "-c", f"{shlex.join(tcp(port))}; true"], cwd=elsewhere)
    server = shell.server

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert rules(outcome) == {server.pid: "own-run"}


@one_backend
def test_the_child_of_another_is_kept(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.child(tcp(port), cwd=project)

    outcome = only(processes.call(port, cwd=project).report())

    assert outcome.status == "busy"
    # Its parent is this very pytest, which is an ancestor of the caller as well: alive it is.
    assert holder(outcome, server).verdict.action == "keep"
    assert server.alive


# orphan and attended: whether a program looks after it


@one_backend
@needs_program("setsid")
def test_an_orphan_that_stayed_in_our_session(processes: Processes, project: Path) -> None:
    # A session of their own: that of this test run may be the one of a pid 1 that is no init.
    port = processes.free_port()
    server = shlex.join(launch("adopted", tcp(port)))
    wait = f"until grep -q :{port:04X} /proc/net/tcp; do sleep 0.01; done"
    prefix = ["setsid", "--wait", "sh", "-c", f'{server} >&2\n{wait}\nexec "$@"', "sh"]

    outcome = only(processes.call(port, cwd=project, prefix=prefix).report())

    assert outcome.status == "freed"
    assert [each.verdict.rule for each in outcome.holders] == ["orphan"]


def test_a_server_that_a_living_program_started(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port), cwd=project)
    assert server.launcher is not None

    outcome = only(free_ports(port))

    assert outcome.status == "busy"
    found = holder(outcome, server)
    assert (found.verdict.action, found.verdict.rule) == ("keep", "attended")
    assert str(server.launcher.pid) in found.launcher
    assert str(server.launcher.pid) in found.verdict.reason
    assert server.alive


@pytest.mark.parametrize("scope", ["mine", "any"])
@one_backend
def test_scope_mine_stops_an_attended_server(
    processes: Processes, elsewhere: Path, scope: Scope
) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port), cwd=elsewhere)
    assert server.launcher is not None

    outcome = only(free_ports(port, scope=scope))

    assert outcome.status == "freed"
    assert holder(outcome, server).verdict.rule == "mine"
    assert not server.alive
    assert server.launcher.alive


def test_a_server_in_a_terminal_is_attended(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    shell = processes.start(
        "terminal", ["sh", "-c", f"{shlex.join(tcp(port))} & wait"], cwd=project
    )

    outcome = only(free_ports(port))

    assert outcome.status == "busy"
    found = holder(outcome, shell.server)
    assert found.verdict.rule == "attended"
    assert f"sh (pid {shell.pid}) on pts/" in found.launcher


def test_a_server_whose_terminal_was_closed_is_an_orphan(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    # What survives the hang-up of its terminal, as after nohup.
    command = f"trap '' HUP; {shlex.join(tcp(port, '--ignore', 'HUP'))} & wait"
    shell = processes.start("terminal", ["sh", "-c", command], cwd=project)
    assert shell.launcher is not None
    server = shell.server
    shell.launcher.send(signal.SIGKILL)
    shell.process.send(signal.SIGKILL)
    shell.wait_gone()
    wait_until(lambda: (seen := server.stat) and seen.ppid != shell.pid, "it is adopted")

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, server).verdict.rule == "orphan"


def test_an_orphan_without_marks_or_title_is_stopped(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--wipe"), cwd=project)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, server).verdict.rule == "orphan"
    assert not server.alive


@one_backend
def test_nothing_is_an_orphan_where_there_is_no_project(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = processes.free_port()
    bare = tmp_path / "bare"
    bare.mkdir()
    monkeypatch.chdir(bare)
    server = processes.orphan(tcp(port), cwd=bare)

    outcome = only(free_ports(port))

    assert outcome.status == "busy"
    assert holder(outcome, server).verdict.rule == "attended"


@one_backend
def test_a_sibling_folder_with_our_name_in_front_is_not_our_project(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    other = project.with_name(project.name + "-v2")
    other.mkdir()
    server = processes.orphan(tcp(port), cwd=other)

    outcome = only(free_ports(port))

    assert outcome.status == "busy"
    assert holder(outcome, server).verdict.rule == "attended"
