"""What listens in the test process itself: real sockets, and no process but ours."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from portfree._plugins.own_listeners import described
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCAL = "127.0.0.1"
ANY = (LOCAL, 0)


@contextmanager
def in_thread(target: Callable[[], object], end: Callable[[], object]) -> Iterator[str]:
    """Run something in another thread; gives its name."""
    thread = threading.Thread(target=target, name="the server")
    thread.start()
    try:
        yield thread.name
    finally:
        end()
        thread.join()


async def serve() -> asyncio.Server:
    return await asyncio.start_server(lambda *_: None, *ANY)


def tcp(number: int) -> Port:
    return Port(number)


@pytest.mark.parametrize("kind", [HTTPServer, ThreadingHTTPServer])
def test_an_http_server_is_told_with_its_thread(kind: type[HTTPServer]) -> None:
    with kind(ANY, SimpleHTTPRequestHandler) as server:
        port = tcp(server.server_port)
        assert described(LOCAL, port) == kind.__name__
        with in_thread(server.serve_forever, server.shutdown):
            _await(lambda: "thread" in described(LOCAL, port))
            assert described(LOCAL, port) == f"{kind.__name__} in thread 'the server'"
        assert described(LOCAL, port) == kind.__name__
    assert described(LOCAL, port) == ""


def test_a_server_that_a_test_has_made_of_a_udp_socket() -> None:
    class Metrics(socketserver.UDPServer):
        pass

    with Metrics(ANY, socketserver.BaseRequestHandler) as server:
        assert described(LOCAL, Port(server.server_address[1], "udp")) == "Metrics"


def test_a_bare_socket_and_a_closed_one() -> None:
    with socket.create_server(ANY) as bare:
        port = tcp(bare.getsockname()[1])
        assert described(LOCAL, port) == "a socket"
        assert described("0.0.0.0", port) == "", "another address"
    assert described(LOCAL, port) == ""


def test_a_socket_on_ipv6() -> None:
    try:
        bare = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with bare:
        assert described("::1", tcp(bare.getsockname()[1])) == "a socket"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no sockets in the file system here")
def test_other_sockets_are_passed_over() -> None:
    near, far = socket.socketpair()
    with near, far, socket.create_server(ANY) as bare:
        assert described(LOCAL, tcp(bare.getsockname()[1])) == "a socket"


def test_one_of_the_other_protocol_is_another_one() -> None:
    with socket.create_server(ANY) as bare:
        number = bare.getsockname()[1]
        assert described(LOCAL, Port(number, "udp")) == ""


def test_an_asyncio_server_whose_loop_runs_in_another_thread() -> None:
    loop = asyncio.new_event_loop()
    try:
        with in_thread(loop.run_forever, lambda: loop.call_soon_threadsafe(loop.stop)):
            server = asyncio.run_coroutine_threadsafe(serve(), loop).result(30)
            number = server.sockets[0].getsockname()[1]
            assert described(LOCAL, tcp(number)) == "an asyncio server in thread 'the server'"
        assert described(LOCAL, tcp(number)) == "an asyncio server"
        server.close()
        loop.run_until_complete(server.wait_closed())
        assert described(LOCAL, tcp(number)) == ""
    finally:
        loop.close()


def test_an_asyncio_server_whose_loop_has_been_closed() -> None:
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(serve())
    number = server.sockets[0].getsockname()[1]
    loop.close()

    assert described(LOCAL, tcp(number)) == "an asyncio server"

    for each in server._sockets or ():  # type: ignore[attr-defined]
        each.close()


def test_in_the_main_thread_nothing_goes_on_beside_the_tests() -> None:
    async def main() -> str:
        server = await serve()
        async with server:
            return described(LOCAL, tcp(server.sockets[0].getsockname()[1]))

    assert asyncio.run(main()) == "an asyncio server"


def test_a_server_of_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    server = loop.run_until_complete(loop.create_server(asyncio.Protocol, *ANY))
    number = server.sockets[0].getsockname()[1]

    with in_thread(loop.run_forever, lambda: loop.call_soon_threadsafe(loop.stop)):
        assert described(LOCAL, tcp(number)).startswith("an uvloop server")

    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.close()


def test_no_code_of_other_objects_is_run() -> None:
    asked: list[str] = []

    class Proxy:
        """As those of Django and wrapt: to ask for its class sets it up."""

        @property  # type: ignore[misc]
        def __class__(self) -> type:
            asked.append("__class__")
            raise RuntimeError

        def __getattr__(self, name: str) -> object:
            asked.append(name)
            raise RuntimeError

    proxies = [Proxy(), Proxy()]
    with socket.create_server(ANY) as bare:
        assert described(LOCAL, tcp(bare.getsockname()[1])) == "a socket"
    assert asked == []
    assert len(proxies) == 2


def _await(met: Callable[[], bool]) -> None:
    """Until a thread has come so far: the test's own timeout is the limit."""
    tries = threading.Event()
    while not met():
        tries.wait(0.001)
