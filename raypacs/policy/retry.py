"""How often and how soon to try again.

Delay before try ``n + 1`` is ``base * 2^(n-1)`` seconds, at most ``cap``, times 0.75 to 1.0 by
chance, so that items that failed together do not return together, and each delay is longer than
the one before.

An attempt that found no room, or whose node died, says nothing about the item: it does not count,
and the item is never given up for it. Which error means what is the table ``_AFTER``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from raypacs.errors import (
    ConfigError,
    ManifestCorrupt,
    MasterUnavailable,
    PackCorrupt,
    StaleEpoch,
    TierFull,
    TierUnavailable,
)

_LEAST_SHARE = 0.75
# Room may come at any moment: longer than this nobody should wait after it did.
_LONGEST_WAIT_S = 30.0


class After(StrEnum):
    """What follows an attempt that broke off."""

    TRY = "try"  # another try, until there are no more
    WAIT = "wait"  # the error says nothing about the item, so the attempt does not count
    GIVE_UP = "give up"  # the same would happen again


# Error type to what follows, and what is waited for; the first that fits decides.
_AFTER: tuple[tuple[type[Exception], After, str], ...] = (
    (TierFull, After.WAIT, "room"),
    (TierUnavailable, After.WAIT, "a tier"),
    (ConfigError, After.WAIT, "other settings"),
    (MasterUnavailable, After.WAIT, "the index"),
    (PackCorrupt, After.GIVE_UP, ""),
    (ManifestCorrupt, After.GIVE_UP, ""),
    (StaleEpoch, After.GIVE_UP, ""),
    (Exception, After.TRY, ""),
)


def after(error: Exception) -> tuple[After, str]:
    """Return what follows an attempt that broke off with ``error``, and what it waits for."""
    return next((then, what) for kind, then, what in _AFTER if isinstance(error, kind))


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry as a value: ``max_attempts`` tries in all, delays from ``base_s`` up to ``cap_s``."""

    max_attempts: int = 3
    base_s: float = 2.0
    cap_s: float = 300.0

    def delay_s(self, attempt: int, *, retryable: bool = True, chance: float) -> float | None:
        """Return seconds until the next try after ``attempt`` (1 = first) failed, None to give up.

        ``chance`` is a random number from 0 to 1, given so that this stays pure.
        """
        if not retryable or attempt >= self.max_attempts:
            return None
        return self.after_death_s(attempt, chance=chance)

    def wait_s(self, *, chance: float) -> float:
        """Return seconds until what waits for room, or for a tier, is tried again."""
        return _by_chance(min(self.cap_s, _LONGEST_WAIT_S), chance)

    def after_death_s(self, attempt: int, *, chance: float) -> float:
        """Return seconds until the next try after the node of ``attempt`` was lost."""
        # The exponent is bounded: 2.0 ** 1100 would overflow, the cap is met long before.
        grown = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60))
        return _by_chance(grown, chance)


def _by_chance(delay_s: float, chance: float) -> float:
    return delay_s * (_LEAST_SHARE + (1.0 - _LEAST_SHARE) * chance)
