"""When, what and where to is archived (FEATURES B8, B13)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from raypacs import moments
from raypacs.autopilot.base import Strict

Status = Literal["new", "dictated", "reported", "approved"]


class ArchiveSettings(Strict):
    """Archiving into libraries."""

    window_start: str = Field(
        default="20:00", description="Local time from which is archived. Default 20:00."
    )
    window_end: str = Field(
        default="06:00",
        description="Local time until which is archived. Default 06:00; the same as "
        "`window_start`: always.",
    )
    time_zone: str = Field(
        default="UTC", description="IANA name of the zone (`Europe/Berlin`). Default UTC."
    )
    red_opens: bool = Field(
        default=True,
        description="A red image cache opens the window early, until it is red no more. "
        "Default true.",
    )
    form: Literal["as received", "htj2k"] = Field(
        default="as received",
        description="What containers hold: instances `as received`, or losslessly recompressed "
        "(`htj2k`: native pixels, where the received bytes come out of it again). Default "
        "`as received`.",
    )
    libraries: tuple[str, ...] = Field(
        default=(),
        description="Names of the library tiers that every study is archived to. Default: all "
        "that take new objects.",
    )
    min_age_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds since a study came for the first time, before which it is not "
        "archived. Default 0.",
    )
    statuses: tuple[Status, ...] = Field(
        default=(),
        description="Only studies of these statuses (`new`, `dictated`, `reported`, `approved`) "
        "are archived by themselves. Default: all.",
    )
    his_verified_only: bool = Field(
        default=False,
        description="Only studies whose demographics were verified are archived by themselves. "
        "Default false.",
    )
    items: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="ARCHIVE items that are due or run at most, of those that are made by "
        "themselves; 25 times as many may wait for a library or a tier. Default 4.",
    )
    check_interval_s: float = Field(
        default=60.0,
        ge=1,
        le=86400,
        description="Seconds after which is looked again for what is to be archived, when nothing "
        "was. Default 60.",
    )
    bandwidth_bytes_per_s: int = Field(
        default=0,
        ge=0,
        description="Bytes a second that archiving writes to libraries and reads back, in the "
        "whole cluster: each ARCHIVE item that runs gets an equal share. Default 0: no limit.",
    )

    @field_validator("window_start", "window_end")
    @classmethod
    def _time(cls, value: str) -> str:
        moments.time_of(value)
        return value

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        moments.zone_of(value)
        return value
