"""The master's actor: why it cannot start reaches who asks; how long a call may take; its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import sqlalchemy as sa
from ray.exceptions import GetTimeoutError, RayTaskError

from raypacs import logs
from raypacs.cluster import master as module
from raypacs.cluster.master import MasterActor, MasterHandle
from raypacs.cluster.mastership import Mastership, best_place
from raypacs.config import Bootstrap
from raypacs.errors import ConfigError, IndexUnavailable, MasterUnavailable
from raypacs.index.engine import migrate, open_engine
from raypacs.index.schema import meta


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bootstrap:
    """A node's bootstrap; logging stays as it is."""
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    return Bootstrap(data_dir=tmp_path, node_name="n1")


class TestStart:
    def test_the_reason_travels_as_itself(self, bootstrap: Bootstrap) -> None:
        engine = open_engine(bootstrap.database_url)
        migrate(engine)
        row = {"name": "moved_to", "number": 1, "value": "postgresql://db", "at_s": 0.0}
        with engine.begin() as conn:
            conn.execute(sa.insert(meta).values(row))
        engine.dispose()
        actor = MasterActor(bootstrap.model_dump(mode="json"))
        with pytest.raises(ConfigError, match="moved"):
            asyncio.run(actor.start())
        with pytest.raises(MasterUnavailable, match="moved"):
            asyncio.run(actor.event("settings"))
        assert "moved" in asyncio.run(actor.ping())["failed"]
        asyncio.run(actor.close())


class Rays:
    """Stands in for Ray: a master whose answers are given one by one, and a clock."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.timeouts: list[float] = []
        self.killed = 0
        self.now_s = 0.0
        remote = SimpleNamespace(remote=lambda *_, **__: None)
        self.actor = SimpleNamespace(event=remote, start=remote, _actor_id="a")

    def get(self, _: Any, timeout: float) -> Any:
        self.timeouts.append(timeout)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, GetTimeoutError):
            self.now_s += timeout
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, _: Any, **__: Any) -> None:
        self.killed += 1

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    @property
    def time(self) -> SimpleNamespace:
        return SimpleNamespace(monotonic=lambda: self.now_s, sleep=self.sleep)


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rays]:
    def stand_in(*answers: Any) -> Rays:
        made = Rays(list(answers))
        monkeypatch.setattr(ray, "get_actor", lambda *_, **__: made.actor)
        monkeypatch.setattr(ray, "get", made.get)
        monkeypatch.setattr(ray, "kill", made.kill)
        monkeypatch.setattr(module, "time", made.time)
        monkeypatch.setattr("raypacs.cluster.mastership.time", made.time)
        return made

    return stand_in


def raised(cause: Exception) -> RayTaskError:
    return RayTaskError("event", "traceback", cause)


class TestCalls:
    def test_no_call_outlasts_its_bound(self, rays: Callable[..., Rays]) -> None:
        made = rays(GetTimeoutError("no answer"))
        with pytest.raises(MasterUnavailable):
            MasterHandle().call("status")
        assert made.timeouts[0] == module.CALL_TIMEOUT_S
        assert made.now_s <= module.RETRY_FOR_S + 1

    def test_a_master_that_cannot_start_is_asked_again(self, rays: Callable[..., Rays]) -> None:
        rays(raised(MasterUnavailable("the master cannot start")), 5)
        assert MasterHandle().call("status") == 5

    def test_but_not_for_ever(self, rays: Callable[..., Rays]) -> None:
        made = rays(raised(MasterUnavailable("the master cannot start")))
        with pytest.raises(MasterUnavailable, match="cannot start"):
            MasterHandle().call("status")
        assert made.now_s <= module.RETRY_FOR_S

    def test_an_index_that_is_away_is_told_at_once(self, rays: Callable[..., Rays]) -> None:
        made = rays(raised(IndexUnavailable("disk full")))
        with pytest.raises(IndexUnavailable):
            MasterHandle().call("status")
        assert made.now_s == 0


class TestEnsure:
    @pytest.fixture
    def keeper(self, bootstrap: Bootstrap, monkeypatch: pytest.MonkeyPatch) -> Mastership:
        made = Mastership(bootstrap)
        monkeypatch.setattr(made, "_create", lambda *, here=False: ray.get_actor("it"))
        return made

    def test_a_wrong_configuration_ends_it_at_once(
        self, rays: Callable[..., Rays], keeper: Mastership
    ) -> None:
        made = rays(raised(ConfigError("this index was moved")))
        with pytest.raises(ConfigError, match="moved"):
            keeper.ensure()
        assert (made.now_s, made.killed) == (0, 1)

    def test_a_database_that_starts_later_is_waited_for(
        self, rays: Callable[..., Rays], keeper: Mastership
    ) -> None:
        away = raised(IndexUnavailable("no connection"))
        made = rays(away, away, 4711)
        keeper.ensure()
        assert made.killed == 2


def node(name: str, *resources: str, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": dict.fromkeys(resources, 1.0)}


HEAD, ABLE = "node:__internal_head__", "raypacs_master_abc"


class TestPlace:
    def test_a_head_alone_has_it_itself(self) -> None:
        assert best_place([node("h", HEAD, ABLE), node("w", "CPU")], ABLE, "h") == "h"

    def test_another_node_of_role_master_is_better_than_the_head(self) -> None:
        nodes = [node("h", HEAD, ABLE), node("b", ABLE), node("a", ABLE, alive=False)]
        assert best_place(nodes, ABLE, "h") == "b"

    def test_own_comes_first_among_equals(self) -> None:
        nodes = [node("h", HEAD, ABLE), node("a", ABLE), node("b", ABLE)]
        assert best_place(nodes, ABLE, "b") == "b"
