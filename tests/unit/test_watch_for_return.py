"""After a stop, what may start the server again gets the time to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.fake_system import LOOK, FakeSystem, call, names, only

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("project", "unmarked")


# Taken again


# Where a server may come back, it gets the time to


def test_nobody_waits_for_the_return_of_an_orphan(system: FakeSystem) -> None:
    system.server().takes(TERM=0.1)

    report = call(system)

    assert report.seconds == pytest.approx(LOOK + 0.1, abs=2 * LOOK)


def test_a_parent_that_lives_gets_half_a_second_to_start_its_server_again(
    system: FakeSystem,
) -> None:
    parent = system.start("parent", leads=True)
    system.server(ppid=parent.pid).takes(TERM=0.1)

    report = call(system)

    assert only(report).status == "freed"
    assert report.seconds == pytest.approx(0.6, abs=0.06)


def test_supervisord_gets_longer_for_its_clock_ticks_once_a_second(
    system: FakeSystem, project: Path
) -> None:
    # One that a test run has left: others are services.
    marks = {"PYTEST_VERSION": "9"}
    supervisor = system.start("supervisord", leads=True, cwd=str(project), marks=marks)
    system.supervise(supervisor, system.server(ppid=supervisor.pid, marks=marks), after=1.2)

    report = call(system)

    assert names(system.sent(supervisor)) == ["TERM"]
    assert only(report).status == "freed"


def test_a_parent_that_ends_with_its_server_is_not_waited_for(system: FakeSystem) -> None:
    parent = system.start("parent", leads=True)
    server = system.server(ppid=parent.pid).takes(TERM=0.1)
    server.at_end.append(lambda: system.after(0.01, parent.end))

    report = call(system)

    assert report.seconds == pytest.approx(0.12, abs=0.06)


def test_a_parent_that_cannot_be_pinned_is_not_waited_for(system: FakeSystem) -> None:
    parent = system.start("parent", leads=True)
    parent.unpinnable = OSError(24, "Too many open files")
    system.server(ppid=parent.pid).takes(TERM=0.1)

    assert call(system).seconds < 0.2


def test_where_the_return_cannot_be_seen_the_next_round_tries(system: FakeSystem) -> None:
    parent = system.start("parent", leads=True)
    server = system.server(ppid=parent.pid).takes(TERM=0.1)
    server.at_end.append(lambda: system.fails.update(sockets=OSError(24, "Too many open files")))

    report = call(system)

    assert only(report).status == "freed"  # the bind has said so
    assert system.now() < 4
