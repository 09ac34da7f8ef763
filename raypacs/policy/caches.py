"""What is said of a cache: its level, and the figures that the level rests on (B1, B3, B15)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from raypacs.policy.forecast import HOUR_S, HourlyIntake
from raypacs.policy.forecasting import PLAIN, Forecast
from raypacs.policy.levels import Hours, Level, full_bytes, judge, needed_bytes

HORIZONS = (4, 12, 48)
"""Hours after which a forecast is compared with what came."""
_DAY_HOURS = 7 * 24
_PLAIN_PART = 0.1
"""At most this part of a cache is freed at a time while so little is known of what comes."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache now. ``unarchived_bytes``: of studies without a proven library copy.

    ``available_bytes``: not used yet. Room that is promised to processes counts: it is what the
    next studies are written to.
    """

    tier: str
    role: str
    capacity_bytes: int
    available_bytes: int
    unarchived_bytes: int = 0
    pinned_bytes: int = 0
    backlog_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """The level of a cache and its figures, as ``levels.detail`` keeps them.

    ``*_bytes`` of a threshold are its hours at the forecast; ``need_bytes*`` what must be freed
    until the cache has left the level, hysteresis included (0 on green). ``evictable_hours``: until
    nothing is left that may be evicted; None: never.
    """

    level: Level
    hours_p10: float | None
    hours_p50: float | None
    hours_p90: float | None
    method: str
    why: str
    amber_bytes: int
    red_bytes: int
    web_bytes: int
    need_bytes: int
    need_bytes_amber: int
    need_bytes_red: int
    capacity_bytes: int
    available_bytes: int
    unarchived_bytes: int
    pinned_bytes: int
    backlog_bytes: int
    evictable_hours: float | None
    is_night: bool

    def detail(self) -> dict[str, object]:
        """Return the figures as plain JSON; the level has a column of its own."""
        return {name: value for name, value in asdict(self).items() if name != "level"}


def judged(cache: Cache, said: Forecast, before: Level, hours: Hours, *, is_night: bool) -> Judged:
    """Return the level of a cache, given its forecast and the level before.

    The level goes by the middle forecast (p50): thresholds are hours that people chose with a
    margin of their own, and an eviction for the sake of a pessimistic quantile takes studies that
    are still read. The bounds are shown beside it.
    """
    level = judge(
        said.hours_p50,
        before,
        hours,
        role=cache.role,
        available_bytes=cache.available_bytes,
        capacity_bytes=cache.capacity_bytes,
    )

    def need(of: Level) -> int:
        if level.rank < of.rank:
            return 0
        wanted = needed_bytes(hours.of(of, cache.role), hours.hysteresis, said.bytes_until)
        if of is Level.AMBER:
            wanted = max(wanted, said.bytes_until(hours.keep_h))
        if of is Level.RED or cache.role == "web":
            wanted = max(wanted, 2 * full_bytes(cache.capacity_bytes) + 1)
        most = cache.capacity_bytes * _PLAIN_PART if said.method == PLAIN else math.inf
        return max(0, round(min(wanted - cache.available_bytes, most)))

    amber, red = need(Level.AMBER), need(Level.RED)
    held = cache.unarchived_bytes + cache.pinned_bytes
    return Judged(
        level=level,
        hours_p10=said.hours_p10,
        hours_p50=said.hours_p50,
        hours_p90=said.hours_p90,
        method=said.method,
        why=said.why,
        amber_bytes=round(said.bytes_until(hours.amber_h)),
        red_bytes=round(said.bytes_until(hours.red_h)),
        web_bytes=round(said.bytes_until(hours.web_h)),
        need_bytes=max(amber, red),
        need_bytes_amber=amber,
        need_bytes_red=red,
        capacity_bytes=cache.capacity_bytes,
        available_bytes=cache.available_bytes,
        unarchived_bytes=cache.unarchived_bytes,
        pinned_bytes=cache.pinned_bytes,
        backlog_bytes=cache.backlog_bytes,
        evictable_hours=said.hours_until(cache.capacity_bytes - held),
        is_night=is_night,
    )


def rates(
    history: Sequence[HourlyIntake], is_night: Callable[[int], bool], now: float
) -> dict[str, dict[str, float] | None]:
    """Return the three factors of the fill rate of the last seven days: all, day and night.

    ``is_night`` says whether the archive window is open in the hour that begins then (UTC, s).
    Hours without intake count, from the first with any on. None where nothing came at all.
    """
    recent = [hour for hour in history if now - _DAY_HOURS * HOUR_S < hour.hour_s <= now]
    if not any(hour.filled_bytes for hour in recent):
        return {"all": None, "day": None, "night": None}
    elapsed: defaultdict[bool, float] = defaultdict(float)
    for hour_s in range(min(hour.hour_s for hour in recent), int(now), HOUR_S):
        elapsed[is_night(hour_s)] += min(1.0, (now - hour_s) / HOUR_S)
    nights = {hour.hour_s: is_night(hour.hour_s) for hour in recent}
    found = {"all": _rate(recent, sum(elapsed.values()))}
    for name, wanted in (("day", False), ("night", True)):
        ours = [hour for hour in recent if nights[hour.hour_s] is wanted]
        found[name] = _rate(ours, elapsed[wanted])
    return found


def _rate(hours: Sequence[HourlyIntake], elapsed: float) -> dict[str, float] | None:
    objects = sum(hour.objects for hour in hours)
    elapsed = max(1.0, elapsed)
    moved = sum(hour.moved_bytes for hour in hours) / elapsed
    if not objects and not moved:
        return None
    # Objects that only joined studies of an earlier hour still fill the tier: count one study.
    studies = max(1, sum(hour.studies for hour in hours)) if objects else 0
    size = sum(hour.size_bytes for hour in hours)
    return {
        "studies_per_hour": studies / elapsed,
        "objects_per_study": objects / studies if studies else 0.0,
        "bytes_per_object": size / objects if objects else 0.0,
        "moved_bytes_per_hour": moved,
        "bytes_per_hour": size / elapsed + moved,
    }
