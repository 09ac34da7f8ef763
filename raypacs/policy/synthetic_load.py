"""A synthetic load of a hospital: studies by modality, who opens what, and how old it is then.

Documented in docs/simulation.md. Same seed, same load.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from raypacs.policy.forecast import HOUR_S
from raypacs.policy.load import DAY_S, Floats, Ints, Load


@dataclass(frozen=True, slots=True)
class Modality:
    """Studies of a modality: how many on a working day, how large (mean bytes, spread), how many
    objects. ``spread`` is the sigma of the log-normal distribution of sizes."""

    name: str
    per_day: float
    mean_bytes: float
    spread: float
    objects: int
    around_the_clock: float = 0.2
    """Part of the studies that come at any hour, on weekends too (emergency)."""


MODALITIES = (
    Modality("DX", 270, 21e6, 0.5, 2, 0.3),
    Modality("CT", 78, 240e6, 0.9, 560, 0.35),
    Modality("US", 72, 55e6, 0.8, 40, 0.15),
    Modality("MR", 38, 190e6, 0.6, 480, 0.08),
    Modality("MG", 14, 170e6, 0.5, 5, 0.0),
    Modality("XA", 10, 330e6, 0.8, 25, 0.3),
    Modality("PT", 5, 150e6, 0.4, 900, 0.0),
    Modality("NM", 5, 12e6, 0.6, 8, 0.0),
)
"""About 490 studies on a working day, 150,000 and 12 TB a year: a hospital of 600 beds."""

STUDIES_PER_DAY = 390.0
"""Of all days of a year, at scale 1."""

# Part of a working day's planned studies in each local hour; sums to 1.
_HOURS = np.array(
    [0, 0, 0, 0, 0, 0, 1, 4, 9, 11, 12, 11, 8, 9, 10, 9, 7, 4, 2, 1.5, 1, 0.5, 0, 0], dtype=float
)
_HOURS /= _HOURS.sum()
# Emergencies: less at night, never none.
_ACUTE = np.array([2, 2, 1, 1, 1, 2, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5, 5, 4, 3, 2], float)
_ACUTE /= _ACUTE.sum()
# Planned studies by day of the week, Monday first.
_WEEK = np.array([1.05, 1.03, 1.0, 1.0, 0.92, 0.08, 0.03])
_CHANCES = 0.55  # part of studies whose patient was here before
_PRIORS = 3


@dataclass(frozen=True, slots=True)
class Hospital:
    """What :func:`generate` makes. ``scale`` multiplies the studies a day."""

    scale: float = 1.0
    growth_per_year: float = 0.05
    modalities: tuple[Modality, ...] = MODALITIES
    time_zone: str = "Europe/Berlin"
    holidays: tuple[tuple[int, int], ...] = (
        (1, 1),
        (1, 6),
        (5, 1),
        (10, 3),
        (12, 24),
        (12, 25),
        (12, 26),
        (12, 31),
    )
    outages: tuple[tuple[float, float], ...] = field(default=())
    """(first day, days) in which nothing is sent, counted from the start; it comes afterwards."""


def generate(
    days: float,
    *,
    history_days: float,
    start: datetime,
    seed: int,
    hospital: Hospital | None = None,
) -> Load:
    """Return a load of ``days`` from ``start`` (aware), behind ``history_days`` of history."""
    site = hospital or Hospital()
    rng = np.random.default_rng(seed)
    start_s = start.astimezone(UTC).timestamp()
    arrived, size, objects, modality = _arrivals(site, rng, start, history_days, days)
    arrived = _held_up(arrived, site, start_s)
    order = np.argsort(arrived, kind="stable")
    arrived, size, objects, modality = arrived[order], size[order], objects[order], modality[order]
    before = _earlier_study(rng, arrived)
    read_s, reads = _reads(rng, arrived, modality, before, start_s + days * DAY_S)
    return Load(
        start_s=start_s,
        end_s=start_s + days * DAY_S,
        arrived_s=arrived,
        size_bytes=size,
        objects=objects,
        modality=modality,
        modalities=tuple(one.name for one in site.modalities),
        patient=_roots(before),
        read_s=read_s,
        reads=reads,
        facts={"seed": seed, "scale": site.scale, "growth_per_year": site.growth_per_year},
    )


def _arrivals(
    site: Hospital, rng: np.random.Generator, start: datetime, history_days: float, days: float
) -> tuple[Floats, Ints, Ints, Ints]:
    """Return times, sizes, objects and modalities, day by day of the local calendar."""
    zone = ZoneInfo(site.time_zone)
    begin = (start - timedelta(days=history_days)).astimezone(zone)
    end = start + timedelta(days=days)
    local = [
        datetime(*(begin + timedelta(days=one)).timetuple()[:3], tzinfo=zone)
        for one in range(int(history_days + days) + 2)
    ]
    midnight = np.array([one.timestamp() for one in local])
    length = np.diff(midnight, append=midnight[-1] + DAY_S) / DAY_S  # 23 or 25 hours twice a year
    free = np.array([(one.month, one.day) in site.holidays for one in local])
    weekday = np.array([one.weekday() for one in local])
    planned = np.where(free, _WEEK[6], _WEEK[weekday])
    years = (midnight - start.timestamp()) / (365.25 * DAY_S)
    trend = site.scale * (1 + site.growth_per_year) ** years
    # Days differ more than by chance alone: clinics, weather.
    mood = rng.lognormal(0, 0.06, len(local))
    parts = []
    for number, one in enumerate(site.modalities):
        acute = one.per_day * one.around_the_clock
        rates = (
            ((one.per_day - acute) * planned * mood, _HOURS),
            (acute * mood, _ACUTE),
        )
        for rate, profile in rates:
            counts = rng.poisson(np.outer(rate * trend, profile))
            day, hour = np.nonzero(counts)
            repeat = counts[day, hour]
            day, hour = np.repeat(day, repeat), np.repeat(hour, repeat)
            at = midnight[day] + (hour + rng.random(len(day))) * HOUR_S * length[day]
            parts.append((at, np.full(len(at), number)))
    at = np.concatenate([part[0] for part in parts])
    modality = np.concatenate([part[1] for part in parts])
    inside = (at >= begin.timestamp()) & (at < end.timestamp())
    at, modality = at[inside], modality[inside]
    spread = np.array([one.spread for one in site.modalities])[modality]
    mean = np.array([one.mean_bytes for one in site.modalities])[modality]
    noise = rng.normal(0, 1, len(at))
    size = mean * np.exp(spread * noise - spread**2 / 2)
    many = np.array([one.objects for one in site.modalities])[modality]
    objects = np.maximum(1, many * np.exp(spread * noise - spread**2 / 2))
    return at, np.maximum(size, 100_000).astype(np.int64), objects.astype(np.int64), modality


def _held_up(arrived: Floats, site: Hospital, start_s: float) -> Floats:
    """Return times of arrival when nothing comes in outages, and all of it soon after them."""
    arrived = arrived.copy()
    for first, days in site.outages:
        begin, end = start_s + first * DAY_S, start_s + (first + days) * DAY_S
        late = (arrived >= begin) & (arrived < end)
        arrived[late] = end + (arrived[late] - begin) * 0.1  # sent again, ten times as fast
    return arrived


def _earlier_study(rng: np.random.Generator, arrived: Floats) -> Ints:
    """Return the study after which the same patient comes again, the study itself for new ones.

    Many come back within days (follow-up during a stay), most within months, some after years.
    """
    count = len(arrived)
    own = np.arange(count)
    stay = rng.random(count) < 0.45
    gap_days = np.where(stay, rng.exponential(3.0, count), rng.lognormal(np.log(120), 1.4, count))
    back = np.searchsorted(arrived, arrived - gap_days * DAY_S) - 1
    known = (rng.random(count) < _CHANCES) & (back >= 0)
    return np.where(known, np.maximum(back, 0), own)


def _roots(before: Ints) -> Ints:
    """Return the patient of each study: the first study of the chain it belongs to."""
    root = before
    while True:
        further = root[root]
        if np.array_equal(further, root):
            return root
        root = further


def _reads(
    rng: np.random.Generator, arrived: Floats, modality: Ints, before: Ints, end_s: float
) -> tuple[Floats, Ints]:
    """Return when what is opened.

    Reporting: once or twice, most within two hours, and its up to three priors with it (earlier
    studies of the patient). Referring physicians: 1.2 times, within days. Later, without a new
    study (boards, clinics, research): 0.35 times, any age, ever more rarely.
    """
    count = len(arrived)
    own = np.arange(count)
    times, whose = [], []

    def opened(study: Ints, at: Floats) -> None:
        times.append(at)
        whose.append(study)

    reported = arrived + rng.lognormal(np.log(1.2 * HOUR_S), 1.0, count)
    opened(own, reported)
    again = rng.random(count) < 0.4
    opened(own[again], reported[again] + rng.exponential(4 * HOUR_S, int(again.sum())))
    prior = before
    has = prior != own
    for _ in range(_PRIORS):
        # Of another modality they are opened less often.
        chance = np.where(modality[prior] == modality, 0.9, 0.45)
        seen = has & (rng.random(count) < chance)
        opened(prior[seen], reported[seen] + rng.random(int(seen.sum())) * 600)
        has = has & (before[prior] != prior)
        prior = before[prior]
    ward = np.repeat(own, rng.poisson(1.2, count))
    opened(ward, arrived[ward] + rng.exponential(2.5 * DAY_S, len(ward)))
    late = np.repeat(own, rng.poisson(0.35, count))
    age_days = 7 * (rng.pareto(0.7, len(late)) + 1)
    opened(late, arrived[late] + age_days * DAY_S)
    at, study = np.concatenate(times), np.concatenate(whose)
    inside = at < end_s
    at, study = at[inside], study[inside]
    order = np.argsort(at, kind="stable")
    return at[order], study[order]


def with_reads(load: Load, seed: int) -> Load:
    """Return a recorded load with synthetic reads, where the record has none."""
    rng = np.random.default_rng(seed)
    before = _earlier_study(rng, load.arrived_s)
    read_s, reads = _reads(rng, load.arrived_s, load.modality, before, load.end_s)
    return replace(
        load,
        patient=_roots(before),
        read_s=read_s,
        reads=reads,
        read_origin="synthetic: the record has none",
    )


def resized(site: Hospital, bytes_per_study: float) -> Hospital:
    """Return a hospital whose studies have another mean size."""
    mean = sum(one.per_day * one.mean_bytes for one in site.modalities)
    factor = bytes_per_study * sum(one.per_day for one in site.modalities) / mean
    return replace(
        site,
        modalities=tuple(
            replace(one, mean_bytes=one.mean_bytes * factor) for one in site.modalities
        ),
    )


def scale_of(studies_per_day: float) -> float:
    """Return the scale at which a hospital has so many studies a day, weekends included."""
    return studies_per_day / STUDIES_PER_DAY
