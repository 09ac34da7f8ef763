"""Reports that the index cannot hold, or whose packs it has already, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from raypacs.index import reinventory
from raypacs.policy.queue import State
from tests.contract.queue_world import Queue, T, queue_at


@pytest.fixture
def queue(database_url: str) -> Iterator[Queue]:
    with queue_at(database_url) as world:
        world.node("n1")
        yield world


def ledger_is_right(queue: Queue) -> bool:
    used = {name: row.used_bytes for name, row in queue.reader.ledger().items()}
    return {name: size for name, size in used.items() if size} == queue.writer.recount(T)


def test_a_bad_one_does_not_fail_the_others(queue: Queue) -> None:
    """It ends as a failed attempt, what it published is swept, and its item is tried again."""
    for number in range(3):
        queue.item(f"1.{number}")
    queue.node("n8", cores=8)
    leases = queue.poll("n8", free=8).leases
    results = [queue.prepared(lease) for lease in leases]
    results[1] = replace(
        results[1], packs=tuple(replace(one, pack_bytes=2**70) for one in results[1].packs)
    )
    answers = queue.writer.report_many(list(zip(leases, results, strict=True)), T + 1)
    assert answers == [State.COMPLETED, State.SCHEDULED_FOR_RETRY, State.COMPLETED]
    row = queue.row(leases[1].item_id)
    assert row["error"].startswith("its report could not be taken over")
    assert leases[1].token in {one[0] for one in queue.writer.sweepable(T + 2)}
    assert queue.reader.study(leases[1].study_uid)["prepared_count"] == 0
    assert queue.counts_are_right()
    assert ledger_is_right(queue)


def test_a_pack_that_is_listed_already_is_counted_once(queue: Queue) -> None:
    queue.item("1.1")
    lease = queue.taken()
    result = queue.prepared(lease)
    other = replace(result.packs[0], token="adopted")
    with queue.writer.transaction(T) as txn:
        reinventory.adopt_pack(txn, other)
        reinventory.recount_study(txn, "1.1")
        reinventory.recount_ledger(txn)
    assert queue.writer.report(lease, result, T + 1) == State.COMPLETED
    (pack,) = queue.reader.locate(other.series_uid)
    assert pack.token == "adopted"
    assert ledger_is_right(queue)
