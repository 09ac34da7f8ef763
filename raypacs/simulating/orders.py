"""From an order to a load and a scenario, and to the outcome."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from raypacs.autopilot.archiving import ArchiveSettings
from raypacs.autopilot.planning import SimulationOrder, SizeOrder
from raypacs.autopilot.thresholds import Thresholds
from raypacs.config import Settings
from raypacs.errors import ConfigError
from raypacs.parsing import parse
from raypacs.policy import sizing, synthetic_load
from raypacs.policy.load import Load
from raypacs.policy.simulated_cache import Watermarks
from raypacs.policy.simulated_outcome import Outcome
from raypacs.policy.simulation import WEB_RATIO, Scenario, simulate
from raypacs.simulating import recorded

LEAST_DAYS = 14.0
"""A shorter record is too little to say anything of weeks."""
_START = datetime(2026, 1, 1, tzinfo=UTC)
_THRESHOLDS = {
    "amber": "amber_h",
    "red": "red_h",
    "web": "web_h",
    "amber_night": "amber_night_h",
    "red_night": "red_night_h",
    "web_night": "web_night_h",
    "hysteresis": "hysteresis",
}
_ARCHIVE = {
    "window_start": "window_start",
    "window_end": "window_end",
    "time_zone": "time_zone",
    "minimum_age_h": "min_age_s",
}
CHANGES = (*_THRESHOLDS, *_ARCHIVE)


def run(
    order: SimulationOrder,
    settings: Settings,
    place: recorded.Place,
    progress: Callable[[float], None] = lambda part: None,
) -> Outcome:
    """Simulate; ``place`` has the recorded statistics, None where there are none.

    Raises:
        ConfigError: the order cannot be: no capacity, no record, an unknown change.
    """
    scenario = scenario_of(order, settings)
    return simulate(load_of(order, place), scenario, progress=progress)


def scenario_of(order: SimulationOrder, settings: Settings) -> Scenario:
    """Return what the load is run against. Raises ConfigError."""
    thresholds, archive = changed(order.change, settings.thresholds, settings.archive)
    capacity = order.capacity_bytes or tuple(
        tier.capacity_bytes
        for tier in sorted(settings.tiers, key=lambda tier: tier.order)
        if tier.role == "image" and tier.capacity_bytes and not tier.adopted
    )
    if not capacity:
        raise ConfigError(
            "capacity_bytes: the settings give no image cache a capacity; name one, such as 20TB"
        )
    return Scenario(
        image_bytes=tuple(capacity),
        web_bytes=order.web_capacity_bytes,
        thresholds=thresholds,
        archive=archive,
        archive_rate=float(order.archive_rate),
        archive_outages=tuple((one.first_day, one.days) for one in order.archive_outages),
        rules=settings.staging if order.staging is None else order.staging,
        order=order.order,
        watermarks=Watermarks(order.watermark.high, order.watermark.low)
        if order.watermark
        else None,
        prefetch=order.prefetch,
        grace_s=settings.eviction.grace_s,
        step_s=order.step_minutes * 60,
        start_full=order.start == "full",
    )


def changed(
    change: dict[str, float | str], thresholds: Thresholds, archive: ArchiveSettings
) -> tuple[Thresholds, ArchiveSettings]:
    """Return settings with what is other in an order. Raises ConfigError, naming the key."""
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for key, value in change.items():
        if key in _THRESHOLDS:
            ours[_THRESHOLDS[key]] = value
        elif key == "minimum_age_h":
            theirs["min_age_s"] = _number(key, value) * 3600
        elif key in _ARCHIVE:
            theirs[_ARCHIVE[key]] = value
        else:
            near = difflib.get_close_matches(key, CHANGES, n=1, cutoff=0.5)
            told = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CHANGES)}"
            raise ConfigError(f"change: unknown key {key!r}; {told}")
    return (
        parse(Thresholds, thresholds.model_dump() | ours, "thresholds"),
        parse(ArchiveSettings, archive.model_dump() | theirs, "archive"),
    )


def load_of(order: SimulationOrder, place: recorded.Place) -> Load:
    """Return the load that an order asks for. Raises ConfigError."""
    if order.load != "synthetic":
        try:
            found = recorded.load(place, order.days)
        except ConfigError:
            if order.load == "recorded":
                raise
        else:
            if order.load == "recorded" or found.days >= LEAST_DAYS:
                return found if len(found.reads) else synthetic_load.with_reads(found, order.seed)
    site = synthetic_load.Hospital(growth_per_year=order.growth_per_year)
    if order.bytes_per_study:
        site = synthetic_load.resized(site, order.bytes_per_study)
    if order.studies_per_day:
        site = replace(site, scale=synthetic_load.scale_of(order.studies_per_day))
    return synthetic_load.generate(
        order.days,
        history_days=order.history_days,
        start=_START,
        seed=order.seed,
        hospital=site,
    )


def size(order: SizeOrder, settings: Settings, place: recorded.Place) -> dict[str, Any]:
    """Return capacities for an expected load, with every factor.

    Raises:
        ConfigError: nothing is said of the load, and nothing measured.
    """
    studies, each, ratio = order.studies_per_day, float(order.bytes_per_study), order.web_ratio
    measured: dict[str, Any] | None = None
    if order.measured:
        load, measured_ratio = recorded.load(place, 0), recorded.web_ratio(place)
        days = max(1.0, load.days)
        studies = studies or len(load.arrived_s) / days
        each = each or float(load.size_bytes.mean())
        ratio = ratio or measured_ratio
        measured = {"days": load.days, "studies": len(load.arrived_s), "web_ratio": measured_ratio}
    if not studies or not each:
        raise ConfigError(
            "studies_per_day and bytes_per_study are needed, or measured: what is expected?"
        )
    try:
        expected = sizing.Expected(
            studies_per_day=studies,
            bytes_per_study=each,
            days=order.days,
            web_days=order.web_days,
            web_ratio=ratio or WEB_RATIO,
            library_ratio=order.library_ratio,
            load_margin=order.load_margin,
            space_margin=order.space_margin,
            amber_h=settings.thresholds.amber_h,
        )
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    found = sizing.size(expected)
    return {
        "bytes_per_day": found.bytes_per_day,
        "amber_bytes": found.amber_bytes,
        "measured": measured,
        "sizes": [_size(one) for one in (found.image, found.web, found.library_per_year)],
        "notes": list(found.notes),
    }


def _size(one: sizing.Size) -> dict[str, Any]:
    return {
        "what": one.what,
        "size_bytes": one.size_bytes,
        "factors": [
            {"name": each.name, "value": each.value, "unit": each.unit, "why": each.why}
            for each in one.factors
        ],
    }


def _number(key: str, value: float | str) -> float:
    try:
        return float(value)
    except ValueError as exc:
        raise ConfigError(f"change: {key} is a number of hours, not {value!r}") from exc
