"""Busy without a process: each reason is found, explained, and never stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.fake_system import FakeSystem, call, only
from portfree._core.unheld import unheld
from portfree.model import Note, Port

if TYPE_CHECKING:
    from collections.abc import Hashable

    from portfree.model import Outcome

pytestmark = pytest.mark.usefixtures("project", "unmarked")

PORT = Port(8000)
EMFILE = OSError(24, "Too many open files")


def note(outcome: Outcome) -> Note:
    (found,) = outcome.notes
    return found


def closing(system: FakeSystem, *seconds: float | None, port: int = 8000) -> None:
    """Connections of a server that has ended."""
    for left in seconds:
        system.listen(None, port, state="closing", peer="127.0.0.1:40000", closes_in=left)


# Closing connections


def test_closing_connections_do_not_keep_the_port_from_most_servers(system: FakeSystem) -> None:
    closing(system, 12.2, 59.6, 3.0)
    outcome = only(call(system))
    assert (outcome.status, outcome.ok) == ("free", True)
    text = "3 connections of a dead server closing, 60 s more; "
    text += "a server that sets SO_REUSEADDR, as most do, can start now"
    assert note(outcome) == Note("closing", text)


def test_closing_connections_that_refuse_everybody_keep_it_busy(system: FakeSystem) -> None:
    closing(system, 30.0)
    system.blocking_reuse.add(PORT)
    outcome = only(call(system))
    assert (outcome.status, outcome.ok) == ("busy", False)
    assert note(outcome) == Note(
        "closing",
        "1 connection of a dead server closing, 30 s more",
        "wait that long, or give the tests another port",
    )


def test_how_long_they_fade_is_not_always_told(system: FakeSystem) -> None:
    closing(system, None)
    assert "60 s more" in note(only(call(system))).text


def test_what_closes_after_a_stop_is_said_too(system: FakeSystem) -> None:
    server = system.server()
    server.at_end.append(lambda: closing(system, 60.0))
    outcome = only(call(system))
    assert outcome.status == "freed"
    assert note(outcome).kind == "closing"


# Live connections


def test_a_server_that_drains_does_not_keep_the_port(system: FakeSystem) -> None:
    server = system.start("uvicorn")
    for _ in range(2):
        system.listen(server, 8000, state="connected", peer="127.0.0.1:40000")
    outcome = only(call(system))
    assert outcome.status == "free"
    assert note(outcome).kind == "draining"
    assert note(outcome).text.startswith(
        f"uvicorn (pid {server.pid}) does not listen any more and has 2 connections left; "
    )
    assert system.signals == []


@pytest.mark.parametrize("scope", ["orphans", "mine", "any"])
def test_an_outgoing_connection_is_explained_and_never_stopped(
    system: FakeSystem, scope: str
) -> None:
    browser = system.start("firefox")
    system.listen(browser, 8000, state="connected", peer="192.0.2.7:443")
    system.blocking_reuse.add(PORT)
    outcome = only(call(system, scope=scope))
    assert outcome.status == "busy"
    assert note(outcome).kind == "outgoing"
    assert note(outcome).text == (
        f"firefox (pid {browser.pid}) has a connection to 192.0.2.7:443 "
        "whose own end has this number: no server holds it"
    )
    assert "ip_local_port_range" in note(outcome).instead
    assert system.signals == []
    assert browser.alive


def test_a_connection_without_another_end_is_explained_too(system: FakeSystem) -> None:
    system.listen(system.start("firefox"), 8000, state="connecting")
    system.blocking_reuse.add(PORT)
    assert "has a connection whose own end" in note(only(call(system))).text


@pytest.mark.parametrize("hidden", [True, False])
def test_the_owner_of_a_connection_may_be_out_of_sight(
    system: FakeSystem,
    *,
    hidden: bool,
) -> None:
    owner = system.start("firefox")
    system.listen(owner, 8000, state="connected", peer="192.0.2.7:443")
    system.blocking_reuse.add(PORT)
    if hidden:
        owner.hidden = True
    else:
        system.lasting |= owner.holds
        system.after_call["owners"] = owner.end
    assert note(only(call(system))).text.startswith("a process that cannot be seen has ")


def test_owners_of_many_connections_are_found_in_one_look(system: FakeSystem) -> None:
    client = system.start("crawler")
    ports = range(40_000, 40_050)
    for port in ports:
        system.listen(client, port, state="connected", peer="192.0.2.7:443")
        system.blocking_reuse.add(Port(port))
    report = call(system, *ports)
    assert {o.status for o in report.outcomes} == {"busy"}
    assert system.asked["owners"] == 1


# Denied


def test_a_privileged_port_that_nobody_holds_is_free(system: FakeSystem) -> None:
    system.binds[Port(80)] = "denied"
    outcome = only(call(system, 80))
    assert (outcome.status, note(outcome).kind) == ("free", "privileged")
    assert "ip_unprivileged_port_start" in note(outcome).instead


def test_other_systems_have_no_such_setting() -> None:
    system = FakeSystem(name="darwin")
    system.binds[Port(80)] = "denied"
    assert note(only(call(system, 80))).instead == ""


def test_a_privileged_port_with_a_holder_is_held(system: FakeSystem) -> None:
    system.binds[Port(80)] = "denied"
    server = system.server(80, owner=0)
    outcome = only(call(system, 80))
    assert outcome.status == "busy"
    assert [holder.pid for holder in outcome.holders] == [server.pid]


def test_windows_reserves_ranges() -> None:
    system = FakeSystem(name="win32", polite=False)
    system.binds[Port(8125, "udp")] = "denied"
    outcome = only(call(system, Port(8125, "udp")))
    assert (outcome.status, note(outcome).kind) == ("busy", "excluded")
    assert "show excludedportrange protocol=udp" in note(outcome).instead


# Untested


def test_a_port_that_could_not_be_tried_is_not_called_free(system: FakeSystem) -> None:
    system.binds[PORT] = "unavailable"
    outcome = only(call(system))
    assert (outcome.status, note(outcome).kind) == ("busy", "untested")


def test_nor_is_it_if_nothing_at_all_can_be_asked(system: FakeSystem) -> None:
    system.server()
    system.fails = dict.fromkeys(("sockets", "owners", "pin"), EMFILE)
    system.binds[PORT] = "unavailable"
    assert note(only(call(system))).kind == "untested"


def test_a_held_port_whose_holder_cannot_be_listed_stays_busy(system: FakeSystem) -> None:
    server = system.server()
    system.fails["sockets"] = EMFILE
    outcome = only(call(system))
    assert (outcome.status, note(outcome).kind) == ("busy", "invisible")
    assert server.alive


# Invisible


def test_a_socket_of_another_user_that_nobody_is_seen_with(system: FakeSystem) -> None:
    server = system.server(owner=77)
    server.hidden = True
    outcome = only(call(system))
    assert (outcome.status, outcome.holders) == ("busy", ())
    assert note(outcome)[:3] == (
        "invisible",
        "a process of 77 (uid 77) holds 8000/tcp, and cannot be seen from here",
        "CAP_SYS_PTRACE is missing: ask 77 to stop it, or: portfree --sudo --scope any 8000",
    )


def test_as_root_it_may_be_in_another_sandbox() -> None:
    system = FakeSystem(privileged=True, uid=0)
    system.server(owner=77).hidden = True
    said = note(only(call(system)))
    assert "another container, or we lack CAP_SYS_PTRACE" in said.instead
    assert "ss -Htanp 'sport = :8000'" in said.instead


def test_the_advice_names_the_protocol(system: FakeSystem) -> None:
    udp = Port(8125, "udp")
    server = system.start("statsd", owner=77)
    system.listen(server, udp, state="bound")
    server.hidden = True
    assert note(only(call(system, udp))).instead.endswith("portfree --sudo --scope any 8125/udp")


@pytest.mark.parametrize(
    ("name", "port", "command"),
    [
        ("linux", PORT, "ss -Htanp 'sport = :8000'"),
        ("linux", Port(8000, "udp"), "ss -Huanp 'sport = :8000'"),
        ("darwin", PORT, "lsof -nP -itcp:8000"),
    ],
)
def test_a_port_that_is_refused_and_nobody_is_listed_on(
    name: str, port: Port, command: str
) -> None:
    # A socket that is bound without listening, on a kernel that does not list those.
    system = FakeSystem(name=name)
    system.binds[port] = "in-use"
    outcome = only(call(system, port))
    assert (outcome.status, note(outcome).kind) == ("busy", "invisible")
    assert f"sudo {command}" in note(outcome).instead


# The probes of other programs


@pytest.mark.parametrize("lasts", [0.0001, 0.002, 0.0049])
def test_a_probe_that_comes_to_its_end_leaves_the_port_free(
    system: FakeSystem, lasts: float
) -> None:
    system.probe(8000, lasts=lasts)
    outcome = only(call(system, scope="any"))
    assert (outcome.status, outcome.notes) == ("free", ())
    assert system.signals == []


def test_probes_one_after_the_other_do_not_make_a_port_busy(system: FakeSystem) -> None:
    # Each of them lasts so short a time that it is not believed, and then comes the next one.
    def again(left: int) -> None:
        if left:
            system.probe(8000, lasts=0.003)
            system.after(0.0035, lambda: again(left - 1))

    again(20)
    outcome = only(call(system))
    assert (outcome.status, outcome.notes) == ("free", ())
    assert system.signals == []


def test_a_probe_among_closing_connections_does_not_make_the_port_busy(
    system: FakeSystem,
) -> None:
    closing(system, 40.0)
    system.probe(8000, lasts=0.0049)
    outcome = only(call(system))
    assert (outcome.status, note(outcome).kind) == ("free", "closing")


def test_a_refusal_that_lasts_for_a_moment_is_asked_again(system: FakeSystem) -> None:
    closing(system, 40.0)
    system.blocking_reuse.add(PORT)
    system.after(0.03, system.blocking_reuse.clear)
    outcome = only(call(system))
    assert (outcome.status, note(outcome).kind) == ("free", "closing")


def test_a_port_that_is_probed_for_ever_is_busy_at_the_end_of_the_time(
    system: FakeSystem,
) -> None:
    numbers = iter(range(1_000_000))

    def again() -> None:
        # It never lasts long enough to be believed, and never leaves a gap.
        system.kernel.clear()
        system.listen(None, 8000, id=("probe", next(numbers)), state="bound")
        system.after(0.0039, again)

    again()
    outcome = only(call(system, grace=1.0))
    assert (outcome.status, outcome.holders) == ("busy", ())
    assert note(outcome).kind == "unsteady"
    assert system.signals == []


def test_somebody_who_comes_after_the_survey_is_surveyed_as_well(system: FakeSystem) -> None:
    # The probe refuses the first bind; when it is gone, a server takes the port for good.
    system.probe(8000, lasts=0.004)
    system.after(0.0045, lambda: system.server())
    report = call(system)
    assert only(report).status == "freed"
    assert len(only(report).holders) == 1


def test_so_is_he_in_a_dry_run(system: FakeSystem) -> None:
    system.probe(8000, lasts=0.004)
    system.after(0.0045, lambda: system.server())
    outcome = only(call(system, dry_run=True))
    assert (outcome.status, outcome.ok, len(outcome.holders)) == ("busy", True, 1)


# All at once


@pytest.mark.parametrize("state", ["invisible", "outgoing"])
def test_hundreds_of_ports_take_no_longer_than_one(system: FakeSystem, state: str) -> None:
    ports = [Port(number) for number in range(8000, 8200)]
    client = system.start("client")
    for port in ports:
        if state == "invisible":
            system.binds[port] = "in-use"
        else:
            system.listen(client, port, state="connected", peer="192.0.2.7:443")
            system.blocking_reuse.add(port)
    report = call(system, *ports, grace=0.0)
    assert {outcome.notes[0].kind for outcome in report.outcomes} == {state}
    assert report.seconds < 0.2


def test_every_port_gets_its_own_answer(system: FakeSystem) -> None:
    closing(system, 5.0, port=8001)
    system.binds |= {Port(8002): "denied", Port(8003): "in-use", Port(8004): "unavailable"}
    taken: Hashable = system.listen(None, 8005)
    found = unheld(system, [Port(number) for number in range(8000, 8006)])
    kinds = {port.number: [n.kind for n in finding.notes] for port, finding in found.items()}
    assert kinds == {
        8000: [],
        8001: ["closing"],
        8002: ["privileged"],
        8003: ["invisible"],
        8004: ["untested"],
    }
    assert taken in system.kernel
    assert unheld(system, []) == {}
