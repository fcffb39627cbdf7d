"""Run ids: what they say of where a process was born, and whether their run goes on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import process
from portfree._core import run_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portfree._system.interface import Process, System

PID = os.getpid() + 1  # of a controller that is not ourselves


@dataclass
class Machine:
    """As much of a `System` as the question takes: who has which pid, and in which namespace."""

    processes: dict[int, Process] = field(default_factory=dict)
    namespace: str = ""
    hidden: frozenset[int] = frozenset()

    def exists(self, pid: int) -> bool:
        return pid in self.processes or pid in self.hidden

    def process(self, pid: int) -> Process | None:
        return self.processes.get(pid)


def machine(*processes: Process, namespace: str = "") -> System:
    return cast("System", Machine({each.pid: each for each in processes}, namespace))


CONTROLLER = process(PID, "pytest", start=34567)


# What is in an id


@pytest.mark.parametrize(
    ("path", "elements"),
    [("", ()), ("1.2.a", ("1.2.a",)), ("1.2.a/3.4.b", ("1.2.a", "3.4.b")), ("//", ("", "", ""))],
)
def test_an_id_is_a_path_of_elements(path: str, elements: tuple[str, ...]) -> None:
    assert run_id.elements(path) == elements


@pytest.mark.parametrize(
    ("theirs", "ours", "beyond"),
    [
        pytest.param("", "", "", id="no runs at all"),
        pytest.param("", "R1", "", id="they were born in none"),
        pytest.param("R1", "", "R1", id="we were born in none"),
        pytest.param("R1/R2", "R1/R2", "", id="the same"),
        pytest.param("R1", "R1/R2", "", id="in a run around ours"),
        pytest.param("R1/R2", "R1", "R2", id="in a run inside of ours"),
        pytest.param("R1/R3", "R1/R2", "R3", id="in one beside ours"),
        pytest.param("R3/R4", "R1/R2", "R3/R4", id="in other ones"),
        pytest.param("R3/R2", "R2", "R3", id="in ours, when another one was open around it"),
        pytest.param("R11", "R1", "R11", id="one that only starts alike"),
        pytest.param("R1", "R11", "R1", id="one that ours only starts like"),
    ],
)
def test_only_runs_that_are_not_ours_tell_anything(theirs: str, ours: str, beyond: str) -> None:
    assert "/".join(run_id.beyond(run_id.elements(theirs), run_id.elements(ours))) == beyond


# Does it go on? No only if that is certain.


@pytest.mark.parametrize(
    ("element", "found"),
    [
        pytest.param(f"{PID}.34567.9f3c", (), id="nobody has the pid"),
        pytest.param(f"{PID}.34566.9f3c", (CONTROLLER,), id="somebody older has the pid"),
        pytest.param(f"{PID}.34568.9f3c", (CONTROLLER,), id="somebody younger has the pid"),
        pytest.param(f"{PID}.3456.9f3c", (CONTROLLER,), id="a start that only begins alike"),
        pytest.param(f"{PID}.34567.9f3c", (CONTROLLER._replace(zombie=True),), id="a zombie"),
        pytest.param(f"{PID}.t100000.9f3c", (CONTROLLER._replace(start=103.0),), id="seconds"),
    ],
)
def test_a_run_has_ended_if_its_controller_certainly_has(
    element: str, found: tuple[Process, ...]
) -> None:
    assert not run_id.alive(element, machine(*found))


@pytest.mark.parametrize(
    ("element", "found"),
    [
        pytest.param(f"{PID}.34567.9f3c", (CONTROLLER,), id="same pid and same start"),
        pytest.param(f"{PID}.t100000.9f3c", (CONTROLLER._replace(start=100.0),), id="in seconds"),
        pytest.param(
            f"{PID}.t100000.9f3c", (CONTROLLER._replace(start=101.5),), id="the clock was set"
        ),
        pytest.param(f"{PID}.t100000.9f3c", (CONTROLLER,), id="seconds and ticks"),
        pytest.param(
            f"{PID}.34567.9f3c", (CONTROLLER._replace(start=345.67),), id="ticks and seconds"
        ),
        pytest.param(f"{PID}.0.9f3c", (CONTROLLER,), id="a start that the run did not know"),
        pytest.param(
            f"{PID}.t9000.9f3c", (CONTROLLER._replace(start=0.0),), id="a start that is not told"
        ),
    ],
)
def test_a_run_goes_on_if_its_controller_lives_or_may_live(
    element: str, found: tuple[Process, ...]
) -> None:
    assert run_id.alive(element, machine(*found))


@pytest.mark.parametrize(
    "element",
    [
        *("", "x", "1", "1.2", "1.2.", "1.2.g", "-1.2.a", "1.-2.a", "1.2.a.b", "1.2.a.3.4"),
        *("1.2.a\n", " 1.2.a", "1 .2.a", "1.2.A", "٣.2.a", "1.2.5e-3", "PID.START.NONCE"),
    ],
)
def test_what_cannot_be_read_may_go_on(element: str) -> None:
    assert run_id.alive(element, machine())


@pytest.mark.parametrize(
    ("suffix", "namespace", "goes_on"),
    [
        pytest.param("", "", False, id="ours, the first"),
        pytest.param(".4026", "4026", False, id="ours"),
        pytest.param(".4026", "", True, id="inside of ours"),
        pytest.param("", "4026", True, id="around ours"),
        pytest.param(".4027", "4026", True, id="beside ours"),
        pytest.param("", "?", True, id="ours cannot be told"),
    ],
)
def test_in_another_pid_namespace_a_pid_says_nothing(
    suffix: str, namespace: str, *, goes_on: bool
) -> None:
    # Nobody here has the pid.
    assert run_id.alive(f"{PID}.34567.9f3c{suffix}", machine(namespace=namespace)) is goes_on


@pytest.fixture
def open_here() -> Iterator[str]:
    """The element of a run that this very process has open."""
    element = f"{os.getpid()}.34567.9f3c"
    run_id.OPEN_HERE.add(element)
    yield element
    run_id.OPEN_HERE.discard(element)


def test_of_several_runs_in_one_process_each_ends_for_itself(open_here: str) -> None:
    here = machine(process(os.getpid(), start=34567))
    other = f"{os.getpid()}.34567.07ab"

    assert run_id.alive(open_here, here)
    assert not run_id.alive(other, here)
    assert run_id.ended_here(other)
    assert not run_id.ended_here(open_here)
    assert not run_id.ended_here(f"{PID}.34567.9f3c")


# New ids


@pytest.mark.parametrize("namespace", ["", "4026531999"])
@pytest.mark.parametrize("start", [34567, 1704067200.25])
def test_a_new_run_goes_on_until_it_is_closed(namespace: str, start: float) -> None:
    system = machine(process(os.getpid(), start=start), namespace=namespace)
    element = run_id.new_element(system)

    run_id.OPEN_HERE.add(element)
    try:
        assert run_id.alive(element, system)
    finally:
        run_id.OPEN_HERE.discard(element)
    assert not run_id.alive(element, system)
    assert run_id.elements(f"{element}/{element}") == (element, element)


def test_two_runs_of_one_process_differ() -> None:
    system = machine(process(os.getpid()))

    assert run_id.new_element(system) != run_id.new_element(system)


def test_a_run_whose_start_could_not_be_told_may_go_on() -> None:
    element = run_id.new_element(machine())
    seen_by_another = element.replace(str(os.getpid()), str(PID), 1)

    assert run_id.alive(seen_by_another, machine(CONTROLLER))


@settings(deadline=None)
@given(st.integers(1, 2**62), st.integers(1, 2**62))
def test_the_start_is_compared_as_a_whole(told: int, found: int) -> None:
    alive = run_id.alive(f"{PID}.{told}.0", machine(process(PID, start=found)))

    assert alive is (told == found)


@settings(deadline=None)
@given(st.text())
def test_no_text_breaks_the_reading(path: str) -> None:
    for element in run_id.elements(path):
        assert run_id.alive(element, machine()) in (True, False)
    assert run_id.beyond(run_id.elements(path), run_id.elements(path)) == ()


def test_a_controller_that_is_hidden_from_us_counts_as_alive() -> None:
    hides_it = cast("System", Machine(hidden=frozenset({PID})))
    assert run_id.alive(f"{PID}.34567.9f3c", hides_it)
    assert not run_id.alive(f"{PID}.34567.9f3c", machine())
