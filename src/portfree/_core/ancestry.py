"""A holder of a port, and the questions that its lineage answers. Pure: no look at the machine."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from portfree._core import programs
from portfree._core.run_id import RUN_ID
from portfree._system.interface import Lock, Process, Socket
from portfree.model import Port

if TYPE_CHECKING:
    from portfree._core.origin import Origin


# How much later than its lock a process may seem to have started, where the clock was set or a file
# system rounds times. In seconds.
_CLOCKS_DIFFER = 2.0


class SessionFolder(NamedTuple):
    """A base temporary folder of pytest, ``pytest-of-USER/pytest-N``, and its lock."""

    path: str
    exists: bool
    lock: Lock | None = None
    """pytest makes it for its session, and removes it at the end."""
    process: Process | None = None
    """The process with the pid in the lock."""
    hidden: bool = False
    """Whether that process exists, but cannot be read."""

    @property
    def in_use(self) -> bool:
        """Whether the session that has locked it may go on."""
        owner = self.process
        if self.lock is None or owner is None:
            return self.lock is not None and self.hidden
        # A process that is younger than the lock has reused the pid. A test runner gets the benefit
        # of the doubt: it seems younger where the clock was set forward since.
        younger = owner.started is not None and owner.started > self.lock.made + _CLOCKS_DIFFER
        return not younger or (programs.is_test_runner(owner) and not is_copy(owner))

    def test(self, cwd: str | None) -> str:
        """The test whose folder below this one a directory is, by the name that tmp_path gives."""
        if cwd is None or not PurePath(cwd).is_relative_to(self.path):
            return ""
        parts = PurePath(cwd).relative_to(self.path).parts[:2]
        return next((re.sub(r"\d+$", "", part) for part in parts if part.startswith("test")), "")


class Holder(NamedTuple):
    """A process with an open socket that is bound or listening on a requested port."""

    process: Process
    sockets: frozenset[Socket] = frozenset()
    lineage: tuple[Process, ...] = ()
    """Its ancestors, parent first, as far up as they could be read."""
    pinned: bool = True
    """Whether it was pinned, so that a signal cannot reach another process."""
    project: str | None = None
    """The repository of its working directory or, without one, the nearest folder above with a
    pyproject.toml."""
    repository: str | None = None
    """The repository alone."""
    leader: Process | None = None
    """The leader of its session, if it was forked and has executed no program."""
    folder: SessionFolder | None = None
    """The temporary folder of pytest around its working directory."""
    users: tuple[Holder, ...] = ()
    """The processes of this host with a connection to it, where they were read."""
    live_runs: frozenset[str] = frozenset()
    """The elements of its run id whose controller is alive, or may be."""
    user: str = ""
    """The name of its owner."""
    origin: Origin | None = None
    """Where it was born; None if outside of every run, or not asked yet."""
    engine: str | None = ""
    """The container behind the port, as its engine names it; None if the engine knows none."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ids(self) -> frozenset[Hashable]:
        """The ids of its sockets."""
        return frozenset(socket.id for socket in self.sockets)

    @property
    def ports(self) -> frozenset[Port]:
        return frozenset(socket.port for socket in self.sockets)

    @property
    def test(self) -> str:
        """The test that it was born in, as the runner names it, or empty."""
        return self.mark("PYTEST_CURRENT_TEST") or self.mark("NEXTEST_TEST_NAME")

    def mark(self, name: str) -> str:
        """Its own value of a mark or, without one, the nearest ancestor's."""
        return next((p.marks[name] for p in self.upward() if name in p.marks), "")

    def upward(self) -> Iterator[Process]:
        """The process itself, then its ancestors, parent first."""
        yield self.process
        yield from self.lineage

    def descends_from(self, process: Process) -> bool:
        return any(same(ancestor, process) for ancestor in self.lineage)


class Launcher(NamedTuple):
    """The live process that started a holder and still looks after it."""

    process: Process | None
    """None if it is out of sight: outside of our container, or hidden."""
    text: str = ""

    def __str__(self) -> str:
        return self.text or (named(self.process) if self.process else "?")


def same(one: Process, other: Process) -> bool:
    """Whether two looks saw the same process: a pid alone may have been reused."""
    return one.pid == other.pid and one.start == other.start


def named(process: Process) -> str:
    """A process as messages name it: ``zsh (pid 9)``."""
    return f"{programs.program(process) or '?'} (pid {process.pid})"


def launcher(holder: Holder) -> Launcher | None:
    """The live process that started the holder and still looks after it, if there is one.

    None is the proof that rule `orphan` rests on, so it must be certain: between the holder and the
    process that adopts orphans there are only wrappers, which start one command and wait for it.
    Whatever cannot be seen, and whatever is on no list, counts as a launcher.
    """
    # The terminals that a script(1) or expect(1) above it has made for its command.
    made = {
        child.terminal
        for child, parent in pairwise(holder.upward())
        if child.leads_session and child.terminal not in (None, parent.terminal)
        if programs.is_pty_maker(parent) and not programs.is_interactive_shell(child)
    }
    child = holder.process
    if leads_terminal(child) and child.terminal not in made:
        return Launcher(None, f"somebody at the terminal {child.terminal}")
    for process in holder.lineage:
        at_made = process.terminal in made
        if leads_terminal(process) and not at_made:
            return Launcher(process, f"{named(process)} on {process.terminal}")
        if _adopts(process, child):
            return None
        # A shell in the foreground of a live terminal waits for its command. The first process of
        # a container has started the child, if it did not adopt it.
        waits = programs.is_shell(process) and process.foreground and not at_made
        passes_on = programs.is_wrapper(process) or programs.is_pty_maker(process)
        if process.pid == 1 or waits or not passes_on:
            return Launcher(process)
        child = process
    if child.ppid is None:
        return None
    if child.ppid == 0:
        return Launcher(None, "somebody outside of this container (docker exec or the like)")
    return Launcher(None, f"a process that cannot be seen (pid {child.ppid})")


def supervisors(holder: Holder) -> list[Process]:
    """The processes that may restart the holder when it ends: its parent, and on past wrappers. Not
    a person's shell at a terminal, and not a process that merely adopted it.
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
    """The place in the chain, holder first, of the topmost process with the holder's value of a
    mark. Its own value counts or, where its environment was wiped, the nearest one above.
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
    """Whether all that gave the holder this mark have ended and left it behind: the topmost process
    with the same value was adopted, so its own parent, which set the mark, has ended.
    """
    top = bearer(holder, mark)
    if top is None:
        return False
    chain = list(holder.upward())
    adopter = chain[top + 1] if top + 1 < len(chain) else None
    if adopter is not None:
        # Only the controller of a run gives that run's id to others, and portfree sets no other
        # mark. So the first process of a container, or a `portfree run`, has adopted what bears
        # another one, even if it shares its session.
        value = chain[top].marks[mark]
        innermost = value.rpartition("/")[2]
        other_run = mark == RUN_ID and innermost.split(".")[0] != str(adopter.pid)
        adopts = adopter.pid == 1 and other_run
        if programs.runs_commands(adopter):
            unmarked = adopter.environment == "read" and adopter.marks.get(mark) != value
            adopts = other_run if mark == RUN_ID else unmarked
        if adopts:
            return not is_interactive(chain[: top + 1])
    return left_at(holder, top)


def left_at(holder: Holder, top: int) -> bool:
    """Whether the process at this place in the chain was adopted, and no person uses what is below.
    Multiplexers, editors and terminals are adopted too, but live on and hand their environment to
    strangers: with one of them on the way nothing is proved.
    """
    chain = list(holder.upward())
    if is_interactive(chain[: top + 1]):
        return False
    # What was only forked from a runner is no runner, and ends with it.
    for child, parent in pairwise(chain[top:]):
        if not is_copy(parent) or programs.is_multiplexer(child):
            break
        top += 1
    return is_adopted(holder, top)


def is_interactive(chain: Sequence[Process]) -> bool:
    """Whether a person may sit at one of these processes, child first. Nobody sits at a terminal
    that the topmost one, or one above it, has made for what it started, but at a shell's input.
    """
    *below, top = chain
    return (
        any(map(programs.is_multiplexer, chain))
        or leads_terminal(top)
        or any(leads_terminal(p) and programs.is_interactive_shell(p) for p in below)
        or any(p.session is None and p.terminal is not None for p in below)
    )


def is_copy(process: Process) -> bool:
    """Whether it only looks like a test runner: it was forked from one, and has executed no program
    since (multiprocessing, os.fork(), pytest-forked).
    """
    forked = process.forked is True
    return forked and (programs.is_test_runner(process) or programs.is_ci_agent(process))


def is_adopted(holder: Holder, at: int) -> bool:
    """Whether the process at this place in the chain, holder first, has outlived its parent."""
    child, *above = list(holder.upward())[at : at + 2]
    return _adopts(above[0], child) if above else child.ppid is None


def roots(holders: Collection[Holder]) -> list[Holder]:
    """The holders that on one of their ports have no ancestor that holds it too."""
    return [
        each
        for each in holders
        if not each.sockets or any(leader(each, holders, port) is None for port in each.ports)
    ]


def leader(holder: Holder, holders: Collection[Holder], port: Port) -> Holder | None:
    """The nearest ancestor of a holder that holds the same port."""
    on_port = {other.pid: other for other in holders if port in other.ports}
    return next((on_port[p.pid] for p in holder.lineage if p.pid in on_port), None)


def leads_terminal(process: Process) -> bool:
    """Whether a person may sit at its terminal: it leads the session that the terminal belongs to,
    or does not tell its session. The kernel takes the terminal from all when the leader ends
    (credentials(7)), so one that has it is alive.
    """
    return process.terminal is not None and process.session in (None, process.pid)


def _adopts(process: Process, child: Process) -> bool:
    """Whether *process* merely adopted *child*, and did not start it."""
    if programs.is_listed_reaper(process):
        return True
    # The first process of a container may be the service itself or its entrypoint, and a `portfree
    # run` starts its command and adopts what that leaves behind. Both have started what shares
    # their session; what has another session came from elsewhere.
    known = process.session is not None and child.session is not None
    may = process.pid == 1 or programs.runs_commands(process)
    return may and known and child.session != process.session
