"""Models of archiving: the window, what waits, libraries, and orders."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from raypacs.web.models.base import Answer, Request


class Window(Answer):
    """When is archived by itself."""

    start: str = Field(description="Local time from which is archived, HH:MM")
    end: str = Field(description="Local time until which is archived, HH:MM")
    time_zone: str = Field(description="IANA name of the zone")
    open_by: str = Field(description="window, or red (an image cache is); '' it is closed")
    opens_s: float = Field(description="When it opens, or now; seconds since 1970, UTC")
    closes_s: float = Field(description="When it closes; 0 it is closed, or always open")


class Waiting(Answer):
    """What no library has a proven copy of, as it is now."""

    studies: int = Field(description="Copies in image caches")
    size_bytes: int = Field(description="Their bytes")
    oldest_accessed_s: float = Field(description="Last access of the oldest; 0 there is none")


class Library(Answer):
    """A library tier."""

    tier: str = Field(description="Its name")
    used: bool = Field(description="Whether is archived to it now")
    studies: int = Field(description="Studies that have containers there")
    size_bytes: int = Field(description="Their bytes")
    damaged: int = Field(description="Containers that cannot be relied on")
    last_s: float = Field(description="When a series was archived last; 0 never")
    day_bytes: int = Field(description="Bytes archived in the last 24 hours")
    rate_bytes_per_s: float = Field(description="Their rate, from the first to the last of them")


class ArchiveStatus(Answer):
    """How archiving stands."""

    window: Window = Field(description="The archive window")
    waiting: Waiting = Field(description="What is not archived")
    items: dict[str, int] = Field(description="ARCHIVE items by state")
    libraries: list[Library] = Field(description="The libraries")
    rate_bytes_per_s: float = Field(description="Rate of the slowest library; 0 not known")
    nights: float | None = Field(description="Windows until all is archived; null not known")


class Chosen(Request):
    """Studies by UID, or all: then page by page, by UID."""

    study_uids: list[str] = Field([], description="Study Instance UIDs", max_length=1000)
    all: bool = Field(False, description="All studies; 1,000 a call")
    after: str = Field("", description="With `all`: where the last answer ended", max_length=64)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.study_uids) + self.all + bool(getattr(self, "sample", 0)) != 1:
            raise ValueError("name studies, or all of them, or a sample: one of these")
        return self


class OrderArchive(Chosen):
    """Archive studies now, whatever the window, their age and their status say."""

    libraries: list[str] = Field(
        [], description="Names of library tiers; empty: those of the settings", max_length=100
    )


class OrderVerify(Chosen):
    """Read containers whole, and what else is stored of their studies."""

    sample: int = Field(0, ge=0, le=1000, description="So many studies, chosen by chance")


class RefusedStudy(Answer):
    """A study that was left out, and why."""

    study_uid: str = Field(description="Study Instance UID")
    why: str = Field(description="Why")


class Ordered(Answer):
    """What was ordered."""

    items: list[int] = Field(description="Numbers of the work items")
    refused: list[RefusedStudy] = Field(description="Studies that were left out")
    after: str = Field(description="With `all`: where to go on; '' that was all")
