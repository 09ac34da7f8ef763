"""Staging rules: what is copied or deleted at which level (FEATURES B11, B12)."""

from __future__ import annotations

from pydantic import Field

from raypacs.autopilot.base import Strict


class StagingRule(Strict):
    """What is done with studies that match, at a level."""

    name: str = Field(description="Name shown as the reason, 1 to 64 characters.")


class SeriesShare(Strict):
    """A type of series that is kept for at least a share of the cache (B12)."""

    name: str = Field(description="Name shown as the reason, 1 to 64 characters.")


class EvictionSettings(Strict):
    """How studies leave caches."""

    grace_s: float = Field(
        default=60.0,
        ge=5,
        le=86400,
        description="Seconds between the decision and the deletion of bytes. Default 60; at least "
        "5, longer than a gateway trusts a location it looked up.",
    )
