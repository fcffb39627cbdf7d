"""Starts a server on a port, leaves it behind, and ends when it listens: for the workflows."""

import os
import socket
import subprocess
import sys
import time

DETACHED_PROCESS = 0x8

port = int(sys.argv[1])
subprocess.Popen(
    [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
    creationflags=DETACHED_PROCESS if os.name == "nt" else 0,
)
deadline = time.monotonic() + 30
while True:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        if time.monotonic() > deadline:
            sys.exit("the server does not start")
        time.sleep(0.1)
    else:
        break
