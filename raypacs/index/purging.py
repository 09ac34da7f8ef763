"""Purging: a study's copy in a library goes, where it is not the one that is relied on."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.errors import IllegalTransition, NotFound
from raypacs.index import audit, candidates, evicting, holds
from raypacs.index import settings as current_settings
from raypacs.index.engine import Txn, insert_many
from raypacs.index.schema import containers, copies, delete_intents

GRACE_S = 60.0
"""A gateway or a RESTORE may be reading it."""


def purge(txn: Txn, study_uid: str, library: str, who: str) -> int:
    """Let a study's containers in a library be deleted; return their bytes.

    Raises:
        NotFound: the study has no copy in that library.
        IllegalTransition: the study is away from the image tiers, or about to leave them, and no
            other library that is there has a sound, proven copy of it.
    """
    ours = sa.and_(containers.c.study_uid == study_uid, containers.c.tier == library)
    copy = sa.and_(copies.c.study_uid == study_uid, copies.c.tier == library)
    rows = txn.conn.execute(sa.select(containers.c.path, containers.c.size_bytes).where(ours)).all()
    listed = txn.conn.execute(sa.select(copies.c.tier).where(copy)).first()
    settings = current_settings.read(txn.conn)[1]
    is_library = any(one.name == library and one.role == "library" for one in settings.tiers)
    if not is_library or (not rows and listed is None):
        raise NotFound(f"study {study_uid} has no copy in library {library}", study_uid=study_uid)
    fact = candidates.facts(txn.conn, [study_uid], settings, txn.now).get(study_uid)
    others = [] if fact is None else [one for one in fact.libraries if one != library]
    if fact is not None and not others:
        if fact.offline_s or evicting.gone_paths(txn.conn, study_uid):
            away = ", ".join(one for one in fact.away if one != library)
            raise IllegalTransition(
                f"study {study_uid} is away from the image tiers, and no other library has a "
                f"sound, proven copy of it{f': {away} is away' if away else ''}",
                study_uid=study_uid,
                hint="restore it, or archive it to another library, first",
            )
        if not fact.images and not fact.adopted:
            raise IllegalTransition(
                f"the copy in {library} is the only one of study {study_uid}", study_uid=study_uid
            )
    insert_many(
        txn.conn,
        delete_intents,
        [
            {
                "study_uid": study_uid,
                "tier": library,
                "path": row.path,
                "size_bytes": row.size_bytes,
                "due_s": txn.now + GRACE_S,
                "epoch": txn.epoch,
            }
            for row in rows
        ],
    )
    txn.conn.execute(sa.delete(containers).where(ours))
    txn.conn.execute(sa.delete(copies).where(copy))
    if others:
        txn.conn.execute(
            sa.update(delete_intents)
            .where(delete_intents.c.study_uid == study_uid, delete_intents.c.relies_on == library)
            .values(relies_on=others[0])
        )
    holds.refresh(txn, [study_uid], settings)
    size_bytes = sum(row.size_bytes for row in rows)
    detail = {"tier": library, "objects": len(rows), "size_bytes": size_bytes}
    audit.record(txn, "purged", study_uid=study_uid, who=who, detail=detail)
    return size_bytes
