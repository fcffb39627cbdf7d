"""What the machine can withhold, for real: files, memory, permissions, /proc, clocks, reapers.

What must hold whatever is missing: no process is stopped wrongly, nothing crashes, a port that is
taken is never called free, and what is missing is said.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from helpers.processes import (
    NOBODY,
    Identity,
    Processes,
    Started,
    children,
    holder,
    is_free,
    launch,
    needs_namespace,
    needs_program,
    needs_root,
    notes,
    only,
    rules,
    stat,
    tcp,
    wait_until,
)
from helpers.reports import how
from stress.support import pid_reuse, seccomp_exec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from portfree import Outcome
    from portfree.model import Scope
    from stress.support.figures import Figures

GROUP = "faults"

pytestmark = pytest.mark.usefixtures("backend")

# For tests whose repetition with psutil takes long, and shows little.
portable_in_stress = pytest.mark.parametrize(
    "backend", ["linux", pytest.param("portable", marks=pytest.mark.stress)], indirect=True
)


def without(*what: str) -> list[str]:
    """A prefix that takes something away from a command (seccomp_exec.py)."""
    return [sys.executable, "-S", seccomp_exec.__file__, *what, "--"]


def trial(
    processes: Processes,
    project: Path,
    figures: Figures,
    server: Started | Identity,
    port: int,
    *,
    bystander: Started | None = None,
    prefix: Sequence[str] = (),
    env: dict[str, str] | None = None,
    uid: int | None = None,
    files: int | None = None,
    scope: Scope = "orphans",
) -> Outcome:
    """Call `free_ports` under these circumstances; what it says must be so."""
    # psutil reads the sockets process by process: seconds, on a machine that has thousands.
    grace = 3.0 if os.environ["PORTFREE_BACKEND"] == "linux" else 30.0
    report = processes.call(
        port,
        cwd=project,
        prefix=prefix,
        env=env,
        uid=uid,
        files=files,
        scope=scope,
        grace=grace,
    ).report()
    outcome = only(report)
    hit = bystander is not None and not bystander.alive
    wrong = outcome.ok != is_free(port)
    figures.trial(report.seconds, wrong_stops=hit, false_reports=wrong)
    assert not hit
    assert not wrong, outcome
    assert outcome.ok != server.alive
    if not outcome.ok:
        said = [(each.verdict.instead, how(each)) for each in outcome.holders]
        assert outcome.notes or any(map(any, said)), outcome
    return outcome


# What there is too little of


def test_no_files_left(
    processes: Processes, project: Path, figures: Figures, *, long: bool
) -> None:
    for files in range(16) if long else (0, 2):
        port = processes.free_port()
        server = processes.orphan(tcp(port), cwd=project)
        outcome = trial(processes, project, figures, server, port, files=files)
        if files == 0:
            assert not outcome.ok


# What is refused


@portable_in_stress
@pytest.mark.parametrize("what", [["netlink"], ["ipv6"], ["pidfd"], ["netlink", "ipv6", "pidfd"]])
def test_what_a_sandbox_refuses_is_done_another_way(
    processes: Processes, project: Path, figures: Figures, what: list[str]
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)
    outcome = trial(processes, project, figures, server, port, prefix=without(*what))
    assert outcome.status == "freed", outcome


def test_signals_that_are_refused(
    processes: Processes, project: Path, figures: Figures, backend: str
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)
    outcome = trial(processes, project, figures, server, port, prefix=without("signals"))
    if backend == "linux":  # the other one sends with kill(2)
        assert "the system refused the signal" in how(holder(outcome, server))


@needs_root
@needs_program("setpriv")
def test_without_the_capability_to_look_at_others(
    processes: Processes, project: Path, figures: Figures, backend: str
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)
    prefix = ["setpriv", "--bounding-set=-sys_ptrace", "--"]
    outcome = trial(processes, project, figures, server, port, prefix=prefix)
    assert outcome.status == "busy"
    assert "invisible" in notes(outcome)
    if backend == "linux":  # psutil does not tell whose the socket is
        assert "CAP_SYS_PTRACE" in notes(outcome)["invisible"]


# /proc


MOUNTED = ["unshare", "--mount", "sh", "-c"]


@needs_root
@needs_namespace("--mount")
@portable_in_stress
@pytest.mark.parametrize("hidepid", [1, 2])
def test_a_proc_that_hides_others(
    processes: Processes, open_project: Path, figures: Figures, hidepid: int
) -> None:
    mount = f'mount -t proc -o hidepid={hidepid} proc /proc && exec "$@"'
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=open_project)
    prefix = [*MOUNTED, mount, "sh"]
    scopes: tuple[Scope, ...] = ("orphans", "any")
    for scope in scopes:
        outcome = trial(
            processes, open_project, figures, server, port, prefix=prefix, uid=NOBODY, scope=scope
        )
        assert outcome.status == "busy"
        assert "as root" in notes(outcome)["invisible"] or "sudo" in notes(outcome)["invisible"]


@needs_root
@needs_namespace("--mount")
def test_no_proc_at_all(processes: Processes, project: Path, figures: Figures) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)
    prefix = [*MOUNTED, 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    outcome = trial(processes, project, figures, server, port, prefix=prefix)
    assert outcome.status == "busy"
    assert notes(outcome)


# Clocks


@needs_root
@needs_namespace("--time", "--fork", "--boottime=100000")
@portable_in_stress
def test_a_run_lives_on_for_who_has_another_clock(
    processes: Processes, project: Path, figures: Figures
) -> None:
    # In a time namespace every process seems to have started at another time (time_namespaces(7)).
    away = ["unshare", "--time", "--fork", "--boottime=100000", "--monotonic=100000"]
    run = processes.run_id(alive=True)
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project, env={"PORTFREE_RUN_ID": run})
    outcome = trial(processes, project, figures, server, port, prefix=away)
    assert rules(outcome) == {server.pid: "live-run"}

    orphan = processes.free_port()
    left = processes.orphan(tcp(orphan), cwd=project)
    assert trial(processes, project, figures, left, orphan, prefix=away).status == "freed"


# Home and here


def test_a_directory_that_was_deleted(
    processes: Processes, project: Path, figures: Figures
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)
    gone = project / "gone"
    gone.mkdir()
    prefix = ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(gone)]
    command = [*prefix, sys.executable, "-m", "portfree", "--json", "--scope=orphans", str(port)]
    started = time.monotonic()
    done = subprocess.run(command, env=_environment(processes), capture_output=True, text=True)
    figures.trial(time.monotonic() - started, wrong_stops=not server.alive)
    # We are in no project, so no process is an orphan of ours.
    assert done.returncode == 1, done.stderr
    (outcome,) = json.loads(done.stdout)["outcomes"]
    assert [each["verdict"]["rule"] for each in outcome["holders"]] == ["attended"]
    assert server.alive


@portable_in_stress
@pytest.mark.parametrize("home", ["/nonexistent", "", "relative", "/dev/null", "/proc/self/fd/99"])
def test_a_home_that_is_none(
    processes: Processes, project: Path, figures: Figures, home: str
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)
    outcome = trial(processes, project, figures, server, port, env={"HOME": home})
    assert outcome.status == "freed"


# Who is dead and stays


def test_a_parent_that_never_reaps(processes: Processes, project: Path, figures: Figures) -> None:
    port = processes.free_port()
    server = processes.attended(tcp(port), cwd=project)  # launch.py never waits for it
    outcome = trial(processes, project, figures, server, port, scope="mine")
    assert outcome.status == "freed"
    assert (seen := stat(server.pid)) is not None
    assert seen.state == "Z"


@needs_root
@needs_program("nsenter")
@needs_namespace("--pid", "--fork", "--mount-proc")
def test_a_first_process_that_never_reaps(
    processes: Processes, project: Path, figures: Figures
) -> None:
    port = processes.free_port()
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    container = processes.orphan([*namespace, "sleep", "1000"], cwd=project)
    (first,) = wait_until(lambda: children(container.pid), "the first process")
    enter = ["nsenter", f"--target={first}", "--pid", "--mount"]
    there = ["sh", "-c", 'cd "$0" && exec "$@"', str(project)]
    processes.child([*enter, *there, *launch("orphan", tcp(port))], cwd=project, listening=port)
    (server,) = (pid for pid in children(first) if Identity.of(pid).alive)

    seen = Identity.of(server)
    outcome = trial(processes, project, figures, seen, port, prefix=[*enter, "setsid", "--wait"])

    assert outcome.status == "freed"
    assert (left := stat(server)) is not None
    assert left.state == "Z"


@needs_root
@needs_namespace("--pid", "--fork", "--mount-proc")
@portable_in_stress
def test_a_pid_that_passes_to_another_process(
    processes: Processes, project: Path, figures: Figures, *, long: bool
) -> None:
    port = processes.free_port()
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    moments = [*pid_reuse.MOMENTS] * (20 if long else 1)
    done = subprocess.run(
        [*namespace, sys.executable, pid_reuse.__file__, str(port), *moments],
        cwd=project,
        env=_environment(processes),
        capture_output=True,
    )
    assert not done.returncode, done.stderr
    for moment, each in zip(moments, json.loads(done.stdout), strict=True):
        figures.trial(each["seconds"], wrong_stops=each["hit"])
        assert not each["hit"], moment
        assert each["status"] in ("free", "freed"), moment  # the server is dead


# What processes say of themselves

HOSTILE = "\x1b[2J\x1b]0;owned\x07\n::error::forged\r\n8000/tcp: free\x00 \u202e\x9b31m".replace(
    "\0", ""
)
BYTES = b"\xff\xfe\x80".decode(errors="surrogateescape")


@portable_in_stress
@pytest.mark.parametrize("how", ["kept", "stopped"])
def test_texts_that_would_forge_a_report(
    processes: Processes, project: Path, tmp_path: Path, figures: Figures, how: str
) -> None:
    hostile = HOSTILE + BYTES
    folder = (project if how == "stopped" else tmp_path) / hostile.replace("/", "-")
    folder.mkdir()
    environment = {"GITHUB_ACTION": hostile}
    if how == "stopped":  # the launcher of the other one is an orphan: a mark would tell of it
        environment["PYTEST_CURRENT_TEST"] = f"{hostile} (setup)"
    many = [hostile * 2000] * 16  # of a megabyte
    port = processes.free_port()
    # The words come after those that the server reads.
    command = [*tcp(port), "--", *many]
    assert sum(map(len, map(os.fsencode, many))) > 1 << 20
    start = processes.attended if how == "kept" else processes.orphan
    server = start(command, cwd=folder, env=environment)
    for flags in ([], ["--json"], ["--quiet"]):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "portfree", *flags, "--dry-run", "--scope=orphans", str(port)],
            cwd=project,
            env=_environment(processes),
            capture_output=True,
        )
        figures.trial(time.monotonic() - started, wrong_stops=not server.alive)
        assert done.returncode == (how == "kept"), (
            done.stdout.decode()[:2000] + done.stderr.decode()
        )
        text = done.stdout.decode()  # valid UTF-8
        for line in (text + done.stderr.decode()).split("\n"):
            assert line.isprintable()
            assert not line.lstrip().startswith("::error")
        if flags == ["--json"]:
            (outcome,) = json.loads(text)["outcomes"]
            (said,) = outcome["holders"]
            assert said["pid"] == server.pid
            assert len(text) < 10_000
        else:
            assert len(text.splitlines()) < 10
    outcome = trial(processes, project, figures, server, port)
    assert outcome.ok == (how == "stopped")


def _environment(processes: Processes) -> dict[str, str]:
    return processes.environment({"PORTFREE_BACKEND": os.environ["PORTFREE_BACKEND"]})
