"""Moving between image tiers, and back from libraries (FEATURES C4, B7)."""

from __future__ import annotations

from raypacs.autopilot.base import Strict


class MigrationSettings(Strict):
    """When studies move to a later image tier."""


class RestoreSettings(Strict):
    """How studies come back from a library."""


class PrefetchRule(Strict):
    """Which relevant priors are brought into the caches when a study arrives."""
