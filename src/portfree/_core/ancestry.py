"""A holder of a port, and the questions that its lineage answers. Pure: no look at the machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from portfree._core import programs
from portfree._core.run_id import RUN_ID
from portfree._system.interface import Lock, Process, Socket
from portfree.model import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portfree._core.origin import Origin


class SessionFolder(NamedTuple):
    """A base temporary folder of pytest, ``pytest-of-USER/pytest-N``, and who has locked it."""

    path: str
    exists: bool
    lock: Lock | None = None
    """The lock that pytest makes for its session, and removes at its end."""
    process: Process | None = None
    """Who has the pid that the lock names."""
    hidden: bool = False
    """Whether there is such a process, and it cannot be read."""


class Holder(NamedTuple):
    """A process that has a socket open which is bound or listening on an asked port."""

    process: Process
    sockets: frozenset[Socket] = frozenset()
    lineage: tuple[Process, ...] = ()
    """Its ancestors, parent first, as far up as they could be read."""
    pinned: bool = True
    """Whether its identity could be pinned, so that a signal can reach no other process."""
    project: str | None = None
    """The repository that its working directory lies in, or without one, the nearest folder above
    it that has a pyproject.toml."""
    repository: str | None = None
    """The repository alone."""
    leader: Process | None = None
    """For one that was forked and executed nothing: who leads its session."""
    folder: SessionFolder | None = None
    """The temporary folder of pytest that its working directory lies in."""
    users: tuple[Holder, ...] = ()
    """Who on this host has a connection with it, as far as it was asked: see `attendance`."""
    live_runs: frozenset[str] = frozenset()
    """The elements of its run id whose controller is alive, or may be."""
    user: str = ""
    """The name of the user that it belongs to."""
    origin: Origin | None = None
    """Where it was born; None if that is outside of every run, or was not asked yet."""
    engine: str | None = ""
    """For a container engine's process: the container behind the port, as the engine names it; None
    if the engine knows none."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ports(self) -> frozenset[Port]:
        return frozenset(socket.port for socket in self.sockets)

    @property
    def test(self) -> str:
        """The test that it was born in, as its runner names it; empty if it bears no such mark."""
        return self.mark("PYTEST_CURRENT_TEST") or self.mark("NEXTEST_TEST_NAME")

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
    return f"{programs.program(process) or '?'} (pid {process.pid})"


def launcher(holder: Holder) -> Launcher | None:
    """Who started the holder and still looks after it; None only if nobody does.

    None is the proof that rule `orphan` rests on, so it must be certain: between the holder and the
    process that adopts orphans there are only wrappers, which start one command and wait for it.
    Whatever cannot be seen, and whoever is on no list, is a launcher.
    """
    made = _made_terminals(holder)
    child = holder.process
    if leads_terminal(child) and child.terminal not in made:
        return Launcher(None, f"somebody at the terminal {child.terminal}")
    for process in holder.lineage:
        nobodys = process.terminal in made
        if leads_terminal(process) and not nobodys:
            return Launcher(process, f"{named(process)} on {process.terminal}")
        if _adopts(process, child):
            return None
        # A shell that has the foreground of a live terminal waits there for its command, and the
        # first process of a container that did not adopt the child has started it.
        waits = programs.is_shell(process) and process.foreground and not nobodys
        if process.pid == 1 or waits or not _passes_on(process):
            return Launcher(process)
        child = process
    if child.ppid is None:
        return None
    if child.ppid == 0:
        return Launcher(None, "somebody outside of this container (docker exec or the like)")
    return Launcher(None, f"a process that cannot be seen (pid {child.ppid})")


def _passes_on(process: Process) -> bool:
    return programs.is_wrapper(process) or programs.is_pty_maker(process)


def _made_terminals(holder: Holder) -> set[str]:
    """The terminals that a script(1) or expect(1) among its ancestors has made for its command."""
    return {
        child.terminal
        for child, parent in pairwise(holder.upward())
        if child.terminal
        and child.leads_session
        and programs.is_pty_maker(parent)
        and child.terminal != parent.terminal
        and not programs.is_interactive_shell(child)
    }


def supervisors(holder: Holder) -> list[Process]:
    """Who may start the holder again when it has ended: its parent, and on past wrappers.

    Not who sits at a terminal, and not the one who merely adopted it.
    """
    found: list[Process] = []
    child = holder.process
    for process in holder.lineage:
        if leads_terminal(process) or programs.is_multiplexer(process) or _adopts(process, child):
            break
        found.append(process)
        if not programs.is_wrapper(process):
            break
        child = process
    return found


def bearer(holder: Holder, mark: str) -> int | None:
    """The place in the chain of the holder and its ancestors of the topmost one that has its value
    of a mark. The holder's own value counts or, where its environment was wiped, the nearest one.
    """
    chain = list(holder.upward())
    value = holder.process.marks.get(mark)
    for child, parent in pairwise(chain):
        # What was wiped, or dropped below a wrapper, still stands above.
        if value or (child.environment == "read" and not programs.is_wrapper(parent)):
            break
        if programs.process_manager(parent) or programs.is_multiplexer(parent):
            break  # these serve others, too
        value = parent.marks.get(mark)
    if not value:
        return None
    return max(at for at, process in enumerate(chain) if process.marks.get(mark) == value)


def was_left(holder: Holder, mark: str) -> bool:
    """Whether those who gave the holder this mark have gone and left it behind.

    Must prove that nobody of them lives: the topmost process that bears the same value of the mark
    was adopted, so its own parent, who set the mark, has ended.
    """
    top = bearer(holder, mark)
    if top is None:
        return False
    chain = list(holder.upward())
    adopter = chain[top + 1] if top + 1 < len(chain) else None
    if adopter is not None:
        # Only the controller of a run gives its id to others, and portfree sets no other mark. So
        # the first process of a container, or a `portfree run`, has adopted what bears another one,
        # even if it shares its session.
        value = chain[top].marks[mark]
        innermost = value.rpartition("/")[2]
        other_run = mark == RUN_ID and innermost.split(".")[0] != str(adopter.pid)
        adopts = adopter.pid == 1 and other_run
        if programs.runs_commands(adopter):
            unmarked = adopter.environment == "read" and adopter.marks.get(mark) != value
            adopts = other_run if mark == RUN_ID else unmarked
        if adopts:
            return not seats(chain[: top + 1])
    return left_at(holder, top)


def left_at(holder: Holder, top: int) -> bool:
    """Whether the process at this place in the chain was adopted, and nobody sits below it.

    Multiplexers, editors and terminals are adopted too, yet they live on and hand their environment
    to strangers: with one of them on the way nothing is proved.
    """
    chain = list(holder.upward())
    if seats(chain[: top + 1]):
        return False
    # What was only forked from a runner is none, and ends with it.
    while (
        top + 1 < len(chain) and is_copy(chain[top + 1]) and not programs.is_multiplexer(chain[top])
    ):
        top += 1
    if top + 1 == len(chain):
        return chain[top].ppid is None
    return _adopts(chain[top + 1], chain[top])


def seats(chain: Sequence[Process]) -> bool:
    """Whether somebody may sit at one of these processes, child first.

    A terminal that the topmost one, or one above it, has made for what it started is nobody's, as
    long as no shell waits there for what is typed.
    """
    *below, top = chain
    return (
        any(map(programs.is_multiplexer, chain))
        or leads_terminal(top)
        or any(leads_terminal(p) and programs.is_interactive_shell(p) for p in below)
        or any(p.session is None and p.terminal is not None for p in below)
    )


def is_copy(process: Process) -> bool:
    """Whether it looks like a test runner, and is none: it was forked from one, and has executed no
    program since (multiprocessing, os.fork(), pytest-forked).
    """
    return process.forked is True and (
        programs.is_test_runner(process) or programs.is_ci_agent(process)
    )


def is_adopted(holder: Holder, at: int) -> bool:
    """Whether the process at this place in the chain of the holder and its ancestors has lost who
    started it.
    """
    chain = list(holder.upward())
    if at + 1 == len(chain):
        return chain[at].ppid is None
    return _adopts(chain[at + 1], chain[at])


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


def leads_terminal(process: Process) -> bool:
    """Whether it is the one that a terminal belongs to, so that somebody sits there."""
    # The kernel takes the terminal from everybody when the session's leader ends
    # (credentials(7)), so a leader that has one is alive and somebody sits there. Whoever has one
    # and does not tell the session may be that leader.
    leads = process.session is None or process.leads_session
    return leads and process.terminal is not None


def _adopts(process: Process, child: Process) -> bool:
    """Whether *process* is merely the one who adopted *child*, not the one who started it."""
    if programs.is_listed_reaper(process):
        return True
    # The first process of a container may be no init but the service itself or its entrypoint: then
    # it started what shares its session. What has another session came from elsewhere. The same
    # goes for a `portfree run`, which adopts what its command leaves behind.
    known = process.session is not None and child.session is not None
    may = process.pid == 1 or programs.runs_commands(process)
    return may and known and child.session != process.session
