"""What the two ends of a run come to."""

from __future__ import annotations

import pytest

from portfree.conclusion import Conclusion, of_beginning, of_end
from portfree.model import HolderReport, Leak, Note, Outcome, Port, Report, Request, Verdict

PORT = Port(8000)
US = 900

KEPT = Verdict("keep", "attended", "started by zsh (pid 9)")
ITSELF = Verdict("keep", "self", "held by this very process (python, pid 900)")
EARLY = Verdict("keep", "own-run", "started for this run already")
STUBBORN = Verdict("stop", "own-run", "started in this run")


def holder(verdict: Verdict = KEPT, pid: int = 7) -> HolderReport:
    return HolderReport(
        pid=pid,
        name="python",
        command="python server.py",
        user="me",
        uid=1000,
        started=None,
        cwd=None,
        launcher="",
        test="",
        addresses=("127.0.0.1",),
        root=True,
        verdict=verdict,
    )


def busy(*holders: HolderReport, port: Port = PORT) -> Outcome:
    return Outcome(port, "busy", ok=False, holders=holders)


def report(*outcomes: Outcome, **options: str) -> Report:
    request = Request(tuple(outcome.port for outcome in outcomes), **options)  # type: ignore[arg-type]
    return Report(request, outcomes)


FREE = Outcome(PORT, "free")
FREED = Outcome(PORT, "freed", holders=(holder(STUBBORN),))
LEAK = Leak("127.0.0.1", Port(9000), holder(STUBBORN))


@pytest.mark.parametrize("on_busy", ["warn", "fail"])
@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (FREE, False),
        (FREED, True),
        (Outcome(PORT, "free", notes=(Note("closing", "3 connections"),)), False),
        (Outcome(PORT, "free", notes=(Note("privileged", "needs a right"),)), True),
    ],
)
def test_a_free_port_lets_a_run_begin(outcome: Outcome, on_busy: str, *, shown: bool) -> None:
    found = of_beginning(report(outcome, on_busy=on_busy))
    assert found == Conclusion(shown=(outcome,) if shown else ())


def test_a_busy_port_refuses_a_strict_run() -> None:
    assert of_beginning(report(busy(holder()))) == Conclusion(shown=(busy(holder()),))
    (problem,) = of_beginning(report(busy(holder()), on_busy="fail")).problems
    assert problem.setting == "on_busy"
    assert problem.what.startswith("8000/tcp is busy: kept python server.py (pid 7): attended")


@pytest.mark.parametrize(("verdict", "pid"), [(ITSELF, US), (EARLY, 7)])
def test_what_this_run_has_started_already_is_not_busy(verdict: Verdict, pid: int) -> None:
    found = of_beginning(report(busy(holder(verdict, pid)), on_busy="fail"), pid=US)
    said = f"8000/tcp is in use by this run already: python (pid {pid}), {verdict.reason}"
    assert found == Conclusion(notes=(said,))


def test_what_an_ancestor_has_is_busy() -> None:
    assert of_beginning(report(busy(holder(ITSELF)), on_busy="fail"), pid=US).problems


def test_what_an_ancestor_has_opened_meanwhile_is_told_and_no_problem() -> None:
    found = end(FREE, busy(holder(ITSELF)))
    assert found.shown == (busy(holder(ITSELF)),)
    assert found.problems == ()


def test_the_run_itself_beside_somebody_else() -> None:
    both = busy(holder(ITSELF, US), holder())
    found = end(FREE, both)
    assert found.shown == (both,)
    assert [leak.holder.pid for leak in found.leaks] == [US]


def test_nobody_is_seen_at_either_end() -> None:
    hidden = busy()._replace(notes=(Note("invisible", "nobody is seen"),))
    assert end(hidden, hidden).shown == (hidden,)


def test_one_of_others_is_enough_to_be_busy() -> None:
    both = busy(holder(EARLY), holder(pid=8))
    assert of_beginning(report(both, on_busy="fail")).problems


def end(before: Outcome, after: Outcome, *leaks: Leak, strict: bool = True) -> Conclusion:
    options = {"on_busy": "fail", "leaks": "fail"} if strict else {}
    return of_end(report(before, **options), report(after), leaks, pid=US)


def what(found: Conclusion) -> list[tuple[str, str]]:
    return [(problem.setting, problem.what) for problem in found.problems]


def test_a_run_that_leaves_its_ports_free() -> None:
    assert end(FREE, FREE) == Conclusion()
    assert end(FREED, FREED) == Conclusion(shown=(FREED,))


@pytest.mark.parametrize(
    "outcome",
    [
        busy(holder()),
        busy(holder(STUBBORN)),
        busy(holder(EARLY), holder(pid=8)),
        busy(),  # with a note, such as a holder that is not seen
    ],
)
def test_a_port_that_is_busy_after_it(outcome: Outcome) -> None:
    outcome = outcome._replace(notes=(Note("invisible", "nobody is seen"),))

    found = end(FREE, outcome)

    assert found.shown == (outcome,)
    assert what(found) == [("on_busy", "8000/tcp is busy after it")]
    assert end(FREE, outcome, strict=False).problems == ()


def test_two_ports_that_are_busy_after_it() -> None:
    both = report(busy(holder()), busy(holder(), port=Port(8001)), on_busy="fail")
    assert what(of_end(both, both, ())) == [("on_busy", "8000/tcp, 8001/tcp are busy after it")]


def test_a_port_that_somebody_else_had_all_the_time_is_told_once() -> None:
    found = end(busy(holder()), busy(holder()))
    assert found.shown == ()
    (doubt,) = found.warnings
    assert doubt.startswith("8000/tcp was busy: these tests may have talked to python server.py")


def test_a_port_that_has_changed_hands_is_told_twice() -> None:
    found = end(busy(holder()), busy(holder(pid=8)))
    assert found.shown == (busy(holder(pid=8)),)
    assert len(found.warnings) == 1


def test_what_the_run_itself_has_opened_and_not_closed_is_left_behind() -> None:
    found = end(FREE, busy(holder(ITSELF, pid=US)))
    assert found.shown == ()
    assert [leak.port for leak in found.leaks] == [PORT]
    (line,) = found.warnings
    assert line.startswith("python (pid 900), the run itself, still listens on 127.0.0.1:8000")
    assert what(found) == [
        ("leaks", "a server was left behind"),
        ("on_busy", "8000/tcp is busy after it"),
    ]


def test_what_the_run_has_had_from_the_start_it_may_keep() -> None:
    had = busy(holder(ITSELF, pid=US))
    assert end(had, had) == Conclusion()


def test_leaks() -> None:
    assert what(end(FREE, FREE, LEAK)) == [("leaks", "a server was left behind")]
    assert what(end(FREE, FREE, LEAK, LEAK)) == [("leaks", "2 servers were left behind")]
    lenient = end(FREE, FREE, LEAK, strict=False)
    assert lenient.problems == ()
    assert len(lenient.warnings) == 1


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, []),
        ({"on_busy": "fail"}, ["on_busy"]),
        ({"leaks": "fail"}, ["leaks"]),
        ({"leaks": "stop"}, []),
    ],
)
def test_what_portfree_could_not_do_is_green_only_where_nothing_was_promised(
    options: dict[str, str], settings: list[str]
) -> None:
    found = of_end(report(FREE, **options), None, (), trouble="no such luck")
    assert found.warnings == ("no such luck",)
    assert [problem.setting for problem in found.problems] == settings
