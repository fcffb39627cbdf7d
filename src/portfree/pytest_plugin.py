"""The pytest plugin: frees the ports before the first test and after the last one.

    [pytest]                                   [tool.pytest.ini_options]
    free_ports = 8000 8125/udp                 free_ports = ["8000", "8125/udp"]

Keys, as on every surface: ``free_ports``, ``free_ports_scope``, ``free_ports_grace``,
``free_ports_wait``, ``free_ports_on_busy`` and ``free_ports_leaks``. On the command line
``--free-ports`` and ``--free-ports-scope`` come before them, and what none of these says, the
nearest ``[tool.portfree]`` does. Until somebody names ports, nothing of portfree is loaded but this
file.

Exit codes: 4 if a port is busy, ``free_ports_on_busy`` is ``fail`` and so no test is started. It is
what pytest has for everything that keeps it from beginning, such as a broken conftest.py, where 1
would say that tests have failed. 1 if the tests went well, but a port stayed busy after them, or a
server was left behind where ``free_ports_leaks`` is ``fail``.
"""

from __future__ import annotations

import os
import re

import pytest

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from typing import Any

    from _pytest.terminal import TerminalReporter

    from portfree._core.pyproject import Table
    from portfree._plugins.pytest_guard import SessionRun
    from portfree._plugins.xdist_hosts import Hosts, Worker
    from portfree.model import Port, Request

# With these pytest starts a session, but no test, nor a fixture that could start a server.
_ONLY_LOOKS = ("collectonly", "showfixtures", "show_fixtures_per_test", "setupplan", "cacheshow")

# pytest 6 has no public version, no stash and no type "string" for its configuration.
_VERSION = getattr(pytest, "version_tuple", (6,))
_TOO_OLD = _VERSION < (7,)
_TEXT: Any = None if _TOO_OLD else "string"
# In native TOML a time is a number, for which pytest has had a type since 8.4.
_SECONDS: Any = "float" if _VERSION >= (8, 4) else _TEXT


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options, and our keys in the configuration file."""
    group = parser.getgroup("portfree", "free ports before and after the tests (portfree)")
    group.addoption(
        "--free-ports",
        action="append",
        metavar="PORTS",
        help='the ports to free, such as "8000,9000-9010", instead of the configured ones',
    )
    group.addoption(
        "--free-ports-scope",
        metavar="WHOM",
        help="whom to stop before the tests: orphans (the default), project, mine or any",
    )
    add = parser.addini
    add("free_ports", "ports to free before and after the tests", type="args", default=None)
    add(
        "free_ports_scope",
        "whom to stop for that: orphans, project, mine or any",
        _TEXT,
        default=None,
    )
    add("free_ports_grace", "seconds that a server gets to shut down", _SECONDS, default=None)
    add("free_ports_wait", "seconds to wait for a live run to end", _SECONDS, default=None)
    add("free_ports_on_busy", "what if a port stays busy: warn or fail", _TEXT, default=None)
    add(
        "free_ports_leaks",
        "servers that the tests leave on other ports: ignore, warn, stop or fail",
        _TEXT,
        default=None,
    )


# First, for a conftest.py may start its servers in this hook, and xdist starts its workers in it.
@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Free the ports and open a run, if there are ports to free and tests to be run."""
    config = session.config
    # The controller of xdist does it for all of its workers, also for those on other hosts.
    if hasattr(config, "workerinput") or any(config.getoption(name, None) for name in _ONLY_LOOKS):
        return
    if _TOO_OLD:
        _refuse_if_configured(config)
        return
    guard = _configured(config)
    if guard is not None:
        config.stash[_GUARD] = guard
        guard.before()


# Before xdist starts a worker.
@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Worker) -> None:
    """Free the ports of a worker's host, if that is another one, and open a run there."""
    guard = _guard(node.config)
    if guard is not None:
        guard.welcome(node)


# Around all others, for they may end fixtures and the workers of xdist, and some of them may fail;
# but within that of the terminal, which then prints the summary.
@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """End the run and free the ports again."""
    yield
    guard = _guard(session.config)
    if guard is not None:
        guard.after()
        if guard.interrupted:
            _end_red(session, pytest.ExitCode.INTERRUPTED)
        elif guard.failure:
            _end_red(session, pytest.ExitCode.TESTS_FAILED)
        guard.ended_red = session.exitstatus == pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """The same where the session never came to its start, or its end, for another plugin failed."""
    guard = _guard(config)
    if guard is not None:
        guard.after()
        guard.tell_the_rest()


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which ports are guarded, and what was done for that."""
    guard = _guard(config)
    return None if guard is None else guard.header()


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Say what was stopped, kept and left behind; nothing if nothing was."""
    guard = _guard(config)
    lines = guard.take_lines() if guard is not None else []
    if lines:
        terminalreporter.write_sep("=", "portfree")
        for line, markup in lines:
            terminalreporter.write_line(line, **markup)


def _guard(config: pytest.Config) -> _Guard | None:
    return None if _TOO_OLD else config.stash.get(_GUARD, None)


def _refuse_if_configured(config: pytest.Config) -> None:
    """Begin no session whose ports would not be freed."""
    table = _load(config) if _has_table(config) else None
    named = config.getoption("free_ports") or config.getini("free_ports")
    wanted = named or (table is not None and table.ports)
    if wanted and os.environ.get("PORTFREE") != "0":
        raise pytest.UsageError(
            f"portfree needs pytest 7 or newer to free ports, and this is {pytest.__version__}: "
            "pip install --upgrade pytest, or do without: PORTFREE=0 pytest"
        )


def _end_red(session: pytest.Session, code: pytest.ExitCode) -> None:
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = code


# --- configuration -------------------------------------------------------------------------------


def _configured(config: pytest.Config) -> _Guard | None:
    """The guard that the configuration asks for; None if it asks for none."""
    words = config.getoption("free_ports") or _ini(config, "free_ports")
    table = _has_table(config)
    if not words and not table:
        return None
    if os.environ.get("PORTFREE") == "0":
        return _Guard(config, None, off="turned off by PORTFREE=0 in the environment")

    try:
        from portfree.errors import PortfreeError

        try:
            found = _load(config) if table else None
            ports = _ports(config) or (found.ports if found else ())
            request = _request(config, ports, found) if ports else None
        except PortfreeError as error:
            raise pytest.UsageError(f"portfree: {error}") from error
    except pytest.UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - it must turn no run red
        return _Guard(config, None, trouble=f"the configuration could not be read: {error!r}")
    return _Guard(config, request) if request else None


def _request(config: pytest.Config, ports: tuple[Port, ...], table: Table | None) -> Request:
    from portfree._core import settings

    names = ("scope", "grace", "wait", "on_busy", "leaks")
    given = {name: _ini(config, f"free_ports_{name}") for name in names}
    given |= {name: settings.number(given[name]) for name in ("grace", "wait")}
    typed = config.getoption("free_ports_scope")

    def spelled(name: str) -> str:
        if name == "scope" and typed is not None:
            return "--free-ports-scope"
        return f"{_source(config, f'free_ports_{name}')}: free_ports_{name}"

    if typed is not None:
        given["scope"] = typed
    return settings.request("pytest", ports, given, table, name=spelled)


def _ports(config: pytest.Config) -> tuple[Port, ...]:
    from portfree._core.ports import parse_ports

    if words := config.getoption("free_ports"):
        with _named("--free-ports"):
            return parse_ports(*words)
    with _named(f"{_source(config, 'free_ports')}: free_ports"):
        return parse_ports(*(_ini(config, "free_ports") or ()))


def _ini(config: pytest.Config, key: str) -> Any:  # noqa: ANN401 - whatever the file has
    """What the configuration file says; None if it says nothing."""
    try:
        value = config.getini(key)
    except (TypeError, ValueError, pytest.UsageError) as error:
        what = str(error)
        # pytest's own words for its type "float".
        no_number = re.search(r"(?:to float|got \w+): (.+)", what)
        if no_number and key != "free_ports":
            what = f"{key} is {no_number[1]}: give a number of seconds, such as 3 or 0.5"
        elif f"'{key}'" not in what:
            what = f"{key}: {what}"
        if str(config.inipath) not in what:
            what = f"{_source(config, key)}: {what}"
        hint = '; write free_ports = ["8000"], a list of strings' if key == "free_ports" else ""
        raise pytest.UsageError(f"portfree: {what}{hint}") from error
    return None if value in (None, "", []) else value  # older pytests know no default of None


def _source(config: pytest.Config, key: str) -> str:
    """Where a key of the configuration was given its value."""
    overrides: Iterable[str] = config.getoption("override_ini", None) or ()
    if any(each.partition("=")[0].strip() == key for each in overrides):
        return "-o on the command line"
    return str(config.inipath)


def _has_table(config: pytest.Config) -> bool:
    """Whether it is worth to load what reads ``[tool.portfree]``: most projects have none."""
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


def _load(config: pytest.Config) -> Table | None:
    from portfree._core.pyproject import load

    return load(config.rootpath)


class _named:  # noqa: N801 - used like a function
    """Put a name before what is wrong."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        from portfree import PortfreeError

        if isinstance(error, PortfreeError):
            raise PortfreeError(f"{self._name}: {error}") from error


# --- the way through a session -------------------------------------------------------------------


class _Guard:
    """The session's runs, on this host and on those of other workers, in terms of pytest."""

    def __init__(
        self,
        config: pytest.Config,
        request: Request | None,
        trouble: str = "",
        off: str = "",
    ) -> None:
        self._config = config
        self._request = request
        self._trouble = trouble
        self._off = off
        self._pid = os.getpid()
        self._run: SessionRun | None = None
        self._hosts: Hosts | None = None
        self._told = False
        self.ended_red = False
        self._interrupted = False

    def before(self) -> None:
        """Free the ports and open a run; `pytest.UsageError` if that failed and must not."""
        if self._request is not None:
            from portfree._plugins.pytest_guard import SessionRun

            self._run = SessionRun(self._request, self._notice)
            self._refuse(self._run.before())

    def welcome(self, node: Worker) -> None:
        """The same on the host of a worker, if that is another one."""
        spec = node.gateway.spec
        child = spec.popen and not spec.python and not spec.via  # as with -n: it is where we are
        if self._request is not None and not child:
            if self._hosts is None:
                from portfree._plugins.xdist_hosts import Hosts

                self._hosts = Hosts(self._request, self._run.id if self._run else "")
            self._refuse(self._hosts.welcome(node))

    def _refuse(self, why: str) -> None:
        if why:
            raise pytest.UsageError(f"portfree: {why}")

    def after(self) -> None:
        """End the runs and free the ports again, once, and in the process that began it alone."""
        if os.getpid() != self._pid:
            return
        try:
            if self._hosts is not None:
                self._hosts.end()
            if self._run is not None:
                self._run.after()
            if self._hosts is not None:
                self._hosts.wait()
        except KeyboardInterrupt:
            self._interrupted = True

    @property
    def interrupted(self) -> bool:
        return self._interrupted or (self._run is not None and self._run.interrupted)

    @property
    def failure(self) -> str:
        """Why the session must not end green."""
        return next(
            (each.failure for each in (self._run, self._hosts) if each and each.failure), ""
        )

    def header(self) -> str:
        """One line for the top of the session: which ports, and what was done."""
        return f"portfree: {self._run.headline() if self._run else self._trouble or self._off}"

    def take_lines(self) -> list[tuple[str, dict[str, bool]]]:
        """The lines for the end of the session, with their colours; and no second time."""
        if self._told or os.getpid() != self._pid:
            return []
        self._told = True
        found = [line for each in (self._run, self._hosts) if each for line in each.lines()]
        if self._trouble:
            found.append((self._trouble, True))
        lines = [(text, {"yellow": True} if warning else {}) for text, warning in found]
        if self.failure:
            status = "exit status 1: " if self.ended_red else ""
            lines.append((f"{status}{self.failure}", {"red": True}))
        return lines

    def tell_the_rest(self) -> None:
        """Say the same on stderr, where pytest has printed no summary."""
        from portfree._output.console import tell

        for line, _ in self.take_lines():
            tell(line)

    def _notice(self, line: str) -> None:
        """Say something while it happens, also in the middle of a line of dots."""
        from portfree._output.console import tell

        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.flush()
        tell(line)


if not _TOO_OLD:
    _GUARD = pytest.StashKey[_Guard]()
