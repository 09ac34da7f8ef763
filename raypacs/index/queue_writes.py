"""Writes to the work queue: each a transaction around functions of ``queue`` and ``report``."""

from __future__ import annotations

from collections.abc import Sequence

from raypacs.index import queue, settings
from raypacs.index.report import report
from raypacs.index.writing import Writing, retry_of
from raypacs.policy.queue import State
from raypacs.records import Lease, WorkResult


class QueueWrites(Writing):
    """The work queue's part of the writer."""

    def enqueue_due(self, now: float) -> int:
        """Make items for studies that became quiet; return how many."""
        with self.transaction(now) as txn:
            return queue.enqueue_due(txn)

    def lease(self, node: str, kinds: Sequence[str], limit: int, now: float) -> list[Lease]:
        """Give ``node`` up to ``limit`` items of ``kinds``."""
        with self.transaction(now) as txn:
            return queue.lease(txn, node, kinds, limit, settings.read(txn.conn)[1].lease_s)

    def renew(self, lease: Lease, now: float) -> Lease:
        """Extend a lease. Raises StaleLease."""
        with self.transaction(now) as txn:
            return queue.renew(txn, lease, settings.read(txn.conn)[1].lease_s)

    def report(self, lease: Lease, result: WorkResult, now: float) -> State:
        """End an attempt; the same report again changes nothing. Raises StaleLease."""
        with self.transaction(now) as txn:
            return report(txn, lease, result, retry_of(txn), self._chance())

    def expire(self, now: float) -> list[Lease]:
        """End leases that ran out; return the dead attempts."""
        with self.transaction(now) as txn:
            return queue.expire(txn, retry_of(txn), self._chance())

    def sweepable(self, now: float, limit: int = 100) -> list[tuple[str, str, int]]:
        """Return dead attempts to sweep: (token, study UID, sweeps done)."""
        with self.transaction(now) as txn:
            return queue.sweepable(txn.conn, now, limit)

    def swept(self, token: str, now: float, *, again_s: float | None) -> None:
        """Note a sweep; once more at ``again_s``, or never."""
        with self.transaction(now) as txn:
            queue.swept(txn, token, again_s=again_s)

    def live_tokens(self, now: float) -> set[str]:
        """Return the tokens of running attempts."""
        with self.transaction(now) as txn:
            return queue.live_tokens(txn.conn)
