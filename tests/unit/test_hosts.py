"""The hosts of xdist's workers: which one a worker is on, and what its controller does about it."""

from __future__ import annotations

import platform
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from portfree._core.ports import parse_ports
from portfree._plugins import host_probe, xdist_hosts
from portfree.model import OnBusy, Request

if TYPE_CHECKING:
    from pathlib import Path

    from portfree._plugins.xdist_hosts import Worker


def test_a_worker_on_our_own_host_is_told_our_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # ssh to localhost: nobody there inherits our environment.
    hosts = xdist_hosts.Hosts(Request(parse_ports(8000)), "1.2.ab")
    told: list[object] = []
    channel = SimpleNamespace(send=told.append, waitclose=float)
    monkeypatch.setattr(xdist_hosts, "_ask", lambda _: (channel, host_probe.identity()))
    node = cast("Worker", SimpleNamespace(gateway=SimpleNamespace(id="gw0")))

    assert hosts.welcome(node) == ""
    assert told == [{"PORTFREE_RUN_ID": "1.2.ab"}]
    assert list(hosts.lines()) == []


@pytest.mark.parametrize("on_busy", ["warn", "fail"])
def test_one_connection_is_not_enough(monkeypatch: pytest.MonkeyPatch, on_busy: OnBusy) -> None:
    hosts = xdist_hosts.Hosts(Request(parse_ports(8000), on_busy=on_busy), "1.2.ab")
    channel = SimpleNamespace(send=dict, waitclose=float)
    monkeypatch.setattr(xdist_hosts, "_ask", lambda _: (channel, ("another", "", "barn", "")))
    gateway = SimpleNamespace(id="gw0", spec=SimpleNamespace(socket="barn:8888"))
    node = cast("Worker", SimpleNamespace(gateway=gateway))

    said = "host barn: a socket server takes one connection: its ports were not freed"
    if on_busy == "fail":
        assert hosts.welcome(node) == said
        return
    assert [hosts.welcome(node), hosts.welcome(node)] == ["", ""]
    assert list(hosts.lines()) == [(said, True)]


@pytest.mark.parametrize("on_busy", ["warn", "fail"])
def test_a_worker_that_does_not_say_where_it_is_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, on_busy: OnBusy
) -> None:
    def fail(_: object) -> None:
        raise OSError("Traceback\n  File ...\nValueError: gone")  # as execnet hands it on

    monkeypatch.setattr(xdist_hosts, "_ask", fail)
    hosts = xdist_hosts.Hosts(Request(parse_ports(8000), on_busy=on_busy), "1.2.ab")
    node = cast("Worker", SimpleNamespace(gateway=SimpleNamespace(id="gw0")))
    said = "the host of worker gw0 could not be told: ValueError: gone"

    assert hosts.welcome(node) == ("" if on_busy == "warn" else said)
    assert list(hosts.lines()) == ([(said, True)] if on_busy == "warn" else [])


# Which host this is


def test_a_host_is_a_machine_and_a_namespace(tmp_path: Path) -> None:
    boot = tmp_path / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("4711\n")
    own = tmp_path / "proc/self/ns/net"
    own.parent.mkdir(parents=True)
    own.touch()
    number = own.stat().st_ino
    name = platform.node()

    assert host_probe.identity(str(tmp_path)) == ("4711", str(number), name, f"net:[{number}]")

    names = tmp_path / "run/netns"
    names.mkdir(parents=True)
    (names / "blue").touch()
    (names / "green").hardlink_to(own)

    assert host_probe.identity(str(tmp_path)) == ("4711", str(number), name, "green")


def test_a_host_without_namespaces_is_a_machine(tmp_path: Path) -> None:
    name = platform.node()
    assert host_probe.identity(str(tmp_path)) == (name, "", name, "")
