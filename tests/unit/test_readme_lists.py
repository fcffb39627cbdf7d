"""The README: what it lists is all that there is."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from helpers.readme import README, ROOT, block, rows, section
from portfree._cli import main as cli
from portfree._cli import run as _run_command
from portfree._core.origin import EVIDENCE
from portfree._core.rules import RULES
from portfree._output.words import leak_line
from portfree.model import SCOPES, HolderReport, Leak, Port, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = ROOT / "src" / "portfree"


def test_the_line_on_a_leak() -> None:
    test = "tests/test_api.py::test_search (setup)"
    holder = HolderReport(
        pid=4242,
        name="python",
        command="python server.py",
        user="alice",
        uid=1000,
        started=None,
        cwd=None,
        launcher="",
        test=test,
        addresses=(),
        root=True,
        verdict=Verdict("stop", "own-run", ""),
    )
    line = leak_line(Leak("127.0.0.1", Port(43211, "tcp"), holder))
    assert block("Runs and leaks", "text") == line + "\n"


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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (said,) = re.findall(r"It works with (.*?), and newer ones", section("Install"), re.DOTALL)
    least = [each.replace(">=", " ") for (each,) in project["optional-dependencies"].values()]
    assert re.split(r", | and ", " ".join(said.split())) == least
