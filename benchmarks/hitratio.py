"""Hits of orders of eviction over the simulated year: LRU, as is demanded, beside others.

The year of benchmark `year`, the same levels and archive; only the order in which studies leave is
another. Forecasts are made every six hours, as they do not differ. Beside hits by studies and by
bytes stands what people wait: one second for each restore and one for each 100 MB.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.figure import Figure, compare
from benchmarks.year import TB, load_of, site
from raypacs.policy.caching import ORDERS
from raypacs.policy.load import Load
from raypacs.policy.simulated_outcome import Outcome
from raypacs.policy.simulation import simulate
from raypacs.simulating import plot

NAME = "hitratio"
DESCRIPTION = "hits over the simulated year: LRU beside S3-FIFO, GreedyDual-Size and the future"

_DAYS, _DAYS_QUICK = 365.0, 14.0
_SIZES = (20 * TB, 4 * TB, 1 * TB)
_EVERY_S = 6 * 3600.0
_RESTORE_S, _BYTES_PER_S = 1.0, 100e6


def run(quick: bool, count: int | None) -> list[Figure]:
    """Simulate ``count`` days (default 365; quick 14) for each size and order."""
    load = load_of(float(count or (_DAYS_QUICK if quick else _DAYS)))
    folder = Path(tempfile.mkdtemp(prefix="raypacs-hitratio-"))
    figures: list[Figure] = []
    for size in _SIZES[-1:] if quick else _SIZES:
        place = f"{size / TB:g} TB"
        outcomes = {order: _of(load, size, order) for order in ORDERS}
        figures += _figures(place, outcomes)
        _draw(folder, place, outcomes)
    print(f"plots: {folder}")
    return figures


def _of(load: Load, size: int, order: str) -> Outcome:
    return simulate(load, replace(site(size), order=order, forecast_s=_EVERY_S))


def waited_h(outcome: Outcome) -> float:
    """Return the hours that people waited for restores."""
    counts = outcome.counts
    return (counts.restored * _RESTORE_S + counts.restored_bytes / _BYTES_PER_S) / 3600


def _figures(place: str, outcomes: dict[str, Outcome]) -> list[Figure]:
    lru = outcomes["lru"]
    found = []
    for name, other in outcomes.items():
        if name == "lru":
            continue
        pairs = (
            ("hits", "%", 100 * (lru.hit_ratio or 0), 100 * (other.hit_ratio or 0)),
            (
                "hits by bytes",
                "%",
                100 * (lru.byte_hit_ratio or 0),
                100 * (other.byte_hit_ratio or 0),
            ),
        )
        for what, unit, ours, theirs in pairs:
            found.append(
                compare(f"{place}: {what}, LRU", unit, [ours], beside=name, beside_runs=[theirs])
            )
        for what, unit, ours, theirs in (
            ("restored", "TB", lru.counts.restored_bytes / TB, other.counts.restored_bytes / TB),
            ("waited", "h", waited_h(lru), waited_h(other)),
        ):
            found.append(
                compare(
                    f"{place}: {what}, LRU",
                    unit,
                    [max(1e-9, ours)],
                    beside=name,
                    beside_runs=[max(1e-9, theirs)],
                    less_is_better=True,
                )
            )
    return found


def _draw(folder: Path, place: str, outcomes: dict[str, Outcome]) -> None:
    groups = [
        ("misses (% of reads)", [(n, 100 - 100 * (o.hit_ratio or 0)) for n, o in outcomes.items()]),
        (
            "misses by bytes (%)",
            [(n, 100 - 100 * (o.byte_hit_ratio or 0)) for n, o in outcomes.items()],
        ),
        ("waited for restores (hours a year)", [(n, waited_h(o)) for n, o in outcomes.items()]),
    ]
    text = plot.bars(f"Orders of eviction, {place}", "a year of 600 beds", groups, "")
    (folder / f"hitratio-{place.replace(' ', '-')}.svg").write_text(text, encoding="utf-8")
