"""Calls about eviction: what would go, orders, pins."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from raypacs.client.http import Http


class EvictionCalls(Http):
    """Orders and questions about what leaves the caches."""

    def eviction_plan(self, tier: str = "", limit: int = 100) -> dict[str, Any]:
        """Return what would leave which cache now and why (``caches``, ``evictions``)."""
        return self._json("GET", "/api/v1/evictions", params={"tier": tier, "limit": limit})

    def evict(self, tier: str = "", limit: int = 100) -> dict[str, Any]:
        """Look at once for what may leave; return what would just now."""
        return self._json("POST", "/api/v1/evictions", json={"tier": tier, "limit": limit})

    def evict_study(self, study_uid: str, tier: str = "") -> dict[str, Any]:
        """Let a study leave, whatever the level; return its bytes.

        Raises:
            NotFound: no such study there.
            IllegalTransition: it may not leave; says why.
        """
        return self._json("POST", f"{_study(study_uid)}/evict", json={"tier": tier})

    def purge(self, study_uid: str, library: str) -> dict[str, Any]:
        """Take a study out of a library. Raises NotFound, IllegalTransition."""
        return self._json("DELETE", f"{_study(study_uid)}/libraries/{quote(library, safe='')}")

    def pins(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Return studies that are kept from eviction."""
        found: list[dict[str, Any]] = self._json("GET", "/api/v1/pins", params={"limit": limit})[
            "pins"
        ]
        return found

    def pin(self, study_uid: str, until_s: float | None = None) -> dict[str, Any]:
        """Keep a study from eviction, for ever without ``until_s``. Raises NotFound."""
        return self._json("PUT", f"{_study(study_uid)}/pin", json={"until": until_s})

    def unpin(self, study_uid: str) -> dict[str, Any]:
        """Take a study's pin away. Raises NotFound."""
        return self._json("DELETE", f"{_study(study_uid)}/pin")


def _study(study_uid: str) -> str:
    return f"/api/v1/studies/{quote(study_uid, safe='')}"
