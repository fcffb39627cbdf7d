"""Several holders: what shares a socket, or holds a port below another, shares the verdict."""

from __future__ import annotations

import pytest

from helpers.builders import case, context, holder, socket
from helpers.plain_processes import INIT, OUR_PYTEST, OUR_SHELL, THEIR_PYTEST, THEIR_SHELL, process
from helpers.scenes import IN_A_TEST
from portfree._core.ancestry import Holder
from portfree._core.context import Context
from portfree._core.judge import judge_all, veto
from portfree._system.interface import Process
from portfree.model import Port

MASTER = process(100, "gunicorn app")


def worker(pid: int, *sockets_: int, parent: Process = MASTER) -> Holder:
    return holder(
        process(pid, "gunicorn app"),
        parent,
        INIT,
        sockets=[socket(id_) for id_ in sockets_ or (1,)],
    )


def actions(holders: list[Holder], asked: Context) -> dict[int, tuple[str, str]]:
    return {pid: verdict[:2] for pid, verdict in judge_all(holders, asked).items()}


def test_workers_take_the_verdict_of_their_master() -> None:
    verdicts = judge_all([worker(102), holder(MASTER, INIT), worker(101)], context())

    assert {verdict[:2] for verdict in verdicts.values()} == {("stop", "orphan")}
    assert verdicts[100].reason.startswith("nobody looks after it")
    assert verdicts[101].reason.startswith("shares the socket of gunicorn (pid 100): nobody")


def test_workers_of_a_kept_master_are_kept_for_its_reason() -> None:
    master = holder(MASTER, OUR_SHELL, INIT)
    worker = holder(process(101, marks=IN_A_TEST), MASTER, OUR_SHELL, INIT)

    verdicts = judge_all([master, worker], context())

    assert verdicts[101][:2] == ("keep", "attended")
    assert verdicts[101].instead == verdicts[100].instead


def test_a_worker_with_a_socket_of_its_own_goes_with_its_master() -> None:
    verdicts = judge_all([holder(MASTER, INIT), worker(101, 2)], context())

    assert verdicts[101][:2] == ("stop", "orphan")
    assert verdicts[101].reason.startswith("belongs to the same server as gunicorn (pid 100)")


def test_a_worker_is_judged_itself_where_only_its_master_holds_the_port() -> None:
    # Nothing is between them: each holds a port of its own.
    worker = holder(
        process(101, unit="shop.service"), MASTER, INIT, sockets=[socket(2, Port(9000))]
    )

    assert actions([holder(MASTER, INIT), worker], context()) == {
        100: ("stop", "orphan"),
        101: ("keep", "service"),
    }


def test_one_root_that_is_kept_keeps_all_who_share_its_socket() -> None:
    orphan, attended = worker(101, 1, parent=INIT), holder(process(102), OUR_SHELL, INIT)

    verdicts = judge_all([orphan, attended], context())

    assert verdicts[101][:2] == ("keep", "attended")
    assert verdicts[101].reason.startswith("shares the socket of server (pid 102): started by zsh")
    assert verdicts[102].reason.startswith("started by zsh")


def test_who_is_kept_keeps_by_way_of_others() -> None:
    # 101 and 102 share one socket, 102 and 103 another.
    first = holder(process(101), INIT, sockets=[socket(1)])
    second = holder(process(102), INIT, sockets=[socket(1), socket(2)])
    third = holder(process(103), OUR_SHELL, INIT, sockets=[socket(2)])

    for order in ([first, second, third], [third, first, second], [first, third, second]):
        assert {verdict[0] for verdict in actions(order, context()).values()} == {"keep"}


def test_two_who_are_kept_keep_their_own_reasons() -> None:
    theirs, attended = (
        holder(process(101), THEIR_PYTEST, THEIR_SHELL, INIT),
        holder(process(102), OUR_SHELL, INIT),
    )

    assert actions([theirs, attended], context()) == {
        101: ("keep", "live-run"),
        102: ("keep", "attended"),
    }


def test_servers_with_sockets_of_their_own_are_judged_apart() -> None:
    # SO_REUSEPORT: two servers on one port, and neither is the other's parent.
    orphan = holder(process(101), INIT, sockets=[socket(1)])
    attended = holder(process(102), OUR_SHELL, INIT, sockets=[socket(2)])

    assert actions([orphan, attended], context()) == {
        101: ("stop", "orphan"),
        102: ("keep", "attended"),
    }


FOLLOWERS = [
    case(
        "we have the socket ourselves",
        holder(OUR_PYTEST, MASTER, INIT),
        context(OUR_PYTEST._replace(ppid=MASTER.pid)),
        "self",
    ),
    case(
        "a container has it",
        holder(process(101, container="f00d"), MASTER, INIT),
        context(),
        "container",
    ),
    case(
        "a part of the system has it",
        holder(process(101, "sshd -D"), MASTER, INIT),
        context(),
        "protected",
    ),
]


@pytest.mark.parametrize(("follower", "asked", "rule"), FOLLOWERS)
def test_a_follower_that_must_not_be_stopped_keeps_its_root(
    follower: Holder, asked: Context, rule: str
) -> None:
    verdicts = judge_all([holder(MASTER, INIT), follower], asked)

    assert {pid: verdict[:2] for pid, verdict in verdicts.items()} == {
        MASTER.pid: ("keep", rule),
        follower.pid: ("keep", rule),
    }
    found = veto(follower, (), asked)
    assert found is not None
    assert found.rule == rule


def test_an_ordinary_follower_has_no_veto() -> None:
    assert veto(worker(101), (), context()) is None


def test_ancestors_in_a_circle_are_each_judged() -> None:
    # A pid that passed to another process while we looked.
    one, other = process(101, ppid=102), process(102, ppid=101)

    circle = [holder(one, other), holder(other, one)]

    assert set(judge_all(circle, context())) == {101, 102}


def test_nobody_is_judged_if_nobody_holds() -> None:
    assert judge_all([], context()) == {}
