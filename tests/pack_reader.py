"""A reader of packs by the text of docs/pack-format.md: standard library only, nothing of raypacs.

If this file needs a change, the format has changed and its version must.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib


def crc(data: bytes, expected: int) -> bytes:
    """Return ``data`` if its CRC-32 is the expected one."""
    assert zlib.crc32(data) == expected, "CRC-32 differs"
    return data


class PackFile:
    """A pack held in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        magic, version, zero, self.token = struct.unpack_from("<4sHH16s", data)
        assert (magic, version, zero) == (b"RPCK", 2, 0)
        footer = data[-56:]
        (self.low, self.low_length, self.rest, index, length, index_crc, rows, own) = (
            struct.unpack_from("<QQQQIIII", footer)
        )
        assert struct.unpack_from("<HH4s", footer, 48) == (2, 0, b"RPCK")
        crc(footer[:44], own)
        assert index + length + 56 == len(data)
        section = crc(data[index : index + length], index_crc)
        self.table = [section[16 * row : 16 * row + 16] for row in range(rows)]
        self.index = json.loads(zlib.decompress(section[16 * rows :]))
        self.instances = {one["sop_instance_uid"]: one for one in self.index["instances"]}

    def frames(self, uid: str) -> list[tuple[bytes, bytes]]:
        """Return (low part, rest) of every prepared frame, or (frame, b"") of copied ones.

        The frame is the rest where the instance has ``low_own``, else low part + rest.
        """
        one = self.instances[uid]
        first = one.get("first_frame", 0)
        rows = self.table[first : first + one.get("table_rows", 0)]
        if one["form"] == "copied":
            found = []
            for row in rows:
                offset, length, check = struct.unpack("<QII", row)
                start = one["object_offset"] + offset
                found.append((crc(self.data[start : start + length], check), b""))
            return found
        low, rest = one["low_offset"], one["rest_offset"]
        found = []
        for row in rows:
            low_length, rest_length, low_crc, rest_crc = struct.unpack("<IIII", row)
            found.append(
                (
                    crc(self.data[low : low + low_length], low_crc),
                    crc(self.data[rest : rest + rest_length], rest_crc),
                )
            )
            low, rest = low + low_length, rest + rest_length
        return found

    def copied(self, uid: str) -> bytes:
        """Return a copied Part 10 file."""
        one = self.instances[uid]
        start = one["object_offset"]
        return crc(self.data[start : start + one["object_length"]], one["object_crc32"])


class Sidecar:
    """A header sidecar held in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        magic, version, zero, self.token = struct.unpack_from("<4sHH16s", data)
        assert (magic, version, zero) == (b"RPHD", 1, 0)
        offset, length, check, version, zero, own, magic = struct.unpack("<QIIHHI4s", data[-28:])
        assert (version, zero, magic) == (1, 0, b"RPHD")
        crc(data[-28:-8], own)
        self.index = json.loads(zlib.decompress(crc(data[offset : offset + length], check)))
        self.instances = {one[0]: one for one in self.index["instances"]}

    def all_metadata(self) -> list[dict]:
        """Return the JSON of all instances from the gzip member."""
        offset, length = self.index["gzip"]
        return json.loads(gzip.decompress(self.data[offset : offset + length]))

    def _inflated(self, kind: str, place: list[int]) -> bytes:
        block, start, size = place
        offset, length, raw, crc = self.index[kind][block]
        text = zlib.decompressobj(-15).decompress(self.data[offset : offset + length])
        assert len(text) == raw
        assert zlib.crc32(text) == crc
        return text[start : start + size]

    def metadata(self, uid: str) -> dict:
        """Return the JSON of one instance from its block alone."""
        return json.loads(self._inflated("metadata_blocks", self.instances[uid][1]))

    def header(self, uid: str) -> tuple[bytes, bytes] | None:
        """Return (data set before Pixel Data, after it), None for copied objects."""
        _, _, place, trailer = self.instances[uid]
        if place is None:
            return None
        data = self._inflated("header_blocks", place)
        return data[: len(data) - trailer], data[len(data) - trailer :]
