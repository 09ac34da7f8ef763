"""Work items leased and finished a second, when the work itself is nothing."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks import arrivals
from benchmarks.figure import Figure, limit, repeat
from raypacs.policy.queue import State
from raypacs.records import Poll, WorkResult

NAME = "dispatch"
DESCRIPTION = "work items leased and finished per second with empty work, durable in SQLite"

TARGET_PER_S = 300.0
NODES = 4
SLOTS = 10
KIND = "VERIFY"


def run(quick: bool, count: int | None) -> list[Figure]:
    """Finish ``count`` items (default 4,000; quick 500), three times (quick once).

    Every item is leased in a poll and reported in a batch that is flushed to the disk; a batch is
    what one node finished at once, at most 8 (its slots for items of medium priority).
    """
    items = count or (500 if quick else 4000)
    runs = repeat(lambda: _finish(items, SLOTS), 1 if quick else 3)
    singly = repeat(lambda: _finish(items // 4, 1), 1 if quick else 3)
    return [
        limit("dispatch", "items/s", runs, at_least=TARGET_PER_S),
        limit("dispatch, one item a report", "items/s", singly, at_least=TARGET_PER_S),
    ]


def _finish(items: int, at_once: int) -> float:
    """Return items per second."""
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as folder:
        master = arrivals.master(Path(folder))
        nodes = [arrivals.node(number, kinds=(KIND,)) for number in range(NODES)]
        for node in nodes:
            master.node_seen(node)
        arrivals.register(master, range(items), time.time())
        for number in range(items):
            master.enqueue_item(KIND, arrivals.study_uid(number), who="benchmark")
        done = 0
        began = time.perf_counter()
        while done < items:
            before = done
            for node in nodes:
                leases = master.poll(Poll(node.name, node.boot, (KIND,), (), at_once)).leases
                states = master.report_many([(lease, WorkResult()) for lease in leases])
                done += sum(state is State.COMPLETED for state in states)
            if done == before:
                raise AssertionError(f"{items - done} items were given to nobody")
        seconds = time.perf_counter() - began
        master.close()
    return items / seconds
