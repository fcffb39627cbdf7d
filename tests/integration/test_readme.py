"""The README: what can be copied from it is run, and what it lists is all that there is."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from helpers.processes import (
    HERE,
    PATIENCE,
    Processes,
    accepts,
    http_server,
    is_free,
    tcp,
    wait_until,
)
from portfree._cli import main as cli
from portfree._cli import run as _run_command
from portfree._core.origin import EVIDENCE
from portfree._core.rules import RULES
from portfree._output.words import leak_line
from portfree.model import SCOPES, HolderReport, Leak, Port, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = HERE.parents[1]
PACKAGE = ROOT / "src" / "portfree"
README = (ROOT / "README.md").read_text(encoding="utf-8")

TEST = "tests/test_api.py::test_search (setup)"
PASSES = "def test_it():\n    pass\n"


class Block(NamedTuple):
    """A fenced block, and the heading that it stands under."""

    heading: str
    language: str
    text: str


def _blocks() -> Iterator[Block]:
    heading = ""
    for found in re.finditer(
        r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL
    ):
        if found[1]:
            heading = found[1]
        else:
            yield Block(heading, found[2], found[3])


BLOCKS = list(_blocks())


def block(heading: str, language: str, part: str = "") -> str:
    """The one block of that language under the heading that has this *part*."""
    (found,) = [b for b in BLOCKS if b[:2] == (heading, language) and part in b.text]
    return found.text


def section(heading: str) -> str:
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    """The rows of the tables under a heading, their heads included."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


class Shop:
    """A project that has what the README says, on ports that are free."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self.folder = folder
        self.port = processes.free_port()
        self._others: dict[str, str] = {}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.variables = processes.environment({"PATH": path})
        self.write("test_shop.py", PASSES)

    def fit(self, text: str) -> str:
        """The text with our ports for those of the README."""

        def ours(found: re.Match[str]) -> str:
            if found[0] == "8000":
                return str(self.port)
            if found[0] not in self._others:
                self._others[found[0]] = str(self.processes.free_port())
            return self._others[found[0]]

        return re.sub(r"\b9000-9010\b|\b8000\b|\b8125\b", ours, text)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(self.fit(text))

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        # To a file: with a pipe we would wait for whatever is left behind.
        with self._log.open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *command: str) -> int:
        return self.start(*command).wait(3 * PATIENCE)

    def module(self, name: str, *words: str) -> int:
        return self.run(sys.executable, "-m", name, *words)

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def _log(self) -> Path:
        return self.folder.parent / "log"


@pytest.fixture
def shop(processes: Processes, project: Path) -> Shop:
    return Shop(processes, project)


def left_behind(shop: Shop) -> Callable[[], bool]:
    """Leave a server of a killed run on the port; says whether it lives."""
    old = shop.processes.orphan(tcp(shop.port), cwd=shop.folder, env={"PYTEST_CURRENT_TEST": TEST})
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

    assert shop.module("pytest") == 0, shop.output

    assert "1 passed" in shop.output
    assert f"started in {TEST}" in shop.output
    assert not lives()


def test_pytest_options(shop: Shop) -> None:
    shop.write("pyproject.toml", block("From the old fixture to portfree", "toml"))
    lives = left_behind(shop)
    assert shop.run("env", "PORTFREE=0", sys.executable, "-m", "pytest") == 0, shop.output
    assert lives()

    shop.write("pyproject.toml", '[project]\nname = "shop"\n')
    words = re.findall(r"--free-ports\S*(?: 8000)?(?: mine)?", section("With pytest"))
    words = [word.strip("`") for word in shop.fit(" ".join(words)).split()]
    assert words == ["--free-ports", str(shop.port), "--free-ports-scope", "mine"]
    assert shop.module("pytest", *words) == 0, shop.output
    assert not lives()


def test_pytest_exit_status(shop: Shop) -> None:
    shop.processes.attended(http_server(shop.port), cwd=shop.folder, listening=shop.port)
    (on_busy,) = re.findall(r"`(free_ports_on_busy) = \"(fail)\"`", section("With pytest"))

    words = ("--free-ports", str(shop.port), "-o", "=".join(on_busy))
    assert shop.module("pytest", *words) == 4
    assert "no test was started" in shop.output


def test_the_old_fixture_is_one() -> None:
    # It is not run: it kills whatever is there.
    compile(block("From the old fixture to portfree", "python"), "README.md", "exec")


def test_nox(shop: Shop) -> None:
    shop.write("noxfile.py", block("With nox", "python"))
    lives = left_behind(shop)

    assert shop.module("nox", "--no-venv") == 0, shop.output

    assert "Session tests was successful" in shop.output
    assert f"portfree > freed {shop.port}/tcp" in shop.output
    assert not lives()


def test_tox(shop: Shop) -> None:
    # A project without a package, and the pytest that is here, spare us an index.
    text = block("With tox", "ini").replace("\n\n", "\nno_package = true\n\n", 1)
    shop.write("tox.ini", text + "allowlist_externals = pytest\n")
    lives = left_behind(shop)

    assert shop.module("tox", "run", "-e", "py", "--skip-env-install") == 0, shop.output

    assert "1 passed" in shop.output
    assert f"portfree: freed {shop.port}/tcp" in shop.output
    assert not lives()


def test_tox_in_toml(shop: Shop) -> None:
    shop.write("tox.toml", block("With tox", "toml"))

    words = ("config", "-e", "py", "-k", "free_ports", "commands")
    assert shop.module("tox", *words) == 0, shop.output

    assert re.search(rf"^free_ports = {shop.port}$", shop.output, re.MULTILINE), shop.output
    assert re.search(r"^commands = pytest$", shop.output, re.MULTILINE), shop.output


def test_pre_commit(shop: Shop) -> None:
    text = block("With pre-commit", "yaml")
    shop.write(".pre-commit-config.yaml", text)
    shop.variables["PRE_COMMIT_HOME"] = str(shop.folder / "cache")

    assert shop.module("pre_commit", "validate-config") == 0, shop.output

    hooks = (ROOT / ".pre-commit-hooks.yaml").read_text()
    assert re.findall(r"- id: (\S+)", text) == re.findall(r"- id: (\S+)", hooks)


def test_run(shop: Shop) -> None:
    lives = left_behind(shop)
    first = shop.fit(block("Around any command", "sh").partition(" -- ")[0])

    assert shop.module(*first.split(), "--", "sh", "-c", "exit 3") == 3

    assert not lives()


@pytest.mark.parametrize(
    ("command", "code"),
    [(("sh", "-c", "kill -TERM $$"), 143), (("./nothing",), 127), (("./test_shop.py",), 126)],
)
def test_exit_codes_of_run(shop: Shop, command: Iterable[str], code: int) -> None:
    assert shop.module("portfree", "run", str(shop.port), "--", *command) == code
    assert ("128 + n" if code == 143 else f"{code}: ") in section("Around any command")


def test_run_on_a_busy_port(shop: Shop) -> None:
    shop.processes.attended(http_server(shop.port), cwd=shop.folder, listening=shop.port)
    words = ("portfree", "run", str(shop.port), "--scope", "orphans")

    assert shop.module(*words, "--", "touch", "started") == 125
    assert not (shop.folder / "started").exists()
    assert shop.module(*words, "--on-busy", "warn", "--", "touch", "started") == 0
    assert (shop.folder / "started").exists()


def test_scripts(shop: Shop) -> None:
    shop.write("pyproject.toml", block("In pyproject.toml", "toml"))
    shop.write("calls.py", block("From Python", "python", "acts now"))
    assert shop.run(sys.executable, "calls.py") == 0, shop.output

    text = block("From Python", "python", "with ")
    text = text.replace('"npm", "test"', f'{sys.executable!r}, "-c", "pass"')
    shop.write("block.py", f"import subprocess\nfrom portfree import free_ports\n{text}")
    lives = left_behind(shop)
    assert shop.run(sys.executable, "block.py") == 0, shop.output
    assert not lives()


def test_at_a_shell(shop: Shop) -> None:
    def call(line: str) -> int:
        return shop.module(*shop.fit(line.partition("#")[0].replace("-8010", "")).split())

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
    shop.variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # nobody but the fixture is to stop it
    shop.write("shop.py", server)
    shop.write("conftest.py", IMPORTS + fixture)
    shop.write(
        "test_shop.py",
        "import socket\ndef test_it(server):\n"
        "    socket.create_connection(('127.0.0.1', 8000)).close()\n",
    )

    assert shop.module("pytest") == code, shop.output

    assert is_free(shop.port)
    assert ("no server" in shop.output) == bool(code)


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

    server.send_signal(number)

    assert server.wait(PATIENCE) == 128 + number
    assert "in good order" in shop.output
    assert is_free(shop.port)


def test_the_client_that_needs_no_port(shop: Shop) -> None:
    pytest.importorskip("flask")
    shop.write("shop.py", (ROOT / "examples" / "shop" / "shop.py").read_text())
    shop.write("test_shop.py", "from shop import app\n" + block(HOW, "python", "test_client"))

    assert shop.module("pytest") == 0, shop.output


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
    other = str(shop.processes.free_port())

    code = shop.module("pytest", "--free-ports", other, "-o", "free_ports_leaks=fail")

    assert code == (0 if closes else 1), shop.output
    assert ("the run itself, still listens" in shop.output) != closes


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

    assert shop.module(*shop.fit(command).removeprefix("$ ").split()) == 0

    pattern = re.escape("\n".join(lines))
    for part in (
        *(r"freed in \d+ ms", r"python3 -m http.server 8000", r"\d+ h old", r"\(\d+ ms\)"),
        *(r"pid \d+", "alice", "~/shop", "8000"),
    ):
        (once,) = set(re.findall(part, "\n".join(lines)))
        pattern = pattern.replace(re.escape(once), ".+" if part != "8000" else str(shop.port))
    assert re.fullmatch(pattern, shop.output.strip()), shop.output


def test_the_json(shop: Shop) -> None:
    left_behind(shop)

    def shape(value: object) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, dict):
            return {key: shape(each) for key, each in value.items()}
        return [shape(each) for each in value] if isinstance(value, list) else None

    assert shop.module("portfree", "--json", str(shop.port)) == 0

    shown = json.loads(block("For programs", "json"))
    assert shape(shown) == shape(json.loads(shop.output))
    assert shown["outcomes"][0]["holders"][0]["verdict"]["rule"] == "left-behind"


def test_the_line_on_a_leak() -> None:
    holder = HolderReport(
        pid=4242,
        name="python",
        command="python server.py",
        user="alice",
        uid=1000,
        started=None,
        cwd=None,
        launcher="",
        test=TEST,
        addresses=(),
        root=True,
        verdict=Verdict("stop", "own-run", ""),
    )
    line = leak_line(Leak("127.0.0.1", Port(43211, "tcp"), holder))
    assert block("Runs and leaks", "text") == line + "\n"


# What is listed


def test_every_module_is_on_the_map() -> None:
    listed = re.findall(r"`((?:_\w+/)?\w+\.py)`", section("Working on portfree"))
    there = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    assert sorted(listed) == sorted(there)


def test_every_rule_is_listed_in_its_order() -> None:
    names = [rule.__name__.strip("_").replace("_", "-") for rule in RULES]
    listed = [row[0].strip("`") for row in rows("Whom it stops") if row[0].startswith("`")]
    evidence = [each.__name__.strip("_") for each in EVIDENCE]
    assert listed == [*SCOPES, *evidence, *names]

    stuck = [row[0].strip("`") for row in rows("Still stuck?")]
    assert [name for name in names if name in stuck] == [
        name for name in names if name not in ("left-behind", "orphan", "mine")
    ]


def _trees() -> Iterator[ast.AST]:
    for path in PACKAGE.rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def test_every_kind_of_note_is_listed() -> None:
    kinds = {
        node.args[0].value
        for node in _trees()
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Note"
        and isinstance(node.args[0], ast.Constant)
    }
    table = section("Still stuck?").partition("\n| note |")[2]
    listed = re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)
    assert kinds
    assert len(listed) == len(set(listed))
    assert set(listed) == kinds


def test_what_it_says_when_stuck_is_what_it_says() -> None:
    said = [
        node.value
        for node in _trees()
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    quoted = [
        part.strip(" ,:")
        for row in rows("Still stuck?")
        for cell in row[:2]
        for text in re.findall(r"`([^`]*(?:…|\w \w)[^`]*)`", cell)
        for part in text.split("…")
    ]
    assert [part for part in quoted if part and not any(part in text for text in said)] == []
    assert len(quoted) > 20


@pytest.mark.parametrize(
    ("parser", "heading"),
    [(cli._parser, "At a shell"), (_run_command._parser, "Around any command")],
)
def test_every_option_is_listed(parser: Callable[[], Any], heading: str) -> None:
    options = {word for action in parser()._actions for word in action.option_strings}
    listed = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", section(heading) + section("At a shell")))
    assert options - listed <= {"-h", "--help", "--version"}


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.removeprefix("#") in anchors or (ROOT / target).exists(), target


def test_the_oldest_versions_are_those_of_the_metadata() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (said,) = re.findall(r"It works with (.*?), and newer ones", section("Install"), re.DOTALL)
    least = [each.replace(">=", " ") for (each,) in project["optional-dependencies"].values()]
    assert re.split(r", | and ", " ".join(said.split())) == least
