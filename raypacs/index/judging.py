"""Status, sources and rules in the transaction that changes a study (FEATURES B6, B7, C13).

What rules and sources decided is kept with the study (``studies.decided``), by effect: only what is
decided otherwise than before is done, so that judging again changes nothing, and what an operator
did meanwhile stays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.autopilot.conditions import AGES
from raypacs.config import Settings
from raypacs.errors import NotFound
from raypacs.index import audit, holds, settings, site
from raypacs.index.engine import Txn, in_lists
from raypacs.index.rows import series_row, study_row
from raypacs.index.schema import meta, series, studies
from raypacs.policy import arrival, statuses
from raypacs.records import InstanceRecord

AGAIN_AFTER_S = 600.0
"""What could not be carried out is tried again after so long."""
WALK = "judged"
_DAILY_S = 86400.0
_QUIET_AT_ONCE = 50
# Later than now: what was judged at this moment is prepared, and moved after that.
_SOON_S = 0.001
_KEPT = "keep_until_s"


@dataclass(frozen=True, slots=True)
class TierOrder:
    """A study that a rule wants on another image tier."""

    study_uid: str
    tier: str
    by: str


def on_arrival(
    txn: Txn,
    records: Sequence[InstanceRecord],
    before: Any,
    current: Settings,
    *,
    due_s: float,
    made: bool,
) -> dict[str, Any]:
    """Return what a batch changes of its study: senders, archiving, status, when rules are asked.

    ``before``: the study's row, None for a new one. ``made``: raypacs made the objects itself, so
    nobody sent them.
    """
    senders = [] if made else [(record.source, record.peer) for record in records]
    origins = arrival.joined(before.origins if before is not None else (), senders)
    status = before.status if before is not None else statuses.NEW
    since_s = before.status_s if before is not None else 0.0
    if statuses.approved_by(records) and status != statuses.APPROVED:
        status, since_s = statuses.APPROVED, txn.now
    return {
        "origins": origins,
        "archiving": arrival.archiving_of(origins, current.sources),
        "status": status,
        "status_s": since_s,
        "judge_due_s": due_s if current.rules or current.sources else 0.0,
    }


def tell_approved(txn: Txn, by_study: Mapping[str, Sequence[InstanceRecord]], known: Any) -> None:
    """Write down which studies a verified report approved. ``known``: their rows before."""
    rows = []
    for uid, records in by_study.items():
        report = statuses.approved_by(records)
        before = known[uid].status if uid in known else statuses.NEW
        if report and before != statuses.APPROVED:
            told = {"from": before, "to": statuses.APPROVED}
            detail = {"status": told, "by": f"verified report {report}"}
            rows.append({"study_uid": uid, "detail": detail})
    audit.record_many(txn, "status", rows)


def other_sender(txn: Txn, study_uid: str, source: str, peer: str = "") -> bool:
    """Note who sent objects that are not served as new ones: known ones, or conflicts.

    Only where that may change anything: the study is not to be archived so far. Whoever sent them
    relies on them as well. Says whether it is to be archived now.
    """
    ours = studies.c.study_uid == study_uid
    query = sa.select(studies.c.origins).where(ours, studies.c.archiving.is_(sa.false()))
    found = txn.conn.execute(query).one_or_none()
    if found is None:
        return False
    current = settings.read(txn.conn)[1]
    origins = arrival.joined(found.origins, [(source, peer)])
    archiving = arrival.archiving_of(origins, current.sources)
    if origins == found.origins:
        return archiving
    txn.conn.execute(sa.update(studies).where(ours).values(origins=origins, archiving=archiving))
    if archiving:
        _tell_archiving(txn, [(study_uid, archiving)])
        holds.refresh(txn, [study_uid], current)
    return archiving


def other_senders(txn: Txn, records: Sequence[InstanceRecord]) -> None:
    """Note who sent instances that another one was faster with."""
    if records and not all(one.archiving for one in settings.read(txn.conn)[1].sources):
        for sender in {(record.study_uid, record.source, record.peer) for record in records}:
            other_sender(txn, *sender)


def set_study(txn: Txn, study_uid: str, changes: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Set status and flags of a study; return all of them. The same again changes nothing.

    Raises:
        InvalidQuery: no such key or value.
        NotFound: no such study.
    """
    wanted = statuses.checked(changes)
    before = status_of(txn.conn, study_uid)
    new = {name: value for name, value in wanted.items() if before[name] != value}
    if not new:
        return before
    values = dict(new)
    current = settings.read(txn.conn)[1]
    if "status" in new:
        values["status_s"] = txn.now
        if current.rules:
            values["judge_due_s"] = txn.now
    txn.conn.execute(sa.update(studies).where(studies.c.study_uid == study_uid).values(values))
    detail = {name: {"from": before[name], "to": value} for name, value in new.items()}
    audit.record(txn, "status", study_uid=study_uid, who=who, detail=detail)
    if "committed" in new:
        holds.refresh(txn, [study_uid], current)
    return status_of(txn.conn, study_uid)


_STATUS = (
    *("study_uid", "status", "status_s", "exported", "his_verified", "committed", "archiving"),
    *("pinned_until_s", "delete_after_s", "origins", "decided", "last_received_s"),
)


def status_of(conn: sa.Connection, study_uid: str) -> dict[str, Any]:
    """Return status, flags, senders and what was decided of a study. Raises NotFound."""
    columns = (studies.c[name] for name in _STATUS)
    row = conn.execute(sa.select(*columns).where(studies.c.study_uid == study_uid)).mappings()
    found = row.one_or_none()
    if found is None:
        raise NotFound(f"no study {study_uid}", study_uid=study_uid)
    return dict(found)


# Rules and sources


def facts(conn: sa.Connection, study_uids: Iterable[str]) -> Iterator[tuple[Any, arrival.Facts]]:
    """Yield (row, what rules go by) of studies; those that are not there are left out."""
    for uids in in_lists(set(study_uids)):
        of_study: dict[str, list[dict[str, Any]]] = {}
        for one in conn.execute(sa.select(series).where(series.c.study_uid.in_(uids))).mappings():
            of_study.setdefault(one["study_uid"], []).append(series_row(one))
        rows = conn.execute(sa.select(studies).where(studies.c.study_uid.in_(uids))).mappings()
        for row in rows.all():
            told = study_row(row) | {"ModalitiesInStudy": row["modalities"]}
            yield (
                row,
                arrival.Facts(
                    study=told,
                    series=of_study.get(row["study_uid"], []),
                    # Of studies of earlier versions only who sent them first is known.
                    origins=row["origins"] or [[row["source"], ""]],
                    status=row["status"],
                    size_bytes=row["size_bytes"],
                    last_received_s=row["last_received_s"],
                ),
            )


def judge(
    txn: Txn, study_uids: Iterable[str], current: Settings, *, asked: bool = False
) -> list[TierOrder]:
    """Ask sources and rules about studies; do what they decide otherwise than before.

    With ``asked`` nobody orders the moves just now, so they stay due.

    Returns:
        Which studies are to be moved: that is the master's, who tells by :func:`ordered`.
    """
    orders: list[TierOrder] = []
    changed: list[str] = []
    archiving: list[tuple[str, bool]] = []
    for row, known in facts(txn.conn, study_uids):
        decided = arrival.decide(current, known, txn.now).as_json()
        before = dict(row["decided"])
        before.pop("left", None)
        # Carried out once, until something else is wanted.
        if "tier" in decided and "tier" in before and _same(decided["tier"], before["tier"]):
            decided["tier"] = before["tier"]
        values = _effects(row, decided, before)
        is_archived = arrival.archiving_of(row["origins"], current.sources)
        if is_archived != row["archiving"]:
            values["archiving"] = is_archived
            archiving.append((row["study_uid"], is_archived))
        order = decided.get("tier")
        if order is not None and not order.get("done"):
            orders.append(TierOrder(row["study_uid"], order["value"], order["by"]))
            values["judge_due_s"] = txn.now + (_SOON_S if asked else AGAIN_AFTER_S)
        if decided != before:
            _tell(txn, row["study_uid"], decided, before)
            values["decided"] = decided
        values = {name: value for name, value in values.items() if row[name] != value}
        if values:
            ours = studies.c.study_uid == row["study_uid"]
            txn.conn.execute(sa.update(studies).where(ours).values(values))
        if values.keys() & {"archiving", "pinned_until_s"}:
            changed.append(row["study_uid"])
    _tell_archiving(txn, archiving)
    if changed:
        holds.refresh(txn, changed, current)
    return orders


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (one["value"], one["by"]) == (other["value"], other["by"])


def _effects(row: Any, decided: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that follow from what is decided."""
    values: dict[str, Any] = {
        "judge_due_s": 0.0,
        "delete_after_s": decided.get("delete_after_s", {}).get("value", 0.0),
    }
    keep, kept = decided.get(_KEPT), before.get(_KEPT)
    if keep is not None and (kept is None or keep["value"] != kept["value"]):
        values["pinned_until_s"] = max(row["pinned_until_s"], keep["value"])
    elif keep is None and kept is not None and row["pinned_until_s"] == kept["value"]:
        values["pinned_until_s"] = 0.0
    return values


def _tell(txn: Txn, study_uid: str, decided: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    new = {name: one for name, one in decided.items() if before.get(name) != one}
    gone = sorted(before.keys() - decided.keys())
    detail: dict[str, Any] = {"effects": new}
    if gone:
        detail["no_more"] = gone
    audit.record(txn, "decided", study_uid=study_uid, detail=detail)
    known = before.get("route", {}).get("value", [])
    wanted = [one for one in decided.get("route", {}).get("value", []) if one not in known]
    if wanted:
        detail = {"destinations": wanted, "by": decided["route"]["by"]}
        audit.record(txn, "route wanted", study_uid=study_uid, detail=detail)


def _tell_archiving(txn: Txn, changes: Iterable[tuple[str, bool]]) -> None:
    audit.record_many(
        txn,
        "archiving",
        [{"study_uid": uid, "detail": {"archiving": is_on}} for uid, is_on in changes],
    )


def judge_quiet(txn: Txn) -> None:
    """Ask rules about studies that are to be prepared now: they say how, and how soon.

    At most so many at once; the others wait for the next tick with their PREPARE. What a rule
    wants moved stays due: the master orders that (:func:`due`).
    """
    query = (
        sa.select(studies.c.study_uid)
        .where(
            studies.c.prepare_due_s <= txn.now,
            studies.c.judge_due_s > 0,
            studies.c.judge_due_s <= txn.now,
        )
        .order_by(studies.c.prepare_due_s)
        .limit(_QUIET_AT_ONCE)
    )
    uids = list(txn.conn.execute(query).scalars())
    if uids:
        judge(txn, uids, settings.read(txn.conn)[1], asked=True)


def ordered(txn: Txn, order: TierOrder) -> None:
    """Note that a study is on its way to the tier that a rule wants."""
    ours = studies.c.study_uid == order.study_uid
    decided = txn.conn.execute(sa.select(studies.c.decided).where(ours)).scalar()
    told = decided.get("tier") if decided else None
    if decided is None or told is None or (told["value"], told["by"]) != (order.tier, order.by):
        return
    decided = {**decided, "tier": {**told, "done": True}}
    txn.conn.execute(sa.update(studies).where(ours).values(decided=decided, judge_due_s=0.0))


def due(conn: sa.Connection, now: float, limit: int) -> list[str]:
    """Return studies about which rules are to be asked, those that grow excepted."""
    query = (
        sa.select(studies.c.study_uid)
        .where(studies.c.judge_due_s > 0, studies.c.judge_due_s <= now)
        .order_by(studies.c.judge_due_s)
        .limit(limit)
    )
    return list(conn.execute(query).scalars())


# All studies, when settings change


def fingerprint(current: Settings) -> str:
    """Return what stands for sources and rules; '' where there are none."""
    if not (current.sources or current.rules):
        return ""
    told = [one.model_dump(mode="json") for one in (*current.sources, *current.rules)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def walk(txn: Txn, current: Settings, limit: int) -> tuple[list[TierOrder], bool]:
    """Judge the next page of all studies, if settings changed or ages did; say if there is more."""
    state = txn.conn.execute(sa.select(meta.c.value).where(meta.c.name == WALK)).scalar()
    told: dict[str, Any] = json.loads(state) if state else {"print": "", "after": None, "at_s": 0.0}
    now_print = fingerprint(current)
    if told["print"] != now_print or (told["after"] is None and _ages(current, told, txn.now)):
        told = {"print": now_print, "after": "", "at_s": txn.now}
    elif told["after"] is None:
        return [], False
    query = (
        sa.select(studies.c.study_uid)
        .where(studies.c.study_uid > told["after"])
        .order_by(studies.c.study_uid)
        .limit(limit)
    )
    uids = list(txn.conn.execute(query).scalars())
    orders = judge(txn, uids, current)
    more = len(uids) == limit
    told["after"] = uids[-1] if more else None
    site.put(txn, WALK, 0, json.dumps(told))
    return orders, more


def _ages(current: Settings, told: Mapping[str, Any], now: float) -> bool:
    """Whether a day went by and rules ask how old studies are."""
    if now - told["at_s"] < _DAILY_S:
        return False
    return any(AGES & (rule.when.keys() | rule.unless.keys()) for rule in current.rules)
