"""Which host is this? Ports belong to a machine and, on Linux, to a network namespace of it.

Complete in itself, and content with an older Python: execnet runs this text on hosts that may not
have portfree. There it says where it is, and is told what is to be in the environment.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path


def identity(root: str = "/") -> tuple[str, str, str, str]:
    """The machine, and the network namespace; then the names of both, for people.

    The first two are equal where the ports are the same ones, and there only. Without namespaces
    the second and the fourth are empty. *root* is where /proc and /run are, for tests.
    """
    name = platform.node()
    try:
        # Unlike the name, the id of a boot (random(4)) is never that of another machine.
        machine = Path(root, "proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path(root, "proc/self/ns/net").stat()
    except OSError:
        return name, "", name, ""
    number = namespace.st_ino
    try:
        # ip-netns(8) names a namespace by a file that is the namespace.
        named = [
            each.name
            for each in Path(root, "run/netns").iterdir()
            if (each.stat().st_dev, each.stat().st_ino) == (namespace.st_dev, number)
        ]
    except OSError:
        named = []
    return machine, str(number), name, named[0] if named else f"net:[{number}]"


if __name__ == "__channelexec__":  # that is, at the other end of an execnet gateway
    channel.send(identity())  # type: ignore[name-defined]  # noqa: F821
    os.environ.update(channel.receive())  # type: ignore[name-defined]  # noqa: F821
