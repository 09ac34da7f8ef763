"""Erasing studies and patients for good (FEATURES F12): rows, places, and what must not come back.

An erasure is a row that goes through its states, and the places that are to be empty at its end; so
it goes on where it stopped, whatever ends a master. What stays is a report without names, and the
hash of each study: what was received before does not come back by an adoption, a rebuild or a
backup.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.errors import InvalidQuery, NotFound
from raypacs.index import adopted, audit, deletion, site, tombstones
from raypacs.index.engine import Txn, in_lists, insert, insert_many
from raypacs.index.items import remove
from raypacs.index.schema import (
    asides,
    dead_attempts,
    delete_intents,
    erasure_places,
    erasures,
    let_go,
    meta,
    outbox,
    studies,
    work_items,
)
from raypacs.index.schema import audit as audit_rows

DELETING, CHECKING, STATISTICS, DONE = "deleting", "checking", "statistics", "done"
TAKEN, EMPTY, ABSENT, STAYS = "taken", "empty", "absent", "stays"
Place = tuple[str, str, int]
"""Tier, path, bytes."""


def subjects(conn: sa.Connection, what: str, subject: str) -> list[str]:
    """Return the studies that an order is about, those included of which only traces are left.

    Raises:
        InvalidQuery: neither a study nor a patient.
        NotFound: nothing is known of it.
    """
    if what not in ("study", "patient") or not subject.strip():
        raise InvalidQuery("what: a study (UID) or a patient (Patient ID) can be erased", key=what)
    tables = (studies, work_items) if what == "patient" else (studies, work_items, asides)
    found: set[str] = set()
    for table in tables:
        named = table.c.patient_id if what == "patient" else table.c.study_uid
        query = sa.select(table.c.study_uid).distinct().where(named == subject)
        found |= set(conn.execute(query).scalars())
    if what == "study":
        told = sa.select(audit_rows.c.study_uid).where(audit_rows.c.study_uid == subject).limit(1)
        found |= set(conn.execute(told).scalars())
    found.discard("")
    if not found:
        raise NotFound(f"nothing is known of this {what}")
    return sorted(found)


def order(txn: Txn, what: str, subject: str, who: str) -> int:
    """Order an erasure; return its number, that of the one under way where there is one.

    Raises:
        InvalidQuery, NotFound: as :func:`subjects`.
    """
    running = sa.select(erasures.c.erasure_id).where(
        erasures.c.what == what, erasures.c.subject == subject, erasures.c.state != DONE
    )
    known = txn.conn.execute(running).scalar()
    if known is not None:
        return int(known)
    uids = subjects(txn.conn, what, subject)
    key = tombstones.key_of(site.read(txn.conn).site_id, subject)
    made = txn.conn.execute(
        sa.insert(erasures).values(
            what=what,
            subject=subject,
            subject_key=key,
            state=DELETING,
            who=who,
            ordered_s=txn.now,
            progress={"studies": len(uids)},
            report={},
        )
    )
    number = int((made.inserted_primary_key or (0,))[0])
    insert_many(txn.conn, erasure_places, [_place(number, uid) for uid in uids])
    detail = {"erasure_id": number, "what": what, "key": key, "studies": len(uids)}
    audit.record(txn, "erase ordered", who=who, detail=detail)
    return number


def _place(number: int, study_uid: str, place: Place = ("", "", 0), state: str = "") -> Any:
    return {
        "erasure_id": number,
        "study_uid": study_uid,
        "tier": place[0],
        "path": place[1],
        "size_bytes": place[2],
        "state": state,
    }


def take(txn: Txn, number: int, study_uid: str, *, grace_s: float) -> None:
    """Take a study out of the index, note every place that is to be empty, and let it not return.

    Raises:
        StudySealed: it must be reopened first.
    """
    conn = txn.conn
    names = adopted.tiers(conn)
    places = {(tier, path): size for tier, path, size in deletion.objects_of(conn, study_uid)}
    try:
        deletion.delete_study(txn, study_uid, grace_s=grace_s, rule="erasure")
    except NotFound:
        _drop_asides(txn, study_uid)
    for intent in deletion.pending(conn, study_uid):
        places.setdefault((intent.tier, intent.path), intent.size_bytes)
    _note(
        txn,
        [
            _place(number, study_uid, (*place, size), STAYS if place[0] in names else "")
            for place, size in places.items()
        ],
    )
    conn.execute(
        sa.update(erasure_places)
        .where(_study_row(number), erasure_places.c.study_uid == study_uid)
        .values(state=TAKEN)
    )
    tombstones.keep(txn, {tombstones.key_of(site.read(conn).site_id, study_uid): txn.now}, number)


def _study_row(number: int) -> sa.ColumnElement[bool]:
    return sa.and_(erasure_places.c.erasure_id == number, erasure_places.c.tier == "")


def _note(txn: Txn, rows: list[Any]) -> None:
    if rows:
        txn.conn.execute(insert(txn.conn, erasure_places).on_conflict_do_nothing(), rows)


def _drop_asides(txn: Txn, study_uid: str) -> None:
    """Delete what is kept aside of a study that has nothing else left."""
    ours = asides.c.study_uid == study_uid
    rows = txn.conn.execute(
        sa.select(asides.c.tier, asides.c.path, asides.c.size_bytes).where(ours)
    )
    _intend(txn, study_uid, [(row[0], row[1], row[2]) for row in rows])
    txn.conn.execute(sa.delete(asides).where(ours))


def _intend(txn: Txn, study_uid: str, places: Iterable[Place]) -> None:
    names = adopted.tiers(txn.conn)
    insert_many(
        txn.conn,
        delete_intents,
        [
            {
                "study_uid": study_uid,
                "tier": tier,
                "path": path,
                "size_bytes": size_bytes,
                "due_s": txn.now,
                "epoch": txn.epoch,
            }
            for tier, path, size_bytes in places
            if tier not in names
        ],
    )


def strays(txn: Txn, number: int, study_uid: str, places: Sequence[tuple[str, str]]) -> None:
    """Let objects be deleted that lie in a study's folders and that the index did not know."""
    told = [(tier, path, 0) for tier, path in places]
    _intend(txn, study_uid, told)
    ours = sa.and_(erasure_places.c.erasure_id == number, erasure_places.c.study_uid == study_uid)
    for tier, path in places:
        at = sa.and_(ours, erasure_places.c.tier == tier, erasure_places.c.path == path)
        txn.conn.execute(sa.update(erasure_places).where(at).values(state=""))
    _note(txn, [_place(number, study_uid, place) for place in told])


def mark(txn: Txn, number: int, places: Iterable[tuple[str, str, str]], state: str) -> None:
    """Set the state of (study UID, tier, path)."""
    rows = [{"_uid": uid, "_tier": tier, "_path": path} for uid, tier, path in places]
    if rows:
        txn.conn.execute(
            sa.update(erasure_places)
            .where(
                erasure_places.c.erasure_id == number,
                erasure_places.c.study_uid == sa.bindparam("_uid"),
                erasure_places.c.tier == sa.bindparam("_tier"),
                erasure_places.c.path == sa.bindparam("_path"),
            )
            .values(state=state),
            rows,
        )


def go_on(txn: Txn, number: int, state: str, progress: Mapping[str, Any]) -> None:
    """Write down the state of an erasure, and how far it is."""
    ours = erasures.c.erasure_id == number
    before = txn.conn.execute(sa.select(erasures.c.progress).where(ours)).scalar() or {}
    values = {"state": state, "progress": {**before, **progress}}
    txn.conn.execute(sa.update(erasures).where(ours).values(values))


def forget(txn: Txn, number: int) -> dict[str, int]:
    """Remove what names the studies elsewhere in the index; return how many rows went."""
    site.keep_sequence(txn)  # the newest number of the audit goes with its row
    gone = {"audit": 0, "outbox": 0, "work_items": 0, "let_go": 0}
    for uids in in_lists(study_uids(txn.conn, number)):
        items = txn.conn.execute(sa.select(work_items).where(work_items.c.study_uid.in_(uids)))
        rows = items.mappings().all()
        remove(txn, rows)
        gone["work_items"] += len(rows)
        for name, table in (("audit", audit_rows), ("let_go", let_go)):
            done = txn.conn.execute(sa.delete(table).where(table.c.study_uid.in_(uids)))
            gone[name] += done.rowcount
        named = outbox.c.payload["study_uid"].as_string().in_(uids)
        gone["outbox"] += txn.conn.execute(sa.delete(outbox).where(named)).rowcount
    return gone


def study_uids(conn: sa.Connection, number: int) -> list[str]:
    """Return the studies of an erasure that is not done."""
    query = sa.select(erasure_places.c.study_uid).where(_study_row(number))
    return list(conn.execute(query.order_by(erasure_places.c.study_uid)).scalars())


def finish(txn: Txn, row: Mapping[str, Any], notes: Sequence[str]) -> None:
    """Write the report, and forget what the erasure was about."""
    number, conn = int(row["erasure_id"]), txn.conn
    audit.record(txn, "erased", detail={"erasure_id": number, "key": row["subject_key"]})
    rows = forget(txn, number)
    for name, count in (row["progress"].get("rows") or {}).items():
        rows[name] = rows.get(name, 0) + count
    site_id = site.read(conn).site_id
    report: dict[str, Any] = {
        "erasure_id": number,
        "what": row["what"],
        "subject_key": row["subject_key"],
        "study_keys": [tombstones.key_of(site_id, uid) for uid in study_uids(conn, number)],
        "who": row["who"],
        "ordered_s": row["ordered_s"],
        "finished_s": txn.now,
        "rows": rows,
        "statistics": row["progress"].get("statistics") or {"files": 0, "rows": 0},
        "notes": list(notes),
        **_tiers(conn, number),
    }
    report["signature"] = signature(conn, report)
    txn.conn.execute(sa.delete(erasure_places).where(erasure_places.c.erasure_id == number))
    txn.conn.execute(
        sa.update(erasures)
        .where(erasures.c.erasure_id == number)
        .values(state=DONE, subject="", finished_s=txn.now, report=report, progress={})
    )


def _tiers(conn: sa.Connection, number: int) -> dict[str, Any]:
    """Return what was deleted and looked for by tier, what stays, and a hash of all paths."""
    told: dict[str, dict[str, int]] = {}
    stays: dict[str, int] = {}
    paths = hashlib.sha256()
    query = (
        sa.select(erasure_places)
        .where(erasure_places.c.erasure_id == number, erasure_places.c.tier != "")
        .order_by(erasure_places.c.tier, erasure_places.c.path)
    )
    for place in conn.execute(query).mappings():
        if place["state"] == STAYS:
            stays[place["tier"]] = stays.get(place["tier"], 0) + 1
            continue
        paths.update(f"{place['tier']}/{place['path']}\n".encode())
        one = told.setdefault(place["tier"], {"objects": 0, "size_bytes": 0, "absent": 0})
        one["objects"] += 1
        one["size_bytes"] += place["size_bytes"]
        one["absent"] += place["state"] == ABSENT
    return {"tiers": told, "stays": stays, "paths_sha256": paths.hexdigest()}


def signature(conn: sa.Connection, report: Mapping[str, Any]) -> str:
    """Return the HMAC-SHA256 of a report by the site's secret: this site wrote it."""
    secret = conn.execute(sa.select(meta.c.value).where(meta.c.name == "site_secret")).scalar_one()
    body = {name: value for name, value in report.items() if name != "signature"}
    data = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(bytes.fromhex(secret), data, "sha256").hexdigest()


def busy(conn: sa.Connection, number: int) -> str:
    """Say what of an erasure's studies is still on its way out; '' nothing is."""
    for uids in in_lists(study_uids(conn, number)):
        for table, why in (
            (delete_intents, "bytes are being deleted"),
            (dead_attempts, "parts of attempts that ended are swept"),
        ):
            query = sa.select(table.c.study_uid).where(table.c.study_uid.in_(uids)).limit(1)
            if conn.execute(query).first() is not None:
                return why
    return ""
