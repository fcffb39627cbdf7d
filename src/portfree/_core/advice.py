"""What helps where a holder is kept, in the words of the surface that was asked. Pure.

The rules say what would help: to wait, a wider scope, more rights. How one asks for that depends on
where one has asked for the ports.
"""

from __future__ import annotations

from collections.abc import Iterable

from portfree._core.ports import argument
from portfree.model import Advice, Port, Surface

# The name of a setting, as one writes it there, and what stands between it and its value.
_SPELLED: dict[Surface, tuple[str, str]] = {
    "library": ("{python}", "="),
    "command": ("--{kebab}", " "),
    "pytest": ("free_ports_{python}", " = "),
    "tox": ("free_ports_{python}", " = "),
    "action": ("{kebab}", ": "),
}


def key(surface: Surface, name: str) -> str:
    """The name of a setting, as that surface spells it: ``free_ports_on_busy``."""
    return _SPELLED[surface][0].format(python=name, kebab=name.replace("_", "-"))


def setting(surface: Surface, name: str, value: str) -> str:
    """A setting with a value, as that surface spells it: ``free_ports_on_busy = fail``."""
    return f"{key(surface, name)}{_SPELLED[surface][1]}{value}"


def written(
    advice: Advice, surface: Surface, ports: Iterable[Port], *, elevate: str = "sudo "
) -> str:
    """The advice in words, for somebody who has asked for these ports on that surface.

    *elevate*: what stands before a command that takes other rights.
    """
    words = [argument(port) for port in ports]
    if surface == "action":
        again = setting(surface, "scope", advice.scope)
        again += ", and sudo: true" if advice.privileged else ""
    elif surface == "command" or advice.privileged:
        command = ["portfree", *words]
        if advice.scope != "mine":
            command[1:1] = ["--scope", advice.scope]
        if advice.privileged and elevate == "sudo ":
            # sudo would not find the portfree of a virtual environment.
            command.insert(1, "--sudo")
            elevate = ""
        again = f"{elevate if advice.privileged else ''}{' '.join(command)}"
    elif surface == "library":
        numbers = ", ".join(word if word.isdecimal() else f'"{word}"' for word in words)
        again = f'free_ports({numbers}, scope="{advice.scope}")'
    elif surface == "pytest":
        again = f"pytest --free-ports-scope {advice.scope}"
    else:
        again = setting(surface, "scope", advice.scope)
    if advice.do:
        return f"{advice.do}, or: {again}"
    wait = setting(surface, "wait", "SECONDS")
    return (
        f"wait until that is done ({wait}), or give one of the two another port; to stop it all "
        f"the same: {again}"
    )
