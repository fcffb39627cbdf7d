"""The tox plugin, through real tox."""

from __future__ import annotations

import shutil
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from helpers.processes import HERE, TOKEN, accepts, http_server, is_free, tcp
from helpers.project import NO_INDEX, TEST, Ended, Project, Running

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from helpers.processes import Processes

PASSED = f"{TOKEN}, PYTHONUNBUFFERED, CARELESS_TEST"

WAIT = "import sys, careless\ncareless.until(sys.argv[1])\n"


class Tox(Project):
    """A project in which tox runs."""

    work: Path

    def start_tox(self, *words: str, env: Mapping[str, str] | None = None) -> Running:
        # The environments, which are empty, are shared by all tests here.
        return self.start_module("tox", *words, "--workdir", str(self.work), env=env)

    def tox(self, *words: str, env: Mapping[str, str] | None = None) -> Ended:
        return self.start_tox(*words, env=env).ended()

    def ok(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """What a tox says that must succeed."""
        ended = self.tox(*words, env=env)
        assert ended.code == 0, ended.out
        return ended.out

    def ini(self, **sections: Sequence[str]) -> None:
        """Write a tox.ini: a section for each environment."""
        lines = ["[tox]", "no_package = true", f"env_list = {', '.join(sections)}"]
        for name, section in sections.items():
            lines += [f"[testenv:{name}]", f"pass_env = {PASSED}", *section]
        self.write("tox.ini", "\n".join([*lines, ""]))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tox")


@pytest.fixture
def tox(processes: Processes, project: Path, work: Path) -> Tox:
    tox = Tox(processes, project, {"CARELESS_TEST": TEST})
    tox.work = work
    tox.write_careless("careless.py")
    tox.write("wait.py", WAIT)
    return tox


def serves(port: int, *rest: str | int) -> str:
    return f"commands = python careless.py {' '.join(map(str, (port, *rest)))}"


INI = f"""\
[tox]
no_package = true
env_list = a
[testenv]
pass_env = {PASSED}
free_ports = $PORT
free_ports_scope = orphans
free_ports_grace = 5
commands = python careless.py $PORT
"""

TOML = f"""\
no_package = true
env_list = ["a"]
[env_run_base]
pass_env = ["{TOKEN}", "CARELESS_TEST"]
free_ports = ["$PORT"]
free_ports_scope = "orphans"
free_ports_grace = 5
commands = [["python", "careless.py", "$PORT"]]
"""

PYPROJECT = '[project]\nname = "shop"\n[tool.tox]\n' + TOML.replace("[env", "[tool.tox.env")


@pytest.mark.parametrize(
    ("name", "text"), [("tox.ini", INI), ("tox.toml", TOML), ("pyproject.toml", PYPROJECT)]
)
def test_ports_are_freed_before_the_commands_and_after_them(tox: Tox, name: str, text: str) -> None:
    port = tox.port
    tox.write(name, text)
    old = tox.orphan(tcp(port), PYTEST_CURRENT_TEST=TEST)

    said = tox.ok("run")

    assert not old.alive
    assert is_free(port)
    before, commands, after = said.partition("commands[0]")
    assert commands
    assert f"a: portfree: freed {port}/tcp: stopped " in before
    assert f"(pid {old.pid}), started in {TEST}" in before
    assert f"a: portfree: freed {port}/tcp: stopped " in after
    assert f"started in {TEST}" in after


def test_commands_get_the_id_of_the_run_within_the_one_around_tox(
    tox: Tox, processes: Processes
) -> None:
    port = tox.port
    tox.ini(guarded=[f"free_ports = {port}", serves(port)], plain=[serves(tox.other)])
    around = processes.run_id(alive=True)

    ended = tox.tox("run", env={"PORTFREE_RUN_ID": around})

    ids = [line.split()[-1] for line in ended.out.splitlines() if "run id:" in line]
    assert len(ids) == 2, ended.out
    assert all(one.startswith(f"{around}/") for one in ids)
    assert ids[0] != ids[1]


def test_an_environment_without_ports_is_left_alone(tox: Tox) -> None:
    port = tox.port
    tox.ini(a=[serves(port)])

    said = tox.ok("run")

    assert "run id: None" in said
    assert "portfree" not in said
    assert accepts(port)


def test_after_a_failing_command(tox: Tox) -> None:
    port = tox.port
    # What is wrong in the end must not hide what was wrong in the commands.
    tox.ini(a=[f"free_ports = {port}", "free_ports_leaks = fail", serves(port, 3)])

    ended = tox.tox("run")

    assert ended.code == 3, ended.out
    assert is_free(port)
    assert f"freed {port}/tcp" in ended.out


@pytest.mark.parametrize("post", [(), ("commands_post = python -V",)])
def test_after_ctrl_c(tox: Tox, post: tuple[str, ...]) -> None:
    port = tox.port
    tox.ini(a=[f"free_ports = {port}", serves(port, 0, "never"), *post])
    running = tox.start_tox("run")
    running.wait_for("run id:")

    running.signal()

    ended = running.ended()
    assert ended.code != 0
    assert is_free(port)
    assert f"started in {TEST}" in ended.line(f"freed {port}/tcp")


def test_the_run_after_a_killed_one_names_the_test(tox: Tox) -> None:
    port = tox.port
    tox.ini(a=[f"free_ports = {port}", serves(port, 0, "go")])
    killed = tox.start_tox("run")
    killed.wait_for("run id:")
    killed.signal(signal.SIGKILL)
    killed.ended()
    assert accepts(port)
    (tox / "go").touch()

    said = tox.ok("run")

    before, _, _ = said.partition("commands[0]")
    assert f"started in {TEST}" in before


def test_what_one_environment_left_behind_is_freed_for_the_next(tox: Tox) -> None:
    port = tox.port
    tox.ini(careless=[serves(port)], guarded=[f"free_ports = {port}", serves(port)])

    said = tox.ok("run")

    careless, _, guarded = said.partition("careless: OK")
    assert "portfree" not in careless
    before, _, _ = guarded.partition("commands[0]")
    assert f"freed {port}/tcp" in before
    assert is_free(port)


# In parallel


def test_parallel_environments_cannot_share_a_port(tox: Tox) -> None:
    port = tox.port
    section = [f"free_ports = {port}", serves(port, 0, "go")]
    tox.ini(one=section, two=section)
    running = tox.start_tox("-p", "all", "-o")
    running.wait_for("both want")

    (tox / "go").touch()

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


def test_parallel_environments_with_one_port_take_turns_if_they_may_wait(tox: Tox) -> None:
    port = tox.port
    section = [f"free_ports = {port}", "free_ports_wait = 60", serves(port, 0)]
    tox.ini(one=section, two=section)

    said = tox.ok("-p", "all")

    # Shown although nothing else is shown of an environment that succeeds.
    assert said.count(f"freed {port}/tcp") == 2, said


def test_parallel_environments_leave_each_other_alone(tox: Tox) -> None:
    one, two = tox.port, tox.other
    # One has begun when the other one starts its server, and ends while that is at work.
    tox.ini(
        one=[f"free_ports = {one}", serves(one, 0, "one")],
        two=[
            f"free_ports = {two}",
            f"commands_pre = python wait.py serves-{one}",
            serves(two, 0, "two"),
        ],
    )
    running = tox.start_tox("-p", "all", "-o")
    running.wait_for("run id:", times=2)
    (tox / "one").touch()
    running.wait_for(f"freed {one}/tcp")
    assert is_free(one)
    assert accepts(two)

    (tox / "two").touch()

    ended = running.ended()
    assert ended.code == 0, ended.out
    ended.line(f"still serving {two}")
    ended.line(f"freed {two}/tcp")
    assert "still listening" not in ended.out


# What is left behind, what stays busy


@pytest.mark.parametrize("leaks", ["warn", "stop", "fail"])
def test_leaks(tox: Tox, leaks: str) -> None:
    port, leaked = tox.port, tox.other
    tox.ini(
        a=[
            f"free_ports = {port}",
            f"free_ports_leaks = {leaks}",
            "free_ports_grace = 1",
            serves(leaked),
        ]
    )

    ended = tox.tox("run")

    assert ended.code == (leaks == "fail"), ended.out
    assert f"a: portfree: {TEST} started " in ended.out
    assert f"on 127.0.0.1:{leaked}" in ended.out
    assert accepts(leaked) is (leaks == "warn")


def test_a_port_that_stays_busy(tox: Tox, processes: Processes) -> None:
    port = tox.port
    server = processes.attended(http_server(port), cwd=tox.folder, listening=port)
    commands = "commands = python -c \"print('at', 'work')\""
    tox.ini(
        warn=[f"free_ports = {port}", commands],
        fail=[f"free_ports = {port}", "free_ports_on_busy = fail", commands],
    )

    warned = tox.tox("run", "-e", "warn")
    failed = tox.tox("run", "-e", "fail")

    assert server.alive
    assert warned.code == 0, warned.out
    assert "at work" in warned.out
    assert f"(pid {server.pid}): attended" in warned.line(f"warn: portfree: {port}/tcp is busy")
    assert f"(pid {server.pid}), running since" in warned.line("may have talked to")
    assert failed.code == 1
    assert "at work" not in failed.out
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

    ended = tox.tox("run")

    assert ended.code == 1
    assert "commands[0]" not in ended.out
    assert "Traceback" not in ended.out
    for name, lines in wrong.items():
        key, _, value = lines[-1].partition(" = ")
        line = ended.line(f"{name}: failed with portfree: ")
        assert str(tox / "tox.ini") in line
        assert key in line
        assert value in line


def test_it_can_be_turned_off(tox: Tox) -> None:
    port = tox.port
    server = tox.orphan(tcp(port))
    says = "commands = python -c 'import os; print(os.environ)'"
    tox.ini(a=[f"free_ports = {port}", "free_ports_on_busy = fail", says])

    said = tox.ok("run", env={"PORTFREE": "0"})

    assert "a: portfree: turned off by PORTFREE=0 in the environment" in said
    assert "'PORTFREE': '0'" in said
    assert server.alive


def test_a_number_in_toml_is_explained(tox: Tox) -> None:
    (tox / "tox.toml").write_text(
        'no_package = true\nenv_list = ["a"]\n[env_run_base]\nfree_ports = [8000]\n'
    )

    ended = tox.tox("run")

    assert ended.code == 1
    assert 'write free_ports = ["8000"]' in ended.line("failed with")


def test_a_fault_of_portfree_turns_nothing_red(tox: Tox) -> None:
    port = tox.port
    tox.ini(a=[f"free_ports = {port}", serves(port)], b=[f"free_ports = {port}", serves(port)])
    (tox / "toxfile.py").write_text(
        "import portfree.run, portfree._plugins.shared\n"
        "def broken(*words, **options): raise OSError('no such luck')\n"
        "portfree.run.free = broken\n"
    )

    after = tox.tox("run", "-e", "a")
    (tox / "toxfile.py").write_text(
        (tox / "toxfile.py").read_text() + "portfree._plugins.shared.free = broken\n"
    )
    before = tox.tox("run", "-e", "b")

    assert after.code == 0, after.out
    assert "no such luck" in after.line("a: portfree: ")
    assert "no such luck" in before.line("b: portfree: ")


# Installed by tox itself


def test_tox_provides_itself_with_the_plugin(tox: Tox, tmp_path: Path) -> None:
    wheels, plain = tmp_path / "wheels", tmp_path / "plain"
    pip = [sys.executable, "-m", "pip", "--quiet"]
    run(tox, *pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(export(tmp_path)))
    # A tox that knows nothing of portfree: the plugin must come from what it installs.
    run(tox, sys.executable, "-m", "virtualenv", "--quiet", "--no-download", str(plain))
    run(tox, str(plain / "bin" / "python"), "-m", "pip", "--quiet", "install", "tox")
    tox.write(
        "tox.ini",
        "[tox]\nrequires = portfree\nno_package = true\nenv_list = a\n"
        "[testenv]\nfree_ports = $PORT\ncommands = python -V\n",
    )
    old = tox.orphan(tcp(tox.port), PYTEST_CURRENT_TEST=TEST)

    said = run(tox, str(plain / "bin" / "tox"), "run", env={"PIP_FIND_LINKS": str(wheels)})

    assert f"started in {TEST}" in said
    assert not old.alive


def export(folder: Path) -> Path:
    """What a wheel is made of; a build in place would litter the working tree."""
    source = folder / "source"
    shutil.copytree(HERE.parents[1] / "src", source / "src")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HERE.parents[1] / name, source / name)
    return source


def run(tox: Tox, *command: str, env: Mapping[str, str] | None = None) -> str:
    ended = tox.run(*command, env=env)
    if any(sign in ended.out for sign in NO_INDEX):
        pytest.skip(f"pip gets no packages here: {ended.out[-500:]}")
    assert ended.code == 0, ended.out
    return ended.out
