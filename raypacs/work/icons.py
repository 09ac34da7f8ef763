"""Icon images in a header (PS3.3 section C.7.6.1.1.6), decoded where they were compressed.

A nested Pixel Data is coded in the transfer syntax of its data set (PS3.5 annex A.4), so an icon
that came with a compressed source cannot stay as it is beside HTJ2K or decoded frames.
"""

from __future__ import annotations

import struct

from raypacs import dicom
from raypacs.codec.fragments import frame_fragments
from raypacs.codec.inbound import PixelLayout, encapsulated_frame
from raypacs.dicom import Element, Header
from raypacs.errors import UnsupportedPixels

_ICON_IMAGE_SEQUENCE = 0x00880200
_COMPRESSED = (
    b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff",
    b"\xe0\x7f\x10\0OW\0\0\xff\xff\xff\xff",
)


def with_native_icon(header: bytes, transfer_syntax_uid: str) -> bytes:
    """Return an Explicit VR Little Endian header whose icon is not compressed any more.

    Raises:
        UnsupportedPixels: a compressed image elsewhere in the header, or one that is lossy or
            cannot be decoded beyond doubt.
    """
    if not any(mark in header for mark in _COMPRESSED):
        return header
    scanned = dicom.scan(header, dicom.EXPLICIT_VR_LE)
    element = scanned.element(_ICON_IMAGE_SEQUENCE)
    if element is not None:
        body = b"".join(_item(item, transfer_syntax_uid) for item in dicom.items(scanned, element))
        end = _after(scanned, element)
        start = struct.pack("<HH2sHI", 0x0088, 0x0200, b"SQ", 0, len(body))
        header = header[: element.start] + start + body + header[end:]
    if any(mark in header for mark in _COMPRESSED):
        raise UnsupportedPixels("a compressed image in a sequence of the header")
    return header


def _after(header: Header, element: Element) -> int:
    following = [one.start for one in header.elements if one.start > element.start]
    return min(following, default=header.end)


def _item(item: Header, transfer_syntax_uid: str) -> bytes:
    parts = []
    for number, element in enumerate(item.elements):
        if element.tag == dicom.PIXEL_DATA and element.length < 0:
            parts.append(_decoded(item, element, transfer_syntax_uid))
            continue
        last = number + 1 == len(item.elements)
        end = element.value_offset + element.length if last else item.elements[number + 1].start
        if element.length < 0 and last:
            raise UnsupportedPixels("an icon image without pixels")
        parts.append(bytes(item.buf[element.start : end]))
    body = b"".join(parts)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body


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
