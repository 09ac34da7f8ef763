"""Reports go many in a call, and each hears its own answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from inline_tasks import LEASE

from raypacs.cluster.reporter import Reporter
from raypacs.errors import IndexUnavailable, MasterUnavailable, RaypacsError, StaleLease
from raypacs.policy.queue import State
from raypacs.records import WorkResult


class Master:
    """Answers ``report_many``, the first call only when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.answer: Callable[[int], Any] = lambda item_id: State.COMPLETED
        self.asked, self.free = threading.Event(), threading.Event()

    def call(self, event: str, reports: Any) -> list[Any]:
        assert event == "report_many"
        self.batches.append([lease.item_id for lease, _ in reports])
        self.asked.set()
        assert self.free.wait(30)
        return [self.answer(lease.item_id) for lease, _ in reports]


@pytest.fixture
def master() -> Master:
    return Master()


@pytest.fixture
def reporter(master: Master) -> Iterator[Reporter]:
    made = Reporter(master.call)
    yield made
    master.free.set()
    made.close()


def report(reporter: Reporter, *item_ids: int) -> tuple[list[threading.Thread], dict[int, Any]]:
    answers: dict[int, Any] = {}

    def one(item_id: int) -> None:
        try:
            answers[item_id] = reporter.report(replace(LEASE, item_id=item_id), WorkResult())
        except RaypacsError as exc:
            answers[item_id] = exc

    threads = [threading.Thread(target=one, args=(item_id,)) for item_id in item_ids]
    for thread in threads:
        thread.start()
    return threads, answers


def test_what_ends_during_a_call_goes_together_in_the_next(
    reporter: Reporter, master: Master
) -> None:
    master.answer = lambda item_id: StaleLease("no") if item_id == 3 else State.COMPLETED
    first, answers = report(reporter, 1)
    assert master.asked.wait(30)
    others, more = report(reporter, 2, 3, 4)
    while reporter._waiting.qsize() < 3:
        threading.Event().wait(0.01)
    master.free.set()
    for thread in first + others:
        thread.join(30)
    assert [sorted(batch) for batch in master.batches] == [[1], [2, 3, 4]]
    assert answers == {1: State.COMPLETED}
    assert isinstance(more.pop(3), StaleLease)
    assert more == {2: State.COMPLETED, 4: State.COMPLETED}


@pytest.mark.parametrize(
    "error", [MasterUnavailable("away"), IndexUnavailable("full"), RaypacsError("no such event")]
)
def test_where_the_call_fails_nobody_knows(
    reporter: Reporter, master: Master, error: Exception
) -> None:
    def fail(item_id: int) -> Any:
        raise error

    master.answer = fail
    master.free.set()
    threads, answers = report(reporter, 1)
    threads[0].join(30)
    assert isinstance(answers[1], MasterUnavailable)


def test_closing_reports_what_waits(master: Master) -> None:
    reporter = Reporter(master.call)
    first, answers = report(reporter, 1)
    assert master.asked.wait(30)
    second, more = report(reporter, 2)
    while not reporter._waiting.qsize():
        threading.Event().wait(0.01)
    closer = threading.Thread(target=reporter.close)
    closer.start()
    master.free.set()
    for thread in (*first, *second, closer):
        thread.join(30)
    assert answers | more == {1: State.COMPLETED, 2: State.COMPLETED}
