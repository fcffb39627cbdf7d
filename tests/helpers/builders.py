"""Builds processes, holders and contexts in a word or two, for the tests of what is pure.

The scene, unless a test says otherwise: an orphaned ``python server.py`` (pid 2000) has port 8000
in our project ``/home/me/shop``, and we are a pytest (pid 900) that a person has started there. The
greater pid is the younger process. A string among processes is the command line of a plain process:
pid 2000 for a holder, 900 for the caller, 9, 8, 7 … for ancestors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

from helpers.plain_processes import HOME, INIT, ME, NAMES, PORT, PROJECT, THEIR_SHELL, US
from helpers.plain_processes import process as process
from helpers.plain_processes import titled as titled
from portfree._core.ancestry import Holder
from portfree._core.context import Context, Neighbour
from portfree._system.interface import Process, Socket
from portfree.model import Port


def family(*processes: Process | str, first: int | None = None) -> tuple[Process, ...]:
    """Processes, child first, each the child of the next one.

    The parent of the last one is as it says: out of sight, unless that is 0 (outside of our
    container, or none) or None (ended, and nothing has adopted its children).
    """
    pids = iter([*([first] if first else ()), 9, 8, 7, 6, 5])
    if processes and first and not isinstance(processes[0], str):
        next(pids)
    built = [process(next(pids), each) if isinstance(each, str) else each for each in processes]
    linked = [child._replace(ppid=parent.pid) for child, parent in pairwise(built)]
    return (*linked, *built[-1:])


def socket(id_: int = 1, port: Port = PORT) -> Socket:
    """A listening socket."""
    return Socket(id_, port, "listening", "127.0.0.1")


def holder(
    *processes: Process | str, sockets: Iterable[Socket] = (socket(),), **findings: Any
) -> Holder:
    """A holder of port 8000 and its ancestors, as `family` links them; an orphan in our project, if
    none are given.
    """
    own, *lineage = family(*(processes or (process(), INIT)), first=2000)
    plain = Holder(
        process=own,
        sockets=frozenset(sockets),
        lineage=tuple(lineage),
        project=PROJECT,
        user=NAMES.get(own.owner, "") if isinstance(own.owner, int) else "",
    )
    return plain._replace(**findings)


def below(*above: Process | str, **findings: Any) -> Holder:
    """The server of the scene, below other ancestors."""
    return holder(process(), *family(*above), **findings)


def orphan(command: str = "python server.py", **facts: Any) -> Holder:
    """A server that init has adopted."""
    return holder(process(2000, command, **facts), INIT)


def born(marks: Mapping[str, str], /, **facts: Any) -> Process:
    """The server of the scene, with marks."""
    return process(2000, **facts)._replace(marks=marks)


def run_id(*elements: str) -> dict[str, str]:
    return {"PORTFREE_RUN_ID": "/".join(elements)}


def alive(*elements: str) -> frozenset[str]:
    return frozenset(elements)


def neighbour(*processes: Process, project: str | None = PROJECT) -> Neighbour:
    """A live process that goes on beside us, and its ancestors."""
    own, *lineage = family(*processes)
    return Neighbour(own, tuple(lineage), project)


def context(*us: Process | str, **circumstances: Any) -> Context:
    """The caller and its ancestors, caller first: a pytest in a terminal, if none are given."""
    caller, *lineage = family(*(us or US), first=900)
    plain = Context(
        caller=caller, lineage=tuple(lineage), owners=frozenset({ME}), home=HOME, project=PROJECT
    )
    return plain._replace(**circumstances)


def beside(original: Process, *above: Process, project: str | None = PROJECT) -> Context:
    """The caller, while another process lives: at a terminal, if no ancestors are given."""
    return context(
        neighbours=(neighbour(original, *(above or (THEIR_SHELL, INIT)), project=project),)
    )


def lineage_of(own: Process, everything: list[Process]) -> tuple[Process, ...]:
    """The ancestors of one of these processes, parent first."""
    parent = {each.pid: each for each in everything}.get(own.ppid or 0)
    return (parent, *lineage_of(parent, everything)) if parent else ()


# Rows of tables.


def case(name: str, *values: object) -> ParameterSet:
    return pytest.param(*values, id=name)


def scene(name: str, found: Holder, expected: object, asked: Context | None = None) -> ParameterSet:
    """A holder, the context (the plain one, if none is given), and what to expect."""
    return pytest.param(found, asked or context(), expected, id=name)


def miss(
    name: str, found: Holder, asked: Context | None = None, instead: str = "nothing"
) -> ParameterSet:
    """A scene in which one kind of evidence tells nothing, and another one does."""
    return scene(name, found, instead, asked)
