"""Sources, and rules on arrival and later (FEATURES B6, C13)."""

from __future__ import annotations

from pydantic import Field

from raypacs.autopilot.base import Strict


class SourceSettings(Strict):
    """What is done with studies of a sender."""

    name: str = Field(description="Name of the source, 1 to 64 characters.")


class ArrivalRule(Strict):
    """What is done with studies whose DICOM attributes match."""

    name: str = Field(description="Name shown as the reason, 1 to 64 characters.")
