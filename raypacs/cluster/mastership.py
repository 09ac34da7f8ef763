"""Keeping exactly one master: created, watched, replaced when frozen, moved, closed.

Done by the node processes of role master, which are drivers: a detached actor can die with an
actor that created it (RAY.md 3). Ray restarts a master whose process or node died; one that is
frozen, or stuck in one event, it knows nothing of, so each of these nodes pings it. Several may
decide the same: they kill the actor that they saw so, by its handle, and create one by its name,
which exists once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypacs.cluster.master import NAME, NAMESPACE, PING_GROUP, MasterActor, master_resource
from raypacs.config import Bootstrap
from raypacs.errors import MasterUnavailable, RaypacsError, TierUnavailable
from raypacs.index.engine import is_behind

_log = logging.getLogger("raypacs.cluster.mastership")

WATCH_EVERY_S = 1.0
PING_S = 3.0
FROZEN_S = 9.0
STUCK_S = 120.0
"""How long one event may take: tiers and the index have time limits of their own, far below."""
STARTING_S = 120.0
"""A new master may have a frozen one's lock to wait for."""
READY_S = 120.0
MIGRATING_S = 3600.0
"""How long it may take to start while the schema is an earlier one: to be killed in the middle of
its migration, which is one transaction, only means to begin again. A million studies take 30 s."""
CLOSE_S = 10.0
NAMED_S = 10.0
TAKES = 3
_AWAY = (RayError, ValueError, ConnectionError)
_HEAD = "node:__internal_head__"
"""Ray gives this resource to its head."""
_PASSES = (MasterUnavailable, TierUnavailable)
"""Why a master cannot start just now, and may soon: the index or a tier does not answer."""


class Mastership:
    """This node's part in keeping the master."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        self._bootstrap = bootstrap
        self._actor: Any = None
        self._leaving = threading.Event()
        self._answered_s = 0.0
        self._patience_s = STARTING_S

    def ensure(self, *, here: bool = False) -> None:
        """Create the master unless there is one (``here``: on this node); wait until it answers.

        Raises:
            MasterUnavailable: it did not come up.
            RaypacsError: why it cannot.
        """
        began_s = time.monotonic()
        while True:
            try:
                actor = self._create(here=here)
                ray.get(actor.start.remote(), timeout=READY_S)
                return
            except RayTaskError as exc:
                ray.kill(actor, no_restart=True)
                cause = _cause(exc)
                if not isinstance(cause, _PASSES) or self._is_late(began_s, READY_S):
                    raise cause from None
                time.sleep(0.5)
            except _AWAY as exc:  # an earlier one is just ending, or this one was killed
                if self._is_late(began_s, READY_S):
                    raise MasterUnavailable(f"the master does not come up: {exc}") from exc
                time.sleep(0.5)

    def keep(self) -> None:
        """Watch in a thread of its own until this node leaves."""
        threading.Thread(target=self._watch_for_ever, name="mastership", daemon=True).start()

    def _watch_for_ever(self) -> None:
        while not self._leaving.wait(WATCH_EVERY_S):
            try:
                self.watch()
            except (RayError, RuntimeError, OSError) as exc:  # Ray's head may be restarting
                _log.warning("the master is not watched", extra={"why": str(exc)[:500]})

    def watch(self) -> None:
        """Create the master where there is none; replace it where it gives no sign of life."""
        now = time.monotonic()
        try:
            actor = ray.get_actor(NAME, namespace=NAMESPACE)
        except _AWAY:
            self._create()
            return
        if self._actor is None or actor._actor_id != self._actor._actor_id:
            self._actor, self._answered_s, self._patience_s = actor, now, STARTING_S
        try:
            answer: Any = ray.get(actor.ping.remote(), timeout=PING_S)
            self._answered_s, self._patience_s = time.monotonic(), FROZEN_S
            if answer["busy_s"] > STUCK_S:
                _log.error("the master is stuck, replacing it", extra={"busy_s": answer["busy_s"]})
                self._replace(actor)
            elif answer["failed"]:
                _log.error("no master started", extra={"why": answer["failed"]})
                self._replace(actor)
        except ray.exceptions.GetTimeoutError:
            if self._is_late(self._answered_s, self._patience_s):
                _log.error("the master is frozen, replacing it")
                self._replace(actor)
        except RayError:  # being restarted by Ray
            self._answered_s, self._patience_s = now, STARTING_S

    def _is_late(self, since_s: float, patience_s: float) -> bool:
        """Whether it took longer than patience goes; further for one that migrates the schema."""
        passed_s = time.monotonic() - since_s
        if passed_s <= patience_s:
            return False
        return passed_s > MIGRATING_S or not is_behind(self._bootstrap.database_url)

    def take(self) -> None:
        """Become the master's node: close the one there is, create it here.

        Another node may find that there is none and be faster: then once more.
        """
        for _ in range(TAKES):
            try:
                actor = ray.get_actor(NAME, namespace=NAMESPACE)
                if self._is_here(actor):
                    return
                _close(actor)
                self._replace(actor, here=True)
                self.ensure(here=True)
            except _AWAY as exc:
                _log.warning("no master to take over from", extra={"why": str(exc)[:500]})
                self.ensure(here=True)

    def leave(self) -> None:
        """Close the master if it runs on this node, which goes down; others create it again."""
        self._leaving.set()
        try:
            actor = ray.get_actor(NAME, namespace=NAMESPACE)
            if self._is_here(actor):
                _close(actor)
                ray.kill(actor, no_restart=True)
                _log.info("stopped", extra={"service": "master"})
        except _AWAY as exc:
            _log.warning("no master to close", extra={"why": str(exc)[:500]})

    def _is_here(self, actor: Any) -> bool:
        where: Any = ray.get(actor.where.remote(), timeout=CLOSE_S)
        return bool(where["ray_node_id"] == ray.get_runtime_context().get_node_id())

    def _replace(self, actor: Any, *, here: bool = False) -> None:
        """Kill the actor, and create the next one as soon as its name is free."""
        ray.kill(actor, no_restart=True)
        deadline = time.monotonic() + NAMED_S
        while time.monotonic() < deadline:
            try:
                if ray.get_actor(NAME, namespace=NAMESPACE)._actor_id != actor._actor_id:
                    return  # another node was faster
            except _AWAY:
                break
            time.sleep(0.02)
        self._create(here=here)

    def _create(self, *, here: bool = False) -> Any:
        """Return the master's actor, a new one if there is none: ``here``, or in the best place."""
        own = ray.get_runtime_context().get_node_id()
        place = own if here else best_place(ray.nodes(), master_resource(self._bootstrap), own)
        return (
            # Ray's stubs do not know the option.
            ray.remote(concurrency_groups={PING_GROUP: 2})(MasterActor)  # type: ignore[call-overload]
            .options(
                name=NAME,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                resources={master_resource(self._bootstrap): 1},
                scheduling_strategy=NodeAffinitySchedulingStrategy(place, soft=True),
                max_restarts=-1,
                max_concurrency=100,
            )
            .remote(self._bootstrap.model_dump(mode="json"))
        )


def best_place(nodes: Iterable[Mapping[str, Any]], resource: str, own: str) -> str:
    """Return Ray's id of the node that is to have the master: one that is not Ray's head, if any.

    Where the head dies with the master on it, nobody can create another before the head is back.
    ``nodes`` are those of `ray.nodes()`, ``resource`` is what nodes of role master have; ``own``
    comes first, if it is as good as another.
    """
    able = [
        node["NodeID"]
        for node in nodes
        if node["Alive"] and resource in node["Resources"] and _HEAD not in node["Resources"]
    ]
    return own if own in able or not able else min(able)


def _close(actor: Any) -> None:
    try:
        ray.get(actor.close.remote(), timeout=CLOSE_S)
    except RayError as exc:  # frozen or dying: its epoch ends with the next one's claim
        _log.warning("the master did not close", extra={"why": str(exc)[:500]})


def _cause(exc: RayTaskError) -> BaseException:
    cause = exc.cause
    return cause if isinstance(cause, RaypacsError) else exc
