"""Writes about where studies lie: planned objects, room for attempts."""

from __future__ import annotations

from collections.abc import Iterable

from raypacs.index import planned
from raypacs.index.writing import Writing
from raypacs.records import Lease


class PlacingWrites(Writing):
    """The places' part of the writer."""

    def plan_objects(self, lease: Lease, places: Iterable[tuple[str, str]], now: float) -> None:
        """Note (tier, path) of objects before an attempt writes them. Raises StaleLease."""
        with self.transaction(now, durable=True) as txn:
            planned.plan(txn, lease, places)

    def reserve(self, lease: Lease, tier: str, size_bytes: int, now: float) -> int:
        """Take room for an attempt; return the bytes granted. Raises StaleLease."""
        with self.transaction(now) as txn:
            return planned.reserve(txn, lease, tier, size_bytes)
