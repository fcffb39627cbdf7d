"""The caller and its surroundings: all that the rules know besides the holder. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from portfree._core import programs
from portfree._core.ancestry import Holder, launcher, same
from portfree._system.interface import NOTHING, SUDO_UID, XDIST_WORKER, Process
from portfree.model import Port, Scope

Phase = Literal["call", "before", "after"]
"""When portfree acts: when it is called, or as a hook before or after a run."""


class Moment(NamedTuple):
    """When portfree acts, and what is known of the run that is being ended then."""

    phase: Phase = "call"
    ending: str | None = None
    """The element of that run."""
    began: float | None = None
    """When it began, as `Process.start` tells it; None if what came up since may be of another."""
    quiet: Collection[Port] = ()
    """The ports that were free when it began."""


class Neighbour(NamedTuple):
    """A live process, neither the caller nor its ancestor, that may have started a holder: a test
    runner, a CI agent, a process with a CI job's id, or with the command line of a forked holder.
    """

    process: Process
    lineage: tuple[Process, ...] = ()
    project: str | None = None

    @property
    def alone(self) -> bool:
        """Whether it is certain that no process looks after it any more."""
        known = bool(self.lineage) or self.process.ppid is None
        return known and launcher(Holder(self.process, lineage=self.lineage)) is None


class Context(NamedTuple):
    """The caller, what it asks for, and what else goes on."""

    caller: Process
    lineage: tuple[Process, ...] = ()
    """The caller's ancestors, parent first."""
    platform: str = "linux"
    """`sys.platform`."""
    scope: Scope = "orphans"
    phase: Phase = "call"
    owners: frozenset[int | str] = frozenset()
    """The users whose processes are ours: our own or, under sudo, the one that called it."""
    privileged: bool = False
    """Whether the kernel lets us signal all processes."""
    time: float = 0.0
    """The time of day, in seconds since the epoch."""
    home: str = ""
    project: str | None = None
    """The project we work in, as `Holder.project`; never the root or the home directory, which
    would make everything ours."""
    run: tuple[str, ...] = ()
    """The elements of the run id that we live in."""
    ending: str | None = None
    """The element of the run that is being ended."""
    began: float | None = None
    """The `Process.start` at which that run began; None if another run is open in this process, so
    that what came up since may belong to that one."""
    quiet: frozenset[Port] = frozenset()
    """The ports that were free when it began."""
    jobs: Mapping[str, str] = NOTHING
    """The CI job ids that we carry."""
    unit: str | None = None
    """The service that we run in."""
    neighbours: tuple[Neighbour, ...] = ()
    main_service: frozenset[int] = frozenset()
    """The pids of our container's main service, if we entered the container from outside."""

    @property
    def ours(self) -> tuple[Process, ...]:
        """The caller and its ancestors."""
        return (self.caller, *self.lineage)

    def owns(self, holder: Holder) -> bool:
        """Whether a holder is ours. Under sudo, a process of root's is ours only if the same user
        has started it by sudo.
        """
        owner = holder.process.owner
        by_sudo = owner is not None and owner == self.caller.owner
        return owner in self.owners or (by_sudo and holder.mark(SUDO_UID) in map(str, self.owners))

    def is_ours(self, process: Process) -> bool:
        return any(same(process, own) for own in self.ours)

    @property
    def surrounded_here(self) -> bool:
        """Whether the run that ends or begins lies within another one of the same process."""
        return any(element.split(".")[0] == str(self.caller.pid) for element in self.run)

    @property
    def xdist_controller(self) -> Process | None:
        """In a worker of pytest-xdist, the process that started it and its siblings."""
        if XDIST_WORKER not in self.caller.marks:
            return None
        return next((p for p in self.lineage if programs.is_test_runner(p)), None)

    def path(self, path: str | None) -> str:
        """A directory as messages name it."""
        if path is None:
            return "a directory that cannot be read"
        below = path.removeprefix(self.home)
        return f"~{below}" if self.home and below != path and below[:1] in "/\\" else path
