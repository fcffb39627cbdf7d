"""What the benchmark says about its figures; the figures themselves are nobody's to assert."""

from __future__ import annotations

import pytest

from benchmarks.table import Row, Target, section_table


def row(name: str, state: str = "idle", median: float | None = None) -> Row:
    found = Row(section="S", name=name, state=state)
    return found if median is None else found | Row(median=median, mad=median / 10)


def test_the_others_are_compared_with_the_first_of_their_section() -> None:
    rows = [row("ours", median=0.002), row("a | b", median=0.0051)]

    assert section_table(rows) == [
        "|  | time | × |",
        "| --- | ---: | ---: |",
        "| ours | 2 ms ± 200 µs | 1 |",
        "| a \\| b | 5.1 ms ± 510 µs | 2.6 |",
    ]


def test_two_states_are_compared_with_each_other() -> None:
    rows = [row("ours", median=1e-5), row("ours", "loaded", 2e-5)]

    assert section_table(rows)[2] == "| ours | 10 µs ± 1 µs | 1 | 20 µs ± 2 µs | 1 | 2 |"


def test_who_is_missing_or_failed_is_not_passed_over() -> None:
    rows = [
        row("ours", median=2),
        row("gone") | Row(missing="lsof is not installed"),
        row("weak", median=3) | Row(failures={"the port was not free after 10 s": 4}),
        row("never") | Row(failures={"the port was not free after 10 s": 5}),
    ]

    assert section_table(rows)[3:] == [
        "| gone | left out: lsof is not installed |  |",
        "| weak | 3 s ± 300 ms; 4 × the port was not free after 10 s | 1.5 |",
        "| never | 5 × the port was not free after 10 s |  |",
    ]


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target("", 1.0, 1.5), "met"),
        (Target("", 1.75, 1.5), "**missed by 0.25**"),
        (Target("", 12, 10, at_least=True), "met"),
        (Target("", 7, 10, at_least=True), "**missed by 3**"),
        (Target("", 0.013, 0.010, unit="s"), "**missed by 3 ms**"),
        (Target("", -0.001, 0.002, unit="s"), "met"),
        (Target("", None, 0.002, unit="s"), "not measured"),
        (Target("", 0.001, None, unit="s"), "not measured"),
    ],
)
def test_a_target_is_met_or_says_by_how_much_it_is_missed(target: Target, verdict: str) -> None:
    assert target.verdict == verdict
