"""Cluster-wide settings, versioned: the newest row holds, the older ones are the history."""

from __future__ import annotations

import logging
from typing import Any

import sqlalchemy as sa

from raypacs.compression import AS_STORED
from raypacs.config import Settings, TierSettings, parse
from raypacs.errors import AlreadyExists, ConfigError
from raypacs.index import audit, ledger
from raypacs.index.engine import Txn
from raypacs.index.schema import settings, work_items
from raypacs.policy.queue import State

log = logging.getLogger(__name__)

# Settings are read every second; what is wrong with them is told once.
_told: set[tuple[int, str]] = set()


def read(conn: sa.Connection) -> tuple[int, Settings]:
    """Return (version, settings); version 0 and the defaults before the first start."""
    row = conn.execute(
        sa.select(settings.c.version, settings.c.body).order_by(settings.c.version.desc()).limit(1)
    ).one_or_none()
    if row is None:
        return 0, Settings()
    return row.version, _parsed(row.version, row.body)


def _parsed(version: int, body: dict[str, Any]) -> Settings:
    """Build what was applied before; what only earlier versions took is no reason to stand still.

    Raises:
        ConfigError: this version cannot make sense of it.
    """
    where = "settings in the index"
    try:
        return parse(Settings, body, where)
    except ConfigError as exc:
        found = parse(Settings, body, where, AS_STORED)
        if (version, str(exc)) not in _told:
            _told.add((version, str(exc)))
            log.warning("settings would not be taken today: %s", exc, extra={"version": version})
        return found


def apply(txn: Txn, new: Settings, who: str, expected_version: int | None = None) -> int:
    """Make ``new`` the settings; return its version (the old one where nothing changed).

    Raises:
        AlreadyExists: another version than the expected one holds.
        ConfigError: a name used twice, or a tier that holds objects, or may hold some that are not
            registered yet, would be lost or moved.
    """
    version, old = read(txn.conn)
    # The next version with just these settings is the same call, whose answer was lost.
    again = version - 1 == expected_version and new == old
    if expected_version not in (None, version) and not again:
        raise AlreadyExists(f"version {version} of the settings is current", version=version)
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


def _work_runs(conn: sa.Connection) -> bool:
    running = sa.select(work_items.c.item_id).where(work_items.c.state == State.IN_PROCESS.value)
    return conn.execute(running.limit(1)).first() is not None


def _check_tiers(
    conn: sa.Connection, old: tuple[TierSettings, ...], new: tuple[TierSettings, ...]
) -> None:
    by_name = {tier.name: tier for tier in new}
    if len(by_name) < len(new):
        raise ConfigError("settings: two tiers have the same name", tiers=[t.name for t in new])
    accounts = ledger.read(conn)
    for tier in old:
        kept = by_name.get(tier.name)
        if kept is not None and (kept.url, kept.role) == (tier.url, tier.role):
            continue
        account = accounts.get(tier.name)
        if account is not None and account.used_bytes:
            raise ConfigError(
                f"settings: tier {tier.name} holds {account.used_bytes} bytes: "
                "it cannot be removed, nor its url or role changed",
                hint="delete or migrate what it holds first, or make it read_only",
                tier=tier.name,
            )
        # What looks empty may hold instances that were answered and are not registered yet.
        if account is not None and account.granted_bytes:
            raise ConfigError(
                f"settings: nodes hold room on tier {tier.name}, so they may be writing there: "
                "it cannot be removed, nor its url or role changed",
                hint="add a tier of another name, and make this one read_only",
                tier=tier.name,
            )
        if tier.role == "web" and _work_runs(conn):
            raise ConfigError(
                f"settings: work runs that may be writing to tier {tier.name}: "
                "it cannot be removed, nor its url or role changed",
                hint="halt the queue (`raypacs queue halt`) and ask again when it is halted",
                tier=tier.name,
            )
