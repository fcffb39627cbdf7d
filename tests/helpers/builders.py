"""Builds processes, holders and contexts in a word or two, for the tests of what is pure.

The scene, unless a test says otherwise: our project is ``/home/me/shop``, and we are a pytest
(pid 900) that somebody started in a zsh there. Whoever has the greater pid is the younger one.
"""

from __future__ import annotations

import shlex
from itertools import pairwise
from typing import TYPE_CHECKING, TypedDict, Unpack

from portfree._core.ancestry import Holder, SessionFolder
from portfree._core.context import Context, Neighbour
from portfree.model import Port
from portfree._system.interface import Environment, Process, Socket

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portfree._core.context import Phase
    from portfree.model import Scope

ME, BOB, ROOT = 1000, 1001, 0
HOME = "/home/me"
PROJECT = "/home/me/shop"
ELSEWHERE = "/home/me/unrelated"
PORT = Port(8000)


class Facts(TypedDict, total=False):
    """The facts about a process that its builder takes over as they are."""

    ppid: int | None
    start: float
    name: str
    argv: tuple[str, ...]
    owner: int | str | None
    started: float | None
    cwd: str | None
    session: int | None
    terminal: str | None
    foreground: bool
    marks: Mapping[str, str]
    environment: Environment
    complete: bool
    forked: bool | None
    stopped: bool
    control_group: str | None
    unit: str | None
    container: str | None


def process(pid: int = 2000, command: str = "python server.py", **facts: Unpack[Facts]) -> Process:
    """A process of ours, in our project, alone in its session and without a terminal."""
    argv = tuple(shlex.split(command))
    plain = Process(
        pid=pid,
        ppid=0,
        start=pid,
        name=argv[0].rsplit("/", 1)[-1][:15],
        argv=argv,
        owner=ME,
        cwd=PROJECT,
        session=pid,
    )
    return plain._replace(**facts)


def titled(pid: int, title: str, **facts: Unpack[Facts]) -> Process:
    """A process that has changed its title: its whole command line is one word."""
    facts["argv"] = (title,)
    return process(pid, **facts)


def fork(original: Process, pid: int, **facts: Unpack[Facts]) -> Process:
    """A copy of a process: forked from it, and no program executed since (os.fork())."""
    return original._replace(pid=pid, start=pid, forked=True, foreground=False)._replace(**facts)


def family(*processes: Process) -> tuple[Process, ...]:
    """Processes, child first, each the child of the next one.

    The parent of the last one is whoever it says; that is somebody out of sight, unless it says 0
    (outside of our container, or nobody) or None (ended, and nobody has adopted its children).
    """
    linked = [child._replace(ppid=parent.pid) for child, parent in pairwise(processes)]
    return (*linked, *processes[-1:])


def socket(id_: int = 1, port: Port = PORT) -> Socket:
    """A listening socket."""
    return Socket(id_, port, "listening", "127.0.0.1")


class Findings(TypedDict, total=False):
    """What a survey finds out about a holder beside the processes."""

    pinned: bool
    project: str | None
    repository: str | None
    leader: Process | None
    folder: SessionFolder | None
    users: tuple[Holder, ...]
    live_runs: frozenset[str]
    user: str
    engine: str


def holder(
    *processes: Process,
    sockets: Iterable[Socket] = (socket(),),
    **findings: Unpack[Findings],
) -> Holder:
    """A holder of port 8000 and its ancestors, as `family` links them. An orphan in our project,
    if nobody is given.
    """
    own, *lineage = family(*(processes or (process(), INIT)))
    plain = Holder(
        process=own,
        sockets=frozenset(sockets),
        lineage=tuple(lineage),
        project=PROJECT,
        user={ME: "me", BOB: "bob", ROOT: "root"}.get(own.owner, "")
        if isinstance(own.owner, int)
        else "",
    )
    return plain._replace(**findings)


def neighbour(*processes: Process, project: str | None = PROJECT) -> Neighbour:
    """A live process that goes on beside us, and its ancestors."""
    own, *lineage = family(*processes)
    return Neighbour(own, tuple(lineage), project)


class Circumstances(TypedDict, total=False):
    """Who asks and what goes on."""

    platform: str
    scope: Scope
    phase: Phase
    owners: frozenset[int | str]
    privileged: bool
    home: str
    project: str | None
    run: tuple[str, ...]
    ending: str | None
    began: float | None
    quiet: frozenset[Port]
    time: float
    jobs: Mapping[str, str]
    unit: str | None
    neighbours: tuple[Neighbour, ...]
    main_service: frozenset[int]


def context(*us: Process, **circumstances: Unpack[Circumstances]) -> Context:
    """Who asks, caller first: a pytest in a terminal, if nobody is given."""
    caller, *lineage = family(*(us or (OUR_PYTEST, OUR_SHELL, INIT)))
    plain = Context(
        caller=caller,
        lineage=tuple(lineage),
        owners=frozenset({ME}),
        home=HOME,
        project=PROJECT,
    )
    return plain._replace(**circumstances)


# Who is there in every scene.

INIT = process(1, "/sbin/init", name="systemd", owner=ROOT, cwd="/")
USER_MANAGER = process(400, "/usr/lib/systemd/systemd --user", cwd=HOME, unit="user@1000.service")
OUR_SHELL = process(800, "-zsh", name="zsh", terminal="pts/1")
OUR_PYTEST = process(900, "python -m pytest", session=800, terminal="pts/1", foreground=True)
THEIR_SHELL = process(600, "-zsh", name="zsh", terminal="pts/2")
THEIR_PYTEST = process(700, "python -m pytest tests/slow", session=600, terminal="pts/2")
