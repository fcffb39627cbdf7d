"""Evidence arrival: it came up during the run that ends, on a port that was free, by itself."""

from __future__ import annotations

import pytest

from helpers.builders import case, context, holder, miss, neighbour, socket
from helpers.plain_processes import (
    BOB,
    ELSEWHERE,
    INIT,
    OUR_PYTEST,
    OUR_SHELL,
    THEIR_PYTEST,
    USER_MANAGER,
    fork,
    process,
)
from helpers.scenes import DAEMON, ENDING, EXECNET, NODEMON, OUR_NOX, OURS, WORKING, XDIST, told
from portfree._core.ancestry import Holder
from portfree._core.context import Context, Neighbour
from portfree._core.judge import judge
from portfree._core.origin import Origin, arrival, origin_of
from portfree.model import Port

CAME_UP = Origin("arrival", "live", "this run", id=OURS, ours=True)


ARRIVAL = [
    case("it was adopted", holder(DAEMON, INIT)),
    case("it began with the run", holder(DAEMON._replace(start=1000), INIT)),
    case("below a wrapper", holder(DAEMON, "sh -c redis", USER_MANAGER, INIT)),
    case("it does not tell its project", holder(DAEMON._replace(cwd="/"), INIT, project=None)),
    case(
        "it has two of the ports", holder(DAEMON, INIT, sockets=[socket(1), socket(2, Port(8001))])
    ),
]


@pytest.mark.parametrize("found", ARRIVAL)
def test_arrival(found: Holder) -> None:
    assert arrival(found, ENDING) == CAME_UP
    assert origin_of(found, ENDING) == CAME_UP


def test_an_arrival_in_our_own_service() -> None:
    found = holder(DAEMON._replace(unit="ci.service"), INIT)

    assert arrival(found, ENDING._replace(unit="ci.service")) == CAME_UP
    assert arrival(found, ENDING._replace(unit="other.service")) is None


def test_an_arrival_in_our_own_control_group() -> None:
    asked = ENDING._replace(caller=ENDING.caller._replace(control_group="/x"))

    assert arrival(holder(DAEMON._replace(control_group="/x"), INIT), asked) == CAME_UP
    assert arrival(holder(DAEMON, INIT), asked) is None


NO_ARRIVAL = [
    miss("nothing ends", holder(DAEMON, INIT), ENDING._replace(ending=None)),
    miss("another run is open in this process", holder(DAEMON, INIT), ENDING._replace(began=None)),
    miss("it is older than the run", holder(DAEMON._replace(start=999), INIT), ENDING),
    miss(
        "the port was held when it began", holder(DAEMON, INIT), ENDING._replace(quiet=frozenset())
    ),
    miss(
        "one of its ports was held when it began",
        holder(DAEMON, INIT, sockets=[socket(1), socket(2, Port(9000))]),
        ENDING,
    ),
    miss("its environment can be read", holder(DAEMON._replace(environment="read"), INIT), ENDING),
    miss(
        "its environment is hidden",
        holder(DAEMON._replace(environment="unreadable", complete=False), INIT),
        ENDING,
    ),
    miss("it is another user's", holder(DAEMON._replace(owner=BOB), INIT), ENDING),
    miss("whose it is is not told", holder(DAEMON._replace(owner=None), INIT), ENDING),
    miss(
        "it lies in another project",
        holder(DAEMON._replace(cwd=ELSEWHERE), INIT, project=ELSEWHERE),
        ENDING,
    ),
    miss("it is a service", holder(DAEMON._replace(unit="redis.service"), INIT), ENDING),
    miss("somebody started it", holder(DAEMON, NODEMON, INIT), ENDING),
    miss("somebody at a terminal started it", holder(DAEMON, OUR_SHELL, INIT), ENDING),
    miss(
        "it lives in another control group",
        holder(DAEMON._replace(control_group="/x"), INIT),
        ENDING._replace(caller=ENDING.caller._replace(control_group="/y")),
    ),
    miss(
        "its control group is told, and ours is not",
        holder(DAEMON._replace(control_group="/x"), INIT),
        ENDING,
    ),
    miss(
        "another runner may have started it",
        holder(DAEMON, INIT),
        ENDING._replace(neighbours=WORKING),
        "unreadable live",
    ),
    miss(
        "another test of the runner around us may have started it",
        holder(DAEMON, INIT),
        ENDING._replace(lineage=(OUR_NOX, INIT)),
    ),
    miss(
        "another worker of our pytest-xdist may have started it",
        holder(DAEMON, INIT),
        ENDING._replace(
            caller=process(710, EXECNET, marks={"PYTEST_XDIST_WORKER": "gw0"}),
            lineage=(XDIST, INIT),
        ),
        "unreadable live",
    ),
    miss("it is our child", holder(DAEMON, OUR_PYTEST, OUR_SHELL, INIT), ENDING),
]


@pytest.mark.parametrize(("found", "asked", "instead"), NO_ARRIVAL)
def test_no_arrival(found: Holder, asked: Context, instead: str) -> None:
    assert arrival(found, asked) is None
    assert told(found, asked) == instead


NOT_ITS_STARTERS = [
    case("in another project", neighbour(THEIR_PYTEST, INIT, project=ELSEWHERE)),
    case("a fork", neighbour(fork(THEIR_PYTEST, 710), INIT)),
    case("younger", neighbour(THEIR_PYTEST._replace(start=2001), INIT)),
]


@pytest.mark.parametrize("near", NOT_ITS_STARTERS)
def test_an_arrival_that_this_runner_has_not_started(near: Neighbour) -> None:
    assert arrival(holder(DAEMON, INIT), ENDING._replace(neighbours=(near,))) == CAME_UP


def test_what_comes_up_in_another_container_is_not_of_our_run() -> None:
    daemon = process(2000, environment="wiped", container="f00d")
    asked = context(
        OUR_SHELL, INIT, phase="after", ending="1.2.3", began=1.0, quiet=frozenset({Port(8000)})
    )

    assert judge(holder(daemon, INIT), asked).rule == "container"
    inside = holder(daemon._replace(container=None), INIT)
    assert judge(inside, asked).rule == "own-run"
