"""What one ``free_ports(PORT)`` takes in a process that has not called it yet, and then once more.

``python3 call.py free PORT``: on a free port. ``python3 call.py held PORT ORPHAN``: from the call
until the port can be bound, with a fresh server by ``ORPHAN`` each time. Prints JSON.

It imports nothing that portfree could need: what is loaded during the first call is part of it. So
there is no pyperf in this process.
"""

import os
import socket
import sys
from time import perf_counter

from portfree import free_ports


def bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind(("::", port))
        except OSError:
            return False
    return True


def start(orphan: str, port: int) -> None:
    command = [sys.executable, "-I", "-S", orphan, str(port)]
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=quiet)
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("no server")


def main() -> None:
    kind, port, *orphan = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
    seconds, statuses = [], []
    for _ in range(2):
        if kind == "held":
            start(orphan[0], port)
        started = perf_counter()
        report = free_ports(port)
        while not bindable(port):
            pass
        seconds.append(perf_counter() - started)
        statuses.append(report.outcomes[0].status)
    psutil = "psutil" in sys.modules

    import json

    print(json.dumps({"seconds": seconds, "statuses": statuses, "psutil": psutil}))


if __name__ == "__main__":
    main()
