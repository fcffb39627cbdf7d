"""What the measurements stand on: ports, servers to stop, and a crowded machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent / "programs"

# A user's shell, not the one that started the benchmark: no bytecode switched off, no mark of the
# nox session that the servers would be taken for, nothing that makes a CI job of us.
ENVIRONMENT = {
    name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "USER") if name in os.environ
} | {"LC_ALL": "C.UTF-8"}


class StageError(Exception):
    """Something cannot be staged here; the message says what."""


def bindable(port: int) -> bool:
    """Whether a server could bind the port, on every address of both families."""
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind(("::", port))
        except OSError:
            return False
    return True


def free_range(count: int) -> int:
    """The first of *count* free ports in a row, below those that the kernel gives out itself."""
    low, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    first = 10_000
    while first + count <= int(low):
        taken = next((p for p in range(first, first + count) if not bindable(p)), None)
        if taken is None:
            return first
        first = taken + 1
    raise StageError(f"no {count} free ports in a row between 10000 and {low}")


@contextmanager
def orphan(port: int, cwd: Path) -> Iterator[None]:
    """A server on the port that nobody looks after; gone at the end, whoever stops it."""
    started = subprocess.run(
        [sys.executable, "-I", "-S", str(PROGRAMS / "orphan.py"), str(port)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    if started.returncode:
        raise StageError(started.stderr.strip())
    pid = int(started.stdout)
    pin = os.pidfd_open(pid)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pin, signal.SIGKILL)
        os.close(pin)


@contextmanager
def crowd(*, processes: int = 0, sockets: int = 0) -> Iterator[None]:
    """So many more processes and TCP sockets on the machine, until the end of the block."""
    helper = subprocess.Popen(
        [sys.executable, "-I", "-S", str(PROGRAMS / "crowd.py"), str(processes), str(sockets)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        try:
            said = helper.stdout.readline().strip()
            if said != "ready":
                raise StageError(f"no crowd of {processes} processes: {said or 'it failed'}")
            yield
        finally:
            helper.stdin.close()  # what they wait for


def population() -> dict[str, int]:
    """How many processes and TCP sockets there are."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    return {
        "processes": sum(path.name.isdigit() for path in Path("/proc").iterdir()),
        "sockets": sum(len(t.read_text().splitlines()) - 1 for t in tables if t.exists()),
    }
