"""Writes about libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.errors import InvalidQuery, NotFound
from raypacs.index import archiving, queue
from raypacs.index.engine import in_lists
from raypacs.index.items import change, find_where, is_waiting
from raypacs.index.queue import Wish
from raypacs.index.schema import studies, work_items
from raypacs.index.writing import Writing
from raypacs.policy.archiving import ARCHIVE, BY_ITSELF, ORDERED
from raypacs.policy.queue import Priority
from raypacs.records import ArchivedSeries, Lease

VERIFY = "VERIFY"
_PARKED = 1000
_RULE = "least recently accessed of what is not archived, in the archive window"


class ArchiveWrites(Writing):
    """The libraries' part of the writer."""

    def archived(self, lease: Lease, told: Sequence[ArchivedSeries], now: float) -> None:
        """Register containers while their attempt goes on. Raises StaleLease."""
        with self.transaction(now, durable=True) as txn:
            archiving.archived(txn, lease, told)

    def archive_by_itself(
        self, study_uids: Sequence[str], now: float, libraries: Sequence[str] = ()
    ) -> int:
        """Make ARCHIVE items of studies that are due; return how many.

        ``libraries``: into these only, as others cannot be written to just now.
        """
        with self.transaction(now) as txn:
            generations: dict[str, int] = {}
            for uids in in_lists(study_uids):
                query = sa.select(studies.c.study_uid, studies.c.generation).where(
                    studies.c.study_uid.in_(uids)
                )
                generations |= {row[0]: int(row[1]) for row in txn.conn.execute(query)}
            payload: dict[str, Any] = {"by": BY_ITSELF}
            if libraries:
                payload["libraries"] = list(libraries)
            wish = Wish(Priority.LOW, payload=payload, rule=_RULE)
            return sum(
                queue.enqueue(txn, ARCHIVE, uid, generations[uid], wish)
                for uid in study_uids
                if uid in generations
            )

    def order_archive(
        self,
        study_uids: Sequence[str],
        libraries: Sequence[str],
        who: str,
        now: float,
        priority: Priority = Priority.MEDIUM,
    ) -> dict[str, Any]:
        """Make ARCHIVE items that wait for no window; return item ids and what was refused."""
        payload: dict[str, Any] = {"by": ORDERED}
        if libraries:
            payload["libraries"] = list(libraries)
        wish = Wish(priority, payload=payload, who=who, rule="archive now")
        return self._ask(ARCHIVE, study_uids, wish, now)

    def order_verify(self, study_uids: Sequence[str], who: str, now: float) -> dict[str, Any]:
        """Make VERIFY items; return item ids and what was refused."""
        wish = Wish(Priority.LOW, who=who, rule="archive verify")
        return self._ask(VERIFY, study_uids, wish, now)

    def _ask(self, kind: str, study_uids: Sequence[str], wish: Wish, now: float) -> dict[str, Any]:
        items: list[int] = []
        refused: list[dict[str, str]] = []
        with self.transaction(now) as txn:
            for uid in study_uids:
                try:
                    items.append(queue.ask(txn, kind, uid, wish))
                except (NotFound, InvalidQuery) as exc:
                    refused.append({"study_uid": uid, "why": str(exc)})
        return {"items": items, "refused": refused}

    def park_archive(self, until_s: float, now: float) -> int:
        """Let what waits to be archived by itself wait until the window opens; return how many."""
        with self.transaction(now) as txn:
            waiting = find_where(
                txn.conn, work_items.c.kind == ARCHIVE, is_waiting, work_items.c.due_s < until_s
            )
            ours = [one for one in waiting if one["payload"].get("by") == BY_ITSELF][:_PARKED]
            parked = [
                {"due_s": until_s, "payload": {**one["payload"], "parked": True}} for one in ours
            ]
            change(txn, ours, parked)
            return len(ours)

    def unpark_archive(self, now: float) -> int:
        """Let what waits for the window be archived now: it is open; return how many."""
        with self.transaction(now) as txn:
            waiting = find_where(
                txn.conn, work_items.c.kind == ARCHIVE, is_waiting, work_items.c.due_s > now
            )
            ours = [one for one in waiting if one["payload"].get("parked")][:_PARKED]
            payloads = [
                {key: value for key, value in one["payload"].items() if key != "parked"}
                for one in ours
            ]
            change(txn, ours, [{"due_s": now, "payload": payload} for payload in payloads])
            return len(ours)
