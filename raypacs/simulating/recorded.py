"""Loads as they were recorded: the events of the statistics (Parquet)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raypacs import stats
from raypacs.errors import ConfigError
from raypacs.policy.load import Load, of_rows
from raypacs.policy.simulation import WEB_RATIO


def load(folder: Path | None, days: float) -> Load:
    """Return the recorded load below ``folder``; the last ``days`` (0: all) are to be simulated.

    Raises:
        ConfigError: nothing is recorded there.
    """
    if folder is None or not folder.is_dir():
        raise ConfigError(f"no statistics are recorded{f' in {folder}' if folder else ''}")
    try:
        return of_rows(_rows(folder), days=days)
    except ValueError as exc:
        raise ConfigError(f"{folder}: {exc}") from exc


def web_ratio(folder: Path | None) -> float:
    """Return bytes prepared a byte received, as recorded; a usual value without any."""
    if folder is None or not folder.is_dir():
        return WEB_RATIO
    table = stats.load_events(folder)
    prepared = table["event"].to_numpy() == "prepared"
    came = int(table["bytes_in"].to_numpy()[prepared].sum())
    made = int(table["bytes_prepared"].to_numpy()[prepared].sum())
    return made / came if came and made else WEB_RATIO


def _rows(folder: Path) -> Iterator[tuple[float, str, str, str, int, int]]:
    table = stats.load_events(folder)
    names = ("event", "study_key", "modality", "objects", "bytes_in")
    event, key, modality, objects, size = (table[name].to_pylist() for name in names)
    at_s = table["at"].to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
    for place, what in enumerate(event):
        if what in ("received", "accessed"):
            yield (
                float(at_s[place]),
                what,
                key[place] or "",
                modality[place] or "",
                int(objects[place] or 0),
                int(size[place] or 0),
            )
