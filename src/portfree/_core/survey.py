"""Who holds the ports: from sockets to holders, each pinned and with its lineage read once."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from portfree._core import containers, programs, run_id
from portfree._core.ancestry import Holder, SessionFolder, roots
from portfree._core.context import Context, Neighbour, Phase
from portfree._core.origin import needs_neighbours
from portfree._core.ports import Port
from portfree._system.interface import (
    CI_JOB_IDS,
    KEPT_VARIABLES,
    SUDO_UID,
    Lock,
    Pin,
    Process,
    Socket,
    System,
)
from portfree.model import Scope, Verdict

# Another program's probe of the port (and every portfree that runs at the same time) looks like a
# holder for some microseconds. Who has the same socket this much later is no probe.
BELIEVED_AFTER = 0.005
# A probe that has lost its turn on a crowded machine keeps the port for longer. It never listens,
# and servers hardly ever only bind, but for those of UDP: so to wait for these costs few anything.
_BOUND_BELIEVED_AFTER = 0.05
# As long as such a process wants a CPU it may only lack one to close its socket; but so long.
_BOUND_DOUBTED_FOR = 0.5

# Where tmp_path lies (_pytest/tmpdir.py): TMPDIR/pytest-of-USER/pytest-NUMBER.
_SESSION_FOLDER = re.compile(r".*[/\\]pytest-of-[^/\\]+[/\\]pytest-\d+(?=[/\\]|$)")


class Survey:
    """Who holds what. Use it in a ``with``: it lets go of the pins at the end."""

    def __init__(
        self,
        sockets: tuple[Socket, ...] = (),
        holders: tuple[Holder, ...] = (),
        pins: Iterable[Pin] = (),
        unreadable: int = 0,
    ) -> None:
        self.sockets = sockets
        """Every socket that holds one of the asked ports."""
        self.holders = holders
        self.pins = list(pins)
        self.unreadable = unreadable
        """How many processes did not let us look at their sockets."""

    def pin(self, holder: Holder) -> Pin | None:
        return next((pin for pin in self.pins if pin.pid == holder.pid), None)

    def unowned(self, port: Port) -> list[Socket]:
        """The sockets on a port that nobody was seen with."""
        owned = {socket.id for holder in self.holders for socket in holder.sockets}
        return [s for s in self.sockets if s.port == port and s.id not in owned]

    def __enter__(self) -> Survey:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the pins."""
        for pin in self.pins:
            pin.close()


def survey(system: System, ports: Collection[Port]) -> Survey:
    """Everybody who holds one of the ports, and all sockets that do.

    A socket that nobody is seen with may just be on its way from one process to another, or its
    process to its end: then the second look counts.
    """
    seen = _look(system, ports)
    if any(seen.unowned(port) for port in ports):
        seen.close()
        seen = _look(system, ports)
        try:
            unowned = [socket for port in ports for socket in seen.unowned(port)]
            seen.holders = (*seen.holders, *_proxies(system, unowned))
        except BaseException:
            seen.close()
            raise
    return seen


def _proxies(system: System, unowned: Collection[Socket]) -> Iterator[Holder]:
    """The docker-proxies behind sockets that we may not see anybody with, not being root.

    They are known by what they say of themselves, which is no proof: without a pin nobody can
    signal them, and that they belong to a container keeps them in any case.
    """
    if not unowned:
        return
    reader = Reader(system)
    for process in _everybody(reader):
        if published := programs.published(process):
            sockets = {
                socket
                for socket in unowned
                if (socket.address, str(socket.port)) == published and socket.uid == process.owner
            }
            if sockets:
                yield _holder(reader, process, sockets, pinned=False)


def _look(system: System, ports: Collection[Port]) -> Survey:
    started = system.now()
    try:
        seen = system.sockets(ports)
        if not seen:
            return Survey()
        owners = system.owners({socket.id for socket in seen})
        bound = any(socket.state == "bound" for socket in seen)
        patience = _BOUND_BELIEVED_AFTER if bound else BELIEVED_AFTER
        if (early := started + patience - system.now()) > 0:
            system.wait((), early)
        still = {socket.id for socket in system.sockets(ports)}
        while (
            system.now() < started + _BOUND_DOUBTED_FOR
            and (doubted := [s for s in seen if s.state == "bound" and s.id in still])
            and _wants_cpu(system, {pid for s in doubted for pid in owners.pids.get(s.id, ())})
        ):
            system.wait((), BELIEVED_AFTER)
            still = {socket.id for socket in system.sockets(ports)}
    except OSError:
        return Survey()  # the system tells nothing: what a bind says has to do
    believed = tuple(socket for socket in seen if socket.id in still)

    held: dict[int, set[Socket]] = {}
    for socket in believed:
        for pid in owners.pids.get(socket.id, ()):
            held.setdefault(pid, set()).add(socket)
    reader = Reader(system)
    holders: list[Holder] = []
    with ExitStack() as pins:  # closed at once if anything goes wrong before somebody has them
        kept: list[Pin] = []
        for pid, sockets in sorted(held.items()):
            process = reader.process(pid)
            if process is None or process.zombie:
                continue  # it has ended meanwhile
            try:
                pin = system.pin(process)
            except OSError:
                holders.append(_holder(reader, process, sockets, pinned=False))
                continue
            if pin is not None:
                pins.callback(pin.close)
                kept.append(pin)
                holders.append(_holder(reader, process, sockets, pinned=True))
        pins.pop_all()
    return Survey(believed, tuple(holders), kept, owners.unreadable)


def _wants_cpu(system: System, pids: Iterable[int]) -> bool:
    """Whether one of these processes runs, or would if it were its turn."""
    processes = filter(None, map(system.process, pids))
    return any(process.running for process in processes)


def _holder(reader: Reader, process: Process, sockets: set[Socket], *, pinned: bool) -> Holder:
    system = reader.system
    process, lineage = reader.lineage(process)
    project, repository = _place_of(process.cwd)
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
    path = found[0]
    try:
        lock = reader.system.lock(path)
    except OSError:  # it cannot be told: somebody may have locked it
        return SessionFolder(path, exists=True, lock=Lock(0, 0.0), hidden=True)
    if isinstance(lock, bool):
        return SessionFolder(path, exists=lock)
    owner = reader.process(lock.pid)
    if owner is not None and owner.zombie:
        return SessionFolder(path, exists=True, lock=lock)
    hidden = owner is None and reader.system.exists(lock.pid)
    return SessionFolder(path, exists=True, lock=lock, process=owner, hidden=hidden)


def with_users(system: System, seen: Survey, verdicts: Mapping[int, Verdict]) -> bool:
    """Find out who has a connection with those that would be stopped as orphans; False if nobody.

    Only these are asked, for it takes a look at all processes to know the far ends.
    """
    reader = Reader(system)
    seen.holders = tuple(
        holder._replace(users=_users(reader, holder))
        if verdicts[holder.pid].rule == "orphan"
        else holder
        for holder in seen.holders
    )
    return any(holder.users for holder in seen.holders)


def _users(reader: Reader, holder: Holder) -> tuple[Holder, ...]:
    # What the holder has started itself uses it as a part of the same server.
    found = []
    listening = [socket.id for socket in holder.sockets if not socket.of_itself]
    for pid in sorted(reader.system.peers(holder.pid, but=listening)):
        process = reader.process(pid)
        if process is not None and not process.zombie:
            user = _holder(reader, process, set(), pinned=False)
            if not user.descends_from(holder.process):
                found.append(user)
    return tuple(found)


class Reader:
    """Reads processes, each of them once."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._known: dict[int, Process | None] = {}

    def process(self, pid: int) -> Process | None:
        if pid not in self._known:
            self._known[pid] = self.system.process(pid)
        return self._known[pid]

    def lineage(self, process: Process) -> tuple[Process, tuple[Process, ...]]:
        """The ancestors of a process, parent first, and the process itself.

        If its parent ends while we look, it is adopted: what comes back is then the process as it
        was seen after that.
        """
        ancestors: list[Process] = []
        child = process
        # A pid that passes to another process while we look can close a circle.
        while child.ppid and child.ppid not in {process.pid, *(p.pid for p in ancestors)}:
            parent = self.process(child.ppid)
            if parent is None or (parent.pid != 1 and parent.start > child.start):
                # The parent has ended, or its pid is another's by now: who has adopted the child?
                fresh = self.system.process(child.pid)
                if fresh is None or fresh.start != child.start or fresh.ppid == child.ppid:
                    break
                self._known[child.pid] = child = fresh
                if ancestors:
                    ancestors[-1] = fresh
                else:
                    process = fresh
                continue
            ancestors.append(parent)
            child = parent
        return process, tuple(ancestors)


def context_for(
    system: System,
    holders: Collection[Holder],
    *,
    scope: Scope,
    phase: Phase,
    ending: str | None = None,
    began: float | None = None,
    quiet: Collection[Port] = (),
) -> Context:
    """Who asks, and what else goes on, as far as the verdict on these holders needs it."""
    reader = Reader(system)
    seen = system.process(os.getpid())
    me = seen or Process(pid=os.getpid(), ppid=0, start=0, name="portfree")
    me, lineage = reader.lineage(me)
    # /proc shows the environment that a process started with, os.environ the one it has now.
    now = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    me = me._replace(marks=now)
    chain = (me, *lineage)

    def inherited(name: str) -> str:
        return next((p.marks[name] for p in chain if name in p.marks), "")

    return Context(
        caller=me,
        lineage=lineage,
        platform=system.name,
        scope=scope,
        phase=phase,
        owners=_owners(system, me),
        privileged=system.privileged,
        time=time.time(),
        home=str(_home()),
        project=project_of(_cwd()),
        # sudo wipes the environment, but our ancestors still have theirs.
        run=run_id.elements(inherited(run_id.RUN_ID)),
        ending=ending,
        began=began,
        quiet=frozenset(quiet),
        jobs={name: inherited(name) for name in CI_JOB_IDS if inherited(name)},
        unit=me.unit,
        neighbours=_neighbours(reader, chain, holders),
        main_service=_main_service(reader, chain) if holders else frozenset(),
    )


def project_of(folder: str | None) -> str | None:
    """The repository above a directory or, without one, the nearest folder with a pyproject.toml.

    Never the root or a home directory, for then every process would be in our project.
    """
    return _place_of(folder)[0]


def _place_of(folder: str | None) -> tuple[str | None, str | None]:
    """The project that a directory lies in, and the repository if that is one."""
    if folder is None:
        return None, None
    homes = {_home(), *_homes_of_users()}
    project = None
    for place in (Path(folder), *Path(folder).parents):
        if place in homes or place == Path(place.anchor):
            break
        # os.path rather than Path: it takes a folder that we may not look into for one without.
        # The .git of a worktree or a submodule is a file.
        if os.path.exists(place / ".git"):  # noqa: PTH110
            return str(place), str(place)
        if project is None and os.path.exists(place / "pyproject.toml"):  # noqa: PTH110
            project = str(place)
    return project, None


def _home() -> Path:
    try:
        return Path.home().resolve()
    except RuntimeError:  # no HOME, and no such user
        return Path("/")


def _homes_of_users() -> Iterator[Path]:
    """The home directories of our user, and of who called sudo: HOME may name another one."""
    try:
        import pwd
    except ImportError:  # Windows, where HOME does not count either
        return
    for uid in {os.getuid(), *_sudo_uid()}:
        try:
            yield Path(pwd.getpwuid(uid).pw_dir).resolve()
        except (KeyError, RuntimeError):  # no such user, or a circle of links
            continue


def _cwd() -> str | None:
    try:
        return str(Path.cwd().resolve())
    except OSError:  # it has been deleted
        return None


def _owners(system: System, me: Process) -> frozenset[int | str]:
    # Only root may claim to act for somebody else, and then that somebody is who called sudo.
    if system.privileged and (caller := _sudo_uid()):
        return frozenset(caller)
    return frozenset() if me.owner is None else frozenset({me.owner})


def _sudo_uid() -> set[int]:
    """The user who called sudo, if we were called that way."""
    caller = os.environ.get(SUDO_UID, "")
    return {int(caller)} if caller.isascii() and caller.isdigit() else set()


def _neighbours(
    reader: Reader, ours: Collection[Process], holders: Collection[Holder]
) -> tuple[Neighbour, ...]:
    """Who may have started these holders: the live test runners and CI agents, who carries a CI
    job's id, and who has the command line of one that was forked; without us.
    """
    unclear = [holder for holder in roots(holders) if needs_neighbours(holder)]
    if not unclear:
        return ()
    own = {process.pid for process in ours}
    forked = {h.process.argv for h in unclear if h.process.forked and h.process.argv}
    found = []
    for process in _everybody(reader):
        interesting = (
            programs.is_test_runner(process)
            or programs.is_ci_agent(process)
            or any(job in process.marks for job in CI_JOB_IDS)
            or (process.argv in forked and not process.forked)
        )
        if interesting and process.pid not in own:
            process, lineage = reader.lineage(process)
            found.append(Neighbour(process, lineage, project_of(process.cwd)))
    return tuple(found)


def _main_service(reader: Reader, ours: tuple[Process, ...]) -> frozenset[int]:
    """The main service of our container, if we were put into it from outside (docker exec).

    Then our own ancestry ends outside, and not at the container's first process.
    """
    top = ours[-1]
    if top.pid == 1 or top.ppid != 0:
        return frozenset()
    first = reader.process(1)
    children = [process for process in _everybody(reader) if process.ppid == 1]
    # If the first process is hidden from us, every child of it may be the one.
    if first is not None and programs.is_listed_reaper(first):
        children = sorted(children, key=lambda process: process.start)[:1]
    elif first is not None:
        children = [process for process in children if process.session == first.session]
    return frozenset(process.pid for process in children)


def _everybody(reader: Reader) -> Iterable[Process]:
    for pid in reader.system.pids():
        process = reader.process(pid)
        if process is not None and not process.zombie:
            yield process
