"""The quick look: what portfree does, in three tests that take about a second.

    pytest tests/test_port_cleanup.py

Each starts a real server, and looks afterwards whether it really is gone, or really is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.processes import Processes, accepts, http_server, tail, tcp
from helpers.reports import how
from portfree import free_ports

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("project")  # every test works in a project of its own


def test_a_forgotten_server_is_stopped_and_named(processes: Processes, project: Path) -> None:
    # Yesterday's run was interrupted. Its server lost its parent, and still has our port.
    port = processes.free_port()
    server = processes.orphan(http_server(port), cwd=project, listening=port)

    report = free_ports(port)

    # The port can be used now …
    assert report.ok
    assert not accepts(port)
    assert not server.alive
    # … and the report says who had it, why it was safe to stop it, and how it ended.
    (outcome,) = report.outcomes
    assert outcome.status == "freed"
    (holder,) = outcome.holders
    assert holder.pid == server.pid
    assert "http.server" in holder.command
    assert holder.verdict.rule == "orphan"
    assert how(holder) == "ended after SIGTERM"


def test_a_server_gets_the_time_to_save_its_data(processes: Processes, project: Path) -> None:
    # This one needs 300 ms after SIGTERM to write what it has in memory. `kill -9` would lose it.
    port = processes.free_port()
    saved = project / "saved.txt"
    server = processes.orphan(tcp(port, "--flush", str(saved)), cwd=project)

    assert free_ports(port).ok

    server.wait_gone()
    assert saved.read_text() == "flushed\n"


def test_the_server_of_somebody_else_is_left_alone(processes: Processes, elsewhere: Path) -> None:
    # A colleague's program, in another project, with somebody who looks after it.
    port = processes.free_port()
    server = processes.attended(tcp(port), cwd=elsewhere)

    report = free_ports(port)

    # The port stays busy, and the report says whose it is and what to do instead.
    assert not report.ok
    assert server.alive
    assert accepts(port)
    (outcome,) = report.outcomes
    assert outcome.status == "busy"
    (holder,) = outcome.holders
    assert holder.verdict.action == "keep"
    assert tail(elsewhere) in holder.verdict.reason
    assert "stop it there, or: free_ports(" in holder.verdict.instead
