"""The master's events about work: polled for, reported, asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raypacs.errors import StaleLease
from raypacs.index.queue import Wish
from raypacs.master.base import MasterBase
from raypacs.policy.queue import State, priority_of
from raypacs.records import Assignment, Lease, Poll, WorkResult


class QueueEvents(MasterBase):
    """Work items: given out, reported, made."""

    def poll(self, asked: Poll) -> Assignment:
        """Renew what a dispatcher runs, say what it must stop, and give it work.

        A dispatcher has one poll under way at a time, and names every lease that it holds until
        its report was answered.
        """
        now = self._clock()
        known = self._polls.answer(asked, now)
        if known is not None:
            return known
        polled = self._writer.poll(asked, now)
        if not asked.running and not polled.assignment.leases:
            self._polls.idle(asked, polled.idle_until_s)
        return replace(polled.assignment, poll_after_s=self._polls.poll_after_s(now))

    def lease(self, node: str, kinds: Sequence[str], limit: int) -> list[Lease]:
        """Give ``node`` up to ``limit`` work items."""
        return self._writer.lease(node, kinds, limit, self._clock())

    def renew(self, lease: Lease) -> Lease:
        """Extend a lease. Raises StaleLease."""
        return self._writer.renew(lease, self._clock())

    def report(self, lease: Lease, result: WorkResult) -> State:
        """End an attempt; return the item's state. Idempotent. Raises StaleLease."""
        state = self._writer.report(lease, result, self._clock())
        self._polls.changed()
        return state

    def report_many(self, reports: Sequence[tuple[Lease, WorkResult]]) -> list[State | StaleLease]:
        """End attempts in one transaction; return each item's state, or StaleLease. Idempotent."""
        answers = self._writer.report_many(reports, self._clock())
        self._polls.changed()
        return answers

    def enqueue_item(
        self,
        kind: str,
        study_uid: str,
        *,
        priority: str = "medium",
        due_s: float | None = None,
        wanted_node: str = "",
        payload: Mapping[str, Any] | None = None,
        who: str = "",
    ) -> int:
        """Make a work item, or change the one that waits for this kind and study; return its id.

        ``due_s`` None: now (seconds since the epoch, UTC).

        Raises:
            InvalidQuery: no such kind of work or priority.
            NotFound: no such study or node.
        """
        wish = Wish(priority_of(priority), due_s or 0.0, wanted_node, payload or {}, who)
        item_id = self._writer.enqueue_item(kind, study_uid, wish, self._clock())
        self._polls.changed()
        return item_id
