"""The pytest plugin with workers of xdist on other hosts: network namespaces, and a real sshd."""

from __future__ import annotations

import importlib.metadata
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from helpers.processes import (
    Identity,
    Processes,
    Started,
    needs_namespace,
    needs_program,
    needs_root,
    tcp,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from helpers.project import Ended, Project

pytestmark = [needs_root, needs_program("ip"), needs_namespace("--net")]

SSHD = "/usr/sbin/sshd"

# Every test is run by every worker, so that what a worker does can be chosen by its name.
EACH = ("--dist", "each")

WORKER = """
worker = os.environ["PYTEST_XDIST_WORKER"]
run_id = os.environ["PORTFREE_RUN_ID"]

def touch(name):
    pathlib.Path(name).touch()

"""


class Namespace:
    """A network namespace with its own loopback, and so its own ports."""

    def __init__(self, name: str, processes: Processes) -> None:
        self.name = name
        self.started = processes

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    @property
    def workers(self) -> str:
        """What gives xdist two workers in here."""
        return f"2*popen//python={' '.join(self.command(sys.executable))}"

    def orphan(self, port: int, cwd: Path, **env: str) -> Started:
        """A server in here that a run has left behind, in a test that bears the name of this."""
        env = {
            "PORTFREE_RUN_ID": self.started.run_id(alive=False),
            "PYTEST_CURRENT_TEST": f"tests/test_api.py::test_{self.name} (setup)",
            **env,
        }
        return self.started.orphan(self.command(*tcp(port)), cwd=cwd, env=env)

    def processes(self) -> list[int]:
        command = ["ip", "netns", "pids", self.name]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def said(self, result: Ended) -> list[str]:
        """What was said of this host."""
        start = f"host {os.uname().nodename} (network namespace {self.name}): "
        return [line.removeprefix(start) for line in result.section if line.startswith(start)]


@pytest.fixture
def new_namespace(processes: Processes) -> Iterator[Callable[[], Namespace]]:
    """Makes network namespaces, and takes them away again."""
    with ExitStack() as made:

        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True, capture_output=True)

        def make() -> Namespace:
            name = f"portfree-{secrets.token_hex(4)}"
            ip("netns", "add", name)
            made.callback(ip, "netns", "delete", name)
            try:
                ip("netns", "exec", name, "ip", "link", "set", "lo", "up")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no program can be run in a network namespace: {error.stderr}")
            return Namespace(name, processes)

        yield make


@pytest.fixture
def namespace(new_namespace: Callable[[], Namespace]) -> Namespace:
    return new_namespace()


# What a session does


def test_the_ports_of_two_namespaces_are_freed_before_and_after(
    suite: Project, port: int, new_namespace: Callable[[], Namespace]
) -> None:
    one, two = new_namespace(), new_namespace()
    orphans = [each.orphan(port, suite.folder) for each in (one, two)]
    suite.guard(leaks="stop", grace=1)
    suite.tests(
        WORKER
        + """
def test_ids():
    assert len(run_id.split("/")) == 2
    touch(run_id.replace("/", "-") + ".run")

@pytest.mark.skipif(worker not in ("gw0", "gw2"), reason="one is enough")
def test_leaves_servers():
    assert not careless.accepts($PORT)
    careless.child($PORT)
    careless.daemon($OTHER)
        """
    )

    result = suite.pytest(*EACH, "--tx", one.workers, "--tx", two.workers)

    assert result.code == 0, result.out
    assert result.header == f"portfree: {port}/tcp, scope orphans: free"
    for namespace, orphan in zip((one, two), orphans, strict=True):
        *leaks, before = namespace.said(result)
        assert before.startswith(f"before: freed {port}/tcp: stopped ")
        assert f"(pid {orphan.pid})" in before
        assert before.endswith(
            f"started in tests/test_api.py::test_{namespace.name} (setup) (evidence: id)"
        )
        assert not orphan.alive
        for leak, left in zip(sorted(leaks), sorted((port, suite.other)), strict=True):
            assert leak.startswith("tests/test_it.py::test_leaves_servers left ")
            assert leak.endswith(f"which listened on 127.0.0.1:{left}: ended after SIGTERM")
        assert namespace.processes() == []
    assert len(result.section) == 6
    assert len(list(suite.folder.glob("*.run"))) == 2


def test_a_worker_that_crashes_takes_nothing_with_it(
    suite: Project, port: int, namespace: Namespace
) -> None:
    namespace.orphan(port, suite.folder)
    suite.tests(
        WORKER
        + """
def test_one():
    if worker == "gw0":
        careless.child($PORT)
        touch("served")
    careless.until("served")
    if worker == "gw1":
        os._exit(1)

def test_two():
    if worker == "gw2":  # the one that replaces gw1
        touch("replaced")
    careless.until("replaced")
    assert careless.accepts($PORT)
        """
    )

    result = suite.pytest(*EACH, "--tx", namespace.workers)

    assert result.code == 1
    assert "worker 'gw1' crashed while running 'tests/test_it.py::test_one'" in result.out
    assert "1 failed, 3 passed" in result.out
    before, after = namespace.said(result)
    assert before.startswith(f"before: freed {port}/tcp: ")
    assert after.endswith("started in tests/test_it.py::test_one (call) (evidence: id)")
    assert namespace.processes() == []


def test_maxfail_ends_the_runs_as_well(
    suite: Project, new_namespace: Callable[[], Namespace]
) -> None:
    one, two = new_namespace(), new_namespace()
    suite.tests(
        WORKER
        + """
def test_fails():
    if worker == "gw2":
        careless.child($PORT)
        touch("served")
    careless.until("served")
    assert worker != "gw0"

def test_other():
    pass
        """
    )

    result = suite.pytest(*EACH, "--maxfail=1", "--tx", one.workers, "--tx", two.workers)

    assert result.code in (1, 2), result.out
    assert "stopping after 1 failures" in result.out
    assert one.said(result) == []
    (after,) = two.said(result)
    assert after.endswith("started in tests/test_it.py::test_fails (call) (evidence: id)")
    assert one.processes() == two.processes() == []


def test_on_busy_fail_starts_no_test_anywhere(
    suite: Project, port: int, elsewhere: Path, new_namespace: Callable[[], Namespace]
) -> None:
    one, two = new_namespace(), new_namespace()
    one.orphan(port, suite.folder)
    server = suite.processes.attended(two.command(*tcp(port)), cwd=elsewhere)
    suite.guard(on_busy="fail")
    suite.tests(WORKER + "def test_it():\n    touch('tested')\n")

    result = suite.pytest(*EACH, "--tx", one.workers, "--tx", two.workers)

    assert result.code == pytest.ExitCode.USAGE_ERROR
    name = os.uname().nodename
    assert (
        f"ERROR: portfree: host {name} (network namespace {two.name}): no test was started, for "
        f"free_ports_on_busy is fail, and {port}/tcp is busy: kept "
    ) in result.err
    assert f"host {name} (network namespace {one.name}): before: freed {port}/tcp" in result.err
    assert not (suite / "tested").exists()
    assert server.alive
    assert one.processes() == []
    assert two.processes() == [server.pid]


@pytest.mark.parametrize(("leaks", "code"), [("warn", 0), ("fail", 1)])
def test_a_report_that_is_lost_is_said_to_be(
    suite: Project, port: int, namespace: Namespace, leaks: str, code: int
) -> None:
    namespace.orphan(port, suite.folder)
    suite.guard(leaks=leaks)
    suite.tests(
        WORKER
        + """
def test_it():
    if worker == "gw0":
        os.kill(int(run_id.split("/")[-1].split(".")[0]), signal.SIGKILL)
        """
    )

    result = suite.pytest(*EACH, "--tx", namespace.workers)

    assert result.code == code
    assert "2 passed" in result.out
    before, lost = namespace.said(result)
    assert before.startswith(f"before: freed {port}/tcp: ")
    assert lost == "what was done there after the tests is not known: the connection was lost"


def test_a_fault_of_ours_there_turns_nothing_red(suite: Project, namespace: Namespace) -> None:
    worker = namespace.workers.replace("2*popen", "popen//env:PORTFREE_BACKEND=none")

    result = suite.pytest(*EACH, "--tx", worker)

    assert result.code == 0, result.out
    (line,) = namespace.said(result)
    assert line.startswith("the ports could not be looked after before the tests: PORTFREE_BACKEND")


def test_a_killed_controller_leaves_no_server_there(suite: Project, namespace: Namespace) -> None:
    suite.tests(
        WORKER
        + """
def test_it():
    if worker == "gw0":
        pathlib.Path("server").write_text(str(careless.child($PORT).pid))
        touch("served")
    time.sleep(1000)
        """
    )
    running = suite.start_module("pytest", *EACH, "--tx", namespace.workers)
    # Until then four Pythons start one after the other.
    wait_until((suite / "served").exists, "the server is up")
    server = Identity.of(int((suite / "server").read_text()))

    running.process.kill()

    server.wait_gone()
    for pid in namespace.processes():  # workers, which execnet lets go on for some seconds
        Identity.of(pid).send(signal.SIGKILL)
    running.ended()


def test_a_worker_by_way_of_a_proxy(suite: Project, port: int, namespace: Namespace) -> None:
    orphan = namespace.orphan(port, suite.folder)
    proxy = namespace.workers.replace("2*", "id=proxy//")

    result = suite.pytest(*EACH, "--px", proxy, "--tx", "popen//via=proxy")

    assert result.code == 0, result.out
    (before,) = namespace.said(result)
    assert f"(pid {orphan.pid})" in before
    assert namespace.processes() == []


# By ssh


class Far:
    """A host that is reached by ssh, with a folder of its own for what xdist sends there."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.namespace = namespace
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self._config = folder / "ssh_config"
        for name in ("host", "user"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(key, check=True)
        server = folder / "sshd_config"
        server.write_text(
            f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\n"
            "PermitRootLogin yes\nUsePAM no\nPidFile none\n"
            # With the stage's mark, so that it finds what may be left.
            f"SetEnv STAGE_TOKEN={namespace.started.token}\n"
        )
        # sshd insists on this folder, which must not appear on the machine itself: programs that
        # are run in a namespace have mounts of their own (ip-netns(8)).
        begin = f"mount -t tmpfs none /run && mkdir /run/sshd && exec {SSHD} -i -f {server}"
        proxy = " ".join(namespace.command("sh", "-c", f"'{begin}'"))
        self._config.write_text(
            f"Host *\nUser root\nIdentityFile {folder}/user\nBatchMode yes\nLogLevel ERROR\n"
            "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
            f"ProxyCommand {proxy}\n"
        )

    def workers(self, python: str = sys.executable) -> str:
        """What gives xdist two workers there."""
        return f"2*ssh=far//ssh_config={self._config}//python={python}//chdir={self.home}"


@pytest.fixture
def far(namespace: Namespace, tmp_path: Path) -> Far:
    if not (shutil.which("ssh") and shutil.which(SSHD)):
        pytest.skip("needs the programs ssh and sshd")
    return Far(namespace, tmp_path / "far")


def sent(suite: Project) -> tuple[str, ...]:
    """What has xdist copy the tests there, and nothing else of the project."""
    tests = str(suite / "tests")
    return "--rsyncdir", tests, tests


def test_a_host_behind_ssh(suite: Project, port: int, far: Far) -> None:
    orphan = far.namespace.orphan(port, suite.folder)
    suite.guard()  # in a file that is not sent there
    suite.tests(
        WORKER
        + """
def test_it():
    assert len(run_id.split("/")) == 1  # that of the controller means nothing there
    if worker == "gw0":
        assert not careless.accepts($PORT)
        careless.daemon($PORT)
        """
    )

    result = suite.pytest(*EACH, "--tx", far.workers(), *sent(suite))

    assert result.code == 0, result.out + result.err
    # Not by its name, for its /run/netns is empty: sshd was given a /run of its own.
    said = [re.sub(r"^host .* \(network namespace net:\[\d+\]\): ", "", s) for s in result.section]
    before, after = said
    assert before.startswith(f"before: freed {port}/tcp: stopped ")
    assert f"(pid {orphan.pid})" in before
    assert after.endswith("started in tests/test_it.py::test_it (call) (evidence: id)")
    assert far.namespace.processes() == []


@pytest.mark.parametrize("on_busy", ["warn", "fail"])
def test_a_host_without_portfree(
    suite: Project, port: int, far: Far, tmp_path: Path, on_busy: str
) -> None:
    orphan = far.namespace.orphan(port, suite.folder)
    suite.guard(on_busy=on_busy)
    packages = tmp_path / "packages"
    without_portfree(packages)

    python = f"env PYTHONPATH={packages} {sys.executable} -S"
    result = suite.pytest(*EACH, "--tx", far.workers(python), *sent(suite))

    said = "its ports were not freed, for portfree cannot be used there: No module named 'portfree'"
    assert orphan.alive
    if on_busy == "fail":
        assert result.code == pytest.ExitCode.USAGE_ERROR
        assert said in result.err
        return
    assert result.code == 0, result.out + result.err
    assert "2 passed" in result.out
    (warning,) = result.section
    assert warning.endswith(said)


def without_portfree(folder: Path) -> None:
    """Make a folder with what a worker of xdist needs, and no more."""
    folder.mkdir()
    for name in ("pytest", "pytest-xdist", "execnet", "pluggy", "iniconfig", "packaging"):
        found = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or ()}.difference({"..", "__pycache__"}):
            (folder / top).symlink_to(Path(str(found.locate_file(top))))
    (folder / "pygments").symlink_to(Path(cast("Any", find_spec("pygments")).origin).parent)
