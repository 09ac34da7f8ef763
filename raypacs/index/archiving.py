"""Containers of libraries, and when a library copy counts as proven.

A library copy is proven for a generation of its study when each series has a container that was
read back whole, is not damaged, and has exactly the instances that the series has. Only then do
older containers of it go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.index import audit, holds, ledger, planned, queue
from raypacs.index.engine import Txn, insert, insert_many
from raypacs.index.items import clean, current, stale
from raypacs.index.queue import Wish
from raypacs.index.schema import containers, copies, delete_intents, series, studies
from raypacs.policy.archiving import ARCHIVE, ORDERED
from raypacs.policy.holding import LIBRARY
from raypacs.policy.queue import Priority
from raypacs.records import ArchivedSeries, CheckedContainer, Lease, WorkResult

SUPERSEDED_S = 3600.0
"""So long an older container stays: who restores from it may finish."""

Place = tuple[str, str]
_BASE = "manifest_path"


def take_over(txn: Txn, lease: Lease, result: WorkResult) -> None:
    """Register containers that an attempt wrote and read back; note what VERIFY found of others.

    Planned objects (``planned``) of them stay; a library copy that has every instance of the
    study's current generation becomes ``archive_proven``.

    Raises:
        StaleLease: they are of another study.
    """
    add(txn, lease, result.archived)
    checked(txn, lease.study_uid, result.checked, lease.node)


def taken_over(conn: sa.Connection, lease: Lease, archived: Sequence[ArchivedSeries]) -> bool:
    """Whether all containers that this attempt wrote are registered already."""
    ours = {(one.tier, one.path) for one in archived if one.token == lease.token}
    known = sa.select(containers.c.tier, containers.c.path).where(
        containers.c.study_uid == lease.study_uid, containers.c.token == lease.token
    )
    return bool(ours) and ours <= {(row[0], row[1]) for row in conn.execute(known)}


def archived(txn: Txn, lease: Lease, told: Sequence[ArchivedSeries]) -> None:
    """Register containers while their attempt goes on. Raises StaleLease."""
    current(txn, lease)
    add(txn, lease, told)


def add(txn: Txn, lease: Lease, told: Sequence[ArchivedSeries]) -> None:
    """Register containers, or note that those that are there have all instances of today."""
    if not told:
        return
    if any(one.study_uid != lease.study_uid for one in told):
        raise stale(lease, "it reports a container of another study")
    ours = studies.c.study_uid == lease.study_uid
    generation = txn.conn.execute(sa.select(studies.c.generation).where(ours)).scalar()
    if generation is None:
        return  # deleted meanwhile; what was planned goes
    known = {(row["tier"], row["path"]) for row in _rows(txn.conn, lease.study_uid)}
    before = _series(txn.conn, lease.study_uid)
    for one in told:
        place = (one.tier, one.path)
        of = _generation(lease, one, before, int(generation))
        if place in known:
            if of == generation:
                _change(txn, place, generation=of)
        elif planned.counts(txn, lease, [place]):
            _insert(txn, lease, one, of)
    for tier in sorted({one.tier for one in told}):
        prove(txn, lease.study_uid, tier, node=lease.node, item_id=lease.item_id)


def _generation(
    lease: Lease, one: ArchivedSeries, before: Mapping[str, Any], generation: int
) -> int:
    """Return the generation of which a container has all instances of its series.

    Manifests never change, so one that is in force says what there is today. Where another took
    its place, the study may have moved; but a generation only ever grows.
    """
    row = before.get(one.series_uid)
    whole = row is not None and row["instance_count"] == one.instance_count
    if whole and (lease.generation == generation or before[one.series_uid][_BASE] == one.based_on):
        return generation
    return min(lease.generation, generation - 1)


def _insert(txn: Txn, lease: Lease, one: ArchivedSeries, generation: int) -> None:
    row = {
        "tier": one.tier,
        "path": one.path,
        "study_uid": one.study_uid,
        "series_uid": one.series_uid,
        "token": one.token,
        "form": one.form,
        "sha256": one.sha256,
        "size_bytes": one.size_bytes,
        "instance_count": one.instance_count,
        "generation": generation,
        "created_s": txn.now,
        "verified_s": txn.now,
        "damaged": "",
    }
    txn.conn.execute(sa.insert(containers).values(row))
    sizes = {one.tier: one.size_bytes}
    ledger.spend(txn, planned.holder(lease), sizes)
    ledger.commit(txn, sizes)


def checked(
    txn: Txn, study_uid: str, told: Sequence[CheckedContainer], node: str, *, again: bool = True
) -> None:
    """Note what reading containers whole showed; what is damaged is archived ``again``."""
    if not told:
        return
    known = {(row["tier"], row["path"]): row for row in _rows(txn.conn, study_uid)}
    damaged = False
    for one in told:
        row = known.get((one.tier, one.path))
        if row is None:
            continue  # replaced or deleted meanwhile
        why = clean(one.why)
        if why != row["damaged"]:
            event = "container damaged" if why else "container whole again"
            detail = {"tier": one.tier, "path": one.path, "why": why or row["damaged"]}
            audit.record(txn, event, study_uid=study_uid, node=node, detail=detail)
        damaged = damaged or bool(why)
        found: dict[str, Any] = {"damaged": why} if why else {"damaged": "", "verified_s": txn.now}
        _change(txn, (one.tier, one.path), **found)
    for tier in sorted({one.tier for one in told}):
        prove(txn, study_uid, tier, node=node)
    if damaged and again:
        _archive_again(txn, study_uid)


def _archive_again(txn: Txn, study_uid: str) -> None:
    ours = studies.c.study_uid == study_uid
    study = txn.conn.execute(sa.select(studies.c.generation).where(ours)).scalar()
    if study is not None:
        wish = Wish(
            Priority.MEDIUM, payload={"by": ORDERED}, rule="a container of a library is damaged"
        )
        queue.enqueue(txn, ARCHIVE, study_uid, int(study), wish)


def prove(txn: Txn, study_uid: str, tier: str, *, node: str = "", item_id: int = 0) -> bool:
    """Say whether a library has all of a study as it is now; keep it with the copy.

    Then older and damaged containers of it there are deleted, after a while.
    """
    ours = studies.c.study_uid == study_uid
    generation = txn.conn.execute(sa.select(studies.c.generation).where(ours)).scalar()
    rows = [row for row in _rows(txn.conn, study_uid) if row["tier"] == tier]
    if generation is None:
        return False
    chosen = _chosen(rows, _series(txn.conn, study_uid), int(generation))
    before = _copy(txn.conn, study_uid, tier)
    if not rows:
        _drop_copy(txn, study_uid, tier)
    else:
        if chosen:
            _supersede(txn, study_uid, [row for row in rows if row not in chosen])
        _keep_copy(txn, study_uid, tier, chosen or rows, int(generation), before, bool(chosen))
    was = before is not None and before["archive_proven"]
    told: dict[str, Any] = {"study_uid": study_uid, "node": node, "item_id": item_id}
    if chosen and not (was and before and before["generation"] == generation):
        detail = {
            "tier": tier,
            "series": len(chosen),
            "size_bytes": sum(row["size_bytes"] for row in chosen),
            "form": ", ".join(sorted({row["form"] for row in chosen})),
            "generation": int(generation),
        }
        audit.record(txn, "archived", **told, detail=detail)
        event = {"event": "archived", "study_uid": study_uid, "tier": tier, "node": node}
        bytes_in = {"objects": len(chosen), "bytes_in": detail["size_bytes"]}
        audit.publish(txn, "events", [event | bytes_in])
    elif was and not chosen and before and before["generation"] == generation:
        audit.record(txn, "archive not proven", **told, detail={"tier": tier})
    holds.refresh(txn, [study_uid])
    return bool(chosen)


def _chosen(
    rows: Sequence[Mapping[str, Any]], of_study: Mapping[str, Any], generation: int
) -> list[Mapping[str, Any]]:
    """Return a container for each series of a study; [] where one has none to rely on."""
    good: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda one: one["created_s"]):
        wanted = of_study.get(row["series_uid"])
        unread = row["damaged"] or not row["verified_s"]
        if wanted is None or unread or row["generation"] != generation:
            continue
        if row["instance_count"] == wanted["instance_count"]:
            good[row["series_uid"]] = row
    complete = good.keys() == of_study.keys()
    return list(good.values()) if complete else []


def _series(conn: sa.Connection, study_uid: str) -> dict[str, Any]:
    """Return the series of a study that have instances."""
    query = sa.select(series.c.series_uid, series.c.instance_count, series.c.manifest_path).where(
        series.c.study_uid == study_uid, series.c.instance_count > 0
    )
    return {row["series_uid"]: row for row in conn.execute(query).mappings()}


def _rows(conn: sa.Connection, study_uid: str) -> list[Mapping[str, Any]]:
    query = sa.select(containers).where(containers.c.study_uid == study_uid)
    return [dict(row) for row in conn.execute(query).mappings()]


def _change(txn: Txn, place: Place, **values: Any) -> None:
    ours = sa.and_(containers.c.tier == place[0], containers.c.path == place[1])
    txn.conn.execute(sa.update(containers).where(ours).values(**values))


def _supersede(txn: Txn, study_uid: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Let containers be deleted that another took the place of; bytes count until they are."""
    going = list(rows)
    insert_many(
        txn.conn,
        delete_intents,
        [
            {
                "study_uid": study_uid,
                "tier": row["tier"],
                "path": row["path"],
                "size_bytes": row["size_bytes"],
                "due_s": txn.now + SUPERSEDED_S,
                "epoch": txn.epoch,
            }
            for row in going
        ],
    )
    for row in going:
        ours = sa.and_(containers.c.tier == row["tier"], containers.c.path == row["path"])
        txn.conn.execute(sa.delete(containers).where(ours))
        detail = {"tier": row["tier"], "path": row["path"], "damaged": row["damaged"]}
        audit.record(txn, "container replaced", study_uid=study_uid, detail=detail)


def _copy(conn: sa.Connection, study_uid: str, tier: str) -> sa.RowMapping | None:
    query = sa.select(copies).where(copies.c.study_uid == study_uid, copies.c.tier == tier)
    return conn.execute(query).mappings().one_or_none()


def _drop_copy(txn: Txn, study_uid: str, tier: str) -> None:
    ours = sa.and_(copies.c.study_uid == study_uid, copies.c.tier == tier)
    txn.conn.execute(sa.delete(copies).where(ours))


def _keep_copy(
    txn: Txn,
    study_uid: str,
    tier: str,
    rows: Sequence[Mapping[str, Any]],
    generation: int,
    before: sa.RowMapping | None,
    proven: bool,
) -> None:
    held = before is not None and before["archive_proven"] and before["generation"] == generation
    values = {
        "objects": sum(row["instance_count"] for row in rows),
        "size_bytes": sum(row["size_bytes"] for row in rows),
        "generation": generation if proven else max(row["generation"] for row in rows),
        "archive_proven": proven,
        "proven_s": (before["proven_s"] if before and held else txn.now) if proven else 0.0,
        "verified_s": min(row["verified_s"] for row in rows),
        "hold": LIBRARY,
    }
    keys = {"study_uid": study_uid, "tier": tier, "created_s": txn.now}
    txn.conn.execute(
        insert(txn.conn, copies)
        .values(**keys, **values)
        .on_conflict_do_update(index_elements=["study_uid", "tier"], set_=values)
    )
