"""A holder of a port, and the questions that its lineage answers. Pure: no look at the machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from portfree import names
from portfree.ports import Port
from portfree.runs import RUN_ID
from portfree.system.boundary import Process, Socket


class Holder(NamedTuple):
    """A process that has a socket open which is bound or listening on an asked port."""

    process: Process
    sockets: frozenset[Socket] = frozenset()
    lineage: tuple[Process, ...] = ()
    """Its ancestors, parent first, as far up as they could be read."""
    pinned: bool = True
    """Whether its identity could be pinned, so that a signal can reach no other process."""
    project: str | None = None
    """The nearest folder above its working directory that has a pyproject.toml or a .git."""
    live_runs: frozenset[str] = frozenset()
    """The elements of its run id whose controller is alive, or may be."""
    user: str = ""
    """The name of the user that it belongs to."""
    engine: str = ""
    """For a container engine's process: the container behind the port, as the engine names it."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ports(self) -> frozenset[Port]:
        return frozenset(socket.port for socket in self.sockets)

    @property
    def test(self) -> str:
        """The test that it was born in, as pytest names it; empty if it bears no such mark."""
        return self.mark("PYTEST_CURRENT_TEST")

    def mark(self, name: str) -> str:
        """A mark of its own or, where it was wiped, of its nearest ancestor that has it."""
        return next((p.marks[name] for p in self.upward() if name in p.marks), "")

    def upward(self) -> Iterator[Process]:
        """The process itself, its parent, its parent's parent …"""
        yield self.process
        yield from self.lineage

    def descends_from(self, process: Process) -> bool:
        return any(same(ancestor, process) for ancestor in self.lineage)


class Launcher(NamedTuple):
    """Who started a holder and still looks after it."""

    process: Process | None
    """None if it is out of sight: outside of our container, or hidden from us."""
    text: str = ""

    def __str__(self) -> str:
        return self.text or (named(self.process) if self.process else "?")


def same(one: Process, other: Process) -> bool:
    """Whether two looks saw the same process: a pid alone may have passed to another one."""
    return one.pid == other.pid and one.start == other.start


def named(process: Process) -> str:
    """A process as messages name it: ``zsh (pid 9)``."""
    return f"{names.program(process) or '?'} (pid {process.pid})"


def launcher(holder: Holder) -> Launcher | None:
    """Who started the holder and still looks after it; None only if nobody does.

    None is the proof that rule `orphan` rests on, so it must be certain: between the holder and the
    process that adopts orphans there are only wrappers, which start one command and wait for it.
    Whatever cannot be seen, and whoever is on no list, is a launcher.
    """
    child = holder.process
    if _leads_terminal(child):
        return Launcher(None, f"somebody at the terminal {child.terminal}")
    for process in holder.lineage:
        if _leads_terminal(process):
            return Launcher(process, f"{named(process)} on {process.terminal}")
        if _adopts(process, child):
            return None
        # A shell that has the foreground of a live terminal waits there for its command, and the
        # first process of a container that did not adopt the child has started it.
        at_work = process.pid == 1 or (names.is_shell(process) and process.foreground)
        if at_work or not names.is_wrapper(process):
            return Launcher(process)
        child = process
    if child.ppid is None:
        return None
    if child.ppid == 0:
        return Launcher(None, "somebody outside of this container (docker exec or the like)")
    return Launcher(None, f"a process that cannot be seen (pid {child.ppid})")


def supervisors(holder: Holder) -> list[Process]:
    """Who may start the holder again when it has ended: its parent, and on past wrappers.

    Not who sits at a terminal, and not the one who merely adopted it.
    """
    found: list[Process] = []
    child = holder.process
    for process in holder.lineage:
        if _leads_terminal(process) or names.is_multiplexer(process) or _adopts(process, child):
            break
        found.append(process)
        if not names.is_wrapper(process):
            break
        child = process
    return found


def was_left(holder: Holder, mark: str) -> bool:
    """Whether those who gave the holder this mark have gone and left it behind.

    Must prove that nobody of them lives: the topmost process that bears the same value of the mark
    was adopted, so its own parent, who set the mark, has ended. Multiplexers, editors and terminals
    are adopted too, yet they live on and hand their environment to strangers: with one of them on
    the way nothing is proved.
    """
    chain = list(holder.upward())
    value = holder.process.marks.get(mark)
    if value is None:
        return False
    top = max(at for at, process in enumerate(chain) if process.marks.get(mark) == value)
    if any(
        _leads_terminal(process) or names.is_multiplexer(process) for process in chain[: top + 1]
    ):
        return False
    if top + 1 == len(chain):
        return chain[top].ppid is None
    adopter = chain[top + 1]
    # Only the controller of a run gives its id to others. The first process of a container that is
    # not that controller has therefore started none of them, even if it shares its session.
    innermost = value.rpartition("/")[2]
    other_run = mark == RUN_ID and innermost.split(".")[0] != str(adopter.pid)
    return _adopts(adopter, chain[top]) or (adopter.pid == 1 and other_run)


def roots(holders: Collection[Holder]) -> list[Holder]:
    """The root holders: those that on one of their ports have no ancestor that holds it too."""
    return [
        holder
        for holder in holders
        if not holder.sockets or any(leader(holder, holders, port) is None for port in holder.ports)
    ]


def leader(holder: Holder, holders: Collection[Holder], port: Port) -> Holder | None:
    """The nearest ancestor of a holder that holds the same port."""
    on_port = {other.pid: other for other in holders if port in other.ports}
    return next((on_port[p.pid] for p in holder.lineage if p.pid in on_port), None)


def _leads_terminal(process: Process) -> bool:
    # The kernel takes the terminal from everybody when the session's leader ends
    # (credentials(7)), so a leader that has one is alive and somebody sits there. Whoever has one
    # and does not tell the session may be that leader.
    leads = process.session is None or process.leads_session
    return leads and process.terminal is not None


def _adopts(process: Process, child: Process) -> bool:
    """Whether *process* is merely the one who adopted *child*, not the one who started it."""
    if names.is_listed_reaper(process):
        return True
    # The first process of a container may be no init but the service itself or its entrypoint: then
    # it started what shares its session. What has another session came from elsewhere.
    known = process.session is not None and child.session is not None
    return process.pid == 1 and known and child.session != process.session
