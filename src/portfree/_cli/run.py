"""``portfree run``: frees ports, runs a command, and frees them again when it has ended.

The command gets our stdin, stdout and stderr, our signal mask and our terminal, as if the shell had
started it (`child`). We outlive it: whatever ends it, and whatever asks us to end, the ports are
freed before we do. Our exit code is that of the command, unless that is 0 and what we find
afterwards is no success: a port that is busy, or leaks.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from portfree._cli.child import adoption, die_of, run_command
from portfree._cli.interrupts import KEYS, TIMINGS, CannotRunError, Ended, Interrupts, Timings
from portfree._cli.options import choices, options_parser, read, request
from portfree._core.free import free
from portfree._output.console import in_color, tell, write, write_error
from portfree._output.json import run_as_json
from portfree._output.text import as_text
from portfree.conclusion import of_beginning
from portfree.errors import PortfreeError
from portfree.model import LEAKS, Outcome, Report, Request
from portfree.run import Run

# The exit codes that are not the command's: the first one as timeout(1) has it.
FAILED, _INTERRUPTED = 125, 130

_HELP = "Free ports, run a command, and free them again, whatever ends the command."

_MORE_HELP = """\
Without ports, those of [tool.portfree] in the nearest pyproject.toml, with the settings of that
table. Before the command --scope says what to stop; after it, what the command has left behind, and
orphans, are stopped.

exit codes:
  the command's own, or 128 + n if signal n has ended it (SIGINT, SIGQUIT: it ends portfree too)
  125  portfree itself failed: a bad option, or a port that is busy before the command; or the
       command has succeeded, but a port is busy after it, or it has leaks, with --leaks fail
  126  the command cannot be run
  127  the command was not found
  130  interrupted before the command was started

examples:
  portfree run 8000 -- pytest -x
  portfree run 8000 8125/udp --leaks fail -- npm test
  portfree run -- pytest           the ports of [tool.portfree]
"""

# What `portfree` has and `portfree run` has not.
_ELSEWHERE = {
    "--dry-run": "to look first, write portfree --dry-run PORT",
    "--json": "--report FILE writes that",
    "--sudo": "to free the ports as root first, write portfree --sudo PORT",
    "--version": "write portfree --version",
}


def main(words: Sequence[str], timings: Timings = TIMINGS, *, entry: bool = False) -> int:
    """Run ``portfree run`` with these words and return its exit code.

    *entry*: whether our process does nothing else, and may die of Ctrl-C as the command did.
    """
    end = words.index("--") if "--" in words else len(words)
    try:
        for word in words[:end]:
            if hint := _ELSEWHERE.get(word):
                raise PortfreeError(f"portfree run has no {word}: {hint}")
        options = read(words[:end], _parser)
        if options.help:
            write(_parser().format_help().rstrip())
            return 0
        command = words[end + 1 :]
        if not any(command[:1]):
            raise PortfreeError("no command: give it after --, as in portfree run 8000 -- pytest")
        asked = request(options)
        with _opened(options.report) as file:
            code, number = _around(command, asked, file, timings, quiet=options.quiet)
        if entry and number in KEYS:
            die_of(number)
        return code
    except PortfreeError as error:
        tell(str(error))
        return error.code if isinstance(error, CannotRunError) else FAILED
    except KeyboardInterrupt:
        tell("interrupted; what holds the ports now: portfree --dry-run PORT")
        return _INTERRUPTED


def _parser() -> ArgumentParser:
    parser = options_parser(
        "portfree run",
        _HELP,
        _MORE_HELP,
        usage="portfree run [PORT ...] [options] -- COMMAND ...",
        busy="a port that stays busy: fail (before the command: do not start it; after it: exit "
        "with 125 if it has succeeded; the default) or warn",
    )
    parser.add_argument(
        "--leaks",
        metavar=choices(LEAKS),
        help="servers that the command leaves on other ports: warn is the default; fail stops "
        "them, and exits with 125 if the command has succeeded",
    )
    parser.add_argument(
        "--leaks-ignore",
        metavar="WORDS",
        action="append",
        help='ports and programs that the command may leave, such as "5037 gradle*"',
    )
    parser.add_argument("--report", metavar="FILE", help="write what was done to it, as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but what is wrong")
    return parser


def _around(
    command: Sequence[str], asked: Request, file: TextIO | None, timings: Timings, *, quiet: bool
) -> tuple[int, int]:
    """Free the ports, run the command, free them again, and say so: stdout is the command's.

    Returns our exit code, and the signal that has ended the command.
    """

    def show(outcomes: Iterable[Outcome], lines: Iterable[str]) -> None:
        if told := tuple(each for each in outcomes if not (quiet and each.ok)):
            write_error(as_text(Report(asked, told), color=in_color(sys.stderr)))
        for line in lines:
            tell(line)

    before = free(asked, notice=tell)
    found = of_beginning(before)
    if found.problems:
        show((outcome for outcome in found.shown if outcome.ok), ())
        write_report(file, before, code=FAILED)
        raise PortfreeError(f"the command was not started: {found.why()}")
    show(found.shown, (*found.notes, *found.warnings))
    run = Run(before, notice=tell)
    try:
        ended = guarded(command, run, timings)
    except CannotRunError as error:
        write_report(file, before, run, code=error.code)
        raise
    if ended.cut_short:
        held = [
            f"{outcome.port} is held by {holder.command} (pid {holder.pid})"
            for outcome in free(asked._replace(dry_run=True, wait=0.0)).outcomes
            for holder in outcome.holders
            if holder.root
        ]
        tell(f"the cleanup was cut short: {'; '.join(held) or 'the ports are free, though'}")
    code, found = ended.code, run.conclusion()
    show(found.shown, found.warnings)
    if code == 0 and found.problems:
        code = FAILED
        tell(f"the command has succeeded, but {found.why(', and ')}: exit code {code}")
    write_report(file, before, run, code=code)
    return code, ended.signal


def guarded(command: Sequence[str], run: Run, timings: Timings) -> Ended:
    """Run the command and free the ports again."""
    with adoption() as adopts, Interrupts(adopts=adopts) as interrupts:
        run.open()
        try:
            ended = run_command(command, interrupts, timings)
        except CannotRunError:
            run.close()
            raise
        try:
            with interrupts.heard():
                run.close(grace=timings.grace if ended.hurried else None)
        except KeyboardInterrupt:
            return ended._replace(code=ended.code or _INTERRUPTED, cut_short=True)
        return ended


@contextmanager
def _opened(path: str | None) -> Iterator[TextIO | None]:
    """The file for the report, opened before anything is done: a slip shows at once."""
    if path is None:
        yield None
        return
    try:
        file = open(path, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    except OSError as error:
        raise PortfreeError(f"--report {path}: {error.strerror}") from error
    try:
        yield file
    finally:
        with suppress(OSError):  # what could not be written was told
            file.close()
        # Where nothing was done there is nothing to tell, and no file is better than an empty one.
        where = Path(path)
        if where.is_file() and not where.is_symlink() and not where.stat().st_size:
            where.unlink()


def write_report(file: TextIO | None, before: Report, run: Run | None = None, *, code: int) -> None:
    """Write what was done, as JSON, into the file, if one was asked for."""
    if file is None:
        return
    after, leaks = (run.after, run.leaks) if run else (None, ())
    green = run is None or not run.conclusion().problems
    try:
        file.write(run_as_json(before, after, leaks, exit_code=code, green=green))
        file.flush()
    except OSError as error:  # the command has run, and its exit code is what counts
        tell(f"the report could not be written: {error.strerror}")
