"""The `System` of Linux: on the real kernel, and on a staged /proc where that one never errs."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("the Linux backend", allow_module_level=True)

from portfree import free_ports
from portfree._core.survey import survey
from portfree._system import linux
from portfree._system.interface import Owners, Pin, Process, Signal
from portfree._system.linux import LinuxSystem
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SLEEP = "import sys; print(flush=True); sys.stdin.read()"

DEAD_LEADER = """
import ctypes, socket, sys, threading
sock = socket.socket()
sock.bind(("127.0.0.1", 0))
sock.listen()
print(sock.getsockname()[1], flush=True)
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python programs that live until they are killed, or their input ends."""
    children: list[subprocess.Popen[str]] = []

    def start(code: str = SLEEP, **options: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **options},
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def ready(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


def port_of(sock: socket.socket) -> Port:
    return Port(sock.getsockname()[1])


def pinned(system: LinuxSystem, pid: int) -> Pin:
    process = system.process(pid)
    assert process is not None
    pin = system.pin(process)
    assert pin is not None
    return pin


# Sockets and their owners


def test_a_listener_and_who_has_it_open(listener: socket.socket) -> None:
    system = LinuxSystem()
    (found,) = system.sockets([port_of(listener)])
    assert system.owners([found.id]).pids == {found.id: {os.getpid()}}
    assert system.holds(os.getpid(), [found.id])
    assert not system.holds(os.getpid(), [1])
    assert not system.holds(os.getppid(), [found.id])
    assert found in system.listeners()


def test_everybody_who_has_inherited_a_socket(
    listener: socket.socket, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    listener.set_inheritable(True)
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", SLEEP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[listener.fileno()],
    )
    other = spawn()
    try:
        ready(child)
        ready(other)
        system = LinuxSystem()
        (found,) = system.sockets([port_of(listener)])
        assert system.owners([found.id]).pids == {found.id: {os.getpid(), child.pid}}
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EPROTONOSUPPORT, errno.EMFILE])
def test_where_netlink_is_refused_the_text_is_read(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    real = socket.socket

    def refuse(family: int, *how: int) -> socket.socket:
        if family == socket.AF_NETLINK:
            raise OSError(refusal, os.strerror(refusal))
        return real(family, *how)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        (found,) = LinuxSystem().sockets([port_of(listener)])
        everything = LinuxSystem().listeners()
    assert found.id == os.fstat(listener.fileno()).st_ino
    assert found in everything


def test_a_bind_says_whether_the_port_is_free(listener: socket.socket) -> None:
    port = port_of(listener)
    assert LinuxSystem().bind(port) == "in-use"
    assert LinuxSystem().bind(port, reuse=True) == "in-use"
    listener.close()
    assert LinuxSystem().bind(port) == "free"


# A main thread that has ended before the others


def test_a_thread_that_outlives_its_main_thread_is_a_holder(
    spawn: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = spawn(DEAD_LEADER, NOX_CURRENT_SESSION="tests-3.11")
    port = Port(int(ready(child)))
    until(lambda: " Z " in Path(f"/proc/{child.pid}/stat").read_text())
    system = LinuxSystem()
    (found,) = system.sockets([port])
    assert system.owners([found.id]).pids == {found.id: {child.pid}}
    assert system.holds(child.pid, [found.id])

    process = system.process(child.pid)
    assert process is not None
    assert not process.zombie
    # What the main thread has taken along is read from the others.
    assert process.complete
    assert process.argv[-1] == DEAD_LEADER
    assert process.marks["NOX_CURRENT_SESSION"] == "tests-3.11"
    assert process.cwd == os.getcwd()  # noqa: PTH109

    # To its own user the kernel refuses that of the main thread, not that of the others.
    real = os.listdir

    def refuse(path: str) -> list[str]:
        if path == f"/proc/{child.pid}/fd":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        assert system.owners([found.id]).pids == {found.id: {child.pid}}

    pin = pinned(system, child.pid)
    assert pin.alive()
    assert pin.send("KILL")
    until(lambda: not pin.alive())
    pin.close()
    assert not system.holds(child.pid, [found.id])


def test_such_a_server_is_stopped(
    spawn: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFREE_BACKEND", "linux")
    child = spawn(DEAD_LEADER)
    port = int(ready(child))
    report = free_ports(port, scope="mine")
    assert report.freed == (Port(port),)
    assert child.wait(10) == -signal.SIGTERM


def test_a_zombie_is_one(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    child = spawn()
    ready(child)
    system = LinuxSystem()
    before = system.process(child.pid)
    assert before is not None
    assert not before.zombie
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    after = system.process(child.pid)
    assert after is not None
    assert after.zombie
    assert after.start == before.start
    assert system.start(child.pid) is None
    child.wait()
    assert system.process(child.pid) is None
    assert system.start(child.pid) is None
    assert system.pin(before) is None


# Pins


def test_a_pin_and_its_end(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    system, child = LinuxSystem(), spawn()
    ready(child)
    pin = pinned(system, child.pid)
    assert pin.pid == child.pid
    assert pin.alive()
    started = time.monotonic()
    system.wait([pin], 0.01)
    assert time.monotonic() - started >= 0.009
    assert pin.send("TERM")
    system.wait([pin], 30.0)  # returns when it has ended, reaped or not
    assert time.monotonic() - started < 20
    assert not pin.alive()
    child.wait()
    assert not pin.send("KILL")
    pin.close()


def test_signals_of_all_kinds_go_through_a_pin(
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    code = """
import signal, sys
for name in ("SIGTERM", "SIGINT", "SIGCONT"):
    signal.signal(getattr(signal, name), lambda got, _: print(signal.Signals(got).name, flush=True))
print(flush=True)
sys.stdin.read()
"""
    child = spawn(code)
    ready(child)
    pin = pinned(LinuxSystem(), child.pid)
    polite: tuple[Signal, ...] = ("TERM", "INT", "CONT")
    for name in polite:
        assert pin.send(name)
        assert ready(child) == f"SIG{name}"
    pin.close()


def test_a_process_that_was_seen_at_another_time_is_not_pinned(
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    child = spawn()
    ready(child)
    fds = os.listdir("/proc/self/fd")  # noqa: PTH208
    stale = Process(pid=child.pid, ppid=1, start=1, name="x")
    assert LinuxSystem().pin(stale) is None
    assert os.listdir("/proc/self/fd") == fds  # noqa: PTH208


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_without_pidfds_the_start_time_is_checked_before_every_signal(
    spawn: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    system, child = LinuxSystem(), spawn()
    ready(child)
    pin = pinned(system, child.pid)
    assert pin.pid == child.pid
    assert pin.alive()
    started = time.monotonic()
    system.wait([pin], 5.0)  # nothing to wait for: look again soon
    assert time.monotonic() - started < 1
    assert pin.send("TERM")
    until(lambda: not pin.alive())  # though nobody has reaped it
    assert not pin.send("KILL")
    child.wait()
    assert not pin.alive()
    pin.close()


def test_such_a_pin_does_not_reach_a_recycled_pid(
    spawn: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    system, child = LinuxSystem(), spawn()
    ready(child)
    stale = linux._TicksPin(system, child.pid, 1)
    assert not stale.alive()
    assert not stale.send("KILL")
    assert child.poll() is None
    # And if it ends between the look and the signal, there is nobody to reach.
    racing = linux._TicksPin(system, child.pid, system.start(child.pid) or 0)

    def gone(pid: int, _: int) -> None:
        raise ProcessLookupError(pid)

    monkeypatch.setattr(os, "kill", gone)
    assert not racing.send("TERM")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_holder_that_cannot_be_pinned_for_want_of_descriptors_is_kept(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with survey(LinuxSystem(), [port_of(listener)]) as seen:
        assert [(h.pid, h.pinned) for h in seen.holders] == [(os.getpid(), False)]
        assert seen.pins == []


def test_a_program_without_a_descriptor_left_gets_a_report_all_the_same(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFREE_BACKEND", "linux")
    port = port_of(listener)
    free_ports(port.number)  # whatever is loaded late is loaded now
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        report = free_ports(port.number, scope="any")
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (outcome,) = report.outcomes
    assert outcome.status == "busy"
    assert [note.kind for note in outcome.notes] == ["untested"]


def test_a_signal_that_the_kernel_refuses(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be refused as somebody else")
    child = spawn()
    ready(child)
    pin = pinned(LinuxSystem(), child.pid)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # as nobody, who may not signal root's processes
        said = b"sent"
        try:
            os.setresuid(65534, 65534, 65534)
            pin.send("TERM")
        except PermissionError:
            said = b"refused"
        finally:
            os.write(writer, said)
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 10) == b"refused"
    os.close(reader)
    os.close(writer)
    pin.close()
    assert child.poll() is None


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"
)
def test_a_proc_of_another_pid_namespace_pins_nobody() -> None:
    # There pid 1 is the init of the machine in /proc, and this very process to the kernel.
    code = (
        "import os\n"
        "from portfree._system.linux import LinuxSystem\n"
        "system = LinuxSystem()\n"
        "try:\n"
        "    print(os.getpid(), system.pin(system.process(os.getpid())))\n"
        "except PermissionError as error:\n"
        "    print(os.getpid(), error.strerror)\n"
    )
    unshared = ["unshare", "--pid", "--fork", sys.executable, "-c", code]
    done = subprocess.run(unshared, capture_output=True, text=True)
    if "unshare failed" in done.stderr:
        pytest.skip("the kernel refuses a pid namespace")
    assert done.stdout == "1 /proc shows another pid namespace than ours\n"


@pytest.mark.parametrize("timeout", [-1.0, 0.0])
def test_no_wait_lasts_for_ever(timeout: float) -> None:
    started = time.monotonic()
    LinuxSystem().wait((), timeout)
    assert time.monotonic() - started < 5


# Facts


def test_the_facts_about_ourselves() -> None:
    system = LinuxSystem()
    me = system.process(os.getpid())
    assert me is not None
    assert (me.pid, me.ppid, me.owner) == (os.getpid(), os.getppid(), os.getuid())
    assert me.session == os.getsid(0)
    assert me.cwd == os.getcwd()  # noqa: PTH109
    assert me.argv
    assert me.complete
    assert me.container is None
    assert isinstance(me.start, int)
    assert me.started == pytest.approx(time.time(), abs=7 * 86_400)
    assert os.getpid() in system.pids()
    assert system.privileged == (os.geteuid() == 0)
    assert (system.name, system.polite) == ("linux", True)


def test_a_child_in_a_terminal_leads_its_session(
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)
    # Who leads a session and has no terminal gets the first one that it opens.
    child = spawn(f"import os; os.setsid(); os.open(os.environ['TTY'], 2)\n{SLEEP}", TTY=name)
    ready(child)
    process = LinuxSystem().process(child.pid)
    os.close(theirs)
    os.close(ours)
    assert process is not None
    assert process.terminal == name.removeprefix("/dev/")
    assert process.leads_session
    assert process.foreground


def test_users_have_names_or_numbers() -> None:
    system = LinuxSystem()
    assert system.user(None) == "?"
    assert system.user(0) == pwd.getpwuid(0).pw_name
    for nobody in (4_294_967_294, 2**40, -5):
        assert system.user(nobody) == str(nobody)


def test_containers_are_asked_for_through_their_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho web\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    proxy = Process(pid=7, ppid=1, start=7, name="docker-proxy")
    assert LinuxSystem().container_behind(proxy, Port(8000)) == "web (image )"


# A staged /proc


class Proc:
    """A /proc of our own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        (root / "self").symlink_to(str(os.getpid()))
        (root / "version").touch()
        self.add(os.getpid())

    @property
    def system(self) -> LinuxSystem:
        return LinuxSystem(str(self.root))

    def add(
        self,
        pid: int,
        *,
        stat: bytes | None = None,
        name: bytes = b"server",
        state: str = "S",
        threads: int = 1,
        terminal: int = 0,
        group: int = 1,
        foreground: int = -1,
        status: str = "Uid:\t1000\t1000\t1000\t1000\nNSpid:\t7\n",
        cgroup: str = "0::/\n",
        sockets: tuple[int, ...] = (),
    ) -> Path:
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "task" / str(pid)).mkdir(parents=True)
        (folder / "ns").mkdir()
        if stat is None:
            head = f"{state} 1 {group} 42 {terminal} {foreground}"
            fields = [head, *["0"] * 11, str(threads), "0", "4711", *["0"] * 30]
            stat = b"%d (%s) %s\n" % (pid, name, " ".join(fields).encode())
        (folder / "stat").write_bytes(stat)
        (folder / "status").write_text(status)
        (folder / "cmdline").write_bytes(b"python\0server.py\0")
        (folder / "environ").write_bytes(b"PATH=/bin\0PYTEST_VERSION=9\0")
        (folder / "cgroup").write_text(cgroup)
        (folder / "cwd").symlink_to("/somewhere")
        for at, number in enumerate(sockets):
            (folder / "fd" / str(at)).symlink_to(f"socket:[{number}]")
        return folder


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


def read(proc: Proc, pid: int = 77) -> Process:
    found = proc.system.process(pid)
    assert found is not None
    return found


def test_a_staged_process_is_read_like_a_real_one(proc: Proc) -> None:
    proc.add(77)
    found = read(proc)
    assert (found.pid, found.ppid, found.start, found.name) == (77, 1, 4711, "server")
    assert found.argv == ("python", "server.py")
    assert found.owner == 1000
    assert found.session == 42
    assert (found.terminal, found.foreground, found.zombie) == (None, False, False)
    assert found.marks == {"PYTEST_VERSION": "9"}
    assert found.cwd == "/somewhere"
    assert found.complete


@pytest.mark.parametrize(
    "name", [b"a) R 1 (b", b")", b"((", b"", b"x y z", b"\xff\xfe", b"a\nb", b") Z 0 0 0 0 0"]
)
def test_no_name_can_pass_for_other_fields(proc: Proc, name: bytes) -> None:
    proc.add(77, name=name)
    found = read(proc)
    assert os.fsencode(found.name) == name
    assert (found.ppid, found.start, found.zombie) == (1, 4711, False)


@given(name=st.binary(max_size=15))
@settings(max_examples=100, deadline=None)
def test_whatever_the_name_is(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    proc = Proc(tmp_path_factory.mktemp("hostile") / "proc")
    proc.add(77, name=name)
    found = read(proc)
    assert (os.fsencode(found.name), found.ppid, found.start) == (name, 1, 4711)


@given(stat=st.one_of(st.binary(max_size=80), st.text("0123456789 ()RSZX-", max_size=120)))
@settings(max_examples=200, deadline=None)
def test_a_garbled_stat_is_no_process(
    tmp_path_factory: pytest.TempPathFactory, stat: bytes | str
) -> None:
    proc = Proc(tmp_path_factory.mktemp("garbled") / "proc")
    proc.add(77, stat=stat if isinstance(stat, bytes) else stat.encode())
    found = proc.system.process(77)
    assert found is None or found.pid == 77


@pytest.mark.parametrize(
    ("state", "threads", "zombie"),
    [("Z", 1, True), ("X", 1, True), ("Z", 2, False), ("S", 1, False), ("T", 1, False)],
)
def test_a_zombie_is_dead_if_no_thread_lives(
    proc: Proc, state: str, threads: int, *, zombie: bool
) -> None:
    proc.add(77, state=state, threads=threads)
    assert read(proc).zombie == zombie
    assert proc.system.start(77) == (None if zombie else 4711)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ((136, 0), "pts/0"),
        ((136, 3), "pts/3"),
        ((137, 1), "pts/257"),
        ((4, 1), "tty1"),
        ((4, 64), "ttyS0"),
        ((204, 64), "terminal 204:64"),
    ],
)
def test_terminals_have_names(proc: Proc, device: tuple[int, int], name: str) -> None:
    proc.add(77, terminal=os.makedev(*device), group=5, foreground=5)
    proc.add(78, terminal=os.makedev(*device), group=5, foreground=6)
    assert (read(proc).terminal, read(proc).foreground) == (name, True)
    assert not read(proc, 78).foreground


ID = "0123456789abcdef" * 4
INNER = "fedcba9876543210" * 4


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        ("0::/\n", None),
        ("", None),
        ("garbled\n", None),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/\n", ID),
        (f"0::/user.slice/user@1000.service/user.slice/libpod-{ID}.scope/container\n", ID),
        (f"0::/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{ID}.scope\n", ID),
        (f"4:cpu:/kubepods/besteffort/pod12-34/{ID}\n", ID),
        (f"0::/docker/{ID}/kubelet/pod/{INNER}\n", INNER),
        ("0::/lxc.payload.web/init.scope\n", "web"),
        ("3:cpu:/lxc/web\n", "web"),
        ("0::/machine.slice/machine-web.scope/payload\n", "web"),
        (f"0::/docker/{ID}f\n", None),
        (f"0::/docker/{ID[:-1]}\n", None),
    ],
)
def test_the_container_of_a_process(proc: Proc, cgroup: str, container: str | None) -> None:
    proc.add(77, cgroup=cgroup)
    assert read(proc).container == container


def test_our_own_container_is_none_to_us(tmp_path: Path) -> None:
    proc = Proc(tmp_path / "proc")
    cgroup = f"0::/docker/{ID}\n"
    (proc.root / str(os.getpid()) / "cgroup").write_text(cgroup)
    proc.add(77, cgroup=cgroup)
    proc.add(78, cgroup=f"0::/docker/{ID}/docker/{INNER}\n")
    proc.add(79)
    assert read(proc, 77).container is None
    assert read(proc, 78).container == INNER
    assert read(proc, 79).container == "?"  # outside


def test_a_deeper_pid_namespace_is_another_container(proc: Proc) -> None:
    # Rootless, nspawn as a service, unshare: nothing in the cgroup tells.
    proc.add(77, status="Uid:\t1000\t1000\t1000\t1000\nNSpid:\t7\t1\n")
    assert read(proc).container == "?"


def test_a_kernel_that_tells_no_depth_has_one_namespace(proc: Proc) -> None:
    proc.add(77, status="Name:\tx\nUid:\t1000\t0\t0\t0\n")
    assert read(proc).container is None
    assert read(proc).owner == 1000


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/system.slice/nginx.service/worker\n", "nginx.service"),
        ("0::/system.slice/system-getty.slice/getty@tty1.service\n", "getty@tty1.service"),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service\n",
            "shop.service",
        ),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n", None),
        ("12:pids:/x.service\n1:name=systemd:/system.slice/cron.service\n", "cron.service"),
        ("1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n", "a.service"),
        ("1:name=systemd:/\n0::/system.slice/a.service\n", "a.service"),
        ("0::/system.slice/with:colon.service\n", "with:colon.service"),
        ("12:pids:/x.service\n", None),
        ("0::/\n", None),
        ("", None),
        ("garbled\nx:y\n", None),
    ],
)
def test_the_unit_of_a_process(proc: Proc, cgroup: str, unit: str | None) -> None:
    proc.add(77, cgroup=cgroup)
    assert read(proc).unit == unit


@pytest.mark.parametrize(
    ("raw", "argv"),
    [
        (b"", ()),
        (b"\0\0", ()),
        (b"a\0b\0", ("a", "b")),
        (b"a\0\0b\0", ("a", "", "b")),
        (b"nginx: master process\0\0\0\0", ("nginx: master process",)),
        (b"\xff\0", ("\udcff",)),
    ],
)
def test_command_lines(proc: Proc, raw: bytes, argv: tuple[str, ...]) -> None:
    (proc.add(77) / "cmdline").write_bytes(raw)
    assert read(proc).argv == argv


def test_only_marks_are_kept_of_an_environment(proc: Proc) -> None:
    (proc.add(77) / "environ").write_bytes(
        b"SECRET=1\0PYTEST_VERSION=\0CI_JOB_ID=a=b\0=\0broken\0PYTEST_XDIST_WORKER=gw\xff\0"
    )
    assert read(proc).marks == {"CI_JOB_ID": "a=b", "PYTEST_XDIST_WORKER": "gw\udcff"}


# What may not be read


@pytest.mark.parametrize("file", ["environ", "cmdline"])
def test_a_process_that_hides_something_is_not_complete(proc: Proc, file: str) -> None:
    folder = proc.add(77)
    (folder / file).unlink()  # root, as which the tests may run, is refused nothing
    assert not read(proc).complete


def test_a_process_of_which_nothing_is_shown(proc: Proc) -> None:
    # hidepid=1: the folder is there, and all in it refused.
    (proc.root / "77").mkdir()
    assert proc.system.process(77) is None
    assert proc.system.process(78) is None
    assert 77 in proc.system.pids()


def test_descriptors_that_may_not_be_seen_are_counted(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.add(77, sockets=(9, 4711))
    proc.add(78, sockets=(4711,))
    refused = str(proc.root / "77" / "fd")
    real, stat = os.listdir, os.stat

    def refuse(path: str) -> list[str]:
        if path == refused:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    def foreign(path: str, **_: object) -> os.stat_result:
        found = list(stat(path))
        found[4] = os.geteuid() + 1
        return os.stat_result(found)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        mine = proc.system.owners([4711])
        patch.setattr(os, "stat", foreign)
        theirs = proc.system.owners([4711])
        held = proc.system.holds(77, [4711])
    assert mine == theirs
    assert theirs.pids == {4711: {78}}
    assert theirs.unreadable == 1
    assert not held


def test_descriptors_that_close_while_they_are_read(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.add(77, sockets=(1, 2, 4711))
    real = os.readlink

    def closing(path: str, *, dir_fd: int) -> str:
        target = real(path, dir_fd=dir_fd)
        if target == "socket:[1]":
            raise FileNotFoundError(path)
        return target

    monkeypatch.setattr(os, "readlink", closing)
    assert proc.system.owners([1, 4711]).pids == {4711: {77}}


def test_a_file_whose_path_is_too_long_to_be_told_hides_nobody(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.add(77, sockets=(1, 4711))
    real = os.readlink

    def too_long(path: str, *, dir_fd: int) -> str:
        target = real(path, dir_fd=dir_fd)
        if target == "socket:[1]":
            raise OSError(errno.ENAMETOOLONG, "File name too long", path)
        return target

    monkeypatch.setattr(os, "readlink", too_long)
    assert proc.system.owners([4711]).pids == {4711: {77}}


def test_a_process_of_somebody_else_that_ends_while_we_look_hides_nobody(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = proc.add(77, sockets=(1,))
    proc.add(78, sockets=(4711,))
    real = os.listdir

    def refuse(path: str) -> list[str]:
        if path == str(gone / "fd"):
            shutil.rmtree(gone)
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert proc.system.owners([4711]).pids == {4711: {78}}


def staged_leader(proc: Proc) -> Path:
    """A dead main thread, and a thread that lives."""
    folder = proc.add(77, state="Z", threads=2)
    shutil.copy(folder / "stat", folder / "task" / "77" / "stat")
    thread = folder / "task" / "78"
    (thread / "fd").mkdir(parents=True)
    (thread / "stat").write_bytes((folder / "stat").read_bytes().replace(b"Z", b"S"))
    for file in ("environ", "cmdline"):
        shutil.move(folder / file, thread / file)
    for at, number in enumerate((1, 2, 4711)):
        (thread / "fd" / str(at)).symlink_to(f"socket:[{number}]")
    return thread


def test_a_staged_dead_leader_is_read_through_its_thread(proc: Proc) -> None:
    staged_leader(proc)
    assert proc.system.owners([4711]).pids == {4711: {77}}
    assert read(proc).complete
    assert read(proc).argv == ("python", "server.py")


def test_a_descriptor_of_its_thread_that_closes_hides_no_other(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged_leader(proc)
    real = os.readlink

    def closing(path: str, *, dir_fd: int) -> str:
        target = real(path, dir_fd=dir_fd)
        if target == "socket:[2]":
            raise FileNotFoundError(path)
        return target

    monkeypatch.setattr(os, "readlink", closing)
    assert proc.system.holds(77, [4711])
    assert not proc.system.holds(77, [2])


def test_a_thread_that_ends_while_we_look(proc: Proc) -> None:
    thread = staged_leader(proc)
    shutil.rmtree(thread / "fd")
    assert proc.system.owners([4711]) == Owners({})
    (thread / "stat").unlink()
    assert not proc.system.holds(77, [4711])
    assert not read(proc).complete


def test_threads_that_may_not_be_listed(proc: Proc) -> None:
    thread = staged_leader(proc)
    shutil.rmtree(thread.parent)
    assert not proc.system.holds(77, [4711])
    assert not read(proc).complete


def test_a_machine_without_proc_shows_nobody(tmp_path: Path) -> None:
    system = LinuxSystem(str(tmp_path / "none"))
    assert list(system.pids()) == []
    assert system.process(os.getpid()) is None
    assert system.owners([1]) == Owners({})
    assert not system.holds(os.getpid(), [1])
    assert system.namespace == "?"


def test_the_first_pid_namespace_has_no_name(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    (proc.root / "self" / "ns" / "pid").touch()
    inode = (proc.root / "self" / "ns" / "pid").stat().st_ino
    assert proc.system.namespace == str(inode)
    monkeypatch.setattr(linux, "_FIRST_PID_NAMESPACE", inode)
    assert proc.system.namespace == ""


def test_no_descriptor_is_left_open(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    children = [spawn() for _ in range(3)]
    for child in children:
        ready(child)
    system = LinuxSystem()

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    for child in children:
        pin = pinned(system, child.pid)
        assert select.select([], [], [], 0) == ([], [], [])
        pin.close()
    system.sockets([Port(1)], connections=True)
    system.owners([1])
    assert count() == before
