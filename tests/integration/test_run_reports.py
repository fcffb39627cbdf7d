"""portfree run: what it leaves on other ports, and what is said of it all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.commands import (
    leaver,
    portfree_run,
    run,
)
from helpers.processes import (
    Processes,
    accepts,
    is_free,
    tcp,
)
from helpers.schema import check

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("project")


# Leaks


@pytest.mark.parametrize(
    ("leaks", "code", "alive"),
    [
        (None, 0, True),
        ("ignore", 0, True),
        ("warn", 0, True),
        ("stop", 0, False),
        ("fail", 125, False),
    ],
)
def test_servers_on_other_ports(
    processes: Processes, leaks: str | None, code: int, *, alive: bool
) -> None:
    port, other = processes.free_port(), processes.free_port()
    words = [] if leaks is None else ["--leaks", leaks, "--grace", "1"]
    mark = "tests/test_api.py::test_search (setup)"

    ended, output = run(
        processes,
        str(port),
        *words,
        "--",
        *leaver(0, other, tcp(other)),
        env={"PYTEST_CURRENT_TEST": mark},
    )

    assert ended == code
    assert accepts(other) == alive
    assert (f"127.0.0.1:{other}" in output) == (leaks != "ignore")
    assert (f"{mark} started " in output) == (leaks != "ignore")


def test_a_failure_is_not_hidden_by_leaks(processes: Processes) -> None:
    port, other = processes.free_port(), processes.free_port()

    code, _ = run(
        processes, str(port), "--leaks", "fail", "--grace", "1", "--", *leaver(3, other, tcp(other))
    )

    assert code == 3
    assert not accepts(other)


# What is said


def test_the_report_says_it_all(processes: Processes, project: Path) -> None:
    port, other = processes.free_port(), processes.free_port()
    server = processes.attended(tcp(port), cwd=project)
    words = [str(port), "--leaks", "stop", "--grace", "1", "--report", "report.json", "--"]

    run(processes, *words, *leaver(3, other, tcp(other)))

    report = check((project / "report.json").read_text(), "run")
    assert (report["version"], report["ok"], report["exit_code"]) == (1, True, 3)
    (before,), (after,) = report["before"]["outcomes"], report["after"]["outcomes"]
    assert (before["status"], after["status"]) == ("freed", "free")
    assert before["holders"][0]["pid"] == server.pid
    (leak,) = report["leaks"]
    assert (leak["address"], leak["port"], leak["own"]) == ("127.0.0.1", other, False)
    assert leak["holder"]["ending"]["signals"] == ["SIGTERM"]


@pytest.mark.parametrize(("leaks", "ok"), [("warn", True), ("fail", False)])
def test_the_report_is_not_ok_where_what_was_left_forbids_it(
    processes: Processes, project: Path, leaks: str, *, ok: bool
) -> None:
    port, other = processes.free_port(), processes.free_port()
    words = [str(port), "--leaks", leaks, "--grace", "1", "--report", "report.json", "--"]

    run(processes, *words, *leaver(0, other, tcp(other)))

    report = check((project / "report.json").read_text(), "run")
    assert (report["ok"], len(report["leaks"])) == (ok, 1)


def test_the_report_of_a_command_that_was_not_started(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    processes.attended(tcp(port), cwd=project)

    code, _ = run(processes, str(port), "--scope", "orphans", "--report", "it.json", "--", "true")

    report = check((project / "it.json").read_text(), "run")
    assert code == report["exit_code"] == 125
    assert (report["ok"], report["after"], report["leaks"]) == (False, None, [])


def test_quietly_only_what_is_wrong_is_said(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    processes.attended(tcp(port), cwd=project)

    assert run(processes, "-q", str(port), "--", *leaver(0, port, tcp(port))) == (0, "")


def test_nobody_needs_to_read_what_is_said(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    processes.attended(tcp(port), cwd=project)
    reader, writer = os.pipe()
    os.close(reader)

    process = subprocess.run(
        [*portfree_run(), str(port), "--", *leaver(3, port, tcp(port))],
        env=processes.environment(),
        stderr=writer,
        check=False,
    )

    os.close(writer)
    assert process.returncode == 3
    assert is_free(port)
