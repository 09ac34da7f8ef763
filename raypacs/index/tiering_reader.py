"""Questions about what lies on tiers, for migration and drain."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from raypacs.index import evicting, known_objects, ledger, tier_states, tiering
from raypacs.index.tiering import Leaver


class TieringReader:
    """The tiers' part of the read side: who moves, what still lies there."""

    _engine: sa.Engine

    def least_recent(self, tier: str, limit: int) -> list[Leaver]:
        """Return studies on a tier that may move (``tiering.least_recent``)."""
        with self._engine.connect() as conn:
            return tiering.least_recent(conn, tier, limit)

    def aged(self, tier: str, before_s: float, limit: int) -> list[Leaver]:
        """Return studies that lie on a tier for long (``tiering.aged``)."""
        with self._engine.connect() as conn:
            return tiering.aged(conn, tier, before_s, limit)

    def is_empty(self, tier: str) -> bool:
        """Whether nothing lies on a tier any more, nor is room of it held."""
        with self._engine.connect() as conn:
            return tiering.is_empty(conn, tier)

    def waits(self, study_uid: str, kind: str) -> bool:
        """Whether work of a kind waits or runs for a study ('': for none)."""
        with self._engine.connect() as conn:
            return tiering.waits(conn, study_uid, kind)

    def listed_there(self, tier: str, limit: int) -> list[Leaver]:
        """Return studies with a manifest on a tier (``tiering.listed_there``)."""
        with self._engine.connect() as conn:
            return tiering.listed_there(conn, tier, limit)

    def is_busy(self, study_uid: str, *, but: str = "") -> bool:
        """Whether work of a study waits or runs, other than of the kind ``but``."""
        with self._engine.connect() as conn:
            return tiering.is_busy(conn, study_uid, but=but)

    def last_failed_s(self, study_uid: str, kind: str) -> float:
        """Return when the latest item of a kind of a study failed; 0: it did not."""
        with self._engine.connect() as conn:
            return tiering.last_failed_s(conn, study_uid, kind)

    def waiting_unsealed(self, kind: str, limit: int) -> list[str]:
        """Return studies that work of a kind waits for, and that are not sealed."""
        with self._engine.connect() as conn:
            return tiering.waiting_unsealed(conn, kind, limit)

    def open_items(self, kind: str) -> int:
        """Return how many items of a kind wait or run."""
        with self._engine.connect() as conn:
            return tiering.open_items(conn, kind)

    def held(self, study_uid: str) -> dict[str, int]:
        """Return the bytes of a study by tier."""
        with self._engine.connect() as conn:
            return tiering.held(conn, study_uid)

    def proven_in(self, study_uid: str) -> set[str]:
        """Return the libraries that have a proven copy of a study as it is now."""
        with self._engine.connect() as conn:
            return tiering.proven_in(conn, study_uid)

    def what_lies(self, tier: str) -> dict[str, int]:
        """Return what still lies on a tier, by kind of object (``tiering.what_lies``)."""
        with self._engine.connect() as conn:
            return tiering.what_lies(conn, tier)

    def asides_on(self, tier: str, limit: int) -> list[dict[str, Any]]:
        """Return objects kept aside on a tier: path and size in bytes."""
        with self._engine.connect() as conn:
            return tiering.asides_on(conn, tier, limit)

    def gone(self, study_uid: str) -> set[str]:
        """Return paths of manifests in force whose instances left the image tiers."""
        with self._engine.connect() as conn:
            return evicting.gone_paths(conn, study_uid)

    def objects_of(self, study_uid: str) -> known_objects.Objects:
        """Return the objects of a study that should lie on tiers."""
        with self._engine.connect() as conn:
            return known_objects.of_study(conn, study_uid)

    def tier_states(self, now: float | None = None) -> list[dict[str, Any]]:
        """Return each tier with account, thresholds, level, forecast (``tier_states.states``)."""
        with self._engine.connect() as conn:
            return tier_states.states(conn, time.time() if now is None else now)

    def recounted(self) -> dict[str, tuple[int, int]]:
        """Return (bytes by the ledger, bytes by the count) of every tier, as of one moment."""
        with self._engine.connect() as conn:
            if conn.dialect.name != "sqlite":
                conn = conn.execution_options(isolation_level="REPEATABLE READ")
            return tier_states.recounted(conn)

    def recount(self) -> dict[str, int]:
        """Count used bytes per tier again, from the rows (``ledger.recount``)."""
        with self._engine.connect() as conn:
            return ledger.recount(conn)
