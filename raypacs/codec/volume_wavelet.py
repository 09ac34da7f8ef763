"""The wavelet along the slices of a 3-D overview: bior2.2 by lifting, in 32-bit floating point.

The coefficients are those of PyWavelets, which is the reference in the tests (``bior2.2``, mode
``reflect``, each band trimmed to ``[1:1+n]``; high bands have the other sign). Own code because
this runs while a series is being published: along the first axis it is seven times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_LEVELS = 3
_BLOCK = 4096  # columns at a time: what is worked on stays in the cache
_ROOT = math.sqrt(2)


def levels_of(count: int) -> int:
    """Return how many steps ``count`` slices get: while four or more are left, at most three."""
    levels = 0
    while levels < MOST_LEVELS and -(-count >> levels) >= 4:
        levels += 1
    return levels


def band_lengths(count: int, levels: int) -> tuple[int, ...]:
    """Return the number of planes of each band: low, then high bands from coarse to fine."""
    highs: list[int] = []
    for _ in range(levels):
        highs.insert(0, count // 2)
        count -= count // 2
    return (count, *highs)


def blocks(width: int) -> Iterator[slice]:
    """Yield the columns that are worked on together."""
    for start in range(0, width, _BLOCK):
        yield slice(start, min(start + _BLOCK, width))


def analyse(values: Array, levels: int) -> list[Array]:
    """Return the bands of ``values`` (slices x columns): low, then high, coarse to fine.

    The transform is orthonormal to within some per cent, so that one quantiser fits all bands.
    """
    highs: list[Array] = []
    low, gain = values, 1.0
    for _ in range(levels):
        low, high = forward(low)
        high *= np.float32(gain / _ROOT)
        gain *= _ROOT
        highs.insert(0, high)
    return [low * np.float32(gain), *highs]


def synthesise(bands: Sequence[Array]) -> Array:
    """Undo :func:`analyse` to within rounding; the bands may be changed."""
    levels = len(bands) - 1
    gain = _ROOT**levels
    low = bands[0]
    low *= np.float32(1 / gain)
    for high in bands[1:]:
        gain /= _ROOT
        high *= np.float32(_ROOT / gain)
        low = inverse(low, high)
    return low


def forward(values: Array) -> tuple[Array, Array]:
    """Split ``values`` (first axis n >= 2) into low (ceil n/2) and high (floor n/2), gain 1.

    A high slice is what its neighbours do not predict, a low one every other slice, smoothed; at
    the ends the nearest neighbour stands for the one that is not there.
    """
    even, odd = values[0::2], values[1::2]
    high = np.empty_like(odd)
    inner = min(len(odd), len(even) - 1)
    np.add(even[:inner], even[1 : inner + 1], out=high[:inner])
    np.add(even[inner : len(odd)], even[inner : len(odd)], out=high[inner:])
    high *= np.float32(-0.5)
    high += odd
    low = _smoothing(high, len(even))
    low += even
    return low, high


def inverse(low: Array, high: Array) -> Array:
    """Undo :func:`forward` to within rounding."""
    values = np.empty((len(low) + len(high), *low.shape[1:]), low.dtype)
    even, odd = values[0::2], values[1::2]
    np.subtract(low, _smoothing(high, len(low)), out=even)
    inner = min(len(odd), len(even) - 1)
    np.add(even[:inner], even[1 : inner + 1], out=odd[:inner])
    np.add(even[inner : len(odd)], even[inner : len(odd)], out=odd[inner:])
    odd *= np.float32(0.5)
    odd += high
    return values


def _smoothing(high: Array, count: int) -> Array:
    """Return a quarter of the high slices before and after each of ``count`` even ones."""
    sums = np.empty((count, *high.shape[1:]), high.dtype)
    np.add(high[0], high[0], out=sums[0])
    inner = min(count, len(high)) - 1
    np.add(high[:inner], high[1 : inner + 1], out=sums[1 : inner + 1])
    if inner + 1 < count:  # an odd number of slices
        np.add(high[-1], high[-1], out=sums[-1])
    sums *= np.float32(0.25)
    return sums
