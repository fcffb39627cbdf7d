"""The tox plugin, for tox 4.

tox runs environments in threads of one process. So nothing here touches signals or `os.environ`,
and the run's id goes into the environment's own variables.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, List, Optional, cast  # noqa: UP035
from weakref import WeakSet

from tox.plugin import impl
from tox.report import HandledError
from tox.tox_env.errors import Fail

from portfree._core import settings
from portfree._core.ports import parse_ports
from portfree._core.run_id import RUN_ID
from portfree._plugins.shared import begin, lines
from portfree.errors import PortfreeError
from portfree.model import Request

if TYPE_CHECKING:
    from tox.config.sets import EnvConfigSet
    from tox.report import OutErr
    from tox.session.state import State
    from tox.tox_env.api import ToxEnv

    from portfree.conclusion import Conclusion
    from portfree.model import Port
    from portfree.run import Run

# Old tox lets the error of a conversion pass.
_BAD_VALUE = (HandledError, PortfreeError, ValueError, TypeError)

_logger = logging.getLogger("portfree.tox")

# The environments whose commands are running now, with the ports that they use until then.
_claims: dict[ToxEnv, tuple[Port, ...]] = {}
_runs: dict[ToxEnv, Run] = {}
_turn = threading.Condition()

# Of all environments that tox knows of in this session, running or not.
_configs: WeakSet[EnvConfigSet] = WeakSet()


@impl
def tox_add_env_config(env_conf: EnvConfigSet, state: State) -> None:  # noqa: ARG001 - tox names them
    """Give every environment our keys."""
    # As `typing` has them: before tox 4.15.1, list[str] and str | None are no types that it knows.
    text, number = Optional[str], Optional[float]  # noqa: UP045
    add: Any = env_conf.add_config
    add("free_ports", List[str], [], "ports to free before the commands and after them")  # noqa: UP006
    add("free_ports_scope", text, None, "which processes to stop: orphans, project, mine or any")
    add("free_ports_grace", number, None, "seconds that a server gets to shut down")
    add("free_ports_wait", number, None, "seconds to wait for a live run to give a port up")
    add("free_ports_on_busy", text, None, "what if a port stays busy: warn or fail")
    add("free_ports_leaks", text, None, "servers left behind: ignore, warn, stop or fail")
    add("free_ports_leaks_ignore", List[str], [], "ports and programs that may be left behind")  # noqa: UP006
    _configs.add(env_conf)


@impl
def tox_before_run_commands(tox_env: ToxEnv) -> None:
    """Free the ports, and open a run."""
    off = os.environ.get("PORTFREE") == "0"
    if off:
        tox_env.conf["set_env"].update({"PORTFREE": "0"})  # tox keeps it from the commands
    request = _request(tox_env)
    if off and request and request.ports:
        _say(tox_env, "turned off by PORTFREE=0 in the environment")
        request = request._replace(ports=(), leaks="ignore", on_busy="warn")
    problem = _begin(tox_env, request) if request else ""
    if problem:
        _let_go(tox_env)  # before tox 4.0.7 nothing comes after this
        raise Fail(f"portfree: {problem}")


@impl
def tox_after_run_commands(tox_env: ToxEnv, exit_code: int) -> None:
    """End the run, and free the ports again."""
    problem = _end(tox_env)
    # What made the commands fail is what their user must see.
    if problem and exit_code == 0:
        raise Fail(f"portfree: {problem}")


@impl(optionalhook=True)
def tox_env_teardown(tox_env: ToxEnv) -> None:
    """The same where tox has skipped what comes after the commands, as it does after Ctrl-C."""
    _end(tox_env)


# --- configuration -------------------------------------------------------------------------------


def _request(tox_env: ToxEnv) -> Request | None:
    """What the configuration asks for; None if portfree has no business here."""
    conf = tox_env.conf
    try:
        if words := conf["free_ports"]:
            try:
                ports = parse_ports(*words)
            except PortfreeError as error:
                raise PortfreeError(f"free_ports: {error}") from error
            names = ("scope", "grace", "wait", "on_busy", "leaks", "leaks_ignore")
            given = {name: conf[f"free_ports_{name}"] for name in names}
            return settings.request("tox", ports, given)
    except _BAD_VALUE as error:
        what = str(error)
        is_int = "free_ports: " in what and "is not of type 'str'" in what
        hint = '; write free_ports = ["8000"], a list of strings' if is_int else ""
        where = f"environment {conf.name} in {tox_env.core['config_file_path']}"
        raise Fail(f"portfree: {where}: {what}{hint}") from error
    # Where others are guarded, an id tells them whether a server on their port was left here or is
    # in use here. And what surrounds tox (`portfree run 8000 -- tox`) must get to the commands, of
    # which tox keeps away all variables that it does not know.
    return Request((), leaks="ignore") if RUN_ID in os.environ or _any_configured() else None


def _any_configured() -> bool:
    """Whether any environment of this session has ports; one that is configured badly, too."""
    with _turn:
        for conf in tuple(_configs):
            try:
                if conf["free_ports"]:
                    return True
            except _BAD_VALUE:  # to be reported by that environment itself
                return True
    return False


# --- the way through a run -----------------------------------------------------------------------


def _claim(tox_env: ToxEnv, request: Request) -> None:
    """Make the ports this environment's own; refuse it if one that runs now has one of them."""

    def rivals() -> list[tuple[ToxEnv, Port]]:
        claimed = [(other, port) for other, ports in _claims.items() for port in ports]
        return [(other, port) for other, port in claimed if port in request.ports]

    with _turn:
        _turn.wait_for(lambda: not rivals(), timeout=request.wait)
        for other, port in rivals():
            one, two = tox_env.conf.name, other.conf.name
            raise Fail(
                f"portfree: environments {one} and {two} run at the same time and both want "
                f"{port}: give each a port of its own, or say in {one}: depends = {two}"
            )
        _claims[tox_env] = request.ports


def _begin(tox_env: ToxEnv, request: Request) -> str:
    """Free the ports and open a run; returns why no command may run, and nothing if they may."""
    _claim(tox_env, request)
    outer = {RUN_ID: os.environ[RUN_ID]} if RUN_ID in os.environ else {}
    run, found = begin(request, "the commands", lambda line: _say(tox_env, line), outer)
    if run is not None and run.id:
        _runs[tox_env] = run
        tox_env.conf["set_env"].update({RUN_ID: run.id})
    _tell(tox_env, found)
    return found.why()


def _end(tox_env: ToxEnv) -> str:
    """End the run, if one is open, and return what is wrong enough to fail for."""
    run = _runs.pop(tox_env, None)
    try:
        if run is None:
            return ""
        run.close()
        found = run.conclusion()
        _tell(tox_env, found)
        return found.failure("tox")
    finally:
        _let_go(tox_env)


def _let_go(tox_env: ToxEnv) -> None:
    """The ports are no longer this environment's own."""
    with _turn:
        _claims.pop(tox_env, None)
        _turn.notify_all()


# --- messages ------------------------------------------------------------------------------------


def _tell(tox_env: ToxEnv, found: Conclusion) -> None:
    for line, warning in (*lines(found), *((note, False) for note in found.notes)):
        _say(tox_env, line, warning=warning)


def _say(tox_env: ToxEnv, line: str, *, warning: bool = False) -> None:
    # For tox, what it does by itself is a warning: the lowest level that one sees without -v. An
    # error is red, and there with -q too.
    level = logging.ERROR if warning else logging.WARNING
    # `tox -p` shows nothing of an environment that succeeds; our lines are shown all the same.
    streams = cast("OutErr", (sys.stdout, sys.stderr))
    with tox_env.log_handler.suspend_out_err(True, streams):  # noqa: FBT003
        _logger.log(level, "portfree: %s", line)
