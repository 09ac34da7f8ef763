"""A day of a large site on a real master and index, with a thousand nodes that are simulated.

The clock is virtual: nodes beat, poll, work and report when they would, modalities send as a
hospital's day goes, some nodes die and come back. Each hour of the day is stood for by some minutes
at its own rate, so that shares are those of the day. What is measured is the
processor time of the master by kind of event, as a share of one core. Ray's own cost of a call is
not in it, nor the bytes.
"""

from __future__ import annotations

import heapq
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import arrivals
from benchmarks.figure import Figure, limit
from raypacs.master import Master
from raypacs.policy.queue import State
from raypacs.records import Lease, NodeInfo, Poll, WorkResult

NAME = "simulated-cluster"
DESCRIPTION = "the master under 1,000 simulated nodes and a day of 50,000 studies: where time goes"

_NODES, _NODES_QUICK = 1000, 100
# In a whole day.
_STUDIES, _STUDIES_QUICK = 50_000, 5_000
# Seconds that stand for an hour.
_HOUR_S, _HOUR_QUICK_S = 150.0, 60.0
_DEATHS, _DEATHS_QUICK = 20, 2
_INSTANCES = 20
_CORES = 4
_START_S = 1_767_225_600.0  # midnight
_BEAT_S, _TICK_S = 2.0, 0.5
# The master looks at every beat alike, so a tenth of them is made and counted ten times.
_BEATS_MADE = 10
_WORK_MEDIAN_S, _WORK_SIGMA = 20.0, 0.8
_AWAY_S = 600.0
_BUSY_SHARE = 0.5
# Studies that arrive in each hour of the day, in parts of the busiest hour's.
_PROFILE = (2, 2, 2, 2, 2, 3, 8, 30, 75, 95, 100, 98, 80, 85, 95, 90, 70, 45, 30, 20, 12, 8, 5, 3)


@dataclass
class _Node:
    info: NodeInfo
    alive: bool = True
    held: dict[str, Lease] = field(default_factory=dict)
    """By token."""


@dataclass
class _Spent:
    """Processor seconds and calls by kind of event."""

    seconds: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    longest_s: dict[str, float] = field(default_factory=dict)

    def measure(self, kind: str, call: Callable[[], Any], *, times: int = 1) -> Any:
        """Return the call's answer; it counts ``times``."""
        began = time.process_time()
        answer = call()
        took = time.process_time() - began
        self.seconds[kind] += took * times  # type: ignore[assignment]
        self.calls[kind] += times
        self.longest_s[kind] = max(took, self.longest_s.get(kind, 0.0))
        return answer


class _Cluster:
    """Events in the order of the virtual clock."""

    def __init__(self, folder: Path, nodes: int, hour_s: float, seed: int) -> None:
        self.now = _START_S
        self.end_s = _START_S + 24 * hour_s
        self._hour_s = hour_s
        self.spent = _Spent()
        self.master: Master = arrivals.master(folder, clock=lambda: self.now, chance=lambda: 0.5)
        self.waited_s: list[float] = []
        self.finished: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._arrived_s: dict[str, float] = {}
        self._nodes = [_Node(arrivals.node(number, cores=_CORES)) for number in range(nodes)]

    def run(self, studies: int, deaths: int) -> None:
        """Let the day pass, and then what is left be done."""
        for node in self._nodes:
            self._beat(node)
            self._at(self.now + self._chance.random() * 5, partial(self._poll, node))
        for number, at_s in enumerate(self._arrivals(studies)):
            self._at(at_s, partial(self._arrive, number))
        for _ in range(deaths):
            self._at(self._chance.uniform(self.now, self.end_s), self._kill)
        self._tick()
        self._until(self.end_s)
        give_up_s = self.end_s + 7200.0
        while sum(self.finished.values()) < studies and self.now < give_up_s:
            self._until(self.now + 60.0)

    def _until(self, end_s: float) -> None:
        while self._events and self._events[0][0] <= end_s:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = max(self.now, end_s)

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), event))

    def _arrivals(self, studies: int) -> list[float]:
        hours = self._chance.choices(range(24), _PROFILE, k=studies)
        return sorted(_START_S + (hour + self._chance.random()) * self._hour_s for hour in hours)

    # Events

    def _arrive(self, number: int) -> None:
        records = arrivals.study(number, _INSTANCES, self.now)
        self._arrived_s[arrivals.study_uid(number)] = self.now
        self.spent.measure("register", lambda: self.master.register(records))

    def _tick(self) -> None:
        made = self.spent.measure("tick", self.master.tick).enqueued
        if made:
            # Ticks that enqueue are told apart: the rest is what a quiet cluster costs.
            self.spent.calls["(items made by ticks)"] += made
        self._at(self.now + _TICK_S, self._tick)

    def _beat(self, node: _Node) -> None:
        if node.alive:
            call = partial(self.master.node_seen, node.info)
            self.spent.measure("node_seen", call, times=_BEATS_MADE)
            self._at(self.now + _BEAT_S * _BEATS_MADE, partial(self._beat, node))

    def _poll(self, node: _Node) -> None:
        if not node.alive:
            return
        after_s = self._ask(node)
        self._at(self.now + after_s, partial(self._poll, node))

    def _ask(self, node: _Node) -> float:
        running = tuple((lease.item_id, token) for token, lease in node.held.items())
        asked = Poll(
            node.info.name, node.info.boot, node.info.kinds, running, _CORES - len(running)
        )
        kind = "poll, busy node" if running else "poll, idle node"
        answer = self.spent.measure(kind, lambda: self.master.poll(asked))
        for token in answer.stop:
            node.held.pop(token, None)
        for lease in answer.leases:
            self.spent.calls["(leases given)"] += 1
            self.waited_s.append(self.now - self._arrived_s[lease.study_uid])
            node.held[lease.token] = lease
            takes_s = self._chance.lognormvariate(0.0, _WORK_SIGMA) * _WORK_MEDIAN_S
            self._at(self.now + takes_s, partial(self._done, node, lease))
        return float(answer.poll_after_s)

    def _done(self, node: _Node, lease: Lease) -> None:
        if not node.alive or node.held.get(lease.token) is not lease:
            return
        result: WorkResult = arrivals.prepared(lease, _INSTANCES, _WORK_MEDIAN_S)
        (state,) = self.spent.measure("report", lambda: self.master.report_many([(lease, result)]))
        del node.held[lease.token]
        if state is State.COMPLETED:
            self.finished[lease.study_uid] += 1
        self._ask(node)

    def _kill(self) -> None:
        """End a node, one that works if there is one; it comes back as another boot."""
        busy = [node for node in self._nodes if node.alive and node.held]
        node = self._chance.choice(busy or self._nodes)
        node.alive = False
        node.held.clear()
        self._at(self.now + _AWAY_S, partial(self._back, node))

    def _back(self, node: _Node) -> None:
        number = next(self._order)
        fresh = _Node(arrivals.node(number, cores=_CORES))
        self._nodes[self._nodes.index(node)] = fresh
        self._beat(fresh)
        self._poll(fresh)


def run(quick: bool, count: int | None) -> list[Figure]:
    """Simulate a day of ``count`` studies (50,000) and 1,000 nodes (quick: 5,000 and 100)."""
    nodes, hour_s, deaths = (
        (_NODES_QUICK, _HOUR_QUICK_S, _DEATHS_QUICK) if quick else (_NODES, _HOUR_S, _DEATHS)
    )
    whole = count or (_STUDIES_QUICK if quick else _STUDIES)
    studies = int(whole * hour_s / 3600.0)
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as folder:
        cluster = _Cluster(Path(folder), nodes, hour_s, seed=11)
        began = time.perf_counter()
        cluster.run(studies, deaths)
        took_s = time.perf_counter() - began
        counts = {
            state: number
            for states in cluster.master.status()["queue"].values()
            for state, number in states.items()
            if number
        }
        cluster.master.close()
    _check(cluster, studies, counts)
    return _figures(cluster, cluster.now - _START_S, took_s, (nodes, whole))


def _check(cluster: _Cluster, studies: int, counts: dict[str, int]) -> None:
    """Raise AssertionError unless every study was prepared, and none twice."""
    twice = [uid for uid, times in cluster.finished.items() if times > 1]
    if twice or len(cluster.finished) != studies or set(counts) - {"COMPLETED"}:
        raise AssertionError(
            f"{len(cluster.finished)} of {studies} prepared, {len(twice)} twice, left: {counts}"
        )


def _figures(cluster: _Cluster, day_s: float, took_s: float, size: tuple[int, int]) -> list[Figure]:
    spent = cluster.spent
    busy_s = sum(spent.seconds.values())
    waited = sorted(cluster.waited_s)
    return [
        limit(
            f"master, {size[0]:,} nodes and {size[1]:,} studies a day",
            "share of a core",
            [busy_s / day_s],
            at_most=_BUSY_SHARE,
        ),
        *_shares(spent, day_s),
        Figure("arrival to lease, median (quiet time included)", _at(waited, 0.5), "s"),
        Figure("arrival to lease, p99", _at(waited, 0.99), "s"),
        Figure("longest event", max(spent.longest_s.values()), "s"),
        Figure("virtual time per real time", day_s / took_s, "x"),
    ]


def _shares(spent: _Spent, day_s: float) -> list[Figure]:
    return [
        Figure(
            f"{kind}: {spent.calls[kind]:,} calls of {seconds / spent.calls[kind] * 1e3:.3f} ms, "
            f"longest {spent.longest_s[kind] * 1e3:.0f} ms",
            seconds / day_s,
            "share of a core",
        )
        for kind, seconds in spent.seconds.most_common()
    ]


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
