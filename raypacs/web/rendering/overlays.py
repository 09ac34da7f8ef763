"""Overlay planes of the groups 6000 to 601E (PS3.3 section C.9.2), as masks of a frame's size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from raypacs.web.rendering.header import integers, is_little, value

Array = NDArray[Any]
_ROWS, _COLUMNS, _FRAMES = 0x0010, 0x0011, 0x0015
_ORIGIN, _FRAME_ORIGIN = 0x0050, 0x0051
_BIT_POSITION, _DATA = 0x0102, 0x3000


def overlay_planes(header: Dataset) -> frozenset[int]:
    """Return the numbers (0 to 15) of the overlays that the header has."""
    return frozenset(n for n in range(16) if (0x6000 + 2 * n, _ROWS) in header)


def draw_mask(
    header: Dataset, number: int, planes: Iterable[int], size: tuple[int, int], raw: Array | None
) -> Array | None:
    """Return where the planes have something on frame ``number``: rows x columns of bool.

    ``raw``: the frame's samples with all bits, for planes that lie in them. None: nowhere.
    """
    mask = np.zeros(size, bool)
    drawn = False
    for n in sorted(planes):
        for plane, top, left in _plane(header, 0x6000 + 2 * n, number, raw):
            drawn |= _put(mask, plane, top, left)
    return mask if drawn else None


def _plane(
    header: Dataset, group: int, number: int, raw: Array | None
) -> Iterator[tuple[Array, int, int]]:
    """Yield the plane of a frame, if there is one, and where its top left pixel goes (from 0)."""
    shape = [_number(header, group, element) for element in (_ROWS, _COLUMNS)]
    if None in shape:
        return
    rows, columns = (int(side or 0) for side in shape)
    origin = integers(value(header, (group, _ORIGIN))) or [1, 1]
    top, left = origin[0] - 1, (origin[1] if len(origin) > 1 else 1) - 1
    bit = _embedded_bit(header, group)
    if bit is not None:
        if raw is not None and raw.dtype.kind in "iu" and bit < 8 * raw.dtype.itemsize:
            yield (raw >> bit & 1).astype(bool), 0, 0
        return
    index = _index(header, group, number)
    data = value(header, (group, _DATA))
    if index is None or not isinstance(data, bytes) or rows < 1 or columns < 1:
        return
    if not is_little(header) and _vr(header, group) == "OW":
        data = np.frombuffer(data[: len(data) // 2 * 2], "u2").byteswap().tobytes()
    first = index * rows * columns
    if (first + rows * columns + 7) // 8 > len(data):
        return
    cut = np.frombuffer(
        data, np.uint8, offset=first // 8, count=(first % 8 + rows * columns + 7) // 8
    )
    # The first pixel is the least significant bit; frames follow without padding.
    bits = np.unpackbits(cut, bitorder="little")[first % 8 :][: rows * columns]
    yield bits.reshape(rows, columns).astype(bool), top, left


def _index(header: Dataset, group: int, number: int) -> int | None:
    """Return which overlay frame belongs to image frame ``number``; None: none of them.

    One plane without Number of Frames in Overlay is for every frame of the image.
    """
    frames = _number(header, group, _FRAMES)
    if frames is None:
        return 0
    index = number - (_number(header, group, _FRAME_ORIGIN) or 1)
    return index if 0 <= index < frames else None


def _embedded_bit(header: Dataset, group: int) -> int | None:
    """Return the bit of Pixel Data that is the plane; None: it has data of its own."""
    if (group, _DATA) in header or (group, _ROWS) not in header:
        return None
    bit = _number(header, group, _BIT_POSITION)
    return bit if bit else None


def _put(mask: Array, plane: Array, top: int, left: int) -> bool:
    """Draw a plane at its origin, which may lie outside the frame."""
    rows, columns = mask.shape
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + plane.shape[0], rows), min(left + plane.shape[1], columns)
    if y0 >= y1 or x0 >= x1:
        return False
    mask[y0:y1, x0:x1] |= plane[y0 - top : y1 - top, x0 - left : x1 - left]
    return True


def _vr(header: Dataset, group: int) -> str:
    return str(header[group, _DATA].VR)


def _number(header: Dataset, group: int, element: int) -> int | None:
    found = integers(value(header, (group, element)))
    return found[0] if found else None
