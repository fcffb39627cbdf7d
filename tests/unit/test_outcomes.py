"""The report says what happened: all of it, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.fake_system import LOOK, FakeSystem, call, entry, only
from helpers.reports import how, took
from portfree._core.outcomes import Outcomes
from portfree.model import Note, Port, Request

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("project", "unmarked")

PORT = Port(8000)


def test_a_port_that_was_never_held_is_free_without_a_word(system: FakeSystem) -> None:
    system.server(8001)
    report = call(system, 8000, 8001)
    assert report.outcomes[0] == (PORT, "free", True, (), (), 0.0)


def test_outcomes_keep_the_order_of_the_request(system: FakeSystem) -> None:
    system.server(8001)
    report = call(system, 8002, 8001, 8000)
    assert [o.port.number for o in report.outcomes] == [8002, 8001, 8000]


def test_a_holder_is_told_with_all_that_is_known(system: FakeSystem, project: Path) -> None:
    nobody = system.start("npm run dev", ppid=system.shell.pid, argv=("npm run dev",))
    server = system.start(
        "node",
        ppid=nobody.pid,
        argv=("node", "serve.js", "--password=hunter2"),
        cwd=str(project),
        marks={"PYTEST_CURRENT_TEST": "tests/test_a.py::test_b (setup)"},
    )
    system.listen(server, address="127.0.0.1")
    system.listen(server, address="::1")
    system.listen(server, 8001, address="0.0.0.0")
    told = entry(call(system, 8000, 8001, dry_run=True), server)
    assert told.pid == server.pid
    assert told.name == "node"
    assert told.command.startswith("node serve.js --password=")
    assert "hunter2" not in told.command
    assert (told.user, told.uid) == ("me", 1000)
    assert told.started == server.process.started
    assert told.cwd == str(project)
    assert "zsh" in told.launcher
    assert "pts/1" in told.launcher
    assert told.test == "tests/test_a.py::test_b (setup)"
    assert told.addresses == ("127.0.0.1", "::1")
    assert told.root
    assert (how(told), took(told)) == ("", None)


def test_a_windows_owner_has_no_uid() -> None:
    system = FakeSystem(name="win32", polite=False)
    server = system.server()
    server.process = server.process._replace(owner="SHOP\\me")
    told = entry(call(system, dry_run=True), server)
    assert told.uid is None


def test_a_kernel_thread_without_a_command_line_is_told_by_its_name(system: FakeSystem) -> None:
    server = system.start("kworker", argv=())
    system.listen(server)
    assert entry(call(system, dry_run=True), server).command == "kworker"


def test_every_signal_has_an_entry_and_every_entry_with_one_a_signal(system: FakeSystem) -> None:
    master = system.server(name="master").ignores("TERM", "INT")
    system.fork(master)
    system.after(0.2, lambda: system.fork(master))
    kept = system.server(8001, owner=77)
    report = call(system, 8000, 8001, grace=1.0)
    signalled = {sent.process.pid for sent in system.signals}
    told = {h.pid for o in report.outcomes for h in o.holders if h.ending and h.ending.signals}
    assert len(signalled) == 3
    assert told == signalled
    assert how(entry(report, kept, 8001)) == ""


def test_a_port_that_was_held_and_is_seen_free_is_freed_whoever_freed_it(
    system: FakeSystem,
) -> None:
    server = system.server(owner=77)  # kept
    system.after_call["process"] = server.let_go
    outcome = only(call(system))
    assert outcome.status == "freed"
    assert [holder.verdict.action for holder in outcome.holders] == ["keep"]


def test_what_was_said_of_a_port_that_is_free_by_now_is_taken_back(system: FakeSystem) -> None:
    outcomes = Outcomes(Request((PORT,)), system)
    outcomes.note(PORT, Note("invisible", "somebody"))
    outcomes.note(PORT, Note("invisible", "somebody"))
    assert [n.kind for n in only(outcomes.report()).notes] == ["invisible"]
    outcomes.still_held([PORT])
    outcomes.note(PORT, Note("restarted", "again"))
    assert [n.kind for n in only(outcomes.report()).notes] == ["restarted"]
    outcomes.set_status(PORT, "free", [Note("closing", "1 connection")])
    assert [n.kind for n in only(outcomes.report()).notes] == ["closing"]


def test_how_long_each_port_took(system: FakeSystem) -> None:
    system.server(8000).takes(TERM=0.2)
    system.server(8001, owner=77)
    first, second = call(system, 8000, 8001).outcomes
    assert first.seconds == pytest.approx(LOOK + 0.2 + LOOK, abs=0.006)
    assert second.seconds >= first.seconds


# Dry runs


def test_a_dry_run_touches_nothing_and_says_what_it_would_do(system: FakeSystem) -> None:
    server = system.server()
    outcome = only(call(system, dry_run=True))
    assert (outcome.status, outcome.ok) == ("busy", True)
    assert [(h.verdict.action, how(h)) for h in outcome.holders] == [("stop", "")]
    assert system.signals == []
    assert server.alive
    assert system.now() == LOOK


def test_a_dry_run_does_not_wait_for_a_live_run(system: FakeSystem) -> None:
    runner = system.start("pytest", ppid=system.shell.pid)
    system.server(ppid=runner.pid)
    outcome = only(call(system, dry_run=True, wait=60.0))
    assert (outcome.status, outcome.ok) == ("busy", False)
    assert system.now() == LOOK


def test_one_that_would_be_kept_is_enough_to_stay_busy(system: FakeSystem) -> None:
    system.server()
    system.server(owner=77)
    assert not only(call(system, dry_run=True)).ok


def test_an_owner_that_cannot_be_seen_is_too(system: FakeSystem) -> None:
    system.server()
    system.server(owner=77).hidden = True
    outcome = only(call(system, dry_run=True))
    assert not outcome.ok
    assert [note.kind for note in outcome.notes] == ["invisible"]


def test_a_dry_run_of_free_ports_is_all_free(system: FakeSystem) -> None:
    report = call(system, 8000, 8001, dry_run=True)
    assert report.ok
    assert [o.status for o in report.outcomes] == ["free", "free"]
    assert set(system.asked) == {"bind"}
