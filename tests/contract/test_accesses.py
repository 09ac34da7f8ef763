"""Accesses in the statistics: what a simulation replays beside arrivals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs import stats
from raypacs.index.engine import open_engine
from raypacs.index.ledger import TierSeen
from raypacs.index.writer import IndexWriter
from raypacs.simulating import recorded
from tests.factories import instance_record

T = 1_700_000_000.0


@pytest.fixture
def writer(database_url: str) -> Iterator[IndexWriter]:
    engine = open_engine(database_url)
    writer = IndexWriter.claim_epoch(engine, [], T, chance=lambda: 1.0)
    writer.tiers_seen([TierSeen("image1", 10**10, True)], T)
    yield writer
    engine.dispose()


def test_a_study_is_accessed_once_in_ten_minutes_and_a_simulation_replays_it(
    writer: IndexWriter, tmp_path: Path
) -> None:
    writer.register([instance_record(study="1.2.3"), instance_record(study="1.2.4")], T)
    for after_s in (700, 710, 720, 1500):
        writer.touched(["1.2.3", "1.2.9"], T + after_s)
    rows = writer.outbox(T + 2000)
    accessed = [row for row in rows if row.payload.get("event") == "accessed"]
    assert [(row.at_s - T, row.payload["study_uid"]) for row in accessed] == [
        (700, "1.2.3"),
        (1500, "1.2.3"),
    ]
    stats.append(tmp_path, rows, b"secret")
    load = recorded.load(tmp_path, 0)
    assert len(load.arrived_s) == 2
    assert load.reads.tolist() == [load.reads[0]] * 2
    assert [round(at_s - T) for at_s in load.read_s] == [700, 1500]
    assert load.size_bytes.min() > 0
