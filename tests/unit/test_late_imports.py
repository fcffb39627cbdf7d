"""The one table of imports inside of functions.

A module is imported late only if it costs more than a millisecond on a path that mostly does not
need it, or is not there on every system. Milliseconds: medians of five, ``python -I -S -X
importtime`` on CPython 3.11, what it loads included.
"""

from __future__ import annotations

import ast
from pathlib import Path

import portfree

PACKAGE = Path(portfree.__file__).parent

LATE: dict[tuple[str, str], str | float] = {
    # not there on every system
    ("_core/reading.py", "pwd"): "Windows has none",
    ("_system/common.py", "pwd"): "Windows has none",
    ("_plugins/tox3.py", "tox.exception"): "tox 4 has none",
    ("_cli/child.py", "resource"): "Windows has none",
    # `portfree 8000` and free_ports(8000), on a port that is free
    ("_core/free.py", "portfree._core.loop"): 8.7,
    ("_cli/main.py", "portfree._cli.run"): 13.6,
    ("_cli/main.py", "portfree._cli.sudo"): 9.9,
    ("_cli/main.py", "portfree._output.json"): 1.6,
    ("_cli/main.py", "importlib.metadata"): 20.7,
    ("_cli/options.py", "argparse"): 5.9,
    ("_cli/options.py", "portfree._core"): 2.8,
    ("api.py", "portfree._core"): 2.8,
    ("_core/pyproject.py", "tomllib"): 6.2,
    ("_core/settings.py", "difflib"): 1.1,
    # a port that is held
    ("_system/common.py", "shutil"): 2.0,
    ("_system/common.py", "subprocess"): 3.9,
    # the end of a run that has left nothing behind
    ("run.py", "portfree._core.leaks"): 8.9,
    ("run.py", "importlib.metadata"): 20.7,
    ("run.py", "logging"): 5.0,
    # `portfree run`, on a system that has no child subreapers, or is not Windows
    ("_cli/child.py", "ctypes"): 1.6,
    ("_cli/child.py", "portfree._cli.child_windows"): 3.9,
    # a pytest session that frees no port, or has no workers on other hosts
    ("pytest_plugin.py", "portfree._plugins"): 76.8,
    ("_plugins/pytest_guard.py", "portfree._plugins.xdist_hosts"): 19.3,
    # tests that leave nothing behind, and do not fail
    ("_plugins/leak_watch.py", "portfree._plugins.leaks_by_test"): 9.6,
    ("_plugins/in_tests.py", "portfree._plugins"): 31.0,
}


def test_every_late_import_is_in_the_table_and_has_its_reason() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        for node in (node for function in functions for node in ast.walk(function)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
                folder = node.module == "portfree._cli"  # whose modules are imported by name
                names = modules if folder else [str(node.module)]
            else:
                continue
            found |= {(path.relative_to(PACKAGE).as_posix(), name) for name in names}

    assert found == set(LATE)
    assert all(isinstance(why, str) or why > 1 for why in LATE.values())
