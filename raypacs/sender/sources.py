"""What `raypacs ingest PATH...` finds: DICOM files in folders, zip files and DICOMDIR media.

Only the first bytes of a file are looked at here, to tell what is worth sending; the node judges
what it receives. A file is a :class:`Candidate` (worth sending) or :class:`Skipped` (and why).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

_BLOCK_BYTES = 256 * 1024
_PREAMBLE_BYTES = 132
_ZIP_MAGIC = b"PK\x03\x04"
_LITTLE, _BIG = (b"\x02\x00", b"\x08\x00"), (b"\x00\x02", b"\x00\x08")

NOT_DICOM = "not DICOM"
NO_FILE_META = "DICOM data set without preamble and file meta (PS3.10 section 7.1)"
MEDIA_DIRECTORY = "DICOMDIR of a medium: its files are found in the folder"


@dataclass(frozen=True)
class Candidate:
    """A Part 10 file worth sending: on disk, or the member of a zip file."""

    name: str
    size_bytes: int
    path: Path
    archive: zipfile.ZipFile | None = None
    member: str = ""

    def read(self) -> Iterator[bytes]:
        """Yield the file's bytes in blocks, from the start each time.

        Raises:
            OSError: the file cannot be read any more.
            zipfile.BadZipFile: the member is damaged.
        """
        opened = self.archive.open(self.member) if self.archive else self.path.open("rb")
        with opened as handle:
            while block := handle.read(_BLOCK_BYTES):
                yield block


@dataclass(frozen=True)
class Skipped:
    """A file that is not sent. ``looks_dicom`` when its owner probably expected it to be."""

    name: str
    reason: str
    looks_dicom: bool = False


def find(paths: Iterable[Path]) -> Iterator[Candidate | Skipped]:
    """Yield what lies under ``paths``: files as they are, folders and zip files with all in them.

    A DICOMDIR named itself stands for the files it references; one met in a folder is skipped,
    since its files are in that folder.
    """
    for path in paths:
        if path.is_dir():
            for each in _walk(path):
                yield from _file(each)
        elif path.is_file():
            yield from _media(path) if _is_media_directory(path) else _file(path)
        else:
            yield Skipped(str(path), "no such file or folder", looks_dicom=True)


def count(paths: Iterable[Path]) -> tuple[int, int]:
    """Return files and bytes under ``paths`` without opening any but zip files: for progress."""
    files = size_bytes = 0
    for path in paths:
        for each in _walk(path) if path.is_dir() else [path]:
            try:
                if each.suffix.lower() == ".zip":
                    sizes = [info.file_size for info in _members(each)]
                else:
                    sizes = [each.stat().st_size]
            except (OSError, zipfile.BadZipFile):
                sizes = [0]
            files += len(sizes)
            size_bytes += sum(sizes)
    return files, size_bytes


def _walk(folder: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(base, name)


def _file(path: Path) -> Iterator[Candidate | Skipped]:
    name = str(path)
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(_PREAMBLE_BYTES)
    except OSError as exc:
        yield Skipped(name, f"cannot be read: {exc.strerror}", looks_dicom=True)
        return
    if head.startswith(_ZIP_MAGIC):
        yield from _zip(path)
    elif _is_media_directory(path):
        yield Skipped(name, MEDIA_DIRECTORY)
    else:
        yield _skipped(name, head) or Candidate(name, size_bytes, path)


def _skipped(name: str, head: bytes) -> Skipped | None:
    if head[128:132] == b"DICM":
        return None
    # Group 0002 or 0008 and behind it a VR or, in implicit VR, a small element number and length.
    implicit = head[:2] in _LITTLE and head[3:4] == b"\0" and head[6:8] == b"\0\0"
    explicit = head[:2] in _LITTLE + _BIG and head[4:6].isalpha() and head[4:6].isupper()
    if len(head) > 8 and (implicit or explicit):
        return Skipped(name, NO_FILE_META, looks_dicom=True)
    return Skipped(name, NOT_DICOM)


def _zip(path: Path) -> Iterator[Candidate | Skipped]:
    try:
        # Not closed here: its candidates still read from it (thread-safe) and the last closes it.
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as exc:
        yield Skipped(str(path), f"zip file cannot be read: {exc}", looks_dicom=True)
        return
    for info in archive.infolist():
        if not info.is_dir():
            yield _member(archive, info, path)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Candidate | Skipped:
    name = f"{path}!{info.filename}"
    if info.flag_bits & 0x1:
        return Skipped(name, "encrypted zip member", looks_dicom=True)
    try:
        with archive.open(info) as member:
            head = member.read(_PREAMBLE_BYTES)
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as exc:
        return Skipped(name, f"zip member cannot be read: {exc}", looks_dicom=True)
    if Path(info.filename).name.upper() == "DICOMDIR":
        return Skipped(name, MEDIA_DIRECTORY)
    if head.startswith(_ZIP_MAGIC):
        return Skipped(name, "zip file inside a zip file")
    return _skipped(name, head) or Candidate(name, info.file_size, path, archive, info.filename)


def _members(path: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        return [info for info in archive.infolist() if not info.is_dir()]


def _is_media_directory(path: Path) -> bool:
    return path.name.upper() == "DICOMDIR"


def _media(dicomdir: Path) -> Iterator[Candidate | Skipped]:
    """Follow the references of a DICOMDIR (Referenced File ID, PS3.3 F.3.2.2)."""
    try:
        records = pydicom.dcmread(dicomdir).get("DirectoryRecordSequence") or []
    except (InvalidDicomError, OSError, ValueError, KeyError) as exc:
        yield Skipped(str(dicomdir), f"DICOMDIR cannot be read: {exc}", looks_dicom=True)
        return
    for record in records:
        file_id = record.get("ReferencedFileID")
        if not file_id:
            continue
        parts = [file_id] if isinstance(file_id, str) else [str(part) for part in file_id]
        path = _referenced(dicomdir.parent, parts)
        if path is None:
            name = str(dicomdir.parent.joinpath(*parts))
            yield Skipped(name, "referenced by the DICOMDIR, but not there", looks_dicom=True)
        else:
            yield from _file(path)


def _referenced(folder: Path, parts: list[str]) -> Path | None:
    """Find a File ID below ``folder``, whatever case the medium was copied in."""
    here = folder
    for part in parts:
        if part in ("", ".", "..") or "/" in part:
            return None
        try:
            names = {entry.name.upper(): entry.name for entry in here.iterdir()}
        except OSError:
            return None
        found = part if (here / part).exists() else names.get(part.upper())
        if found is None:
            return None
        here = here / found
    return here if here.is_file() else None
