"""What holds each copy of a study in its cache, and its effective access time: kept with the copy.

Called wherever one of both may change: registration, proofs, pins, status, settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.index import settings
from raypacs.index.engine import Txn, in_lists
from raypacs.index.schema import copies, studies
from raypacs.policy.holding import Held, hold

_STUDY = ("generation", "archiving", "committed", "pinned_until_s")


def refresh(txn: Txn, study_uids: Iterable[str], current: Settings | None = None) -> int:
    """Judge all copies of these studies anew; return how many are held otherwise than before."""
    current = current or settings.read(txn.conn)[1]
    roles = {tier.name: (tier.role, bool(tier.adopted)) for tier in current.tiers}
    changed: list[dict[str, Any]] = []
    for uids in in_lists(set(study_uids)):
        rows = txn.conn.execute(
            sa.select(
                copies.c.study_uid,
                copies.c.tier,
                copies.c.hold,
                copies.c.accessed_s,
                copies.c.archive_proven,
                copies.c.kept,
                copies.c.generation.label("copied"),
                accessed_s().label("effective_s"),
                *(studies.c[name] for name in _STUDY),
            )
            .select_from(copies.join(studies, studies.c.study_uid == copies.c.study_uid))
            .where(copies.c.study_uid.in_(uids))
        ).all()
        proven: dict[str, int] = {}
        for row in rows:
            is_library = roles.get(row.tier, ("",))[0] == "library"
            if is_library and row.archive_proven and row.copied == row.generation:
                proven[row.study_uid] = proven.get(row.study_uid, 0) + 1
        for row in rows:
            held = Held(
                proven.get(row.study_uid, 0), row.archiving, row.committed, row.pinned_until_s
            )
            role, adopted = roles.get(row.tier, ("image", False))
            now_held = hold(held, role, txn.now, adopted=adopted, kept=row.kept)
            if (now_held, row.effective_s) != (row.hold, row.accessed_s):
                key = {"_uid": row.study_uid, "_tier": row.tier}
                changed.append({**key, "_hold": now_held, "_accessed_s": row.effective_s})
    _write(txn.conn, changed)
    return len(changed)


def accessed_s() -> sa.ColumnElement[float]:
    """A study's effective access time: the later of its own and an inherited one (B7)."""
    own, other = studies.c.accessed_s, studies.c.inherited_accessed_s
    return sa.case((other > own, other), else_=own)


def _write(conn: sa.Connection, rows: list[dict[str, Any]]) -> None:
    if rows:
        conn.execute(
            sa.update(copies)
            .where(
                copies.c.study_uid == sa.bindparam("_uid"),
                copies.c.tier == sa.bindparam("_tier"),
            )
            .values(hold=sa.bindparam("_hold"), accessed_s=sa.bindparam("_accessed_s")),
            rows,
        )
