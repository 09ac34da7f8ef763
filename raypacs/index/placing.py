"""Series whose instances lie elsewhere now: MIGRATE and RESTORE switch manifests.

A study moves as one: what is reported tells of all its series. Each new manifest takes the place of
the one it is based on; if another is in force by now, nothing is switched. What lay elsewhere is
deleted by intents after the grace period, so readers that know the old places may finish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.index import audit, holds, ledger, planned, sealing, settings
from raypacs.index.engine import Txn, add, in_lists, insert_many
from raypacs.index.schema import copies, delete_intents, hourly_intake, series, studies
from raypacs.index.sealing import ManifestRef
from raypacs.policy.forecast import hour_of
from raypacs.records import Lease, MovedSeries

EVENTS = {"MIGRATE": "migrated", "PREFETCH": "prefetched"}
"""How the story calls what a kind of work did; all others restore."""

TOUCH_S = 0.001
"""Series count as so much later: told by ``Reader.series_state``, so gateways look again."""

Refs = Mapping[str, ManifestRef]


def take_over(txn: Txn, lease: Lease, moved: Sequence[MovedSeries]) -> str:
    """Let new manifests take the place of those they are based on; return why not, '' if they do.

    ``moved`` names every series of the study; one whose manifest stays has it as ``based_on``, too.
    """
    if not moved:
        return ""
    uid = lease.study_uid
    refs = {ref.series_uid: ref for ref in sealing.manifests(txn.conn, uid)}
    if any(one.study_uid != uid for one in moved):
        return "it tells of another study"
    if {one.series_uid: one.based_on for one in moved} != {
        series_uid: ref.path for series_uid, ref in refs.items()
    }:
        return "the study changed meanwhile"
    missing = _missing(txn, uid, moved)
    switched = [one for one in moved if one.manifest_path != one.based_on]
    if not switched:
        settle(txn, uid, missing)
        return ""
    if not _wholly(txn, switched):
        return "instances of it that are not elsewhere yet are being deleted"
    if not _planned(txn, lease, switched):
        return "an object that it wrote is being deleted"
    due_s = txn.now + settings.read(txn.conn)[1].eviction.grace_s
    before = _image_copies(txn, uid)
    _forget_lists(txn, switched)
    intents = _let_go(txn, switched, refs, before, due_s)
    _switch(txn, switched)
    after = _rebuild_copies(txn, moved, before, missing)
    _account(txn, lease, switched, before, after, intents)
    settle(txn, uid, missing)
    _tell(txn, lease, switched)
    return ""


def taken_over(conn: sa.Connection, lease: Lease, moved: Sequence[MovedSeries]) -> bool:
    """Whether manifests of this attempt are in force already."""
    ours = {one.manifest_path for one in moved if one.manifest_path != one.based_on}
    return any(ref.path in ours for ref in sealing.manifests(conn, lease.study_uid) if ours)


def settle(txn: Txn, study_uid: str, missing: int) -> None:
    """Note that a study is online again where nothing is ``missing``; judge its copies anew."""
    if not missing:
        ours = studies.c.study_uid == study_uid
        txn.conn.execute(sa.update(studies).where(ours).values(offline_s=0.0))
        gone = sa.and_(series.c.study_uid == study_uid, series.c.gone_path != "")
        txn.conn.execute(sa.update(series).where(gone).values(gone_path=""))
    holds.refresh(txn, [study_uid])


def moved_in(txn: Txn, sizes: Mapping[str, int]) -> None:
    """Add bytes that came to tiers from others to the hour's history."""
    rows = [
        {"tier": tier, "hour_s": hour_of(txn.now), "studies": 0, "objects": 0, "size_bytes": 0}
        | {"moved_bytes": size}
        for tier, size in sizes.items()
        if size
    ]
    add(txn.conn, hourly_intake, rows, counters=["studies", "objects", "size_bytes", "moved_bytes"])


def _wholly(txn: Txn, switched: Sequence[MovedSeries]) -> bool:
    """Whether all instances of each series that is being let go of lie elsewhere now.

    Its bytes must not go on account of a manifest that does not list them all.
    """
    uid = switched[0].study_uid
    counts = {
        row.series_uid: row.instance_count
        for row in txn.conn.execute(
            sa.select(series.c.series_uid, series.c.instance_count).where(series.c.study_uid == uid)
        )
    }
    partly = {
        one.based_on
        for one in switched
        if sum(count for _, count, _ in one.tier_bytes) < counts[one.series_uid]
    }
    listed = sa.select(delete_intents.c.path).where(
        delete_intents.c.study_uid == uid, delete_intents.c.what == "listed"
    )
    return not partly & set(txn.conn.execute(listed).scalars())


def _planned(txn: Txn, lease: Lease, switched: Sequence[MovedSeries]) -> bool:
    """Let all that was written stay; False where something of it is deleted already."""
    places = [(tier, path) for one in switched for tier, path, _ in one.objects]
    places += [(one.manifest_tier, one.manifest_path) for one in switched]
    return planned.counts(txn, lease, places)


def _image_copies(txn: Txn, study_uid: str) -> dict[str, dict[str, Any]]:
    """Return the study's copies on image tiers; a tier that is in no settings is one, too."""
    roles = {tier.name: tier.role for tier in settings.read(txn.conn)[1].tiers}
    query = sa.select(copies).where(copies.c.study_uid == study_uid)
    return {
        row["tier"]: dict(row)
        for row in txn.conn.execute(query).mappings()
        if roles.get(row["tier"], "image") == "image"
    }


def _let_go(
    txn: Txn,
    switched: Sequence[MovedSeries],
    refs: Refs,
    before: Mapping[str, Any],
    due_s: float,
) -> Counter[str]:
    """Let old objects and old manifests be deleted; return the bytes of objects by tier.

    What an eviction lets go already needs nothing more, and relies on no library any longer.
    """
    adopted = {tier.name for tier in settings.read(txn.conn)[1].tiers if tier.adopted}
    old = {one.based_on for one in switched}
    listed = {(row.tier, row.path) for row in _listed(txn, switched[0].study_uid, old)}
    sizes: Counter[str] = Counter()
    rows = []
    for one in switched:
        ref = refs[one.series_uid]
        common = {"study_uid": one.study_uid, "path": ref.path, "due_s": due_s}
        common |= {"epoch": txn.epoch}
        for tier, objects, size in one.left:
            if tier in before and tier not in adopted and (tier, ref.path) not in listed:
                what = {"what": "listed", "list_tier": ref.tier, "objects": objects}
                rows.append({**common, **what, "tier": tier, "size_bytes": size})
                sizes[tier] += size
        manifest = {"what": "", "list_tier": "", "objects": 0}
        rows.append({**common, **manifest, "tier": ref.tier, "size_bytes": ref.size_bytes})
    insert_many(txn.conn, delete_intents, rows)
    return sizes


def _forget_lists(txn: Txn, switched: Sequence[MovedSeries]) -> None:
    """Forget intents for what lost manifests list: nobody knows it, `index sweep` finds it."""
    freed: Counter[str] = Counter()
    for one in switched:
        if not one.is_lost:
            continue
        ours = sa.and_(
            delete_intents.c.study_uid == one.study_uid,
            delete_intents.c.what == "listed",
            delete_intents.c.path == one.based_on,
        )
        query = sa.select(delete_intents.c.tier, delete_intents.c.size_bytes).where(ours)
        for tier, size_bytes in txn.conn.execute(query):
            freed[tier] -= size_bytes
        txn.conn.execute(sa.delete(delete_intents).where(ours))
    ledger.commit(txn, freed)


def _listed(txn: Txn, study_uid: str, paths: Iterable[str]) -> list[Any]:
    """Return (tier, path) of what is let go already; from now on it relies on no library."""
    found: list[Any] = []
    for some in in_lists(paths):
        ours = sa.and_(
            delete_intents.c.study_uid == study_uid,
            delete_intents.c.what == "listed",
            delete_intents.c.path.in_(some),
        )
        found += txn.conn.execute(
            sa.select(delete_intents.c.tier, delete_intents.c.path).where(ours)
        ).all()
        txn.conn.execute(sa.update(delete_intents).where(ours).values(relies_on=""))
    return found


def _switch(txn: Txn, switched: Sequence[MovedSeries]) -> None:
    for one in switched:
        txn.conn.execute(
            sa.update(series)
            .where(series.c.study_uid == one.study_uid, series.c.series_uid == one.series_uid)
            .values(
                manifest_tier=one.manifest_tier,
                manifest_path=one.manifest_path,
                manifest_bytes=one.manifest_bytes,
                gone_path="" if one.tier_bytes else one.manifest_path,
                created_s=series.c.created_s + TOUCH_S,
            )
        )


def _rebuild_copies(
    txn: Txn, moved: Sequence[MovedSeries], before: Mapping[str, Any], missing: int
) -> dict[str, int]:
    """Write the copies on image tiers as the manifests say; return their bytes by tier."""
    study_uid = moved[0].study_uid
    objects: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for one in moved:
        for tier, count, size in one.tier_bytes:
            objects[tier] += count
            sizes[tier] += size
    generation = txn.conn.execute(
        sa.select(studies.c.generation).where(studies.c.study_uid == study_uid)
    ).scalar_one()
    gone = [tier for tier in before if not objects[tier]]
    for some in in_lists(gone):
        txn.conn.execute(
            sa.delete(copies).where(copies.c.study_uid == study_uid, copies.c.tier.in_(some))
        )
    rows = [
        {
            "study_uid": study_uid,
            "tier": tier,
            "objects": count,
            "size_bytes": sizes[tier],
            "generation": generation,
            "created_s": before.get(tier, {}).get("created_s", txn.now),
            "kept": bool(missing and before.get(tier, {}).get("kept", False)),
        }
        for tier, count in objects.items()
        if count
    ]
    add(
        txn.conn,
        copies,
        rows,
        counters=[],
        replace=["objects", "size_bytes", "generation", "created_s", "kept"],
    )
    return {row["tier"]: row["size_bytes"] for row in rows}


def _account(
    txn: Txn,
    lease: Lease,
    switched: Sequence[MovedSeries],
    before: Mapping[str, Any],
    after: Mapping[str, int],
    intents: Mapping[str, int],
) -> None:
    """Book what the copies, the intents and the manifests add up to now."""
    booked: Counter[str] = Counter(after)
    booked.update(intents)
    booked.subtract({tier: row["size_bytes"] for tier, row in before.items()})
    written: Counter[str] = Counter()
    for one in switched:
        booked[one.manifest_tier] += one.manifest_bytes
        written[one.manifest_tier] += one.manifest_bytes
        for tier, _, size in one.objects:
            written[tier] += size
    ledger.commit(txn, booked)
    ledger.spend(txn, planned.holder(lease), written)
    moved_in(txn, written)


def _missing(txn: Txn, study_uid: str, moved: Sequence[MovedSeries]) -> int:
    """Return how many instances of the study lie on no image tier."""
    there = sum(count for one in moved for _, count, _ in one.tier_bytes)
    total = txn.conn.execute(
        sa.select(studies.c.instance_count).where(studies.c.study_uid == study_uid)
    ).scalar_one()
    return max(0, int(total) - there)


def _tell(txn: Txn, lease: Lease, switched: Sequence[MovedSeries]) -> None:
    objects: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for one in switched:
        for tier, _, size in one.objects:
            objects[tier] += 1
            sizes[tier] += size
    tell(txn, lease, objects, sizes, series_count=len(switched))


def tell(
    txn: Txn,
    lease: Lease,
    objects: Mapping[str, int],
    sizes: Mapping[str, int],
    *,
    series_count: int = 0,
) -> None:
    """Write into the story, and the statistics, what came to which tier."""
    event = EVENTS.get(lease.kind, "restored")
    audit.record(
        txn,
        event,
        study_uid=lease.study_uid,
        item_id=lease.item_id,
        node=lease.node,
        detail={
            "series": series_count,
            "objects": sum(objects.values()),
            "size_bytes": sum(sizes.values()),
            "tiers": dict(sizes),
        },
    )
    told = {"event": event, "study_uid": lease.study_uid, "node": lease.node}
    rows = [{**told, "tier": t, "objects": n, "bytes_in": sizes[t]} for t, n in objects.items()]
    audit.publish(txn, "events", rows)
