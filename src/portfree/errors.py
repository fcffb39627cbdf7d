"""The errors that portfree raises."""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree.model import Leak, Report


class PortfreeError(Exception):
    """The base of every error that portfree raises on purpose; its text is one clear line."""


class PortSpecError(PortfreeError, ValueError):
    """A port was asked for that cannot be one, such as ``0``, ``8000x`` or ``8000/sctp``."""


class PortsBusyError(PortfreeError):
    """A port is still busy, and ``on_busy="fail"`` was asked for.

    *report* is the whole `Report` of the call, the ports that are free included.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type[PortsBusyError], tuple[str, Report]]:
        # Exceptions cross process borders (pytest-xdist, multiprocessing) by pickle, which would
        # otherwise call __init__ with the message alone.
        return type(self), (str(self), self.report)


class PortsLeakedError(PortfreeError):
    """A run has left listeners behind, and ``leaks="fail"`` was asked for.

    *leaks* says which; they were stopped, but for those of the calling process itself.
    """

    def __init__(self, message: str, leaks: tuple[Leak, ...]) -> None:
        super().__init__(message)
        self.leaks = leaks

    def __reduce__(self) -> tuple[type[PortsLeakedError], tuple[str, tuple[Leak, ...]]]:
        return type(self), (str(self), self.leaks)


def shown(value: object) -> str:
    """A value as an error message shows it: quoted, escaped, and never a page long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python turns into text
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
