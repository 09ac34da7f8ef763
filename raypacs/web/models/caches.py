"""Models of caches: their levels, forecasts and history."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raypacs.web.models.base import Answer


class CacheRate(Answer):
    """The three factors of a fill rate, and their product with what came from other tiers."""

    studies_per_hour: float = Field(description="Studies an hour")
    objects_per_study: float = Field(description="Objects a study")
    bytes_per_object: float = Field(description="Bytes an object")
    moved_bytes_per_hour: float = Field(0.0, description="Restored, prefetched or migrated here")
    bytes_per_hour: float = Field(description="All of it")


class CacheRates(Answer):
    """The fill rate of the last seven days; null where nothing came."""

    all: CacheRate | None = Field(None, description="All hours")
    day: CacheRate | None = Field(None, description="While the archive window was closed")
    night: CacheRate | None = Field(None, description="While it was open")


class CacheDetail(Answer):
    """The figures a level rests on, as of when it was judged."""

    hours_p10: float | None = Field(None, description="One time in ten it is full before; or null")
    hours_p50: float | None = Field(None, description="Hours left, the middle; null: never")
    hours_p90: float | None = Field(None, description="Nine times in ten it is full before")
    method: str = Field("", description="seasonal; plain: too little history")
    why: str = Field("", description="Why the method is the plain one")
    amber_bytes: int = Field(0, description="The amber hours in bytes, at the forecast")
    red_bytes: int = Field(0, description="The red hours in bytes")
    web_bytes: int = Field(0, description="The web hours in bytes")
    need_bytes: int = Field(0, description="To be freed until the level is left; 0 on green")
    need_bytes_amber: int = Field(0, description="To be freed until it is not amber")
    need_bytes_red: int = Field(0, description="To be freed until it is not red")
    available_bytes: int = Field(0, description="What was left")
    unarchived_bytes: int = Field(0, description="Of studies without a proven library copy")
    pinned_bytes: int = Field(0, description="Of pinned studies")
    backlog_bytes: int = Field(0, description="What PREPARE has still to write here")
    evictable_hours: float | None = Field(
        None, description="Hours until nothing is left that may be evicted; null: never"
    )
    is_night: bool = Field(False, description="Whether night values held")


class CacheState(Answer):
    """A cache: its account, level, thresholds and rates."""

    name: str = Field(description="Name of the tier")
    role: str = Field(description="image or web")
    capacity_bytes: int = Field(0, description="What raypacs may use")
    used_bytes: int = Field(0, description="What it uses")
    available_bytes: int = Field(0, description="What is left")
    level: str = Field("", description="green, amber or red; '' not judged yet")
    since_s: float = Field(0.0, description="Since when it has that level")
    at_s: float = Field(0.0, description="When it was judged")
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="amber_h and red_h, or web_h: in force now"
    )
    detail: CacheDetail = Field(description="What the level rests on")
    rates: CacheRates = Field(description="Fill rate")
    alarms: list[str] = Field(default_factory=list, description="Alarms that last")


class CacheList(Answer):
    """All caches."""

    caches: list[CacheState] = Field(description="Image and web tiers of raypacs' own")


class PastForecast(Answer):
    """A forecast and, when its hours are over, its error."""

    at_s: float = Field(description="When it was made")
    method: str = Field("", description="seasonal or plain")
    hours_p10: float | None = Field(None, description="Hours left")
    hours_p50: float | None = Field(None, description="Hours left, the middle")
    hours_p90: float | None = Field(None, description="Hours left")
    available_bytes: int = Field(0, description="What was left then")
    backlog_bytes: int = Field(0, description="What was to be prepared")
    bytes_ahead: dict[str, float] = Field(
        default_factory=dict, description="By hours ahead (4, 12, 48): bytes that were to come"
    )
    error: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="By hours ahead: said_bytes, came_bytes, error = said / came - 1",
    )


class CacheForecast(CacheState):
    """A cache with its newest forecasts and how wrong they were."""

    forecasts: list[PastForecast] = Field(description="Newest first, one an hour")
    errors: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="By hours ahead: forecasts compared, median_error, median_size (absolute)",
    )


class CacheHistory(Answer):
    """What a cache took in, and its forecasts."""

    tier: str = Field(description="Name of the tier")
    intake: list[dict[str, Any]] = Field(
        description="By hour: hour_s, studies, objects, size_bytes, moved_bytes; oldest first"
    )
    forecasts: list[PastForecast] = Field(description="Newest first")
