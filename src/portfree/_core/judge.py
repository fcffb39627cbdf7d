"""The verdicts on all holders of the requested ports together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from portfree._core.ancestry import Holder, leader, named, roots
from portfree._core.context import Context
from portfree._core.origin import origin_of
from portfree._core.rules import RULES, container, live_run, protected, self_
from portfree.model import Verdict


def judge(holder: Holder, context: Context) -> Verdict:
    holder = with_origin(holder, context)
    return next(verdict for rule in RULES if (verdict := rule(holder, context)))


def with_origin(holder: Holder, context: Context) -> Holder:
    """The holder, and where it was born."""
    return holder._replace(origin=origin_of(holder, context))


def judge_all(holders: Sequence[Holder], context: Context) -> dict[int, Verdict]:
    """The verdicts by pid. Root holders are judged, and all that share their sockets take their
    verdict. If one of a group is kept, all are: a signal to one can break the others.
    """
    verdicts: dict[int, Verdict] = {}
    for group in groups(holders):
        # Ancestors that form a circle leave no root; then each is judged.
        judged = {holder.pid: judge(holder, context) for holder in roots(group) or group}
        for holder in group:
            if holder.pid not in judged and (verdict := veto(holder, group, context)):
                judged[holder.pid] = verdict
        deciding = {pid: each for pid, each in judged.items() if each.action == "keep"} or judged
        first = next(holder for holder in group if holder.pid in deciding)
        for holder in group:
            if holder.pid in deciding:
                verdicts[holder.pid] = deciding[holder.pid]
                continue
            shares = first.ids & holder.ids
            tie = "shares the socket of" if shares else "belongs to the same server as"
            reason = f"{tie} {named(first.process)}: {deciding[first.pid].reason}"
            verdicts[holder.pid] = deciding[first.pid]._replace(reason=reason)
    return verdicts


def veto(holder: Holder, above: Iterable[Holder], context: Context) -> Verdict | None:
    """What keeps a holder even if one of those *above* it may be stopped; None if nothing does."""
    for rule in (self_, container, protected):
        if verdict := rule(holder, context):
            return verdict
    # One above has started a test run, which has started this one.
    origin = origin_of(holder, context)
    if origin and origin.runner in holder.lineage and not origin.ours:
        tops = {other.pid for other in above}
        beyond = holder.lineage[holder.lineage.index(origin.runner) + 1 :]
        if any(process.pid in tops for process in beyond):
            return live_run(holder._replace(origin=origin), context)
    return None


def groups(holders: Sequence[Holder]) -> list[list[Holder]]:
    """The holders that share a socket, or of which one is another's ancestor on the same port."""
    groups: list[list[Holder]] = []
    for holder in holders:
        ids = holder.ids
        leaders = {found.pid for port in holder.ports if (found := leader(holder, holders, port))}
        tied = [
            group
            for group in groups
            if any(
                other.pid in leaders
                or ids & other.ids
                or (any(p.pid == holder.pid for p in other.lineage) and other.ports & holder.ports)
                for other in group
            )
        ]
        groups = [group for group in groups if group not in tied]
        groups.append([*(other for group in tied for other in group), holder])
    return groups
