"""Writes about tiers: asides that moved, ledger figures that are set right."""

from __future__ import annotations

from collections.abc import Sequence

from raypacs.index import audit, reinventory, tiering
from raypacs.index.writing import Writing
from raypacs.records import Lease, MovedAside


class TieringWrites(Writing):
    """The tiers' part of the writer."""

    def move_asides(
        self, lease: Lease, moved: Sequence[MovedAside], now: float, *, grace_s: float
    ) -> int:
        """Let objects kept aside lie elsewhere (``tiering.move_asides``). Raises StaleLease."""
        with self.transaction(now, durable=True) as txn:
            return tiering.move_asides(txn, lease, moved, grace_s=grace_s)

    def repair_ledger(self, who: str, now: float) -> dict[str, int]:
        """Set the ledger to its recount; return by how much each tier was wrong."""
        with self.transaction(now, durable=True) as txn:
            wrong = reinventory.recount_ledger(txn)
            if wrong:
                audit.record(txn, "ledger repaired", who=who, detail={"wrong": wrong})
            return wrong
