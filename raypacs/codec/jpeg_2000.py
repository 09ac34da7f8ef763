"""Codestreams of JPEG 2000 and HTJ2K from elsewhere (ISO/IEC 15444-1 annex A), checked by hand.

Decoders trust what the marker segments say: tiles of one pixel, empty precincts and images of
60,000 x 60,000 make them run for minutes, divide by zero or take all memory, and tile-parts that
are cut off they fill up without an error. So a codestream is only decoded once all of its headers
were read and every tile-part found whole.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from raypacs.errors import UnsupportedPixels

_SOC, _SIZ, _COD, _COC, _QCD, _QCC = 0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF5C, 0xFF5D
_SOT, _SOD, _EOC = 0xFF90, 0xFF93, 0xFFD9
# DCO, VMS, DFS, ADS, MCT, MCC, NLT, MCO, CBD, ATK of Part 2 (ISO/IEC 15444-2 annex A).
_PART_2 = frozenset({0xFF70, 0xFF71, 0xFF72, 0xFF73, *range(0xFF74, 0xFF7A)})
_MOST_COMPONENTS = 16
_MOST_TILES = 65_535
_MOST_LEVELS = 32
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_START = b"\xff\x4f\xff\x51"
# Boxes of JP2 that change what the samples mean (ISO/IEC 15444-1 annex I.5.3).
_MEANING = (b"pclr", b"cmap", b"cdef")


@dataclass(slots=True)
class StreamHeader:
    """What the headers of a whole codestream say; ``high_throughput`` is Part 15."""

    rows: int = 0
    columns: int = 0
    components: int = 0
    depth: int = 0
    signed: bool = False
    tiles: int = 0
    colour_transform: bool = False
    reversible: bool = True
    quantised: bool = False
    high_throughput: bool = False
    part_2: bool = False
    _coded: bool = field(default=False, repr=False)
    _layers: int = field(default=0, repr=False)


def unwrapped(data: bytes) -> bytes:
    """Return the codestream in a JP2 file (against PS3.5 section A.4.4, but in use), or ``data``.

    Raises:
        UnsupportedPixels: a JP2 file whose boxes change what the samples mean, or without one.
    """
    if not data.startswith(_JP2):
        return data
    start = data.find(_START)
    if start < 0 or any(box in data[:start] for box in _MEANING):
        raise UnsupportedPixels("a JP2 file with a palette, or without a codestream")
    return data[start:]


def read_main_header(data: bytes) -> StreamHeader:
    """Read what lies before the first tile-part; its coding may differ from tile to tile.

    Raises:
        UnsupportedPixels: not JPEG 2000, damaged, or a form that is not decoded here.
    """
    header = StreamHeader()
    try:
        _main_header(data, header)
    except (struct.error, IndexError) as exc:
        raise UnsupportedPixels("JPEG 2000 codestream is cut off in a header") from exc
    return header


def read_header(data: bytes) -> StreamHeader:
    """Walk all headers of a codestream to its end.

    Raises:
        UnsupportedPixels: not JPEG 2000, damaged, cut off, or a form that is not decoded here.
    """
    header = StreamHeader()
    try:
        end = _tile_parts(data, _main_header(data, header), header)
    except (struct.error, IndexError) as exc:
        raise UnsupportedPixels("JPEG 2000 codestream is cut off in a header") from exc
    if data.find(_START, end) >= 0:
        raise UnsupportedPixels("two JPEG 2000 codestreams in one frame")
    return header


def _main_header(data: bytes, header: StreamHeader) -> int:
    """Read the marker segments up to the first tile-part; return where that begins."""
    if data[:4] != _START:
        raise UnsupportedPixels("not a JPEG 2000 codestream")
    at, quantised = 2, False
    while (marker := _u16(data, at)) != _SOT:
        body = _segment(data, at)
        if marker == _SIZ:
            _siz(body, header)
        quantised = quantised or marker == _QCD
        _coding(marker, body, header)
        at += 4 + len(body)
    if not header.components or not header._coded or not quantised:
        raise UnsupportedPixels("JPEG 2000 codestream without SIZ, COD or QCD")
    return at


def _u16(data: bytes, at: int) -> int:
    return int(struct.unpack_from(">H", data, at)[0])


def _segment(data: bytes, at: int) -> bytes:
    """Return what follows the length of the marker segment at ``at``."""
    size = _u16(data, at + 2)
    if _u16(data, at) < 0xFF00 or size < 2 or at + 2 + size > len(data):
        raise UnsupportedPixels("JPEG 2000 codestream with a damaged marker segment")
    return data[at + 4 : at + 2 + size]


def _siz(body: bytes, header: StreamHeader) -> None:
    capabilities, right, bottom, left, top, *tile, count = struct.unpack_from(">H8IH", body)
    if header.components or not 1 <= count <= _MOST_COMPONENTS or len(body) != 36 + 3 * count:
        raise UnsupportedPixels(f"JPEG 2000 codestream of {count} components")
    width, height, tile_left, tile_top = tile
    if right <= left or bottom <= top or not width or not height:
        raise UnsupportedPixels("JPEG 2000 codestream without an area")
    inside = tile_left <= left < tile_left + width and tile_top <= top < tile_top + height
    across, down = -(-(right - tile_left) // width), -(-(bottom - tile_top) // height)
    if not inside or across * down > _MOST_TILES:
        raise UnsupportedPixels("JPEG 2000 codestream with impossible tiles")
    components = body[36:]
    if len({components[n : n + 3] for n in range(0, 3 * count, 3)}) != 1 or components[1:3] != (
        b"\x01\x01"
    ):
        raise UnsupportedPixels("JPEG 2000 components of different depths or sub-sampled")
    header.rows, header.columns, header.components = bottom - top, right - left, count
    header.depth, header.signed = (components[0] & 0x7F) + 1, bool(components[0] & 0x80)
    header.tiles = across * down
    header.part_2 = bool(capabilities & 0x8000)


def _coding(marker: int, body: bytes, header: StreamHeader) -> None:
    """Note what a marker segment of main or tile-part header says of the coding."""
    if marker in _PART_2:
        header.part_2 = True
    elif marker == _COD:
        style, progression, layers, transform = struct.unpack_from(">BBHB", body)
        if progression > 4 or not layers or transform > 1 or style > 7:
            raise UnsupportedPixels("JPEG 2000 codestream with an impossible coding style")
        if transform and header.components < 3:
            raise UnsupportedPixels("JPEG 2000 colour transform of less than three components")
        if header._coded and header.colour_transform != bool(transform):
            raise UnsupportedPixels("JPEG 2000 tiles with and without colour transform")
        header._coded, header.colour_transform = True, bool(transform)
        _style(body[5:], bool(style & 1), header)
    elif marker == _COC:
        _style(body[2:], bool(body[1] & 1), header)
    elif marker in (_QCD, _QCC):
        header.quantised = header.quantised or bool(body[marker == _QCC] & 0x1F)


def _style(body: bytes, precincts: bool, header: StreamHeader) -> None:
    """Read levels, code-blocks, kernel and precincts (annex A.6.1, table A.15)."""
    levels, width, height, style, kernel = struct.unpack_from(">5B", body)
    if levels > _MOST_LEVELS or width > 8 or height > 8 or width + height > 8 or kernel > 1:
        raise UnsupportedPixels("JPEG 2000 codestream with an impossible coding style")
    if precincts:
        sizes = body[5 : 6 + levels]
        if len(sizes) != levels + 1 or any(not one & 0xF or not one >> 4 for one in sizes[1:]):
            raise UnsupportedPixels("JPEG 2000 codestream with empty precincts")
    header.reversible = header.reversible and kernel == 1
    header.high_throughput = header.high_throughput or bool(style & 0x40)


def _tile_parts(data: bytes, at: int, header: StreamHeader) -> int:
    """Walk the tile-parts; return the offset after End of Codestream."""
    parts: dict[int, int] = {}
    promised: dict[int, int] = {}
    while (marker := _u16(data, at)) != _EOC:
        if marker != _SOT:
            raise UnsupportedPixels("JPEG 2000 codestream: no tile-part where one is expected")
        size, tile, length, number, count = struct.unpack_from(">HHIBB", data, at + 2)
        if size != 10 or tile >= header.tiles or number != parts.get(tile, 0):
            raise UnsupportedPixels("JPEG 2000 codestream with a damaged tile-part")
        parts[tile] = number + 1
        if count and promised.setdefault(tile, count) != count:
            raise UnsupportedPixels("JPEG 2000 codestream with a damaged tile-part")
        end = at + length if length else data.rfind(b"\xff\xd9")
        if _start_of_data(data, at + 12, header) > end or end + 2 > len(data):
            raise UnsupportedPixels("JPEG 2000 codestream is cut off in a tile-part")
        at = end
    # More of them than promised are in use: a version of Kakadu counted one too few.
    if len(parts) != header.tiles or any(parts[tile] < n for tile, n in promised.items()):
        raise UnsupportedPixels("JPEG 2000 codestream with missing tile-parts")
    return at + 2


def _start_of_data(data: bytes, at: int, header: StreamHeader) -> int:
    """Read the rest of a tile-part header; return where its data begins."""
    while (marker := _u16(data, at)) != _SOD:
        body = _segment(data, at)
        _coding(marker, body, header)
        at += 4 + len(body)
    return at + 2
