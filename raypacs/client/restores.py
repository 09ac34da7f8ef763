"""Calls that bring studies back from libraries, asked for or ahead of time."""

from __future__ import annotations

from typing import Any

from raypacs.client.http import Http


class RestoreCalls(Http):
    """Restores and prefetches."""

    def restore(self, study_uid: str, priority: str = "stat") -> dict[str, Any]:
        """Bring a study back; return its restore. Raises NotFound."""
        body = {"study_uid": study_uid, "priority": priority}
        return self._json("POST", "/api/v1/restores", json=body)

    def restored(self, item_id: int) -> dict[str, Any]:
        """Return how far a restore is. Raises NotFound."""
        return self._json("GET", f"/api/v1/restores/{item_id}")

    def restores(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return restores, newest first."""
        found: list[dict[str, Any]] = self._json("GET", "/api/v1/restores", params={"limit": limit})
        return found

    def prefetch(self, **wanted: str) -> list[dict[str, Any]]:
        """Have a study (study_uid) or priors (patient_id, modality, body_part) in the caches.

        Raises:
            NotFound: no such study.
        """
        found: list[dict[str, Any]] = self._json("POST", "/api/v1/prefetches", json=wanted)
        return found
