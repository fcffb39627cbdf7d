"""Free the ports your tests need, and say who held them."""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree.api import free_ports
    from portfree.errors import PortfreeError, PortsBusyError, PortsLeakedError, PortSpecError
    from portfree.model import HolderReport, Note, Outcome, Port, Report, Verdict

__all__ = [
    "HolderReport",
    "Note",
    "Outcome",
    "Port",
    "PortSpecError",
    "PortfreeError",
    "PortsBusyError",
    "PortsLeakedError",
    "Report",
    "Verdict",
    "free_ports",
]

# Loaded when first asked for: the pytest plugin imports this package in every session on the
# machine, also in those that never free a port.
_HOMES = {
    "free_ports": "api",
    "PortfreeError": "errors",
    "PortSpecError": "errors",
    "PortsBusyError": "errors",
    "PortsLeakedError": "errors",
    "Port": "model",
    "HolderReport": "model",
    "Note": "model",
    "Outcome": "model",
    "Report": "model",
    "Verdict": "model",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"portfree.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
