"""Real containers: a port that Docker publishes is kept, and its container is named.

The daemon is one of our own, in network and mount namespaces of its own: its bridges and mounts go
when it goes, and no other network is touched. portfree is asked inside of that network.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypedDict, Unpack, get_args

import pytest

from helpers.processes import (
    NOBODY,
    Identity,
    Processes,
    needs_namespace,
    needs_program,
    needs_root,
    only,
    wait_until,
)
from portfree import Report
from portfree.model import Scope
from stress.support.docker import Docker, started

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from portfree import HolderReport
    from stress.support.figures import Figures

GROUP = "containers"

SCOPES = [
    pytest.param(scope, marks=() if scope == "any" else pytest.mark.stress)
    for scope in get_args(Scope)
]
NOWHERE = {"DOCKER_HOST": "unix:///nowhere"}


pytestmark = [
    needs_root,
    *map(needs_program, ("dockerd", "docker", "busybox", "ip", "nsenter")),
    needs_namespace("--net", "--mount"),
]


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with started() as daemon:
        yield daemon


# In a network of its own every port is free.
WEB = 8000


@pytest.fixture(scope="module")
def web(docker: Docker) -> Iterator[Identity]:
    """What most tests ask for: a service as Docker Compose starts it."""
    labels = {"project": "shop", "service": "web"}
    flags = [f"--label=com.docker.compose.{name}={value}" for name, value in labels.items()]
    with docker.running("shop-web-1", f"--publish={WEB}:80", *flags) as first:
        yield first


PUBLISHED = "published by container shop-web-1 (image page, compose project shop)"
PUBLISHES = "publishes the port for a container"
BY_HAND = f"docker ps --filter publish={WEB}, then: docker stop NAME"


class Asked(TypedDict, total=False):
    """How a port is asked for."""

    scope: Scope
    env: Mapping[str, str]
    uid: int


class Asking:
    """Has ports freed inside of the daemon's network, and asserts what must be true of any."""

    def __init__(
        self, docker: Docker, processes: Processes, folder: Path, figures: Figures
    ) -> None:
        self._docker = docker
        self._processes = processes
        self._folder = folder
        self.figures = figures

    def kept(self, port: int | str, **asked: Unpack[Asked]) -> tuple[HolderReport, ...]:
        """Its holders: all of them kept, and alive, as is all else."""
        uid = asked.get("uid")
        before = self._docker.settled()
        report = self._processes.call(
            port,
            cwd=Path("/") if uid else self._folder,
            scope=asked.get("scope", "any"),
            uid=uid,
            env={**self._docker.env, **asked.get("env", {})},
            prefix=self._docker.inside,
        ).report()
        return self.judged(report, before)

    def named(self, port: int | str, **asked: Unpack[Asked]) -> tuple[HolderReport, ...]:
        """The same, where the engine tells whose they are."""
        # It has a second for that, which a machine under load may not give it at once.
        return wait_until(
            lambda: [
                holders
                for holders in [self.kept(port, **asked)]
                if all("(image " in each.verdict.reason for each in holders)
            ],
            "the engine answers",
        )[0]

    def judged(self, report: Report, before: set[Identity]) -> tuple[HolderReport, ...]:
        outcome = only(report)
        gone = [each for each in before if not each.alive]
        self.figures.trial(
            report.seconds, wrong_stops=len(gone), false_reports=outcome.status != "busy"
        )
        assert not gone
        assert outcome.status == "busy"
        assert {(h.verdict.action, h.verdict.rule) for h in outcome.holders} == {
            ("keep", "container")
        }
        assert not [*self._processes.members()], "a client still asks the engine"
        return outcome.holders


@pytest.fixture
def asking(docker: Docker, processes: Processes, project: Path, figures: Figures) -> Asking:
    return Asking(docker, processes, project, figures)


def said(holders: tuple[HolderReport, ...]) -> set[tuple[str, str | None]]:
    return {(each.verdict.reason, each.verdict.instead) for each in holders}


# Published ports


@pytest.mark.usefixtures("web", "backend")
@pytest.mark.parametrize("scope", SCOPES)
def test_a_published_port_is_kept_and_its_container_named(
    docker: Docker, asking: Asking, scope: Scope
) -> None:
    holders = asking.named(WEB, scope=scope)

    assert {each.name for each in holders} == {"docker-proxy"}
    assert said(holders) == {(PUBLISHED, "docker stop shop-web-1")}
    assert docker.serves(WEB)


@pytest.mark.usefixtures("web")
def test_the_command_says_the_same(docker: Docker, project: Path) -> None:
    before = docker.settled()
    portfree = [sys.executable, "-m", "portfree", "--scope=any", str(WEB)]

    env = {**os.environ, **docker.env}
    done = subprocess.run([*docker.inside, *portfree], cwd=project, env=env, capture_output=True)

    lines = [line.strip() for line in done.stdout.decode().splitlines()]
    assert (done.returncode, lines[0]) == (1, f"{WEB}/tcp: busy")
    assert f"why:     container: {PUBLISHED}" in lines
    assert "instead: docker stop shop-web-1" in lines
    assert all(each.alive for each in before)


def test_what_it_says_to_do_instead_frees_the_port(
    docker: Docker, asking: Asking, processes: Processes, project: Path
) -> None:
    with docker.running("patient", "--publish=8001:80", "--stop-timeout=0"):
        ((_, instead),) = said(asking.named(8001))
        program, *words = shlex.split(instead or "")
        assert program == "docker"
        docker(*words)

        report = processes.call(8001, cwd=project, prefix=docker.inside).report()
        assert only(report).status == "free"


@pytest.mark.parametrize("port", ["8002", "8002/udp", "8004"])
def test_a_port_among_others(docker: Docker, asking: Asking, port: str) -> None:
    with docker.running("ports", "--publish=8002:80", "-p8002:53/udp", "--publish=8003-8005:1-3"):
        assert said(asking.named(port)) == {
            ("published by container ports (image page)", "docker stop ports")
        }


def test_by_hand_the_container_is_found(docker: Docker, asking: Asking) -> None:
    with docker.running("dns", "--publish=8006:53/udp"):
        (instead,) = {each.verdict.instead for each in asking.kept("8006/udp", env=NOWHERE)}
        first, _, _ = (instead or "").partition(", then: ")
        assert docker(*shlex.split(first)[1:], "--format={{.Names}}") == "dns"


def _clients() -> list[str]:
    found = (Path(folder) / "docker" for folder in os.get_exec_path())
    return sorted({str(each.resolve()) for each in found if os.access(each, os.X_OK)})


@pytest.mark.parametrize("client", _clients())
def test_of_two_containers_with_the_same_port_each_is_named(
    docker: Docker, asking: Asking, client: str, tmp_path: Path
) -> None:
    (tmp_path / "docker").symlink_to(client)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    with (
        docker.running("one", "--publish=127.0.0.1:8007:80"),
        docker.running("two", "--publish=127.0.0.2:8007:80"),
    ):
        holders = asking.named(8007, env=path)

    named = {each.addresses: each.verdict.instead for each in holders}
    assert named == {("127.0.0.1",): "docker stop one", ("127.0.0.2",): "docker stop two"}


def test_without_a_proxy_the_daemon_holds_the_port(
    processes: Processes, project: Path, figures: Figures
) -> None:
    with (
        started("--userland-proxy=false") as docker,
        docker.running("web", f"--publish={WEB}:80"),
    ):
        asking = Asking(docker, processes, project, figures)

        (found,) = asking.named(WEB)
        assert found.pid == docker.daemon.pid
        assert said((found,)) == {("published by container web (image page)", "docker stop web")}

        (found,) = asking.kept(WEB, env=NOWHERE)
        assert said((found,)) == {(f"dockerd (pid {found.pid}) {PUBLISHES}", BY_HAND)}


# Where the engine cannot be asked


@pytest.mark.usefixtures("web")
@pytest.mark.parametrize("scope", SCOPES)
def test_an_engine_that_is_not_reached(asking: Asking, scope: Scope) -> None:
    for found in asking.kept(WEB, scope=scope, env=NOWHERE):
        assert found.verdict.reason == f"docker-proxy (pid {found.pid}) {PUBLISHES}"
        assert found.verdict.instead == BY_HAND


@pytest.mark.usefixtures("web")
def test_without_the_docker_command(asking: Asking, tmp_path: Path) -> None:
    holders = asking.kept(WEB, env={"PATH": str(tmp_path)})

    assert {each.verdict.instead for each in holders} == {BY_HAND}


@pytest.mark.usefixtures("web")
def test_an_engine_that_hangs_is_not_waited_for(docker: Docker, asking: Asking) -> None:
    docker.daemon.send(signal.SIGSTOP)
    try:
        holders = asking.kept(WEB)
    finally:
        docker.daemon.send(signal.SIGCONT)

    assert {each.verdict.instead for each in holders} == {BY_HAND}
    assert docker.serves(WEB)


# By a user that is not root, and does not see what root's docker-proxy has open


@pytest.mark.usefixtures("web")
@pytest.mark.parametrize("scope", SCOPES)
def test_who_may_not_ask_the_engine_is_told_how(asking: Asking, scope: Scope) -> None:
    holders = asking.kept(WEB, scope=scope, uid=NOBODY)

    assert {each.name for each in holders} == {"docker-proxy"}
    assert {each.verdict.instead for each in holders} == {BY_HAND}


@pytest.mark.usefixtures("web")
def test_who_may_ask_the_engine_is_told_the_container(docker: Docker, asking: Asking) -> None:
    socket = Path(docker.env["DOCKER_HOST"].removeprefix("unix://"))
    socket.chmod(0o666)  # as for those in the group docker
    try:
        holders = asking.named(WEB, uid=NOBODY)
    finally:
        socket.chmod(0o660)

    assert said(holders) == {(PUBLISHED, "docker stop shop-web-1")}


# Without a published port


@pytest.mark.parametrize("scope", SCOPES)
def test_a_server_in_a_container_on_our_network_is_kept(
    docker: Docker, asking: Asking, scope: Scope, backend: str
) -> None:
    httpd = "/bin/busybox httpd -f -h /www -p 8008"
    with docker.running("plain", "--network=host", command=httpd) as first:
        wait_until(lambda: docker.serves(8008), "the container serves")
        ask = asking.named if backend == "linux" else asking.kept
        (found,) = ask(8008, scope=scope)
        assert docker.serves(8008)
        id_ = docker("inspect", "--format", "{{.Id}}", "plain")[:12]

    assert found.pid == first.pid
    if backend == "linux":
        assert found.verdict.reason == "runs in container plain (image page)"
        assert found.verdict.instead == "docker stop plain"
    else:  # psutil tells no container: it is known by its ancestor, and not asked for
        assert found.verdict.reason == f"runs in another container ({id_})"
        assert f"docker stop {id_}" in (found.verdict.instead or "")


# Containers that come and go


def test_while_containers_come_and_go_none_is_stopped(
    docker: Docker, processes: Processes, project: Path, figures: Figures, *, long: bool
) -> None:
    steady = docker.settled()
    over: list[bool] = []

    def churn() -> None:
        while not over:
            with docker.running("fleeting", "--publish=8009:80"):
                pass

    churning = Thread(target=churn)
    churning.start()
    try:
        for _ in range(100 if long else 4):
            report = processes.call(
                8009, cwd=project, scope="any", env=docker.env, prefix=docker.inside
            ).report()
            stopped = [h for h in only(report).holders if h.verdict.action == "stop"]
            figures.trial(report.seconds, wrong_stops=len(stopped))
            assert not stopped
    finally:
        over.append(True)
        churning.join()
    assert all(each.alive for each in steady)
