"""Small servers for tests, each with one habit that real ones have.

Run as a program (``python -S servers.py --tcp 127.0.0.1:8000 --ignore TERM``), never imported by a
test. It imports little, so that ten servers start in a fraction of a second. A server that is ready
writes one line of JSON to the descriptor that ``STAGE_READY`` names: no test has to sleep and hope.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

READY = "STAGE_READY"

# exit(2), which ends one thread alone where exit_group(2) ends them all: syscall(2) has no names.
SYS_EXIT = {"x86_64": 60, "aarch64": 93}
PR_SET_DUMPABLE = 4  # prctl(2)

# Python handles a signal that comes just before a call that waits after it: so none waits long.
NAP = 0.1


def tell(**facts: object) -> None:
    """Say that we are ready, and what the test should know."""
    descriptor = os.environ.get(READY)
    if descriptor is not None:
        # The test may be over by the time that a supervisor starts us once more.
        with suppress(OSError):
            os.write(int(descriptor), json.dumps({"pid": os.getpid(), **facts}).encode() + b"\n")


def address(text: str) -> tuple[str, int]:
    """``127.0.0.1:8000`` or ``[::1]:8000``."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def bind(text: str, kind: socket.SocketKind, options: argparse.Namespace) -> socket.socket:
    host, port = address(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    if kind is socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as most servers do
    if options.reuseport:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family is socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((host, port))
    sock.set_inheritable(options.hand_down)
    return sock


class Loop:
    """Accept, keep every connection until the client closes it, and answer nothing."""

    def __init__(self, listeners: list[socket.socket], *, close_first: bool = False) -> None:
        self._close_first = close_first
        self._selector = selectors.PollSelector()  # epoll would be shared by the workers
        self._listeners = listeners
        self._open: set[socket.socket] = set()
        for listener in listeners:
            listener.settimeout(0)
            self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until there is neither a listener nor a connection left."""
        while self._listeners or self._open:
            for key, _ in self._selector.select(NAP):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock in self._listeners:
                    self._accept(sock)
                else:
                    self._read(sock)

    def let_go(self) -> None:
        """Close the listeners and finish what is open."""
        for listener in self._listeners:
            self._selector.unregister(listener)
            listener.close()
        self._listeners = []

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # another worker was faster, or this is UDP
            with suppress(OSError):
                listener.recv(65536)
            return
        if self._close_first:
            connection.close()
            return
        self._open.add(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        connection.sendall(b"accepted\n")

    def _read(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if connection.recv(65536):
                return
        self._selector.unregister(connection)
        self._open.discard(connection)
        connection.close()


def flush_slowly(marker: str, seconds: float) -> None:
    """On SIGTERM, take a while to write what must not be lost, then end."""

    def flush(*_: object) -> NoReturn:
        time.sleep(seconds)
        Path(marker).write_text("flushed\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, flush)


def drain(loop: Loop, marker: str) -> None:
    """On SIGTERM, let go of the port at once, and end when the last client is served."""
    signal.signal(signal.SIGTERM, lambda *_: loop.let_go())
    loop.run()
    Path(marker).write_text("finished\n")


def prefork(loop: Loop, count: int) -> NoReturn:
    """A master that accepts nothing itself, and replaces each worker that dies."""

    def start() -> int:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            loop.run()
            os._exit(0)
        return pid

    def stop(*_: object) -> NoReturn:
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        os._exit(0)

    workers: set[int] = set()
    signal.signal(signal.SIGTERM, stop)
    workers.update(start() for _ in range(count))
    tell(workers=sorted(workers))
    while True:
        pid, _ = os.wait()
        workers.discard(pid)
        workers.add(start())


def outlive_main_thread(loop: Loop) -> NoReturn:
    """Leave the socket to a second thread, and end the first one."""
    threading.Thread(target=loop.run).start()
    tell()
    # ctypes lets go of the interpreter's lock for the call, so the other thread goes on.
    ctypes.CDLL(None).syscall(SYS_EXIT[platform.machine()], 0)
    raise AssertionError("exit(2) does not return")


def wipe() -> None:
    """Overwrite the title and the environment, as setproctitle does."""
    # proc(5), fields 48 to 51: arg_start, arg_end, env_start, env_end.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    arg_start, arg_end, env_start, env_end = map(int, fields[45:49])
    title = b"worker: idle"
    ctypes.memset(arg_start, 0, arg_end - arg_start)
    ctypes.memmove(arg_start, title, min(len(title), arg_end - arg_start))
    ctypes.memset(env_start, 0, env_end - env_start)


def supervise(command: list[str]) -> NoReturn:
    """Start the command again whenever it ends; hold nothing."""
    while True:
        failed = subprocess.run(command, close_fds=False, check=False).returncode > 0
        time.sleep(0.02 if failed else 0)  # what cannot start must not take all the processor


def connect(target: str) -> NoReturn:
    """A client that keeps its connection whatever happens to the server."""
    with socket.create_connection(address(target)) as connection:
        assert connection.recv(64) == b"accepted\n"
        tell()
        while True:
            time.sleep(NAP)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    for name in ("tcp", "udp", "bound", "ignore"):  # an address, or the name of a signal
        parser.add_argument(f"--{name}", action="append", default=[])
    for name in ("flush", "drain"):
        parser.add_argument(f"--{name}", metavar="MARKER")
    for name in ("close-first", "dead-main", "reuseport", "stop-self", "supervise", "wipe"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--flush-seconds", type=float, default=0.3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--connect", metavar="HOST:PORT")
    parser.add_argument("--run", action="store_true", help="then run the command, and end with it")
    parser.add_argument("--hand-down", action="store_true", help="to that command: the sockets")
    parser.add_argument("command", nargs="*")
    return parser


def settle(options: argparse.Namespace) -> None:
    # A shell starts background jobs with SIGINT ignored, and that is passed on: settle it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for name in options.ignore:
        signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_IGN)
    if options.uid is not None:
        os.setgroups([])
        os.setresgid(options.uid, options.uid, options.uid)
        os.setresuid(options.uid, options.uid, options.uid)
        # As if that user had started it: who changes users becomes unreadable (proc(5)).
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def serve(options: argparse.Namespace, then: Callable[[], object] | None = None) -> None:
    """Do what the options say, or something else with the ports *then*."""
    if options.supervise:
        supervise(options.command)
    if options.connect:
        connect(options.connect)

    if options.flush:  # before anything can reach it
        flush_slowly(options.flush, options.flush_seconds)
    listeners = [bind(text, socket.SOCK_STREAM, options) for text in options.tcp]
    for listener in listeners:
        listener.listen(64)
    quiet = [bind(text, socket.SOCK_STREAM, options) for text in options.bound]
    loop = Loop(
        listeners + [bind(text, socket.SOCK_DGRAM, options) for text in options.udp],
        close_first=options.close_first,
    )
    if options.wipe:
        wipe()
    if options.run:
        tell()
        sys.exit(subprocess.run(options.command, close_fds=False, check=False).returncode)
    if then:
        then()
    if options.workers:
        prefork(loop, options.workers)
    if options.dead_main:
        outlive_main_thread(loop)
    tell()
    if options.stop_self:
        os.kill(os.getpid(), signal.SIGSTOP)
    if options.drain:
        drain(loop, options.drain)
        return
    loop.run()
    while quiet:
        time.sleep(NAP)


if __name__ == "__main__":
    asked = parser().parse_args()
    settle(asked)
    serve(asked)
