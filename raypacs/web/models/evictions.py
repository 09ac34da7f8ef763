"""Models of eviction: what would leave which cache and why, orders, and pins."""

from __future__ import annotations

from pydantic import Field

from raypacs.web.models.base import Answer, Request
from raypacs.web.models.work import Due


class Held(Answer):
    """Copies of a cache that are held, all for the same reason."""

    copies: int = Field(description="Number of studies")
    size_bytes: int = Field(description="Their bytes in the cache")


class CachePlan(Answer):
    """What a cache needs, what is held in it, and why."""

    tier: str = Field(description="Name of the cache")
    level: str = Field(description="green, amber or red; '' not judged yet")
    need_bytes: int = Field(description="Bytes that must leave, less those that do already")
    leaving_bytes: int = Field(description="Bytes that are on their way out")
    free_copies: int = Field(description="Studies that nothing holds")
    free_bytes: int = Field(description="Their bytes")
    held: dict[str, Held] = Field(
        description="What holds others: pinned, unarchived, kept (series share), adopted, unjudged"
    )
    skipped: dict[str, int] = Field(
        description="Of those looked at, how many stay, by why (work to be done, no rule matches)"
    )
    enough: bool | None = Field(
        description="Whether what may leave is as much as is needed; null: more than `limit`, or "
        "than was looked at, may leave, and whether it is enough is not known"
    )


class Eviction(Answer):
    """A study that would leave a cache now."""

    study_uid: str = Field(description="Study Instance UID")
    tier: str = Field(description="Name of the cache")
    size_bytes: int = Field(description="Bytes that it frees")
    accessed_s: float = Field(description="Last access, also inherited; seconds since 1970, UTC")
    rule: str = Field(description="Name of the rule that it matches")
    level: str = Field(description="Level of that rule")
    relies_on: list[str] = Field(description="Libraries with a proven copy")
    without_archive: bool = Field(description="It leaves for good: its source is not archived")
    keeps_series: bool = Field(description="Series of a series share stay")


class EvictionPlan(Answer):
    """What would leave which cache now."""

    caches: list[CachePlan] = Field(description="The caches")
    evictions: list[Eviction] = Field(description="Studies, in the order in which they leave")


class OrderEviction(Request):
    """Look at once for what may leave; on green nothing does."""

    tier: str = Field("", description="Of which cache the answer tells; '' of all", max_length=64)
    limit: int = Field(100, ge=1, le=1000, description="Studies to tell of at most")


class EvictStudy(Request):
    """Let one study leave a cache whatever the level."""

    tier: str = Field(
        "", description="Name of the cache; '' the image tiers, or the web tier", max_length=64
    )


class Evicted(Answer):
    """What left."""

    study_uid: str = Field(description="Study Instance UID")
    size_bytes: int = Field(description="Bytes that go after the grace period")


class PinStudy(Request):
    """Keep a study from eviction."""

    until: Due = Field(
        default=None, description="ISO 8601 or seconds since 1970; without it, for ever"
    )


class Pin(Answer):
    """A study that is kept from eviction."""

    study_uid: str = Field(description="Study Instance UID")
    until_s: float = Field(description="Until when; seconds since 1970, UTC; the year 9999: ever")


class Pins(Answer):
    """Studies that are pinned, those whose pin ends first before the others."""

    pins: list[Pin] = Field(description="The studies")
