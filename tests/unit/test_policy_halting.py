"""How the queue stands, and what it waits for."""

from __future__ import annotations

from typing import Any

import pytest

from raypacs.policy.halting import KindView, NodeView, QueueState, Surroundings, state_of, whole
from raypacs.policy.kinds import KINDS, PREPARE

NOW = 1_000_000.0
N1 = NodeView("n1", kinds=(PREPARE,))
DRAINING = NodeView("n2", draining=True, kinds=(PREPARE,))
LACKING = NodeView("n3", kinds=(PREPARE,), roles_lacking=frozenset({"web"}))


ONE_NODE = Surroundings((N1,))


def stands(
    around: Surroundings = ONE_NODE, *, waits_s: float = 60.0, **view: Any
) -> tuple[str, str]:
    seen = KindView(**({"oldest_due_s": NOW - waits_s} | view))
    return state_of(KINDS[PREPARE], seen, around, now=NOW, stalled_after_s=600)


def test_running() -> None:
    assert stands(oldest_due_s=None) == (QueueState.RUNNING, "")
    assert stands() == (QueueState.RUNNING, "")
    assert stands(running=3) == (QueueState.RUNNING, "3 running")
    assert stands(oldest_due_s=NOW + 60) == (
        QueueState.RUNNING,
        "next due at 1970-01-12T13:47:40+00:00",
    )
    # What an older version let into the index is told, too.
    assert stands(oldest_due_s=float("inf")) == (QueueState.RUNNING, "next due at inf s")


def test_halting_until_nothing_runs() -> None:
    assert stands(halted_by="ann", running=2) == (
        QueueState.HALTING,
        "halted by ann; waits for the end of 2 running",
    )
    assert stands(halted_by="ann") == (QueueState.HALTED, "halted by ann")
    assert stands(halted_by="") == (QueueState.HALTED, "halted")


def test_stalled_only_when_nothing_was_finished_although_work_was_due() -> None:
    assert stands(waits_s=599)[0] == QueueState.RUNNING
    assert stands(waits_s=600) == (QueueState.STALLED, "nothing was finished for 10 minutes")
    assert stands(waits_s=9999, finished_s=NOW - 599)[0] == QueueState.RUNNING
    assert stands(waits_s=9999, finished_s=NOW - 600)[0] == QueueState.STALLED


@pytest.mark.parametrize(
    ("around", "why"),
    [
        (Surroundings(), "no live node"),
        (Surroundings((NodeView("n4", kinds=("VERIFY",)),)), "no live node does PREPARE"),
        (Surroundings((DRAINING,)), "node n2 is draining"),
        (
            Surroundings((DRAINING, LACKING)),
            "node n2 is draining; node n3 does not reach every web tier",
        ),
        (Surroundings((N1,), {"web": "every web tier is full"}), "every web tier is full"),
    ],
)
def test_it_says_what_it_waits_for(around: Surroundings, why: str) -> None:
    assert stands(around) == (QueueState.RUNNING, why)
    assert stands(around, waits_s=601) == (QueueState.STALLED, why)


def test_an_item_bound_to_a_node_waits_for_that_one() -> None:
    both = Surroundings((N1, DRAINING))
    assert stands(both, bound_to="n1") == (QueueState.RUNNING, "")
    assert stands(both, bound_to="n2")[1] == "bound to node n2: node n2 is draining"
    assert stands(both, bound_to="n9")[1] == "bound to node n9, which is not there"


def test_the_whole_queue_is_as_its_worst_kind() -> None:
    kinds = [("A", QueueState.RUNNING, ""), ("B", QueueState.STALLED, "no live node")]
    assert whole(kinds[:1], halted_by=None, running=0) == (QueueState.RUNNING, "")
    assert whole(kinds, halted_by=None, running=0) == (QueueState.STALLED, "B: no live node")
    assert whole(kinds, halted_by="ann", running=1)[0] == QueueState.HALTING
    assert whole(kinds, halted_by="ann", running=0) == (QueueState.HALTED, "halted by ann")
