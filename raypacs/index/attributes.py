"""Which DICOM attributes belong to a study, a series or an instance, and how values compare.

Levels follow the query keys of PS3.4 section C.6.2.1 (Study Root) and PS3.18 section 10.6.3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

STUDY_KEYWORDS = frozenset(
    (
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "ReferringPhysicianName",
        "StudyDescription",
        "InstitutionName",
        "TimezoneOffsetFromUTC",
    )
)
SERIES_KEYWORDS = frozenset(
    (
        "SeriesNumber",
        "SeriesDate",
        "SeriesTime",
        "SeriesDescription",
        "BodyPartExamined",
        "ProtocolName",
        "Laterality",
        "Manufacturer",
        "StationName",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "FrameOfReferenceUID",
    )
)
PERSON_NAMES = frozenset(("PatientName", "ReferringPhysicianName"))
DATES = frozenset(
    (
        "StudyDate",
        "SeriesDate",
        "ContentDate",
        "PatientBirthDate",
        "PerformedProcedureStepStartDate",
    )
)
TIMES = frozenset(("StudyTime", "SeriesTime", "ContentTime", "PerformedProcedureStepStartTime"))


def of_study(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the study's part, with person names' folded forms (``*Folded``) beside them."""
    found = {key: value for key, value in attributes.items() if key in STUDY_KEYWORDS}
    name = found.get("ReferringPhysicianName")
    if name:
        found["ReferringPhysicianNameFolded"] = fold_name(name)
    return _plain_dates(found)


def of_series(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the series' part."""
    return _plain_dates({key: value for key, value in attributes.items() if key in SERIES_KEYWORDS})


def of_instance(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return what belongs to neither study nor series."""
    return _plain_dates(
        {
            key: value
            for key, value in attributes.items()
            if key not in STUDY_KEYWORDS and key not in SERIES_KEYWORDS
        }
    )


def fold_name(name: str) -> str:
    """Return a person name for comparing: case folded, no trailing empty components (PS3.5 6.2)."""
    return "=".join(group.rstrip("^ ") for group in name.casefold().split("="))


def joined(modalities: Iterable[str]) -> str:
    """Return Modalities in Study (0008,0061) as ``studies.modalities`` has them: ``\\CT\\SR\\``."""
    named = sorted(name for name in modalities if name)
    return "\\".join(["", *named, ""]) if named else ""


def integer(text: str) -> int | None:
    """Return an IS value as a number, None where it is none or not of 32 bit (PS3.5 6.2)."""
    try:
        number = int(text.strip())
    except ValueError:
        return None
    return number if -(1 << 31) <= number < 1 << 31 else None


def _plain_dates(attributes: dict[str, str]) -> dict[str, str]:
    """Write old dates (``1999.12.31``, PS3.5 section 6.2) as the others."""
    for key in DATES.intersection(attributes):
        attributes[key] = attributes[key].replace(".", "")
    return attributes
