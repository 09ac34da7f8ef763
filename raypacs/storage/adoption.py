"""Files of an adopted archive described from their headers alone: one or few reads a file.

Pixel Data is not read, so a data set's SHA-256 is not known (``sha256`` ''): whoever needs it reads
the file then (``checksums``).
"""

from __future__ import annotations

import os

from raypacs.dicom import (
    DEFLATED,
    EndsEarly,
    Header,
    Part10,
    describe_header,
    inflated_header,
    scan_beginning,
    split_part10,
)
from raypacs.errors import MalformedInstance, NotFound, TierUnavailable
from raypacs.records import InstanceRecord
from raypacs.storage.adopted import AdoptedTier, Skipped
from raypacs.storage.folders import translated
from raypacs.storage.objects import ObjectInfo

# Most headers end before this; a store over the network is better asked for more at once.
_FIRST_BYTES = 16 * 1024
_FIRST_REMOTE_BYTES = 64 * 1024
_MORE = 8
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
_ORTHANC_SIZE_BYTES = 8
_ZLIB = 0x78


def describe_file(
    tier: AdoptedTier, info: ObjectInfo, source: str
) -> tuple[InstanceRecord | Skipped, int]:
    """Describe one file as an instance, or say why it is none; and the bytes read for it.

    Raises:
        TierUnavailable: the tier does not answer, which says nothing about the file.
    """
    beginning = _Beginning(tier, info)
    try:
        with beginning:
            found = _described(tier, beginning, source)
    except MalformedInstance as exc:
        return Skipped(info.path, str(exc)), beginning.bytes_read
    except NotFound:
        return Skipped(info.path, "it was deleted meanwhile"), beginning.bytes_read
    return found, beginning.bytes_read


def _described(tier: AdoptedTier, file: _Beginning, source: str) -> InstanceRecord | Skipped:
    info = file.info
    if len(file.data) < 132 or file.data[128:132] != b"DICM":
        return Skipped(info.path, _no_dicom(file.data, info.size_bytes))
    part10 = _meta(file)
    if part10.sop_class_uid == _MEDIA_STORAGE_DIRECTORY:
        return Skipped(info.path, "a DICOMDIR")
    record = describe_header(
        _header(file, part10),
        transfer_syntax_uid=part10.transfer_syntax_uid,
        dataset_offset=part10.dataset_offset,
        tier=tier.name,
        path=info.path,
        size_bytes=info.size_bytes,
        sha256="",
        source=source,
        received_at_s=info.modified_s,
    )
    if tier.settings.adopted == "orthanc" and record.pixel_offset_bytes < 0 and record.rows:
        # Orthanc keeps such beginnings beside what it cannot read by ranges.
        return Skipped(info.path, "the header of an image without its pixels")
    return record


def _meta(file: _Beginning) -> Part10:
    while True:
        try:
            return split_part10(file.data)
        except MalformedInstance:
            if not file.more():
                raise


def _header(file: _Beginning, part10: Part10) -> Header:
    syntax, offset = part10.transfer_syntax_uid, part10.dataset_offset
    if syntax in DEFLATED:
        while file.more():
            pass
        return inflated_header(file.data, offset)
    while True:
        try:
            return scan_beginning(file.data, syntax, offset, file.info.size_bytes)
        except EndsEarly as exc:
            if not file.more():
                raise MalformedInstance("the file became shorter while it was read") from exc


def _no_dicom(data: bytes, size_bytes: int) -> str:
    if size_bytes == 0:
        return "empty"
    inflated = int.from_bytes(data[:_ORTHANC_SIZE_BYTES], "little")
    is_zlib = len(data) > _ORTHANC_SIZE_BYTES and data[_ORTHANC_SIZE_BYTES] == _ZLIB
    if is_zlib and size_bytes // 2 < inflated < 2000 * size_bytes:
        return "compressed by Orthanc (StorageCompression): cannot be served where it lies"
    return "no DICM prefix at byte 128: not a DICOM Part 10 file (PS3.10 7.1)"


class _Beginning:
    """The first bytes of a file, more of them when they are asked for.

    ``info`` is that of the file that was read: it may have changed since it was listed.
    """

    def __init__(self, tier: AdoptedTier, info: ObjectInfo) -> None:
        self._tier = tier
        self.info = info
        self.data = b""
        self.bytes_read = 0
        self._fd = -1

    def __enter__(self) -> _Beginning:
        local = self._tier.local_path(self.info.path)
        if local is None:
            self._read(_FIRST_REMOTE_BYTES)
            return self
        try:
            self._fd = os.open(local, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            state = os.fstat(self._fd)
        except OSError as exc:
            raise self._error(exc) from exc
        self.info = ObjectInfo(self.info.path, state.st_size, state.st_mtime)
        self._read(_FIRST_BYTES)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def more(self) -> bool:
        """Read on; False where there is no more."""
        before = len(self.data)
        if before < self.info.size_bytes:
            self._read(before * _MORE)
        return len(self.data) > before

    def _read(self, end: int) -> None:
        start, end = len(self.data), min(end, self.info.size_bytes)
        if end <= start:
            return
        if self._fd < 0:
            try:
                data = self._tier.read(self.info.path, start, end - start)
            except TierUnavailable as exc:
                if self._tier.answers():  # as where it lies in a colder storage class
                    raise MalformedInstance(f"cannot be read: {exc}") from exc
                raise
        else:
            try:
                data = os.pread(self._fd, end - start, start)
            except OSError as exc:
                raise self._error(exc) from exc
        self.data = self.data + data if start else data
        self.bytes_read += len(data)

    def _error(self, exc: OSError) -> MalformedInstance | NotFound | TierUnavailable:
        error = translated(exc, self._tier.name, self.info.path)
        if isinstance(error, NotFound):
            return error
        # Of this file, a bad sector for one: the others may be read.
        if isinstance(exc, PermissionError) or self._tier.answers():
            return MalformedInstance(f"cannot be read: {exc.strerror}")
        return error if isinstance(error, TierUnavailable) else TierUnavailable(str(exc))
