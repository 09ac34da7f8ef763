"""Frames with the irreversible 9/7 wavelet of HTJ2K: as small, or as close, as a rule asks.

One number decides how much is lost: the base step of the quantiser, as a share of the range of Bits
Stored. It is searched for each frame, in steps of an eighth of an octave. The depth in the
codestream is Bits Stored (PS3.5 section 8.2): quantiser steps are shares of the depth (ISO/IEC
15444-1 annex E), so samples are shifted up to the depth of their array, and the depth bytes of SIZ
set afterwards.

Errors are measured on what a decoder gives: whole numbers, clamped to Bits Stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np

from raypacs.codec import htj2k
from raypacs.codec.htj2k import Array
from raypacs.errors import UnsupportedPixels

MOST_BITS = 16
"""Deeper samples have more bits than the encoder's arithmetic holds beyond doubt."""

_SIZ_DEPTH = 42  # offset of the first component's depth byte; three bytes a component
_OCTAVE = 8
_COARSEST = 2 * _OCTAVE  # a quarter of the range: less is not an image any more
_FINEST = 126  # the encoder takes steps of about 1e-5 and below for its default


@dataclass(frozen=True, slots=True)
class Loss:
    """What was lost: over ``samples`` samples whose values span ``value_range``."""

    samples: int
    value_range: int
    max_error: int
    squared_error: float

    @property
    def psnr_db(self) -> float:
        """Peak signal to noise ratio in dB; the peak is the range of the values, not of the type.

        Infinity where nothing was lost.
        """
        if not self.squared_error:
            return math.inf
        mean = self.squared_error / self.samples
        return 10 * math.log10(max(1, self.value_range) ** 2 / mean)


@dataclass(frozen=True, slots=True)
class LossyFrame:
    """One encoded frame; ``step`` is the quantiser's base step as a share of Bits Stored."""

    data: bytes
    step: float
    loss: Loss


def encode(
    frame: Array,
    *,
    ratio: float = 0,
    psnr_db: float = 0,
    bits_stored: int,
    signed: bool,
    colour_transform: bool = False,
) -> LossyFrame:
    """Encode a frame, rows x columns [x 3 samples].

    ``ratio`` is bytes of the frame in its array to bytes of the codestream, at least that, with as
    little loss as it allows; ``psnr_db`` (:class:`Loss`) is reached at least. Without a ratio the
    frame gets as small as the PSNR allows. ``colour_transform`` applies the irreversible colour
    transform to RGB (Photometric Interpretation YBR_ICT, PS3.3 section C.7.6.3.1.2).

    Raises:
        UnsupportedPixels: not samples that can be coded so; what is asked cannot be had; or nothing
            would be gained.
    """
    form = (bits_stored, signed, colour_transform)
    found = _by_ratio(frame, ratio, *form) if ratio else _by_psnr(frame, psnr_db, *form)
    if found.loss.psnr_db < psnr_db:
        raise UnsupportedPixels(
            f"a ratio of {ratio:g} leaves a PSNR of less than {psnr_db:g} dB in a frame"
        )
    if len(found.data) >= frame.nbytes:
        raise UnsupportedPixels("a frame is not smaller with loss than uncompressed")
    return found


def _by_ratio(
    frame: Array, ratio: float, bits_stored: int, signed: bool, colour_transform: bool
) -> LossyFrame:
    """Encode with as little loss as ``ratio`` allows."""
    encoded = _encoder(frame, bits_stored, signed, colour_transform)
    most = frame.nbytes / ratio

    def small_enough(number: int) -> bool:
        return len(encoded(number)) <= most

    if not small_enough(_COARSEST):
        raise UnsupportedPixels(f"a ratio of {ratio:g} cannot be reached with a frame")
    number = _last(small_enough, _COARSEST, _finest(bits_stored))
    data = encoded(number)
    return LossyFrame(data, _step(number), measure(frame, htj2k.decode_frame(data)))


def _by_psnr(
    frame: Array, psnr_db: float, bits_stored: int, signed: bool, colour_transform: bool
) -> LossyFrame:
    """Encode as small as a PSNR of at least ``psnr_db`` allows."""
    encoded = _encoder(frame, bits_stored, signed, colour_transform)

    def too_far(number: int) -> bool:
        return measure(frame, htj2k.decode_frame(encoded(number))).psnr_db < psnr_db

    finest = _finest(bits_stored)
    number = _last(too_far, _COARSEST - 1, finest) + 1
    if number > finest:
        raise UnsupportedPixels(f"a PSNR of {psnr_db:g} dB cannot be reached with a frame")
    data = encoded(number)
    return LossyFrame(data, _step(number), measure(frame, htj2k.decode_frame(data)))


def measure(frame: Array, decoded: Array) -> Loss:
    """Return how far ``decoded`` is from ``frame``."""
    error = np.abs(frame.astype(np.int64) - decoded.reshape(frame.shape))
    span = int(frame.max()) - int(frame.min())
    return Loss(frame.size, span, int(error.max()), float(np.square(error.astype(float)).sum()))


def _last(holds: Callable[[int], bool], first: int, end: int) -> int:
    """Return the last number in [first, end] for which ``holds``, taken to hold at ``first``."""
    while first < end:
        middle = (first + end + 1) // 2
        if holds(middle):
            first = middle
        else:
            end = middle - 1
    return first


def _step(number: int) -> float:
    return float(2.0 ** (-number / _OCTAVE))


def _finest(bits_stored: int) -> int:
    """Return the number of a step of an eighth of a grey level, which hardly loses anything."""
    return min(_FINEST, (bits_stored + 3) * _OCTAVE)


def _encoder(
    frame: Array, bits_stored: int, signed: bool, colour_transform: bool
) -> Callable[[int], bytes]:
    """Return what encodes the frame by the number of a step."""
    samples = 1 if frame.ndim == 2 else frame.shape[-1]
    if frame.dtype.kind not in "iu" or frame.ndim not in (2, 3) or samples not in (1, 3):
        raise UnsupportedPixels(f"{frame.dtype} frame of shape {frame.shape}")
    if bits_stored > min(MOST_BITS, 8 * frame.dtype.itemsize):
        raise UnsupportedPixels(f"{bits_stored} bits a sample are too deep for lossy compression")
    reason = htj2k.check_range(frame, bits_stored=bits_stored, signed=signed)
    if reason:
        raise UnsupportedPixels(reason)
    kind = htj2k.container(bits_stored, signed=signed)
    shifted = np.left_shift(frame.astype(kind), 8 * kind.itemsize - bits_stored)
    form: dict[str, Any] = {}
    if samples == 1:
        shifted = shifted.reshape(frame.shape[:2])
    elif colour_transform:
        form = {"rgb": True}
    else:  # without the transform the encoder wants one plane a sample
        form = {"planar": True, "rgb": False}
        shifted = shifted.transpose(2, 0, 1)
    shifted = np.ascontiguousarray(shifted)
    levels = htj2k.decomposition_levels(*frame.shape[:2])

    def encode(number: int) -> bytes:
        data = bytearray(
            imagecodecs.htj2k_encode(
                shifted,
                level=_step(number),
                reversible=False,
                tlm=True,
                tilepart=1,
                resolutions=levels,
                **form,
            )
        )
        for component in range(samples):
            data[_SIZ_DEPTH + 3 * component] = bits_stored - 1 | (0x80 if signed else 0)
        return bytes(data)

    return encode
