"""Cluster-wide settings, versioned: the newest row holds, the older ones are the history."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.config import Settings, TierSettings, parse
from raypacs.errors import ConfigError
from raypacs.index import audit, ledger
from raypacs.index.engine import Txn
from raypacs.index.schema import settings


def read(conn: sa.Connection) -> tuple[int, Settings]:
    """Return (version, settings); version 0 and the defaults before the first start."""
    row = conn.execute(
        sa.select(settings.c.version, settings.c.body).order_by(settings.c.version.desc()).limit(1)
    ).one_or_none()
    if row is None:
        return 0, Settings()
    return row.version, parse(Settings, row.body, "settings in the index")


def apply(txn: Txn, new: Settings, who: str) -> int:
    """Make ``new`` the settings; return its version (the old one where nothing changed).

    Raises:
        ConfigError: a name used twice, or a tier that still holds objects would be lost or moved.
    """
    version, old = read(txn.conn)
    _check_tiers(txn.conn, old.tiers, new.tiers)
    if version and new == old:
        return version
    made = txn.conn.execute(
        sa.insert(settings).values(
            body=new.model_dump(mode="json"), who=who, at_s=txn.now, epoch=txn.epoch
        )
    )
    version = (made.inserted_primary_key or (0,))[0]
    changed = [name for name in Settings.model_fields if getattr(new, name) != getattr(old, name)]
    audit.record(txn, "settings", who=who, detail={"version": version, "changed": changed})
    return version


def _check_tiers(
    conn: sa.Connection, old: tuple[TierSettings, ...], new: tuple[TierSettings, ...]
) -> None:
    by_name = {tier.name: tier for tier in new}
    if len(by_name) < len(new):
        raise ConfigError("settings: two tiers have the same name", tiers=[t.name for t in new])
    used = ledger.read(conn)
    for tier in old:
        if tier.name not in used or not used[tier.name].used_bytes:
            continue
        kept = by_name.get(tier.name)
        if kept is None or (kept.url, kept.role) != (tier.url, tier.role):
            raise ConfigError(
                f"settings: tier {tier.name} holds {used[tier.name].used_bytes} bytes: "
                "it cannot be removed, nor its url or role changed",
                hint="delete or migrate what it holds first, or make it read_only",
                tier=tier.name,
            )
