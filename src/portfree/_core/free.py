"""Free the requested ports: every surface calls `free`."""

from __future__ import annotations

import time
from collections.abc import Callable

from portfree._system import backend
from portfree._system.probe import bind
from portfree.model import Note, Outcome, Port, Report, Request

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree._core.context import Moment
    from portfree._core.loop import Freeing
    from portfree._system.interface import System


def free(
    request: Request,
    *,
    notice: Callable[[str], None] | None = None,
    moment: Moment | None = None,
    system: System | None = None,
) -> Report:
    """Free the requested ports, and say what was done. What goes wrong is part of the report.

    *notice* gets one line when a server takes its time. *moment*: as a hook, before or after a run
    (default: a call). *system*: the machine, for tests.

    Raises `PortfreeError` for a ``PORTFREE_BACKEND`` that is none.
    """
    backend()  # a wrong one is an error whether it is needed or not
    started = time.monotonic()
    held = list(request.ports)
    freeing: Freeing | None = None
    try:
        held = [port for port in held if (system.bind if system else bind)(port) != "free"]
        if not held:
            outcomes = tuple(Outcome(port, "free") for port in request.ports)
            return Report(request, outcomes, time.monotonic() - started)
        # Loaded only now: a call that finds every port free takes microseconds.
        from portfree._core.loop import Freeing

        freeing = Freeing(request, moment, notice, system)
        return freeing.run(held)
    except Exception as failure:  # noqa: BLE001 - it must not take the test session down
        if freeing is not None:
            return freeing.give_up(failure)
        outcomes = tuple(_not_examined(p, failure, held=p in held) for p in request.ports)
        return Report(request, outcomes, time.monotonic() - started)


def _not_examined(port: Port, failure: Exception, *, held: bool) -> Outcome:
    """The outcome of a port where nothing further could be loaded, such as without descriptors."""
    if not held:
        return Outcome(port, "free")
    text = f"the holders of {port} could not be looked for: {failure}"
    note = Note("untested", text, "close files or sockets, then try again, or report it")
    return Outcome(port, "busy", ok=False, notes=(note,))
