"""The tox plugin, through real tox."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from helpers.processes import (
    HERE,
    PATIENCE,
    SERVERS,
    TOKEN,
    Processes,
    accepts,
    http_server,
    is_free,
    tcp,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

# What pip says where it cannot reach an index.
NO_INDEX = (
    *("No matching distribution found", "NewConnectionError", "Could not fetch URL"),
    "No module named pip",
)

TEST = "tests/test_api.py::test_search (setup)"

# What the environments run: it starts a server, makes a file named after its port, waits for a file
# if one is named, and leaves the server behind, as a careless test does.
COMMAND = f"""\
import os, socket, subprocess, sys, time

def serve(port):
    reader, writer = os.pipe()
    subprocess.Popen(
        [sys.executable, "-S", {str(SERVERS)!r}, "--tcp", f"127.0.0.1:{{port}}"],
        env={{**os.environ, "STAGE_READY": str(writer), "PYTEST_CURRENT_TEST": {TEST!r}}},
        pass_fds=[writer], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    if not os.read(reader, 1):
        sys.exit(f"no server on {{port}}")

port, *rest = sys.argv[1:]
serve(port)
open(port, "w").close()
print("run id:", os.environ.get("PORTFREE_RUN_ID"), flush=True)
if rest:
    code, *file = rest
    while file and not os.path.exists(file[0]):
        time.sleep(0.01)
    socket.create_connection(("127.0.0.1", int(port))).close()
    print("still serving", port, flush=True)
    sys.exit(int(code))
"""

WAIT = """\
import os, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


class Ended(NamedTuple):
    code: int
    output: str

    def line(self, text: str) -> str:
        """The one line of the output that has this text."""
        lines = [line for line in self.output.splitlines() if text in line]
        assert len(lines) == 1, f"{text!r} is in {len(lines)} lines of:\n{self.output}"
        return lines[0]


class Running:
    """A tox that goes on, in a session of its own, as a terminal would start it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has said this, so many times."""
        wait_until(
            lambda: self._log.read_text().count(text) >= times or self.process.poll() is not None,
            f"{text!r} in {self._log}",
        )
        assert self._log.read_text().count(text) >= times, self._log.read_text()

    def interrupt(self) -> None:
        """What Ctrl-C does: SIGINT to everybody in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> Ended:
        self.process.wait(60)
        return Ended(self.process.returncode, self._log.read_text())


class Tox:
    """Runs tox in a project."""

    def __init__(self, processes: Processes, project: Path, work: Path) -> None:
        self._stage = processes
        self._work = work
        self._running: list[subprocess.Popen[bytes]] = []
        self.project = project
        (project / "command.py").write_text(COMMAND)
        (project / "wait.py").write_text(WAIT)

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> Running:
        log = self._stage.folder / f"tox-{len(self._running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                # The environments, which are empty, are shared by all tests here.
                [sys.executable, "-m", "tox", *words, "--workdir", str(self._work)],
                cwd=self.project,
                env=self._stage.environment({"PYTHONUNBUFFERED": "1", **(env or {})}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._running.append(process)
        return Running(process, log)

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> Ended:
        return self.start(*words, env=env).ended()

    def ini(self, **sections: Sequence[str]) -> None:
        """Write a tox.ini: a section for each environment, ``testenv`` for what they share."""
        lines = ["[tox]", "no_package = true", f"env_list = {', '.join(sections)}"]
        lines += ["[base]", f"pass_env = {TOKEN}, PYTHONUNBUFFERED"]
        for name, section in sections.items():
            lines += [f"[testenv:{name}]", "pass_env = {[base]pass_env}", *section]
        (self.project / "tox.ini").write_text("\n".join(lines) + "\n")

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait(PATIENCE)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tox")


@pytest.fixture
def tox(processes: Processes, project: Path, work: Path) -> Iterator[Tox]:
    tox = Tox(processes, project, work)
    try:
        yield tox
    finally:
        tox.close()


def serves(port: int, *rest: str | int) -> str:
    return f"commands = python command.py {' '.join(map(str, (port, *rest)))}"


def as_ini(port: int) -> tuple[str, str]:
    return "tox.ini", (
        f"[tox]\nno_package = true\nenv_list = a\n[testenv]\npass_env = {TOKEN}\n"
        f"free_ports = {port}\nfree_ports_scope = orphans\nfree_ports_grace = 5\n{serves(port)}\n"
    )


def as_toml(port: int) -> tuple[str, str]:
    return "tox.toml", (
        f'no_package = true\nenv_list = ["a"]\n[env_run_base]\npass_env = ["{TOKEN}"]\n'
        f'free_ports = ["{port}"]\nfree_ports_scope = "orphans"\nfree_ports_grace = 5\n'
        f'commands = [["python", "command.py", "{port}"]]\n'
    )


def as_pyproject(port: int) -> tuple[str, str]:
    _, toml = as_toml(port)
    toml = toml.replace("[env_run_base]", "[tool.tox.env_run_base]")
    return "pyproject.toml", f'[project]\nname = "shop"\n[tool.tox]\n{toml}'


@pytest.mark.parametrize("write", [as_ini, as_toml, as_pyproject])
def test_ports_are_freed_before_the_commands_and_after_them(
    tox: Tox, processes: Processes, write: Callable[[int], tuple[str, str]]
) -> None:
    port = processes.free_port()
    name, text = write(port)
    (tox.project / name).write_text(text)
    old = processes.orphan(tcp(port), cwd=tox.project, env={"PYTEST_CURRENT_TEST": TEST})

    ended = tox.run("run")

    assert ended.code == 0, ended.output
    assert not old.alive
    assert is_free(port)
    before, commands, after = ended.output.partition("commands[0]")
    assert commands
    assert f"a: portfree: freed {port}/tcp: stopped " in before
    assert f"(pid {old.pid}), started in {TEST}" in before
    assert f"a: portfree: freed {port}/tcp: stopped " in after
    assert f"started in {TEST}" in after


def test_commands_get_the_id_of_the_run_within_the_one_around_tox(
    tox: Tox, processes: Processes
) -> None:
    port = processes.free_port()
    tox.ini(guarded=[f"free_ports = {port}", serves(port)], plain=[serves(processes.free_port())])
    around = processes.run_id(alive=True)

    ended = tox.run("run", env={"PORTFREE_RUN_ID": around})

    ids = [line.split()[-1] for line in ended.output.splitlines() if "run id:" in line]
    assert len(ids) == 2, ended.output
    assert all(one.startswith(f"{around}/") for one in ids)
    assert ids[0] != ids[1]


def test_an_environment_without_ports_is_left_alone(tox: Tox, processes: Processes) -> None:
    port = processes.free_port()
    tox.ini(a=[serves(port)])

    ended = tox.run("run")

    assert ended.code == 0, ended.output
    assert "run id: None" in ended.output
    assert "portfree" not in ended.output
    assert accepts(port)


def test_after_a_failing_command(tox: Tox, processes: Processes) -> None:
    port = processes.free_port()
    # What is wrong in the end must not hide what was wrong in the commands.
    tox.ini(a=[f"free_ports = {port}", "free_ports_leaks = fail", serves(port, 3)])

    ended = tox.run("run")

    assert ended.code == 3, ended.output
    assert is_free(port)
    assert f"freed {port}/tcp" in ended.output


@pytest.mark.parametrize("post", [(), ("commands_post = python -V",)])
def test_after_ctrl_c(tox: Tox, processes: Processes, post: tuple[str, ...]) -> None:
    port = processes.free_port()
    tox.ini(a=[f"free_ports = {port}", serves(port, 0, "never"), *post])
    running = tox.start("run")
    running.wait_for("run id:")

    running.interrupt()

    ended = running.ended()
    assert ended.code != 0
    assert is_free(port)
    assert f"started in {TEST}" in ended.line(f"freed {port}/tcp")


def test_the_run_after_a_killed_one_names_the_test(tox: Tox, processes: Processes) -> None:
    port = processes.free_port()
    tox.ini(a=[f"free_ports = {port}", serves(port, 0, "go")])
    killed = tox.start("run")
    killed.wait_for("run id:")
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.ended()
    assert accepts(port)
    (tox.project / "go").touch()

    ended = tox.run("run")

    assert ended.code == 0, ended.output
    before, _, _ = ended.output.partition("commands[0]")
    assert f"started in {TEST}" in before


def test_what_one_environment_left_behind_is_freed_for_the_next(
    tox: Tox, processes: Processes
) -> None:
    port = processes.free_port()
    tox.ini(careless=[serves(port)], guarded=[f"free_ports = {port}", serves(port)])

    ended = tox.run("run")

    assert ended.code == 0, ended.output
    careless, _, guarded = ended.output.partition("careless: OK")
    assert "portfree" not in careless
    before, _, _ = guarded.partition("commands[0]")
    assert f"freed {port}/tcp" in before
    assert is_free(port)


# In parallel


def test_parallel_environments_cannot_share_a_port(tox: Tox, processes: Processes) -> None:
    port = processes.free_port()
    section = [f"free_ports = {port}", serves(port, 0, "go")]
    tox.ini(one=section, two=section)
    running = tox.start("-p", "all", "-o")
    running.wait_for("both want")

    (tox.project / "go").touch()

    ended = running.ended()
    assert ended.code == 1
    refused = ended.line("failed with portfree: environments")
    assert "one" in refused
    assert "two" in refused
    assert f"both want {port}/tcp" in refused
    # Whoever was first kept its server until it was done.
    ended.line(f"still serving {port}")
    ended.line(f"freed {port}/tcp")
    ended.line(": OK (")
    ended.line(": FAIL code 1 (")
    assert is_free(port)


def test_parallel_environments_with_one_port_take_turns_if_they_may_wait(
    tox: Tox, processes: Processes
) -> None:
    port = processes.free_port()
    section = [f"free_ports = {port}", "free_ports_wait = 60", serves(port, 0)]
    tox.ini(one=section, two=section)

    ended = tox.run("-p", "all")

    assert ended.code == 0, ended.output
    # Shown although nothing else is shown of an environment that succeeds.
    assert ended.output.count(f"freed {port}/tcp") == 2, ended.output


def test_parallel_environments_leave_each_other_alone(tox: Tox, processes: Processes) -> None:
    one, two = processes.free_port(), processes.free_port()
    # One has begun when the other one starts its server, and ends while that is at work.
    tox.ini(
        one=[f"free_ports = {one}", serves(one, 0, "one")],
        two=[
            f"free_ports = {two}",
            f"commands_pre = python wait.py {one}",
            serves(two, 0, "two"),
        ],
    )
    running = tox.start("-p", "all", "-o")
    running.wait_for("run id:", times=2)
    (tox.project / "one").touch()
    running.wait_for(f"freed {one}/tcp")
    assert is_free(one)
    assert accepts(two)

    (tox.project / "two").touch()

    ended = running.ended()
    assert ended.code == 0, ended.output
    ended.line(f"still serving {two}")
    ended.line(f"freed {two}/tcp")
    assert "still listening" not in ended.output


# What is left behind, what stays busy


@pytest.mark.parametrize("leaks", ["warn", "stop", "fail"])
def test_leaks(tox: Tox, processes: Processes, leaks: str) -> None:
    port, leaked = processes.free_port(), processes.free_port()
    tox.ini(a=[f"free_ports = {port}", f"free_ports_leaks = {leaks}", serves(leaked)])

    ended = tox.run("run")

    assert ended.code == (leaks == "fail"), ended.output
    assert f"a: portfree: {TEST} started " in ended.output
    assert f"on 127.0.0.1:{leaked}" in ended.output
    assert accepts(leaked) is (leaks == "warn")


def test_a_port_that_stays_busy(tox: Tox, processes: Processes) -> None:
    port = processes.free_port()
    server = processes.attended(http_server(port), cwd=tox.project, listening=port)
    commands = "commands = python -c \"print('at', 'work')\""
    tox.ini(
        warn=[f"free_ports = {port}", commands],
        fail=[f"free_ports = {port}", "free_ports_on_busy = fail", commands],
    )

    warned = tox.run("run", "-e", "warn")
    failed = tox.run("run", "-e", "fail")

    assert server.alive
    assert warned.code == 0, warned.output
    assert "at work" in warned.output
    assert f"(pid {server.pid}): attended" in warned.line(f"warn: portfree: {port}/tcp is busy")
    assert f"(pid {server.pid}), running since" in warned.line("may have talked to")
    assert failed.code == 1
    assert "at work" not in failed.output
    assert f"(pid {server.pid}): attended" in failed.line(
        f"fail: failed with portfree: {port}/tcp is busy"
    )


def test_wrong_values_are_named_in_one_line(tox: Tox) -> None:
    wrong = {
        "ports": ["free_ports = 80x"],
        "scope": ["free_ports = 8000", "free_ports_scope = mien"],
        "grace": ["free_ports = 8000", "free_ports_grace = soon"],
        "wait": ["free_ports = 8000", "free_ports_wait = -1"],
        "on_busy": ["free_ports = 8000", "free_ports_on_busy = panic"],
        "leaks": ["free_ports = 8000", "free_ports_leaks = all"],
    }
    tox.ini(**{name: [*lines, "commands = python -V"] for name, lines in wrong.items()})

    ended = tox.run("run")

    assert ended.code == 1
    assert "commands[0]" not in ended.output
    assert "Traceback" not in ended.output
    for name, lines in wrong.items():
        key, _, value = lines[-1].partition(" = ")
        line = ended.line(f"{name}: failed with portfree: ")
        assert str(tox.project / "tox.ini") in line
        assert key in line
        assert value in line


def test_it_can_be_turned_off(tox: Tox, processes: Processes) -> None:
    port = processes.free_port()
    server = processes.orphan(tcp(port), cwd=tox.project)
    says = "commands = python -c 'import os; print(os.environ)'"
    tox.ini(a=[f"free_ports = {port}", "free_ports_on_busy = fail", says])

    ended = tox.run("run", env={"PORTFREE": "0"})

    assert ended.code == 0, ended.output
    assert "a: portfree: turned off by PORTFREE=0 in the environment" in ended.output
    assert "'PORTFREE': '0'" in ended.output
    assert server.alive


def test_a_number_in_toml_is_explained(tox: Tox) -> None:
    (tox.project / "tox.toml").write_text(
        'no_package = true\nenv_list = ["a"]\n[env_run_base]\nfree_ports = [8000]\n'
    )

    ended = tox.run("run")

    assert ended.code == 1
    assert 'write free_ports = ["8000"]' in ended.line("failed with")


def test_a_fault_of_portfree_turns_nothing_red(tox: Tox, processes: Processes) -> None:
    port = processes.free_port()
    tox.ini(a=[f"free_ports = {port}", serves(port)], b=[f"free_ports = {port}", serves(port)])
    (tox.project / "toxfile.py").write_text(
        "import portfree.run, portfree._plugins.shared\n"
        "def broken(*words, **options): raise OSError('no such luck')\n"
        "portfree.run.free = broken\n"
    )

    after = tox.run("run", "-e", "a")
    (tox.project / "toxfile.py").write_text(
        (tox.project / "toxfile.py").read_text() + "portfree._plugins.shared.free = broken\n"
    )
    before = tox.run("run", "-e", "b")

    assert after.code == 0, after.output
    assert "no such luck" in after.line("a: portfree: ")
    assert "no such luck" in before.line("b: portfree: ")


# Installed by tox itself


def test_tox_provides_itself_with_the_plugin(
    processes: Processes, project: Path, tmp_path: Path
) -> None:
    wheels, plain = tmp_path / "wheels", tmp_path / "plain"
    pip = [sys.executable, "-m", "pip", "--quiet"]
    run(processes, *pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(export(tmp_path)))
    # A tox that knows nothing of portfree: the plugin must come from what it installs.
    run(processes, sys.executable, "-m", "venv", str(plain))
    run(processes, str(plain / "bin" / "python"), "-m", "pip", "--quiet", "install", "tox")
    port = processes.free_port()
    (project / "tox.ini").write_text(
        "[tox]\nrequires = portfree\nno_package = true\nenv_list = a\n"
        f"[testenv]\nfree_ports = {port}\ncommands = python -V\n"
    )
    old = processes.orphan(tcp(port), cwd=project, env={"PYTEST_CURRENT_TEST": TEST})

    said = run(
        processes,
        str(plain / "bin" / "tox"),
        "run",
        cwd=project,
        env={"PIP_FIND_LINKS": str(wheels)},
    )

    assert f"started in {TEST}" in said
    assert not old.alive


def export(folder: Path) -> Path:
    """What a wheel is made of; a build in place would litter the working tree."""
    source = folder / "source"
    shutil.copytree(HERE.parents[1] / "src", source / "src")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HERE.parents[1] / name, source / name)
    return source


def run(
    processes: Processes,
    *command: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=processes.environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if any(sign in done.stdout for sign in NO_INDEX):
        pytest.skip(f"pip gets no packages here: {done.stdout[-500:]}")
    assert done.returncode == 0, done.stdout
    return done.stdout
