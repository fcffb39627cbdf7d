"""A server that nobody looks after, and that obeys SIGTERM at once: ``python3 orphan.py PORT``.

Returns when the server listens, and prints its pid.
"""

import os
import signal
import socket
import sys
import time

LIFETIME = 120  # seconds: whatever becomes of the benchmark, no server stays


def serve(port: int, ready: int) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        sock.listen()
        signal.alarm(LIFETIME)
        os.write(ready, str(os.getpid()).encode())
        os.close(ready)
        while True:
            signal.pause()  # SIGTERM has its default action


def main() -> None:
    port = int(sys.argv[1])
    told, ready = os.pipe()
    if os.fork() == 0:
        os.setsid()
        parent = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == parent:
            time.sleep(0.0005)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        serve(port, ready)
    os.wait()
    os.close(ready)
    pid = os.read(told, 32).decode()
    if not pid:
        sys.exit(f"no server on port {port}")
    print(pid)


if __name__ == "__main__":
    main()
