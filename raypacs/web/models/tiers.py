"""Models of tiers: what operators say of them, what is told of them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raypacs.web.models.base import Answer, Request
from raypacs.web.models.cluster import TierState


class ShownThresholds(Answer):
    """Hours of space left at which a cache becomes amber or red, in force now."""

    amber_h: float = Field(description="Hours left at which an image cache is amber")
    red_h: float = Field(description="Hours left at which an image cache is red")
    web_h: float = Field(description="Hours left at which a web cache is freed")


class TierInFull(TierState):
    """A tier with its account, level and forecast."""

    adopted: str = Field("", description="folder or orthanc: an archive of others; '': our own")
    thresholds: ShownThresholds | None = Field(None, description="null: it is no cache")
    level: str = Field("", description="green, amber or red; '' not judged")
    level_since_s: float = Field(0.0, description="Since when; seconds since 1970, UTC")
    hours_p10: float | None = Field(None, description="Hours left that 9 of 10 futures exceed")
    hours_p50: float | None = Field(None, description="Hours left, forecast; null: not filling")
    hours_p90: float | None = Field(None, description="Hours left that 1 of 10 futures exceeds")
    amber_bytes: int | None = Field(None, description="Space left that amber stands for now")
    red_bytes: int | None = Field(None, description="Space left that red stands for now")
    archived_bytes: int = Field(0, description="Of studies that a library has, or may be lost")
    unarchived_bytes: int = Field(0, description="Of studies that no library has yet")
    problem: str = Field("", description="Why it cannot be reached")


class TierLies(Answer):
    """What still lies on a tier."""

    studies: int = Field(0, description="Studies with objects there")
    manifests: int = Field(0, description="Manifests of sealed series, of offline studies too")
    asides: int = Field(0, description="Objects kept aside")
    packs: int = Field(0, description="Prepared series")
    containers: int = Field(0, description="Series in a library")
    deletes: int = Field(0, description="Objects that are being deleted")
    bytes: int = Field(0, description="Bytes by the ledger")
    granted_bytes: int = Field(0, description="Bytes promised to nodes")
    failed: int = Field(0, description="Moves that failed, of all tiers; see the task list")
    failed_archives: int = Field(
        0, description="Studies in this library whose ARCHIVE failed; see the task list"
    )


class TierDrain(Answer):
    """How far a tier is drained."""

    name: str = Field(description="Name of the tier")
    draining: bool = Field(description="Whether it is being emptied")
    empty: bool = Field(description="Whether nothing lies there any more")
    lies: TierLies = Field(description="What still lies there")


class DrainTier(Request):
    """Begin or end draining."""

    undo: bool = Field(False, description="Take new objects again")


class SeenTier(Answer):
    """What a look at a tier from the node that answers showed."""

    tier: str = Field(description="Its name")
    url: str = Field(description="fsspec URL")
    reachable: bool = Field(description="Whether it can be opened and listed")
    marker: str = Field(description="ours, none, or the other site it belongs to")
    written: bool = Field(description="Whether a probe object could be written")
    read_back: bool = Field(description="Whether it read back equal")
    deleted: bool = Field(description="Whether it could be deleted")
    write_bytes_per_s: float = Field(description="Of the probe of 4 MiB; 0 not tried")
    read_bytes_per_s: float = Field(description="Of the probe of 4 MiB; 0 not tried")
    free_bytes: int = Field(description="Bytes that may still be written; -1 unknown")
    capacity_bytes: int = Field(description="Bytes raypacs may use; -1 unknown")
    problems: list[str] = Field(description="Why it cannot be used; empty: it can")


class RemovedTier(Answer):
    """A tier that was taken out of the settings."""

    name: str = Field(description="Its name")
    removed: bool = Field(description="Whether it is out of the settings")


class OrderMigration(Request):
    """Where a study is to move."""

    to: str = Field("", description="Image tier; '': a later one with room", max_length=64)


class OrderedMigration(Answer):
    """The work item that moves a study."""

    item_id: int = Field(description="Number of the work item")
    study_uid: str = Field(description="Study Instance UID")


class Recount(Request):
    """Count the bytes of tiers again, from the index."""

    repair: bool = Field(False, description="Set the ledger to the count, where they differ")


class RecountedTier(Answer):
    """A tier's bytes by the ledger and by the count."""

    tier: str = Field(description="Its name")
    ledger_bytes: int = Field(description="Bytes used, by the ledger")
    counted_bytes: int = Field(description="Bytes of all objects that the index knows")
    difference_bytes: int = Field(description="Ledger less count; 0: they agree")
    repaired: bool = Field(False, description="Whether the ledger was set right")


TierValues = dict[str, Any]
"""A tier as in the settings (docs/configuration.md)."""
