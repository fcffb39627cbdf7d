"""How the tests start a process: left behind, looked after, or in a terminal.

Run as a program: ``python -S launch.py MODE -- COMMAND…``, where a mode is one of the functions
below. The pid of the command, which becomes the command itself by exec, is told through the
descriptor that ``STAGE_READY`` names.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

READY = "STAGE_READY"


def tell(**pids: int) -> None:
    """Say what was started, each with the pid and the start ticks (proc(5), field 22)."""
    if READY in os.environ:
        who = {role: (pid, start_ticks(pid)) for role, pid in pids.items()}
        os.write(int(os.environ[READY]), json.dumps(who).encode() + b"\n")


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def become(command: list[str]) -> NoReturn:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that is passed on
    os.execvp(command[0], command)


def orphan(command: list[str], *, own_session: bool = True) -> NoReturn:
    """Leave the command behind: its parent, and the leader of its session, end before it starts."""
    if own_session:
        if os.fork():
            os._exit(0)
        os.setsid()
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == parent:
        time.sleep(0.0005)
    tell(launched=os.getpid())
    become(command)


def adopted(command: list[str]) -> NoReturn:
    """Leave it behind in the session that it was started from."""
    orphan(command, own_session=False)


def attended(command: list[str]) -> NoReturn:
    """Start the command and stay, also when it has ended: a test may ask whether we live."""
    child = os.fork()
    if child == 0:
        become(command)
    tell(launched=child, launcher=os.getpid())
    while True:
        signal.pause()


def terminal(command: list[str]) -> NoReturn:
    """Be the terminal window of the command, until it hangs up."""
    child, master = pty.fork()
    if child == 0:
        become(command)
    tell(launched=child, launcher=os.getpid())
    with suppress(OSError):  # EIO: no process has the other end open any more
        while os.read(master, 65536):
            pass
    while True:
        signal.pause()


if __name__ == "__main__":
    mode, dashes, *words = sys.argv[1:]
    assert dashes == "--"
    modes = {each.__name__: each for each in (orphan, adopted, attended, terminal)}
    modes[mode](words)
