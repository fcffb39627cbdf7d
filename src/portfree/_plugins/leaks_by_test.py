"""Whose servers are those that came up while tests ran: which test's, or which fixture's.

Loaded only once something new listens.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Collection, Hashable
from functools import partial
from typing import TYPE_CHECKING

from portfree._core.leaks import Place, find_leaks, is_ignored
from portfree._output.console import tell
from portfree._plugins.own_listeners import described

if TYPE_CHECKING:
    from portfree._core.ancestry import Holder
    from portfree._core.context import Context, Moment
    from portfree._plugins.leak_watch import Fixture, History
    from portfree._system.interface import Socket, System
    from portfree.model import Leak, Request


def find(
    system: System,
    new: set[Socket],
    known: Collection[Hashable],
    request: Request,
    moment: Moment,
    history: History,
) -> tuple[Leak, ...]:
    """What was left behind of these new listeners, each with its test."""
    leaks = find_leaks(
        system,
        new,
        known=set(known) - {socket.id for socket in new},
        request=request,
        moment=moment,
        notify=tell,
        placing=partial(place, history=history),
        threads=threading.active_count() > 1,
    )
    # No tuple is made of a generator here: to find the object of a socket takes a look at all
    # objects, and CPython does not enlarge a tuple that anything else has seen.
    return tuple(
        [
            each._replace(server=described(each.address, each.port)) if each.own else each
            for each in leaks
        ]
    )


def place(holder: Holder, socket: Socket, context: Context, history: History) -> Place | None:
    """Where a server was started; None if it may go on or be left, or is none of ours."""
    own = holder.pid == context.caller.pid
    told = (holder.pid, *socket.port) in history.told
    # The child of pytest-forked ends with its test.
    if (own and holder.pid != history.pid) or (told and not own):
        return None
    test, _, phase = holder.mark("PYTEST_CURRENT_TEST").rpartition(" (")
    born = _born(holder, context)
    # The test process opens sockets for all, another process for what has started it.
    ids = [socket.id] if own else [each.id for each in holder.sockets]
    fixture = next((history.opened[id_] for id_ in ids if id_ in history.opened), None)
    if fixture is None and not own and phase in ("", "setup)"):
        fixture = _being_set_up(history, born, test)
    if fixture is not None:
        history.opened |= dict.fromkeys(ids, fixture)
        if fixture.lives:
            return None
        test = fixture.test
    elif own:
        test = history.tests[-1]
    elif test not in history.tests:
        # Where its environment tells no test, its birth does.
        at = bisect_right(history.began, born[0])
        if at == 0:
            return None
        test = history.tests[at - 1]
    if is_ignored(socket, holder.process, history.allowed.get(test, ())):
        history.let.add((holder.pid, socket.address, socket.port))
        return None
    return Place(test, fixture.name if fixture else "")


def _being_set_up(history: History, born: tuple[float, int], test: str) -> Fixture | None:
    """The fixture that was being set up at that time, for this test if that is known."""
    for fixture in reversed(history.fixtures):
        if fixture.began < born <= fixture.ready and test in ("", fixture.test):
            return fixture
    return None


def _born(holder: Holder, context: Context) -> tuple[float, int]:
    """When it was started, with its pid: itself, or the topmost ancestor below the test process.

    The forkserver of multiprocessing starts for the test that runs at the time.
    """
    born = holder.process
    for process in holder.lineage:
        forkserver = any("multiprocessing.forkserver" in word for word in process.argv)
        if process.start < context.caller.start or process.pid == context.caller.pid or forkserver:
            break
        born = process
    return born.start, born.pid
