"""Starts the shop for the tests, on the port that they know."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHOP = Path(__file__).parents[1] / "shop.py"
PORT = 8000


@pytest.fixture(scope="session")
def shop():
    server = subprocess.Popen([sys.executable, str(SHOP)])
    try:
        wait_until_open(server)
        yield f"http://127.0.0.1:{PORT}"
    finally:  # kill -9 leaves no time for this
        server.terminate()
        server.wait()


def wait_until_open(server):
    deadline = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"the shop does not answer on port {PORT}")
