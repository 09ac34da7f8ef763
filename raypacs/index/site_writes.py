"""Writes about the site itself: tiers it adopts, how far its tiers' markers are, reconciling."""

from __future__ import annotations

from raypacs.index import site
from raypacs.index.writing import Writing


class SiteWrites(Writing):
    """The site's part of the writer."""

    def adopt_tier(self, url: str, tier: str, now: float) -> None:
        """Note that the tier at ``url`` carries this site's marker."""
        with self.transaction(now, durable=True) as txn:
            site.adopt(txn, url, tier)

    def sequence(self, now: float, *, at_least: int = 0) -> int:
        """Return the number of the newest change, once it and all before it are durable."""
        with self.transaction(now, durable=True) as txn:
            return site.keep_sequence(txn, at_least)

    def need_reconcile(self, why: str, now: float) -> None:
        """Switch deletions and sweeps off until index and tiers were compared."""
        with self.transaction(now, durable=True) as txn:
            site.need_reconcile(txn, why)

    def reconciled(self, detail: dict[str, int], now: float) -> None:
        """Switch deletions and sweeps on again; ``detail`` counts what was found."""
        with self.transaction(now, durable=True) as txn:
            site.reconciled(txn, detail)
