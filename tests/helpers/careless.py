"""What a project's tests start servers with, and leave behind, as careless tests do.

Written into the project (`Project.write_careless`): a module, and a program that serves a port,
makes the file serves-PORT, waits for another one if it is named, and leaves the server behind::

    python careless.py PORT [CODE [FILE]]
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

SERVERS, LAUNCH = "$SERVERS", "$LAUNCH"


def command(port: int, *flags: str) -> list[str]:
    return [sys.executable, "-S", SERVERS, "--tcp", f"127.0.0.1:{port}", *flags]


def start(words: list[str], *, session: bool = False) -> subprocess.Popen[bytes]:
    # A server that had our output would keep whatever reads it.
    null = subprocess.DEVNULL
    env = dict(os.environ)
    if "CARELESS_TEST" in env:
        env["PYTEST_CURRENT_TEST"] = env["CARELESS_TEST"]
    return subprocess.Popen(
        words, stdin=null, stdout=null, stderr=null, env=env, start_new_session=session
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def child(port: int, *flags: str, session: bool = False) -> subprocess.Popen[bytes]:
    process = start(command(port, *flags), session=session)
    wait_until(lambda: accepts(port))
    return process


def daemon(port: int) -> None:
    assert start([sys.executable, "-S", LAUNCH, "orphan", "--", *command(port)]).wait() == 0
    wait_until(lambda: accepts(port))


def until(path: str) -> None:
    wait_until(lambda: os.path.exists(path))  # noqa: PTH110 - pathlib takes a while to load


def main(port: str, code: str = "0", file: str = "") -> None:
    child(int(port), session=True)
    with open(f"serves-{port}", "w"):  # noqa: PTH123 - as below
        pass
    print("run id:", os.environ.get("PORTFREE_RUN_ID"), flush=True)  # noqa: T201
    if file:
        until(file)
        assert accepts(int(port))
        print("still serving", port, flush=True)  # noqa: T201
    sys.exit(int(code))


if __name__ == "__main__":
    main(*sys.argv[1:])
