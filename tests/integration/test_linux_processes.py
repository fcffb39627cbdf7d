"""Linux: processes, pins and signals, on the real kernel."""

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
from typing import TYPE_CHECKING

import pytest

if sys.platform != "linux":
    pytest.skip("the Linux backend", allow_module_level=True)

from helpers.processes import stat, wait_until
from portfree import free_ports
from portfree._core.survey import survey
from portfree._system import linux
from portfree._system.interface import Pin, Process, Signal
from portfree._system.linux import LinuxSystem
from portfree.model import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


# A main thread that has ended before the others


def test_a_thread_that_outlives_its_main_thread_is_a_holder(
    spawn: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = spawn(DEAD_LEADER, NOX_CURRENT_SESSION="tests-3.11")
    port = Port(int(ready(child)))
    wait_until(lambda: (seen := stat(child.pid)) and seen.state == "Z", "its main thread ends")
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
    wait_until(lambda: not pin.alive(), "it ends")
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


# Pins


def test_signals_of_all_kinds_go_through_a_pin(
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    code = """
import os, signal, sys
def say(got, _):  # past the buffers, in which the print below may still be at work
    os.write(1, f"{signal.Signals(got).name}\\n".encode())
for name in ("SIGTERM", "SIGINT", "SIGCONT"):
    signal.signal(getattr(signal, name), say)
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
    system.wait([pin], 600)  # nothing tells of its end: returns soon, or the test hangs
    assert pin.send("TERM")
    wait_until(lambda: not pin.alive(), "it ends")  # though nobody has reaped it
    assert not pin.send("KILL")
    child.wait()
    assert not pin.alive()
    pin.close()


def test_such_a_pin_does_not_reach_a_recycled_pid(
    spawn: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    system, child = LinuxSystem(), spawn()
    ready(child)
    path = f"/proc/{child.pid}/stat"
    stale = linux._Pin(child.pid, path, 1)
    assert not stale.alive()
    assert not stale.send("KILL")
    assert child.poll() is None
    # And if it ends between the look and the signal, there is nobody to reach.
    process = system.process(child.pid)
    assert process is not None
    racing = linux._Pin(child.pid, path, process.start)
    assert racing.alive()

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
        assert [suspect.pin for suspect in seen.suspects] == [None]


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
    LinuxSystem().wait((), timeout)


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
