"""Writes about where studies lie: planned objects, room for attempts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raypacs.index import planned, prefetching, restoring, settings
from raypacs.index.queue import Wish
from raypacs.index.writing import Writing
from raypacs.policy.prefetching import Announced
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

    def order_restore(
        self, study_uid: str, wish: Wish, now: float, *, seen_away: bool = False
    ) -> dict[str, Any]:
        """See that a study is brought back (``restoring.order``). Raises NotFound."""
        with self.transaction(now, durable=True) as txn:
            return restoring.order(txn, study_uid, wish, seen_away=seen_away)

    def order_prefetch(self, study_uid: str, wish: Wish, now: float) -> dict[str, Any]:
        """See that a study is in the caches (``prefetching.order``). Raises NotFound."""
        with self.transaction(now, durable=True) as txn:
            return prefetching.order(txn, study_uid, wish)

    def prefetch_for(self, announced: Announced, now: float, *, who: str) -> list[dict[str, Any]]:
        """Bring the relevant priors of a study that is announced into the caches."""
        with self.transaction(now, durable=True) as txn:
            rules = settings.read(txn.conn)[1].prefetch
            return prefetching.bring(txn, announced, rules, who=who)

    def prefetch_arrived(self, now: float, *, limit: int) -> int:
        """Bring relevant priors of studies that arrived since the last call; return how many."""
        with self.transaction(now) as txn:
            return prefetching.arrived(txn, limit)
