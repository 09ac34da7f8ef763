"""Levels of caches as they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.index.autopilot_schema import levels
from raypacs.index.engine import Txn, add
from raypacs.policy.levels import Level


@dataclass(frozen=True, slots=True)
class LevelRow:
    """A cache's level: since when, as judged at ``at_s``; ``detail``: the figures it rests on.

    detail: hours_p10, hours_p50, hours_p90 (None: not filling), amber_bytes, red_bytes, web_bytes
    (thresholds in bytes at the forecast), need_bytes (to be freed to leave the level; 0 on green),
    need_bytes_amber, need_bytes_red, available_bytes, unarchived_bytes, pinned_bytes,
    evictable_hours, is_night, method, why.
    """

    tier: str
    level: Level
    since_s: float
    at_s: float
    detail: Mapping[str, Any]


def read(conn: sa.Connection) -> dict[str, LevelRow]:
    """Return the level of every cache that was judged, by tier."""
    return {
        row.tier: LevelRow(row.tier, Level(row.level), row.since_s, row.at_s, row.detail)
        for row in conn.execute(sa.select(levels))
    }


def keep(txn: Txn, rows: list[LevelRow]) -> None:
    """Replace the levels of these tiers."""
    values = [
        {
            "tier": row.tier,
            "level": row.level.value,
            "since_s": row.since_s,
            "at_s": row.at_s,
            "detail": dict(row.detail),
        }
        for row in rows
    ]
    add(txn.conn, levels, values, counters=[], replace=["level", "since_s", "at_s", "detail"])


def drop(txn: Txn, tiers: Sequence[str]) -> None:
    """Forget the levels of these tiers."""
    txn.conn.execute(sa.delete(levels).where(levels.c.tier.in_(list(tiers))))
