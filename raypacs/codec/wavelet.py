"""The reversible 5/3 wavelet along one axis, and PyWavelets as its independent reference.

The step across frames (:func:`forward`, :func:`inverse`) is the integer lifting of ISO/IEC 15444-1
Annex F.3.8.2.1 applied to the first axis of an array; it makes the overview of a volume small.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pywt
from numpy.typing import NDArray

Array = NDArray[Any]


def forward(frames: Array) -> tuple[Array, Array]:
    """Split ``frames`` (first axis n, signed integers) into low (ceil n/2) and high (floor n/2).

    Low frames are smoothed even ones; high ones what the neighbours do not predict of the odd.
    """
    even, odd = frames[0::2], frames[1::2]
    if len(frames) < 2:
        return even.copy(), odd.copy()
    following = even[1 : len(odd) + 1]
    if len(following) < len(odd):  # even count: the border is mirrored
        following = np.concatenate([following, even[-1:]])
    high = odd - ((even[: len(odd)] + following) >> 1)
    low = even + ((_before(high, len(even)) + _after(high, len(even)) + 2) >> 2)
    return low, high


def inverse(low: Array, high: Array) -> Array:
    """Undo :func:`forward` exactly."""
    frames = np.empty((len(low) + len(high), *low.shape[1:]), low.dtype)
    if len(high) == 0:
        frames[:] = low
        return frames
    even = low - ((_before(high, len(low)) + _after(high, len(low)) + 2) >> 2)
    following = even[1 : len(high) + 1]
    if len(following) < len(high):
        following = np.concatenate([following, even[-1:]])
    frames[0::2] = even
    frames[1::2] = high + ((even[: len(high)] + following) >> 1)
    return frames


def _before(high: Array, count: int) -> Array:
    """The high frame before each of ``count`` even ones; the first is mirrored."""
    return np.concatenate([high[:1], high])[:count]


def _after(high: Array, count: int) -> Array:
    """The high frame after each of ``count`` even ones; the last is mirrored."""
    return np.concatenate([high, high[-1:]])[:count]


def approximation(frame: Array) -> Array:
    """Return the next lower resolution of ``frame`` (rows x columns) as PyWavelets computes it.

    Real-valued bior2.2 without the rounding of the integer wavelet: agrees with decoded HTJ2K to
    a few grey levels, and shares no code with it. Used as the independent check in tests.
    """
    rows, columns = (-(-side // 2) for side in frame.shape)
    if min(frame.shape) == 1:  # nothing to mirror: a single row or column stays as it is
        frame = np.pad(frame, [(0, int(side == 1)) for side in frame.shape], mode="edge")
    coarse: Array = pywt.dwt2(frame, "bior2.2", mode="reflect")[0] / 2
    return coarse[1 : 1 + rows, 1 : 1 + columns]
