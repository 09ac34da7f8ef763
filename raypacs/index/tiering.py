"""What lies on a tier, whose turn it is to move, and asides that moved: for migration and drain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.index import audit, ledger, planned
from raypacs.index.engine import Txn, insert_many
from raypacs.index.items import current
from raypacs.index.schema import (
    asides,
    containers,
    copies,
    delete_intents,
    packs,
    series,
    studies,
    work_items,
)
from raypacs.policy.archiving import ARCHIVE
from raypacs.policy.holding import HOLDS, LIBRARY
from raypacs.policy.kinds import MIGRATE
from raypacs.policy.queue import WAITING, State
from raypacs.records import Lease, MovedAside

OPEN = (*WAITING, State.IN_PROCESS)
_THERE: dict[str, sa.Column[str]] = {
    "studies": copies.c.tier,
    "manifests": series.c.manifest_tier,
    "asides": asides.c.tier,
    "packs": packs.c.tier,
    "containers": containers.c.tier,
    "deletes": delete_intents.c.tier,
}


@dataclass(frozen=True, slots=True)
class Leaver:
    """A study whose turn it is to leave a tier."""

    study_uid: str
    size_bytes: int
    offline: bool


_LEAVER = (studies.c.study_uid, studies.c.size_bytes, studies.c.offline_s)
_COPIES = copies.join(studies, studies.c.study_uid == copies.c.study_uid)


def least_recent(conn: sa.Connection, tier: str, limit: int) -> list[Leaver]:
    """Return studies that lie on a tier, the least recently accessed first.

    Not those of which work waits or runs, or a move failed.
    """
    found = []
    for hold in HOLDS:  # one walk along the index each
        query = (
            sa.select(copies.c.accessed_s, *_LEAVER)
            .select_from(_COPIES)
            .where(copies.c.tier == tier, copies.c.hold == hold, ~_busy())
            .order_by(copies.c.accessed_s, copies.c.study_uid)
            .limit(limit)
        )
        found += [(row[0], _leaver(row[1:])) for row in conn.execute(query)]
    found.sort(key=lambda one: (one[0], one[1].study_uid))
    return [one for _, one in found[:limit]]


def aged(conn: sa.Connection, tier: str, before_s: float, limit: int) -> list[Leaver]:
    """Return studies that lie on a tier since ``before_s`` and have not grown since.

    Of the ``limit`` that lie there longest, the least recently accessed first.
    """
    query = (
        sa.select(copies.c.accessed_s, *_LEAVER)
        .select_from(_COPIES)
        .where(
            copies.c.tier == tier,
            copies.c.created_s <= before_s,
            studies.c.last_received_s <= before_s,
            ~_busy(),
        )
        .order_by(copies.c.created_s)
        .limit(limit)
    )
    found = [(row[0], _leaver(row[1:])) for row in conn.execute(query)]
    return [one for _, one in sorted(found, key=lambda one: (one[0], one[1].study_uid))]


def _leaver(row: Sequence[Any]) -> Leaver:
    return Leaver(row[0], int(row[1]), row[2] > 0)


def listed_there(conn: sa.Connection, tier: str, limit: int) -> list[Leaver]:
    """Return studies with a manifest on a tier of which nothing moves yet."""
    query = (
        sa.select(studies.c.study_uid, studies.c.size_bytes, studies.c.offline_s)
        .distinct()
        .select_from(series.join(studies, studies.c.study_uid == series.c.study_uid))
        .where(series.c.manifest_tier == tier, series.c.manifest_path != "", ~_busy())
        .limit(limit)
    )
    return [_leaver(row) for row in conn.execute(query)]


def _busy() -> sa.ColumnElement[bool]:
    failed = sa.and_(work_items.c.kind == MIGRATE, work_items.c.state == State.FAILED.value)
    return sa.exists().where(
        work_items.c.study_uid == studies.c.study_uid,
        sa.or_(work_items.c.state.in_(OPEN), failed),
    )


def is_empty(conn: sa.Connection, tier: str) -> bool:
    """Whether nothing lies on a tier any more, nor may be written by who holds room there."""
    for column in _THERE.values():
        if conn.execute(sa.select(column).where(column == tier).limit(1)).first() is not None:
            return False
    return not held_room(conn, tier)


def held_room(conn: sa.Connection, tier: str) -> int:
    """Return the bytes of a tier that are promised to somebody, or used by the ledger."""
    account = ledger.read(conn).get(tier)
    return account.used_bytes + account.granted_bytes if account else 0


def waits(conn: sa.Connection, study_uid: str, kind: str) -> bool:
    """Whether work of a kind waits or runs for a study ('': for none)."""
    query = sa.select(work_items.c.item_id).where(
        work_items.c.study_uid == study_uid,
        work_items.c.state.in_(OPEN),
        work_items.c.kind == kind,
    )
    return conn.execute(query.limit(1)).first() is not None


def last_failed_s(conn: sa.Connection, study_uid: str, kind: str) -> float:
    """Return when the latest item of a kind of a study failed; 0: it did not, or there is none."""
    query = (
        sa.select(work_items.c.state, work_items.c.finished_s)
        .where(work_items.c.study_uid == study_uid, work_items.c.kind == kind)
        .order_by(work_items.c.item_id.desc())
    )
    row = conn.execute(query.limit(1)).first()
    return float(row.finished_s) if row and row.state == State.FAILED.value else 0.0


def is_busy(conn: sa.Connection, study_uid: str, *, but: str = "") -> bool:
    """Whether work of a study waits or runs, other than of the kind ``but``."""
    query = sa.select(work_items.c.item_id).where(
        work_items.c.study_uid == study_uid,
        work_items.c.state.in_(OPEN),
        work_items.c.kind != but,
    )
    return conn.execute(query.limit(1)).first() is not None


def waiting_unsealed(conn: sa.Connection, kind: str, limit: int) -> list[str]:
    """Return studies of which work of a kind waits, but that are not sealed (any more)."""
    query = (
        sa.select(studies.c.study_uid)
        .select_from(work_items.join(studies, studies.c.study_uid == work_items.c.study_uid))
        .where(
            work_items.c.kind == kind,
            work_items.c.state.in_(WAITING),
            studies.c.sealed_s == 0,
        )
        .limit(limit)
    )
    return list(conn.execute(query).scalars())


def open_items(conn: sa.Connection, kind: str) -> int:
    """Return how many items of a kind wait or run."""
    query = sa.select(sa.func.count()).where(
        work_items.c.kind == kind, work_items.c.state.in_(OPEN)
    )
    return int(conn.execute(query).scalar_one())


def held(conn: sa.Connection, study_uid: str) -> dict[str, int]:
    """Return the bytes of a study by tier, as its copies say."""
    query = sa.select(copies.c.tier, copies.c.size_bytes).where(copies.c.study_uid == study_uid)
    return {row[0]: int(row[1]) for row in conn.execute(query)}


def proven_in(conn: sa.Connection, study_uid: str) -> set[str]:
    """Return the libraries that have a proven copy of a study as it is now."""
    query = (
        sa.select(copies.c.tier)
        .select_from(_COPIES)
        .where(
            copies.c.study_uid == study_uid,
            copies.c.archive_proven,
            copies.c.generation == studies.c.generation,
        )
    )
    return set(conn.execute(query).scalars())


def what_lies(conn: sa.Connection, tier: str) -> dict[str, int]:
    """Return what still lies on a tier, by kind of object; all 0: it is empty.

    ``studies``, ``manifests``, ``asides``, ``packs``, ``containers``, ``deletes`` (to be deleted),
    ``bytes`` and ``granted_bytes`` by the ledger; ``failed``: moves that failed, of any tier;
    ``failed_archives``: ARCHIVEs that failed of studies that lie there, in a library.
    """
    found = {
        name: int(
            conn.execute(
                sa.select(sa.func.count()).select_from(column.table).where(column == tier)
            ).scalar_one()
        )
        for name, column in _THERE.items()
    }
    failed = sa.select(sa.func.count()).where(
        work_items.c.kind == MIGRATE, work_items.c.state == State.FAILED.value
    )
    found["failed"] = int(conn.execute(failed).scalar_one())
    archives = (
        sa.select(sa.func.count(sa.distinct(work_items.c.study_uid)))
        .select_from(work_items.join(copies, copies.c.study_uid == work_items.c.study_uid))
        .where(
            work_items.c.kind == ARCHIVE,
            work_items.c.state == State.FAILED.value,
            copies.c.tier == tier,
            copies.c.hold == LIBRARY,
        )
    )
    found["failed_archives"] = int(conn.execute(archives).scalar_one())
    account = ledger.read(conn).get(tier)
    found["bytes"] = account.used_bytes if account else 0
    found["granted_bytes"] = account.granted_bytes if account else 0
    return found


def asides_on(conn: sa.Connection, tier: str, limit: int) -> list[dict[str, Any]]:
    """Return objects kept aside on a tier: path and size in bytes, by path."""
    query = (
        sa.select(asides.c.path, asides.c.size_bytes)
        .where(asides.c.tier == tier)
        .order_by(asides.c.path)
        .limit(limit)
    )
    return [dict(row) for row in conn.execute(query).mappings()]


def move_asides(txn: Txn, lease: Lease, moved: Sequence[MovedAside], *, grace_s: float) -> int:
    """Let objects kept aside lie where an attempt copied them; the old ones go after the grace.

    Raises:
        StaleLease: the attempt is not the current one; nothing was changed.
    """
    current(txn, lease)
    count = 0
    for one in moved:
        ours = sa.and_(asides.c.tier == one.from_tier, asides.c.path == one.from_path)
        row = txn.conn.execute(
            sa.select(asides.c.size_bytes, asides.c.study_uid).where(ours)
        ).first()
        if row is None or not planned.counts(txn, lease, [(one.tier, one.path)]):
            continue  # deleted meanwhile: what was copied goes with the attempt
        if one.explained:
            planned.counts(txn, lease, [(one.tier, one.explained)])
        txn.conn.execute(sa.update(asides).where(ours).values(tier=one.tier, path=one.path))
        size_bytes = int(row.size_bytes)
        ledger.spend(txn, planned.holder(lease), {one.tier: size_bytes})
        ledger.commit(txn, {one.tier: size_bytes})
        _doom(txn, row.study_uid, one, size_bytes, grace_s)
        count += 1
    if count:
        detail = {"from": moved[0].from_tier, "to": moved[0].tier, "objects": count}
        audit.record(txn, "asides moved", item_id=lease.item_id, node=lease.node, detail=detail)
    return count


def _doom(txn: Txn, study_uid: str, one: MovedAside, size_bytes: int, grace_s: float) -> None:
    places = [(one.from_path, size_bytes)]
    if one.from_explained:
        places.append((one.from_explained, 0))
    insert_many(
        txn.conn,
        delete_intents,
        [
            {
                "study_uid": study_uid,
                "tier": one.from_tier,
                "path": path,
                "size_bytes": size,
                "due_s": txn.now + grace_s,
                "epoch": txn.epoch,
            }
            for path, size in places
        ],
    )
