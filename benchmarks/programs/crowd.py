"""Make the machine busy with processes and sockets: ``python3 crowd.py PROCESSES SOCKETS``.

Says ``ready``, and stays until its standard input ends. Each child waits for the end of a pipe that
only this process writes to, so that nobody stays, however this process ends.
"""

import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress

DESCRIPTORS = 10
"""What each process has open, beside the standard three."""

PAIRS = 400
"""Connections of one process: two descriptors each, and a soft limit of 1024 is common."""

# Closed by a reset: a connection that is closed politely stays in TIME_WAIT for a minute, and would
# be in the way of the next measurement on an idle machine.
RESET = struct.pack("ii", 1, 0)


def open_files() -> list[int]:
    return [os.open(os.devnull, os.O_RDONLY) for _ in range(DESCRIPTORS)]


def connect(pairs: int) -> list[socket.socket]:
    """Connections to ourselves, both ends of each, on ports that the kernel chooses."""
    ends: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        for _ in range(pairs):
            ends.append(socket.create_connection(listener.getsockname()))
            ends.append(listener.accept()[0])
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return ends


def main() -> None:
    processes, sockets = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the benchmark, and that ends us
    lifeline, alive = os.pipe()
    told, ready = os.pipe()

    def start(prepare: Callable[[], object]) -> None:
        if os.fork() == 0:
            try:
                os.close(alive)
                held = prepare()
                os.write(ready, b".")
                os.read(lifeline, 1)
                del held
            finally:
                os._exit(0)

    for _ in range(processes):
        start(open_files)
    pairs = sockets // 2
    while pairs > 0:
        share = min(pairs, PAIRS)
        start(lambda share=share: connect(share))  # type: ignore[misc]
        pairs -= share

    os.close(ready)
    expected = processes + -(-(sockets // 2) // PAIRS)
    seen = 0
    while chunk := os.read(told, 4096):
        seen += len(chunk)
        if seen == expected:
            break
    print("ready" if seen == expected else f"only {seen} of {expected} processes came up")
    sys.stdout.flush()
    sys.stdin.read()
    os.close(alive)
    with suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main()
