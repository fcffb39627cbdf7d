"""Machines at random, for the model test, and the truth about them.

The truth is what has happened here: who really started whom, in which run, and who is alive. It is
written down as it happens, and knows neither the lists of names nor the rules of portfree: from it
follows whom nobody may signal.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, NamedTuple

from helpers.fake_system import Actor, FakeSystem
from portfree._core import run_id
from portfree._core.ports import Port
from portfree._system.interface import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator
    from pathlib import Path

    from portfree._core.context import Phase
    from portfree.model import Scope

Kind = Literal[
    "init",  # pid 1, which adopts orphans
    "terminal",  # a shell that somebody sits at
    "wrapper",  # starts one command, and waits for it
    "launcher",  # any program that looks after what it starts: a supervisor, say
    "runner",  # a test runner
    "agent",  # a CI agent
    "multiplexer",  # outlives who started it, and passes that environment on
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

ME, SOMEBODY = 1000, 77

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
# Who has a control group to itself, and all that it starts: a tab of a terminal, a service.
_GROUPS: frozenset[Kind] = frozenset({"terminal", "multiplexer", "service", "agent"})
_LED: frozenset[Kind] = frozenset(
    {"terminal", "multiplexer", "manager", "service", "system", "contained"}
)


@dataclass(eq=False)
class Being:
    """A process, and what is true of it."""

    actor: Actor
    kind: Kind
    parent: Being | None
    """Who has really started it, dead or alive."""
    place: Place = "none"
    bare: Bare = ""
    run: Being | None = None
    """The test run in whose temporary folder it works."""
    gives_id: bool = False
    """Whether what it starts carries an id of its run."""
    behaviour: Behaviour = "obeys"
    gives: dict[str, str] = field(default_factory=dict)
    """The marks that it gives to what it starts."""
    forked: bool = False
    """Whether it has the very environment of its parent, not the one that its parent gives."""
    unread: bool = False
    """Whether nobody can read its environment."""
    born: float = 0.0

    @property
    def alive(self) -> bool:
        return self.actor.alive

    @property
    def owner(self) -> object:
        return self.actor.process.owner

    @property
    def wiped(self) -> bool:
        return self.bare != ""

    @property
    def runs_tests(self) -> bool:
        """Whether it is a test runner or a CI agent, and no mere fork of one."""
        return self.kind in ("runner", "agent") and not self.forked

    def births(self) -> Iterator[Being]:
        """Who started it, who started those …: all of them, the dead as well."""
        being = self.parent
        while being is not None:
            yield being
            being = being.parent

    def chain(self) -> Iterator[Being]:
        """The same, up to the first one that has ended."""
        for being in self.births():
            if not being.alive:
                return
            yield being

    def marked_by(self) -> Iterator[Being]:
        """The test runners and agents whose marks it carries, innermost first."""
        being = self
        while being.parent is not None and not being.wiped:
            own = being.forked
            being = being.parent
            if being.kind in ("runner", "agent") and not own:
                yield being if not being.forked else next(b for b in being.births() if b.runs_tests)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.actor.process.name} (pid {self.actor.pid})>"


class Ask(NamedTuple):
    """One call, as far as it matters for who may be signalled."""

    ports: frozenset[Port]
    scope: Scope
    phase: Phase
    began: float


class World:
    """A machine, everybody on it, and what is true of them."""

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
        self._folders = {
            "ours": str(project),
            "nested": str(nested),
            "other": str(elsewhere),
            "none": "/var/empty",
        }
        self.beings: list[Being] = []
        self.held: dict[Being, set[Port]] = {}
        """Which ports everybody has held, at any time since the last call began."""
        self.own_run = ""
        """The id of the run that the caller has open."""
        self.began = 0.0
        """When that run began."""
        self.ended: list[str] = []
        """The elements of its runs that have ended."""

        system = self.system
        system.init.process = system.init.process._replace(name=init, argv=(f"/sbin/{init}",))
        system.shell.process = system.shell.process._replace(control_group="/shell")
        self.init = self._know(Being(system.init, "init", None))
        above = self._know(Being(system.shell, "terminal", self.init))
        if under != "terminal":
            above = self.start(under, above, place="ours", gives_id=True)
        marks = {**above.actor.process.marks, **above.gives}
        actor = system.start(
            "python3",
            pid=os.getpid(),
            ppid=above.actor.pid,
            argv=("python3", "caller.py"),
            cwd=str(project),
            marks=marks,
            owner=0 if root else ME,
            control_group=above.actor.process.control_group,
        )
        self.caller = self._know(Being(actor, "caller", above, place="ours"))
        self.caller.gives = {}

    # What happens

    def start(
        self,
        kind: Kind,
        parent: Being,
        *,
        place: Place = "none",
        owner: int = ME,
        bare: Bare = "",
        gives_id: bool = False,
        behaviour: Behaviour = "obeys",
        stays: bool = False,
    ) -> Being:
        """A new process of the parent, which must be alive. *stays*: it asks to be left running."""
        system, process = self.system, parent.actor.process
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
        argv = _COMMANDS[kind]
        leads = kind in _LED or (kind == "server" and parent is self.init)
        actor = system.start(
            argv[0],
            ppid=parent.actor.pid,
            argv=argv,
            cwd=self._folder(place, run),
            owner=owner,
            leads=leads,
            environment="wiped" if bare == "wiped" else "read",
            control_group=f"/{len(self.beings)}" if kind in _GROUPS else process.control_group,
            terminal=f"pts/{len(self.beings)}" if kind == "terminal" else None,
            marks=marks,
            container="c0ffee" * 11 if kind == "contained" else process.container,
            unit="nginx.service" if kind == "service" else process.unit,
        )
        being = Being(actor, kind, parent, place, bare, run, gives_id, behaviour, born=system.now())
        if kind == "runner":
            made = actor.process.started or 0.0
            system.locks[self._temporary(being)] = Lock(actor.pid, made)
            being.gives = {"PYTEST_VERSION": "9"}
            if gives_id:
                element = f"{actor.pid}.{actor.process.start}.{secrets.token_hex(2)}"
                outer = marks.get(run_id.RUN_ID)
                being.gives[run_id.RUN_ID] = f"{outer}/{element}" if outer else element
        elif kind == "agent":
            being.gives = {"RUNNER_TRACKING_ID": f"job-{actor.pid}"}
        self._behave(being)
        return self._know(being)

    def _folder(self, place: Place, run: Being | None) -> str:
        if place != "temporary":
            return self._folders[place]
        return f"{self._temporary(run)}/test_x0" if run else self._folders["none"]

    def _temporary(self, run: Being) -> str:
        """The base temporary folder of a test run."""
        return f"/tmp/pytest-of-me/pytest-{run.actor.pid}{run.actor.process.start}"

    def _behave(self, being: Being) -> None:
        actor = being.actor
        match being.behaviour:
            case "obeys":
                actor.takes(TERM=0.05)
            case "slow":
                actor.takes(TERM=0.4)
            case "needs INT":
                actor.ignores("TERM")
            case "needs KILL":
                actor.ignores("TERM", "INT")
            case "immortal":
                actor.ignores("TERM", "INT", "KILL")
            case "drains":
                actor.ignores("TERM", "INT")
                actor.reacts["TERM"] = lambda: self.system.after(0.03, actor.let_go)

    def listen(self, being: Being, port: Port, *, connected: bool = False) -> None:
        """Open a socket: one that holds the port, or a connection that merely has its number."""
        id_: Hashable = None
        if self.by_address and not connected:
            id_ = (port.protocol, "127.0.0.1", port.number)
        state = "connected" if connected else "listening" if port.protocol == "tcp" else "bound"
        self.system.listen(being.actor, port, state=state, id=id_)  # type: ignore[arg-type]
        self.look()

    def fork(self, being: Being) -> Being:
        """A worker, with everything that its parent has open."""
        process = being.actor.process
        child = self.start(
            "server" if being.kind in ("caller", "terminal") else being.kind,
            being,
            place=being.place,
            owner=process.owner if isinstance(process.owner, int) else ME,
            behaviour=being.behaviour,
        )
        child.actor.process = child.actor.process._replace(
            session=process.session,
            terminal=None,
            marks=process.marks,
            environment=process.environment,
            control_group=process.control_group,
            cwd=process.cwd,
            name=process.name,
            argv=process.argv,
            forked=True,
        )
        # What it starts gets the environment that the original has made for that.
        child.gives = being.gives if being.kind != "caller" else {}
        child.bare, child.run = being.bare, being.run
        child.forked = True
        child.actor.holds |= being.actor.holds
        self.look()
        return child

    def supervise(self, supervisor: Being, port: Port, *, delay: float, bare: Bare) -> Being:
        """Let it start a server on the port, and again whenever that has ended."""
        server = self.start("server", supervisor, place=supervisor.place, bare=bare)
        self.listen(server, port)

        def again() -> None:
            if supervisor.alive:
                self.supervise(supervisor, port, delay=delay, bare=bare)

        server.actor.at_end.append(lambda: self.system.after(delay, again))
        return server

    def recycle(self, being: Being, *, ports: Collection[Port] = ()) -> None:
        """It ends, and somebody else gets its pid, and maybe ports."""
        actor = self.system.recycle(being.actor)
        stranger = self._know(Being(actor, "server", self.init, born=self.system.now()))
        for port in ports:
            self.listen(stranger, port)

    def hide_facts(self, being: Being) -> None:
        """From now on nobody can read its environment."""
        being.unread, being.bare = True, "wiped"
        being.actor.process = being.actor.process._replace(
            complete=False, environment="unreadable", marks={}, cwd=None
        )

    def end_well(self, run: Being) -> None:
        """A test run ends by itself: it lets go of its folder."""
        if run.alive and run.kind == "runner" and run not in self.ours:
            if not run.forked:
                self.system.locks[self._temporary(run)] = True
            run.actor.end()

    def connect(self, one: Being, other: Being) -> None:
        """Let the one have a connection with the other."""
        connected = self.system.connected
        connected.setdefault(one.actor.pid, set()).add(other.actor.pid)
        connected.setdefault(other.actor.pid, set()).add(one.actor.pid)

    @property
    def ours(self) -> list[Being]:
        return [self.caller, *self.caller.chain()]

    def let_time_pass(self, seconds: float) -> None:
        self.system.wait((), seconds)

    def look(self) -> None:
        """Write down who holds what."""
        for being in self.beings:
            if being.alive and (ports := self.holding(being)):
                self.held.setdefault(being, set()).update(ports)

    def forget(self) -> None:
        """A call begins: whatever was before it does not count."""
        self.held = {}
        self.look()

    def _know(self, being: Being) -> Being:
        self.beings.append(being)
        return being

    # What is true

    def of(self, actor: Actor) -> Being:
        return next(being for being in self.beings if being.actor is actor)

    def holding(self, being: Being) -> set[Port]:
        """The ports that it holds."""
        sockets = (self.system.kernel.get(id_) for id_ in being.actor.holds)
        return {s.port for s in sockets if s is not None and s.state in ("listening", "bound")}

    def holders(self, port: Port) -> list[Being]:
        return [being for being in self.beings if being.alive and port in self.holding(being)]

    def sharers(self, being: Being, ports: frozenset[Port]) -> set[Being]:
        """Who can be seen with the same socket on one of the ports."""
        ids = {s.id for s in self.system.kernel.values() if s.port in ports and s.holds}
        ids &= being.actor.holds
        return {
            b for b in self.beings if b is not being and not b.actor.hidden and ids & b.actor.holds
        }

    def used(self, port: Port) -> bool:
        """Whether anybody has a socket on the port, be it only a connection."""
        kernel = self.system.kernel
        return any(
            kernel[id_].port == port
            for being in self.beings
            if being.alive
            for id_ in being.actor.holds
            if id_ in kernel
        )

    def is_own(self, being: Being) -> bool:
        """Whether the caller has started it, and everybody in between is there to show it."""
        return self.caller in being.chain()

    def looked_after(self, being: Being) -> bool:
        """Whether somebody who has started it is still there for it."""
        if being.kind in ("terminal", "multiplexer"):
            return True  # somebody's, by itself
        for above in being.chain():
            if above.kind == "init":
                return False
            # A worker's master is judged like its worker.
            shares = self.held.get(above, set()) & self.held.get(being, set())
            if above.kind != "wrapper" and not shares:
                return True
        return False

    def left_by_a_run(self, being: Being) -> bool:
        """Whether a test run that has ended has left it, with all that still surrounds it."""
        around = [being, *(b for b in being.chain() if b.kind != "init")]
        if any(b.kind in ("terminal", "multiplexer") for b in around):
            return False
        if all(map(self._of_an_ended_run, around)):
            return True
        for runner in being.births():
            if not runner.runs_tests:
                continue
            # A limit that is known: a daemon without a run id, which works in another project than
            # the live test run that has started it, cannot be told from one that was left.
            lost = runner not in being.chain() and not runner.gives_id
            lost = lost and not self._near(being, runner) and runner.kind == "runner"
            # And so is a daemon of a run that we live in ourselves, where its id proves nothing.
            around_us = runner in self.caller.chain() and runner not in being.chain()
            ended = not runner.alive or lost or around_us
            if ended and all(runner in b.births() for b in around):
                return True
        return False

    def _of_an_ended_run(self, being: Being) -> bool:
        """Whether it carries the id of a run of the caller that has ended."""
        id_ = being.actor.process.marks.get(run_id.RUN_ID, "")
        return any(element in run_id.elements(id_) for element in self.ended)

    def live_run(self, being: Being) -> Being | None:
        """The run of somebody else that it belongs to, and that goes on."""
        ours = self.ours
        marked_by = list(being.marked_by())
        for runner in marked_by:
            if runner.gives_id and runner.kind == "runner" and runner.alive and runner not in ours:
                return runner
        if self.is_own(being):
            return None
        for above in (being, *being.chain()):
            if above.runs_tests and above not in ours:
                return above
            # A fork of one is none, but it belongs to the one that it was forked from.
            original = next((b for b in above.births() if b.runs_tests), None)
            if above.kind in ("runner", "agent") and above.forked and original:
                if original.alive and original not in ours:
                    return original
                break
        if (hidden := self._hidden_run(being)) and hidden not in ours:
            return hidden
        # Those that give no ids are recognised by where they work.
        agents = [b for b in marked_by if b.kind == "agent"][:1]
        # What a run with an id has started carries that, and is told by it.
        runners = (b for b in marked_by if b.kind == "runner")
        nameless = list(takewhile(lambda b: not b.gives_id, runners))
        for runner in (*agents, *nameless):
            near = runner.kind == "agent" or self._near(being, runner)
            if runner.alive and runner not in ours and near:
                return runner
        return None

    def _near(self, being: Being, runner: Being) -> bool:
        """Whether a server may be of a test run by where both work."""
        return being.place in ("none", "temporary", runner.place)

    def _hidden_run(self, being: Being) -> Being | None:
        """The live test run that has started it, where its environment does not tell."""
        if any(b.kind in ("terminal", "multiplexer") for b in (being, *being.chain())):
            return None  # somebody sits there, and it is kept for that
        if being.run is not None and being.run.alive:
            return being.run
        # A limit that is known: what was given an environment without marks, and works in a
        # project, cannot be told from what somebody has started by hand.
        if being.bare != "wiped":
            return None
        for runner in being.births():
            near = runner.kind == "runner" and self._near(being, runner)
            if runner.runs_tests and near and runner.alive:
                return runner
        return None

    def user_at_work(self, being: Being) -> Being | None:
        """Who works with it in our project, and is looked after."""
        pids = self.system.connected.get(being.actor.pid, set())
        for other in self.beings:
            works = other.alive and other.actor.pid in pids and other.place == "ours"
            part = being in other.births() or other in self.ours or other.unread
            if works and not part and self.looked_after(other):
                return other
        return None

    def managed(self, being: Being) -> bool:
        """Whether a service manager looks after it, and no test in between has started it."""
        for above in (being, *being.births()):
            if above.kind == "service":
                return True
            # What has left its manager, as a daemon does, is none of its business any more.
            if above.kind == "manager" and (above is being or above in being.chain()):
                return True
            if above.kind not in ("server", "wrapper", "launcher", "manager"):
                return False
        return False

    def untouchable(self, being: Being) -> str:
        """Why nobody may signal it, whatever was asked for; empty if nothing forbids it."""
        if being is self.caller or being in self.caller.chain():
            return "it is the caller, or an ancestor of it"
        if being.kind in ("init", "system", "engine"):
            return f"it is the {being.kind}"
        if any(b.kind == "contained" for b in (being, *being.births())):
            return "it runs in a container"
        return ""

    def forbidden(self, being: Being, ask: Ask) -> str:
        """Why a call may not signal it; empty if it may."""
        if why := self.untouchable(being):
            return why
        ports = self.held.get(being, set()) & ask.ports
        if not ports and not self._restarted(being, ask):
            return "it holds none of the ports"
        why = self._forbidden(being, ask)
        # A worker follows its master, which may have ended by now.
        masters = [above for above in being.births() if self.held.get(above, set()) & ports]
        follows = any(not self._forbidden(master, ask) for master in masters)
        return "" if follows else why

    def _forbidden(self, being: Being, ask: Ask) -> str:
        """The same, for what holds a port or has started it again."""
        stays = being.actor.process.marks.get("PORTFREE_KEEP") == "1"
        if stays and ask.scope == "orphans":
            return "it asks to be left running"
        own = self.is_own(being)
        # Its own id, or the nearest one above it, for it may have wiped its own.
        ids = (b.actor.process.marks.get(run_id.RUN_ID, "") for b in (being, *being.chain()))
        run = next(filter(None, ids), "")
        # Its run is over, even where only those above it still show that.
        of_another = any(self._of_an_ended_run(b) for b in (being, *being.births()))
        if own and ask.phase == "before" and not of_another:
            return "it was started for the run that begins"
        ending = ask.phase == "after" and self.own_run
        if ending and ending == run:
            return ""
        if ending and self._has_arrived(being):
            return ""
        if being.unread:
            return "its environment cannot be read"
        if ask.scope != "any" and (runner := self.live_run(being)):
            return f"it belongs to {runner}, which lives"
        if own:
            return ""
        may_reach = self.system.privileged and ask.scope == "any"
        if being.owner != ME and not may_reach:
            return "it belongs to another user"
        if self.left_by_a_run(being):
            return ""
        if self.managed(being):
            return "it is a managed service"
        asked_for = ask.scope in ("mine", "any") or (
            ask.scope == "project" and being.place == "ours"
        )
        if self.held.get(being, set()) & ask.ports and asked_for:
            return ""
        if user := self.user_at_work(being):
            return f"{user} works with it"
        if self.looked_after(being):
            return "somebody looks after it"
        return "" if being.place == "ours" else "it has nothing to do with our project"

    def _has_arrived(self, being: Being) -> bool:
        """Whether it has come up during the run that ends, as a daemon without a trace, from the
        terminal that the run was started in or from the run itself: these cannot be told apart.
        """
        group = self.caller.actor.process.control_group
        return (
            being.bare == "wiped"
            and being.born >= self.began
            and being.actor.process.control_group == group
            and not self.looked_after(being)
            and being.place in ("ours", "none", "temporary")
            and not any(b.runs_tests for b in self.caller.chain())
        )

    def _restarted(self, being: Being, ask: Ask) -> bool:
        """Whether it has started somebody on one of the ports while the call went on."""
        return any(
            ports & ask.ports and child.born >= ask.began and being in child.births()
            for child, ports in self.held.items()
        )

    def obedient(self, being: Being) -> bool:
        """Whether it can be seen, can be stopped, and shares its socket with nobody."""
        actor = being.actor
        alone = not any(
            other is not being and other.alive and other.actor.holds & actor.holds
            for other in self.beings
        )
        able = not (actor.hidden or actor.unpinnable or actor.refuses or being.unread)
        return alone and able and not actor.at_end and being.behaviour in ("obeys", "needs KILL")

    def plainly_left(self, being: Being) -> bool:
        """A server that a test run has left, and that shows it: freed in any scope.

        By its mark, as a fork of the run, or by the folder that it works in; and nobody is at work
        who may have started it.
        """
        run = next((b for b in being.births() if b.runs_tests), None)
        if run is None or run.kind != "runner" or run.alive:
            return False
        marks = being.actor.process.marks
        shows = (
            bool(marks.get("PYTEST_VERSION"))
            or (being.kind == "runner" and being.forked)
            or (being.run is run and self._temporary(run) in self.system.locks)
        )
        alone = not any(
            b.alive and b.kind not in ("init", "wrapper", "server", "terminal", "caller")
            for b in self.beings
            if b is not being
        )
        adopted = all(above.kind in ("init", "wrapper") for above in being.chain())
        return (
            shows
            and alone
            and adopted
            and being.kind in ("server", "runner")
            and being.owner == ME
            and "PORTFREE_KEEP" not in marks
            and being.actor.process.container is None
            and not self.is_own(being)
            and self.caller not in being.births()
            and not set(self.ours) & {*being.births()} - {self.init}
            and self.obedient(being)
        )

    def plain_orphan(self, being: Being) -> bool:
        """An orphan in our project, as they come: this one must be freed in any scope."""
        return (
            self._plain(being)
            and being.place == "ours"
            and not self.looked_after(being)
            and all(above.kind in ("init", "wrapper") for above in being.chain())
            and self._hidden_run(being) is None
            and not self._may_be_of_a_run(being)
            and self.user_at_work(being) is None
        )

    def _may_be_of_a_run(self, being: Being) -> bool:
        """Whether nothing shows that it is not of a test run that is at work."""
        runs_ = [b for b in self.beings if b.alive and b.kind == "runner"]
        return being.forked or (being.bare == "wiped" and bool(runs_))

    def plainly_mine(self, being: Being) -> bool:
        """A server that we have at a terminal: to be freed where scope mine is asked for."""
        kinds = {above.kind for above in being.chain()}
        return self._plain(being) and kinds <= {"init", "wrapper", "terminal"}

    def _plain(self, being: Being) -> bool:
        return (
            being.kind == "server"
            and being.owner == ME
            and not being.actor.process.marks
            and being.actor.process.unit is None
            and being.actor.process.container is None
            and not self.is_own(being)
            and self.obedient(being)
        )


Deed = Literal[
    "die",
    "let go",
    "fork",
    "exec",
    "recycle",
    "replace",
    "refuse",
    "hide",
    "unpin",
    "hide facts",
]


def deed(world: World, what: Deed, being: Being) -> Callable[[], None]:
    """Something that happens to a process, now or in the midst of a call."""
    actor = being.actor

    def happen() -> None:
        # The caller and those above it live on: without them there is no call.
        if not being.alive or being is world.caller or being in world.caller.chain():
            return
        match what:
            case "die":
                actor.end()
            case "let go":
                actor.let_go()
            case "fork":
                world.fork(being)
            case "recycle":
                world.recycle(being)
            case "replace":
                world.recycle(being, ports=world.holding(being))
            case "refuse":
                actor.refuses = PermissionError(1, "Operation not permitted")
            case "hide":
                actor.hidden = True
            case "unpin":
                actor.unpinnable = OSError(24, "Too many open files")
            case "hide facts":
                world.hide_facts(being)
            case "exec" if being.kind in ("server", "wrapper"):
                being.kind = "server"
                actor.process = actor.process._replace(name="node", argv=("node", "app.js"))

    return happen
