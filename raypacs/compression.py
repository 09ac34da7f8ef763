"""One compression rule: which instances it is for, and what is done with them (FEATURES A6).

SOP classes and transfer syntaxes are named by UID, by name or by keyword (PS3.6 annex A), all with
the wildcards ``*`` and ``?``. What can never match anything is refused when it is applied, as a
rule that is silently never used is worse than none. Rules are applied in ``policy.rules``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydicom.uid import UID_dictionary

# Defined Terms of Modality (0008,0060), PS3.3 section C.7.3.1.1.1, retired ones included.
_MODALITIES = """
ANN AR ASMT AU BDUS BI BMD CD CF CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC ECG EEG EMG EOG
EPS ES FA FID FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG MR MS NM OAM OCT OP OPM OPR
OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN
RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP TG US VA VF XA XAPROTOCOL
XC
"""
MODALITIES = frozenset(_MODALITIES.split())
# PS3.5 section 9.1: a component of several digits does not begin with 0.
_UID = re.compile(r"(?!.{65})(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_UID_PATTERN = re.compile(r"[0-9.*?]+")
_MODALITY_PATTERN = re.compile(r"[A-Z0-9_ *?]{1,16}")
# Given to validators: what an earlier version, which checked less, took is read as it stands.
AS_STORED = {"stored": True}
_LONGEST_NAME = 64
_RENAMED = {"sop_class_uids": "sop_classes", "transfer_syntax_uids": "transfer_syntaxes"}
_SOP_CLASS, _TRANSFER_SYNTAX = "SOP Class", "Transfer Syntax"
_BOUNDED = ("size_bytes", "frame_bytes", "frames", "rows", "columns")


class CompressionRule(BaseModel):
    """What to do with instances that match; the first matching rule wins. Empty matches all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name shown as the reason, 1 to 64 characters.")
    action: Literal["htj2k", "copy", "lossy"] = Field(
        description="`htj2k`: prepare without loss, as without any rule; `copy`: keep as received; "
        "`lossy`: prepare without loss, and make a new, lossy DERIVED object as well, by `ratio` "
        "or `psnr_db`."
    )
    sop_classes: tuple[str, ...] = Field(
        default=(),
        description="SOP classes by UID, name or keyword (`CT Image Storage`), with `*` and `?`. "
        "Default any.",
    )
    modalities: tuple[str, ...] = Field(
        default=(), description="Modality (0008,0060), with `*` and `?`. Default any."
    )
    transfer_syntaxes: tuple[str, ...] = Field(
        default=(),
        description="Transfer syntaxes as received, by UID, name or keyword (`JPEG 2000*`), with "
        "`*` and `?`. Default any.",
    )
    sources: tuple[str, ...] = Field(
        default=(),
        description="Who sent it: calling AE titles, or what STOW-RS and ingest gave as source; "
        "with `*` and `?`. Default any.",
    )
    min_size_bytes: int = Field(
        default=0, ge=0, description="Smallest object as received, in bytes. Default 0."
    )
    max_size_bytes: int = Field(
        default=0, ge=0, description="Largest object as received, in bytes. Default 0: any."
    )
    min_frame_bytes: int = Field(
        default=0, ge=0, description="Smallest uncompressed frame, in bytes. Default 0."
    )
    max_frame_bytes: int = Field(
        default=0, ge=0, description="Largest uncompressed frame, in bytes. Default 0: any."
    )
    min_frames: int = Field(default=0, ge=0, description="Fewest frames. Default 0.")
    max_frames: int = Field(default=0, ge=0, description="Most frames. Default 0: any.")
    min_rows: int = Field(default=0, ge=0, description="Fewest Rows (0028,0010). Default 0.")
    max_rows: int = Field(default=0, ge=0, description="Most Rows. Default 0: any.")
    min_columns: int = Field(default=0, ge=0, description="Fewest Columns (0028,0011). Default 0.")
    max_columns: int = Field(default=0, ge=0, description="Most Columns. Default 0: any.")
    ratio: float = Field(
        default=0,
        ge=0,
        le=1000,
        description="For `lossy`: bytes of a frame to bytes of its codestream, at least that for "
        "every frame. Default 0: as small as `psnr_db` allows.",
    )
    psnr_db: float = Field(
        default=0,
        ge=0,
        le=150,
        description="For `lossy`: peak signal to noise ratio in dB that every frame reaches at "
        "least; the peak is the range of the frame's values. With `ratio` as well, nothing is made "
        "of an instance that would be worse. Default 0: as good as `ratio` allows.",
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        """Take the names that earlier versions wrote into the index."""
        if not isinstance(values, Mapping):
            return values
        for old, new in _RENAMED.items():
            if old in values and new in values:
                raise ValueError(f"{old} is the older name of {new}: give one of them")
        return {_RENAMED.get(name, name): value for name, value in values.items()}

    @field_validator("name")
    @classmethod
    def _some_name(cls, value: str, info: ValidationInfo) -> str:
        if not 1 <= len(value) <= _LONGEST_NAME and not is_stored(info):
            raise ValueError(f"a name has 1 to {_LONGEST_NAME} characters")
        return value

    @field_validator("sop_classes", "transfer_syntaxes")
    @classmethod
    def _known_uids(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if is_stored(info):
            return values
        kind = _SOP_CLASS if info.field_name == "sop_classes" else _TRANSFER_SYNTAX
        for value in values:
            _check_uid(value, kind)
        return values

    @field_validator("modalities")
    @classmethod
    def _known_modalities(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if is_stored(info):
            return values
        for value in values:
            if not (_has_wildcard(value) and _MODALITY_PATTERN.fullmatch(value)):
                _check_known(value, MODALITIES, "Modality", hint="another one needs a wildcard")
        return values

    @field_validator("sources")
    @classmethod
    def _some_source(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not is_stored(info) and not all(value.strip() for value in values):
            raise ValueError("a source has at least one character")
        return values

    @model_validator(mode="after")
    def _agrees(self) -> CompressionRule:
        for what in _BOUNDED:
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if most and most < least:
                raise ValueError(f"rule {self.name!r}: max_{what} is less than min_{what}")
        asked = [name for name in ("ratio", "psnr_db") if getattr(self, name)]
        if self.action == "lossy" and not asked:
            raise ValueError(f"rule {self.name!r}: action lossy needs ratio, psnr_db or both")
        if self.action != "lossy" and asked:
            raise ValueError(f"rule {self.name!r}: {asked[0]} is for action lossy only")
        if self.ratio and self.ratio <= 1:
            raise ValueError(f"rule {self.name!r}: ratio must be more than 1")
        return self


def is_stored(info: ValidationInfo) -> bool:
    """Whether values are read that were applied before, maybe by an earlier version."""
    return bool(info.context and info.context.get("stored"))


def matches(pattern: str, value: str) -> bool:
    """Whether ``value`` is what ``pattern`` says, where * is any text and ? any character."""
    return _compiled(pattern).fullmatch(value) is not None


@lru_cache(maxsize=4096)
def matches_uid(patterns: tuple[str, ...], uid: str) -> bool:
    """Whether one of ``patterns`` is, or has wildcards for, a UID, its name or its keyword."""
    names = [uid.lower(), *(name.lower() for name in names_of(uid))]
    return any(matches(pattern.strip().lower(), name) for pattern in patterns for name in names)


def names_of(uid: str) -> tuple[str, ...]:
    """Return name and keyword of a UID of PS3.6; () for one that is not there."""
    found = UID_dictionary.get(uid)
    return tuple(name for name in (found[0], found[4]) if name) if found else ()


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    # Not fnmatch: names of transfer syntaxes have brackets.
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL)


def _has_wildcard(value: str) -> bool:
    return "*" in value or "?" in value


def _check_uid(value: str, kind: str) -> None:
    """Raise ValueError for what names no UID of a kind, and is no UID by itself."""
    known = _named(kind)
    if _has_wildcard(value):
        some = any(matches(value.strip().lower(), name.lower()) for name in known)
        if not some and not _UID_PATTERN.fullmatch(value):
            raise ValueError(f"no {kind} has a UID, name or keyword like {value!r}")
        return
    if _UID.fullmatch(value.strip()):
        found = UID_dictionary.get(value.strip())
        if found and kind not in found[1]:
            raise ValueError(f"{value} is {found[0]!r}, and no {kind}")
        return
    if value.strip().lower() not in {name.lower() for name in known}:
        _check_known(value, known, kind)


def _check_known(value: str, known: Iterable[str], what: str, *, hint: str = "") -> None:
    names = {name.lower(): name for name in known}
    if value in names.values():
        return
    near = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.5)
    parts = [f"no {what} {value!r}"]
    if near:
        parts.append(f"did you mean {names[near[0]]!r}?")
    if hint:
        parts.append(hint)
    raise ValueError("; ".join(parts))


@lru_cache(maxsize=4)
def _named(kind: str) -> frozenset[str]:
    """Return UIDs, names and keywords of all UIDs of a kind."""
    return frozenset(
        name
        for uid, (_, found, *_) in UID_dictionary.items()
        if kind in found
        for name in (uid, *names_of(uid))
    )
