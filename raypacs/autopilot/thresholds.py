"""Thresholds in hours of space left, by day and night; who is told (FEATURES B1, B4, B15)."""

from __future__ import annotations

from pydantic import Field, model_validator

from raypacs.autopilot.base import Strict


class Thresholds(Strict):
    """Hours of space left at which a cache becomes amber, red, or is to be freed (web caches)."""

    amber_h: float = Field(
        default=48.0, ge=0, description="Hours left at which an image cache is amber. Default 48."
    )
    red_h: float = Field(
        default=24.0, ge=0, description="Hours left at which an image cache is red. Default 24."
    )
    web_h: float = Field(
        default=24.0, ge=0, description="Hours left at which a web cache is freed. Default 24."
    )
    amber_night_h: float | None = Field(
        default=None, ge=0, description="`amber_h` in the archive window. Default as by day."
    )
    red_night_h: float | None = Field(
        default=None, ge=0, description="`red_h` in the archive window. Default as by day."
    )
    web_night_h: float | None = Field(
        default=None, ge=0, description="`web_h` in the archive window. Default as by day."
    )
    hysteresis: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="A level is left only when the hours exceed its threshold by this part. "
        "Default 0.1.",
    )

    @model_validator(mode="after")
    def _red_below_amber(self) -> Thresholds:
        night = (
            self.red_h if self.red_night_h is None else self.red_night_h,
            self.amber_h if self.amber_night_h is None else self.amber_night_h,
        )
        for when, red, amber in (("", self.red_h, self.amber_h), (" at night", *night)):
            if red > amber:
                raise ValueError(
                    f"red{when} ({red:g} h) is above amber ({amber:g} h): red is the more urgent "
                    "level and comes later, so its hours must not be more"
                )
        return self


class AlarmSettings(Strict):
    """Who is told when a cache is red, when archiving stands still, when nothing may be evicted."""
