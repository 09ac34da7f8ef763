"""The window of tasks that Ray is given: never more, the most urgent first, ended when told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from started_tasks import ByHand, settle

from raypacs.cluster.pool import CANCELED, Task, TaskPool


@pytest.fixture
def ray() -> ByHand:
    return ByHand()


@pytest.fixture
def pool(ray: ByHand) -> Iterator[TaskPool]:
    made = TaskPool(ray, window=2)
    yield made
    made.close()


class Told:
    """What tasks came to, in order."""

    def __init__(self) -> None:
        self.values: list[tuple[Any, Any]] = []

    def __call__(self, task: Task, value: Any) -> None:
        self.values.append((task.key, value))


def task(key: str, done: Callable[[Task, Any], None], *, rank: int = 0, owner: str = "a") -> Task:
    return Task((rank, 0, int(key[1:])), owner, key, print, (key,), done)


def test_never_more_than_the_window_is_started(pool: TaskPool, ray: ByHand) -> None:
    told = Told()
    for number in range(5):
        pool.submit(task(f"t{number}", told))
    settle(pool)
    assert ray.started == ["t0", "t1"]
    ray.finish("t1", "one")
    settle(pool)
    assert told.values == [("t1", "one")]
    assert ray.started == ["t0", "t1", "t2"]


def test_what_is_urgent_overtakes_what_waits_and_not_what_runs(pool: TaskPool, ray: ByHand) -> None:
    told = Told()
    for number in range(5):
        pool.submit(task(f"t{number}", told))
    pool.submit(task("u9", told, rank=-30))
    settle(pool)
    for key in ("t0", "t1", "u9"):
        ray.finish(key, None)
        settle(pool)
    assert ray.started == ["t0", "t1", "u9", "t2", "t3"]


def test_a_cancel_drops_what_waits_and_ends_what_runs(pool: TaskPool, ray: ByHand) -> None:
    told = Told()
    for number in range(3):
        pool.submit(task(f"t{number}", told))
    pool.submit(task("o8", told, owner="other"))
    settle(pool)
    pool.cancel("a")
    settle(pool)
    assert told.values == [("t2", CANCELED)]
    assert ray.canceled == [("t0", False), ("t1", False)]
    pool.cancel("a", force=True)
    settle(pool)
    assert ray.canceled[2:] == [("t0", True), ("t1", True)]
    ray.finish("t0", "all the same")
    ray.finish("t1", CANCELED)
    settle(pool)
    assert told.values[1:] == [("t0", "all the same"), ("t1", CANCELED)]
    assert ray.started[-1] == "o8"


def test_a_task_that_ends_while_it_is_being_started_is_told(pool: TaskPool) -> None:
    class AtOnce:
        def start(self, function: Any, args: Any, done: Any) -> None:
            done("refused")

        def cancel(self, handle: Any, *, force: bool) -> None:
            raise AssertionError

    told, ended = Told(), threading.Event()
    at_once = TaskPool(AtOnce(), window=1)
    for number in range(20):
        at_once.submit(task(f"t{number}", told))
    at_once.submit(task("t99", lambda *_: ended.set(), rank=1))
    assert ended.wait(30)
    assert [value for _, value in told.values] == ["refused"] * 20
    at_once.close()


def test_another_priority_is_for_what_waits(pool: TaskPool, ray: ByHand) -> None:
    told = Told()
    for number in range(4):
        pool.submit(task(f"t{number}", told))
    pool.submit(task("o8", told, owner="other"))
    pool.submit(task("o9", told, owner="other"))
    settle(pool)
    pool.prioritise("other", 30)
    settle(pool)
    for key in ("t0", "t1", "o8"):
        ray.finish(key, None)
        settle(pool)
    assert ray.started == ["t0", "t1", "o8", "o9", "t2"]
