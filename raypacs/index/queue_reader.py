"""The read side of the work queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from raypacs.index import halting, task_list
from raypacs.index.items import is_running, is_waiting
from raypacs.index.schema import studies, work_items


class QueueReader:
    """The work queue's part of the reader."""

    _engine: sa.Engine

    def tasks(
        self,
        filters: Mapping[str, str] | None = None,
        limit: int = 100,
        offset: int = 0,
        before_id: int = 0,
    ) -> dict[str, Any]:
        """Return {items, total, total_is_exact}: the task list, newest first (``task_filter``).

        Raises:
            InvalidQuery: an unknown filter, or a value that cannot be.
        """
        with self._engine.connect() as conn:
            return task_list.page(
                conn, filters or {}, limit=limit, offset=offset, before_id=before_id
            )

    def task(self, item_id: int) -> dict[str, Any]:
        """Return one work item. Raises NotFound."""
        with self._engine.connect() as conn:
            return task_list.task(conn, item_id)

    def queue_state(self, now: float) -> dict[str, Any]:
        """Return how the queue and each kind of work stands (``halting.queue_state``)."""
        with self._engine.connect() as conn:
            return halting.queue_state(conn, now)

    def queue(
        self, filters: Mapping[str, str] | None = None, *, limit: int = 1000, offset: int = 0
    ) -> list[dict[str, Any]]:
        """Return the items of :meth:`tasks` alone."""
        items: list[dict[str, Any]] = self.tasks(filters, limit, offset)["items"]
        return items

    def idle(self, study_uid: str = "") -> bool:
        """Whether nothing is left to prepare (of a study): nothing due, waiting or running."""
        queries = [
            sa.select(studies.c.study_uid).where(studies.c.prepare_due_s.is_not(None)),
            # One each, as each has an index of its own.
            sa.select(work_items.c.study_uid).where(is_waiting),
            sa.select(work_items.c.study_uid).where(is_running),
        ]
        with self._engine.connect() as conn:
            for query in queries:
                if study_uid:
                    query = query.where(query.selected_columns[0] == study_uid)
                if conn.execute(query.limit(1)).first() is not None:
                    return False
        return True
