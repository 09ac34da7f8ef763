"""The header of an instance in Explicit VR Little Endian, as it goes with decoded samples.

Explicit VR Little Endian sources are spliced: what stays is copied byte for byte. Implicit VR and
big endian are converted element by element; text stays in the bytes it was sent in. Sequences that
were converted before are remembered by their bytes, since most repeat from slice to slice.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
from pydicom.datadict import dictionary_VR

from raypacs import dicom
from raypacs.dicom import Element, Header
from raypacs.errors import MalformedInstance

_PHOTOMETRIC = 0x00280004
_PLANAR = 0x00280006
_HIGH_BIT = 0x00280102
_PIXEL_REPRESENTATION = 0x00280103
_TRAILING_PADDING = 0xFFFCFFFC
# Of the source's own fragments: offsets, lengths, and the length of all (PS3.3 C.7.6.3).
_OFFSET_TABLES = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003})
_LONG_VR = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_SWAPPED_BYTES = {"AT": 2, "OW": 2, "SS": 2, "US": 2, "FL": 4, "OF": 4, "OL": 4, "SL": 4, "UL": 4}
_SWAPPED_BYTES |= {"FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8}
_LONGEST_REMEMBERED_BYTES = 16 * 1024


def explicit_header(
    header: Header, *, photometric: str, interleaved: bool, high_bit: int | None = None
) -> bytes:
    """Return everything before Pixel Data, ready for decoded samples.

    ``photometric`` is that of the decoded samples; ``interleaved`` sets Planar Configuration to 0
    where it is present (PS3.3 section C.7.6.3.1.3); ``high_bit`` is set where the samples were
    shifted down (None: they were not). Offset tables of the source are left out, and
    group lengths where they might be wrong (retired, PS3.5 section 7.2).

    Raises:
        MalformedInstance: an element cannot be converted.
    """
    changed: dict[int, bytes] = {}
    if header.text(_PHOTOMETRIC) != photometric:
        changed[_PHOTOMETRIC] = _element(_PHOTOMETRIC, "CS", _text(photometric))
    if interleaved and header.number(_PLANAR) != 0:
        changed[_PLANAR] = _element(_PLANAR, "US", b"\0\0")
    if high_bit is not None:
        changed[_HIGH_BIT] = _element(_HIGH_BIT, "US", struct.pack("<H", high_bit))
    if header.implicit or header.big_endian:
        return _converted(header, changed, header.number(_PIXEL_REPRESENTATION) == 1)
    return _spliced(header, changed)


def explicit_trailer(buf: dicom.Buffer, transfer_syntax_uid: str, offset: int) -> bytes:
    """Return the elements after Pixel Data in Explicit VR Little Endian, without padding.

    Padding is Data Set Trailing Padding (FFFC,FFFC), and zero bytes, as tapes and block devices
    leave them.

    Raises:
        MalformedInstance: they cannot be read.
    """
    header = _scanned_trailer(buf, transfer_syntax_uid, offset)
    if header is None:
        return b""
    if header.elements and header.elements[-1].tag == _TRAILING_PADDING:
        # Tags grow, so padding is the last element.
        end = header.elements[-1].start
        header = Header(header.buf, header.elements[:-1], header.implicit, header.big_endian, end)
    if header.implicit or header.big_endian:
        return _converted(header, {}, False)
    return bytes(buf[offset : header.end])


def _scanned_trailer(buf: dicom.Buffer, transfer_syntax_uid: str, offset: int) -> Header | None:
    """Return the elements from ``offset`` to where only zero bytes follow; None: there are none."""
    if not bytes(buf[offset:]).strip(b"\0"):
        return None
    try:
        return dicom.scan(buf, transfer_syntax_uid, offset)
    except MalformedInstance as exc:
        end = exc.fields.get("offset")
        if not isinstance(end, int) or end <= offset or bytes(buf[end:]).strip(b"\0"):
            raise
        return dicom.scan(buf[:end], transfer_syntax_uid, offset)


def _end(header: Header, number: int) -> int:
    """Offset after element ``number``: where the next one begins."""
    if number + 1 < len(header.elements):
        return header.elements[number + 1].start
    return header.pixel.start if header.pixel is not None else header.end


def _elements(header: Header) -> list[tuple[int, Element]]:
    return [(n, one) for n, one in enumerate(header.elements) if one is not header.pixel]


def _spliced(header: Header, changed: dict[int, bytes]) -> bytes:
    """Copy runs of elements that stay; groups with a change lose their group length."""
    groups = {tag >> 16 for tag in changed}
    parts = []
    first = header.elements[0].start if header.elements else header.end
    for number, element in _elements(header):
        tag = element.tag
        stale = tag & 0xFFFF == 0 and (tag >> 16 in groups or tag >> 16 == 0x7FE0)
        if tag in changed or tag in _OFFSET_TABLES or stale:
            parts.append(bytes(header.buf[first : element.start]))
            parts.append(changed.get(tag, b""))
            first = _end(header, number)
    end = header.pixel.start if header.pixel is not None else header.end
    parts.append(bytes(header.buf[first:end]))
    return b"".join(parts)


def _converted(header: Header, changed: dict[int, bytes], signed: bool) -> bytes:
    """Convert the elements of a data set or of an item; ``signed`` is Pixel Representation."""
    if header.has(_PIXEL_REPRESENTATION):
        signed = header.number(_PIXEL_REPRESENTATION) == 1
    parts = []
    for number, element in _elements(header):
        tag = element.tag
        if tag & 0xFFFF == 0 or tag in _OFFSET_TABLES:
            continue
        if tag in changed:
            parts.append(changed[tag])
        elif element.vr == "SQ":
            raw = bytes(header.buf[element.start : _end(header, number)])
            kept = len(raw) <= _LONGEST_REMEMBERED_BYTES
            convert = _remembered_sequence if kept else _sequence
            parts.append(convert(raw, header.implicit, signed))
        else:
            parts.append(_plain(header, element, _end(header, number), signed))
    return b"".join(parts)


def _plain(header: Header, element: Element, end: int, signed: bool) -> bytes:
    tag, vr = element.tag, element.vr
    value = bytes(header.buf[element.value_offset : end])
    if element.length < 0:
        # UN of undefined length holds implicit VR little endian anyway (PS3.5 section 6.2.2);
        # fragments outside Pixel Data are bytes.
        head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, 0xFFFFFFFF)
        return head + value
    if header.implicit and signed and _by_pixel_representation(tag):
        vr = "SS"
    width = _SWAPPED_BYTES.get(vr, 1) if header.big_endian else 1
    if width > 1 and len(value) % width == 0:
        value = np.frombuffer(value, f"u{width}").byteswap().tobytes()
    return _element(tag, vr, value)


@lru_cache(maxsize=4096)
def _by_pixel_representation(tag: int) -> bool:
    """Whether the tag is US or SS by Pixel Representation (PS3.6); implicit VR says US."""
    try:
        return dictionary_VR(tag) == "US or SS"
    except KeyError:
        return False


def _sequence(raw: bytes, implicit: bool, signed: bool) -> bytes:
    """Convert one sequence element, items and all, to explicit lengths."""
    syntax = dicom.IMPLICIT_VR_LE if implicit else dicom.EXPLICIT_VR_BE
    header = dicom.scan(raw, syntax)
    element = header.elements[0]
    items = []
    for item in dicom.items(header, element):
        body = _converted(item, {}, signed)
        items.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body)
    return _element(element.tag, "SQ", b"".join(items))


_remembered_sequence = lru_cache(maxsize=512)(_sequence)


def _element(tag: int, vr: str, value: bytes) -> bytes:
    """Return an Explicit VR Little Endian element (PS3.5 section 7.1.2)."""
    if vr in _LONG_VR:
        head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, len(value))
    elif len(value) > 0xFFFF:
        # Longer than the VR can say: UN keeps the value (PS3.5 section 6.2.2).
        head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"UN", 0, len(value))
    else:
        head = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value))
    return head + value


def _text(value: str) -> bytes:
    data = value.encode("ascii")
    return data + b" " * (len(data) % 2)
