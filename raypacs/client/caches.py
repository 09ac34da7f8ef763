"""Questions about caches: levels, forecasts, history."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from raypacs.client.http import Http


class CacheCalls(Http):
    """Caches, as any node tells of them."""

    def caches(self) -> list[dict[str, Any]]:
        """Return all caches with level, thresholds, forecast and rates."""
        found: list[dict[str, Any]] = self._json("GET", "/api/v1/caches")["caches"]
        return found

    def cache_forecast(self, tier: str, hours: int = 168) -> dict[str, Any]:
        """Return a cache with its forecasts of the last hours. Raises NotFound."""
        path = f"/api/v1/caches/{quote(tier, safe='')}/forecast"
        return self._json("GET", path, params={"hours": hours})

    def cache_history(self, tier: str, hours: int = 168) -> dict[str, Any]:
        """Return what a cache took in within the last hours. Raises NotFound."""
        path = f"/api/v1/caches/{quote(tier, safe='')}/history"
        return self._json("GET", path, params={"hours": hours})
