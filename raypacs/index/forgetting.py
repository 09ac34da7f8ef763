"""Studies that leave the caches without any library copy: their source has archiving off (B6).

Nothing else has them, so they leave the index as well. The audit says which rule, and that there
was no archived copy. Never those with instances under storage commitment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.index import audit, deletion, queue
from raypacs.index.engine import Txn, insert_many
from raypacs.index.evicting import LISTED, Leaving, Reason
from raypacs.index.schema import delete_intents, series


def forget(
    txn: Txn, leaving: Sequence[Leaving], reason: Reason, *, grace_s: float
) -> dict[str, int]:
    """Take studies out of caches and index; ``facts`` must be of this very transaction.

    Returns:
        The bytes that will be free on each tier.
    """
    freed: dict[str, int] = {}
    for one in leaving:
        uid = one.facts.study_uid
        queue.cancel_items(txn, uid, "study evicted")
        rows = [*_sealed(txn, one), *_plain(txn, uid)]
        blank = {"study_uid": uid, "due_s": txn.now + grace_s, "epoch": txn.epoch}
        whole = {"what": "", "list_tier": "", "objects": 0}
        insert_many(txn.conn, delete_intents, [{**whole, **blank, **row} for row in rows])
        deletion.take_out(txn, uid)
        for row in rows:
            freed[row["tier"]] = freed.get(row["tier"], 0) + row["size_bytes"]
        size_bytes = sum(row["size_bytes"] for row in rows)
        detail = {
            "for": reason.tier,
            "source": one.choice.candidate.source,
            "rule": one.choice.rule,
            "level": one.choice.level.value,
            "hours": reason.hours,
            "need_bytes": reason.need_bytes,
            "accessed_s": one.choice.candidate.accessed_s,
            "objects": sum(place.instance_count for place in one.facts.series),
            "size_bytes": size_bytes,
            "grace_s": grace_s,
        }
        audit.record(txn, "evicted without archive", study_uid=uid, who=reason.who, detail=detail)
        event = {"event": "deleted", "study_uid": uid, "tier": reason.tier}
        audit.publish(txn, "events", [{**event, "objects": detail["objects"]}])
    return freed


def _plain(txn: Txn, study_uid: str) -> list[dict[str, Any]]:
    """Return the objects that have a row of their own."""
    return [
        {"tier": tier, "path": path, "size_bytes": size_bytes}
        for tier, path, size_bytes in deletion.objects_of(txn.conn, study_uid)
        if path
    ]


def _sealed(txn: Txn, one: Leaving) -> list[dict[str, Any]]:
    """Return what the manifests list, and the manifests, which go after that."""
    rows: list[dict[str, Any]] = []
    found = txn.conn.execute(
        sa.select(
            series.c.series_uid,
            series.c.manifest_tier,
            series.c.manifest_path,
            series.c.manifest_bytes,
        ).where(series.c.study_uid == one.facts.study_uid, series.c.manifest_path != "")
    ).all()
    places = {place.series_uid: place for place in one.facts.series}
    for row in found:
        place = places[row.series_uid]
        if one.places is not None:
            lie: Sequence[tuple[str, int, int]] = one.places.get(row.series_uid, ())
        else:
            ((tier, _),) = one.facts.images.items()
            lie = [(tier, place.instance_count, place.size_bytes)]
        rows += [
            {
                "tier": tier,
                "path": row.manifest_path,
                "size_bytes": size_bytes,
                "what": LISTED,
                "list_tier": row.manifest_tier,
                "objects": objects,
            }
            for tier, objects, size_bytes in lie
        ]
        rows.append(
            {
                "tier": row.manifest_tier,
                "path": row.manifest_path,
                "size_bytes": row.manifest_bytes,
            }
        )
    return rows
