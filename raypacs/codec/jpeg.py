"""Markers of JPEG and JPEG-LS codestreams (ISO/IEC 10918-1 annex B, 14495-1 annex C), read by hand.

A decoder is only called once its codestream is known to be whole and of the size that the header
of the instance says: what a damaged one claims may be gigabytes, and what is cut off some decoders
fill up without an error.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from raypacs.errors import UnsupportedPixels

_SOI, _EOI, _SOS, _JFIF, _APP8, _ADOBE = 0xD8, 0xD9, 0xDA, 0xE0, 0xE8, 0xEE
SOF_LOSSLESS = 0xC3
SOF_JPEG_LS = 0xF7
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {SOF_JPEG_LS}
# Markers without a segment: TEM, RSTn.
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
# In coded data a byte FF is followed by a stuffed zero (JPEG) or by a byte with a stuffed zero bit
# (JPEG-LS); restart markers belong to the data.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_MARKER_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_START = b"\xff\xd8\xff"
_MOST_SCANS = 64


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan header: ``first`` is the predictor of lossless JPEG, NEAR of JPEG-LS; ``second``
    the interleave mode of JPEG-LS; ``shift`` the point transform. ``tables`` are those of the
    components: of Huffman codes, in JPEG-LS of a mapping of values.
    """

    components: int
    tables: tuple[int, ...]
    first: int
    second: int
    shift: int


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What the markers of a whole codestream say.

    ``frame`` is the second byte of the frame's marker (C3 lossless, F7 JPEG-LS). ``adobe`` is the
    colour transform of an Adobe segment (0 none, 1 YCbCr), -1 without one.
    """

    frame: int
    depth: int
    rows: int
    columns: int
    component_ids: tuple[int, ...]
    sampled_alike: bool
    scans: tuple[Scan, ...]
    jfif: bool
    adobe: int
    hp_transform: bool

    @property
    def declared_colour(self) -> str:
        """`YBR` or `RGB` where the codestream itself says so (JFIF, Adobe, names), else ''."""
        if len(self.component_ids) != 3:
            return ""
        if self.adobe >= 0:
            return "YBR" if self.adobe == 1 else "RGB"
        if self.jfif:
            return "YBR"
        return "RGB" if self.component_ids == (0x52, 0x47, 0x42) else ""


class _Reader:
    """Collects segments until the end of the image."""

    def __init__(self) -> None:
        self.frame: tuple[int, int, int, int] | None = None
        self.ids: tuple[int, ...] = ()
        self.alike = True
        self.scans: list[Scan] = []
        self.jfif = self.hp = False
        self.adobe = -1

    def segment(self, marker: int, body: bytes) -> None:
        if marker in _FRAMES:
            self._frame(marker, body)
        elif marker == _SOS:
            self._scan(body)
        elif marker == _JFIF and body[:5] == b"JFIF\0":
            self.jfif = True
        elif marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
            self.adobe = body[11]
        elif marker == _APP8 and body[:4] == b"mrfx":
            self.hp = True

    def _frame(self, marker: int, body: bytes) -> None:
        if self.frame is not None:
            raise UnsupportedPixels("JPEG codestream with two frames")
        depth, rows, columns, count = struct.unpack_from(">BHHB", body)
        if len(body) != 6 + 3 * count:
            raise UnsupportedPixels("JPEG frame header of the wrong length")
        self.frame = (marker, depth, rows, columns)
        self.ids = tuple(body[6::3])
        self.alike = len(set(body[7::3])) == 1

    def _scan(self, body: bytes) -> None:
        count = body[0]
        if len(body) != 4 + 2 * count or self.frame is None:
            raise UnsupportedPixels("JPEG scan header of the wrong length")
        first, second, shift = body[-3:]
        self.scans.append(Scan(count, tuple(body[2:-3:2]), first, second, shift & 0xF))
        if len(self.scans) > _MOST_SCANS:
            raise UnsupportedPixels(f"JPEG codestream of more than {_MOST_SCANS} scans")

    def header(self) -> JpegHeader:
        if self.frame is None or not self.scans:
            raise UnsupportedPixels("JPEG codestream without a frame or a scan")
        return JpegHeader(
            *self.frame,
            component_ids=self.ids,
            sampled_alike=self.alike,
            scans=tuple(self.scans),
            jfif=self.jfif,
            adobe=self.adobe,
            hp_transform=self.hp,
        )


def read_header(data: bytes, *, whole: bool = True) -> JpegHeader:
    """Walk all markers of a codestream to its end, or without ``whole`` to its first scan.

    Raises:
        UnsupportedPixels: not JPEG, damaged, cut off before End of Image, or followed by another.
    """
    if data[:2] != b"\xff\xd8":
        raise UnsupportedPixels("not a JPEG codestream")
    reader = _Reader()
    at, pattern = 2, _MARKER
    try:
        while True:
            at, marker = _marker(data, at)
            if marker == _EOI:
                break
            if marker in _ALONE:
                continue
            size = struct.unpack_from(">H", data, at)[0]
            if size < 2 or at + size > len(data):
                raise UnsupportedPixels("JPEG codestream is cut off in a marker segment")
            reader.segment(marker, data[at + 2 : at + size])
            at += size
            if marker == SOF_JPEG_LS:
                pattern = _MARKER_LS
            if marker == _SOS and not whole:
                return reader.header()
            if marker == _SOS:
                found = pattern.search(data, at)
                if found is None:
                    raise UnsupportedPixels("JPEG codestream without End of Image: cut off")
                at = found.start()
    except (struct.error, IndexError) as exc:
        raise UnsupportedPixels("JPEG codestream is cut off in a marker segment") from exc
    if data.find(_START, at) >= 0:
        raise UnsupportedPixels("two JPEG codestreams in one frame")
    return reader.header()


def _marker(data: bytes, at: int) -> tuple[int, int]:
    """Return the offset after the marker at ``at``, fill bytes passed over, and its second byte."""
    if data[at] != 0xFF:
        raise UnsupportedPixels("JPEG codestream: no marker where one is expected")
    at += 1
    while data[at] == 0xFF:
        at += 1
    if data[at] in (0, _SOI):
        raise UnsupportedPixels("JPEG codestream: no marker where one is expected")
    return at + 1, data[at]
