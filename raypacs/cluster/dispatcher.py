"""The dispatcher of a node: polls the master for work and runs it as stateless Ray tasks.

It owns its tasks, so a take-over of the master does not end them. Each poll renews the leases it
holds, tells what it could run more, and hears what to begin and what to stop. It is made as soon
as an item ends, and else as often as the master says. A lease that was not renewed in time is as
good as lost: the work ends, and what the attempt wrote is removed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from raypacs import logs
from raypacs.cluster.item import LeasedItem
from raypacs.cluster.master import MasterHandle
from raypacs.cluster.pool import TASKS_PER_CORE, TaskPool
from raypacs.cluster.reporter import Reporter
from raypacs.cluster.rooms import Rooms
from raypacs.cluster.tasks import RayTasks, guarded, warm_up
from raypacs.config import Bootstrap, Settings
from raypacs.errors import MasterUnavailable, NotFound, RaypacsError, StaleLease
from raypacs.index.sealed_reader import SealedReader
from raypacs.policy.archiving import BY_ITSELF
from raypacs.records import Assignment, Lease, Poll
from raypacs.storage.manifest import Manifests
from raypacs.work.kinds import RUNS
from raypacs.work.run import Archives, Libraries, Moves, Relocation, Run, Site, TaskFailure
from raypacs.work.source import find_tier

_log = logging.getLogger("raypacs.cluster.dispatcher")
AGAIN_S = 0.5  # after a poll that failed
RENEWALS = 3  # in the time of one lease
FINISH_S = 5.0  # for what runs when the node goes down; then it is ended


class Dispatcher:
    """Actor: one per worker node. A thread polls, a thread an item works on it."""

    def __init__(self, bootstrap: dict[str, Any], boot: str) -> None:
        self._bootstrap = Bootstrap.model_validate(bootstrap)
        logs.setup("dispatcher", self._bootstrap)
        self._boot = boot
        self._master = MasterHandle()
        # The settings of the moment: tiers may be added while manifests are read.
        manifests = Manifests(lambda name: find_tier(self._settings.tiers, name))
        self._reader = SealedReader(self._bootstrap.database_url, manifests.rows)
        self._rooms = Rooms(self._reader.ledger)
        self._cores = self._bootstrap.cores or os.cpu_count() or 1
        self._reporter = Reporter(lambda event, *args: self._master.call(event, *args))
        self._settings = Settings()
        self._pool: TaskPool
        self._items: dict[str, LeasedItem] = {}  # by token
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._draining = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Warm up one worker per core, begin to poll, again if that ended; return the pid."""
        if self._thread is None:
            self._warm_up()
            self._pool = self._make_pool()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._poll_for_ever, daemon=True, name="polls")
            self._thread.start()
        return os.getpid()

    def _warm_up(self) -> None:
        plain = self._bootstrap.model_dump(mode="json")
        ray.get([warm_up.remote(plain) for _ in range(self._cores)])

    def _make_pool(self) -> TaskPool:
        return TaskPool(RayTasks(), TASKS_PER_CORE * self._cores)

    def stop(self, timeout_s: float = 30.0) -> int:
        """Take nothing new, let what runs finish for a moment, end the rest; return what is left.

        What is ended, or left, is done again when its lease ends.
        """
        self._draining.set()
        deadline = time.monotonic() + timeout_s
        self._until_idle(min(deadline, time.monotonic() + FINISH_S))
        for item in self._running():
            item.stop("the node goes down")
        left = self._until_idle(deadline)
        self._ended.set()
        self._wake.set()
        return left

    def _until_idle(self, deadline: float) -> int:
        while (left := len(self._running())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def _running(self) -> list[LeasedItem]:
        with self._lock:
            return list(self._items.values())

    # Polling

    def _poll_for_ever(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            try:
                pause_s = self._poll_once()
            except (RaypacsError, RayError, OSError) as exc:
                _log.warning("no answer to a poll", extra={"why": str(exc)})
                pause_s = AGAIN_S
                self._ended.wait(pause_s)
            self._wake.wait(pause_s)

    def _poll_once(self) -> float:
        """Poll, obey; return the seconds after which to poll again."""
        _, self._settings = self._reader.settings()
        running = self._running()
        # High and stat PREPARE may exceed the cores by the slots that are kept for them.
        kept = self._settings.reserved_slots
        most = self._cores + kept + self._settings.node_concurrency
        asked_s = time.monotonic()
        answer: Assignment = self._master.call(
            "poll",
            Poll(
                node=self._bootstrap.name,
                boot=self._boot,
                kinds=tuple(RUNS),
                running=tuple((item.lease.item_id, item.lease.token) for item in running),
                free=0 if self._draining.is_set() else max(0, most - len(running)),
            ),
        )
        self._obey(answer, asked_s + self._settings.lease_s)
        return min(answer.poll_after_s, self._settings.lease_s / RENEWALS)

    def _obey(self, answer: Assignment, good_until: float) -> None:
        with self._lock:
            for token, expires_at_s, priority in answer.renewed:
                if token in self._items:
                    self._items[token].renewed(expires_at_s, good_until)
                    self._items[token].prioritise(priority)
            for token in answer.stop:
                if token in self._items:
                    self._items[token].stop("the master says so")
        if self._draining.is_set():
            return  # leases that came too late are given to others when this node has left
        for lease in answer.leases:
            self._begin(lease, good_until)

    def _begin(self, lease: Lease, good_until: float) -> None:
        item = LeasedItem(lease, self._pool, good_until)
        with self._lock:
            self._items[lease.token] = item
        name = f"item {lease.item_id}"
        threading.Thread(target=self._work, args=(item,), daemon=True, name=name).start()

    # Working

    def _work(self, item: LeasedItem) -> None:
        try:
            self._attempt(item)
        finally:
            # Whatever happened: an item that is named in polls is renewed for ever.
            self._forget(item)

    def _attempt(self, item: LeasedItem) -> None:
        """Work on an item to its end, report, and remove what the attempt leaves behind."""
        lease = item.lease
        run = RUNS[lease.kind](lease, self._site())
        try:
            result = guarded(run.run, item)
            item.cancel()  # of an attempt that broke off, nothing goes on
            if isinstance(result, TaskFailure):
                result = result.as_result()
            if result.error:
                _log.error("not done", extra={"item": lease.item_id, "why": result.error})
            item.begin_report()
            self._reporter.report(lease, result)
        except StaleLease as exc:
            _log.warning("stopped", extra={"item": lease.item_id, "why": str(exc)})
            item.cancel()
            self._clean_up(run, lease, reported=False)
        except MasterUnavailable as exc:
            # The report may count all the same: only the sweep of dead attempts may tell.
            _log.error("item lost", extra={"item": lease.item_id, "why": str(exc)})
        else:
            self._forget(item)  # nothing waits for parts to be removed
            self._clean_up(run, lease, reported=True)

    def _clean_up(self, run: Run, lease: Lease, *, reported: bool) -> None:
        try:
            run.clean_up(reported=reported)
        except (RaypacsError, OSError) as exc:  # the master's sweep comes after us
            _log.warning("not cleaned up", extra={"item": lease.item_id, "why": str(exc)})

    def _forget(self, item: LeasedItem) -> None:
        """Note that an item does not run any more, and ask for other work at once."""
        with self._lock:
            self._items.pop(item.lease.token, None)
        self._wake.set()

    def _site(self) -> Site:
        return Site(
            settings=self._settings,
            cores=self._cores,
            instances=self._reader.instances,
            unprepared=self._reader.unprepared,
            packs=self._reader.packs,
            manifests=self._manifests,
            available_bytes=self._rooms.available_bytes,
            refused=self._rooms.refused,
            site_id=lambda: self._reader.site().site_id,
            boot=self._boot,
            archives=self._archives(),
            moves=self._moves(),
            relocation=Relocation(
                gone=self._reader.gone,
                move_asides=partial(self._master.call, "move_asides"),
            ),
            libraries=self._libraries(),
        )

    def _libraries(self) -> Libraries:
        reader, call = self._reader, self._master.call
        return Libraries(
            seal=lambda study_uid: bool(call("seal_study", study_uid)),
            may_go_on=lambda lease: (
                lease.payload.get("by") != BY_ITSELF or bool(reader.archiving_open(time.time()))
            ),
            archived=lambda lease, told: call("archived", lease, told),
            running=reader.running_items,
        )

    def _moves(self) -> Moves:
        reader, call = self._reader, self._master.call
        return Moves(
            containers=reader.containers,
            study=self._study,
            plan=lambda lease, places: call("plan_objects", lease, places),
            reserve=lambda lease, tier, size_bytes: int(call("reserve", lease, tier, size_bytes)),
            progress=lambda lease, progress: call("item_progress", lease, progress),
            places=reader.places,
        )

    def _study(self, study_uid: str) -> dict[str, Any] | None:
        try:
            return self._reader.study(study_uid)
        except NotFound:
            return None

    def _archives(self) -> Archives:
        reader, call = self._reader, self._master.call
        return Archives(
            places=reader.adopted_places,
            register=lambda records, prepare, deleted: call(
                "register_adopted", records, prepare=prepare, deleted=deleted
            ),
            served=lambda record: reader.served(record.study_uid, record.sop_instance_uid),
            checksums=lambda told: call("checksums", told),
            moved=lambda record, lost: bool(call("relocate_adopted", record, lost)),
            prepare=lambda study_uids: call("let_prepare", study_uids),
            progress=lambda lease, progress: call("item_progress", lease, progress),
        )

    def _manifests(self, study_uid: str) -> list[tuple[str, str]]:
        return [(ref.tier, ref.path) for ref in self._reader.manifests(study_uid)]
