"""Headers of JPEG XL (ISO/IEC 18181-1 annexes C and E, 18181-2), as far as they tell what is lost.

There is one decoder at hand (libjxl), so nothing confirms it; but a codestream whose samples were
coded as integers, without a colour space of its own, has one meaning only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from raypacs.errors import UnsupportedPixels

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_BOX_BYTES = 8  # length and type
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_CUSTOM = 2  # of white point or primaries: coordinates follow


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """What the headers say; ``why_lossy`` is '' for integers coded as such."""

    rows: int
    columns: int
    samples: int
    depth: int
    why_lossy: str


class _Bits:
    """Reads fields, least significant bit first (annex B)."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)
        self._at = 0

    def u(self, count: int) -> int:
        self._at += count
        if self._at > self._left:
            raise UnsupportedPixels("JPEG XL codestream is cut off in its header")
        return self._value >> (self._at - count) & ((1 << count) - 1)

    def u32(self, *choices: tuple[int, int]) -> int:
        """U32: two bits choose an (offset, bits) pair."""
        offset, count = choices[self.u(2)]
        return offset + self.u(count)

    def u64(self) -> int:
        chosen = self.u(2)
        if chosen < 3:
            return (0, 1, 17)[chosen] + self.u(4 * chosen)
        value, shift = self.u(12), 12
        while self.u(1) and shift < 60:
            value |= self.u(8) << shift
            shift += 8
        return value

    def align(self) -> None:
        self._at = -(-self._at // 8) * 8


def read_header(data: bytes) -> StreamHeader:
    """Read image header and the beginning of the first frame's header.

    Raises:
        UnsupportedPixels: not JPEG XL, damaged, or a form that is not decoded here.
    """
    stream = _codestream(data)
    if not stream.startswith(_CODESTREAM):
        raise UnsupportedPixels("not a JPEG XL codestream")
    bits = _Bits(stream[2:258])
    rows, columns = _size(bits)
    if bits.u(1):
        return StreamHeader(rows, columns, 3, 8, "coded in XYB")
    extra = bits.u(1)
    if extra and _extra_fields(bits):
        raise UnsupportedPixels("JPEG XL with a preview, an animation or a size of its own")
    if bits.u(1):
        raise UnsupportedPixels("JPEG XL of floating-point samples")
    depth = bits.u32((8, 0), (10, 0), (12, 0), (1, 6))
    bits.u(1)
    if bits.u32((0, 0), (1, 0), (2, 4), (1, 12)):
        raise UnsupportedPixels("JPEG XL with extra channels")
    if bits.u(1):
        return StreamHeader(rows, columns, 3, depth, "coded in XYB")
    samples = _colours(bits)
    if extra and not bits.u(1):
        raise UnsupportedPixels("JPEG XL with a tone mapping of its own")
    if bits.u64() or not bits.u(1):
        raise UnsupportedPixels("JPEG XL with extensions or an up-sampling of its own")
    bits.align()
    return StreamHeader(rows, columns, samples, depth, _frame(bits))


def read_size(data: bytes) -> tuple[int, int]:
    """Return (rows, columns), whatever else the codestream says. Raises UnsupportedPixels."""
    stream = _codestream(data, any_kind=True)
    if not stream.startswith(_CODESTREAM):
        raise UnsupportedPixels("not a JPEG XL codestream")
    return _size(_Bits(stream[2:16]))


def _codestream(data: bytes, *, any_kind: bool = False) -> bytes:
    """Return the codestream in a container (ISO/IEC 18181-2), or ``data``."""
    if not data.startswith(_CONTAINER):
        return data
    parts: list[bytes] = []
    at = 0
    try:
        while at + _BOX_BYTES <= len(data):  # a byte more may pad the frame
            size, kind = struct.unpack_from(">I4s", data, at)
            head = _BOX_BYTES
            if size == 1:
                size, head = struct.unpack_from(">Q", data, at + 8)[0], 16
            end = at + size if size else len(data)
            if end < at + head or end > len(data):
                raise UnsupportedPixels("JPEG XL container is cut off")
            if kind == b"jbrd" and not any_kind:
                raise UnsupportedPixels("a recompressed JPEG (JPEG XL with a jbrd box)")
            if kind in (b"jxlc", b"jxlp"):
                parts.append(data[at + head + (4 if kind == b"jxlp" else 0) : end])
            at = end
    except struct.error as exc:
        raise UnsupportedPixels("JPEG XL container is cut off") from exc
    return b"".join(parts)


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.u(1)
    lengths = ((1, 9), (1, 13), (1, 18), (1, 30))
    rows = 8 * (bits.u(5) + 1) if small else bits.u32(*lengths)
    ratio = bits.u(3)
    if ratio:
        over, under = _RATIOS[ratio - 1]
        return rows, rows * over // under
    return rows, 8 * (bits.u(5) + 1) if small else bits.u32(*lengths)


def _extra_fields(bits: _Bits) -> bool:
    """Read orientation and what follows; say if there is more than an upright image."""
    return bool(bits.u(3)) or any(bits.u(1) for _ in range(3))


def _colours(bits: _Bits) -> int:
    """Read the colour encoding (annex E.2); return the samples a pixel."""
    if bits.u(1):
        return 3
    if bits.u(1):
        raise UnsupportedPixels("JPEG XL with an ICC profile")
    enumerated = ((0, 0), (1, 0), (2, 4), (18, 6))
    space = bits.u32(*enumerated)
    if space not in (0, 1):
        raise UnsupportedPixels("JPEG XL in a colour space that DICOM does not know")
    white = bits.u32(*enumerated)
    if white == _CUSTOM:
        _custom(bits, 1)
    if space == 0:
        primaries = bits.u32(*enumerated)
        if primaries == _CUSTOM:
            _custom(bits, 3)
    if bits.u(1):
        bits.u(24)
    else:
        bits.u32(*enumerated)
    bits.u32(*enumerated)
    return 1 if space == 1 else 3


def _custom(bits: _Bits, points: int) -> None:
    for _ in range(2 * points):
        bits.u32((0, 19), (524_288, 19), (1_048_576, 20), (2_097_152, 21))


def _frame(bits: _Bits) -> str:
    """Return why the first frame's samples are not integers coded as such, or ''."""
    if bits.u(1):
        return "coded by blocks (VarDCT)"
    kind, modular = bits.u(2), bits.u(1)
    if not modular:
        return "coded by blocks (VarDCT)"
    if kind or bits.u64():
        return "a first frame that is not the image alone"
    if bits.u(1) or bits.u32((1, 0), (2, 0), (4, 0), (8, 0)) != 1:
        return "sub-sampled or in YCbCr"
    return ""
