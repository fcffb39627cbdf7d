"""Free the ports your tests need, and say who held them."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # checkers know this name; importing typing would cost a session 7 ms
if TYPE_CHECKING:
    from portfree.api import free_ports
    from portfree.conclusion import Conclusion, Problem
    from portfree.errors import PortfreeError, PortsBusyError, PortsLeakedError, PortSpecError
    from portfree.model import (
        Advice,
        Ending,
        HolderReport,
        Leak,
        Note,
        Origin,
        Outcome,
        Port,
        Report,
        Request,
        Verdict,
    )
    from portfree.run import FreePortsReport, Run

__all__ = [
    "Advice",
    "Conclusion",
    "Ending",
    "FreePortsReport",
    "HolderReport",
    "Leak",
    "Note",
    "Origin",
    "Outcome",
    "Port",
    "PortSpecError",
    "PortfreeError",
    "PortsBusyError",
    "PortsLeakedError",
    "Problem",
    "Report",
    "Request",
    "Run",
    "Verdict",
    "free_ports",
]

# Loaded when first asked for: the pytest plugin imports this package in every session on the
# machine, also in those that never free a port. What is not listed here lies in model.
_HOMES = {"free_ports": "api", "FreePortsReport": "run", "Run": "run"}
_HOMES |= dict.fromkeys(("Conclusion", "Problem"), "conclusion")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name) or ("errors" if name.endswith("Error") else "model")
    value = globals()[name] = getattr(import_module(f"portfree.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
