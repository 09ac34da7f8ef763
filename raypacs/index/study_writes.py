"""Writes about studies: status, flags, rules, deletion by rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from raypacs.index import audit, deletion, judging, settings
from raypacs.index.schema import studies, work_items
from raypacs.index.writing import Writing
from raypacs.policy.queue import State


class StudyWrites(Writing):
    """The studies' part of the writer."""

    def set_study(
        self, study_uid: str, changes: Mapping[str, Any], now: float, *, who: str = ""
    ) -> dict[str, Any]:
        """Set status and flags of a study; return all. Raises InvalidQuery, NotFound."""
        with self.transaction(now, durable=True) as txn:
            return judging.set_study(txn, study_uid, changes, who)

    def other_sender(self, study_uid: str, source: str, peer: str, now: float) -> bool:
        """Note who sent what was known already; say if the study is to be archived for that."""
        with self.transaction(now, durable=True) as txn:
            return judging.other_sender(txn, study_uid, source, peer)

    def judge_due(self, now: float, *, limit: int) -> list[judging.TierOrder]:
        """Ask rules about studies that are due for it; return which are to be moved."""
        with self.transaction(now) as txn:
            uids = judging.due(txn.conn, now, limit)
            return judging.judge(txn, uids, settings.read(txn.conn)[1]) if uids else []

    def judge_all(self, now: float, *, limit: int) -> tuple[list[judging.TierOrder], bool]:
        """Ask rules about the next page of all studies, if there is reason; say if more wait."""
        with self.transaction(now) as txn:
            return judging.walk(txn, settings.read(txn.conn)[1], limit)

    def tier_ordered(self, order: judging.TierOrder, now: float) -> None:
        """Note that a study is on its way to the tier that a rule wants."""
        with self.transaction(now) as txn:
            judging.ordered(txn, order)

    def delete_by_rule(self, study_uid: str, now: float, *, grace_s: float) -> str:
        """Delete a study that a rule or a source's retention wants deleted by now.

        Returns:
            Why it stays; '' where it is deleted, or was not to be.

        Raises:
            StudySealed: it must be reopened first.
        """
        with self.transaction(now, durable=True) as txn:
            ours = studies.c.study_uid == study_uid
            row = txn.conn.execute(sa.select(studies).where(ours)).mappings().one_or_none()
            if row is None or not 0 < row["delete_after_s"] <= now:
                return ""
            by = row["decided"].get("delete_after_s", {}).get("by", "a rule that is gone")
            why = _stays(txn.conn, row, now)
            if not why:
                deletion.delete_study(txn, study_uid, grace_s=grace_s, rule=by)
                return ""
            if row["decided"].get("left") != why:
                decided = {**row["decided"], "left": why}
                txn.conn.execute(sa.update(studies).where(ours).values(decided=decided))
                detail = {"by": by, "why": why}
                audit.record(txn, "not deleted", study_uid=study_uid, detail=detail)
            return why


def _stays(conn: sa.Connection, row: sa.RowMapping, now: float) -> str:
    """Return why a study that is to be deleted by rule stays; '' it does not."""
    if row["committed"]:
        return "under storage commitment"
    if row["pinned_until_s"] > now:
        return "pinned"
    running = sa.select(work_items.c.kind).where(
        work_items.c.study_uid == row["study_uid"], work_items.c.state == State.IN_PROCESS.value
    )
    kind = conn.execute(running.limit(1)).scalar()
    return f"{kind} runs" if kind else ""
