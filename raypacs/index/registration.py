"""What arrives: instances, conflicts and quarantined objects become rows.

The first instance registered under a SOP Instance UID wins. The same data set again (equal
sha256 and transfer syntax) is KNOWN; other bytes are a CONFLICT. All of it is decided in the
transaction that writes it. Registering the same record (tier and path) again changes nothing, so
a caller that did not hear the answer may ask again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.index import (
    attributes,
    audit,
    deletion,
    holds,
    judging,
    ledger,
    listing,
    sealing,
    settings,
    web_evicting,
)
from raypacs.index.deciding import Batch, decide
from raypacs.index.engine import Txn, add, changes, in_lists, insert, insert_many
from raypacs.index.schema import asides, copies, instances, series, sources, studies
from raypacs.records import AsideRecord, InstanceRecord, Outcome, Registered

ANOTHER_ACCESS_S = 600.0
"""Seconds after which a study that is opened again counts once more in the statistics."""
CONFLICT_REASON = "another object with this SOP Instance UID and other bytes is served"


def register(
    txn: Txn,
    records: Sequence[InstanceRecord],
    *,
    holder: str,
    due_s: float | None,
    adopted: bool = False,
    made: bool = False,
) -> list[Registered]:
    """Register a batch; answers in the order of ``records``.

    ``due_s``: when the studies count as quiet (None: nothing of this is to be prepared by itself).
    What was ``adopted`` is no intake of its tier; what raypacs ``made`` itself nobody sent.

    Raises:
        StudySealed: a study of the batch must be reopened first; nothing was registered.
    """
    sealing.check_open(txn.conn, (record.study_uid for record in records))
    batch = Batch()
    answers = decide(txn.conn, records, batch)
    for conflict in batch.conflicts:
        aside(txn, AsideRecord.conflict(conflict, CONFLICT_REASON), holder=holder)
    if batch.new:
        _write(txn, batch.new, due_s, adopted=adopted, made=made)
    ledger.spend(txn, holder, batch.spent)
    known = [
        record
        for record, answer in zip(records, answers, strict=True)
        if answer.outcome is Outcome.KNOWN
    ]
    judging.other_senders(txn, known)
    return answers


def _write(
    txn: Txn, new: list[InstanceRecord], due_s: float | None, *, adopted: bool, made: bool
) -> None:
    current = settings.read(txn.conn)[1]
    by_study: dict[str, list[InstanceRecord]] = {}
    for record in new:
        by_study.setdefault(record.study_uid, []).append(record)
    generations, relisted = _write_studies(txn, by_study, due_s, current, made=made)
    relisted |= _write_series(txn, new)
    listing.enlist(txn.conn, relisted)
    insert_many(txn.conn, instances, [_row(r, generations[r.study_uid]) for r in new])
    _write_copies(txn, new, generations, is_intake=not adopted)
    _write_sources(txn, new)
    audit.record_many(
        txn,
        "received",
        [
            {
                "study_uid": uid,
                "detail": {
                    "generation": generations[uid],
                    "objects": len(records),
                    "size_bytes": sum(r.size_bytes for r in records),
                    "sources": sorted({r.source for r in records}),
                },
            }
            for uid, records in by_study.items()
        ],
    )
    audit.publish(txn, "events", _arrivals(new))
    holds.refresh(txn, by_study, current)


def _write_studies(
    txn: Txn,
    by_study: dict[str, list[InstanceRecord]],
    due_s: float | None,
    current: Settings,
    *,
    made: bool,
) -> tuple[dict[str, int], set[str]]:
    """Insert or grow the studies.

    Returns:
        The generation of each after this batch, and which are new in the list or moved in it.
    """
    known = _known_studies(txn.conn, by_study)
    generations: dict[str, int] = {}
    created: list[dict[str, Any]] = []
    grown: list[dict[str, Any]] = []
    for uid, records in by_study.items():
        first = known.get(uid)
        generations[uid] = 1 if first is None else first.generation + 1
        described: dict[str, str] = {}
        for record in records:
            described = {**attributes.of_study(record.attributes), **described}
        if first is not None:
            described = {**described, **first.attributes}
        row = {
            "study_uid": uid,
            **_study_columns(described),
            "generation": generations[uid],
            "instance_count": len(records),
            "size_bytes": sum(record.size_bytes for record in records),
            "last_received_s": txn.now,
            "prepare_due_s": due_s,
            "state": "received",
        }
        asked_s = txn.now if due_s is None else due_s
        row |= judging.on_arrival(txn, records, first, current, due_s=asked_s, made=made)
        if first is None:
            born = {"created_s": txn.now, "accessed_s": txn.now, "source": records[0].source}
            created.append({**row, **born})
        else:
            if due_s is None:  # what came otherwise is to be prepared all the same
                row["prepare_due_s"] = first.prepare_due_s
            grown.append({**row, "list_no": first.list_no})
    moved = [row for row in grown if _is_moved(row, known[row["study_uid"]])]
    listing.unlist(txn.conn, [row["study_uid"] for row in moved])
    listed = created + moved
    places = listing.places(txn.conn, [row["study_date"] for row in listed])
    for row, place in zip(listed, places, strict=True):
        row["list_no"] = place
    insert_many(txn.conn, studies, created)
    _grow_studies(txn.conn, grown)
    judging.tell_approved(txn, by_study, known)
    return generations, {row["study_uid"] for row in listed}


def _known_studies(conn: sa.Connection, uids: Iterable[str]) -> dict[str, Any]:
    names = ("study_uid", "generation", "attributes", "list_no", "study_date", "prepare_due_s")
    more = ("patient_name_folded", "origins", "status", "status_s")
    columns = [studies.c[name] for name in (*names, *more)]
    known: dict[str, Any] = {}
    for some in in_lists(uids):
        found = conn.execute(sa.select(*columns).where(studies.c.study_uid.in_(some)))
        known |= {row.study_uid: row for row in found}
    return known


def _is_moved(row: dict[str, Any], before: Any) -> bool:
    """Whether a later instance told what the list goes by, and the first did not."""
    return bool(
        row["study_date"] != before.study_date
        or row["patient_name_folded"] != before.patient_name_folded
    )


def _study_columns(described: dict[str, str]) -> dict[str, Any]:
    return {
        "attributes": described,
        "patient_id": described.get("PatientID", ""),
        "patient_name_folded": attributes.fold_name(described.get("PatientName", "")),
        "study_date": listing.date_of(described.get("StudyDate", "")),
        "accession_number": described.get("AccessionNumber", ""),
    }


def _grow_studies(conn: sa.Connection, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    values: dict[str, Any] = {
        name: sa.bindparam(f"new_{name}", type_=studies.c[name].type)
        for name in rows[0]
        if name != "study_uid"
    }
    for name in ("instance_count", "size_bytes"):
        values[name] = studies.c[name] + values[name]
    conn.execute(
        sa.update(studies)
        .where(studies.c.study_uid == sa.bindparam("new_study_uid"))
        .values(values),
        [{f"new_{name}": value for name, value in row.items()} for row in rows],
    )


def _write_series(txn: Txn, new: list[InstanceRecord]) -> set[str]:
    """Insert or grow the series; return the studies that have other modalities now."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record in new:
        row = rows.get((record.study_uid, record.series_uid))
        if row is None:
            described = attributes.of_series(record.attributes)
            row = rows[record.study_uid, record.series_uid] = {
                "study_uid": record.study_uid,
                "series_uid": record.series_uid,
                "modality": record.modality,
                "series_number": attributes.integer(described.get("SeriesNumber", "")),
                "attributes": described,
                "instance_count": 0,
                "size_bytes": 0,
                "created_s": txn.now,
            }
        row["instance_count"] += 1
        row["size_bytes"] += record.size_bytes
    before = _series_counts(txn.conn, {study for study, _ in rows})
    add(txn.conn, series, list(rows.values()), counters=["instance_count", "size_bytes"])
    after = _series_counts(txn.conn, {study for study, _ in rows})
    changed = {uid: counts for uid, counts in after.items() if before.get(uid) != counts}
    if changed:
        txn.conn.execute(
            sa.update(studies)
            .where(studies.c.study_uid == sa.bindparam("uid"))
            .values(series_count=sa.bindparam("count"), modalities=sa.bindparam("names")),
            [
                {"uid": uid, "count": sum(counts.values()), "names": attributes.joined(counts)}
                for uid, counts in changed.items()
            ],
        )
    return {uid for uid, counts in changed.items() if set(counts) != set(before.get(uid, ()))}


def _series_counts(conn: sa.Connection, uids: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the number of series by study and modality."""
    counts: dict[str, dict[str, int]] = {}
    for some in in_lists(uids):
        found = conn.execute(
            sa.select(series.c.study_uid, series.c.modality, sa.func.count())
            .where(series.c.study_uid.in_(some))
            .group_by(series.c.study_uid, series.c.modality)
        )
        for uid, modality, count in found:
            counts.setdefault(uid, {})[modality] = count
    return counts


def _row(record: InstanceRecord, generation: int) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in InstanceRecord.__slots__}
    row["attributes"] = attributes.of_instance(record.attributes)
    row["generation"] = generation
    return row


def _write_copies(
    txn: Txn, new: list[InstanceRecord], generations: dict[str, int], *, is_intake: bool
) -> None:
    """Count the study's copy, the ledger and the hour's intake on each tier it came to."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record in new:
        row = rows.setdefault(
            (record.study_uid, record.tier),
            {
                "study_uid": record.study_uid,
                "tier": record.tier,
                "objects": 0,
                "size_bytes": 0,
                "generation": generations[record.study_uid],
                "created_s": txn.now,
            },
        )
        row["objects"] += 1
        row["size_bytes"] += record.size_bytes
    count_copies(txn, list(rows.values()), is_intake=is_intake)


def count_copies(txn: Txn, rows: list[dict[str, Any]], *, is_intake: bool = True) -> None:
    """Add objects and bytes of studies on tiers: copies, ledger, hourly intake."""
    there: set[tuple[str, str]] = set()
    for uids in in_lists({row["study_uid"] for row in rows}):
        found = txn.conn.execute(
            sa.select(copies.c.study_uid, copies.c.tier).where(copies.c.study_uid.in_(uids))
        )
        there |= {(row[0], row[1]) for row in found}
    add(txn.conn, copies, rows, counters=["objects", "size_bytes"], replace=["generation"])
    for tier in sorted({row["tier"] for row in rows}):
        ours = [row for row in rows if row["tier"] == tier]
        size = sum(row["size_bytes"] for row in ours)
        ledger.commit(txn, {tier: size})
        if not is_intake:  # nothing fills up by it
            continue
        ledger.took_in(
            txn,
            tier,
            studies=sum((row["study_uid"], tier) not in there for row in ours),
            objects=sum(row["objects"] for row in ours),
            size_bytes=size,
        )


def _write_sources(txn: Txn, new: list[InstanceRecord]) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for record in new:
        row = rows.setdefault(
            record.source,
            {
                "source": record.source,
                "objects": 0,
                "size_bytes": 0,
                "first_s": txn.now,
                "last_s": txn.now,
            },
        )
        row["objects"] += 1
        row["size_bytes"] += record.size_bytes
    add(
        txn.conn,
        sources,
        list(rows.values()),
        counters=["objects", "size_bytes"],
        replace=["last_s"],
    )


def _arrivals(new: list[InstanceRecord]) -> list[dict[str, Any]]:
    """Statistics: one event per series and transfer syntax of the batch."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in new:
        labels = {
            "study_uid": record.study_uid,
            "series_uid": record.series_uid,
            "modality": record.modality,
            "sop_class_uid": record.sop_class_uid,
            "transfer_syntax_uid": record.transfer_syntax_uid,
            "source": record.source,
            "tier": record.tier,
        }
        row = rows.setdefault(
            tuple(labels.values()),
            {"event": "received", **labels, "objects": 0, "frames": 0, "bytes_in": 0},
        )
        row["objects"] += 1
        row["frames"] += record.frames
        row["bytes_in"] += record.size_bytes
    return list(rows.values())


def aside(txn: Txn, record: AsideRecord, *, holder: str) -> None:
    """Write down an object kept aside; once per place, however often it is told."""
    row = {name: getattr(record, name) for name in AsideRecord.__slots__}
    row["outcome"] = record.outcome.value
    if deletion.doomed(txn.conn, [(record.study_uid, record.tier, record.path)]):
        return
    once = insert(txn.conn, asides).values(row)
    if not changes(txn.conn, once.on_conflict_do_nothing(index_elements=["tier", "path"])):
        return
    if record.study_uid:
        judging.other_sender(txn, record.study_uid, record.source)
    sizes = {record.tier: record.size_bytes}
    ledger.commit(txn, sizes)
    ledger.spend(txn, holder, sizes)
    audit.record(
        txn,
        record.outcome.value,
        study_uid=record.study_uid,
        detail={
            "sop_instance_uid": record.sop_instance_uid,
            "tier": record.tier,
            "path": record.path,
            "reason": record.reason,
            "source": record.source,
        },
    )
    audit.publish(
        txn,
        "events",
        [
            {
                "event": record.outcome.value,
                "study_uid": record.study_uid,
                "source": record.source,
                "tier": record.tier,
                "objects": 1,
                "bytes_in": record.size_bytes,
            }
        ],
    )


def hint_complete(txn: Txn, study_uids: Iterable[str]) -> None:
    """Let studies that wait for quiet be prepared at once; others are left alone."""
    for uids in in_lists(study_uids):
        for due_s in (studies.c.prepare_due_s, studies.c.judge_due_s):
            txn.conn.execute(
                sa.update(studies)
                .where(studies.c.study_uid.in_(uids), due_s > txn.now)
                .values({due_s: txn.now})
            )


def touched(txn: Txn, study_uids: Iterable[str]) -> None:
    """Note that studies were accessed: the order of eviction, and what a simulation replays."""
    study_uids = list(study_uids)
    web_evicting.accessed(txn, study_uids)
    for uids in in_lists(study_uids):
        again = sa.select(studies.c.study_uid).where(
            studies.c.study_uid.in_(uids), studies.c.accessed_s < txn.now - ANOTHER_ACCESS_S
        )
        opened = txn.conn.execute(again.order_by(studies.c.study_uid)).scalars()
        audit.publish(txn, "events", [{"event": "accessed", "study_uid": uid} for uid in opened])
        txn.conn.execute(
            sa.update(studies).where(studies.c.study_uid.in_(uids)).values(accessed_s=txn.now)
        )
        txn.conn.execute(
            sa.update(copies).where(copies.c.study_uid.in_(uids)).values(accessed_s=txn.now)
        )
