"""Models of erasures."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from raypacs.web.models.base import Answer, Request


class OrderErasure(Request):
    """What is to be erased: every copy and every trace. It cannot be taken back."""

    what: Literal["study", "patient"] = Field(description="study or patient")
    subject: str = Field(
        min_length=1, max_length=64, description="Study Instance UID, or Patient ID as stored"
    )
    confirm: str = Field(
        "", description="The subject once more; without it nothing is ordered, only shown"
    )


class ErasedStudy(Answer):
    """A study that an erasure is about."""

    study_uid: str = Field(description="Study Instance UID (0020,000D)")
    instances: int = Field(description="Instances, 0 where only traces are left")
    study_date: str = Field(description="Study Date (0008,0020)")
    copies: list[dict[str, Any]] = Field(description="`tier`, `objects`, `size_bytes` of each")


class ErasurePlan(Answer):
    """What an erasure would be about, or is, with its number."""

    erasure_id: int = Field(0, description="Number of the order; 0: only shown")
    what: str = Field(description="study or patient")
    studies: list[ErasedStudy] = Field(description="The studies")


class Erasure(Answer):
    """An erasure, and how far it is."""

    erasure_id: int = Field(description="Its number")
    what: str = Field(description="study or patient")
    subject_key: str = Field(description="Hash of the UID or Patient ID, of this site")
    state: str = Field(description="deleting, checking, statistics or done")
    who: str = Field(description="Who ordered it")
    ordered_s: float = Field(description="When; seconds since 1970, UTC")
    finished_s: float = Field(description="When it was done; 0: it is not")
    progress: dict[str, Any] = Field(description="How far it is; `waits`: for what")


class ErasureInFull(Erasure):
    """An erasure with its proof."""

    places: dict[str, int] = Field(
        default_factory=dict, description="State to number of objects, until it is done"
    )
    report: dict[str, Any] = Field(
        default_factory=dict,
        description="The proof, once done (docs/erase.md), with an HMAC-SHA256 of the site",
    )
