"""DICOM media: a folder with a DICOMDIR over a study's files (PS3.10 section 8, PS3.3 annex F).

pydicom's FileSet makes the directory records and the File IDs (``PT000000/ST000000/SE000000/...``);
it gets the headers only, and the files themselves are moved to those names, byte for byte as they
are.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.fileset import FileSet

from raypacs.errors import AlreadyExists

DICOMDIR = "DICOMDIR"
_LEFT_OUT = "EXTRA"
# What pydicom raises at values that it cannot write, and at records that lack something.
_NO_RECORD = (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, struct.error)
# There and empty, they would be records' errors; of type 1C, they may be missing.
_NOT_EMPTY = (
    *("HL7InstanceIdentifier", "VerificationDateTime", "ContentSequence"),
    *("ReferencedSeriesSequence", "BlendingSequence", "StudyInstanceUID"),
)
_DATES = ("SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate")
_TIMES = ("SeriesTime", "AcquisitionTime", "ContentTime", "InstanceCreationTime")


@dataclass
class Medium:
    """What was written: ``files`` of ``left_out`` are there, with their reason, without a record.

    ``invented``: keyword to the number of instances for which the DICOMDIR (never a file) has a
    made up value, as records must have one (type 1) and the instance has none.
    """

    objects: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    invented: Counter[str] = field(default_factory=Counter)


def check_free(folder: Path) -> None:
    """Raise AlreadyExists where a medium is already: two studies would be mixed up."""
    if (folder / DICOMDIR).exists():
        raise AlreadyExists(
            f"{folder} has a DICOMDIR already", hint="name another folder, or use --no-dicomdir"
        )


def write_medium(files: Iterable[Path], folder: Path) -> Medium:
    """Move Part 10 files into ``folder`` under their File IDs, with a DICOMDIR that appears last.

    Files that no record can be made for go to ``EXTRA``.

    Raises:
        AlreadyExists: there is a DICOMDIR already.
    """
    check_free(folder)
    medium = Medium()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".dicomdir-") as scratch:
        records = FileSet()
        sources: dict[str, Path] = {}
        for number, path in enumerate(files):
            why = _add(records, path, medium, number, sources)
            if why:
                place = Path(_LEFT_OUT) / f"IM{len(medium.left_out):06d}"
                _move(path, folder / place)
                medium.left_out[str(place)] = why
            medium.objects += 1
        if not sources:
            return medium
        records.write(scratch)
        for instance in records:
            place = Path(instance.path).relative_to(Path(scratch).resolve())
            _move(sources[instance.SOPInstanceUID], folder / place)
        _move(Path(scratch) / DICOMDIR, folder / DICOMDIR)
    return medium


def _add(
    records: FileSet, path: Path, medium: Medium, number: int, sources: dict[str, Path]
) -> str:
    """Add a file's record; return why there is none."""
    try:
        dataset = dcmread(path, stop_before_pixels=True)
        invented = _invent(dataset, number)
        records.add(dataset)
    except (*_NO_RECORD, InvalidDicomError, OSError) as exc:
        return str(exc).partition(". See DICOM PS3.3")[0]
    medium.invented.update(invented)
    sources[dataset.SOPInstanceUID] = path
    return ""


def _invent(dataset: Dataset, number: int) -> list[str]:
    """Fill in what every record must have; return the keywords. Only for the DICOMDIR."""
    made: dict[str, Callable[[], Any]] = {
        "PatientID": lambda: str(dataset.get("PatientName") or "") or "UNKNOWN",
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
    empty = [name for name in made if dataset.get(name) in (None, "")]
    for name in empty:
        setattr(dataset, name, made[name]())
    return empty


def _first(dataset: Dataset, keywords: Iterable[str], other: str) -> str:
    values = (str(dataset.get(keyword) or "") for keyword in keywords)
    return next((value for value in values if value), other)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
