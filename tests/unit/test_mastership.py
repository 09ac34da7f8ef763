"""When a master counts as frozen or stuck, and what is not taken for it."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raypacs.cluster import mastership
from raypacs.cluster.master import PING_GROUP, Busy, MasterActor
from raypacs.cluster.mastership import STUCK_S, Mastership
from raypacs.config import Bootstrap


def test_an_event_that_runs_tells_for_how_long() -> None:
    now = [0.0]
    busy = Busy(lambda: now[0])
    begun, end = threading.Event(), threading.Event()

    def event(answer: int) -> int:
        begun.set()
        end.wait()
        return answer

    thread = threading.Thread(target=busy.run, args=(event, 5))
    assert busy.for_s() == 0
    thread.start()
    begun.wait()
    now[0] = 7.0
    assert busy.for_s() == 7
    end.set()
    thread.join()
    assert busy.for_s() == 0
    assert busy.run(lambda: 3) == 3
    with pytest.raises(KeyError):
        busy.run({}.__getitem__, "x")
    assert busy.for_s() == 0


def test_pings_do_not_wait_behind_events() -> None:
    assert MasterActor.ping.__ray_concurrency_group__ == PING_GROUP  # type: ignore[attr-defined]


def answered(busy_s: float) -> dict[str, Any]:
    return {"pid": 1, "busy_s": busy_s, "failed": ""}


class Pinged:
    """Stands in for Ray and the master's actor."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self._actor_id = "a"
        self.ping = SimpleNamespace(remote=lambda: None)

    def get(self, _: Any, timeout: float) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def watched(monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> list[Any]:
    """Watch an actor that answers so; return those that were replaced."""
    actor = Pinged(answers)
    monkeypatch.setattr(ray, "get_actor", lambda *_, **__: actor)
    monkeypatch.setattr(ray, "get", actor.get)
    now = iter(range(0, 100_000, 2))
    monkeypatch.setattr(mastership, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    keeper = Mastership(Bootstrap())
    replaced: list[Any] = []
    monkeypatch.setattr(keeper, "_replace", replaced.append)
    while actor.answers:
        keeper.watch()
    return replaced


def test_a_busy_master_is_left_alone_and_a_stuck_one_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = answered(STUCK_S)
    assert watched(monkeypatch, [busy, busy, busy]) == []
    assert len(watched(monkeypatch, [busy, answered(STUCK_S + 1)])) == 1


def test_one_that_gives_no_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [ray.exceptions.GetTimeoutError("no answer") for _ in range(3)]
    assert watched(monkeypatch, [answered(0.0), *silent[:1]]) == []
    assert len(watched(monkeypatch, [answered(0.0), *silent])) >= 1


def test_one_that_migrates_the_schema_is_given_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = ray.exceptions.GetTimeoutError("no answer")
    minutes = [silent] * int(2 * mastership.STARTING_S / 2)
    assert watched(monkeypatch, list(minutes))
    monkeypatch.setattr(mastership, "is_behind", lambda url: True)
    assert watched(monkeypatch, list(minutes)) == []
    hours = [silent] * int(2 * mastership.MIGRATING_S / 2)
    assert watched(monkeypatch, hours)
