"""What operators see of each tier: account, thresholds, level, forecast, how much is archived."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings, TierSettings
from raypacs.index import ledger, levels, settings, status
from raypacs.index.levels import LevelRow
from raypacs.index.schema import copy_totals
from raypacs.policy.holding import FREE, KEPT, LIBRARY, UNARCHIVED, UNJUDGED
from raypacs.policy.levels import thresholds_of

_ARCHIVED = (FREE, KEPT, LIBRARY)
"""Others stay for another reason than their proofs, whether there are any or not."""
_OPEN = (UNARCHIVED, UNJUDGED)
_FIGURES = (
    *("hours_p10", "hours_p50", "hours_p90"),
    *("amber_bytes", "red_bytes", "evictable_hours"),
)


def states(conn: sa.Connection, now: float) -> list[dict[str, Any]]:
    """Return each tier as ``status.tiers``, with thresholds, level, forecast, archived bytes.

    ``hours_left`` is that of the plain rate, ``hours_p50`` that of the forecast.
    """
    current = settings.read(conn)[1]
    by_name = {tier.name: tier for tier in current.tiers}
    judged = levels.read(conn)
    held = _held(conn)
    return [
        row
        | _of_settings(current, by_name[row["name"]], judged.get(row["name"]))
        | _of_level(judged.get(row["name"]))
        | {
            "unarchived_bytes": sum(held.get((row["name"], hold), 0) for hold in _OPEN),
            "archived_bytes": sum(held.get((row["name"], hold), 0) for hold in _ARCHIVED),
        }
        for row in status.tiers(conn, now)
    ]


def recounted(conn: sa.Connection) -> dict[str, tuple[int, int]]:
    """Return (bytes by the ledger, bytes by the count) of every tier, as of one moment."""
    used = {name: row.used_bytes for name, row in ledger.read(conn).items()}
    counted = ledger.recount(conn)
    return {name: (used.get(name, 0), counted.get(name, 0)) for name in {*used, *counted} if name}


def _held(conn: sa.Connection) -> dict[tuple[str, str], int]:
    rows = conn.execute(sa.select(copy_totals.c.tier, copy_totals.c.hold, copy_totals.c.size_bytes))
    return {(row[0], row[1]): int(row[2]) for row in rows}


def _of_settings(current: Settings, tier: TierSettings, row: LevelRow | None) -> dict[str, Any]:
    found: dict[str, Any] = {"draining": tier.draining, "adopted": tier.adopted}
    if tier.role == "library" or tier.adopted:
        return found | {"thresholds": None}
    is_night = bool(row and row.detail.get("is_night"))
    hours = thresholds_of(current.thresholds, tier, is_night=is_night)
    told = {"amber_h": hours.amber_h, "red_h": hours.red_h, "web_h": hours.web_h}
    return found | {"thresholds": told}


def _of_level(row: LevelRow | None) -> dict[str, Any]:
    if row is None:
        return {"level": "", "level_since_s": 0.0, **dict.fromkeys(_FIGURES)}
    figures = {name: row.detail.get(name) for name in _FIGURES}
    return {"level": row.level.value, "level_since_s": row.since_s, **figures}
