"""Forecast of the hours of space left, with its uncertainty (FEATURES F1).

Seasonal profile (hour of the week, local time) times what the last hours, day and weeks say of the
level; around it, what came after the same time of earlier days compared with what this forecast
would have said then: whole paths, so that errors that add up over hours do so here. Why it is done
so and not with a library: docs/decisions/0014.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from raypacs.policy.forecast import HOUR_S, WINDOW_S, HourlyIntake, hour_of
from raypacs.policy.profile import WEEK, WEEKS, Profile, profile
from raypacs.policy.wall_clock import wall_hours

Floats = npt.NDArray[np.float64]

SEASONAL = "seasonal"
PLAIN = "plain"
LEAST_HOURS = 14 * 24
"""Less history is too little for a profile of the week."""
LEAST_BUSY_HOURS = 24
"""Hours with intake; fewer say nothing of hours of the week."""
_LEAST_PLAIN_HOURS = 24.0
KEPT_HOURS = (WEEKS + 8) * WEEK
_AHEAD_WEEKS = 9
_TAILS = ((12, 48), (0.09, 0.07))
"""Hours ahead, and the part left out on each side there: less where earlier paths overlap more."""
_DAYS_BACK = 84
_AROUND = 1
_WINDOWS = (1, 4, 24, 2 * WEEK)
_HORIZONS = (4, 12, 48)
_FIRST_GUESS = np.array([[0.10, 0.12, 0.05, 1.0], [0.06, 0.08, 0.05, 1.0], [0.02, 0.02, 0.02, 1.0]])
_TRUST = 300.0
_WIDTH = 0.7


@dataclass(frozen=True, slots=True)
class Forecast:
    """Hours until ``available_bytes`` are filled; None: never, as far as can be seen."""

    hours_p10: float | None
    hours_p50: float | None
    hours_p90: float | None
    method: str
    why: str = ""
    """Why the method is the plain one; '' for the other."""
    ahead: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    """(hours from now, bytes that will have come by then: the middle), increasing."""

    def bytes_until(self, hours: float) -> float:
        """Return the bytes (the middle) that will have come after so many hours."""
        ahead = self.ahead
        if not ahead or hours <= 0:
            return 0.0
        place = bisect_left(ahead, hours, key=itemgetter(0))
        if place == len(ahead):
            return ahead[-1][1] * hours / ahead[-1][0]
        before_h, before = ahead[place - 1] if place else (0.0, 0.0)
        at_h, size = ahead[place]
        return before + (size - before) * (hours - before_h) / (at_h - before_h)

    def hours_until(self, size_bytes: float) -> float | None:
        """Return the hours (the middle) until so many bytes have come; None: never."""
        ahead = self.ahead
        if size_bytes <= 0:
            return 0.0
        if not ahead or ahead[-1][1] <= 0:
            return None
        place = bisect_left(ahead, size_bytes, key=itemgetter(1))
        if place == len(ahead):
            return ahead[-1][0] * size_bytes / ahead[-1][1]
        before_h, before = ahead[place - 1] if place else (0.0, 0.0)
        at_h, size = ahead[place]
        return before_h + (at_h - before_h) * (size_bytes - before) / (size - before)


def forecast(
    history: Sequence[HourlyIntake],
    now: float,
    available_bytes: float,
    *,
    backlog_bytes: float = 0,
    time_zone: str = "UTC",
) -> Forecast:
    """Return the hours left at ``now`` (seconds since the epoch, UTC).

    ``history``: hourly samples, oldest first; an hour without intake needs none.
    ``backlog_bytes`` will come besides, as fast as the cache was ever filled: what was received
    and is not prepared yet.

    Raises:
        ConfigError: no such time zone.
    """
    this_hour_s = hour_of(now)
    seen = [hour for hour in history if hour.hour_s <= this_hour_s]
    if not seen:
        return Forecast(None, None, None, PLAIN, "nothing has arrived yet")
    first_s = max(min(hour.hour_s for hour in seen), this_hour_s - KEPT_HOURS * HOUR_S)
    taken = np.zeros((this_hour_s - first_s) // HOUR_S + 1)
    for hour in seen:
        if hour.hour_s >= first_s:
            taken[(hour.hour_s - first_s) // HOUR_S] += hour.filled_bytes
    return forecast_hours(
        first_s, taken, now, available_bytes, backlog_bytes=backlog_bytes, time_zone=time_zone
    )


def forecast_hours(
    first_s: int,
    taken: Floats,
    now: float,
    available_bytes: float,
    *,
    backlog_bytes: float = 0,
    time_zone: str = "UTC",
) -> Forecast:
    """Return the same from bytes by hour: those of ``first_s`` first, those of this hour last."""
    done = len(taken) - 1
    skip = max(0, done - KEPT_HOURS)
    first_s, taken, done = first_s + skip * HOUR_S, taken[skip:], done - skip
    busy = int(np.count_nonzero(taken[:done]))
    if done < LEAST_HOURS or busy < LEAST_BUSY_HOURS:
        return _plain(first_s, taken, now, available_bytes - backlog_bytes, _too_little(done, busy))
    past = _local(first_s, done, time_zone)
    values = np.zeros(int(past[-1] - past[0]) + 1)
    np.add.at(values, past - past[0], taken[:done])
    # 1970 began on a Thursday; only midnights and weeks matter, not which day is the first.
    found = profile(values, int(past[0] % WEEK))
    if found.mean <= 0:
        return _plain(first_s, taken, now, available_bytes - backlog_bytes, "nothing fills it")
    gone = (now - (first_s + done * HOUR_S)) / HOUR_S
    future = _local(first_s + done * HOUR_S, _AHEAD_WEEKS * WEEK, time_zone) - past[0]
    return _Paths(found, future, gone).forecast(available_bytes, backlog_bytes)


def _local(first_s: int, hours: int, time_zone: str) -> npt.NDArray[np.int64]:
    return wall_hours(first_s + HOUR_S * np.arange(hours, dtype=np.int64), time_zone)


def _too_little(hours: int, busy: int) -> str:
    if hours < LEAST_HOURS:
        return f"only {hours / 24:.1f} days of history, {LEAST_HOURS // 24} are needed"
    return f"only {busy} hours with intake, {LEAST_BUSY_HOURS} are needed"


def _plain(first_s: int, taken: Floats, now: float, available: float, why: str) -> Forecast:
    """Return the hours at the rate of the last seven days, or of all, if those are fewer.

    Over a day at least, and quiet days before the first bytes of these seven days count: what
    comes at once, once in a while, is not what comes every hour.
    """
    hours = first_s + HOUR_S * np.arange(len(taken))
    came = float(taken[(hours > now - WINDOW_S) & (hours <= now)].sum())
    if came <= 0:
        return Forecast(None, None, None, PLAIN, why)
    rate = came / max(_LEAST_PLAIN_HOURS, min(WINDOW_S, now - first_s) / HOUR_S)
    return Forecast(None, max(0.0, available) / rate, None, PLAIN, why, ((1.0, rate),))


class _Paths:
    """What may come: paths of cumulated bytes, one for each earlier time like this one."""

    def __init__(self, found: Profile, future: npt.NDArray[np.int64], gone: float) -> None:
        self._profile = found
        self._now = len(found.taken)
        self._taken = np.concatenate(([0.0], np.cumsum(found.taken)))
        self._usual = np.concatenate(([0.0], np.cumsum(found.expected)))
        self._least = found.mean * 0.1
        self._weights = self._learned()
        self._gone = gone
        week = found.expected[self._now :]
        hourly = week[(future - self._now) % WEEK]
        hourly[0] *= 1 - gone
        self._hourly = hourly

    def forecast(self, available: float, backlog: float) -> Forecast:
        """Return the quantiles of the hours until so many bytes have come."""
        middle = self._middle()
        at = np.concatenate(([0.0], np.arange(1, len(middle) + 1) - self._gone))
        grown = np.concatenate(([0.0], middle))
        if backlog > 0:
            fastest = max(float(np.quantile(self._profile.taken, 0.99)), backlog / 24)
            extra = np.minimum(backlog, fastest * at)
        else:
            extra = np.zeros(len(at))
        need = max(0.0, available)
        guess = int(np.searchsorted(grown + extra, need))
        # Earlier times need a profile of their own, and their hours ahead must be over.
        reach = min(WEEK, max(12, 2 * guess + 6), self._now - WEEK - 24)
        ratio, weight = self._analogs(reach, min(guess, reach))
        paths = self._shift(grown, ratio, reach) + extra[: reach + 1]
        hours = _passage(paths, at[: reach + 1], need)
        late = ~np.isfinite(hours)
        if late.any():
            hours[late] = _later(grown + extra, at, reach, need, paths[late, -1], ratio[late, -1])
        tail = float(np.interp(guess, *_TAILS))
        low, half, high = _quantiles(hours, weight, (tail, 0.5, 1 - tail))
        ahead = tuple(zip(at[1:].tolist(), (grown + extra)[1:].tolist(), strict=True))
        return Forecast(low, half, high, SEASONAL, "", ahead)

    def _middle(self) -> Floats:
        """Return the bytes expected to have come after each hour."""
        hours = np.arange(1, len(self._hourly) + 1)
        level = np.exp(self._adjust(np.array([self._now]), hours)[0])
        return np.maximum.accumulate(np.cumsum(self._hourly) * level)

    def _ratios(self, origins: npt.NDArray[np.int64]) -> Floats:
        """Return by origin and window how the last hours compare with the usual ones (logs)."""
        columns = []
        for window in _WINDOWS:
            since = np.maximum(0, origins - window)
            least = self._least * min(window, 48)
            came = self._taken[origins] - self._taken[since] + least
            usual = self._usual[origins] - self._usual[since] + least
            columns.append(np.clip(np.log(came / usual), -1.5, 1.5))
        return np.stack(columns, axis=1)

    def _learned(self) -> Floats:
        """Return how much of these ratios lasts, by horizon: learned from this cache's past."""
        origins = np.arange(WEEK, self._now - max(_HORIZONS), 3)
        if len(origins) < 24:
            return _FIRST_GUESS
        known = self._ratios(origins)
        square = known.T @ known
        trust = np.diag(_TRUST * np.maximum(np.diag(square) / len(origins), 1e-4))
        found = []
        for horizon, guess in zip(_HORIZONS, _FIRST_GUESS, strict=True):
            least = self._least * horizon
            came = self._taken[origins + horizon] - self._taken[origins] + least
            usual = self._usual[origins + horizon] - self._usual[origins] + least
            error = np.clip(np.log(came / usual), -1.0, 1.0)
            found.append(np.linalg.solve(square + trust, known.T @ error + trust @ guess))
        return np.clip(np.array(found), -0.3, 1.5)

    def _adjust(self, origins: npt.NDArray[np.int64], hours: npt.NDArray[np.int64]) -> Floats:
        """Return the logarithm of the level by origin and hour ahead."""
        at = np.log(hours)
        known = np.log(_HORIZONS)
        weights = np.stack([np.interp(at, known, column) for column in self._weights.T])
        # What the last hours say is worth nothing in a week.
        weights[:-1] *= np.minimum(1.0, 48 / hours)
        return np.asarray(self._ratios(origins) @ weights)

    def _analogs(self, reach: int, target: int) -> tuple[Floats, Floats]:
        """Return by earlier time and hour how much more came than said; and their weights."""
        days = np.arange(1, _DAYS_BACK + 1) * 24
        origins = np.concatenate([self._now - days + near for near in range(-_AROUND, _AROUND + 1)])
        origins = origins[(origins >= WEEK) & (origins <= self._now - reach)]
        ahead = np.arange(reach + 1)
        spots = origins[:, None] + ahead
        came = self._taken[spots] - self._taken[origins][:, None]
        usual = self._usual[spots] - self._usual[origins][:, None]
        said = np.zeros_like(usual)
        said[:, 1:] = usual[:, 1:] * np.exp(self._adjust(origins, ahead[1:]))
        least = self._least * np.sqrt(np.arange(reach + 1) + 1)
        ratio = (came + least) / (said + least)
        # Times at which as much was said for as many hours are most like this one.
        here = self._usual_now(target) + least[target]
        like = np.log((usual[:, target] + least[target]) / here)
        age = (self._now - origins) / (24 * 56)
        weight = np.exp(-0.5 * (like / _WIDTH) ** 2) * 0.5**age
        return ratio, weight

    def _usual_now(self, hours: int) -> float:
        return float(self._hourly[:hours].sum())

    def _shift(self, grown: Floats, ratio: Floats, reach: int) -> Floats:
        least = self._least * np.sqrt(np.arange(reach + 1) + 1)
        paths = (grown[: reach + 1] + least) * ratio - least
        paths[:, 0] = 0.0
        return np.maximum.accumulate(np.maximum(paths, 0.0), axis=1)


def _passage(paths: Floats, at: Floats, need: float) -> Floats:
    """Return when each path reaches ``need``; infinite where it does not."""
    after = (paths < need).sum(axis=1)
    hours = np.full(len(paths), np.inf)
    found = after < paths.shape[1]
    rows, after = np.flatnonzero(found), np.maximum(after[found], 1)
    below, above = paths[rows, after - 1], paths[rows, after]
    step = np.where(above > below, (need - below) / np.maximum(above - below, 1e-9), 1.0)
    begin = at[after - 1]
    hours[rows] = begin + np.clip(step, 0, 1) * (at[after] - begin)
    return hours


def _later(
    grown: Floats, at: Floats, reach: int, need: float, come: Floats, ratio: Floats
) -> Floats:
    """Return when paths that went to the end get there, each going on as it did."""
    # In the long run a path does not stay as far from the middle as it is after some days.
    lasting = np.sqrt(np.clip(ratio, 0.05, 20))
    wanted = grown[reach] + (need - come) / lasting
    rate = max((grown[-1] - grown[-WEEK - 1]) / WEEK, 1e-9)
    beyond = at[-1] + (wanted - grown[-1]) / rate
    return np.where(wanted <= grown[-1], np.interp(wanted, grown, at), beyond)


def _quantiles(values: Floats, weight: Floats, wanted: tuple[float, ...]) -> tuple[float, ...]:
    """Return weighted quantiles."""
    order = np.argsort(values)
    share = np.cumsum(weight[order])
    middle = (share - weight[order] / 2) / share[-1]
    return tuple(float(np.interp(each, middle, values[order])) for each in wanted)
