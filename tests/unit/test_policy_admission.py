"""Who gets how much work, and which first."""

from __future__ import annotations

import random

import pytest

from raypacs.errors import InvalidQuery
from raypacs.policy.admission import Slots, Work, admit, poll_after_s
from raypacs.policy.kinds import KINDS, kind_of
from raypacs.policy.queue import Priority, priority_of

SLOTS = Slots(cores=2)


def works(kind: str, count: int, priority: int = Priority.LOW, first: int = 1) -> list[Work]:
    return [Work(first + number, kind, priority, float(number)) for number in range(count)]


def kinds_of(chosen: list[Work]) -> dict[str, int]:
    return {kind: sum(one.kind == kind for one in chosen) for kind in {c.kind for c in chosen}}


def test_prepare_has_the_cores_and_the_others_their_slots() -> None:
    chosen = admit([*works("PREPARE", 20), *works("VERIFY", 20, first=100)], [], SLOTS, 100)
    assert kinds_of(chosen) == {"PREPARE": 2, "VERIFY": 8}


def test_two_slots_are_kept_for_high_and_stat() -> None:
    running = works("VERIFY", 8)
    assert admit(works("VERIFY", 5, Priority.MEDIUM, 100), running, SLOTS, 100) == []
    urgent = works("VERIFY", 5, Priority.HIGH, 100)
    assert admit(urgent, running, SLOTS, 100) == urgent[:2]
    ten = [*running, *works("VERIFY", 2, Priority.STAT, 50)]
    assert admit(urgent, ten, SLOTS, 100) == []


def test_urgent_items_leave_the_ordinary_slots_free() -> None:
    running = works("VERIFY", 2, Priority.STAT)
    assert len(admit(works("VERIFY", 20, first=100), running, SLOTS, 100)) == 8


def test_four_memory_heavy_at_most_and_the_rest_to_lighter_kinds() -> None:
    heavy = [*works("ARCHIVE", 5, Priority.HIGH), *works("EDIT", 5, Priority.HIGH, 50)]
    chosen = admit([*heavy, *works("EXPORT", 20, first=100)], [], SLOTS, 100)
    assert sum(KINDS[one.kind].heavy for one in chosen) == 4
    # Those four are high: they use the kept slots as well.
    assert kinds_of(chosen)["EXPORT"] == 6


def test_a_node_with_few_slots_still_works() -> None:
    tiny = Slots(cores=1, concurrency=1, reserved=2)
    assert len(admit(works("VERIFY", 3), [], tiny, 10)) == 1


def test_priority_then_time_then_number_and_never_more_than_asked_for() -> None:
    waiting = [
        Work(1, "VERIFY", Priority.LOW, 1.0),
        Work(2, "VERIFY", Priority.STAT, 9.0),
        Work(3, "VERIFY", Priority.STAT, 5.0),
        Work(4, "VERIFY", Priority.STAT, 5.0),
    ]
    assert [one.item_id for one in admit(waiting, [], SLOTS, 3)] == [3, 4, 2]


@pytest.mark.parametrize("kind", ["PREPARE", "VERIFY", "ARCHIVE"])
def test_ten_thousand_low_items_delay_a_stat_one_by_one_running_item_at_most(kind: str) -> None:
    """Each round one running item ends, by chance, and the node asks again."""
    chance = random.Random(7)
    waiting = works(kind, 10_000)
    running: list[Work] = []
    for _ in range(200):
        for one in admit(waiting, running, SLOTS, 100):
            waiting.remove(one)
            running.append(one)
        running.remove(chance.choice(running))
    for one in admit(waiting, running, SLOTS, 100):
        waiting.remove(one)
        running.append(one)
    stat = Work(99_999, kind, Priority.STAT, 1e9)
    waiting.append(stat)
    ended = 0
    while stat not in admit(waiting, running, SLOTS, 100):
        running.remove(chance.choice(running))
        ended += 1
    assert ended <= 1


def test_nodes_poll_less_often_the_more_there_are() -> None:
    assert poll_after_s(1) == 0.25
    assert poll_after_s(400) == 2.0
    assert [nodes / poll_after_s(nodes) for nodes in (200, 1000)] == [200, 200]
    assert poll_after_s(100_000) == 5.0


def test_every_kind_and_priority_has_its_name() -> None:
    assert len(KINDS) == 16
    assert [name for name, kind in KINDS.items() if kind.per_core] == ["PREPARE"]
    assert all(kind_of(name).name == name for name in KINDS)
    assert priority_of("stat") > priority_of("high") > priority_of("medium") > priority_of("low")
    with pytest.raises(InvalidQuery, match="known: ADOPT, ARCHIVE"):
        kind_of("BAKE")
    with pytest.raises(InvalidQuery, match="known: low"):
        priority_of("urgent")


def test_urgent_prepare_goes_beyond_the_cores() -> None:
    running = works("PREPARE", 2, Priority.MEDIUM)
    assert admit(works("PREPARE", 3, Priority.MEDIUM, 50), running, SLOTS, 9) == []
    urgent = works("PREPARE", 3, Priority.HIGH, 100)
    assert admit(urgent, running, SLOTS, 9) == urgent[:2]
    assert admit(works("PREPARE", 1), urgent[:2], SLOTS, 9) == []


def test_what_is_low_holds_nothing_else_up_and_is_never_more_than_the_cores() -> None:
    low = works("PREPARE", 2)
    assert admit(works("PREPARE", 3, first=50), low, SLOTS, 9) == []
    medium = works("PREPARE", 3, Priority.MEDIUM, 100)
    assert admit(medium, low, SLOTS, 9) == medium[:2]
    assert admit(works("PREPARE", 1, first=50), medium[:2], SLOTS, 9) == []
    # However often a running one is made low: so many in all.
    assert admit(medium, works("PREPARE", 4), SLOTS, 9) == []
