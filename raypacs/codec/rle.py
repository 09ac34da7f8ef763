"""RLE Lossless (PS3.5 annex G): a header of 64 bytes, then PackBits segments, a byte plane each."""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
from rle.rle import decode_segment

from raypacs.codec import bits
from raypacs.codec.pixel_layout import Array, PixelLayout
from raypacs.errors import UnsupportedPixels

_HEADER_BYTES = 64
_LONGEST_RUN = 128  # what two bytes of a segment can stand for


def decode_frame(data: bytes, layout: PixelLayout, *, agreed: bool) -> Array:
    """Decode a frame to the cells of its samples, with their unused bits.

    ``agreed``: each segment is decoded twice, by imagecodecs (C) and pylibjpeg-rle (Rust).

    Raises:
        UnsupportedPixels: damaged, or the two disagree.
        struct.error, ValueError: damaged.
    """
    if layout.bits_allocated == 1:
        (plane,) = _planes(data, 1, layout.frame_bytes, agreed=agreed)
        return bits.unpacked(plane.tobytes(), rows=layout.rows, columns=layout.columns)
    kind: np.dtype[Any] = np.dtype(f"u{layout.bits_allocated // 8}")
    pixels = layout.rows * layout.columns
    count = layout.samples * kind.itemsize
    planes = _planes(data, count, pixels, agreed=agreed)
    # Bytes of a sample, the most significant first, beside each other.
    cells = np.ascontiguousarray(
        planes.reshape(layout.samples, kind.itemsize, pixels).transpose(2, 0, 1)
    )
    samples = cells.view(kind.newbyteorder(">")).astype(kind).view(layout.dtype)
    return samples.reshape(layout.shape)


def _planes(data: bytes, count: int, size: int, *, agreed: bool) -> Array:
    """Return the decoded segments, ``count`` x ``size`` bytes."""
    found, *offsets = struct.unpack_from("<16I", data)
    if found != count:
        raise UnsupportedPixels(f"RLE frame of {found} segments, {count} expected")
    ends = [*offsets[1:count], len(data)]
    starts = offsets[:count]
    if starts[0] != _HEADER_BYTES or any(a >= b for a, b in zip(starts, ends, strict=True)):
        raise UnsupportedPixels("RLE header with offsets that do not ascend")
    if any((b - a) * _LONGEST_RUN // 2 < size for a, b in zip(starts, ends, strict=True)):
        raise UnsupportedPixels(f"RLE segment too short for {size} bytes")
    planes = np.empty((count, size), np.uint8)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        packed = data[start:end]
        segment = imagecodecs.packbits_decode(packed)
        if not size <= len(segment) <= size + 1:  # one byte may pad it to even length
            raise UnsupportedPixels(f"RLE segment of {len(segment)} bytes, {size} expected")
        if agreed and bytes(decode_segment(packed)) != segment:
            raise UnsupportedPixels("two decoders disagree (RLE: imagecodecs, pylibjpeg-rle)")
        planes[number] = np.frombuffer(segment, np.uint8, size)
    return planes
