"""The command ``portfree``: it reads words, calls `free`, and prints the report.

A free port must cost little more than the start of Python, so whatever is not needed for that is
imported where it is needed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from portfree._cli.options import options_parser, read, request
from portfree._core.free import free
from portfree._output.console import in_color, tell, write, write_error
from portfree._output.text import as_text
from portfree.errors import PortfreeError

if TYPE_CHECKING:
    from argparse import ArgumentParser

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words and return its exit code.

    By default the words are those of the process, which then dies of Ctrl-C as its command did.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["run"]:
        from portfree._cli import run  # subprocess, tempfile and more: 15 ms

        return run.main(words[1:], entry=argv is None)
    try:
        return _free(words)
    except PortfreeError as error:
        tell(str(error))
        return _USAGE
    except KeyboardInterrupt:
        tell(
            "interrupted: a server that was asked to stop may still be ending, or hold its port; "
            f"look: portfree --dry-run {' '.join(word for word in words if word != '--dry-run')}"
        )
        return _INTERRUPTED


def _free(words: Sequence[str]) -> int:
    command = words[words.index("--") + 1 :] if "--" in words else []
    if command and not command[0].startswith(("-", *"0123456789")):
        kept = [word for word in words if word not in ("--dry-run", "--json", "--sudo")]
        raise PortfreeError(f"to run a command, write: portfree run {shlex.join(kept)}")
    options = read(words, _parser)
    if options.help:
        return _print(_parser().format_help().rstrip())
    if options.version:
        from importlib.metadata import version  # 15 ms

        return _print(f"portfree {version('portfree')}")
    asked, report = request(options), None
    if options.sudo:
        from portfree._cli.sudo import free_as_root, needs_sudo  # subprocess: 6 ms

        if needs_sudo():
            report = free_as_root(asked)
    if report is None:
        report = free(asked, notice=None if options.quiet else tell)
    written = _FREE
    if options.json:
        from portfree._output.json import as_json  # json: 3 ms

        written = _print(as_json(report))
    elif not options.quiet:
        written = _print(as_text(report, color=in_color(sys.stdout)))
    elif busy := tuple(outcome for outcome in report.outcomes if not outcome.ok):
        write_error(as_text(report._replace(outcomes=busy), color=in_color(sys.stderr)))
    return written if report.ok or asked.on_busy == "warn" else _BUSY


def _print(text: str) -> int:
    if failed := write(text):
        tell(f"cannot write to stdout: {failed}")
    return _UNWRITTEN if failed else _FREE


def _parser() -> ArgumentParser:
    parser = options_parser(
        "portfree",
        _HELP,
        _MORE_HELP,
        usage="portfree [PORT ...] [options]\n"
        "       portfree run [PORT ...] [options] -- COMMAND ...",
        busy="a port that stays busy: fail (exit 1; the default) or warn (say so, exit 0)",
    )
    add = parser.add_argument
    add("--dry-run", action="store_true", help="say what would be done, and touch nothing")
    add("--json", action="store_true", help="print the report as JSON")
    add("--sudo", action="store_true", help="do it as root, if sudo asks for no password")
    add("-q", "--quiet", action="store_true", help="print nothing but the ports that stay busy")
    add("--version", action="store_true", help="print the version")
    return parser
