"""Levels of caches: green, amber, red, by hours of space left, with hysteresis (FEATURES B1, B4).

A level begins as soon as the hours left are at or below its threshold. It is left only when they
exceed the threshold by the hysteresis, so that a forecast that wavers does not make it flap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from raypacs.autopilot.thresholds import Thresholds
from raypacs.autopilot.tiers import TierSettings

FULL_BYTES = 64 * 1024 * 1024
"""A cache with less than this available is full, whatever the rate: it cannot take a series."""
FULL_PART = 0.01
"""A small cache is full with less than this part of its capacity."""


def full_bytes(capacity_bytes: int) -> int:
    """Return the available bytes below which a cache counts as full."""
    return min(FULL_BYTES, int(capacity_bytes * FULL_PART))


class Level(StrEnum):
    """How urgent it is to free a cache."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"

    @property
    def rank(self) -> int:
        """0 green, 1 amber, 2 red."""
        return _RANKS[self.value]


_RANKS = {"green": 0, "amber": 1, "red": 2}


@dataclass(frozen=True, slots=True)
class Hours:
    """The thresholds in force now, in hours of space left; ``web_h`` counts for web caches."""

    amber_h: float
    red_h: float
    web_h: float
    hysteresis: float = 0.1
    keep_h: float = 0.0
    """Hours of space to make at least, where a cache is freed at all (B13)."""

    def of(self, level: Level, role: str) -> float:
        """Return the hours at which ``level`` begins; 0 on green."""
        if level is Level.GREEN:
            return 0.0
        if role == "web":
            return self.web_h
        return self.red_h if level is Level.RED else self.amber_h


def thresholds_of(thresholds: Thresholds, tier: TierSettings, *, is_night: bool) -> Hours:
    """Return the thresholds of ``tier`` now: its own where they are given, else those of all.

    Night values hold while the archive window is open; left out, they are those of the day.
    """
    own = tier.thresholds.over(thresholds) if tier.thresholds else thresholds

    def by_night(day: float, night: float | None) -> float:
        return night if is_night and night is not None else day

    return Hours(
        amber_h=by_night(own.amber_h, own.amber_night_h),
        red_h=by_night(own.red_h, own.red_night_h),
        web_h=by_night(own.web_h, own.web_night_h),
        hysteresis=own.hysteresis,
        keep_h=24 * own.keep_days,
    )


def judge(
    hours_left: float | None,
    before: Level,
    hours: Hours,
    *,
    role: str = "image",
    available_bytes: int | None = None,
    capacity_bytes: int | None = None,
) -> Level:
    """Return the level of a cache, given the one before.

    ``hours_left`` None: nothing fills it, or no history. A cache that is completely full is red
    even without a rate. A web cache knows green and amber alone (its web threshold), but a full
    one is red.
    """
    full = FULL_BYTES if capacity_bytes is None else full_bytes(capacity_bytes)
    if before is Level.RED:
        full *= 2  # freed by a little, it is not to be full again with the next study
    if available_bytes is not None and available_bytes <= full:
        return Level.RED
    if hours_left is None:
        return Level.GREEN
    steps = (Level.AMBER,) if role == "web" else (Level.AMBER, Level.RED)
    found = Level.GREEN
    for level in steps:
        begins = hours.of(level, role)
        ends = begins * (1 + hours.hysteresis) if before.rank >= level.rank else begins
        # Zero hours switch a level off; at or below, not to be red at "0 hours left" and 0.
        if begins > 0 and hours_left <= ends:
            found = level
    return found


def needed_bytes(level_h: float, hysteresis: float, bytes_until: Callable[[float], float]) -> float:
    """Return the bytes of space at which ``level_h`` is left behind, hysteresis included.

    ``bytes_until`` gives the bytes that will have come after so many hours.
    """
    return bytes_until(level_h * (1 + hysteresis))
