"""Making the index agree with what lies on the tiers: packs adopted and forgotten, sums made anew.

Used by ``raypacs index rebuild`` and ``reconcile`` while no node runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.index import attributes, audit, ledger, listing
from raypacs.index.engine import Txn, add, insert
from raypacs.index.items import bury, find_where, is_running, move_many
from raypacs.index.queue import again_or_fail, cancel_items
from raypacs.index.schema import (
    asides,
    copies,
    dead_attempts,
    delete_intents,
    instances,
    packs,
    series,
    studies,
    work_items,
)
from raypacs.policy.holding import LIBRARY
from raypacs.policy.kinds import PREPARE
from raypacs.policy.queue import WAITING, Event, State
from raypacs.records import PreparedSeries

Place = tuple[str, str]
"""(tier, path) of an object."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the index knows of a study's objects; of a sealed study's instances nothing."""

    instances: dict[Place, int]
    """Size in bytes."""
    packs: dict[Place, str]
    """Path of the header sidecar."""
    asides: frozenset[Place]
    series: dict[str, int]
    """Number of instances by series."""
    doomed: frozenset[Place]


def known(conn: sa.Connection, study_uid: str) -> Known:
    """Return what the index knows of a study's objects."""

    def places(table: sa.Table, *columns: sa.ColumnElement[Any]) -> list[Any]:
        query = sa.select(table.c.tier, *columns).where(table.c.study_uid == study_uid)
        return list(conn.execute(query).all())

    return Known(
        instances={
            (row[0], row[1]): row[2]
            for row in places(instances, instances.c.path, instances.c.size_bytes)
        },
        packs={
            (row[0], row[1]): row[2]
            for row in places(packs, packs.c.pack_path, packs.c.header_path)
        },
        asides=frozenset((row[0], row[1]) for row in places(asides, asides.c.path)),
        series={
            row[0]: row[1]
            for row in conn.execute(
                sa.select(series.c.series_uid, series.c.instance_count).where(
                    series.c.study_uid == study_uid
                )
            )
        },
        doomed=frozenset((row[0], row[1]) for row in places(delete_intents, delete_intents.c.path)),
    )


def all_asides(conn: sa.Connection) -> set[Place]:
    """Return the place of every object that is kept aside."""
    return {(row[0], row[1]) for row in conn.execute(sa.select(asides.c.tier, asides.c.path))}


def study_uids(conn: sa.Connection) -> set[str]:
    """Return every study that the index knows."""
    return set(conn.execute(sa.select(studies.c.study_uid)).scalars())


def knows(conn: sa.Connection, study_uid: str) -> bool:
    """Whether the index knows the study."""
    found = conn.execute(sa.select(studies.c.study_uid).where(studies.c.study_uid == study_uid))
    return found.first() is not None


def interrupt(txn: Txn) -> int:
    """Let every item that was worked on wait again, its try not counted; return how many.

    No node runs. What their attempts published is swept later, like any dead attempt's, unless it
    is adopted (:func:`adopt_pack`).
    """
    items = find_where(txn.conn, is_running)
    bury(txn, items)
    for item in items:
        why = "waits for another try: its node was down while the index was compared with the tiers"
        again_or_fail(txn, item, 0.0, why, token="", attempt=item["attempt"] - 1)
    return len(items)


def adopt_pack(txn: Txn, pack: PreparedSeries) -> None:
    """Serve a pack that was found whole; follow with :func:`recount_study`.

    Its attempt is dead no more: what it published would be swept.
    """
    txn.conn.execute(sa.delete(dead_attempts).where(dead_attempts.c.token == pack.token))
    txn.conn.execute(
        insert(txn.conn, packs)
        .values(
            tier=pack.tier,
            pack_path=pack.pack_path,
            study_uid=pack.study_uid,
            series_uid=pack.series_uid,
            token=pack.token,
            header_path=pack.header_path,
            pack_bytes=pack.pack_bytes,
            header_bytes=pack.header_bytes,
            instance_count=len(pack.instances),
            created_s=txn.now,
        )
        .on_conflict_do_nothing(index_elements=["tier", "pack_path"])
    )
    for one in pack.instances:
        txn.conn.execute(
            sa.update(instances)
            .where(
                instances.c.sop_instance_uid == one.sop_instance_uid,
                instances.c.study_uid == pack.study_uid,
                instances.c.form == "",
            )
            .values(
                form=one.form,
                reason=one.reason,
                pack_token=pack.token,
                raw_bytes=one.raw_bytes,
                prepared_bytes=one.prepared_bytes,
                prepared_transfer_syntax_uid=one.transfer_syntax_uid,
                lossless_proven=one.lossless_proven,
            )
        )
    detail = {"tier": pack.tier, "pack": pack.pack_path, "instances": len(pack.instances)}
    audit.record(txn, "pack adopted", study_uid=pack.study_uid, detail=detail)


def forget_pack(txn: Txn, study_uid: str, place: Place) -> None:
    """Let what a lost pack held be prepared again; follow with :func:`recount_study`."""
    ours = sa.and_(packs.c.tier == place[0], packs.c.pack_path == place[1])
    query = sa.select(packs.c.token, packs.c.series_uid).where(ours)
    token, series_uid = txn.conn.execute(query).one()
    txn.conn.execute(sa.delete(packs).where(ours))
    txn.conn.execute(
        sa.update(instances)
        .where(
            instances.c.study_uid == study_uid,
            instances.c.series_uid == series_uid,
            instances.c.pack_token == token,
        )
        .values(
            form="",
            reason="",
            pack_token="",
            raw_bytes=0,
            prepared_bytes=0,
            prepared_transfer_syntax_uid="",
            lossless_proven=False,
        )
    )
    detail = {"tier": place[0], "pack": place[1]}
    audit.record(txn, "pack lost", study_uid=study_uid, detail=detail)


def forget_instances(txn: Txn, study_uid: str, lost: Mapping[str, Place]) -> None:
    """Forget instances, by SOP Instance UID, whose bytes are gone; follow with a recount."""
    for uid, (tier, path) in lost.items():
        txn.conn.execute(
            sa.delete(instances).where(
                instances.c.sop_instance_uid == uid,
                instances.c.study_uid == study_uid,
                instances.c.tier == tier,
                instances.c.path == path,
            )
        )
    if lost:
        detail = {"instances": len(lost), "tiers": sorted({tier for tier, _ in lost.values()})}
        audit.record(txn, "instances lost", study_uid=study_uid, detail=detail)


def leave(txn: Txn, study_uid: str, *, instances_lost: int) -> bool:
    """Let a study leave the index that has no instance and no pack (left); False if it has.

    What is kept aside of it stays listed.
    """
    for table in (instances, packs):
        rest = sa.select(sa.literal(1)).select_from(table).where(table.c.study_uid == study_uid)
        if txn.conn.execute(rest.limit(1)).first() is not None:
            return False
    cancel_items(txn, study_uid, "the study was lost")
    listing.unlist(txn.conn, [study_uid])
    ours = series.c.study_uid == study_uid
    count = txn.conn.execute(sa.select(sa.func.count()).where(ours)).scalar_one()
    for table in (series, copies, studies):
        txn.conn.execute(sa.delete(table).where(table.c.study_uid == study_uid))
    detail = {"series": int(count), "instances": instances_lost}
    audit.record(txn, "lost", study_uid=study_uid, detail=detail)
    return True


def recount_study(txn: Txn, study_uid: str) -> None:
    """Make the sums, copies and state of an open study anew from its rows."""
    ours = instances.c.study_uid == study_uid
    prepared, coded = instances.c.form != "", ~instances.c.form.in_(("", "copied"))
    proven = sa.and_(coded, instances.c.lossless_proven)
    row = txn.conn.execute(
        sa.select(
            sa.func.count().label("instance_count"),
            _sum(instances.c.size_bytes).label("size_bytes"),
            _sum(sa.case((prepared, 1), else_=0)).label("prepared_count"),
            _sum(sa.case((coded, 1), else_=0)).label("transcoded_count"),
            _sum(sa.case((proven, 1), else_=0)).label("proven_count"),
            _sum(instances.c.raw_bytes).label("raw_bytes"),
        ).where(ours)
    ).one()
    sums = {name: int(value) for name, value in row._mapping.items()}
    sums["prepared_bytes"] = int(
        txn.conn.execute(
            sa.select(_sum(packs.c.pack_bytes + packs.c.header_bytes)).where(
                packs.c.study_uid == study_uid
            )
        ).scalar_one()
    )
    done = sums["instance_count"] == sums["prepared_count"]
    state = {
        "state": "prepared" if done else "received",
        "prepare_due_s": None if done else txn.now,
    }
    if done:
        state["prepared_s"] = txn.now
    txn.conn.execute(
        sa.update(studies).where(studies.c.study_uid == study_uid).values(**sums, **state)
    )
    if done:
        _settle(txn, study_uid)
    _recount_series(txn, study_uid)
    _drop_empty_series(txn, study_uid)
    _recount_copies(txn, study_uid)


def _drop_empty_series(txn: Txn, study_uid: str) -> None:
    """Let series leave of which nothing is left, neither an instance nor a pack."""
    held = sa.exists().where(
        packs.c.study_uid == series.c.study_uid, packs.c.series_uid == series.c.series_uid
    )
    ours = series.c.study_uid == study_uid
    empty = sa.and_(ours, series.c.instance_count == 0, series.c.manifest_path == "", ~held)
    if txn.conn.execute(sa.select(series.c.series_uid).where(empty).limit(1)).first() is None:
        return
    listing.unlist(txn.conn, [study_uid])  # by its modalities, too
    txn.conn.execute(sa.delete(series).where(empty))
    left = txn.conn.execute(sa.select(series.c.modality).where(ours)).scalars().all()
    txn.conn.execute(
        sa.update(studies)
        .where(studies.c.study_uid == study_uid)
        .values(series_count=len(left), modalities=attributes.joined(set(left)))
    )
    listing.enlist(txn.conn, [study_uid])


def _settle(txn: Txn, study_uid: str) -> None:
    """Cancel what waits, or had failed, to prepare a study that is prepared."""
    items = find_where(
        txn.conn,
        work_items.c.kind == PREPARE,
        work_items.c.study_uid == study_uid,
        work_items.c.state.in_([*WAITING, State.FAILED]),
    )
    why = {"error": "everything was found prepared on the tiers"}
    move_many(txn, items, Event.CANCEL, [why] * len(items))


def _sum(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _recount_series(txn: Txn, study_uid: str) -> None:
    ours = sa.and_(
        instances.c.study_uid == series.c.study_uid, instances.c.series_uid == series.c.series_uid
    )
    count = sa.select(sa.func.count()).select_from(instances).where(ours)
    size = sa.select(_sum(instances.c.size_bytes)).where(ours)
    txn.conn.execute(
        sa.update(series)
        .where(series.c.study_uid == study_uid)
        .values(instance_count=count.scalar_subquery(), size_bytes=size.scalar_subquery())
    )


def _recount_copies(txn: Txn, study_uid: str) -> None:
    found: dict[str, dict[str, Any]] = {}
    generation = txn.conn.execute(
        sa.select(studies.c.generation).where(studies.c.study_uid == study_uid)
    ).scalar_one()
    for table, objects, size in (
        (instances, sa.func.count(), _sum(instances.c.size_bytes)),
        (packs, _sum(packs.c.instance_count), _sum(packs.c.pack_bytes + packs.c.header_bytes)),
    ):
        query = sa.select(table.c.tier, objects, size).where(
            table.c.study_uid == study_uid,
            table.c.tier != "",  # it lies nowhere but in libraries
        )
        for tier, count, size_bytes in txn.conn.execute(query.group_by(table.c.tier)):
            row = found.setdefault(
                tier,
                {
                    "study_uid": study_uid,
                    "tier": tier,
                    "objects": 0,
                    "size_bytes": 0,
                    "generation": generation,
                    "created_s": txn.now,
                },
            )
            row["objects"] += int(count)
            row["size_bytes"] += int(size_bytes)
    gone = sa.and_(
        copies.c.study_uid == study_uid,
        copies.c.tier.not_in(list(found)),
        copies.c.hold != LIBRARY,
    )
    txn.conn.execute(sa.delete(copies).where(gone))
    add(txn.conn, copies, list(found.values()), counters=[], replace=["objects", "size_bytes"])


def doom(txn: Txn, study_uid: str, objects: Iterable[Place], *, due_s: float) -> None:
    """Let objects be deleted that nothing refers to and the ledger does not count."""
    rows = [
        {
            "study_uid": study_uid,
            "tier": place[0],
            "path": place[1],
            "size_bytes": 0,
            "due_s": due_s,
            "epoch": txn.epoch,
        }
        for place in objects
    ]
    if rows:
        txn.conn.execute(sa.insert(delete_intents), rows)


def recount_ledger(txn: Txn) -> dict[str, int]:
    """Make the bytes used per tier anew from the rows; return by how much each was wrong."""
    used = ledger.recount(txn.conn)
    kept = {name: row.used_bytes for name, row in ledger.read(txn.conn).items()}
    wrong = {name: kept.get(name, 0) - used.get(name, 0) for name in {*used, *kept}}
    wrong = {name: size_bytes for name, size_bytes in wrong.items() if size_bytes}
    ledger.commit(txn, {name: -size_bytes for name, size_bytes in wrong.items()})
    return wrong
