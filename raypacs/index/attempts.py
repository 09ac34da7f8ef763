"""Attempts: which run, and which are dead, so that what they wrote is swept from web tiers."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index.engine import Txn
from raypacs.index.items import is_running
from raypacs.index.schema import dead_attempts, work_items


def sweepable(conn: sa.Connection, now: float, limit: int) -> list[tuple[str, str, int]]:
    """Return dead attempts to sweep now: (token, study UID, sweeps done)."""
    found = conn.execute(
        sa.select(dead_attempts.c.token, dead_attempts.c.study_uid, dead_attempts.c.sweeps)
        .where(dead_attempts.c.next_sweep_s <= now)
        .order_by(dead_attempts.c.next_sweep_s)
        .limit(limit)
    )
    return [(row[0], row[1], row[2]) for row in found]


def swept(txn: Txn, token: str, *, again_s: float | None) -> None:
    """Note a sweep: sweep once more at ``again_s``, or forget the attempt."""
    ours = dead_attempts.c.token == token
    if again_s is None:
        txn.conn.execute(sa.delete(dead_attempts).where(ours))
    else:
        txn.conn.execute(
            sa.update(dead_attempts)
            .where(ours)
            .values(next_sweep_s=again_s, sweeps=dead_attempts.c.sweeps + 1)
        )


def live_tokens(conn: sa.Connection) -> set[str]:
    """Return the tokens of running attempts."""
    return set(conn.execute(sa.select(work_items.c.token).where(is_running)).scalars())
