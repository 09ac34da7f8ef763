"""Eviction from image tiers: proof counted, intents written, copies gone, all in one transaction.

From then on the study is offline: its manifests stay in force and tell where its instances were.
Bytes go after the grace period, and only once the intents were begun (``begin``), which looks at
the proof again. Until then ``take_back`` makes the study as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.index import audit, candidates, holds
from raypacs.index import settings as current_settings
from raypacs.index.candidates import Facts, SeriesPlace
from raypacs.index.engine import Txn, add, in_lists, insert_many
from raypacs.index.schema import copies, delete_intents, series, studies
from raypacs.policy.eviction import Choice
from raypacs.policy.holding import KEPT

LISTED = "listed"

Places = Mapping[str, Sequence[tuple[str, int, int]]]
"""Series UID to (tier, objects, bytes) of its instances on image tiers, as its manifest says."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a cache is freed: what the audit tells besides the choice."""

    tier: str
    hours: float | None = None
    need_bytes: int = 0
    who: str = ""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A choice, with the facts it was made by; ``places`` where only manifests tell them."""

    choice: Choice
    facts: Facts
    places: Places | None = None
    kept: frozenset[str] = field(default_factory=frozenset)


def evict(
    txn: Txn, leaving: Sequence[Leaving], reason: Reason, *, grace_s: float
) -> dict[str, int]:
    """Let studies leave the image tiers; ``facts`` must be of this very transaction.

    Returns:
        The bytes that will be free on each tier.
    """
    intents: list[dict[str, Any]] = []
    stories: list[dict[str, Any]] = []
    for one in leaving:
        ours = _intents(txn, one, txn.now + grace_s)
        intents += ours
        stories.append(_story(one, ours, reason, grace_s))
    insert_many(txn.conn, delete_intents, intents)
    _take_off(txn, [one for one in leaving if not one.choice.keeps])
    for one in leaving:
        if one.choice.keeps:
            _keep(txn, one)
    for uids in in_lists(one.facts.study_uid for one in leaving):
        ours_ = sa.and_(studies.c.study_uid.in_(uids), studies.c.offline_s == 0)
        txn.conn.execute(sa.update(studies).where(ours_).values(offline_s=txn.now))
    audit.record_many(txn, "evicted", stories)
    audit.publish(txn, "events", [_event(story, reason) for story in stories])
    freed: dict[str, int] = {}
    for row in intents:
        freed[row["tier"]] = freed.get(row["tier"], 0) + row["size_bytes"]
    return freed


def going(one: Leaving) -> list[SeriesPlace]:
    """Return the series whose instances leave."""
    return [
        place
        for place in one.facts.series
        if place.manifest_path
        and not place.is_gone
        and not (one.choice.keeps and place.modality in one.kept)
    ]


def _intents(txn: Txn, one: Leaving, due_s: float) -> list[dict[str, Any]]:
    found = []
    for place in going(one):
        if one.places is not None:
            lie: Sequence[tuple[str, int, int]] = one.places.get(place.series_uid, ())
        else:
            ((tier, _),) = one.facts.images.items()
            lie = [(tier, place.instance_count, place.size_bytes)]
        for tier, objects, size_bytes in lie:
            found.append(
                {
                    "study_uid": one.facts.study_uid,
                    "tier": tier,
                    "path": place.manifest_path,
                    "list_tier": place.manifest_tier,
                    "what": LISTED,
                    "size_bytes": size_bytes,
                    "objects": objects,
                    "relies_on": one.facts.libraries[0],
                    "decided_s": txn.now,
                    "due_s": due_s,
                    "epoch": txn.epoch,
                }
            )
    return found


def _take_off(txn: Txn, leaving: Sequence[Leaving]) -> None:
    """Forget copies on image tiers, and mark the series that were there."""
    tiers = sorted({tier for one in leaving for tier in one.facts.images})
    for uids in in_lists(one.facts.study_uid for one in leaving):
        txn.conn.execute(
            sa.delete(copies).where(copies.c.study_uid.in_(uids), copies.c.tier.in_(tiers))
        )
        txn.conn.execute(
            sa.update(series)
            .where(series.c.study_uid.in_(uids), series.c.manifest_path != "")
            .values(gone_path=series.c.manifest_path)
        )


def _keep(txn: Txn, one: Leaving) -> None:
    """Leave a copy of what a series share keeps."""
    gone = going(one)
    ((tier, (objects, size_bytes)),) = one.facts.images.items()
    txn.conn.execute(
        sa.update(copies)
        .where(copies.c.study_uid == one.facts.study_uid, copies.c.tier == tier)
        .values(
            objects=objects - sum(place.instance_count for place in gone),
            size_bytes=size_bytes - sum(place.size_bytes for place in gone),
            kept=True,
            hold=KEPT,
        )
    )
    txn.conn.execute(
        sa.update(series)
        .where(
            series.c.study_uid == one.facts.study_uid,
            series.c.series_uid.in_([place.series_uid for place in gone]),
        )
        .values(gone_path=series.c.manifest_path)
    )


def _story(
    one: Leaving, intents: Sequence[Mapping[str, Any]], reason: Reason, grace_s: float
) -> dict[str, Any]:
    detail = {
        "tiers": sorted({row["tier"] for row in intents}),
        "for": reason.tier,
        "rule": one.choice.rule,
        "level": one.choice.level.value,
        "hours": reason.hours,
        "need_bytes": reason.need_bytes,
        "accessed_s": one.choice.candidate.accessed_s,
        "objects": sum(row["objects"] for row in intents),
        "size_bytes": sum(row["size_bytes"] for row in intents),
        "relies_on": one.facts.libraries,
        "grace_s": grace_s,
    }
    if one.choice.keeps:
        detail["kept_series"] = sum(place.modality in one.kept for place in one.facts.series)
    return {"study_uid": one.facts.study_uid, "who": reason.who, "detail": detail}


def _event(story: Mapping[str, Any], reason: Reason) -> dict[str, Any]:
    detail = story["detail"]
    return {
        "event": "evicted",
        "study_uid": story["study_uid"],
        "tier": reason.tier,
        "objects": detail["objects"],
        "bytes_in": detail["size_bytes"],
    }


# Beginning, and taking back


def begin(txn: Txn, study_uid: str) -> list[int]:
    """Begin a study's listed intents that are due, or take them back; return those begun.

    Those of an eviction whose proof does not hold any more, or of a study that was pinned,
    accessed or asked for since, are taken back: then the study is online again.
    """
    rows = _unbegun(txn.conn, study_uid, due_s=txn.now)
    if not rows:
        return []
    proven = [row for row in rows if row.relies_on and _in_force(txn.conn, row)]
    decided_s = min((row.decided_s for row in proven), default=0.0)
    why = _why_back(txn, study_uid, decided_s) if proven else ""
    if why:
        take_back(txn, study_uid, why)
        rows = [row for row in rows if row not in proven]
    ids = [int(row.intent_id) for row in rows]
    for some in in_lists(ids):
        ours = delete_intents.c.intent_id.in_(some)
        txn.conn.execute(sa.update(delete_intents).where(ours).values(begun_s=txn.now))
    return ids


def _why_back(txn: Txn, study_uid: str, decided_s: float) -> str:
    """Say why a study whose eviction was decided then must stay after all, '' if it need not.

    That is not when it first left: what a series share kept may have been looked at since.
    """
    settings = current_settings.read(txn.conn)[1]
    fact = candidates.facts(txn.conn, [study_uid], settings, txn.now).get(study_uid)
    if fact is None:
        return ""
    if not fact.libraries:
        return f"{fact.unproven}{'' if fact.away else ' any more'}"
    if fact.pinned:
        return "it was pinned"
    if fact.busy:
        return fact.busy
    if float(str(fact.candidate["accessed_s"])) > decided_s:
        return "it was accessed"
    return ""


def take_back(txn: Txn, study_uid: str, why: str) -> bool:
    """Let a study that left, and of which no byte went yet, be as before; False: none is such.

    Only evictions with a proof: objects that others let go (migration, deletion) go on.
    """
    rows = [row for row in _unbegun(txn.conn, study_uid) if row.relies_on]
    rows = [row for row in rows if _in_force(txn.conn, row)]
    if not rows:
        return False
    ids = [int(row.intent_id) for row in rows]
    for some in in_lists(ids):
        txn.conn.execute(sa.delete(delete_intents).where(delete_intents.c.intent_id.in_(some)))
    for paths in in_lists({row.path for row in rows}):
        txn.conn.execute(
            sa.update(series)
            .where(series.c.study_uid == study_uid, series.c.gone_path.in_(paths))
            .values(gone_path="")
        )
    study = txn.conn.execute(
        sa.select(studies.c.generation, studies.c.created_s).where(studies.c.study_uid == study_uid)
    ).one()
    sums: dict[str, list[int]] = {}
    for row in rows:
        ours = sums.setdefault(row.tier, [0, 0])
        ours[0] += row.objects
        ours[1] += row.size_bytes
    restored = [
        {
            "study_uid": study_uid,
            "tier": tier,
            "objects": objects,
            "size_bytes": size_bytes,
            "generation": study.generation,
            "created_s": study.created_s,
        }
        for tier, (objects, size_bytes) in sums.items()
    ]
    add(txn.conn, copies, restored, counters=["objects", "size_bytes"])
    is_away = _away(txn.conn, study_uid)
    if not is_away:
        ours_ = studies.c.study_uid == study_uid
        txn.conn.execute(sa.update(studies).where(ours_).values(offline_s=0.0))
    txn.conn.execute(
        sa.update(copies)
        .where(copies.c.study_uid == study_uid, copies.c.tier.in_(list(sums)))
        .values(kept=is_away)
    )
    holds.refresh(txn, [study_uid])
    detail = {
        "tiers": sorted(sums),
        "objects": sum(one[0] for one in sums.values()),
        "size_bytes": sum(one[1] for one in sums.values()),
        "reason": why,
    }
    audit.record(txn, "taken back", study_uid=study_uid, detail=detail)
    return True


def _away(conn: sa.Connection, study_uid: str) -> bool:
    """Whether instances of a study are away from the image tiers."""
    gone = sa.select(series.c.series_uid).where(
        series.c.study_uid == study_uid,
        series.c.gone_path != "",
        series.c.gone_path == series.c.manifest_path,
    )
    return conn.execute(gone.limit(1)).first() is not None


def gone_paths(conn: sa.Connection, study_uid: str) -> set[str]:
    """Return the paths of manifests in force whose instances left the image tiers."""
    rows = conn.execute(
        sa.select(series.c.manifest_path).where(
            series.c.study_uid == study_uid,
            series.c.gone_path != "",
            series.c.gone_path == series.c.manifest_path,
        )
    )
    return set(rows.scalars())


def pending(conn: sa.Connection, study_uid: str) -> set[tuple[str, str]]:
    """Return (tier, manifest path) of what is about to leave, or leaves: count it as gone."""
    rows = conn.execute(
        sa.select(delete_intents.c.tier, delete_intents.c.path).where(
            delete_intents.c.study_uid == study_uid, delete_intents.c.what == LISTED
        )
    )
    return {(row[0], row[1]) for row in rows}


def _unbegun(
    conn: sa.Connection, study_uid: str, due_s: float | None = None
) -> list[sa.Row[tuple[Any, ...]]]:
    names = (
        *("intent_id", "study_uid", "tier", "path", "size_bytes", "objects"),
        *("relies_on", "decided_s"),
    )
    query = sa.select(*(delete_intents.c[name] for name in names)).where(
        delete_intents.c.study_uid == study_uid,
        delete_intents.c.what == LISTED,
        delete_intents.c.begun_s == 0,
    )
    if due_s is not None:
        query = query.where(delete_intents.c.due_s <= due_s)
    return list(conn.execute(query.order_by(delete_intents.c.intent_id)).all())


def _in_force(conn: sa.Connection, row: sa.Row[tuple[Any, ...]]) -> bool:
    """Whether the manifest of an intent is the one of its series, whose instances are away."""
    found = conn.execute(
        sa.select(series.c.series_uid)
        .where(
            series.c.study_uid == row.study_uid,
            series.c.manifest_path == row.path,
            series.c.gone_path == row.path,
        )
        .limit(1)
    ).first()
    return found is not None


def leaving_bytes(conn: sa.Connection, tier: str) -> int:
    """Return the bytes on a tier that intents will free."""
    query = sa.select(sa.func.coalesce(sa.func.sum(delete_intents.c.size_bytes), 0))
    return int(conn.execute(query.where(delete_intents.c.tier == tier)).scalar_one())


def facts_now(txn: Txn, study_uids: Iterable[str], settings: Settings) -> dict[str, Facts]:
    """Return the facts of studies in this transaction."""
    return candidates.facts(txn.conn, study_uids, settings, txn.now)
