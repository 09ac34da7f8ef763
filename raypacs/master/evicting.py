"""The master's duty to free caches, and events about pins."""

from __future__ import annotations

from raypacs.master.sealing import SealDuties


class EvictDuties(SealDuties):
    """Eviction."""

    def _evict_due(self, now: float) -> None:
        """Free what levels demand, a bounded step at a time."""
