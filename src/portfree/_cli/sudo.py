"""Frees ports as root, by sudo: a request goes to a root process, and its report comes back.

Both ways as JSON, for a pickle can be a program. Below root's process nothing else changes: sudo
tells it by SUDO_UID which user "we" are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portfree import model
from portfree._core import settings
from portfree._core.advice import key
from portfree._core.context import Moment
from portfree._core.free import free
from portfree._core.ports import parse_ports
from portfree._output.console import tell
from portfree.errors import PortfreeError
from portfree.model import Report, Request

# Runs this package as root, wherever it is installed, and nothing else: -I keeps the current
# directory, PYTHON* variables and the user's own site-packages off sys.path, and ours comes last.
_AS_ROOT = "import sys; sys.path.append({home!r}); from portfree._cli.sudo import answer; answer()"


def needs_sudo() -> bool:
    """Whether we are not root. Raises `PortfreeError` where there is no sudo (Windows)."""
    if not hasattr(os, "geteuid"):
        raise PortfreeError("--sudo: there is no sudo here; run portfree as an administrator")
    return os.geteuid() != 0


def free_as_root(
    request: Request, moment: Moment | None = None, *, captured: bool = False
) -> Report:
    """The report of `free`, done by root.

    *captured*: what root's process says on stderr is printed by ours, when it has ended. Raises
    `PortfreeError` if sudo refuses or asks for a password.
    """
    name = key(request.surface, "sudo")
    bootstrap = _AS_ROOT.format(home=str(Path(__file__).absolute().parents[2]))
    command = ["sudo", "-n", "--", sys.executable, "-I", "-c", bootstrap]
    when = moment and moment._asdict() | {"quiet": list(map(str, moment.quiet))}
    stderr = subprocess.PIPE if captured else None
    question = json.dumps([settings.as_plain(request), when]).encode()
    try:
        check = subprocess.run(
            ["sudo", "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True
        )
        if check.returncode == 0:
            done = subprocess.run(command, input=question, stdout=subprocess.PIPE, stderr=stderr)
    except OSError as error:
        raise PortfreeError(
            f"{name}: sudo cannot be run ({error.strerror}); "
            f"run portfree as root, or leave {name} out"
        ) from error
    if check.returncode != 0:
        raise PortfreeError(
            f"{name}: {_last_line(check.stderr) or 'sudo refused'}; "
            "run sudo -v first, or ask for a rule without a password"
        )
    if done.returncode != 0:
        raise PortfreeError(f"{name}: {_last_line(done.stderr or b'') or 'it failed'}")
    if said := (done.stderr or b"").decode(errors="replace").strip():
        print(said)  # noqa: T201
    return report_of(json.loads(done.stdout))


def _last_line(said: bytes) -> str:
    return "".join(said.decode(errors="replace").strip().splitlines()[-1:])


def answer() -> None:
    """As root: free what stdin asks for, and write the report to stdout."""
    asked, when = json.load(sys.stdin)
    request = settings.from_plain(asked)
    moment = Moment(**when | {"quiet": parse_ports(*when["quiet"])}) if when else None
    json.dump(free(request, notice=tell, moment=moment), sys.stdout)


def report_of(found: Sequence[Any]) -> Report:
    """The report that JSON has made lists of."""
    (ports, *asked), outcomes, seconds = found
    request = Request(tuple(model.Port(*port) for port in ports), *asked)
    request = request._replace(leaks_ignore=tuple(request.leaks_ignore))
    return Report(request, tuple(map(_outcome, outcomes)), seconds)


def _outcome(found: Sequence[Any]) -> model.Outcome:
    port, status, ok, holders, found_notes, seconds = found
    notes = [
        model.Note(kind, text, instead, model.Advice(*advice) if advice else None, _ending(ending))
        for kind, text, instead, advice, ending in found_notes
    ]
    built = tuple(map(_holder, holders))
    return model.Outcome(model.Port(*port), status, ok, built, tuple(notes), seconds)


def _holder(found: Sequence[Any]) -> model.HolderReport:
    holder = model.HolderReport(*found)
    action, rule, reason, instead, advice = holder.verdict
    said = model.Advice(*advice) if advice else None
    return holder._replace(
        addresses=tuple(holder.addresses),
        verdict=model.Verdict(action, rule, reason, instead, said),
        ending=_ending(holder.ending),
        origin=model.Origin(*holder.origin) if holder.origin else None,
    )


def _ending(found: Sequence[Any] | None) -> model.Ending | None:
    if found is None:
        return None
    how, signals, seconds, error = found
    return model.Ending(how, tuple(signals), seconds, error)
