"""A dockerd of our own, in a network of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.processes import Identity, Processes, stat, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


ENGINE = ("dockerd", "containerd", "docker-proxy")


GROUPS = Path("/sys/fs/cgroup")


# With an empty /run, for containerd has sockets there whatever it is told.
_DAEMON = """
ip link set lo up && mount -t tmpfs none /run || exit
[ ! -d /etc/docker ] || mount -t tmpfs none /etc/docker || exit
exec dockerd --config-file "$0/config.json" --data-root "$0/data" --exec-root "$0/exec" \\
    --host "unix://$0/docker.sock" --pidfile "$0/pid" --group '' --storage-driver vfs \\
    --exec-opt native.cgroupdriver=cgroupfs --iptables=false --ip6tables=false "$@"
"""


_BROWSER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as browser:
    browser.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    while answer := browser.recv(4096):
        print(answer.decode(), end="")
"""


def why_not() -> str:
    """Why a daemon cannot run here; empty if it can."""
    for folder in (GROUPS, *GROUPS.glob("*/cgroup.procs")):
        if not os.access(folder, os.W_OK):
            return f"cannot make control groups here: {folder} is not for us to write"
    bridge = "ip link add type bridge && mount -t tmpfs none /run"
    made = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", bridge], capture_output=True, text=True
    )
    return (made.returncode and f"cannot make a bridge here: {made.stderr.strip()}") or ""


class Docker:
    """A daemon, with an image whose containers serve a page on port 80 if nothing else is said."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._folder = folder
        self._group = f"portfree-tests-{folder.name}"
        (folder / "config.json").write_text("{}")
        self.env = {
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": str(folder / "client"),
        }
        self._processes = Processes(folder)
        command = ["unshare", "--net", "--mount", "sh", "-c", _DAEMON, str(folder)]
        started_one = self._processes.orphan([*command, f"--cgroup-parent=/{self._group}", *flags])
        self.daemon = started_one.process
        nsenter = str(shutil.which("nsenter"))
        self.inside = [nsenter, f"--target={self.daemon.pid}", "--net", "--"]
        wait_until(lambda: not started_one.alive or self._answers(), "dockerd answers")
        if not started_one.alive:
            (log,) = folder.glob("*.log")
            pytest.fail(f"dockerd does not start:\n{log.read_text()}")
        self._make_image()

    def __call__(self, *words: str) -> str:
        """What the docker command answers."""
        env = {**os.environ, **self.env}
        done = subprocess.run(["docker", *words], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @contextmanager
    def running(self, name: str, *flags: str, command: str = "") -> Iterator[Identity]:
        """A container, by its first process as it is seen from outside."""
        httpd = command or "/bin/busybox httpd -f -h /www -p 80"
        self("run", "--detach", "--name", name, *flags, "page", *httpd.split())
        try:
            yield Identity.of(int(self("inspect", "--format", "{{.State.Pid}}", name)))
        finally:
            self("rm", "--force", name)

    def serves(self, port: int) -> bool:
        """Whether a container answers there with its page."""
        command = [sys.executable, "-S", "-c", _BROWSER, str(port)]
        done = subprocess.run([*self.inside, *command], capture_output=True, text=True)
        return done.stdout.endswith("a page")

    def settled(self) -> set[Identity]:
        """The same, once nothing has come or gone for some looks: what was removed ends slowly."""
        looks: list[set[Identity]] = []

        def is_settled() -> bool:
            looks.append(self.everything())
            return len(looks) > 5 and all(look == looks[-1] for look in looks[-5:])

        wait_until(is_settled, "nothing comes or goes")
        return looks[-1]

    def everything(self) -> set[Identity]:
        """The daemon, those that it keeps running, and all that runs in its containers."""
        engine = {pid for pid in self._processes.members() if _name(pid) in ENGINE}
        pids = engine | self._contained()
        return {Identity(pid, seen.start) for pid in pids if (seen := stat(pid))}

    def close(self) -> None:
        """Kill all of them: what they have made goes with their namespaces."""
        for each in self.everything():
            each.send(signal.SIGKILL)
        self._processes.close()
        wait_until(self._ungrouped, "the control groups are gone")

    def _answers(self) -> bool:
        env = {**os.environ, **self.env}
        return subprocess.run(["docker", "ps"], env=env, capture_output=True).returncode == 0

    def _make_image(self) -> None:
        root = self._folder / "root"
        (root / "bin").mkdir(parents=True)
        (root / "www").mkdir()
        shutil.copy(str(shutil.which("busybox")), root / "bin" / "busybox")
        (root / "www" / "index.html").write_text("a page")
        archive = shutil.make_archive(str(self._folder / "page"), "tar", root)
        self("import", archive, "page")

    def _folders(self) -> list[Path]:
        # One hierarchy for each kind of resource, or one for all of them (cgroups(7)).
        tops = [*GROUPS.glob(f"*/{self._group}"), *GROUPS.glob(self._group)]
        return [each for top in tops for each in (*top.glob("*/"), top)]

    def _contained(self) -> set[int]:
        found: set[int] = set()
        for folder in self._folders():
            with suppress(OSError):  # a container that has just been removed
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return found

    def _ungrouped(self) -> bool:
        for folder in self._folders():
            try:
                folder.rmdir()
            except OSError:  # busy for as long as a process in it is about to end
                return False
        return True


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


@contextmanager
def started(*flags: str) -> Iterator[Docker]:
    if why := why_not():
        pytest.skip(why)
    # Not pytest's folder: it is closed to other users, and too deep for the name of a socket.
    folder = Path(tempfile.mkdtemp(prefix="portfree-docker-"))
    folder.chmod(0o755)
    try:
        docker = Docker(folder, *flags)
        try:
            yield docker
        finally:
            docker.close()
    finally:
        shutil.rmtree(folder)
