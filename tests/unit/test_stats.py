"""Parquet statistics: appended once, pseudonymous, readable when there is nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raypacs import stats

SECRET = b"secret"
DAY_S = 86_400.0


@dataclass(frozen=True)
class Row:
    outbox_id: int
    stream: str = "events"
    at_s: float = 1_700_000_000.0
    mark: str = "aa"
    payload: dict[str, Any] = field(default_factory=lambda: {"event": "received"})


def test_nothing_written_yet(tmp_path: Path) -> None:
    assert stats.load_events(tmp_path / "none").schema == stats.EVENTS
    assert stats.load_samples(tmp_path / "none").num_rows == 0


def test_one_file_a_stream_and_day(tmp_path: Path) -> None:
    rows = [
        Row(1),
        Row(2),
        Row(3, at_s=1_700_000_000.0 + DAY_S),
        Row(4, stream="samples", payload={"tier": "a"}),
    ]
    written = stats.append(tmp_path, rows, SECRET)
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "events/day=2023-11-14/000000000001-aa.parquet",
        "events/day=2023-11-15/000000000003-aa.parquet",
        "samples/day=2023-11-14/000000000004-aa.parquet",
    ]
    assert stats.load_events(tmp_path).num_rows == 3
    assert stats.load_samples(tmp_path).num_rows == 1


def test_the_same_rows_after_a_crash_replace_themselves(tmp_path: Path) -> None:
    stats.append(tmp_path, [Row(1), Row(2)], SECRET)
    stats.append(tmp_path, [Row(1), Row(2), Row(3)], SECRET)
    assert stats.load_events(tmp_path).num_rows == 3


def test_a_restored_index_that_numbers_again_overwrites_nothing(tmp_path: Path) -> None:
    stats.append(tmp_path, [Row(1)], SECRET)
    stats.append(tmp_path, [Row(1, mark="bb")], SECRET)
    assert stats.load_events(tmp_path).num_rows == 2


def test_values_and_pseudonyms(tmp_path: Path) -> None:
    payload = {
        "event": "prepared",
        "study_uid": "1.2.3",
        "series_uid": "1.2.3.4",
        "modality": "CT",
        "objects": 2,
        "bytes_in": 10,
        "seconds": 0.5,
        "PatientName": "Doe",
    }
    stats.append(tmp_path, [Row(1, payload=payload)], SECRET)
    (row,) = stats.load_events(tmp_path).to_pylist()
    assert row["at"] == datetime.fromtimestamp(1_700_000_000, UTC)
    assert row["study_key"] == stats.pseudonym("1.2.3", SECRET)
    assert row["series_key"] == stats.pseudonym("1.2.3.4", SECRET)
    assert (row["modality"], row["objects"], row["bytes_in"]) == ("CT", 2, 10)
    assert (row["seconds"], row["bytes_raw"], row["form"]) == (0.5, 0, "")
    assert "Doe" not in str(row)


def test_pseudonyms_need_the_secret() -> None:
    assert stats.pseudonym("1.2", SECRET) != stats.pseudonym("1.2", b"other")
    assert stats.pseudonym("1.2", SECRET) == stats.pseudonym("1.2", SECRET)
    assert stats.pseudonym("", SECRET) == ""


def test_a_part_file_of_a_crash_is_not_read(tmp_path: Path) -> None:
    (written,) = stats.append(tmp_path, [Row(1)], SECRET)
    written.with_name(".000000000009-cc.parquet.part").write_bytes(b"half")
    assert stats.load_events(tmp_path).num_rows == 1
