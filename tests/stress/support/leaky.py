"""Servers as tests start them: slow to end when they are told to, or left behind.

Written into a project as tests/leaky.py. Run as a program, it is such a server, which says so on
its standard output once it listens: ``python -S leaky.py tcp|udp PORT SECONDS first|last``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
_kept: list[Any] = []  # as a careless test keeps it


def serve(kind: str, port: int, seconds: float, closes: str) -> None:
    """Serve until SIGTERM, and take so long to end then, with the listener closed first or last."""
    if kind == "udp":
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((HOST, port))
    else:
        server = socket.create_server((HOST, port))

    def end(*_: object) -> None:
        if closes == "first":
            server.close()
        time.sleep(seconds)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    os.write(1, b"ready\n")
    while True:
        signal.pause()


def start(
    port: int,
    seconds: float = 0.0,
    closes: str = "last",
    *,
    kind: str = "tcp",
    env: dict[str, str] | None = None,
    session: bool = False,
    prefix: tuple[str, ...] = (),
) -> subprocess.Popen[bytes]:
    """Start such a server, and wait until it listens."""
    command = [sys.executable, "-S", __file__, kind, str(port), str(seconds), closes]
    process = subprocess.Popen(
        [*prefix, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env,
        start_new_session=session,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    return process


# Shut down, but not waited for


@contextmanager
def terminated(port: int, seconds: float, closes: str) -> Iterator[None]:
    process = start(port, seconds, closes)
    yield
    process.terminate()


@contextmanager
def thread_told_to_end(port: int, seconds: float, closes: str) -> Iterator[None]:
    """A thread that notices late that it is to end, as some poll for it."""
    server = socket.create_server((HOST, port))
    told = threading.Event()

    def work() -> None:
        told.wait()
        if closes == "first":
            server.close()
        time.sleep(seconds)
        server.close()

    threading.Thread(target=work, daemon=True).start()
    yield
    told.set()


@contextmanager
def http_server(port: int, *_: object) -> Iterator[None]:
    with _http_server(port) as server:
        yield
        server.shutdown()


@contextmanager
def asyncio_server(port: int, *_: object) -> Iterator[None]:
    loop, server = _asyncio_server(port)
    yield
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.close()


def _http_server(port: int) -> Any:  # noqa: ANN401 - its module takes long to load
    from http.server import BaseHTTPRequestHandler, HTTPServer

    server = HTTPServer((HOST, port), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def _asyncio_server(port: int) -> tuple[asyncio.AbstractEventLoop, asyncio.Server]:
    loop = asyncio.new_event_loop()

    async def start_it() -> asyncio.Server:
        return await asyncio.start_server(lambda *_: None, HOST, port)

    return loop, loop.run_until_complete(start_it())


# Left behind

AWAY = """
import os, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def _in_child(port: int, ready: Any) -> None:  # noqa: ANN401 - of no public type
    server = socket.create_server((HOST, port))
    ready.send(b"ready")
    while server:
        signal.pause()


def _multiprocessing(method: str, port: int) -> None:
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe(duplex=False)
    # Who is no daemon is waited for when the interpreter ends, and nobody tells it to.
    context.Process(target=_in_child, args=(port, there), daemon=True).start()
    assert here.recv() == b"ready"


LEAVE: dict[str, Callable[[int], object]] = {
    "child": lambda port: _kept.append(start(port)),
    "child without environment": lambda port: _kept.append(start(port, env={})),
    "child in a new session": lambda port: _kept.append(start(port, session=True)),
    "daemon": lambda port: start(port, prefix=(sys.executable, "-S", "-c", AWAY)).wait(),
    "fork": lambda port: _multiprocessing("fork", port),
    "spawn": lambda port: _multiprocessing("spawn", port),
    "forkserver": lambda port: _multiprocessing("forkserver", port),
    "thread": lambda port: _kept.append(_http_server(port)),
    "asyncio": lambda port: _kept.append(_asyncio_server(port)),
    "udp": lambda port: _kept.append(start(port, kind="udp")),
}


def used(port: int) -> None:
    """As a careful test does it."""
    process = start(port)
    process.terminate()
    process.wait()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
