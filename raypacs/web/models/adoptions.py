"""Models of archives that are adopted."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from raypacs.web.models.base import Answer, Request


class OrderAdoption(Request):
    """An archive to serve from where it lies."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    url: str = Field(
        description="Absolute folder, or s3://bucket/prefix, that every node reaches", min_length=1
    )
    name: str = Field("", description="Name of its tier; '' made from the URL", max_length=64)
    form: Literal["folder", "orthanc"] = Field(
        "folder",
        alias="format",
        description="folder: DICOM files in any folders; orthanc: its storage",
    )
    prepare: bool = Field(False, description="Prepare what is found, at low priority")
    deleted: bool = Field(False, description="Also what was deleted from the index before")


class AdoptionReport(Answer):
    """Where the report of an adoption lies; `GET .../report` gives it."""

    tier: str = Field("", description="Web tier it lies on, '' none took it or there are no lines")
    path: str = Field("", description="Path on it")
    lines: int = Field(0, description="Number of its lines")


class AdoptionProgress(Answer):
    """How far an adoption is: files by what became of them."""

    seen: int = Field(0, description="Files listed")
    indexed: int = Field(0, description="Registered as new instances")
    known: int = Field(0, description="Known already, unchanged; not read again")
    skipped: int = Field(0, description="No instance, or unreadable")
    unlisted: int = Field(0, description="Folders that cannot be listed")
    duplicate: int = Field(0, description="The same instance is served from elsewhere")
    conflict: int = Field(0, description="Its SOP Instance UID is served with other bytes")
    undecided: int = Field(0, description="What is served cannot be compared with it just now")
    changed: int = Field(0, description="Not the file that was adopted; not served")
    gone: int = Field(0, description="Adopted, and not there any more")
    moved: int = Field(0, description="Adopted, and somewhere else now; served from there")
    refused: int = Field(0, description="Of studies that were deleted from the index")
    bytes_read: int = Field(0, description="Bytes read of headers")
    seconds: float = Field(0.0, description="Since this attempt began")
    done: bool = Field(False, description="Whether it has ended")
    report: AdoptionReport | None = Field(None, description="null until it has ended")


class Adoption(Answer):
    """An adoption: its work item and its tier."""

    item_id: int = Field(description="Number of its work item")
    tier: str = Field(description="Name of the tier")
    state: str = Field(description="State of the work item")
    error: str = Field("", description="Why it is not done, or what an operator should read")
    prepare: bool = Field(False, description="Whether what is found is prepared")
    deleted: bool = Field(False, description="Whether deleted studies are taken back")
    progress: AdoptionProgress = Field(description="How far it is, or was at last")
