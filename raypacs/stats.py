"""Cache statistics as Parquet files: what arrived, what was prepared, how full each cache was.

Files are added, never changed: ``events/day=YYYY-MM-DD/*.parquet`` and ``samples/...`` and so on
below one folder, days in UTC: that of the data folder, or ``statistics/`` of a tier. There is no
PHI in them: studies and series appear as keyed hashes (HMAC-SHA256 with a secret kept in the
index), so that rows of one study can be joined, and a study's rows be found by who holds the
secret. Many small files of a day are merged into few; each says which it stands for, so that a
reader here counts no row twice. All columns: ``docs/statistics.md``.
"""

from __future__ import annotations

import hmac
import io
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypacs.errors import AlreadyExists
from raypacs.storage.filed import Files, Folder

_TIME = pa.timestamp("us", tz="UTC")


def _columns(kind: pa.DataType, *names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, kind) for name in names]


_TEXT, _COUNT, _NUMBER = pa.string(), pa.int64(), pa.float64()
_HOURS = ("hours_p10", "hours_p50", "hours_p90")
_HORIZONS = (4, 12, 48)

EVENTS = pa.schema(
    [
        ("at", _TIME),
        *_columns(_TEXT, "event", "study_key", "series_key", "modality", "sop_class_uid"),
        *_columns(_TEXT, "transfer_syntax_uid", "source", "node", "tier", "form"),
        *_columns(_COUNT, "objects", "frames", "bytes_in", "bytes_raw", "bytes_prepared"),
        ("seconds", _NUMBER),
    ]
)
SAMPLES = pa.schema(
    [
        ("at", _TIME),
        *_columns(_TEXT, "tier", "role"),
        *_columns(_COUNT, "capacity_bytes", "used_bytes", "granted_bytes", "available_bytes"),
        *_columns(_NUMBER, "studies_per_hour", "objects_per_study", "bytes_per_object"),
        *_columns(_NUMBER, "bytes_per_hour", "hours_left"),
        *_columns(_COUNT, "waiting", "running"),
        ("level", _TEXT),
        *_columns(_NUMBER, *_HOURS, "evictable_hours", "amber_h", "red_h", "web_h"),
        *_columns(_NUMBER, "amber_bytes", "red_bytes"),
        *_columns(_COUNT, "archived_bytes", "unarchived_bytes"),
    ]
)
ITEMS = pa.schema(
    [
        ("at", _TIME),
        *_columns(_TEXT, "study_key", "kind", "state", "priority", "node", "source", "error"),
        *_columns(_COUNT, "attempts", "deaths"),
        *_columns(_TIME, "created", "started", "finished"),
    ]
)
FORECASTS = pa.schema(
    [
        ("at", _TIME),
        ("scored", _TIME),
        *_columns(_TEXT, "tier", "method"),
        *_columns(_NUMBER, *_HOURS),
        *_columns(_COUNT, "available_bytes", "backlog_bytes"),
        *_columns(_NUMBER, *(f"bytes_{hours}h" for hours in _HORIZONS)),
        *_columns(_NUMBER, *(f"actual_{hours}h" for hours in _HORIZONS)),
        *_columns(_NUMBER, *(f"error_{hours}h" for hours in _HORIZONS)),
    ]
)
SCHEMAS = {"events": EVENTS, "samples": SAMPLES, "items": ITEMS, "forecasts": FORECASTS}
_MERGED = ".merged.parquet"
_STANDS_FOR = b"raypacs.stands_for"
_LAST = b"raypacs.last"
_EMPTY = {pa.string(): "", pa.int64(): 0, pa.float64(): None}


class Waiting(Protocol):
    """A row of the index's outbox: ``mark`` is random, so a row's file name is its own."""

    @property
    def outbox_id(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def at_s(self) -> float: ...
    @property
    def mark(self) -> str: ...
    @property
    def payload(self) -> dict[str, Any]: ...


def pseudonym(uid: str, secret: bytes) -> str:
    """Return the key that stands for a UID: 16 hexadecimal digits; '' for ''."""
    return hmac.new(secret, uid.encode(), "sha256").hexdigest()[:16] if uid else ""


def append(place: Files | Path, rows: Iterable[Waiting], secret: bytes) -> list[str]:
    """Write rows to one new file per stream and day; return their names once they are durable.

    A file is named after its first row, and says which was its last. Written again after a crash
    (before the outbox was emptied), rows that it has are left out.

    Raises:
        TierFull, TierUnavailable: some may be written; the same rows are to be told again.
    """
    files = _files(place)
    groups: dict[tuple[str, str], list[Waiting]] = {}
    for row in rows:
        day = datetime.fromtimestamp(_at(row), UTC).strftime("%Y-%m-%d")
        groups.setdefault((row.stream, day), []).append(row)
    written = []
    for (stream, day), group in groups.items():
        left = group
        while left:
            first = left[0]
            name = f"{stream}/day={day}/{first.outbox_id:012d}-{first.mark}.parquet"
            try:
                files.write(name, _bytes(stream, left, secret))
                written.append(name)
                left = []
            except AlreadyExists:
                last = _last(files, name)
                left = [row for row in left if row.outbox_id > last]
    return written


def _bytes(stream: str, rows: list[Waiting], secret: bytes) -> bytes:
    schema = SCHEMAS[stream]
    table = pa.Table.from_pylist([_values(row, schema, secret) for row in rows], schema=schema)
    return _parquet(table, {_LAST: str(max(row.outbox_id for row in rows)).encode()})


def _last(files: Files, name: str) -> int:
    told = pq.read_schema(io.BytesIO(files.read(name))).metadata or {}
    # A file of an earlier version does not say so: it has what was told with its first row.
    return int(told.get(_LAST, b"0")) or int(name.rpartition("/")[2].partition("-")[0])


def _at(row: Waiting) -> float:
    """Return when a row's event was: it may be told later, as of a forecast that was scored."""
    told = row.payload.get("at")
    return float(told) if row.stream == "forecasts" and told else row.at_s


def _values(row: Waiting, schema: pa.Schema, secret: bytes) -> dict[str, Any]:
    values: dict[str, Any] = {field.name: _EMPTY.get(field.type) for field in schema}
    values |= {name: value for name, value in row.payload.items() if name in values}
    for field in schema:
        at_s = row.payload.get(f"{field.name}_s")
        if field.type == _TIME and at_s:
            values[field.name] = datetime.fromtimestamp(at_s, UTC)
    values["at"] = datetime.fromtimestamp(_at(row), UTC)
    if "scored" in values:
        values["scored"] = datetime.fromtimestamp(row.at_s, UTC)
    for name in ("study", "series"):
        if f"{name}_key" in values:
            values[f"{name}_key"] = pseudonym(row.payload.get(f"{name}_uid", ""), secret)
    return values


def _parquet(table: pa.Table, told: Mapping[bytes, bytes]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(dict(told)), sink, compression="zstd")
    return sink.getvalue()


def _files(place: Files | Path) -> Files:
    return Folder(place) if isinstance(place, Path) else place


def erase(
    place: Files | Path, keys: Iterable[str], *, after: str, most_files: int
) -> tuple[str, int, int]:
    """Write files anew without the rows of studies, some files at a time.

    ``keys``: pseudonyms of the studies; ``after``: what the call before returned ('': begin).
    Nothing may be merged meanwhile.

    Returns:
        The last file looked at ('': there are no more), rows removed, files written anew.
    """
    files = _files(place)
    wanted = pa.array(sorted(keys), pa.string())
    rows = anew = 0
    names = [name for stream in ("events", "items") for name in files.names(f"{stream}/")]
    left = [name for name in names if name > after]
    for name in left[:most_files]:
        table = _read(files, name)
        gone = pc.is_in(table["study_key"], value_set=wanted)
        count = pc.sum(gone).as_py() or 0
        if count:
            kept = table.filter(pc.invert(gone))
            files.replace(name, _parquet(kept, table.schema.metadata or {}))
            rows, anew = rows + count, anew + 1
    return (left[most_files - 1] if len(left) > most_files else ""), rows, anew


def merge(place: Files | Path, *, before_day: str, most_files: int = 24) -> int:
    """Merge files of one day and stream into one, a few at a time; return how many were merged.

    Only of days before ``before_day`` (YYYY-MM-DD, UTC): nothing is added to them any more, but
    what waited longer. Safe at any moment: the new file says which it stands for, and is durable
    before they are deleted; what a crash left of them is deleted by the next call.
    """
    files = _files(place)
    for stream in SCHEMAS:
        days: dict[str, list[str]] = {}
        for name in files.names(f"{stream}/"):
            days.setdefault(name.split("/")[1], []).append(name)
        for day, names in sorted(days.items()):
            if day >= f"day={before_day}" or len(names) < 2:
                continue
            gone = _stood_for(files, names)
            for name in gone:
                files.delete(name)
            left = [name for name in names if name not in gone]
            small = sorted(left, key=lambda name: (name.endswith(_MERGED), name))[:most_files]
            if len(small) > 1:
                _merge(files, stream, sorted(small))
                return len(small)
            if gone:
                return len(gone)
    return 0


def _merge(files: Files, stream: str, names: list[str]) -> None:
    table = pa.concat_tables([_fitted(_read(files, name), SCHEMAS[stream]) for name in names])
    told = {_STANDS_FOR: json.dumps(names).encode(), _LAST: b"0"}
    stem = names[0].removesuffix(".parquet").removesuffix(".merged")
    # Named after its first file and how many there were: no earlier merge has that name.
    total = sum(_merged_before(files, name) for name in names)
    files.write(f"{stem}-{total}{_MERGED}", _parquet(table, told))
    for name in names:
        files.delete(name)


def _merged_before(files: Files, name: str) -> int:
    if not name.endswith(_MERGED):
        return 1
    tail = name.removesuffix(_MERGED).rpartition("-")[2].partition(".")[0]
    return int(tail) if tail.isdecimal() else 1


def _stood_for(files: Files, names: list[str]) -> set[str]:
    """Return those of ``names`` that a merged file among them stands for."""
    found: set[str] = set()
    for name in names:
        if name.endswith(_MERGED):
            told = pq.read_schema(io.BytesIO(files.read(name))).metadata or {}
            found |= set(json.loads(told.get(_STANDS_FOR, b"[]")))
    return found & set(names)


def _read(files: Files, name: str) -> pa.Table:
    return pq.read_table(io.BytesIO(files.read(name)))


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with exactly these columns: what a file lacks is NULL."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def load_events(place: Files | Path | str) -> pa.Table:
    """Return all events, oldest first: of a folder (``stats``), or of files elsewhere."""
    return load(place, "events")


def load_samples(place: Files | Path | str) -> pa.Table:
    """Return all hourly samples, oldest first."""
    return load(place, "samples")


def load_items(place: Files | Path | str) -> pa.Table:
    """Return all retired work items, oldest first."""
    return load(place, "items")


def load_forecasts(place: Files | Path | str) -> pa.Table:
    """Return all forecasts that were compared with what came, oldest first."""
    return load(place, "forecasts")


def load(place: Files | Path | str, stream: str) -> pa.Table:
    """Return all rows of a stream with its columns of today, oldest first."""
    files = _files(Path(place) if isinstance(place, str) else place)
    names = files.names(f"{stream}/")
    days = {name.rpartition("/")[0] for name in names if name.endswith(_MERGED)}
    for day in sorted(days):
        gone = _stood_for(files, [name for name in names if name.rpartition("/")[0] == day])
        names = [name for name in names if name not in gone]
    tables = [_fitted(_read(files, name), SCHEMAS[stream]) for name in names]
    if not tables:
        return SCHEMAS[stream].empty_table()
    table = pa.concat_tables(tables).combine_chunks()
    # In the order of the names where times are equal; Arrow's own sort is not stable.
    return table.take(pa.array(np.argsort(table["at"].to_numpy(), kind="stable")))
