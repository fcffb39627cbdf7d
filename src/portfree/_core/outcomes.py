"""What one call has learned of each port and done about it, on the way to its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from portfree._core import redact, unheld
from portfree._core.advice import written
from portfree._core.ancestry import Holder, launcher, named, roots
from portfree._core.ports import Port
from portfree._core.stop import Target, what_became
from portfree._core.survey import Survey
from portfree._system.interface import CI_STEP, System
from portfree.model import HolderReport, Note, Origin, Outcome, Report, Request, Status, Verdict

_Identity = tuple[int, float]
_Said = TypeVar("_Said", Verdict, Note)


class _Page:
    """One port."""

    def __init__(self) -> None:
        self.holders: dict[_Identity, HolderReport] = {}
        self.stopped: list[Holder] = []
        self.notes: list[Note] = []
        """What there is to say about its state now."""
        self.done: list[Note] = []
        """What was done about it besides stopping its holders."""
        self.status: Status = "busy"
        self.rounds = 0
        self.settled_at: float | None = None
        self.would_be_free = False


class Ledger:
    """The pages of one call, a page a port."""

    def __init__(self, request: Request, system: System) -> None:
        self._request = request
        self._system = system
        self._started = system.now()
        self._pages: dict[Port, _Page] = {}

    def rounds(self, port: Port) -> int:
        """How often holders of this port were stopped."""
        return self._page(port).rounds

    def stopped(self, port: Port) -> list[Holder]:
        """The holders of this port that were stopped in earlier rounds."""
        return self._page(port).stopped

    def note(self, port: Port, *notes: Note) -> None:
        known = self._page(port).notes
        known.extend(note for note in notes if note not in known)

    def settle(self, port: Port, status: Status, notes: Iterable[Note] = ()) -> None:
        """A port is free, or will stay busy whatever we do."""
        page = self._page(port)
        page.status = "freed" if status == "free" and page.holders else status
        page.settled_at = self._system.now()
        page.notes = list(notes)

    def reopen(self, ports: Iterable[Port]) -> None:
        """These ports are held: what was said about them in an earlier round is over."""
        for port in ports:
            self._page(port).notes.clear()

    def judged(self, holders: Sequence[Holder], verdicts: Mapping[int, Verdict]) -> None:
        """Who holds what, and the verdicts."""
        top = {holder.pid for holder in roots(holders)}
        for holder in holders:
            for port in holder.ports:
                entries = self._page(port).holders
                entry = holder_report(holder, port, verdicts[holder.pid], root=holder.pid in top)
                known = entries.get(_identity(holder))
                if known is not None and known.ended:
                    entry = entry._replace(ended=known.ended, seconds=known.seconds)
                entries[_identity(holder)] = entry

    def forget(self, holder: Holder) -> None:
        """It has ended by itself, unless something was done about it."""
        for port in holder.ports:
            entries = self._page(port).holders
            entry = entries.get(_identity(holder))
            if entry is not None and not entry.ended:
                del entries[_identity(holder)]

    def tried(self, targets: Sequence[Target]) -> None:
        """What became of those that were to be stopped."""
        tried = set()
        for target in targets:
            ended = what_became(target, polite=self._system.polite)
            for port in target.holder.ports:
                page = self._page(port)
                page.stopped.append(target.holder)
                entry = page.holders.get(_identity(target.holder))
                if entry is None and target.why is not None:  # started after all were judged
                    entry = holder_report(target.holder, port, target.why, root=False)
                # Refused in this round, it may have got a signal in an earlier one: that is told.
                said = entry is not None and entry.ended and target.refused and not target.sent
                if entry is not None and not said:
                    page.holders[_identity(target.holder)] = entry._replace(
                        ended=ended, seconds=target.ended_after
                    )
                tried.add(port)
            for port in target.restarts:
                self._page(port).done.append(_on_supervisor(target, ended))
        for port in tried:
            self._page(port).rounds += 1

    def leave(self, held: Iterable[Port], seen: Survey) -> None:
        """Nothing more is done for these ports: say what else there is to say about them."""
        for port in held:
            unowned = seen.unowned(port)
            if unowned:
                self.note(port, unheld.unowned(self._system, port, unowned))
            page = self._page(port)
            page.would_be_free = (
                bool(page.holders)
                and not unowned
                and all(entry.verdict.action == "stop" for entry in page.holders.values())
            )

    def report(self) -> Report:
        now = self._system.now()
        outcomes = tuple(self._outcome(port, now) for port in self._request.ports)
        return Report(self._request, outcomes, now - self._started)

    def _page(self, port: Port) -> _Page:
        return self._pages.setdefault(port, _Page())

    def _outcome(self, port: Port, now: float) -> Outcome:
        page = self._pages.get(port)
        if page is None:
            return Outcome(port, "free")
        would_do = self._request.dry_run and page.would_be_free
        holders = [
            entry._replace(verdict=self._worded(entry.verdict, port))
            for entry in page.holders.values()
        ]
        notes = [self._worded(note, port) for note in (*page.done, *page.notes)]
        if page.status == "busy" and not holders and not notes:
            notes.append(unheld.unsteady(self._system, port))
        return Outcome(
            port=port,
            status=page.status,
            ok=page.status != "busy" or would_do,
            holders=tuple(holders),
            notes=tuple(notes),
            seconds=(now if page.settled_at is None else page.settled_at) - self._started,
        )

    def _worded(self, said: _Said, port: Port) -> _Said:
        """A verdict or a note, with its advice in words."""
        if said.advice is None:
            return said
        elevate = self._system.elevate() if said.advice.privileged else ""
        text = written(said.advice, self._request.surface, (port,), elevate=elevate)
        return said._replace(instead=text)


def _on_supervisor(target: Target, ended: str) -> Note:
    why = f", {target.why.reason}" if target.why else ""
    text = f"started again by {named(target.holder.process)}{why}: {ended or 'left alone'}"
    return Note("restarted", text)


def _identity(holder: Holder) -> _Identity:
    return holder.process.pid, holder.process.start


def holder_report(
    holder: Holder, port: Port, verdict: Verdict, *, root: bool, ended: str = ""
) -> HolderReport:
    """A holder as the report shows it."""
    process = holder.process
    starter = launcher(holder)
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
        root=root,
        verdict=verdict,
        ended=ended,
        origin=_origin_report(holder, verdict),
        step=holder.mark(CI_STEP),
    )


def _origin_report(holder: Holder, verdict: Verdict) -> Origin | None:
    found = holder.origin
    if verdict.rule == "own-run" and (found is None or not found.ours):
        return Origin("descent", "live", "this run", holder.test)
    if found is None:
        return None
    return Origin(found.evidence, found.state, found.id or found.run, holder.test)
