"""Models of studies, their objects and their story, and of ingest."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from raypacs.web.models.base import Answer


class StudyUids(BaseModel):
    """Studies by Study Instance UID."""

    study_uids: list[str] = Field(description="Study Instance UIDs (0020,000D)", max_length=10_000)


class DeletedStudy(Answer):
    """A study that was taken out of every cache."""

    study_uid: str = Field(description="Study Instance UID (0020,000D)")
    deleted_objects: int = Field(description="Objects whose bytes go after the grace period")


class PackPlace(Answer):
    """Where a pack lies."""

    tier: str = Field(description="Name of the tier")
    pack_path: str = Field(description="Path of the pack on it")
    header_path: str = Field(description="Path of its header sidecar")
    token: str = Field(description="Random part of both; of one attempt only")


class StoredObject(Answer):
    """One instance as received, and how it was prepared."""

    sop_instance_uid: str = Field(description="SOP Instance UID (0008,0018)")
    sop_class_uid: str = Field(description="SOP Class UID (0008,0016)")
    transfer_syntax_uid: str = Field(description="Transfer Syntax UID (0002,0010) as received")
    instance_number: int | None = Field(None, description="Instance Number (0020,0013)")
    frames: int = Field(description="Number of frames, 0 without pixels")
    tier: str = Field(description="Tier of the file as received")
    path: str = Field(description="Path on it")
    size_bytes: int = Field(description="Size of the file")
    sha256: str = Field(
        description="SHA-256 of the data set as received; '' of an adopted one not read yet"
    )
    source: str = Field(description="Who sent it")
    received_at_s: float = Field(description="When; seconds since 1970, UTC")
    form: str = Field("", description="htj2k, copied, or '' not prepared yet")
    reason: str = Field("", description="Why it was copied")


class SeriesDetail(Answer):
    """One series."""

    series_uid: str = Field(description="Series Instance UID (0020,000E)")
    modality: str = Field(description="Modality (0008,0060)")
    instances: int = Field(description="Number of instances")
    frames: int = Field(description="Number of frames")
    forms: dict[str, int] = Field(description="Form to number of instances; '' not prepared yet")
    packs: list[PackPlace] = Field(description="Published packs, oldest first")
    objects: list[StoredObject] = Field(description="Its instances")


class StudyDetail(Answer):
    """One study in full."""

    study: dict[str, Any] = Field(description="The study as the index has it")
    series: list[SeriesDetail] = Field(description="Its series")
    conflicts: list[dict[str, Any]] = Field(description="Objects that are kept aside, and why")


class StoryEvent(Answer):
    """One step of a study's story."""

    at_s: float = Field(description="When; seconds since 1970, UTC")
    event: str = Field(description="What happened: a word that does not change")
    text: str = Field(description="The same in a sentence, with rule and numbers")
    node: str = Field("", description="Node that did it, or it happened to")
    who: str = Field("", description="Who asked for it, '' raypacs itself")
    item_id: int = Field(0, description="Work item it belongs to, 0 none")
    epoch: int = Field(0, description="Epoch of the master that wrote it down")
    detail: dict[str, Any] = Field(default_factory=dict, description="Rule and numbers")


class Story(Answer):
    """The whole story of a study, in order."""

    study_uid: str = Field(description="Study Instance UID (0020,000D)")
    events: list[StoryEvent] = Field(description="What happened, oldest first")


class IngestedObject(Answer):
    """What became of one object."""

    outcome: str = Field(description="stored, known, conflict, quarantined or refused")
    status: int = Field(description="DIMSE status (PS3.4 B.2.3, PS3.7 C)")
    reason: str = Field("", description="Why it was not simply stored")
    sop_instance_uid: str = Field("", description="SOP Instance UID (0008,0018)")
    sop_class_uid: str = Field("", description="SOP Class UID (0008,0016)")
    study_uid: str = Field("", description="Study Instance UID (0020,000D)")


class Ingested(Answer):
    """What became of everything that was sent, in the order sent."""

    objects: list[IngestedObject]
    counts: dict[str, int] = Field(description="Outcome to number of objects")
    study_uids: list[str] = Field(description="Studies of what was stored or known")
