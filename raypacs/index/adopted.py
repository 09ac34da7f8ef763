"""What was adopted: files of others, which the index names and never deletes.

Deleting a study takes it out of the index; its files stay, so that is written down (``let_go``),
and the next adoption leaves the study out unless it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import sqlalchemy as sa

from raypacs.index import ledger, settings
from raypacs.index.engine import Txn, in_lists, insert
from raypacs.index.schema import instances, let_go, studies
from raypacs.records import InstanceRecord

Object = tuple[str, str, int]
"""(tier, path, size in bytes)."""


def tiers(conn: sa.Connection) -> set[str]:
    """Return the names of adopted tiers."""
    return {tier.name for tier in settings.read(conn)[1].tiers if tier.adopted}


def unhurried(conn: sa.Connection, study_uids: Sequence[str]) -> set[str]:
    """Return the studies of which nothing is to be prepared but what was adopted."""
    names = tiers(conn)
    if not names:
        return set()
    urgent: set[str] = set()
    for uids in in_lists(study_uids):
        received = sa.and_(instances.c.form == "", instances.c.tier.not_in(names))
        query = sa.select(instances.c.study_uid).distinct()
        urgent.update(
            conn.execute(query.where(instances.c.study_uid.in_(uids), received)).scalars()
        )
    return set(study_uids) - urgent


# Deleting


def keep(txn: Txn, study_uid: str, objects: Sequence[Object], who: str) -> list[Object]:
    """Return the objects of a study that is deleted without those that stay, which are forgotten.

    Those on adopted tiers: their bytes leave the account, and the study is noted as let go.
    """
    names = tiers(txn.conn)
    staying: Counter[str] = Counter()
    for tier, _, size_bytes in objects:
        if tier in names:
            staying[tier] -= size_bytes
    ledger.commit(txn, staying)
    for tier in staying:
        row = {"study_uid": study_uid, "tier": tier, "at_s": txn.now, "who": who}
        once = insert(txn.conn, let_go).values(row)
        txn.conn.execute(once.on_conflict_do_nothing(index_elements=["study_uid", "tier"]))
    return [one for one in objects if one[0] not in staying]


def refused(txn: Txn, records: Sequence[InstanceRecord], *, deleted: bool) -> set[tuple[str, str]]:
    """Return which (study UID, tier) were let go; with ``deleted`` they are taken back instead."""
    wanted = {(record.study_uid, record.tier) for record in records}
    found: set[tuple[str, str]] = set()
    for uids in in_lists({study_uid for study_uid, _ in wanted}):
        query = sa.select(let_go.c.study_uid, let_go.c.tier).where(let_go.c.study_uid.in_(uids))
        found |= {(row[0], row[1]) for row in txn.conn.execute(query)}
    found &= wanted
    if not deleted:
        return found
    for study_uid, tier in found:
        ours = sa.and_(let_go.c.study_uid == study_uid, let_go.c.tier == tier)
        txn.conn.execute(sa.delete(let_go).where(ours))
    return set()


# Checksums, and what is to be prepared


def checksums(txn: Txn, told: Iterable[tuple[InstanceRecord, str]]) -> int:
    """Keep SHA-256s that were not known; return how many.

    Only of an instance that is served from the record's very place.
    """
    count = 0
    for record, sha256 in told:
        changed = txn.conn.execute(
            sa.update(instances)
            .where(
                instances.c.sop_instance_uid == record.sop_instance_uid,
                instances.c.tier == record.tier,
                instances.c.path == record.path,
                instances.c.sha256 == "",
            )
            .values(sha256=sha256)
        )
        count += changed.rowcount
    return count


def let_prepare(txn: Txn, study_uids: Iterable[str]) -> int:
    """Let studies become due that are not prepared and would not be by themselves."""
    count = 0
    for uids in in_lists(study_uids):
        changed = txn.conn.execute(
            sa.update(studies)
            .where(
                studies.c.study_uid.in_(uids),
                studies.c.prepare_due_s.is_(None),
                studies.c.state == "received",
                studies.c.prepared_count < studies.c.instance_count,
            )
            .values(prepare_due_s=txn.now)
        )
        count += changed.rowcount
    return count


# What there is


def open_places(
    conn: sa.Connection, tier: str, most: int
) -> Iterator[list[tuple[str, str, int, float]]]:
    """Yield (study UID, path, size, time) of the instances on a tier that have a row, in lists."""
    query = sa.select(
        instances.c.study_uid,
        instances.c.path,
        instances.c.size_bytes,
        instances.c.received_at_s,
    ).where(instances.c.tier == tier)
    found = conn.execution_options(yield_per=most).execute(query)
    for rows in found.partitions(most):
        yield [(row[0], row[1], row[2], row[3]) for row in rows]
