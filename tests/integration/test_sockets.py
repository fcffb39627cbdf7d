"""Who holds a port and who does not: families, protocols, shared and half-open sockets."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.processes import (
    NOBODY,
    Processes,
    Started,
    accepts,
    client,
    has_ipv6,
    holder,
    is_free,
    needs_namespace,
    needs_root,
    notes,
    one_backend,
    only,
    serve,
    tcp,
    udp,
    wait_until,
)
from portfree import Port, free_ports

pytestmark = pytest.mark.usefixtures("backend", "project")

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


# Bystanders


def test_a_client_of_the_port_survives(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=project)
    visitor = processes.orphan(client(port), cwd=project)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert [each.pid for each in outcome.holders] == [server.pid]
    assert visitor.alive


@one_backend
def test_ports_whose_number_contains_the_ports_digits_survive(
    processes: Processes, project: Path
) -> None:
    # Such as 8000 in 18000 and 80001, to which a `grep 8000` is blind.
    port, *neighbours = processes.free_ports(lambda port: (port, port + 10_000, port * 10 + 1))
    server = processes.orphan(tcp(port), cwd=project)
    others = [processes.orphan(tcp(neighbour), cwd=project) for neighbour in neighbours]

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert not server.alive
    assert all(other.alive for other in others)
    assert all(accepts(neighbour) for neighbour in neighbours)


@one_backend
def test_a_process_whose_pid_contains_the_ports_digits_survives(
    processes: Processes, project: Path
) -> None:
    subprocess.run([sys.executable, "-S", "-c", _PASS_SMALL_PIDS], check=True)

    def with_a_port_in_its_pid() -> tuple[Started, int] | None:
        bystander = processes.orphan(tcp(processes.free_port()), cwd=project)
        digits = str(bystander.pid)
        parts = {int(digits[at : at + size]) for size in (4, 5) for at in range(len(digits))}
        port = next((n for n in parts if 1024 <= n <= 65535 and processes.claim(n)), None)
        return None if port is None else (bystander, port)

    found = wait_until(with_a_port_in_its_pid, "a pid with a free port in it")
    assert found
    bystander, port = found
    server = processes.orphan(tcp(port), cwd=project)

    outcome = only(free_ports(port))

    assert str(port) in str(bystander.pid)
    assert outcome.status == "freed"
    assert [each.pid for each in outcome.holders] == [server.pid]
    assert bystander.alive


# In a young container, pids are smaller than any port that we may have.
_PASS_SMALL_PIDS = """\
import os
while (pid := os.fork()) and pid < 2000:
    os.waitpid(pid, 0)
"""


@needs_root
@needs_namespace("--net")
def test_the_same_port_in_another_network_namespace_is_not_ours(
    processes: Processes, project: Path
) -> None:
    port = processes.free_port()
    away = processes.orphan(["unshare", "--net", *tcp(port)], cwd=project)
    assert only(free_ports(port)).status == "free"
    server = processes.orphan(tcp(port), cwd=project)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert [each.pid for each in outcome.holders] == [server.pid]
    assert away.alive


# Families and protocols


@needs_ipv6
@pytest.mark.parametrize("host", ["[::1]", "[::]"])
def test_a_server_on_ipv6_only(processes: Processes, project: Path, host: str) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, host=host), cwd=project)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, server).addresses == (host.strip("[]"),)
    assert not accepts(port, "::1")


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.2"])
def test_a_server_on_another_address(processes: Processes, project: Path, host: str) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, host=host), cwd=project)

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert holder(outcome, server).addresses == (host,)


@needs_ipv6
def test_two_servers_on_one_port_of_both_families(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    servers = [
        processes.orphan(tcp(port, host=host), cwd=project) for host in ("127.0.0.1", "[::1]")
    ]

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert {each.pid for each in outcome.holders} == {server.pid for server in servers}
    assert not any(server.alive for server in servers)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_other_protocol_on_the_same_number_is_left_alone(
    processes: Processes, project: Path, protocol: str
) -> None:
    port = processes.free_port()
    servers = {
        "tcp": processes.orphan(tcp(port), cwd=project),
        "udp": processes.orphan(udp(port), cwd=project),
    }

    outcome = only(free_ports(f"{port}/{protocol}"))

    assert outcome.status == "freed"
    assert [each.pid for each in outcome.holders] == [servers[protocol].pid]
    for name, server in servers.items():
        assert server.alive == (name != protocol)


def test_a_client_that_uses_the_number_for_udp_is_no_holder(
    processes: Processes, project: Path
) -> None:
    port, target = processes.free_port(), processes.free_port()
    processes.orphan(udp(target), cwd=project)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
        sock.connect(("127.0.0.1", target))

        outcome = only(free_ports(f"{port}/udp"))

    assert outcome.status == "busy"
    assert outcome.holders == ()
    assert "outgoing" in notes(outcome)


# Shared and half-open


def test_every_member_of_a_reuseport_group_is_stopped(processes: Processes, project: Path) -> None:
    port = processes.free_port()
    servers = [processes.orphan(tcp(port, "--reuseport"), cwd=project) for _ in range(3)]

    outcome = only(free_ports(port))

    assert outcome.status == "freed"
    assert {each.pid for each in outcome.holders} == {server.pid for server in servers}
    assert not any(server.alive for server in servers)


@one_backend
def test_a_reuseport_group_of_two_projects(
    processes: Processes, project: Path, elsewhere: Path
) -> None:
    port = processes.free_port()
    ours = processes.orphan(tcp(port, "--reuseport"), cwd=project)
    theirs = processes.orphan(tcp(port, "--reuseport"), cwd=elsewhere)

    outcome = only(free_ports(port))

    # What is kept stays; whether ours is then still worth stopping is for portfree to say.
    assert outcome.status == "busy"
    assert holder(outcome, theirs).verdict.rule == "attended"
    assert holder(outcome, ours).verdict.action in ("stop", "keep")
    assert theirs.alive


def test_a_socket_that_is_bound_and_does_not_listen(
    processes: Processes, project: Path, backend: str
) -> None:
    port = processes.free_port()
    server = processes.orphan(serve("--bound", f"127.0.0.1:{port}"), cwd=project)

    outcome = only(free_ports(port, grace=1.0))

    if backend == "linux" and "invisible" not in notes(outcome):  # kernels before 6.8 hide it
        assert outcome.status == "freed"
        assert holder(outcome, server).verdict.rule == "orphan"
        assert not server.alive
    else:
        assert outcome.status == "busy"
        assert outcome.holders == ()
        assert notes(outcome)["invisible"]
        assert server.alive


def test_closing_connections_of_a_dead_server_are_no_obstacle(
    processes: Processes, project: Path, backend: str
) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port, "--close-first"), cwd=project)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        # Who closes first keeps the connection in TIME_WAIT: here the server, on our port.
        assert connection.recv(64) == b""

    freed = only(free_ports(port))
    after = only(free_ports(port))

    assert freed.status == "freed"
    assert not server.alive
    assert (after.status, after.ok) == ("free", True)
    assert "closing" in notes(after)
    assert after.holders == ()
    if backend == "linux":
        assert "1" in notes(after)["closing"]
    assert is_free(port)  # with SO_REUSEADDR


def test_an_outgoing_connection_from_the_port_is_explained(
    processes: Processes, project: Path
) -> None:
    port, target = processes.free_port(), processes.free_port()
    processes.orphan(tcp(target), cwd=project)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
        sock.connect(("127.0.0.1", target))
        sock.recv(64)

        outcome = only(free_ports(port, scope="any"))

        assert sock.getpeername() == ("127.0.0.1", target)
    assert (outcome.status, outcome.ok) == ("busy", False)
    assert outcome.holders == ()
    assert str(target) in notes(outcome)["outgoing"]


# Permission


@needs_root
@one_backend
def test_a_port_that_needs_privilege_is_explained(processes: Processes, project: Path) -> None:
    limit = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if limit == 0:
        pytest.skip("no port needs privilege here")
    port = next(number for number in range(limit - 1, 0, -1) if processes.claim(number))

    outcome = only(processes.call(port, cwd=project, uid=NOBODY).report())

    assert outcome.port == Port(port)
    assert outcome.holders == ()
    assert "privileged" in notes(outcome)
