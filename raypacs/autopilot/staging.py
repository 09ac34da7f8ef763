"""Staging rules: what is copied or deleted at which level (FEATURES B11, B12)."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator

from raypacs.autopilot.base import Strict

COPY: Final = "copy to library"
DELETE: Final = "delete from cache"

Flag = Literal["any", "must be", "must not be"]


class StagingRule(Strict):
    """What is done with studies that match, at a level."""

    name: str = Field(
        min_length=1, max_length=64, description="Name shown as the reason, 1 to 64 characters."
    )
    action: Literal["copy to library", "delete from cache"] = Field(
        description="`copy to library` archives what matches as soon as the cache has the level, "
        "in the archive window or not. `delete from cache` lets it leave the cache, if it may."
    )
    level: Literal["green", "amber", "red"] = Field(
        description="Level of the cache from which on the rule works. Rules of amber come before "
        "those of red. `delete from cache` on green is refused: nothing is evicted on green."
    )
    status: Literal["any", "new", "dictated", "reported", "approved"] = Field(
        default="any",
        description="Status that a study must have. Ignored once it was idle for `idle_days`. "
        "Default `any`.",
    )
    idle_days: float = Field(
        default=7.0,
        ge=0,
        le=36500,
        description="Days without access after which `status` is ignored. Default 7.",
    )
    exported: Flag = Field(
        default="any", description="Whether a study must (not) be exported. Default `any`."
    )
    his_verified: Flag = Field(
        default="any",
        description="Whether a study must (not) be verified by the information system. Default "
        "`any`.",
    )
    hours: int = Field(
        default=0,
        ge=0,
        le=596523,
        description="Hours since the study was created that must have passed; a prefetched study "
        "has the creation time of the one it was fetched for. Default 0; at most 596523.",
    )

    @model_validator(mode="after")
    def _nothing_leaves_on_green(self) -> StagingRule:
        if self.action == DELETE and self.level == "green":
            raise ValueError(
                f"staging rule {self.name!r} deletes from the cache on green: on green there is "
                "space for longer than the amber hours, so nothing needs to go, and nothing is "
                "ever evicted then; give it the level amber or red"
            )
        return self


class SeriesShare(Strict):
    """A type of series that is kept for at least a share of the cache (B12)."""

    name: str = Field(
        min_length=1, max_length=64, description="Name shown as the reason, 1 to 64 characters."
    )
    modalities: tuple[str, ...] = Field(
        default=("KO", "PR"),
        min_length=1,
        description="Modalities (0008,0060) of the series kept. Default `KO` and `PR`: key images "
        "and presentation states, whose SOP classes have these modalities and no other.",
    )
    percent: float = Field(
        ge=0,
        le=50,
        description="Percent of the cache's capacity that such series may take when the rest of "
        "their studies has left it. Beyond that the least recently accessed ones leave too.",
    )


class EvictionSettings(Strict):
    """How studies leave caches."""

    grace_s: float = Field(
        default=60.0,
        ge=5,
        le=86400,
        description="Seconds between the decision and the deletion of bytes. Default 60; at least "
        "5, longer than a gateway trusts a location it looked up.",
    )
