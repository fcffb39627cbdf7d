"""What the parameters may be, asked in one place by the library, the TOML table and the command.

Every surface must refuse the same values in the same words, so none of them checks on its own.
"""

from __future__ import annotations

from portfree.errors import PortfreeError

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from collections.abc import Sequence

    from portfree.report import Leaks, OnBusy, Scope

SCOPE: Scope = "orphans"
GRACE = 3.0
WAIT = 0.0
ON_BUSY: OnBusy = "warn"
LEAKS: Leaks = "warn"

# poll(2) counts its timeout in milliseconds and in 32 bits, which is some 24 days. A day leaves
# room for the sum of several waits, and nobody who means seconds needs more.
LONGEST = 86_400.0


def scope(value: object, name: str = "scope") -> Scope:
    """Whom portfree may stop: one of `report.SCOPES`; else `PortfreeError`."""
    match value:
        case "orphans" | "project" | "mine" | "any":
            return value
    raise PortfreeError(_choose(value, name, ("orphans", "project", "mine", "any")))


def on_busy(value: object, name: str = "on_busy") -> OnBusy:
    """What a port that stays busy means: ``"warn"`` or ``"fail"``; else `PortfreeError`."""
    match value:
        case "warn" | "fail":
            return value
    raise PortfreeError(_choose(value, name, ("warn", "fail")))


def leaks(value: object, name: str = "leaks") -> Leaks:
    """What a run does about servers that it leaves on other ports; else `PortfreeError`."""
    match value:
        case "ignore" | "warn" | "stop" | "fail":
            return value
    raise PortfreeError(_choose(value, name, ("ignore", "warn", "stop", "fail")))


def seconds(value: object, name: str) -> float:
    """A time in seconds, an int or a float from 0 to `LONGEST`; else `PortfreeError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PortfreeError(f"{name} is {shown(value)}: give a number of seconds, such as 3 or 0.5")
    if not 0 <= value <= LONGEST:  # false for NaN too
        raise PortfreeError(
            f"{name} is {shown(value)}: give seconds from 0 to {LONGEST:.0f} (one day)"
        )
    return float(value)


def flag(value: object, name: str) -> bool:
    """True or False, and nothing that only counts as one of them; else `PortfreeError`."""
    if isinstance(value, bool):
        return value
    raise PortfreeError(f"{name} is {shown(value)}: give True or False")


def shown(value: object) -> str:
    """A value as an error message shows it: quoted, escaped, and never a page long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python turns into text
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _choose(value: object, name: str, choices: Sequence[str]) -> str:
    message = f"{name} is {shown(value)}: choose one of {', '.join(choices)}"
    if isinstance(value, str):
        # Imported here: difflib costs more than a whole call that finds its ports free.
        from difflib import get_close_matches

        close = get_close_matches(value.lower(), choices, n=1)
        if close:
            message += f" (did you mean {close[0]}?)"
    return message
