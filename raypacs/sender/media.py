"""DICOM media: a folder with a DICOMDIR over a study's files (PS3.10 section 8, PS3.3 annex F).

pydicom's FileSet makes the directory records and the File IDs (``PT000000/ST000000/SE000000/...``);
it gets the headers only, and the files themselves are moved to those names, byte for byte as they
are.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.errors import InvalidDicomError
from pydicom.fileset import FileSet

from raypacs.errors import AlreadyExists
from raypacs.sender import directory_values

DICOMDIR = "DICOMDIR"
_LEFT_OUT = "EXTRA"
_TOP = (DICOMDIR, _LEFT_OUT, "PT000000")  # names of a medium that are known before it is made
# What pydicom raises at values that it cannot write, and at records that lack something.
_NO_RECORD = (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, struct.error)


@dataclass
class Medium:
    """What was written: ``files`` of ``left_out`` are there, with their reason, without a record.

    ``invented``: keyword to the number of instances for which the DICOMDIR (never a file) has a
    made up value, as records must have one (type 1) and the instance has none. ``replaced``: the
    same where the instance has one that is not valid (PS3.5 section 6.2).
    """

    objects: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    invented: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)


def check_free(folder: Path, names: Iterable[str] = _TOP) -> None:
    """Raise AlreadyExists where ``names`` of a medium are taken: by another one, or by anything."""
    for name in sorted(names):
        if os.path.lexists(folder / name):
            raise AlreadyExists(
                f"{folder} has a {name} already", hint="name another folder, or use --no-dicomdir"
            )


def write_medium(files: Iterable[Path], folder: Path) -> Medium:
    """Move Part 10 files into ``folder`` under their File IDs, with a DICOMDIR that appears last.

    Files that no record can be made for go to ``EXTRA``. What lies in ``folder`` stays as it is.

    Raises:
        AlreadyExists: a name that the medium needs is taken; nothing was moved.
    """
    check_free(folder)
    medium = Medium()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".dicomdir-") as scratch:
        records = FileSet()
        sources: dict[str, Path] = {}
        moves: list[tuple[Path, Path]] = []
        for number, path in enumerate(files):
            why = _add(records, path, medium, number, sources)
            if why:
                place = Path(_LEFT_OUT) / f"IM{len(medium.left_out):06d}"
                moves.append((path, place))
                medium.left_out[str(place)] = why
            medium.objects += 1
        if sources:
            records.write(scratch)
            for instance in records:
                place = Path(instance.path).relative_to(Path(scratch).resolve())
                moves.append((sources[instance.SOPInstanceUID], place))
            moves.append((Path(scratch) / DICOMDIR, Path(DICOMDIR)))
        check_free(folder, {place.parts[0] for _, place in moves})
        for source, place in moves:
            _move(source, folder / place)
    return medium


def _add(
    records: FileSet, path: Path, medium: Medium, number: int, sources: dict[str, Path]
) -> str:
    """Add a file's record; return why there is none."""
    try:
        # What is not valid is told of below, once and not for each time that it is looked at.
        with disable_value_validation():
            dataset = dcmread(path, stop_before_pixels=True)
            invented, replaced = directory_values.complete(dataset, number)
            records.add(dataset)
    except (*_NO_RECORD, InvalidDicomError, OSError) as exc:
        return str(exc).partition(". See DICOM PS3.3")[0]
    medium.invented.update(invented)
    medium.replaced.update(replaced)
    sources[dataset.SOPInstanceUID] = path
    return ""


def _move(source: Path, target: Path) -> None:
    """Move a file to a name that nothing has; raise AlreadyExists if something has it by now."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.touch(exist_ok=False)
    except FileExistsError as exc:
        raise AlreadyExists(f"{target} exists already", hint="name another folder") from exc
    shutil.move(source, target)
