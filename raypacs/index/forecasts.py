"""What a forecast is made of, and what became of earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.index import audit, halting, ledger, settings
from raypacs.index.autopilot_schema import copy_totals, forecasts
from raypacs.index.engine import Txn, insert
from raypacs.index.schema import hourly_intake, study_totals
from raypacs.policy.caches import HORIZONS, Cache
from raypacs.policy.forecast import HOUR_S, HourlyIntake
from raypacs.policy.holding import LIBRARY, PINNED, UNARCHIVED, UNJUDGED
from raypacs.policy.kinds import PREPARE
from raypacs.policy.queue import WAITING, State

KEPT_S = 400 * 86400.0
"""So long forecasts stay in the index; as Parquet they stay for good."""
_BATCH = 200
_WEEK_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Made:
    """A forecast as it is kept; ``bytes_ahead``: by hours ahead, what will have come by then."""

    tier: str
    at_s: float
    method: str
    hours: tuple[float | None, float | None, float | None]
    available_bytes: int
    backlog_bytes: int
    bytes_ahead: Mapping[int, float]


def intake(conn: sa.Connection, tier: str, since_s: float) -> list[HourlyIntake]:
    """Return the hourly intake of a tier from ``since_s`` on, oldest first."""
    columns = ("hour_s", "studies", "objects", "size_bytes", "moved_bytes")
    rows = conn.execute(
        sa.select(*(hourly_intake.c[name] for name in columns))
        .where(hourly_intake.c.tier == tier, hourly_intake.c.hour_s >= since_s)
        .order_by(hourly_intake.c.hour_s)
    )
    return [HourlyIntake(*row) for row in rows]


def caches(conn: sa.Connection, now: float) -> list[Cache]:
    """Return every cache (image and web tiers of raypacs' own) as it is now."""
    _, current = settings.read(conn)
    accounts = ledger.read(conn)
    held = _held(conn)
    web = [tier for tier in current.tiers if tier.role == "web"]
    taking = [tier.name for tier in web if not (tier.read_only or tier.draining)]
    backlog = _backlog(conn, now, [tier.name for tier in web]) if taking else 0
    found = []
    for tier in current.tiers:
        account = accounts.get(tier.name)
        if tier.role == "library" or tier.adopted or account is None or not account.seen_s:
            continue
        if not (account.reachable or account.capacity_bytes):
            continue  # never reached: how large it is nobody knows, so it is not full
        ours = held.get(tier.name, {})
        waits = backlog // len(taking) if tier.name in taking else 0
        found.append(
            Cache(
                tier=tier.name,
                role=tier.role,
                capacity_bytes=account.capacity_bytes,
                available_bytes=max(0, account.capacity_bytes - account.used_bytes),
                unarchived_bytes=ours.get(UNARCHIVED, 0) + ours.get(UNJUDGED, 0),
                pinned_bytes=ours.get(PINNED, 0),
                backlog_bytes=waits,
            )
        )
    return found


def library_bytes(conn: sa.Connection) -> int:
    """Return the bytes of studies with a proven copy, summed over libraries."""
    return sum(holds.get(LIBRARY, 0) for holds in _held(conn).values())


def _held(conn: sa.Connection) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for tier, hold, size in conn.execute(
        sa.select(copy_totals.c.tier, copy_totals.c.hold, copy_totals.c.size_bytes)
    ):
        found.setdefault(tier, {})[hold] = int(size)
    return found


def _backlog(conn: sa.Connection, now: float, web: Sequence[str]) -> int:
    """Return the bytes that PREPARE has still to write: studies in the queue, as large as usual.

    Not all that is unprepared: what left a web cache is prepared again only when somebody reads it.
    """
    counts = halting.counts_by_state(conn).get(PREPARE, {})
    studies = sum(count for state, count in counts.items() if state in _TO_COME)
    totals = {row.state: row for row in conn.execute(sa.select(study_totals))}
    prepared, received = totals.get("prepared"), totals.get("received")
    if not studies or received is None or not received.studies:
        return 0
    ratio = 1.0
    if prepared is not None and prepared.size_bytes and prepared.prepared_bytes:
        ratio = prepared.prepared_bytes / prepared.size_bytes
    came, size = _lately(conn, now, web)
    usual = size / came if came else received.size_bytes / received.studies
    waiting = max(0, received.size_bytes - received.prepared_bytes / ratio)
    return round(min(studies * usual, waiting) * ratio)


_TO_COME = frozenset({*WAITING, State.IN_PROCESS})


def _lately(conn: sa.Connection, now: float, web: Sequence[str]) -> tuple[int, int]:
    """Return studies and bytes that image tiers took in within the last seven days."""
    row = conn.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(hourly_intake.c.studies), 0),
            sa.func.coalesce(sa.func.sum(hourly_intake.c.size_bytes), 0),
        ).where(hourly_intake.c.hour_s > now - _WEEK_S, hourly_intake.c.tier.not_in(web))
    ).one()
    return int(row[0]), int(row[1])


def keep(txn: Txn, made: Made) -> None:
    """Keep a forecast, once an hour and tier; forget those that are too old."""
    hour_s = made.at_s // HOUR_S * HOUR_S
    values = {
        "tier": made.tier,
        "at_s": hour_s,
        "method": made.method,
        "hours_p10": made.hours[0],
        "hours_p50": made.hours[1],
        "hours_p90": made.hours[2],
        "detail": {
            "made_s": made.at_s,
            "available_bytes": made.available_bytes,
            "backlog_bytes": made.backlog_bytes,
            "bytes_ahead": {str(hours): size for hours, size in made.bytes_ahead.items()},
        },
        "error": {},
        "scored_s": 0.0,
    }
    statement = insert(txn.conn, forecasts).values(values)
    txn.conn.execute(statement.on_conflict_do_nothing(index_elements=["tier", "at_s"]))
    txn.conn.execute(
        sa.delete(forecasts).where(
            forecasts.c.tier == made.tier, forecasts.c.at_s < txn.now - KEPT_S
        )
    )


def score(txn: Txn, tier: str) -> int:
    """Compare forecasts of a tier, all of whose horizons are over, with what came; return how many.

    They are published to the statistics then, each once.
    """
    due_s = txn.now - (max(HORIZONS) + 1) * HOUR_S
    rows = txn.conn.execute(
        sa.select(forecasts)
        .where(forecasts.c.scored_s == 0, forecasts.c.tier == tier, forecasts.c.at_s < due_s)
        .order_by(forecasts.c.at_s)
        .limit(_BATCH)
    ).all()
    if not rows:
        return 0
    taken = {hour.hour_s: hour.filled_bytes for hour in intake(txn.conn, tier, rows[0].at_s)}
    for row in rows:
        told = error_of(row.at_s, row.detail, taken)
        txn.conn.execute(
            sa.update(forecasts)
            .where(forecasts.c.tier == tier, forecasts.c.at_s == row.at_s)
            .values(error=told, scored_s=txn.now)
        )
        audit.publish(txn, "forecasts", [_published(row, told) | {"scored": txn.now}])
    return len(rows)


def error_of(
    hour_s: float, detail: Mapping[str, Any], taken: Mapping[int, int]
) -> dict[str, dict[str, float]]:
    """Return by horizon (hours) the bytes that came, and the relative error of what was said.

    The hour in which the forecast was made counts by the part of it that was left.
    """
    made_s = float(detail["made_s"])
    left = 1 - (made_s - hour_s) / HOUR_S
    found = {}
    for horizon in HORIZONS:
        first = int(hour_s)
        actual = left * taken.get(first, 0)
        actual += sum(taken.get(first + HOUR_S * hour, 0) for hour in range(1, horizon))
        actual += (1 - left) * taken.get(first + HOUR_S * horizon, 0)
        said = float(detail["bytes_ahead"][str(horizon)])
        told = {"said_bytes": said, "came_bytes": actual}
        if actual > 0:
            told["error"] = said / actual - 1
        found[str(horizon)] = told
    return found


def _published(row: sa.Row[Any], told: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    values = {
        "at": row.detail["made_s"],
        "tier": row.tier,
        "method": row.method,
        "hours_p10": row.hours_p10,
        "hours_p50": row.hours_p50,
        "hours_p90": row.hours_p90,
        "available_bytes": row.detail["available_bytes"],
        "backlog_bytes": row.detail["backlog_bytes"],
    }
    for horizon, figures in told.items():
        values[f"bytes_{horizon}h"] = round(figures["said_bytes"])
        values[f"actual_{horizon}h"] = round(figures["came_bytes"])
        values[f"error_{horizon}h"] = figures.get("error")
    return values


def past(conn: sa.Connection, tier: str, limit: int) -> list[dict[str, Any]]:
    """Return the newest forecasts of a tier, newest first; ``error`` {} until it is known."""
    rows = conn.execute(
        sa.select(forecasts)
        .where(forecasts.c.tier == tier)
        .order_by(forecasts.c.at_s.desc())
        .limit(limit)
    )
    return [
        {
            "at_s": row.detail.get("made_s", row.at_s),
            "method": row.method,
            "hours_p10": row.hours_p10,
            "hours_p50": row.hours_p50,
            "hours_p90": row.hours_p90,
            "available_bytes": row.detail.get("available_bytes", 0),
            "backlog_bytes": row.detail.get("backlog_bytes", 0),
            "bytes_ahead": row.detail.get("bytes_ahead", {}),
            "error": row.error,
        }
        for row in rows
    ]


def errors(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return by horizon how many forecasts were compared, their median error and its size."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for horizon, told in row["error"].items():
            if "error" in told:
                found.setdefault(horizon, []).append(told["error"])
    return {
        horizon: {
            "forecasts": len(values),
            "median_error": sorted(values)[len(values) // 2],
            "median_size": sorted(map(abs, values))[len(values) // 2],
        }
        for horizon, values in found.items()
    }
