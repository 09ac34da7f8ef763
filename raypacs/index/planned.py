"""Objects that an attempt is about to write to image and library tiers, and room it took for them.

Each is a delete intent of no bytes until its attempt's report counts: a crash leaves no object
that nobody knows. Room is a grant to the attempt; what it wrote is spent from it.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from raypacs.index import ledger
from raypacs.index.engine import Txn, in_lists, insert_many
from raypacs.index.items import current
from raypacs.index.schema import delete_intents
from raypacs.records import Lease

PLANNED_FOR_S = 7 * 24 * 3600.0
"""Longer than any attempt: when one dies, its objects are due at once."""


def holder(lease: Lease) -> str:
    """Return who holds an attempt's room: a part of its node, which gives it back when it dies."""
    return f"{lease.node}/{lease.token}"


def plan(txn: Txn, lease: Lease, places: Iterable[tuple[str, str]]) -> None:
    """Note (tier, path) of objects before an attempt writes them. Raises StaleLease."""
    current(txn, lease)
    rows = [
        {
            "study_uid": lease.study_uid,
            "tier": tier,
            "path": path,
            "size_bytes": 0,
            "due_s": txn.now + PLANNED_FOR_S,
            "epoch": txn.epoch,
            "token": lease.token,
        }
        for tier, path in places
    ]
    insert_many(txn.conn, delete_intents, rows)


def reserve(txn: Txn, lease: Lease, tier: str, size_bytes: int) -> int:
    """Take room for an attempt; return the bytes granted. Raises StaleLease."""
    current(txn, lease)
    return ledger.grant(txn, tier, holder(lease), size_bytes)


def counts(txn: Txn, lease: Lease, places: Iterable[tuple[str, str]]) -> bool:
    """Let planned objects stay, as the report counts.

    False, and nothing is changed, where one of them is being deleted already.
    """
    wanted = set(places)
    ids: list[int] = []
    for tier in sorted({tier for tier, _ in wanted}):
        for paths in in_lists(path for one, path in wanted if one == tier):
            ours = sa.and_(
                delete_intents.c.token == lease.token,
                delete_intents.c.tier == tier,
                delete_intents.c.path.in_(paths),
                delete_intents.c.begun_s == 0,
            )
            ids += txn.conn.execute(sa.select(delete_intents.c.intent_id).where(ours)).scalars()
    if len(ids) < len(wanted):
        return False
    for some in in_lists(ids):
        txn.conn.execute(sa.delete(delete_intents).where(delete_intents.c.intent_id.in_(some)))
    return True
