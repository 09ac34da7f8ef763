"""A hundred thousand studies become due at once: how long that takes, and what stays in memory."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from benchmarks import arrivals
from benchmarks.figure import Figure, limit
from raypacs.records import Poll

NAME = "enqueue"
DESCRIPTION = "100,000 studies become work items; the master's memory is flat afterwards"

_COUNT, _COUNT_QUICK = 100_000, 5_000
_LIMIT_S = 120.0
_GROWTH_MIB = 16.0
# The master's life afterwards: ticks and polls over a backlog of all that waits.
_ROUNDS = 2_000
_NODES = 20


@dataclass(frozen=True)
class Measured:
    """What the child process saw; memory is its resident set."""

    seconds: float
    longest_s: float
    before_mib: float
    after_mib: float
    later_mib: float


def run(quick: bool, count: int | None) -> list[Figure]:
    """Make ``count`` items (default 100,000; quick 5,000) in a process of their own."""
    items = count or (_COUNT_QUICK if quick else _COUNT)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, items), daemon=True)
    process.start()
    theirs.close()
    found: Measured = ours.recv()
    process.join()
    return [
        limit(f"{items:,} items", "s", [found.seconds], at_most=_LIMIT_S),
        Figure("items per second", items / found.seconds, "items/s"),
        Figure("longest tick", found.longest_s, "s"),
        Figure("memory of the master before", found.before_mib, "MiB"),
        limit(
            f"memory grown by {items:,} items and {_ROUNDS:,} ticks",
            "MiB",
            [max(0.0, found.later_mib - found.before_mib)],
            at_most=4 * _GROWTH_MIB,
        ),
        limit(
            f"memory grown by {_ROUNDS:,} ticks afterwards",
            "MiB",
            [max(0.0, found.later_mib - found.after_mib)],
            at_most=_GROWTH_MIB,
        ),
    ]


def _child(answer: Connection, items: int) -> None:
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as folder:
        now = [time.time()]
        master = arrivals.master(Path(folder), clock=lambda: now[0])
        arrivals.register(master, range(items), now[0])
        now[0] += 3600.0
        before = _resident_mib()
        made, longest_s = 0, 0.0
        began = time.perf_counter()
        while made < items:
            tick_began = time.perf_counter()
            made += master.tick().enqueued
            longest_s = max(longest_s, time.perf_counter() - tick_began)
        seconds = time.perf_counter() - began
        after = _resident_mib()
        nodes = [arrivals.node(number) for number in range(_NODES)]
        for node in nodes:
            master.node_seen(node)
        for number in range(_ROUNDS):
            now[0] += 0.5
            node = nodes[number % _NODES]
            master.node_seen(node)
            master.poll(Poll(node.name, node.boot, node.kinds, (), 1))
            master.tick()
        answer.send(Measured(seconds, longest_s, before, after, _resident_mib()))
        master.close()


def _resident_mib() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20
