"""Models of status and flags of studies, of senders, and of what rules decide."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from raypacs.web.models.base import Answer, Request

Status = Literal["new", "dictated", "reported", "approved"]


class SetStatus(Request):
    """What is to be set; what is left out stays."""

    status: str | None = Field(None, description="new, dictated, reported or approved")
    exported: bool | None = Field(None, description="It was sent where it had to go")
    his_verified: bool | None = Field(None, description="Its demographics were checked")
    committed: bool | None = Field(None, description="Instances are under storage commitment")


class StudyStatus(Answer):
    """Status and flags of a study, and what sources and rules decided."""

    study_uid: str = Field(description="Study Instance UID (0020,000D)")
    status: str = Field(description="new, dictated, reported or approved")
    status_s: float = Field(description="Since when; seconds since 1970, UTC; 0: since it arrived")
    exported: bool = Field(description="It was sent where it had to go")
    his_verified: bool = Field(description="Its demographics were checked")
    committed: bool = Field(description="Instances are under storage commitment")
    archiving: bool = Field(description="Whether it is to be copied into libraries")
    pinned_until_s: float = Field(description="Not evicted before; 0: not pinned")
    delete_after_s: float = Field(description="When a rule or retention deletes it; 0: never")
    origins: list[list[str]] = Field(
        description="Distinct [source, address] that sent of it; ['*', '*'] stands for more"
    )
    decided: dict[str, Any] = Field(description="Effect to its value, and who decided (`by`)")


class ListedStatus(Answer):
    """A study in the operational list."""

    study_uid: str = Field(description="Study Instance UID (0020,000D)")
    list_no: int = Field(description="Its place: `before` of the next page")
    status: str = Field(description="new, dictated, reported or approved")
    exported: bool = Field(description="It was sent where it had to go")
    his_verified: bool = Field(description="Its demographics were checked")
    committed: bool = Field(description="Instances are under storage commitment")
    archiving: bool = Field(description="Whether it is to be copied into libraries")
    attributes: dict[str, Any] = Field(description="DICOM attributes by keyword")


class SeenSource(Answer):
    """A sender as it was seen."""

    source: str = Field(description="Calling AE title, or other door")
    objects: int = Field(description="Objects it sent, since ever")
    size_bytes: int = Field(description="Their bytes")
    first_s: float = Field(description="When it was seen first; seconds since 1970, UTC")
    last_s: float = Field(description="When it was seen last")
    settings: list[str] = Field(
        description="Names of `sources` settings that it may be by its title; where these have "
        "addresses, it depends on them as well"
    )


class ExplainStudy(Request):
    """A study as rules see it, that need not be stored."""

    study: dict[str, Any] = Field(default_factory=dict, description="Study's keyword to value")
    series: list[dict[str, Any]] = Field(
        default_factory=list, max_length=10_000, description="Of each series, keyword to value"
    )
    source: str = Field("", description="Who would send it")
    address: str = Field("", description="From which address")
    status: Status = Field("new", description="Its status")
    size_bytes: int = Field(0, ge=0, description="Its size as received")
    rules: list[dict[str, Any]] | None = Field(
        None, description="Rules as in `rules` of the settings; default: those in force"
    )
    sources: list[dict[str, Any]] | None = Field(
        None, description="Sources as in `sources` of the settings; default: those in force"
    )


class ExplainedRule(Answer):
    """What became of one rule."""

    rule: str = Field(description="Its name")
    matches: bool = Field(description="Whether all its conditions hold")
    asked: bool = Field(description="False where a rule before it was the last one")
    failed: list[str] = Field(description="Conditions that do not hold, with the values found")
    decides: list[str] = Field(description="Actions that it decides, as no rule before it did")


class ExplainedStudy(Answer):
    """What sources and rules say of a study."""

    rules: list[ExplainedRule] = Field(description="Every rule, in order")
    senders: list[dict[str, str]] = Field(
        description="Each `source` and `address`, with the source of the `settings` that it is"
    )
    archiving: bool = Field(description="Whether it is to be copied into libraries")
    decided: dict[str, Any] = Field(description="Effect to its value, and who decides (`by`)")
