"""What is left of an attempt that ended: objects it planned and did not report, room it took."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index import ledger
from raypacs.index.engine import Txn
from raypacs.index.schema import delete_intents

STILL_WRITES_S = 120.0
"""A node that was cut off may still write for so long."""


def end(txn: Txn, node: str, token: str, *, due_s: float) -> None:
    """Let what an attempt planned (``planned``) and did not report be deleted from ``due_s`` on.

    Room that it took is given back.
    """
    if not token:
        return
    txn.conn.execute(
        sa.update(delete_intents)
        .where(delete_intents.c.token == token, delete_intents.c.due_s > due_s)
        .values(due_s=due_s)
    )
    ledger.release(txn, f"{node}/{token}")
