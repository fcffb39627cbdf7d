"""What is read of a process, from a /proc of our own where the real one never errs."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("the Linux backend", allow_module_level=True)

from portfree._system import proc as proc_files
from portfree._system.interface import Owners, Process
from portfree._system.linux import LinuxSystem, _Pin

if TYPE_CHECKING:
    from pathlib import Path


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
    pin = _Pin(77, f"{proc.root}/77/stat", 4711)
    assert pin.alive() != zombie


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


def refuse_to_follow(monkeypatch: pytest.MonkeyPatch, link: str, error: OSError) -> None:
    real = os.readlink

    def refuse(path: str, *, dir_fd: int) -> str:
        target = real(path, dir_fd=dir_fd)
        if target == link:
            raise error
        return target

    monkeypatch.setattr(os, "readlink", refuse)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "it closes while it is read"),
        OSError(errno.ENAMETOOLONG, "a file with a long path"),
    ],
)
def test_a_descriptor_that_cannot_be_followed_hides_no_other(
    proc: Proc, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    proc.add(77, sockets=(1, 2, 4711))
    refuse_to_follow(monkeypatch, "socket:[1]", error)
    assert proc.system.owners([1, 4711]).pids == {4711: {77}}


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
    refuse_to_follow(monkeypatch, "socket:[2]", FileNotFoundError(errno.ENOENT, "closed"))
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
    monkeypatch.setattr(proc_files, "_FIRST_PID_NAMESPACE", inode)
    assert proc.system.namespace == ""
