"""Forecast of the hours of space left, with its uncertainty (FEATURES F1). Skeleton: plain rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from raypacs.policy.forecast import HourlyIntake, fill_rate, hours_left


@dataclass(frozen=True, slots=True)
class Forecast:
    """Hours until ``available_bytes`` are filled; None: never, as far as can be seen."""

    hours_p10: float | None
    hours_p50: float | None
    hours_p90: float | None
    method: str
    why: str = ""
    ahead: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    """(hours from now, bytes that will have come: median), increasing."""

    def bytes_until(self, hours: float) -> float:
        """Return the bytes (median) that will have come after so many hours."""
        before_h, before = 0.0, 0.0
        for at_h, size in self.ahead:
            if at_h >= hours:
                return before + (size - before) * (hours - before_h) / (at_h - before_h)
            before_h, before = float(at_h), size
        return before * hours / before_h if before_h else 0.0


def forecast(
    history: Sequence[HourlyIntake],
    now: float,
    available_bytes: int,
    *,
    backlog_bytes: int = 0,
    time_zone: str = "UTC",
) -> Forecast:
    """Return the hours left at ``now`` (seconds since the epoch, UTC)."""
    rate = fill_rate(history, now)
    left = hours_left(max(0, available_bytes - backlog_bytes), rate)
    ahead = ((1, rate.bytes_per_hour),) if rate else ()
    return Forecast(None, left, None, "plain", "skeleton", ahead)
