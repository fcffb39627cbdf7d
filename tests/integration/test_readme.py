"""The README: what can be copied from it is run, and what it shows is what one sees."""

from __future__ import annotations

import json
import re
import signal
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from helpers.processes import HERE, Processes, accepts, http_server, is_free, tcp, wait_until
from helpers.project import PASSES, TEST, Project
from helpers.readme import BLOCKS, block, section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

ROOT = HERE.parents[1]


class Shop(Project):
    """A project that has what the README says, on ports that are free."""

    @cached_property
    def ports(self) -> dict[str, str]:
        """Ours for those of the README."""
        third = str(self.processes.free_port())
        return {"8000": str(self.port), "8125": str(self.other), "9000-9010": third}

    def fit(self, text: str) -> str:
        """The text with our ports for those of the README."""
        return re.sub(r"\b(9000-9010|8000|8125)\b", lambda found: self.ports[found[0]], text)

    def write(self, name: str, text: str, **values: object) -> None:
        super().write(name, self.fit(text), **values)

    def ok(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """The output of a module of Python that succeeds."""
        return self.done(sys.executable, "-m", *words, env=env)


@pytest.fixture
def shop(processes: Processes, project: Path) -> Shop:
    # Loading hypothesis takes longer than all that is tested here.
    shop = Shop(processes, project, {"PYTEST_ADDOPTS": "-p no:hypothesispytest"})
    shop.write("test_shop.py", PASSES)
    return shop


def left_behind(shop: Shop) -> Callable[[], bool]:
    """Leave a server of a killed run on the port; says whether it lives."""
    old = shop.orphan(tcp(shop.port), PYTEST_CURRENT_TEST=TEST)
    return lambda: old.alive


# What is to be copied


NINE = pytest.mark.skipif(pytest.version_tuple < (9,), reason="needs a pytest with native TOML")
INI_OPTIONS = "[tool.pytest.ini_options]"


@pytest.mark.parametrize(
    ("heading", "language", "file", "table"),
    [
        ("From the old fixture to portfree", "toml", "pyproject.toml", INI_OPTIONS),
        pytest.param("With pytest", "toml", "pytest.toml", "[pytest]", marks=NINE),
        ("With pytest", "ini", "pytest.ini", "[pytest]"),
        ("In pyproject.toml", "toml", "pyproject.toml", "[tool.portfree]"),
    ],
)
def test_pytest(shop: Shop, heading: str, language: str, file: str, table: str) -> None:
    text = block(heading, language)
    assert table in text  # be it in the comment that names the other places
    shop.write(file, text.replace(INI_OPTIONS, table, 1))
    lives = left_behind(shop)

    said = shop.ok("pytest")

    assert "1 passed" in said
    assert f"started in {TEST}" in said
    assert not lives()


def test_pytest_options(shop: Shop) -> None:
    shop.write("pyproject.toml", block("From the old fixture to portfree", "toml"))
    lives = left_behind(shop)
    shop.ok("pytest", env={"PORTFREE": "0"})
    assert lives()

    shop.write("pyproject.toml", '[project]\nname = "shop"\n')
    words = re.findall(r"--free-ports\S*(?: 8000)?(?: mine)?", section("With pytest"))
    words = [word.strip("`") for word in shop.fit(" ".join(words)).split()]
    assert words == ["--free-ports", str(shop.port), "--free-ports-scope", "mine"]
    shop.ok("pytest", *words)
    assert not lives()


def test_pytest_exit_status(shop: Shop) -> None:
    shop.processes.attended(http_server(shop.port), cwd=shop.folder, listening=shop.port)
    (on_busy,) = re.findall(r"`(free_ports_on_busy) = \"(fail)\"`", section("With pytest"))

    words = ("--free-ports", str(shop.port), "-o", "=".join(on_busy))
    ended = shop.module("pytest", *words)
    assert ended.code == 4, ended.out
    assert "no test was started" in ended.out


def test_the_old_fixture_is_one() -> None:
    # It is not run: it kills whatever is there.
    compile(block("From the old fixture to portfree", "python"), "README.md", "exec")


def test_nox(shop: Shop) -> None:
    shop.write("noxfile.py", block("With nox", "python"))
    lives = left_behind(shop)

    said = shop.ok("nox", "--no-venv")

    assert "Session tests was successful" in said
    assert f"portfree > freed {shop.port}/tcp" in said
    assert not lives()


def test_tox(shop: Shop) -> None:
    # A project without a package, and the pytest that is here, spare us an index.
    text = block("With tox", "ini").replace("\n\n", "\nno_package = true\n\n", 1)
    shop.write("tox.ini", text + "allowlist_externals = pytest\n")
    lives = left_behind(shop)

    said = shop.ok("tox", "run", "-e", "py", "--skip-env-install")

    assert "1 passed" in said
    assert f"portfree: freed {shop.port}/tcp" in said
    assert not lives()


def test_tox_in_toml(shop: Shop) -> None:
    shop.write("tox.toml", block("With tox", "toml"))

    words = ("config", "-e", "py", "-k", "free_ports", "commands")
    said = shop.ok("tox", *words)

    assert re.search(rf"^free_ports = {shop.port}$", said, re.MULTILINE), said
    assert re.search(r"^commands = pytest$", said, re.MULTILINE), said


def test_pre_commit(shop: Shop) -> None:
    text = block("With pre-commit", "yaml")
    shop.write(".pre-commit-config.yaml", text)

    shop.ok("pre_commit", "validate-config", env={"PRE_COMMIT_HOME": str(shop / "cache")})

    hooks = (ROOT / ".pre-commit-hooks.yaml").read_text()
    assert re.findall(r"- id: (\S+)", text) == re.findall(r"- id: (\S+)", hooks)


def test_run(shop: Shop) -> None:
    lives = left_behind(shop)
    first = shop.fit(block("Around any command", "sh").partition(" -- ")[0])

    ended = shop.module(*first.split(), "--", "sh", "-c", "exit 3")
    assert ended.code == 3, ended.out

    assert not lives()


@pytest.mark.parametrize(
    ("command", "code"),
    [(("sh", "-c", "kill -TERM $$"), 143), (("./nothing",), 127), (("./test_shop.py",), 126)],
)
def test_exit_codes_of_run(shop: Shop, command: Iterable[str], code: int) -> None:
    ended = shop.module("portfree", "run", str(shop.port), "--", *command)
    assert ended.code == code, ended.out
    assert ("128 + n" if code == 143 else f"{code}: ") in section("Around any command")


def test_run_on_a_busy_port(shop: Shop) -> None:
    shop.processes.attended(http_server(shop.port), cwd=shop.folder, listening=shop.port)
    words = ("portfree", "run", str(shop.port), "--scope", "orphans")

    ended = shop.module(*words, "--", "touch", "started")
    assert ended.code == 125, ended.out
    assert not (shop / "started").exists()
    shop.ok(*words, "--on-busy", "warn", "--", "touch", "started")
    assert (shop / "started").exists()


def test_scripts(shop: Shop) -> None:
    shop.write("pyproject.toml", block("In pyproject.toml", "toml"))
    shop.write("calls.py", block("From Python", "python", "acts now"))
    shop.done(sys.executable, "calls.py")

    text = block("From Python", "python", "with ")
    text = text.replace('"npm", "test"', f'{sys.executable!r}, "-c", "pass"')
    shop.write("block.py", f"import subprocess\nfrom portfree import free_ports\n{text}")
    lives = left_behind(shop)
    shop.done(sys.executable, "block.py")
    assert not lives()


def test_at_a_shell(shop: Shop) -> None:
    def call(line: str) -> int:
        words = shop.fit(line.partition("#")[0].replace("-8010", "")).split()
        return shop.module(*words).code

    lines = block("At a shell", "sh").splitlines()
    (dry_run,) = [line for line in lines if "--dry-run" in line]
    lives = left_behind(shop)

    assert call(dry_run) == 0
    assert lives()
    assert [call(line) for line in lines] == [0] * len(lines)
    assert not lives()


# How not to leave servers behind

HOW = "How not to leave servers behind"

POLITE = """\
from http.server import HTTPServer, SimpleHTTPRequestHandler
HTTPServer(("127.0.0.1", 8000), SimpleHTTPRequestHandler).serve_forever()
"""
STUBBORN = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{POLITE}"
IMPORTS = "import asyncio, socket, subprocess, sys, time\nimport pytest\n"


@pytest.mark.parametrize(
    ("server", "code"),
    [(POLITE, 0), (STUBBORN, 0), ("raise SystemExit(3)\n", 1)],
    ids=["polite", "stubborn", "broken"],
)
def test_the_fixture_that_tears_down(shop: Shop, server: str, code: int) -> None:
    fixture = block(HOW, "python", "terminate()")
    assert "timeout=5" in fixture
    fixture = fixture.replace("timeout=5", "timeout=0.2")  # nobody has to wait for the stubborn one
    shop.write("shop.py", server)
    shop.write("conftest.py", IMPORTS + fixture)
    shop.write(
        "test_shop.py",
        "import socket\ndef test_it(server):\n"
        "    socket.create_connection(('127.0.0.1', 8000)).close()\n",
    )

    # Only the fixture is to stop it.
    ended = shop.module("pytest", env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert ended.code == code, ended.out

    assert is_free(shop.port)
    assert ("no server" in ended.out) == bool(code)


# As a shell without job control starts what is followed by an &.
IGNORING = ("sh", "-c", 'trap "" INT; exec "$0" "$@"')


@pytest.mark.parametrize(
    ("number", "prefix"),
    [(signal.SIGTERM, ()), (signal.SIGINT, ()), (signal.SIGINT, IGNORING)],
)
def test_the_handlers_that_shut_down(
    shop: Shop, number: signal.Signals, prefix: Iterable[str]
) -> None:
    bye = "import atexit\natexit.register(print, 'in good order')\n"
    shop.write("server.py", bye + block(HOW, "python", "signal.signal"))
    server = shop.start(*prefix, sys.executable, "server.py")
    wait_until(lambda: accepts(shop.port), "the server serves")

    server.process.send_signal(number)

    ended = server.ended()
    assert ended.code == 128 + number
    assert "in good order" in ended.out
    assert is_free(shop.port)


def test_the_client_that_needs_no_port(shop: Shop) -> None:
    pytest.importorskip("flask")
    shop.write("shop.py", (ROOT / "examples" / "shop" / "shop.py").read_text())
    shop.write("test_shop.py", "from shop import app\n" + block(HOW, "python", "test_client"))

    shop.ok("pytest")


@pytest.mark.parametrize("closes", [True, False])
def test_the_server_on_an_event_loop(shop: Shop, *, closes: bool) -> None:
    pytest.importorskip("pytest_asyncio")
    fixture = block(HOW, "python", "pytest_asyncio")
    if not closes:  # then portfree sees it
        fixture = fixture.partition("    server.close()")[0]
    answer = "async def answer(reader, writer):\n    writer.close()\n\n"
    shop.write("conftest.py", f"{IMPORTS}import pytest_asyncio\n{answer}{fixture}kept = []\n")
    shop.write(
        "test_shop.py",
        "import asyncio, conftest, pytest\n"
        '@pytest.mark.asyncio(loop_scope="session")\nasync def test_it(server):\n'
        "    conftest.kept.append(server)\n"
        '    _, writer = await asyncio.open_connection("127.0.0.1", 8000)\n'
        "    writer.close()\n",
    )

    words = ("--free-ports", str(shop.other), "-o", "free_ports_leaks=fail")
    ended = shop.module("pytest", *words)

    assert ended.code == (0 if closes else 1), ended.out
    assert ("of the test process itself, still listening" in ended.out) != closes


# What is shown


def test_the_output(shop: Shop) -> None:
    shop.processes.orphan(
        http_server(shop.port),
        cwd=shop.folder,
        env={"PYTEST_CURRENT_TEST": TEST},
        listening=shop.port,
    )
    (shown,) = [b.text for b in BLOCKS if b.language == "console"]
    command, *lines = shown.splitlines()

    said = shop.ok(*shop.fit(command).removeprefix("$ ").split())

    pattern = re.escape("\n".join(lines))
    for part in (
        *(r"freed in \d+ ms", r"python3 -m http.server 8000", r"\d+ h old", r"\(\d+ ms\)"),
        *(r"pid \d+", "alice", "~/shop", "8000"),
    ):
        (once,) = set(re.findall(part, "\n".join(lines)))
        pattern = pattern.replace(re.escape(once), ".+" if part != "8000" else str(shop.port))
    assert re.fullmatch(pattern, said.strip()), said


def test_the_json(shop: Shop) -> None:
    left_behind(shop)

    def shape(value: object) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, dict):
            return {key: shape(each) for key, each in value.items()}
        return [shape(each) for each in value] if isinstance(value, list) else None

    said = shop.ok("portfree", "--json", str(shop.port))

    shown = json.loads(block("For programs", "json"))
    assert shape(shown) == shape(json.loads(said))
    assert shown["outcomes"][0]["holders"][0]["verdict"]["rule"] == "left-behind"
