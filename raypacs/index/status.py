"""The state of the whole cluster in one plain dict, from the index alone.

Any node can answer it, also while the master restarts.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from raypacs.index import halting, ledger, levels, nodes, settings, site
from raypacs.index.schema import asides, delete_intents, meta, study_totals
from raypacs.policy.forecast import WINDOW_S, fill_rate, hours_left


def status(conn: sa.Connection, now: float) -> dict[str, Any]:
    """Return a JSON-able dict.

    Keys: epoch, since_s, settings_version, nodes (list), tiers (list, in order), queue
    ({kind: {state: count}}), studies (received, prepared, waiting, failed), instances, aside
    ({outcome: count}), deletes_pending, reconcile (why nothing is deleted, or ''). Sizes in bytes,
    times in seconds (UTC), ``hours_left`` and ``fill_rate`` None without history.
    """
    claimed = conn.execute(
        sa.select(meta.c.number, meta.c.at_s).where(meta.c.name == "epoch")
    ).one_or_none()
    version, current = settings.read(conn)
    return {
        "epoch": claimed.number if claimed else 0,
        "since_s": claimed.at_s if claimed else 0.0,
        "settings_version": version,
        "nodes": nodes.read(conn, now, current.node_lost_s),
        "tiers": tiers(conn, now),
        "queue": halting.counts_by_state(conn),
        "studies": _studies(conn),
        "instances": _instances(conn),
        "aside": _counts(conn, asides.c.outcome),
        "deletes_pending": conn.execute(
            sa.select(sa.func.count()).select_from(delete_intents)
        ).scalar_one(),
        "reconcile": site.read(conn).reconcile,
    }


def tiers(conn: sa.Connection, now: float) -> list[dict[str, Any]]:
    """Return each configured tier with its account, fill rate and hours left."""
    _, current = settings.read(conn)
    accounts = ledger.read(conn)
    history = ledger.history(conn, now - WINDOW_S)
    judged = levels.read(conn)
    found = []
    for tier in sorted(current.tiers, key=lambda tier: (tier.role, tier.order, tier.name)):
        account = accounts.get(tier.name) or ledger.LedgerRow(tier.name, 0, 0, 0, False, 0.0)
        rate = fill_rate(history.get(tier.name, ()), now)
        found.append(
            {
                "name": tier.name,
                "role": tier.role,
                "url": tier.shown_url,
                "order": tier.order,
                "read_only": tier.read_only,
                "draining": tier.draining,
                "reachable": account.reachable,
                "seen_s": account.seen_s,
                "capacity_bytes": account.capacity_bytes,
                "used_bytes": account.used_bytes,
                "granted_bytes": account.granted_bytes,
                "available_bytes": account.available_bytes,
                "fill_rate": rate
                and {
                    "studies_per_hour": rate.studies_per_hour,
                    "objects_per_study": rate.objects_per_study,
                    "bytes_per_object": rate.bytes_per_object,
                    "bytes_per_hour": rate.bytes_per_hour,
                },
                "hours_left": hours_left(account.available_bytes, rate),
                **_level(judged.get(tier.name)),
            }
        )
    return found


def _level(row: levels.LevelRow | None) -> dict[str, Any]:
    """Return the level of a cache ('': not judged, or a library) and the forecast behind it."""
    if row is None:
        return {"level": "", "hours_p10": None, "hours_p50": None, "hours_p90": None}
    hours = {name: row.detail.get(name) for name in ("hours_p10", "hours_p50", "hours_p90")}
    return {"level": row.level.value, **hours}


def _studies(conn: sa.Connection) -> dict[str, int]:
    """``received``: all studies there; ``waiting``: neither prepared nor failed."""
    rows = conn.execute(sa.select(study_totals.c.state, study_totals.c.studies))
    by_state = {row[0]: row[1] for row in rows}
    return {
        "received": sum(by_state.values()),
        "prepared": by_state.get("prepared", 0),
        "waiting": by_state.get("received", 0),
        "failed": by_state.get("failed", 0),
    }


def _instances(conn: sa.Connection) -> dict[str, int]:
    names = ("instance_count", "prepared_count", "size_bytes", "prepared_bytes")
    row = conn.execute(
        sa.select(*(sa.func.coalesce(sa.func.sum(study_totals.c[name]), 0) for name in names))
    ).one()
    received, prepared, size_bytes, prepared_bytes = (int(value) for value in row)
    return {
        "received": received,
        "prepared": prepared,
        "size_bytes": size_bytes,
        "prepared_bytes": prepared_bytes,
    }


def _counts(conn: sa.Connection, column: sa.Column[str]) -> dict[str, int]:
    rows = conn.execute(sa.select(column, sa.func.count()).group_by(column))
    return {row[0]: row[1] for row in rows}
