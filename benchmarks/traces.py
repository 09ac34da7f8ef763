"""Synthetic arrivals of hospitals, practices and reading centres: seeded, study by study.

What makes them like real ones: each modality has its own rate, size (log-normal), working hours
and weekend; days differ (a log-normal factor a day), and so do hours in a row (an autoregressive
factor); holidays are like Sundays; a site grows; there is an outage, after which what was held
back arrives in a few hours; a modality is added; some sites get a batch of transfers by night.
Hours are local: what happens at eight happens at eight also after the clocks change.

Nothing here is taken from a real site. docs/forecast.md describes the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from raypacs.policy.forecast import HOUR_S, HourlyIntake

MB = 1e6
START = datetime(2025, 3, 3, tzinfo=UTC)
"""A Monday; 26 weeks from here see a change of the clocks, Easter and a summer."""

# Share of a day's studies by local hour.
_CLINIC = (1, 1, 1, 1, 1, 2, 6, 26, 60, 85, 92, 88, 66, 62, 78, 70, 50, 30, 16, 10, 7, 5, 3, 2)
_EMERGENCY = (
    *(20, 16, 13, 11, 10, 11, 16, 26, 40, 50, 55, 56),
    *(54, 52, 52, 54, 56, 58, 56, 52, 46, 40, 33, 26),
)
_OFFICE = (0, 0, 0, 0, 0, 0, 0, 14, 60, 90, 95, 80, 22, 40, 85, 80, 55, 12, 0, 0, 0, 0, 0, 0)
_BATCH = (0, 40, 100, 70, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
SHAPES = {"clinic": _CLINIC, "emergency": _EMERGENCY, "office": _OFFICE, "batch": _BATCH}


@dataclass(frozen=True)
class Modality:
    """One kind of study: its share of the site's studies a weekday, objects and size.

    Shares of those there from the beginning are taken of their sum; a later one comes on top.
    """

    name: str
    share: float
    objects: float
    mean_bytes: float
    sigma: float = 0.6
    """Of the logarithm of a study's size."""
    shape: str = "clinic"
    saturday: float = 0.35
    sunday: float = 0.2
    from_week: float = 0.0
    """Not in use before."""
    hours_later: int = 0
    """Of another time zone than the site: by so many hours."""


RADIOGRAPHY = Modality("CR", 0.50, 2, 15 * MB, 0.5, "emergency", 0.55, 0.45)
TOMOGRAPHY = Modality("CT", 0.22, 420, 220 * MB, 0.6, "emergency", 0.5, 0.4)
RESONANCE = Modality("MR", 0.12, 400, 120 * MB, 0.5, "clinic", 0.3, 0.05)
ULTRASOUND = Modality("US", 0.12, 40, 35 * MB, 0.7, "clinic", 0.2, 0.15)
MAMMOGRAPHY = Modality("MG", 0.04, 5, 100 * MB, 0.4, "office", 0.02, 0.0)
TOMOSYNTHESIS = Modality("DBT", 0.03, 12, 600 * MB, 0.4, "office", 0.02, 0.0)
HOSPITAL = (RADIOGRAPHY, TOMOGRAPHY, RESONANCE, ULTRASOUND, MAMMOGRAPHY)


@dataclass(frozen=True)
class Site:
    """The parameters of one site; rates are those of an ordinary weekday at the beginning."""

    name: str
    studies_a_day: float
    modalities: tuple[Modality, ...] = HOSPITAL
    time_zone: str = "Europe/Berlin"
    growth_a_week: float = 0.002
    weekdays: tuple[float, ...] = (1.08, 1.04, 1.0, 1.0, 0.88)
    holidays: tuple[date, ...] = ()
    holiday_factor: float = 1.0
    """Times a Sunday."""
    outage_week: float = 15.3
    outage_hours: float = 9.0
    catch_up_hours: float = 5.0
    day_sigma: float = 0.05
    hour_sigma: float = 0.10
    hour_memory: float = 0.7
    season: float = 0.04
    """Half the swing between the weakest and the strongest week of a slow wave of 16 weeks."""
    start: datetime = field(default=START)


@dataclass(frozen=True)
class Trace:
    """What arrived: by study, in order; and by hour from ``first_hour_s`` (UTC) on."""

    site: Site
    first_hour_s: int
    at_s: np.ndarray
    modality: np.ndarray
    objects: np.ndarray
    size_bytes: np.ndarray
    hours: int

    def by_hour(self) -> np.ndarray:
        """Return the bytes of each hour."""
        at = ((self.at_s - self.first_hour_s) // HOUR_S).astype(int)
        return np.bincount(at, self.size_bytes, self.hours)[: self.hours]

    def intake(self) -> list[HourlyIntake]:
        """Return the hourly samples as the index keeps them; hours without intake have none."""
        at = ((self.at_s - self.first_hour_s) // HOUR_S).astype(int)
        studies = np.bincount(at, minlength=self.hours)
        objects = np.bincount(at, self.objects, self.hours)
        size = np.bincount(at, self.size_bytes, self.hours)
        return [
            HourlyIntake(
                self.first_hour_s + HOUR_S * int(hour),
                int(studies[hour]),
                int(objects[hour]),
                int(size[hour]),
            )
            for hour in np.flatnonzero(studies[: self.hours])
        ]


def arrivals(site: Site, weeks: int, seed: int) -> Trace:
    """Return ``weeks`` of arrivals; the same for the same arguments."""
    random = np.random.default_rng(seed)
    hours = weeks * 7 * 24
    first_s = int(site.start.timestamp()) // HOUR_S * HOUR_S
    local = _local(first_s, hours, site.time_zone)
    factor = _factors(site, local, random)
    at, kinds, objects, sizes = [], [], [], []
    for number, (modality, rate) in enumerate(_rates(site, local, factor)):
        counts = random.poisson(rate)
        total = int(counts.sum())
        began = np.repeat(np.arange(hours), counts) + random.random(total)
        size = random.lognormal(-(modality.sigma**2) / 2, modality.sigma, total)
        at.append(first_s + HOUR_S * began)
        kinds.append(np.full(total, number))
        sizes.append(np.maximum(10_000, size * modality.mean_bytes).astype(np.int64))
        objects.append(np.maximum(1, size * modality.objects).astype(np.int64))
    when = _after_outage(site, first_s, np.concatenate(at), random)
    order = np.argsort(when, kind="stable")
    order = order[when[order] < first_s + hours * HOUR_S]
    picked = [np.concatenate(part)[order] for part in (kinds, objects, sizes)]
    return Trace(site, first_s, when[order], *picked, hours)


def expected(site: Site, weeks: int, seed: int) -> np.ndarray:
    """Return the bytes each hour of ``arrivals`` was drawn from: what nobody can know beforehand.

    Outages apart. A forecast from it is wrong only by chance: how many studies came, how large.
    """
    random = np.random.default_rng(seed)
    hours = weeks * 7 * 24
    local = _local(int(site.start.timestamp()) // HOUR_S * HOUR_S, hours, site.time_zone)
    rates = _rates(site, local, _factors(site, local, random))
    return np.asarray(sum(rate * modality.mean_bytes for modality, rate in rates))


def _rates(
    site: Site, local: Sequence[datetime], factor: np.ndarray
) -> Iterator[tuple[Modality, np.ndarray]]:
    """Yield the studies an hour of each modality."""
    week = np.arange(len(local)) / 168
    shares = sum(modality.share for modality in site.modalities if not modality.from_week)
    for modality in site.modalities:
        rate = site.studies_a_day * modality.share / shares * _shape(site, modality, local) * factor
        yield modality, np.where(week >= modality.from_week, rate, 0.0)


def _local(first_s: int, hours: int, time_zone: str) -> list[datetime]:
    zone = ZoneInfo(time_zone)
    return [datetime.fromtimestamp(first_s + HOUR_S * hour, zone) for hour in range(hours)]


def _shape(site: Site, modality: Modality, local: Sequence[datetime]) -> np.ndarray:
    """Return the part of a weekday's studies that each hour has."""
    shape = np.array(SHAPES[modality.shape], float)
    shape = np.roll(shape / shape.sum(), modality.hours_later)
    sunday = modality.sunday * site.holiday_factor
    days = (*site.weekdays, modality.saturday, modality.sunday)
    holidays = frozenset(site.holidays)
    return np.array(
        [shape[at.hour] * (sunday if at.date() in holidays else days[at.weekday()]) for at in local]
    )


def _factors(site: Site, local: Sequence[datetime], random: np.random.Generator) -> np.ndarray:
    """Return growth, season, and what differs from day to day and from hour to hour."""
    hours = len(local)
    week = np.arange(hours) / 168
    days = np.array([at.toordinal() for at in local])
    of_day = random.lognormal(-(site.day_sigma**2) / 2, site.day_sigma, int(np.ptp(days)) + 1)
    noise = random.standard_normal(hours) * site.hour_sigma
    step = np.sqrt(1 - site.hour_memory**2)
    level = np.empty(hours)
    level[0] = noise[0]
    for hour in range(1, hours):
        level[hour] = site.hour_memory * level[hour - 1] + step * noise[hour]
    wave = 1 + site.season * np.sin(2 * np.pi * (week / 16 + random.random()))
    grown = (1 + site.growth_a_week) ** week
    factors: np.ndarray = grown * wave * of_day[days - days[0]] * np.exp(level)
    return factors


def _after_outage(
    site: Site, first_s: int, at_s: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Hold back what was sent during the outage; it comes in the hours after it."""
    begins = first_s + site.outage_week * 7 * 24 * HOUR_S
    ends = begins + site.outage_hours * HOUR_S
    held = (at_s >= begins) & (at_s < ends)
    late = ends + random.random(int(held.sum())) * site.catch_up_hours * HOUR_S
    when = at_s.copy()
    when[held] = late
    return when


def _days(*days: str) -> tuple[date, ...]:
    return tuple(date.fromisoformat(day) for day in days)


_GERMAN = _days("2025-04-18", "2025-04-21", "2025-05-01", "2025-05-29", "2025-06-09", "2025-06-19")
_AMERICAN = _days("2025-05-26", "2025-06-19", "2025-07-04", "2025-09-01")
_JAPANESE = _days("2025-03-20", "2025-04-29", "2025-05-05", "2025-05-06", "2025-07-21")
_BRITISH = _days("2025-04-18", "2025-04-21", "2025-05-05", "2025-05-26", "2025-08-25")
_NEW_SCANNER = Modality("CT2", 0.08, 500, 260 * MB, 0.6, "clinic", 0.3, 0.1, from_week=11)
_BATCHES = Modality("batch", 0.25, 60, 60 * MB, 0.8, "batch", 0.6, 0.3)


def _stage(start: date) -> datetime:
    return datetime(start.year, start.month, start.day, tzinfo=UTC)


TUNING: tuple[Site, ...] = (
    Site("hospital of 600 beds", 520, (*HOSPITAL, _NEW_SCANNER), holidays=_GERMAN),
    Site(
        "group of hospitals",
        3000,
        time_zone="America/New_York",
        holidays=_AMERICAN,
        growth_a_week=0.006,
        outage_week=18.6,
        outage_hours=14,
        hour_sigma=0.07,
    ),
    Site("practice", 60, (ULTRASOUND, RESONANCE, MAMMOGRAPHY), holidays=_GERMAN, day_sigma=0.08),
    Site(
        "reading centre",
        400,
        (*HOSPITAL, _BATCHES),
        time_zone="Asia/Tokyo",
        holidays=_JAPANESE,
        growth_a_week=0.012,
    ),
)
"""Sites on which the forecast was developed."""

_ABROAD = tuple(replace(one, share=one.share / 2, hours_later=-6) for one in HOSPITAL)
_FIVE = (
    Modality("CT", 0.4, 500, 300 * MB, 0.6, "office", 0.0, 0.0),
    Modality("CR", 0.6, 2, 25 * MB, 0.4, "office", 0.0, 0.0),
)
HELD_OUT: tuple[Site, ...] = (
    Site(
        "university hospital",
        1800,
        (*HOSPITAL, TOMOSYNTHESIS, _NEW_SCANNER),
        time_zone="Europe/London",
        holidays=_BRITISH,
        growth_a_week=0.004,
        outage_week=20.2,
        outage_hours=6,
        catch_up_hours=3,
        day_sigma=0.07,
        start=_stage(date(2025, 3, 10)),
    ),
    Site(
        "teleradiology over three time zones",
        3000,
        (*HOSPITAL, *(replace(one, hours_later=3) for one in HOSPITAL), *_ABROAD),
        time_zone="America/New_York",
        holidays=_AMERICAN,
        growth_a_week=0.008,
        outage_week=9.6,
        outage_hours=7,
        catch_up_hours=2,
        hour_sigma=0.08,
        start=_stage(date(2025, 3, 3)),
    ),
    Site(
        "city hospital",
        450,
        time_zone="America/Chicago",
        holidays=_AMERICAN,
        growth_a_week=-0.003,
        outage_week=12.45,
        outage_hours=20,
        catch_up_hours=10,
        start=_stage(date(2025, 4, 7)),
    ),
    Site(
        "imaging centre",
        150,
        (RESONANCE, TOMOGRAPHY, ULTRASOUND, MAMMOGRAPHY, TOMOSYNTHESIS),
        time_zone="Australia/Sydney",
        holidays=_days("2025-04-18", "2025-04-21", "2025-04-25", "2025-06-09"),
        weekdays=(1.0, 1.1, 1.0, 0.95, 0.8),
        growth_a_week=0.009,
        outage_week=16.7,
    ),
    Site(
        "network with a nightly batch",
        700,
        (*HOSPITAL, _BATCHES),
        time_zone="America/Sao_Paulo",
        holidays=_days("2025-04-18", "2025-04-21", "2025-05-01", "2025-06-19", "2025-07-09"),
        hour_sigma=0.15,
        season=0.08,
        growth_a_week=0.0,
        outage_week=22.35,
        outage_hours=11,
    ),
    Site(
        "small practice",
        25,
        _FIVE,
        holidays=_GERMAN,
        day_sigma=0.1,
        outage_hours=5,
        outage_week=17.4,
    ),
)
"""Other sites, on which it is measured."""


def end_of(trace: Trace) -> datetime:
    """Return when a trace ends (UTC)."""
    return datetime.fromtimestamp(trace.first_hour_s, UTC) + timedelta(hours=trace.hours)
