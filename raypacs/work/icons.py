"""Images in sequences of a header, decoded where they were compressed: icons, mostly.

A nested Pixel Data is coded in the transfer syntax of its data set (PS3.5 annex A.4), so an icon
(PS3.3 section C.7.6.1.1.6), or a vendor's private copy of it, that came with a compressed source
cannot stay as it is beside HTJ2K or decoded frames.
"""

from __future__ import annotations

import struct

from raypacs import dicom
from raypacs.codec.fragments import frame_fragments
from raypacs.codec.inbound import encapsulated_frame
from raypacs.codec.pixel_layout import PixelLayout
from raypacs.dicom import Element, Header
from raypacs.errors import UnsupportedPixels

_ITEM_END = b"\xfe\xff\x0d\xe0"
_COMPRESSED = (
    b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff",
    b"\xe0\x7f\x10\0OW\0\0\xff\xff\xff\xff",
)


def with_native_icons(header: bytes, transfer_syntax_uid: str) -> bytes:
    """Return an Explicit VR Little Endian header without compressed images in its sequences.

    Raises:
        UnsupportedPixels: one that is lossy, in colour, or cannot be decoded beyond doubt.
        MalformedInstance: a sequence is damaged.
    """
    if not _has_compressed(header):
        return header
    header = _rebuilt(dicom.scan(header, dicom.EXPLICIT_VR_LE), transfer_syntax_uid)
    if _has_compressed(header):
        raise UnsupportedPixels("a compressed image in the header, out of reach")
    return header


def _has_compressed(data: bytes) -> bool:
    return any(mark in data for mark in _COMPRESSED)


def _rebuilt(header: Header, transfer_syntax_uid: str) -> bytes:
    """Return the elements of a data set or an item; only what holds a compressed image changes."""
    parts = []
    for number, element in enumerate(header.elements):
        if element.tag == dicom.PIXEL_DATA and element.length < 0:
            parts.append(_decoded(header, element, transfer_syntax_uid))
            continue
        last = number + 1 == len(header.elements)
        end = _end(header, element) if last else header.elements[number + 1].start
        raw = bytes(header.buf[element.start : end])
        if element.vr == "SQ" and _has_compressed(raw):
            items = [_rebuilt(item, transfer_syntax_uid) for item in dicom.items(header, element)]
            body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(one)) + one for one in items)
            group, tag = element.tag >> 16, element.tag & 0xFFFF
            raw = struct.pack("<HH2sHI", group, tag, b"SQ", 0, len(body)) + body
        parts.append(raw)
    return b"".join(parts)


def _end(header: Header, element: Element) -> int:
    """Return the offset after the last element of a data set or an item."""
    if element.length >= 0:
        return element.value_offset + element.length
    delimited = bytes(header.buf[header.end - 8 : header.end - 4]) == _ITEM_END
    return header.end - 8 if delimited else header.end


def _decoded(item: Header, element: Element, transfer_syntax_uid: str) -> bytes:
    layout = PixelLayout(
        transfer_syntax_uid=transfer_syntax_uid,
        rows=item.number(0x00280010),
        columns=item.number(0x00280011),
        frames=1,
        samples=item.number(0x00280002, 1),
        bits_allocated=item.number(0x00280100),
        bits_stored=item.number(0x00280101),
        high_bit=item.number(0x00280102),
        signed=item.number(0x00280103) == 1,
        photometric=item.text(0x00280004),
        planar=False,
    )
    layout.check()
    if layout.samples > 1:
        raise UnsupportedPixels("a compressed icon image in colour")  # its header would change
    buf = bytes(item.buf)
    (fragments,) = frame_fragments(
        lambda offset, length: buf[offset : offset + length], element.value_offset, 1
    )
    code = b"".join(buf[offset : offset + length] for offset, length in fragments)
    pixels = encapsulated_frame(code, layout).tobytes()
    pixels += b"\0" * (len(pixels) % 2)
    vr = b"OW" if layout.bits_allocated > 8 else b"OB"
    return struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, len(pixels)) + pixels
