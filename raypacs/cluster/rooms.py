"""Which tiers have room, as this node last saw it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from raypacs.index.ledger import LedgerRow

FULL_FOR_S = 120.0


class Rooms:
    """Room on the tiers by the ledger; one that refused is passed over for a while."""

    def __init__(
        self,
        ledger: Callable[[], Mapping[str, LedgerRow]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._clock = ledger, clock
        self._full_until: dict[str, float] = {}

    def available_bytes(self) -> dict[str, int]:
        """Return the bytes left on each tier that can be reached and did not just refuse."""
        now = self._clock()
        return {
            name: row.available_bytes
            for name, row in self._ledger().items()
            if row.reachable and self._full_until.get(name, 0.0) <= now
        }

    def refused(self, tier: str) -> None:
        """Note that a tier took no write."""
        self._full_until[tier] = self._clock() + FULL_FOR_S
