"""Back-test of the forecast: how wrong are the predicted hours to a threshold, how sure is it.

26 weeks of arrivals of six synthetic sites on which the forecast was not developed
(``traces.HELD_OUT``). From week 6 on, at times that walk through all hours of the week, three
thresholds are set such that they are reached exactly 4, 12 and 48 hours later, without eviction;
times at which nothing arrives in the last of these hours are left out, as the threshold was reached
before. Beside it the plain rates: bytes of the last hour, of the last 24, of the last seven days
(``policy/forecast.py``), each through the available bytes. Hours that a plain rate cannot say
(nothing came: infinite) count as they are, a median bears them.

Beside that what cannot be beaten: the hours that somebody would say who knows what each hour is
drawn from, and is wrong only by chance.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.figure import Figure, limit
from benchmarks.traces import HELD_OUT, Site, arrivals, expected
from raypacs.policy.forecast import HOUR_S, HourlyIntake
from raypacs.policy.forecasting import forecast

NAME = "forecast"
DESCRIPTION = "hours to a threshold, back-tested over 26 weeks of six sites, beside plain rates"

HORIZONS = (4, 12, 48)
_WEEKS = 26
_WARM_UP_WEEKS = 6
_EVERY_H, _EVERY_H_QUICK = 11, 67
_SEED = 20_250
_LIMIT_MS = 50.0
_PLAIN = {"last hour": 1, "last 24 hours": 24, "last 7 days": 168}
_KEPT_HOURS = 26 * 168


@dataclass
class Errors:
    """What was said and what came, of one horizon."""

    ours: list[float] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    plain: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _PLAIN})
    knowing: list[float] = field(default_factory=list)

    def add(self, other: Errors) -> None:
        """Take in those of another site."""
        self.ours += other.ours
        self.covered += other.covered
        self.knowing += other.knowing
        for name, errors in other.plain.items():
            self.plain[name] += errors


def run(quick: bool, count: int | None) -> list[Figure]:
    """Back-test; ``count``: hours between two forecasts (default 11, quick 67)."""
    every = count or (_EVERY_H_QUICK if quick else _EVERY_H)
    total = {horizon: Errors() for horizon in HORIZONS}
    figures, seconds = [], []
    for number, site in enumerate(HELD_OUT):
        own = {horizon: Errors() for horizon in HORIZONS}
        seconds += list(_back_test(site, _SEED + number, every, own))
        for horizon, errors in own.items():
            figures += _of_site(f"{site.name}, {horizon} h", errors)
            total[horizon].add(errors)
    for horizon, errors in total.items():
        figures += _of_all(f"all sites, {horizon} h", errors)
    figures.append(
        limit("one forecast: p50", "ms", [statistics.median(seconds) * 1e3], at_most=_LIMIT_MS)
    )
    p99 = sorted(seconds)[math.ceil(len(seconds) * 0.99) - 1] * 1e3
    figures.append(Figure("one forecast: p99", p99, "ms", n=len(seconds)))
    return figures


def _back_test(site: Site, seed: int, every: int, errors: dict[int, Errors]) -> Iterator[float]:
    """Add the errors of a site; yield the seconds each forecast took."""
    trace = arrivals(site, _WEEKS, seed)
    taken = trace.by_hour()
    come = np.concatenate(([0.0], np.cumsum(taken)))
    drawn = np.concatenate(([0.0], np.cumsum(expected(site, _WEEKS, seed))))
    history = trace.intake()
    began = [hour.hour_s for hour in history]
    for origin in range(_WARM_UP_WEEKS * 168, trace.hours - max(HORIZONS) - 168, every):
        now = trace.first_hour_s + HOUR_S * origin
        known = _before(history, began, now)
        for horizon in HORIZONS:
            if taken[origin + horizon - 1] <= 0:
                continue
            need = float(come[origin + horizon] - come[origin])
            started = time.perf_counter()
            said = forecast(known, now, need, time_zone=site.time_zone)
            yield time.perf_counter() - started
            low, half, high = said.hours_p10, said.hours_p50, said.hours_p90
            if low is None or half is None or high is None:
                raise ValueError(f"{site.name}: no forecast at hour {origin}: {said.why}")
            found = errors[horizon]
            found.ours.append(float(abs(half - horizon)))
            found.covered.append(bool(low <= horizon <= high))
            for name, hours in _PLAIN.items():
                rate = (come[origin] - come[origin - hours]) / hours
                found.plain[name].append(abs(need / rate - horizon) if rate else math.inf)
            best = float(
                np.interp(need, drawn[origin:] - drawn[origin], np.arange(len(drawn) - origin))
            )
            found.knowing.append(abs(best - horizon))


def _before(history: list[HourlyIntake], began: list[int], now: int) -> list[HourlyIntake]:
    first, last = np.searchsorted(began, [now - _KEPT_HOURS * HOUR_S, now])
    return history[int(first) : int(last)]


def _of_site(name: str, errors: Errors) -> list[Figure]:
    """Return the figures of one site: for information, targets are for all together."""
    ours = statistics.median(errors.ours)
    figures = []
    for plain in _PLAIN:
        figures.append(_beside(f"{name}: median error", ours, plain, errors, target=False))
    figures.append(
        Figure(
            f"{name}: p10-p90 coverage", statistics.mean(errors.covered), "", n=len(errors.covered)
        )
    )
    return figures


def _of_all(name: str, errors: Errors) -> list[Figure]:
    ours = statistics.median(errors.ours)
    figures = [
        _beside(f"{name}: median error", ours, plain, errors, target=True) for plain in _PLAIN
    ]
    knowing = statistics.median(errors.knowing)
    figures.append(
        Figure(
            f"{name}: median error",
            ours,
            "h",
            beside="who knows the rates (cannot be beaten)",
            beside_value=knowing,
            ratio=knowing / ours,
            n=len(errors.ours),
        )
    )
    coverage = statistics.mean(errors.covered)
    figures.append(
        Figure(
            f"{name}: p10-p90 coverage",
            coverage,
            "",
            beside="limit",
            beside_value=0.8,
            target="0.75 to 0.9",
            holds=0.75 <= coverage <= 0.9,
            n=len(errors.covered),
        )
    )
    return figures


def _beside(name: str, ours: float, plain: str, errors: Errors, *, target: bool) -> Figure:
    theirs = float(statistics.median(errors.plain[plain]))
    finite = math.isfinite(theirs)
    return Figure(
        name,
        ours,
        "h",
        beside=f"rate of the {plain}",
        beside_value=theirs if finite else None,
        ratio=theirs / ours if finite else None,
        target="ratio >= 3" if target else "",
        holds=(not finite or theirs >= 3 * ours) if target else None,
        n=len(errors.ours),
    )
