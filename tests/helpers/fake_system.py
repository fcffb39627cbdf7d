"""A machine that exists only in memory, with a clock that jumps: the boundary's stand-in.

Time passes in `FakeSystem.wait` alone, so a test of thirty seconds takes none, and a time that a
test reads is exact. What happens by itself is scheduled. Every signal is written down, and every
pin, so that one that is never closed is seen.
"""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from portfree._core.context import Moment
from portfree._core.free import free
from portfree._system.interface import Bind, Lock, Owners, Pin, Process, Signal, Socket
from portfree.model import HolderReport, Outcome, Port, Report, Request

# A survey looks twice, so long apart, before it judges: the first signal comes then.
LOOK = 0.005

# More than any call of portfree asks without waiting, unless it goes round in circles.
_MOST_QUESTIONS = 20_000

_TICKS_PER_SECOND = 100
_BOOT = 1_000  # ticks that the machine has run when the first process of a test starts

Event = Callable[[], object]


class Sent(NamedTuple):
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
    """Whether its descriptors cannot be read."""
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
        self.dies |= cast("dict[Signal, float]", seconds)
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


class FakePin:
    """A process held by its identity, as a pidfd holds it."""

    def __init__(self, system: FakeSystem, actor: Actor) -> None:
        self._system, self._actor, self.pid = system, actor, actor.pid
        system.open_pins.append(self)
        system.pins_made += 1

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
        self, *, name: str = "linux", polite: bool = True, privileged: bool = False, uid: int = 1000
    ) -> None:
        self.name, self.namespace, self.lists_quickly = name, "", True
        self.polite, self.privileged, self.uid = polite, privileged, uid
        self.signals: list[Sent] = []
        self.open_pins: list[FakePin] = []
        self.pins_made = 0
        self.actors: dict[int, Actor] = {}
        self.kernel: dict[Hashable, Socket] = {}
        """The sockets, by id; one that is not open goes away, unless it is `lasting`."""
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
        """Which processes have a connection with which, by pid."""
        self.locks: dict[str, Lock | bool] = {}
        """The temporary folders of pytest, and their locks."""
        self.outputs: dict[tuple[str, str], str] = {}
        """What a program writes that was given such a word: ``docker`` and ``publish=8000/tcp``."""
        self.asked: dict[str, int] = {}
        """How often each method was called."""
        self.misuses: list[str] = []
        """What must never be done: portfree itself would survive the exception alone."""
        self._clock, self._restless = 0.0, 0
        self._numbers, self._inodes, self._pids = map(itertools.count, (0, 70_000, 500))
        self._events: list[tuple[float, int, Event]] = []
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
        leads: bool = False,
        start: int | None = None,
        **facts: Any,
    ) -> Actor:
        """A new process; its session is its parent's unless it *leads* one of its own."""
        if pid is None:
            pid = next(number for number in self._pids if number not in self.actors)
        parent = self.actors.get(ppid)
        began = self.moment() if start is None else start
        plain = Process(
            pid=pid,
            ppid=ppid,
            start=0 if pid == 1 else began,
            name=name[:15],
            argv=(name,),
            owner=self.uid,
            started=1_700_000_000.0 + began / _TICKS_PER_SECOND,
            cwd="/elsewhere",
            session=pid if leads or parent is None else parent.process.session,
            forked=False,
        )
        actor = self.actors[pid] = Actor(self, plain._replace(**facts))
        return actor

    def server(self, port: int = 8000, name: str = "server", **facts: Any) -> Actor:
        """A process that listens on a port, in a session of its own."""
        id_ = facts.pop("id", None)
        actor = self.start(name, leads=True, **facts)
        self.listen(actor, port, id=id_)
        return actor

    def listen(self, actor: Actor | None, port: int | Port = 8000, **facts: Any) -> Hashable:
        """Open a socket, and return its id; without an *actor* nothing is seen with it."""
        where = port if isinstance(port, Port) else Port(port)
        uid = actor.process.owner if actor else None
        plain = Socket(None, where, "listening", "127.0.0.1", uid if isinstance(uid, int) else None)
        socket = plain._replace(**facts)
        if socket.id is None:
            socket = socket._replace(id=next(self._inodes))
        self.kernel[socket.id] = socket
        (self.lasting if actor is None else actor.holds).add(socket.id)
        return socket.id

    def probe(self, port: int, *, lasts: float, running: bool = False) -> None:
        """Another program tries whether the port is free, as we do; *running*: without its turn."""
        prober = self.start("prober", running=running)
        self.listen(prober, port, state="bound")
        self.after(lasts, prober.end)

    def fork(self, parent: Actor, name: str | None = None) -> Actor:
        """A child that has inherited all open sockets."""
        process = parent.process
        same = {fact: getattr(process, fact) for fact in ("argv", "cwd", "marks", "session")}
        child = self.start(name or process.name, ppid=parent.pid, **same)
        child.holds |= parent.holds
        return child

    def supervise(self, supervisor: Actor, server: Actor, *, after: float, **where: Any) -> None:
        """Let the supervisor start the server again, each time *after* so many seconds."""

        def again() -> None:
            if supervisor.alive:
                kept: dict[str, Any] = {"cwd": server.process.cwd, "marks": server.process.marks}
                fresh = self.server(name=server.process.name, ppid=supervisor.pid, **kept, **where)
                fresh.dies = dict(server.dies)
                fresh.at_end.append(ended)

        def ended() -> None:
            self.after(after, again)

        server.at_end.append(ended)

    def recycle(self, actor: Actor, name: str = "stranger") -> Actor:
        """The process ends, and its pid passes to another one."""
        actor.end()
        self.actors.pop(actor.pid, None)
        return self.start(name, pid=actor.pid, start=int(actor.process.start) + 1)

    def after(self, seconds: float, event: Event) -> None:
        """Let something happen in so many seconds."""
        heapq.heappush(self._events, (self._clock + seconds, next(self._numbers), event))

    def sent(self, actor: Actor) -> list[tuple[Signal, float]]:
        """The signals that a process has got, without the CONT that goes with TERM, and when."""
        identity = (actor.pid, actor.process.start)
        own = [s for s in self.signals if (s.process.pid, s.process.start) == identity]
        return [(sent.signal, round(sent.at, 6)) for sent in own if sent.signal != "CONT"]

    # The boundary

    def bind(self, port: Port, *, reuse: bool = False) -> Bind:
        with self._asked("bind"):
            if port in self.binds:
                return self.binds[port]
            on_port = [s for s in self._sockets() if s.port == port]
            shared = reuse and port not in self.blocking_reuse and not any(s.holds for s in on_port)
            return "free" if shared or not on_port else "in-use"

    def sockets(self, ports: Collection[Port], *, connections: bool = False) -> list[Socket]:
        with self._asked("sockets"):
            return [s for s in self._sockets() if s.port in ports and (connections or s.holds)]

    def listeners(self) -> list[Socket]:
        with self._asked("listeners"):
            serving = (("tcp", "listening"), ("udp", "bound"))
            return [s for s in self._sockets() if (s.port.protocol, s.state) in serving]

    def owners(self, ids: Collection[Hashable]) -> Owners:
        with self._asked("owners"):
            seen = [actor for actor in self.actors.values() if not actor.hidden]
            found = {id_: frozenset(a.pid for a in seen if id_ in a.holds) for id_ in ids}
            hidden = len(self.actors) - len(seen)
            return Owners({id_: pids for id_, pids in found.items() if pids}, hidden)

    def holds(self, pid: int, ids: Collection[Hashable]) -> bool:
        with self._asked("holds"):
            actor = self.actors.get(pid)
            return actor is not None and not actor.hidden and not actor.holds.isdisjoint(ids)

    def peers(self, pid: int, *, but: Collection[Hashable] = ()) -> frozenset[int]:  # noqa: ARG002
        with self._asked("peers"):
            return frozenset(self.connected.get(pid, ()))

    def lock(self, folder: str) -> Lock | bool:
        with self._asked("lock"):
            return self.locks.get(folder, False)

    def newest(self) -> int | None:
        return max(self.actors.keys() - {os.getpid()})  # which is given by no fake

    def moment(self) -> float:
        return _BOOT + round(self._clock * _TICKS_PER_SECOND)

    def exists(self, pid: int) -> bool:
        with self._asked("exists"):
            return pid in self.actors

    def process(self, pid: int) -> Process | None:
        with self._asked("process"):
            actor = self.actors.get(pid)
            if actor is None:
                return None
            return actor.process if actor.alive else actor.process._replace(zombie=True)

    def pids(self) -> Iterable[int]:
        with self._asked("pids"):
            return sorted(self.actors)

    def pin(self, process: Process) -> Pin | None:
        with self._asked("pin"):
            actor = self.actors.get(process.pid)
            if actor is None or actor.process.start != process.start:
                return None
            if actor.unpinnable is not None:
                raise actor.unpinnable
            return FakePin(self, actor)

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
        held = {id_ for actor in self.actors.values() for id_ in actor.holds}
        self.kernel = {
            id_: s for id_, s in self.kernel.items() if id_ in held or id_ in self.lasting
        }
        return list(self.kernel.values())

    def _has_ended(self, actor: Actor) -> None:
        for child in self.actors.values():
            if child.process.ppid == actor.pid:
                child.process = child.process._replace(ppid=1)
        if actor.reaped and self.actors.get(actor.pid) is actor:
            del self.actors[actor.pid]

    def _deliver(self, actor: Actor, signal: Signal) -> bool:
        if not actor.alive:
            return False
        if actor.refuses is not None:
            raise actor.refuses
        self.witness(actor, signal)
        self.signals.append(Sent(actor.process, signal, self._clock))
        if signal in actor.reacts:
            actor.reacts[signal]()
        delay = None if signal == "CONT" else actor.dies.get(signal, 0.0)
        if delay is not None:
            self.after(delay, actor.end)
            while delay == 0 and self._events and self._events[0][0] <= self._clock:
                heapq.heappop(self._events)[2]()
        return True

    def _tick(self, to: float) -> None:
        if to > self._clock:
            self._clock = to
            self._restless = 0

    def _asked_once(self, method: str) -> None:
        self.asked[method] = self.asked.get(method, 0) + 1
        self._restless += 1
        self.demand(self._restless < _MOST_QUESTIONS, f"goes round in circles: {self.asked}")

    @contextmanager
    def _asked(self, method: str) -> Iterator[None]:
        """A question to the boundary, after which something may happen."""
        self._asked_once(method)
        if method in self.fails:
            raise self.fails[method]
        try:
            yield
        finally:
            self.after_call.pop(method, _nothing)()
            self.watch(method)


def _nothing(*_: object) -> None:
    pass


def call(
    system: FakeSystem,
    *ports: int | Port,
    grace: float = 3.0,
    wait: float = 0.0,
    notices: list[str] | None = None,
    moment: Moment | None = None,
    **options: Any,
) -> Report:
    """One call of portfree, which must keep to its time and let go of every pin."""
    started = system.now()
    asked = tuple(Port(p) if isinstance(p, int) else p for p in ports or (8000,))
    report = free(
        Request(asked, grace=grace, wait=wait, **{"scope": "mine", **options}),
        notice=None if notices is None else notices.append,
        moment=moment or Moment(),
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


def entry(report: Report, actor: Actor, port: int = 8000) -> HolderReport:
    """What the report says of a process."""
    (outcome,) = (o for o in report.outcomes if o.port.number == port)
    identity = (actor.pid, actor.process.started)
    (found,) = (holder for holder in outcome.holders if (holder.pid, holder.started) == identity)
    return found


def names(sent: Iterable[tuple[Signal, float]]) -> list[Signal]:
    return [signal for signal, _ in sent]
