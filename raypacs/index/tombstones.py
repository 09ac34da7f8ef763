"""What was erased and must not come back: hashes of studies, and when they were erased.

Received before that it is refused; a study that somebody sends anew is another one.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from raypacs.index import site
from raypacs.index.engine import Txn, in_lists, insert
from raypacs.index.schema import erased
from raypacs.records import InstanceRecord


def key_of(site_id: str, text: str) -> str:
    """Return the hash that stands for a UID or Patient ID after it was erased."""
    return hmac.new(f"raypacs erased {site_id}".encode(), text.encode(), "sha256").hexdigest()


def keep(txn: Txn, keys: Mapping[str, float], number: int = 0) -> set[str]:
    """Keep hashes of erased studies with the times of it; return those that were not known."""
    known: set[str] = set()
    for some in in_lists(keys):
        query = sa.select(erased.c.study_key).where(erased.c.study_key.in_(some))
        known |= set(txn.conn.execute(query).scalars())
    for key, at_s in keys.items():
        row = {"study_key": key, "at_s": at_s, "erasure_id": number}
        statement = insert(txn.conn, erased).values(row)
        later = {"at_s": at_s, "erasure_id": number}
        txn.conn.execute(
            statement.on_conflict_do_update(
                index_elements=["study_key"], set_=later, where=erased.c.at_s < at_s
            )
        )
    return set(keys) - known


def came_back(conn: sa.Connection, study_uids: Iterable[str]) -> dict[str, float]:
    """Return which of these studies were erased, and when."""
    if conn.execute(sa.select(erased.c.study_key).limit(1)).first() is None:
        return {}
    site_id = site.read(conn).site_id
    keys = {key_of(site_id, uid): uid for uid in study_uids}
    found: dict[str, float] = {}
    for some in in_lists(keys):
        rows = conn.execute(
            sa.select(erased.c.study_key, erased.c.at_s).where(erased.c.study_key.in_(some))
        )
        found |= {keys[row[0]]: float(row[1]) for row in rows}
    return found


def refused(conn: sa.Connection, records: Iterable[InstanceRecord]) -> set[tuple[str, str]]:
    """Return (tier, path) of files that are older than the erasure of their study."""
    every = list(records)
    times = came_back(conn, {record.study_uid for record in every})
    return {
        (record.tier, record.path)
        for record in every
        if record.received_at_s <= times.get(record.study_uid, float("-inf"))
    }
