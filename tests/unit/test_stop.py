"""Stopping, on a machine in memory: who gets which signal at which moment, and who gets none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.fake_system import LOOK, Actor, FakeSystem, call, entry, names, only, system, unmarked
from helpers.reports import how, took
from portfree._core.ancestry import Holder
from portfree._core.survey import Suspect
from portfree._output.words import ending_words, note_words
from portfree._system.interface import Signal
from portfree.model import Port, Scope

__all__ = ["system", "unmarked"]

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

# While nobody ends, the sockets are looked at so often.
GLANCE = 0.025


pytestmark = pytest.mark.usefixtures("project", "unmarked")


def times(sent: list[tuple[Signal, float]]) -> list[float]:
    return [at for _, at in sent]


# The ladder


def test_a_polite_server_gets_sigterm_and_nothing_else(system: FakeSystem) -> None:
    server = system.server().takes(TERM=0.2)

    report = call(system)

    assert only(report).status == "freed"
    assert system.sent(server) == [("TERM", LOOK)]
    assert how(entry(report, server)) == "ended after SIGTERM"
    assert took(entry(report, server)) == pytest.approx(0.2)


def test_sigcont_follows_sigterm_at_once(system: FakeSystem) -> None:
    server = system.server().takes(TERM=0.2)

    call(system)

    assert [(s.signal, s.at) for s in system.signals] == [("TERM", LOOK), ("CONT", LOOK)]
    assert all(s.process == server.process for s in system.signals)


def test_whoever_ignores_sigterm_gets_sigint_at_half_the_grace(system: FakeSystem) -> None:
    server = system.server().ignores("TERM")

    report = call(system, grace=3.0)

    assert names(system.sent(server)) == ["TERM", "INT"]
    assert times(system.sent(server)) == pytest.approx([LOOK, 1.5 + LOOK], abs=GLANCE)
    assert how(entry(report, server)) == "ended after SIGTERM and SIGINT"


def test_whoever_ignores_both_gets_sigkill_at_the_end_of_the_grace(system: FakeSystem) -> None:
    server = system.server().ignores("TERM", "INT")

    report = call(system, grace=3.0)

    assert names(system.sent(server)) == ["TERM", "INT", "KILL"]
    assert times(system.sent(server)) == pytest.approx([LOOK, 1.5 + LOOK, 3 + LOOK], abs=GLANCE)
    assert only(report).status == "freed"
    assert how(entry(report, server)) == "ended after SIGTERM and SIGINT and SIGKILL"
    assert took(entry(report, server)) == pytest.approx(3.0, abs=GLANCE)


def test_all_ports_share_one_ladder(system: FakeSystem) -> None:
    servers = [system.server(port).ignores("TERM", "INT") for port in (8000, 8001, 8002)]

    report = call(system, 8000, 8001, 8002, grace=1.0)

    assert {s for server in servers for s, _ in system.sent(server)} == {"TERM", "INT", "KILL"}
    assert len({tuple(system.sent(server)) for server in servers}) == 1
    assert [o.status for o in report.outcomes] == ["freed"] * 3


@pytest.mark.parametrize("polite", [True, False])
def test_without_a_grace_sigkill_comes_first(polite: bool) -> None:  # noqa: FBT001
    system = FakeSystem(polite=polite)
    server = system.server()

    report = call(system, grace=0.0)

    assert system.sent(server) == [("KILL", LOOK)]
    assert how(entry(report, server)) == ("ended after SIGKILL" if polite else "terminated")


def test_where_nobody_can_be_asked_politely_a_grace_makes_no_difference() -> None:
    system = FakeSystem(name="win32", polite=False)
    server = system.server()
    worker = system.fork(server)

    report = call(system, grace=3.0)

    assert system.sent(server) == [("KILL", LOOK)]
    assert system.sent(worker) == [("KILL", LOOK)]
    assert how(entry(report, worker)) == "terminated"


# The hard bound (which call() asserts for every test here)


@pytest.mark.parametrize("grace", [0.0, 0.1, 0.3, 0.5, 1.0, 3.0])
def test_a_server_that_cannot_be_killed_costs_no_more_than_the_bound(
    system: FakeSystem, grace: float
) -> None:
    server = system.server().ignores("TERM", "INT", "KILL")

    report = call(system, grace=grace)

    assert only(report).status == "busy"
    assert system.sent(server)[-1][0] == "KILL"
    assert how(entry(report, server)).startswith("still holds the port after ")
    assert took(entry(report, server)) is None


@pytest.mark.parametrize("grace", [0.6, 1.0, 3.0])
@pytest.mark.parametrize("comes_back_after", [0.0, 0.01, 0.1, 0.2])
def test_the_second_round_climbs_the_ladder_to_its_end_as_well(
    system: FakeSystem, grace: float, comes_back_after: float
) -> None:
    # Each server ignores what is polite, so both rounds need the force at the end.
    parent = system.start("parent", leads=True)
    server = system.server(ppid=parent.pid).ignores("TERM", "INT")
    second: list[Actor] = []

    def once() -> None:
        second.append(system.server().ignores("TERM", "INT"))

    server.at_end.append(lambda: system.after(comes_back_after, once))

    report = call(system, grace=grace)

    assert names(system.sent(second[0])) == ["TERM", "INT", "KILL"]
    assert only(report).status == "freed"


def test_a_round_that_could_not_be_ended_in_time_is_not_begun(system: FakeSystem) -> None:
    # It comes back so late that there is less time left than the kernel may need after SIGKILL.
    parent = system.start("parent", leads=True)
    server = system.server(ppid=parent.pid).ignores("TERM", "INT")
    second: list[Actor] = []
    server.at_end.append(lambda: system.after(0.4, lambda: second.append(system.server())))

    report = call(system, grace=0.5)

    assert system.now() == pytest.approx(0.95, abs=0.05)
    assert system.sent(second[0]) == []
    assert how(entry(report, second[0])) == ""
    assert only(report).status == "busy"


# Root holders only


def test_the_workers_of_a_master_are_not_signalled(system: FakeSystem) -> None:
    master = system.server(name="gunicorn").takes(TERM=0.3)
    workers = [system.fork(master) for _ in range(3)]
    master.at_end += [worker.end for worker in workers]

    report = call(system)

    assert {s.process.pid for s in system.signals} == {master.pid}
    assert only(report).status == "freed"
    for worker in workers:
        assert how(entry(report, worker)) == "ended with the process that it belongs to"
        assert not entry(report, worker).root
    assert entry(report, master).root


def test_workers_that_a_dead_master_leaves_are_asked_politely(system: FakeSystem) -> None:
    master = system.server(name="gunicorn").takes(TERM=0.2)
    worker = system.fork(master).takes(TERM=0.1)

    report = call(system)

    assert names(system.sent(worker)) == ["TERM"]
    # At once when the master has ended, as soon as it is sure who has the socket.
    assert times(system.sent(worker)) == pytest.approx([LOOK + 0.2 + LOOK])
    assert how(entry(report, worker)) == "ended after SIGTERM"
    assert only(report).status == "freed"


def test_workers_that_outlive_the_whole_ladder_are_killed_with_their_master(
    system: FakeSystem,
) -> None:
    master = system.server(name="gunicorn").ignores("TERM", "INT")
    worker = system.fork(master)

    report = call(system, grace=1.0)

    assert names(system.sent(worker)) == ["KILL"]
    assert how(entry(report, worker)) == "ended after SIGKILL"


def test_a_worker_that_was_forked_late_is_killed_and_written_down(system: FakeSystem) -> None:
    master = system.server(name="gunicorn").ignores("TERM", "INT")
    late: list[Actor] = []
    system.after(0.7, lambda: late.append(system.fork(master)))

    report = call(system, grace=1.0)

    assert names(system.sent(late[0])) == ["KILL"]
    told = entry(report, late[0])
    assert (told.root, how(told)) == (False, "ended after SIGKILL")
    assert told.verdict.rule == entry(report, master).verdict.rule
    assert only(report).status == "freed"


def test_late_workers_of_a_master_that_has_ended_are_judged_for_themselves(
    system: FakeSystem,
) -> None:
    master = system.server(name="gunicorn").takes(TERM=0.2)
    late: list[Actor] = []
    system.after(0.1, lambda: late.append(system.fork(master).takes(TERM=0.1)))

    report = call(system)

    assert names(system.sent(late[0])) == ["TERM"]
    assert entry(report, late[0]).verdict.rule == "mine"
    assert entry(report, late[0]).root
    assert only(report).status == "freed"


def test_a_late_worker_that_cannot_be_pinned_does_not_protect_its_master(
    system: FakeSystem,
) -> None:
    master = system.server(name="gunicorn").ignores("TERM", "INT")
    late: list[Actor] = []

    def fork() -> None:
        late.append(system.fork(master))
        late[0].unpinnable = PermissionError(1, "Operation not permitted")

    system.after(0.2, fork)

    report = call(system, grace=1.0)

    assert names(system.sent(master)) == ["TERM", "INT", "KILL"]
    assert system.sent(late[0]) == []
    assert only(report).status == "busy"
    assert entry(report, late[0]).verdict.rule == "unknown"


def test_children_that_hold_no_port_are_not_touched(system: FakeSystem) -> None:
    server = system.server().ignores("TERM", "INT")
    child = system.fork(server, "helper")
    child.let_go()

    call(system, grace=1.0)

    assert system.sent(child) == []
    assert child.alive


# Never anybody else


def test_a_recycled_pid_is_never_signalled(system: FakeSystem) -> None:
    server = system.server()
    strangers: list[Actor] = []
    # Between the last look at the holders and the signal.
    system.after_call["holds"] = lambda: strangers.append(system.recycle(server))

    report = call(system)

    assert strangers[0].pid == server.pid
    assert system.signals == []
    assert strangers[0].alive
    assert how(entry(report, server)) == "ended by itself"
    assert only(report).status == "freed"


def test_whoever_has_let_go_before_the_signal_is_not_signalled(system: FakeSystem) -> None:
    server = system.server()
    system.after_call["pin"] = server.let_go

    report = call(system)

    assert system.signals == []
    assert server.alive
    assert only(report).status == "freed"
    assert how(entry(report, server)) == "let go of the port, still draining"


def test_a_server_that_lets_go_and_finishes_its_requests_is_left_in_peace(
    system: FakeSystem,
) -> None:
    server = system.server().ignores("TERM", "INT", "KILL")
    server.reacts["TERM"] = lambda: system.after(0.1, server.let_go)

    report = call(system)

    assert system.sent(server) == [("TERM", LOOK)]
    assert server.alive
    assert only(report).status == "freed"
    assert how(entry(report, server)) == "let go of the port after SIGTERM, still draining"
    assert report.seconds == pytest.approx(0.1, abs=2 * GLANCE)


def test_two_servers_one_of_which_drains(system: FakeSystem) -> None:
    draining, stubborn = system.server(8000), system.server(8001).ignores("TERM", "INT")
    draining.ignores("TERM")
    draining.reacts["TERM"] = draining.let_go

    report = call(system, 8000, 8001, grace=1.0)

    assert names(system.sent(draining)) == ["TERM"]
    assert names(system.sent(stubborn)) == ["TERM", "INT", "KILL"]
    assert draining.alive
    assert [o.status for o in report.outcomes] == ["freed", "freed"]


def test_a_stranger_who_takes_the_port_with_the_same_id_is_not_signalled(
    system: FakeSystem,
) -> None:
    # The portable backend knows no inodes: there the same address is the same id.
    id_ = ("tcp", "127.0.0.1", 8000)
    server = system.server(id=id_)
    strangers: list[Actor] = []

    def taken() -> None:
        stranger = system.start("stranger", owner=77)
        system.listen(stranger, 8000, id=id_)
        strangers.append(stranger)

    server.at_end.append(taken)

    report = call(system)

    assert system.sent(strangers[0]) == []
    assert how(entry(report, server)) == "ended after SIGTERM"
    assert entry(report, strangers[0]).verdict.rule == "other-user"
    assert only(report).status == "busy"


def test_a_newcomer_of_ours_with_the_same_id_is_judged_before_it_is_signalled(
    system: FakeSystem,
) -> None:
    id_ = ("tcp", "127.0.0.1", 8000)
    shell = system.start("bash", argv=("bash",), leads=True, terminal="pts/7")
    server = system.server(id=id_)
    newcomers: list[Actor] = []
    server.at_end.append(
        lambda: newcomers.append(system.server(id=id_, ppid=shell.pid, name="newcomer"))
    )

    report = call(system)

    (newcomer,) = newcomers
    assert names(system.sent(newcomer)) == ["TERM"]
    assert entry(report, newcomer).verdict.rule == "mine"
    assert "pts/7" in entry(report, newcomer).launcher


def test_somebody_who_joins_the_socket_later_and_is_kept_protects_everybody(
    system: FakeSystem,
) -> None:
    server = system.server().ignores("TERM", "INT")

    def joins() -> None:
        guest = system.start("guest", owner=77)
        guest.holds |= server.holds

    system.after(0.1, joins)

    report = call(system, grace=1.0)

    assert names(system.sent(server)) == ["TERM"]
    assert server.alive
    assert only(report).status == "busy"


# Refused signals


def test_a_refused_signal_is_reported_and_nobody_waits_for_it(system: FakeSystem) -> None:
    server = system.server()
    server.refuses = PermissionError(1, "Operation not permitted")

    report = call(system)

    assert only(report).status == "busy"
    assert how(entry(report, server)) == (
        "the system refused the signal ([Errno 1] Operation not permitted)"
    )
    assert report.seconds < 0.2


def test_a_kernel_without_the_call_refuses_too(system: FakeSystem) -> None:
    server = system.server()
    server.refuses = OSError(38, "Function not implemented")

    report = call(system)

    assert "Function not implemented" in how(entry(report, server))


def test_the_refusal_of_one_does_not_spare_the_other(system: FakeSystem) -> None:
    refuser, other = system.server(8000), system.server(8001).ignores("TERM")
    refuser.refuses = PermissionError(1, "Operation not permitted")

    report = call(system, 8000, 8001, grace=1.0)

    assert names(system.sent(other)) == ["TERM", "INT"]
    assert [o.status for o in report.outcomes] == ["busy", "freed"]


def test_whoever_refuses_and_ends_all_the_same_has_ended(system: FakeSystem) -> None:
    server = system.server()
    server.refuses = PermissionError(1, "Operation not permitted")
    worker = system.fork(server).ignores("TERM")
    system.after(0.01, server.end)
    system.after(0.02, worker.end)

    report = call(system)

    assert how(entry(report, server)) == "ended by itself"
    assert only(report).status == "freed"


# A system that does not answer


def test_what_cannot_be_listed_has_not_let_go(system: FakeSystem) -> None:
    server = system.server().takes(TERM=0.3)
    server.reacts["TERM"] = lambda: system.fails.update(sockets=OSError(24, "Too many open files"))
    system.after(0.2, system.fails.clear)

    report = call(system)

    assert took(entry(report, server)) == pytest.approx(0.3)
    assert only(report).status == "freed"


# Taken again


def orphaned_nanny(system: FakeSystem, project: Path, **how: str) -> Actor:
    return system.start("nanny", ppid=1, cwd=str(project), leads=True, marks=how)


@pytest.mark.parametrize("id_", [None, ("tcp", "127.0.0.1", 8000)], ids=["inode", "address"])
@pytest.mark.parametrize("after", [0.0, 0.002, 0.02, 0.1, 0.3, 0.45])
def test_an_orphaned_supervisor_is_stopped_in_the_second_round(
    system: FakeSystem, project: Path, after: float, id_: Hashable
) -> None:
    nanny = orphaned_nanny(system, project)
    server = system.server(ppid=nanny.pid, id=id_)
    system.supervise(nanny, server, after=after, id=id_)

    report = call(system)

    assert only(report).status == "freed"
    assert names(system.sent(nanny)) == ["TERM"]
    (note,) = only(report).notes
    assert note.kind == "restarted"
    assert f"nanny (pid {nanny.pid})" in note.text
    assert "ended after SIGTERM" in note_words(note)
    assert len(only(report).holders) == 2


def test_a_supervisor_that_somebody_looks_after_is_named_and_spared(
    system: FakeSystem, project: Path
) -> None:
    shell = system.start("bash", argv=("bash",), leads=True, terminal="pts/7")
    nanny = system.start("nanny", ppid=shell.pid, cwd=str(project))
    server = system.server(ppid=nanny.pid)
    system.supervise(nanny, server, after=0.05)

    report = call(system)

    assert system.sent(nanny) == []
    assert nanny.alive
    assert only(report).status == "busy"
    (note,) = only(report).notes
    assert note.text == f"started again by nanny (pid {nanny.pid})"
    assert {s.process.pid for s in system.signals} == {server.pid}  # and not its successor
    kept = [h for h in only(report).holders if h.verdict.action == "keep"]
    assert [how(h) for h in kept] == [""]


def test_no_scope_is_a_reason_to_stop_a_supervisor(system: FakeSystem) -> None:
    nanny = system.start("nanny", leads=True)  # an orphan, but in nobody's project
    server = system.server(ppid=nanny.pid)
    system.supervise(nanny, server, after=0.05)

    report = call(system, scope="any")

    assert system.sent(nanny) == []
    assert only(report).status == "busy"


@pytest.mark.parametrize("ending", [True, False], ids=["own-run", "left-behind"])
def test_a_supervisor_of_a_run_that_ends_or_has_ended_is_stopped(
    system: FakeSystem, *, ending: bool
) -> None:
    run = "99999.123.abcdef"  # nobody has that pid
    nanny = system.start("nanny", leads=True, marks={"PORTFREE_RUN_ID": run})
    server = system.server(ppid=nanny.pid, marks=nanny.process.marks)
    system.supervise(nanny, server, after=0.05)

    report = call(
        system,
        scope="orphans",
        phase="after" if ending else "call",
        ending=run if ending else None,
    )

    assert only(report).status == "freed"
    assert entry(report, server).verdict.rule == ("own-run" if ending else "left-behind")
    assert names(system.sent(nanny)) == ["TERM"]


def test_a_supervisor_with_two_servers_is_asked_once(system: FakeSystem, project: Path) -> None:
    nanny = orphaned_nanny(system, project).takes(TERM=0.3)
    for port in (8000, 8001):
        server = system.server(port, ppid=nanny.pid)
        system.supervise(nanny, server, after=0.05, port=port)

    report = call(system, 8000, 8001)

    assert names(system.sent(nanny)) == ["TERM"]
    assert all(f"nanny (pid {nanny.pid})" in o.notes[0].text for o in report.outcomes)


def test_a_supervisor_that_ignores_everything_polite_is_killed(
    system: FakeSystem, project: Path
) -> None:
    nanny = orphaned_nanny(system, project).ignores("TERM", "INT")
    server = system.server(ppid=nanny.pid)
    system.supervise(nanny, server, after=0.3)

    report = call(system, grace=1.0)

    assert names(system.sent(nanny)) == ["TERM", "INT", "KILL"]
    assert "ended after SIGTERM and SIGINT and SIGKILL" in note_words(only(report).notes[0])
    # Until then it has started a third server, and two rounds are all there are.
    assert only(report).status == "busy"
    assert "taken again, 2 times" in only(report).notes[-1].text


def test_a_supervisor_that_cannot_be_pinned_is_named(system: FakeSystem, project: Path) -> None:
    nanny = orphaned_nanny(system, project)
    nanny.unpinnable = OSError(24, "Too many open files")
    server = system.server(ppid=nanny.pid)
    system.supervise(nanny, server, after=0.0)

    report = call(system)

    assert only(report).status == "busy"
    assert system.sent(nanny) == []
    kept = [h for h in only(report).holders if h.verdict.action == "keep"]
    assert [h.verdict.rule for h in kept] == ["unknown"]
    assert "could not be pinned" in kept[0].verdict.reason


def test_a_supervisor_that_has_ended_meanwhile_is_no_reason_to_keep_its_server(
    system: FakeSystem, project: Path
) -> None:
    nanny = orphaned_nanny(system, project)
    server = system.server(ppid=nanny.pid)
    again: list[Actor] = []

    def restart() -> None:
        again.append(system.server(ppid=nanny.pid))
        # Pins are asked for in the order of the pids, and the nanny's comes after its server's.
        system.after_call["pin"] = nanny.end

    server.at_end.append(lambda: system.after(0.05, restart))

    report = call(system)

    assert names(system.sent(again[0])) == ["TERM"]
    assert only(report).status == "freed"
    assert only(report).notes == ()


def test_two_rounds_and_no_third(system: FakeSystem) -> None:
    # Everybody takes the port as soon as it is free, and nobody of them has anything in common.
    comers: list[Actor] = []

    def comes() -> None:
        comer = system.server(name=f"comer{len(comers)}")
        comer.at_end.append(comes)
        comers.append(comer)

    comes()

    report = call(system)

    assert [bool(system.sent(comer)) for comer in comers] == [True, True, False]
    assert only(report).status == "busy"
    assert [note.kind for note in only(report).notes] == ["restarted"]


def test_a_server_that_is_still_there_was_not_started_again(
    system: FakeSystem, project: Path
) -> None:
    # Its parent is an orphan that may be stopped, and yet has done nothing.
    parent = system.start("parent", cwd=str(project), leads=True)
    server = system.server(ppid=parent.pid)
    server.refuses = PermissionError(1, "Operation not permitted")

    report = call(system)

    assert system.sent(parent) == []
    assert only(report).notes == ()
    assert "refused" in how(entry(report, server))


def test_a_supervisor_that_must_be_kept_as_a_holder_is_kept(
    system: FakeSystem, project: Path
) -> None:
    # It shares another port with somebody else, and is the nanny of a server on this one.
    nanny = orphaned_nanny(system, project)
    system.listen(nanny, 8001)
    system.start("other", owner=77).holds |= nanny.holds
    server = system.server(ppid=nanny.pid)
    system.supervise(nanny, server, after=0.05)

    report = call(system, 8000, 8001)

    assert system.sent(nanny) == []
    assert [o.status for o in report.outcomes] == ["busy", "busy"]
    assert f"started again by nanny (pid {nanny.pid})" in report.outcomes[0].notes[0].text


def test_a_signal_that_is_refused_later_does_not_hide_the_first(system: FakeSystem) -> None:
    server = system.server().ignores("TERM")
    refusal = PermissionError(1, "Operation not permitted")
    server.reacts["TERM"] = lambda: setattr(server, "refuses", refusal)

    report = call(system)

    assert how(entry(report, server)).startswith("the system refused the signal after SIGTERM (")


def test_what_nobody_expects_becomes_part_of_the_report(system: FakeSystem) -> None:
    system.server()
    system.fails["process"] = OSError(24, "Too many open files")

    report = call(system)

    assert only(report).status == "busy"
    assert [note.kind for note in only(report).notes] == ["unexpected"]
    assert "Too many open files" in only(report).notes[0].text


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


# Word for who waits


def test_after_half_a_second_one_line_says_for_whom(system: FakeSystem) -> None:
    server = system.server(name="slow").takes(TERM=2.0, INT=2.0)
    notices: list[str] = []

    call(system, grace=3.0, notices=notices)

    (line,) = notices
    assert line.startswith(f"waiting for slow (pid {server.pid}) to let go of 8000/tcp, 2.")
    assert line.endswith(" s more before it is killed")


def test_whoever_is_quick_is_not_talked_about(system: FakeSystem) -> None:
    system.server().takes(TERM=0.4)
    notices: list[str] = []

    call(system, notices=notices)

    assert notices == []


def test_the_line_names_the_workers_if_their_master_has_ended(system: FakeSystem) -> None:
    master = system.server(name="gunicorn")
    worker = system.fork(master, "worker").ignores("TERM")
    notices: list[str] = []

    call(system, notices=notices)

    assert f"(pid {worker.pid})" in notices[0]


def test_the_line_names_the_kernel_if_nobody_is_left(system: FakeSystem) -> None:
    # The process is gone, and its socket takes its time.
    server = system.server().takes(TERM=0.0)
    system.lasting |= server.holds
    other = system.server(8001).ignores("TERM", "INT")
    other.reacts["TERM"] = lambda: system.after(0.4, other.end)
    system.lasting |= other.holds
    notices: list[str] = []

    report = call(system, 8000, 8001, notices=notices)

    assert notices == []
    assert not report.ok


# Words


def target(system: FakeSystem, *, root: bool = True) -> Suspect:
    server_process = system.server()
    pin = system.pin(server_process.process)
    assert pin is not None
    return Suspect(Holder(server_process.process), pin, root=root)


def test_nothing_is_said_about_a_target_that_was_not_touched(system: FakeSystem) -> None:
    assert ending_words(target(system).ending(polite=True)) == ""


def test_a_root_and_a_worker_that_ended_unasked_are_told_apart(system: FakeSystem) -> None:
    root, worker = target(system), target(system, root=False)
    for each in (root, worker):
        each.lives, each.ended_after = False, 0.1
    assert ending_words(root.ending(polite=True)) == "ended by itself"
    assert ending_words(worker.ending(polite=True)) == "ended with the process that it belongs to"


def test_a_supervisor_that_lives_on_goes_on(system: FakeSystem) -> None:
    nanny = target(system)
    nanny.restarts = frozenset({Port(8000)})
    nanny.sent += ["TERM"]
    assert ending_words(nanny.ending(polite=True)) == "goes on after SIGTERM"


def test_this_process_is_never_signalled(system: FakeSystem) -> None:
    system.listen(system.caller)

    report = call(system, scope="any", grace=0.0)

    assert system.signals == []
    assert entry(report, system.caller).pid == os.getpid()
    assert entry(report, system.caller).verdict.rule == "self"


# Whatever happens


def _deed(system: FakeSystem, server: Actor, name: str) -> Callable[[], None]:
    def step() -> None:
        match name:
            case "end":
                server.end()
            case "let go":
                server.let_go()
            case "fork" if server.alive:
                system.fork(server)
            case "recycle" if server.alive:
                system.recycle(server)
            case "refuse":
                server.refuses = PermissionError(1, "Operation not permitted")
            case "hide":
                server.hidden = True
            case "unpin":
                server.unpinnable = OSError(24, "Too many open files")

    return step


@st.composite
def machines(draw: st.DrawFn) -> tuple[FakeSystem, float, float]:
    """A machine where anything may go on, with a grace and a patience."""
    system = FakeSystem(polite=draw(st.booleans()))
    seconds = st.sampled_from([0.0, 0.001, 0.02, 0.3, 1.0, 2.9])
    runner = system.start("pytest", ppid=system.shell.pid)
    nanny = system.start("nanny", leads=True)
    parents = [1, system.shell.pid, runner.pid, nanny.pid, 0, 499]
    for _ in range(draw(st.integers(1, 4))):
        port = draw(st.sampled_from([8000, 8001]))
        # The portable backend tells sockets apart by their addresses alone.
        id_ = draw(st.sampled_from([None, ("tcp", "127.0.0.1", port)]))
        server = system.server(
            port,
            ppid=draw(st.sampled_from(parents)),
            owner=draw(st.sampled_from([1000, 1000, 77])),
            marks=draw(st.sampled_from([{}, {"PYTEST_VERSION": "9"}])),
            id=id_,
        )
        for name in draw(st.sets(st.sampled_from(["TERM", "INT", "KILL"]))):
            delay = draw(st.sampled_from([None, 0.01, 0.4]))
            server.dies[cast("Signal", name)] = delay
        if draw(st.booleans()):
            system.supervise(nanny, server, after=draw(seconds), port=port, id=id_)
        if draw(st.booleans()):
            system.fork(server).ignores("TERM")
        happens = draw(
            st.sampled_from(["end", "let go", "fork", "recycle", "refuse", "hide", "unpin", ""])
        )
        step = _deed(system, server, happens)
        moment = draw(st.sampled_from(["now", "later", "owners", "holds", "process", "pin"]))
        if moment == "now":
            step()
        elif moment == "later":
            system.after(draw(seconds), step)
        else:
            system.after_call[moment] = step
    return system, draw(st.sampled_from([0.0, 0.2, 1.0])), draw(st.sampled_from([0.0, 0.7]))


@given(
    machine=machines(),
    scope=st.sampled_from(["orphans", "mine", "any"]),
    dry_run=st.booleans(),
)
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_promises_are_kept_whatever_happens(
    machine: tuple[FakeSystem, float, float], scope: Scope, *, dry_run: bool
) -> None:
    system, grace, wait = machine
    others = {id(system.shell), id(system.init), id(system.caller)}
    report = call(system, 8000, 8001, scope=scope, grace=grace, wait=wait, dry_run=dry_run)

    # Nobody was signalled but whom the report names.
    told = {
        (holder.pid, holder.started)
        for outcome in report.outcomes
        for holder in outcome.holders
        # Judged anew, it may have to be kept by then: somebody may have come to share its socket.
        if holder.verdict.action == "stop" or "SIG" in how(holder)
    }
    noted = " ".join(note.text for outcome in report.outcomes for note in outcome.notes)
    for sent in system.signals:
        process = sent.process
        by_note = f"started again by {process.name} (pid {process.pid})" in noted
        assert (process.pid, process.started) in told or by_note
        assert process.owner == 1000
        assert process.name not in ("stranger", "pytest", "zsh", "systemd")
    assert not dry_run or system.signals == []
    assert all(
        server_process.alive
        for server_process in system.actors.values()
        if id(server_process) in others
    )

    # And a port that is called free was free when the call returned, or somebody came after that.
    for outcome in report.outcomes:
        assert outcome.ok or outcome.holders or outcome.notes
        if outcome.status == "freed":
            assert outcome.holders
