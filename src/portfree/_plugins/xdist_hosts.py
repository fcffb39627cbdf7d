"""Workers of pytest-xdist on other hosts: other machines, containers, network namespaces.

The controller outlives every worker, so it does it all. When xdist sets up a worker, its host is
asked for its identity. For the first worker of a host that is not the controller's, one more
gateway to it is opened, which runs no tests. The process at its other end (`serve`) frees the ports
of that host, opens a run there, and ends it when the controller says so, or is gone. xdist sets up
one worker after the other, so no worker of the host starts before its ports are free, none has to
wait for another, and one that crashes takes no run with it.

That process is also the controller in the run id that the workers of the host pass on, so that the
end of the run knows what they have started, and other runs on that host know that it is in use.
Where the workers were started with the environment of this machine (network namespaces), the id is
an element below that of our own run; on another machine it stands alone.
"""

from __future__ import annotations

import copy
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import execnet

from portfree._core import settings
from portfree._core.redact import safe
from portfree._core.run_id import RUN_ID
from portfree._core.stop import longest
from portfree._output.console import tell
from portfree._plugins import host_probe
from portfree._plugins.shared import Line, begin, lines, refusal
from portfree.conclusion import Conclusion
from portfree.model import Request

if TYPE_CHECKING:
    import pytest

# Seconds for what takes no time: a slow machine, or a slow network, at the other end.
_MARGIN = 30.0

# How a connection fails: it breaks, it is slow, there is no answer, or the other end has an error.
_FAILURES = (OSError, EOFError, execnet.HostNotFound, execnet.RemoteError)

_SERVE = """
import os, sys
path, settings = channel.receive()
if path is None:
    sys.path.append(os.getcwd())
else:
    sys.path[:] = path
try:
    from portfree._plugins.xdist_hosts import serve
except (ImportError, SyntaxError) as error:
    channel.send(str(error))
else:
    serve(channel, settings)
"""


class Worker(Protocol):
    """What we need of xdist's `WorkerController`, which has no types."""

    @property
    def config(self) -> pytest.Config: ...

    @property
    def workerinput(self) -> dict[str, Any]: ...

    @property
    def gateway(self) -> execnet.Gateway: ...


class Hosts:
    """The other hosts of a session, as its controller sees them."""

    def __init__(self, request: Request, run_id: str) -> None:
        """*run_id*: that of our own run."""
        self._request = request
        self._run_id = run_id
        self._here = host_probe.identity()
        self._hosts: dict[tuple[str, str], _Host] = {}
        self._of_worker: dict[str, str] = {}
        self._trouble: list[str] = []

    def welcome(self, node: Worker) -> str:
        """See to it that the ports of a new worker's host are free before it starts.

        Returns why no test may be started; empty if it may.
        """
        worker = node.gateway.id
        try:
            channel, (machine, namespace, name, named) = _ask(node.gateway)
        except _FAILURES as error:
            trouble = f"the host of worker {worker} could not be told: {_why(error)}"
            if self._request.strict:
                return trouble
            self._trouble.append(trouble)
            return ""
        refused = ""
        # A worker on our own host may lack our id: `ssh localhost` does not pass it on.
        environ = {RUN_ID: self._run_id} if self._run_id else {}
        where = (machine, namespace)
        if where != self._here[:2]:
            if where not in self._hosts:
                if machine == self._here[0]:
                    name = f"{name} (network namespace {named})"
                self._hosts[where] = _Host(safe(name), self._request)
                refused = self._hosts[where].open(node)
            self._of_worker[worker] = self._hosts[where].name
            environ = self._hosts[where].environ
        try:
            channel.send(environ)
            channel.waitclose(_MARGIN)
        except _FAILURES as error:
            self._trouble.append(f"worker {worker} could not be told its run: {_why(error)}")
        return refused and f"host {self._hosts[where].name}: {refused}"

    def name_of(self, node: Worker) -> str:
        """The host of a worker; empty if it is ours."""
        return self._of_worker.get(node.gateway.id, "")

    def end(self) -> None:
        """Have the runs of all hosts ended, without waiting for that."""
        for host in self._hosts.values():
            host.end()

    def wait(self) -> None:
        """Wait until they have ended, and hear what there is to say."""
        for host in self._hosts.values():
            host.wait()

    @property
    def failure(self) -> str:
        """Why the session must not end green; empty if it may."""
        failed = (host for host in self._hosts.values() if host.failure)
        return next((f"host {host.name}: {host.failure}" for host in failed), "")

    def lines(self) -> Iterator[Line]:
        """What was done where."""
        for host in self._hosts.values():
            for text, warning in host.lines:
                yield f"host {host.name}: {text}", warning
        for trouble in self._trouble:
            yield trouble, True


class _Host:
    """One other host, and the gateway to the process that looks after it."""

    def __init__(self, name: str, request: Request) -> None:
        self.name = name
        self.failure = ""
        self.lines: list[Line] = []
        self.environ: dict[str, str] = {}
        """What has the servers of its workers carry the id of its run."""
        self._request = request
        self._group = execnet.Group()
        self._channel: execnet.Channel | None = None

    def open(self, node: Worker) -> str:
        """Free the ports there. Returns why no test may be started; empty if it may."""
        request = self._request
        spec = node.gateway.spec
        if spec.socket:
            return self._failed("a socket server takes one connection: its ports were not freed")
        asked = settings.as_plain(request) | {"name": self.name}
        try:
            self._channel = self._gateway(node).remote_exec(_SERVE)
            # The same path that xdist gives its workers.
            self._channel.send((list(sys.path) if spec.popen else None, asked))
            answer = self._channel.receive(request.wait + longest(request.grace) + _MARGIN)
        except _FAILURES as error:
            return self._failed(f"the ports could not be looked after: {_why(error)}")
        if isinstance(answer, str):
            why = f"its ports were not freed, for portfree cannot be used there: {safe(answer)}"
            return self._failed(why)
        refused, run_id, self.lines = answer
        if refused:
            self._close()
        elif run_id:
            self.environ = {RUN_ID: run_id}
        return str(refused)

    def _failed(self, trouble: str) -> str:
        """Its ports could not be freed; returns why no test may be started, if that matters."""
        self._close()
        if self._request.strict:
            return trouble
        self.lines.append((trouble, True))
        return ""

    def _gateway(self, node: Worker) -> execnet.Gateway:
        """One more gateway to where this worker is, in a group of its own: it outlives xdist's."""
        spec = copy.copy(node.gateway.spec)
        spec.id = None
        if spec.via:
            for proxy in map(execnet.XSpec, node.config.getoption("px")):
                if proxy.id == spec.via:
                    self._group.makegateway(proxy)
        return self._group.makegateway(spec)

    def end(self) -> None:
        if self._channel is not None:
            with suppress(OSError):  # that is, the connection is lost
                self._channel.send(None)

    def wait(self) -> None:
        if self._channel is None:
            return
        try:
            timeout = 2 * longest(self._request.grace) + _MARGIN
            self.failure, self.lines = self._channel.receive(timeout)
        except _FAILURES as error:
            why = f"what was done there after the tests is not known: {_why(error)}"
            self.lines.append((why, True))
            if self._request.strict:
                self.failure = "the ports could not be looked after"
        self._close()

    def _close(self) -> None:
        self._channel = None
        with suppress(*_FAILURES):  # a lost connection cannot be closed
            self._group.terminate(timeout=_MARGIN)


def _ask(gateway: execnet.Gateway) -> tuple[execnet.Channel, tuple[str, str, str, str]]:
    """Which host is at the other end of a gateway, and where it waits for an environment."""
    channel = gateway.remote_exec(host_probe)
    machine, namespace, name, named = channel.receive(_MARGIN)
    return channel, (machine, namespace, name, named)


def _why(error: Exception) -> str:
    """What went wrong, in a line: an error from the other end comes with its whole traceback."""
    if isinstance(error, EOFError):
        return "the connection was lost"
    *before, last = str(error).strip().splitlines() or [""]
    return safe(last if before else repr(error))


def serve(channel: execnet.Channel, asked: dict[str, Any]) -> None:
    """Look after this host until the controller says that the tests are over, or is gone."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the controller
    name = asked.pop("name")
    request = settings.from_plain(asked)
    run, found = begin(request, "the tests", lambda line: tell(f"host {name}: {line}"))
    said = lines(found, "before: ")
    try:
        channel.send((refusal(run, found), run.id if run else "", said))
        channel.receive()
    finally:
        if run is not None:
            run.close()
    found = run.conclusion() if run is not None else Conclusion()
    channel.send((found.failure("pytest"), [*said, *lines(found, "after: ")]))
