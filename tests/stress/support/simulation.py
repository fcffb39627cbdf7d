"""Random machines for the model test, and the truth about their processes.

The truth is what has happened: which process really started which, in which run, and which are
alive. It knows neither portfree's lists of names nor its rules, and tells what no call may signal.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, NamedTuple

from helpers.fake_system import Actor, FakeSystem
from portfree._core import run_id
from portfree._system.interface import Lock
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator
    from pathlib import Path

    from portfree._core.context import Phase
    from portfree._system.interface import Process, Signal
    from portfree.model import Scope

Kind = Literal[
    "init",  # pid 1, which adopts orphans
    "terminal",  # a shell at which a person works
    "wrapper",  # starts one command, and waits for it
    "launcher",  # any program that looks after what it starts: a supervisor, say
    "runner",  # a test runner
    "agent",  # a CI agent
    "multiplexer",  # outlives what started it, and passes that environment on
    "manager",  # keeps servers of several projects running
    "service",  # what the service manager has started
    "system",  # part of the operating system
    "engine",  # publishes the port of a container
    "contained",  # runs in a container
    "server",
    "caller",
]
Behaviour = Literal["obeys", "slow", "needs INT", "needs KILL", "immortal", "drains"]
Place = Literal["ours", "nested", "other", "temporary", "none"]
"""``nested``: a repository of its own below our project. ``temporary``: the folder that the test
run which it was born in has for its tests; without such a run, no project.
"""

Bare = Literal["", "wiped", "dropped"]
"""Whether it has the environment that it was born with: it has wiped it, or was given another."""

PORTS = (Port(8000), Port(8001), Port(8000, "udp"))
NEVER_ASKED = Port(18000)

ME, OTHER_USER = 1000, 77

_COMMANDS: dict[Kind, tuple[str, ...]] = {
    "terminal": ("zsh",),
    "wrapper": ("npm", "run", "dev"),
    "launcher": ("shopctl", "start"),
    "runner": ("python3", "-m", "pytest"),
    "agent": ("Runner.Worker",),
    "multiplexer": ("tmux: server",),
    "manager": ("supervisord",),
    "service": ("nginx",),
    "system": ("sshd",),
    "engine": ("docker-proxy",),
    "contained": ("postgres",),
    "server": ("python3", "app.py"),
}
_NO_PROJECT = "/var/empty"
_IGNORED: dict[Behaviour, tuple[Signal, ...]] = {
    "needs INT": ("TERM",),
    "needs KILL": ("TERM", "INT"),
    "immortal": ("TERM", "INT", "KILL"),
    "drains": ("TERM", "INT"),
}
# These have a control group of their own, for all that they start: a terminal's tab, a service.
_GROUPS: frozenset[Kind] = frozenset({"terminal", "multiplexer", "service", "agent"})
_LED: frozenset[Kind] = frozenset(
    {"terminal", "multiplexer", "manager", "service", "system", "contained"}
)


@dataclass(eq=False)
class SimProcess:
    """A process, and what is true of it."""

    fake: Actor
    kind: Kind
    parent: SimProcess | None
    """The process that has really started it, dead or alive."""
    place: Place = "none"
    bare: Bare = ""
    run: SimProcess | None = None
    """The test run in whose temporary folder it works."""
    gives_id: bool = False
    """Whether what it starts carries an id of its run."""
    behaviour: Behaviour = "obeys"
    gives: dict[str, str] = field(default_factory=dict)
    """The marks that it gives to what it starts."""
    forked: bool = False
    """Whether it has the very environment of its parent, not the one that its parent gives."""
    unread: bool = False
    """Whether its environment cannot be read."""
    born: float = 0.0

    @property
    def alive(self) -> bool:
        return self.fake.alive

    @property
    def facts(self) -> Process:
        return self.fake.process

    @property
    def runs_tests(self) -> bool:
        """Whether it is a test runner or a CI agent, and no mere fork of one."""
        return self.kind in ("runner", "agent") and not self.forked

    def births(self) -> Iterator[SimProcess]:
        """The process that started it, the one that started that …: the dead as well."""
        sim = self.parent
        while sim is not None:
            yield sim
            sim = sim.parent

    def chain(self) -> Iterator[SimProcess]:
        """The same, up to the first one that has ended."""
        for sim in self.births():
            if not sim.alive:
                return
            yield sim

    def marked_by(self) -> Iterator[SimProcess]:
        """The test runners and agents whose marks it carries, innermost first."""
        sim = self
        while sim.parent is not None and not sim.bare:
            own = sim.forked
            sim = sim.parent
            if sim.kind in ("runner", "agent") and not own:
                yield sim if not sim.forked else next(b for b in sim.births() if b.runs_tests)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.facts.name} (pid {self.facts.pid})>"


class Ask(NamedTuple):
    """One call, as far as it matters for what it may signal."""

    ports: frozenset[Port]
    scope: Scope
    phase: Phase
    began: float


class Simulation:
    """A machine, the processes on it, and what is true of them."""

    def __init__(
        self,
        project: Path,
        elsewhere: Path,
        *,
        under: Literal["terminal", "runner", "agent"] = "terminal",
        root: bool = False,
        init: str = "systemd",
        polite: bool = True,
        by_address: bool = False,
    ) -> None:
        self.system = FakeSystem(privileged=root, polite=polite)
        self.by_address = by_address
        nested = project / "vendored"
        (nested / ".git").mkdir(parents=True, exist_ok=True)
        self._folders = {"ours": str(project), "nested": str(nested), "other": str(elsewhere)}
        self.processes: list[SimProcess] = []
        self.held: dict[SimProcess, set[Port]] = {}
        """The ports that each process has held at any time since the last call began."""
        self.own_run = ""
        """The id of the run that the caller has open."""
        self.began = 0.0
        """When that run began."""
        self.ended: list[str] = []
        """The elements of its runs that have ended."""

        system = self.system
        system.init.process = system.init.process._replace(name=init, argv=(f"/sbin/{init}",))
        system.shell.process = system.shell.process._replace(control_group="/shell")
        self.init = self._know(SimProcess(system.init, "init", None))
        above = self._know(SimProcess(system.shell, "terminal", self.init))
        if under != "terminal":
            above = self.start(under, above, place="ours", gives_id=True)
        marks = {**above.facts.marks, **above.gives}
        fake = system.start(
            "python3",
            pid=os.getpid(),
            ppid=above.facts.pid,
            argv=("python3", "caller.py"),
            cwd=str(project),
            marks=marks,
            owner=0 if root else ME,
            control_group=above.facts.control_group,
        )
        self.caller = self._know(SimProcess(fake, "caller", above, place="ours"))
        self.caller.gives = {}

    # What happens

    def start(
        self,
        kind: Kind,
        parent: SimProcess,
        *,
        place: Place = "none",
        owner: int = ME,
        bare: Bare = "",
        gives_id: bool = False,
        behaviour: Behaviour = "obeys",
        stays: bool = False,
    ) -> SimProcess:
        """A new process of the parent, which must be alive. *stays*: it asks to be left running."""
        system, process = self.system, parent.facts
        marks = {} if bare else {**process.marks, **parent.gives}
        if self.own_run and parent is self.caller and not bare:
            marks[run_id.RUN_ID] = self.own_run
        if stays and not bare:
            marks["PORTFREE_KEEP"] = "1"
        run = None
        if place == "temporary":
            run = next((b for b in (parent, *parent.births()) if b.kind == "runner"), None)
            if run is not None and run.forked:
                run = next(b for b in run.births() if b.kind == "runner" and not b.forked)
        folder = f"{self._temporary(run)}/test_x0" if run else self._folders.get(place, _NO_PROJECT)
        argv = _COMMANDS[kind]
        leads = kind in _LED or (kind == "server" and parent is self.init)
        fake = system.start(
            argv[0],
            ppid=parent.facts.pid,
            argv=argv,
            cwd=folder,
            owner=owner,
            leads=leads,
            environment="wiped" if bare == "wiped" else "read",
            control_group=f"/{len(self.processes)}" if kind in _GROUPS else process.control_group,
            terminal=f"pts/{len(self.processes)}" if kind == "terminal" else None,
            marks=marks,
            container="c0ffee" * 11 if kind == "contained" else process.container,
            unit="nginx.service" if kind == "service" else process.unit,
        )
        sim = SimProcess(
            fake, kind, parent, place, bare, run, gives_id, behaviour, born=system.now()
        )
        if kind == "runner":
            made = fake.process.started or 0.0
            system.locks[self._temporary(sim)] = Lock(fake.pid, made)
            sim.gives = {"PYTEST_VERSION": "9"}
            if gives_id:
                element = f"{fake.pid}.{fake.process.start}.{secrets.token_hex(2)}"
                outer = marks.get(run_id.RUN_ID)
                sim.gives[run_id.RUN_ID] = f"{outer}/{element}" if outer else element
        elif kind == "agent":
            sim.gives = {"RUNNER_TRACKING_ID": f"job-{fake.pid}"}
        fake.ignores(*_IGNORED.get(behaviour, ()))
        if behaviour in ("obeys", "slow"):
            fake.takes(TERM=0.05 if behaviour == "obeys" else 0.4)
        elif behaviour == "drains":
            fake.reacts["TERM"] = lambda: system.after(0.03, fake.let_go)
        return self._know(sim)

    def _temporary(self, run: SimProcess) -> str:
        """The base temporary folder of a test run."""
        started = run.fake
        return f"/tmp/pytest-of-me/pytest-{started.pid}{started.process.start}"

    def listen(self, sim: SimProcess, port: Port, *, connected: bool = False) -> None:
        """Open a socket: one that holds the port, or a connection that merely has its number."""
        id_: Hashable = None
        if self.by_address and not connected:
            id_ = (port.protocol, "127.0.0.1", port.number)
        state = "connected" if connected else "listening" if port.protocol == "tcp" else "bound"
        self.system.listen(sim.fake, port, state=state, id=id_)
        self.look()

    def fork(self, sim: SimProcess) -> SimProcess:
        """A worker, with everything that its parent has open."""
        process = sim.facts
        child = self.start(
            "server" if sim.kind in ("caller", "terminal") else sim.kind,
            sim,
            place=sim.place,
            owner=process.owner if isinstance(process.owner, int) else ME,
            behaviour=sim.behaviour,
        )
        own = child.facts
        child.fake.process = process._replace(
            pid=own.pid,
            ppid=own.ppid,
            start=own.start,
            started=own.started,
            terminal=None,
            forked=True,
        )
        # What it starts gets the environment that the original has made for that.
        child.gives = sim.gives if sim.kind != "caller" else {}
        child.bare, child.run = sim.bare, sim.run
        child.forked = True
        child.fake.holds |= sim.fake.holds
        self.look()
        return child

    def supervise(
        self, supervisor: SimProcess, port: Port, *, delay: float, bare: Bare
    ) -> SimProcess:
        """Let it start a server on the port, and again whenever that has ended."""
        server = self.start("server", supervisor, place=supervisor.place, bare=bare)
        self.listen(server, port)

        def again() -> None:
            if supervisor.alive:
                self.supervise(supervisor, port, delay=delay, bare=bare)

        server.fake.at_end.append(lambda: self.system.after(delay, again))
        return server

    def recycle(self, sim: SimProcess, *, ports: Collection[Port] = ()) -> None:
        """It ends, and another process gets its pid, and maybe ports."""
        fake = self.system.recycle(sim.fake)
        stranger = self._know(SimProcess(fake, "server", self.init, born=self.system.now()))
        for port in ports:
            self.listen(stranger, port)

    def hide_facts(self, sim: SimProcess) -> None:
        """From now on its environment cannot be read."""
        sim.unread, sim.bare = True, "wiped"
        sim.fake.process = sim.facts._replace(
            complete=False, environment="unreadable", marks={}, cwd=None
        )

    def end_well(self, run: SimProcess) -> None:
        """A test run ends by itself: it lets go of its folder."""
        if run.alive and run.kind == "runner" and run not in self.ours:
            if not run.forked:
                self.system.locks[self._temporary(run)] = True
            run.fake.end()

    def connect(self, one: SimProcess, other: SimProcess) -> None:
        """Let the one have a connection with the other."""
        connected = self.system.connected
        connected.setdefault(one.facts.pid, set()).add(other.facts.pid)
        connected.setdefault(other.facts.pid, set()).add(one.facts.pid)

    @property
    def ours(self) -> list[SimProcess]:
        return [self.caller, *self.caller.chain()]

    def let_time_pass(self, seconds: float) -> None:
        self.system.wait((), seconds)

    def look(self) -> None:
        """Write down which process holds what."""
        for sim in self.processes:
            if sim.alive and (ports := self.holding(sim)):
                self.held.setdefault(sim, set()).update(ports)

    def forget(self) -> None:
        """A call begins: whatever was before it does not count."""
        self.held = {}
        self.look()

    def _know(self, sim: SimProcess) -> SimProcess:
        self.processes.append(sim)
        return sim

    # What is true

    def of(self, fake: Actor) -> SimProcess:
        return next(sim for sim in self.processes if sim.fake is fake)

    def holding(self, sim: SimProcess) -> set[Port]:
        """The ports that it holds."""
        sockets = (self.system.kernel.get(id_) for id_ in sim.fake.holds)
        return {s.port for s in sockets if s is not None and s.state in ("listening", "bound")}

    def holders(self, port: Port) -> list[SimProcess]:
        return [sim for sim in self.processes if sim.alive and port in self.holding(sim)]

    def sharers(self, sim: SimProcess, ports: frozenset[Port]) -> set[SimProcess]:
        """The processes that can be seen with the same socket on one of the ports."""
        ids = {s.id for s in self.system.kernel.values() if s.port in ports and s.holds}
        ids &= sim.fake.holds
        return {
            b for b in self.processes if b is not sim and not b.fake.hidden and ids & b.fake.holds
        }

    def used(self, port: Port) -> bool:
        """Whether any process has a socket on the port, be it only a connection."""
        kernel = self.system.kernel
        return any(
            kernel[id_].port == port
            for sim in self.processes
            if sim.alive
            for id_ in sim.fake.holds
            if id_ in kernel
        )

    def is_own(self, sim: SimProcess) -> bool:
        """Whether the caller has started it, and all in between are alive to show it."""
        return self.caller in sim.chain()

    def looked_after(self, sim: SimProcess) -> bool:
        """Whether an ancestor that looks after what it starts is still alive."""
        if sim.kind in ("terminal", "multiplexer"):
            return True  # a person's, by itself
        for above in sim.chain():
            if above.kind == "init":
                return False
            # A worker's master is judged like its worker.
            shares = self.held.get(above, set()) & self.held.get(sim, set())
            if above.kind != "wrapper" and not shares:
                return True
        return False

    def left_by_a_run(self, sim: SimProcess) -> bool:
        """Whether a test run that has ended has left it, with all that still surrounds it."""
        around = [sim, *(b for b in sim.chain() if b.kind != "init")]
        if any(b.kind in ("terminal", "multiplexer") for b in around):
            return False
        if all(map(self._of_an_ended_run, around)):
            return True
        for runner in sim.births():
            if not runner.runs_tests:
                continue
            # A limit that is known: a daemon without a run id, which works in another project than
            # the live test run that has started it, cannot be told from one that was left.
            lost = runner not in sim.chain() and not runner.gives_id
            lost = lost and not self._near(sim, runner) and runner.kind == "runner"
            # And so is a daemon of a run that we live in ourselves, where its id proves nothing.
            around_us = runner in self.caller.chain() and runner not in sim.chain()
            ended = not runner.alive or lost or around_us
            if ended and all(runner in b.births() for b in around):
                return True
        return False

    def _of_an_ended_run(self, sim: SimProcess) -> bool:
        """Whether it carries the id of a run of the caller that has ended."""
        id_ = sim.facts.marks.get(run_id.RUN_ID, "")
        return any(element in run_id.elements(id_) for element in self.ended)

    def live_run(self, sim: SimProcess) -> SimProcess | None:
        """The run of another that it belongs to, and that goes on."""
        ours = self.ours
        marked_by = list(sim.marked_by())
        for runner in marked_by:
            if runner.gives_id and runner.kind == "runner" and runner.alive and runner not in ours:
                return runner
        if self.is_own(sim):
            return None
        for above in (sim, *sim.chain()):
            if above.runs_tests and above not in ours:
                return above
            # A fork of one is none, but it belongs to the one that it was forked from.
            original = next((b for b in above.births() if b.runs_tests), None)
            if above.kind in ("runner", "agent") and above.forked and original:
                if original.alive and original not in ours:
                    return original
                break
        if (hidden := self._hidden_run(sim)) and hidden not in ours:
            return hidden
        # Those that give no ids are recognised by where they work.
        agents = [b for b in marked_by if b.kind == "agent"][:1]
        # What a run with an id has started carries that, and is told by it.
        runners = (b for b in marked_by if b.kind == "runner")
        nameless = list(takewhile(lambda b: not b.gives_id, runners))
        for runner in (*agents, *nameless):
            near = runner.kind == "agent" or self._near(sim, runner)
            if runner.alive and runner not in ours and near:
                return runner
        return None

    def _near(self, sim: SimProcess, runner: SimProcess) -> bool:
        """Whether a server may be of a test run by where both work."""
        return sim.place in ("none", "temporary", runner.place)

    def _hidden_run(self, sim: SimProcess) -> SimProcess | None:
        """The live test run that has started it, where its environment does not tell."""
        if any(b.kind in ("terminal", "multiplexer") for b in (sim, *sim.chain())):
            return None  # a person works there, and it is kept for that
        if sim.run is not None and sim.run.alive:
            return sim.run
        # A limit that is known: what was given an environment without marks, and works in a
        # project, cannot be told from what a person has started by hand.
        if sim.bare != "wiped":
            return None
        for runner in sim.births():
            near = runner.kind == "runner" and self._near(sim, runner)
            if runner.runs_tests and near and runner.alive:
                return runner
        return None

    def user_at_work(self, sim: SimProcess) -> SimProcess | None:
        """The process that works with it in our project, and is looked after."""
        pids = self.system.connected.get(sim.facts.pid, set())
        for other in self.processes:
            works = other.alive and other.facts.pid in pids and other.place == "ours"
            part = sim in other.births() or other in self.ours or other.unread
            if works and not part and self.looked_after(other):
                return other
        return None

    def managed(self, sim: SimProcess) -> bool:
        """Whether a service manager looks after it, and no test in between has started it."""
        for above in (sim, *sim.births()):
            if above.kind == "service":
                return True
            # What has left its manager, as a daemon does, is none of its business any more.
            if above.kind == "manager" and (above is sim or above in sim.chain()):
                return True
            if above.kind not in ("server", "wrapper", "launcher", "manager"):
                return False
        return False

    def untouchable(self, sim: SimProcess) -> str:
        """Why no call may signal it, whatever was asked for; empty if nothing forbids it."""
        if sim is self.caller or sim in self.caller.chain():
            return "it is the caller, or an ancestor of it"
        if sim.kind in ("init", "system", "engine"):
            return f"it is the {sim.kind}"
        if any(b.kind == "contained" for b in (sim, *sim.births())):
            return "it runs in a container"
        return ""

    def forbidden(self, sim: SimProcess, ask: Ask) -> str:
        """Why a call may not signal it; empty if it may."""
        if why := self.untouchable(sim):
            return why
        ports = self.held.get(sim, set()) & ask.ports
        if not ports and not self._restarted(sim, ask):
            return "it holds none of the ports"
        why = self._forbidden(sim, ask)
        # A worker follows its master, which may have ended by now.
        masters = [above for above in sim.births() if self.held.get(above, set()) & ports]
        follows = any(not self._forbidden(master, ask) for master in masters)
        return "" if follows else why

    def _forbidden(self, sim: SimProcess, ask: Ask) -> str:
        """The same, for what holds a port or has started it again."""
        stays = sim.facts.marks.get("PORTFREE_KEEP") == "1"
        if stays and ask.scope == "orphans":
            return "it asks to be left running"
        own = self.is_own(sim)
        # Its own id, or the nearest one above it, for it may have wiped its own.
        ids = (b.facts.marks.get(run_id.RUN_ID, "") for b in (sim, *sim.chain()))
        run = next(filter(None, ids), "")
        # Its run is over, even where only those above it still show that.
        of_another = any(self._of_an_ended_run(b) for b in (sim, *sim.births()))
        if own and ask.phase == "before" and not of_another:
            return "it was started for the run that begins"
        ending = ask.phase == "after" and self.own_run
        if ending and ending == run:
            return ""
        if ending and self._has_arrived(sim):
            return ""
        if sim.unread:
            return "its environment cannot be read"
        if ask.scope != "any" and (runner := self.live_run(sim)):
            return f"it belongs to {runner}, which lives"
        if own:
            return ""
        may_reach = self.system.privileged and ask.scope == "any"
        if sim.facts.owner != ME and not may_reach:
            return "it belongs to another user"
        if self.left_by_a_run(sim):
            return ""
        if self.managed(sim):
            return "it is a managed service"
        asked_for = ask.scope in ("mine", "any") or (ask.scope == "project" and sim.place == "ours")
        if self.held.get(sim, set()) & ask.ports and asked_for:
            return ""
        if user := self.user_at_work(sim):
            return f"{user} works with it"
        if self.looked_after(sim):
            return "it is looked after"
        return "" if sim.place == "ours" else "it has nothing to do with our project"

    def _has_arrived(self, sim: SimProcess) -> bool:
        """Whether it has come up during the run that ends, as a daemon without a trace, from the
        terminal that the run was started in or from the run itself: these cannot be told apart.
        """
        group = self.caller.facts.control_group
        return (
            sim.bare == "wiped"
            and sim.born >= self.began
            and sim.facts.control_group == group
            and not self.looked_after(sim)
            and sim.place in ("ours", "none", "temporary")
            and not any(b.runs_tests for b in self.caller.chain())
        )

    def _restarted(self, sim: SimProcess, ask: Ask) -> bool:
        """Whether it has started another on one of the ports while the call went on."""
        return any(
            ports & ask.ports and child.born >= ask.began and sim in child.births()
            for child, ports in self.held.items()
        )

    def obedient(self, sim: SimProcess) -> bool:
        """Whether it can be seen, can be stopped, and has its sockets to itself."""
        fake = sim.fake
        alone = not any(
            other is not sim and other.alive and other.fake.holds & fake.holds
            for other in self.processes
        )
        able = not (fake.hidden or fake.unpinnable or fake.refuses or sim.unread)
        return alone and able and not fake.at_end and sim.behaviour in ("obeys", "needs KILL")

    def plainly_left(self, sim: SimProcess) -> bool:
        """A server that a test run has left, and that shows it: freed in any scope.

        By its mark, as a fork of the run, or by the folder that it works in; and no process is at
        work that may have started it.
        """
        run = next((b for b in sim.births() if b.runs_tests), None)
        if run is None or run.kind != "runner" or run.alive:
            return False
        marks = sim.facts.marks
        shows = (
            bool(marks.get("PYTEST_VERSION"))
            or (sim.kind == "runner" and sim.forked)
            or (sim.run is run and self._temporary(run) in self.system.locks)
        )
        alone = not any(
            b.alive and b.kind not in ("init", "wrapper", "server", "terminal", "caller")
            for b in self.processes
            if b is not sim
        )
        adopted = all(above.kind in ("init", "wrapper") for above in sim.chain())
        return (
            shows
            and alone
            and adopted
            and sim.kind in ("server", "runner")
            and sim.facts.owner == ME
            and "PORTFREE_KEEP" not in marks
            and sim.facts.container is None
            and not self.is_own(sim)
            and self.caller not in sim.births()
            and not set(self.ours) & {*sim.births()} - {self.init}
            and self.obedient(sim)
        )

    def plain_orphan(self, sim: SimProcess) -> bool:
        """An orphan in our project, as they come: this one must be freed in any scope."""
        return (
            self._plain(sim)
            and sim.place == "ours"
            and not self.looked_after(sim)
            and all(above.kind in ("init", "wrapper") for above in sim.chain())
            and self._hidden_run(sim) is None
            and not self._may_be_of_a_run(sim)
            and self.user_at_work(sim) is None
        )

    def _may_be_of_a_run(self, sim: SimProcess) -> bool:
        """Whether nothing shows that it is not of a test run that is at work."""
        runs_ = [b for b in self.processes if b.alive and b.kind == "runner"]
        return sim.forked or (sim.bare == "wiped" and bool(runs_))

    def plainly_mine(self, sim: SimProcess) -> bool:
        """A server that we have at a terminal: freed in scope mine."""
        kinds = {above.kind for above in sim.chain()}
        return self._plain(sim) and kinds <= {"init", "wrapper", "terminal"}

    def _plain(self, sim: SimProcess) -> bool:
        return (
            sim.kind == "server"
            and sim.facts.owner == ME
            and not sim.facts.marks
            and sim.facts.unit is None
            and sim.facts.container is None
            and not self.is_own(sim)
            and self.obedient(sim)
        )


def step(simulation: Simulation, what: str, sim: SimProcess) -> Callable[[], None]:
    """Something that happens to a process, now or in the midst of a call."""
    fake = sim.fake

    def happen() -> None:
        # The caller and those above it live on: without them there is no call.
        if not sim.alive or sim is simulation.caller or sim in simulation.caller.chain():
            return
        match what:
            case "die":
                fake.end()
            case "let go":
                fake.let_go()
            case "fork":
                simulation.fork(sim)
            case "recycle":
                simulation.recycle(sim)
            case "replace":
                simulation.recycle(sim, ports=simulation.holding(sim))
            case "refuse":
                fake.refuses = PermissionError(1, "Operation not permitted")
            case "hide":
                fake.hidden = True
            case "unpin":
                fake.unpinnable = OSError(24, "Too many open files")
            case "hide facts":
                simulation.hide_facts(sim)
            case "exec" if sim.kind in ("server", "wrapper"):
                sim.kind = "server"
                fake.process = fake.process._replace(name="node", argv=("node", "app.js"))

    return happen
