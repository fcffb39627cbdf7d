"""A machine that exists only in memory, with a clock that jumps: the boundary's stand-in.

Time passes in `FakeSystem.wait` alone, so a test of thirty seconds takes none, and a time that a
test reads is exact. What happens by itself is scheduled: a process ends some time after a signal,
forks a worker, lets go of its socket, is started again. Every signal is written down, with the
process that got it and the time, and so is every pin, so that one that is never closed is seen.
"""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from portfree._core.context import Moment, Phase
from portfree._core.free import free
from portfree._system.interface import (
    Bind,
    Environment,
    Lock,
    Owners,
    Pin,
    Process,
    Signal,
    Socket,
    State,
)
from portfree.model import HolderReport, Outcome, Port, Report, Request, Scope

# A survey looks twice, so long apart, before anybody is judged: the first signal comes then.
LOOK = 0.005

# More than any call of portfree needs: who asks more often without waiting goes round in circles.
_MOST_QUESTIONS = 20_000

_TICKS_PER_SECOND = 100
_BOOT = 1_000  # ticks that the machine has run when the first process of a test starts

Event = Callable[[], object]


@dataclass(frozen=True)
class Sent:
    """A signal that was sent."""

    process: Process
    signal: Signal
    at: float


@dataclass(eq=False)
class Actor:
    """A process of the machine, and how it behaves."""

    system: FakeSystem
    process: Process
    holds: set[Hashable] = field(default_factory=set)
    """The ids of the sockets that it has open."""
    dies: dict[Signal, float | None] = field(default_factory=dict)
    """How long after a signal it ends; None if it ignores the signal. KILL works like any other
    signal, so a process can be stuck in the kernel."""
    reacts: dict[Signal, Event] = field(default_factory=dict)
    """What else a signal does, at once."""
    at_end: list[Event] = field(default_factory=list)
    """What happens when it has ended: a supervisor notices."""
    alive: bool = True
    reaped: bool = True
    """Whether its parent takes notice of its end; else it stays as a zombie."""
    hidden: bool = False
    """Whether nobody may look at its descriptors."""
    unpinnable: OSError | None = None
    refuses: OSError | None = None
    """What a signal to it raises."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def ignores(self, *signals: Signal) -> Actor:
        self.dies |= dict.fromkeys(signals)
        return self

    def takes(self, **seconds: float) -> Actor:
        """How long it takes to end after a signal: ``takes(TERM=0.3)``."""
        for name, delay in seconds.items():
            self.dies[_signal(name)] = delay
        return self

    def let_go(self) -> None:
        """Close every socket, and live on."""
        self.holds.clear()

    def end(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self.holds.clear()
        self.system._has_ended(self)
        for event in self.at_end:
            event()


def _signal(name: str) -> Signal:
    known: dict[str, Signal] = {"TERM": "TERM", "CONT": "CONT", "INT": "INT", "KILL": "KILL"}
    return known[name]


class FakePin:
    """A process held by its identity, as a pidfd holds it."""

    def __init__(self, system: FakeSystem, server_process: Actor) -> None:
        self._system = system
        self._actor = server_process
        system.open_pins.append(self)
        system.pins_made += 1

    @property
    def pid(self) -> int:
        return self._actor.pid

    def alive(self) -> bool:
        self._check()
        return self._actor.alive

    def send(self, signal: Signal) -> bool:
        self._check()
        return self._system._deliver(self._actor, signal)

    def close(self) -> None:
        self._check()
        self._system.open_pins.remove(self)

    def _check(self) -> None:
        self._system.demand(self in self._system.open_pins, "a pin is used after it was closed")


class FakeSystem:
    """The `System` of tests."""

    def __init__(
        self,
        *,
        name: str = "linux",
        polite: bool = True,
        privileged: bool = False,
        uid: int = 1000,
    ) -> None:
        self.name = name
        self.namespace = ""
        self.polite = polite
        self.privileged = privileged
        self.uid = uid
        self.signals: list[Sent] = []
        self.open_pins: list[FakePin] = []
        self.pins_made = 0
        self.actors: dict[int, Actor] = {}
        self.kernel: dict[Hashable, Socket] = {}
        """The sockets, by id; one that nobody has open goes away, but for the `lasting` ones."""
        self.lasting: set[Hashable] = set()
        self.binds: dict[Port, Bind] = {}
        """What a bind says, whatever the sockets are."""
        self.blocking_reuse: set[Port] = set()
        """The ports whose connections refuse a bind with SO_REUSEADDR too."""
        self.after_call: dict[str, Event] = {}
        """What happens right after the next call of a method: between two looks of portfree."""
        self.fails: dict[str, OSError] = {}
        """What a method raises instead of an answer."""
        self.watch: Callable[[str], object] = _nothing
        """Told of every question, by its method's name, right after it was answered."""
        self.witness: Callable[[Actor, Signal], object] = _nothing
        """Told of every signal, right before it takes effect."""
        self.connected: dict[int, set[int]] = {}
        """Who has a connection with whom, by pid."""
        self.locks: dict[str, Lock | bool] = {}
        """The temporary folders of pytest, and their locks."""
        self.outputs: dict[tuple[str, str], str] = {}
        """What a program writes that was given such a word: ``docker`` and ``publish=8000/tcp``."""
        self.asked: dict[str, int] = {}
        """How often each method was called."""
        self.misuses: list[str] = []
        """What must never be done: portfree itself would survive the exception alone."""
        self._clock = 0.0
        self._numbers = itertools.count()
        self._inodes = itertools.count(70_000)
        self._pids = itertools.count(500)
        self._events: list[tuple[float, int, Event]] = []
        self._restless = 0

        self.init = self.start("systemd", pid=1, ppid=0, owner=0)
        self.shell = self.start("zsh", ppid=1, argv=("-zsh",), terminal="pts/1", leads=True)
        self.caller = self.start(
            "python3", pid=os.getpid(), ppid=self.shell.pid, argv=("python3", "caller.py")
        )

    # Staging

    def start(
        self,
        name: str,
        *,
        pid: int | None = None,
        ppid: int = 1,
        argv: tuple[str, ...] | None = None,
        owner: int | None = None,
        cwd: str | None = "/elsewhere",
        session: int | None = None,
        leads: bool = False,
        terminal: str | None = None,
        foreground: bool = False,
        marks: Mapping[str, str] | None = None,
        container: str | None = None,
        unit: str | None = None,
        start: int | None = None,
        environment: Environment = "read",
        forked: bool = False,
        control_group: str | None = None,
    ) -> Actor:
        """A new process; its session is its parent's unless it *leads* one of its own."""
        if pid is None:
            pid = next(number for number in self._pids if number not in self.actors)
        parent = self.actors.get(ppid)
        if session is None:
            session = pid if leads or parent is None else parent.process.session
        began = _BOOT + round(self._clock * _TICKS_PER_SECOND) if start is None else start
        process = Process(
            pid=pid,
            ppid=ppid,
            start=0 if pid == 1 else began,
            name=name[:15],
            argv=(name,) if argv is None else argv,
            owner=self.uid if owner is None else owner,
            started=1_700_000_000.0 + began / _TICKS_PER_SECOND,
            cwd=cwd,
            session=session,
            terminal=terminal,
            foreground=foreground,
            marks=dict(marks or {}),
            container=container,
            unit=unit,
            environment=environment,
            forked=forked,
            control_group=control_group,
        )
        server_process = self.actors[pid] = Actor(self, process)
        return server_process

    def server(
        self,
        port: int = 8000,
        name: str = "server",
        *,
        cwd: str | None = "/elsewhere",
        ppid: int = 1,
        owner: int | None = None,
        marks: Mapping[str, str] | None = None,
        id: Hashable = None,  # noqa: A002
    ) -> Actor:
        """A process that listens on a port, in a session of its own."""
        server_process = self.start(name, ppid=ppid, cwd=cwd, leads=True, owner=owner, marks=marks)
        self.listen(server_process, port, id=id)
        return server_process

    def listen(
        self,
        server_process: Actor | None,
        port: int | Port = 8000,
        *,
        id: Hashable = None,  # noqa: A002
        state: State = "listening",
        address: str = "127.0.0.1",
        peer: str = "",
        fades_in: float | None = None,
    ) -> Hashable:
        """Open a socket, and return its id; without an *actor* nobody is seen with it."""
        where = port if isinstance(port, Port) else Port(port)
        id_ = next(self._inodes) if id is None else id
        uid = None if server_process is None else server_process.process.owner
        self.kernel[id_] = Socket(
            id=id_,
            port=where,
            state=state,
            address=address,
            uid=uid if isinstance(uid, int) else None,
            peer=peer,
            fades_in=fades_in,
        )
        if server_process is None:
            self.lasting.add(id_)
        else:
            server_process.holds.add(id_)
        return id_

    def probe(self, port: int, *, lasts: float, running: bool = False) -> None:
        """Another program tries whether the port is free, as we do; *running*: without its turn."""
        prober = self.start("prober")
        prober.process = prober.process._replace(running=running)
        self.listen(prober, port, state="bound")
        self.after(lasts, prober.end)

    def fork(self, parent: Actor, name: str | None = None) -> Actor:
        """A child that has inherited all open sockets."""
        process = parent.process
        child = self.start(
            name or process.name,
            ppid=parent.pid,
            argv=process.argv,
            cwd=process.cwd,
            marks=process.marks,
            session=process.session,
        )
        child.holds |= parent.holds
        return child

    def supervise(
        self,
        supervisor: Actor,
        server: Actor,
        *,
        after: float,
        port: int = 8000,
        id: Hashable = None,  # noqa: A002
    ) -> None:
        """Let the supervisor start the server again, each time *after* so many seconds."""

        def again() -> None:
            if supervisor.alive:
                process = server.process
                fresh = self.server(
                    port,
                    process.name,
                    cwd=process.cwd,
                    ppid=supervisor.pid,
                    marks=process.marks,
                    id=id,
                )
                fresh.dies = dict(server.dies)
                fresh.at_end.append(ended)

        def ended() -> None:
            self.after(after, again)

        server.at_end.append(ended)

    def recycle(self, server_process: Actor, name: str = "stranger") -> Actor:
        """The process ends, and its pid passes to somebody else."""
        server_process.end()
        self.actors.pop(server_process.pid, None)
        return self.start(name, pid=server_process.pid, start=int(server_process.process.start) + 1)

    def after(self, seconds: float, event: Event) -> None:
        """Let something happen in so many seconds."""
        heapq.heappush(self._events, (self._clock + seconds, next(self._numbers), event))

    def sent(self, server_process: Actor) -> list[tuple[Signal, float]]:
        """The signals that a process has got, without the CONT that goes with TERM, and when."""
        return [
            (sent.signal, round(sent.at, 6))
            for sent in self.signals
            if sent.process.pid == server_process.pid
            and sent.process.start == server_process.process.start
            and sent.signal != "CONT"
        ]

    # The boundary

    def bind(self, port: Port, *, reuse: bool = False) -> Bind:
        with self._asked("bind"):
            if port in self.binds:
                return self.binds[port]
            on_port = [s for s in self._sockets() if s.port == port]
            if not on_port:
                return "free"
            if reuse and port not in self.blocking_reuse and not any(s.holds for s in on_port):
                return "free"
            return "in-use"

    def sockets(self, ports: Collection[Port], *, connections: bool = False) -> list[Socket]:
        with self._asked("sockets"):
            return [s for s in self._sockets() if s.port in ports and (connections or s.holds)]

    def listeners(self) -> list[Socket]:
        with self._asked("listeners"):
            return [s for s in self._sockets() if s.state == "listening"]

    def owners(self, ids: Collection[Hashable]) -> Owners:
        with self._asked("owners"):
            found: dict[Hashable, set[int]] = {}
            for server_process in self.actors.values():
                for id_ in server_process.holds & set(ids):
                    if not server_process.hidden:
                        found.setdefault(id_, set()).add(server_process.pid)
            hidden = sum(server_process.hidden for server_process in self.actors.values())
            return Owners({id_: frozenset(pids) for id_, pids in found.items()}, hidden)

    def holds(self, pid: int, ids: Collection[Hashable]) -> bool:
        with self._asked("holds"):
            server_process = self.actors.get(pid)
            return (
                server_process is not None
                and not server_process.hidden
                and bool(server_process.holds & set(ids))
            )

    def peers(self, pid: int, *, but: Collection[Hashable] = ()) -> frozenset[int]:  # noqa: ARG002
        with self._asked("peers"):
            return frozenset(self.connected.get(pid, ()))

    def lock(self, folder: str) -> Lock | bool:
        with self._asked("lock"):
            return self.locks.get(folder, False)

    def moment(self) -> float:
        return _BOOT + round(self._clock * _TICKS_PER_SECOND)

    def exists(self, pid: int) -> bool:
        with self._asked("exists"):
            return pid in self.actors

    def process(self, pid: int) -> Process | None:
        with self._asked("process"):
            server_process = self.actors.get(pid)
            if server_process is None:
                return None
            return (
                server_process.process
                if server_process.alive
                else server_process.process._replace(zombie=True)
            )

    def pids(self) -> Iterable[int]:
        with self._asked("pids"):
            return sorted(self.actors)

    def pin(self, process: Process) -> Pin | None:
        with self._asked("pin"):
            server_process = self.actors.get(process.pid)
            if server_process is None or server_process.process.start != process.start:
                return None
            if server_process.unpinnable is not None:
                raise server_process.unpinnable
            return FakePin(self, server_process)

    def elevate(self) -> str:
        return "sudo "

    def user(self, owner: int | str | None) -> str:
        known: dict[int | str | None, str] = {None: "?", 0: "root", self.uid: "me"}
        return known.get(owner, str(owner))

    def output(self, argv: Sequence[str], timeout: float) -> str | None:
        with self._asked("output"):
            self.demand(timeout > 0, "no program ends in no time")
            program, *words = argv
            return next(filter(None, (self.outputs.get((program, word)) for word in words)), None)

    def now(self) -> float:
        return self._clock

    def wait(self, pins: Collection[Pin], timeout: float) -> None:
        self.demand(timeout >= 0, "poll(2) takes that for ever")
        self._asked_once("wait")
        end = self._clock + timeout
        while all(pin.alive() for pin in pins):
            if not self._events or self._events[0][0] > end:
                self._tick(end)
                break
            at, _, event = heapq.heappop(self._events)
            self._tick(at)
            event()
        self.watch("wait")

    # Inside

    def demand(self, fulfilled: bool, what: str) -> None:  # noqa: FBT001
        if not fulfilled:
            self.misuses.append(what)
            raise AssertionError(what)

    def _sockets(self) -> list[Socket]:
        held = {id_ for server_process in self.actors.values() for id_ in server_process.holds}
        self.kernel = {
            id_: s for id_, s in self.kernel.items() if id_ in held or id_ in self.lasting
        }
        return list(self.kernel.values())

    def _has_ended(self, server_process: Actor) -> None:
        for child in self.actors.values():
            if child.process.ppid == server_process.pid:
                child.process = child.process._replace(ppid=1)
        if server_process.reaped and self.actors.get(server_process.pid) is server_process:
            del self.actors[server_process.pid]

    def _deliver(self, server_process: Actor, signal: Signal) -> bool:
        if not server_process.alive:
            return False
        if server_process.refuses is not None:
            raise server_process.refuses
        self.witness(server_process, signal)
        self.signals.append(Sent(server_process.process, signal, self._clock))
        if signal in server_process.reacts:
            server_process.reacts[signal]()
        delay = None if signal == "CONT" else server_process.dies.get(signal, 0.0)
        if delay is not None:
            self.after(delay, server_process.end)
            if delay == 0:
                self._run_due()
        return True

    def _run_due(self) -> None:
        while self._events and self._events[0][0] <= self._clock:
            heapq.heappop(self._events)[2]()

    def _tick(self, to: float) -> None:
        if to > self._clock:
            self._clock = to
            self._restless = 0

    def _asked_once(self, method: str) -> None:
        self.asked[method] = self.asked.get(method, 0) + 1
        self._restless += 1
        self.demand(self._restless < _MOST_QUESTIONS, f"goes round in circles: {self.asked}")

    def _asked(self, method: str) -> _Call:
        self._asked_once(method)
        if method in self.fails:
            raise self.fails[method]
        return _Call(self, method)


class _Call:
    """A question to the boundary, after which something may happen."""

    def __init__(self, system: FakeSystem, method: str) -> None:
        self._system = system
        self._method = method

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        event = self._system.after_call.pop(self._method, None)
        if event is not None:
            event()
        self._system.watch(self._method)


def _nothing(*_: object) -> None:
    pass


def call(
    system: FakeSystem,
    *ports: int | Port,
    scope: Scope = "mine",
    grace: float = 3.0,
    wait: float = 0.0,
    dry_run: bool = False,
    notices: list[str] | None = None,
    phase: Phase = "call",
    ending: str | None = None,
    began: float | None = None,
    quiet: Collection[Port] = (),
) -> Report:
    """One call of portfree, which must keep to its time and let go of every pin."""
    started = system.now()
    asked = tuple(Port(p) if isinstance(p, int) else p for p in ports or (8000,))
    report = free(
        Request(asked, scope=scope, grace=grace, wait=wait, dry_run=dry_run),
        notice=None if notices is None else notices.append,
        moment=Moment(phase, ending, began, quiet),
        system=system,
    )
    assert system.now() - started <= wait + 2 * max(grace, 0.5) + 1e-9
    assert system.misuses == []
    assert system.open_pins == []
    assert os.getpid() not in {sent.process.pid for sent in system.signals}
    return report


def only(report: Report) -> Outcome:
    (outcome,) = report.outcomes
    return outcome


def entry(report: Report, server_process: Actor, port: int = 8000) -> HolderReport:
    """What the report says of a process."""
    (outcome,) = (o for o in report.outcomes if o.port.number == port)
    (found,) = (
        holder
        for holder in outcome.holders
        if (holder.pid, holder.started) == (server_process.pid, server_process.process.started)
    )
    return found


def names(sent: Iterable[tuple[Signal, float]]) -> list[Signal]:
    return [signal for signal, _ in sent]
