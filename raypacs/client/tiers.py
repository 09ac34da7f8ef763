"""Calls about tiers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from raypacs.client.http import Http


class TierCalls(Http):
    """Tiers: listed, changed, drained, looked at, counted again."""

    def tiers(self) -> list[dict[str, Any]]:
        """Return the tiers with their account, level and forecast."""
        found: list[dict[str, Any]] = self._json("GET", "/api/v1/tiers")
        return found

    def add_tier(self, values: dict[str, Any]) -> dict[str, Any]:
        """Add a tier; return it.

        Raises:
            ConfigError: a value is wrong, or the tier can never be opened.
            AlreadyExists: there is one of this name.
        """
        return self._json("POST", "/api/v1/tiers", json=values)

    def set_tier(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Change values of a tier; return it. Raises NotFound, ConfigError."""
        return self._json("PATCH", _path(name), json=values)

    def remove_tier(self, name: str) -> dict[str, Any]:
        """Take an empty tier out of the settings. Raises NotFound, ConfigError."""
        return self._json("DELETE", _path(name))

    def drain_tier(self, name: str, *, undo: bool = False) -> dict[str, Any]:
        """Let a tier be emptied, or take new objects again; return how far it is."""
        return self._json("POST", f"{_path(name)}/drain", json={"undo": undo})

    def tier_drain(self, name: str) -> dict[str, Any]:
        """Return what still lies on a tier. Raises NotFound."""
        return self._json("GET", f"{_path(name)}/drain")

    def check_tier(self, name: str) -> dict[str, Any]:
        """Let the node look at a tier; return what it saw. Raises NotFound."""
        return self._json("POST", f"{_path(name)}/check")

    def recount_tiers(self, *, repair: bool = False) -> list[dict[str, Any]]:
        """Return each tier's bytes by the ledger and by the count."""
        found: list[dict[str, Any]] = self._json("POST", "/api/v1/recount", json={"repair": repair})
        return found

    def migrate(self, study_uid: str, to_tier: str = "") -> dict[str, Any]:
        """Order that a study moves to an image tier ('': the next one); return its work item."""
        path = f"/api/v1/studies/{quote(study_uid, safe='')}/migrate"
        return self._json("POST", path, json={"to": to_tier})


def _path(name: str) -> str:
    return f"/api/v1/tiers/{quote(name, safe='')}"
