"""A node's service actors: started again, killed when frozen, never in the way of stopping."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, GetTimeoutError

from raypacs.cluster import service as module
from raypacs.cluster.service import FROZEN_LOOKS, STARTING_LOOKS, Service
from raypacs.errors import MasterUnavailable


class Actor:
    """An actor: what each method answers, or raises; which were called."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"__ray_ready__": True, "start": 11112, "stop": None}
        self.called: list[str] = []
        self.killed: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any) -> Callable[[], Any]:
            self.called.append(name)
            return lambda: self.answers[name]

        return SimpleNamespace(remote=remote)


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    made = Actor()

    def get(reference: Callable[[], Any], timeout: float) -> Any:
        answer = reference()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(killed: Actor, *, no_restart: bool) -> None:
        killed.killed.append(no_restart)

    monkeypatch.setattr(module.ray, "get", get)
    monkeypatch.setattr(module.ray, "kill", kill)
    return made


def look(actor: Actor, times: int, service: Service | None = None) -> Service:
    service = service or Service("listener", actor, (0,))
    for _ in range(times):
        service.look_after()
    return service


def test_one_that_answers_is_told_to_start_each_time(actor: Actor) -> None:
    look(actor, 3)
    assert actor.called == ["__ray_ready__", "start"] * 3


def test_a_frozen_one_is_killed_for_ray_to_restart(actor: Actor) -> None:
    service = look(actor, 1)
    actor.answers["__ray_ready__"] = GetTimeoutError()
    look(actor, FROZEN_LOOKS - 1, service)
    assert actor.killed == []
    look(actor, 1, service)
    assert actor.killed == [False]
    # The next process has the time that a start takes.
    look(actor, STARTING_LOOKS - 1, service)
    assert actor.killed == [False]


def test_one_ping_waits_at_a_time(actor: Actor) -> None:
    service = look(actor, 1)
    actor.answers["__ray_ready__"] = GetTimeoutError()
    look(actor, 3, service)
    assert actor.called.count("__ray_ready__") == 2


def test_one_that_waits_for_the_master_is_not_frozen(actor: Actor) -> None:
    actor.answers["start"] = GetTimeoutError()
    look(actor, 2 * STARTING_LOOKS)
    assert actor.killed == []
    assert actor.called.count("start") == 1


@pytest.mark.parametrize(
    "error", [MasterUnavailable("away"), ActorUnavailableError("being restarted", None)]
)
def test_errors_are_tried_again(actor: Actor, error: Exception) -> None:
    actor.answers["start"] = error
    service = look(actor, 1)
    actor.answers["start"] = 11112
    look(actor, 1, service)
    assert actor.called.count("start") == 2


def test_stopping_does_not_wait_for_a_frozen_one(actor: Actor) -> None:
    actor.answers["__ray_ready__"] = GetTimeoutError()
    Service("listener", actor, (0,)).stop()
    assert actor.called == ["__ray_ready__"]
    assert actor.killed == [True]


def test_stopping_lets_one_that_works_finish(actor: Actor) -> None:
    Service("listener", actor, (0,)).stop()
    assert actor.called == ["__ray_ready__", "stop"]
    assert actor.killed == []
