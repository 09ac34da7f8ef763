"""Look-up tables of the header (PS3.3 sections C.11.1.1, C.11.2.1.1, C.7.6.3.1.5, C.7.9), read.

Descriptors and data come in all value representations, signed where unsigned was meant and the
other way round; what is meant is told by the range of the values that go in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from raypacs.errors import UnsupportedPixels
from raypacs.web.rendering.header import integers, value

Array = NDArray[Any]
_COLOURS = ("Red", "Green", "Blue")
_MOST_ENTRIES = 1 << 16
_NARROW = 255


@dataclass(frozen=True)
class Lut:
    """A table: the input mapped by its first entry, its entries, and the bits of the output."""

    first: int
    entries: Array
    bits: int

    def apply(self, values: Array) -> Array:
        """Return the entries of ``values``; those below and above the table take its ends."""
        last = len(self.entries) - 1
        where = np.clip(np.rint(values) - self.first, 0, last).astype(np.intp)
        return self.entries[where]

    @property
    def most(self) -> int:
        """Largest output, 2^bits - 1."""
        return (1 << self.bits) - 1


def within(value: int, low: float, high: float, bits: int = 16) -> int:
    """Return ``value`` as the signed or unsigned number of ``bits`` that lies in low to high.

    Written as US in a signed image, -2000 reads 63536. What fits neither way stays as it is.
    """
    for meant in (value, value - (1 << bits), value + (1 << bits)):
        if low <= meant <= high:
            return meant
    return value


def read_lut(item: Dataset, low: float, high: float, *, little: bool = True) -> Lut | None:
    """Read an item of the Modality or VOI LUT Sequence for inputs of ``low`` to ``high``.

    ``little``: byte order of data in OW. None: it has no usable table.
    """
    descriptor = integers(value(item, "LUTDescriptor"))
    data = value(item, "LUTData")
    if len(descriptor) != 3 or data is None:
        return None
    count = descriptor[0] & 0xFFFF or _MOST_ENTRIES
    entries = read_entries(data, count, descriptor[2], little=little)
    if not len(entries):
        return None
    declared = descriptor[2] if 1 <= descriptor[2] <= 16 else 1
    bits = max(declared, int(entries.max()).bit_length())
    return Lut(within(descriptor[1], low, high), entries, bits)


def read_entries(data: Any, count: int, bits: int, *, little: bool = True) -> Array:
    """Return at most ``count`` unsigned entries: words, or two 8-bit entries a word."""
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2")
        odd = data[-1:] if len(data) % 2 else b""
    else:
        words = (np.asarray(integers(data), np.int64) & 0xFFFF).astype(np.uint16)
        odd = b""
    packed = bits <= 8 and count > 1 and 2 * len(words) + len(odd) in (count, count + 1)
    if packed:
        # The first entry is in the low byte of its word, whatever the byte order.
        flat = words.astype("<u2").view(np.uint8)
        return np.concatenate([flat, np.frombuffer(odd, np.uint8)])[:count].astype(np.uint16)
    return words[:count].astype(np.uint16)


def palette(header: Dataset, low: int, high: int, *, little: bool = True) -> tuple[int, Array]:
    """Return the palette of a header: the first value mapped, and entries x 3 in 8 bits.

    ``low`` to ``high`` are the values that samples can take.

    Raises:
        UnsupportedPixels: it has none, or a damaged one.
    """
    columns = []
    first, wide = 0, False
    for colour in _COLOURS:
        name = f"{colour}PaletteColorLookupTable"
        descriptor = integers(value(header, name + "Descriptor"))
        if len(descriptor) != 3:
            raise UnsupportedPixels("PALETTE COLOR without a palette")
        count, bits = descriptor[0] & 0xFFFF or _MOST_ENTRIES, descriptor[2]
        first, wide = within(descriptor[1], low, high), bits > 8
        data = value(header, name + "Data")
        segments = value(header, f"Segmented{name}Data")
        if data is not None:
            columns.append(read_entries(data, count, bits, little=little))
        elif isinstance(segments, bytes):
            columns.append(expand_segments(segments, wide=wide, little=little)[:count])
        else:
            raise UnsupportedPixels("PALETTE COLOR without a palette")
    size = min(map(len, columns))
    if size == 0:
        raise UnsupportedPixels("the palette is empty")
    table = np.stack([column[:size] for column in columns], axis=1)
    if wide and not _is_narrow(table):
        table = table >> 8
    return first, np.minimum(table, 255).astype(np.uint8)


def _is_narrow(table: Array) -> bool:
    """Whether a palette of 16 bits was filled with 8: most of 0 to 255 is there, nothing else.

    A few small entries are what they say, dark.
    """
    return int(table.max()) <= _NARROW and len(np.unique(table)) > _NARROW // 2


def expand_segments(data: bytes, *, wide: bool, little: bool = True) -> Array:
    """Return the entries of a segmented palette (PS3.3 section C.7.9.2).

    ``wide``: 16 bits an entry.

    Raises:
        UnsupportedPixels: it is damaged.
    """
    kind = np.dtype("u1") if not wide else np.dtype("<u2" if little else ">u2")
    codes = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind).tolist()
    entries: list[int] = []
    try:
        _expand(codes, 0, len(codes), entries, wide=wide)
    except IndexError as exc:
        raise UnsupportedPixels("the segmented palette is cut off") from exc
    return np.asarray(entries, np.uint16)


def _expand(
    codes: Sequence[int],
    at: int,
    segments: int,
    entries: list[int],
    *,
    wide: bool,
    deep: bool = False,
) -> None:
    """Append up to ``segments`` segments from ``at``; a last code alone is padding."""
    while segments > 0 and at + 1 < len(codes):
        kind, length = codes[at], codes[at + 1]
        at += 2
        segments -= 1
        if kind == 0:
            entries.extend(codes[at : at + length])
            at += length
        elif kind == 1 and entries:
            line = np.linspace(entries[-1], codes[at], length + 1)[1:]
            entries.extend(int(value) for value in np.rint(line))
            at += 1
        elif kind == 2 and not deep:
            # The offset is in bytes, low part first.
            if wide:
                begin, at = (codes[at] | codes[at + 1] << 16) // 2, at + 2
            else:
                begin = sum(codes[at + n] << 8 * n for n in range(4))
                at += 4
            _expand(codes, begin, length, entries, wide=wide, deep=True)
        else:
            raise UnsupportedPixels("the segmented palette is damaged")
        if len(entries) > _MOST_ENTRIES:
            raise UnsupportedPixels("the segmented palette is too long")
