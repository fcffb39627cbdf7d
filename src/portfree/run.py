"""A run: a stretch of work between two times of freeing the ports; the id of what is born in it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from pathlib import PurePath
from types import TracebackType

from portfree._core import run_id
from portfree._core.context import Moment
from portfree._core.free import free
from portfree._output.console import tell
from portfree._output.text import as_text
from portfree._output.words import leak_line, summary
from portfree._system import current
from portfree._system.interface import System
from portfree.conclusion import Conclusion, doubtful, of_end
from portfree.errors import PortfreeError, PortsBusyError, PortsLeakedError
from portfree.model import Leak, Outcome, Port, Report, Request

_NOX = (2025, 2, 9)


class FreePortsReport(Report):
    """The `Report` of `free_ports`. In a ``with`` statement it opens a `Run`, and its end frees the
    ports again. ``str()`` gives the text that the command prints.
    """

    _run: Run | None = None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed")

    def __enter__(self) -> Run:
        if self._run is not None:
            raise RuntimeError("this report has opened a run: call free_ports() for another one")
        run = Run(self)
        object.__setattr__(self, "_run", run)
        return run.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._run is not None:
            self._run.__exit__(kind, error, traceback)

    def __str__(self) -> str:
        return as_text(self)


class Run:
    """A guarded stretch of work, as ``with free_ports(8000) as run`` opens it.

    Its id goes to child processes in ``PORTFREE_RUN_ID``. The end frees the ports again: it stops
    what this run has started and left on them, and orphans, whatever the beginning's scope was.
    """

    def __init__(
        self,
        before: Report,
        *,
        environ: MutableMapping[str, str] | None = None,
        system: System | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        """*environ*: where the run's id goes, for child processes (`os.environ`)."""
        self.before = before
        """What was found, and done, when the run began."""
        self.after: FreePortsReport | None = None
        """The same of its end; None as long as it goes on."""
        self.leaks: tuple[Leak, ...] = ()
        """What it has left behind on other ports."""
        self._environ = os.environ if environ is None else environ
        self._system = system or current()
        self._notice = notice or tell
        self._pid = os.getpid()
        self._outer = ""
        self._element = ""
        self._id = ""
        self._listeners: frozenset[object] | None = None
        self._began: float | None = None
        self._trouble = ""
        self.told: set[tuple[int, str, Port]] = set()
        """The pids, addresses and ports of leaks that were told already."""

    def __str__(self) -> str:
        parts = [f"before:\n{self.before}"]
        if self.after is not None:
            parts.append(f"after:\n{self.after}")
        return "\n".join([*parts, *map(leak_line, self.leaks)])

    @property
    def id(self) -> str:
        """The run's id: what ``PORTFREE_RUN_ID`` is for what is born in it."""
        return self._id

    def open(self) -> None:
        """Begin: from now on, what is started carries the run's id.

        Raises `PortfreeError` where leaks are to fail the run, and cannot be found.
        """
        leaks = self.before.request.leaks
        if leaks != "ignore" and (trouble := _nox_is_too_old()):
            if leaks == "fail":
                raise PortfreeError(trouble)
            log(trouble)
        self._outer = self._environ.get(run_id.RUN_ID, "")
        self._element = run_id.new_element(self._system)
        self._id = f"{self._outer}/{self._element}" if self._outer else self._element
        run_id.OPEN_HERE.add(self._element)
        self._began = self._system.moment()
        self._environ[run_id.RUN_ID] = self._id
        if leaks != "ignore":
            try:
                self._listeners = frozenset(s.id for s in self._system.listeners())
            except Exception as failure:  # noqa: BLE001 - without it the run goes on all the same
                self._fail(f"leaks could not be looked for: {failure!r}")

    def close(self, *, grace: float | None = None) -> FreePortsReport | None:
        """End: put the environment back and free the ports again.

        Done once: a second call returns the same report. In a forked child, whose parent will do
        it, it does nothing and returns None. *grace* shortens the one of the beginning.
        """
        if not self._element or self.after is not None or os.getpid() != self._pid:
            return self.after
        self._put_back()
        request = self.before.request
        grace = request.grace if grace is None else min(grace, request.grace)
        # After a run its settings are no help any more: what helps then is typed.
        surface = request.surface if request.surface == "action" else "command"
        request = request._replace(scope="orphans", wait=0.0, grace=grace, surface=surface)
        failed = "the ports could not be looked after at the end"
        try:
            after = free(request, notice=self._notice, system=self._system, moment=self.moment())
            self.after = FreePortsReport(*after)
            failed = "leaks could not be looked for"
            self._find_leaks(request)
        except Exception as failure:  # noqa: BLE001 - what goes wrong in here must turn no run red
            self._fail(f"{failed}: {failure!r}")
        finally:
            run_id.OPEN_HERE.discard(self._element)
        return self.after

    def conclusion(self) -> Conclusion:
        """What its end comes to; to be asked once it is closed."""
        leaks, told = self.leaks, self.told
        return of_end(
            self.before, self.after, leaks, trouble=self._trouble, pid=self._pid, told=told
        )

    def _fail(self, trouble: str) -> None:
        self._trouble = self._trouble or trouble

    def moment(self) -> Moment:
        """The end of this run."""
        quiet = [each.port for each in self.before.outcomes if each.status != "busy"]
        return Moment("after", self._element, self._alone_since(), quiet)

    def _alone_since(self) -> float | None:
        """When the run began; None if what came up since may be of another run of this process."""
        around = run_id.elements(self._outer)
        others = run_id.OPEN_HERE.difference((self._element, *around))
        return None if others else self._began

    def _find_leaks(self, request: Request) -> None:
        if self._listeners is None:
            return
        new = run_id.new_listeners(self._system, self._listeners, request.ports)
        told = {(address, port) for _, address, port in self.told}
        new = {socket for socket in new if (socket.address, socket.port) not in told}
        if not new:
            return
        # Loaded only now: mostly nothing was left, and a run should cost next to nothing.
        from portfree._core.leaks import find_leaks

        self.leaks = find_leaks(
            self._system,
            new,
            known=self._listeners,
            request=request,
            moment=self.moment(),
            notify=self._notice,
        )

    def __enter__(self) -> Run:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if os.getpid() != self._pid:
            return
        self.close()
        end = self.conclusion()
        # What went wrong in the run is what its user must see.
        failure = self._error(end) if error is None else None
        with suppress(Exception):  # what cannot be said turns no run red
            log_outcomes(o for o in end.shown if o.ok or not isinstance(failure, PortsBusyError))
            for line in end.warnings:
                log(line)
        if failure is not None:
            raise failure

    def _error(self, end: Conclusion) -> PortfreeError | None:
        """What to raise for a run that must not end green."""
        if not end.problems:
            return None
        failed = {problem.setting for problem in end.problems}
        if "leaks" in failed and end.leaks:
            return PortsLeakedError("; ".join(map(leak_line, end.leaks)), end.leaks)
        if "on_busy" in failed and self.after is not None and not self.after.ok:
            return busy_error(self.after)
        return PortfreeError(end.why())

    @property
    def doubtful(self) -> tuple[Outcome, ...]:
        """The ports that were busy while the run went on: it may have talked to somebody else."""
        return tuple(doubtful(self.before, self._pid))

    def _put_back(self) -> None:
        """Take our id out of the environment, unless somebody else has changed it meanwhile."""
        if self._environ.get(run_id.RUN_ID) != self._id:
            return
        # Runs of other threads may have ended since ours began.
        outer = "/".join(e for e in run_id.elements(self._outer) if not run_id.ended_here(e))
        if outer:
            self._environ[run_id.RUN_ID] = outer
        else:
            del self._environ[run_id.RUN_ID]


def _nox_is_too_old() -> str:
    """Why leaks cannot be found: an old nox makes the environment of its commands before a run
    begins, so that they do not get the run's id. Empty if they can.
    """
    if "nox.sessions" not in sys.modules:
        return ""
    # The script nox, nox/__main__.py or, on Windows, nox.exe/__main__.py.
    main = PurePath(getattr(sys.modules["__main__"], "__file__", None) or "")
    if "nox" not in (main.stem, main.parent.stem):
        return ""
    from importlib.metadata import version

    found = version("nox")
    if tuple(map(int, re.findall(r"\d+", found)[:3])) >= _NOX:
        return ""
    return (
        f"nox {found} does not hand PORTFREE_RUN_ID to its commands, so that servers which they "
        f"leave behind are not found: that needs nox {'.'.join(map(str, _NOX))} or newer, "
        "pip install --upgrade nox"
    )


def busy_error(report: Report) -> PortsBusyError:
    """The error for the ports that are still busy."""
    return PortsBusyError("; ".join(summary(o) for o in report.outcomes if not o.ok), report)


def log_outcomes(outcomes: Iterable[Outcome]) -> None:
    """Log what was done, and nothing if nothing was: nox shows records of every library."""
    for outcome in outcomes:
        if outcome.status != "free":
            log(summary(outcome), warning=not outcome.ok)


def log(line: str, *, warning: bool = True) -> None:
    with suppress(ImportError, OSError):  # a process without a free descriptor can load nothing
        import logging  # 10 ms, and mostly there is nothing to log

        logger = logging.getLogger("portfree")
        logger.log(logging.WARNING if warning else logging.INFO, "%s", line)
