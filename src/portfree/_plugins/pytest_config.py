"""What the configuration of a pytest session asks for, merged with ``[tool.portfree]``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from portfree._core import pyproject, settings
from portfree._core.ports import parse_ports
from portfree.errors import PortfreeError
from portfree.model import Request

_NAMES = ("scope", "grace", "wait", "on_busy", "leaks", "leaks_ignore")


def load(config: pytest.Config) -> Request | None:
    """What is asked for; None if no port is named. Raises `pytest.UsageError` for a bad value."""
    words = config.getoption("free_ports")
    typed = {name: config.getoption(f"free_ports_{name}", None) for name in _NAMES}
    key = "--free-ports" if words else f"{_source(config, 'free_ports')}: free_ports"

    def spelled(name: str) -> str:
        if typed.get(name) is not None:
            return f"--free-ports-{name.replace('_', '-')}"
        return f"{_source(config, f'free_ports_{name}')}: free_ports_{name}"

    try:
        table = pyproject.load(config.rootpath)
        words = words or _ini(config, "free_ports") or ()
        try:
            ports = parse_ports(*words)
        except PortfreeError as error:
            raise PortfreeError(f"{key}: {error}") from error
        if not (ports or (table and table.ports)):
            return None
        given = {
            name: _ini(config, f"free_ports_{name}") if value is None else value
            for name, value in typed.items()
        }
        given |= {name: settings.number(given[name]) for name in ("grace", "wait")}
        return settings.request("pytest", ports, given, table, name=spelled)
    except PortfreeError as error:
        raise pytest.UsageError(f"portfree: {error}") from error


def sigterm(config: pytest.Config) -> bool:
    """Whether SIGTERM is to end the tests as Ctrl-C does."""
    value = _ini(config, "free_ports_sigterm")
    try:
        known = {"true": True, "1": True, "yes": True, "on": True}
        known |= {"false": False, "0": False, "no": False, "off": False}
        return value is not None and known[str(value).lower()]
    except KeyError:
        where = _source(config, "free_ports_sigterm")
        raise pytest.UsageError(
            f"portfree: {where}: free_ports_sigterm is {value!r}: give true or false"
        ) from None


def _ini(config: pytest.Config, key: str) -> Any:  # noqa: ANN401 - whatever the file has
    """What the configuration file says; None if it says nothing."""
    try:
        value = config.getini(key)
    except (TypeError, ValueError, pytest.UsageError) as error:
        what = str(error)
        # pytest's own words for its type "float".
        no_number = re.search(r"(?:to float|got \w+): (.+)", what)
        if no_number and key in ("free_ports_grace", "free_ports_wait"):
            what = f"{key} is {no_number[1]}: give a number of seconds, such as 3 or 0.5"
        elif f"'{key}'" not in what:
            what = f"{key}: {what}"
        if str(config.inipath) not in what:
            what = f"{_source(config, key)}: {what}"
        hint = '; write free_ports = ["8000"], a list of strings' if key == "free_ports" else ""
        raise PortfreeError(f"{what}{hint}") from error
    return None if value in (None, "", []) else value  # older pytests know no default of None


def _source(config: pytest.Config, key: str) -> str:
    """Where a key of the configuration was given its value."""
    overrides: Iterable[str] = config.getoption("override_ini", None) or ()
    if any(each.partition("=")[0].strip() == key for each in overrides):
        return "-o on the command line"
    return str(config.inipath)
