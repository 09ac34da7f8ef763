"""What the index refuses, outlives and keeps through a power cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from raypacs.errors import IndexRefused
from raypacs.index.engine import open_engine
from raypacs.index.ledger import TierSeen
from raypacs.index.reader import IndexReader
from raypacs.index.writer import IndexWriter
from raypacs.records import AsideRecord, Outcome
from tests.factories import instance_record

T = 1_700_000_000.0


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def writer(engine: sa.Engine) -> IndexWriter:
    writer = IndexWriter.claim_epoch(engine, [], T)
    writer.tiers_seen([TierSeen("image1", 10**9, True)], T)
    return writer


@pytest.fixture
def reader(database_url: str, writer: IndexWriter) -> Iterator[IndexReader]:
    reader = IndexReader(database_url)
    yield reader
    reader.close()


class TestRefused:
    def test_a_number_too_large_is_refused_without_its_batch(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        good, bad = instance_record(), instance_record(instance_number=10**20)
        with pytest.raises(IndexRefused) as refused:
            writer.register([good, bad], T)
        # Said by the driver of SQLite, or by PostgreSQL itself.
        assert re.fullmatch("the index cannot hold it: (Overflow|Data)Error", str(refused.value))
        assert reader.known(good.sop_instance_uid) is None
        assert writer.register([good], T)[0].outcome is Outcome.STORED

    def test_a_series_number_too_large_is_left_out(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        record = instance_record(attributes={"SeriesNumber": "99999999999999999999"})
        assert writer.register([record], T)[0].outcome is Outcome.STORED
        (found,) = reader.search_series({})
        assert found["SeriesInstanceUID"] == record.series_uid

    def test_text_that_is_no_unicode_is_refused_without_being_quoted(
        self, writer: IndexWriter
    ) -> None:
        with pytest.raises(IndexRefused) as refused:
            writer.register([instance_record(attributes={"PatientName": "Doe\udcff"})], T)
        assert "Doe" not in str(refused.value)
        assert refused.value.__cause__ is None


class TestDeleted:
    def test_what_has_a_delete_intent_is_not_registered_again(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        record = instance_record()
        writer.register([record], T)
        (intent,) = writer.delete_study(record.study_uid, T, grace_s=5)
        fresh = replace(record, path="studies/fresh.dcm")
        answers = writer.register([record, fresh], T + 1)
        assert [answer.outcome for answer in answers] == [Outcome.REFUSED, Outcome.STORED]
        known = reader.known(record.sop_instance_uid)
        assert known is not None
        assert known[2] == fresh.path
        writer.confirm_deleted([intent.intent_id], T + 6)
        assert writer.ledger(T)["image1"].used_bytes == fresh.size_bytes
        assert writer.recount(T) == {"image1": fresh.size_bytes}

    def test_nor_kept_aside_again(self, writer: IndexWriter, reader: IndexReader) -> None:
        record = instance_record()
        conflict = AsideRecord(
            Outcome.CONFLICT, "image1", "conflicts/x", 5, "other", "AE", T, record.study_uid
        )
        writer.register([record], T)
        writer.aside(conflict, T)
        writer.delete_study(record.study_uid, T, grace_s=5)
        writer.aside(conflict, T + 1)
        assert reader.aside() == []


class TestRelocate:
    def test_the_same_data_set_takes_the_place_of_lost_bytes(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        writer.tiers_seen([TierSeen("image2", 10**9, True)], T)
        first, other = instance_record(), instance_record()
        writer.register([first, other], T)
        writer.enqueue_due(T + 100)
        again = replace(
            first, tier="image2", path="studies/n.dcm", size_bytes=527_000, dataset_offset_bytes=9
        )
        assert not writer.relocate(again, ("image1", "elsewhere"), T)
        assert writer.relocate(again, (first.tier, first.path), T)
        assert not writer.relocate(again, (first.tier, first.path), T)
        stored = reader.locate_instance(first.sop_instance_uid)
        assert stored is not None
        assert replace(stored.record, attributes=again.attributes) == again
        used = {name: row.used_bytes for name, row in writer.ledger(T).items()}
        assert used == writer.recount(T) == {"image1": 526_000, "image2": 527_000}
        study = reader.study(first.study_uid)
        assert study["size_bytes"] == 1_053_000
        copies = {copy["tier"]: (copy["objects"], copy["size_bytes"]) for copy in study["copies"]}
        assert copies == {"image1": (1, 526_000), "image2": (1, 527_000)}
        assert study["prepare_due_s"] > T
        assert writer.register([again], T)[0].outcome is Outcome.STORED


class TestDurable:
    def test_registrations_and_asides_are_flushed_before_they_are_answered(
        self, engine: sa.Engine, writer: IndexWriter
    ) -> None:
        """An edge removes its marker on the answer: nothing else would find the object then."""
        levels: list[int | str] = []
        sqlite = engine.dialect.name == "sqlite"
        ask = "PRAGMA synchronous" if sqlite else "SHOW synchronous_commit"

        def see(conn: sa.Connection) -> None:
            levels.append(conn.exec_driver_sql(ask).scalar_one())

        flushed, not_yet = (2, 1) if sqlite else ("on", "off")
        sa.event.listen(engine, "commit", see)
        writer.register([instance_record()], T)
        writer.aside(AsideRecord(Outcome.QUARANTINED, "image1", "q/1", 5, "bad", "AE", T), T)
        writer.touched(["1.2.3"], T)
        assert levels == [flushed, flushed, not_yet]


def test_asides_are_recognised_by_content(writer: IndexWriter, reader: IndexReader) -> None:
    aside = AsideRecord(
        Outcome.CONFLICT, "image1", "c/1", 5, "x", "AE", T, "1.2", "1.2.3", sha256="ab"
    )
    writer.aside(aside, T)
    asked = [("1.2.3", "ab"), ("1.2.3", "cd"), ("", "ab")]
    assert [reader.aside_known(*one) for one in asked] == [True, False, False]
