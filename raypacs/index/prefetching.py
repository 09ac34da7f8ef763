"""Relevant priors of a patient are brought into the caches: found, and ordered.

Each prior is one PREFETCH item, made only where something of it is away. From its order on it
counts as accessed and created when the study was that it is fetched for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.autopilot.moving import PrefetchRule
from raypacs.errors import NotFound
from raypacs.index import audit, evicting, holds, queue, restoring, settings
from raypacs.index.engine import Txn, in_lists, insert
from raypacs.index.items import clean
from raypacs.index.queue import Wish
from raypacs.index.schema import copies, meta, series, studies
from raypacs.policy.kinds import PREFETCH
from raypacs.policy.prefetching import Announced, Chosen, Prior, choose
from raypacs.policy.queue import Priority, priority_of

MOST_LOOKED_AT = 200
"""Studies of a patient, the newest by study date: some patient IDs stand for thousands."""
STALE_S = 3600.0
"""What arrived longer ago has been read by now."""
_CURSOR = "prefetched"


def order(txn: Txn, study_uid: str, wish: Wish) -> dict[str, Any]:
    """Bring a study into the caches; answers as ``restoring.order``. Raises NotFound."""
    uid = clean(study_uid)
    study = txn.conn.execute(
        sa.select(studies.c.generation, studies.c.offline_s, studies.c.web_evicted_s).where(
            studies.c.study_uid == uid
        )
    ).one_or_none()
    if study is None:
        raise NotFound(f"no study {study_uid}", study_uid=study_uid)
    inherit(txn, uid, txn.now, txn.now)
    return _fetch(txn, uid, wish)


def _fetch(txn: Txn, uid: str, wish: Wish) -> dict[str, Any]:
    evicting.take_back(txn, uid, "it was prefetched")
    is_away = restoring.is_away(txn.conn, uid)
    if not is_away:
        if wish.payload.get("prepare", True):
            txn.conn.execute(
                sa.update(studies)
                .where(studies.c.study_uid == uid, studies.c.web_evicted_s > 0)
                .values(web_evicted_s=-1.0)
            )
        return {"item_id": 0, "state": "online", "error": ""}
    known = restoring.under_way(txn, uid)
    if known is not None:
        return {"item_id": known["item_id"], "state": known["state"], "error": ""}
    if not restoring.is_held(txn.conn, uid):
        return {"item_id": 0, "state": "nowhere", "error": "no library has it"}
    generation = txn.conn.execute(
        sa.select(studies.c.generation).where(studies.c.study_uid == uid)
    ).scalar_one()
    item_id = queue.schedule(txn, PREFETCH, uid, int(generation), wish)
    return {"item_id": item_id, "state": "SCHEDULED", "error": ""}


def inherit(txn: Txn, study_uid: str, accessed_s: float, created_s: float) -> None:
    """Let a study count as accessed and created when another was, if that is later."""
    ours = studies.c.study_uid == study_uid
    for column, value in (
        (studies.c.inherited_accessed_s, accessed_s),
        (studies.c.inherited_created_s, created_s),
    ):
        txn.conn.execute(
            sa.update(studies).where(ours, column < value).values({column.name: value})
        )
    holds.refresh(txn, [study_uid])


def bring(
    txn: Txn, announced: Announced, rules: Sequence[PrefetchRule], *, who: str = ""
) -> list[dict[str, Any]]:
    """Order what the rules choose for a study; return study_uid, rule, item_id and state of each.

    Without rules for it, ``who`` asks: two priors of the same modality.
    """
    if not announced.patient_id:
        return []
    if who and not rules:
        rules = (PrefetchRule(name="announced", modality="same" if announced.modality else "any"),)
    found = []
    for chosen in choose(announced, _priors(txn.conn, announced), rules):
        inherit(txn, chosen.study_uid, announced.at_s, announced.at_s)
        told = _fetch(txn, chosen.study_uid, _wish(chosen, announced, who))
        found.append({"study_uid": chosen.study_uid, "rule": chosen.rule, **told})
        if told["item_id"]:
            detail = {"rule": chosen.rule, "for": announced.study_uid}
            audit.record(
                txn,
                "prefetch",
                study_uid=chosen.study_uid,
                item_id=int(told["item_id"]),
                who=who,
                detail=detail,
            )
    return found


def _wish(chosen: Chosen, announced: Announced, who: str) -> Wish:
    payload = {"for": announced.study_uid, "prepare": chosen.web}
    priority: Priority = priority_of(chosen.priority)
    return Wish(priority, payload=payload, who=who, rule=f"prefetch rule {chosen.rule}")


def _priors(conn: sa.Connection, announced: Announced) -> list[Prior]:
    rows = conn.execute(
        sa.select(
            studies.c.study_uid,
            studies.c.modalities,
            studies.c.study_date,
            studies.c.created_s,
        )
        .where(studies.c.patient_id == announced.patient_id)
        .order_by(studies.c.list_no.desc())
        .limit(MOST_LOOKED_AT)
    ).all()
    parts = _body_parts(conn, [row.study_uid for row in rows])
    return [
        Prior(
            row.study_uid,
            row.modalities,
            parts.get(row.study_uid, ""),
            row.study_date,
            row.created_s,
        )
        for row in rows
    ]


def _body_parts(conn: sa.Connection, study_uids: Iterable[str]) -> dict[str, str]:
    """Return the Body Part Examined (0018,0015) of studies, several joined by backslashes."""
    found: dict[str, str] = {}
    part = series.c.attributes["BodyPartExamined"].as_string()
    for some in in_lists(study_uids):
        rows = conn.execute(
            sa.select(series.c.study_uid, part)
            .where(series.c.study_uid.in_(some), part.is_not(None), part != "")
            .distinct()
        )
        for uid, value in rows:
            found[uid] = f"{found[uid]}\\{value}" if uid in found else value
    return found


def arrived(txn: Txn, limit: int) -> int:
    """Bring priors of studies that arrived since the last call; return how many were looked at.

    A study is looked at once it is known for a moment, so that its first series are, too. What was
    adopted did not arrive: it was there.
    """
    current = settings.read(txn.conn)[1]
    since = txn.conn.execute(
        sa.select(meta.c.at_s, meta.c.value).where(meta.c.name == _CURSOR)
    ).one_or_none()
    until_s = txn.now - min(current.quiet_s, 10.0)
    if since is None:
        _remember(txn, until_s, "")
        return 0
    first_s, after = (
        (since.at_s, since.value) if since.at_s > txn.now - STALE_S else (txn.now - STALE_S, "")
    )
    newer = sa.or_(
        studies.c.created_s > first_s,
        sa.and_(studies.c.created_s == first_s, studies.c.study_uid > after),
    )
    names = ("study_uid", "patient_id", "modalities", "study_date", "created_s")
    rows = txn.conn.execute(
        sa.select(*(studies.c[name] for name in names))
        .where(studies.c.created_s >= first_s, studies.c.created_s <= until_s, newer)
        .order_by(studies.c.created_s, studies.c.study_uid)
        .limit(limit)
    ).all()
    if not rows:
        return 0
    parts = _body_parts(txn.conn, [row.study_uid for row in rows])
    adopted = {tier.name for tier in current.tiers if tier.adopted}
    for row in rows:
        if adopted and _lies_only_on(txn.conn, row.study_uid, adopted):
            continue
        announced = Announced(
            row.patient_id,
            row.modalities,
            parts.get(row.study_uid, ""),
            row.created_s,
            row.study_uid,
            row.study_date,
        )
        bring(txn, announced, current.prefetch)
    _remember(txn, rows[-1].created_s, rows[-1].study_uid)
    return len(rows)


def _lies_only_on(conn: sa.Connection, study_uid: str, adopted: set[str]) -> bool:
    tiers = conn.execute(sa.select(copies.c.tier).where(copies.c.study_uid == study_uid)).scalars()
    return set(tiers) <= adopted


def _remember(txn: Txn, at_s: float, study_uid: str) -> None:
    row = {"name": _CURSOR, "number": 0, "value": study_uid, "at_s": at_s}
    txn.conn.execute(
        insert(txn.conn, meta)
        .values(row)
        .on_conflict_do_update(index_elements=["name"], set_={"value": study_uid, "at_s": at_s})
    )
