"""One cache of a simulation: its bytes, its studies, its forecast and its level.

Whatever decides here is what the master decides with: forecast, levels, and the choice of what
leaves. Times are seconds since the epoch (UTC), sizes bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from raypacs.autopilot.staging import StagingRule
from raypacs.policy import caches, eviction
from raypacs.policy.caching import Order
from raypacs.policy.eviction import Candidate
from raypacs.policy.forecast import HOUR_S, HourlyIntake, fill_rate, hours_left
from raypacs.policy.forecasting import KEPT_HOURS, Forecast, forecast_hours
from raypacs.policy.levels import Hours, Level
from raypacs.policy.load import Ints

HISTORY_HOURS = 26 * 7 * 24
"""Hours before the start that forecasts see."""
_PLAIN_HOURS = 8 * 24


@dataclass(frozen=True, slots=True)
class Watermarks:
    """What caches without a forecast do: at ``high`` percent full, free until ``low`` percent."""

    high: float
    low: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high <= 100:
            raise ValueError(f"watermarks {self.high:g}/{self.low:g}: 0 < low < high <= 100")

    def __str__(self) -> str:
        return f"watermark {self.high:g}/{self.low:g} %"


@dataclass
class Track:
    """What is noted of a cache, a value a step."""

    at_s: list[float] = field(default_factory=list)
    used_bytes: list[int] = field(default_factory=list)
    unarchived_bytes: list[int] = field(default_factory=list)
    evicted_bytes: list[int] = field(default_factory=list)
    level: list[int] = field(default_factory=list)
    hours_p10: list[float] = field(default_factory=list)
    hours_p50: list[float] = field(default_factory=list)
    hours_p90: list[float] = field(default_factory=list)
    hours_plain: list[float] = field(default_factory=list)
    evictable_h: list[float] = field(default_factory=list)
    """Hours until nothing is left that may be evicted (B15)."""
    available_bytes: list[int] = field(default_factory=list)
    filled_bytes: list[int] = field(default_factory=list)
    """All that came in since the beginning, whatever left."""


class Cache:
    """A tier of role image or web in a simulation."""

    def __init__(self, name: str, role: str, capacity_bytes: int, order: Order, count: int) -> None:
        self.name = name
        self.role = role
        self.capacity_bytes = capacity_bytes
        self.order = order
        self.present = np.zeros(count, dtype=bool)
        self.used_bytes = 0
        self.filled_bytes = 0
        self.fullest_bytes = 0
        self.evicted = 0
        self.evicted_bytes = 0
        self.gone: list[int] = []
        """Studies that left in the last step."""
        self.reasons: dict[str, int] = {}
        self.level = Level.GREEN
        self.changes: list[tuple[float, Level]] = []
        self.history: list[HourlyIntake] = []  # hours that are over, quiet ones as well
        self._taken = np.zeros(1)  # bytes of each of them, and room for more
        self._busiest = 0.0
        self._busiest_s = -1.0
        self.forecast: Forecast | None = None
        self.found: caches.Judged | None = None
        self.track = Track()
        self._plain: float | None = None
        self._forecast_s = -1.0
        self._going: deque[tuple[float, int]] = deque()  # (when, bytes) in their grace period
        self._hour = [0, 0, 0, 0, 0]
        self._freeing = False

    @property
    def available_bytes(self) -> int:
        """Room left."""
        return self.capacity_bytes - self.used_bytes

    def take(self, study: int, objects: int, size_bytes: int, now: float, *, new: bool) -> None:
        """Put a study in; the caller has seen that there is room."""
        if size_bytes > self.available_bytes:
            raise AssertionError(f"{self.name}: {size_bytes} bytes do not fit")
        self._close_hours(now)
        self.present[study] = True
        self.used_bytes += size_bytes
        self.filled_bytes += size_bytes
        self.fullest_bytes = max(self.fullest_bytes, self.used_bytes)
        if new:
            self._hour[1] += 1
            self._hour[2] += objects
            self._hour[3] += size_bytes
        else:
            self._hour[4] += size_bytes
        self.order.add(study)

    def begin(self, history: Sequence[HourlyIntake]) -> None:
        """Take hours before the start, without gaps, oldest first."""
        self.history = list(history)
        self._taken = np.array([float(one.filled_bytes) for one in history] or [0.0])

    def start_counting(self) -> None:
        """Forget what was counted; what the cache holds and how it stands remains."""
        self.track = Track()
        self.changes = []
        self.reasons = {}
        self.evicted = self.evicted_bytes = self.filled_bytes = 0
        self.fullest_bytes = self.used_bytes

    def free_due(self, now: float) -> None:
        """Let bytes go whose grace period is over."""
        while self._going and self._going[0][0] <= now:
            self.used_bytes -= self._going.popleft()[1]

    def look_ahead(self, now: float, time_zone: str, every_s: float) -> None:
        """Make a forecast if one is due."""
        self._close_hours(now)
        if self.forecast is not None and now - self._forecast_s < every_s:
            return
        self._forecast_s = now
        recent = self.history[-_PLAIN_HOURS:]
        self._plain = hours_left(self.available_bytes, fill_rate(recent, now))
        over = len(self.history)
        first = max(0, over - KEPT_HOURS)
        taken = self._taken[first : over + 1].copy()
        if len(taken) == over - first:
            taken = np.append(taken, 0.0)
        taken[-1] = self._hour[3] + self._hour[4]
        first_s = self._hour[0] - HOUR_S * (over - first)
        self.forecast = forecast_hours(
            first_s, taken, now, self.available_bytes, time_zone=time_zone
        )

    def is_far(self, now: float, hours: float) -> bool:
        """Whether there is more than twice the room that was ever filled in so many hours.

        No forecast comes near a level then. For comparisons only: raypacs itself always looks.
        """
        self._close_hours(now)
        if now - self._busiest_s >= 24 * HOUR_S:
            self._busiest_s = now
            sums = np.concatenate(([0.0], np.cumsum(self._taken[: len(self.history)])))
            span = min(len(sums) - 1, int(hours * 1.1) + 1)
            self._busiest = float(np.max(sums[span:] - sums[: len(sums) - span], initial=0.0))
        is_far = self._busiest > 0 and self.available_bytes > 2 * self._busiest
        if is_far:
            self.forecast, self.found, self._plain = None, None, None
            if self.level is not Level.GREEN or not self.changes:
                self.changes.append((now, Level.GREEN))
            self.level = Level.GREEN
        return is_far

    def judge(self, now: float, hours: Hours, unarchived_bytes: int, *, is_night: bool) -> None:
        """Set the level by the forecast, as the master does."""
        if self.forecast is None:
            return
        held = unarchived_bytes if self.role == "image" else 0
        as_it_is = caches.Cache(
            tier=self.name,
            role=self.role,
            capacity_bytes=self.capacity_bytes,
            available_bytes=self.available_bytes,
            unarchived_bytes=held,
        )
        self.found = caches.judged(as_it_is, self.forecast, self.level, hours, is_night=is_night)
        if self.found.level is not self.level or not self.changes:
            self.changes.append((now, self.found.level))
        self.level = self.found.level

    def need(self, level: Level) -> int:
        """Return the bytes to free until ``level`` is left behind, less what is on its way out."""
        if self.found is None or level is Level.GREEN:
            return 0
        red = level is Level.RED and self.role != "web"
        wanted = self.found.need_bytes_red if red else self.found.need_bytes_amber
        if self.role == "web":
            wanted = self.found.need_bytes
        return wanted - self._on_the_way

    def evict(
        self,
        now: float,
        rules: Sequence[StagingRule],
        candidate: Callable[[int], Candidate],
        grace_s: float,
    ) -> None:
        """Evict as the master does: amber rules first, need evaluated again, then red ones."""
        is_web = self.role == "web"
        for level in eviction.passes(self.level)[: 1 if is_web else None]:
            need = self.need(level)
            if need <= 0:
                continue
            walk = self.order.walk()
            page = eviction.choose_page(
                map(candidate, walk), rules, level, need, now, is_web=is_web
            )
            for choice in page:
                self._out(int(choice.candidate.study_uid), choice.size_bytes, now + grace_s)
                self.reasons[choice.rule] = self.reasons.get(choice.rule, 0) + 1
            _close(walk)

    def evict_by_watermarks(
        self, now: float, marks: Watermarks, candidate: Callable[[int], Candidate], grace_s: float
    ) -> None:
        """Evict as a cache with fixed percentages does; nothing that is not archived either."""
        used = self.used_bytes - self._on_the_way
        if used > self.capacity_bytes * marks.high / 100:
            self._freeing = True
        need = used - self.capacity_bytes * marks.low / 100
        if not self._freeing or need <= 0:
            self._freeing = False
            return
        walk = self.order.walk()
        for study in walk:
            if need <= 0:
                break
            found = candidate(study)
            if self.role == "web" or found.may_go:
                self._out(study, found.size_bytes, now + grace_s)
                self.reasons[str(marks)] = self.reasons.get(str(marks), 0) + 1
                need -= found.size_bytes
        _close(walk)

    def note(self, now: float, unarchived_bytes: int) -> None:
        """Write down how it stands at the end of a step."""
        track, seen, found = self.track, self.forecast, self.found
        track.at_s.append(now)
        track.used_bytes.append(self.used_bytes)
        track.unarchived_bytes.append(unarchived_bytes)
        track.evicted_bytes.append(self.evicted_bytes)
        track.level.append(self.level.rank)
        track.available_bytes.append(self.available_bytes)
        track.filled_bytes.append(self.filled_bytes)
        for values, hours in (
            (track.hours_p10, seen.hours_p10 if seen else None),
            (track.hours_p50, seen.hours_p50 if seen else None),
            (track.hours_p90, seen.hours_p90 if seen else None),
            (track.hours_plain, self._plain),
            (track.evictable_h, found.evictable_hours if found else None),
        ):
            values.append(np.nan if hours is None else float(hours))

    @property
    def _on_the_way(self) -> int:
        return sum(size for _, size in self._going)

    def _out(self, study: int, size_bytes: int, due_s: float) -> None:
        self.present[study] = False
        self.gone.append(study)
        self.order.remove(study)
        self._going.append((due_s, size_bytes))
        self.evicted += 1
        self.evicted_bytes += size_bytes

    def _close_hours(self, now: float) -> None:
        """Write hours that are over to the history, quiet ones as well."""
        hour = int(now // HOUR_S) * HOUR_S
        begun = self._hour[0]
        if not begun:
            self._hour[0] = hour
            return
        while begun < hour:
            over = HourlyIntake(begun, *self._hour[1:])
            self.history.append(over)
            if len(self.history) >= len(self._taken):
                self._taken = np.concatenate((self._taken, np.zeros(len(self._taken) + 1000)))
            self._taken[len(self.history) - 1] = over.filled_bytes
            begun += HOUR_S
            self._hour = [begun, 0, 0, 0, 0]


def fill(cache: Cache, size_bytes: Ints, studies: Ints, limit: int) -> int:
    """Fill a cache with ``studies`` (numbers, those accessed last first) up to ``limit`` bytes.

    Returns:
        How many it holds then.
    """
    sums = np.cumsum(size_bytes[studies])
    kept = studies[: int(np.searchsorted(sums, limit, side="right"))]
    for study in kept[::-1].tolist():
        cache.present[study] = True
        cache.order.add(study)
    cache.used_bytes = int(size_bytes[kept].sum())
    cache.fullest_bytes = cache.used_bytes
    return len(kept)


def _close(walk: Iterator[int]) -> None:
    close = getattr(walk, "close", None)
    if close is not None:
        close()
