"""Stop holders: politely first, for sure in the end, and never another process.

Every signal goes through a pin, to a process that was just seen with the socket. Root holders are
signalled, and what they started follows them: workers that are signalled first are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress

from portfree._core.ancestry import named, roots, same
from portfree._core.survey import Survey, Suspect, survey
from portfree._system.interface import Signal, System

_LOOK_EVERY = 0.025  # at the sockets, while nothing ends: a server may let go of its port and live
_LINGER = 0.02  # a process that has just let go of its socket is mostly about to end
_NOTICE_AFTER = 0.5  # then the user is told for what we wait
_SETTLE = 0.25  # the kernel may take this to clear up behind SIGKILL
_LEAST_GRACE = 0.5  # for the same reason, shorter graces do not make a call shorter


def longest(grace: float) -> float:
    """The seconds that a call may take: for a server, and for one that is started in its place."""
    return 2 * max(grace, _LEAST_GRACE)


def stop(
    system: System,
    targets: list[Suspect],
    *,
    grace: float,
    deadline: float,
    approve: Callable[[Survey], Iterable[Suspect]],
    notify: Callable[[str], None],
) -> None:
    """Stop the targets, and return when no process holds their sockets, or at the *deadline*.

    The root holders get SIGTERM at once, SIGINT after half the *grace* (some servers wait for their
    clients on the one and end at the other), and all that are left get SIGKILL at its end.
    *approve* says which suspects of a fresh survey may be signalled: workers may have been started
    since, and another process may have the port by now. What was done is left in the targets, to
    which such workers are added.
    """
    with ExitStack() as pins:
        stopping = _Stopping(system, targets, grace, deadline, approve, pins)
        # What cannot be ended properly any more is not begun.
        if not grace or stopping.kill_at > stopping.started:
            stopping.run(notify)
            stopping.conclude()


class _Stopping:
    def __init__(
        self,
        system: System,
        targets: list[Suspect],
        grace: float,
        deadline: float,
        approve: Callable[[Survey], Iterable[Suspect]],
        pins: ExitStack,
    ) -> None:
        self.system = system
        self.targets = targets
        self.deadline = deadline
        self.approve = approve
        self.pins = pins
        self.ids = {id_ for target in targets for id_ in target.holder.ids}
        self.ports = {port for target in targets for port in target.holder.ports}
        self.started = system.now()
        self.kill_at = min(self.started + grace, deadline - _SETTLE)
        self.escalation: list[tuple[float, Signal]] = [
            (self.started, "TERM"),
            (self.started + (self.kill_at - self.started) / 2, "INT"),
            (self.kill_at, "KILL"),
        ]
        if grace == 0 or not system.polite:
            self.escalation = [(self.started, "KILL")]

    def run(self, notify: Callable[[str], None]) -> None:
        """Send the first signal, and wait until the sockets are gone, escalating on the way."""
        _, self.signal = self.escalation.pop(0)
        for target in self.targets:
            chosen = target.root or self.signal == "KILL"
            if chosen and (target.restarts or self.system.holds(target.holder.pid, self.ids)):
                self._send(target, self.signal)
        roots_alive = sum(target.root for target in self.targets)
        while True:
            now = self.system.now()
            for target in self.targets:
                if target.ended_after is None and not target.alive:
                    target.ended_after = now - self.started
            waiting = [target for target in self.targets if target.alive]
            left = True
            with suppress(OSError):  # then nothing was seen to let go
                left = any(socket.id in self.ids for socket in self.system.sockets(self.ports))
            if not left and not any(target.restarts for target in waiting):
                return
            # On a slow machine a look may take longer than a step: nothing ends before SIGKILL.
            tops = [target for target in waiting if target.root]
            all_refuse = bool(tops) and all(target.refused for target in tops)
            if all_refuse or (now >= self.deadline and not self.escalation):
                return
            due = False
            while self.escalation and now >= self.escalation[0][0]:
                due, self.signal = True, self.escalation.pop(0)[1]
            if due or len(tops) < roots_alive:
                # A root has ended and left the socket to its workers, or the next signal is due.
                roots_alive = len(tops)
                if not self._signal_again():
                    return
            if now - self.started > _NOTICE_AFTER:
                notify(self._waiting_for(waiting, self.kill_at - now))
            until = min([self.deadline, *(at for at, _ in self.escalation[:1])])
            pause = max(0.0, min(_LOOK_EVERY, until - self.system.now()))
            self.system.wait([target.pin for target in waiting if target.pin], pause)

    def conclude(self) -> None:
        """See what became of each target."""
        pending = [target for target in self.targets if target.ended_after is None]
        linger = min(_LINGER, self.deadline - self.system.now())
        if pending and linger > 0:
            self.system.wait([target.pin for target in pending if target.pin], linger)
        for target in self.targets:
            target.lives = target.alive
        for target in pending:
            ids = target.holder.ids
            let_go = ids and not self.system.holds(target.holder.pid, ids)
            if not target.lives or let_go:
                target.ended_after = self.system.now() - self.started

    def _signal_again(self) -> bool:
        """Look what holds the sockets now, and signal it; False if there is nothing that we may."""
        with survey(self.system, self.ports) as seen:
            approved = [suspect for suspect in self.approve(seen) if suspect.holder.ids & self.ids]
            top = {holder.pid for holder in roots([suspect.holder for suspect in approved])}
            for suspect in approved:
                if self.signal != "KILL" and suspect.holder.pid not in top:
                    continue
                target = self._target(suspect, seen)
                if target is None or not self.system.holds(suspect.holder.pid, self.ids):
                    continue
                # A worker whose master process has ended becomes a root, without a SIGTERM so far.
                if self.signal != "KILL" and "TERM" not in target.sent:
                    self._send(target, "TERM")
                elif self.signal not in target.sent:
                    self._send(target, self.signal)
        supervisors = [target for target in self.targets if target.restarts and target.alive]
        for target in supervisors:
            if self.signal not in target.sent:
                self._send(target, self.signal)
        return bool(approved or supervisors)

    def _target(self, suspect: Suspect, seen: Survey) -> Suspect | None:
        """The target that a suspect is, or a new one for a worker that was started meanwhile."""
        for target in self.targets:
            if same(target.holder.process, suspect.holder.process):
                return target
        if suspect.pin is None:
            return None
        # The pin outlives the survey: until all is done, we look whether the process has ended.
        seen.suspects.remove(suspect)
        self.pins.callback(suspect.pin.close)
        above = (t for t in self.targets if suspect.holder.descends_from(t.holder.process))
        suspect.verdict = next((target.verdict for target in above), suspect.verdict)
        suspect.root = False
        self.targets.append(suspect)
        return suspect

    def _send(self, target: Suspect, what: Signal) -> None:
        try:
            if target.pin and target.pin.send(what):
                target.sent.append(what)
                if what == "TERM":
                    # A stopped process (Ctrl-Z, SIGTTIN) gets no other signal before this one.
                    target.pin.send("CONT")
        except OSError as error:  # PermissionError, or a sandbox that knows no such call
            target.refused = str(error)

    def _waiting_for(self, waiting: list[Suspect], left: float) -> str:
        # Workers only if their master process has ended before them.
        heads = [target for target in waiting if target.root] or waiting
        names = ", ".join(named(target.holder.process) for target in heads) or "the kernel"
        ports = ", ".join(str(port) for port in sorted(self.ports))
        killed = f", {left:.1f} s more before it is killed" if left > 0 else ""
        return f"waiting for {names} to let go of {ports}{killed}"
