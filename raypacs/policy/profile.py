"""Seasonal profile of a cache's intake: what each hour of the week usually brings.

The profile of an hour is the weighted mean of the same local hour of the weeks before it, newer
weeks counting more. So it is known a week ahead, for now and for every hour of the past alike:
what a forecast would have said then can be compared with what came. Outages with what caught up
after them, and days unlike their weekday (holidays), are left out of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

WEEK = 168
WEEKS = 16
HALF_LIFE_WEEKS = 5.0
_ODD_DAY = 2.5  # times, more or less, than the usual day
_OUTAGE_SHARE = 0.02  # of a week's bytes missed in one run of empty hours


@dataclass(frozen=True, slots=True)
class Profile:
    """By hour from the first of the history: what came, and what was to be expected.

    ``expected`` goes on for one week after ``taken``.
    """

    taken: Floats
    expected: Floats

    @property
    def mean(self) -> float:
        """Bytes an hour expected now, over the week to come."""
        return float(self.expected[len(self.taken) :].mean())


def profile(taken: Floats, first_weekday_hour: int) -> Profile:
    """Return the profile of hourly bytes.

    ``first_weekday_hour`` is the hour of the week of the first one (any origin at a midnight).
    """
    usual = _usual(taken, np.ones(len(taken), bool))
    good = ~(_outages(taken, usual[: len(taken)]) | _odd_days(taken, first_weekday_hour))
    return Profile(taken, _usual(taken, good))


def _usual(taken: Floats, good: Flags) -> Floats:
    """Return the weighted mean of the same hours of earlier weeks; the mean of all without one."""
    hours = len(taken)
    total = np.zeros(hours + WEEK)
    weight = np.zeros(hours + WEEK)
    plain = np.zeros(hours + WEEK)
    counted = np.zeros(hours + WEEK)
    part = taken * good
    for week in range(1, WEEKS + 1):
        lag = week * WEEK
        if lag >= hours + WEEK:
            break
        share = 0.5 ** (week / HALF_LIFE_WEEKS)
        reach = hours + WEEK - lag
        total[lag:] += share * part[:reach]
        weight[lag:] += share * good[:reach]
        plain[lag:] += share * taken[:reach]
        counted[lag:] += share
    usual = np.full(hours + WEEK, taken.mean() if hours else 0.0)
    np.divide(plain, counted, out=usual, where=counted > 0)
    np.divide(total, weight, out=usual, where=weight > 0)
    return usual


def _outages(taken: Floats, usual: Floats) -> Flags:
    """Mark runs of empty hours in which much was to be expected, and as long a time after them."""
    found = np.zeros(len(taken), bool)
    empty = np.concatenate(([0], (taken <= 0.02 * usual) & (usual > 0), [0]))
    edges = np.diff(empty.astype(np.int8))
    sums = np.concatenate(([0.0], np.cumsum(usual)))
    limit = _OUTAGE_SHARE * WEEK * (taken.mean() if len(taken) else 0.0)
    for begin, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        if sums[end] - sums[begin] > limit:
            found[begin : 2 * end - begin] = True
    return found


def _odd_days(taken: Floats, first_weekday_hour: int) -> Flags:
    """Mark whole local days whose bytes are far from those of the same weekday."""
    skip = -first_weekday_hour % 24
    days = (len(taken) - skip) // 24
    found = np.zeros(len(taken), bool)
    if days < 21:
        return found
    sums = taken[skip : skip + days * 24].reshape(days, 24).sum(axis=1)
    around = np.full((9, days), np.nan)
    for row, lag in enumerate(range(-28, 29, 7)):
        low, high = max(0, -lag), min(days, days - lag)
        if high > low:
            around[row, low:high] = sums[low + lag : high + lag]
    usual = np.nanmedian(around, axis=0)
    ratio = np.log((sums + 1) / (usual + 1))
    # How much days differ here anyway: of small sites, nearly every day is unlike the usual one.
    spread = np.median(np.abs(ratio)) / 0.6745
    odd = np.abs(ratio) > max(np.log(_ODD_DAY), 3.5 * spread)
    odd &= usual > 0.1 * sums.mean()
    found[skip : skip + days * 24] = np.repeat(odd, 24)
    return found
