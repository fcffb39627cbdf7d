"""The servers of servers.py, with habits that only crowds show; run in the same way."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import TYPE_CHECKING, NoReturn

sys.path.append(str(Path(__file__).parents[2]))

from helpers.servers import bind, parser, serve, settle, tell

if TYPE_CHECKING:
    import argparse

# What can end a process and be noticed by it, and what portfree sends after SIGTERM.
RECORDED = {
    getattr(signal, f"SIG{name}")
    for name in ("TERM", "INT", "HUP", "QUIT", "ABRT", "USR1", "USR2", "ALRM", "CONT")
}


def record(path: str) -> None:
    """Write down every signal, and the pid of its sender, before it takes effect."""
    signal.pthread_sigmask(signal.SIG_BLOCK, RECORDED)
    file = Path(path).open("a", buffering=1)  # noqa: SIM115 - for as long as we live

    def write_down() -> None:
        while True:
            info = signal.sigwaitinfo(RECORDED)
            file.write(f"{signal.Signals(info.si_signo).name} {info.si_pid}\n")
            if signal.getsignal(info.si_signo) is signal.SIG_DFL:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {info.si_signo})
                signal.raise_signal(info.si_signo)

    threading.Thread(target=write_down, daemon=True).start()


def flicker(options: argparse.Namespace) -> NoReturn:
    """Take the ports again and again, for moments only.

    For no time at all: as another program's probe does. Else as a server that comes and goes, each
    time a new process.
    """
    longest, rest = options.flicker
    tell()
    while True:
        child = os.fork() if longest else 0
        if child:
            os.waitpid(child, 0)
        else:
            with ExitStack() as held, suppress(OSError):  # another process has it
                for text in options.tcp:
                    held.enter_context(bind(text, SOCK_STREAM, options)).listen()
                for text in options.bound:
                    held.enter_context(bind(text, SOCK_STREAM, options))
                for text in options.udp:
                    held.enter_context(bind(text, SOCK_DGRAM, options))
                if longest:
                    time.sleep(random.uniform(0, longest))
                    os._exit(0)
            if longest:
                os._exit(1)
        if rest:
            time.sleep(rest)


def storm(breadth: int) -> NoReturn:
    """Fork children that end at once, as fast as it goes; each has what its parent has open."""
    tell()
    while True:
        children = []
        for _ in range(breadth):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)


def wander(seconds: float) -> NoReturn:
    """Be another process every moment: leave the sockets to a child, and end.

    After so many seconds it ends: by a pid no test could get hold of it.
    """
    tell()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
        time.sleep(0.001)
    os._exit(0)


def main() -> None:
    more = parser()
    more.add_argument("--record", metavar="FILE")
    more.add_argument("--flicker", nargs=2, type=float, metavar=("HELD", "REST"))
    more.add_argument("--storm", type=int, default=0)
    more.add_argument("--wander", type=float, metavar="SECONDS")
    options = more.parse_args()
    settle(options)
    if options.record:
        record(options.record)
    if options.flicker:
        flicker(options)
    if options.storm:
        serve(options, partial(storm, options.storm))
    if options.wander:
        serve(options, partial(wander, options.wander))
    serve(options)


if __name__ == "__main__":
    main()
