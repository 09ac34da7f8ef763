"""Questions about forecasts and levels."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from raypacs.errors import NotFound
from raypacs.index import alarms, forecasts, ledger, levels, settings, status
from raypacs.index.schema import work_items
from raypacs.policy.archiving import ARCHIVE
from raypacs.policy.caches import Cache, rates
from raypacs.policy.forecast import HOUR_S, HourlyIntake, hour_of
from raypacs.policy.levels import Hours, thresholds_of
from raypacs.policy.queue import WAITING, State
from raypacs.policy.window import is_open

_WEEK_S = 7 * 24 * HOUR_S


class ForecastReader:
    """The forecasts' part of the read side."""

    _engine: sa.Engine

    def levels(self) -> dict[str, levels.LevelRow]:
        """Return the level of every cache that was judged, by tier."""
        with self._engine.connect() as conn:
            return levels.read(conn)

    def intake(self, tier: str, since_s: float) -> list[HourlyIntake]:
        """Return the hourly intake of a tier from ``since_s`` on, oldest first."""
        with self._engine.connect() as conn:
            return forecasts.intake(conn, tier, since_s)

    def cache_states(self, now: float) -> list[Cache]:
        """Return every cache (image and web tiers of raypacs' own) as it is now."""
        with self._engine.connect() as conn:
            return forecasts.caches(conn, now)

    def library_bytes(self) -> int:
        """Return the bytes of studies with a proven copy, summed over libraries."""
        with self._engine.connect() as conn:
            return forecasts.library_bytes(conn)

    def archiving_stuck(self, since_s: float) -> bool:
        """Whether archiving was asked for and did not happen since then, or cannot happen.

        An ARCHIVE item is as old and waits or runs, or one failed since, or no library is there.
        What settings or pins keep back makes no items.
        """
        ours = work_items.c.kind == ARCHIVE
        waits = sa.and_(
            work_items.c.state.in_((*WAITING, State.IN_PROCESS)), work_items.c.created_s <= since_s
        )
        failed = sa.and_(
            work_items.c.state == State.FAILED.value, work_items.c.finished_s >= since_s
        )
        items = [
            sa.select(work_items.c.item_id).where(ours, one).limit(1) for one in (waits, failed)
        ]
        with self._engine.connect() as conn:
            accounts = ledger.read(conn)
            libraries = [one.name for one in settings.read(conn)[1].tiers if one.role == "library"]
            return not any(
                accounts[name].reachable for name in libraries if name in accounts
            ) or any(conn.execute(query).first() is not None for query in items)

    def alarms(self) -> list[alarms.AlarmRow]:
        """Return the alarms that last, and those whose end is still to be told."""
        with self._engine.connect() as conn:
            return alarms.read(conn)

    def caches(self, now: float) -> list[dict[str, Any]]:
        """Return every cache: account, level, thresholds in hours and bytes, fill rate, alarms."""
        with self._engine.connect() as conn:
            return _caches(conn, now)

    def cache(self, tier: str, now: float, limit: int = 24) -> dict[str, Any]:
        """Return a cache with its newest forecasts and their errors.

        Raises:
            NotFound: no cache of that name.
        """
        with self._engine.connect() as conn:
            found = [one for one in _caches(conn, now) if one["name"] == tier]
            if not found:
                raise NotFound(f"there is no cache {tier}")
            rows = forecasts.past(conn, tier, limit)
            return found[0] | {"forecasts": rows, "errors": forecasts.errors(rows)}

    def cache_history(self, tier: str, now: float, hours: int = 168) -> dict[str, Any]:
        """Return what a cache took in by hour, newest last, and its forecasts.

        Raises:
            NotFound: no cache of that name.
        """
        with self._engine.connect() as conn:
            if tier not in {one["name"] for one in status.tiers(conn, now)}:
                raise NotFound(f"there is no cache {tier}")
            rows = forecasts.intake(conn, tier, hour_of(now) - hours * HOUR_S)
            return {
                "tier": tier,
                "intake": [
                    {
                        "hour_s": row.hour_s,
                        "studies": row.studies,
                        "objects": row.objects,
                        "size_bytes": row.size_bytes,
                        "moved_bytes": row.moved_bytes,
                    }
                    for row in rows
                ],
                "forecasts": forecasts.past(conn, tier, hours),
            }


def _caches(conn: sa.Connection, now: float) -> list[dict[str, Any]]:
    _, current = settings.read(conn)
    kept = levels.read(conn)
    told = {row.key: row for row in alarms.read(conn) if not row.is_over}
    window = (current.archive.window_start, current.archive.window_end, current.archive.time_zone)
    by_name = {tier.name: tier for tier in current.tiers}
    known = {one["name"]: one for one in status.tiers(conn, now)}
    found = []
    for cache in forecasts.caches(conn, now):
        tier, account = by_name[cache.tier], known[cache.tier]
        night = is_open(now, *window)
        hours = thresholds_of(current.thresholds, tier, is_night=night)
        row = kept.get(cache.tier)
        recent = forecasts.intake(conn, cache.tier, now - _WEEK_S)
        found.append(
            {
                "name": cache.tier,
                "role": cache.role,
                "capacity_bytes": cache.capacity_bytes,
                "used_bytes": account["used_bytes"],
                "available_bytes": cache.available_bytes,
                "level": row.level.value if row else "",
                "since_s": row.since_s if row else 0.0,
                "at_s": row.at_s if row else 0.0,
                "thresholds": _shown(hours, cache.role),
                "detail": dict(row.detail) if row else {},
                "rates": rates(recent, lambda hour_s: is_open(hour_s, *window), now),
                "alarms": [alarm.text for alarm in told.values() if alarm.tier == cache.tier],
            }
        )
    return found


def _shown(hours: Hours, role: str) -> dict[str, float]:
    if role == "web":
        return {"web_h": hours.web_h}
    return {"amber_h": hours.amber_h, "red_h": hours.red_h}
