"""Writes to the work queue: each a transaction around ``queue``, ``leasing``, ``report``, ``bulk``.

What ends an attempt, or an operator asked for, commits durably: it must not be done twice, or
forgotten, after a power loss.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.errors import IllegalTransition, StaleLease, StudySealed
from raypacs.index import attempts, bulk, halting, judging, leasing, queue, retirement, settings
from raypacs.index.bulk import Again, Chosen
from raypacs.index.leasing import Polled
from raypacs.index.queue import Wish
from raypacs.index.report import refuse, report
from raypacs.index.writing import Writing, retry_of
from raypacs.policy.queue import Priority, State
from raypacs.records import Lease, Poll, WorkResult

log = logging.getLogger(__name__)

_CANNOT_HOLD = (
    IllegalTransition,
    sa.exc.SQLAlchemyError,
    KeyError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What a report raises that is wrong itself, not the database (that is IndexUnavailable)."""


class QueueWrites(Writing):
    """The work queue's part of the writer."""

    # Items

    def enqueue_due(self, now: float) -> int:
        """Make items for studies that became quiet; return how many."""
        with self.transaction(now) as txn:
            judging.judge_quiet(txn)
            return queue.enqueue_due(txn)

    def enqueue_item(self, kind: str, study_uid: str, wish: Wish, now: float) -> int:
        """Make an item, or change the one that waits; return its id.

        Raises:
            InvalidQuery: no such kind of work.
            NotFound: no such study or node.
        """
        with self.transaction(now, durable=True) as txn:
            return queue.ask(txn, kind, study_uid, wish)

    # What operators order

    def reschedule_items(self, chosen: Chosen, again: Again, now: float) -> dict[str, Any]:
        """Do items again (``bulk.reschedule``). Raises InvalidQuery, NotFound."""
        with self.transaction(now, durable=True) as txn:
            return bulk.reschedule(txn, chosen, again)

    def cancel_items_matching(self, chosen: Chosen, now: float) -> dict[str, Any]:
        """Cancel items (``bulk.cancel``). Raises InvalidQuery."""
        with self.transaction(now, durable=True) as txn:
            return bulk.cancel(txn, chosen)

    def delete_items(self, chosen: Chosen, now: float) -> dict[str, Any]:
        """Take items out of the task list (``bulk.delete``). Raises InvalidQuery."""
        with self.transaction(now, durable=True) as txn:
            return bulk.delete(txn, chosen)

    def set_priority(self, chosen: Chosen, priority: Priority, now: float) -> dict[str, Any]:
        """Give a priority to items (``bulk.set_priority``). Raises InvalidQuery."""
        with self.transaction(now, durable=True) as txn:
            return bulk.set_priority(txn, chosen, priority)

    # Halting

    def halt(self, kind: str, who: str, now: float) -> None:
        """Give out no more of a kind ('': of any); what runs goes on. Raises InvalidQuery."""
        with self.transaction(now, durable=True) as txn:
            halting.halt(txn, kind, who)

    def resume(self, kind: str, who: str, now: float) -> None:
        """Give out work of a kind ('': of the queue) again. Raises InvalidQuery."""
        with self.transaction(now, durable=True) as txn:
            halting.resume(txn, kind, who)

    # Leases

    def poll(self, asked: Poll, now: float) -> Polled:
        """Renew what a dispatcher runs, say what it must stop, give it work by admission."""
        with self.transaction(now) as txn:
            current = settings.read(txn.conn)[1]
            return leasing.poll(txn, asked, current, retry_of(txn), self._chance())

    def lease(self, node: str, kinds: Sequence[str], limit: int, now: float) -> list[Lease]:
        """Give ``node`` up to ``limit`` items of ``kinds``, whatever else it runs."""
        with self.transaction(now) as txn:
            return leasing.lease(txn, node, kinds, limit, settings.read(txn.conn)[1].lease_s)

    def renew(self, lease: Lease, now: float) -> Lease:
        """Extend a lease. Raises StaleLease."""
        with self.transaction(now) as txn:
            return leasing.renew(txn, lease, settings.read(txn.conn)[1].lease_s)

    def report(self, lease: Lease, result: WorkResult, now: float) -> State:
        """End an attempt; the same report again changes nothing.

        Raises:
            StaleLease, StudySealed: as :func:`raypacs.index.report.report`.
        """
        (answer,) = self.report_many([(lease, result)], now)
        if isinstance(answer, StaleLease | StudySealed):
            raise answer
        return answer

    def report_many(
        self, reports: Sequence[tuple[Lease, WorkResult]], now: float
    ) -> list[State | StaleLease | StudySealed]:
        """End attempts in one durable transaction; the same reports again change nothing.

        Where the index cannot hold one of them, each has a transaction of its own, and that one
        ends as a failed attempt.

        Returns:
            The state of each item, StaleLease for a lease that is not the current one, or
            StudySealed where objects were made of a study that must be reopened first.
        """
        try:
            return self._report_together(reports, now)
        except _CANNOT_HOLD:
            return [self._report_alone(lease, result, now) for lease, result in reports]

    def _report_alone(
        self, lease: Lease, result: WorkResult, now: float
    ) -> State | StaleLease | StudySealed:
        try:
            return self._report_together([(lease, result)], now)[0]
        except _CANNOT_HOLD as exc:
            # Not its text: the drivers' messages hold the values, patients' names too.
            why = type(exc).__name__
        log.error("a report cannot be taken over", extra={"item": lease.item_id, "why": why})
        with self.transaction(now, durable=True) as txn:
            try:
                return refuse(txn, lease, why, retry_of(txn), self._chance())
            except StaleLease as exc:
                return exc

    def _report_together(
        self, reports: Sequence[tuple[Lease, WorkResult]], now: float
    ) -> list[State | StaleLease | StudySealed]:
        answers: list[State | StaleLease | StudySealed] = []
        with self.transaction(now, durable=True) as txn:
            retry = retry_of(txn)
            for lease, result in reports:
                try:
                    answers.append(report(txn, lease, result, retry, self._chance()))
                except (StaleLease, StudySealed) as exc:  # before anything of it was written
                    answers.append(exc)
        return answers

    def expire(self, now: float) -> list[Lease]:
        """End leases that ran out; return the dead attempts."""
        with self.transaction(now) as txn:
            current = settings.read(txn.conn)[1]
            return leasing.expire(txn, current, retry_of(txn), self._chance())

    def retire_items(self, before_s: float, limit: int, now: float) -> int:
        """Let items that ended before ``before_s`` leave for the statistics; return how many."""
        with self.transaction(now) as txn:
            return retirement.retire(txn, before_s, limit)

    # Sweeping

    def sweepable(self, now: float, limit: int = 100) -> list[tuple[str, str, int]]:
        """Return dead attempts to sweep: (token, study UID, sweeps done)."""
        with self.transaction(now) as txn:
            return attempts.sweepable(txn.conn, now, limit)

    def swept(self, token: str, now: float, *, again_s: float | None) -> None:
        """Note a sweep; once more at ``again_s``, or never."""
        with self.transaction(now) as txn:
            attempts.swept(txn, token, again_s=again_s)

    def live_tokens(self, now: float) -> set[str]:
        """Return the tokens of running attempts."""
        with self.transaction(now) as txn:
            return attempts.live_tokens(txn.conn)
