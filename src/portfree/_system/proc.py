"""What /proc tells of a process: proc(5), cgroups(7), pid_namespaces(7), time_namespaces(7)."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from portfree._system.common import kept
from portfree._system.interface import Environment

TICKS = os.sysconf("SC_CLK_TCK")

# What becomes of a look at a process that goes away meanwhile.
GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)
# What is gone or hidden is not there for us. Any other error (no descriptor or no memory left) says
# nothing, and must not pass for "there is no such process", which might have been one to spare.
NOT_SHOWN = (*GONE, PermissionError)

_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO in linux/proc_ns.h
_FIRST_TIME_NAMESPACE = 0xEFFFFFFA  # PROC_TIME_INIT_INO
_PF_FORKNOEXEC = 0x40  # linux/sched.h: "Forked but didn't exec"

# Container engines put the container's id, 64 hexadecimal digits, in the cgroup's name; LXC and
# systemd-nspawn put its name there.
_CONTAINER = re.compile(
    r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])|/lxc(?:\.payload)?[./]([^/]+)|/machine-([^/]+)\.scope"
)
_VARIABLE = re.compile(rb"[^=\0]+=")


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that we use."""

    name: str
    ended: bool
    """Whether this thread has ended; a process, only if no other thread of it lives."""
    zombie: bool
    stopped: bool
    running: bool
    forked: bool
    ppid: int
    session: int
    terminal: str | None
    foreground: bool
    start: int


def read_stat(path: str) -> Stat | None:
    # The name stands in brackets and may itself hold brackets and spaces.
    _, _, rest = (read(path) or b"").partition(b"(")
    name, _, fields = rest.rpartition(b")")
    try:
        state, ppid, group, session, terminal, foreground, flags, *more = fields.split()
        ended = state in (b"Z", b"X")
        return Stat(
            name=os.fsdecode(name),
            ended=ended,
            zombie=ended and int(more[10]) <= 1,  # field 20: num_threads
            stopped=state in (b"T", b"t"),
            running=state == b"R",
            forked=bool(int(flags) & _PF_FORKNOEXEC),
            ppid=int(ppid),
            session=int(session),
            terminal=_terminal(int(terminal)),
            foreground=int(terminal) != 0 and group == foreground,
            start=int(more[12]),  # field 22: starttime
        )
    except (ValueError, IndexError):
        return None  # nothing that Linux writes, so nothing that we know


def _terminal(device: int) -> str | None:
    """The name of a terminal from its device number (Documentation/admin-guide/devices.txt)."""
    major, minor = os.major(device), os.minor(device)
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return f"terminal {major}:{minor}" if device else None


def given(folder: str) -> tuple[tuple[str, ...], dict[str, str], Environment, bool]:
    """What a process was started with: `argv`, `marks`, `environment`, `complete` of `Process`."""
    argv, environ = read(f"{folder}/cmdline"), read(f"{folder}/environ")
    # Programs that set their title (setproctitle, nginx) overwrite argv with one text and pad it.
    words = (argv or b"").rstrip(b"\0")
    variables = (os.fsdecode(line) for line in (environ or b"").split(b"\0") if b"=" in line)
    state: Environment = "unreadable"
    if environ is not None:
        # A title that is longer than the old command line runs on into the environment, and may
        # leave some of it behind: the environment that a process was given begins with a variable.
        state = "read" if _VARIABLE.match(environ) else "wiped"
    marks = kept((name, value) for name, _, value in (v.partition("=") for v in variables))
    # Only a process that is just ending has neither: some kernels show nothing then.
    complete = None not in (argv, environ) and bool(argv or environ)
    return tuple(map(os.fsdecode, words.split(b"\0"))) if words else (), marks, state, complete


def identity(folder: str) -> tuple[int | None, int]:
    """The real uid, and how many pid namespaces deep the process lives (1: the first one)."""
    owner, depth = None, 1
    for line in text(f"{folder}/status").splitlines():
        if line.startswith("Uid:"):
            owner = int(line.split()[1])
        elif line.startswith("NSpid:"):
            depth = len(line.split()) - 1
    return owner, depth


def directory(path: str) -> str | None:
    """The working directory; one that was removed by the path that it had."""
    try:
        target = os.readlink(path)
    except OSError:
        return None
    # d_path() in the kernel's fs/d_path.c says so of a folder that is gone; one may be called so.
    gone = target.removesuffix(" (deleted)")
    return target if gone == target or os.path.lexists(target) else gone


def container(cgroup: str) -> str | None:
    for line in cgroup.splitlines():
        names: list[str] = [name for found in _CONTAINER.findall(line) for name in found if name]
        if names:
            return names[-1]  # the innermost one: containers run in containers
    return None


def unit(cgroup: str) -> str | None:
    """The leaf unit of systemd, if it is a service. The line of the unified hierarchy starts with
    ``0::``; on a machine that has only the old one, systemd's own starts with ``1:name=systemd:``.
    """
    kinds = (".service", ".scope", ".slice")
    for line in cgroup.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        units = [part for part in path.split("/") if part.endswith(kinds)]
        if controllers in ("", "name=systemd") and units:
            return units[-1] if units[-1].endswith(".service") else None
    return None


def namespace(proc: str = "/proc") -> str:
    """See `System.namespace`; ``"?"`` if it is not told."""
    try:
        inode = os.stat(f"{proc}/self/ns/pid").st_ino
    except OSError:
        return "?"
    pids = "" if inode == _FIRST_PID_NAMESPACE else str(inode)
    try:
        inode = os.stat(f"{proc}/self/ns/time").st_ino
    except OSError:  # a kernel before 5.6, which has no other
        return pids
    return pids if inode == _FIRST_TIME_NAMESPACE else f"{pids}t{inode}"


def moment() -> int:
    """The present time in ticks since boot, the unit of `Stat.start`."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS)


def newest() -> int:
    """The pid that was given last in our namespace (proc(5), the last field of loadavg)."""
    with open("/proc/loadavg", "rb") as file:
        return int(file.read().split()[-1])


def targets(folder: str, names: Iterable[str]) -> Iterator[str]:
    """What these links in a folder point to, but for those that are gone."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except GONE:
        return
    try:
        for name in names:
            try:
                # Relative to the folder: to walk from the root each time takes a fifth longer.
                yield os.readlink(name, dir_fd=opened)
            except GONE:
                continue
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:  # a file's path; that of a socket is short
                    raise
    finally:
        os.close(opened)


def read(path: str) -> bytes | None:
    """A file of /proc; None if it is gone, or may not be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except NOT_SHOWN:
        return None


def text(path: str) -> str:
    return os.fsdecode(read(path) or b"")
