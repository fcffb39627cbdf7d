"""The step of the GitHub Action (action.yml): frees, and says so in the log and on the run's page.

Its inputs come as environment variables, ``PORTFREE_INPUT_…``, and an empty one says nothing. What
is printed here may hold the names of processes, and the runner takes some lines of a log for
commands; so everything goes through `_Log`.

Exit codes: 0 all free, or ``on-busy: warn``; 1 a port is still busy; 2 a bad input; with ``run``
those of ``portfree run``, but for bad inputs.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import shlex
import shutil
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from portfree._cli.interrupts import TIMINGS
from portfree._cli.run import FAILED, guarded, write_report
from portfree._cli.sudo import free_as_root, needs_sudo
from portfree._core import pyproject, settings
from portfree._core.free import free
from portfree._core.ports import parse_ports
from portfree._output.console import tell
from portfree._output.github import as_annotations, as_markdown, command_data
from portfree._output.text import as_text
from portfree.conclusion import of_beginning
from portfree.errors import PortfreeError, shown
from portfree.model import Report, Request
from portfree.run import FreePortsReport, Run

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from portfree.model import Port

_FREE, _BUSY, _USAGE, _CANCELLED = 0, 1, 2, 130

_PREFIX = "PORTFREE_INPUT_"

# A cancelled step has 7.5 seconds until SIGTERM; its servers get less.
_HURRY = 0.5


def main() -> int:
    """Run the step and return its exit code."""
    log = _Log(
        os.fdopen(os.dup(1), "wb", buffering=0), "utf-8", "backslashreplace", write_through=True
    )
    sys.stdout = sys.stderr = log
    inputs = _Inputs.take(os.environ)
    try:
        request, as_root = _asked(inputs)
        done = _around(inputs, request, as_root) if inputs.run else _Done(*_free(request, as_root))
    except KeyboardInterrupt:
        log.command("error", "cancelled")
        code = _CANCELLED
    except PortfreeError as error:
        log.command("error", str(error))
        code = getattr(error, "code", _USAGE)  # that of a shell which cannot be run
    else:
        _tell(log, done)
        return done.code
    _set_outputs(ok="false", freed="", busy="", report="")
    return code


class _Log(io.TextIOWrapper):
    """The log of the step, in which no text is a command but those of `command`."""

    def write(self, text: str) -> int:
        """Write a text. A line with ``::`` in front is a command, and so is ``##[`` anywhere."""
        return super().write(re.sub(r"(?m)^(\s*):(?=:)|##(?=\[)", r"\g<0>\\", text))

    def command(self, name: str, text: str) -> None:
        """Write a command."""
        self.raw_line(f"::{name} title=portfree::{command_data(text)}")

    def raw_line(self, line: str) -> None:
        """Write a line as it is."""
        super().write(f"{line}\n")


class _Inputs(NamedTuple):
    ports: str = ""
    run: str = ""
    shell: str = ""
    working_directory: str = ""
    scope: str = ""
    grace: str = ""
    wait: str = ""
    on_busy: str = ""
    leaks: str = ""
    leaks_ignore: str = ""
    sudo: str = ""

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> _Inputs:
        """The inputs; out of the environment, where the command would see them."""
        values = {name: environ.pop(_PREFIX + name.upper(), "") for name in cls._fields}
        # A command is a script, in which even blanks may mean something.
        return cls(**{k: v if k == "run" and v.strip() else v.strip() for k, v in values.items()})


class _Done(NamedTuple):
    """What the step has found and done."""

    before: Report
    code: int
    run: Run | None = None
    why: str = ""
    """Why a command that has succeeded is no success."""


def _asked(inputs: _Inputs) -> tuple[Request, bool]:
    """What is asked for, and whether root is to do it.

    What the inputs do not say the configuration does, then the defaults.
    """
    try:
        os.chdir(inputs.working_directory or ".")
    except OSError as error:
        raise PortfreeError(
            f"working-directory is {shown(inputs.working_directory)}: {error.strerror}"
        ) from error
    hosted = os.environ.get("RUNNER_ENVIRONMENT") == "github-hosted"
    texts = {name: value or None for name, value in inputs._asdict().items()}
    request = settings.request(
        "action",
        parse_ports(inputs.ports) if inputs.ports else (),
        texts | {name: settings.number(texts[name]) for name in ("grace", "wait")},
        pyproject.load("."),
        scope="mine" if hosted else "orphans",
        on_busy="fail",
    )
    sudo = inputs.sudo.lower()
    if sudo not in ("", "true", "false"):
        raise PortfreeError(f"sudo is {shown(inputs.sudo)}: choose one of true, false")
    return request, sudo == "true" and needs_sudo()


def _free(request: Request, as_root: bool) -> tuple[Report, int]:  # noqa: FBT001
    """Free the ports, in a hurry once the step is cancelled; the report and the exit code."""
    # The runner would take some lines of stderr for commands.
    work = partial(free_as_root, captured=True) if as_root else partial(free, notice=tell)
    try:
        report = work(request)
    except KeyboardInterrupt:
        return work(request._replace(wait=0.0, grace=_HURRY)), _CANCELLED
    return report, _BUSY if of_beginning(report).problems else _FREE


def _around(inputs: _Inputs, request: Request, as_root: bool) -> _Done:  # noqa: FBT001
    """Free the ports, run the command, and free them again."""
    with tempfile.TemporaryDirectory(
        prefix="portfree-run-", dir=os.environ.get("RUNNER_TEMP"), ignore_cleanup_errors=True
    ) as folder:
        command = _script(inputs.shell, inputs.run, Path(folder))
        before, code = _free(request, as_root)
        if code != _FREE:
            tell("the command was not started")
            return _Done(before, FAILED if code == _BUSY else code)
        _details("before the command", before)
        run = Run(before, notice=tell)
        ended = guarded(command, run, TIMINGS)
    if run.after is not None and not run.after.ok and as_root and not ended.cut_short:
        try:
            after = free_as_root(run.after.request, run.moment(), captured=True)
            run.after = FreePortsReport(*after)
        except PortfreeError as error:  # the command has run, and its end is what counts
            tell(str(error))
    why = run.conclusion().why(", and ") if ended.code == 0 else ""
    return _Done(before, FAILED if why else ended.code, run, why)


# --- the command ---------------------------------------------------------------------------------

# How the runner starts a step's shell (ScriptHandlerHelpers.cs), where it has a name for that.
_SHELLS = {
    "bash": ("bash --noprofile --norc -e -o pipefail {0}", ".sh"),
    "sh": ("sh -e {0}", ".sh"),
    "python": ("python {0}", ".py"),
    "pwsh": ("pwsh -command \". '{0}'\"", ".ps1"),
    "powershell": ("powershell -command \". '{0}'\"", ".ps1"),
    "cmd": ("cmd /D /E:ON /V:OFF /S /C CALL {0}", ".cmd"),
}


def _script(shell: str, text: str, folder: Path) -> list[str]:
    """Write the command into a file, and say how its shell is started, as the runner would."""
    if shell in _SHELLS:
        template, suffix = _SHELLS[shell]
    elif shell:
        if "{0}" not in shell:
            raise PortfreeError(
                f"shell is {shown(shell)}: choose one of {', '.join(_SHELLS)}, or write a "
                "command with {0} where its script belongs"
            )
        template, suffix = shell, _SHELLS.get(shell.split()[0], ("", ""))[1]
    elif os.name == "nt":  # what a step without `shell` gets: there bash comes without pipefail
        template, suffix = _SHELLS["pwsh" if shutil.which("pwsh") else "powershell"]
    else:
        template, suffix = ("bash -e {0}" if shutil.which("bash") else "sh -e {0}"), ".sh"
    if suffix == ".ps1":
        text = (
            "$ErrorActionPreference = 'stop'\n"
            f"{text}\n"
            "if ((Test-Path -LiteralPath variable:\\LASTEXITCODE)) { exit $LASTEXITCODE }\n"
        )
    elif suffix == ".cmd":
        text = f"@echo off\n{text}"
    text = text.replace("\r\n", "\n")
    path = folder / f"step{suffix}"
    path.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
    # Split before the path comes in: it may hold blanks. In a path of Windows \\ escapes nothing.
    if os.name == "nt":
        template = template.replace("\\", "\\\\")
    return [word.replace("{0}", str(path)) for word in shlex.split(template)]


# --- what is said --------------------------------------------------------------------------------


def _details(when: str, report: Report) -> None:
    """The report for people; folded, if it is more than that the ports are free."""
    log = sys.stdout
    assert isinstance(log, _Log)
    free = all(outcome.status == "free" and not outcome.notes for outcome in report.outcomes)
    if not free:
        log.raw_line(f"::group::portfree: the ports {when}")
    log.write(as_text(report) + "\n")
    if not free:
        log.raw_line("::endgroup::")


def _tell(log: _Log, done: _Done) -> None:
    """Say what was done: in the log, in annotations, on the page, and to the steps that follow."""
    before, run = done.before, done.run
    after = run.after if run else None
    end = run.conclusion() if run else of_beginning(before)
    if run is None:
        _details("and who held them", before)
    elif after is not None:
        _details("after the command", after)
    for line in as_annotations(before.request, end.shown, end.warnings, end.leaks):
        log.raw_line(line)
    if done.why:
        tell(f"the command has succeeded, but {done.why}")
    if end.shown or end.leaks or end.warnings or not before.ok or before.freed:
        _append("GITHUB_STEP_SUMMARY", as_markdown(before, after, end.leaks))
    path = ""
    try:
        descriptor, path = tempfile.mkstemp(
            prefix="portfree-report-", suffix=".json", dir=os.environ.get("RUNNER_TEMP")
        )
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
            write_report(file, before, run, code=done.code)
    except OSError as error:
        tell(f"the report could not be written: {error.strerror}")
    reports = [report for report in (before, after) if report is not None]
    _set_outputs(
        ok="true" if all(report.ok for report in reports) else "false",
        freed=_listed(port for report in reports for port in report.freed),
        busy=_listed(port for report in reports for port in report.busy),
        report=path,
    )


def _listed(ports: Iterable[Port]) -> str:
    return " ".join(dict.fromkeys(map(str, ports)))


def _set_outputs(**values: str) -> None:
    """Tell the steps that follow. No value can end before its mark, which nobody could know."""
    mark = f"portfree-{secrets.token_hex(16)}"
    _append("GITHUB_OUTPUT", "".join(f"{k}<<{mark}\n{v}\n{mark}\n" for k, v in values.items()))


def _append(variable: str, text: str) -> None:
    """Append to the file that this variable of the runner names."""
    path = os.environ.get(variable) or os.devnull
    with suppress(OSError), open(path, "a", encoding="utf-8", newline="\n") as file:  # noqa: PTH123
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
