"""What holds the ports: from sockets to holders, each pinned and with its ancestors read once."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack

from portfree._core import containers, programs, run_id
from portfree._core.ancestry import Holder, SessionFolder
from portfree._core.reading import Reader, place_of
from portfree._system.interface import Lock, Pin, Process, Signal, Socket, System
from portfree.model import Ending, Port, Verdict

# Port probes (ours too) hold a port for microseconds: a socket counts if it is there after so many
# seconds. A preempted probe holds a bound socket for longer. Only UDP servers look like that for
# good, so wait longer for those, and even longer while the process lacks a CPU to close its socket.
CONFIRM_AFTER = 0.005
_CONFIRM_BOUND_AFTER = 0.05
_DOUBT_BOUND_FOR = 0.5

# Where tmp_path lies (_pytest/tmpdir.py): TMPDIR/pytest-of-USER/pytest-NUMBER.
_SESSION_FOLDER = re.compile(r".*[/\\]pytest-of-[^/\\]+[/\\]pytest-\d+(?=[/\\]|$)")


NOT_JUDGED = Verdict("keep", "unknown", "it was not judged yet")


class Suspect:
    """One holder, and what is added on the way: its verdict, the signals, and what became of it."""

    def __init__(
        self,
        holder: Holder,
        pin: Pin | None = None,
        verdict: Verdict = NOT_JUDGED,
        *,
        root: bool = True,
        restarts: frozenset[Port] = frozenset(),
    ) -> None:
        """*restarts*: the ports on which a supervisor, which holds no socket, starts servers."""
        self.holder = holder
        self.pin = pin
        self.verdict = verdict
        self.root = root
        self.restarts = restarts
        self.sent: list[Signal] = []
        self.refused = ""
        """Why the system refused a signal."""
        self.ended_after: float | None = None
        """Seconds from the first signal until it was seen to have ended, or let go."""
        self.lives = True
        """Whether it was still alive when we were done."""

    @property
    def alive(self) -> bool:
        return self.pin is not None and self.pin.alive()

    def ending(self, *, polite: bool) -> Ending | None:
        """What became of it; None if nothing was done to it and it lives on.

        *polite*: whether the system has signals that a process may obey.
        """
        signals, seconds = tuple(f"SIG{name}" for name in self.sent), self.ended_after
        if self.refused and self.lives:
            return Ending("refused", signals, seconds, self.refused)
        if not polite and signals and not self.lives:
            return Ending("terminated", (), seconds)
        if seconds is None:
            return Ending("goes-on" if self.restarts else "remains", signals) if signals else None
        if self.lives or signals:
            return Ending("let-go" if self.lives else "ended", signals, seconds)
        return Ending("by-itself" if self.root else "with-parent", (), seconds)


class Survey:
    """Which process holds what. Use it in a ``with``: it closes the pins at the end."""

    def __init__(
        self, sockets: Collection[Socket] = (), suspects: Iterable[Suspect] = (), unread: int = 0
    ) -> None:
        self.sockets = sockets
        """Every socket that holds one of the asked ports."""
        self.suspects = list(suspects)
        self.unreadable = unread
        """How many processes did not let us look at their sockets."""

    @property
    def holders(self) -> tuple[Holder, ...]:
        return tuple(suspect.holder for suspect in self.suspects)

    def unowned(self, port: Port) -> list[Socket]:
        """The sockets on a port that no holder was seen with."""
        owned = {id_ for holder in self.holders for id_ in holder.ids}
        return [s for s in self.sockets if s.port == port and s.id not in owned]

    def __enter__(self) -> Survey:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for suspect in self.suspects:
            if suspect.pin is not None:
                suspect.pin.close()


def survey(system: System, ports: Collection[Port]) -> Survey:
    """All holders of these ports, and all sockets on them. Where a socket has no holder, it may be
    on its way from one process to another, or its process may be ending: a second look counts.
    """
    seen = _look(system, ports)
    if any(seen.unowned(port) for port in ports):
        seen.close()
        seen = _look(system, ports)
        with ExitStack() as cleanup:
            cleanup.callback(seen.close)
            if unowned := [socket for port in ports for socket in seen.unowned(port)]:
                seen.suspects += _proxies(Reader(system), unowned)
            cleanup.pop_all()
    return seen


def _proxies(reader: Reader, unowned: Collection[Socket]) -> Iterator[Suspect]:
    """The docker-proxies behind sockets whose holder only root may see. What they say of themselves
    is no proof: without a pin they get no signal, and as a container's they are kept in any case.
    """
    for process in reader.everything():
        published = programs.published(process)
        theirs = (each for each in unowned if each.uid == process.owner)
        if sockets := {each for each in theirs if (each.address, str(each.port)) == published}:
            yield Suspect(_holder(reader, process, sockets, pinned=False))


def _look(system: System, ports: Collection[Port]) -> Survey:
    try:
        believed, pids, unreadable = _confirmed_sockets(system, ports)
    except OSError:
        return Survey()  # the system tells nothing: what a bind says has to do
    held: dict[int, set[Socket]] = {}
    for socket in believed:
        for pid in pids.get(socket.id, ()):
            held.setdefault(pid, set()).add(socket)
    reader = Reader(system)
    suspects = []
    with ExitStack() as pins:  # closed at once if anything goes wrong before somebody has them
        for pid, sockets in sorted(held.items()):
            process = reader.process(pid)
            if process is None or process.zombie:
                continue  # it has ended meanwhile
            try:
                pin = system.pin(process)
            except OSError:
                suspects.append(Suspect(_holder(reader, process, sockets, pinned=False)))
                continue
            if pin is not None:
                pins.callback(pin.close)
                suspects.append(Suspect(_holder(reader, process, sockets, pinned=True), pin))
        pins.pop_all()
    return Survey(believed, suspects, unreadable)


def _confirmed_sockets(
    system: System, ports: Collection[Port]
) -> tuple[tuple[Socket, ...], Mapping[Hashable, Collection[int]], int]:
    """The sockets on the ports that are no mere probes, the pids that have each of them open, and
    how many processes did not show theirs. Raises OSError if the system does not list sockets.
    """
    started = system.now()
    seen = system.sockets(ports)
    if not seen:
        return (), {}, 0
    owners = system.owners({socket.id for socket in seen})
    bound = any(socket.state == "bound" for socket in seen)
    confirm_at = started + (_CONFIRM_BOUND_AFTER if bound else CONFIRM_AFTER)
    if (early := confirm_at - system.now()) > 0:
        system.wait((), early)
    while True:
        still = {socket.id for socket in system.sockets(ports)}
        doubted = {s.id for s in seen if s.state == "bound"} & still
        pids = {pid for id_ in doubted for pid in owners.pids.get(id_, ())}
        wants_cpu = any(p.running for pid in pids if (p := system.process(pid)))
        if not wants_cpu or system.now() >= started + _DOUBT_BOUND_FOR:
            break
        system.wait((), CONFIRM_AFTER)
    return tuple(s for s in seen if s.id in still), owners.pids, owners.unreadable


def _holder(reader: Reader, process: Process, sockets: set[Socket], *, pinned: bool) -> Holder:
    system = reader.system
    process, lineage = reader.lineage(process)
    project, repository = place_of(process.cwd)
    holder = Holder(
        process=process,
        sockets=frozenset(sockets),
        lineage=lineage,
        pinned=pinned,
        project=project,
        repository=repository,
        folder=_session_folder(reader, process.cwd),
        user=system.user(process.owner),
    )
    copy = next((p for p in holder.upward() if p.forked), None)
    if copy is not None and copy.session:
        holder = holder._replace(leader=reader.process(copy.session))
    run = run_id.elements(holder.mark(run_id.RUN_ID))
    engine: str | None = ""
    if sockets and (process.container or programs.is_container_engine(process)):
        engine = containers.behind(system, process, min(holder.ports))
    return holder._replace(
        live_runs=frozenset(element for element in run if run_id.alive(element, system)),
        engine=engine,
    )


def _session_folder(reader: Reader, cwd: str | None) -> SessionFolder | None:
    """The base temporary folder of pytest that a directory lies in, and who has locked it."""
    found = _SESSION_FOLDER.match(cwd or "")
    if found is None:
        return None
    try:
        lock = reader.system.lock(found[0])
    except OSError:  # it cannot be told: a session may have locked it
        return SessionFolder(found[0], exists=True, lock=Lock(0, 0.0), hidden=True)
    if isinstance(lock, bool):
        return SessionFolder(found[0], exists=lock)
    owner = reader.process(lock.pid)
    hidden = owner is None and reader.system.exists(lock.pid)
    owner = None if owner is not None and owner.zombie else owner
    return SessionFolder(found[0], exists=True, lock=lock, process=owner, hidden=hidden)


def find_users(system: System, seen: Survey) -> bool:
    """Find the processes that have a connection with a holder that is judged an orphan; False if
    there are none. Only for these: to know the far ends takes a look at all processes.
    """
    for suspect in (each for each in seen.suspects if each.verdict.rule == "orphan"):
        suspect.holder = suspect.holder._replace(users=users_of(system, suspect.holder))
    return any(holder.users for holder in seen.holders)


def users_of(system: System, holder: Holder) -> tuple[Holder, ...]:
    """The processes that have a connection with a holder, without those that it has started: they
    use it as a part of the same server.
    """
    reader = Reader(system)
    listening = [socket.id for socket in holder.sockets if not socket.of_itself]
    far = map(reader.process, sorted(system.peers(holder.pid, but=listening)))
    users = [_holder(reader, p, set(), pinned=False) for p in far if p and not p.zombie]
    return tuple(user for user in users if not user.descends_from(holder.process))
