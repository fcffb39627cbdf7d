"""The container behind a port, asked of programs that play Docker and Podman."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from portfree._core import containers as engines
from portfree._core.containers import Engines
from portfree._system.interface import Process
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="plays the engines with shell scripts")


def container_behind(proxy: Process, port: Port) -> str | None:
    return Engines().container_behind(proxy, port)


PROXY = Process(pid=7, ppid=1, start=7, name="docker-proxy")


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put a script in the place of an engine; its arguments are written down."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def write(engine: str, script: str) -> Path:
        calls, program = tmp_path / f"{engine}.calls", folder / engine
        calls.touch()
        program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return calls

    return write


def process(name: str) -> Process:
    return Process(pid=7, ppid=1, start=7, name=name)


def test_docker_names_the_container(play: Callable[[str, str], Path]) -> None:
    calls = play("docker", r"printf 'web\tnginx:1\tshop\n'")
    assert container_behind(PROXY, Port(8080)) == "web (image nginx:1, compose project shop)"
    assert "ps --no-trunc --filter publish=8080/tcp --format " in calls.read_text()


TWO = r"""printf 'one\tx\t\t127.0.0.1:8080->80/tcp, 0.0.0.0:9000->9/tcp
two\tx\t\t[::1]:8080->80/tcp
three\tx\t\t::2:8080->80/tcp
four\tx\t\t127.0.0.2:8080-8089->80-89/tcp\n'"""


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
    play: Callable[[str, str], Path], address: str | None, says: str
) -> None:
    play("docker", TWO)
    argv = ["/usr/bin/docker-proxy", "-proto", "tcp", "-host-port", "8080"]
    argv += ["-host-ip", address] if address else []
    assert container_behind(PROXY._replace(argv=tuple(argv)), Port(8080)) == says


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_process_in_a_container_is_asked_for_by_its_id(
    play: Callable[[str, str], Path], engine: str
) -> None:
    play("docker", "true")
    play("podman", "true")
    calls = play(engine, r"printf 'web\tnginx\tshop\n'")
    inside = process("httpd")._replace(container="f00d" * 16)
    assert container_behind(inside, Port(8080)) == "web (image nginx, compose project shop)"
    assert f"--filter id={'f00d' * 16} " in calls.read_text()


@pytest.mark.parametrize("container", [None, "?", "build-machine"])
def test_nobody_is_asked_where_there_is_nothing_to_ask_for(
    play: Callable[[str, str], Path], container: str | None
) -> None:
    calls = [play("docker", "echo web"), play("podman", "echo web")]
    assert container_behind(process("httpd")._replace(container=container), Port(8080)) == ""
    assert not any(each.read_text() for each in calls)


def test_without_compose_there_is_no_project(play: Callable[[str, str], Path]) -> None:
    play("docker", r"printf 'web\tnginx:1\t\n'")
    assert container_behind(PROXY, Port(8080)) == "web (image nginx:1)"


@pytest.mark.parametrize("name", ["conmon", "rootlessport", "podman", "pasta.avx2", "slirp4netns"])
def test_podmans_helpers_are_asked_of_podman(play: Callable[[str, str], Path], name: str) -> None:
    play("docker", "exit 1")
    play("podman", r"printf 'pod\tredis\t\n'")
    assert container_behind(process(name), Port(53, "udp")) == "pod (image redis)"


@pytest.mark.parametrize(
    "script", ["exit 1", r"printf '\377\376\n'", "kill -9 $$", "echo web; exit 3"]
)
def test_an_engine_that_cannot_tell(play: Callable[[str, str], Path], script: str) -> None:
    play("docker", script)
    assert container_behind(PROXY, Port(8080)) == ""


@pytest.mark.parametrize("script", ["true", "echo"])
def test_an_engine_that_knows_no_such_container(
    play: Callable[[str, str], Path], script: str
) -> None:
    play("docker", script)
    assert container_behind(PROXY, Port(8080)) is None


def test_a_short_answer_is_enough(play: Callable[[str, str], Path]) -> None:
    play("docker", "echo web")
    assert container_behind(PROXY, Port(8080)) == "web (image )"


def test_an_engine_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert container_behind(PROXY, Port(8080)) == ""


def test_each_question_is_asked_once(play: Callable[[str, str], Path]) -> None:
    calls = play("docker", r"printf 'web\tnginx\t\n'")
    asked = Engines()
    for _ in range(3):
        assert asked.container_behind(PROXY, Port(8080)) == "web (image nginx)"
    asked.container_behind(PROXY, Port(8081))
    assert len(calls.read_text().splitlines()) == 2


def test_an_engine_that_hangs_is_given_up_for_all_ports(
    play: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_PATIENCE", 0.2)
    calls = play("docker", "exec sleep 60")
    asked = Engines()
    assert [asked.container_behind(PROXY, Port(8080 + at)) for at in range(20)] == [""] * 20
    assert len(calls.read_text().splitlines()) <= 1
