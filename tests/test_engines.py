"""The container behind a port, asked of programs that play Docker and Podman."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from portfree.ports import Port
from portfree.system import engines
from portfree.system.boundary import Process
from portfree.system.engines import Engines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="plays the engines with shell scripts")


def container_behind(proxy: Process, port: Port) -> str:
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
    calls = play("docker", r"printf 'web\tnginx:1\tshop\nother\tx\ty\n'")
    assert container_behind(PROXY, Port(8080)) == "web (image nginx:1, compose project shop)"
    assert calls.read_text().startswith("ps --filter publish=8080/tcp --format ")


def test_without_compose_there_is_no_project(play: Callable[[str, str], Path]) -> None:
    play("docker", r"printf 'web\tnginx:1\t\n'")
    assert container_behind(PROXY, Port(8080)) == "web (image nginx:1)"


@pytest.mark.parametrize("name", ["conmon", "rootlessport", "podman", "pasta.avx2", "slirp4netns"])
def test_podmans_helpers_are_asked_of_podman(play: Callable[[str, str], Path], name: str) -> None:
    play("docker", "exit 1")
    play("podman", r"printf 'pod\tredis\t\n'")
    assert container_behind(process(name), Port(53, "udp")) == "pod (image redis)"


@pytest.mark.parametrize(
    "script", ["exit 1", "true", "echo", r"printf '\377\376\n'", "kill -9 $$", "echo web; exit 3"]
)
def test_an_engine_that_cannot_tell(play: Callable[[str, str], Path], script: str) -> None:
    play("docker", script)
    assert container_behind(PROXY, Port(8080)) == ""


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
