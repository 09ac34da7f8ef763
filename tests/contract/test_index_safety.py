"""What the index refuses, outlives and keeps through a power cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from raypacs.errors import IndexRefused
from raypacs.index.engine import migrate, open_engine
from raypacs.index.ledger import TierSeen
from raypacs.index.reader import IndexReader
from raypacs.index.writer import IndexWriter
from raypacs.records import Outcome
from tests.factories import instance_record

T = 1_700_000_000.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite'}")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def writer(engine: sa.Engine) -> IndexWriter:
    writer = IndexWriter.claim_epoch(engine, [], T)
    writer.tiers_seen([TierSeen("image1", 10**9, True)], T)
    return writer


@pytest.fixture
def reader(tmp_path: Path, writer: IndexWriter) -> Iterator[IndexReader]:
    reader = IndexReader(f"sqlite:///{tmp_path / 'index.sqlite'}")
    yield reader
    reader.close()


class TestRefused:
    def test_a_number_too_large_is_refused_without_its_batch(
        self, writer: IndexWriter, reader: IndexReader
    ) -> None:
        good, bad = instance_record(), instance_record(instance_number=10**20)
        with pytest.raises(IndexRefused) as refused:
            writer.register([good, bad], T)
        assert str(refused.value) == "the index cannot hold it: OverflowError"
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
