"""Linux through psutil, as ``PORTFREE_BACKEND=portable`` asks for it. It sees no TCP socket that is
bound without listening, nor what only a thread that outlived its main thread holds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Iterable

import psutil

from portfree._system import proc
from portfree._system.interface import Process, Socket
from portfree._system.probe import dual_stack_bind
from portfree._system.psutil_base import UNKNOWN, PsutilSystem, ask, kind_of, read_sockets


class PsutilLinuxSystem(PsutilSystem):
    """The `System` of Linux on psutil. Its run ids and starts are those of `LinuxSystem`."""

    name = "linux"
    bind = staticmethod(dual_stack_bind)
    moment = staticmethod(proc.moment)

    def __init__(self) -> None:
        super().__init__()
        self.namespace = proc.namespace()

    def start(self, process: psutil.Process) -> float:
        # psutil's own start moves when the clock is set, for it adds the time of boot.
        stat = proc.read_stat(f"/proc/{process.pid}/stat")
        return UNKNOWN if stat is None else stat.start

    # For each process with a socket, psutil reads the kernel's tables anew, in 5 to 10 ms. Process
    # by process, one look at 200 servers takes 1.7 s of the processor.

    def _every_socket(self, kind: str) -> list[Socket]:
        return read_sockets(psutil.net_connections(kind))

    def _candidates(self, ids: Collection[Hashable]) -> Iterable[int]:
        # psutil names one process of those that share a socket: it shows what they have in common.
        try:
            links = {
                os.readlink(f"/proc/{each.pid}/fd/{each.fd}")
                for each in psutil.net_connections(kind_of(ids))
                if each.pid and any(found.id in ids for found in read_sockets([each]))
            }
        except OSError:  # closed meanwhile
            return psutil.pids()
        found = []
        for pid in psutil.pids():
            folder = f"/proc/{pid}/fd"
            try:
                if links.isdisjoint(proc.targets(folder, os.listdir(folder))):
                    continue
            except OSError:
                pass  # psutil says whether it is gone or hidden
            found.append(pid)
        return found

    def _facts(self, process: psutil.Process, start: float) -> Process:
        # Elsewhere psutil says of every process that it runs.
        running = ask(process.status) == psutil.STATUS_RUNNING
        return super()._facts(process, start)._replace(running=running)
