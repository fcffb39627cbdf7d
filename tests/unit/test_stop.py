"""Stopping, on a machine in memory: who gets which signal at which moment, and who gets none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.fake_system import LOOK, Actor, FakeSystem, call, entry, names, only
from helpers.reports import how, took
from portfree._system.interface import Signal

if TYPE_CHECKING:
    pass

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
