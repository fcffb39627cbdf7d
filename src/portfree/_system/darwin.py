"""macOS: psutil, and launchctl and netstat for what psutil does not tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import psutil

from portfree._system.common import endpoint
from portfree._system.interface import Process, Socket
from portfree._system.psutil_base import PATIENCE, PsutilSystem
from portfree.model import Port

_FADING = ("FIN_WAIT_1", "FIN_WAIT_2", "CLOSING", "LAST_ACK", "TIME_WAIT")  # as netstat(1) has them


class DarwinSystem(PsutilSystem):
    """The `System` of macOS."""

    name = "darwin"

    def sockets(self, ports: Collection[Port], *, connections: bool = False) -> list[Socket]:
        found = super().sockets(ports, connections=connections)
        if not connections:
            return found
        # The connections that outlived their process are listed by netstat(1) alone, in lines like
        # tcp4 0 0 127.0.0.1.8000 127.0.0.1.53412 TIME_WAIT: the port comes after the last dot.
        # Other states are of no use here, since an address may be cut short.
        told = self.output(["netstat", "-an", "-p", "tcp"], PATIENCE) or ""
        for words in map(str.split, told.splitlines()):
            if len(words) >= 6 and words[0].startswith("tcp") and words[5] in _FADING:
                address, _, number = words[3].rpartition(".")
                host, _, far = words[4].rpartition(".")
                if number.isdecimal() and (port := Port(int(number))) in ports:
                    found.append(Socket(None, port, "closing", address, peer=endpoint(host, far)))
        return list(dict.fromkeys(found))

    def _facts(self, proc: psutil.Process, start: float) -> Process:
        facts = super()._facts(proc, start)
        if facts.environment == "read":
            return facts
        # The kernel hides the environment of programs that System Integrity Protection restricts,
        # and psutil returns an empty one then (its issue 2084).
        return facts._replace(environment="unreadable", complete=False)

    def _running_services(self) -> Mapping[int, str] | None:
        """The jobs of launchd, by launchctl(1): PID, status and label, with tabs between."""
        told = self.output(["launchctl", "list"], PATIENCE)
        if told is None:
            return None
        rows = (line.split("\t", 2) for line in told.splitlines())
        return {
            int(row[0]): row[2]
            for row in rows
            # An app with a window is a job as well, but nothing restarts it.
            if len(row) == 3 and row[0].isdecimal()
            if row[2] and not row[2].startswith("application.")
        }
