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


def study_row(row: Source) -> Row:
    """Return a study's attributes by keyword (PS3.18 table 10.6.3-3)."""
    found: Row = dict.fromkeys(_STUDY_ALWAYS, "")
    found |= {key: value for key, value in row["attributes"].items() if key in STUDY_KEYWORDS}
    return found | {
        "StudyInstanceUID": row["study_uid"],
        "InstanceAvailability": "ONLINE",
        "NumberOfStudyRelatedSeries": row["series_count"],
        "NumberOfStudyRelatedInstances": row["instance_count"],
    }


def series_row(row: Source) -> Row:
    """Return a series' attributes by keyword (PS3.18 table 10.6.3-4)."""
    found: Row = dict(row["attributes"])
    # A number, or empty: of type 2.
    found["SeriesNumber"] = row["series_number"]
    return found | {
        "SeriesInstanceUID": row["series_uid"],
        "Modality": row["modality"],
        "InstanceAvailability": "ONLINE",
        "NumberOfSeriesRelatedInstances": row["instance_count"],
    }


def instance_row(row: Source) -> Row:
    """Return an instance's attributes by keyword (PS3.18 table 10.6.3-5)."""
    found: Row = dict(row["attributes"]) | {
        "SOPInstanceUID": row["sop_instance_uid"],
        "SOPClassUID": row["sop_class_uid"],
        "AvailableTransferSyntaxUID": row["transfer_syntax_uid"],
        "InstanceAvailability": "ONLINE",
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
