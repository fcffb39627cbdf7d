"""Which container is behind a published port, asked of its engine.

A container engine opens the port on the host and passes on what comes in: the process that holds it
has nothing to tell but the port. Docker and Podman know the rest, through the same command line.
"""

from __future__ import annotations

import subprocess

from portfree.ports import Port
from portfree.system.boundary import Process

# An engine that is stuck must not hold up a test run; asked locally it answers in some 50 ms.
_PATIENCE = 1.0

_COMPOSE = '{{.Label "com.docker.compose.project"}}'
_FORMAT = f"{{{{.Names}}}}\t{{{{.Image}}}}\t{_COMPOSE}"
_OF_PODMAN = ("podman", "conmon", "rootlessport", "containers-root", "slirp4netns", "pasta")


def container_behind(process: Process, port: Port) -> str:
    """The container's name, image and compose project; empty if no engine can tell."""
    engine = "podman" if process.name.lower().startswith(_OF_PODMAN) else "docker"
    command = [engine, "ps", "--filter", f"publish={port}", "--format", _FORMAT]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return ""
    if answer.returncode != 0 or not answer.stdout.strip():
        return ""
    name, image, project = (*answer.stdout.splitlines()[0].split("\t"), "", "")[:3]
    of_project = f", compose project {project}" if project else ""
    return f"{name} (image {image}{of_project})"
