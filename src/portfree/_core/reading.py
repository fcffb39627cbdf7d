"""Reads processes, each of them once, and the projects that they work in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from portfree._system.interface import SUDO_UID, Process, System


class Reader:
    """Reads processes, each of them once."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._known: dict[int, Process | None] = {}

    def process(self, pid: int) -> Process | None:
        if pid not in self._known:
            self._known[pid] = self.system.process(pid)
        return self._known[pid]

    def lineage(self, process: Process) -> tuple[Process, tuple[Process, ...]]:
        """A process and its ancestors, parent first. If its parent ends while we look, it is
        adopted: then the process comes back as it was seen after that.
        """
        ancestors: list[Process] = []
        child = process
        # A pid that passes to another process while we look can close a circle.
        while child.ppid and child.ppid not in {process.pid, *(p.pid for p in ancestors)}:
            parent = self.process(child.ppid)
            if parent is None or (parent.pid != 1 and parent.start > child.start):
                # The parent has ended, or its pid is another's by now: what has adopted the child?
                fresh = self.system.process(child.pid)
                if fresh is None or fresh.start != child.start or fresh.ppid == child.ppid:
                    break
                self._known[child.pid] = child = fresh
                if ancestors:
                    ancestors[-1] = fresh
                else:
                    process = fresh
                continue
            ancestors.append(parent)
            child = parent
        return process, tuple(ancestors)

    def everything(self) -> Iterator[Process]:
        """Every process that can be seen and lives."""
        found = map(self.process, self.system.pids())
        return (process for process in found if process is not None and not process.zombie)


def project_of(folder: str | None) -> str | None:
    """The repository above a directory or, without one, the nearest folder with a pyproject.toml;
    never the root or a home directory, for then every process would be in our project.
    """
    return place_of(folder)[0]


def place_of(folder: str | None) -> tuple[str | None, str | None]:
    """The project that a directory lies in, and the repository if that is one."""
    if folder is None:
        return None, None
    homes, project = {home()}, None
    with suppress(ImportError):  # Windows, where HOME does not count either
        import pwd

        for uid in {os.getuid(), *sudo_user()}:  # HOME may name another one
            with suppress(KeyError, RuntimeError):  # no such user, or a circle of links
                homes.add(Path(pwd.getpwuid(uid).pw_dir).resolve())
    for place in (Path(folder), *Path(folder).parents):
        if place in homes or place == Path(place.anchor):
            break
        # os.path rather than Path: it takes a folder that we may not look into for one without.
        # The .git of a worktree or a submodule is a file.
        if os.path.exists(place / ".git"):  # noqa: PTH110
            return str(place), str(place)
        if project is None and os.path.exists(place / "pyproject.toml"):  # noqa: PTH110
            project = str(place)
    return project, None


def home() -> Path:
    try:
        return Path.home().resolve()
    except RuntimeError:  # no HOME, and no such user
        return Path("/")


def current_folder() -> str | None:
    try:
        return str(Path.cwd().resolve())
    except OSError:  # it has been deleted
        return None


def sudo_user() -> set[int]:
    """The user who called sudo, if we were called that way."""
    caller = os.environ.get(SUDO_UID, "")
    return {int(caller)} if caller.isascii() and caller.isdigit() else set()
