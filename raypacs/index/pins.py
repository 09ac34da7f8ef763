"""Pins: studies that are not evicted before a time; and copies that are to be judged anew."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.errors import NotFound
from raypacs.index import audit, holds, site
from raypacs.index import settings as current_settings
from raypacs.index.engine import Txn
from raypacs.index.schema import copies, meta, studies
from raypacs.policy.holding import UNJUDGED

FOR_EVER_S = 253_402_300_799.0
"""The end of the year 9999: what is pinned without an end."""

_JUDGED = "copies_judged"


def pin(txn: Txn, study_uid: str, until_s: float, who: str) -> float:
    """Pin a study until ``until_s`` (0: take its pin away); return until when it is pinned.

    Raises:
        NotFound: no such study.
    """
    ours = studies.c.study_uid == study_uid
    before = txn.conn.execute(sa.select(studies.c.pinned_until_s).where(ours)).scalar()
    if before is None:
        raise NotFound(f"no study {study_uid}", study_uid=study_uid)
    until_s = min(until_s, FOR_EVER_S)
    if until_s == before:
        return until_s
    txn.conn.execute(sa.update(studies).where(ours).values(pinned_until_s=until_s))
    holds.refresh(txn, [study_uid])
    event = "pinned" if until_s > txn.now else "unpinned"
    audit.record(txn, event, study_uid=study_uid, who=who, detail={"until_s": until_s})
    return until_s


def end_pins(txn: Txn, limit: int) -> int:
    """Let pins go whose time is over; return how many."""
    over = txn.conn.execute(
        sa.select(studies.c.study_uid)
        .where(sa.text("pinned_until_s > 0"), studies.c.pinned_until_s <= txn.now)
        .order_by(studies.c.pinned_until_s)
        .limit(limit)
    )
    uids = list(over.scalars())
    if uids:
        ours = studies.c.study_uid.in_(uids)
        txn.conn.execute(sa.update(studies).where(ours).values(pinned_until_s=0.0))
        holds.refresh(txn, uids)
        why = {"reason": "its time is over"}
        audit.record_many(txn, "unpinned", [{"study_uid": uid, "detail": why} for uid in uids])
    return len(uids)


def judge_some(txn: Txn, limit: int) -> int:
    """Judge copies that were not since a migration; return how many."""
    settings = current_settings.read(txn.conn)[1]
    found: list[str] = []
    for tier in settings.tiers:
        left = limit - len(found)
        if left <= 0:
            break
        rows = txn.conn.execute(
            sa.select(copies.c.study_uid)
            .where(copies.c.tier == tier.name, copies.c.hold == UNJUDGED)
            .order_by(copies.c.accessed_s, copies.c.study_uid)
            .limit(left)
        )
        found += rows.scalars()
    if found:
        holds.refresh(txn, found, settings)
    return len(found)


def judge_again(txn: Txn, limit: int) -> int:
    """After tiers have other roles judge all copies, a page a call; return how many were.

    How far it is stays in the index, so a master that takes over goes on there.
    """
    settings = current_settings.read(txn.conn)[1]
    wanted = _print(settings)
    stored = txn.conn.execute(sa.select(meta.c.value).where(meta.c.name == _JUDGED)).scalar()
    judged, _, after = (stored or "").partition("\n")
    if stored is None:
        site.put(txn, _JUDGED, 0, f"{wanted}\n-")  # those there are were judged as they came
        return 0
    if judged == wanted and after == "-":
        return 0
    start = after if judged == wanted else ""
    rows = txn.conn.execute(
        sa.select(copies.c.study_uid)
        .where(copies.c.study_uid > start)
        .order_by(copies.c.study_uid)
        .limit(limit)
    )
    uids = list(rows.scalars())
    holds.refresh(txn, uids, settings)
    # The last study's copies may go on in the next page: it is judged as a whole at once.
    site.put(txn, _JUDGED, 0, f"{wanted}\n{uids[-1] if len(uids) == limit else '-'}")
    return len(uids)


def _print(settings: Settings) -> str:
    """Return what the judgement of copies depends on."""
    parts = (f"{tier.name}={tier.role}{'*' if tier.adopted else ''}" for tier in settings.tiers)
    return " ".join(sorted(parts))
