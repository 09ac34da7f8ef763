"""What every index must do, whatever database is below it."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from raypacs.config import Settings, TierSettings
from raypacs.errors import (
    AlreadyExists,
    ConfigError,
    IndexUnavailable,
    InvalidQuery,
    MasterUnavailable,
    NotFound,
    StaleEpoch,
    StaleLease,
)
from raypacs.index.engine import is_behind, migrate, open_engine
from raypacs.index.ledger import TierSeen
from raypacs.index.reader import IndexReader
from raypacs.index.schema import metadata, work_items
from raypacs.index.writer import IndexWriter
from raypacs.policy.queue import State
from raypacs.records import AsideRecord, InstanceRecord, Lease, Outcome, WorkResult
from tests.factories import instance_record, node_info, prepared_series

GB = 1_000_000_000
T = 1_700_000_000.0
QUIET = T + 10


@dataclass
class Index:
    """A database with its two sides."""

    url: str
    engine: sa.Engine
    writer: IndexWriter
    reader: IndexReader

    def balanced(self) -> bool:
        """Whether the ledger equals the recount."""
        used = {name: row.used_bytes for name, row in self.writer.ledger(T).items()}
        return {name: size for name, size in used.items() if size} == self.writer.recount(T)

    def received(self, study: str = "1.2.3", count: int = 3, now: float = T) -> None:
        self.writer.register([instance_record(study=study) for _ in range(count)], now)

    def leased(self, now: float = QUIET) -> Lease:
        self.writer.enqueue_due(now)
        (lease,) = self.writer.lease("n1", ["PREPARE"], 1, now)
        return lease

    def prepare(self, lease: Lease) -> WorkResult:
        """Return what a worker would report for everything unprepared."""
        by_series: dict[str, list] = {}
        for one in self.reader.unprepared(lease.study_uid):
            by_series.setdefault(one.record.series_uid, []).append(one)
        return WorkResult(
            packs=tuple(prepared_series(stored, lease) for stored in by_series.values())
        )

    def items(self, **filters: str) -> list[str]:
        return [item["state"] for item in self.reader.queue(filters)]


@pytest.fixture
def index(database_url: str) -> Iterator[Index]:
    yield from _opened(database_url)


@pytest.fixture
def sqlite_index(sqlite_url: str) -> Iterator[Index]:
    yield from _opened(sqlite_url)


def _opened(url: str) -> Iterator[Index]:
    engine = open_engine(url)
    writer = IndexWriter.claim_epoch(engine, [], T, chance=lambda: 1.0)
    writer.tiers_seen([TierSeen("image1", 10 * GB, True), TierSeen("web1", GB, True)], T)
    reader = IndexReader(url)
    yield Index(url, engine, writer, reader)
    reader.close()
    engine.dispose()


class TestSchema:
    def test_migrations_build_the_schema(self, index: Index) -> None:
        with index.engine.connect() as conn:
            assert compare_metadata(MigrationContext.configure(conn), metadata) == []

    def test_migrating_again_changes_nothing(self, index: Index) -> None:
        index.received()
        migrate(index.engine)
        assert len(index.reader.instances("1.2.3")) == 3

    def test_an_earlier_schema_is_told_from_the_one_that_is_wanted(self, index: Index) -> None:
        assert not is_behind(index.url)
        with index.engine.begin() as conn:
            conn.execute(sa.text("UPDATE alembic_version SET version_num = '0006'"))
        assert is_behind(index.url)
        with index.engine.begin() as conn:
            conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        assert not is_behind(index.url)
        assert not is_behind("sqlite:////nowhere/at/all.sqlite")

    def test_a_reader_cannot_write_nor_create(self, index: Index, tmp_path: Path) -> None:
        engine = open_engine(index.url, read_only=True)
        with engine.connect() as conn, pytest.raises(IndexUnavailable, match=r"read-?only"):
            conn.execute(sa.delete(work_items))
        engine.dispose()
        missing = tmp_path / "none.sqlite"
        with pytest.raises(MasterUnavailable):
            IndexReader(f"sqlite:///{missing}").known("1")
        assert not missing.exists()

    @pytest.mark.parametrize("state", ["SCHEDULED", "SCHEDULED FOR RETRY", "IN PROCESS"])
    def test_database_holds_one_waiting_and_one_running(self, index: Index, state: str) -> None:
        item = {"kind": "PREPARE", "study_uid": "1", "state": state}
        with index.writer.transaction(T) as txn:
            txn.conn.execute(sa.insert(work_items).values(item))
        with pytest.raises(sa.exc.IntegrityError), index.writer.transaction(T) as txn:
            txn.conn.execute(sa.insert(work_items).values(item))


class TestUnavailable:
    """SQLite's; PostgreSQL's are in ``test_index_postgres``."""

    def test_a_full_disk_is_told_without_values_and_passes(self, sqlite_index: Index) -> None:
        index = sqlite_index
        index.received()
        with index.engine.connect() as conn:
            raw = conn.connection.driver_connection
            raw.execute("PRAGMA max_page_count=1")  # as much as there is by now
        with pytest.raises(IndexUnavailable, match="full") as caught:
            index.received(count=500, now=T + 1)
        assert "Doe" not in "".join(traceback.format_exception(caught.value))
        assert isinstance(caught.value, OSError)
        assert pickle.loads(pickle.dumps(caught.value)).hint == caught.value.hint
        raw.execute("PRAGMA max_page_count=1000000")
        index.received(count=500, now=T + 2)
        assert index.reader.study("1.2.3")["instance_count"] == 503
        assert index.balanced()

    def test_a_locked_database_is_told(self, sqlite_index: Index) -> None:
        index = sqlite_index
        with index.engine.connect() as conn:
            conn.connection.driver_connection.execute("PRAGMA busy_timeout=1")
        other = open_engine(index.url)
        with other.begin(), pytest.raises(IndexUnavailable, match="locked"):
            index.writer.enqueue_due(T)
        other.dispose()
        assert index.writer.enqueue_due(T) == 0

    def test_a_damaged_or_missing_database_is_told_by_readers(self, tmp_path: Path) -> None:
        (tmp_path / "index.sqlite").write_bytes(b"no database " * 1000)
        reader = IndexReader(f"sqlite:///{tmp_path / 'index.sqlite'}")
        with pytest.raises(IndexUnavailable):
            reader.unprepared("1.2.3")
        reader.close()


class TestEpoch:
    def test_grows_over_index_and_markers(self, index: Index) -> None:
        assert index.writer.epoch == 1
        assert IndexWriter.claim_epoch(index.engine, [], T).epoch == 2
        assert IndexWriter.claim_epoch(index.engine, [7, 3], T).epoch == 8
        assert IndexWriter.claim_epoch(index.engine, [2], T).epoch == 9

    def test_every_write_of_an_older_epoch_is_refused(self, index: Index) -> None:
        index.received()
        lease = index.leased()
        IndexWriter.claim_epoch(index.engine, [], T)
        old = index.writer
        record = instance_record()
        aside = AsideRecord(Outcome.QUARANTINED, "image1", "q/1", 5, "bad", "AE", T)
        writes: list[Callable[[], object]] = [
            lambda: old.register([record], T),
            lambda: old.aside(aside, T),
            lambda: old.hint_complete(["1.2.3"], T),
            lambda: old.touched(["1.2.3"], T),
            lambda: old.enqueue_due(T),
            lambda: old.lease("n1", ["PREPARE"], 1, T),
            lambda: old.renew(lease, T),
            lambda: old.report(lease, WorkResult(), T),
            lambda: old.expire(T + 1000),
            lambda: old.swept("t", T, again_s=None),
            lambda: old.delete_study("1.2.3", T),
            lambda: old.confirm_deleted([1], T),
            lambda: old.tiers_seen([TierSeen("image1", 1, True)], T),
            lambda: old.grant("image1", "n1", 1, T),
            lambda: old.release_grants("n1", T),
            lambda: old.apply_settings(Settings(quiet_s=9), "x", T),
            lambda: old.node_seen(node_info(), T),
            lambda: old.audit("x", T),
            lambda: old.outbox_written([], T),
            lambda: old.publish("events", [{}], T),
            lambda: old.sample(3600, [], T),
        ]
        before = _everything(index.engine)
        for write in writes:
            with pytest.raises(StaleEpoch):
                write()
        assert _everything(index.engine) == before

    def test_a_lease_outlives_its_master(self, index: Index) -> None:
        index.received()
        lease = index.leased()
        second = IndexWriter.claim_epoch(index.engine, [], QUIET)
        renewed = second.renew(lease, QUIET + 1)
        assert (renewed.epoch, renewed.token) == (2, lease.token)
        assert second.report(lease, index.prepare(lease), QUIET + 2) == State.COMPLETED


def _everything(engine: sa.Engine) -> dict[str, list[tuple]]:
    with engine.connect() as conn:
        return {
            table.name: [tuple(row) for row in conn.execute(sa.select(table))]
            for table in metadata.sorted_tables
        }


class TestRegister:
    def test_first_one_wins(self, index: Index) -> None:
        first = instance_record()
        uid = first.sop_instance_uid
        same = replace(first, path="studies/other.dcm")
        other_bytes = replace(first, path="conflicts/1.dcm", sha256="ff")
        other_syntax = replace(first, path="conflicts/2.dcm", transfer_syntax_uid="1.2.840.1")
        answers = index.writer.register([first, same, other_bytes, other_syntax], T)
        assert [answer.outcome for answer in answers] == [
            Outcome.STORED,
            Outcome.KNOWN,
            Outcome.CONFLICT,
            Outcome.CONFLICT,
        ]
        assert index.reader.known(uid) == (first.sha256, first.transfer_syntax_uid, first.path)
        assert {aside.path for aside in index.reader.aside("1.2.3")} == {
            "conflicts/1.dcm",
            "conflicts/2.dcm",
        }
        assert index.reader.status(T)["aside"] == {"conflict": 2}
        assert index.reader.study("1.2.3")["instance_count"] == 1
        assert index.balanced()

    def test_the_same_record_again_changes_nothing(self, index: Index) -> None:
        record = instance_record()
        conflict = replace(record, path="conflicts/1.dcm", sha256="ff")
        first = index.writer.register([record, conflict], T)
        before = _everything(index.engine)
        assert index.writer.register([record, conflict], T + 1) == first
        assert _everything(index.engine) == before

    def test_generation_grows_with_new_instances_only(self, index: Index) -> None:
        record = instance_record()
        for now in (T, T + 1):
            index.writer.register([record], now)
        assert index.reader.study("1.2.3")["generation"] == 1
        index.received(count=2, now=T + 2)
        study = index.reader.study("1.2.3")
        assert (study["generation"], study["instance_count"]) == (2, 3)
        assert study["last_received_s"] == T + 2
        assert study["created_s"] == T

    def test_a_record_comes_back_as_it_was(self, index: Index) -> None:
        record = instance_record(attributes={"ContentDate": "20240131"}, planar_configuration=1)
        index.writer.register([record], T)
        stored = index.reader.locate_instance(record.sop_instance_uid)
        assert stored is not None
        assert stored.record == record
        assert stored.form == ""
        assert index.reader.locate_instance("9.9") is None
        assert index.reader.known("9.9") is None

    def test_study_attributes_fill_in_but_never_change(self, index: Index) -> None:
        index.writer.register([instance_record(attributes={"PatientID": "P1"})], T)
        late = {"PatientID": "P2", "StudyDescription": "Head"}
        index.writer.register([instance_record(attributes=late)], T)
        (found,) = index.reader.search_studies({})
        assert (found["PatientID"], found["StudyDescription"]) == ("P1", "Head")
        assert index.reader.search_studies({"PatientID": "P2"}) == []

    def test_quarantined_objects_are_listed_once(self, index: Index) -> None:
        aside = AsideRecord(Outcome.QUARANTINED, "image1", "quarantine/1", 50, "bad", "AE", T)
        for _ in range(2):
            index.writer.aside(aside, T)
        assert index.reader.aside() == [aside]
        assert index.balanced()

    def test_the_state_of_a_series_changes_with_instances_packs_and_deletion(
        self, index: Index
    ) -> None:
        record = instance_record(study="1.2.3")
        key = (record.study_uid, record.series_uid)
        states = [index.reader.series_state(*key)]
        index.writer.register([record], T)
        states.append(index.reader.series_state(*key))
        assert index.reader.series_state(*key) == states[-1]
        assert index.reader.series_state("1.2.4", record.series_uid) == ()
        lease = index.leased()
        index.writer.report(lease, index.prepare(lease), QUIET)
        states.append(index.reader.series_state(*key))
        more = instance_record(study="1.2.3")
        index.writer.register([replace(more, series_uid=record.series_uid)], QUIET)
        states.append(index.reader.series_state(*key))
        index.writer.delete_study("1.2.3", QUIET)
        assert index.reader.series_state(*key) == ()
        assert states[0] == ()
        assert len(set(states)) == 4


class TestLedger:
    def test_grants_never_exceed_the_capacity(self, index: Index) -> None:
        assert index.writer.grant("web1", "n1", 600_000_000, T) == 600_000_000
        assert index.writer.grant("web1", "n2", 600_000_000, T) == 400_000_000
        assert index.writer.grant("web1", "n3", 1, T) == 0
        assert index.writer.release_grants("n1", T) == 600_000_000
        assert index.writer.grant("web1", "n3", 10**12, T) == 600_000_000

    def test_unknown_or_unreachable_tiers_grant_nothing(self, index: Index) -> None:
        index.writer.tiers_seen([TierSeen("web1", 0, False)], T)
        assert index.writer.grant("web1", "n1", 5, T) == 0
        assert index.writer.grant("none", "n1", 5, T) == 0
        assert index.reader.ledger()["web1"].capacity_bytes == GB

    def test_registering_moves_bytes_from_granted_to_used(self, index: Index) -> None:
        index.writer.grant("image1", "n1/a", 2_000_000, T)
        record = instance_record()
        index.writer.register([record], T, holder="n1/a")
        row = index.reader.ledger()["image1"]
        assert row.used_bytes == record.size_bytes
        assert row.granted_bytes == 2_000_000 - record.size_bytes
        known = replace(record, path="x")
        index.writer.register([known], T, holder="n1/a")
        row = index.reader.ledger()["image1"]
        assert row.used_bytes == record.size_bytes
        assert row.granted_bytes == 2_000_000 - 2 * record.size_bytes
        for _ in range(4):
            index.writer.register([instance_record()], T, holder="n1/a")
        assert index.reader.ledger()["image1"].granted_bytes == 0
        assert index.balanced()

    def test_a_new_boot_of_a_node_lets_go_what_it_held(self, index: Index) -> None:
        index.received()
        lease = index.leased()
        index.writer.grant("image1", "n1/a", 100, T)
        index.writer.grant("image1", "n10", 100, T)
        index.writer.node_seen(node_info(boot="b1"), QUIET)
        lease = index.writer.lease("n1", ["PREPARE"], 1, QUIET) or [lease]
        index.writer.node_seen(node_info(boot="b1"), QUIET)
        assert index.writer.grant("image1", "n1/a", 100, T) == 100
        index.writer.node_seen(node_info(boot="b2"), QUIET)
        assert index.reader.ledger()["image1"].granted_bytes == 100
        assert [dead.token for dead in index.writer.expire(QUIET)] == [lease[0].token]
        assert index.reader.status(T)["nodes"][0]["boot"] == "b2"


class TestQueue:
    def test_due_after_quiet(self, index: Index) -> None:
        index.received(now=T)
        index.received(now=T + 3)
        assert index.writer.enqueue_due(T + 5) == 0
        assert index.writer.enqueue_due(T + 8) == 1
        assert index.writer.enqueue_due(T + 9) == 0
        assert index.items() == ["SCHEDULED"]

    def test_due_at_once_when_hinted(self, index: Index) -> None:
        index.received()
        index.writer.hint_complete(["1.2.3", "unknown"], T + 1)
        assert index.writer.enqueue_due(T + 1) == 1
        index.writer.hint_complete(["1.2.3"], T + 2)
        assert index.writer.enqueue_due(T + 2) == 0

    def test_nothing_is_enqueued_without_anything_unprepared(self, index: Index) -> None:
        index.received()
        lease = index.leased()
        index.received(count=1, now=QUIET + 1)
        index.writer.report(lease, index.prepare(lease), QUIET + 2)
        assert index.writer.enqueue_due(QUIET + 100) == 0
        assert index.reader.idle()

    def test_report_does_everything_once(self, index: Index) -> None:
        index.received()
        index.writer.grant("web1", "n1", 500_000, T)
        lease = index.leased()
        result = index.prepare(lease)
        assert index.writer.report(lease, result, QUIET + 1) == State.COMPLETED
        before = _everything(index.engine)
        assert index.writer.report(lease, result, QUIET + 2) == State.COMPLETED
        assert _everything(index.engine) == before
        study = index.reader.study("1.2.3")
        assert (study["state"], study["prepared_count"]) == ("prepared", 3)
        assert study["lossless_proven"] is True
        assert study["raw_bytes"] == 3 * 524_288
        assert study["prepared_bytes"] == result.packs[0].pack_bytes + 1000
        assert [event["event"] for event in study["story"]] == [
            "received",
            "scheduled",
            "leased",
            "prepared",
        ]
        assert index.reader.ledger()["web1"].granted_bytes == 500_000 - study["prepared_bytes"]
        (ref,) = index.reader.locate("1.2.3.1")
        assert (ref.tier, ref.pack_path, ref.token) == (
            "web1",
            result.packs[0].pack_path,
            lease.token,
        )
        assert index.reader.packs("1.2.3") == {"1.2.3.1": [ref]}
        assert {one.form for one in index.reader.instances("1.2.3")} == {"htj2k"}
        assert index.balanced()

    def test_growth_while_running_makes_an_item_for_the_new_objects(self, index: Index) -> None:
        index.received(count=2)
        lease = index.leased()
        result = index.prepare(lease)
        index.received(count=1, now=QUIET + 1)
        assert index.writer.enqueue_due(QUIET + 10) == 1
        assert index.items() == ["SCHEDULED", "IN PROCESS"]
        assert index.writer.lease("n2", ["PREPARE"], 5, QUIET + 11) == []
        index.writer.report(lease, result, QUIET + 12)
        (second,) = index.writer.lease("n2", ["PREPARE"], 5, QUIET + 13)
        assert (second.generation, second.study_uid) == (2, lease.study_uid)
        assert len(index.reader.unprepared("1.2.3")) == 1
        index.writer.report(second, index.prepare(second), QUIET + 14)
        assert index.reader.study("1.2.3")["state"] == "prepared"
        assert len(index.reader.locate("1.2.3.1")) == 2
        assert index.items() == ["COMPLETED", "COMPLETED"]

    def test_a_waiting_item_ends_when_the_running_one_did_its_work(self, index: Index) -> None:
        index.received(count=2)
        lease = index.leased()
        index.received(count=1, now=QUIET + 1)
        index.writer.enqueue_due(QUIET + 10)
        index.writer.report(lease, index.prepare(lease), QUIET + 12)
        assert index.items() == ["CANCELED", "COMPLETED"]
        assert index.reader.idle("1.2.3")

    def test_three_tries_then_failed(self, index: Index) -> None:
        index.received()
        now = QUIET
        index.writer.enqueue_due(now)
        for delay_s in (2.0, 4.0):
            (lease,) = index.writer.lease("n1", ["PREPARE"], 1, now)
            failed = index.writer.report(lease, WorkResult(error="no"), now)
            assert failed == State.SCHEDULED_FOR_RETRY
            assert index.writer.lease("n1", ["PREPARE"], 1, now + delay_s - 0.01) == []
            now += delay_s
        (lease,) = index.writer.lease("n1", ["PREPARE"], 1, now)
        assert lease.attempt == 3
        assert index.writer.report(lease, WorkResult(error="no"), now) == State.FAILED
        (item,) = index.reader.queue({"state": "FAILED"})
        assert (item["error"], item["attempt"]) == ("no", 3)
        assert index.reader.study("1.2.3")["state"] == "failed"
        assert index.writer.enqueue_due(now + 1000) == 0
        index.received(count=1, now=now + 1000)
        assert index.writer.enqueue_due(now + 1010) == 1

    def test_what_cannot_be_retried_fails_at_once(self, index: Index) -> None:
        index.received()
        result = WorkResult(error="no", retryable=False)
        assert index.writer.report(index.leased(), result, QUIET + 1) == State.FAILED

    def test_lost_nodes_do_not_use_up_tries(self, index: Index) -> None:
        index.received()
        now = QUIET
        index.writer.enqueue_due(now)
        for _ in range(5):
            (lease,) = index.writer.lease("n1", ["PREPARE"], 1, now)
            assert lease.attempt == 1
            now += 60
            index.writer.expire(now)
            (item,) = index.reader.queue()
            assert item["error"] == "waits for another try: lease expired on node n1"
            now += 2
        assert index.items() == ["SCHEDULED FOR RETRY"]

    def test_a_waiting_attempt_told_twice_changes_nothing(self, index: Index) -> None:
        index.received()
        lease = index.leased()
        waits = WorkResult(error="waits for room", waits=True)
        assert index.writer.report(lease, waits, QUIET) == State.SCHEDULED_FOR_RETRY
        before = _everything(index.engine)
        assert index.writer.report(lease, waits, QUIET + 1) == State.SCHEDULED_FOR_RETRY
        assert _everything(index.engine) == before

    def test_what_failed_is_scheduled_again_when_asked_for(self, index: Index) -> None:
        index.received()
        refused = WorkResult(error="no", retryable=False)
        index.writer.report(index.leased(), refused, QUIET)
        index.writer.hint_complete(["1.2.3"], QUIET + 1)
        assert index.writer.enqueue_due(QUIET + 1) == 1
        assert index.items() == ["SCHEDULED"]
        assert index.reader.study("1.2.3")["state"] == "received"
        (lease,) = index.writer.lease("n1", ["PREPARE"], 1, QUIET + 1)
        assert lease.attempt == 1
        index.writer.report(lease, refused, QUIET + 2)
        index.received(count=1, now=QUIET + 3)
        again = index.leased(QUIET + 13)
        assert (again.item_id, again.attempt) == (lease.item_id, 1)
        assert index.writer.report(again, index.prepare(again), QUIET + 14) == State.COMPLETED
        assert index.items() == ["COMPLETED"]
        index.writer.hint_complete(["1.2.3"], QUIET + 15)
        assert index.writer.enqueue_due(QUIET + 15) == 0

    def test_a_failure_that_another_item_made_good_is_canceled(self, index: Index) -> None:
        index.received()
        first = index.leased()
        index.received(count=1, now=QUIET)
        index.writer.enqueue_due(QUIET + 10)
        refused = WorkResult(error="no", retryable=False)
        assert index.writer.report(first, refused, QUIET + 11) == State.FAILED
        (second,) = index.writer.lease("n1", ["PREPARE"], 1, QUIET + 11)
        index.writer.report(second, index.prepare(second), QUIET + 12)
        assert index.items() == ["COMPLETED", "CANCELED"]

    def test_packs_of_a_failed_attempt_count(self, index: Index) -> None:
        index.received()
        index.writer.register([instance_record(series="1.2.3.2")], T)
        lease = index.leased()
        done = index.prepare(lease).packs[:1]
        state = index.writer.report(lease, WorkResult(packs=done, error="half"), QUIET + 1)
        assert state == State.SCHEDULED_FOR_RETRY
        assert len(index.reader.unprepared("1.2.3")) == 1
        assert index.balanced()

    def test_packs_taken_over_are_never_called_stale(self, index: Index) -> None:
        index.received()
        index.writer.register([instance_record(series="1.2.3.2")], T)
        first = index.leased()
        half = WorkResult(packs=index.prepare(first).packs[:1], error="half")
        index.writer.report(first, half, QUIET + 1)
        (second,) = index.writer.lease("n2", ["PREPARE"], 1, QUIET + 10)
        before = _everything(index.engine)
        assert index.writer.report(first, half, QUIET + 11) == State.IN_PROCESS
        assert _everything(index.engine) == before
        index.writer.report(second, index.prepare(second), QUIET + 12)
        assert len(index.reader.packs("1.2.3")) == 2
        assert index.balanced()

    def test_an_instance_prepared_before_does_not_count_twice(self, index: Index) -> None:
        index.received()
        lease = index.leased()
        everything = index.prepare(lease)
        index.writer.report(lease, everything, QUIET + 1)
        index.received(count=1, now=QUIET + 2)
        second = index.leased(QUIET + 10)
        series = prepared_series(index.reader.instances("1.2.3"), second)
        index.writer.report(second, WorkResult(packs=(series,)), QUIET + 11)
        study = index.reader.study("1.2.3")
        assert (study["prepared_count"], study["raw_bytes"]) == (4, 4 * 524_288)

    def test_leaving_out_instances_silently_is_an_error(self, index: Index) -> None:
        index.received()
        lease = index.leased()
        state = index.writer.report(lease, WorkResult(), QUIET + 1)
        assert state == State.SCHEDULED_FOR_RETRY
        assert index.reader.queue()[0]["error"] == "3 instances were not prepared"

    def test_an_expired_lease_is_dead(self, index: Index) -> None:
        index.received()
        lease = index.leased()
        renewed = index.writer.renew(lease, QUIET + 50)
        assert renewed.expires_at_s == QUIET + 110
        assert index.writer.expire(QUIET + 109) == []
        with pytest.raises(StaleLease):
            index.writer.renew(renewed, QUIET + 110)
        assert [dead.token for dead in index.writer.expire(QUIET + 110)] == [lease.token]
        assert index.items() == ["SCHEDULED FOR RETRY"]
        assert index.writer.sweepable(QUIET + 110) == [(lease.token, "1.2.3", 0)]
        (second,) = index.writer.lease("n2", ["PREPARE"], 1, QUIET + 200)
        result = index.prepare(second)
        with pytest.raises(StaleLease):
            index.writer.report(lease, index.prepare(lease), QUIET + 201)
        assert index.writer.report(second, result, QUIET + 202) == State.COMPLETED
        with pytest.raises(StaleLease):
            index.writer.report(lease, WorkResult(), QUIET + 203)

    def test_one_owner(self, index: Index) -> None:
        for number in range(4):
            index.received(study=f"1.{number}")
        index.writer.enqueue_due(QUIET)
        taken = [
            lease.study_uid
            for node in ("n1", "n2", "n3")
            for lease in index.writer.lease(node, ["PREPARE"], 2, QUIET)
        ]
        assert sorted(taken) == ["1.0", "1.1", "1.2", "1.3"]
        assert index.writer.lease("n1", ["OTHER"], 2, QUIET) == []


class TestSearch:
    """QIDO-RS matching (PS3.18 section 10.6, PS3.4 section C.2.2.2)."""

    @pytest.fixture
    def filled(self, index: Index) -> Index:
        def put(study: str, modality: str, number: int, **attributes: str) -> None:
            index.writer.register(
                [
                    instance_record(
                        study=study,
                        series=f"{study}.{number}",
                        number=number,
                        modality=modality,
                        attributes={"SeriesNumber": str(number), **attributes},
                    )
                ],
                T,
            )

        put(
            "1.1",
            "CT",
            1,
            PatientName="Doe^Jane",
            PatientID="A_1",
            StudyDate="20240131",
            StudyTime="101500.5",
            SeriesDescription="Axial 50%",
        )
        put("1.1", "SR", 2)
        put(
            "1.2",
            "MR",
            1,
            PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
            PatientID="AB1",
            StudyDate="2024.02.29",
            StudyTime="2359",
            ReferringPhysicianName="Müller^Ärzt",
        )
        put(
            "1.3",
            "CT",
            1,
            PatientName="DOE^JOHN^^",
            PatientID="c",
            StudyDate="20231231",
            AccessionNumber="77",
        )
        return index

    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            ({}, "1.2 1.1 1.3"),
            ({"limit": "2"}, "1.2 1.1"),
            ({"limit": ["1"], "offset": ["1"]}, "1.1"),
            ({"limit": "0"}, ""),
            ({"PatientName": "doe*"}, "1.1 1.3"),
            ({"PatientName": "DOE^JOHN"}, "1.3"),
            ({"00100010": "doe^j?ne"}, "1.1"),
            ({"PatientName": "山田*"}, "1.2"),
            ({"PatientName": "やまだ^たろう"}, "1.2"),
            ({"PatientName": "yamada^tarou"}, "1.2"),
            ({"PatientName": "*tarou"}, "1.2"),
            ({"ReferringPhysicianName": "müller*"}, "1.2"),
            ({"ReferringPhysicianName": "MÜLLER^ÄRZT"}, "1.2"),
            ({"PatientID": "A_1"}, "1.1"),
            ({"PatientID": "A_*"}, "1.1"),
            ({"PatientID": "A?1"}, "1.2 1.1"),
            ({"PatientID": "a*"}, ""),
            ({"PatientID": "C"}, ""),
            ({"PatientID": "%"}, ""),
            ({"PatientID": "' OR 1=1 --"}, ""),
            ({"PatientID": ""}, "1.2 1.1 1.3"),
            ({"PatientID": "*"}, "1.2 1.1 1.3"),
            ({"StudyDate": "20240131"}, "1.1"),
            ({"StudyDate": "20240101-"}, "1.2 1.1"),
            ({"StudyDate": "-20240131"}, "1.1 1.3"),
            ({"StudyDate": "20240131-20240229"}, "1.2 1.1"),
            ({"StudyTime": "1015"}, "1.1"),
            ({"StudyTime": "10-101500"}, "1.1"),
            ({"StudyTime": "-1014"}, ""),
            ({"StudyTime": "23-"}, "1.2"),
            ({"StudyInstanceUID": "1.3,1.1"}, "1.1 1.3"),
            ({"StudyInstanceUID": ["1.3", "1.1"]}, "1.1 1.3"),
            ({"StudyInstanceUID": "1.3\\1.1"}, "1.1 1.3"),
            ({"ModalitiesInStudy": "SR"}, "1.1"),
            ({"ModalitiesInStudy": "SR,MR"}, "1.2 1.1"),
            ({"ModalitiesInStudy": "S*"}, "1.1"),
            ({"ModalitiesInStudy": "?R"}, "1.2 1.1"),
            ({"ModalitiesInStudy": "M*,CT"}, "1.2 1.1 1.3"),
            ({"ModalitiesInStudy": ","}, ""),
            ({"AccessionNumber": "7*"}, "1.3"),
            ({"NumberOfStudyRelatedSeries": "2"}, "1.1"),
            ({"NumberOfStudyRelatedSeries": "two"}, ""),
            ({"includefield": "all", "fuzzymatching": "true", "Unknown": "x"}, "1.2 1.1 1.3"),
        ],
    )
    def test_studies(self, filled: Index, params: dict[str, str], expected: str) -> None:
        found = filled.reader.search_studies(params)
        assert [row["StudyInstanceUID"] for row in found] == expected.split()

    def test_computed_attributes(self, filled: Index) -> None:
        (found,) = filled.reader.search_studies({"PatientID": "A_1"})
        assert found == {
            "PatientName": "Doe^Jane",
            "PatientID": "A_1",
            "StudyDate": "20240131",
            "StudyTime": "101500.5",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "PatientBirthDate": "",
            "PatientSex": "",
            "StudyID": "",
            "StudyInstanceUID": "1.1",
            "InstanceAvailability": "ONLINE",
            "ModalitiesInStudy": "CT\\SR",
            "NumberOfStudyRelatedSeries": 2,
            "NumberOfStudyRelatedInstances": 2,
        }

    def test_series(self, filled: Index) -> None:
        def uids(**params: str) -> list[str]:
            return [row["SeriesInstanceUID"] for row in filled.reader.search_series(params)]

        assert uids() == ["1.1.1", "1.1.2", "1.2.1", "1.3.1"]
        assert uids(StudyInstanceUID="1.1", Modality="SR") == ["1.1.2"]
        assert uids(Modality="?T") == ["1.1.1", "1.3.1"]
        assert uids(SeriesNumber="2") == ["1.1.2"]
        assert uids(SeriesDescription="*50%") == ["1.1.1"]
        assert uids(PatientName="doe*", Modality="CT") == ["1.1.1", "1.3.1"]
        (row,) = filled.reader.search_series({"SeriesInstanceUID": "1.1.2"})
        assert (row["SeriesNumber"], row["NumberOfSeriesRelatedInstances"]) == (2, 1)
        assert (row["Modality"], row["PatientID"]) == ("SR", "A_1")

    def test_numbers_that_are_unknown_are_there_and_empty(self, index: Index) -> None:
        index.writer.register([replace(instance_record(attributes={}), instance_number=None)], T)
        (found,) = index.reader.search_instances({})
        assert (found["SeriesNumber"], found["InstanceNumber"]) == (None, None)

    def test_instances(self, filled: Index) -> None:
        found = filled.reader.search_instances({"StudyInstanceUID": "1.1", "InstanceNumber": "2"})
        assert [row["SOPInstanceUID"] for row in found] == ["1.1.2.2"]
        assert (found[0]["Rows"], found[0]["SeriesInstanceUID"]) == (512, "1.1.2")
        assert (
            len(filled.reader.search_instances({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"})) == 4
        )
        assert filled.reader.search_instances({"SOPInstanceUID": "9"}) == []

    @pytest.mark.parametrize(
        "params",
        [{"limit": "x"}, {"offset": "-1"}, {"StudyDate": "today"}, {"StudyTime": "-"}],
    )
    def test_what_cannot_be_is_refused(self, index: Index, params: dict[str, str]) -> None:
        with pytest.raises(InvalidQuery):
            index.reader.search_studies(params)


class TestDelete:
    def test_intents_then_bytes_then_confirmation(self, index: Index) -> None:
        index.received()
        record = instance_record()
        index.writer.register([record, replace(record, path="conflicts/1", sha256="f")], T)
        lease = index.leased()
        index.writer.report(lease, index.prepare(lease), QUIET + 1)
        used = sum(row.used_bytes for row in index.reader.ledger().values())
        intents = index.writer.delete_study("1.2.3", QUIET + 2, grace_s=5)
        assert len(intents) == 4 + 1 + 2
        assert sum(intent.size_bytes for intent in intents) == used
        assert index.balanced()
        for search in ("search_studies", "search_series", "search_instances"):
            assert getattr(index.reader, search)({}) == []
        assert index.reader.locate("1.2.3.1") == []
        assert index.reader.known(record.sop_instance_uid) is None
        with pytest.raises(NotFound):
            index.reader.study("1.2.3")
        assert index.writer.deletes_due(QUIET + 6, tier="image1") == []
        due = [
            intent
            for tier in ("image1", "web1")
            for intent in index.writer.deletes_due(QUIET + 7, tier=tier)
        ]
        assert sorted(due, key=lambda one: one.intent_id) == intents
        assert index.writer.confirm_deleted([one.intent_id for one in due], QUIET + 8) == 7
        assert index.writer.confirm_deleted([one.intent_id for one in due], QUIET + 8) == 0
        assert all(row.used_bytes == 0 for row in index.reader.ledger().values())

    def test_received_again_later(self, index: Index) -> None:
        record = instance_record()
        index.writer.register([record], T)
        intents = index.writer.delete_study("1.2.3", T + 1)
        again = replace(record, path="studies/again.dcm")
        (answer,) = index.writer.register([again], T + 2)
        assert answer.outcome == Outcome.STORED
        index.writer.confirm_deleted([one.intent_id for one in intents], T + 3)
        assert index.reader.locate_instance(record.sop_instance_uid).record.path == again.path
        assert index.balanced()
        assert index.writer.enqueue_due(T + 20) == 1

    def test_work_in_flight_is_dead(self, index: Index) -> None:
        index.received()
        lease = index.leased()
        result = index.prepare(lease)
        index.writer.delete_study("1.2.3", QUIET + 1)
        with pytest.raises(StaleLease):
            index.writer.report(lease, result, QUIET + 2)
        assert index.writer.sweepable(QUIET + 2) == [(lease.token, "1.2.3", 0)]
        assert index.items() == ["CANCELED"]

    def test_what_failed_or_waits_is_canceled(self, index: Index) -> None:
        index.received()
        index.received(study="1.9")
        index.writer.enqueue_due(QUIET)
        for lease in index.writer.lease("n1", ["PREPARE"], 2, QUIET):
            result = WorkResult(error="no", retryable=lease.study_uid == "1.9")
            index.writer.report(lease, result, QUIET)
        assert sorted(index.items()) == ["FAILED", "SCHEDULED FOR RETRY"]
        for study in ("1.2.3", "1.9"):
            index.writer.delete_study(study, QUIET)
        assert index.items() == ["CANCELED", "CANCELED"]

    def test_no_such_study(self, index: Index) -> None:
        with pytest.raises(NotFound):
            index.writer.delete_study("1.2.3", T)


class TestSettings:
    def test_versions_grow_and_equal_settings_keep_theirs(self, index: Index) -> None:
        assert index.reader.settings() == (0, Settings())
        assert index.writer.apply_settings(Settings(), "first", T) == 1
        assert index.writer.apply_settings(Settings(quiet_s=9), "me", T) == 2
        assert index.writer.apply_settings(Settings(quiet_s=9), "me", T) == 2
        assert index.reader.settings() == (2, Settings(quiet_s=9))

    def test_they_are_applied_to_the_version_that_was_seen(self, index: Index) -> None:
        def apply(quiet_s: float, version: int) -> int:
            new = Settings(quiet_s=quiet_s)
            return index.writer.apply_settings(new, "me", T, expected_version=version)

        assert apply(1, 0) == 1
        assert apply(2, 1) == 2
        with pytest.raises(AlreadyExists, match="version 2"):
            apply(3, 1)  # somebody else was faster
        assert apply(2, 1) == 2  # the same call again, as its answer was lost
        assert index.reader.settings() == (2, Settings(quiet_s=2))

    def test_a_tier_that_holds_bytes_stays(self, index: Index) -> None:
        image = TierSettings(name="image1", role="image", url="memory://a")
        index.writer.apply_settings(Settings(tiers=(image,)), "me", T)
        index.received()
        for tiers in ((), (image.model_copy(update={"url": "memory://b"}),), (image, image)):
            with pytest.raises(ConfigError):
                index.writer.apply_settings(Settings(tiers=tiers), "me", T)
        kept = image.model_copy(update={"read_only": True})
        assert index.writer.apply_settings(Settings(tiers=(kept,)), "me", T) == 2

    def test_a_tier_that_only_looks_empty_stays_where_it_is(self, index: Index) -> None:
        """It may hold instances that were answered and are not registered yet."""
        image = TierSettings(name="image3", role="image", url="memory://a")
        moved = image.model_copy(update={"url": "memory://b"})
        other = image.model_copy(update={"role": "web"})

        def apply(*tiers: TierSettings) -> int:
            return index.writer.apply_settings(Settings(tiers=tiers), "me", T)

        apply(image)
        assert apply(moved) == 2  # nobody ever used it
        assert apply(image) == 3
        index.writer.tiers_seen([TierSeen("image3", GB, reachable=True)], T)
        assert index.writer.grant("image3", "n1/b", 100, T) == 100
        for tiers in ((), (moved,), (other,)):
            with pytest.raises(ConfigError, match="image3") as refused:
                apply(*tiers)
            assert "another name" in refused.value.hint
        index.writer.release_grants("n1/b", T)
        index.writer.adopt_tier("memory://a", "image3", T)
        assert apply(moved) == 4
        # Who has not heard of it gets no room to write where the tier was.
        assert index.writer.grant("image3", "n1/b", 100, T, url="memory://a") == 0
        assert index.writer.grant("image3", "n1/b", 100, T, url="memory://b") == 100

    def test_a_web_tier_stays_while_work_runs(self, index: Index) -> None:
        web = TierSettings(name="web3", role="web", url="memory://a")
        index.writer.apply_settings(Settings(tiers=(web,)), "me", T)
        index.received()
        lease = index.leased()
        with pytest.raises(ConfigError, match="work runs"):
            index.writer.apply_settings(Settings(), "me", T)
        index.writer.report(lease, WorkResult(error="no", retryable=False), QUIET)
        assert index.writer.apply_settings(Settings(), "me", T) == 2


class TestStatus:
    def test_counts_rates_and_hours_left(self, index: Index) -> None:
        tiers = (
            TierSettings(name="image1", role="image", url="memory://a"),
            TierSettings(name="web1", role="web", url="memory://b"),
        )
        index.writer.apply_settings(Settings(tiers=tiers), "me", T)
        index.received(count=4)
        index.received(study="1.9", count=4)
        found = index.reader.status(T + 60)
        assert found["studies"] == {"received": 2, "prepared": 0, "waiting": 2, "failed": 0}
        image, web = found["tiers"]
        assert image["fill_rate"] == {
            "studies_per_hour": 2.0,
            "objects_per_study": 4.0,
            "bytes_per_object": 526_000.0,
            "bytes_per_hour": 8 * 526_000.0,
        }
        assert image["available_bytes"] == 10 * GB - 8 * 526_000
        assert image["hours_left"] == pytest.approx(image["available_bytes"] / (8 * 526_000))
        assert (web["fill_rate"], web["hours_left"]) == (None, None)
        assert found["epoch"] == 1

    def test_statistics_are_published_with_the_change(self, index: Index) -> None:
        records: list[InstanceRecord] = [instance_record(), instance_record(modality="SR")]
        index.writer.register(records, T)
        rows = index.writer.outbox(T)
        assert [(row.payload["modality"], row.payload["objects"]) for row in rows] == [
            ("CT", 1),
            ("SR", 1),
        ]
        index.writer.outbox_written(rows[:1], T)
        assert index.writer.outbox(T) == rows[1:]

    def test_one_sample_an_hour(self, index: Index) -> None:
        assert index.writer.sample(7200, [{"tier": "a"}], T)
        assert not index.writer.sample(7200, [{"tier": "a"}], T)
        assert index.writer.sample(10800, [{"tier": "a"}], T)
        assert [row.stream for row in index.writer.outbox(T)] == ["samples", "samples"]
