"""Models of the compression rules: what is asked about, and what they say."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raypacs.web.models.base import Answer, Request


class Described(Request):
    """What rules look at in an instance: the index's names for what its header says."""

    sop_class_uid: str = Field(description="SOP Class UID (0008,0016)")
    transfer_syntax_uid: str = Field(description="Transfer Syntax UID (0002,0010)")
    study_uid: str = Field("", description="Study Instance UID (0020,000D)")
    series_uid: str = Field("", description="Series Instance UID (0020,000E)")
    sop_instance_uid: str = Field("", description="SOP Instance UID (0008,0018)")
    modality: str = Field("", description="Modality (0008,0060)")
    source: str = Field("", description="Who sends it, as the calling AE title")
    size_bytes: int = Field(0, ge=0, description="Size of the file")
    rows: int = Field(0, ge=0, description="Rows (0028,0010)")
    columns: int = Field(0, ge=0, description="Columns (0028,0011)")
    frames: int = Field(0, ge=0, description="Number of frames, 0 without pixels")
    samples: int = Field(0, ge=0, description="Samples per Pixel (0028,0002)")
    bits_allocated: int = Field(0, ge=0, description="Bits Allocated (0028,0100)")
    bits_stored: int = Field(0, ge=0, description="Bits Stored (0028,0101), 0 without")
    high_bit: int = Field(0, ge=0, description="High Bit (0028,0102)")
    photometric: str = Field("", description="Photometric Interpretation (0028,0004)")
    pixel_length_bytes: int = Field(0, ge=-1, description="Length of Pixel Data, -1 undefined")


class RulesAsked(Request):
    """Instances to try the rules on."""

    instances: list[Described] = Field(max_length=1000, description="At most 1,000")
    rules: list[dict[str, Any]] | None = Field(
        None, description="Rules as in `compression` of the settings; default: those in force"
    )


class Explained(Answer):
    """What the rules say of one instance."""

    sop_instance_uid: str = Field(description="SOP Instance UID (0008,0018)")
    rule: str = Field(description="Name of the rule that decides, '' none does")
    action: str = Field(description="htj2k, copy or lossy; htj2k without a rule")
    form: str = Field(description="How it is prepared: htj2k, wavelet, bits or copied")
    reason: str = Field(description="Why")
    derives: bool = Field(False, description="Whether a lossy object is made of it as well")
    why_not: str = Field("", description="Why not, where the action is lossy")


class RulesExplained(Answer):
    """What the rules say, in the order asked."""

    instances: list[Explained] = Field(description="One each")
