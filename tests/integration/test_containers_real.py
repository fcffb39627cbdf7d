"""Containers, played by pid namespaces: what their main service is, and to whom.

A container's service has lost its parent like any orphan does: its parent is the container's first
process, or it is that process itself. Who is put into the container from outside, as by
`docker exec`, must not stop it; for who was started in it, it is a process like others.
"""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    Call,
    Identity,
    Processes,
    Started,
    accepts,
    calling,
    children,
    holder,
    launch,
    needs_namespace,
    needs_program,
    needs_root,
    only,
    tcp,
    wait_until,
)
from portfree import Report, free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from portfree.model import Scope

pytestmark = [
    pytest.mark.usefixtures("backend"),
    needs_root,
    needs_program("nsenter"),
    needs_namespace("--pid", "--fork", "--mount-proc"),
]

INITS = pytest.mark.parametrize(
    "init",
    [
        pytest.param(("tini", "--"), id="tini", marks=needs_program("tini")),
        # Not the last command of the line, or the shell would become it by exec.
        pytest.param(("sh", "-c", '"$@"; true', "sh"), id="sh"),
    ],
)


@dataclass(frozen=True)
class Container:
    """A pid namespace, seen from outside."""

    processes: Processes
    started_one: Started
    first: Identity
    """Its first process, by the pid that it has out here."""

    def exec(self, port: int, *, cwd: Path, scope: Scope = "orphans") -> Call:
        """Ask for a port from a process that is put into the container, as `docker exec` does."""
        enter = ["nsenter", f"--target={self.first.pid}", "--pid", "--mount", "setsid", "--wait"]
        return self.processes.call(port, cwd=cwd, scope=scope, prefix=enter)

    def spawn(self, command: Sequence[str], *, cwd: Path) -> None:
        """Start something in it in the same way."""
        enter = ["nsenter", f"--target={self.first.pid}", "--pid", "--mount", "--"]
        # To enter a mount namespace takes one to its root directory.
        there = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd)]
        self.processes.child([*enter, *there, *command])


def run(processes: Processes, command: Sequence[str], *, cwd: Path, port: int) -> Container:
    """Start a container: *command* is its first process, and soon listens on *port*."""
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    started_one = processes.orphan([*namespace, *command], cwd=cwd, listening=port)
    (first,) = children(started_one.pid)
    return Container(processes, started_one, Identity.of(first))


# Seen from inside, by a caller that was put there


@INITS
@pytest.mark.parametrize("scope", ["orphans", "any"])
def test_the_main_service_is_kept_from_who_was_put_there(
    processes: Processes, project: Path, init: tuple[str, ...], scope: Scope
) -> None:
    port = processes.free_port()
    container = run(processes, [*init, *tcp(port)], cwd=project, port=port)

    outcome = only(container.exec(port, cwd=project, scope=scope).report())

    assert outcome.status == "busy"
    (found,) = outcome.holders
    assert (found.verdict.action, found.verdict.rule) == ("keep", "container")
    assert accepts(port)


def test_the_first_process_itself_is_kept(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    container = run(processes, tcp(port), cwd=project, port=port)

    outcome = only(container.exec(port, cwd=project, scope="any").report())

    assert outcome.status == "busy"
    (found,) = outcome.holders
    assert found.pid == 1
    assert found.verdict.rule in ("container", "protected")
    assert container.first.alive


@INITS
def test_workers_of_the_main_service_are_kept(
    processes: Processes, project: Path, init: tuple[str, ...]
) -> None:
    port = processes.free_port()
    container = run(processes, [*init, *tcp(port, "--workers", "2")], cwd=project, port=port)

    outcome = only(container.exec(port, cwd=project).report())

    assert outcome.status == "busy"
    assert {each.verdict.rule for each in outcome.holders} == {"container"}
    assert accepts(port)


@INITS
def test_an_orphan_beside_the_main_service_is_stopped(
    processes: Processes, project: Path, init: tuple[str, ...]
) -> None:
    # What an earlier `docker exec … pytest` has left there.
    main, left = processes.free_port(), processes.free_port()
    container = run(processes, [*init, *tcp(main)], cwd=project, port=main)
    container.spawn(launch("orphan", tcp(left)), cwd=project)
    wait_until(lambda: accepts(left), "the orphan listens")

    outcome = only(container.exec(left, cwd=project).report())

    assert outcome.status == "freed"
    assert [each.verdict.rule for each in outcome.holders] == ["orphan"]
    assert accepts(main)


# Seen from inside, by a caller that was started there


@INITS
def test_for_who_was_started_in_it_an_orphan_is_an_orphan(
    processes: Processes, project: Path, init: tuple[str, ...]
) -> None:
    port = processes.free_port()
    orphan = shlex.join(launch("orphan", tcp(port)))

    report = _asked_from_inside(processes, project, init, port, before=orphan)

    outcome = only(report)
    assert outcome.status == "freed"
    assert [each.verdict.rule for each in outcome.holders] == ["orphan"]


@INITS
@pytest.mark.parametrize("scope", ["orphans", "mine"])
def test_for_who_was_started_in_it_the_servers_beside_it_are_ordinary(
    processes: Processes, project: Path, init: tuple[str, ...], scope: Scope
) -> None:
    # `docker run --init image sh -c 'server & pytest'`
    port = processes.free_port()

    report = _asked_from_inside(
        processes, project, init, port, before=f"{shlex.join(tcp(port))} &", scope=scope
    )

    outcome = only(report)
    (found,) = outcome.holders
    assert found.verdict.rule in ("orphan", "mine", "attended")
    assert found.verdict.rule != "attended" or scope == "orphans"
    assert outcome.status == ("busy" if found.verdict.action == "keep" else "freed")


def _asked_from_inside(
    processes: Processes,
    project: Path,
    init: tuple[str, ...],
    port: int,
    *,
    before: str,
    scope: Scope = "orphans",
) -> Report:
    wait = f"until grep -q :{port:04X} /proc/net/tcp; do sleep 0.01; done"
    ask = shlex.join(calling(port, cwd=project, scope=scope))
    script = f"cd {shlex.quote(str(project))}\n{before}\n{wait}\n{ask}"
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *init]
    return processes.call(port, cwd=project, prefix=[*prefix, "sh", "-c", script]).report()


def test_what_a_run_has_left_in_the_session_of_the_first_process_is_stopped(
    processes: Processes, project: Path
) -> None:
    # A CI job in a container: `sh -c 'portfree run 8000 -- pytest a; portfree run 8000 -- …'`
    port = processes.free_port()
    server = shlex.join(launch("adopted", tcp(port)))
    run_that_is_killed = (
        "import os, subprocess; from portfree import free_ports; free_ports(1).__enter__();"
        f"subprocess.run({shlex.split(server)!r}, stdout=2); os._exit(1)"
    )
    before = shlex.join([sys.executable, "-c", run_that_is_killed])

    outcome = only(_asked_from_inside(processes, project, (), port, before=f"cd /; {before}"))

    assert outcome.status == "freed"
    assert [each.verdict.rule for each in outcome.holders] == ["left-behind"]


# Seen from outside


def test_a_process_in_another_container_is_kept(
    processes: Processes, project: Path, backend: str
) -> None:
    port = processes.free_port()
    container = run(processes, tcp(port), cwd=project, port=port)

    if backend == "portable":
        pytest.skip("psutil tells no namespaces, and macOS and Windows have none")

    outcome = only(free_ports(port, scope="any"))

    assert outcome.status == "busy"
    found = holder(outcome, container.first)
    assert (found.verdict.action, found.verdict.rule) == ("keep", "container")
    assert container.first.alive


def test_a_container_that_ended_leaves_nothing(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    container = run(processes, tcp(port), cwd=project, port=port)
    container.first.send(signal.SIGKILL)
    container.first.wait_gone()

    assert only(free_ports(port)).status == "free"
