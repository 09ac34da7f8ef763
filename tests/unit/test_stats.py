"""Parquet statistics: appended once, pseudonymous, readable when there is nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from raypacs import layout, stats
from raypacs.config import TierSettings
from raypacs.storage.filed import Folder, OnTier, statistics_of
from raypacs.storage.tier import open_tier

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
    assert written == [
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
    (tmp_path / written).with_name(".000000000009-cc.parquet.part").write_bytes(b"half")
    assert stats.load_events(tmp_path).num_rows == 1


def on_a_tier(tmp_path: Path) -> OnTier:
    url = (tmp_path / "cold").as_uri()
    return OnTier(open_tier(TierSettings(name="cold", role="library", url=url)))


class TestOnATier:
    def test_the_same_on_a_tier_as_in_a_folder(self, tmp_path: Path) -> None:
        files = on_a_tier(tmp_path)
        (name,) = stats.append(files, [Row(1), Row(2)], SECRET)
        assert stats.load_events(files).num_rows == 2
        assert layout.is_object(layout.statistics(name))
        assert (tmp_path / "cold" / "statistics" / name).is_file()
        # As after a crash, when more rows wait by then.
        stats.append(files, [Row(1), Row(2), Row(3)], SECRET)
        assert stats.load_events(files).num_rows == 3
        stats.append(files, [Row(1), Row(2), Row(3)], SECRET)
        assert stats.load_events(files).num_rows == 3

    def test_what_was_written_to_the_folder_before_is_there_too(self, tmp_path: Path) -> None:
        stats.append(tmp_path / "stats", [Row(1)], SECRET)
        tier = open_tier(
            TierSettings(name="cold", role="library", url=(tmp_path / "cold").as_uri())
        )
        both = statistics_of(tmp_path / "stats", tier)
        stats.append(both, [Row(2)], SECRET)
        assert stats.load_events(both).num_rows == 2
        assert stats.load_events(tmp_path / "stats").num_rows == 1
        assert stats.merge(both, before_day="2024-01-01") == 2
        assert stats.load_events(tmp_path / "stats").num_rows == 0
        assert stats.load_events(both).num_rows == 2

    def test_rows_of_a_study_are_erased_there(self, tmp_path: Path) -> None:
        files = on_a_tier(tmp_path)
        rows = [Row(n, payload={"event": "received", "study_uid": f"1.{n}"}) for n in (1, 2, 3)]
        stats.append(files, rows, SECRET)
        key = stats.pseudonym("1.2", SECRET)
        assert stats.erase(files, [key], after="", most_files=5) == ("", 1, 1)
        assert key not in stats.load_events(files)["study_key"].to_pylist()
        assert stats.load_events(files).num_rows == 2
        assert stats.erase(files, [key], after="", most_files=5) == ("", 0, 0)


class TestMerging:
    def test_small_files_of_old_days_become_one(self, tmp_path: Path) -> None:
        for number in range(1, 31):
            stats.append(tmp_path, [Row(number)], SECRET)
        stats.append(tmp_path, [Row(90, at_s=1_700_000_000.0 + 9 * DAY_S)], SECRET)
        before = stats.load_events(tmp_path)
        while stats.merge(tmp_path, before_day="2023-11-20", most_files=8):
            assert stats.load_events(tmp_path).equals(before)
        names = [path.name for path in (tmp_path / "events").rglob("*.parquet")]
        assert len(names) == 2
        assert stats.load_events(tmp_path).equals(before)

    def test_a_crash_before_the_old_ones_are_gone_counts_nothing_twice(
        self, tmp_path: Path
    ) -> None:
        for number in (1, 2, 3):
            stats.append(tmp_path, [Row(number)], SECRET)
        before = stats.load_events(tmp_path)

        class Crashing(Folder):
            def delete(self, name: str) -> None:
                raise OSError("power cut")

        with pytest.raises(OSError, match="power cut"):
            stats.merge(Crashing(tmp_path), before_day="2024-01-01")
        assert stats.load_events(tmp_path).equals(before)
        assert stats.merge(tmp_path, before_day="2024-01-01") == 3
        assert stats.load_events(tmp_path).equals(before)
        assert len(list(tmp_path.rglob("*.parquet"))) == 1

    def test_files_of_an_earlier_version_are_loaded_and_merged(self, tmp_path: Path) -> None:
        stats.append(tmp_path, [Row(2, "samples", payload={"tier": "a", "level": "red"})], SECRET)
        old = pa.table(
            {"at": pa.array([datetime(2023, 11, 14, tzinfo=UTC)], stats.SAMPLES.field("at").type)}
        ).append_column("tier", pa.array(["b"]))
        pq.write_table(old, tmp_path / "samples/day=2023-11-14/000000000001-aa.parquet")
        for _ in range(2):
            found = {row["tier"]: row["level"] for row in stats.load_samples(tmp_path).to_pylist()}
            assert found == {"a": "red", "b": None}
            stats.merge(tmp_path, before_day="2024-01-01")


class TestOtherReaders:
    """What analysts use finds the same rows, and the day as a column."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = [
            Row(n, at_s=1_700_000_000.0 + n * DAY_S, payload={"event": "received", "objects": n})
            for n in (1, 2, 3)
        ]
        stats.append(tmp_path, rows, SECRET)
        told = {"at": 1_700_000_000.0, "tier": "image1", "hours_p50": 30.0, "error_4h": -1.5}
        stats.append(tmp_path, [Row(9, "forecasts", payload=told)], SECRET)
        return tmp_path

    def test_pyarrow(self, folder: Path) -> None:
        table = ds.dataset(folder / "events", partitioning="hive").to_table()
        assert sorted(table["objects"].to_pylist()) == [1, 2, 3]
        assert "day" in table.column_names

    def test_pandas(self, folder: Path) -> None:
        frame = pd.read_parquet(folder / "events", filters=[("day", ">=", "2023-11-16")])
        assert sorted(frame["objects"]) == [2, 3]
        assert str(frame["at"].dt.tz) == "UTC"

    def test_duckdb(self, folder: Path) -> None:
        duckdb = pytest.importorskip("duckdb")
        found = duckdb.sql(
            f"SELECT day, sum(objects) FROM read_parquet('{folder}/events/*/*.parquet', "
            "hive_partitioning=true, union_by_name=true) GROUP BY day ORDER BY day"
        ).fetchall()
        assert [(str(day), int(count)) for day, count in found] == [
            *(("2023-11-15", 1), ("2023-11-16", 2), ("2023-11-17", 3))
        ]

    def test_forecasts(self, folder: Path) -> None:
        (row,) = stats.load_forecasts(folder).to_pylist()
        assert (row["tier"], row["hours_p50"], row["error_4h"]) == ("image1", 30.0, -1.5)
        assert row["at"] == datetime.fromtimestamp(1_700_000_000, UTC)
