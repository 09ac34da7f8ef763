"""Cache statistics as Parquet files: what arrived, what was prepared, how full each cache was.

Files are appended, never changed: ``events/day=YYYY-MM-DD/*.parquet`` and ``samples/...`` below
one folder, days in UTC. There is no PHI in them: studies and series appear as keyed hashes
(HMAC-SHA256 with a secret kept in the index), so that rows of one study can be joined, and a
study's rows be found by who holds the secret.

Columns of events (one row sums up objects of one series, batch and kind):

=====================  ======================================================================
at                     time, UTC
event                  received, prepared, conflict, quarantined, retry, failed, deleted
study_key, series_key  pseudonyms, 16 hexadecimal digits, '' where it does not apply
modality               Modality (0008,0060)
sop_class_uid          SOP Class UID
transfer_syntax_uid    as received, or of the prepared form
source                 calling AE title, or other door
node, tier             where it was done, where the bytes went
form                   prepared as: htj2k or copied
objects, frames        how many
bytes_in               as received
bytes_raw              of the uncompressed pixels
bytes_prepared         of the prepared frames and copies
seconds                working time of the preparation
=====================  ======================================================================

Columns of samples (one row a tier and hour; also one when the master stops):

=====================  ======================================================================
at, tier, role         when, which tier
capacity_bytes         what raypacs may use
used_bytes             durable and registered
granted_bytes          promised to nodes
available_bytes        the rest
studies_per_hour       fill rate as measured, with objects_per_study, bytes_per_object and their
                       product bytes_per_hour; NULL without history
hours_left             available_bytes / bytes_per_hour, NULL without history
waiting, running       work items in the queue
=====================  ======================================================================

Columns of items (one row a work item that ended and left the task list):

=====================  ======================================================================
at                     when it left the task list
study_key              pseudonym of its study
kind, state, priority  kind of work, how it ended, its last priority
node                   where it ran last
source                 calling AE title of its study, or other door
error                  kind of its error, 'other' where that has no name, '' without one
attempts, deaths       tries begun; attempts in a row whose node died, at its end
created, started,      when it was made, when its last attempt began (NULL: none did), when it
finished               ended
=====================  ======================================================================
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

_TIME = pa.timestamp("us", tz="UTC")

EVENTS = pa.schema(
    [("at", _TIME)]
    + [
        (name, pa.string())
        for name in (
            "event",
            "study_key",
            "series_key",
            "modality",
            "sop_class_uid",
            "transfer_syntax_uid",
            "source",
            "node",
            "tier",
            "form",
        )
    ]
    + [
        (name, pa.int64())
        for name in ("objects", "frames", "bytes_in", "bytes_raw", "bytes_prepared")
    ]
    + [("seconds", pa.float64())]
)
SAMPLES = pa.schema(
    [("at", _TIME), ("tier", pa.string()), ("role", pa.string())]
    + [
        (name, pa.int64())
        for name in ("capacity_bytes", "used_bytes", "granted_bytes", "available_bytes")
    ]
    + [
        (name, pa.float64())
        for name in (
            "studies_per_hour",
            "objects_per_study",
            "bytes_per_object",
            "bytes_per_hour",
            "hours_left",
        )
    ]
    + [("waiting", pa.int64()), ("running", pa.int64())]
)
ITEMS = pa.schema(
    [("at", _TIME)]
    + [
        (name, pa.string())
        for name in ("study_key", "kind", "state", "priority", "node", "source", "error")
    ]
    + [("attempts", pa.int64()), ("deaths", pa.int64())]
    + [("created", _TIME), ("started", _TIME), ("finished", _TIME)]
)
SCHEMAS = {"events": EVENTS, "samples": SAMPLES, "items": ITEMS}
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


def append(folder: Path, rows: Iterable[Waiting], secret: bytes) -> list[Path]:
    """Write rows to one new file per stream and day; return once they are durable.

    A file is named after its first row. Written again after a crash (before the outbox was
    emptied), the same rows meet the same name and replace themselves.
    """
    groups: dict[tuple[str, str], list[Waiting]] = {}
    for row in rows:
        day = datetime.fromtimestamp(row.at_s, UTC).strftime("%Y-%m-%d")
        groups.setdefault((row.stream, day), []).append(row)
    written = []
    for (stream, day), group in groups.items():
        first = group[0]
        path = folder / stream / f"day={day}" / f"{first.outbox_id:012d}-{first.mark}.parquet"
        table = pa.Table.from_pylist(
            [_values(row, SCHEMAS[stream], secret) for row in group], schema=SCHEMAS[stream]
        )
        _write(path, table)
        written.append(path)
    return written


def _values(row: Waiting, schema: pa.Schema, secret: bytes) -> dict[str, Any]:
    values: dict[str, Any] = {field.name: _EMPTY.get(field.type) for field in schema}
    values |= {name: value for name, value in row.payload.items() if name in values}
    for field in schema:
        at_s = row.payload.get(f"{field.name}_s")
        if field.type == _TIME and at_s:
            values[field.name] = datetime.fromtimestamp(at_s, UTC)
    values["at"] = datetime.fromtimestamp(row.at_s, UTC)
    for name in ("study", "series"):
        if f"{name}_key" in values:
            values[f"{name}_key"] = pseudonym(row.payload.get(f"{name}_uid", ""), secret)
    return values


def _write(path: Path, table: pa.Table) -> None:
    """Write beside the name, flush, rename, flush the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.part")
    with hidden.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    hidden.replace(path)
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def erase(
    folder: Path, keys: Iterable[str], *, after: str, most_files: int
) -> tuple[str, int, int]:
    """Write files anew without the rows of studies, some files at a time.

    ``keys``: pseudonyms of the studies; ``after``: what the call before returned ('': begin).

    Returns:
        The last file looked at ('': there are no more), rows removed, files written anew.
    """
    wanted = pa.array(sorted(keys), pa.string())
    rows = files = looked = 0
    for path in _named(folder, after):
        if looked == most_files:
            return after, rows, files
        looked, after = looked + 1, str(path.relative_to(folder))
        gone = pc.is_in(_read(path, ["study_key"])["study_key"], value_set=wanted)
        count = pc.sum(gone).as_py() or 0
        if count:
            _write(path, _read(path).filter(pc.invert(gone)))
            rows, files = rows + count, files + 1
    return "", rows, files


def _named(folder: Path, after: str) -> Iterator[Path]:
    """Yield files with keys of studies behind one, in order, a day at a time."""
    for stream in ("events", "items"):
        for day in sorted((folder / stream).glob("day=*")):
            if str(day.relative_to(folder)) >= str(Path(after).parent):
                names = sorted(path for path in day.glob("*.parquet") if path.name[0] != ".")
                yield from (path for path in names if str(path.relative_to(folder)) > after)


def _read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    return pq.read_table(path, columns=columns, partitioning=None)


def load_events(folder: Path | str) -> pa.Table:
    """Return all events below ``folder`` (the ``stats`` folder), oldest first."""
    return _load(Path(folder), "events")


def load_samples(folder: Path | str) -> pa.Table:
    """Return all hourly samples below ``folder`` (the ``stats`` folder), oldest first."""
    return _load(Path(folder), "samples")


def load_items(folder: Path | str) -> pa.Table:
    """Return all retired work items below ``folder`` (the ``stats`` folder), oldest first."""
    return _load(Path(folder), "items")


def _load(folder: Path, stream: str) -> pa.Table:
    files: Sequence[Path] = sorted((folder / stream).glob("day=*/*.parquet"))
    files = [path for path in files if not path.name.startswith(".")]
    if not files:
        return SCHEMAS[stream].empty_table()
    data = ds.dataset([str(path) for path in files], format="parquet", schema=SCHEMAS[stream])
    # Without threads, files come in the order of their names; Arrow's own sort is not stable.
    table = data.to_table(use_threads=False).combine_chunks()
    return table.take(pa.array(np.argsort(table["at"].to_numpy(), kind="stable")))
