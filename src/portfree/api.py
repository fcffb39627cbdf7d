"""`free_ports`: find who holds the ports, decide, stop, and look whether they are free now."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable

from portfree._core import settings
from portfree._core.ports import Port, parse_ports
from portfree._system import backend
from portfree._system.probe import bind
from portfree.errors import PortsBusyError
from portfree.model import Leaks, Note, OnBusy, Outcome, Report, Request, Scope

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree._core.context import Phase
    from portfree._system.interface import System

Notice = Callable[[str], None]


def free_ports(
    *ports: int | str,
    scope: Scope | None = None,
    grace: float | None = None,
    wait: float | None = None,
    on_busy: OnBusy | None = None,
    dry_run: bool = False,
    leaks: Leaks | None = None,
) -> Report:
    """Free these ports now, and say who held them.

    In a ``with`` statement it frees them again at the end, whatever happens in between; children
    that are started meanwhile carry the run's id::

        with free_ports(8000):
            session.run("pytest")

    *ports*: ints, or texts such as ``"9000-9010, 8125/udp"``; without any, the ports and settings
    of ``[tool.portfree]`` in the nearest pyproject.toml.

    *scope*: whom it may stop. ``"orphans"`` (the default): servers that a run left behind, and
    those in our project that nobody looks after. ``"project"``: every server of ours in our project
    that no live run uses. ``"mine"``: every server of ours that no live run
    uses. ``"any"``: live runs and other users' servers too, as far as the kernel lets us.

    *grace*: seconds that a server gets to shut down (3.0): SIGTERM at 0, SIGINT at half, SIGKILL at
    the end.

    *wait*: seconds to wait for a live run to give a port up (0.0).

    *on_busy*: ``"warn"`` (the default) logs a warning for each port that is still busy, ``"fail"``
    raises.

    *dry_run*: judge, and touch nothing.

    *leaks*: what the end of a ``with`` block does about listeners on other ports that the block has
    left behind: ``"ignore"``, ``"warn"`` (the default), ``"stop"``, or ``"fail"``, which stops them
    and raises.

    Takes at most ``wait + 2 * grace`` seconds, all ports together (and no less than a second, for
    the kernel to clear up, where the grace is shorter than half of that).

    Raises `PortSpecError` for a port that is none, `PortfreeError` for another bad value or a bad
    ``[tool.portfree]``, and `PortsBusyError` as *on_busy* says.
    """
    table = None
    if not ports:
        from portfree._core import pyproject

        table = pyproject.load(".")
    given = {
        "scope": scope,
        "grace": grace,
        "wait": wait,
        "on_busy": on_busy,
        "dry_run": dry_run,
        "leaks": leaks,
    }
    request = settings.request("library", parse_ports(*ports), given, table)
    report = free(request, notice=tell)
    failed = request.on_busy == "fail" and not report.ok
    log_outcomes(outcome for outcome in report.outcomes if outcome.ok or not failed)
    if failed:
        raise busy_error(report)
    return report


def free(
    request: Request,
    *,
    notice: Notice | None = None,
    phase: Phase = "call",
    ending: str | None = None,
    began: float | None = None,
    quiet: Collection[Port] = (),
    system: System | None = None,
) -> Report:
    """Free the requested ports; the way through the house, for the library and every hook.

    *notice* gets one line when a server takes its time. *phase*: as a hook, before or after a run;
    *ending*: the element of the run that is being ended, *began*: when that was, and *quiet*: the
    ports that were free then. *system*: the machine, for tests.
    """
    backend()  # a wrong one is an error whether it is needed or not
    started = time.monotonic()
    held = list(request.ports)
    try:
        held = [port for port in held if (system.bind if system else bind)(port) != "free"]
        if not held:
            outcomes = tuple(Outcome(port, "free") for port in request.ports)
            return Report(request, outcomes, time.monotonic() - started)

        # Loaded only now: a call that finds every port free takes microseconds.
        from portfree._core import free as rounds
        from portfree._core.judge import judge_all, with_origin
        from portfree._core.outcomes import Ledger
        from portfree._core.stop import longest, stop
        from portfree._core.survey import context_for, survey, with_users
        from portfree._system import current

        system = system or current()
    except Exception as failure:  # noqa: BLE001 - such as no more files that may be opened
        outcomes = tuple(_unexamined(p, failure, held=p in held) for p in request.ports)
        return Report(request, outcomes, time.monotonic() - started)
    ledger = Ledger(request, system)
    patience = system.now() + request.wait
    deadline = patience + longest(request.grace)
    notify = _once(notice)
    try:
        while held and system.now() < deadline:
            with survey(system, held) as seen:
                held = rounds.settle(system, held, seen, ledger)
                context = context_for(
                    system,
                    seen.holders,
                    scope=request.scope,
                    phase=phase,
                    ending=ending,
                    began=began,
                    quiet=quiet,
                )
                seen.holders = tuple(with_origin(holder, context) for holder in seen.holders)
                verdicts = judge_all(seen.holders, context)
                if with_users(system, seen, verdicts):
                    verdicts = judge_all(seen.holders, context)
                targets = rounds.choose(system, seen, verdicts, context, ledger)
                ledger.leave(held, seen)
                if targets and not request.dry_run:
                    try:
                        stop(
                            system,
                            targets,
                            grace=request.grace,
                            deadline=deadline,
                            approve=rounds.approver(targets, context),
                            notify=notify,
                        )
                    finally:
                        ledger.tried(targets)
                    rounds.watch_for_return(system, targets, context, deadline)
                elif rounds.unseen(held, seen) or rounds.vanished(
                    system, seen, verdicts, ledger, deadline
                ):
                    continue  # somebody has come since the survey, or was about to go
                elif request.dry_run or not rounds.wait_for_live_run(
                    system, seen, verdicts, patience, notify
                ):
                    break
        rounds.last_look(system, held, ledger)
    except Exception as failure:  # noqa: BLE001 - it must not take the test session down
        rounds.give_up(system, held, ledger, failure)
    return ledger.report()


def _unexamined(port: Port, failure: BaseException, *, held: bool) -> Outcome:
    """The outcome of a port where portfree itself could not be loaded any further."""
    text = f"who holds {port} could not be looked for: {failure}"
    instead = "close files or sockets, then try again"
    if isinstance(failure, ImportError):
        instead = f"{instead}; if that does not help, install portfree anew"
    elif not isinstance(failure, (OSError, MemoryError)):
        instead = "try again; if that does not help, please report it"
    note = Note("untested", text, instead)
    return Outcome(port, "busy", ok=False, notes=(note,)) if held else Outcome(port, "free")


def tell(line: str) -> None:
    """Say something on stderr, while it happens."""
    from contextlib import suppress

    from portfree._core.redact import safe

    with suppress(OSError, ValueError):  # nobody reads there any more, and there is work to do
        print(f"portfree: {safe(line)}", file=sys.stderr, flush=True)  # noqa: T201


def busy_error(report: Report) -> PortsBusyError:
    """The error for the ports that are still busy."""
    from portfree._output.text import summary

    return PortsBusyError("; ".join(summary(o) for o in report.outcomes if not o.ok), report)


def log_outcomes(outcomes: Iterable[Outcome]) -> None:
    """Log what was done, and nothing if nothing was: nox shows records of every library."""
    told = [outcome for outcome in outcomes if outcome.status != "free"]
    if not told:
        return
    try:
        import logging

        from portfree._output.text import summary
    except (ImportError, OSError, MemoryError):
        return  # what cannot even be loaded cannot be said

    logger = logging.getLogger("portfree")
    for outcome in told:
        level = logging.INFO if outcome.ok else logging.WARNING
        logger.log(level, "%s", summary(outcome))


def _once(notice: Notice | None) -> Notice:
    """Pass on the first line, and no other."""
    said = notice is None

    def notify(line: str) -> None:
        nonlocal said
        if notice is not None and not said:
            said = True
            notice(line)

    return notify
