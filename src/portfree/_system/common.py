"""What all systems have in common."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Sequence

from portfree._system.interface import KEPT_VARIABLES, MEANINGFUL_IF_EMPTY, Lock, Socket


class CommonSystem:
    """The part of a `System` that is the same everywhere, but for Windows."""

    polite = True

    @property
    def privileged(self) -> bool:
        return os.geteuid() == 0

    def elevate(self) -> str:
        import shutil  # loads three compressors, 2 ms, for a word that few reports need

        return "sudo " if shutil.which("sudo") else "as root: "

    def user(self, owner: int | str | None) -> str:
        if not isinstance(owner, int):
            return owner or "?"
        import pwd  # there is none on Windows, where owners are texts

        try:
            return pwd.getpwuid(owner).pw_name
        except KeyError:
            return str(owner)

    def lock(self, folder: str) -> Lock | bool:
        path = f"{folder}/.lock"
        try:
            with open(path, "rb") as file:
                text, made = file.read(32), os.fstat(file.fileno()).st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return os.path.isdir(folder)
        if not text.isdigit():
            raise OSError(errno.EBADMSG, "not a lock of pytest", path)
        return Lock(int(text), made)

    def output(self, argv: Sequence[str], timeout: float) -> str | None:
        import subprocess  # 3 ms, with its threads and selectors, and Linux mostly needs no program

        try:
            none = subprocess.DEVNULL
            told = subprocess.check_output(argv, stdin=none, stderr=none, timeout=timeout)
        except (OSError, subprocess.SubprocessError):
            return None
        return told.decode(errors="replace")

    def now(self) -> float:
        return time.monotonic()


def kept(environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The `KEPT_VARIABLES` of an environment that say something."""
    known = ((name, value) for name, value in environment if name in KEPT_VARIABLES)
    return {name: value for name, value in known if value or name in MEANINGFUL_IF_EMPTY}


def endpoint(host: str, port: int | str) -> str:
    """``192.0.2.7:443`` or ``[::1]:443`` (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ends(socket: Socket) -> tuple[str, str]:
    """The near end and the far end of a connection, as its other socket has them the other way
    round: an IPv4 address that IPv6 has mapped (RFC 4291, 2.5.5.2) is written as IPv4 writes it.
    """
    return endpoint(unmapped(socket.address), socket.port.number), unmapped(socket.peer)


def unmapped(address: str) -> str:
    """An address, with a port or without, that was mapped to IPv6, as IPv4 writes it."""
    host, _, port = address.removeprefix("[").partition("]")
    if not host.startswith("::ffff:") or "." not in host:
        return address
    return host.removeprefix("::ffff:") + port
