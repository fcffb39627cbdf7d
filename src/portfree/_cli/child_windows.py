"""Runs a command on Windows, where no signal can be waited for."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from portfree._cli.interrupts import CannotRunError, Ended, Interrupts, Timings
from portfree._output.console import tell

_CTRL_C = 0xC000013A  # STATUS_CONTROL_C_EXIT


def run_on_windows(words: Sequence[str], interrupts: Interrupts, timings: Timings) -> Ended:
    """Run the command; what is typed reaches every process of a console by itself."""
    try:
        # CreateProcess() finds no npm.cmd for npm.
        process = subprocess.Popen([shutil.which(words[0]) or words[0], *words[1:]])
    except OSError as error:
        raise CannotRunError(words[0], error) from error
    while True:
        with suppress(subprocess.TimeoutExpired):
            # No signal wakes up a wait: our handlers run between two of them.
            code = process.wait(timeout=0.25)
            code = 130 if code == _CTRL_C else code
            # sys.exit() takes no more than 31 bits.
            return Ended(code - (code >> 31 << 32), hurried=interrupts.asked is not None)
        if interrupts.asked and time.monotonic() > interrupts.asked + timings.urgent:
            tell("the command goes on: it is terminated")
            process.kill()
