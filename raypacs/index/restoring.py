"""What a RESTORE brought back, and the orders for it: one flight per study, however many ask.

A sealed study comes back with new manifests (``placing``), the rows of one that grew while it was
away with new places.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa

from raypacs.errors import NotFound
from raypacs.index import evicting, ledger, placing, planned, queue
from raypacs.index.engine import Txn, in_lists
from raypacs.index.items import change, clean, find_where, is_running, is_waiting
from raypacs.index.queue import Wish
from raypacs.index.registration import count_copies
from raypacs.index.schema import containers, copies, instances, series, studies, work_items
from raypacs.policy.kinds import PREFETCH, RESTORE
from raypacs.policy.queue import WAITING, State
from raypacs.records import Lease, WorkResult

KINDS = (RESTORE, PREFETCH)
FAILED_LATELY_S = 60.0
"""So long a restore that failed is not tried again for a mere reader."""
_PLACE = ("tier", "path", "size_bytes", "dataset_offset_bytes", "pixel_offset_bytes")


def take_over(txn: Txn, lease: Lease, result: WorkResult) -> str:
    """Take over rows that lie on image tiers again, and let the study be used; return why not."""
    if lease.kind not in KINDS:
        return ""
    why = _rows(txn, lease, result) if result.restored else ""
    if not why and not result.error:
        _use(txn, lease)
    return why


def taken_over(conn: sa.Connection, result: WorkResult) -> bool:
    """Whether rows lie where this attempt brought them."""
    for one in result.restored[:1]:
        ours = sa.and_(instances.c.tier == one.tier, instances.c.path == one.path)
        query = sa.select(instances.c.path).where(
            instances.c.sop_instance_uid == one.sop_instance_uid, ours
        )
        return conn.execute(query).first() is not None
    return False


def _rows(txn: Txn, lease: Lease, result: WorkResult) -> str:
    told = {one.sop_instance_uid: one for one in result.restored}
    away = _away(txn.conn, lease.study_uid)
    if any(away.get(uid) != one.sha256 for uid, one in told.items()):
        return "the study changed meanwhile"
    if not planned.counts(txn, lease, [(one.tier, one.path) for one in told.values()]):
        return "an object that it wrote is being deleted"
    txn.conn.execute(
        sa.update(instances)
        .where(instances.c.sop_instance_uid == sa.bindparam("_uid"))
        .values({name: sa.bindparam(f"_{name}") for name in _PLACE}),
        [
            {"_uid": uid} | {f"_{name}": getattr(one, name) for name in _PLACE}
            for uid, one in told.items()
        ],
    )
    touched = sorted({one.series_uid for one in told.values()})
    for some in in_lists(touched):
        txn.conn.execute(
            sa.update(series)
            .where(series.c.study_uid == lease.study_uid, series.c.series_uid.in_(some))
            .values(created_s=series.c.created_s + placing.TOUCH_S)
        )
    objects: Counter[str] = Counter(one.tier for one in told.values())
    sizes: Counter[str] = Counter()
    for one in told.values():
        sizes[one.tier] += one.size_bytes
    generation = _generation(txn.conn, lease.study_uid)
    rows = [
        {
            "study_uid": lease.study_uid,
            "tier": tier,
            "objects": count,
            "size_bytes": sizes[tier],
            "generation": generation,
            "created_s": txn.now,
        }
        for tier, count in objects.items()
    ]
    count_copies(txn, rows, is_intake=False)
    ledger.spend(txn, planned.holder(lease), sizes)
    placing.moved_in(txn, sizes)
    placing.settle(txn, lease.study_uid, len(away) - len(told))
    placing.tell(txn, lease, objects, sizes, series_count=len(touched))
    return ""


def _away(conn: sa.Connection, study_uid: str) -> dict[str, str]:
    """Return the SHA-256 of the rows of a study that lie nowhere but in libraries."""
    query = sa.select(instances.c.sop_instance_uid, instances.c.sha256).where(
        instances.c.study_uid == study_uid, instances.c.tier == ""
    )
    return {row[0]: row[1] for row in conn.execute(query)}


def rows_away(conn: sa.Connection, study_uid: str) -> int:
    """Return how many rows of a study lie nowhere but in libraries."""
    return len(_away(conn, study_uid))


def _generation(conn: sa.Connection, study_uid: str) -> int:
    query = sa.select(studies.c.generation).where(studies.c.study_uid == study_uid)
    return int(conn.execute(query).scalar_one())


def _use(txn: Txn, lease: Lease) -> None:
    """Count what came back as accessed now, where somebody asked for it; let it be prepared.

    A study whose packs left the web caches is made ready again (``web_evicting``), rows that were
    never prepared become due.
    """
    ours = studies.c.study_uid == lease.study_uid
    if lease.kind == RESTORE and lease.payload.get("touch", True):
        txn.conn.execute(sa.update(studies).where(ours).values(accessed_s=txn.now))
        txn.conn.execute(
            sa.update(copies)
            .where(copies.c.study_uid == lease.study_uid)
            .values(accessed_s=txn.now)
        )
    if not lease.payload.get("prepare", True):
        return
    online = sa.and_(ours, studies.c.offline_s == 0)
    txn.conn.execute(
        sa.update(studies).where(online, studies.c.web_evicted_s > 0).values(web_evicted_s=-1.0)
    )
    waits = sa.and_(
        studies.c.state == "received",
        studies.c.sealed_s == 0,
        studies.c.prepare_due_s.is_(None),
        studies.c.prepared_count < studies.c.instance_count,
    )
    txn.conn.execute(sa.update(studies).where(online, waits).values(prepare_due_s=txn.now))


def order(txn: Txn, study_uid: str, wish: Wish, *, seen_away: bool = False) -> dict[str, Any]:
    """See that a study is brought back; return ``item_id`` (0: nothing is to be done), ``state``.

    ``seen_away``: bytes of it were looked for and not found, whatever the index says. The one item
    that waits or runs stands for all who ask; it gets the higher priority. ``state``: that of the
    item, or ``online``, ``nowhere`` (no library has it), ``failed`` (just now, see ``error``).

    Raises:
        NotFound: no such study.
    """
    uid = clean(study_uid)
    if evicting.take_back(txn, uid, "it was asked for"):
        seen_away = False
    study = txn.conn.execute(
        sa.select(studies.c.generation).where(studies.c.study_uid == uid)
    ).one_or_none()
    if study is None:
        raise NotFound(f"no study {study_uid}", study_uid=study_uid)
    if not (seen_away or is_away(txn.conn, uid)):
        return {"item_id": 0, "state": "online", "error": ""}
    item = under_way(txn, uid)
    if item is not None and (item["kind"] == RESTORE or item["state"] == State.IN_PROCESS.value):
        _hurry(txn, item, wish)
        return {"item_id": item["item_id"], "state": item["state"], "error": ""}
    if not is_held(txn.conn, uid):
        return {"item_id": 0, "state": "nowhere", "error": "no library has it"}
    if (failed := _failed_lately(txn, uid)) is not None and not wish.who:
        return {"item_id": failed["item_id"], "state": "failed", "error": failed["error"]}
    item_id = queue.schedule(txn, RESTORE, uid, int(study.generation), wish)
    if item is not None:
        queue.cancel_each(txn, [item], [f"item {item_id} brings it back"])
    return {"item_id": item_id, "state": State.SCHEDULED.value, "error": ""}


def _hurry(txn: Txn, item: sa.RowMapping, wish: Wish) -> None:
    values: dict[str, Any] = {}
    if wish.priority > item["priority"]:
        values["priority"] = int(wish.priority)
    if State(item["state"]) in WAITING and item["due_s"] > txn.now:
        values["due_s"] = txn.now
    if item["kind"] == RESTORE and wish.payload.get("touch", True) is not item["payload"].get(
        "touch", True
    ):
        values["payload"] = {**item["payload"], "touch": True}
    if values:
        change(txn, [item], [values])


def under_way(txn: Txn, study_uid: str) -> sa.RowMapping | None:
    """Return the item that brings a study back: one that runs, else one that waits."""
    found = find_where(
        txn.conn,
        work_items.c.study_uid == study_uid,
        work_items.c.kind.in_(KINDS),
        sa.or_(is_waiting, is_running),
    )
    found.sort(key=lambda item: (item["state"] != State.IN_PROCESS.value, item["kind"] != RESTORE))
    return found[0] if found else None


def is_away(conn: sa.Connection, study_uid: str) -> bool:
    """Whether instances of a study left the image tiers."""
    ours = sa.and_(studies.c.study_uid == study_uid, studies.c.offline_s > 0)
    query = sa.select(studies.c.study_uid).where(ours)
    return conn.execute(query).first() is not None or bool(_away(conn, study_uid))


def is_held(conn: sa.Connection, study_uid: str) -> bool:
    """Whether a library has a container of a study."""
    query = sa.select(containers.c.path).where(containers.c.study_uid == study_uid).limit(1)
    return conn.execute(query).first() is not None


def _failed_lately(txn: Txn, study_uid: str) -> sa.RowMapping | None:
    failed = find_where(
        txn.conn,
        work_items.c.study_uid == study_uid,
        work_items.c.kind == RESTORE,
        work_items.c.state == State.FAILED.value,
        work_items.c.finished_s > txn.now - FAILED_LATELY_S,
    )
    return failed[-1] if failed else None


def grown(conn: sa.Connection, limit: int) -> list[str]:
    """Return studies that grew while they were away, and for which no restore was made yet."""
    made = sa.exists().where(
        work_items.c.study_uid == studies.c.study_uid,
        work_items.c.kind == RESTORE,
        work_items.c.state.in_([*WAITING, State.IN_PROCESS, State.FAILED]),
    )
    query = (
        sa.select(studies.c.study_uid)
        .where(sa.text("studies.offline_s > 0 AND studies.sealed_s = 0"), ~made)
        .order_by(studies.c.offline_s)
        .limit(limit)
    )
    return list(conn.execute(query).scalars())


def items(conn: sa.Connection, limit: int) -> list[dict[str, Any]]:
    """Return the items that bring studies back, newest first."""
    names = ("item_id", "kind", "study_uid", "state", "priority", "error", "node", "created_s")
    query = (
        sa.select(*(work_items.c[name] for name in (*names, "finished_s", "payload")))
        .where(work_items.c.kind.in_(KINDS))
        .order_by(work_items.c.item_id.desc())
        .limit(limit)
    )
    return [dict(row) for row in conn.execute(query).mappings()]
