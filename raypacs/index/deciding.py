"""What a record is to the index: new, known, a conflict, or not to be told without checksums.

The first instance registered under a SOP Instance UID wins. Where a checksum is missing (it was
adopted and not read whole yet), what differs in transfer syntax or length is a CONFLICT without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from raypacs.index import deletion
from raypacs.index.engine import in_lists
from raypacs.index.schema import instances
from raypacs.records import InstanceRecord, Outcome, Registered


@dataclass
class Batch:
    """What one batch adds up to while it is decided."""

    new: list[InstanceRecord] = field(default_factory=list)
    conflicts: list[InstanceRecord] = field(default_factory=list)
    # Bytes per tier that leave the holder's grant (those of conflicts leave it with the aside).
    spent: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Served:
    """The instance that is served under a SOP Instance UID; ``length`` of its data set."""

    sha256: str
    syntax: str
    tier: str
    path: str
    length: int

    @classmethod
    def of(cls, record: InstanceRecord) -> _Served:
        length = record.size_bytes - record.dataset_offset_bytes
        return cls(record.sha256, record.transfer_syntax_uid, record.tier, record.path, length)


def decide(
    conn: sa.Connection, records: Sequence[InstanceRecord], batch: Batch
) -> list[Registered]:
    """Sort records into ``batch``; return the answers in their order."""
    served = _served(conn, records)
    # Bytes with a delete intent are as good as gone: a record that comes late (from recovery, or
    # again because its answer was not heard) must not bring them back.
    doomed = deletion.doomed(conn, ((r.study_uid, r.tier, r.path) for r in records))
    answers = []
    for record in records:
        uid = record.sop_instance_uid
        outcome = Outcome.STORED
        if (record.tier, record.path) in doomed:
            outcome = Outcome.REFUSED
        elif uid not in served:
            served[uid] = _Served.of(record)
            batch.new.append(record)
            batch.spent[record.tier] += record.size_bytes
        else:
            outcome = _again(record, served[uid])
            if outcome is Outcome.CONFLICT:
                batch.conflicts.append(record)
            elif outcome is Outcome.KNOWN:
                batch.spent[record.tier] += record.size_bytes
        answers.append(Registered(uid, record.path, outcome))
    return answers


def _again(record: InstanceRecord, first: _Served) -> Outcome:
    """Return what a record is whose SOP Instance UID is served; STORED: the same registration."""
    this = _Served.of(record)
    if (this.tier, this.path) == (first.tier, first.path):
        return Outcome.STORED
    if this.syntax != first.syntax:
        return Outcome.CONFLICT
    if this.sha256 and first.sha256:
        return Outcome.KNOWN if this.sha256 == first.sha256 else Outcome.CONFLICT
    return Outcome.UNDECIDED if this.length == first.length else Outcome.CONFLICT


def _served(conn: sa.Connection, records: Sequence[InstanceRecord]) -> dict[str, _Served]:
    found: dict[str, _Served] = {}
    for uids in in_lists(record.sop_instance_uid for record in records):
        rows = conn.execute(
            sa.select(
                instances.c.sop_instance_uid,
                instances.c.sha256,
                instances.c.transfer_syntax_uid,
                instances.c.tier,
                instances.c.path,
                instances.c.size_bytes - instances.c.dataset_offset_bytes,
            ).where(instances.c.sop_instance_uid.in_(uids))
        )
        found |= {row[0]: _Served(*row[1:]) for row in rows}
    return found
