"""Which container is behind a published port, asked of its engine.

A container engine opens the port on the host and passes on what comes in: the process that holds it
has nothing to tell but the port. Docker and Podman know the rest, through the same command line.
"""

from __future__ import annotations

import time

from portfree.ports import Port
from portfree.system.boundary import Process

# Engines that are stuck must not hold up a test run, however many ports they publish; asked
# locally, one answers in some 50 ms.
_PATIENCE = 1.0

_COMPOSE = '{{.Label "com.docker.compose.project"}}'
_FORMAT = f"{{{{.Names}}}}\t{{{{.Image}}}}\t{_COMPOSE}"
_OF_PODMAN = ("podman", "conmon", "rootlessport", "containers-root", "slirp4netns", "pasta")


class Engines:
    """Asks each question once, and all of them together for no more than a second."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, Port], str] = {}
        self._left = _PATIENCE

    def container_behind(self, process: Process, port: Port) -> str:
        """The container's name, image and compose project; empty if no engine can tell."""
        engine = "podman" if process.name.lower().startswith(_OF_PODMAN) else "docker"
        if (engine, port) not in self._answers:
            if self._left <= 0:
                return ""
            started = time.monotonic()
            self._answers[engine, port] = _ask(engine, port, self._left)
            self._left -= time.monotonic() - started
        return self._answers[engine, port]


def _ask(engine: str, port: Port, patience: float) -> str:
    import subprocess  # hardly any held port is a container's, and this loads threads and selectors

    command = [engine, "ps", "--filter", f"publish={port}", "--format", _FORMAT]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return ""
    if answer.returncode != 0 or not answer.stdout.strip():
        return ""
    name, image, project = (*answer.stdout.splitlines()[0].split("\t"), "", "")[:3]
    of_project = f", compose project {project}" if project else ""
    return f"{name} (image {image}{of_project})"
