"""The ZIP of a container, in bytes (PKWARE APPNOTE 6.3): stored entries, ZIP64 where it is needed.

Sizes and CRC-32s stand in the local headers, never in data descriptors, so that every tool reads it
from the front, too. There is one way to write each structure: who reads a container back compares
bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from raypacs.errors import ContainerCorrupt

STORED, DEFLATED = 0, 8
TAIL_BYTES = 22 + 20 + 56
"""The end of central directory, its ZIP64 record and the locator between them."""

_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_END64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR = struct.Struct("<IIQI")
_MOST_32, _MOST_16 = 0xFFFFFFFF, 0xFFFF
_ZIP64 = 0x0001
_VERSION, _VERSION_64 = 20, 45
_UNIX = 3 << 8
# 1 January 1980: the same content gives the same bytes, whenever it is archived.
_TIME, _DATE = 0, 1 << 5 | 1
_MODE = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; ``offset`` is that of its local header, ``size`` is as it lies in the file."""

    name: str
    offset: int
    size: int
    raw_size: int
    crc32: int
    method: int = STORED

    @property
    def data_offset(self) -> int:
        """Where its bytes begin."""
        return self.offset + len(local_header(self))

    @property
    def end(self) -> int:
        """The offset after its bytes."""
        return self.data_offset + self.size


def local_header(entry: Entry) -> bytes:
    """Return what stands before the bytes of an entry."""
    name = entry.name.encode("ascii")
    large = max(entry.size, entry.raw_size) >= _MOST_32
    extra = struct.pack("<HHQQ", _ZIP64, 16, entry.raw_size, entry.size) if large else b""
    sizes = (_MOST_32, _MOST_32) if large else (entry.size, entry.raw_size)
    version = _VERSION_64 if large else _VERSION
    return (
        _LOCAL.pack(
            *(0x04034B50, version, 0, entry.method, _TIME, _DATE, entry.crc32, *sizes),
            *(len(name), len(extra)),
        )
        + name
        + extra
    )


def directory(entries: Sequence[Entry], offset: int) -> bytes:
    """Return the central directory that begins at ``offset``, and the end of the file."""
    body = b"".join(map(_central, entries))
    count, size = len(entries), len(body)
    large = count >= _MOST_16 or size >= _MOST_32 or offset >= _MOST_32
    if large:
        body += _END64.pack(
            *(0x06064B50, 44, _UNIX | _VERSION_64, _VERSION_64, 0, 0),
            *(count, count, size, offset),
        )
        body += _LOCATOR.pack(0x07064B50, 0, offset + size, 1)
    short = min(count, _MOST_16)
    size, at = (_MOST_32, _MOST_32) if large else (size, offset)
    return body + _END.pack(0x06054B50, 0, 0, short if not large else _MOST_16,
                            short if not large else _MOST_16, size, at, 0)  # fmt: skip


def _central(entry: Entry) -> bytes:
    name = entry.name.encode("ascii")
    large = max(entry.size, entry.raw_size) >= _MOST_32
    far = entry.offset >= _MOST_32
    values = [entry.raw_size, entry.size] if large else []
    values += [entry.offset] if far else []
    extra = struct.pack(f"<HH{len(values)}Q", _ZIP64, 8 * len(values), *values) if values else b""
    sizes = (_MOST_32, _MOST_32) if large else (entry.size, entry.raw_size)
    version = _VERSION_64 if values else _VERSION
    return (
        _CENTRAL.pack(
            *(0x02014B50, _UNIX | version, version, 0, entry.method, _TIME, _DATE, entry.crc32),
            *(*sizes, len(name), len(extra), 0, 0, 0, _MODE),
            _MOST_32 if far else entry.offset,
        )
        + name
        + extra
    )


def find_directory(tail: bytes, size: int) -> tuple[int, int]:
    """Return (offset, length) of the central directory; ``tail``: the last bytes of ``size``.

    Raises:
        ContainerCorrupt: it does not end as a container does.
    """
    if len(tail) < _END.size:
        raise ContainerCorrupt("no ZIP: it is too short")
    magic, *_, length, offset, comment = _END.unpack_from(tail, len(tail) - _END.size)
    if magic != 0x06054B50 or comment:
        raise ContainerCorrupt("no ZIP, or cut off: it does not end with a central directory")
    end = size - _END.size
    if offset == _MOST_32:
        if len(tail) < TAIL_BYTES:
            raise ContainerCorrupt("its ZIP64 end is cut off")
        magic, *_, length, offset = _END64.unpack_from(tail, len(tail) - TAIL_BYTES)
        if magic != 0x06064B50:
            raise ContainerCorrupt("its ZIP64 end is damaged")
        end = size - TAIL_BYTES
    if offset + length != end:
        raise ContainerCorrupt("its central directory does not end where the file does")
    return offset, length


def entries_of(data: bytes) -> list[Entry]:
    """Read a central directory. Raises ContainerCorrupt."""
    found = []
    at = 0
    try:
        while at < len(data):
            fields = _CENTRAL.unpack_from(data, at)
            magic, method, crc32 = fields[0], fields[4], fields[7]
            size, raw_size, name_length, extra_length = fields[8:12]
            offset = fields[16]
            if magic != 0x02014B50:
                raise ContainerCorrupt("its central directory is damaged")
            at += _CENTRAL.size
            name = data[at : at + name_length].decode("ascii")
            extra = data[at + name_length : at + name_length + extra_length]
            at += name_length + extra_length
            values = (
                list(struct.unpack_from(f"<{(len(extra) - 4) // 8}Q", extra, 4)) if extra else []
            )
            if size == _MOST_32:
                raw_size, size = values.pop(0), values.pop(0)
            if offset == _MOST_32:
                offset = values.pop(0)
            found.append(Entry(name, offset, size, raw_size, crc32, method))
    except (struct.error, IndexError, UnicodeDecodeError) as exc:
        raise ContainerCorrupt("its central directory is damaged") from exc
    return found
