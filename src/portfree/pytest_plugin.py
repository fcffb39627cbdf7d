"""The pytest plugin: frees the ports before the first test and after the last one.

    [pytest]                                   [tool.pytest.ini_options]
    free_ports = 8000 8125/udp                 free_ports = ["8000", "8125/udp"]

Keys, as on every surface: ``free_ports``, ``free_ports_scope``, ``free_ports_grace``,
``free_ports_wait``, ``free_ports_on_busy`` and ``free_ports_leaks``. On the command line
``--free-ports`` and ``--free-ports-scope`` come before them, and what none of these says, the
nearest ``[tool.portfree]`` does. Where no ports are named, no other module of portfree is loaded.

Exit codes: 4 if a port is busy, ``free_ports_on_busy`` is ``fail`` and so no test is started. It is
what pytest has for everything that keeps it from beginning, such as a broken conftest.py, where 1
would say that tests have failed. 1 if the tests went well, but a port stayed busy after them, or a
server was left behind where ``free_ports_leaks`` is ``fail``.
"""

from __future__ import annotations

import os
import sys

import pytest

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from typing import Any

# With these pytest starts a session, but no test, nor a fixture that could start a server.
_ONLY_LOOKS = ("collectonly", "showfixtures", "show_fixtures_per_test", "setupplan", "cacheshow")

# pytest 6 has no public version, and no type "string" for its configuration.
_VERSION = getattr(pytest, "version_tuple", (6,))
_TEXT: Any = "string" if _VERSION >= (7,) else None
# In native TOML a time is a number, for which pytest has had a type since 8.4.
_SECONDS: Any = "float" if _VERSION >= (8, 4) else _TEXT
_KEYS: dict[str, tuple[Any, str]] = {
    "free_ports": ("args", "ports to free before and after the tests"),
    "free_ports_scope": (_TEXT, "which processes to stop for that: orphans, project, mine or any"),
    "free_ports_grace": (_SECONDS, "seconds that a server gets to shut down"),
    "free_ports_wait": (_SECONDS, "seconds to wait for a live run to end"),
    "free_ports_on_busy": (_TEXT, "what if a port stays busy: warn or fail"),
    "free_ports_leaks": (_TEXT, "servers that tests leave behind: ignore, warn, stop or fail"),
    "free_ports_leaks_ignore": ("args", "ports and programs that tests may leave behind"),
    "free_ports_sigterm": (_TEXT, "whether SIGTERM ends the tests as Ctrl-C does: true or false"),
}
_CHOICES = {
    "scope": "{orphans,project,mine,any}",
    "grace": "SECONDS",
    "wait": "SECONDS",
    "on-busy": "{warn,fail}",
    "leaks": "{ignore,warn,stop,fail}",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options, and our keys in the configuration file."""
    group = parser.getgroup("portfree", "free ports before and after the tests (portfree)")
    group.addoption(
        "--free-ports",
        action="append",
        metavar="PORTS",
        help='the ports to free, such as "8000,9000-9010", instead of the configured ones',
    )
    for name, values in _CHOICES.items():
        key = f"free_ports_{name.replace('-', '_')}"
        what = f"{_KEYS[key][1]}; instead of the configured {key}"
        group.addoption(f"--free-ports-{name}", metavar=values, help=what)
    for key, (kind, what) in _KEYS.items():
        parser.addini(key, what, kind, default=None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "allow_port_leaks(*ports_or_programs): the test may leave servers behind, be it all, or "
        'those on these ports and of these programs, as in allow_port_leaks(5037, "gradle*")',
    )


# First, for a conftest.py may start its servers in this hook, and xdist starts its workers in it.
@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Register the guard and have it begin, if there are ports to free and tests to be run."""
    config = session.config
    # The controller of xdist frees the ports for all of its workers, also for those on other hosts.
    if hasattr(config, "workerinput"):
        if settings := config.workerinput.get("portfree"):
            from portfree._plugins import in_tests

            in_tests.join(config, settings)
        return
    if any(config.getoption(name, None) for name in _ONLY_LOOKS) or not _is_configured(config):
        return
    if os.environ.get("PORTFREE") == "0":
        config.pluginmanager.register(_Off())
        return
    if _VERSION < (7,):
        # On stderr, for -q hides the header.
        why = f"does nothing beside pytest {pytest.__version__}: it needs pytest 7 or newer"
        print(f"portfree: {why}", file=sys.stderr)  # noqa: T201
        return
    from portfree._plugins import pytest_config, pytest_guard  # not where no ports are named

    request = pytest_config.load(config)
    if request is None:
        return
    guard = pytest_guard.PortGuard(config, request, sigterm=pytest_config.sigterm(config))
    config.pluginmanager.register(guard, "portfree-guard")
    guard.begin()


class _Off:
    """Registered instead of the guard where portfree is turned off."""

    def pytest_report_header(self) -> str:
        return "portfree: turned off by PORTFREE=0 in the environment"


def _is_configured(config: pytest.Config) -> bool:
    """Whether it is worth to load what reads the configuration: most projects have none."""
    try:
        if config.getoption("free_ports") or config.getini("free_ports"):
            return True
    except (TypeError, ValueError, pytest.UsageError):  # a bad value, which will be told
        return True
    for folder in (config.rootpath, *config.rootpath.parents):
        try:
            content = (folder / "pyproject.toml").read_bytes()
            # As portfree._core.pyproject asks, which is not to be loaded for that.
            if b"tool.portfree" in content or (b"[tool]" in content and b"portfree" in content):
                return True
        except OSError:  # there is none, mostly
            pass
        if (folder / ".git").exists():
            break
    return False
