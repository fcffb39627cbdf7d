"""What one call did: frozen values, ready to be shown (`render`) or asked.

Named tuples rather than dataclasses: a call that finds every port free builds these, and importing
dataclasses would cost it more than all its work. And no ``from __future__ import annotations``: a
named tuple compiles each annotation that is a text, and the first one takes Python a millisecond.
"""

from typing import Literal, NamedTuple

Protocol = Literal["tcp", "udp"]
Surface = Literal["library", "command", "pytest", "tox", "action"]
Scope = Literal["orphans", "project", "mine", "any"]
OnBusy = Literal["warn", "fail"]
Status = Literal["free", "freed", "busy"]
Action = Literal["stop", "keep"]
Leaks = Literal["ignore", "warn", "stop", "fail"]

SCOPES: tuple[Scope, ...] = ("orphans", "project", "mine", "any")
ON_BUSY: tuple[OnBusy, ...] = ("warn", "fail")
LEAKS: tuple[Leaks, ...] = ("ignore", "warn", "stop", "fail")


class Port(NamedTuple):
    """A port number (1 to 65535) and its protocol, ``"tcp"`` or ``"udp"``."""

    number: int
    protocol: Protocol = "tcp"

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol}"


class Advice(NamedTuple):
    """What would help, besides another port for the tests."""

    do: str = ""
    """What to do elsewhere, in words, such as ``"stop it there"``; empty: wait for a live run."""
    scope: Scope = "any"
    """The narrowest scope that takes the holder in."""
    privileged: bool = False
    """Whether it takes other rights than the caller has, besides."""


class Verdict(NamedTuple):
    """Whether a holder may be stopped, and why."""

    action: Action
    rule: str
    """The rule that decided: ``self``, ``own-run``, ``container``, ``protected``, ``unknown``,
    ``other-user``, ``live-run``, ``left-behind``, ``service``, ``orphan``, ``mine`` or
    ``attended``."""
    reason: str
    """The proof, or what stood in the way, in words."""
    instead: str = ""
    """For a holder that is kept: what to do instead."""
    advice: Advice | None = None
    """The same as data, where a setting of portfree would help."""


class Origin(NamedTuple):
    """The run that a holder was born in, as far as something shows it."""

    evidence: str
    """What shows it: ``descent``, ``id``, ``mark``, ``copy``, ``folder``, ``arrival`` or
    ``unreadable``."""
    state: str
    """Whether that run is ``live`` or has ``ended``."""
    run: str
    """The run: a run id, or what is known of it, such as ``"pytest (pid 77)"``."""
    test: str
    """The test that it was born in; empty if that is not known."""


class Ending(NamedTuple):
    """What became of a process that was to be stopped."""

    how: Literal[
        "ended", "by-itself", "with-parent", "terminated", "let-go", "refused", "remains", "goes-on"
    ]
    """``ended`` after a signal; ``by-itself`` before one; ``with-parent``: with the process that
    started it; ``terminated``, where no signal is polite (Windows); ``let-go``: it has closed its
    socket and finishes its work; ``refused``: the system let us send no signal; ``remains``: it
    still holds the port; ``goes-on``: a supervisor that outlasts its signals."""
    signals: tuple[str, ...] = ()
    """What was sent, in order, such as ``("SIGTERM", "SIGINT")``."""
    seconds: float | None = None
    """From the first signal until it had ended or let go; None if it did neither."""
    error: str = ""
    """Why a signal was refused, in the system's words."""


class HolderReport(NamedTuple):
    """One holder of a port, the verdict on it, and what became of it.

    Texts are as the system had them, but for secrets, which are masked; `render` makes them safe
    for a terminal.
    """

    pid: int
    name: str
    command: str
    """The command line, with what looks like a password, a token or a key masked."""
    user: str
    uid: int | None
    started: float | None
    """When it started, in seconds since the epoch; None if that is not known."""
    cwd: str | None
    launcher: str
    """Who started it and still looks after it, such as ``"zsh (pid 9) on pts/3"``; empty if nobody
    does."""
    test: str
    """The test that it was born in, as pytest names it: ``"tests/test_api.py::test_x (setup)"``."""
    addresses: tuple[str, ...]
    """The local addresses of its sockets on this port, such as ``("127.0.0.1", "::1")``."""
    root: bool
    """Whether no ancestor of it holds the same port: root holders are judged, the others follow."""
    verdict: Verdict
    ending: Ending | None = None
    """What became of it; None if it was not touched."""
    origin: Origin | None = None
    """The run that it was born in; None if nothing shows that it was born in one."""
    step: str = ""
    """The step of a GitHub Actions job that it was born in: its id, or ``__run_2`` and the like."""


class Note(NamedTuple):
    """Something about a port that no holder explains."""

    kind: str
    """``closing``, ``draining``, ``outgoing``, ``privileged``, ``invisible``, ``restarted``, …"""
    text: str
    instead: str = ""
    """What to do about it; empty if nothing needs to be done."""
    advice: Advice | None = None
    """The same as data, where a setting of portfree would help."""
    ending: Ending | None = None
    """What became of the process that the note is about, if it was to be stopped."""


class Outcome(NamedTuple):
    """What became of one port."""

    port: Port
    status: Status
    """``free``: it was free already. ``freed``: it was held, and was then seen free. ``busy``: it
    still is (always, for a held port, in a dry run)."""
    ok: bool = True
    """Whether the port can be used now; in a dry run: whether it could be, without the dry run."""
    holders: tuple[HolderReport, ...] = ()
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0
    """How long it took until the port was free, or until portfree gave up, in seconds."""


class Request(NamedTuple):
    """What was asked for."""

    ports: tuple[Port, ...]
    scope: Scope = "orphans"
    grace: float = 3.0
    wait: float = 0.0
    on_busy: OnBusy = "warn"
    dry_run: bool = False
    leaks: Leaks = "warn"
    """What a run does about listeners on other ports that it leaves behind."""
    leaks_ignore: tuple[str, ...] = ()
    """Ports and program patterns of listeners that may be left: ``"5037"``, ``"gradle*"``."""
    surface: Surface = "library"
    """Where it was asked for: in the words of that is what to do instead."""

    @property
    def strict(self) -> bool:
        """Whether a run without what was asked for must not end green."""
        return "fail" in (self.on_busy, self.leaks)


class Leak(NamedTuple):
    """A listener on a port that nobody asked about, which a run has left behind."""

    address: str
    """Where it listens, such as ``"127.0.0.1"``."""
    port: Port
    holder: HolderReport
    own: bool = False
    """Whether it is the process that opened the run itself: then it is never stopped."""
    test: str = ""
    """The test that has left it, as pytest names it; empty if that is not known."""
    fixture: str = ""
    """The fixture, of a wider scope than one test, that the test has set up for it."""
    server: str = ""
    """For one in the process itself: what listens there, ``"HTTPServer in thread Thread-1"``."""


class Report(NamedTuple):
    """The outcomes of one call, in the order in which the ports were asked for."""

    request: Request
    outcomes: tuple[Outcome, ...]
    seconds: float = 0.0
    """How long the whole call took, in seconds."""

    @property
    def ok(self) -> bool:
        """Whether every port can be used now; in a dry run: whether it could be, without it."""
        return all(outcome.ok for outcome in self.outcomes)

    @property
    def freed(self) -> tuple[Port, ...]:
        """The ports that were held and are free now."""
        return tuple(outcome.port for outcome in self.outcomes if outcome.status == "freed")

    @property
    def busy(self) -> tuple[Port, ...]:
        """The ports that are still busy."""
        return tuple(outcome.port for outcome in self.outcomes if outcome.status == "busy")
