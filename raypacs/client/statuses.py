"""Calls about status, senders, rules and erasures."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from raypacs.client.http import Http


class StatusCalls(Http):
    """Status and flags of studies, senders, rules on arrival, erasures."""

    def study_status(self, study_uid: str) -> dict[str, Any]:
        """Return status and flags of a study. Raises NotFound."""
        return self._json("GET", f"/api/v1/studies/{quote(study_uid, safe='')}/status")

    def set_status(self, study_uid: str, **changes: Any) -> dict[str, Any]:
        """Set status or flags of a study; return all. Raises NotFound, InvalidQuery."""
        path = f"/api/v1/studies/{quote(study_uid, safe='')}/status"
        return self._json("POST", path, json=changes)

    def statuses(self, limit: int = 100, **wanted: Any) -> list[dict[str, Any]]:
        """Return studies by status and flags, newest study date first."""
        found: list[dict[str, Any]] = []
        while len(found) < limit:
            size = min(1000, limit - len(found))
            before = {"before": found[-1]["list_no"]} if found else {}
            params = {**wanted, **before, "limit": size}
            page: list[dict[str, Any]] = self._json("GET", "/api/v1/statuses", params=params)
            found += page
            if len(page) < size:
                break
        return found

    def sources(self) -> list[dict[str, Any]]:
        """Return who sent objects."""
        told: list[dict[str, Any]] = self._json("GET", "/api/v1/sources")
        return told

    def study_arrival(self, study_uid: str) -> dict[str, Any]:
        """Return what sources and rules say of a stored study. Raises NotFound."""
        return self._json("GET", f"/api/v1/studies/{quote(study_uid, safe='')}/arrival")

    def explain_arrival(self, described: dict[str, Any]) -> dict[str, Any]:
        """Return what sources and rules say of a described study. Raises ConfigError."""
        return self._json("POST", "/api/v1/rules/arrival", json=described)

    def erase(self, what: str, subject: str, *, confirm: str = "") -> dict[str, Any]:
        """Order an erasure, or without ``confirm`` only see what it would be about.

        Raises:
            NotFound: nothing is known of it.
        """
        body = {"what": what, "subject": subject, "confirm": confirm}
        return self._json("POST", "/api/v1/erasures", json=body)

    def erasures(self) -> list[dict[str, Any]]:
        """Return the newest erasures."""
        told: list[dict[str, Any]] = self._json("GET", "/api/v1/erasures")
        return told

    def erasure(self, number: int) -> dict[str, Any]:
        """Return an erasure with its report. Raises NotFound."""
        return self._json("GET", f"/api/v1/erasures/{number}")
