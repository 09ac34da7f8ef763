"""Random walks through the work queue, with a plain model beside it.

After every step: one owner per item, no study forgotten, effects exactly once, ledger equal to a
recount and to the model's own sum.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from raypacs.errors import NotFound, StaleEpoch, StaleLease
from raypacs.index.engine import migrate, open_engine
from raypacs.index.ledger import TierSeen
from raypacs.index.reader import IndexReader
from raypacs.index.schema import packs, work_items
from raypacs.index.writer import IndexWriter
from raypacs.policy.queue import State
from raypacs.records import Lease, Outcome, WorkResult
from tests.factories import instance_record, prepared_series

CAPACITY = 10_000_000
STUDIES = ("1.1", "1.2", "1.3")
NODES = st.sampled_from(["n1", "n2", "n3"])
STUDY = st.sampled_from(STUDIES)


@functools.cache
def _empty_index() -> Path:
    """An index after its migrations, made once: migrating costs more than a whole walk."""
    path = Path(tempfile.mkdtemp(prefix="queue-model-")) / "empty.sqlite"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


class QueueModel(RuleBasedStateMachine):
    """The real index, and what it should hold as plain dicts."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="queue-model-"))
        shutil.copy(_empty_index(), self.folder / "index.sqlite")
        url = f"sqlite:///{self.folder / 'index.sqlite'}"
        self.engine = open_engine(url)
        self.reader = IndexReader(url)
        self.now = 1_000_000.0
        self.writer = IndexWriter.claim_epoch(self.engine, [], self.now, chance=lambda: 0.5)
        self.writer.tiers_seen([TierSeen("image1", CAPACITY, True)], self.now)
        self.held: dict[int, Lease] = {}
        self.ended: dict[str, WorkResult] = {}  # token -> what was accepted
        self.arrived: dict[str, dict[str, int]] = {}  # study -> UID -> bytes
        self.effects: Counter[str] = Counter()  # UID -> times prepared
        self.pack_paths: dict[str, set[str]] = {}
        self.failed: set[str] = set()
        self.used: Counter[str] = Counter()

    def teardown(self) -> None:
        self.reader.close()
        self.engine.dispose()
        shutil.rmtree(self.folder)

    # What happens

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0, 40.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(study=STUDY, count=st.integers(1, 3))
    def instances_arrive(self, study: str, count: int) -> None:
        records = [instance_record(study=study, size_bytes=1000) for _ in range(count)]
        duplicate = replace(records[0], path="duplicate")
        answers = self.writer.register([*records, duplicate], self.now, holder="n1")
        assert [one.outcome for one in answers] == [Outcome.STORED] * count + [Outcome.KNOWN]
        self.arrived.setdefault(study, {}).update(
            {record.sop_instance_uid: record.size_bytes for record in records}
        )
        self.used["image1"] += 1000 * count
        self.failed.discard(study)

    @rule(study=STUDY)
    def association_ends(self, study: str) -> None:
        self.writer.hint_complete([study], self.now)
        self.failed.discard(study)

    @rule()
    def items_become_due(self) -> None:
        self.writer.enqueue_due(self.now)

    @rule(target=leases, node=NODES, limit=st.integers(1, 3))
    def take(self, node: str, limit: int) -> MultipleResults[Lease]:
        taken = self.writer.lease(node, ["PREPARE"], limit, self.now)
        for lease in taken:
            assert lease.item_id not in self.held, "given to two owners"
            assert lease.study_uid not in {one.study_uid for one in self.held.values()}
            self.held[lease.item_id] = lease
        return multiple(*taken)

    @rule(target=leases, study=STUDY, count=st.integers(1, 3), node=NODES)
    def arrives_and_is_taken(self, study: str, count: int, node: str) -> MultipleResults[Lease]:
        """The usual way in one step, so that short walks get far."""
        self.instances_arrive(study, count)
        self.association_ends(study)
        self.items_become_due()
        return self.take(node, 3)

    @rule(target=leases, node=NODES)
    def retries_come_due(self, node: str) -> MultipleResults[Lease]:
        self.now += 9.0
        self.items_become_due()
        return self.take(node, 3)

    @rule(target=leases, lease=consumes(leases))
    def renew(self, lease: Lease) -> Lease:
        if not self._good(lease):
            with pytest.raises(StaleLease):
                self.writer.renew(lease, self.now)
            return lease
        renewed = self.writer.renew(lease, self.now)
        self.held[lease.item_id] = renewed
        return renewed

    @rule(lease=leases, half=st.booleans())
    def report_done(self, lease: Lease, half: bool) -> None:
        unprepared = self.reader.unprepared(lease.study_uid)
        some = unprepared[: len(unprepared) // 2] if half else unprepared
        series = (prepared_series(some, lease, pack_bytes=500),) if some else ()
        self._report(lease, WorkResult(packs=series))

    @rule(lease=leases, retryable=st.booleans())
    def report_failed(self, lease: Lease, retryable: bool) -> None:
        self._report(lease, WorkResult(error="no", retryable=retryable))

    @rule(lease=leases)
    def report_waiting(self, lease: Lease) -> None:
        """A full tier: however often it is met, the study is not given up."""
        self._report(lease, WorkResult(error="waits for room", waits=True))

    @rule(lease=leases)
    def report_late(self, lease: Lease) -> None:
        """A worker that was cut off reports what it did, when its lease has run out."""
        unprepared = self.reader.unprepared(lease.study_uid)
        self.now = max(self.now, lease.expires_at_s)
        series = (prepared_series(unprepared, lease, pack_bytes=500),) if unprepared else ()
        self._report(lease, WorkResult(packs=series))

    def _report(self, lease: Lease, result: WorkResult) -> None:
        if lease.token in self.ended:
            # Told again, perhaps differently: only the first report counts. Packs that were
            # taken over are never called stale: the worker would delete them.
            paths = self.pack_paths.get(lease.study_uid, set())
            try:
                self.writer.report(lease, result, self.now)
            except StaleLease:
                assert not any(lease.token in path for path in paths)
            return
        if not self._good(lease):
            with pytest.raises(StaleLease):
                self.writer.report(lease, result, self.now)
            return
        state = self.writer.report(lease, result, self.now)
        del self.held[lease.item_id]
        self.ended[lease.token] = result
        for pack in result.packs:
            self.effects.update(one.sop_instance_uid for one in pack.instances)
            self.pack_paths.setdefault(lease.study_uid, set()).add(pack.pack_path)
            self.used["web1"] += pack.pack_bytes + pack.header_bytes
        assert not (result.waits and state == State.FAILED)
        if state == State.FAILED:
            self.failed.add(lease.study_uid)

    @rule()
    def leases_expire(self) -> None:
        dead = {lease.token for lease in self.writer.expire(self.now)}
        expected = {lease.token for lease in self.held.values() if lease.expires_at_s <= self.now}
        assert dead == expected
        for lease in [lease for lease in self.held.values() if lease.token in dead]:
            del self.held[lease.item_id]

    @rule()
    def master_changes(self) -> None:
        old = self.writer
        self.writer = IndexWriter.claim_epoch(self.engine, [], self.now, chance=lambda: 0.5)
        assert self.writer.epoch == old.epoch + 1
        with pytest.raises(StaleEpoch):
            old.register([instance_record(study="1.1")], self.now)
        with pytest.raises(StaleEpoch):
            old.lease("n1", ["PREPARE"], 5, self.now)

    @rule(study=STUDY)
    def study_is_deleted(self, study: str) -> None:
        if study not in self.arrived:
            with pytest.raises(NotFound):
                self.writer.delete_study(study, self.now)
            return
        intents = self.writer.delete_study(study, self.now)
        self.writer.confirm_deleted([intent.intent_id for intent in intents], self.now)
        for uid, size_bytes in self.arrived.pop(study).items():
            self.used["image1"] -= size_bytes
            self.effects.pop(uid, None)
        self.used["web1"] -= 1500 * len(self.pack_paths.pop(study, ()))
        self.held = {k: lease for k, lease in self.held.items() if lease.study_uid != study}
        self.failed.discard(study)

    @rule(holder=NODES, want=st.integers(1, CAPACITY))
    def bytes_are_granted(self, holder: str, want: int) -> None:
        room = self.reader.ledger()["image1"].available_bytes
        assert self.writer.grant("image1", holder, want, self.now) == min(want, room)

    @rule(holder=NODES)
    def grants_are_released(self, holder: str) -> None:
        self.writer.release_grants(holder, self.now)

    def _good(self, lease: Lease) -> bool:
        held = self.held.get(lease.item_id)
        return held is not None and held.token == lease.token and held.expires_at_s > self.now

    # What must hold

    @invariant()
    def one_owner(self) -> None:
        with self.engine.connect() as conn:
            running = conn.execute(
                sa.select(work_items.c.item_id, work_items.c.token).where(
                    work_items.c.state == State.IN_PROCESS.value
                )
            )
            assert {row.item_id: row.token for row in running} == {
                item: lease.token for item, lease in self.held.items()
            }

    @invariant()
    def effects_exactly_once(self) -> None:
        assert all(count == 1 for count in self.effects.values())
        prepared = {
            one.record.sop_instance_uid
            for study in STUDIES
            for one in self.reader.instances(study)
            if one.form
        }
        assert prepared == set(self.effects)
        with self.engine.connect() as conn:
            published = set(conn.execute(sa.select(packs.c.pack_path)).scalars())
        assert published == {path for paths in self.pack_paths.values() for path in paths}

    @invariant()
    def nothing_is_lost_or_forgotten(self) -> None:
        for study in STUDIES:
            there = {one.record.sop_instance_uid for one in self.reader.instances(study)}
            assert there == set(self.arrived.get(study, ()))
            if self.reader.unprepared(study) and study not in self.failed:
                assert not self.reader.idle(study), f"nobody will prepare {study}"
            if there and not self.reader.unprepared(study):
                assert self.reader.study(study)["state"] == "prepared"

    @invariant()
    def ledger_equals_recount(self) -> None:
        ledger = self.reader.ledger()
        used = {name: row.used_bytes for name, row in ledger.items() if row.used_bytes}
        assert used == self.writer.recount(self.now)
        assert used == {name: size for name, size in self.used.items() if size}
        assert 0 <= ledger["image1"].granted_bytes <= CAPACITY

    @invariant()
    def counters_equal_recount(self) -> None:
        for study in self.reader.studies():
            stored = self.reader.instances(study["study_uid"])
            assert study["instance_count"] == len(stored)
            assert study["prepared_count"] == sum(bool(one.form) for one in stored)
            assert study["size_bytes"] == sum(one.record.size_bytes for one in stored)


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
