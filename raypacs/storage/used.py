"""How much of a tier's capacity is used: a process's own count, corrected before it refuses.

The ledger's allotments keep the sum of all processes below the capacity; this is the second line.
What other processes write is not seen, nor what they delete: so before a write is refused, the
objects are counted again. Parts of running attempts (``attempts/``) count only while they are
written: another process deletes them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from raypacs.errors import TierFull
from raypacs.layout import ATTEMPTS
from raypacs.storage.objects import ObjectInfo

RECOUNT_EVERY_S = 5.0  # a walk over a full tier takes a while


class UsedBytes:
    """Used bytes of one tier with a capacity; thread-safe. ``walk`` lists all objects."""

    def __init__(
        self,
        tier: str,
        capacity_bytes: int,
        walk: Callable[[], Iterable[ObjectInfo]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tier = tier
        self._capacity_bytes = capacity_bytes
        self._walk = walk
        self._clock = clock
        self._lock = threading.Lock()
        self._bytes: int | None = None
        self._counted_s = 0.0
        self._writing_bytes = 0  # of objects that are not committed: no walk sees them

    def now(self) -> int:
        """Return the count; the first time by walking."""
        with self._lock:
            known = self._bytes
        if known is None:
            self.recount()
        with self._lock:
            return (self._bytes or 0) + self._writing_bytes

    def recount(self) -> int:
        """Count again by walking; return the bytes of all objects, parts included."""
        counted_s = self._clock()
        parts = objects = 0
        for info in self._walk():
            if info.path.startswith(ATTEMPTS):
                parts += info.size_bytes
            else:
                objects += info.size_bytes
        with self._lock:
            self._bytes, self._counted_s = objects, counted_s
        return objects + parts

    def begin(self, size_bytes: int) -> None:
        """Count bytes about to be written.

        Raises:
            TierFull: they would exceed the capacity, also after counting again; nothing changed.
        """
        if not self._capacity_bytes or not size_bytes:
            return
        self.now()
        if self._fits(size_bytes) or (self._outdated() and self._recounted_fits(size_bytes)):
            return
        raise TierFull(f"tier {self._tier} is full", tier=self._tier, size_bytes=size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        with self._lock:
            used = (self._bytes or 0) + self._writing_bytes
            if used + size_bytes > self._capacity_bytes:
                return False
            self._writing_bytes += size_bytes
            return True

    def _outdated(self) -> bool:
        """Whether a new count is due; only one of several threads is told so."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._counted_s < RECOUNT_EVERY_S:
                return False
            self._counted_s = now_s
            return True

    def _recounted_fits(self, size_bytes: int) -> bool:
        self.recount()
        return self._fits(size_bytes)

    def end(self, path: str, size_bytes: int, *, committed: bool) -> None:
        """Note that the writing of ``size_bytes`` of an object has ended."""
        if not self._capacity_bytes:
            return
        with self._lock:
            self._writing_bytes -= size_bytes
            if committed and self._bytes is not None and not path.startswith(ATTEMPTS):
                self._bytes += size_bytes

    def deleted(self, path: str, size_bytes: int) -> None:
        """Note that an object is gone."""
        with self._lock:
            if self._bytes is not None and not path.startswith(ATTEMPTS):
                self._bytes = max(0, self._bytes - size_bytes)
