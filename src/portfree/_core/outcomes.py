"""What one call has learned of each port and done about it, on the way to its report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from portfree._core import redact, unheld
from portfree._core.advice import written
from portfree._core.ancestry import Holder, launcher, named
from portfree._core.survey import NOT_JUDGED, Survey, Suspect
from portfree._system.interface import CI_STEP, System
from portfree.model import (
    Ending,
    HolderReport,
    Note,
    Origin,
    Outcome,
    Port,
    Report,
    Request,
    Status,
    Verdict,
)

_Identity = tuple[int, float]
_Said = TypeVar("_Said", Verdict, Note)


class Record:
    """One port."""

    def __init__(self) -> None:
        self.holders: dict[_Identity, HolderReport] = {}
        self.stopped: list[Holder] = []
        """The holders that were stopped in earlier rounds."""
        self.notes: list[Note] = []
        """What there is to say about its state now."""
        self.done: list[Note] = []
        """What was done about it besides stopping its holders."""
        self.status: Status = "busy"
        self.rounds = 0
        self.status_since: float | None = None
        self.would_be_free = False


class Outcomes:
    """The records of one call, one for each port, and the report that they add up to."""

    def __init__(self, request: Request, system: System) -> None:
        self._request = request
        self._system = system
        self._started = system.now()
        self._records: dict[Port, Record] = {}

    def record(self, port: Port) -> Record:
        return self._records.setdefault(port, Record())

    def note(self, port: Port, *notes: Note) -> None:
        known = self.record(port).notes
        known.extend(note for note in notes if note not in known)

    def set_status(self, port: Port, status: Status, notes: Iterable[Note] = ()) -> None:
        """A port is free, or will stay busy whatever we do."""
        record = self.record(port)
        record.status = "freed" if status == "free" and record.holders else status
        record.status_since = self._system.now()
        record.notes = list(notes)

    def still_held(self, ports: Iterable[Port]) -> None:
        """These ports are held: what was said about them in an earlier round is over."""
        for port in ports:
            self.record(port).notes.clear()

    def add_verdicts(self, suspects: Iterable[Suspect]) -> None:
        for suspect in suspects:
            identity = _identity(suspect.holder)
            for port in suspect.holder.ports:
                entries = self.record(port).holders
                ending = entries[identity].ending if identity in entries else None
                entries[identity] = holder_report(suspect, port, ending)

    def drop(self, holder: Holder) -> None:
        """It has ended by itself: unless something was done to it, there is nothing to say."""
        identity = _identity(holder)
        for entries in (self.record(port).holders for port in holder.ports):
            if identity in entries and entries[identity].ending is None:
                del entries[identity]

    def add_endings(self, targets: Iterable[Suspect]) -> None:
        """What became of those that were to be stopped."""
        tried = set()
        for target in targets:
            ending, identity = target.ending(polite=self._system.polite), _identity(target.holder)
            for port in target.holder.ports:
                record = self.record(port)
                record.stopped.append(target.holder)
                entry = record.holders.get(identity)
                if entry is None and target.verdict is not NOT_JUDGED:  # it was started meanwhile
                    entry = holder_report(target, port)
                # Refused in this round, it may have got a signal in an earlier one: that is told.
                told = entry is not None and entry.ending and target.refused and not target.sent
                if entry is not None and not told:
                    record.holders[identity] = entry._replace(ending=ending)
                tried.add(port)
            for port in target.restarts:
                text = f"started again by {named(target.holder.process)}, {target.verdict.reason}"
                self.record(port).done.append(Note("restarted", text, ending=ending))
        for port in tried:
            self.record(port).rounds += 1

    def leave(self, held: Iterable[Port], seen: Survey) -> None:
        """Nothing more is done for these ports: say what else there is to say about them."""
        for port in held:
            if unowned := seen.unowned(port):
                self.note(port, unheld.unowned(self._system, port, unowned))
            record = self.record(port)
            stops = [entry.verdict.action == "stop" for entry in record.holders.values()]
            record.would_be_free = bool(stops) and all(stops) and not unowned

    def report(self) -> Report:
        now = self._system.now()
        outcomes = tuple(self._outcome(port, now) for port in self._request.ports)
        return Report(self._request, outcomes, now - self._started)

    def _outcome(self, port: Port, now: float) -> Outcome:
        record = self._records.get(port)
        if record is None:
            return Outcome(port, "free")
        would_do = self._request.dry_run and record.would_be_free
        said = record.holders.values()
        holders = tuple(h._replace(verdict=self._worded(h.verdict, port)) for h in said)
        notes = [self._worded(note, port) for note in (*record.done, *record.notes)]
        if record.status == "busy" and not holders and not notes:
            notes.append(unheld.unsteady(self._system, port))
        return Outcome(
            port=port,
            status=record.status,
            ok=record.status != "busy" or would_do,
            holders=holders,
            notes=tuple(notes),
            seconds=(now if record.status_since is None else record.status_since) - self._started,
        )

    def _worded(self, said: _Said, port: Port) -> _Said:
        """A verdict or a note, with its advice in words."""
        if said.advice is None:
            return said
        elevate = self._system.elevate() if said.advice.privileged else ""
        text = written(said.advice, self._request.surface, (port,), elevate=elevate)
        return said._replace(instead=text)


def _identity(holder: Holder) -> _Identity:
    return holder.process.pid, holder.process.start


def holder_report(suspect: Suspect, port: Port, ending: Ending | None = None) -> HolderReport:
    """A holder as the report shows it."""
    holder = suspect.holder
    process, starter, found = holder.process, launcher(holder), holder.origin
    origin = found and Origin(found.evidence, found.state, found.id or found.run, holder.test)
    if suspect.verdict.rule == "own-run" and not (found and found.ours):
        origin = Origin("descent", "live", "this run", holder.test)
    return HolderReport(
        pid=process.pid,
        name=process.name,
        command=redact.command_line(process.argv) or process.name,
        user=holder.user,
        uid=process.owner if isinstance(process.owner, int) else None,
        started=process.started,
        cwd=process.cwd,
        launcher=str(starter) if starter else "",
        test=holder.test,
        addresses=tuple(sorted({s.address for s in holder.sockets if s.port == port})),
        root=suspect.root,
        verdict=suspect.verdict,
        ending=ending,
        origin=origin,
        step=holder.mark(CI_STEP),
    )
