"""Ports that are taken again, and what is said meanwhile, on a machine in memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.fake_system import Actor, FakeSystem, call, entry, names, only
from helpers.reports import how
from portfree._core.ancestry import Holder
from portfree._core.context import Moment
from portfree._core.survey import Suspect
from portfree._output.words import ending_words, note_words
from portfree._system.interface import Signal
from portfree.model import Port, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("project", "unmarked")


def times(sent: list[tuple[Signal, float]]) -> list[float]:
    return [at for _, at in sent]


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

    report = call(system, scope="orphans", moment=Moment("after", run) if ending else Moment())

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
