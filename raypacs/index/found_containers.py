"""Containers that ``raypacs index rebuild`` or ``reconcile`` found in libraries.

The index knows them from now on, but relies on none before it was read whole: until then
``verified_s`` is 0. What lies nowhere but in them is offline, and comes back with RESTORE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from raypacs.index import archiving, audit, holds
from raypacs.index.engine import Txn, in_lists, insert_many
from raypacs.index.schema import containers, copies, hourly_intake, instances, ledger, studies
from raypacs.records import CheckedContainer, ContainerRef

NOT_THERE = "not there"


def agree(
    txn: Txn,
    study_uid: str,
    found: Sequence[ContainerRef],
    lost: Iterable[tuple[str, str]],
    missing: Mapping[str, tuple[int, int]],
    away: int,
) -> None:
    """Register ``found`` containers, note ``lost`` ones, and what lies in libraries alone.

    ``missing``: objects and bytes by image tier that lie there no more; ``away``: instances that
    lie in libraries alone.
    """
    ours = studies.c.study_uid == study_uid
    generation = txn.conn.execute(sa.select(studies.c.generation).where(ours)).scalar()
    if generation is None:
        return
    _drop_nowhere(txn, study_uid)
    insert_many(
        txn.conn,
        containers,
        [
            {name: getattr(one, name) for name in ContainerRef.__slots__}
            | {
                "token": one.path.rpartition("/")[2].partition(".")[0],
                "generation": generation if one.generation else 0,
                "created_s": txn.now,
                "verified_s": 0.0,
            }
            for one in found
        ],
    )
    gone = [CheckedContainer(tier, path, NOT_THERE) for tier, path in lost]
    archiving.checked(txn, study_uid, gone, "", again=False)
    _leave_tiers(txn, study_uid, missing)
    if away:
        online = sa.and_(ours, studies.c.offline_s == 0)
        txn.conn.execute(sa.update(studies).where(online).values(offline_s=txn.now))
        _await(txn, study_uid)
    for tier in sorted({one.tier for one in found}):
        archiving.prove(txn, study_uid, tier)
    holds.refresh(txn, [study_uid])
    if found or away:
        detail = {"containers": len(found), "instances_away": away}
        audit.record(txn, "containers found", study_uid=study_uid, detail=detail)


def _drop_nowhere(txn: Txn, study_uid: str) -> None:
    """Forget the copy on no tier, which registering instances without a place made."""
    nowhere = sa.and_(copies.c.study_uid == study_uid, copies.c.tier == "")
    txn.conn.execute(sa.delete(copies).where(nowhere))
    for table in (ledger, hourly_intake):
        txn.conn.execute(sa.delete(table).where(table.c.tier == ""))


def _leave_tiers(txn: Txn, study_uid: str, missing: Mapping[str, tuple[int, int]]) -> None:
    for tier, (objects, size_bytes) in missing.items():
        ours = sa.and_(copies.c.study_uid == study_uid, copies.c.tier == tier)
        txn.conn.execute(
            sa.update(copies)
            .where(ours)
            .values(objects=copies.c.objects - objects, size_bytes=copies.c.size_bytes - size_bytes)
        )
        txn.conn.execute(sa.delete(copies).where(ours, copies.c.objects <= 0))


def _await(txn: Txn, study_uid: str) -> None:
    """Do not prepare what is not there: it is prepared when it was restored."""
    txn.conn.execute(
        sa.update(studies).where(studies.c.study_uid == study_uid).values(prepare_due_s=None)
    )


def nowhere(txn: Txn, study_uid: str, sop_instance_uids: Iterable[str]) -> None:
    """Let rows of an open study say that their instances lie in libraries alone."""
    for uids in in_lists(sop_instance_uids):
        txn.conn.execute(
            sa.update(instances)
            .where(instances.c.study_uid == study_uid, instances.c.sop_instance_uid.in_(uids))
            .values(tier="", path="")
        )
