"""Plain fill rate of a cache and the hours left at that rate (FEATURES B2).

rate = studies per hour x objects per study x bytes per object, over the history's elapsed hours
(quiet hours count), at most the last seven days. hours left = available bytes / rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HOUR_S = 3600
WINDOW_S = 7 * 24 * HOUR_S


@dataclass(frozen=True, slots=True)
class HourlyIntake:
    """What one tier took in within the hour that began at ``hour_s`` (UTC, a multiple of 3600)."""

    hour_s: int
    studies: int
    objects: int
    size_bytes: int
    moved_bytes: int = 0
    """Besides, what came from other tiers: restored, prefetched, migrated."""

    @property
    def filled_bytes(self) -> int:
        """Everything that filled the tier."""
        return self.size_bytes + self.moved_bytes


@dataclass(frozen=True, slots=True)
class FillRate:
    """The three measured factors of the rate."""

    studies_per_hour: float
    objects_per_study: float
    bytes_per_object: float

    @property
    def bytes_per_hour(self) -> float:
        """Their product."""
        return self.studies_per_hour * self.objects_per_study * self.bytes_per_object


def hour_of(at_s: float) -> int:
    """Return the start of the UTC hour that contains ``at_s``."""
    return int(at_s // HOUR_S) * HOUR_S


def fill_rate(history: Iterable[HourlyIntake], now: float) -> FillRate | None:
    """Return the measured rate, or None where nothing arrived in the window.

    Elapsed time runs from the first hour seen, and is at least one hour, so that a first minute
    of intake is not blown up to sixty.
    """
    seen = [hour for hour in history if hour.hour_s > now - WINDOW_S and hour.hour_s <= now]
    studies = sum(hour.studies for hour in seen)
    objects = sum(hour.objects for hour in seen)
    if objects == 0:
        return None
    elapsed_hours = max(1.0, (now - min(hour.hour_s for hour in seen)) / HOUR_S)
    # Objects that only joined studies of an earlier window still fill the tier: count one study.
    studies = max(studies, 1)
    return FillRate(
        studies_per_hour=studies / elapsed_hours,
        objects_per_study=objects / studies,
        bytes_per_object=sum(hour.size_bytes for hour in seen) / objects,
    )


def hours_left(available_bytes: int, rate: FillRate | None) -> float | None:
    """Return hours until full at ``rate``; None where there is no history or nothing grows."""
    if rate is None or rate.bytes_per_hour <= 0:
        return None
    return max(0, available_bytes) / rate.bytes_per_hour
