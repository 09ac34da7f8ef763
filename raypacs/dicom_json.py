"""DICOM JSON Model (PS3.18 annex F) of a header, fast for series whose slices are much alike.

Most elements of a slice are the same, byte for byte, in the next one, so the JSON text of an
element is kept by its raw bytes. pydicom's ``to_json_dict`` is the reference in the tests.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable

from pydicom.charset import decode_bytes

from raypacs.dicom import Element, Header, encodings_of, implicit_vr, items

_TEXT_ONE = frozenset({"ST", "LT", "UT", "UR"})  # one value, backslash is a character
_TEXT_MANY = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UC", "UI"})
_IN_CHARSET = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NUMBERS = {
    "US": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "UV": "Q",
    "SV": "q",
    "FL": "f",
    "FD": "d",
}
_WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}
_AMBIGUOUS_PIXEL_VALUES = frozenset(
    # US or SS by Pixel Representation (PS3.6): matters for implicit VR, where the VR is not sent.
    {0x00280106, 0x00280107, 0x00280108, 0x00280109, 0x00280110, 0x00280111, 0x00280120, 0x00280121}
)
_LONGEST_CACHED_BYTES = 64 * 1024
_MOST_CACHED = 20_000


def with_colour(text: str, photometric: str) -> str:
    """Return the DICOM JSON object of an image whose frames come as ``photometric``, by pixel.

    Planar Configuration is 0 then (PS3.3 section C.7.6.3.1.3).
    """
    found = json.loads(text)
    found["00280004"] = {"vr": "CS", "Value": [photometric]}
    if "00280006" in found:
        found["00280006"] = {"vr": "US", "Value": [0]}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


class JsonHeaders:
    """Turns headers into DICOM JSON text; one object per series, not shared between threads.

    ``inline_value_bytes``: longer binary values become a ``BulkDataURI``: ``bulk_uri`` of the
    instance followed by ``/bulkdata/`` and the path of tags and item numbers (PS3.18 F.2.2).
    Pixel Data is left out: frames have resources of their own.
    """

    def __init__(self, inline_value_bytes: int = 1024) -> None:
        self._inline = inline_value_bytes
        self._fragments: dict[tuple[int, str, bytes, bytes, bool], str] = {}

    def text(self, header: Header, bulk_uri: str) -> str:
        """Return the DICOM JSON object of a header as text.

        Raises:
            MalformedInstance: a sequence inside is damaged.
        """
        return self._dataset(header, header.raw(0x00080005), bulk_uri + "/bulkdata/")

    def _dataset(self, header: Header, charset: bytes, uri: str) -> str:
        own = header.raw(0x00080005)
        charset = own or charset
        signed = header.number(0x00280103) == 1
        parts = []
        for element in header.elements:
            tag = element.tag
            if tag & 0xFFFF == 0 or element is header.pixel:
                continue
            fragment = self._fragment(header, element, charset, uri, signed)
            parts.append(f'"{tag:08X}":{fragment}')
        return "{" + ",".join(parts) + "}"

    def _fragment(
        self, header: Header, element: Element, charset: bytes, uri: str, signed: bool
    ) -> str:
        tag, vr, length = element.tag, element.vr, element.length
        if vr == "SQ" or (vr == "UN" and length < 0):
            return self._sequence(header, element, charset, uri)
        if length < 0:  # OB or OW in fragments outside Pixel Data: by reference
            return f'{{"vr":"{vr}","BulkDataURI":"{uri}{tag:08X}"}}'
        if vr in _BINARY and length > self._inline:
            return f'{{"vr":"{vr}","BulkDataURI":"{uri}{tag:08X}"}}'
        value = bytes(header.buf[element.value_offset : element.value_offset + length])
        if vr == "UN" and not (tag >> 16) & 1:
            # A public element that passed through an unaware system (PS3.5 6.2.2 note 2).
            vr = vr if implicit_vr(tag) == "SQ" else implicit_vr(tag)
        if header.implicit and signed and tag in _AMBIGUOUS_PIXEL_VALUES:
            vr = "SS"
        key = (tag, vr, value, charset if vr in _IN_CHARSET or vr == "PN" else b"", False)
        found = self._fragments.get(key)
        if found is None:
            found = _element_json(vr, value, charset, header.big_endian)
            if length <= _LONGEST_CACHED_BYTES:
                if len(self._fragments) >= _MOST_CACHED:
                    self._fragments.clear()
                self._fragments[key] = found
        return found

    def _sequence(self, header: Header, element: Element, charset: bytes, uri: str) -> str:
        stop = element.value_offset + element.length if element.length >= 0 else None
        key = None
        if stop is not None and element.length <= _LONGEST_CACHED_BYTES:
            raw = bytes(header.buf[element.value_offset : stop])
            key = (element.tag, "SQ", raw, charset, header.implicit)
            found = self._fragments.get(key)
            if found is not None:
                return found
        texts = [
            self._dataset(item, charset, f"{uri}{element.tag:08X}/{number}/")
            for number, item in enumerate(items(header, element), 1)
        ]
        result = '{"vr":"SQ"}' if not texts else '{"vr":"SQ","Value":[' + ",".join(texts) + "]}"
        if key is not None and "BulkDataURI" not in result:
            self._fragments[key] = result
        return result


def _decode(value: bytes, charset: bytes, vr: str) -> str:
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    if vr in _IN_CHARSET or vr == "PN":
        return decode_bytes(value, encodings_of(charset), {0x5C, 0x5E, 0x3D})
    return value.decode("latin-1")


def _texts(vr: str, value: bytes, charset: bytes) -> list[object]:
    text = _decode(value, charset, vr).rstrip("\0")
    if vr in _TEXT_ONE:
        return [text.rstrip(" ")]
    return [part.strip(" \0") or None for part in text.split("\\")]


def _person_names(vr: str, value: bytes, charset: bytes) -> list[object]:
    names: list[object] = []
    for text in _decode(value, charset, vr).rstrip(" \0").split("\\"):
        groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False))
        kept = {kind: group.strip() for kind, group in groups.items() if group.strip()}
        names.append(kept or None)
    return names


def _decimals(vr: str, value: bytes, charset: bytes) -> list[object]:
    del charset
    return [_decimal(vr, part.strip(" \0")) for part in value.decode("latin-1").split("\\")]


def _decimal(vr: str, text: str) -> object:
    """IS and DS as a number, or as the string where it is not one (PS3.18 F.2.3 allows both)."""
    if not text:
        return None
    try:
        number = int(text) if vr == "IS" else float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _element_json(vr: str, value: bytes, charset: bytes, big_endian: bool) -> str:
    if not value:
        return f'{{"vr":"{vr}"}}'
    values: list[object]
    handler = _HANDLERS.get(vr)
    if handler is not None:
        values = handler(vr, value, charset)
    elif vr in _NUMBERS:
        values = _numbers(vr, value, big_endian)
    elif vr == "AT":
        pairs = struct.unpack(
            (">" if big_endian else "<") + "HH" * (len(value) // 4), value[: len(value) // 4 * 4]
        )
        values = [f"{pairs[i]:04X}{pairs[i + 1]:04X}" for i in range(0, len(pairs), 2)]
    else:
        return _inline(vr, value, big_endian)
    if all(item is None or item == "" for item in values):
        return f'{{"vr":"{vr}"}}'
    return (
        f'{{"vr":"{vr}","Value":{json.dumps(values, ensure_ascii=False, separators=(",", ":"))}}}'
    )


def _numbers(vr: str, value: bytes, big_endian: bool) -> list[object]:
    code = _NUMBERS[vr]
    count = len(value) // struct.calcsize(code)
    found = struct.unpack_from((">" if big_endian else "<") + code * count, value)
    if vr in ("FL", "FD"):
        return [number if math.isfinite(number) else _not_finite(number) for number in found]
    return list(found)


def _not_finite(number: float) -> str:
    """Return the words that JavaScript, Java and .NET read: JSON and PS3.18 F.2.3 have none."""
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _inline(vr: str, value: bytes, big_endian: bool) -> str:
    """InlineBinary, always in little endian byte order (PS3.18 F.2.7)."""
    width = _WORD_BYTES.get(vr, 1)
    if big_endian and width > 1:
        value = b"".join(value[i : i + width][::-1] for i in range(0, len(value), width))
    return f'{{"vr":"{vr}","InlineBinary":"{base64.b64encode(value).decode("ascii")}"}}'


_Handler = Callable[[str, bytes, bytes], list[object]]
_HANDLERS: dict[str, _Handler] = dict.fromkeys(_TEXT_ONE | _TEXT_MANY, _texts)
_HANDLERS |= {"PN": _person_names, "IS": _decimals, "DS": _decimals}
