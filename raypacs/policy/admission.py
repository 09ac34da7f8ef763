"""How much work a node gets, and which first (FEATURES C5).

PREPARE runs on as many items as the node has cores; high and stat ones on ``reserved`` more, as
their tasks overtake those of the others. Low ones (what was adopted, say) take no core from medium
ones, whose tasks overtake theirs, too. All other kinds together have ``concurrency`` slots:
``reserved`` of them only for high and stat priority, at most ``heavy`` for memory-heavy kinds.
Higher priority first, then what is due longest.

So however many low items wait, a stat item finds a free slot or is the first to get one: it waits
for the end of one running item at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raypacs.policy.kinds import KINDS
from raypacs.policy.queue import Priority

# Polls a second that the master answers at most, however many nodes there are: a few per cent of
# a core. With 1,000 nodes each asks every 5 s, and still one of them asks every 5 ms.
POLLS_PER_S = 200
SOONEST_S, LATEST_S = 0.25, 5.0


@dataclass(frozen=True, slots=True)
class Slots:
    """What a node runs at once: PREPARE on ``cores``; all other kinds in ``concurrency`` slots.

    ``reserved``: beside the cores, and of the slots, for high and stat priority only.
    """

    cores: int
    concurrency: int = 10
    reserved: int = 2
    heavy: int = 4


@dataclass(frozen=True, slots=True)
class Work:
    """What admission needs to know of a work item."""

    item_id: int
    kind: str
    priority: int
    due_s: float = 0.0


def admit(waiting: Iterable[Work], running: Iterable[Work], slots: Slots, limit: int) -> list[Work]:
    """Return which of ``waiting`` the node gets now, in order; ``running`` is what it has."""
    taken = list(running)
    chosen: list[Work] = []
    for work in sorted(waiting, key=lambda work: (-work.priority, work.due_s, work.item_id)):
        if len(chosen) >= limit:
            break
        if _fits(work, taken, slots):
            taken.append(work)
            chosen.append(work)
    return chosen


def _fits(work: Work, taken: list[Work], slots: Slots) -> bool:
    kind = KINDS[work.kind]
    if kind.per_core:
        more = slots.reserved if work.priority >= Priority.HIGH else 0
        same = [one for one in taken if KINDS[one.kind].per_core]
        if work.priority > Priority.LOW:
            # What is low keeps its lease, but its tasks wait until the others have none.
            rivals = sum(one.priority > Priority.LOW for one in same)
            return rivals < slots.cores + more and len(same) < 2 * slots.cores + more
        return len(same) < slots.cores
    others = [one for one in taken if not KINDS[one.kind].per_core]
    if len(others) >= slots.concurrency:
        return False
    if kind.heavy and sum(KINDS[one.kind].heavy for one in others) >= slots.heavy:
        return False
    if work.priority >= Priority.HIGH:
        return True
    ordinary = sum(one.priority < Priority.HIGH for one in others)
    return ordinary < max(1, slots.concurrency - slots.reserved)


def poll_after_s(nodes: int) -> float:
    """Return the seconds after which a node should poll again, when ``nodes`` do."""
    return min(LATEST_S, max(SOONEST_S, nodes / POLLS_PER_S))
