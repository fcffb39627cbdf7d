"""Sample reports, what one says became of a holder, and a `free` that frees nothing."""

from __future__ import annotations

from collections.abc import Callable

from portfree import HolderReport, Outcome, Port, Report, Verdict
from portfree._output.words import ending_words
from portfree.model import Advice, Ending, Origin, Request

NOW = 1_800_000_000.0
HOUR = 3600.0

STOPPED = HolderReport(
    pid=4242,
    name="python3",
    command="python3 -m http.server 8000",
    user="alice",
    uid=1000,
    started=NOW - 3 * HOUR,
    cwd="/home/alice/shop",
    launcher="",
    test="tests/test_api.py::test_search (setup)",
    addresses=("0.0.0.0",),
    root=True,
    verdict=Verdict("stop", "left-behind", "started in tests/test_api.py::test_search (setup)"),
    ending=Ending("ended", ("SIGTERM",), 0.0123),
    origin=Origin("mark", "ended", "pytest", "tests/test_api.py::test_search (setup)"),
)
KEPT = HolderReport(
    pid=77,
    name="node",
    command="node server.js",
    user="alice",
    uid=1000,
    started=NOW - 150,
    cwd="/home/alice/shop/web",
    launcher="zsh (pid 9) on pts/3",
    test="",
    addresses=("127.0.0.1", "::1"),
    root=True,
    verdict=Verdict(
        "keep",
        "attended",
        "started by zsh (pid 9) on pts/3",
        "stop it there, or: portfree 8001",
        Advice("stop it there", "mine"),
    ),
)
FREED = Outcome(Port(8000), "freed", holders=(STOPPED,), seconds=0.1234)
BUSY = Outcome(Port(8001), "busy", ok=False, holders=(KEPT,), seconds=0.002)
FREE = Outcome(Port(8002), "free")


def report_of(*outcomes: Outcome, dry_run: bool = False) -> Report:
    ports = tuple(outcome.port for outcome in outcomes)
    return Report(Request(ports, scope="mine", dry_run=dry_run), outcomes, 0.125)


def how(holder: HolderReport) -> str:
    """Such as ``ended after SIGTERM``; empty if nothing was done to it."""
    return ending_words(holder.ending)


def took(holder: HolderReport) -> float | None:
    """Seconds from the first signal until it had ended."""
    return holder.ending.seconds if holder.ending else None


# Everything that a process could do to a log, a table or a page by its name.
HOSTILE = (
    "x|y`z`<img src=x>@org #1 [l](http://www.evil.example) $x$ *b* __u__ \\ &amp; ~~s~~ :tada:"
    "\n::error::forged\r\n::set-output name=ok::forged\n##[add-mask]pid ##[error]forged "
    "%0A::add-mask::pid\x1b[31m\u202e"
)


BORN_IN = "tests/test_api.py::test_search (setup)"


def cells(page: str) -> list[list[str]]:
    """The rows of the table, without its head."""
    rows = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


_NODE = KEPT._replace(
    started=None,
    cwd=None,
    launcher="",
    addresses=(),
    verdict=Verdict("keep", "attended", "started by zsh (pid 9)", "stop it there"),
)


class Fake:
    """Stands in for `free`: remembers what it was asked, and finds the busy ports busy."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.busy: tuple[int, ...] = ()
        self.line = ""
        self.error: type[BaseException] | None = None

    def __call__(self, request: Request, *, notice: Callable[[str], None] | None = None) -> Report:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        if notice is not None and self.line:
            notice(self.line)
        return Report(request, tuple(map(self._outcome, request.ports)))

    def _outcome(self, port: Port) -> Outcome:
        if port.number in self.busy:
            return Outcome(port, "busy", ok=False, holders=(_NODE,))
        return Outcome(port, "free")

    @property
    def request(self) -> Request:
        """The one request that there was."""
        (request,) = self.requests
        return request
