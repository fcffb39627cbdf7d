"""A `free` that frees nothing."""

from __future__ import annotations

from collections.abc import Callable

from helpers import reports
from portfree import Outcome, Port, Report, Verdict
from portfree.model import Request

KEPT = reports.KEPT._replace(
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
            return Outcome(port, "busy", ok=False, holders=(KEPT,))
        return Outcome(port, "free")

    @property
    def request(self) -> Request:
        """The one request that there was."""
        (request,) = self.requests
        return request
