"""The operating system: the only code of portfree that touches it."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from portfree.errors import PortfreeError

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree._system.interface import System

BACKEND = "PORTFREE_BACKEND"
"""Environment variable that picks the backend by name, ``linux`` or ``portable``: to compare them,
and to get on where a kernel lacks what the first one needs."""


def backend() -> str:
    """The name of the backend; `PortfreeError` if the environment names one that there is not."""
    wanted = os.environ.get(BACKEND) or ("linux" if sys.platform == "linux" else "portable")
    if wanted not in ("linux", "portable"):
        raise PortfreeError(f"{BACKEND} is {wanted!r}: choose one of linux, portable")
    return wanted


# Each is loaded only where it runs: Linux and psutil have their own costs, and needs.
_THROUGH_PSUTIL = {
    "linux": ("psutil_linux", "PsutilLinuxSystem"),
    "darwin": ("darwin", "DarwinSystem"),
    "win32": ("windows", "WindowsSystem"),
}


def current() -> System:
    """The system that we run on, through the backend that suits it."""
    return _load("linux", "LinuxSystem") if backend() == "linux" else portable()


def portable(platform: str = sys.platform) -> System:
    """The system through psutil."""
    return _load(*_THROUGH_PSUTIL.get(platform, ("psutil_base", "PsutilSystem")))


def _load(module: str, name: str) -> System:
    system: System = getattr(import_module(f"portfree._system.{module}"), name)()
    return system
