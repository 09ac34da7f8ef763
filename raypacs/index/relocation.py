"""An instance whose bytes were lost is served from where the same data set was stored again."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index import audit, ledger, placing, restoring
from raypacs.index.engine import Txn, add
from raypacs.index.schema import copies, instances, series, studies
from raypacs.records import InstanceRecord

# The least that SQLite's text of a time shows, times ten.
_TOUCH_S = 0.001
_PLACE = ("tier", "path", "size_bytes", "dataset_offset_bytes", "pixel_offset_bytes")


def relocate(txn: Txn, record: InstanceRecord, lost: tuple[str, str], *, quiet_s: float) -> bool:
    """Serve an instance from ``record``'s place instead of ``lost`` (tier, path), which is empty.

    The data set is the same; only the file around it may differ. False if the instance is not
    served from ``lost`` (any more).
    """
    ours = instances.c.sop_instance_uid == record.sop_instance_uid
    row = txn.conn.execute(
        sa.select(instances.c.tier, instances.c.path, instances.c.size_bytes).where(ours)
    ).one_or_none()
    if row is None or (row.tier, row.path) != lost:
        return False
    txn.conn.execute(
        sa.update(instances).where(ours).values({name: getattr(record, name) for name in _PLACE})
    )
    _count_bytes(txn, record, (row.tier, row.size_bytes))
    # What could not be prepared for want of its bytes can be now.
    txn.conn.execute(
        sa.update(studies)
        .where(
            studies.c.study_uid == record.study_uid,
            sa.exists().where(ours, instances.c.form == ""),
        )
        .values(prepare_due_s=txn.now + quiet_s)
    )
    if not lost[0]:
        placing.settle(txn, record.study_uid, restoring.rows_away(txn.conn, record.study_uid))
    detail = {"sop_instance_uid": record.sop_instance_uid, "tier": record.tier, "lost": list(lost)}
    audit.record(txn, "relocated", study_uid=record.study_uid, detail=detail)
    return True


def _count_bytes(txn: Txn, record: InstanceRecord, lost: tuple[str, int]) -> None:
    """Take (tier, bytes) out of the sums and count the record's instead."""
    grown = record.size_bytes - lost[1]
    txn.conn.execute(
        sa.update(studies)
        .where(studies.c.study_uid == record.study_uid)
        .values(size_bytes=studies.c.size_bytes + grown)
    )
    # A part of what ``Reader.series_state`` tells: gateways look again where its instances lie.
    later = series.c.created_s + _TOUCH_S
    txn.conn.execute(
        sa.update(series)
        .where(series.c.study_uid == record.study_uid, series.c.series_uid == record.series_uid)
        .values(size_bytes=series.c.size_bytes + grown, created_s=later)
    )
    generation = txn.conn.execute(
        sa.select(studies.c.generation).where(studies.c.study_uid == record.study_uid)
    ).scalar_one()
    for tier, objects, size_bytes in (
        (lost[0], -1, -lost[1]),
        (record.tier, 1, record.size_bytes),
    ):
        if not tier:  # it lay nowhere but in libraries
            continue
        copy = {
            "study_uid": record.study_uid,
            "tier": tier,
            "objects": objects,
            "size_bytes": size_bytes,
            "generation": generation,
            "created_s": txn.now,
        }
        add(txn.conn, copies, [copy], counters=["objects", "size_bytes"])
        ledger.commit(txn, {tier: size_bytes})
