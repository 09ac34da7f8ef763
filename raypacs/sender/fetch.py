"""A study out of a node: every instance as a Part 10 file, checked, as a folder or a zip file."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypacs import layout
from raypacs.client import AS_STORED, Client
from raypacs.dicom import EXPLICIT_VR_LE, Part10, split_part10
from raypacs.errors import (
    AlreadyExists,
    RaypacsError,
    RequestRefused,
    RestoreFailed,
    RestoreUnderWay,
    UnsupportedPixels,
)

DOWNLOADS = 4
_NATIVE = f"application/dicom; transfer-syntax={EXPLICIT_VR_LE}"
_HEAD_BYTES = 1 << 20
_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """One file; ``decoded``: its original is gone, the pixels come from its pack."""

    path: Path
    size_bytes: int
    decoded: bool


def objects_of(told: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return (Series Instance UID, object) of a study as the node tells it."""
    return [(series["series_uid"], each) for series in told["series"] for each in series["objects"]]


def fetch_study(
    client: Client, told: dict[str, Any], study_uid: str, folder: Path, done: Callable[[], None]
) -> list[Fetched]:
    """Write the instances of a study to ``folder/{Series}/{SOP Instance UID}.dcm``.

    Each is checked against the SHA-256 taken at its arrival, and appears whole or not at all.

    Raises:
        AlreadyExists: one of these files is there already; nothing was written.
        RaypacsError: something is not what was received.
        NotFound: it is gone meanwhile.
    """
    places = objects_of(told)
    for series_uid, each in places:
        if os.path.lexists(path := _path(folder, series_uid, each)):
            raise AlreadyExists(f"{path} exists already", hint="name another folder")

    def fetch(place: tuple[str, dict[str, Any]]) -> Fetched:
        fetched = _fetch(client, study_uid, place[0], place[1], folder)
        done()
        return fetched

    with ThreadPoolExecutor(DOWNLOADS) as pool:
        return list(pool.map(fetch, places))


def _path(folder: Path, series_uid: str, each: dict[str, Any]) -> Path:
    sop_uid = layout.checked_uid(each["sop_instance_uid"], "SOP Instance UID")
    return folder / layout.checked_uid(series_uid, "Series Instance UID") / f"{sop_uid}.dcm"


def _fetch(
    client: Client, study_uid: str, series_uid: str, each: dict[str, Any], directory: Path
) -> Fetched:
    sop_uid = each["sop_instance_uid"]
    path = _path(directory, series_uid, each)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    uids = (study_uid, series_uid, sop_uid)
    try:
        _download(client, uids, AS_STORED, partial)
        arrived = _meta(partial).transfer_syntax_uid
        original = each.get("transfer_syntax_uid") in (None, arrived)
        if not original:
            # It left the image cache; what anybody can read is better than the cache's own form.
            try:
                _download(client, uids, _NATIVE, partial)
            except (UnsupportedPixels, RequestRefused):
                _download(client, uids, AS_STORED, partial)
        elif each.get("sha256") and dataset_sha256(partial) != each["sha256"]:
            raise RaypacsError(
                f"{sop_uid}: what arrived is not what was received",
                hint="the stored file is damaged, or the node served another transfer syntax",
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return Fetched(path, path.stat().st_size, decoded=not original)


def _download(client: Client, uids: tuple[str, str, str], accept: str, path: Path) -> None:
    """Write an instance to a file; one that is only in a library is waited for."""
    while True:
        try:
            with path.open("wb") as handle:
                for block in client.download(*uids, accept=accept):
                    handle.write(block)
        except RestoreFailed:
            raise
        except RestoreUnderWay:
            time.sleep(_AGAIN_S)
        else:
            return


def _meta(path: Path) -> Part10:
    with path.open("rb") as handle:
        return split_part10(handle.read(_HEAD_BYTES))


def dataset_sha256(path: Path) -> str:
    """Return the SHA-256 of a Part 10 file's data set, without preamble and file meta."""
    if path.stat().st_size == 0:
        return hashlib.sha256().hexdigest()
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        offset = split_part10(whole[: min(len(whole), _HEAD_BYTES)]).dataset_offset
        digest = hashlib.sha256()
        for start in range(offset, len(whole), _HEAD_BYTES):
            digest.update(whole[start : start + _HEAD_BYTES])
        return digest.hexdigest()


def zip_folder(folder: Path, target: Path) -> None:
    """Pack a folder's files without compression; the zip appears whole or not at all."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    os.close(handle)
    partial = Path(name)
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as packed:
            for path in sorted(one for one in folder.rglob("*") if one.is_file()):
                packed.write(path, path.relative_to(folder))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
