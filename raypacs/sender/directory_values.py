"""Values of directory records, which have to be valid whatever the instances have (PS3.3 annex F).

An instance is kept as it came. The DICOMDIR is raypacs' own: what an instance lacks there is made
up, what breaks the rules of its VR (PS3.5 section 6.2) is put right or replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.valuerep import STR_VR_REGEXES

# There and empty, they would be records' errors; of type 1C, they may be missing.
_NOT_EMPTY = (
    *("HL7InstanceIdentifier", "VerificationDateTime", "ContentSequence"),
    *("ReferencedSeriesSequence", "BlendingSequence", "StudyInstanceUID"),
)
_DATES = ("SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate")
_TIMES = ("SeriesTime", "AcquisitionTime", "ContentTime", "InstanceCreationTime")
# What records take from instances: those of the study first, others may be replaced by them.
_COPIED = (
    *("StudyDate", "StudyTime", "StudyDescription", "StudyID", "AccessionNumber"),
    *("PatientName", "PatientID", "Modality", "SeriesNumber", "InstanceNumber"),
    *("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime"),
    *("ContentLabel", "ContentDescription", "ContentCreatorName", "DocumentTitle"),
    *("PresentationCreationDate", "PresentationCreationTime", "DoseSummationType"),
    *("StructureSetLabel", "StructureSetDate", "StructureSetTime", "CompletionFlag"),
    *("RTPlanLabel", "RTPlanDate", "RTPlanTime", "TreatmentDate", "TreatmentTime"),
    *("VerificationFlag", "VerificationDateTime", "UserContentLabel", "UserContentLongLabel"),
)
_OF_STUDY = {"DA": "StudyDate", "TM": "StudyTime"}
_LONGEST = {"SH": 16, "LO": 64, "ST": 1024, "CS": 16, "PN": 64}
_DATE = re.compile(r"(\d{4})([-./]?)(\d\d)\2(\d\d)", re.ASCII)
_TIME = re.compile(
    r"([01]\d|2[0-3])(?:(:?)([0-5]\d)(?:\2([0-5]\d|60)(?:(\.\d{1,6})\d*)?)?)?", re.ASCII
)
_INTEGER = re.compile(r"[+-]?\d{1,11}", re.ASCII)
_MOST = (1 << 31) - 1  # of an integer string
_NO_CODE = re.compile(r"[^A-Z0-9 _]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Short Text has lines, and may have tabs.
_OTHER = {"SH": _CONTROL, "LO": _CONTROL, "ST": re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")}


def complete(dataset: Dataset, number: int) -> tuple[list[str], list[str]]:
    """Make the values that records take from ``dataset`` valid, and those of type 1 present.

    ``number`` is the place of the instance among those of the medium, from 0.

    Returns:
        Keywords of what was made up as there was none, and of what was not valid.
    """
    made: dict[str, Callable[[], Any]] = {
        "PatientID": lambda: _valid("LO", str(dataset.get("PatientName") or "")) or "UNKNOWN",
        "StudyDate": lambda: _first(dataset, _DATES, "19000101"),
        "StudyTime": lambda: _first(dataset, _TIMES, "000000"),
        "StudyID": lambda: "1",
        "Modality": lambda: "OT",
        "SeriesNumber": lambda: 1,
        "InstanceNumber": lambda: number + 1,
    }
    for name in _NOT_EMPTY:
        if name in dataset and not dataset[name].value:
            delattr(dataset, name)
    invented, replaced = [], []
    for name in _COPIED:
        if name in dataset and _replace(dataset, name):
            replaced.append(name)
        if name in made and dataset.get(name) in (None, ""):
            setattr(dataset, name, made[name]())
            if name not in replaced:
                invented.append(name)
    return invented, replaced


def _first(dataset: Dataset, keywords: Iterable[str], other: str) -> str:
    values = (
        _valid(dictionary_VR(keyword), _text(dataset, keyword) or "")
        for keyword in keywords
        if keyword in dataset
    )
    return next((value for value in values if value), other)


def _replace(dataset: Dataset, keyword: str) -> bool:
    """Put one value right, or take it out; return if it was not valid."""
    vr, text = dictionary_VR(keyword), _text(dataset, keyword)
    valid = _valid(vr, text or "")
    if valid == text:
        return False
    # An hour or a day that nobody can read was not far from that of the study.
    valid = valid or dataset.get(_OF_STUDY.get(vr, ""), "") * (keyword != _OF_STUDY.get(vr))
    if valid:
        setattr(dataset, keyword, valid)
    else:
        delattr(dataset, keyword)
    return True


def _text(dataset: Dataset, keyword: str) -> str | None:
    """Return a value without its padding; None if it is several, or cannot be read at all."""
    try:
        value = dataset[keyword].value
    except (ValueError, TypeError, OverflowError):  # 1.5 as an integer, for example
        return None
    if isinstance(value, MultiValue):
        return None
    return "" if value is None else str(value).strip(" ")


def _valid(vr: str, text: str) -> str:
    """Return the valid value that is closest to ``text``; '' without any."""
    if vr == "DA":
        return _valid_date(text)
    if vr == "TM":
        time = _TIME.fullmatch(text)
        return "".join(part or "" for part in time.group(1, 3, 4, 5)) if time else ""
    if vr == "IS":
        return text if _INTEGER.fullmatch(text) and -_MOST <= int(text) <= _MOST else ""
    if vr == "DT":
        return text if STR_VR_REGEXES[vr].fullmatch(text) else ""
    if vr == "PN":
        groups = _CONTROL.sub(" ", text).split("=")[:3]
        return "=".join(group[: _LONGEST[vr]] for group in groups)
    text = _NO_CODE.sub("_", text.upper()) if vr == "CS" else _OTHER[vr].sub(" ", text)
    return text[: _LONGEST[vr]].strip(" ")


def _valid_date(text: str) -> str:
    """Return a date without separators (those of ACR-NEMA, PS3.5 table 6.2-1, and others)."""
    found = _DATE.fullmatch(text)
    if not found:
        return ""
    try:
        day = date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return ""
    return f"{day:%Y%m%d}" if day.year >= 1000 else ""
