"""Calls of `free` in whose middle the pid of the holder passes to another process.

Run as the first process of a pid namespace that has a /proc of its own:
``python pid_reuse.py PORT MOMENT…``. At that moment of each call the server on the port is killed,
and a process that holds nothing gets its pid. Standard output gets a JSON list: for each call the
status of the port, how long it took, and whether that process was hit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portfree._core.free import free
from portfree._system import current
from portfree.model import Port, Request

if TYPE_CHECKING:
    from collections.abc import Callable

SERVERS = Path(__file__).parents[2] / "helpers" / "servers.py"

# What is asked of the system about the holder, and whether the pid passes before or after that.
MOMENTS = {
    "before it is pinned": ("pin", False),
    "after it was pinned": ("pin", True),
    "before its sockets are looked at": ("holds", False),
    "between that and the signal": ("holds", True),
}


class Recycled:
    """A system on which the pid of the server becomes another process's, once."""

    def __init__(self, server: subprocess.Popen[bytes], moment: str) -> None:
        self._system = current()
        self._server = server
        self._at, self._after = MOMENTS[moment]
        self.other: subprocess.Popen[bytes] | None = None

    def __getattr__(self, name: str) -> object:
        real = getattr(self._system, name)
        return self._recycling(real) if name == self._at and self.other is None else real

    def _recycling(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(of: Any, *others: Any) -> Any:  # noqa: ANN401
            if self._after:
                answer = real(of, *others)
                self._recycle()
                return answer
            self._recycle()
            return real(of, *others)

        return called

    def _recycle(self) -> None:
        self._server.kill()
        self._server.wait()
        # pid_namespaces(7): the pid that was given last.
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(self._server.pid - 1))
        self.other = subprocess.Popen(["sleep", "1000"])
        assert self.other.pid == self._server.pid


def call(port: str, moment: str) -> dict[str, Any]:
    reader, writer = os.pipe()
    command = [sys.executable, "-S", str(SERVERS), "--tcp", f"127.0.0.1:{port}"]
    environment = {**os.environ, "STAGE_READY": str(writer)}
    server = subprocess.Popen(command, env=environment, pass_fds=[writer])
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    system: Any = Recycled(server, moment)
    report = free(Request((Port(int(port)),), grace=1.0), system=system)
    assert system.other is not None
    hit = system.other.poll() is not None
    system.other.kill()
    system.other.wait()
    return {"status": report.outcomes[0].status, "seconds": report.seconds, "hit": hit}


if __name__ == "__main__":
    sys.stdout.write(json.dumps([call(sys.argv[1], moment) for moment in sys.argv[2:]]))
