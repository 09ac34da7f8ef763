"""Attempts under which worker processes died, as the dispatcher reports them: no tries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from raypacs.policy.queue import State
from raypacs.records import WorkResult
from tests.contract.queue_world import Queue, T, queue_at

DIED = WorkResult(error="WorkerCrashedError: gone", died=True)


@pytest.fixture
def queue(database_url: str) -> Iterator[Queue]:
    with queue_at(database_url) as world:
        world.node("n1")
        yield world


def test_a_death_is_no_try_and_what_was_published_counts(queue: Queue) -> None:
    queue.study("1.1", count=2)
    item_id = queue.item("1.1")
    lease = queue.taken()
    (whole,) = queue.prepared(lease).packs
    half = replace(whole, instances=whole.instances[:1])
    told = replace(DIED, packs=(half,))
    assert queue.writer.report(lease, told, T) == State.SCHEDULED_FOR_RETRY
    row = queue.row(item_id)
    assert (row["attempt"], row["deaths"]) == (0, 1)
    assert len(queue.reader.unprepared("1.1")) == 1
    assert queue.writer.sweepable(T + 3600) == [], "its packs are served"
    again = queue.taken(now=T + 600)
    assert queue.writer.report(again, queue.prepared(again), T + 600) == State.COMPLETED
    assert queue.row(item_id)["deaths"] == 0
    assert queue.counts_are_right()


def test_too_many_deaths_in_a_row_fail_the_item(queue: Queue) -> None:
    item_id = queue.item("1.1")
    now = T
    for _ in range(9):
        lease = queue.taken(now=now)
        assert queue.writer.report(lease, DIED, now) == State.SCHEDULED_FOR_RETRY
        now += 600
    assert queue.writer.report(queue.taken(now=now), DIED, now) == State.FAILED
    assert queue.row(item_id)["error"] == (
        "10 attempts in a row died; the last: WorkerCrashedError: gone"
    )


def test_who_goes_on_is_as_urgent_and_no_later(queue: Queue) -> None:
    """A stat item dies while a low one, meant for later, waits for the same study."""
    queue.item("1.1", priority="stat")
    lease = queue.taken()
    later = queue.item("1.1", priority="low", due_s=T + 86_400)
    assert queue.writer.report(lease, DIED, T) == State.CANCELED
    row = queue.row(later)
    assert row["priority"] == 30
    assert row["due_s"] < T + 60
    assert queue.counts_are_right()
