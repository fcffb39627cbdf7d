"""Which container is behind a published port, or around a process, asked of its engine: the process
that holds the port for it tells nothing but that. Docker and Podman have the same command line.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

from portfree._core import programs
from portfree._system.interface import Process, System
from portfree.model import Port

# Seconds: a stuck engine must not hold up a test run. Asked locally, one answers in some 50 ms.
_PATIENCE = 1.0

_COMPOSE = '{{.Label "com.docker.compose.project"}}'
_FORMAT = f"{{{{.Names}}}}\t{{{{.Image}}}}\t{_COMPOSE}\t{{{{.Ports}}}}"

_ID = re.compile("[0-9a-f]{64}")


class _Container(NamedTuple):
    """One line of an answer."""

    name: str
    image: str = ""
    project: str = ""
    ports: str = ""
    """What it publishes: ``127.0.0.1:8000->80/tcp, [::1]:8000->80/tcp``."""

    def __str__(self) -> str:
        of_project = f", compose project {self.project}" if self.project else ""
        return f"{self.name} (image {self.image}{of_project})"

    def publishes(self, address: str, port: Port) -> bool:
        # An IPv6 address stands in brackets or, in older versions, as it is.
        starts = (f"{address}:{port.number}->", f"[{address}]:{port.number}->")
        every, end = self.ports.split(", "), f"/{port.protocol}"
        return any(each.startswith(starts) and each.endswith(end) for each in every)


class _Engines:
    """Asks each question once, and all of them together for no more than a second."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._answers: dict[tuple[str, str], Sequence[_Container] | None] = {}
        self._left = _PATIENCE

    def ask(self, engine: str, which: str) -> Sequence[_Container] | None:
        """The containers that match; None if the engine does not say."""
        if (engine, which) not in self._answers and self._left > 0:
            began = self._system.now()
            command = [engine, "ps", "--no-trunc", "--filter", which, "--format", _FORMAT]
            told = self._system.output(command, self._left)
            self._left -= self._system.now() - began
            if told is not None and "\N{REPLACEMENT CHARACTER}" not in told:  # it is text
                lines = filter(str.strip, told.splitlines())
                self._answers[engine, which] = [_Container(*row.split("\t")[:4]) for row in lines]
            else:
                self._answers[engine, which] = None
        return self._answers.get((engine, which))


_engines = lru_cache(maxsize=2)(_Engines)  # a system lasts as long as a call, or a run


def behind(system: System, process: Process, port: Port) -> str | None:
    """The container for which an engine's process has a port open, or that a process runs in:
    ``"shop-web-1 (image nginx, compose project shop)"``. Empty if no engine can tell, and None if
    the one that published the port knows no such container any more.
    """
    engines = _engines(cast("Hashable", system))
    found: Sequence[_Container] = ()
    if programs.is_container_engine(process):
        engine = "podman" if programs.is_podman(process) else "docker"
        answer = engines.ask(engine, f"publish={port}")
        if answer is not None and not answer:
            return None
        found = answer or ()
    elif process.container and _ID.fullmatch(process.container):
        which = f"id={process.container}"
        found = engines.ask("docker", which) or engines.ask("podman", which) or ()
    if len(found) > 1:  # each of them has the port on an address of its own
        address, _ = programs.published(process) or ("", "")
        found = [container for container in found if container.publishes(address, port)]
    return str(found[0]) if len(found) == 1 else ""
