"""The story of studies and of the cluster, and the statistics' outbox: rows beside each change."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.index.engine import Txn, insert_many
from raypacs.index.schema import audit, outbox


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One statistics event (or sample) that waits to be written; ``mark`` is random."""

    outbox_id: int
    stream: str
    at_s: float
    mark: str
    payload: dict[str, Any]


def record(
    txn: Txn,
    event: str,
    *,
    study_uid: str = "",
    item_id: int = 0,
    node: str = "",
    who: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write one audit event. ``detail`` holds numbers, UIDs and reasons, no patient attributes."""
    record_many(
        txn,
        event,
        [
            {
                "study_uid": study_uid,
                "item_id": item_id,
                "node": node,
                "who": who,
                "detail": dict(detail or {}),
            }
        ],
    )


def record_many(txn: Txn, event: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write audit events of one kind; each row may give study_uid, item_id, node, who, detail."""
    blank = {
        "at_s": txn.now,
        "epoch": txn.epoch,
        "event": event,
        "study_uid": "",
        "item_id": 0,
        "node": "",
        "who": "",
        "detail": {},
    }
    insert_many(txn.conn, audit, [{**blank, **row} for row in rows])


def publish(txn: Txn, stream: str, payloads: Sequence[Mapping[str, Any]]) -> None:
    """Put statistics into the outbox: stream 'events' or 'samples'."""
    insert_many(
        txn.conn,
        outbox,
        [
            {
                "stream": stream,
                "at_s": txn.now,
                "mark": secrets.token_hex(4),
                "payload": dict(payload),
            }
            for payload in payloads
        ],
    )


def waiting(conn: sa.Connection, limit: int) -> list[OutboxRow]:
    """Return the oldest rows of the outbox."""
    found = conn.execute(sa.select(outbox).order_by(outbox.c.outbox_id).limit(limit))
    return [OutboxRow(**row) for row in found.mappings()]


def written(txn: Txn, rows: Sequence[OutboxRow]) -> None:
    """Forget rows that are durable as Parquet."""
    if rows:
        last = max(row.outbox_id for row in rows)
        txn.conn.execute(sa.delete(outbox).where(outbox.c.outbox_id <= last))


def story(conn: sa.Connection, study_uid: str, limit: int) -> list[dict[str, Any]]:
    """Return a study's audit events in order, the newest ``limit`` of them."""
    newest = (
        sa.select(audit)
        .where(audit.c.study_uid == study_uid)
        .order_by(audit.c.audit_id.desc())
        .limit(limit)
    )
    return [dict(row) for row in conn.execute(newest).mappings()][::-1]


def count(conn: sa.Connection, study_uid: str) -> int:
    """Return the number of a study's audit events."""
    query = sa.select(sa.func.count()).where(audit.c.study_uid == study_uid)
    return int(conn.execute(query).scalar_one())


def beginning(conn: sa.Connection, study_uid: str, limit: int) -> list[dict[str, Any]]:
    """Return the oldest ``limit`` audit events of a study, in order."""
    oldest = sa.select(audit).where(audit.c.study_uid == study_uid)
    found = conn.execute(oldest.order_by(audit.c.audit_id).limit(limit))
    return [dict(row) for row in found.mappings()]


def newest(
    conn: sa.Connection, study_uid: str, item_id: int, events: Iterable[str]
) -> sa.RowMapping | None:
    """Return the newest of such events of an item."""
    query = (
        sa.select(audit)
        .where(
            audit.c.study_uid == study_uid,
            audit.c.item_id == item_id,
            audit.c.event.in_(list(events)),
        )
        .order_by(audit.c.audit_id.desc())
        .limit(1)
    )
    return conn.execute(query).mappings().one_or_none()


def nodes_of(
    conn: sa.Connection, study_uid: str, item_id: int, event: str, limit: int
) -> list[str]:
    """Return the nodes of the newest ``limit`` events of an item, each once, by name."""
    newest = (
        sa.select(audit.c.node)
        .where(audit.c.study_uid == study_uid, audit.c.item_id == item_id, audit.c.event == event)
        .order_by(audit.c.audit_id.desc())
        .limit(limit)
    )
    return sorted(set(conn.execute(newest).scalars()))
