"""What people, logs and programs get to read of a report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.reports import BUSY, FREE, FREED, KEPT, NOW, STOPPED, report_of
from helpers.schema import check
from portfree import HolderReport, Note, Outcome, Port, Verdict
from portfree._output.json import as_json
from portfree._output.text import as_text
from portfree._output.words import summary
from portfree.model import Ending

if TYPE_CHECKING:
    from portfree.model import Protocol


def _text(*outcomes: Outcome, dry_run: bool = False, color: bool = False) -> str:
    report = report_of(*outcomes, dry_run=dry_run)
    return as_text(report, color=color, home="/home/alice", now=NOW)


def _with(holder: HolderReport) -> Outcome:
    return Outcome(Port(8000), "busy", ok=False, holders=(holder,))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


# --- text ----------------------------------------------------------------------------------------


def test_each_port_has_a_line_and_under_it_who_held_it_and_why() -> None:
    assert _text(FREED, BUSY, FREE) == (
        "8000/tcp: freed in 0.12 s\n"
        "  stopped python3 -m http.server 8000 (pid 4242), alice, 3 h old, in ~/shop\n"
        "    why:     left-behind: started in tests/test_api.py::test_search (setup) "
        "(evidence: mark)\n"
        "    how:     ended after SIGTERM (12 ms)\n"
        "8001/tcp: busy\n"
        "  kept node server.js (pid 77), alice, 2 min old, in ~/shop/web\n"
        "    why:     attended: started by zsh (pid 9) on pts/3\n"
        "    instead: stop it there, or: portfree 8001\n"
        "8002/tcp: free"
    )


def test_a_dry_run_says_what_would_be_done() -> None:
    untouched = STOPPED._replace(ending=None)

    assert _text(
        Outcome(Port(8000), "busy", ok=True, holders=(untouched,)), BUSY, FREE, dry_run=True
    ) == (
        "8000/tcp: would be freed\n"
        "  would stop python3 -m http.server 8000 (pid 4242), alice, 3 h old, in ~/shop\n"
        "    why:     left-behind: started in tests/test_api.py::test_search (setup) "
        "(evidence: mark)\n"
        "8001/tcp: would stay busy\n"
        "  would keep node server.js (pid 77), alice, 2 min old, in ~/shop/web\n"
        "    why:     attended: started by zsh (pid 9) on pts/3\n"
        "    instead: stop it there, or: portfree 8001\n"
        "8002/tcp: free"
    )


def test_who_started_it_and_where_is_said_if_the_reason_does_not() -> None:
    verdict = Verdict("stop", "mine", "asked for")
    holder = STOPPED._replace(launcher="zsh (pid 9) on pts/3", verdict=verdict)

    line = _lines(_text(FREED._replace(holders=(holder,))))[1]

    assert line.endswith(
        "in ~/shop, started in tests/test_api.py::test_search (setup), "
        "started by zsh (pid 9) on pts/3"
    )


def test_what_is_not_known_is_left_out() -> None:
    nobody = KEPT._replace(command="", user="", uid=None, started=None, cwd=None, launcher="")

    assert _lines(_text(_with(nobody)))[1] == "kept node (pid 77)"
    assert _lines(_text(_with(nobody._replace(name=""))))[1] == "kept a process (pid 77)"


def test_one_who_did_not_end_was_not_stopped() -> None:
    ending = Ending("remains", ("SIGTERM", "SIGKILL"))

    lines = _lines(_text(_with(STOPPED._replace(ending=ending))))

    assert lines[1].startswith("could not stop python3 -m")
    assert lines[3] == "how:     still holds the port after SIGTERM and SIGKILL"


def test_one_who_might_have_been_stopped_and_was_not_tried_is_left_alone() -> None:
    assert _lines(_text(_with(STOPPED._replace(ending=None))))[1].startswith("left alone python3")


def _worker(pid: int, root: HolderReport) -> HolderReport:
    reason = f"shares the socket of {root.name} (pid {root.pid}): {root.verdict.reason}"
    worker = root._replace(pid=pid, root=False, verdict=root.verdict._replace(reason=reason))
    return worker._replace(ending=Ending("with-parent", (), 0.0123))


def test_workers_take_one_line() -> None:
    workers = tuple(_worker(pid, STOPPED) for pid in (11, 12, 13, 14))

    lines = _text(FREED._replace(holders=(*workers[:2], STOPPED, *workers[2:]))).splitlines()

    assert len(lines) == 5
    assert lines[1].startswith("  stopped python3 -m http.server 8000 (pid 4242)")
    assert lines[4] == "    and 4 that share its socket: pids 11, 12, 13, 14"


def test_one_worker_is_one() -> None:
    text = _text(FREED._replace(holders=(STOPPED, _worker(11, STOPPED))))

    assert _lines(text)[-1] == "and 1 that shares its socket: pid 11"


def test_of_very_many_workers_not_all_are_named() -> None:
    workers = (_worker(pid, STOPPED) for pid in range(100, 140))

    text = _text(FREED._replace(holders=(STOPPED, *workers)))

    assert _lines(text)[-1].startswith("and 40 that share its socket: pids 100, 101, ")
    assert _lines(text)[-1].endswith(", 111 and 28 more")


def test_a_worker_that_needed_a_signal_of_its_own_is_told_apart() -> None:
    workers = (
        _worker(11, STOPPED),
        _worker(12, STOPPED)._replace(ending=Ending("ended", ("SIGTERM", "SIGKILL"), 1.0)),
    )

    assert _lines(_text(FREED._replace(holders=(STOPPED, *workers))))[-2:] == [
        "and 1 that shares its socket: pid 11",
        "and 1 that shares its socket: pid 12: ended after SIGTERM and SIGKILL",
    ]


def test_a_worker_with_another_verdict_is_shown_in_full() -> None:
    verdict = Verdict("keep", "self", "held by this test run itself")
    other = _worker(12, STOPPED)._replace(verdict=verdict, ending=None)

    text = _text(FREED._replace(holders=(STOPPED, _worker(11, STOPPED), other)))

    assert "kept python3 -m http.server 8000 (pid 12)" in text
    assert "why:     self: held by this test run itself" in text
    assert "and 1 that shares its socket: pid 11" in text


def test_workers_of_several_roots_of_one_fate_stand_after_the_last() -> None:
    second = STOPPED._replace(pid=4300)
    text = _text(FREED._replace(holders=(STOPPED, _worker(11, STOPPED), second)))

    assert text.count("that shares its socket") == 1
    assert text.index("pid 4300") < text.index("and 1 that shares its socket: pid 11")


def test_notes_have_lines_of_their_own() -> None:
    closing = Note("closing", "3 connections of a dead server closing, 42 s more")
    outgoing = Note("outgoing", "curl (pid 5) has a connection", "wait until it is closed")

    assert _text(
        Outcome(Port(8000), "free", notes=(closing,)),
        Outcome(Port(8001, "udp"), "busy", ok=False, notes=(outgoing,)),
    ) == (
        "8000/tcp: free\n"
        "  3 connections of a dead server closing, 42 s more\n"
        "8001/udp: busy\n"
        "  curl (pid 5) has a connection\n"
        "    try:     wait until it is closed"
    )


def _free(*numbers: int, protocol: Protocol = "tcp") -> list[Outcome]:
    return [Outcome(Port(number, protocol), "free") for number in numbers]


def test_a_long_run_of_free_ports_is_one_line() -> None:
    outcomes = [*_free(*range(8000, 8011)), BUSY._replace(port=Port(8011)), *_free(8012, 8013)]
    outcomes += [*_free(8014, 8015, 8016, protocol="udp"), *_free(9000, 8999, 8998)]

    lines = [line for line in _text(*outcomes).splitlines() if not line.startswith(" ")]

    assert lines == [
        "8000-8010/tcp: free",
        "8011/tcp: busy",
        "8012/tcp: free",
        "8013/tcp: free",
        "8014-8016/udp: free",
        "9000/tcp: free",
        "8999/tcp: free",
        "8998/tcp: free",
    ]


def test_a_free_port_with_a_note_is_not_lost_in_a_run() -> None:
    noted = FREE._replace(port=Port(2), notes=(Note("closing", "something fades"),))

    assert _lines(_text(*_free(1), noted, *_free(3))) == [
        *("1/tcp: free", "2/tcp: free", "something fades", "3/tcp: free")
    ]


@pytest.mark.parametrize(
    ("seconds", "age"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86_399, "23 h"),
        (86_400, "1 day"),
        (5.9 * 86_400, "5 days"),
        (4000 * 86_400, "4000 days"),
    ],
)
def test_ages_are_said_as_people_say_them(seconds: float, age: str) -> None:
    assert f"alice, {age} old, in" in _text(_with(KEPT._replace(started=NOW - seconds)))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0001, "1 ms"), (0.0994, "99 ms"), (0.1, "0.10 s"), (3.456, "3.46 s"), (61, "61.00 s")],
)
def test_times_are_said_in_milliseconds_or_seconds(seconds: float, said: str) -> None:
    assert _text(FREED._replace(seconds=seconds)).splitlines()[0] == f"8000/tcp: freed in {said}"


@pytest.mark.parametrize(
    ("cwd", "home", "place"),
    [
        ("/home/alice", "/home/alice", "~"),
        ("/home/alice/a", "/home/alice/", "~/a"),
        ("/home/alicent/a", "/home/alice", "/home/alicent/a"),
        ("/srv", "/", "/srv"),
        ("/srv", "", "/srv"),
        (str(Path.home() / "a"), None, "~/a"),
    ],
)
def test_the_home_directory_is_a_tilde(cwd: str, home: str | None, place: str) -> None:
    text = as_text(report_of(_with(KEPT._replace(cwd=cwd))), home=home, now=NOW)

    assert f"old, in {place}\n" in text


def test_ages_are_reckoned_from_now() -> None:
    assert " days old, in" in as_text(report_of(_with(KEPT._replace(started=0.0))))


def test_color_is_in_the_labels_alone_and_only_if_asked_for() -> None:
    plain, colored = _text(FREED, BUSY, FREE), _text(FREED, BUSY, FREE, color=True)

    assert "\x1b" not in plain
    assert "\x1b[32mfreed\x1b[0m in 0.12 s" in colored
    assert "8001/tcp: \x1b[31mbusy\x1b[0m" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == plain


@given(st.text(st.characters()), st.booleans())
def test_no_text_of_a_process_can_break_a_line_or_move_the_cursor(text: str, color: bool) -> None:  # noqa: FBT001
    facts = dict.fromkeys(("name", "command", "user", "cwd", "launcher", "test"), text)
    evil = KEPT._replace(
        **facts,  # type: ignore[arg-type]
        ending=Ending("refused", (), None, text),
        verdict=Verdict("keep", "attended", text, text),
        addresses=(text,),
    )
    outcome = Outcome(Port(8000), "busy", False, (evil,), (Note("restarted", text, text),))  # noqa: FBT003

    shown = _text(outcome, color=color)
    assert 4 <= len(shown.splitlines()) <= 7
    plain = re.sub(r"\x1b\[\d+m", "", shown) if color else shown
    for line in [*plain.split("\n"), summary(outcome)]:
        assert re.sub(r"\s", "", line).isprintable()
        assert len(line.splitlines()) == 1
    assert as_json(report_of(outcome)).isascii()
    for value in check(as_json(report_of(outcome)))["outcomes"][0]["holders"][0].values():
        assert "\x1b" not in str(value)


def test_a_command_line_of_a_megabyte_leaves_the_line_readable() -> None:
    line = _text(
        _with(KEPT._replace(command="node " + "x" * 1_000_000 + " end", cwd="/" + "y" * 5_000))
    )
    line = line.splitlines()[1]

    assert len(line) < 600
    assert re.match(
        r"  kept node x+ \.\.\. x+ end \(pid 77\), alice, 2 min old, in /y+ \.\.\. y", line
    )


# --- one line ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (
            FREED,
            (
                "freed 8000/tcp: stopped python3 -m http.server 8000 (pid 4242), "
                "started in tests/test_api.py::test_search (setup) (evidence: mark)"
            ),
        ),
        (
            BUSY,
            (
                "8001/tcp is busy: kept node server.js (pid 77): attended: started by zsh (pid 9) "
                "on pts/3; stop it there, or: portfree 8001"
            ),
        ),
        (FREE, "8002/tcp is free"),
        (
            Outcome(Port(8000), "busy", ok=True, holders=(STOPPED._replace(ending=None),)),
            (
                "8000/tcp would be freed: would stop python3 -m http.server 8000 (pid 4242), "
                "started in tests/test_api.py::test_search (setup) (evidence: mark)"
            ),
        ),
        (
            _with(STOPPED._replace(ending=Ending("remains", ("SIGKILL",)))),
            (
                "8000/tcp is busy: could not stop python3 -m http.server 8000 (pid 4242), "
                "started in tests/test_api.py::test_search (setup) (evidence: mark): "
                "still holds the port after SIGKILL"
            ),
        ),
        (
            Outcome(Port(8000), "busy", ok=False, holders=(STOPPED, _worker(3, STOPPED), KEPT)),
            (
                "8000/tcp is busy: kept node server.js (pid 77): attended: started by zsh (pid 9) "
                "on pts/3 (and 1 more); stop it there, or: portfree 8001"
            ),
        ),
        (
            Outcome(Port(80), "busy", ok=False, notes=(Note("x", "nobody seen", "look as root"),)),
            "80/tcp is busy: nobody seen; look as root",
        ),
        (
            FREED._replace(notes=(Note("draining", "it still drains"),)),
            (
                "freed 8000/tcp: stopped python3 -m http.server 8000 (pid 4242), "
                "started in tests/test_api.py::test_search (setup) (evidence: mark); "
                "it still drains"
            ),
        ),
        (
            Outcome(Port(9), "free", holders=(_worker(3, KEPT),)),
            (
                "9/tcp is free: kept node server.js (pid 3): attended: shares the socket of node "
                "(pid 77): started by zsh (pid 9) on pts/3; stop it there, or: portfree 8001"
            ),
        ),
    ],
)
def test_a_log_gets_one_plain_line(outcome: Outcome, line: str) -> None:
    assert summary(outcome) == line


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("/home/me/.venv/bin/python -m http.server 8000", "python -m http.server 8000"),
        ("C:\\Python311\\python.exe serve.py", "python.exe serve.py"),
        ("python /home/me/.venv/bin/gunicorn app", "python /home/me/.venv/bin/gunicorn app"),
        ("'/my venv/bin/python' -m shop", "'/my venv/bin/python' -m shop"),
        ("nginx: master process /usr/sbin/nginx", "nginx: master process /usr/sbin/nginx"),
        ("/opt/shop/", "/opt/shop/"),
        ("server", "server"),
    ],
)
def test_a_program_is_shown_without_its_folder(command: str, shown: str) -> None:
    freed = FREED._replace(holders=(STOPPED._replace(command=command),))
    assert f"stopped {shown} (pid " in summary(freed)
    assert f"stopped {shown} (pid " in _text(freed)
    assert check(as_json(report_of(freed)))["outcomes"][0]["holders"][0]["command"] == command


def test_a_port_that_a_live_run_gave_up_was_not_kept() -> None:
    waited = Outcome(Port(8000), "freed", holders=(KEPT,), seconds=2.9)
    assert summary(waited) == "8000/tcp is free after 2.90 s: node server.js (pid 77) gave it up"
    assert _text(waited) == ("8000/tcp: free after 2.90 s\n  node server.js (pid 77) gave it up")
    two = waited._replace(holders=(KEPT, KEPT._replace(pid=78)))
    assert summary(two).endswith("node server.js (pid 77) gave it up (and 1 more)")


def test_one_gave_the_port_up_and_another_was_stopped() -> None:
    waiting = KEPT._replace(verdict=Verdict("keep", "live-run", "in use by pytest (pid 9)"))
    both = FREED._replace(holders=(waiting, STOPPED))
    assert summary(both).startswith("freed 8000/tcp: stopped ")
    assert "  node server.js (pid 77) gave it up\n" in _text(both)
    assert "kept" not in _text(both)
