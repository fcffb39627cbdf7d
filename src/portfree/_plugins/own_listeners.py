"""What listens in this process: the server object behind a socket, and the thread that serves.

Loaded only where a test has left such a socket: it takes a look at all objects.
"""

from __future__ import annotations

import gc
import socket
import socketserver
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from portfree.model import Port


def described(address: str, port: Port) -> str:
    """What listens there, such as ``HTTPServer in thread 'Thread-1 (serve_forever)'``; empty if
    nothing is found.
    """
    owner = next(iter(_owners(address, port)), None)
    if owner is None:
        return ""
    if isinstance(owner, socket.socket):
        return "a socket"
    name = type(owner).__name__
    if type(owner).__module__.startswith(("asyncio.", "uvloop")):
        name = f"an {type(owner).__module__.partition('.')[0]} server"
    thread = _thread_of(owner)
    return f"{name} in thread {thread.name!r}" if thread else name


def _owners(address: str, port: Port) -> list[object]:
    """The objects with a socket there: servers first, then the mere socket."""
    loops = [sys.modules.get(name) for name in ("asyncio.base_events", "uvloop.loop")]
    servers = tuple(module.Server for module in loops if module)
    # Of no other objects anything is asked, which could run code of theirs: isinstance would ask
    # for their __class__, and so set up the lazy objects of Django.
    kinds = (socket.socket, socketserver.BaseServer, *servers)
    found = [each for each in gc.get_objects() if issubclass(type(each), kinds)]
    at = [each for each in found if any(_is_at(one, address, port) for one in _sockets(each))]
    return sorted(at, key=lambda each: isinstance(each, socket.socket))


def _sockets(owner: Any) -> Sequence[Any]:  # noqa: ANN401 - of no common type
    if isinstance(owner, socket.socket):
        return [owner]
    if isinstance(owner, socketserver.BaseServer):
        return [getattr(owner, "socket", None)]
    return owner.sockets or ()


def _is_at(found: Any, address: str, port: Port) -> bool:  # noqa: ANN401 - as above
    with suppress(OSError, AttributeError):  # it is closed, or of another family
        name, udp = found.getsockname(), found.type == socket.SOCK_DGRAM
        at = isinstance(name, tuple) and name[:2] == (address, port.number)
        return at and udp == (port.protocol == "udp")
    return False


def _thread_of(owner: Any) -> threading.Thread | None:  # noqa: ANN401 - as above
    """The other thread that runs a method of it, or of its event loop."""
    loop = None
    with suppress(AttributeError):
        loop = owner.get_loop()
    frames = sys._current_frames()  # noqa: SLF001 - documented, in spite of its name
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        while frame is not None and thread is not threading.main_thread():
            served = frame.f_locals.get("self")
            if served is not None and (served is owner or served is loop):
                return thread
            frame = frame.f_back
    return None
