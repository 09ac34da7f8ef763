"""Room on tiers and marks of unfinished studies: what an edge holds beforehand, so as not to wait.

Allotments: bytes of a tier that the ledger granted to this process; receiving takes from them and
asks for more in good time. Markers: a durable object that says "this process run may hold objects
of this study that the index does not know yet"; written before the first such object, removed when
the study has been quiet for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from raypacs.errors import AlreadyExists, NotFound, TierUnavailable
from raypacs.layout import intake_marker
from raypacs.storage.tier import Tier

_MARKER_IDLE_S = 30.0
_SHORT_PAUSE_S = 5.0  # a nearly full tier is not asked for more with every tick


class Allotments:
    """Bytes granted to this process, by tier."""

    def __init__(self, grant: Callable[[str, int], int], allotment_bytes: int) -> None:
        self._grant = grant
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}
        self._short: dict[str, float] = {}  # tiers that gave less than asked, and when
        self.allotment_bytes = allotment_bytes

    def take(self, tier: str, size_bytes: int) -> bool:
        """Take ``size_bytes`` of the tier's allotment; False if the ledger grants no more."""
        with self._lock:
            if self._left.get(tier, 0) < size_bytes:
                # Everybody waits for this one answer, which is the point: no second request.
                wanted = max(self.allotment_bytes, size_bytes)
                self._left[tier] = self._left.get(tier, 0) + self._ask(tier, wanted)
            if self._left[tier] < size_bytes:
                return False
            self._left[tier] -= size_bytes
            return True

    def give_back(self, tier: str, size_bytes: int) -> None:
        """Return bytes that were taken and not used."""
        with self._lock:
            self._left[tier] = self._left.get(tier, 0) + size_bytes

    def refill(self) -> None:
        """Ask for more where less than half is left; called in the background."""
        with self._lock:
            low = [t for t, left in self._left.items() if left < self.allotment_bytes // 2]
        now_s = time.monotonic()
        for tier in low:
            if now_s - self._short.get(tier, -_SHORT_PAUSE_S) < _SHORT_PAUSE_S:
                continue
            self.give_back(tier, self._ask(tier, self.allotment_bytes))

    def _ask(self, tier: str, size_bytes: int) -> int:
        granted = self._grant(tier, size_bytes)
        if granted < size_bytes:
            self._short[tier] = time.monotonic()
        return granted


class Markers:
    """This process run's markers, by tier and study."""

    def __init__(self, tiers: Sequence[Tier], boot: str) -> None:
        self._tiers = {tier.name: tier for tier in tiers}
        self._boot = boot
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], int] = {}
        self._last_s: dict[tuple[str, str], float] = {}

    def enter(self, tier: str, study_uid: str) -> None:
        """Count one unregistered object; the marker is durable when this returns.

        Raises:
            TierFull, TierUnavailable: it cannot be written; nothing is counted.
        """
        key = (tier, study_uid)
        with self._lock:
            if key not in self._open:
                try:
                    self._tiers[tier].put_durable(intake_marker(self._boot, study_uid), b"")
                except AlreadyExists:
                    pass
            self._open[key] = self._open.get(key, 0) + 1

    def leave(self, tier: str, study_uid: str) -> None:
        """The object was registered, or never written."""
        with self._lock:
            self._open[tier, study_uid] -= 1
            self._last_s[tier, study_uid] = time.monotonic()

    def sweep(self, *, idle_s: float = _MARKER_IDLE_S) -> None:
        """Remove markers of studies without unregistered objects for ``idle_s``."""
        now_s = time.monotonic()
        with self._lock:
            for key in [k for k, count in self._open.items() if count == 0]:
                if now_s - self._last_s[key] < idle_s:
                    continue
                try:
                    self._tiers[key[0]].delete(intake_marker(self._boot, key[1]))
                except (NotFound, TierUnavailable):
                    pass  # at worst a recovery looks at a study once more
                del self._open[key], self._last_s[key]
