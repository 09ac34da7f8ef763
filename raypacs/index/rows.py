"""What a search answers of a row: DICOM attributes by keyword (PS3.18 section 10.6.3.3)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from raypacs.index.attributes import STUDY_KEYWORDS

Row = dict[str, Any]
Source = sa.RowMapping | Row

# Of type 2: there, though empty (PS3.18 tables 10.6.3-3 to -5).
_STUDY_ALWAYS = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
)


# Instance Availability (0008,0056), PS3.3 section C.4.23.1.1: there at once, or only once it was
# brought back from a library. What is made of several is as available as the least of them.
ONLINE, NEARLINE = "ONLINE", "NEARLINE"


def _is_away(one: Source, study: Source | None) -> bool:
    """Whether instances of a series left the image tiers."""
    if one["manifest_path"]:
        return bool(one["gone_path"] == one["manifest_path"])
    return study is not None and study["offline_s"] > 0


def study_row(row: Source) -> Row:
    """Return a study's attributes by keyword (PS3.18 table 10.6.3-3)."""
    found: Row = dict.fromkeys(_STUDY_ALWAYS, "")
    found |= {key: value for key, value in row["attributes"].items() if key in STUDY_KEYWORDS}
    return found | {
        "StudyInstanceUID": row["study_uid"],
        "InstanceAvailability": NEARLINE if row["offline_s"] > 0 else ONLINE,
        "NumberOfStudyRelatedSeries": row["series_count"],
        "NumberOfStudyRelatedInstances": row["instance_count"],
    }


def series_row(row: Source, study: Source | None = None) -> Row:
    """Return a series' attributes by keyword (PS3.18 table 10.6.3-4); ``study``: where known."""
    found: Row = dict(row["attributes"])
    # A number, or empty: of type 2.
    found["SeriesNumber"] = row["series_number"]
    return found | {
        "SeriesInstanceUID": row["series_uid"],
        "Modality": row["modality"],
        "InstanceAvailability": NEARLINE if _is_away(row, study) else ONLINE,
        "NumberOfSeriesRelatedInstances": row["instance_count"],
    }


def instance_row(row: Source, one: Source | None = None, study: Source | None = None) -> Row:
    """Return an instance's attributes by keyword (PS3.18 table 10.6.3-5).

    ``one``: its series, ``study``: its study.
    """
    # Of a sealed series all instances are there, or none is.
    sealed = one is not None and bool(one["manifest_path"])
    is_away = _is_away(one, study) if one is not None and sealed else not row["tier"]
    found: Row = dict(row["attributes"]) | {
        "SOPInstanceUID": row["sop_instance_uid"],
        "SOPClassUID": row["sop_class_uid"],
        "AvailableTransferSyntaxUID": row["transfer_syntax_uid"],
        "InstanceAvailability": NEARLINE if is_away else ONLINE,
        "InstanceNumber": row["instance_number"],  # or empty: of type 2
    }
    if row["rows"]:
        found |= {
            "Rows": row["rows"],
            "Columns": row["columns"],
            "BitsAllocated": row["bits_allocated"],
            "BitsStored": row["bits_stored"],
            "NumberOfFrames": row["frames"],
        }
    return found
