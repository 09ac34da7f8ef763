"""The archive window: from one local time to another, every day, in an IANA time zone.

``20:00`` to ``06:00`` goes over midnight; equal times are always open. Where clocks are put forward
a time that does not exist is the moment of the change; where they are put back, a window begins at
the first of two equal times and ends at the first: local time decides, so a night has 9, 10 or 11
hours.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from raypacs.moments import time_of, zone_of

_DAY = timedelta(days=1)


def is_open(now: float, start: str, end: str, zone: str) -> bool:
    """Whether ``now`` (seconds since the epoch) lies in the window. Raises ValueError."""
    opened, closed = _last(now, start, zone), _last(now, end, zone)
    return time_of(start) == time_of(end) or opened > closed


def next_open(now: float, start: str, end: str, zone: str) -> float:
    """Return when the window opens: ``now`` if it is open. Raises ValueError."""
    return now if is_open(now, start, end, zone) else _next(now, start, zone)


def closes_at(now: float, start: str, end: str, zone: str) -> float:
    """Return when the window that is open closes: infinity for one that always is.

    ``now`` where it is closed. Raises ValueError.
    """
    if not is_open(now, start, end, zone):
        return now
    return float("inf") if time_of(start) == time_of(end) else _next(now, end, zone)


def opened_at(now: float, start: str, zone: str) -> float:
    """Return when the window opened last. Raises ValueError."""
    return _last(now, start, zone)


def length_s(now: float, start: str, end: str, zone: str) -> float:
    """Return how many seconds the window is open in the day to come. Raises ValueError."""
    if time_of(start) == time_of(end):
        return _DAY.total_seconds()
    opens = _next(now, start, zone)
    return _next(opens, end, zone) - opens


def _last(now: float, text: str, zone: str) -> float:
    """Return the last moment, up to ``now``, at which the clock passed a time of day."""
    today = datetime.fromtimestamp(now, zone_of(zone)).date()
    moments = (_moment(today - back * _DAY, text, zone) for back in range(-1, 3))
    return max(moment for moment in moments if moment <= now)


def _next(now: float, text: str, zone: str) -> float:
    today = datetime.fromtimestamp(now, zone_of(zone)).date()
    moments = (_moment(today + ahead * _DAY, text, zone) for ahead in range(-1, 3))
    return min(moment for moment in moments if moment > now)


def _moment(day: date, text: str, zone: str) -> float:
    local = datetime.combine(day, time_of(text), zone_of(zone))
    moment = local.timestamp()
    back = datetime.fromtimestamp(moment, zone_of(zone))
    if back.replace(tzinfo=None) == local.replace(tzinfo=None):
        return moment
    # It was skipped: the moment of the change, where the offset becomes another.
    low, high = moment - _DAY.total_seconds(), moment
    before = _offset(low, zone)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(middle, zone) == before else (low, middle)
    return high


def _offset(moment: float, zone: str) -> timedelta | None:
    return datetime.fromtimestamp(moment, UTC).astimezone(zone_of(zone)).utcoffset()
