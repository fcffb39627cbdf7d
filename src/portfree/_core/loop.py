"""The loop of one call on ports that are held: look, judge, stop, and look again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress

from portfree._core import unheld
from portfree._core.caller import context_for
from portfree._core.context import Context, Moment
from portfree._core.outcomes import Outcomes
from portfree._core.stop import longest, stop
from portfree._core.survey import Survey, Suspect, survey
from portfree._core.targets import approver, choose, judge, watch_for_return
from portfree._system import current
from portfree._system.interface import System
from portfree.model import Port, Report, Request

# While waiting for a live run, in seconds: between verdicts, for it may be killed and leave its
# server behind, and between bind attempts.
_JUDGE_EVERY = 1.0
_TRY_EVERY = 0.05

# How long a process may take to end once its environment is gone: 130 ms for 700 MiB.
_ENDS_WITHIN = 0.25


class Freeing:
    """One call on held ports, until they are free, nothing more can be done, or time is up."""

    def __init__(
        self,
        request: Request,
        moment: Moment | None = None,
        notice: Callable[[str], None] | None = None,
        system: System | None = None,
    ) -> None:
        self.system = system or current()
        self.request = request
        self.moment = moment or Moment()
        self.outcomes = Outcomes(request, self.system)
        self.held: list[Port] = []
        self.wait_until = self.system.now() + request.wait
        self.deadline = self.wait_until + longest(request.grace)
        self._notice = notice

    def run(self, held: list[Port]) -> Report:
        self.held = held
        self.outcomes.still_held(held)
        while self.held and self.system.now() < self.deadline:
            with ExitStack() as pins:
                seen = pins.enter_context(survey(self.system, self.held))
                self._drop_unheld(seen)
                context = context_for(
                    self.system, seen.holders, scope=self.request.scope, moment=self.moment
                )
                judge(self.system, seen, context)
                targets = choose(self.system, seen, context, self.outcomes, pins)
                self.outcomes.leave(self.held, seen)
                if targets and not self.request.dry_run:
                    self._stop(targets, context)
                elif not (self._has_changed(seen) or self._wait(seen)):
                    break
        self._look_once_more()
        return self.outcomes.report()

    def give_up(self, failure: Exception) -> Report:
        """After an unexpected error: say so, and check once more which ports are free."""
        for port in self.held:
            self.outcomes.set_status(port, "busy", [unheld.unexpected(port, failure)])
            with suppress(OSError):
                if self.system.bind(port) == "free":
                    self.outcomes.set_status(port, "free")
        return self.outcomes.report()

    def notify(self, line: str) -> None:
        """Pass on the first line, and no other."""
        notice, self._notice = self._notice, None
        if notice is not None:
            notice(line)

    def _drop_unheld(self, seen: Survey) -> None:
        """Record the state of the ports that no socket holds any more."""
        findings = unheld.unheld(self.system, self._unseen(seen))
        for port, finding in findings.items():
            self.outcomes.set_status(port, finding.status, finding.notes)
        self.held = [port for port in self.held if port not in findings]
        self.outcomes.still_held(self.held)

    def _unseen(self, seen: Survey) -> list[Port]:
        on_ports = {socket.port for socket in seen.sockets}
        return [port for port in self.held if port not in on_ports]

    def _stop(self, targets: list[Suspect], context: Context) -> None:
        try:
            stop(
                self.system,
                targets,
                grace=self.request.grace,
                deadline=self.deadline,
                approve=approver(targets, context),
                notify=self.notify,
            )
        finally:
            self.outcomes.add_endings(targets)
        watch_for_return(self.system, targets, context, self.deadline)

    def _has_changed(self, seen: Survey) -> bool:
        """Whether the survey is out of date: a port was taken since, or a kept holder has ended.

        A process that ends loses its environment first, its sockets after that, and its directory:
        one that is read meanwhile is kept for what could not be read.
        """
        if self._unseen(seen):
            return True
        kept = [
            suspect
            for suspect in seen.suspects
            if suspect.pin
            and suspect.verdict.action == "keep"
            and not (suspect.holder.process.complete and suspect.holder.process.cwd)
        ]
        if kept:
            left = max(0.0, self.deadline - self.system.now())
            self.system.wait([s.pin for s in kept if s.pin], min(_ENDS_WITHIN, left))
        ended = [suspect for suspect in kept if not suspect.alive]
        for suspect in ended:
            self.outcomes.drop(suspect.holder)
        return bool(ended)

    def _wait(self, seen: Survey) -> bool:
        """Wait for a live run to give up a port; False if there is none, or the time is over."""
        busy = [suspect for suspect in seen.suspects if suspect.verdict.rule == "live-run"]
        until = min(self.wait_until, self.system.now() + _JUDGE_EVERY)
        if self.request.dry_run or not busy or self.system.now() >= until:
            return False
        ports = {port for suspect in busy for port in suspect.holder.ports}
        self.notify(f"waiting for {_listed(ports)}: {busy[0].verdict.reason}")
        pins = [suspect.pin for suspect in busy if suspect.pin]
        while (now := self.system.now()) < until:
            freed = any(self.system.bind(port) == "free" for port in ports)
            if freed or not all(pin.alive() for pin in pins):
                break
            self.system.wait(pins, min(_TRY_EVERY, until - now))
        return True

    def _look_once_more(self) -> None:
        """Record what has become free since the last survey, by one try: time may be up."""
        rest = []
        for port in self.held:
            if self.system.bind(port) == "free":
                self.outcomes.set_status(port, "free")
            else:
                rest.append(port)
        if not rest:
            return
        taken = set(rest)  # unless the system tells otherwise
        with suppress(OSError):
            taken = {socket.port for socket in self.system.sockets(rest)}
        # The closing connections of a server that has ended refuse a bind, but no server.
        findings = unheld.unheld(self.system, [p for p in rest if p not in taken], tries=0)
        for port, finding in findings.items():
            if finding.status == "free":
                self.outcomes.set_status(port, "free", finding.notes)


def _listed(ports: Collection[Port]) -> str:
    return ", ".join(str(port) for port in sorted(ports))
