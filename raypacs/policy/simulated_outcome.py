"""What came of a simulation, in numbers: for tables, JSON, Parquet and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raypacs.policy.forecast import HOUR_S
from raypacs.policy.load import Floats, Ints, Load
from raypacs.policy.simulated_cache import Cache, Track

_LEVELS = ("green", "amber", "red")
_FURTHEST_H = 14 * 24.0
"""Forecasts of more hours than this are not scored: nobody acts on them."""


@dataclass
class Counts:
    """What happened, over all caches. Reads are those that people asked for."""

    studies: int = 0
    bytes: int = 0
    refused: int = 0
    """Times that a study found no room; it is sent again."""
    refused_bytes: int = 0
    archived: int = 0
    archived_bytes: int = 0
    unarchived_high_bytes: int = 0
    restored: int = 0
    restored_bytes: int = 0
    restores_refused: int = 0
    prefetched: int = 0
    unprepared: int = 0
    reads: int = 0
    hits: int = 0
    read_bytes: int = 0
    hit_bytes: int = 0
    older_reads: int = 0
    """Of studies that arrived more than seven days before."""
    older_hits: int = 0
    web_reads: int = 0
    web_misses: int = 0

    def read(self, size_bytes: Ints, missing: npt.NDArray[np.bool_], older: Any) -> None:
        """Count reads; ``missing``: those that had to wait for a restore."""
        self.reads += len(size_bytes)
        self.hits += int(np.count_nonzero(~missing))
        self.read_bytes += int(size_bytes.sum())
        self.hit_bytes += int(size_bytes[~missing].sum())
        self.older_reads += int(np.count_nonzero(older))
        self.older_hits += int(np.count_nonzero(older & ~missing))


@dataclass(frozen=True)
class Score:
    """How good the forecasts of a cache were, beside the plain rate's, in hours.

    The truth is when the cache would have been full without any eviction. ``coverage``: part of
    the truths between p10 and p90.
    """

    scored: int
    error_h: float | None
    error_percent: float | None
    plain_error_h: float | None
    coverage: float | None


@dataclass(frozen=True)
class CacheOutcome:
    """What came of one cache."""

    name: str
    role: str
    capacity_bytes: int
    fullest_bytes: int
    evicted: int
    evicted_bytes: int
    by_rule: dict[str, int]
    hours_at: dict[str, float]
    level_changes: tuple[tuple[float, str], ...]
    forecast: Score
    least_evictable_h: float | None
    """Hours until nothing would have been left that may be evicted, at the worst."""
    track: Track = field(repr=False)

    @property
    def fullest_percent(self) -> float:
        """How full it was at most."""
        return 100 * self.fullest_bytes / self.capacity_bytes


@dataclass(frozen=True)
class Outcome:
    """What came of a simulation."""

    policy: str
    load: dict[str, Any]
    counts: Counts
    caches: tuple[CacheOutcome, ...]
    start_s: float
    end_s: float

    @property
    def hit_ratio(self) -> float | None:
        """Part of the reads that found the study in an image cache."""
        return _part(self.counts.hits, self.counts.reads)

    @property
    def older_hit_ratio(self) -> float | None:
        """The same of studies that arrived more than seven days before."""
        return _part(self.counts.older_hits, self.counts.older_reads)

    @property
    def byte_hit_ratio(self) -> float | None:
        """The same by bytes."""
        return _part(self.counts.hit_bytes, self.counts.read_bytes)

    @property
    def hours_at_red(self) -> float:
        """Hours in which some image cache was red."""
        return self._hours("red")

    @property
    def hours_at_amber(self) -> float:
        """Hours in which some image cache was amber, and none red."""
        return self._hours("amber")

    def _hours(self, level: str) -> float:
        ranks = [one.track.level for one in self.caches if one.role == "image"]
        if not ranks or not ranks[0]:
            return 0.0
        step_h = (self.end_s - self.start_s) / HOUR_S / len(ranks[0])
        worst = np.max(np.array(ranks), axis=0)
        return float(np.count_nonzero(worst == _LEVELS.index(level)) * step_h)

    def as_json(self, *, track: bool = False) -> dict[str, Any]:
        """Return everything as JSON values; ``track``: with a value a step of each cache."""
        caches = []
        for one in self.caches:
            told = {
                "name": one.name,
                "role": one.role,
                "capacity_bytes": one.capacity_bytes,
                "fullest_bytes": one.fullest_bytes,
                "fullest_percent": round(one.fullest_percent, 4),
                "evicted": one.evicted,
                "evicted_bytes": one.evicted_bytes,
                "evicted_by_rule": one.by_rule,
                "hours_at": one.hours_at,
                "level_changes": [
                    {"at_s": at_s, "level": level} for at_s, level in one.level_changes
                ],
                "forecast": asdict(one.forecast),
                "least_evictable_h": one.least_evictable_h,
            }
            if track:
                told["track"] = {
                    name: [None if value != value else value for value in values]
                    for name, values in asdict(one.track).items()
                }
            caches.append(told)
        return {
            "policy": self.policy,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "load": self.load,
            "hit_ratio": self.hit_ratio,
            "older_hit_ratio": self.older_hit_ratio,
            "byte_hit_ratio": self.byte_hit_ratio,
            "web_hit_ratio": _part(
                self.counts.web_reads - self.counts.web_misses, self.counts.web_reads
            ),
            "hours_at_amber": self.hours_at_amber,
            "hours_at_red": self.hours_at_red,
            "counts": asdict(self.counts),
            "caches": caches,
        }


def outcome_of(
    load: Load, policy: str, step_s: float, caches: Sequence[Cache], counts: Counts
) -> Outcome:
    """Sum a run up."""
    told = []
    for one in caches:
        step_h = step_s / HOUR_S
        ranks = np.array(one.track.level)
        hours = {
            name: round(float(np.count_nonzero(ranks == rank) * step_h), 3)
            for rank, name in enumerate(_LEVELS)
        }
        told.append(
            CacheOutcome(
                name=one.name,
                role=one.role,
                capacity_bytes=one.capacity_bytes,
                fullest_bytes=one.fullest_bytes,
                evicted=one.evicted,
                evicted_bytes=one.evicted_bytes,
                by_rule=dict(sorted(one.reasons.items())),
                hours_at=hours,
                level_changes=tuple((at_s, level.value) for at_s, level in one.changes),
                forecast=score(one.track),
                least_evictable_h=_least(one.track.evictable_h),
                track=one.track,
            )
        )
    return Outcome(policy, load.summary(), counts, tuple(told), load.start_s, load.end_s)


def score(track: Track) -> Score:
    """Compare forecasts with what came: hours until as much had come as there was room.

    Only forecasts whose truth lies within the run, and within fourteen days.
    """
    at_h = np.array(track.at_s) / HOUR_S
    filled = np.array(track.filled_bytes, dtype=np.float64)
    wanted = filled + np.array(track.available_bytes)
    if not len(filled) or filled[-1] <= filled[0]:
        return Score(0, None, None, None, None)
    truth = _reached(at_h, filled, wanted) - at_h
    p10, p50, p90 = (
        np.array(values) for values in (track.hours_p10, track.hours_p50, track.hours_p90)
    )
    plain = np.array(track.hours_plain)
    known = (truth > 0) & (truth <= _FURTHEST_H) & ~np.isnan(p50)
    if not known.any():
        return Score(0, None, None, None, None)
    error = np.abs(p50 - truth)[known]
    banded = known & ~np.isnan(p10) & ~np.isnan(p90)
    inside = (truth >= p10 - 1e-9) & (truth <= p90 + 1e-9)
    with_plain = known & ~np.isnan(plain)
    return Score(
        scored=int(known.sum()),
        error_h=_rounded(np.median(error)),
        error_percent=_rounded(np.median(100 * error / truth[known])),
        plain_error_h=_rounded(np.median(np.abs(plain - truth)[with_plain]))
        if with_plain.any()
        else None,
        coverage=_rounded(inside[banded].mean()) if banded.any() else None,
    )


def _reached(at_h: Floats, filled: Floats, wanted: Floats) -> Floats:
    """Return when ``filled`` reaches each of ``wanted``, nan where it never does."""
    after = np.searchsorted(filled, wanted)
    inside = (after > 0) & (after < len(filled))
    upper = np.clip(after, 1, len(filled) - 1)
    low, high = filled[upper - 1], filled[upper]
    part = (wanted - low) / np.maximum(high - low, 1)
    found = at_h[upper - 1] + part * (at_h[upper] - at_h[upper - 1])
    return np.where(inside, found, np.nan)


def _least(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return _rounded(min(known)) if known else None


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def _part(some: int, of: int) -> float | None:
    return round(some / of, 6) if of else None
