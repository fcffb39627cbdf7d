"""The promises, on machines at random where anything happens at any time.

Hypothesis builds a machine step by step (who starts whom, who holds what, who dies when, also in
the midst of a call) and calls portfree in between. What may be done there follows from the truth
that `Simulation` writes down, not from the rules of portfree.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from helpers import fake_system
from helpers.reports import how
from portfree._core import run_id
from portfree._core.context import Moment, Phase
from stress.support.simulation import (
    NEVER_ASKED,
    OTHER_USER,
    PORTS,
    Ask,
    SimProcess,
    Simulation,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from helpers.fake_system import Actor
    from portfree._system.interface import Signal
    from portfree.model import HolderReport, Port, Report, Scope
    from stress.support.figures import Figures
    from stress.support.simulation import Bare, Behaviour, Kind, Place

GROUP = "model"

pytestmark = pytest.mark.usefixtures("unmarked")

# For so long portfree tries a port without a visible holder, and settles all such ports then.
LAST_TRIES = 0.11

# What is asked of the boundary when a call is under way: after any of these something may happen.
QUESTIONS = ("bind", "sockets", "owners", "holds", "process", "pids", "pin", "wait")

seconds = st.sampled_from([0.0, 0.001, 0.004, 0.02, 0.3, 0.6, 1.4])
places = st.sampled_from(["ours", "nested", "other", "temporary", "none"])
bares = st.sampled_from(["", "", "wiped", "dropped"])
steps = st.sampled_from(
    [
        *("die", "let go", "fork", "exec", "recycle", "replace"),
        *("refuse", "hide", "unpin", "hide facts"),
    ]
)
launchers = st.sampled_from(
    ["terminal", "wrapper", "launcher", "runner", "runner", "agent", "multiplexer", "manager"]
)
behaviours = st.sampled_from(["obeys", "slow", "needs INT", "needs KILL", "immortal", "drains"])


class Machine(RuleBasedStateMachine):
    """A machine, and portfree on it."""

    processes: Bundle[SimProcess] = Bundle("processes")

    def __init__(self, figures: Figures, project: Path, elsewhere: Path) -> None:
        super().__init__()
        self.figures, self.project, self.elsewhere = figures, project, elsewhere
        self.environment = mock.patch.dict(os.environ)
        self.environment.start()
        self.interruptions: dict[tuple[str, int], list[Callable[[], None]]] = {}

    def teardown(self) -> None:
        run_id.OPEN_HERE.clear()
        self.environment.stop()

    @initialize(
        target=processes,
        under=st.sampled_from(["terminal", "runner", "agent"]),
        root=st.booleans(),
        init=st.sampled_from(["systemd", "tini"]),
        polite=st.sampled_from([True, True, True, False]),
        by_address=st.sampled_from([False, False, True]),
    )
    def boot(self, under: str, root: bool, init: str, polite: bool, by_address: bool) -> SimProcess:  # noqa: FBT001
        self.simulation = Simulation(
            self.project,
            self.elsewhere,
            under=under,  # type: ignore[arg-type]
            root=root,
            init=init,
            polite=polite,
            by_address=by_address,
        )
        os.environ.update(self.simulation.caller.fake.process.marks)
        if root:
            os.environ["SUDO_UID"] = "1000"
        return self.simulation.init

    # Who is there

    @rule(target=processes)
    def the_caller(self) -> SimProcess:
        return self.simulation.caller

    @rule(
        target=processes,
        parent=processes,
        kinds=st.lists(launchers, min_size=1, max_size=3),
        place=places,
        bare=bares,
        gives_id=st.booleans(),
    )
    def start(
        self,
        parent: SimProcess,
        kinds: list[Kind],
        place: Place,
        bare: Bare,
        gives_id: bool,  # noqa: FBT001
    ) -> MultipleResults[SimProcess]:
        """One starts the next."""
        started = [self._living(parent)]
        for kind in kinds:
            self.simulation.let_time_pass(0.05)
            above = self._living(started[-1])
            started.append(
                self.simulation.start(kind, above, place=place, bare=bare, gives_id=gives_id)
            )
        return multiple(*started[1:])

    @rule(
        target=processes,
        parent=processes,
        port=st.sampled_from(PORTS),
        place=places,
        bare=bares,
        behaviour=behaviours,
        daemon=st.booleans(),
        stays=st.sampled_from([False, False, False, True]),
    )
    def serve(
        self,
        parent: SimProcess,
        port: Port,
        place: Place,
        bare: Bare,
        behaviour: Behaviour,
        daemon: bool,  # noqa: FBT001
        stays: bool,  # noqa: FBT001
    ) -> SimProcess:
        self.simulation.let_time_pass(0.05)
        parent = self._living(parent)
        between = self.simulation.start("wrapper", parent, place=place) if daemon else parent
        server = self.simulation.start(
            "server", between, place=place, bare=bare, behaviour=behaviour, stays=stays
        )
        self.simulation.listen(server, port)
        if daemon:
            between.fake.end()
        return server

    @rule(
        target=processes,
        kind=st.sampled_from(
            ["service", "system", "engine", "contained", "server", "multiplexer", "manager"]
        ),
        owner=st.sampled_from([0, OTHER_USER, 1000]),
        port=st.sampled_from(PORTS),
        place=places,
    )
    def serve_for_others(self, kind: Kind, owner: int, port: Port, place: Place) -> SimProcess:
        self.simulation.let_time_pass(0.05)
        server = self.simulation.start(kind, self.simulation.init, owner=owner, place=place)
        self.simulation.listen(server, port)
        return server

    @rule(
        target=processes,
        parent=processes,
        port=st.sampled_from(PORTS),
        place=places,
        delay=seconds,
        bare=bares,
    )
    def supervise(
        self,
        parent: SimProcess,
        port: Port,
        place: Place,
        delay: float,
        bare: Bare,
    ) -> MultipleResults[SimProcess]:
        self.simulation.let_time_pass(0.05)
        supervisor = self.simulation.start("launcher", self._living(parent), place=place)
        server = self.simulation.supervise(supervisor, port, delay=delay, bare=bare)
        return multiple(supervisor, server)

    @rule(sim=processes, port=st.sampled_from([*PORTS, NEVER_ASKED]), connected=st.booleans())
    def listen(self, sim: SimProcess, port: Port, connected: bool) -> None:  # noqa: FBT001
        if sim.alive:
            self.simulation.listen(sim, port, connected=connected)

    @rule(
        target=processes, sim=processes, port=st.sampled_from(PORTS), times=st.sampled_from([1, 2])
    )
    def serve_by_fork(self, sim: SimProcess, port: Port, times: int) -> SimProcess:
        """As multiprocessing does it: once, or twice to become a daemon."""
        self.simulation.let_time_pass(0.05)
        sim = self._living(sim)
        if sim is self.simulation.init:
            return sim
        copies = [sim]
        for _ in range(times):
            copies.append(self.simulation.fork(copies[-1]))
        self.simulation.listen(copies[-1], port)
        for between in copies[1:-1]:
            between.fake.end()
        return copies[-1]

    @rule(one=processes, other=processes)
    def connect(self, one: SimProcess, other: SimProcess) -> None:
        if one is not other:
            self.simulation.connect(one, other)

    @rule(sim=processes)
    def its_run_ends(self, sim: SimProcess) -> None:
        for above in sim.births():
            self.simulation.end_well(above)

    @rule(sim=processes)
    def the_folder_of_its_run_is_removed(self, sim: SimProcess) -> None:
        if sim.run is not None and not sim.run.alive:
            self.simulation.system.locks.pop(self.simulation._temporary(sim.run), None)

    @rule(giver=processes, taker=processes)
    def share(self, giver: SimProcess, taker: SimProcess) -> None:
        if giver.alive and taker.alive:
            taker.fake.holds |= giver.fake.holds
            self.simulation.look()

    # What happens, now or while a call is under way

    @rule(sim=processes, what=steps)
    def happens(self, sim: SimProcess, what: str) -> None:
        step(self.simulation, what, sim)()

    @rule(sim=processes)
    def its_run_is_killed(self, sim: SimProcess) -> None:
        for above in sim.births():
            if above.kind in ("runner", "agent"):
                step(self.simulation, "die", above)()

    @rule(sim=processes, what=steps, delay=seconds)
    def happens_later(self, sim: SimProcess, what: str, delay: float) -> None:
        self.simulation.system.after(delay, step(self.simulation, what, sim))

    @rule(sim=processes, what=steps, question=st.sampled_from(QUESTIONS), number=st.integers(1, 12))
    def happens_between(self, sim: SimProcess, what: str, question: str, number: int) -> None:
        happening = step(self.simulation, what, sim)
        self.interruptions.setdefault((question, number), []).append(happening)

    @rule(time=seconds)
    def time_passes(self, time: float) -> None:
        self.simulation.let_time_pass(time)

    @precondition(lambda self: not self.simulation.own_run)
    @rule()
    def open_run(self) -> None:
        caller = self.simulation.caller.fake
        element = f"{caller.pid}.{caller.process.start}.{len(self.simulation.ended):x}"
        outer = os.environ.get(run_id.RUN_ID)
        self.simulation.own_run = f"{outer}/{element}" if outer else element
        self.simulation.began = self.simulation.system.now()
        held = {socket.port for socket in self.simulation.system.kernel.values()}
        self.quiet = frozenset(PORTS) - held
        self.began = self.simulation.system.moment()
        run_id.OPEN_HERE.add(element)
        os.environ[run_id.RUN_ID] = self.simulation.own_run

    @precondition(lambda self: self.simulation.own_run)
    @rule(grace=st.sampled_from([0.0, 0.2, 1.0]))
    def close_run(self, grace: float) -> None:
        outer, _, element = self.simulation.own_run.rpartition("/")
        os.environ.pop(run_id.RUN_ID)
        os.environ.update({run_id.RUN_ID: outer} if outer else {})
        self._call(frozenset(PORTS), "orphans", grace, phase="after", ending=element)
        run_id.OPEN_HERE.discard(element)
        self.simulation.own_run = ""
        self.simulation.ended.append(element)

    @rule(
        ports=st.frozensets(st.sampled_from(PORTS), min_size=1),
        scope=st.sampled_from(["orphans", "orphans", "project", "mine", "any"]),
        grace=st.sampled_from([0.0, 0.2, 1.0]),
        wait=st.sampled_from([0.0, 0.0, 0.7]),
        dry_run=st.sampled_from([False, False, False, True]),
        phase=st.sampled_from(["call", "call", "before"]),
    )
    def call(
        self,
        ports: frozenset[Port],
        scope: Scope,
        grace: float,
        wait: float,
        dry_run: bool,  # noqa: FBT001
        phase: Phase,
    ) -> None:
        self._call(ports, scope, grace, wait=wait, dry_run=dry_run, phase=phase)

    # One call, and what must be true of it

    def _living(self, sim: SimProcess) -> SimProcess:
        """This one, or who has adopted its children."""
        return sim if sim.alive else self.simulation.init

    def _call(
        self,
        ports: frozenset[Port],
        scope: Scope,
        grace: float,
        *,
        wait: float = 0.0,
        dry_run: bool = False,
        phase: Phase = "call",
        ending: str | None = None,
    ) -> None:
        simulation, system = self.simulation, self.simulation.system
        quiet = not self.interruptions and not system._events
        simulation.forget()
        ask = Ask(ports, scope, phase, system.now())
        due = self._must_be_freed(ask) if quiet and not dry_run else set()
        self.wrong: list[str] = []
        self.allowed: set[SimProcess] = set()
        self.moments: list[tuple[float, set[Port], set[Port]]] = []
        self.asked: Counter[str] = Counter()
        self.peers = {sim: simulation.sharers(sim, ports) for sim in simulation.held}
        before = len(system.signals)
        system.witness, system.watch = partial(self._witness, ask), partial(self._watch, ask)
        report = fake_system.call(
            system,
            *sorted(ports),
            scope=scope,
            grace=grace,
            wait=wait,
            dry_run=dry_run,
            moment=Moment(phase, ending, self.began, self.quiet) if ending else Moment(phase),
        )
        system.witness, system.watch = lambda *_: None, lambda *_: None
        self.interruptions.clear()
        false = self._false(report, before)
        false += [f"{port} was not freed" for port in due if not self._freed(report, port)]
        if dry_run and system.signals[before:]:
            self.wrong.append("a signal was sent in a dry run")
        self.figures.trial(
            system.now() - ask.began, wrong_stops=len(self.wrong), false_reports=len(false)
        )
        if self.wrong or false:
            note(f"{report}\nsignals: {system.signals[before:]}")
        assert not self.wrong, "; ".join(self.wrong)
        assert not false, "; ".join(false)

    def _must_be_freed(self, ask: Ask) -> set[Port]:
        """The ports that only plain orphans have (or, in scope mine, servers of ours)."""
        simulation = self.simulation
        return {
            port
            for port in ask.ports
            if (holders := simulation.holders(port))
            # Before a run, what shows nothing may have been started for it.
            and not (ask.phase == "before" and any(b.bare == "wiped" for b in holders))
            and all(
                simulation.plain_orphan(b)
                or simulation.plainly_left(b)
                or (ask.scope in ("mine", "any") and simulation.plainly_mine(b))
                for b in holders
            )
        }

    def _freed(self, report: Report, port: Port) -> bool:
        return next(o.status for o in report.outcomes if o.port == port) == "freed"

    def _watch(self, ask: Ask, question: str) -> None:
        simulation = self.simulation
        if question == "owners":
            # A signal is sent a moment after the judgement.
            self.allowed |= {
                b for b in simulation.processes if b.alive and not simulation.forbidden(b, ask)
            }
        if question == "bind":
            held = {port for port in PORTS if simulation.holders(port)}
            used = {port for port in PORTS if simulation.used(port)}
            self.moments.append((simulation.system.now(), held, used))
        self.asked[question] += 1
        for happening in self.interruptions.pop((question, self.asked[question]), []):
            happening()

    def _witness(self, ask: Ask, fake: Actor, signal: Signal) -> None:
        simulation = self.simulation
        sim = simulation.of(fake)
        if (why := simulation.forbidden(sim, ask)) and sim not in self.allowed:
            self.wrong.append(f"SIG{signal} to {sim}: {why}")
        for peer in self.peers.get(sim, set()) & simulation.sharers(sim, ask.ports):
            related = sim in peer.chain() or peer in sim.chain()
            why = simulation.untouchable(peer) if related else simulation.forbidden(peer, ask)
            if why and peer not in self.allowed:
                self.wrong.append(f"SIG{signal} to {sim}, who shares with {peer}: {why}")

    def _false(self, report: Report, before: int) -> list[str]:
        """What the report says and is not so, or does not say."""
        system = self.simulation.system
        false = []
        for outcome in report.outcomes:
            at = self.moments[0][0] + outcome.seconds
            then = [
                (held, used) for time, held, used in self.moments if -1e-9 < at - time < LAST_TRIES
            ]
            if outcome.status == "busy":
                seen = any(outcome.port in used for _, used in then)
            else:
                seen = any(outcome.port not in held for held, _ in then)
            if not seen:
                false.append(f"{outcome.port} was not {outcome.status} at {at}")
            if outcome.status == "freed" and not outcome.holders:
                false.append(f"{outcome.port} is freed, and has no holder")
            if outcome.status == "busy" and not (outcome.holders or outcome.notes):
                false.append(f"{outcome.port} is busy, and nothing says why")

        told: dict[tuple[int, float | None], list[HolderReport]] = {}
        for outcome in report.outcomes:
            for holder in outcome.holders:
                told.setdefault((holder.pid, holder.started), []).append(holder)
        notes = " ".join(each.text for outcome in report.outcomes for each in outcome.notes)
        signalled = {
            (sent.process.pid, sent.process.started): sent.process
            for sent in system.signals[before:]
        }
        for identity, process in signalled.items():
            got = {
                sent.signal
                for sent in system.signals[before:]
                if (sent.process.pid, sent.process.started) == identity and sent.signal != "CONT"
            }
            entries = told.get(identity, [])
            if not entries and f"started again by {process.name} (pid {process.pid})" not in notes:
                false.append(f"pid {process.pid} got {got}, and is not in the report")
            for entry in entries:
                said = set(re.findall(r"SIG(\w+)", how(entry)))
                if said != got and (system.polite or how(entry) != "terminated"):
                    false.append(f"pid {process.pid} got {got}, but the report says {how(entry)}")
        for identity, entries in told.items():
            ended = any(how(entry).startswith(("ended", "terminated")) for entry in entries)
            lives = any(
                fake.alive and (fake.pid, fake.process.started) == identity
                for fake in system.actors.values()
            )
            if ended and lives:
                false.append(f"pid {identity[0]} is alive, but the report says it has ended")
            if identity not in signalled and any("SIG" in how(entry) for entry in entries):
                false.append(f"pid {identity[0]} got no signal, but the report says so")
        return false


def test_the_promises_are_kept_whatever_happens(
    figures: Figures, project: Path, elsewhere: Path, *, long: bool
) -> None:
    run_state_machine_as_test(
        lambda: Machine(figures, project, elsewhere),  # type: ignore[arg-type]
        settings=settings(
            max_examples=2_500 if long else 120,
            stateful_step_count=50 if long else 30,
            deadline=None,
            derandomize=not long,  # what is new is for the long version to find
            suppress_health_check=[*HealthCheck],
        ),
    )
