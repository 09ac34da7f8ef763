"""How fast instances become rows: the index's registration beside a plain insert."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, compare, limit
from raypacs.index.engine import migrate, open_engine
from raypacs.index.writer import IndexWriter
from raypacs.records import InstanceRecord

NAME = "register"
DESCRIPTION = "instances registered per second in batches, beside executemany into a bare table"

BATCH = 1000
PER_SERIES = 100
PER_STUDY = 500
TARGET_PER_S = 10_000.0
_COLUMNS = ("sop_instance_uid", "study_uid", "series_uid", "sha256", "path", "size_bytes")


def run(quick: bool, count: int | None) -> list[Figure]:
    """Register ``count`` instances (default 50,000; quick 5,000), three times (quick once)."""
    count = count or (5_000 if quick else 50_000)
    records = list(_records(count))
    times = 1 if quick else 3
    ours = [_register(records) for _ in range(times)]
    plain = [_plain_insert(records) for _ in range(times)]
    peer = f"executemany into one bare table, SQLite {sqlite3.sqlite_version}"
    return [
        limit("register", "instances/s", ours, at_least=TARGET_PER_S),
        compare("register beside", "instances/s", ours, beside=peer, beside_runs=plain),
    ]


def _records(count: int) -> Iterator[InstanceRecord]:
    for number in range(count):
        study = f"1.2.826.0.1.3680043.9.7433.1.{number // PER_STUDY}"
        series = f"{study}.{number // PER_SERIES}"
        uid = f"{series}.{number}"
        yield InstanceRecord(
            study_uid=study,
            series_uid=series,
            sop_instance_uid=uid,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            tier="image1",
            path=f"studies/{study}/{series}/{uid}.0123456789abcdef.dcm",
            size_bytes=526_000,
            sha256=hashlib.sha256(uid.encode()).hexdigest(),
            dataset_offset_bytes=334,
            source="MODALITY",
            received_at_s=1_700_000_000.0,
            modality="CT",
            instance_number=number,
            rows=512,
            columns=512,
            frames=1,
            samples=1,
            bits_allocated=16,
            bits_stored=12,
            high_bit=11,
            photometric="MONOCHROME2",
            pixel_offset_bytes=1700,
            pixel_length_bytes=524_288,
            attributes={
                "PatientName": "Generated^Patient",
                "PatientID": f"P{number // PER_STUDY}",
                "StudyDate": "20240131",
                "StudyTime": "101500",
                "SeriesNumber": "1",
                "ContentDate": "20240131",
            },
        )


def _batches(records: list[InstanceRecord]) -> Iterator[list[InstanceRecord]]:
    for start in range(0, len(records), BATCH):
        yield records[start : start + BATCH]


def _register(records: list[InstanceRecord]) -> float:
    """Return instances per second, with everything that registration does."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'index.sqlite'}")
        migrate(engine)
        writer = IndexWriter.claim_epoch(engine, [], 0.0)
        began = time.perf_counter()
        for batch in _batches(records):
            writer.register(batch, 1_700_000_000.0)
        seconds = time.perf_counter() - began
        engine.dispose()
    return len(records) / seconds


def _plain_insert(records: list[InstanceRecord]) -> float:
    """Return instances per second of the least that could be done: six columns, one key."""
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "plain.sqlite")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(
            f"CREATE TABLE instances ({', '.join(_COLUMNS)}, PRIMARY KEY (sop_instance_uid))"
        )
        statement = f"INSERT INTO instances VALUES ({', '.join('?' * len(_COLUMNS))})"
        began = time.perf_counter()
        for batch in _batches(records):
            with connection:
                connection.executemany(
                    statement, [tuple(getattr(one, name) for name in _COLUMNS) for one in batch]
                )
        seconds = time.perf_counter() - began
        connection.close()
    return len(records) / seconds
