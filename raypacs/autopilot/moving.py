"""Moving between image tiers, and back from libraries (FEATURES C4, B7)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raypacs.autopilot.base import Strict


class MigrationSettings(Strict):
    """When studies move to a later image tier."""

    after_days: float | None = Field(
        default=None,
        gt=0,
        description="Days since a study grew last after which it moves to the next image tier "
        "(21 to 28 are usual). Default none: never by age.",
    )
    at_level: Literal["never", "red", "amber"] = Field(
        default="amber",
        description="Level of an image tier at which its least recently accessed studies move to "
        "a later one, if there is one with room. Default amber.",
    )
    most_running: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Studies that move at the same time. Default 2: receiving and reading go "
        "first.",
    )
    keep_free: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Part of a tier's capacity that migration leaves free there. Default 0.05.",
    )


class RestoreSettings(Strict):
    """How studies come back from a library."""


class PrefetchRule(Strict):
    """Which relevant priors are brought into the caches when a study arrives."""
