"""A fast walk over the elements of a data set (PS3.5 section 7.1); values are decoded when asked.

On the hot path of receive and prepare. Works on any buffer, does no I/O; pydicom is the reference
it is tested against.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR

from raypacs.errors import MalformedInstance
from raypacs.uids import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE

Buffer = bytes | bytearray | memoryview

PIXEL_DATA = 0x7FE00010
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_VR = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_SHORT_VR = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT"}
    | {b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
_VR_TEXT = {vr: vr.decode() for vr in LONG_VR | _SHORT_VR}
_DEEPEST = 64
#: Most bytes that a deflated data set may inflate to, whatever the settings say.
MOST_INFLATED_BYTES = 4 * 1024**3
# Deflate can do 1032 to 1, and blank segmentations come near that; what is larger than this and
# still inflates more than so many times is no image.
_ANY_RATIO_BYTES = 256 * 1024**2
_LARGEST_RATIO = 100
_PIECE_BYTES = 1024 * 1024


class Truncated(MalformedInstance):
    """The buffer ends before the data set does."""


class EndsEarly(Exception):
    """The beginning of a data set that was read does not hold its whole header."""


class Element(NamedTuple):
    """One top-level data element: ``length`` is -1 where it is undefined."""

    tag: int
    vr: str
    start: int
    value_offset: int
    length: int


@dataclass(slots=True)
class Header:
    """The top-level elements of a data set up to and including Pixel Data.

    ``end`` is the offset after the last element seen (start of the Pixel Data value if there is
    one). Offsets are into ``buf``.
    """

    buf: Buffer
    elements: list[Element]
    implicit: bool
    big_endian: bool
    end: int
    pixel: Element | None = None
    _by_tag: dict[int, Element] = field(default_factory=dict)
    _encodings: list[str] | None = None

    def __post_init__(self) -> None:
        self._by_tag = {element.tag: element for element in self.elements}

    def has(self, tag: int) -> bool:
        """Say if the element is present (it may be empty)."""
        return tag in self._by_tag

    def element(self, tag: int) -> Element | None:
        """Return the element or None."""
        return self._by_tag.get(tag)

    def raw(self, tag: int) -> bytes:
        """Return the value bytes, empty if absent or of undefined length."""
        element = self._by_tag.get(tag)
        if element is None or element.length <= 0:
            return b""
        return bytes(self.buf[element.value_offset : element.value_offset + element.length])

    def text(self, tag: int) -> str:
        """Return the value as text in the data set's character set, padding stripped."""
        value = self.raw(tag).rstrip(b" \0")
        if not value:
            return ""
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii").strip()
        return decode_bytes(value, self.encodings(), {0x5C, 0x5E, 0x3D}).strip()

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first value of a US, SS, UL, SL or IS element, else ``default``.

        So too for values outside of signed 32 bit, the range of IS (PS3.5 section 6.2): no count
        or size that means anything is out there, and a database takes only so much.
        """
        found = self._number(tag)
        return default if found is None or not -(1 << 31) <= found < 1 << 31 else found

    def _number(self, tag: int) -> int | None:
        element, value = self._by_tag.get(tag), self.raw(tag)
        if element is None or not value:
            return None
        if element.vr in ("IS", "DS", "LO", "SH", "CS") or len(value) not in (2, 4):
            first = value.split(b"\\")[0].strip(b" \0")
            try:
                return int(float(first))
            except (ValueError, OverflowError):
                return None
        signed = element.vr in ("SS", "SL")
        size = 2 if element.vr in ("US", "SS") else len(value)
        return int.from_bytes(value[:size], "big" if self.big_endian else "little", signed=signed)

    def encodings(self) -> list[str]:
        """Python codecs of Specific Character Set (0008,0005)."""
        if self._encodings is None:
            self._encodings = encodings_of(self.raw(0x00080005))
        return self._encodings


@lru_cache(maxsize=256)
def _encodings(value: bytes) -> tuple[str, ...]:
    names = [name.strip(" \0") for name in value.decode("ascii", "replace").split("\\")]
    try:
        return tuple(convert_encodings(names or ["ISO_IR 6"]))
    except (LookupError, ValueError, UserWarning):
        return ("utf-8",) if "192" in value.decode("ascii", "replace") else ("iso8859",)


def encodings_of(value: bytes) -> list[str]:
    """Python codecs of a Specific Character Set value; ISO 8859-1 where it is not known."""
    return list(_encodings(value.rstrip(b" \0")))


def inflate(buf: Buffer, offset: int, most_bytes: int = MOST_INFLATED_BYTES) -> bytearray:
    """Return the inflated data set of a deflated transfer syntax (PS3.5 A.5).

    Raises:
        MalformedInstance: the deflate stream is damaged or ends early, or inflates to more than
            ``most_bytes``, or to much more than an image may (a "bomb").
    """
    data = bytearray()
    for piece in _inflated(buf, offset, most_bytes):
        data += piece
    return data


def inflated_header(buf: Buffer, offset: int, most_bytes: int = MOST_INFLATED_BYTES) -> Header:
    """Return the header of a deflated data set, its offsets into what was inflated.

    The whole stream is gone through, but only its beginning is kept in memory.

    Raises:
        MalformedInstance: as :func:`inflate` and :func:`scan`.
    """
    keep = _PIECE_BYTES
    while True:
        data, size = bytearray(), 0
        for piece in _inflated(buf, offset, most_bytes):
            size += len(piece)
            if len(data) < keep:
                data += piece
        try:
            header = scan_beginning(data, EXPLICIT_VR_LE, 0, size)
            if header.pixel is not None or len(data) == size:
                return header
        except EndsEarly:
            pass
        keep *= 8


def _inflated(buf: Buffer, offset: int, most_bytes: int) -> Iterator[bytes]:
    packed = memoryview(buf)[offset:]
    most = min(most_bytes, MOST_INFLATED_BYTES, max(_ANY_RATIO_BYTES, _LARGEST_RATIO * len(packed)))
    decoder, done, at = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
    data: Buffer = b""
    while not decoder.eof:
        if not len(data):
            data, at = packed[at : at + _PIECE_BYTES], at + _PIECE_BYTES
        last = not len(data)
        try:
            piece = decoder.decompress(data, _PIECE_BYTES)
        except zlib.error as exc:
            raise MalformedInstance(f"deflated data set is damaged: {exc}") from exc
        if last and not piece and not decoder.eof:
            raise MalformedInstance("deflated data set ends early")
        data = decoder.unconsumed_tail
        done += len(piece)
        if done > most:
            raise MalformedInstance(
                f"deflated data set of {len(packed)} bytes inflates to more than {most}"
            )
        yield piece


@lru_cache(maxsize=8192)
def implicit_vr(tag: int) -> str:
    """VR of a tag by the dictionary; UN for private and unknown ones, UL for group lengths."""
    if tag & 0xFFFF == 0:
        return "UL"
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "LO" if (tag >> 16) & 1 and 0x10 <= (tag & 0xFFFF) <= 0xFF else "UN"
    return {"US or SS": "US", "OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "US"}.get(
        vr, vr
    )


def scan(buf: Buffer, transfer_syntax_uid: str, offset: int = 0) -> Header:
    """Walk the top-level elements from ``offset`` up to and including Pixel Data.

    Pixel Data of undefined length is walked fragment by fragment, so that a truncated one is seen.

    Raises:
        MalformedInstance: truncated, elements out of order, or not in the transfer syntax.
    """
    big = transfer_syntax_uid == EXPLICIT_VR_BE
    implicit = transfer_syntax_uid == IMPLICIT_VR_LE
    walk = _Walk(buf, big_endian=big)
    elements: list[Element] = []
    pos, end = offset, len(buf)
    pixel = None
    while pos < end:
        element = walk.element(pos, implicit)
        # Elements out of order are against PS3.5 7.1 but harmless, and real archives hold them;
        # a tag no data set can have means that the walk has lost its way.
        if element.tag >> 16 in (0, 2, 0xFFFE):
            raise MalformedInstance(
                f"found {_show(element.tag)} where a data element is expected", offset=pos
            )
        if element.tag in PIXEL_TAGS:
            pixel = element
            walk.check_pixel(element)
            elements.append(element)
            return Header(buf, elements, implicit, big, element.value_offset, pixel)
        pos = walk.end_of(element, implicit, 0)
        elements.append(element)
    return Header(buf, elements, implicit, big, min(pos, end), pixel)


def scan_beginning(buf: Buffer, transfer_syntax_uid: str, offset: int, size: int) -> Header:
    """Walk the elements before Pixel Data where ``buf`` is only the beginning of ``size`` bytes.

    As :func:`scan`, but the value of the last element may lie outside of ``buf``, and fragments of
    Pixel Data are not walked: what the beginning tells is checked, and nothing else.

    Raises:
        EndsEarly: the header goes on after ``buf``.
        MalformedInstance: as :func:`scan`.
    """
    big = transfer_syntax_uid == EXPLICIT_VR_BE
    implicit = transfer_syntax_uid == IMPLICIT_VR_LE
    walk = _Walk(buf, big_endian=big)
    elements: list[Element] = []
    pos = offset
    try:
        while pos < size:
            element = walk.element(pos, implicit)
            if element.tag >> 16 in (0, 2, 0xFFFE):
                raise MalformedInstance(
                    f"found {_show(element.tag)} where a data element is expected", offset=pos
                )
            after = element.value_offset + element.length
            if element.length >= 0 and after > size:
                raise MalformedInstance(
                    f"element {_show(element.tag)} claims {element.length} bytes, "
                    f"{size - element.value_offset} are left: truncated",
                    offset=pos,
                )
            elements.append(element)
            if element.tag in PIXEL_TAGS:
                return Header(buf, elements, implicit, big, element.value_offset, element)
            pos = size if after == size else walk.end_of(element, implicit, 0)
    except Truncated as exc:
        if walk.end < size:
            raise EndsEarly("the header goes on after what was read") from exc
        raise
    return Header(buf, elements, implicit, big, pos)


def _show(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


class _Walk:
    """Element headers of one buffer, in either byte order."""

    __slots__ = ("_explicit", "_implicit", "_long", "big", "buf", "end")

    def __init__(self, buf: Buffer, *, big_endian: bool) -> None:
        order = ">" if big_endian else "<"
        self.buf, self.end, self.big = buf, len(buf), big_endian
        self._explicit = struct.Struct(order + "HH2sH").unpack_from
        self._implicit = struct.Struct(order + "HHI").unpack_from
        self._long = struct.Struct(order + "I").unpack_from

    def element(self, pos: int, implicit: bool) -> Element:
        """Return the element whose header begins at ``pos``; its value is not checked."""
        if pos + 8 > self.end:
            raise Truncated("data set ends within an element header", offset=pos)
        if implicit:
            group, number, length = self._implicit(self.buf, pos)
            tag = group << 16 | number
            vr, value = implicit_vr(tag), pos + 8
        else:
            group, number, code, length = self._explicit(self.buf, pos)
            tag = group << 16 | number
            value = pos + 8
            if code in _SHORT_VR:
                vr = _VR_TEXT[code]
            elif code in LONG_VR:
                if pos + 12 > self.end:
                    raise Truncated("data set ends within an element header", offset=pos)
                (length,), value = self._long(self.buf, pos + 8), pos + 12
                vr = _VR_TEXT[code]
            else:
                raise MalformedInstance(
                    f"element {_show(tag)} has no valid VR ({code!r}): "
                    "not in the transfer syntax it claims",
                    offset=pos,
                )
        return Element(tag, vr, pos, value, -1 if length == _UNDEFINED else length)

    def end_of(self, element: Element, implicit: bool, depth: int) -> int:
        """Return the offset after the element's value, walking undefined lengths."""
        if element.length >= 0:
            end = element.value_offset + element.length
            if end > self.end:
                raise Truncated(
                    f"element {_show(element.tag)} claims {element.length} bytes, "
                    f"{self.end - element.value_offset} are left: truncated",
                    offset=element.start,
                )
            return end
        if element.vr not in ("SQ", "UN", "OB", "OW"):
            raise MalformedInstance(
                f"element {_show(element.tag)} of VR {element.vr} has an undefined length"
            )
        # UN of undefined length is a sequence encoded as Implicit VR Little Endian (PS3.5 6.2.2).
        return self._sequence_end(element, implicit or element.vr == "UN", depth)

    def _item(self, pos: int) -> tuple[int, int]:
        if pos + 8 > self.end:
            raise Truncated("sequence is truncated", offset=pos)
        group, number, length = self._implicit(self.buf, pos)
        return group << 16 | number, length

    def _sequence_end(self, element: Element, implicit: bool, depth: int) -> int:
        if depth > _DEEPEST:
            raise MalformedInstance(f"sequences are nested deeper than {_DEEPEST}")
        pos = element.value_offset
        while True:
            tag, length = self._item(pos)
            pos += 8
            if tag == _SEQUENCE_END:
                return pos
            if tag != _ITEM:
                raise MalformedInstance(
                    f"{_show(element.tag)}: expected an item, found {_show(tag)}", offset=pos - 8
                )
            if length != _UNDEFINED:
                pos += length
                continue
            while self._item(pos)[0] != _ITEM_END:
                nested = self.element(pos, implicit)
                pos = self.end_of(nested, implicit, depth + 1)
            pos += 8

    def check_pixel(self, element: Element) -> None:
        """Raise if native Pixel Data or its fragments run past the end of the data set."""
        if element.length >= 0:
            self.end_of(element, False, 0)
            return
        pos = element.value_offset
        while pos < self.end:
            tag, length = self._item(pos)
            pos += 8
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM or length == _UNDEFINED:
                raise MalformedInstance(
                    f"Pixel Data: expected a fragment, found {_show(tag)}", offset=pos - 8
                )
            pos += length
        if pos > self.end:
            raise MalformedInstance("Pixel Data: the last fragment is truncated")


def items(header: Header, element: Element) -> Iterable[Header]:
    """Yield a Header for each item of a sequence element (elements of every item, in order).

    Raises:
        MalformedInstance: as :func:`scan`.
    """
    walk = _Walk(header.buf, big_endian=header.big_endian)
    implicit = header.implicit or element.vr == "UN"
    pos = element.value_offset
    stop = pos + element.length if element.length >= 0 else walk.end
    while pos < stop:
        tag, length = walk._item(pos)
        pos += 8
        if tag != _ITEM:
            return
        found: list[Element] = []
        end = pos + length if length != _UNDEFINED else walk.end
        while pos < end:
            if length == _UNDEFINED and walk._item(pos)[0] == _ITEM_END:
                pos += 8
                break
            nested = walk.element(pos, implicit)
            found.append(nested)
            pos = walk.end_of(nested, implicit, 1)
        yield Header(header.buf, found, implicit, header.big_endian, pos)
