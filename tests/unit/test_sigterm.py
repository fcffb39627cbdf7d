"""SIGTERM as Ctrl-C, in this very process: the handlers, and who keeps them."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from portfree._plugins.sigterm import Sigterm

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGTERM")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of a plain Python, and afterwards those that were there."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def sigterm() -> Iterator[Sigterm]:
    sigterm = Sigterm()
    assert sigterm.install() == ""
    yield sigterm
    sigterm.restore()


def send() -> None:
    signal.raise_signal(signal.SIGTERM)


def test_it_is_ctrl_c_once_and_nothing_after_that(sigterm: Sigterm) -> None:
    with pytest.raises(KeyboardInterrupt):
        send()
    send()

    assert sigterm.received
    assert Sigterm.status == 143


def test_the_old_handler_is_back(sigterm: Sigterm) -> None:
    sigterm.restore()
    sigterm.restore()

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not sigterm.received


def test_a_handler_that_was_set_meanwhile_stays(sigterm: Sigterm) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    sigterm.restore()

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


@pytest.mark.parametrize("ignored", [signal.SIG_IGN, signal.SIG_DFL])
def test_it_needs_no_handler_of_sigint(sigterm: Sigterm, ignored: signal.Handlers) -> None:
    signal.signal(signal.SIGINT, ignored)

    with pytest.raises(KeyboardInterrupt):
        send()

    assert sigterm.received


def test_who_handles_ctrl_c_its_own_way_is_asked_again(sigterm: Sigterm) -> None:
    asked = []
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))

    send()
    send()

    assert asked == [signal.SIGINT, signal.SIGINT]
    assert sigterm.received


def test_in_a_thread_it_is_left_alone() -> None:
    said = []
    thread = threading.Thread(target=lambda: said.append(Sigterm().install()))
    thread.start()
    thread.join()

    assert said == ["free_ports_sigterm does nothing: pytest does not run in the main thread"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def _handler(*_: object) -> None: ...


class Handler:
    def __call__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (signal.SIG_IGN, "SIGTERM is ignored here"),
        (_handler, f"{__name__}._handler handles SIGTERM already"),
        (Handler(), f"{__name__}.Handler handles SIGTERM already"),
    ],
)
def test_another_handler_is_left_alone(handler: signal.Handlers, why: str) -> None:
    signal.signal(signal.SIGTERM, handler)
    sigterm = Sigterm()

    assert sigterm.install() == f"free_ports_sigterm does nothing: {why}"
    assert sigterm.install() == f"free_ports_sigterm does nothing: {why}"
    sigterm.restore()

    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_handler_that_python_does_not_know_is_left_alone() -> None:
    faulthandler.register(signal.SIGTERM, file=2)
    try:
        assert "faulthandler" in Sigterm().install()
    finally:
        faulthandler.unregister(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_dies_of_it_as_before(sigterm: Sigterm) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, b"up")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 2) == b"up"
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    finally:
        os.close(reader)
        os.close(writer)

    assert not sigterm.received
    with pytest.raises(KeyboardInterrupt):
        send()


def test_one_that_comes_during_a_fork_counts_a_moment_later(sigterm: Sigterm) -> None:
    sigterm._block()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    sigterm._unblock()  # where Python would drop it

    with pytest.raises(KeyboardInterrupt):
        signal.pause()

    assert sigterm.received
