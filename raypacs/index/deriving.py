"""Objects that raypacs makes of others: asked for when a study is prepared, registered by a report.

Both in the transaction of the report, so that there is no moment in which an object counts and its
work item does not, or the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from raypacs.index import registration, sealing, settings
from raypacs.index.engine import Txn, in_lists
from raypacs.index.items import stale
from raypacs.index.queue import Wish, enqueue
from raypacs.index.schema import instances, studies, work_items
from raypacs.index.schema import settings as settings_rows
from raypacs.policy import deriving
from raypacs.policy.arrival import compression_for
from raypacs.policy.kinds import DERIVE
from raypacs.policy.queue import Priority, State
from raypacs.records import InstanceRecord, Lease

_COLUMNS = tuple(name for name in InstanceRecord.__slots__ if name != "attributes")
_SETTINGS_HEARD_S = 60.0  # after which every node works by new settings
_RULE = "a rule wants lossy objects of it"


def enqueue_wanted(txn: Txn, study_uid: str, generation: int) -> bool:
    """Make a DERIVE item for a study of which rules want objects that it does not have.

    Not where an earlier one left out all that is wanted: the pixels are the same.
    """
    decided = txn.conn.execute(
        sa.select(studies.c.decided).where(studies.c.study_uid == study_uid)
    ).scalar()
    wanted = (decided or {}).get("compress", {}).get("value", "")
    compression = compression_for(settings.read(txn.conn)[1].compression, wanted)
    if not any(rule.action == "lossy" for rule in compression):
        return False
    ours = instances.c.study_uid == study_uid
    there = set(txn.conn.execute(sa.select(instances.c.sop_instance_uid).where(ours)).scalars())
    query = sa.select(*(instances.c[name] for name in _COLUMNS)).where(
        ours,
        instances.c.source != deriving.SOURCE,
        instances.c.generation > _tried(txn.conn, study_uid),
    )
    records = (InstanceRecord(**row) for row in txn.conn.execute(query).mappings())
    if next(deriving.missing(records, compression, there), None) is None:
        return False
    return enqueue(txn, DERIVE, study_uid, generation, Wish(Priority.LOW, rule=_RULE))


def _tried(conn: sa.Connection, study_uid: str) -> int:
    """Return the generation of a study up to which a DERIVE left out what is not there; 0: none.

    One that began before the study was last received anew, or about when settings changed, does
    not count: it may have asked for something else.
    """
    changed = sa.select(sa.func.max(settings_rows.c.at_s)).scalar_subquery()
    born = sa.select(studies.c.created_s).where(studies.c.study_uid == study_uid).scalar_subquery()
    found = conn.execute(
        sa.select(sa.func.max(work_items.c.generation)).where(
            work_items.c.kind == DERIVE,
            work_items.c.study_uid == study_uid,
            work_items.c.state == State.WARNING.value,
            work_items.c.started_s > changed + _SETTINGS_HEARD_S,
            work_items.c.created_s >= born,
        )
    ).scalar()
    return int(found or 0)


def check(conn: sa.Connection, lease: Lease, records: Sequence[InstanceRecord]) -> None:
    """See that records of an attempt can be registered; nothing is written.

    Raises:
        StaleLease: one of them is of another study than the lease's.
        StudySealed: the study must be reopened first.
    """
    strangers = [one for one in records if one.study_uid != lease.study_uid]
    if strangers:
        raise stale(lease, f"it reports an object of study {strangers[0].study_uid}")
    if records:
        sealing.check_open(conn, [lease.study_uid])


def take_over(txn: Txn, lease: Lease, records: Sequence[InstanceRecord]) -> int:
    """Register what an attempt made; return how many objects are new.

    What is served already under the same SOP Instance UID (another attempt was faster) is passed
    over: whoever wrote it here sees that the index does not name it, and removes it.
    """
    served: set[str] = set()
    for uids in in_lists(record.sop_instance_uid for record in records):
        found = sa.select(instances.c.sop_instance_uid).where(
            instances.c.sop_instance_uid.in_(uids)
        )
        served |= set(txn.conn.execute(found).scalars())
    new = [record for record in records if record.sop_instance_uid not in served]
    if new:
        due_s = txn.now + settings.read(txn.conn)[1].quiet_s
        registration.register(txn, new, holder=lease.node, due_s=due_s, made=True)
    return len(new)


def taken_over(conn: sa.Connection, records: Sequence[InstanceRecord]) -> bool:
    """Whether the index serves one of these from the place that they name."""
    places = {(record.tier, record.path) for record in records}
    for uids in in_lists(record.sop_instance_uid for record in records):
        found = conn.execute(
            sa.select(instances.c.tier, instances.c.path).where(
                instances.c.sop_instance_uid.in_(uids)
            )
        )
        if any((row.tier, row.path) in places for row in found):
            return True
    return False
