"""Web caches: their packs leave by the web threshold only, and are made again on access (B10).

Nothing is lost: they are served from the originals meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.index import audit
from raypacs.index.engine import Txn, in_lists, insert_many
from raypacs.index.evicting import Leaving, Reason
from raypacs.index.schema import copies, delete_intents, instances, packs, studies

WANTED = -1.0
"""In ``web_evicted_s``: accessed since its packs left, so it is to be prepared again."""


def evict(
    txn: Txn, leaving: Sequence[Leaving], reason: Reason, *, grace_s: float
) -> dict[str, int]:
    """Let the packs of studies go; ``facts`` must be of this very transaction.

    Returns:
        The bytes that will be free on each tier.
    """
    freed: dict[str, int] = {}
    by_uid = {one.facts.study_uid: one for one in leaving}
    intents: list[dict[str, Any]] = []
    for uids in in_lists(by_uid):
        for row in txn.conn.execute(sa.select(packs).where(packs.c.study_uid.in_(uids))):
            freed[row.tier] = freed.get(row.tier, 0) + row.pack_bytes + row.header_bytes
            for path, size_bytes in (
                (row.pack_path, row.pack_bytes),
                (row.header_path, row.header_bytes),
            ):
                if path:
                    intents.append(
                        {
                            "study_uid": row.study_uid,
                            "tier": row.tier,
                            "path": path,
                            "size_bytes": size_bytes,
                            "due_s": txn.now + grace_s,
                            "epoch": txn.epoch,
                        }
                    )
    insert_many(txn.conn, delete_intents, intents)
    tiers = sorted({tier for one in leaving for tier in one.facts.webs})
    for uids in in_lists(by_uid):
        _unprepare(txn, uids, tiers)
    stories = [_story(one, reason, grace_s) for one in leaving]
    audit.record_many(txn, "evicted from web cache", stories)
    events = [
        {
            "event": "evicted",
            "study_uid": one.facts.study_uid,
            "tier": reason.tier,
            "objects": sum(objects for objects, _ in one.facts.webs.values()),
            "bytes_in": one.choice.size_bytes,
        }
        for one in leaving
    ]
    audit.publish(txn, "events", events)
    return freed


def _unprepare(txn: Txn, uids: Sequence[str], tiers: Sequence[str]) -> None:
    """Forget that studies were prepared; what is a row of their instances as well."""
    txn.conn.execute(sa.delete(packs).where(packs.c.study_uid.in_(uids)))
    txn.conn.execute(
        sa.delete(copies).where(copies.c.study_uid.in_(uids), copies.c.tier.in_(tiers))
    )
    txn.conn.execute(
        sa.update(studies)
        .where(studies.c.study_uid.in_(uids))
        .values(
            state="received",
            prepared_count=0,
            transcoded_count=0,
            proven_count=0,
            raw_bytes=0,
            prepared_bytes=0,
            web_evicted_s=txn.now,
        )
    )
    txn.conn.execute(
        sa.update(instances)
        .where(instances.c.study_uid.in_(uids), instances.c.form != "")
        .values(**UNPREPARED)
    )


UNPREPARED: dict[str, Any] = {
    "form": "",
    "reason": "",
    "pack_token": "",
    "raw_bytes": 0,
    "prepared_bytes": 0,
    "prepared_transfer_syntax_uid": "",
    "lossless_proven": False,
}
"""What the row of an instance says that no pack holds."""


def _story(one: Leaving, reason: Reason, grace_s: float) -> dict[str, Any]:
    detail = {
        "tiers": sorted(one.facts.webs),
        "for": reason.tier,
        "rule": one.choice.rule,
        "level": one.choice.level.value,
        "hours": reason.hours,
        "need_bytes": reason.need_bytes,
        "accessed_s": one.choice.candidate.accessed_s,
        "size_bytes": sum(size for _, size in one.facts.webs.values()),
        "grace_s": grace_s,
    }
    return {"study_uid": one.facts.study_uid, "who": reason.who, "detail": detail}


# Again


def accessed(txn: Txn, study_uids: Sequence[str]) -> None:
    """Note that studies whose packs left were accessed: they are to be prepared again."""
    for uids in in_lists(study_uids):
        txn.conn.execute(
            sa.update(studies)
            .where(studies.c.study_uid.in_(uids), studies.c.web_evicted_s > 0)
            .values(web_evicted_s=WANTED)
        )


def wanted(conn: sa.Connection, limit: int, after: str = "") -> list[tuple[str, bool, bool]]:
    """Return (study UID, offline, sealed) of studies that are to be prepared again, by UID."""
    rows = conn.execute(
        sa.select(studies.c.study_uid, studies.c.offline_s > 0, studies.c.sealed_s > 0)
        .where(sa.text("web_evicted_s < 0"), studies.c.study_uid > after)
        .order_by(studies.c.study_uid)
        .limit(limit)
    )
    return [(row[0], bool(row[1]), bool(row[2])) for row in rows]


def prepare_again(txn: Txn, study_uid: str) -> bool:
    """Let a study that is wanted become due for PREPARE, once."""
    changed = txn.conn.execute(
        sa.update(studies)
        .where(
            studies.c.study_uid == study_uid,
            studies.c.web_evicted_s < 0,
            studies.c.sealed_s == 0,
        )
        .values(web_evicted_s=0.0, prepare_due_s=txn.now)
    )
    return changed.rowcount > 0
