"""A leased item: its lease is watched, its tasks are run again, handed back, or ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from inline_tasks import LEASE
from started_tasks import ByHand, settle

from raypacs.cluster import item as item_module
from raypacs.cluster.item import CRASHES, LeasedItem
from raypacs.cluster.pool import CANCELED, TaskPool
from raypacs.errors import StaleLease
from raypacs.work.run import TaskFailure

FAR_S = 3600.0
CRASHED = TaskFailure("WorkerCrashedError", True, crashed=True)


@pytest.fixture
def ray() -> ByHand:
    return ByHand()


@pytest.fixture
def pool(ray: ByHand) -> Iterator[TaskPool]:
    made = TaskPool(ray, window=2)
    yield made
    made.close()


def leased(pool: TaskPool, *, for_s: float = FAR_S, **changes: Any) -> LeasedItem:
    return LeasedItem(replace(LEASE, **changes), pool, time.monotonic() + for_s)


def test_values_come_back_with_their_keys(pool: TaskPool, ray: ByHand) -> None:
    item = leased(pool)
    item.submit("a", print, 1)
    item.submit("b", print, 2)
    settle(pool)
    ray.finish(2, "two")
    finished = item.finished()
    assert next(finished) == ("b", "two")
    item.submit("c", print, 3)
    settle(pool)
    ray.finish(3, "three")
    ray.finish(1, "one")
    assert list(finished) == [("c", "three"), ("a", "one")]


def test_a_task_whose_worker_died_is_run_again_a_few_times(pool: TaskPool, ray: ByHand) -> None:
    item = leased(pool)
    item.submit("a", print, 1)
    values: list[Any] = []
    worker = threading.Thread(target=lambda: values.extend(item.finished()))
    worker.start()
    for times in range(CRASHES + 1):
        assert ray.wait(lambda times=times: len(ray.started) > times)
        ray.finish(1, CRASHED)
    worker.join(30)
    assert values == [("a", CRASHED)]
    assert ray.started == [1] * (CRASHES + 1)


def test_higher_priority_and_then_the_older_lease_goes_first(pool: TaskPool, ray: ByHand) -> None:
    first, second = leased(pool, token="1"), leased(pool, token="2")
    urgent = leased(pool, token="3", priority=30)
    second.submit("", print, "running")
    second.submit("", print, "running too")
    settle(pool)
    second.submit("", print, "second")
    first.submit("", print, "first")
    urgent.submit("", print, "urgent")
    settle(pool)
    for key in ("running", "running too", "urgent"):
        ray.finish(key, None)
        settle(pool)
    assert ray.started[2:] == ["urgent", "first", "second"]


def test_a_stop_ends_the_wait_for_tasks_at_once(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_module, "CHECK_S", FAR_S)
    item = leased(pool)
    item.submit("a", print, 1)
    stopper = threading.Timer(0.05, item.stop, ["cancelled"])
    stopper.start()
    with pytest.raises(StaleLease, match="cancelled"):
        list(item.finished())
    with pytest.raises(StaleLease):
        item.submit("b", print, 2)
    with pytest.raises(StaleLease):
        item.begin_report()


def test_a_lease_that_was_not_renewed_in_time_is_lost(pool: TaskPool) -> None:
    item = leased(pool, for_s=-1.0)
    with pytest.raises(StaleLease, match="renewed in time"):
        item.check()
    item = leased(pool, for_s=-1.0)
    with pytest.raises(StaleLease):
        item.begin_report()
    item = leased(pool, for_s=-1.0, expires_at_s=50.0)
    item.renewed(50.0 + FAR_S, time.monotonic() + FAR_S)
    item.check()
    item.begin_report()


@pytest.mark.parametrize(
    ("expires_at_s", "at_most_s"),
    [
        (50.0, FAR_S),  # it was young enough: the master wrote nothing
        (50.0 - 7200.0, FAR_S),  # another master, whose clock is behind
        (50.0 + 7200.0, -0.5),  # whose clock is ahead
    ],
)
def test_a_renewal_is_good_for_what_the_master_added_and_no_longer(
    pool: TaskPool, expires_at_s: float, at_most_s: float
) -> None:
    item = leased(pool, for_s=-1.0, expires_at_s=50.0)
    item.renewed(expires_at_s, time.monotonic() + at_most_s)
    with pytest.raises(StaleLease):
        item.check()


def test_the_answer_to_a_report_decides_and_no_stop(pool: TaskPool) -> None:
    item = leased(pool)
    item.begin_report()
    item.stop("the item is not in process any more")
    item.check()


def test_cancel_interrupts_then_ends_and_hands_back_what_finished(
    pool: TaskPool, ray: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_module, "SOFT_S", 0.05)
    item = leased(pool)
    for number in range(3):
        item.submit("", print, number)
    settle(pool)

    def obey() -> None:
        ray.wait(lambda: (0, False) in ray.canceled)
        ray.finish(0, "published")
        ray.wait(lambda: (1, True) in ray.canceled)
        ray.finish(1, CANCELED)

    worker = threading.Thread(target=obey)
    worker.start()
    assert item.cancel() == ["published"]
    worker.join(30)
    assert ray.canceled == [(0, False), (1, False), (1, True)]
    assert item.cancel() == []


def test_another_priority_is_for_tasks_that_wait_and_for_those_to_come(
    pool: TaskPool, ray: ByHand
) -> None:
    first, second = leased(pool, token="1"), leased(pool, token="2")
    for key in ("running", "running too", "first"):
        first.submit("", print, key)
    second.submit("", print, "second")
    settle(pool)
    second.prioritise(30)
    second.submit("", print, "second too")
    settle(pool)
    for key in ("running", "running too", "second"):
        ray.finish(key, None)
        settle(pool)
    assert ray.started[2:] == ["second", "second too", "first"]
