"""Hours by the clock on the wall: what happens at eight happens at eight in summer too."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from raypacs.errors import ConfigError

HOUR_S = 3600
_DAY_S = 24 * HOUR_S
_YEAR_S = 366 * _DAY_S

Hours = npt.NDArray[np.int64]


def wall_hours(hours_s: Hours, time_zone: str) -> Hours:
    """Return the number of the local hour (counted like UTC hours since 1970) of each UTC hour.

    The hour that is repeated in autumn has one number twice; the one left out in spring none.

    Raises:
        ConfigError: no such time zone.
    """
    if not len(hours_s):
        return hours_s
    years = range(int(hours_s[0]) // _YEAR_S, int(hours_s[-1]) // _YEAR_S + 1)
    parts = [_changes(time_zone, year) for year in years]
    begins = np.concatenate([part[0] for part in parts])
    offsets = np.concatenate([part[1] for part in parts])
    offset = offsets[np.searchsorted(begins, hours_s, side="right") - 1]
    return np.asarray((hours_s + offset) // HOUR_S, np.int64)


@lru_cache(maxsize=256)
def _changes(time_zone: str, year: int) -> tuple[Hours, Hours]:
    """Return since when (UTC, seconds) which offset (seconds) holds, for 366 days."""
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"there is no time zone {time_zone!r}", time_zone=time_zone) from None

    def offset(at_s: int) -> int:
        told = datetime.fromtimestamp(at_s, zone).utcoffset()
        return int(told.total_seconds()) if told is not None else 0

    first = year * _YEAR_S
    begins, offsets = [first], [offset(first)]
    for day_s in range(first, first + _YEAR_S, _DAY_S):
        last = min(day_s + _DAY_S, first + _YEAR_S) - HOUR_S // 4
        if offset(last) == offsets[-1]:
            continue
        low, high = day_s - HOUR_S // 4, last
        while high - low > HOUR_S // 4:  # clocks change at a quarter of an hour
            middle = (low + high) // 2 // (HOUR_S // 4) * (HOUR_S // 4)
            if offset(middle) == offsets[-1]:
                low = middle
            else:
                high = middle
        begins.append(high)
        offsets.append(offset(high))
    return np.array(begins, np.int64), np.array(offsets, np.int64)
