"""The operating system: the only code of portfree that touches it."""

from __future__ import annotations

import os
import sys

from portfree.errors import PortfreeError

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree._system.interface import System
    from portfree._system.psutil_base import PsutilSystem

BACKEND = "PORTFREE_BACKEND"
"""Environment variable that picks the backend by name, ``linux`` or ``portable``: to compare them,
and to get on where a kernel lacks what the first one needs."""


def backend() -> str:
    """The name of the backend; `PortfreeError` if the environment names one that there is not."""
    wanted = os.environ.get(BACKEND) or ("linux" if sys.platform == "linux" else "portable")
    if wanted not in ("linux", "portable"):
        raise PortfreeError(f"{BACKEND} is {wanted!r}: choose one of linux, portable")
    return wanted


def current() -> System:
    """The system that we run on, through the backend that suits it."""
    if backend() == "portable":
        return portable()
    from portfree._system.linux import LinuxSystem

    return LinuxSystem()


def portable(platform: str = sys.platform) -> PsutilSystem:
    """The system through psutil. Each is loaded only where it runs."""
    if platform == "linux":
        from portfree._system.psutil_linux import PsutilLinuxSystem

        return PsutilLinuxSystem()
    if platform == "darwin":
        from portfree._system.darwin import DarwinSystem

        return DarwinSystem()
    if platform == "win32":
        from portfree._system.windows import WindowsSystem

        return WindowsSystem()
    from portfree._system.psutil_base import PsutilSystem

    return PsutilSystem()
