"""The dispatcher of a node: leases work as its cores come free and runs it as stateless Ray tasks.

It owns its tasks, so a take-over of the master does not end them; it renews leases while they run
and reports with the lease it was given. A stale lease means that somebody else owns the item now:
the tasks are cancelled and what this attempt wrote is removed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, WorkerCrashedError

from raypacs import logs
from raypacs.cluster.lease_keeper import LeaseKeeper
from raypacs.cluster.master import MasterHandle
from raypacs.cluster.tasks import TaskFailure, prepare_chunk, publish_series, warm_up
from raypacs.config import Bootstrap, CompressionRule, Settings
from raypacs.errors import ConfigError, MasterUnavailable, RaypacsError, StaleLease
from raypacs.index.reader import IndexReader
from raypacs.records import Lease, PreparedSeries, StoredInstance, WorkResult
from raypacs.work import prepare

_log = logging.getLogger("raypacs.cluster.dispatcher")
IDLE_S = 0.2
CRASHES_BEFORE_COPY = 2
RENEWALS = 3  # in the time of one lease
FULL_FOR_S = 120.0  # how long a tier that refused a write is passed over if another has room


class Dispatcher:
    """Actor: one per worker node; a thread leases, a thread per item runs it."""

    def __init__(self, bootstrap: dict[str, Any]) -> None:
        self._bootstrap = Bootstrap.model_validate(bootstrap)
        logs.setup("dispatcher", self._bootstrap)
        self._master = MasterHandle()
        self._reader = IndexReader(self._bootstrap.database_url)
        self._cores = self._bootstrap.cores or os.cpu_count() or 1
        self._stopping = threading.Event()
        self._running: dict[int, threading.Thread] = {}
        self._lock = threading.Lock()
        self._full_until: dict[str, float] = {}  # web tier: time.monotonic()
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Warm up one worker per core, begin to lease, again if that ended; return the pid."""
        if self._thread is None or not self._thread.is_alive():
            self._warm_up()
            self._thread = threading.Thread(target=self._lease_for_ever, daemon=True)
            self._thread.start()
        return os.getpid()

    def _warm_up(self) -> None:
        plain = self._bootstrap.model_dump(mode="json")
        ray.get([warm_up.remote(plain) for _ in range(self._cores)])

    def stop(self, timeout_s: float = 30.0) -> int:
        """Take nothing new, wait for what runs (then leave it to its lease); return what is left.

        What is unfinished when the node goes down is done again by its expired lease.
        """
        self._stopping.set()
        deadline = time.monotonic() + timeout_s
        for thread in list(self._running.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in self._running.values())

    def _lease_for_ever(self) -> None:
        while not self._stopping.is_set():
            try:
                leased = self._lease_once()
            except (RaypacsError, RayError, OSError) as exc:
                _log.warning("no lease", extra={"why": str(exc)})
                leased = False
            if not leased:
                self._stopping.wait(IDLE_S)

    def _lease_once(self) -> bool:
        with self._lock:
            free = self._cores - len(self._running)
        if free <= 0:
            return False
        leases: list[Lease] = self._master.call("lease", self._bootstrap.name, ("PREPARE",), free)
        for lease in leases:
            thread = threading.Thread(target=self._run, args=(lease,), daemon=True)
            with self._lock:
                self._running[lease.item_id] = thread
            thread.start()
        return bool(leases)

    def _run(self, lease: Lease) -> None:
        try:
            _, settings = self._master.call("settings")
            unprepared = self._reader.unprepared(lease.study_uid)
            need_bytes = sum(stored.record.size_bytes for stored in unprepared)
            context = prepare.make_context(
                settings, lease, available_bytes=self._room(), need_bytes=need_bytes
            )
            item = PrepareItem(lease, settings, context, self._master, self._cores)
            result = item.run(unprepared, self._stopping)
            if result is not None and result.waits:
                self._full_until[context.web.name] = time.monotonic() + FULL_FOR_S
        except ConfigError as exc:
            self._wait(lease, f"waits for a tier: {exc}")
        except (MasterUnavailable, StaleLease) as exc:
            # The lease runs out, or is another's already; nothing of this attempt counts.
            _log.error("item lost", extra={"item": lease.item_id, "why": str(exc)})
        except (RaypacsError, RayError, OSError) as exc:
            self._failed(lease, f"{type(exc).__name__}: {exc}")
        finally:
            with self._lock:
                self._running.pop(lease.item_id, None)

    def _failed(self, lease: Lease, error: str) -> None:
        """Report an attempt that broke off, so that it counts as one of the tries."""
        _log.error("item failed", extra={"item": lease.item_id, "why": error})
        try:
            self._master.call("report", lease, WorkResult(error=error))
        except (RaypacsError, RayError) as exc:
            _log.error("item lost", extra={"item": lease.item_id, "why": str(exc)})

    def _room(self) -> dict[str, int]:
        """Return the bytes left on each tier that can be reached and did not just refuse."""
        now = time.monotonic()
        return {
            name: row.available_bytes
            for name, row in self._reader.ledger().items()
            if row.reachable and self._full_until.get(name, 0.0) <= now
        }

    def _wait(self, lease: Lease, why: str) -> None:
        try:
            self._master.call("report", lease, WorkResult(error=why, waits=True))
        except (RaypacsError, RayError) as exc:
            _log.error("item lost", extra={"item": lease.item_id, "why": str(exc)})


class PrepareItem:
    """One leased PREPARE: chunks of all its series as tasks, a window of them at a time."""

    def __init__(
        self,
        lease: Lease,
        settings: Settings,
        context: prepare.PrepareContext,
        master: MasterHandle,
        cores: int,
    ) -> None:
        self._lease, self._settings = lease, settings
        self._context, self._master = context, master
        self._window = 2 * cores
        self._refs: dict[Any, tuple[str, int]] = {}
        self._chunks_out: dict[tuple[str, int], tuple[Any, int]] = {}  # chunk, crashes so far

    def run(self, unprepared: list[StoredInstance], stopping: threading.Event) -> WorkResult | None:
        """Prepare what is not prepared yet, publish a pack per series, report.

        Returns:
            What was reported; None where the node stopped or the lease was lost.
        """
        result = None
        try:
            with LeaseKeeper(self._lease, self._renew, self._settings.lease_s / RENEWALS) as keeper:
                result = self._prepare(unprepared, stopping, keeper)
                if result is not None:
                    self._master.call("report", self._lease, result)
            if result is not None:
                prepare.abandon(self._context)  # parts are no longer needed
        except StaleLease as exc:
            _log.warning("lease lost", extra={"item": self._lease.item_id})
            self._cancel()
            prepare.abandon(self._context, published=True)
            del exc
            return None
        return result

    def _prepare(
        self, unprepared: list[StoredInstance], stopping: threading.Event, keeper: LeaseKeeper
    ) -> WorkResult | None:
        by_series: dict[str, list[StoredInstance]] = {}
        for stored in unprepared:
            by_series.setdefault(stored.record.series_uid, []).append(stored)
        todo = deque(self._chunks(by_series))
        missing = Counter(series for series, _, _ in todo)
        parts: dict[str, list[Any]] = {series: [None] * n for series, n in missing.items()}
        done: list[PreparedSeries] = []
        while todo or self._refs:
            if stopping.is_set() and not self._refs:
                return None
            while todo and len(self._refs) < self._window and not stopping.is_set():
                series, number, chunk = todo.popleft()
                self._submit(series, number, chunk, 0)
            for series, number, value in self._finished():
                if isinstance(value, TaskFailure):
                    if value.crashed and self._again_after_crash(series, number):
                        continue
                    done += self._cancel()
                    return WorkResult(tuple(done), value.error, value.retryable, value.waits)
                if number < 0:
                    done.append(value)
                    continue
                parts[series][number] = value
                missing[series] -= 1
                if not missing[series]:
                    self._refs[publish_series.remote(parts.pop(series), self._context)] = (
                        series,
                        -1,
                    )
            keeper.check()
        return WorkResult(packs=tuple(done))

    def _chunks(self, by_series: dict[str, list[StoredInstance]]) -> Iterator[tuple[str, int, Any]]:
        for series, instances in by_series.items():
            for number, chunk in enumerate(
                prepare.plan_chunks(
                    instances,
                    self._settings.chunk_bytes,
                    compression=self._settings.compression,
                    workers=self._window // 2,
                )
            ):
                yield series, number, chunk

    def _submit(self, series: str, number: int, chunk: Any, crashes: int) -> None:
        context = self._context
        if crashes >= CRASHES_BEFORE_COPY:
            copy = CompressionRule(name="a decoder crashed on it or its neighbours", action="copy")
            context = replace(context, compression=(copy,))
        self._chunks_out[series, number] = (chunk, crashes)
        self._refs[prepare_chunk.remote(chunk, context)] = (series, number)

    def _again_after_crash(self, series: str, number: int) -> bool:
        """Submit a chunk whose worker died again; the last time as received, without a decoder.

        A worker may have been killed from outside; a decoder that crashes on damaged data will do
        it again, and must cost its chunk the wavelet form, not the study its preparation.
        """
        chunk, crashes = self._chunks_out.get((series, number), (None, CRASHES_BEFORE_COPY))
        if chunk is None or crashes >= CRASHES_BEFORE_COPY:
            return False
        _log.warning("worker died", extra={"series": series, "chunk": number})
        self._submit(series, number, chunk, crashes + 1)
        return True

    def _finished(self) -> Iterator[tuple[str, int, Any]]:
        ready, _ = ray.wait(list(self._refs), num_returns=1, timeout=1.0)
        for ref in ready:
            series, number = self._refs.pop(ref)
            try:
                value = ray.get(ref)
            except RayError as exc:  # a killed worker, out of memory: another try can help
                crashed = isinstance(exc, WorkerCrashedError)
                value = TaskFailure(f"{type(exc).__name__}: {exc}", True, crashed)
            yield series, number, value

    def _renew(self, lease: Lease) -> Lease:
        renewed: Lease = self._master.call("renew", lease)
        return renewed

    def _cancel(self) -> list[PreparedSeries]:
        """Cancel what runs; return what was published all the same, so that it counts."""
        for ref in self._refs:
            ray.cancel(ref, force=False)
        # Nothing may write into the attempt's folder after it is removed.
        refs = list(self._refs)
        ended, _ = ray.wait(refs, num_returns=len(refs), timeout=60) if refs else ([], [])
        published = []
        for ref in ended:
            try:
                value = ray.get(ref)
            except RayError:  # cancelled, or its worker died
                continue
            if isinstance(value, PreparedSeries):
                published.append(value)
        self._refs.clear()
        return published
