"""The command ``portfree``: it reads words, calls `free`, and prints the report.

A free port must cost little more than the start of Python, so whatever is not needed for that is
imported where it is needed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from portfree._core import settings
from portfree._core.ports import parse_ports
from portfree.errors import PortfreeError
from portfree.model import Request

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Iterable, Sequence
    from typing import NoReturn, TextIO, TypeVar

    from portfree.model import OnBusy, Report, Scope

    _T = TypeVar("_T", bound="_Options")

# The exit codes. 130 is 128 + SIGINT, as a shell would say it.
_FREE, _BUSY, _USAGE, _UNWRITTEN, _INTERRUPTED = 0, 1, 2, 3, 130

_HELP = """\
Free ports by stopping the servers that were left behind on them, and say who that was.
"""

_MORE_HELP = """\
Ports are written 8000, 8000/tcp, 8125/udp or 8000-8010. Without any, those of [tool.portfree] in
the nearest pyproject.toml are freed, with the settings of that table.

exit codes:
  0    every port is free (with --dry-run: would be), or --on-busy warn
  1    a port is still busy
  2    a bad port, option or configuration; nothing was stopped
  3    every port is free, but that cannot be written to stdout
  130  interrupted

examples:
  portfree 8000                    stop what holds port 8000, and say what it was
  portfree --dry-run 8000 5432     say what would be stopped, and touch nothing
  portfree --scope orphans 8000    only servers that nobody looks after any more
  portfree run 8000 -- pytest      free it before and after a command (portfree run --help)
"""


class _Options:
    """What the command line says; these are the values where it says nothing."""

    ports: Sequence[str] = ()
    dry_run = False
    json = False
    scope: Scope | None = None
    grace: float | None = None
    wait: float | None = None
    on_busy: OnBusy | None = None
    sudo = False
    quiet = False
    version = False
    help = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: those of the process) and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["run"]:
        from portfree._cli import run as _run_command

        return _run_command.main(words[1:])
    try:
        return _free(words)
    except PortfreeError as error:
        _complain(str(error))
        return _USAGE
    except KeyboardInterrupt:
        _complain(
            "interrupted: a server that was asked to stop may still be ending, or hold its port; "
            f"look: portfree --dry-run {' '.join(word for word in words if word != '--dry-run')}"
        )
        return _INTERRUPTED


def _free(words: Sequence[str]) -> int:
    command = words[words.index("--") + 1 :] if "--" in words else []
    if command and not command[0].startswith(("-", *"0123456789")):
        from shlex import join

        kept = [word for word in words if word not in ("--dry-run", "--json", "--sudo")]
        raise PortfreeError(f"to run a command, write: portfree run {join(kept)}")
    options = _read(words, _Options(), _parser)
    if options.help:
        return _print(_parser().format_help().rstrip())
    if options.version:
        from importlib.metadata import version

        return _print(f"portfree {version('portfree')}")
    request = _request(options)
    if options.sudo and needs_sudo():
        _run_with_sudo(words)

    from portfree._core.free import free

    report = free(request, notice=None if options.quiet else _complain)
    written = _show(report, options)
    return written if report.ok or request.on_busy == "warn" else _BUSY


def _read(words: Sequence[str], options: _T, parser: Callable[[], ArgumentParser]) -> _T:
    """Fill in the options, with a parser only if it takes one."""
    if words and not any(word.startswith("-") for word in words):
        options.ports = words  # nothing but ports, as mostly: argparse would be a tenth of the time
        return options
    _refuse_negative_ports(words)
    return parser().parse_intermixed_args(words, namespace=options)


def _refuse_negative_ports(words: Sequence[str]) -> None:
    """Say of ``-1`` that it is no port; a parser of options would call it an unknown option."""
    for before, word in zip(("", *words), words, strict=False):
        if word[:1] == "-" and word[1:2].isdigit() and before not in ("--grace", "--wait"):
            parse_ports(word)


def _parser() -> ArgumentParser:
    parser = _options_parser(
        "portfree",
        _HELP,
        _MORE_HELP,
        busy="a port that stays busy: fail (exit 1; the default) or warn (say so, exit 0)",
    )
    parser.usage = (
        "portfree [PORT ...] [options]\n       portfree run [PORT ...] [options] -- COMMAND ..."
    )
    add = parser.add_argument
    add("--dry-run", action="store_true", help="say what would be done, and touch nothing")
    add("--json", action="store_true", help="print the report as JSON")
    add("--sudo", action="store_true", help="do it as root, if sudo asks for no password")
    add("-q", "--quiet", action="store_true", help="print nothing but the ports that stay busy")
    add("--version", action="store_true", help="print the version")
    add("-h", "--help", action="store_true", help="print this")
    return parser


def _options_parser(prog: str, text: str, more: str, *, busy: str) -> ArgumentParser:
    """A parser for ports and what to do about them; *busy* explains ``--on-busy``."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise PortfreeError(f"{message} ({prog} --help explains the options)")

    parser = Parser(
        prog=prog,
        description=text,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # the defaults are those of _Options
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("ports", nargs="*", metavar="PORT", help="a port, or a range of ports")
    add(
        "--scope",
        metavar="WHOM",
        help="whom to stop: orphans (left behind or without anybody who looks after them), project "
        "(yours that run in this project, but for those that a live run uses), mine (all of yours "
        "but for those; the default), or any",
    )
    add(
        "--grace",
        metavar="SECONDS",
        type=settings.number,
        help="how long a server may take to shut down before it is killed (default: 3)",
    )
    add(
        "--wait",
        metavar="SECONDS",
        type=settings.number,
        help="how long to wait for a live run to give a port up (default: 0)",
    )
    add(
        "--on-busy",
        metavar="WHAT",
        help=busy,
    )
    return parser


def _request(options: _Options) -> Request:
    table = None
    if not options.ports:
        from portfree._core import pyproject

        table = pyproject.load(".")
    # Who types the command asked for that port, so `mine`; hooks say `--scope orphans`.
    return settings.request(
        "command",
        parse_ports(*options.ports),
        {name: getattr(options, name, None) for name in settings.NAMES},
        table,
        scope="mine",
        on_busy="fail",
    )


# --- as root -------------------------------------------------------------------------------------

# Runs this package as root, wherever it is installed, and nothing else: -I keeps the current
# directory, PYTHON* variables and the user's own site-packages off sys.path, and ours comes last.
_AS_ROOT = (
    "import sys; sys.path.append({home!r}); from portfree._cli.main import main; sys.exit(main())"
)


def needs_sudo() -> bool:
    if not hasattr(os, "geteuid"):
        raise PortfreeError("--sudo: there is no sudo here; run portfree as an administrator")
    return os.geteuid() != 0


def _run_with_sudo(words: Iterable[str]) -> NoReturn:
    """Become the same command under sudo, which tells it by SUDO_UID who "we" are."""
    import subprocess

    try:
        check = subprocess.run(
            ["sudo", "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise PortfreeError(
            f"--sudo: sudo cannot be run ({error.strerror}); "
            "run portfree as root, or leave --sudo out"
        ) from error
    if check.returncode != 0:
        said = check.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise PortfreeError(
            f"--sudo: {said[0] if said else 'sudo refused'}; "
            "run sudo -v first, or ask for a rule without a password"
        )
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    bootstrap = _AS_ROOT.format(home=home)
    if os.environ.get("NO_COLOR"):  # sudo resets the environment
        bootstrap = f"import os; os.environ['NO_COLOR'] = '1'; {bootstrap}"
    rest = [word for word in words if word != "--sudo"]
    os.execvp("sudo", ["sudo", "-n", "--", sys.executable, "-I", "-c", bootstrap, *rest])  # noqa: S606


# --- output --------------------------------------------------------------------------------------


def _show(report: Report, options: _Options) -> int:
    from portfree._output.json import as_json
    from portfree._output.text import as_text

    if options.json:
        return _print(as_json(report))
    if not options.quiet:
        return _print(as_text(report, color=_in_color(sys.stdout)))
    if not report.ok:
        busy = report._replace(outcomes=tuple(o for o in report.outcomes if not o.ok))
        _write_error(as_text(busy, color=_in_color(sys.stderr)))
    return _FREE


def _in_color(stream: TextIO | None) -> bool:
    """Only on a terminal, and never with NO_COLOR (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    # Windows Terminal says that it is one; older consoles print the escapes as they are.
    if os.name == "nt" and "WT_SESSION" not in os.environ:
        return False
    return stream is not None and stream.isatty()


def _print(text: str) -> int:
    """Print to stdout, also where it cannot take every character, or nobody reads it.

    Returns an exit code: where nobody reads, nobody misses anything.
    """
    import io

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        # What is left in the buffer would be written once more at exit, and fail once more, with a
        # traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _complain(f"cannot write to stdout: {error.strerror}")
            return _UNWRITTEN
    return _FREE


def _complain(text: str) -> None:
    from portfree._core.redact import safe

    _write_error(f"portfree: {safe(text)}")


def _write_error(text: str) -> None:
    """Say something on stderr; if nobody reads there, the work and its exit code stand."""
    if sys.stderr is None:  # print() would take None for stdout
        return
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    except (OSError, ValueError):
        with suppress(OSError):  # what is left in the buffer would fail once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
