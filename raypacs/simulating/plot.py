"""Plots of simulations, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from raypacs.autopilot.thresholds import Thresholds
from raypacs.policy.forecast import HOUR_S
from raypacs.policy.load import DAY_S
from raypacs.policy.simulated_outcome import CacheOutcome, Outcome
from raypacs.simulating import svg
from raypacs.simulating.svg import Panel

COLOURS = ("#5aa469", "#f0a202", "#d1342f")  # green, amber, red
_BLUE, _PALE, _GREY, _BROWN = "#2b6cb0", "#bcd4ee", "#8c8c8c", "#9c6b30"
_POINTS = 900
_MOST_H = 336.0
Floats = npt.NDArray[np.float64]


def of_cache(outcome: Outcome, name: str, thresholds: Thresholds) -> str:
    """Return the plot of one cache: how full, hours left, level, what was evicted.

    Raises:
        KeyError: no such cache.
    """
    cache = next((one for one in outcome.caches if one.name == name), None)
    if cache is None:
        raise KeyError(name)
    at = np.array(cache.track.at_s)
    x = (float(outcome.start_s), float(outcome.end_s))
    ticks = _dates(*x)
    counts = outcome.counts
    hit = f"{outcome.hit_ratio:.2%}" if outcome.hit_ratio is not None else "no reads"
    subtitle = (
        f"{cache.name}, {_amount(cache.capacity_bytes)}; {counts.studies:,} studies, "
        f"{_amount(counts.bytes)} in; hits {hit}; {cache.hours_at['amber']:,.0f} h amber, "
        f"{cache.hours_at['red']:,.0f} h red; at most {cache.fullest_percent:.2f} % full"
    )
    panels = [
        _fill(cache, at, x),
        _hours(cache, at, x, thresholds),
        _level(cache, x),
        _evicted(cache, at, x),
    ]
    for panel in panels:
        panel.x_ticks = ticks
    return svg.page(f"Simulation: {outcome.policy}", subtitle, panels)


def _fill(cache: CacheOutcome, at: Floats, x: tuple[float, float]) -> Panel:
    unit, name = _unit(cache.capacity_bytes)
    used = np.array(cache.track.used_bytes) / unit
    capacity = cache.capacity_bytes / unit
    panel = Panel(f"used ({name})", x, (0.0, capacity * 1.08))
    panel.y_ticks = _ticks(capacity * 1.08)
    xs, _, high = _thinned(at, used)
    panel.band(xs, [0.0] * len(xs), high, _PALE, "used")
    panel.line(xs, high, _BLUE)
    open_ = np.array(cache.track.unarchived_bytes) / unit
    if cache.role == "image":
        xs, _, high = _thinned(at, open_)
        panel.line(xs, high, _BROWN, "not archived")
    panel.level(capacity, svg.TEXT, "capacity")
    return panel


def _hours(
    cache: CacheOutcome, at: Floats, x: tuple[float, float], thresholds: Thresholds
) -> Panel:
    panel = Panel(
        "hours left (p50, and p10 to p90)",
        x,
        (6.0, _MOST_H),
        log=True,
        y_ticks=[(6, "6"), (12, "12"), (24, "24"), (48, "48"), (96, "96"), (168, "168")],
    )
    track = cache.track
    xs, low, _ = _thinned(at, np.array(track.hours_p10))
    _, _, high = _thinned(at, np.array(track.hours_p90))
    panel.band(xs, low, high, _PALE, "p10 to p90")
    _, middle, _ = _thinned(at, np.array(track.hours_p50))
    panel.line(xs, middle, _BLUE, "p50")
    if cache.role == "web":
        panel.level(max(6.0, thresholds.web_h), COLOURS[1], "web threshold")
    else:
        panel.level(max(6.0, thresholds.amber_h), COLOURS[1], "amber")
        panel.level(max(6.0, thresholds.red_h), COLOURS[2], "red")
    return panel


def _level(cache: CacheOutcome, x: tuple[float, float]) -> Panel:
    hours = cache.hours_at
    title = "level: " + ", ".join(f"{name} {hours[name]:,.0f} h" for name in hours)
    panel = Panel(title, x, (0.0, 1.0), height=26)
    ranks = {"green": 0, "amber": 1, "red": 2}
    changes = [*cache.level_changes, (x[1], "green")]
    panel.blocks(
        [
            (begin, end, 0.0, 1.0, COLOURS[ranks[level]])
            # The most urgent ones last: short spells of red must not be drawn over.
            for wanted in ranks
            for (begin, level), (end, _) in pairwise(changes)
            if level == wanted
        ]
    )
    return panel


def _evicted(cache: CacheOutcome, at: Floats, x: tuple[float, float]) -> Panel:
    """Bytes evicted by day, or by week in long runs."""
    span = DAY_S if x[1] - x[0] <= 120 * DAY_S else 7 * DAY_S
    edges = np.arange(x[0], x[1] + span, span)
    sums = np.interp(edges, [x[0], *at], [0.0, *cache.track.evicted_bytes])
    each = np.diff(sums)
    unit, name = _unit(float(each.max(initial=0.0)))
    most = max(1e-9, float(each.max(initial=0.0)) / unit) * 1.1
    panel = Panel(f"evicted ({name} a {'day' if span == DAY_S else 'week'})", x, (0.0, most), 110)
    panel.y_ticks = _ticks(most)
    panel.blocks(
        [
            (
                float(begin) + span * 0.08,
                min(x[1], float(begin) + span * 0.92),
                0.0,
                value / unit,
                _GREY,
            )
            for begin, value in zip(edges[:-1], each, strict=True)
        ]
    )
    return panel


def bars(
    title: str, subtitle: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str
) -> str:
    """Return a panel of bars for each group (name, value), from 0, with the values on them."""
    colours = ("#2b6cb0", "#8c8c8c", "#5aa469", "#9c6b30", "#7a5195", "#d1342f")
    panels = []
    for name, values in groups:
        most = max((value for _, value in values), default=1.0) * 1.15 or 1.0
        panel = Panel(name, (0.0, float(len(values))), (0.0, most), height=150)
        panel.y_ticks = _ticks(most)
        panel.blocks(
            [
                (at + 0.15, at + 0.85, 0.0, value, colours[at % len(colours)])
                for at, (_, value) in enumerate(values)
            ]
        )
        for at, (_, value) in enumerate(values):
            panel.label(at + 0.5, value + most * 0.02, f"{value:,.2f} {unit}".strip())
        panel.x_ticks = [(at + 0.5, label) for at, (label, _) in enumerate(values)]
        panels.append(panel)
    return svg.page(title, subtitle, panels)


def _thinned(at: Floats, values: Floats) -> tuple[list[float], list[float], list[float]]:
    """Return places, and the least and the largest value at each: no spike is lost."""
    count = len(at)
    if count <= _POINTS:
        return at.tolist(), values.tolist(), values.tolist()
    edges = np.linspace(0, count, _POINTS + 1).astype(int)
    seen = np.where(np.isnan(values), np.inf, values)
    low = np.minimum.reduceat(seen, edges[:-1])
    high = np.maximum.reduceat(np.where(np.isinf(seen), -np.inf, seen), edges[:-1])
    low, high = np.where(np.isinf(low), np.nan, low), np.where(np.isinf(high), np.nan, high)
    return at[edges[:-1]].tolist(), low.tolist(), high.tolist()


def _dates(begin: float, end: float) -> list[tuple[float, str]]:
    days = max(1, round((end - begin) / DAY_S / 9))
    first = begin - begin % DAY_S + (DAY_S if begin % DAY_S else 0)
    every = np.arange(first, end - 0.02 * (end - begin), days * DAY_S)
    form = "%d %b" if end - begin < 300 * DAY_S else "%d %b %Y"
    if end - begin < 3 * DAY_S:
        every, form = np.arange(first, end, 6 * HOUR_S), "%d %b %H:%M"
    return [(float(one), datetime.fromtimestamp(float(one), UTC).strftime(form)) for one in every]


def _ticks(most: float) -> list[tuple[float, str]]:
    step = 10 ** np.floor(np.log10(most))
    for part in (0.2, 0.5, 1.0, 2.0):
        if most / (step * part) <= 5:
            step *= part
            break
    every = np.arange(0, most * 1.0001, step)
    return [(float(one), f"{one:g}" if step < 1 else f"{one:,.0f}") for one in every]


def _unit(size: float) -> tuple[float, str]:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return unit, name
    return 1.0, "bytes"


def _amount(size: float) -> str:
    unit, name = _unit(size)
    return f"{size / unit:.1f} {name}"
