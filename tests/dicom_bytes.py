"""Data sets made byte by byte (Explicit VR Little Endian, PS3.5 section 7.1), for tests."""

from __future__ import annotations

import struct

from raypacs.dicom import EXPLICIT_VR_LE

CT = "1.2.840.10008.5.1.4.1.1.2"
SYNTAX = EXPLICIT_VR_LE


def element(tag: int, vr: str, value: bytes | str) -> bytes:
    """One data element."""
    data = value.encode() if isinstance(value, str) else value
    if len(data) % 2:
        data += b"\0" if vr in ("UI", "OB") else b" "
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in ("OB", "OW", "SQ", "UN", "UT"):
        return head + struct.pack("<HI", 0, len(data)) + data
    return head + struct.pack("<H", len(data)) + data


def data_set(
    sop: str = "1.2.3.1",
    *,
    study: str = "1.2.3.100",
    series: str = "1.2.3.200",
    sop_class: str = CT,
    pixels: bytes = b"\x01\x02" * 32,
    rows: int = 4,
) -> bytes:
    """A small CT data set."""
    number = struct.Struct("<H").pack
    return b"".join(
        (
            element(0x00080016, "UI", sop_class),
            element(0x00080018, "UI", sop),
            element(0x00080060, "CS", "CT"),
            element(0x00100010, "PN", "Synthetic^Patient"),
            element(0x0020000D, "UI", study),
            element(0x0020000E, "UI", series),
            element(0x00280002, "US", number(1)),
            element(0x00280010, "US", number(rows)),
            element(0x00280011, "US", number(len(pixels) // 2 // rows)),
            element(0x00280100, "US", number(16)),
            element(0x00280101, "US", number(12)),
            element(0x7FE00010, "OW", pixels),
        )
    )
