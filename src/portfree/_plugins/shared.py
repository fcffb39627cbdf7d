"""What the plugins share: how a run begins, and the lines on its two ends.

Nothing in here needs pytest or tox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager

from portfree._core.context import Moment
from portfree._core.free import free
from portfree._output.words import summary
from portfree.conclusion import Conclusion, Problem, of_beginning
from portfree.errors import PortfreeError
from portfree.model import Request
from portfree.run import Run

Line = tuple[str, bool]
"""Something to say, and whether it is a warning."""


def begin(
    request: Request,
    what: str,
    notice: Callable[[str], None],
    environ: MutableMapping[str, str] | None = None,
) -> tuple[Run | None, Conclusion]:
    """Free the ports and open a run before *what*: "the tests". Raises nothing but Ctrl-C.

    The run is not open if the conclusion has problems, and None if portfree itself has failed.
    """
    run, found = None, Conclusion()
    trouble: list[str] = []
    with harmless(trouble):
        before = free(request, notice=notice, moment=Moment("before"))
        run, found = Run(before, environ=environ, notice=notice), of_beginning(before)
        if found.problems:  # which tell of the ports that are busy
            found = found._replace(shown=tuple(each for each in found.shown if each.ok))
        else:
            run.open()
    if not trouble:
        return run, found
    why = f"the ports could not be looked after before {what}: {trouble[0]}"
    if request.strict:
        return None, Conclusion(problems=(Problem("on_busy", why),))
    return None, Conclusion(warnings=(why,))


def refusal(run: Run | None, found: Conclusion) -> str:
    """Why no test may be started; empty if it may."""
    if run is None or not found.problems:
        return found.why()
    return f"no test was started, for free_ports_on_busy is fail, and {found.why()}"


def lines(found: Conclusion, prefix: str = "") -> list[Line]:
    """What was stopped, kept and left behind; nothing if nothing was."""
    said: list[Line] = []
    trouble: list[str] = []
    with harmless(trouble):
        said += [(f"{prefix}{summary(outcome)}", not outcome.ok) for outcome in found.shown]
    said += [(f"what was done cannot be told: {why}", True) for why in trouble]
    return [*said, *((warning, True) for warning in found.warnings)]


@contextmanager
def harmless(trouble: list[str]) -> Iterator[None]:
    """Note what goes wrong in here: portfree's own failure turns no run red."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - as it says
        trouble.append(str(error) if isinstance(error, PortfreeError) else repr(error))
