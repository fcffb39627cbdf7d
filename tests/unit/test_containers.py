"""The container behind a port, as its engine tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.fake_system import FakeSystem
from portfree._core import containers
from portfree._core.containers import behind
from portfree._system.interface import Process
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = Port(8080)


class Machine(FakeSystem):
    """One on which engines answer what a test says, or None, as where there is none."""

    def __init__(self, **told: str | None) -> None:
        super().__init__()
        self.told = told
        self.calls: list[str] = []
        self.takes = 0.0

    def output(self, argv: Sequence[str], timeout: float) -> str | None:
        self.calls.append(" ".join(argv))
        self.wait((), min(self.takes, timeout))
        return self.told.get(argv[0]) if self.takes < timeout else None


def process(name: str = "docker-proxy", *argv: str, container: str | None = None) -> Process:
    return Process(pid=7, ppid=1, start=7, name=name, argv=argv, container=container)


def test_docker_names_the_container() -> None:
    system = Machine(docker="web\tnginx:1\tshop\n")
    assert behind(system, process(), PORT) == "web (image nginx:1, compose project shop)"
    (call,) = system.calls
    assert call.startswith("docker ps --no-trunc --filter publish=8080/tcp --format ")


TWO = """\
one\tx\t\t127.0.0.1:8080->80/tcp, 0.0.0.0:9000->9/tcp
two\tx\t\t[::1]:8080->80/tcp
three\tx\t\t::2:8080->80/tcp
four\tx\t\t127.0.0.2:8080-8089->80-89/tcp
"""


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1", "one (image x)"),
        ("::1", "two (image x)"),
        ("::2", "three (image x)"),
        ("127.0.0.2", ""),  # older versions sum up, and then we do not know
        (None, ""),
    ],
)
def test_of_several_containers_it_is_the_one_with_the_proxys_address(
    address: str | None, says: str
) -> None:
    argv = ["/usr/bin/docker-proxy", "-proto", "tcp", "-host-port", "8080"]
    argv += ["-host-ip", address] if address else []
    assert behind(Machine(docker=TWO), process("docker-proxy", *argv), PORT) == says


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_process_in_a_container_is_asked_for_by_its_id(engine: str) -> None:
    system = Machine(**{"docker": "", "podman": "", engine: "web\tnginx\tshop\n"})
    inside = process("httpd", container="f00d" * 16)
    assert behind(system, inside, PORT) == "web (image nginx, compose project shop)"
    assert f"{engine} ps --no-trunc --filter id={'f00d' * 16} " in system.calls[-1]


@pytest.mark.parametrize("container", [None, "?", "build-machine"])
def test_no_engine_is_asked_where_there_is_nothing_to_ask_for(container: str | None) -> None:
    system = Machine(docker="web", podman="web")
    assert behind(system, process("httpd", container=container), PORT) == ""
    assert system.calls == []


@pytest.mark.parametrize("name", ["conmon", "rootlessport", "podman", "pasta.avx2", "slirp4netns"])
def test_podmans_helpers_are_asked_of_podman(name: str) -> None:
    system = Machine(podman="pod\tredis\t\n")
    assert behind(system, process(name), Port(53, "udp")) == "pod (image redis)"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("web\tnginx:1\t\n", "web (image nginx:1)"),  # without compose there is no project
        ("web\n", "web (image )"),  # a short answer is enough
        (None, ""),  # it cannot tell, or is not there
        ("\N{REPLACEMENT CHARACTER}\n", ""),  # what it wrote is no text
        ("", None),  # it knows no such container
        ("\n", None),
    ],
)
def test_what_an_engine_may_answer(told: str | None, says: str | None) -> None:
    assert behind(Machine(docker=told), process(), PORT) == says


def test_each_question_is_asked_once_of_a_system() -> None:
    system = Machine(docker="web\tnginx\t\n")
    for _ in range(3):
        assert behind(system, process(), PORT) == "web (image nginx)"
    assert behind(system, process(), Port(8081)) == "web (image nginx)"
    assert len(system.calls) == 2
    assert behind(Machine(docker="other"), process(), PORT) == "other (image )"


@pytest.mark.parametrize(("takes", "asked"), [(60.0, 1), (0.4, 3), (0.05, 20)])
def test_engines_that_are_slow_are_given_up_for_all_ports(takes: float, asked: int) -> None:
    system = Machine(docker="web")
    system.takes = takes
    answers = [behind(system, process(), Port(8080 + at)) for at in range(30)]
    assert len(system.calls) == asked
    assert set(answers[asked:]) == {""}
    assert system.now() == pytest.approx(containers._PATIENCE)
