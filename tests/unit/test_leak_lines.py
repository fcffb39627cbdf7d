"""The line on a server that a run, or a test, has left behind."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.builders import case
from helpers.reports import HOSTILE, STOPPED
from portfree._output.words import leak_line
from portfree.model import Ending, HolderReport, Leak, Origin, Port, Verdict

PORT = Port(43211)
TEST = "tests/test_api.py::test_search"
LIVE = STOPPED._replace(ending=None, command="/usr/bin/python3 -m http.server 43211")
USED = Verdict("keep", "attended", "studio (pid 7) uses it by now")
SEATED = Verdict("keep", "live-run", "a run that goes on")


def line(
    holder: HolderReport,
    address: str = "127.0.0.1",
    port: Port = PORT,
    **of: Any,
) -> str:
    return leak_line(Leak(address, port, holder, **of))


def ended(how: Any, *signals: str, error: str = "") -> HolderReport:  # noqa: ANN401
    return LIVE._replace(ending=Ending(how, signals, None, error))


OWN: dict[str, Any] = {"own": True, "test": TEST}
OF_TEST: dict[str, Any] = {"test": TEST}
OF_FIXTURE: dict[str, Any] = {"test": TEST, "fixture": "db (module)"}
WHO = "python3 -m http.server 43211 (pid 4242)"
HTTP = "HTTPServer in thread 'Thread-1 (serve_forever)'"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        # After a test.
        case(
            "a test",
            line(LIVE, **OF_TEST),
            f"{TEST} left {WHO}, still listening on 127.0.0.1:43211",
        ),
        case(
            "a fixture",
            line(LIVE, **OF_FIXTURE),
            f"{TEST}, fixture db (module), left {WHO}, still listening on 127.0.0.1:43211",
        ),
        case(
            "an own server",
            line(LIVE, server=HTTP, **OWN),
            f"{TEST} left {HTTP} of the test process itself, still listening on 127.0.0.1:43211",
        ),
        case(
            "an own socket",
            line(LIVE, **OWN),
            f"{TEST} left a socket of the test process itself, still listening on 127.0.0.1:43211",
        ),
        case(
            "an own socket, used by others",
            line(LIVE._replace(verdict=USED), **OWN),
            f"{TEST} left a socket of the test process itself, still listening on 127.0.0.1:43211",
        ),
        case(
            "an own server of a fixture",
            line(LIVE, server="an asyncio server", own=True, **OF_FIXTURE),
            f"{TEST}, fixture db (module), left an asyncio server of the test process itself, "
            "still listening on 127.0.0.1:43211",
        ),
        case(
            "stopped",
            line(ended("ended", "SIGTERM"), **OF_TEST),
            f"{TEST} left {WHO}, which listened on 127.0.0.1:43211: ended after SIGTERM",
        ),
        case(
            "not to be stopped",
            line(ended("remains", "SIGTERM", "SIGKILL"), **OF_FIXTURE),
            f"{TEST}, fixture db (module), left {WHO}, which listened on 127.0.0.1:43211: "
            "still holds the port after SIGTERM and SIGKILL",
        ),
        case(
            "refused",
            line(ended("refused", error="not permitted"), **OF_TEST),
            f"{TEST} left {WHO}, which listened on 127.0.0.1:43211: "
            "the system refused the signal (not permitted)",
        ),
        case(
            "used by others",
            line(LIVE._replace(verdict=USED), **OF_TEST),
            f"{TEST} left {WHO}, still listening on 127.0.0.1:43211: studio (pid 7) uses it by now",
        ),
        case(
            "kept for another reason",
            line(LIVE._replace(verdict=SEATED), **OF_TEST),
            f"{TEST} left {WHO}, still listening on 127.0.0.1:43211",
        ),
        case(
            "UDP",
            line(LIVE, port=Port(8125, "udp"), **OF_TEST),
            f"{TEST} left {WHO}, still listening on 127.0.0.1:8125/udp",
        ),
        case(
            "IPv6",
            line(LIVE, "::1", **OF_TEST),
            f"{TEST} left {WHO}, still listening on [::1]:43211",
        ),
        case(
            "UDP over IPv6",
            line(LIVE, "::", Port(8125, "udp"), **OWN),
            f"{TEST} left a socket of the test process itself, still listening on [::]:8125/udp",
        ),
        # At the end of a run without tests.
        case(
            "the test of its environment",
            line(LIVE),
            f"{TEST} (setup) started {WHO}, still listening on 127.0.0.1:43211",
        ),
        case(
            "a run",
            line(LIVE._replace(test="")),
            f"this run started {WHO}, still listening on 127.0.0.1:43211",
        ),
        case(
            "stopped by a run",
            line(ended("ended", "SIGTERM", "SIGINT")),
            f"{TEST} (setup) started {WHO}, which listened on 127.0.0.1:43211: "
            "ended after SIGTERM and SIGINT",
        ),
        case(
            "kept by a run, for others use it",
            line(LIVE._replace(test="", verdict=USED)),
            f"this run started {WHO}, still listening on 127.0.0.1:43211: "
            "studio (pid 7) uses it by now",
        ),
        case(
            "the process of a run",
            line(LIVE, own=True),
            "python3 (pid 4242), the run itself, still listens on 127.0.0.1:43211",
        ),
        case(
            "the same with UDP",
            line(LIVE, port=Port(8125, "udp"), own=True),
            "python3 (pid 4242), the run itself, still listens on 127.0.0.1:8125/udp",
        ),
        case(
            "came up meanwhile",
            line(LIVE._replace(origin=Origin("arrival", "live", "this run", ""))),
            f"{WHO} came up during this run, and still listens on 127.0.0.1:43211",
        ),
    ],
)
def test_the_line(said: str, expected: str) -> None:
    assert said == expected


@pytest.mark.parametrize("of", [{}, OWN, OF_TEST, OF_FIXTURE])
def test_the_line_is_one_whatever_a_process_calls_itself(of: dict[str, Any]) -> None:
    hostile = LIVE._replace(command=HOSTILE, name=HOSTILE, test=HOSTILE)
    named: dict[str, Any] = {**dict.fromkeys(of, HOSTILE), "own": "own" in of}

    assert leak_line(Leak("127.0.0.1", PORT, hostile, **named)).isprintable()
