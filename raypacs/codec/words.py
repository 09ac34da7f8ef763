"""Bytes of native Pixel Data that was sent in big endian words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raypacs.errors import UnsupportedPixels

ReadRange = Callable[[int, int], bytes | memoryview]


def paired_bytes(read: ReadRange, offset: int, first: int, length: int) -> bytes:
    """Return bytes of big endian OW Pixel Data at ``offset``, their pairs put right.

    Samples of at most 8 bits lie in words of 16 there (PS3.5 section 8.2 and annex D), so byte
    ``first`` may lie one further on or back. ``read(offset, length)`` returns bytes of the file.

    Raises:
        UnsupportedPixels: the last word is cut off.
    """
    start, stop = first - first % 2, -(-(first + length) // 2) * 2
    words = np.frombuffer(read(offset + start, stop - start), np.uint8)
    if len(words) != stop - start:
        raise UnsupportedPixels("big endian words are cut off")
    pairs = np.ascontiguousarray(words.reshape(-1, 2)[:, ::-1]).reshape(-1)
    return pairs.tobytes()[first - start : first - start + length]
