"""What the parameters may be, whoever asks."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfree._core import settings
from portfree._core.pyproject import Table
from portfree.errors import PortfreeError, PortSpecError
from portfree.model import LEAKS, ON_BUSY, SCOPES, Port, Request, Surface

PORTS = (Port(8000),)


@pytest.mark.parametrize(
    ("setting", "values"), [("scope", SCOPES), ("on_busy", ON_BUSY), ("leaks", LEAKS)]
)
def test_every_choice_is_taken(setting: str, values: tuple[str, ...]) -> None:
    assert [settings.check(setting, value, setting) for value in values] == list(values)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("all", "scope is 'all': choose one of orphans, project, mine, any"),
        ("", "scope is '': choose one of orphans, project, mine, any"),
        (
            "Orphan",
            "scope is 'Orphan': choose one of orphans, project, mine, any (did you mean orphans?)",
        ),
        (None, "scope is None: choose one of orphans, project, mine, any"),
        (["any"], "scope is ['any']: choose one of orphans, project, mine, any"),
        ("a\nb\x1b", r"scope is 'a\nb\x1b': choose one of orphans, project, mine, any"),
    ],
)
def test_another_scope_is_refused_in_one_line(value: object, message: str) -> None:
    with pytest.raises(PortfreeError) as caught:
        settings.check("scope", value, "scope")

    assert str(caught.value) == message
    assert not isinstance(caught.value, PortSpecError)


def test_the_name_of_the_parameter_is_the_one_that_the_user_wrote() -> None:
    with pytest.raises(PortfreeError, match=r"^--scope is 'x': "):
        settings.check("scope", "x", "--scope")
    with pytest.raises(PortfreeError, match=r"^on-busy is 'x': choose one of warn, fail$"):
        settings.check("on_busy", "x", "on-busy")
    with pytest.raises(
        PortfreeError, match=r"^leaks is 'halt': choose one of ignore, warn, stop, fail$"
    ):
        settings.check("leaks", "halt", "leaks")


@pytest.mark.parametrize("value", [0, 0.0, 3, 0.25, 86_400])
def test_seconds_are_ints_or_floats_from_nothing_to_a_day(value: float) -> None:
    seconds = settings.check("grace", value, "grace")

    assert seconds == value
    assert type(seconds) is float


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-1, "-1"),
        (-0.001, "-0.001"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (86_401, "86401"),
        (10**400, "1" + "0" * 56 + "..."),
        pytest.param(10**5000, "a very long int", id="huge"),  # pytest cannot write it either
    ],
)
def test_other_times_are_refused(value: float, shown: str) -> None:
    with pytest.raises(PortfreeError) as caught:
        settings.check("grace", value, "grace")

    assert str(caught.value) == f"grace is {shown}: give seconds from 0 to 86400 (one day)"


@pytest.mark.parametrize("value", [True, False, "3", None, [3], Decimal(3), 3j])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(PortfreeError) as caught:
        settings.check("wait", value, "wait")

    assert str(caught.value) == (f"wait is {value!r}: give a number of seconds, such as 3 or 0.5")


@given(st.one_of(st.floats(), st.integers(), st.text(), st.booleans(), st.none()))
def test_whatever_is_given_is_taken_or_refused(value: object) -> None:
    try:
        seconds = cast("float", settings.check("grace", value, "grace"))
    except PortfreeError as error:
        said, seconds = str(error), 0.0
    else:
        said = ""
    assert said.isprintable()
    assert 0 <= seconds <= settings.LONGEST


@pytest.mark.parametrize(
    ("surface", "setting", "message"),
    [
        ("library", "on_busy", "on_busy is 'x': choose one of warn, fail"),
        ("command", "on_busy", "--on-busy is 'x': choose one of warn, fail"),
        ("pytest", "on_busy", "free_ports_on_busy is 'x': choose one of warn, fail"),
        ("tox", "grace", "free_ports_grace is 'x': give a number of seconds, such as 3 or 0.5"),
        ("action", "on_busy", "on-busy is 'x': choose one of warn, fail"),
    ],
)
def test_a_bad_value_is_named_as_the_surface_spells_it(
    surface: Surface, setting: str, message: str
) -> None:
    with pytest.raises(PortfreeError) as caught:
        settings.request(surface, PORTS, {setting: "x"})
    assert str(caught.value) == message


def test_what_was_given_comes_before_the_table_and_that_before_the_defaults() -> None:
    table = Table(Path("pyproject.toml"), (Port(9000),), {"scope": "mine", "grace": 1.0})

    asked = settings.request(
        "command", PORTS, {"grace": 2, "wait": None}, table, scope="any", on_busy="fail"
    )

    assert asked == Request(PORTS, "mine", 2.0, 0.0, "fail", surface="command")
    assert settings.request("library", (), {}, table).ports == (Port(9000),)
    assert settings.request("library", PORTS, {}) == Request(PORTS)


@pytest.mark.parametrize(
    ("surface", "example"),
    [
        ("library", "free_ports(8000)"),
        ("command", "portfree 8000"),
        ("action", "with: ports: 8000"),
    ],
)
def test_without_ports_the_surface_says_how_to_give_them(surface: Surface, example: str) -> None:
    for table, where in (
        (None, ""),
        (Table(Path("x/pyproject.toml"), (), {}), " in [tool.portfree] of x/pyproject.toml"),
    ):
        with pytest.raises(PortSpecError) as caught:
            settings.request(surface, (), {}, table)
        assert str(caught.value).startswith(f"no ports{where}: give them, {example}, or list them ")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", ()),
        ([], ()),
        (5037, ("5037",)),
        ("5037, adb gradle*", ("5037", "adb", "gradle*")),
        (["5037", "adb,epmd", 8125], ("5037", "adb", "epmd", "8125")),
        (("8000-8010", "8125/udp"), ("8000-8010", "8125/udp")),
        (["*"], ("*",)),
        (["py3-server", "3proxy", "a/b"], ("py3-server", "3proxy", "a/b")),
    ],
)
def test_ports_and_programs_that_may_be_left(value: object, words: tuple[str, ...]) -> None:
    assert settings.check("leaks_ignore", value, "leaks-ignore") == words


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, 'leaks-ignore is True: list ports and programs, such as "5037", "gradle*"'),
        ([1.5], 'leaks-ignore is [1.5]: list ports and programs, such as "5037", "gradle*"'),
        ([["adb"]], "leaks-ignore is [['adb']]: list ports and programs, such as \"5037\", "),
        ({"adb": 1}, "leaks-ignore is {'adb': 1}: list ports and programs, such as "),
        (None, "leaks-ignore is None: list ports and programs, such as "),
        (70_000, "leaks-ignore: "),
        (-1, "leaks-ignore: "),
        ("0", "leaks-ignore: "),
        ("8010-8000", "leaks-ignore: '8010-8000' runs backwards: write 8000-8010"),
        ("1-65535", "leaks-ignore: '1-65535' spans 65535 ports, more than 1024: "),
        ("8000/sctp", "leaks-ignore: "),
        ("8000-", "leaks-ignore: '8000-' is not a port: "),
    ],
)
def test_what_names_neither_is_refused(value: object, message: str) -> None:
    with pytest.raises(PortfreeError) as caught:
        settings.check("leaks_ignore", value, "leaks-ignore")

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("5037", (Port(5037),)),
        ("8125/udp", (Port(8125, "udp"),)),
        ("8000-8001", (Port(8000), Port(8001))),
        ("8000-8001/udp", (Port(8000, "udp"), Port(8001, "udp"))),
        ("adb", ()),
        ("gradle*", ()),
        ("py3-server", ()),
        ("3proxy", ()),
        ("-", ()),
        ("/udp", ()),
        ("*", ()),
    ],
)
def test_a_word_names_ports_or_a_program(word: str, ports: tuple[Port, ...]) -> None:
    assert settings.ports_in(word) == ports


@given(st.one_of(st.text(), st.lists(st.one_of(st.text(), st.integers())), st.integers()))
def test_whatever_is_to_be_ignored_is_taken_or_refused(value: object) -> None:
    try:
        words = cast("tuple[str, ...]", settings.check("leaks_ignore", value, "leaks-ignore"))
    except PortfreeError:
        return
    for word in words:
        settings.ports_in(word)


def test_a_number_of_a_text_is_one() -> None:
    assert settings.number("2.5") == 2.5
    assert settings.number("2s") == "2s"
    assert settings.number(None) is None
