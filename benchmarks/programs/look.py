"""One round of what runs in-process, as a worker of pyperf: ``python look.py SUBJECT PORTS …``.

A process of its own for each round, as pyperf does it, so that the layout of one process's memory
does not decide; the rounds of the contestants alternate (measure.py).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

import psutil
import pyperf

from portfree import free_ports
from portfree._core.ports import parse_ports
from portfree._plugins.shared import begin, lines
from portfree.model import Leaks, Request

# What free_ports() says of a held port goes nowhere, as with a log level above it.
logging.getLogger("portfree").setLevel(logging.CRITICAL)


def free(ports: range) -> Callable[[], object]:
    """Free ports as a user asks for them: one text, or an int."""
    asked = ports[0] if len(ports) == 1 else f"{ports[0]}-{ports[-1]}"
    assert all(outcome.status == "free" for outcome in free_ports(asked).outcomes)
    return lambda: free_ports(asked)


def held(ports: range) -> Callable[[], object]:
    (port,) = ports
    (outcome,) = free_ports(port, dry_run=True).outcomes
    assert outcome.holders
    assert outcome.holders[0].verdict.action == "stop", outcome
    return lambda: free_ports(port, dry_run=True)


def bind(ports: range) -> Callable[[], object]:
    def bind_each() -> None:
        for port in ports:
            with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                sock.bind(("::", port))

    return bind_each


def net_connections(ports: range) -> Callable[[], object]:
    """Who listens on the ports, as psutil's documentation has it; it always looks at all."""

    def look() -> list[int | None]:
        return [
            found.pid
            for found in psutil.net_connections("tcp")
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr[1] in ports
        ]

    return look


def proc_net(ports: range) -> Callable[[], object]:
    """Which of the ports are taken, from the kernel's text; it does not tell by whom."""

    def look() -> list[str]:
        found = []
        for name in ("tcp", "tcp6", "udp", "udp6"):
            with open(f"/proc/net/{name}", encoding="ascii") as lines:  # noqa: PTH123
                next(lines)
                for line in lines:
                    address = line.split(maxsplit=2)[1]
                    if int(address.rpartition(":")[2], 16) in ports:
                        found.append(line)
        return found

    return look


def links(_: range) -> Callable[[], object]:
    """What nobody can do without who is to find every holder: read where each descriptor leads."""

    def read_all() -> int:
        count = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
            try:
                folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY)
            except OSError:  # it has ended
                continue
            for number in os.listdir(folder):  # noqa: PTH208
                try:
                    count += os.readlink(number, dir_fd=folder) == "socket:[0]"
                except OSError:
                    continue
            os.close(folder)
        return count

    return read_all


def session(ports: range, leaks: Leaks = "warn") -> Callable[[], object]:
    """What the pytest plugin does in a session when all it needs is loaded."""
    request = Request(parse_ports(*ports), leaks=leaks)

    def play() -> list[object]:
        run, found = begin(request, "the tests", print)
        assert run
        assert not found.shown
        run.close()
        return [*lines(found), *lines(run.conclusion())]

    assert play() == []
    return play


def quiet_session(ports: range) -> Callable[[], object]:
    return session(ports, leaks="ignore")


SUBJECTS = {
    "free": free,
    "held": held,
    "bind": bind,
    "net_connections": net_connections,
    "proc_net": proc_net,
    "links": links,
    "session": session,
    "quiet_session": quiet_session,
}


def main() -> None:
    runner = pyperf.Runner()
    runner.argparser.add_argument("subject", choices=SUBJECTS)
    runner.argparser.add_argument("first", type=int)
    runner.argparser.add_argument("count", type=int)
    options = runner.parse_args()
    ports = range(options.first, options.first + options.count)
    runner.bench_func(options.subject, SUBJECTS[options.subject](ports))


if __name__ == "__main__":
    main()
