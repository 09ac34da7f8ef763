"""Conditions of rules on DICOM attributes: their syntax, and what of it can never hold.

A condition is a key with a value, or with a list of values of which one must hold::

    Modality = "CT"                       text, with the wildcards * and ?
    BodyPartExamined = ["CHEST", "LUNG*"]
    StudyDate = "2020-01-01.."            dates, alone or as a range
    SeriesNumber = "1..99"                numbers, the same
    patient_age = "..18y"                 ages, in d(ays), w(eeks), m(onths) or y(ears)

Keys are keywords or tags of PS3.6 of which the index keeps the values, and a few of raypacs' own.
Ranges have their ends in them; an age is compared to the day (a month has 30.4375 of them).
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any, Literal

from pydicom.datadict import dictionary_keyword, keyword_dict

from raypacs.compression import MODALITIES, matches

Kind = Literal["text", "number", "date", "age", "address"]
STUDY_KEYS: dict[str, Kind] = {
    "PatientName": "text",
    "PatientID": "text",
    "IssuerOfPatientID": "text",
    "PatientBirthDate": "date",
    "PatientSex": "text",
    "StudyDate": "date",
    "StudyTime": "text",
    "StudyID": "text",
    "AccessionNumber": "text",
    "ReferringPhysicianName": "text",
    "StudyDescription": "text",
    "InstitutionName": "text",
    "TimezoneOffsetFromUTC": "text",
    "StudyInstanceUID": "text",
    "ModalitiesInStudy": "text",
    "NumberOfStudyRelatedSeries": "number",
    "NumberOfStudyRelatedInstances": "number",
}
SERIES_KEYS: dict[str, Kind] = {
    "Modality": "text",
    "SeriesInstanceUID": "text",
    "SeriesNumber": "number",
    "SeriesDate": "date",
    "SeriesTime": "text",
    "SeriesDescription": "text",
    "BodyPartExamined": "text",
    "ProtocolName": "text",
    "Laterality": "text",
    "Manufacturer": "text",
    "StationName": "text",
    "PerformedProcedureStepStartDate": "date",
    "PerformedProcedureStepStartTime": "text",
    "FrameOfReferenceUID": "text",
    "NumberOfSeriesRelatedInstances": "number",
}
# `source` and `address`: of any sender of the study. `study_age`: since Study Date.
OWN_KEYS: dict[str, Kind] = {
    "source": "text",
    "address": "address",
    "status": "text",
    "patient_age": "age",
    "study_age": "age",
    "size_bytes": "number",
}
KEYS: dict[str, Kind] = {**STUDY_KEYS, **SERIES_KEYS, **OWN_KEYS}
AGES = frozenset({"study_age"})
"""Keys whose values change as time goes by."""
_STATUSES = ("new", "dictated", "reported", "approved")
_SEXES = ("M", "F", "O")
_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
_AGE = re.compile(r"(\d+(?:\.\d+)?)([dwmy])")
_DAYS = {"d": 1.0, "w": 7.0, "m": 30.4375, "y": 365.25}


@dataclass(frozen=True, slots=True)
class Range:
    """From ``first`` to ``last``, both included; None: open."""

    first: float | None
    last: float | None

    def has(self, value: float) -> bool:
        """Whether a value lies in it."""
        return (self.first is None or value >= self.first) and (
            self.last is None or value <= self.last
        )


def normalised(conditions: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    """Return conditions by key, each with its alternatives as text.

    Raises:
        ValueError: no such key (with the nearest one), or a value that can never hold.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, value in conditions.items():
        key = _key(name, where)
        if key in found:
            raise ValueError(f"{where}.{name}: {key} is there twice")
        values = value if isinstance(value, list | tuple) else [value]
        if not values:
            raise ValueError(f"{where}.{name}: an empty list never matches")
        found[key] = tuple(_checked(key, one, f"{where}.{name}") for one in values)
    return found


def _key(name: str, where: str) -> str:
    tag = _TAG.fullmatch(name)
    key = dictionary_keyword(int(tag[1] + tag[2], 16)) if tag and _known_tag(tag) else name
    if key in KEYS:
        return key
    if tag and not _known_tag(tag):
        raise ValueError(f"{where}: there is no tag {name} in PS3.6")
    if key in keyword_dict:
        raise ValueError(
            f"{where}: the index does not keep {key}, so no rule can go by it; "
            f"it keeps {', '.join(sorted(KEYS))}"
        )
    folded = {one.lower(): one for one in (*KEYS, *keyword_dict)}
    near = difflib.get_close_matches(key.lower(), [one.lower() for one in KEYS], n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}?" if near else f"known: {', '.join(sorted(KEYS))}"
    raise ValueError(f"{where}: unknown key {name!r}; {hint}")


def _known_tag(tag: re.Match[str]) -> bool:
    try:
        return bool(dictionary_keyword(int(tag[1] + tag[2], 16)))
    except KeyError:
        return False


def _checked(key: str, value: Any, where: str) -> str:
    """Return one alternative as text. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | date):
        raise ValueError(f"{where}: {value!r} is neither text nor a number")
    text = str(value).strip()
    kind = KEYS[key]
    if not text:
        raise ValueError(f"{where}: empty text; leave the key out, or write '*' for any value")
    if kind in ("number", "date", "age"):
        parsed = span(kind, text, where)
        if parsed.first is not None and parsed.last is not None and parsed.first > parsed.last:
            raise ValueError(f"{where}: {text!r} begins after its end, so it never matches")
    elif kind == "address":
        _network(text, where)
    elif key in _VALUES and not _wild(text) and text not in _VALUES[key]:
        near = difflib.get_close_matches(text, sorted(_VALUES[key]), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{where}: {text!r} is no value of {key}{hint}")
    return text


_VALUES: dict[str, Sequence[str]] = {
    "status": _STATUSES,
    "PatientSex": _SEXES,
    "Modality": tuple(sorted(MODALITIES)),
    "ModalitiesInStudy": tuple(sorted(MODALITIES)),
}


def _wild(text: str) -> bool:
    return "*" in text or "?" in text


@lru_cache(maxsize=4096)
def span(kind: Kind, text: str, where: str = "") -> Range:
    """Return a range of numbers, of days of the calendar (ordinals), or of days of age.

    Raises:
        ValueError: it is none.
    """
    first, dots, last = text.partition("..")
    if dots and not (first.strip() or last.strip()):
        raise ValueError(f"{where}: {text!r} has neither begin nor end")
    low = _value(kind, first.strip(), where) if first.strip() else None
    high = low if not dots else (_value(kind, last.strip(), where) if last.strip() else None)
    return Range(low, high)


def _value(kind: Kind, text: str, where: str) -> float:
    try:
        if kind == "date":
            return float(date.fromisoformat(text).toordinal())
        if kind == "age":
            found = _AGE.fullmatch(text)
            if found is None:
                raise ValueError
            return float(found[1]) * _DAYS[found[2]]
        number = float(text)
        if not math.isfinite(number):
            raise ValueError
        return number
    except ValueError:
        wanted = {
            "date": "a date (2024-01-31 or 20240131)",
            "age": "an age (90d, 2w, 6m or 18y)",
        }.get(kind, "a number")
        raise ValueError(f"{where}: {text!r} is not {wanted}, or a range of them") from None


@lru_cache(maxsize=4096)
def _network(text: str, where: str = "") -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return a network. Raises ValueError."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{where}: {text!r} is not an address or a network (192.0.2.7, 192.0.2.0/24)"
        ) from None


def checked_networks(texts: Sequence[str], where: str) -> None:
    """Raise ValueError if one is no address and no network."""
    for text in texts:
        _network(text, where)


def within(text: str, address: str) -> bool:
    """Whether an address lies in a network; what is no address lies in none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found) in _network(text)


def holds(key: str, alternative: str, value: str | float | None) -> bool:
    """Whether one alternative of a condition holds for a value of its kind ('' or None: none)."""
    kind = KEYS[key]
    if value is None or value == "":
        return False
    if kind == "text":
        return matches(alternative, str(value))
    if kind == "address":
        return within(alternative, str(value))
    try:
        return isinstance(value, int | float) and span(kind, alternative).has(float(value))
    except ValueError:  # an earlier version took it
        return False
