"""Halting the queue, or a kind of work, and how it stands."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index import audit
from raypacs.index.engine import Txn, add
from raypacs.index.schema import halts
from raypacs.policy.kinds import kind_of


def halt(txn: Txn, kind: str, who: str) -> None:
    """Give out no more work of ``kind`` ('' = any). Raises InvalidQuery."""
    if kind:
        kind_of(kind)
    row = {"kind": kind, "who": who, "at_s": txn.now}
    add(txn.conn, halts, [row], counters=[], replace=["who", "at_s"])
    audit.record(txn, "queue halted", who=who, detail={"kind": kind})


def resume(txn: Txn, kind: str, who: str) -> None:
    """Give out work of ``kind`` ('' = the queue as a whole) again. Raises InvalidQuery."""
    if kind:
        kind_of(kind)
    txn.conn.execute(sa.delete(halts).where(halts.c.kind == kind))
    audit.record(txn, "queue resumed", who=who, detail={"kind": kind})
