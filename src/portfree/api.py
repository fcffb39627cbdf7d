"""`free_ports`: what people call."""

from __future__ import annotations

from collections.abc import Sequence

from portfree._core import settings
from portfree._core.free import free
from portfree._core.ports import parse_ports
from portfree._output.console import tell
from portfree.model import Leaks, OnBusy, Scope
from portfree.run import FreePortsReport, busy_error, log_outcomes


def free_ports(
    *ports: int | str,
    scope: Scope | None = None,
    grace: float | None = None,
    wait: float | None = None,
    on_busy: OnBusy | None = None,
    dry_run: bool = False,
    leaks: Leaks | None = None,
    leaks_ignore: Sequence[int | str] | None = None,
) -> FreePortsReport:
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

    *leaks_ignore*: ports and programs that may be left behind: ``[5037, "adb", "gradle*"]``.

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
        "leaks_ignore": leaks_ignore,
    }
    request = settings.request("library", parse_ports(*ports), given, table)
    report = FreePortsReport(*free(request, notice=tell))
    failed = request.on_busy == "fail" and not report.ok
    log_outcomes(outcome for outcome in report.outcomes if outcome.ok or not failed)
    if failed:
        raise busy_error(report)
    return report
