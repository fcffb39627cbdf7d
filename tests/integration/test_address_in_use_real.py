"""What real programs say when their port is taken, and how that is explained."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socketserver
import subprocess
import sys
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import pytest

from helpers.processes import http_server, tcp, udp
from portfree import Port
from portfree._plugins.address_in_use import explain, ports_in_use
from portfree.model import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from helpers.processes import Processes
    from portfree.model import Protocol

APP = """\
from flask import Flask
app = Flask(__name__)
async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
"""
TEST = "tests/test_shop.py::test_search (setup)"


class Program(NamedTuple):
    """A program that listens on a port, and whether it says on which one it could not."""

    words: Sequence[str]
    names: bool = True

    @property
    def missing(self) -> bool:
        if self.words[0] == "-m":
            return find_spec(self.words[1].partition(".")[0]) is None
        return shutil.which(self.words[0]) is None


PROGRAMS = {
    "http.server": Program(["-m", "http.server", "--bind", "127.0.0.1", "$PORT"], names=False),
    "uvicorn": Program(["-m", "uvicorn", "app:asgi", "--port", "$PORT"]),
    "uvicorn --workers": Program(
        ["-m", "uvicorn", "app:asgi", "--workers", "2", "--port", "$PORT"], names=False
    ),
    "gunicorn": Program(["-m", "gunicorn", "app:app", "--bind", "127.0.0.1:$PORT"]),
    "flask": Program(["-m", "flask", "--app", "app", "run", "--port", "$PORT"]),
    "hypercorn": Program(["-m", "hypercorn", "app:asgi", "--bind", "127.0.0.1:$PORT"], names=False),
    "node": Program(["node", "-e", "require('http').createServer().listen($PORT, '127.0.0.1')"]),
    "redis": Program(["redis-server", "--bind", "127.0.0.1", "--port", "$PORT"]),
}


@pytest.fixture
def taken(processes: Processes, project: Path) -> int:
    """A port that a server left by a test holds, for TCP and UDP."""
    port = processes.free_port()
    env = {"PYTEST_CURRENT_TEST": TEST}
    for command in (tcp(port), udp(port)):
        processes.orphan(command, cwd=project, env=env)
    return port


@pytest.fixture
def configured(taken: int, processes: Processes) -> tuple[Port, ...]:
    """The ports that are asked about where nothing names one."""
    return (Port(processes.free_port()), Port(taken))


def _complaint(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """What the command says, as far as it has said it, until it ends."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            said = ""
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                yield said
        finally:
            process.kill()  # gunicorn tries again for seconds


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_finds_its_port_taken(
    name: str, taken: int, configured: tuple[Port, ...], project: Path, processes: Processes
) -> None:
    program = PROGRAMS[name]
    if program.missing:
        pytest.skip(f"needs {name}")
    (project / "app.py").write_text(APP)
    command = [word.replace("$PORT", str(taken)) for word in program.words]
    if command[0] == "-m":
        command.insert(0, sys.executable)

    said = ""
    for said in _complaint(command, project, processes.environment()):
        ports = ports_in_use(None, said, configured)
        if ports == (Port(taken),):
            break
    else:
        ports = ports_in_use(None, said, configured)

    assert ports == ((Port(taken),) if program.names else configured), said


def _bind_asyncio(port: int) -> None:
    asyncio.run(_listen(port))


async def _listen(port: int) -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", port)


def _bind_in_a_group(port: int) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_listen(port))

    asyncio.run(main())


def _bind_datagrams(port: int) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", port)
        )

    asyncio.run(main())


def _bind_http(port: int) -> None:
    HTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)


def _bind_udp(port: int) -> None:
    socketserver.UDPServer(("127.0.0.1", port), socketserver.BaseRequestHandler)


def _bind_uvicorn(port: int) -> None:
    pytest.importorskip("uvicorn").Config("app:asgi", port=port).bind_socket()  # SystemExit


def _run_http_server(port: int) -> None:
    subprocess.run(
        [sys.executable, "-c", f"import socket; socket.create_server(('127.0.0.1', {port}))"],
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("bind", "protocol"),
    [
        (_bind_asyncio, "tcp"),
        (_bind_in_a_group, "tcp"),
        (_bind_datagrams, "udp"),
        (_bind_http, "tcp"),
        (_bind_udp, "udp"),
        (_bind_uvicorn, "tcp"),
        (_run_http_server, "tcp"),
    ],
)
def test_a_server_in_the_test_itself(
    bind: Callable[[int], None], protocol: Protocol, taken: int, configured: tuple[Port, ...]
) -> None:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - whatever it is
        bind(taken)

    assert ports_in_use(raised.value, "", configured) == (Port(taken, protocol),)
    # uvicorn does not close the socket that it could not bind.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        del raised
        gc.collect()


def test_the_explanation_names_the_holder_its_age_its_test_and_what_helps(
    taken: int, configured: tuple[Port, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another worker might have started it, and would be going on.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)

    said = explain([Port(taken)], Request(configured, surface="pytest"))

    first, holder, why = said.splitlines()
    assert first == f"{taken}/tcp: would be freed"
    assert "would stop python" in holder
    assert " s old, in " in holder
    assert f"left-behind: started in {TEST}" in why
    # Of the configured ports, it is the busy one that matters.
    assert explain(configured, Request(configured)).splitlines()[0] == first


def test_the_explanation_of_a_server_that_somebody_looks_after(processes: Processes) -> None:
    port = processes.free_port()
    server = processes.attended(http_server(port), listening=port)

    said = explain([Port(port)], Request((), surface="pytest"))

    assert f"{port}/tcp: would stay busy" in said
    assert f"pid {server.pid}" in said
    assert "instead: stop it there, or: pytest --free-ports-scope" in said
    assert server.alive


def test_a_port_that_is_free_by_now(processes: Processes) -> None:
    port = processes.free_port()

    assert explain([Port(port)], Request(())) == f"{port}/tcp is free by now"
