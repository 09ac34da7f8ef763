"""Sealing: the instances of a prepared study that stays as it is leave for manifests.

    open (a row per instance)  -- seal -->  sealed (series.manifest_path)  -- reopen -->  open

What a study is, where it lies and what it takes stays the same; only the rows of its instances go.
The bytes of a manifest are durable before its rows are deleted, and its path is a delete intent
until then, so that a crash leaves no object that nobody knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.errors import StudySealed
from raypacs.index import adopted, audit, evicting, ledger
from raypacs.index.engine import Txn, in_lists, insert, insert_many
from raypacs.index.schema import (
    asides,
    copies,
    delete_intents,
    instances,
    packs,
    series,
    studies,
    work_items,
)
from raypacs.index.web_evicting import UNPREPARED
from raypacs.policy.queue import WAITING, State
from raypacs.records import Outcome

Row = dict[str, Any]

# Literally as in the index over them, which is not used otherwise.
_UNSEALED = sa.text("studies.state = 'prepared' AND studies.sealed_s = 0")
_ASIDE = (
    *("tier", "path", "size_bytes", "source", "received_at_s"),
    *("study_uid", "sop_instance_uid", "sha256"),
)
_TAKEN = "another object with this SOP Instance UID was stored while this one's study was sealed"


@dataclass(frozen=True, slots=True)
class ManifestRef:
    """Where the manifest of a sealed series lies."""

    study_uid: str
    series_uid: str
    tier: str
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sealing:
    """A study on its way: its instances by series, and the manifests written for them."""

    study_uid: str
    rows: dict[str, list[Row]]
    manifests: tuple[ManifestRef, ...]
    forced: bool = False
    """Also of a study that is not prepared: it is to be archived or moved."""


def due(
    conn: sa.Connection, now: float, after_s: float, *, limit: int, without: Collection[str]
) -> list[str]:
    """Return prepared studies that have stayed as they are for ``after_s``, the oldest first."""
    busy = sa.exists().where(
        work_items.c.study_uid == studies.c.study_uid,
        work_items.c.state.in_([*WAITING, State.IN_PROCESS]),
    )
    found = conn.execute(
        sa.select(studies.c.study_uid)
        .where(
            _UNSEALED,
            studies.c.last_received_s <= now - after_s,
            studies.c.prepared_s <= now - after_s,
            # Not by the index over this column: nearly all studies are NULL in it.
            sa.func.coalesce(studies.c.prepare_due_s, -1.0) < 0,
            ~busy,
        )
        .order_by(studies.c.last_received_s)
        .limit(limit + len(without))
    ).scalars()
    return [uid for uid in found if uid not in without][:limit]


def rows(conn: sa.Connection, study_uid: str) -> dict[str, list[Row]]:
    """Return the rows of a study's instances by series, in the order that readers give them."""
    found: dict[str, list[Row]] = {}
    query = (
        sa.select(instances)
        .where(instances.c.study_uid == study_uid)
        .order_by(instances.c.series_uid, instances.c.instance_number, instances.c.sop_instance_uid)
    )
    for row in conn.execute(query).mappings():
        found.setdefault(row["series_uid"], []).append(dict(row))
    return found


def described(conn: sa.Connection, study_uid: str) -> dict[str, dict[str, str]]:
    """Return the attributes of each series of a study, by keyword, with those of the study."""
    query = (
        sa.select(series.c.series_uid, studies.c.attributes, series.c.attributes)
        .select_from(series.join(studies, studies.c.study_uid == series.c.study_uid))
        .where(series.c.study_uid == study_uid)
    )
    return {row[0]: {**row[1], **row[2]} for row in conn.execute(query)}


def plan(txn: Txn, refs: Iterable[ManifestRef], *, due_s: float) -> None:
    """Let manifests that are about to be written be deleted, unless they are sealed by then."""
    insert_many(txn.conn, delete_intents, [_intent(txn, ref, 0, due_s) for ref in refs])


def seal(txn: Txn, sealing: Sealing) -> bool:
    """Let the manifests take the place of the rows; False where the study changed meanwhile."""
    uid = sealing.study_uid
    ours = studies.c.study_uid == uid
    unsealed = studies.c.sealed_s == 0 if sealing.forced else _UNSEALED
    study = txn.conn.execute(sa.select(studies.c.prepare_due_s).where(unsealed, ours)).one_or_none()
    if study is None or study.prepare_due_s is not None:
        return False
    if rows(txn.conn, uid) != sealing.rows or not _take_over(txn, sealing):
        return False
    for ref in sealing.manifests:
        txn.conn.execute(
            sa.update(series)
            .where(series.c.study_uid == uid, series.c.series_uid == ref.series_uid)
            .values(manifest_tier=ref.tier, manifest_path=ref.path, manifest_bytes=ref.size_bytes)
        )
        ledger.commit(txn, {ref.tier: ref.size_bytes})
    txn.conn.execute(sa.delete(instances).where(instances.c.study_uid == uid))
    txn.conn.execute(sa.update(studies).where(ours).values(sealed_s=txn.now))
    detail = {
        "series": len(sealing.manifests),
        "instances": sum(map(len, sealing.rows.values())),
        "size_bytes": sum(ref.size_bytes for ref in sealing.manifests),
    }
    audit.record(txn, "sealed", study_uid=uid, detail=detail)
    return True


def _take_over(txn: Txn, sealing: Sealing) -> bool:
    """Take back the delete intents of the manifests; False if they are not all there any more."""
    paths = [ref.path for ref in sealing.manifests]
    count = 0
    for some in in_lists(paths):
        gone = txn.conn.execute(
            sa.delete(delete_intents).where(
                delete_intents.c.study_uid == sealing.study_uid, delete_intents.c.path.in_(some)
            )
        )
        count += gone.rowcount
    if count == len(paths):
        return True
    # Whatever is left of them goes as it came.
    plan(txn, sealing.manifests, due_s=txn.now)
    return False


def _intent(txn: Txn, ref: ManifestRef, size_bytes: int, due_s: float) -> Row:
    return {
        "study_uid": ref.study_uid,
        "tier": ref.tier,
        "path": ref.path,
        "size_bytes": size_bytes,
        "due_s": due_s,
        "epoch": txn.epoch,
    }


def manifests(conn: sa.Connection, study_uid: str, series_uid: str = "") -> list[ManifestRef]:
    """Return where the manifests of a study (or of one of its series) lie; [] for an open one."""
    query = (
        sa.select(
            series.c.study_uid,
            series.c.series_uid,
            series.c.manifest_tier,
            series.c.manifest_path,
            series.c.manifest_bytes,
        )
        .where(series.c.study_uid == study_uid, series.c.manifest_path != "")
        .order_by(series.c.series_uid)
    )
    if series_uid:
        query = query.where(series.c.series_uid == series_uid)
    return [ManifestRef(*row) for row in conn.execute(query)]


def check_open(conn: sa.Connection, study_uids: Iterable[str]) -> None:
    """Raise StudySealed if one of the studies is sealed."""
    found: list[str] = []
    for uids in in_lists(set(study_uids)):
        found += conn.execute(
            sa.select(studies.c.study_uid).where(
                studies.c.study_uid.in_(uids), studies.c.sealed_s > 0
            )
        ).scalars()
    if found:
        raise StudySealed(f"{len(found)} studies are sealed", study_uids=found)


def reopen(txn: Txn, study_uid: str, told: Mapping[str, Sequence[Row]], *, grace_s: float) -> bool:
    """Make rows again of a sealed study; ``told``: path of each manifest to its instances.

    The manifests are deleted after ``grace_s``. False where others than these are in force.
    """
    refs = manifests(txn.conn, study_uid)
    if {ref.path for ref in refs} != set(told):
        return False
    # What left and of which no byte went yet stays: the study grows, so its proof is of no use.
    evicting.take_back(txn, study_uid, "it was opened again")
    away = evicting.gone_paths(txn.conn, study_uid)
    others = adopted.tiers(txn.conn)
    # A manifest of an earlier version has fewer columns.
    every = [
        _away({"peer": "", **row}, others) if ref.path in away else {"peer": "", **row}
        for ref in refs
        for row in told[ref.path]
    ]
    # What left a tier with its copy lies nowhere but in libraries.
    ours = copies.c.study_uid == study_uid
    held = set(txn.conn.execute(sa.select(copies.c.tier).where(ours)).scalars())
    every = [row if row["tier"] in held else {**row, "tier": ""} for row in every]
    # What a pack held that left the web cache is to be prepared again.
    tokens = set(
        txn.conn.execute(sa.select(packs.c.token).where(packs.c.study_uid == study_uid)).scalars()
    )
    every = [
        row if not row["form"] or row["pack_token"] in tokens else {**row, **UNPREPARED}
        for row in every
    ]
    taken = _taken(txn.conn, every)
    insert_many(txn.conn, instances, [r for r in every if r["sop_instance_uid"] not in taken])
    for row in every:
        if row["sop_instance_uid"] in taken:
            _put_aside(txn, row)
    insert_many(
        txn.conn,
        delete_intents,
        [_intent(txn, ref, ref.size_bytes, txn.now + grace_s) for ref in refs],
    )
    txn.conn.execute(
        sa.update(series)
        .where(series.c.study_uid == study_uid)
        .values(manifest_tier="", manifest_path="", manifest_bytes=0)
    )
    txn.conn.execute(
        sa.update(studies).where(studies.c.study_uid == study_uid).values(sealed_s=0.0)
    )
    detail = {"series": len(refs), "instances": len(every), "aside": len(taken)}
    audit.record(txn, "reopened", study_uid=study_uid, detail=detail)
    return True


def _away(row: Row, others: Collection[str]) -> Row:
    """Return the row of an instance that left the image tiers; adopted ones never leave."""
    return row if row["tier"] in others else {**row, "tier": ""}


def _taken(conn: sa.Connection, told: Iterable[Row]) -> set[str]:
    """Return the SOP Instance UIDs that are served from elsewhere by now."""
    found: set[str] = set()
    for uids in in_lists(row["sop_instance_uid"] for row in told):
        found |= set(
            conn.execute(
                sa.select(instances.c.sop_instance_uid).where(
                    instances.c.sop_instance_uid.in_(uids)
                )
            ).scalars()
        )
    return found


def _put_aside(txn: Txn, row: Row) -> None:
    """Keep an instance aside whose UID another study has by now: its bytes stay, and are listed."""
    txn.conn.execute(
        insert(txn.conn, asides)
        .values(
            outcome=Outcome.CONFLICT.value,
            reason=_TAKEN,
            **{name: row[name] for name in _ASIDE},
        )
        .on_conflict_do_nothing(index_elements=["tier", "path"])
    )
    ours = studies.c.study_uid == row["study_uid"]
    theirs = sa.and_(
        series.c.study_uid == row["study_uid"], series.c.series_uid == row["series_uid"]
    )
    for table, where in ((studies, ours), (series, theirs)):
        txn.conn.execute(
            sa.update(table)
            .where(where)
            .values(
                instance_count=table.c.instance_count - 1,
                size_bytes=table.c.size_bytes - row["size_bytes"],
            )
        )
    txn.conn.execute(
        sa.update(studies).where(ours).values(prepared_count=studies.c.prepared_count - 1)
    )
    txn.conn.execute(
        sa.update(copies)
        .where(copies.c.study_uid == row["study_uid"], copies.c.tier == row["tier"])
        .values(objects=copies.c.objects - 1, size_bytes=copies.c.size_bytes - row["size_bytes"])
    )
    audit.record(
        txn,
        Outcome.CONFLICT.value,
        study_uid=row["study_uid"],
        detail={
            "sop_instance_uid": row["sop_instance_uid"],
            "tier": row["tier"],
            "path": row["path"],
            "reason": _TAKEN,
        },
    )
