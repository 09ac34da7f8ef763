"""Eviction at a million studies: a step's time and memory, and a terabyte that goes meanwhile.

A step is the whole decision: a page of candidates with all facts, rules, proofs counted, intents
and story written, flushed to the disk. Each database runs in a process of its own, so that its
memory is its own.
"""

from __future__ import annotations

import math
import multiprocessing
import time
import tracemalloc
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import psutil

from benchmarks import _evict_site as site
from benchmarks import sites
from benchmarks.figure import Figure, limit
from raypacs.autopilot.staging import StagingRule
from raypacs.index.candidates import START
from raypacs.index.engine import open_engine
from raypacs.index.evict_step import Ask
from raypacs.index.writer import IndexWriter
from raypacs.master import Master
from raypacs.master.evicting import STUDIES_AT_ONCE
from raypacs.policy.levels import Level
from tests.postgres import postgres_server

NAME = "evict-plan"
DESCRIPTION = "eviction at 1,000,000 studies: a step's time and memory; 1 TB freed while receiving"

_COUNT, _COUNT_QUICK = 1_000_000, 10_000
_SMALL = 10_000
_STEPS, _STEPS_QUICK = 200, 40
_LIMIT_MS = 20.0
_TB = 10**12
_NEVER = (StagingRule(name="never", action="delete from cache", level="red", hours=596_523),)
_TICK_S = 0.5
_MOST_TICKS = 20_000


def run(quick: bool, count: int | None) -> list[Figure]:
    """Evict at ``count`` studies (default 1,000,000; quick 10,000)."""
    studies = count or (_COUNT_QUICK if quick else _COUNT)
    steps = _STEPS_QUICK if quick else _STEPS
    figures: list[Figure] = []
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server(sites.folder(), durable=True))
        for database in ("SQLite", "PostgreSQL"):
            found = {}
            for number in sorted({min(_SMALL, studies), studies}):
                url = (
                    site.sqlite_site(number)
                    if database == "SQLite"
                    else site.postgresql_site(server, number)
                )
                found[number] = _apart(url, number, steps, number == studies)
            figures += _figures(database, studies, found)
    return figures


def _figures(database: str, studies: int, found: dict[int, dict[str, Any]]) -> list[Figure]:
    told = found[studies]
    figures = []
    for name, (seconds, busy) in told["steps"].items():
        p99 = _p99_ms(seconds)
        p50 = sorted(seconds)[len(seconds) // 2] * 1000
        figures.append(Figure(f"{database}, {name}: p50 of a step", p50, "ms", n=len(seconds)))
        # On a machine that does other things: what the step itself took, without the database's.
        title = f"{database}, {name}: p99 of the master's processor time in a step"
        figures.append(Figure(title, _p99_ms(busy), "ms", n=len(busy)))
        title = f"{database}, {name}: p99 of a step"
        figures.append(limit(title, "ms", [p99], at_most=_LIMIT_MS))
    small = found[min(found)]
    title = f"{database}: peak of Python memory in steps, beside {min(found):,} studies"
    figures.append(limit(title, "KiB", [told["peak_kib"]], at_most=1.25 * small["peak_kib"] + 64))
    grown = max(0.0, told["grown_mib"])
    # On SQLite its page cache fills, of 32 MiB, whatever the number of studies.
    figures.append(limit(f"{database}: memory grown by all steps", "MiB", [grown], at_most=48.0))
    terabyte = told["terabyte"]
    for name, value, unit in (
        ("seconds of ticks until 1 TB was on its way", terabyte["decided_ticks"] * _TICK_S, "s"),
        ("of these the master decided", terabyte["decided_s"], "s"),
        ("ticks to delete it, each 0.5 s apart", terabyte["deleted_ticks"] * _TICK_S, "s"),
        ("freed", terabyte["freed"] / _TB, "TB"),
    ):
        figures.append(Figure(f"{database}, 1 TB: {name}", value, unit))
    for name, seconds, most_s in (
        ("longest decision in a tick", terabyte["longest_s"], 0.1),
        ("longest deletion in a tick", terabyte["longest_delete_s"], 0.4),
        ("longest registration between", terabyte["register_s"], 0.1),
    ):
        figures.append(
            limit(f"{database}, 1 TB: {name}", "ms", [seconds * 1000], at_most=most_s * 1000)
        )
    return figures


def _p99_ms(seconds: list[float]) -> float:
    """Return the 99th percentile by nearest rank, in milliseconds."""
    return sorted(seconds)[math.ceil(len(seconds) * 0.99) - 1] * 1000


def _apart(url: str, studies: int, steps: int, whole: bool) -> dict[str, Any]:
    """Measure in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, url, studies, steps, whole), daemon=True)
    process.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        raise RuntimeError("the process that evicts died") from None
    finally:
        process.join()
    return found


def _child(answer: Connection, url: str, studies: int, steps: int, whole: bool) -> None:
    folder = site.tiers_folder(url, studies)
    now = time.time()
    clock = [now]
    master = Master(url, folder, clock=lambda: clock[0], tier_opener=site.QuickTier)
    found = _steps(master, folder, steps, clock[0])
    if whole:
        found["terabyte"] = _terabyte(
            master, url, clock, min(_TB, studies // 64 * site.STUDY_BYTES)
        )
    master.close()
    answer.send(found)


def _steps(master: Master, folder: Any, steps: int, now: float) -> dict[str, Any]:
    """Time single steps: where nothing is held, where the older half is, and where none match."""
    writer: IndexWriter = master._writer
    found: dict[str, tuple[list[float], list[float]]] = {}
    few = min(steps, 100)
    for tier in ("image1", "image2"):
        _walk(writer, tier, 2, now)  # warm
    before = _resident_mib()
    for name, tier, count in (
        ("nothing held", "image1", few),
        ("older half unarchived or pinned", "image2", few),
    ):
        found[name] = _walk(writer, tier, count, now)
    master.apply_settings(site.settings(folder, staging=_NEVER), "bench")
    found["no rule matches"] = _walk(writer, "image1", steps, now)
    master.apply_settings(site.settings(folder), "bench")
    after = _resident_mib()
    tracemalloc.start()
    _walk(writer, "image2", 10, now)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"steps": found, "peak_kib": peak / 1024, "grown_mib": after - before}


def _walk(
    writer: IndexWriter, tier: str, count: int, now: float
) -> tuple[list[float], list[float]]:
    """Take steps; return the seconds of each, by the clock and of this process."""
    after, seconds, busy = START, [], []
    gone: list[str] = []
    for _ in range(count):
        began, cpu = time.perf_counter(), time.process_time()
        step = writer.evict_step(Ask(tier, Level.RED, 10**15, after, STUDIES_AT_ONCE), now)
        busy.append(time.process_time() - cpu)
        seconds.append(time.perf_counter() - began)
        after = step.after or START
        gone += [choice.candidate.study_uid for choice in step.choices]
    for uid in gone:  # the site is to be the same for what follows
        writer.take_back(uid, "bench", now)
    return seconds, busy


def _terabyte(master: Master, url: str, clock: list[float], need: int) -> dict[str, Any]:
    """Free a terabyte by the master's own ticks, registering between them."""
    engine = open_engine(url)
    site.set_level(engine, "image2", need, clock[0])
    decided: list[float] = []
    registered: list[float] = []

    def between() -> None:
        began = time.perf_counter()
        master.register(site.arriving(len(registered), clock[0]))
        registered.append(time.perf_counter() - began)

    while any(any(need.by_level.values()) for need in master._reader.needs()):
        if len(decided) > _MOST_TICKS:
            raise RuntimeError("what may leave is less than what is needed")
        clock[0] += _TICK_S
        began = time.perf_counter()
        master._evict_due(clock[0])
        decided.append(time.perf_counter() - began)
        between()
    deleted: list[float] = []
    site.QuickTier.deleted = 0
    clock[0] += 100.0
    before = master._reader.ledger()["image2"].used_bytes
    while master._reader.listed_due("image2", clock[0], 1):
        clock[0] += _TICK_S
        began = time.perf_counter()
        master._delete_due(clock[0])
        deleted.append(time.perf_counter() - began)
        between()
    engine.dispose()
    return {
        "decided_ticks": len(decided),
        "decided_s": sum(decided),
        "longest_s": max(decided),
        "deleted_ticks": len(deleted),
        "longest_delete_s": max(deleted),
        "register_s": max(registered),
        "freed": before - master._reader.ledger()["image2"].used_bytes,
        "objects": site.QuickTier.deleted,
    }


def _resident_mib() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20
