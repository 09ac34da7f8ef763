"""The master's events about work: leases, renewals, reports."""

from __future__ import annotations

from collections.abc import Sequence

from raypacs.master.base import MasterBase
from raypacs.policy.queue import State
from raypacs.records import Lease, WorkResult


class QueueEvents(MasterBase):
    """Work items: given out, renewed, reported."""

    def lease(self, node: str, kinds: Sequence[str], limit: int) -> list[Lease]:
        """Give ``node`` up to ``limit`` work items."""
        return self._writer.lease(node, kinds, limit, self._clock())

    def renew(self, lease: Lease) -> Lease:
        """Extend a lease. Raises StaleLease."""
        return self._writer.renew(lease, self._clock())

    def report(self, lease: Lease, result: WorkResult) -> State:
        """End an attempt; return the item's state. Idempotent. Raises StaleLease."""
        return self._writer.report(lease, result, self._clock())
