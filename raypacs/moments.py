"""Times as people write them, into seconds since the Unix epoch in UTC; and what is no time.

Every time that somebody asks for is checked here, so that none comes into the index that cannot be
shown: milliseconds in place of seconds, infinity, not a number.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, time, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# The end of year 9999, the last that a date of DICOM and of Python can be in.
END_S = 253_402_300_800.0
_TIME_OF_DAY = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


def seconds_of(value: object, zone: tzinfo | None = UTC) -> float:
    """Return the time that ``value`` is: ISO 8601, or seconds since the Unix epoch.

    ``zone`` is that of a time without one; None: the local one.

    Raises:
        ValueError: it is neither, or before 1970 or after year 9999.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r:.80} is neither ISO 8601 nor seconds since 1970")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = _of_iso(str(value), zone)
    return checked(number)


def checked(seconds: float) -> float:
    """Return ``seconds`` since the Unix epoch.

    Raises:
        ValueError: not a number, infinite, before 1970 or after year 9999.
    """
    if not (math.isfinite(seconds) and 0 <= seconds < END_S):
        raise ValueError(f"{seconds!r} is not in seconds between 1970 and the end of year 9999")
    return seconds


def time_of(text: str) -> time:
    """Return a time of day, written ``HH:MM``. Raises ValueError: it is none."""
    found = _TIME_OF_DAY.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r:.80} is no time of day: write HH:MM, 00:00 to 23:59")
    return time(int(found[1]), int(found[2]))


@lru_cache(maxsize=8)
def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name. Raises ValueError: there is none of it."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(
            f"{name!r:.80} is no time zone: write its IANA name, such as Europe/Berlin or UTC"
        ) from exc


def told(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC; one that cannot be, as the number that it is."""
    try:
        return datetime.fromtimestamp(checked(seconds), UTC).isoformat(timespec="seconds")
    except ValueError:
        return f"{seconds!r} s"


def _of_iso(text: str, zone: tzinfo | None) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r:.80} is neither ISO 8601 nor seconds since 1970") from None
