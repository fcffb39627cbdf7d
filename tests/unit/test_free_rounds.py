"""One round after the other: whom to wait for, and what a later look is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.fake_system import LOOK, Actor, FakeSystem, call, entry, names, only
from helpers.reports import how
from portfree._core.loop import Freeing
from portfree.model import Port, Request

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("project", "unmarked")


def live_run(system: FakeSystem, port: int = 8000) -> tuple[Actor, Actor]:
    """Another pytest at work, and its server."""
    runner = system.start("pytest", ppid=system.shell.pid)
    return runner, system.server(port, ppid=runner.pid)


# Waiting for a live run


def test_without_patience_a_live_run_is_left_alone_at_once(system: FakeSystem) -> None:
    runner, server = live_run(system)
    report = call(system)
    assert only(report).status == "busy"
    assert entry(report, server).verdict.rule == "live-run"
    assert str(runner.pid) in entry(report, server).verdict.reason
    assert system.now() == LOOK


def test_a_port_that_the_run_gives_up_in_time_is_freed(system: FakeSystem) -> None:
    _, server = live_run(system)
    system.after(2.2, server.end)
    notices: list[str] = []

    report = call(system, wait=5.0, notices=notices)

    assert only(report).status == "freed"
    assert report.seconds == pytest.approx(2.2, abs=0.1)
    assert system.signals == []
    assert len(notices) == 1
    assert notices[0].startswith("waiting for 8000/tcp: in use by pytest")


def test_a_port_that_is_let_go_of_by_a_server_that_lives_on_is_freed(system: FakeSystem) -> None:
    _, server = live_run(system)
    system.after(0.3, server.let_go)
    report = call(system, wait=5.0)
    assert only(report).status == "freed"
    assert report.seconds < 0.5


def test_patience_ends(system: FakeSystem) -> None:
    live_run(system)
    report = call(system, wait=2.5)
    assert only(report).status == "busy"
    assert system.now() == pytest.approx(2.5, abs=0.1)
    assert system.signals == []


def test_a_run_that_dies_while_we_wait_leaves_its_server_to_us(
    system: FakeSystem, project: Path
) -> None:
    runner = system.start("pytest", ppid=system.shell.pid, cwd=str(project))
    server = system.server(ppid=runner.pid, cwd=str(project), marks={"PYTEST_VERSION": "9"}).takes(
        TERM=0.2
    )
    system.after(0.3, runner.end)

    report = call(system, scope="orphans", wait=5.0)

    assert only(report).status == "freed"
    assert entry(report, server).verdict.rule == "left-behind"
    assert names(system.sent(server)) == ["TERM"]
    # Looked at anew each second, since the end of the run wakes nobody.
    assert system.sent(server)[0][1] < 1.2


def test_orphans_are_stopped_before_anybody_is_waited_for(system: FakeSystem) -> None:
    live_run(system, 8000)
    orphan = system.server(8001).takes(TERM=0.1)
    report = call(system, 8000, 8001, wait=1.0)
    assert [o.status for o in report.outcomes] == ["busy", "freed"]
    assert system.sent(orphan) == [("TERM", LOOK)]
    assert system.now() == pytest.approx(1.0, abs=0.1)


def test_nobody_waits_for_a_holder_that_is_no_run(system: FakeSystem) -> None:
    system.server(owner=77)
    call(system, wait=60.0)
    assert system.now() == LOOK


def test_a_run_whose_server_cannot_be_pinned_is_waited_for_all_the_same(
    system: FakeSystem,
) -> None:
    _, server = live_run(system)
    server.unpinnable = PermissionError(1, "Operation not permitted")
    report = call(system, wait=1.0)
    # What cannot be pinned is not judged any further.
    assert entry(report, server).verdict.rule == "unknown"
    assert only(report).status == "busy"


# The last look


def test_what_became_free_after_the_last_survey_is_free(system: FakeSystem) -> None:
    # It is kept, and ends by itself just when we are about to say so.
    server = system.server(owner=77)
    system.after_call["pids"] = server.end
    system.after_call["bind"] = lambda: system.after_call.update(bind=server.end)
    report = call(system)
    assert only(report).status in ("busy", "freed")


def test_the_last_look_believes_the_bind_alone(system: FakeSystem) -> None:
    ports = (Port(8000), Port(8001))
    freeing = Freeing(Request(ports), system=system)
    freeing.deadline = 0.0  # the time is over
    system.server(8001)
    assert [o.status for o in freeing.run(list(ports)).outcomes] == ["free", "busy"]


def test_the_last_look_sees_past_the_closing_connections_of_a_dead_server(
    system: FakeSystem,
) -> None:
    port = Port(8000)
    system.listen(None, 8000, state="closing", peer="127.0.0.1:40000", closes_in=59.0)
    freeing = Freeing(Request((port,)), system=system)
    freeing.deadline = 0.0  # the time is over

    (outcome,) = freeing.run([port]).outcomes
    assert outcome.ok
    assert [note.kind for note in outcome.notes] == ["closing"]


def test_a_server_that_is_just_ending_is_waited_for_and_not_told_of(system: FakeSystem) -> None:
    server = system.server()
    server.process = server.process._replace(complete=False, cwd=None)
    system.after_call["pids"] = server.end

    outcome = only(call(system))

    assert (outcome.status, outcome.ok, outcome.holders) == ("free", True, ())


def test_a_server_that_cannot_be_read_and_stays_is_kept(system: FakeSystem) -> None:
    server = system.server()
    server.process = server.process._replace(complete=False, cwd=None)

    report = call(system)

    assert only(report).status == "busy"
    assert entry(report, server).verdict.rule == "unknown"


# Several ports


def test_a_server_on_two_ports_is_stopped_once(system: FakeSystem) -> None:
    server = system.server(8000).takes(TERM=0.1)
    system.listen(server, 8001)
    report = call(system, 8000, 8001)
    assert system.sent(server) == [("TERM", LOOK)]
    assert [o.status for o in report.outcomes] == ["freed", "freed"]
    assert how(entry(report, server, 8001)) == "ended after SIGTERM"


def test_a_socket_that_somebody_else_shares_who_is_kept_is_left_alone(system: FakeSystem) -> None:
    ours, theirs = system.server(), system.start("theirs", owner=77)
    theirs.holds |= ours.holds
    report = call(system)
    assert system.signals == []
    assert entry(report, ours).verdict.rule == "other-user"
    assert only(report).status == "busy"


def test_two_servers_with_a_socket_each_are_judged_apart(system: FakeSystem) -> None:
    # SO_REUSEPORT: one port, two sockets.
    ours, theirs = system.server(), system.server(owner=77)
    report = call(system)
    assert names(system.sent(ours)) == ["TERM"]
    assert system.sent(theirs) == []
    assert only(report).status == "busy"


def test_an_invisible_owner_beside_one_that_is_seen_keeps_the_port_busy(
    system: FakeSystem,
) -> None:
    seen, hidden = system.server(), system.server(owner=77)
    hidden.hidden = True
    report = call(system)
    assert names(system.sent(seen)) == ["TERM"]
    assert only(report).status == "busy"
    assert [note.kind for note in only(report).notes] == ["invisible"]
