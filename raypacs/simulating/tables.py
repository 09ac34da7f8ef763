"""What a simulation noted, a row a cache and step, as Parquet or CSV."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from raypacs.errors import ConfigError
from raypacs.policy.simulated_outcome import Outcome

_TIME = pa.timestamp("us", tz="UTC")
COLUMNS = pa.schema(
    [("at", _TIME), ("cache", pa.string()), ("role", pa.string()), ("level", pa.string())]
    + [
        (name, pa.int64())
        for name in (
            "capacity_bytes",
            "used_bytes",
            "available_bytes",
            "unarchived_bytes",
            "evicted_bytes",
            "filled_bytes",
        )
    ]
    + [
        (name, pa.float64())
        for name in ("hours_p10", "hours_p50", "hours_p90", "hours_plain", "evictable_h")
    ]
)
_LEVELS = ("green", "amber", "red")


def table(outcome: Outcome) -> pa.Table:
    """Return the rows. Evicted and filled bytes are sums since the start."""
    parts = []
    for cache in outcome.caches:
        track, count = cache.track, len(cache.track.at_s)
        columns = {
            "at": pa.array([int(at_s * 1e6) for at_s in track.at_s], pa.int64()).cast(_TIME),
            "cache": pa.array([cache.name] * count),
            "role": pa.array([cache.role] * count),
            "level": pa.array([_LEVELS[rank] for rank in track.level]),
            "capacity_bytes": pa.array([cache.capacity_bytes] * count, pa.int64()),
        }
        for field in COLUMNS:
            if field.name not in columns:
                values = getattr(track, field.name)
                columns[field.name] = pa.array(values, field.type, from_pandas=True)
        parts.append(pa.table([columns[name] for name in COLUMNS.names], schema=COLUMNS))
    return pa.concat_tables(parts)


def write(outcome: Outcome, path: Path) -> None:
    """Write the rows to a file whose name ends in .parquet or .csv.

    Raises:
        ConfigError: it ends in something else.
        OSError: it cannot be written.
    """
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table(outcome), path, compression="zstd")
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table(outcome), path)
    else:
        raise ConfigError(f"{path}: rows are written as .parquet or .csv")
