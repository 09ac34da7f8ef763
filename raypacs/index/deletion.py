"""Deleting a study: intents first, then bytes, then the intents go.

From the intent on the study is gone for every search, and the same study may be received again:
its new objects have other paths. Only paths written down here are ever deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from raypacs.errors import NotFound
from raypacs.index import adopted, audit, ledger, listing, queue, sealing
from raypacs.index.engine import Txn, in_lists, insert_many
from raypacs.index.schema import (
    asides,
    containers,
    copies,
    delete_intents,
    instances,
    packs,
    series,
    studies,
)
from raypacs.index.schema import audit as audit_rows


@dataclass(frozen=True, slots=True)
class DeleteIntent:
    """One object to delete, not before ``due_s``."""

    intent_id: int
    study_uid: str
    tier: str
    path: str
    size_bytes: int
    due_s: float


@dataclass(frozen=True, slots=True)
class ListedIntent:
    """What the manifest at (``list_tier``, ``path``) lists on ``tier`` is to be deleted."""

    intent_id: int
    study_uid: str
    tier: str
    path: str
    list_tier: str
    relies_on: str
    begun_s: float


def delete_study(
    txn: Txn, study_uid: str, *, grace_s: float, who: str = "", rule: str = ""
) -> list[DeleteIntent]:
    """Take a study out of the index and return its objects in caches and libraries to delete.

    Those on adopted tiers are not among them: they stay where they are. ``rule``: what wants that,
    where nobody asked for it.

    Raises:
        NotFound: no such study.
        StudySealed: it must be reopened first, as its manifests alone name its objects.
    """
    sealing.check_open(txn.conn, [study_uid])
    ours = studies.c.study_uid == study_uid
    if txn.conn.execute(sa.select(studies.c.study_uid).where(ours)).scalar() is None:
        raise NotFound(f"no study {study_uid}", study_uid=study_uid)
    queue.cancel_items(txn, study_uid, "study deleted")
    every = objects_of(txn.conn, study_uid)
    objects = adopted.keep(txn, study_uid, every, who)
    due_s = txn.now + grace_s
    insert_many(
        txn.conn,
        delete_intents,
        [
            {
                "study_uid": study_uid,
                "tier": tier,
                "path": path,
                "size_bytes": size_bytes,
                "due_s": due_s,
                "epoch": txn.epoch,
            }
            for tier, path, size_bytes in objects
        ],
    )
    take_out(txn, study_uid)
    intents = pending(txn.conn, study_uid)
    size_bytes = sum(size for _, _, size in objects)
    detail: dict[str, int | str] = {
        "objects": len(objects),
        "size_bytes": size_bytes,
        "intents": len(intents),
    }
    if len(every) > len(objects):
        detail["stay"] = len(every) - len(objects)
    if rule:
        detail["by"] = rule
    audit.record(txn, "deleted", study_uid=study_uid, who=who, detail=detail)
    audit.publish(
        txn, "events", [{"event": "deleted", "study_uid": study_uid, "objects": len(objects)}]
    )
    return intents


def take_out(txn: Txn, study_uid: str) -> None:
    """Delete all rows of a study but its story and its delete intents."""
    listing.unlist(txn.conn, [study_uid])
    for table in (instances, series, packs, copies, containers, asides, studies):
        txn.conn.execute(sa.delete(table).where(table.c.study_uid == study_uid))


def deleted_since(conn: sa.Connection, study_uid: str, since_s: float) -> int | None:
    """Return how many intents a study's deletion made; None: there was none.

    One counts from ``since_s`` on, and any while bytes of it are still to be deleted.
    """
    query = (
        sa.select(audit_rows.c.at_s, audit_rows.c.detail)
        .where(audit_rows.c.study_uid == study_uid, audit_rows.c.event == "deleted")
        .order_by(audit_rows.c.audit_id.desc())
        .limit(1)
    )
    row = conn.execute(query).one_or_none()
    if row is None or (row.at_s < since_s and not pending(conn, study_uid)):
        return None
    return int(row.detail.get("intents", 0))


def objects_of(conn: sa.Connection, study_uid: str) -> list[tuple[str, str, int]]:
    """Return (tier, path, bytes) of every object of the study."""
    found: list[tuple[str, str, int]] = []
    for table, path, size in (
        (instances, instances.c.path, instances.c.size_bytes),
        (containers, containers.c.path, containers.c.size_bytes),
        (asides, asides.c.path, asides.c.size_bytes),
        (packs, packs.c.pack_path, packs.c.pack_bytes),
        (packs, packs.c.header_path, packs.c.header_bytes),
    ):
        rows = conn.execute(
            sa.select(table.c.tier, path, size).where(
                table.c.study_uid == study_uid,
                table.c.tier != "",  # it lies nowhere but in libraries
            )
        )
        found += [(row[0], row[1], int(row[2])) for row in rows]
    return found


def pending(conn: sa.Connection, study_uid: str) -> list[DeleteIntent]:
    """Return a study's intents: its bytes are still to be deleted."""
    return _intents(conn, delete_intents.c.study_uid == study_uid, None)


def doomed(conn: sa.Connection, places: Iterable[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """Return which (tier, path) of the (study UID, tier, path) are to be deleted."""
    found: set[tuple[str, str]] = set()
    wanted = set(places)
    for uids in in_lists({study_uid for study_uid, _, _ in wanted}):
        rows = conn.execute(
            sa.select(
                delete_intents.c.study_uid, delete_intents.c.tier, delete_intents.c.path
            ).where(delete_intents.c.study_uid.in_(uids))
        )
        found |= {(row[1], row[2]) for row in rows if (row[0], row[1], row[2]) in wanted}
    return found


def due(conn: sa.Connection, tier: str, now: float, limit: int) -> list[DeleteIntent]:
    """Return the intents of whole objects of a tier whose grace period is over, the oldest first.

    A manifest waits until what it lists, and is to be deleted, is gone.
    """
    listed = delete_intents.alias("listed")
    lists = sa.exists().where(
        sa.text("listed.what = 'listed'"),  # literally as in the index over them
        listed.c.path == delete_intents.c.path,
        listed.c.list_tier == delete_intents.c.tier,
    )
    where = sa.and_(
        delete_intents.c.tier == tier,
        delete_intents.c.due_s <= now,
        delete_intents.c.what == "",
        ~lists,
    )
    return _intents(conn, where, limit)


def listed_due(conn: sa.Connection, tier: str, now: float, limit: int) -> list[ListedIntent]:
    """Return the intents of what manifests list on a tier, those due longest first."""
    query = (
        sa.select(*(delete_intents.c[name] for name in ListedIntent.__slots__))
        .where(
            delete_intents.c.tier == tier,
            delete_intents.c.due_s <= now,
            delete_intents.c.what == "listed",
        )
        .order_by(delete_intents.c.due_s, delete_intents.c.intent_id)
        .limit(limit)
    )
    return [ListedIntent(**row) for row in conn.execute(query).mappings()]


def begin(txn: Txn, intent_ids: Iterable[int]) -> list[int]:
    """Note that bytes of intents go from now on; return those that are still there.

    An attempt that planned the object and reports it later is refused (``planned.counts``).
    """
    found: list[int] = []
    for ids in in_lists(intent_ids):
        ours = delete_intents.c.intent_id.in_(ids)
        found += txn.conn.execute(sa.select(delete_intents.c.intent_id).where(ours)).scalars()
        fresh = sa.and_(ours, delete_intents.c.begun_s == 0)
        txn.conn.execute(sa.update(delete_intents).where(fresh).values(begun_s=txn.now))
    return found


def put_off(txn: Txn, intent_ids: Iterable[int], until_s: float) -> None:
    """Let intents be due later."""
    for ids in in_lists(intent_ids):
        ours = delete_intents.c.intent_id.in_(ids)
        txn.conn.execute(sa.update(delete_intents).where(ours).values(due_s=until_s))


def _intents(
    conn: sa.Connection, where: sa.ColumnElement[bool], limit: int | None
) -> list[DeleteIntent]:
    query = (
        sa.select(*(delete_intents.c[name] for name in DeleteIntent.__slots__))
        .where(where)
        .order_by(delete_intents.c.due_s, delete_intents.c.intent_id)
        .limit(limit)
    )
    return [DeleteIntent(**row) for row in conn.execute(query).mappings()]


def confirm_deleted(txn: Txn, intent_ids: Iterable[int]) -> int:
    """Forget intents whose bytes are gone and give the bytes back; return how many there were."""
    freed: Counter[str] = Counter()
    count = 0
    for ids in in_lists(intent_ids):
        ours = delete_intents.c.intent_id.in_(ids)
        rows = txn.conn.execute(
            sa.select(delete_intents.c.tier, delete_intents.c.size_bytes).where(ours)
        )
        for tier, size_bytes in rows:
            freed[tier] -= size_bytes
            count += 1
        txn.conn.execute(sa.delete(delete_intents).where(ours))
    ledger.commit(txn, freed)
    return count
