"""DICOM JSON of one instance after another of a series, on the hot path of PREPARE.

:class:`raypacs.dicom_json.JsonHeaders` makes the text. For Explicit VR Little Endian the text of an
element is kept here by the element's bytes, so that what repeats from slice to slice costs one
look-up an element and no parse.
"""

from __future__ import annotations

import math
import re
import struct

from raypacs import dicom
from raypacs.codec.frame_geometry import GEOMETRY_TAGS
from raypacs.dicom import Element, Header
from raypacs.dicom_json import JsonHeaders
from raypacs.errors import MalformedInstance

_CHARSET = 0x00080005
_LONG_VR = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_BINARY = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN"})
_UNDEFINED = 0xFFFFFFFF
_LONGEST_KEPT_BYTES = 4096
_GEOMETRY = frozenset(int(tag, 16) for tag in GEOMETRY_TAGS)
_MOST_KEPT = 20_000
_CODES = frozenset({"CS", "DA", "DT", "TM", "UI"})
_PLAIN_CODE = re.compile(rb"[A-Za-z0-9_.]+").fullmatch
_PLAIN_DECIMALS = re.compile(
    rb"-?[0-9]{1,12}(\.[0-9]{1,12})?(\\-?[0-9]{1,12}(\.[0-9]{1,12})?)*"
).fullmatch
_PLAIN_INTEGERS = re.compile(rb"-?[0-9]{1,12}(\\-?[0-9]{1,12})*").fullmatch
_head = struct.Struct("<HH2sH").unpack_from
_length = struct.Struct("<I").unpack_from
_double = struct.Struct("<d").unpack


class SeriesMetadata:
    """Makes DICOM JSON; one object per series and thread.

    ``geometry`` holds those element texts of the last data set that say where its frames lie: what
    the 3-D overview needs, without a parse of the whole. What repeats from slice to slice is the
    same object, so that pickle stores it once. Empty where the slow way was taken or one of them
    is long (functional groups of many frames): the whole says it then.
    """

    def __init__(self, inline_value_bytes: int) -> None:
        self._json = JsonHeaders(inline_value_bytes)
        self._inline = inline_value_bytes
        self._kept: dict[bytes, tuple[str, bool]] = {}  # with: says where frames lie
        self._charset = b""
        self.geometry: tuple[str, ...] = ()

    def of_header(self, header: Header, uri: str) -> str:
        """Return the DICOM JSON object of a scanned header. Raises MalformedInstance."""
        self.geometry = ()
        return self._json.text(header, uri)

    def of_explicit(self, data: bytes, uri: str) -> str:
        """Return the DICOM JSON object of a data set before Pixel Data.

        ``data`` is Explicit VR Little Endian; elements of undefined length take the slow way.

        Raises:
            MalformedInstance: it cannot be parsed.
        """
        self.geometry = ()
        parts: list[str] = []
        geometry: list[str] = []
        is_short = True
        kept = self._kept
        at, end = 0, len(data)
        charset: Element | None = None
        while at < end:
            try:
                group, number, vr, size = _head(data, at)
                value = at + 8
                if vr in _LONG_VR:
                    (size,) = _length(data, value)
                    value += 4
            except struct.error as exc:
                raise MalformedInstance("data set ends within an element header") from exc
            if size == _UNDEFINED:
                return self.of_header(dicom.scan(data, dicom.EXPLICIT_VR_LE), uri)
            after = value + size
            if size > self._inline and vr in _BINARY:
                # Its own in every instance: not worth a look at thousands of bytes.
                tag = f"{group:04X}{number:04X}"
                parts.append(_by_reference(tag, vr.decode("ascii"), uri))
                at = after
                continue
            raw = data[at:after]
            if number == 5 and group == 8:
                charset = Element(_CHARSET, "CS", at, value, size)
                if raw != self._charset:
                    kept.clear()
                    self._charset = raw
            found = kept.get(raw)
            if found is None:
                element = Element(group << 16 | number, vr.decode("latin-1"), at, value, size)
                text = self._text(data, element, charset, uri)
                found = text, element.tag in _GEOMETRY
                if size <= _LONGEST_KEPT_BYTES and "BulkDataURI" not in text:
                    self._keep(raw, found)
            text, is_geometry = found
            if text:
                parts.append(text)
                if is_geometry:
                    geometry.append(text)
                    is_short = is_short and size <= _LONGEST_KEPT_BYTES
            at = after
        if at != end:
            raise MalformedInstance("the last element is truncated")
        self.geometry = tuple(geometry) if is_short else ()
        return "{" + ",".join(parts) + "}"

    def _keep(self, raw: bytes, found: tuple[str, bool]) -> None:
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[raw] = found

    def _text(self, data: bytes, element: Element, charset: Element | None, uri: str) -> str:
        """Return `"ggggeeee":{...}` of one element; '' for what JSON leaves out."""
        value = data[element.value_offset : element.value_offset + element.length]
        common = _common(element, value)
        if common:
            return common
        plain = value.isascii() and b"\x1b" not in value
        if plain or charset is None or charset.tag == element.tag:
            return self._json.text(_only(data, element), uri)[1:-1]
        alone = self._json.text(_only(data, charset), uri)
        both = self._json.text(_only(data, charset, element), uri)
        return both[len(alone) : -1]  # after `{"00080005":{...}` and its comma


def _common(element: Element, value: bytes) -> str:
    """Return the text of the kinds of element that differ from slice to slice; '' for others.

    UIDs, times, codes and decimals of plain characters; anything else is for JsonHeaders.
    """
    vr = element.vr
    if vr == "FD" and len(value) == 8:
        (number,) = _double(value)
        if not math.isfinite(number):
            return ""
        return f'"{element.tag:08X}":{{"vr":"FD","Value":[{number!r}]}}'
    text = value.rstrip(b" \0")
    if vr in _CODES:
        if not _PLAIN_CODE(text):
            return ""
        values = f'"{text.decode("ascii")}"'
    elif vr == "DS":
        if not _PLAIN_DECIMALS(text):
            return ""
        values = ",".join([repr(float(part)) for part in text.split(b"\\")])
    elif vr == "IS":
        if not _PLAIN_INTEGERS(text):
            return ""
        values = ",".join([str(int(part)) for part in text.split(b"\\")])
    else:
        return ""
    return f'"{element.tag:08X}":{{"vr":"{vr}","Value":[{values}]}}'


def _by_reference(tag: str, vr: str, uri: str) -> str:
    return f'"{tag}":{{"vr":"{vr}","BulkDataURI":"{uri}/bulkdata/{tag}"}}'


def _only(data: bytes, *elements: Element) -> Header:
    return Header(data, list(elements), False, False, len(data))
