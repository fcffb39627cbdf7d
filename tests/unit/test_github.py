"""What the GitHub Action shows: the page of a run, annotations, the log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.reports import BORN_IN, HOSTILE, cells
from portfree import HolderReport, Note, Outcome, Port, Report, Verdict
from portfree._cli import action
from portfree._output.github import as_annotations, as_markdown
from portfree._output.words import leak_line
from portfree.model import Ending, Leak, Request

if TYPE_CHECKING:
    from portfree.model import Leaks, OnBusy


def holder(**facts: object) -> HolderReport:
    known: dict[str, Any] = {
        "pid": 4242,
        "name": "python3",
        "command": "python3 server.py",
        "user": "alice",
        "uid": 1000,
        "started": 1_800_000_000.0,
        "cwd": "/home/alice/shop",
        "launcher": "",
        "test": BORN_IN,
        "addresses": ("127.0.0.1",),
        "root": True,
        "verdict": Verdict("stop", "left-behind", f"started in {BORN_IN}"),
        "ending": Ending("ended", ("SIGTERM",), 0.012),
    }
    return HolderReport(**{**known, **facts})


KEPT = Verdict("keep", "attended", "started by zsh (pid 9)", "stop it there")


def busy(port: int, **facts: object) -> Outcome:
    unharmed = {"verdict": KEPT, "ending": None}
    return Outcome(Port(port), "busy", ok=False, holders=(holder(**{**unharmed, **facts}),))


def report(*outcomes: Outcome, on_busy: OnBusy = "warn", leaks: Leaks = "warn") -> Report:
    ports = tuple(outcome.port for outcome in outcomes)
    return Report(Request(ports, on_busy=on_busy, leaks=leaks), outcomes, 0.1)


def test_the_page_has_a_row_for_each_process() -> None:
    freed = Outcome(Port(8000), "freed", holders=(holder(),), seconds=0.05)
    page = as_markdown(report(freed, Outcome(Port(8125, "udp"), "free"), busy(9000)))
    assert page.startswith("### portfree: **9000/tcp busy**, 8000/tcp freed\n")
    process = "<code>python3 server.py</code> (pid 4242), alice"
    test = "tests/test&#95;api.py&#58;&#58;test&#95;search (setup)"
    did = f"stopped&#58; ended after SIGTERM; left-behind&#58; started in {test}"
    kept = "kept&#58; attended&#58; started by zsh (pid 9); stop it there"
    assert cells(page) == [
        ["8000/tcp", "freed", process, test, did, "12 ms"],
        ["8125/udp", "free", "", "", "", ""],
        ["9000/tcp", "**busy**", process, test, kept, ""],
    ]


def test_the_page_names_the_step_where_there_is_no_test() -> None:
    in_a_step = busy(9000, test="", step="__run_2", launcher="bash (pid 7)")
    in_none = busy(9001, test="", launcher="bash (pid 7)")
    origins = [row[3] for row in cells(as_markdown(report(in_a_step, in_none)))]
    assert origins == ["step &#95;&#95;run&#95;2", "by bash (pid 7)"]


def test_the_page_of_a_run_has_its_begin_its_end_and_its_leaks() -> None:
    before, after = report(busy(8000)), report(Outcome(Port(8000), "free"))
    leak = Leak("::1", Port(43211), holder(ending=None, test="", launcher="zsh (pid 9)"))
    page = as_markdown(before, after, [leak])
    assert "**8000/tcp busy**, 1 server left behind" in page
    assert [[*row[:3], row[4]] for row in cells(page)] == [
        [
            "before",
            "8000/tcp",
            "**busy**",
            "tests/test&#95;api.py&#58;&#58;test&#95;search (setup)",
        ],
        ["after", "8000/tcp", "free", ""],
        ["after", "43211/tcp", "**left behind**", "by zsh (pid 9)"],
    ]


def test_the_page_stays_small() -> None:
    ports = [Port(number) for number in range(1000, 9000)]
    free = as_markdown(report(*(Outcome(port, "free") for port in ports)))
    assert cells(free)[0][:2] == ["1000-8999/tcp", "free"]
    held = as_markdown(report(*(busy(port.number, command="x" * 9000) for port in ports)))
    assert "1000/tcp, 1001/tcp, 1002/tcp and 7997 more busy" in held
    assert "And 7700 more rows" in held
    assert len(held) < 1024 * 1024 / 2


def test_a_note_has_a_row_of_its_own() -> None:
    noted = Outcome(Port(8000), "free", notes=(Note("closing", "connections are closing", "wait"),))
    assert cells(as_markdown(report(noted)))[0][4] == "connections are closing; wait"


def test_annotations_name_busy_ports_warnings_and_leaks() -> None:
    leak = Leak("127.0.0.1", Port(43211), holder(ending=None))
    line = leak_line(leak)
    request = report(busy(8000), on_busy="fail").request

    said, doubt, left = as_annotations(request, [busy(8000)], ["a doubt", line], [leak])

    assert said.startswith("::error title=portfree::8000/tcp is busy: kept python3 server.py")
    assert doubt == "::warning title=portfree::a doubt"
    assert left.startswith(f"::warning title=portfree::{BORN_IN} started python3 server.py")
    lenient = request._replace(on_busy="warn", leaks="fail")
    said, left = as_annotations(lenient, [busy(8000)], [line], [leak])
    assert said.startswith("::warning")
    assert left.startswith("::error")
    assert as_annotations(request, [Outcome(Port(8000), "free")]) == []


def test_of_many_annotations_the_last_counts_the_others() -> None:
    many = [busy(port) for port in range(9000, 9030)]
    said = as_annotations(report(*many, on_busy="fail").request, many)
    assert len(said) == 10
    assert said[-1] == "::error title=portfree::21 more: the summary of this step has them all"


@settings(deadline=None, max_examples=50)
@example(HOSTILE)
@given(st.text())
def test_no_name_breaks_out_of_the_page_or_an_annotation(text: str) -> None:
    bad = busy(8000, name=text, command=text, user=text, launcher=text, test=text)
    pages = (
        report(bad),
        report(
            Outcome(
                Port(8000), "freed", holders=(holder(ending=Ending("refused", (), None, text)),)
            )
        ),
    )
    page = as_markdown(*pages, [Leak(text, Port(9), holder(command=text))])
    assert len(page.splitlines()) == 8  # those of three rows, and nobody else's
    for row in cells(page):
        assert len(row) == 7
        shown = re.sub(r"&#[0-9]+;|</?code>", "", "".join(row)).replace("**", "")
        assert not re.search(r"[<>`\[\]*_{}@#$~\\]|&|:|www\.", shown)
    outcomes = [outcome for each in pages for outcome in each.outcomes]
    for line in as_annotations(pages[0].request, outcomes):
        assert re.fullmatch(r"::(warning|error) title=portfree::[^\r\n]*", line)
        assert not re.search(r"%(?!25)", line)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::error::forged", r":\:error::forged"),
        ("a\n  ::add-mask::x\n", "a\n  :\\:add-mask::x\n"),
        ("held by ##[add-mask]x ##[error]", r"held by ##\[add-mask]x ##\[error]"),
        ("tests/test_api.py::test_x # [1]", "tests/test_api.py::test_x # [1]"),
    ],
)
def test_no_text_in_the_log_is_a_command(tmp_path: Path, text: str, shown: str) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file, action._Log(file, "utf-8") as log:
        log.write(text)
    assert path.read_text() == shown
