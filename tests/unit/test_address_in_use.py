"""A failure that says "address already in use", and the port that it is about.

Words marked (doc) come from the documentation or the issue that is named, all others from the
programs themselves, of the version that is named.
"""

from __future__ import annotations

import errno
import socket
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from portfree import Outcome, Port, Report
from portfree._plugins import address_in_use
from portfree._plugins.address_in_use import explain, ports_in_use
from portfree.model import Note, Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIGURED = (Port(9000), Port(9001))
NODE = """\
Error: listen EADDRINUSE: address already in use {address}
    at Server.setupListenHandle [as _listen2] (node:net:1908:16)
  code: 'EADDRINUSE',
  errno: -98,
  syscall: 'listen',
"""

# What says which port it is. Each is about 8000.
NAMED = {
    "asyncio 3.11": "OSError: [Errno 98] error while attempting to bind on address "
    "('127.0.0.1', 8000): address already in use",
    "asyncio, IPv6": "OSError: [Errno 98] error while attempting to bind on address "
    "('::1', 8000, 0, 0): address already in use",
    "asyncio, Windows (doc: GNS3/gns3-server#799)": "OSError: [Errno 10048] error while attempting "
    "to bind on address ('127.0.0.1', 8000): only one usage of each socket address "
    "(protocol/network address/port) is normally permitted",
    "asyncio, Windows, taken for itself alone (doc: YanWenKun/Hunyuan3D-2-WinPortable#18)": "ERROR:"
    "    [Errno 13] error while attempting to bind on address ('0.0.0.0', 8000): [winerror 10013] "
    "an attempt was made to access a socket in a way forbidden by its access permissions",
    "asyncio, Windows in Chinese (doc: AliceNavigator/GPT-SoVITS-Api-GUI#1)": "ERROR:    [Errno "
    "10048] error while attempting to bind on address ('127.0.0.1', 8000): 通常每个套接字地址",
    "socket.create_server 3.11": "OSError: [Errno 98] Address already in use (while attempting to "
    "bind on address ('127.0.0.1', 8000))",
    "a socket in a test": '>       sock.bind(("127.0.0.1", 8000))\n'
    "E       OSError: [Errno 98] Address already in use\n\ntest_shop.py:12: OSError",
    "uvicorn 0.54": "INFO:     Application startup complete.\nERROR:    [Errno 98] error while "
    "attempting to bind on address ('127.0.0.1', 8000): address already in use\nINFO:     Waiting "
    "for application shutdown.",
    "rich log": "      ERROR   [Errno 98] error while attempting to bind on address "
    "('127.0.0.1', 8000): address already in use",
    "gunicorn 27": "[2026-11-26 20:43:18 +0000] [10] [ERROR] Connection in use: "
    "('127.0.0.1', 8000)\n[2026-11-26 20:43:18 +0000] [10] [ERROR] connection to "
    "('127.0.0.1', 8000) failed: [Errno 98] Address already in use",
    "flask 3.1": "Address already in use\nPort 8000 is in use by another program. Either identify "
    "and stop that program, or start the server with a different port.",
    "jupyter 2.21": "ERROR: the Jupyter server could not be started because port 8000 is not "
    "available.",
    "cheroot 11.1": "OSError: No socket could be created -- (('127.0.0.1', 8000): [Errno 98] "
    "Address already in use)",
    "daphne 4.2": "2026-11-26 20:43:48,105 CRITICAL Listen failure: Couldn't listen on "
    "127.0.0.1:8000: [Errno 98] Address already in use.",
    "uwsgi 2.0.31": "probably another instance of uWSGI is running on the same address "
    "(127.0.0.1:8000).\nbind(): Address already in use [core/socket.c line 769]",
    "streamlit 1.67": "2026-11-26 20:43:49.648 Port 8000 is not available",
    "node 20": NODE.format(address="127.0.0.1:8000"),
    "node 20, any address": NODE.format(address=":::8000"),
    "node 20, IPv6": NODE.format(address="::1:8000"),
    "vite 8": "error when starting dev server:\nError: Port 8000 is already in use",
    "vite 8, in colour": "\x1b[33mPort \x1b[1m8000\x1b[22m is in use, trying another one...",
    "java, Spring Boot (doc)": "Web server failed to start. Port 8000 was already in use.",
    "java, Tomcat (doc: making/hajiboot-samples#30)": "Failed to start end point associated with "
    'ProtocolHandler ["http-nio-8000"]\n\njava.net.BindException: Address already in use: bind',
    "go, act 0.2.89": "Error: listen tcp 127.0.0.1:8000: bind: address already in use",
    "go (doc: ARwMq9b6/dnsproxy#8)": "E0811 09:56:00 main.go:26] listen tcp :8000: bind: address "
    "already in use",
    "nginx 1.22": "[emerg] 2#2: bind() to [::1]:8000 failed (98: Address already in use)",
    "nginx, musl": "[emerg] 2#2: bind() to 0.0.0.0:8000 failed (98: Address in use)",
    "postgres 15": 'LOG:  could not bind IPv4 address "127.0.0.1": Address already in use\nHINT:  '
    "Is another postmaster already running on port 8000? If not, wait a few seconds and retry.",
    "redis 7.0": "# Warning: Could not create server TCP listening socket *:8000: bind: Address "
    "already in use\n# Failed listening on port 8000 (TCP), aborting.",
    "docker (doc: 0xmoei/allora-testnet#11)": "driver failed programming external connectivity on "
    "endpoint web (9c9f32): Bind for 0.0.0.0:8000 failed: port is already allocated",
    "docker (doc: shipping-docker/php-app#20)": "Error starting userland proxy: Bind for "
    "0.0.0.0:8000: unexpected error (Failure EADDRINUSE)",
    "docker 28 (doc)": "failed to bind host port for 0.0.0.0:8000:172.17.0.2:80/tcp: address "
    "already in use",
    "ruby, puma (doc: puma/puma#516)": 'Address in use - bind(2) for "0.0.0.0" port 8000 '
    "(Errno::EADDRINUSE)",
    "what a command printed, as pytest shows it": "E        +  where 1 = CompletedProcess(args="
    "['x'], stderr='Serving port 7000\\nError: listen EADDRINUSE: address already in use :::8000"
    "\\n    at Server').returncode",
    "two ports": "GET http://127.0.0.1:7000/ 200\nlisten tcp :8000: bind: address already in use\n"
    "GET http://127.0.0.1:7001/ 200",
    "two ports in a line": "proxy of 127.0.0.1:7000: listen tcp 127.0.0.1:8000: bind: address "
    "already in use",
}


@pytest.mark.parametrize("text", NAMED.values(), ids=NAMED.keys())
def test_the_port_that_the_text_names(text: str) -> None:
    assert ports_in_use(None, f"passed\n{text}\nend", CONFIGURED) == (Port(8000),)


# What says that an address is in use, and not which.
UNNAMED = {
    "http.server 3.11": "    self.socket.bind(self.server_address)\n"
    "OSError: [Errno 98] Address already in use",
    "macOS": "OSError: [Errno 48] Address already in use",
    "Windows": "OSError: [WinError 10048] Only one usage of each socket address (protocol/network "
    "address/port) is normally permitted",
    "as it is written in Python": "could not serve: OSError(98, 'Address already in use')",
    "django 5.2": "Error: That port is already in use.",
    "uvicorn 0.54, with workers": "ERROR:    [Errno 98] Address already in use",
    "hypercorn 0.18": "    sock.bind(binding)\nOSError: [Errno 98] Address already in use",
    "waitress 3.0": "    return self.socket.bind(addr)\n           ^^^^^^^^^^^^^^^^^^^^^^\n"
    "OSError: [Errno 98] Address already in use",
    "granian 2.8": "RuntimeError: Address already in use (os error 98)",
    "sanic 25.12": "INFO: Goin' Fast @ http://127.0.0.1:7000\nERROR: Startup failed: Address "
    "already in use. ",
    "java 17": 'Exception in thread "main" java.net.BindException: Address already in use\n'
    "\tat java.base/sun.nio.ch.Net.bind0(Native Method)",
    "java 8 (doc)": "java.net.BindException: Address already in use (Bind failed)",
    "rust 1.95": 'Error: Os { code: 98, kind: AddrInUse, message: "Address already in use" }',
    "a time is no port": "12:30:15 bind: Address already in use at 10:8000",
    "a line of code is no port": "server.py:7000: bind: Address already in use (node:net:1908:16)",
    "too large for a port": "bind to 127.0.0.1:80000: address already in use",
    "far from the words": f"127.0.0.1:7000 {'x' * 200} Address already in use",
}


@pytest.mark.parametrize("text", UNNAMED.values(), ids=UNNAMED.keys())
def test_where_no_port_is_named_it_is_one_of_the_configured(text: str) -> None:
    assert ports_in_use(None, text, CONFIGURED) == CONFIGURED
    assert ports_in_use(None, text, ()) == ()


UNRELATED = {
    "nothing": "",
    "a port": "assert 8000 == 8001\nport 8000 is open\nused port 8000, and http://127.0.0.1:8000",
    "a form": "E   AssertionError: assert 'Email address already in use' in 'Welcome'",
    "a form, its error": "ValidationError: This e-mail address is already in use",
    "a name": "IntegrityError: the name is already in use",
    "what a test expects": "E   AssertionError: assert 'address already in use' in 'started'",
    "a source": '>       with pytest.raises(OSError, match=r"98.*Address already in use"):\n'
    "E       Failed: DID NOT RAISE OSError",
    "a comment": "        # Address already in use, says the second one\n        serve(8000)",
    "a handled error among the locals": "error      = 'EADDRINUSE'",
    "refused": "ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 8000)",
    "not available": "OSError: [Errno 99] error while attempting to bind on address "
    "('10.1.1.1', 8000): cannot assign requested address",
    "not ours to connect to": "PermissionError: [WinError 10013] An attempt was made to access a "
    "socket in a way forbidden by its access permissions",
    "a path: asyncio 3.11": "OSError: [Errno 98] Address '/tmp/shop.sock' is already in use",
    "a path: node 20": "Error: listen EADDRINUSE: address already in use /tmp/shop.sock",
    "a path: nginx (doc: Azure/az-hop#623)": "nginx: [emerg] bind() to unix:/run/shop.sock failed "
    "(98: Address already in use)",
}


@pytest.mark.parametrize("text", UNRELATED.values(), ids=UNRELATED.keys())
def test_what_says_nothing_of_a_port_in_use(text: str) -> None:
    assert ports_in_use(None, text, CONFIGURED) is None
    assert ports_in_use(AssertionError(text), text, CONFIGURED) is None


@pytest.mark.parametrize(
    "text",
    [
        "Error: bind EADDRINUSE 127.0.0.1:8125",  # node 20
        "listen udp :8125: bind: address already in use",
        "Bind for 0.0.0.0:8125/udp failed: port is already allocated",
    ],
)
def test_a_port_of_udp(text: str) -> None:
    assert ports_in_use(None, text, CONFIGURED) == (Port(8125, "udp"),)


def test_a_port_that_is_configured_for_udp_alone_is_meant_so() -> None:
    text = "port 8125 is already in use"

    assert ports_in_use(None, text, [Port(8125, "udp")]) == (Port(8125, "udp"),)
    assert ports_in_use(None, text, [Port(8125, "udp"), Port(8125)]) == (Port(8125),)


# --- exceptions ----------------------------------------------------------------------------------

IN_USE = errno.EADDRINUSE
TEXT = "OSError: [Errno 98] Address already in use"


def raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - SystemExit is one of them
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture
def port() -> Port:
    return Port(8000)


class Refusing:
    """A server whose port is taken."""

    def __init__(self, **facts: object) -> None:
        self.config = SimpleNamespace(**facts)

    def bind(self, _: object) -> None:
        raise OSError(IN_USE, "Address already in use")

    def start(self) -> None:
        self.bind(("", self.config.port))


def _literal() -> None:
    Refusing().bind(("127.0.0.1", 8000))


def _local() -> None:
    address = ("::1", 8000, 0, 0)
    Refusing().bind(address)


SHOP_PORT = 8000


def _global() -> None:
    Refusing().bind(("", SHOP_PORT))


@pytest.mark.parametrize("start", [_literal, _local, _global, Refusing(port=8000).start])
def test_the_port_that_was_bound_where_it_was_raised(start: Callable[[], None], port: Port) -> None:
    assert ports_in_use(raised(start), TEXT, CONFIGURED) == (port,)


def test_a_value_that_is_no_port_is_none() -> None:
    error = raised(Refusing(port=True).start)

    assert ports_in_use(error, TEXT, CONFIGURED) == CONFIGURED


@pytest.mark.parametrize("code", [98, 48, 10048])
def test_the_number_of_the_error_says_it_in_every_language(code: int) -> None:
    assert ports_in_use(OSError(code, "Adresse bereits belegt"), "", CONFIGURED) == CONFIGURED


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EACCES, 10013])
def test_other_errors_are_none(code: int) -> None:
    assert ports_in_use(OSError(code, "port 8000"), "", CONFIGURED) is None


def test_what_windows_forbids_counts_for_a_bind_alone(port: Port) -> None:
    forbidden = OSError(10013, "An attempt was made to access a socket in a way forbidden")

    def connect() -> None:
        raise forbidden  # sock.connect(("127.0.0.1", 8000))

    def bind() -> None:
        raise forbidden.with_traceback(None)  # sock.bind(("127.0.0.1", 8000))

    assert ports_in_use(raised(connect), "", CONFIGURED) is None
    assert ports_in_use(raised(bind), "", CONFIGURED) == (port,)


def test_what_the_error_came_from(port: Port) -> None:
    def cause() -> None:
        try:
            _literal()
        except OSError as error:
            raise RuntimeError("no server") from error

    def context() -> None:
        try:
            _literal()
        except OSError:
            raise SystemExit(1) from None

    def group() -> None:
        raise BaseExceptionGroup("two", [ValueError(), raised(cause)])

    for function in (cause, context, group):
        assert ports_in_use(raised(function), "", CONFIGURED) == (port,)


def test_errors_that_are_each_others_cause() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__context__ = other, one

    assert ports_in_use(one, "", CONFIGURED) is None


@pytest.mark.parametrize("printed", ["Port 8000 is already in use", b"Port 8000 is already in use"])
def test_what_a_command_printed(printed: str | bytes, port: Port) -> None:
    failed = subprocess.CalledProcessError(1, ["vite"], stderr=printed)
    late = subprocess.TimeoutExpired(["vite"], 1.0, output=printed)

    assert ports_in_use(failed, "", CONFIGURED) == (port,)
    assert ports_in_use(late, "", CONFIGURED) == (port,)


def test_a_note_and_the_address_as_a_file_name(port: Port) -> None:
    noted = ValueError()
    noted.add_note("address already in use: 127.0.0.1:8000")

    assert ports_in_use(noted, "", CONFIGURED) == (port,)
    named = OSError(IN_USE, "Address already in use", ("127.0.0.1", 8000))
    assert ports_in_use(named, "", CONFIGURED) == (port,)


def test_the_error_comes_before_the_text(port: Port) -> None:
    assert ports_in_use(raised(_literal), "Port 7000 is in use", CONFIGURED) == (port,)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no sockets in the file system here")
def test_a_socket_in_the_file_system_has_no_port(tmp_path: Path) -> None:
    def serve() -> None:
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            one.bind(str(tmp_path / "s"))
            other.bind(str(tmp_path / "s"))

    error = OSError(IN_USE, "Address already in use", "/tmp/shop.sock")

    assert ports_in_use(raised(serve), TEXT, CONFIGURED) is None
    assert ports_in_use(error, TEXT, CONFIGURED) is None


def test_a_very_long_text_and_many_words() -> None:
    noise = "GET / 200\n" * 200_000

    assert ports_in_use(None, f"Port 8000 is in use\n{noise}", ()) == (Port(8000),)
    assert ports_in_use(None, f"{noise}Port 8000 is in use", ()) == (Port(8000),)
    assert ports_in_use(None, "Address already in use " * 10_000, ()) == ()


# --- the explanation -----------------------------------------------------------------------------

REQUEST = Request(CONFIGURED, scope="mine", wait=5.0, surface="pytest")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What was asked for, where 8000 is busy and 8001 has closing connections."""
    requests = []

    def free(request: Request) -> Report:
        requests.append(request)
        closing = Note("closing", "closing connections")
        outcomes = {
            8000: Outcome(Port(8000), "busy", ok=False),
            8001: Outcome(Port(8001), "free", notes=(closing,)),
        }
        return Report(
            request,
            tuple(outcomes.get(port.number, Outcome(port, "free")) for port in request.ports),
        )

    monkeypatch.setattr(address_in_use, "free", free)
    return requests


def test_nothing_is_stopped_nor_waited_for(asked: list[Request]) -> None:
    explain([Port(8000)], REQUEST)

    assert asked == [REQUEST._replace(ports=(Port(8000),), dry_run=True, wait=0.0)]


@pytest.mark.usefixtures("asked")
def test_a_busy_port_is_told_in_portfrees_own_lines() -> None:
    assert explain([Port(8000), Port(9000)], REQUEST) == "8000/tcp: would stay busy"
    assert explain([Port(8001)], REQUEST) == "8001/tcp: free\n  closing connections"


@pytest.mark.usefixtures("asked")
def test_a_port_that_is_free_by_now_takes_one_line() -> None:
    assert explain([Port(9000)], REQUEST) == "9000/tcp is free by now"
    rows = [Port(9000), Port(9001), Port(9002), Port(9010, "udp")]
    assert explain(rows, REQUEST) == "9000-9002/tcp, 9010/udp are free by now"
    assert explain([], REQUEST) == ""
