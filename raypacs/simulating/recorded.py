"""Loads as they were recorded: the events of the statistics (Parquet)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from raypacs import stats
from raypacs.config import Settings
from raypacs.errors import ConfigError
from raypacs.policy.load import Load, of_rows
from raypacs.policy.simulation import WEB_RATIO
from raypacs.storage.filed import Files, statistics_of
from raypacs.storage.tier import open_tier

Place = Files | Path | None
"""Where statistics lie; None: nowhere."""


def place_of(settings: Settings, folder: Path) -> Place:
    """Return where the statistics of a cluster lie: on the tier that is named, else in ``folder``.

    Raises:
        TierUnavailable: that tier cannot be reached.
    """
    for tier in settings.tiers:
        if tier.name == settings.statistics_tier:
            where = urlsplit(tier.url)
            if where.scheme in ("", "file") and not Path(unquote(where.path)).is_dir():
                return None  # not of this host; opening it would make it
            return statistics_of(folder, open_tier(tier))
    return folder if folder.is_dir() else None


def load(place: Place, days: float) -> Load:
    """Return the recorded load; the last ``days`` (0: all) are to be simulated.

    Raises:
        ConfigError: nothing is recorded there.
    """
    if place is None or (isinstance(place, Path) and not place.is_dir()):
        raise ConfigError(f"no statistics are recorded{f' in {place}' if place else ''}")
    try:
        return of_rows(_rows(place), days=days)
    except ValueError as exc:
        raise ConfigError(f"statistics: {exc}") from exc


def web_ratio(place: Place) -> float:
    """Return bytes prepared a byte received, as recorded; a usual value without any."""
    if place is None or (isinstance(place, Path) and not place.is_dir()):
        return WEB_RATIO
    table = stats.load_events(place)
    prepared = table["event"].to_numpy() == "prepared"
    came = int(table["bytes_in"].to_numpy()[prepared].sum())
    made = int(table["bytes_prepared"].to_numpy()[prepared].sum())
    return made / came if came and made else WEB_RATIO


def _rows(place: Files | Path) -> Iterator[tuple[float, str, str, str, int, int]]:
    table = stats.load_events(place)
    names = ("event", "study_key", "modality", "objects", "bytes_in")
    event, key, modality, objects, size = (table[name].to_pylist() for name in names)
    at_s = table["at"].to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
    for row, what in enumerate(event):
        if what in ("received", "accessed"):
            yield (
                float(at_s[row]),
                what,
                key[row] or "",
                modality[row] or "",
                int(objects[row] or 0),
                int(size[row] or 0),
            )
