"""When, what and where to is archived (FEATURES B8, B13)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raypacs.autopilot.base import Strict


class ArchiveSettings(Strict):
    """Archiving into libraries."""

    window_start: str = Field(default="20:00", description="Local time. Default 20:00.")
    window_end: str = Field(default="06:00", description="Local time. Default 06:00.")
    time_zone: str = Field(
        default="UTC", description="IANA name of the zone (`Europe/Berlin`). Default UTC."
    )
    form: Literal["as received", "htj2k"] = Field(
        default="as received",
        description="What containers hold: instances as received, or losslessly recompressed.",
    )
