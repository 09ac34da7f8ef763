"""The master's events about work: polled for, reported, asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raypacs.errors import StaleLease, StudySealed
from raypacs.index.bulk import MOST, SAME, Again, Chosen
from raypacs.index.queue import Wish
from raypacs.master.base import MasterBase
from raypacs.policy.queue import State, priority_of
from raypacs.records import Assignment, Lease, Poll, WorkResult

# Old items leave in small steps, so that no event waits long behind them.
ITEMS_PER_TICK = 200
ITEMS_EVERY_S = 60.0
_DAY_S = 86_400.0


class QueueEvents(MasterBase):
    """Work items: given out, reported, made."""

    def poll(self, asked: Poll) -> Assignment:
        """Renew what a dispatcher runs, say what it must stop, and give it work.

        A dispatcher has one poll under way at a time, and names every lease that it holds until
        its report was answered. One of an earlier life of the node is told to stop everything.
        """
        now = self._clock()
        self._mind_absence(now)
        if self._roll.polled(asked.node, asked.boot, now):
            known = self._polls.answer(asked, now)
            if known is not None:
                return known
        polled = self._writer.poll(asked, now)
        if polled.ended:
            self._polls.changed()  # what it did not run waits for anybody
        if polled.holds_nothing and not asked.running and asked.free > 0:
            # One that asked for nothing was told nothing about what is due.
            self._polls.idle(asked, polled.idle_until_s, nobody=polled.nothing_due)
        return replace(polled.assignment, poll_after_s=self._polls.poll_after_s(now))

    def lease(self, node: str, kinds: Sequence[str], limit: int) -> list[Lease]:
        """Give ``node`` up to ``limit`` work items."""
        return self._writer.lease(node, kinds, limit, self._clock())

    def renew(self, lease: Lease) -> Lease:
        """Extend a lease. Raises StaleLease."""
        self._mind_absence(self._clock())
        return self._writer.renew(lease, self._clock())

    def report(self, lease: Lease, result: WorkResult) -> State:
        """End an attempt; return the item's state. Idempotent. Raises StaleLease."""
        (answer,) = self.report_many([(lease, result)])
        if isinstance(answer, StaleLease):
            raise answer
        return answer

    def report_many(self, reports: Sequence[tuple[Lease, WorkResult]]) -> list[State | StaleLease]:
        """End attempts in one transaction; return each item's state, or StaleLease. Idempotent."""
        self._mind_absence(self._clock())
        answers = self._writer.report_many(reports, self._clock())
        self._polls.changed()
        return [
            self._report_of_sealed(lease, result, answer)
            if isinstance(answer, StudySealed)
            else answer
            for (lease, result), answer in zip(reports, answers, strict=True)
        ]

    def _report_of_sealed(
        self, lease: Lease, result: WorkResult, sealed: StudySealed
    ) -> State | StaleLease:
        """End an attempt that made objects of a sealed study, which is reopened for them."""
        if self.reopen(sealed):
            result = WorkResult(error="waits for the manifests of the sealed study", waits=True)
        try:
            return self._writer.report(lease, result, self._clock())
        except StaleLease as exc:
            return exc

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
            InvalidQuery: no such kind of work, or no node does it; no such priority or time; a
                node that gets no work.
            NotFound: no such study or node.
        """
        wish = Wish(priority_of(priority), due_s or 0.0, wanted_node, payload or {}, who)
        item_id = self._writer.enqueue_item(kind, study_uid, wish, self._clock())
        self._polls.changed()
        return item_id

    # What operators order, for at most ``limit`` (1,000) items a call, by item id from
    # ``after_id`` on. Answers: {matched, changed, refused: [{item_id, why}], more, after_id}.

    def reschedule_items(
        self,
        filters: Mapping[str, str],
        *,
        due_s: float | None = None,
        nodes: Sequence[str] | None = None,
        mode: str = SAME,
        who: str = "",
        limit: int = MOST,
        after_id: int = 0,
        done: int = 0,
    ) -> dict[str, Any]:
        """Do items again: now or at ``due_s``; on the ``same`` node, a named one, or ``spread``.

        ``done``: how many earlier calls of the same order changed; spreading goes on there.

        Raises:
            InvalidQuery: a filter, mode or node that cannot be.
            NotFound: no such node.
        """
        chosen = Chosen(filters, who, limit, after_id)
        again = Again(due_s, tuple(nodes or ()), mode, done)
        answer = self._writer.reschedule_items(chosen, again, self._clock())
        self._polls.changed()
        return answer

    def cancel_items_matching(
        self, filters: Mapping[str, str], *, who: str = "", limit: int = MOST, after_id: int = 0
    ) -> dict[str, Any]:
        """Cancel items; what runs is told to stop at its node's next poll. Raises InvalidQuery."""
        chosen = Chosen(filters, who, limit, after_id)
        answer = self._writer.cancel_items_matching(chosen, self._clock())
        self._polls.changed()
        return answer

    def delete_items(
        self, filters: Mapping[str, str], *, who: str = "", limit: int = MOST, after_id: int = 0
    ) -> dict[str, Any]:
        """Take items that do not run out of the task list. Raises InvalidQuery."""
        chosen = Chosen(filters, who, limit, after_id)
        answer = self._writer.delete_items(chosen, self._clock())
        self._polls.changed()
        return answer

    def set_priority(
        self,
        filters: Mapping[str, str],
        priority: str,
        *,
        who: str = "",
        limit: int = MOST,
        after_id: int = 0,
    ) -> dict[str, Any]:
        """Give a priority to items that wait or run. Raises InvalidQuery."""
        chosen = Chosen(filters, who, limit, after_id)
        answer = self._writer.set_priority(chosen, priority_of(priority), self._clock())
        self._polls.changed()
        return answer

    def halt(self, kind: str = "", who: str = "") -> dict[str, Any]:
        """Give out nothing new of a kind ('': at all); return the queue's state.

        Raises:
            InvalidQuery: no such kind of work.
        """
        self._writer.halt(kind, who, self._clock())
        self._polls.changed()
        return self._reader.queue_state(self._clock())

    def resume(self, kind: str = "", who: str = "") -> dict[str, Any]:
        """Give out work of a kind ('': of the queue) again; return the queue's state.

        Raises:
            InvalidQuery: no such kind of work.
        """
        self._writer.resume(kind, who, self._clock())
        self._polls.changed()
        return self._reader.queue_state(self._clock())

    # Time

    def _retire_items(self, now: float) -> None:
        """Let items that ended long ago leave the task list for the statistics."""
        if now < self._due.items_s:
            return
        kept_s = self._reader.settings()[1].items_days * _DAY_S
        if self._writer.retire_items(now - kept_s, ITEMS_PER_TICK, now) < ITEMS_PER_TICK:
            self._due.items_s = now + ITEMS_EVERY_S
