"""The master's events about restores, prefetching and migration."""

from __future__ import annotations

from collections.abc import Iterable

from raypacs.master.sealing import SealDuties
from raypacs.records import Lease


class PlaceEvents(SealDuties):
    """Where studies lie."""

    def _place_due(self, now: float) -> None:
        """Migrate what is old, and drain tiers."""

    def plan_objects(self, lease: Lease, places: Iterable[tuple[str, str]]) -> None:
        """Note (tier, path) of objects before an attempt writes them. Raises StaleLease."""
        self._writer.plan_objects(lease, places, self._clock())

    def reserve(self, lease: Lease, tier: str, size_bytes: int) -> int:
        """Take room for an attempt; return the bytes granted. Raises StaleLease."""
        return self._writer.reserve(lease, tier, size_bytes, self._clock())
