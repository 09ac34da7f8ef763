"""A simulated year of a hospital of 600 beds: the policies of raypacs beside fixed percentages.

About 150,000 studies and 12 TB arrive (docs/simulation.md tells who opens what); the caches are
full at the start, as after years. Four places for it: 20 TB of image cache, 4 TB, 4 TB while the
archive stands still for a week, and 1 TB, where a working day is 4 % of the cache. Levels are
judged by the same forecast for all, each hour.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figure import Figure, compare, limit
from raypacs.autopilot.archiving import ArchiveSettings
from raypacs.autopilot.thresholds import Thresholds
from raypacs.policy import synthetic_load
from raypacs.policy.load import Load
from raypacs.policy.simulated_cache import Watermarks
from raypacs.policy.simulated_outcome import Outcome
from raypacs.policy.simulation import Scenario, simulate
from raypacs.simulating import plot

NAME = "year"
DESCRIPTION = "a simulated year of 600 beds: hours at red and hits, beside three fixed watermarks"

TB = 10**12
START = datetime(2026, 1, 1, tzinfo=UTC)
SEED = 600
_HISTORY_DAYS = 3 * 365.0
_DAYS, _DAYS_QUICK = 365.0, 21.0
_LIMIT_S = 60.0
_MARKS = (Watermarks(80, 70), Watermarks(90, 80), Watermarks(95, 85))
_OUTAGE = (150.0, 7.0)


def load_of(days: float) -> Load:
    """Return the load of all runs."""
    return synthetic_load.generate(days, history_days=_HISTORY_DAYS, start=START, seed=SEED)


def site(capacity_bytes: int) -> Scenario:
    """Return the defaults of raypacs on a cache, in the hospital's time zone."""
    archive = ArchiveSettings(time_zone="Europe/Berlin")
    return Scenario((capacity_bytes,), archive=archive, thresholds=Thresholds())


def places(days: float) -> dict[str, Scenario]:
    """Return the disks, and what goes wrong there."""
    outage = (_OUTAGE,) if days > 180 else ((7.0, 7.0),)
    return {
        "20 TB": site(20 * TB),
        "4 TB": site(4 * TB),
        "4 TB, archive out for a week": replace(site(4 * TB), archive_outages=outage),
        "1 TB": site(TB),
    }


def run(quick: bool, count: int | None) -> list[Figure]:
    """Simulate ``count`` days (default 365; quick 21)."""
    days = float(count or (_DAYS_QUICK if quick else _DAYS))
    began = time.perf_counter()
    load = load_of(days)
    generated_s = time.perf_counter() - began
    folder = Path(tempfile.mkdtemp(prefix="raypacs-year-"))
    figures: list[Figure] = []
    for place, scenario in places(days).items():
        began, cpu = time.perf_counter(), time.process_time()
        ours = simulate(load, scenario)
        seconds = time.perf_counter() - began + generated_s
        cpu_s = time.process_time() - cpu
        others = {
            str(marks): simulate(load, replace(scenario, watermarks=marks)) for marks in _MARKS
        }
        if place == "20 TB":
            figures += [
                limit(f"{place}: wall time of {days:g} days", "s", [seconds], at_most=_LIMIT_S),
                Figure(f"{place}: of that, processor time", cpu_s, "s"),
                Figure("studies", float(ours.counts.studies), ""),
                Figure("bytes", ours.counts.bytes / TB, "TB"),
            ]
        figures += _figures(place, ours, others)
        _draw(folder, place, {"raypacs": ours, **others}, scenario)
    print(f"plots: {folder}")
    return figures


def _figures(place: str, ours: Outcome, others: dict[str, Outcome]) -> list[Figure]:
    cache = ours.caches[0]
    score = cache.forecast
    found = [
        limit(f"{place}: fullest", "%", [cache.fullest_percent], at_most=99.999),
        limit(f"{place}: studies refused", "", [float(ours.counts.refused)], at_most=0),
        Figure(f"{place}: hours at amber", ours.hours_at_amber, "h"),
        Figure(f"{place}: not archived at most", ours.counts.unarchived_high_bytes / 1e9, "GB"),
    ]
    if score.error_h is not None and score.plain_error_h is not None:
        found.append(
            Figure(
                f"{place}: forecast error",
                score.error_h,
                "h",
                beside="plain rate",
                beside_value=score.plain_error_h,
                ratio=score.plain_error_h / score.error_h if score.error_h else None,
            )
        )
    if score.coverage is not None:
        found.append(Figure(f"{place}: p10 to p90 holds", score.coverage * 100, "%"))
    for name, other in others.items():
        found += [
            _beside(f"{place}: hours at red", "h", ours.hours_at_red, name, other.hours_at_red),
            _beside(
                f"{place}: refused",
                "",
                float(ours.counts.refused),
                name,
                float(other.counts.refused),
            ),
            compare(
                f"{place}: hits",
                "%",
                [100 * (ours.hit_ratio or 0)],
                beside=name,
                beside_runs=[100 * (other.hit_ratio or 0)],
            ),
            compare(
                f"{place}: hits, older than 7 days",
                "%",
                [100 * (ours.older_hit_ratio or 0)],
                beside=name,
                beside_runs=[100 * (other.older_hit_ratio or 0)],
            ),
            compare(
                f"{place}: restored",
                "TB",
                [max(1e-9, ours.counts.restored_bytes / TB)],
                beside=name,
                beside_runs=[max(1e-9, other.counts.restored_bytes / TB)],
                less_is_better=True,
            ),
        ]
    return found


def _beside(name: str, unit: str, value: float, beside: str, its: float) -> Figure:
    """Return a figure beside another that may be 0: there is no ratio then."""
    return Figure(name, value, unit, beside=beside, beside_value=its)


def _draw(folder: Path, place: str, outcomes: dict[str, Outcome], scenario: Scenario) -> None:
    stem = place.replace(",", "").replace(" ", "-")
    first = outcomes["raypacs"]
    text = plot.of_cache(first, "image1", scenario.thresholds)
    (folder / f"{stem}.svg").write_text(text, encoding="utf-8")
    groups = [
        ("misses (% of reads)", [(n, 100 - 100 * (o.hit_ratio or 0)) for n, o in outcomes.items()]),
        ("restored (TB)", [(n, o.counts.restored_bytes / TB) for n, o in outcomes.items()]),
        ("hours at red", [(n, o.hours_at_red) for n, o in outcomes.items()]),
        ("fullest (%)", [(n, o.caches[0].fullest_percent) for n, o in outcomes.items()]),
    ]
    subtitle = f"{place}: {first.counts.studies:,} studies, {first.counts.bytes / TB:.1f} TB"
    text = plot.bars("raypacs beside fixed percentages", subtitle, groups, "")
    (folder / f"{stem}-beside.svg").write_text(text, encoding="utf-8")
