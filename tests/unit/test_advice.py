"""What helps where a holder is kept, in the words of each surface."""

from __future__ import annotations

import pytest

from portfree._core.advice import setting, written
from portfree.model import Advice, Port, Surface

PORTS = (Port(8000), Port(8125, "udp"))


@pytest.mark.parametrize(
    ("surface", "again"),
    [
        ("library", 'free_ports(8000, "8125/udp", scope="mine")'),
        ("command", "portfree 8000 8125/udp"),
        ("pytest", "pytest --free-ports-scope mine"),
        ("tox", "free_ports_scope = mine"),
        ("action", "scope: mine"),
    ],
)
def test_a_wider_scope(surface: Surface, again: str) -> None:
    advice = Advice("stop it there", "mine")
    assert written(advice, surface, PORTS) == f"stop it there, or: {again}"


@pytest.mark.parametrize(
    ("surface", "wait", "again"),
    [
        ("library", "wait=SECONDS", 'free_ports(8000, scope="any")'),
        ("command", "--wait SECONDS", "portfree --scope any 8000"),
        ("pytest", "free_ports_wait = SECONDS", "pytest --free-ports-scope any"),
        ("tox", "free_ports_wait = SECONDS", "free_ports_scope = any"),
        ("action", "wait: SECONDS", "scope: any"),
    ],
)
def test_to_wait(surface: Surface, wait: str, again: str) -> None:
    assert written(Advice(), surface, PORTS[:1]) == (
        f"wait until that is done ({wait}), or give one of the two another port; "
        f"to stop it all the same: {again}"
    )


@pytest.mark.parametrize("surface", ["library", "command", "pytest", "tox"])
def test_other_rights_take_a_command(surface: Surface) -> None:
    advice = Advice("ask bob to stop it", privileged=True)
    for elevate, command in (
        ("sudo ", "portfree --sudo --scope any"),
        ("as root: ", "as root: portfree --scope any"),
        ("as an administrator: ", "as an administrator: portfree --scope any"),
    ):
        said = written(advice, surface, PORTS, elevate=elevate)
        assert said == f"ask bob to stop it, or: {command} 8000 8125/udp"


def test_other_rights_in_an_action() -> None:
    said = written(Advice("ask bob to stop it", privileged=True), "action", PORTS)
    assert said == "ask bob to stop it, or: scope: any, and sudo: true"


def test_a_setting_of_two_words() -> None:
    spelled = [setting(each, "on_busy", "fail") for each in ("command", "pytest", "action")]
    assert spelled == ["--on-busy fail", "free_ports_on_busy = fail", "on-busy: fail"]
