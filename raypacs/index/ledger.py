"""Bytes per tier: the one place where they change.

available = capacity - used - granted. A holder is granted bytes before it writes; what it
registers moves from its grant to used; a confirmed deletion takes from used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.index.engine import Txn, add
from raypacs.index.schema import (
    asides,
    containers,
    copies,
    delete_intents,
    grants,
    hourly_intake,
    instances,
    ledger,
    packs,
    series,
    studies,
)
from raypacs.policy.forecast import HourlyIntake, hour_of
from raypacs.policy.holding import LIBRARY


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One tier's account. ``capacity_bytes`` and ``reachable`` are as last seen at ``seen_s``."""

    tier: str
    used_bytes: int
    granted_bytes: int
    capacity_bytes: int
    reachable: bool
    seen_s: float

    @property
    def available_bytes(self) -> int:
        """Bytes that may still be granted."""
        return max(0, self.capacity_bytes - self.used_bytes - self.granted_bytes)


@dataclass(frozen=True, slots=True)
class TierSeen:
    """What the master saw of a tier; ``capacity_bytes`` counts when it was reachable."""

    tier: str
    capacity_bytes: int
    reachable: bool


def commit(txn: Txn, sizes: Mapping[str, int]) -> None:
    """Add durable, registered bytes per tier (negative: a confirmed deletion)."""
    rows = [
        {"tier": tier, "used_bytes": size, "capacity_bytes": 0, "reachable": True, "seen_s": 0.0}
        for tier, size in sizes.items()
        if size
    ]
    add(txn.conn, ledger, rows, counters=["used_bytes"])


def spend(txn: Txn, holder: str, sizes: Mapping[str, int]) -> None:
    """Take bytes that a holder has written from its grants; a grant never falls below 0."""
    if not holder:
        return
    for tier, size in sizes.items():
        left = grants.c.granted_bytes - size
        txn.conn.execute(
            sa.update(grants)
            .where(grants.c.tier == tier, grants.c.holder == holder)
            .values(granted_bytes=sa.case((left > 0, left), else_=0))
        )


def grant(txn: Txn, tier: str, holder: str, want_bytes: int) -> int:
    """Promise ``holder`` up to ``want_bytes`` more on ``tier``; 0 means the tier is full."""
    row = read(txn.conn).get(tier)
    given = 0 if row is None or not row.reachable else min(want_bytes, row.available_bytes)
    if given <= 0:
        return 0
    add(
        txn.conn,
        grants,
        [{"tier": tier, "holder": holder, "granted_bytes": given, "updated_s": txn.now}],
        counters=["granted_bytes"],
        replace=["updated_s"],
    )
    return given


def release(txn: Txn, holder: str) -> int:
    """Give back what ``holder`` and its parts (``holder/...``) were granted; return the bytes."""
    theirs = sa.or_(
        grants.c.holder == holder, grants.c.holder.startswith(f"{holder}/", autoescape=True)
    )
    freed = txn.conn.execute(
        sa.select(sa.func.coalesce(sa.func.sum(grants.c.granted_bytes), 0)).where(theirs)
    ).scalar_one()
    txn.conn.execute(sa.delete(grants).where(theirs))
    return int(freed)


def seen(txn: Txn, tiers: Iterable[TierSeen]) -> None:
    """Keep what was seen of the tiers: capacity (only when reachable) and reachability."""
    reachable: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for tier in tiers:
        row = {
            "tier": tier.tier,
            "used_bytes": 0,
            "capacity_bytes": tier.capacity_bytes,
            "reachable": tier.reachable,
            "seen_s": txn.now,
        }
        (reachable if tier.reachable else lost).append(row)
    add(txn.conn, ledger, reachable, counters=[], replace=["capacity_bytes", "reachable", "seen_s"])
    add(txn.conn, ledger, lost, counters=[], replace=["reachable", "seen_s"])


def read(conn: sa.Connection) -> dict[str, LedgerRow]:
    """Return every tier's account."""
    granted = (
        sa.select(grants.c.tier, sa.func.sum(grants.c.granted_bytes).label("granted_bytes"))
        .group_by(grants.c.tier)
        .subquery()
    )
    found = conn.execute(
        sa.select(
            ledger.c.tier,
            ledger.c.used_bytes,
            sa.func.coalesce(granted.c.granted_bytes, 0).label("granted_bytes"),
            ledger.c.capacity_bytes,
            ledger.c.reachable,
            ledger.c.seen_s,
        ).select_from(ledger.outerjoin(granted, granted.c.tier == ledger.c.tier))
    )
    return {
        row["tier"]: LedgerRow(**{**row, "granted_bytes": int(row["granted_bytes"])})
        for row in found.mappings()
    }


def recount(conn: sa.Connection) -> dict[str, int]:
    """Count the bytes per tier again from the rows of all objects; equals ``used_bytes``.

    Of a sealed study, whose instances have no rows, the copies in caches are counted, less its
    packs. Instances that lie nowhere but in libraries (tier '') take no bytes.
    """
    total: Counter[str] = Counter()
    sealed = studies.c.sealed_s > 0
    in_cache = sa.and_(sealed, copies.c.hold != LIBRARY)
    pack_bytes = packs.c.pack_bytes + packs.c.header_bytes
    for column, size, table, where in (
        (instances.c.tier, instances.c.size_bytes, instances, instances.c.tier != ""),
        (containers.c.tier, containers.c.size_bytes, containers, sa.true()),
        (packs.c.tier, pack_bytes, packs, sa.true()),
        (asides.c.tier, asides.c.size_bytes, asides, sa.true()),
        (delete_intents.c.tier, delete_intents.c.size_bytes, delete_intents, sa.true()),
        (series.c.manifest_tier, series.c.manifest_bytes, series, series.c.manifest_path != ""),
        (copies.c.tier, copies.c.size_bytes, _of_study(copies), in_cache),
        (packs.c.tier, -pack_bytes, _of_study(packs), sealed),
    ):
        query = sa.select(column, sa.func.sum(size)).select_from(table).where(where)
        for tier, size_bytes in conn.execute(query.group_by(column)):
            total[tier] += int(size_bytes)
    return {tier: size_bytes for tier, size_bytes in total.items() if size_bytes}


def _of_study(table: sa.Table) -> sa.Join:
    return table.join(studies, studies.c.study_uid == table.c.study_uid)


def took_in(txn: Txn, tier: str, *, studies: int, objects: int, size_bytes: int) -> None:
    """Add to the hour's intake of a tier."""
    row = {
        "tier": tier,
        "hour_s": hour_of(txn.now),
        "studies": studies,
        "objects": objects,
        "size_bytes": size_bytes,
    }
    add(txn.conn, hourly_intake, [row], counters=["studies", "objects", "size_bytes"])


def history(conn: sa.Connection, since_s: float) -> dict[str, list[HourlyIntake]]:
    """Return the hourly intake per tier since ``since_s``, oldest first."""
    found: dict[str, list[HourlyIntake]] = {}
    rows = conn.execute(
        sa.select(hourly_intake)
        .where(hourly_intake.c.hour_s > since_s)
        .order_by(hourly_intake.c.hour_s)
    )
    for row in rows.mappings():
        found.setdefault(row["tier"], []).append(
            HourlyIntake(
                row["hour_s"],
                row["studies"],
                row["objects"],
                row["size_bytes"],
                row["moved_bytes"],
            )
        )
    return found
