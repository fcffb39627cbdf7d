"""The public types, as people use them: checked by mypy and pyright, and never run."""

from __future__ import annotations

from typing import Literal, assert_type

from portfree import (
    Conclusion,
    Ending,
    FreePortsReport,
    HolderReport,
    Leak,
    Note,
    Outcome,
    Port,
    PortfreeError,
    PortsBusyError,
    PortsLeakedError,
    PortSpecError,
    Problem,
    Report,
    Request,
    Run,
    Verdict,
    free_ports,
)


def call() -> None:
    report = free_ports(8000, "9000-9010", scope="mine", grace=5.0, wait=1, on_busy="fail")
    assert_type(report, FreePortsReport)
    plain: Report = report
    assert_type(plain.ok, bool)
    assert_type(plain.freed, tuple[Port, ...])
    assert_type(plain.request, Request)
    assert_type(plain.outcomes, tuple[Outcome, ...])
    for outcome in plain.outcomes:
        assert_type(outcome.status, Literal["free", "freed", "busy"])
        assert_type(outcome.notes, tuple[Note, ...])
        for holder in outcome.holders:
            assert_type(holder, HolderReport)
            assert_type(holder.verdict, Verdict)
            assert_type(holder.ending, Ending | None)
    number, protocol = plain.outcomes[0].port
    assert_type(number, int)
    assert_type(protocol, Literal["tcp", "udp"])


def block() -> None:
    with free_ports(8000, leaks="stop") as run:
        assert_type(run, Run)
        assert_type(run.id, str)
    assert_type(run.before, Report)
    assert_type(run.after, FreePortsReport | None)
    assert_type(run.leaks, tuple[Leak, ...])
    end = run.conclusion()
    assert_type(end, Conclusion)
    assert_type(end.problems, tuple[Problem, ...])


def errors() -> None:
    try:
        free_ports(8000)
    except PortsBusyError as error:
        assert_type(error.report, Report)
    except PortsLeakedError as error:
        assert_type(error.leaks, tuple[Leak, ...])
    except PortSpecError as error:
        wrong: ValueError = error
        raise wrong from error
    except PortfreeError as error:
        assert_type(str(error), str)


def refused() -> None:
    free_ports(8000, scope="everything")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    free_ports([8000])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    free_ports(8000).ok = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
