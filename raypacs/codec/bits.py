"""Frames of single bits: Bits Allocated 1, segmentations mostly (PS3.3 section C.8.20).

A frame is packed on its own, the first sample in the least significant bit (PS3.5 section 8.1.1),
and deflated. In native form frames follow each other without a gap, so that most begin inside a
byte: :func:`extent` says where.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs.errors import UnsupportedPixels

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview

_LEVEL = 6


def encode_frame(frame: Array) -> bytes:
    """Encode rows x columns of 0 and 1: packed, then zlib (RFC 1950)."""
    return zlib.compress(packed(frame), _LEVEL)


def decode_frame(data: Buffer, *, rows: int, columns: int) -> Array:
    """Undo :func:`encode_frame`; the samples are uint8.

    Raises:
        UnsupportedPixels: damaged.
    """
    decoder = zlib.decompressobj()
    try:
        raw = decoder.decompress(data, (rows * columns + 7) // 8)
    except zlib.error as exc:
        raise UnsupportedPixels(f"frame of single bits cannot be inflated: {exc}") from exc
    return unpacked(raw, rows=rows, columns=columns)


def packed(frame: Array) -> bytes:
    """Return the bits of a frame, padded with zeros to whole bytes."""
    return np.packbits(frame.reshape(-1), bitorder="little").tobytes()


def unpacked(data: Buffer, *, rows: int, columns: int, first_bit: int = 0) -> Array:
    """Return rows x columns of 0 and 1 that begin at ``first_bit`` of ``data``.

    Raises:
        UnsupportedPixels: not enough bytes.
    """
    count = rows * columns
    if 8 * len(data) < first_bit + count:
        raise UnsupportedPixels(f"{len(data)} bytes are too few for {count} samples of a bit")
    found = np.unpackbits(np.frombuffer(data, np.uint8), count=first_bit + count, bitorder="little")
    return found[first_bit:].reshape(rows, columns)


def nearest(frame: Array, halvings: int) -> Array:
    """Return the sample at the top left of each block of 2^halvings rows and columns."""
    return np.ascontiguousarray(frame[:: 1 << halvings, :: 1 << halvings])


def extent(number: int, samples: int) -> tuple[int, int, int]:
    """Return (first byte, bytes, first bit in them) of frame ``number`` (from 0) in native form.

    ``samples`` is rows x columns.
    """
    begin, end = number * samples, (number + 1) * samples
    return begin // 8, -(-end // 8) - begin // 8, begin % 8
