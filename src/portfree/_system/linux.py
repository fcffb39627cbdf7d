"""Linux: sockets from the kernel, processes from /proc, signals through pidfds (pidfd_open(2))."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Collection, Hashable, Iterable, Iterator
from contextlib import ExitStack

from portfree._system import proc, proc_net, sock_diag
from portfree._system.common import CommonSystem, ends
from portfree._system.interface import Owners, Pin, Process, Signal, Socket
from portfree._system.probe import PROBING, dual_stack_bind
from portfree.model import Port


class LinuxSystem(CommonSystem):
    """The `System` of Linux."""

    name = "linux"
    bind = staticmethod(dual_stack_bind)
    moment = staticmethod(proc.moment)
    newest = staticmethod(proc.newest)

    def __init__(self, root: str = "/proc") -> None:
        self._proc = root
        try:
            _, self._own_depth = proc.identity(f"{root}/self")
            self._own_container = proc.container(proc.text(f"{root}/self/cgroup"))
        except OSError:  # then every process seems to live in another container, and is kept
            self._own_depth, self._own_container = 0, "?"

    @property
    def namespace(self) -> str:
        return proc.namespace(self._proc)

    def sockets(self, ports: Collection[Port], *, connections: bool = False) -> list[Socket]:
        with PROBING:
            try:
                return sock_diag.dump(ports, connections=connections)
            except OSError:
                return proc_net.read(ports, connections=connections)

    def listeners(self) -> list[Socket]:
        try:
            return sock_diag.listeners()
        except OSError:
            return proc_net.listeners()

    @property
    def lists_quickly(self) -> bool:
        try:
            sock_diag.listeners()
        except OSError:
            return False
        return True

    def owners(self, ids: Collection[Hashable]) -> Owners:
        wanted = {f"socket:[{id_}]": id_ for id_ in ids}
        pids: dict[Hashable, frozenset[int]] = {}
        unreadable = 0
        for pid in self.pids():
            try:
                for link in filter(wanted.__contains__, self._descriptors(pid)):
                    pids[wanted[link]] = pids.get(wanted[link], frozenset()) | {pid}
            except PermissionError:
                unreadable += 1
        return Owners(pids, unreadable)

    def holds(self, pid: int, ids: Collection[Hashable]) -> bool:
        wanted = {f"socket:[{id_}]" for id_ in ids}
        try:
            return not wanted.isdisjoint(self._descriptors(pid))
        except OSError:
            return False

    def peers(self, pid: int, *, but: Collection[Hashable] = ()) -> frozenset[int]:
        try:
            own = {link for link in self._descriptors(pid) if link.startswith("socket:")}
            own.difference_update(f"socket:[{id_}]" for id_ in but)
            connections = sock_diag.connections() if own else []
        except OSError:
            return frozenset()
        # The far end of a connection is the one whose own address is this one's peer.
        both = [(found.id, *ends(found)) for found in connections if found.id]
        wanted = {(far, near) for id_, near, far in both if f"socket:[{id_}]" in own}
        others = {id_ for id_, near, far in both if (near, far) in wanted and near != far}
        seen = self.owners(others).pids.values() if others else ()
        return frozenset().union(*seen) - {pid}

    def _descriptors(self, pid: int) -> Iterator[str]:
        """What its descriptors point to (``socket:[4711]``); PermissionError if they are hidden."""
        folder, numbers = f"{self._proc}/{pid}", []
        try:
            try:
                numbers = os.listdir(f"{folder}/fd")
            except PermissionError:
                # Those of a dead main thread belong to root, whatever user the process belongs to.
                ours = os.stat(folder).st_uid == os.geteuid()
                if not ours or self._living_thread(pid) is None:
                    raise
            if not numbers and (thread := self._living_thread(pid)) is not None:
                # A main thread that has ended takes its view of the descriptors along, while the
                # other threads keep them open: then only /proc/PID/task/*/fd shows them.
                folder, numbers = thread, os.listdir(f"{thread}/fd")
        except proc.GONE:
            return
        yield from proc.targets(f"{folder}/fd", numbers)

    def _living_thread(self, pid: int) -> str | None:
        """The folder of a thread that outlives its main thread; None if there is none."""
        folder = f"{self._proc}/{pid}/task"
        try:
            if os.stat(folder).st_nlink <= 3:  # two that every folder has, and the main thread's
                return None
            threads = os.listdir(folder)
        except proc.NOT_SHOWN:
            return None
        stats = ((name, proc.read_stat(f"{folder}/{name}/stat")) for name in threads)
        return next((f"{folder}/{name}" for name, stat in stats if stat and not stat.ended), None)

    def pids(self) -> Iterable[int]:
        try:
            return [int(name) for name in os.listdir(self._proc) if name.isdigit()]
        except proc.NOT_SHOWN:
            return []

    def exists(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)  # signal 0 only asks (kill(2)); it also finds what hidepid hides
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def process(self, pid: int) -> Process | None:
        folder = f"{self._proc}/{pid}"
        stat = proc.read_stat(f"{folder}/stat")
        if stat is None:
            return None
        owner, depth = proc.identity(folder)
        if stat.ended and not stat.zombie:
            # A main thread that has ended takes these along as well.
            folder = self._living_thread(pid) or folder
        argv, marks, environment, complete = proc.given(folder)
        cgroup = proc.text(f"{folder}/cgroup")
        container = proc.container(cgroup)
        foreign = depth > self._own_depth or container != self._own_container
        running_for = time.clock_gettime(time.CLOCK_BOOTTIME) - stat.start / proc.TICKS
        return Process(
            pid=pid,
            ppid=stat.ppid,
            start=stat.start,
            name=stat.name,
            argv=argv,
            owner=owner,
            started=time.time() - running_for,
            cwd=proc.directory(f"{folder}/cwd"),
            session=stat.session,
            terminal=stat.terminal,
            foreground=stat.foreground,
            zombie=stat.zombie,
            marks=marks,
            environment=environment,
            forked=stat.forked,
            stopped=stat.stopped,
            running=stat.running,
            complete=complete,
            unit=proc.unit(cgroup),
            container=(container or "?") if foreign else None,
            control_group=cgroup or None,
        )

    def pin(self, process: Process) -> Pin | None:
        if os.readlink(f"{self._proc}/self") != str(os.getpid()):
            # unshare --pid without a /proc of its own: a pid means one process there, and another
            # one to the kernel when we ask.
            raise PermissionError(errno.EPERM, "/proc shows another pid namespace than ours")
        path = f"{self._proc}/{process.pid}/stat"
        descriptor = None
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            # A kernel before 5.3, or a sandbox that knows no pidfds: the start time is checked
            # before every signal instead.
        pin = _Pin(process.pid, path, process.start, descriptor)
        with ExitStack() as cleanup:
            cleanup.callback(pin.close)
            # The pid may have passed to another process before it was pinned.
            stat = proc.read_stat(path)
            if stat is None or stat.start != process.start:
                return None
            cleanup.pop_all()
        return pin

    def wait(self, pins: Collection[Pin], timeout: float) -> None:
        poll = select.poll()
        for pin in pins:
            if isinstance(pin, _Pin) and pin.descriptor is not None:
                poll.register(pin.descriptor, select.POLLIN)
            else:  # nothing tells of its end: look again soon
                timeout = min(timeout, 0.01)
        poll.poll(max(0.0, timeout) * 1000)  # a negative timeout would last for ever


class _Pin:
    """A process held by a pidfd, which never comes to mean another process; where there is none, by
    its pid and start, compared before each signal.
    """

    def __init__(self, pid: int, path: str, start: float, descriptor: int | None = None) -> None:
        self.pid = pid
        self.descriptor = descriptor
        self._path, self._start = path, start

    def alive(self) -> bool:
        if self.descriptor is None:
            stat = proc.read_stat(self._path)
            return stat is not None and not stat.zombie and stat.start == self._start
        # Readable once the process has ended with all its threads, reaped or not (pidfd_open(2)).
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return not poll.poll(0)

    def send(self, signal_: Signal) -> bool:
        number = signal.Signals[f"SIG{signal_}"]
        try:
            if self.descriptor is not None:
                signal.pidfd_send_signal(self.descriptor, number)
                return True
            alive = self.alive()
            if alive:
                os.kill(self.pid, number)
            return alive
        except ProcessLookupError:
            return False

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
