"""Floating-point frames, every bit of them: Float and Double Float Pixel Data (PS3.3 C.7.6.24).

No transfer syntax codes them, so the code is raypacs' own (``docs/pack-format.md``, form
``wavelet``): an approximation by PyWavelets that is read alone for a low resolution, and the frame
itself, coded in integers. A real-valued inverse wavelet is not the same to the last bit on every
machine; integers are, so that NaN payloads, signed zeros and subnormals come back as they were.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs.codec import htj2k
from raypacs.codec.wavelet import approximation
from raypacs.errors import UnsupportedPixels

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview

_DEFLATED, _TABLE, _RESIDUAL = 0, 1, 2
_HEAD = struct.Struct("<BBxxIIdd")  # kind, depth, CRC-32, length of the codestream, step, offset
_LOW_HEAD = struct.Struct("<ddd")  # step, offset, error
_LOW_BITS = 12
_GRID_BITS = 16
_LARGEST, _SMALLEST_RANGE = 1e300, 1e-280
_MOST_DISTINCT = 1 << 20
_LEVEL = 6


@dataclass(frozen=True, slots=True)
class LowView:
    """A frame at low resolution; no sample is further than ``error`` from PyWavelets' bior2.2."""

    pixels: Array
    error: float


def encode_frame(frame: Array) -> bytes:
    """Encode rows x columns of float32 or float64; every bit comes back.

    Three ways are tried and the shortest is taken: deflated as they are, ranks among the distinct
    values (maps computed from integers have few), and steps of a grid with the residual.

    Raises:
        UnsupportedPixels: not such a frame.
    """
    if frame.ndim != 2 or frame.dtype not in (np.float32, np.float64):
        raise UnsupportedPixels(f"{frame.dtype} frame of shape {frame.shape}")
    bits = np.ascontiguousarray(frame).view(f"u{frame.dtype.itemsize}")
    raw = bits.astype(bits.dtype.newbyteorder("<"), copy=False).tobytes()
    crc = zlib.crc32(raw)
    packed = zlib.compress(raw, _LEVEL)
    codes = [_HEAD.pack(_DEFLATED, 0, crc, 0, 0.0, 0.0) + packed]
    ordered = _ordered(bits)
    values, ranks = np.unique(ordered, return_inverse=True)
    if len(values) <= min(_MOST_DISTINCT, ordered.size // 2 + 1):
        codes.append(_by_table(values, ranks.reshape(frame.shape), crc))
    if len(values) > ordered.size // 8:
        codes.append(_by_grid(frame, ordered, crc))
    return min(codes, key=len)


def decode_frame(data: Buffer, *, rows: int, columns: int, bits: int) -> Array:
    """Undo :func:`encode_frame`; ``bits`` is 32 or 64.

    Raises:
        UnsupportedPixels: damaged, or not what this machine's arithmetic makes of it.
    """
    unsigned = np.dtype(f"u{bits // 8}")
    try:
        kind, depth, crc, length, step, offset = _HEAD.unpack_from(data)
        body = bytes(data[_HEAD.size :])
        if kind == _DEFLATED:
            found = np.frombuffer(zlib.decompress(body), unsigned.newbyteorder("<"))
            pattern = found.astype(unsigned).reshape(rows, columns)
        else:
            steps = htj2k.decode_frame(body[:length])
            rest = _joined_planes(zlib.decompress(body[length:]), unsigned)
            if kind == _TABLE:
                ordered = np.cumsum(rest, dtype=unsigned)[steps]
            else:
                predicted = _ordered(_on_grid(steps, step, offset, bits))
                ordered = predicted + _unfolded(rest).reshape(steps.shape)
            pattern = _unordered(ordered)
    except (struct.error, zlib.error, ValueError, IndexError) as exc:
        raise UnsupportedPixels(f"floating-point frame cannot be decoded: {exc}") from exc
    raw = pattern.astype(unsigned.newbyteorder("<"), copy=False)
    if pattern.shape != (rows, columns) or zlib.crc32(raw.tobytes()) != crc:
        raise UnsupportedPixels("floating-point frame differs from its CRC-32", depth=depth)
    return pattern.view(f"f{bits // 8}")


def encode_low(frame: Array, halvings: int) -> bytes:
    """Encode the frame at 1 / 2^``halvings`` of its size, as PyWavelets approximates it.

    What is not finite counts as the smallest finite value. The largest deviation is kept with it.
    """
    wanted = reduced(frame, halvings)
    steps, step, offset = _quantised(wanted, _LOW_BITS)
    error = float(np.abs(steps * step + offset - wanted).max())
    return _LOW_HEAD.pack(step, offset, error) + htj2k.encode_plane(steps.astype(np.int16))


def decode_low(data: Buffer) -> LowView:
    """Undo :func:`encode_low`; the samples are float64.

    Raises:
        UnsupportedPixels: damaged.
    """
    try:
        step, offset, error = _LOW_HEAD.unpack_from(data)
    except struct.error as exc:
        raise UnsupportedPixels("low part of a floating-point frame is cut off") from exc
    steps = htj2k.decode_frame(bytes(data[_LOW_HEAD.size :]))
    return LowView(steps * step + offset, error)


def reduced(frame: Array, halvings: int) -> Array:
    """Return the float64 approximation of a frame, rows and columns halved ``halvings`` times."""
    small = _finite(frame)
    for _ in range(halvings):
        small = approximation(small)
    return small


def same_bits(first: Array, second: Array) -> bool:
    """Say if two frames are equal bit by bit: NaN equals itself, -0.0 is not 0.0."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    kind = f"u{first.dtype.itemsize}"
    pattern = np.ascontiguousarray(first).view(kind)
    return bool(np.array_equal(pattern, np.ascontiguousarray(second).view(kind)))


def _by_table(values: Array, ranks: Array, crc: int) -> bytes:
    depth = max(1, (len(values) - 1).bit_length())
    kind = np.uint16 if depth <= 16 else np.uint32
    stream = htj2k.encode_frame(ranks.astype(kind), bits_stored=depth, signed=False).data
    gaps = np.diff(values, prepend=values.dtype.type(0))  # the first one is the value itself
    head = _HEAD.pack(_TABLE, depth, crc, len(stream), 0.0, 0.0)
    return head + stream + zlib.compress(_planes(gaps), _LEVEL)


def _by_grid(frame: Array, ordered: Array, crc: int) -> bytes:
    steps, step, offset = _quantised(_finite(frame), _GRID_BITS)
    stream = htj2k.encode_frame(steps.astype(np.uint16), bits_stored=_GRID_BITS, signed=False).data
    predicted = _ordered(_on_grid(steps, step, offset, 8 * frame.dtype.itemsize))
    head = _HEAD.pack(_RESIDUAL, _GRID_BITS, crc, len(stream), step, offset)
    return head + stream + zlib.compress(_planes(_folded(ordered - predicted)), _LEVEL)


def _finite(frame: Array) -> Array:
    """Return float64 samples that can be computed with."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values: Array = frame.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        least = values[finite].min() if finite.any() else 0.0
        values[~finite] = least
    return values.clip(-_LARGEST, _LARGEST)


def _quantised(values: Array, bits: int) -> tuple[Array, float, float]:
    """Return (steps from 0 below 2^bits, step, offset): ``steps * step + offset`` is near."""
    offset, top = float(values.min()), float(values.max())
    most = (1 << bits) - 1
    step = (top - offset) / most if top - offset > _SMALLEST_RANGE else 1.0
    steps = np.rint((values - offset) / step).clip(0, most)
    return steps.astype(np.int64), step, offset


def _on_grid(steps: Array, step: float, offset: float, bits: int) -> Array:
    """Return the bits of the nearest number of ``bits`` bits: IEEE 754 rounds alike everywhere."""
    scaled = steps.astype(np.float64) * step
    with np.errstate(over="ignore"):
        return (scaled + offset).astype(f"f{bits // 8}").view(f"u{bits // 8}")


def _ordered(pattern: Array) -> Array:
    """Map the bits of floating-point numbers to unsigned integers of the same order."""
    top = pattern.dtype.type(1 << (8 * pattern.dtype.itemsize - 1))
    return np.where(pattern & top, ~pattern, pattern | top)


def _unordered(ordered: Array) -> Array:
    top = ordered.dtype.type(1 << (8 * ordered.dtype.itemsize - 1))
    return np.where(ordered & top, ordered ^ top, ~ordered)


def _folded(difference: Array) -> Array:
    """Map 0, -1, 1, -2 ... (modulo the word) to 0, 1, 2, 3 ...: small ones have zeros on top."""
    size = difference.dtype.itemsize
    signed = difference.view(f"i{size}")
    kind = signed.dtype.type
    return ((signed << kind(1)) ^ (signed >> kind(8 * size - 1))).view(difference.dtype)


def _unfolded(folded: Array) -> Array:
    kind = folded.dtype.type
    return (folded >> kind(1)) ^ (kind(0) - (folded & kind(1)))


def _planes(words: Array) -> bytes:
    """Return all lowest bytes, then all second bytes, and so on."""
    size = words.dtype.itemsize
    little = words.reshape(-1).astype(words.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little.view(np.uint8).reshape(-1, size).T).tobytes()


def _joined_planes(data: bytes, kind: np.dtype[Any]) -> Array:
    planes = np.frombuffer(data, np.uint8).reshape(kind.itemsize, -1)
    words = np.ascontiguousarray(planes.T).view(kind.newbyteorder("<"))
    return words.reshape(-1).astype(kind)
