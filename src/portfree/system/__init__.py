"""The operating system: the only code of portfree that touches it."""

from __future__ import annotations

import os
import sys

from portfree.errors import PortfreeError

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from portfree.system.boundary import System

BACKEND = "PORTFREE_BACKEND"
"""Environment variable that picks the backend by name, ``linux`` or ``portable``: to compare them,
and to get on where a kernel lacks what the first one needs."""


def current() -> System:
    """The system that we run on, through the backend that suits it."""
    wanted = os.environ.get(BACKEND) or ("linux" if sys.platform == "linux" else "portable")
    if wanted == "linux":
        from portfree.system.linux import LinuxSystem

        return LinuxSystem()
    if wanted == "portable":
        from portfree.system.portable import PortableSystem

        return PortableSystem()
    raise PortfreeError(f"{BACKEND}={wanted!r}: the backends are 'linux' and 'portable'")
