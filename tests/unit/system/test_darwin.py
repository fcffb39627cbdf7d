"""macOS, on any system: what psutil, launchctl and netstat say there, and what is made of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

from helpers.fake_psutil import FakePsutil
from portfree._system.darwin import DarwinSystem
from portfree._system.interface import Process, Socket
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Sequence

NETSTAT = """\
Active Internet connections (including servers)
Proto Recv-Q Send-Q  Local Address          Foreign Address        (state)
tcp4       0      0  127.0.0.1.8000         127.0.0.1.53412        TIME_WAIT
tcp6       0      0  fe80::1234:5678.8000   fe80::1234:5678.53413  FIN_WAIT_2
tcp4       0      0  127.0.0.1.18000        127.0.0.1.53414        TIME_WAIT
tcp4       0      0  127.0.0.1.53412        127.0.0.1.8000         TIME_WAIT
tcp4       0      0  127.0.0.1.8000         127.0.0.1.53415        ESTABLISHED
tcp4       0      0  *.8000                 *.*                    LISTEN
udp4       0      0  *.8000                 *.*
tcp4       0      0  *.*                    *.*                    CLOSED
tcp4       0      0  *.*                    *.*                    TIME_WAIT
"""

LAUNCHCTL = """\
PID\tStatus\tLabel
-\t0\tcom.example.idle
7\t0\thomebrew.mxcl.nginx
8\t-15\tapplication.com.example.editor.1234.5678
9\t0\torg.example with a space
10\t0\t
garbage
11
"""


class Mac(DarwinSystem):
    """A Mac whose programs write what a test says."""

    def __init__(self, **told: str | None) -> None:
        super().__init__()
        self.told = told
        self.asked: list[Sequence[str]] = []

    def output(self, argv: Sequence[str], timeout: float) -> str | None:
        assert timeout == 2.0
        self.asked.append(argv)
        return self.told.get(argv[0])

    def facts(self, pid: int) -> Process:
        found = self.process(pid)
        assert found is not None
        return found

    def lists(self) -> int:
        """How often the services were listed."""
        return self.asked.count(["launchctl", "list"])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakePsutil:
    return FakePsutil(monkeypatch)


def test_netstat_tells_of_closing_connections(machine: FakePsutil) -> None:
    listening = SimpleNamespace(
        status=psutil.CONN_LISTEN, laddr=("127.0.0.1", 8000), raddr=(), type=1
    )
    machine.add(net_connections=[listening])
    mac, port = Mac(netstat=NETSTAT), Port(8000)
    (listener,) = mac.sockets([port])
    assert mac.asked == []
    assert mac.sockets([port], connections=True) == [
        listener,
        Socket(None, port, "closing", "127.0.0.1", peer="127.0.0.1:53412"),
        Socket(None, port, "closing", "fe80::1234:5678", peer="[fe80::1234:5678]:53413"),
    ]
    assert mac.asked == [["netstat", "-an", "-p", "tcp"]]
    # Without netstat, what psutil lists is left.
    assert Mac().sockets([port], connections=True) == [listener]


def test_an_empty_environment_is_one_that_the_kernel_hides(machine: FakePsutil) -> None:
    machine.add(7, environ={})
    machine.add(8, environ=psutil.AccessDenied())
    machine.add(9)
    mac = Mac(launchctl="")
    for pid in (7, 8):
        assert (mac.facts(pid).environment, mac.facts(pid).complete) == ("unreadable", False)
    assert (mac.facts(9).environment, mac.facts(9).complete) == ("read", True)
    assert (mac.name, mac.polite, mac.namespace) == ("darwin", True, "")


def test_launchd_jobs_are_services_and_apps_are_not(machine: FakePsutil) -> None:
    mac = Mac(launchctl=LAUNCHCTL)
    for pid in range(7, 12):
        machine.add(pid)
    assert [mac.facts(pid).unit for pid in range(7, 12)] == [
        "homebrew.mxcl.nginx",
        None,
        "org.example with a space",
        None,
        None,
    ]
    assert mac.facts(7).complete
    assert mac.lists() == 1
    # Seconds since the epoch, to the bit what psutil says.
    assert mac.facts(7).start == 107.0


def test_a_process_younger_than_the_list_makes_it_read_again(
    machine: FakePsutil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 200.0)
    machine.add(7)
    mac = Mac(launchctl="")
    assert mac.facts(7).unit is None
    machine.add(8, create_time=201.0)
    mac.told["launchctl"] = "8\t0\torg.example.restarted\n"
    assert mac.facts(7).unit is None
    assert mac.lists() == 1
    assert mac.facts(8).unit == "org.example.restarted"
    assert mac.lists() == 2


def test_without_launchctl_nothing_is_known_of_services(machine: FakePsutil) -> None:
    machine.add(7)
    mac = Mac()
    for _ in range(2):
        assert (mac.facts(7).unit, mac.facts(7).complete) == (None, False)
    assert mac.lists() == 1
