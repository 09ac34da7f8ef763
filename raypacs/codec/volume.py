"""The 3-D overview of a volume: low-resolution slices, transformed, quantised, coded: pure.

    halve sides (HTJ2K, :mod:`raypacs.codec.htj2k`) -> stack -> wavelet along slices (bior2.2)
      -> 9/7 wavelet in planes, quantised, coded: one irreversible HTJ2K codestream, a component
         for each plane

Lossy, of a size that is asked for; what the loss is, against the slices that went in, is measured
and kept in the header. The format is specified in ``docs/overview3d-format.md``.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
import zlib
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from raypacs.codec import volume_wavelet as along
from raypacs.codec.volume_rate import decode_planes, fit_step
from raypacs.errors import PackCorrupt, UnsupportedPixels

Array = NDArray[Any]

MAGIC = b"RPV3"
VERSION = 1
MEDIA_TYPE = "application/vnd.raypacs.overview3d"
RAW_SHARE = 0.005
"""What a volume may take of the raw bytes of its frames."""
LEAST_BYTES = 16 * 1024
"""Where that share is less than this, this is what it may take."""
MOST_SIDE = 128
MOST_VOXELS = 8 * 1024 * 1024
FEWEST_SLICES = 16
THREADS = 2
"""A pack waits for its overview: what does not hold the interpreter is done by two."""

_HEAD = struct.Struct("<4sHHII")  # magic, version, 0, length of the header, length of the code
_WAVELET = "bior2.2"
_LONGEST_VOXEL = 1.25
_LARGEST = 9000  # of half the range, times the gain: at worst 30,375 of 16 bits
_MOST_RESOLUTIONS = 3
_HEADER_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Reduction:
    """How often rows and columns, and how often slices, are halved."""

    halvings: int
    slice_halvings: int


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """What is known of a volume besides its voxels.

    ``affine`` maps (column, row, slice, 1) of the volume to patient mm (LPS). ``frames`` source
    frames of ``instances`` instances are in it, ``left_out`` of the series are not. ``slope`` and
    ``intercept`` lead from samples to modality units (``units``), ``window`` is (center, width)
    in modality units. ``raw_bytes`` are those of the source frames, decoded.
    """

    affine: tuple[tuple[float, ...], ...]
    frames: int
    instances: int
    left_out: int
    repeats: int
    source_rows: int
    source_columns: int
    halvings: int
    slice_halvings: int
    raw_bytes: int
    tilt_degrees: float
    modality: str
    units: str
    photometric: str
    frame_of_reference_uid: str
    slope: float
    intercept: float
    integers: bool
    window: tuple[float, float]


@dataclass(frozen=True, slots=True)
class VolumeLoss:
    """Differences to the slices that went in, in modality units; ``peak`` is their range."""

    largest: float
    rms: float
    peak: float
    psnr_db: float


@dataclass(frozen=True, slots=True)
class VolumeCoding:
    """How the code becomes samples: see ``docs/overview3d-format.md``."""

    wavelet: str
    bands: tuple[int, ...]
    codes: tuple[int, ...]
    offset: float
    scale: float
    step: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """The header of a volume; ``shape`` is slices, rows, columns."""

    shape: tuple[int, int, int]
    facts: VolumeFacts
    coding: VolumeCoding
    loss: VolumeLoss


@dataclass(frozen=True, slots=True)
class Volume:
    """A decoded volume: ``voxels`` is slices x rows x columns in modality units.

    int16 where all values are such integers, else float32.
    """

    header: VolumeHeader
    voxels: Array


def plan_reduction(
    shape: tuple[int, int, int], levels: int, pixel_mm: float, slice_mm: float
) -> Reduction:
    """Return how a stack of ``shape`` (slices, rows, columns) is made small.

    Sides are halved, at most ``levels`` times, until the longer is at most 128; then slices, as
    long as voxels do not get longer than 1.25 times their width by it (16 slices are kept): bytes
    and time are not spent on one direction that shows more than the others. Then, while there are
    more than 8 Mi voxels, whatever is finer.
    """
    slices, slice_halvings = shape[0], 0
    halvings = plane_halvings(max(shape[1:]), levels)
    while (
        slice_mm * (2 << slice_halvings) <= _LONGEST_VOXEL * pixel_mm * (1 << halvings)
        and _halved(slices, slice_halvings + 1) >= FEWEST_SLICES
    ):
        slice_halvings += 1

    def voxels() -> int:
        rows, columns = (_halved(size, halvings) for size in shape[1:])
        return rows * columns * _halved(slices, slice_halvings)

    while voxels() > MOST_VOXELS:
        finer = slice_mm * (1 << slice_halvings) <= pixel_mm * (1 << halvings)
        if finer or halvings == levels:
            slice_halvings += 1
        else:
            halvings += 1
    return Reduction(halvings, slice_halvings)


def plane_halvings(side: int, levels: int) -> int:
    """Return how often the sides of a slice are halved, the longer being ``side``, in most volumes.

    At most ``levels`` times.
    """
    halvings = 0
    while halvings < levels and _halved(side, halvings) > MOST_SIDE:
        halvings += 1
    return halvings


def _halved(size: int, times: int) -> int:
    return -(-size >> times)


def halve_slices(frames: Array, times: int) -> Array:
    """Return ``frames`` (slices x rows x columns) with every other slice, low-passed, as float32.

    The filter is that of the 5/3 wavelet, as in the planes: slice i of the result lies where
    slice 2i lay.
    """
    values = frames
    for _ in range(times if len(frames) > 1 else 0):
        flat = values.reshape(len(values), -1)
        halved = np.empty(((len(values) + 1) // 2, flat.shape[1]), np.float32)

        def halve(block: slice, flat: Array = flat, halved: Array = halved) -> None:
            halved[:, block] = along.forward(flat[:, block].astype(np.float32))[0]

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(halve, along.blocks(flat.shape[1])))
        values = halved.reshape(len(halved), *frames.shape[1:])
    return values


def halve_sides(frames: Array) -> Array:
    """Return ``frames`` with every other row and column, low-passed by the same filter."""
    for axis in (1, 2):
        frames = np.moveaxis(halve_slices(np.moveaxis(frames, axis, 0), 1), 0, axis)
    return np.ascontiguousarray(frames)


def budget_of(facts: VolumeFacts) -> int:
    """Return what a volume may take: half a per cent of the raw bytes, at least 16 KiB."""
    return max(LEAST_BYTES, int(facts.raw_bytes * RAW_SHARE))


def encode_volume(samples: Array, facts: VolumeFacts, *, budget_bytes: int = 0) -> bytes:
    """Code ``samples`` (slices x rows x columns, any real type) in about ``budget_bytes``.

    0: :func:`budget_of`. Where even the coarsest quantiser needs more, it takes more.

    Raises:
        UnsupportedPixels: not such an array, or values that are not finite.
    """
    if samples.ndim != 3 or min(samples.shape) < 1 or samples.dtype.kind not in "iuf":
        raise UnsupportedPixels(f"{samples.dtype} of shape {samples.shape} is no grey volume")
    budget_bytes = budget_bytes or budget_of(facts)
    low, high = float(samples.min()), float(samples.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UnsupportedPixels("values of the volume are not finite")
    shape = (samples.shape[0], samples.shape[1], samples.shape[2])
    with ThreadPoolExecutor(THREADS) as pool:
        planes, coding = _transformed(samples, low, high, pool)
        step, codes = fit_step(planes, _resolutions(planes), budget_bytes - _HEADER_BYTES, pool)
        coding = replace(coding, step=step, codes=tuple(map(len, codes)))
        loss = _loss(samples, decode_planes(codes, shape, pool), coding, facts, pool)
    return _packed(VolumeHeader(shape, facts, coding, loss), b"".join(codes))


def read_header(data: bytes) -> VolumeHeader:
    """Return the header of a coded volume. Raises as :func:`decode_volume`."""
    return _unpacked(data)[0]


def decode_volume(data: bytes) -> Volume:
    """Decode what :func:`encode_volume` made.

    Raises:
        PackCorrupt: not a volume, of a later version, or damaged.
    """
    header, code = _unpacked(data)
    coding, facts = header.coding, header.facts
    ends = list(itertools.accumulate(coding.codes))
    codes = [code[end - size : end] for end, size in zip(ends, coding.codes, strict=True)]
    if sum(coding.bands) != header.shape[0] or not ends or ends[-1] != len(code):
        raise PackCorrupt("3-D overview contradicts its header")
    samples = np.empty((header.shape[0], header.shape[1] * header.shape[2]), np.float32)
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            planes = decode_planes(codes, header.shape, pool).reshape(samples.shape)
        except (imagecodecs.Htj2kError, ValueError) as exc:
            raise PackCorrupt(f"3-D overview cannot be decoded: {exc}") from exc

        def fill(block: slice) -> None:
            samples[:, block] = _samples(planes[:, block], coding, integers=facts.integers)

        list(pool.map(fill, along.blocks(samples.shape[1])))
    return Volume(header, _modality(samples.reshape(header.shape), header))


def modality_voxels_are_integers(header: VolumeHeader) -> bool:
    """Whether all modality values of a volume are integers that int16 holds."""
    facts = header.facts
    ends = [facts.slope * end + facts.intercept for end in (header.coding.low, header.coding.high)]
    whole = facts.integers and facts.slope.is_integer() and facts.intercept.is_integer()
    return whole and min(ends) >= -32768 and max(ends) <= 32767


def _modality(samples: Array, header: VolumeHeader) -> Array:
    facts = header.facts
    if (facts.slope, facts.intercept) != (1.0, 0.0):
        samples *= np.float32(facts.slope)
        samples += np.float32(facts.intercept)
    return samples.astype(np.int16) if modality_voxels_are_integers(header) else samples


# ---- transform --------------------------------------------------------------------------------
def _transformed(
    samples: Array, low: float, high: float, pool: Executor
) -> tuple[Array, VolumeCoding]:
    """Return 16-bit planes of wavelet coefficients, band after band, and how they were made."""
    slices, rows, columns = samples.shape
    levels = along.levels_of(slices)
    bands = along.band_lengths(slices, levels)
    offset = (low + high) / 2
    # The low band grows by 1.4 a level, and by 1.5 where slices alternate between the extremes.
    scale = _LARGEST / (max(high - offset, 1e-30) * math.sqrt(2) ** levels)
    planes = np.empty((slices, rows * columns), np.int16)
    flat = samples.reshape(slices, -1)

    def transform(block: slice) -> None:
        values = flat[:, block].astype(np.float32)
        values -= np.float32(offset)
        values *= np.float32(scale)
        at = 0
        for band in along.analyse(values, levels):
            np.rint(band, out=band)
            planes[at : at + len(band), block] = band
            at += len(band)

    list(pool.map(transform, along.blocks(rows * columns)))
    coding = VolumeCoding(_WAVELET, bands, (), offset, scale, 0.0, low, high)
    return planes.reshape(samples.shape), coding


def _resolutions(planes: Array) -> int:
    shorter = min(planes.shape[1:])
    return max(1, min(_MOST_RESOLUTIONS, shorter.bit_length() - 1))


def _samples(planes: Array, coding: VolumeCoding, *, integers: bool) -> Array:
    """Return the float32 samples of some columns, slices x columns, from their planes."""
    ends = itertools.accumulate(coding.bands)
    bands = [
        planes[end - count : end].astype(np.float32)
        for end, count in zip(ends, coding.bands, strict=True)
    ]
    samples = along.synthesise(bands)
    samples *= np.float32(1 / coding.scale)
    samples += np.float32(coding.offset)
    if integers:
        np.rint(samples, out=samples)
    np.clip(samples, np.float32(coding.low), np.float32(coding.high), out=samples)
    return samples


def _loss(
    samples: Array, planes: Array, coding: VolumeCoding, facts: VolumeFacts, pool: Executor
) -> VolumeLoss:
    flat = samples.reshape(len(samples), -1)
    decoded = planes.reshape(flat.shape)

    def compare(block: slice) -> tuple[float, float]:
        difference = _samples(decoded[:, block], coding, integers=facts.integers)
        np.subtract(difference, flat[:, block], out=difference, casting="unsafe")
        largest = max(float(difference.max()), -float(difference.min()))
        return largest, float(np.square(difference, out=difference).sum(dtype=np.float64))

    found = list(pool.map(compare, along.blocks(flat.shape[1])))
    largest, square = max(one for one, _ in found), sum(one for _, one in found)
    slope = abs(facts.slope)
    rms = math.sqrt(square / samples.size) * slope
    peak = (coding.high - coding.low) * slope
    # Infinity is no JSON; nothing above 200 dB means anything.
    psnr = min(200.0, 20 * math.log10(peak / rms)) if rms and peak else 200.0
    return VolumeLoss(largest * slope, rms, peak, psnr)


# ---- bytes ------------------------------------------------------------------------------------
def _packed(header: VolumeHeader, code: bytes) -> bytes:
    text = zlib.compress(json.dumps(asdict(header), separators=(",", ":")).encode(), 9)
    data = b"".join([_HEAD.pack(MAGIC, VERSION, 0, len(text), len(code)), text, code])
    return data + struct.pack("<I", zlib.crc32(data))


def _unpacked(data: bytes) -> tuple[VolumeHeader, bytes]:
    if len(data) < _HEAD.size + 4 or data[:4] != MAGIC:
        raise PackCorrupt("not a 3-D overview")
    _, version, _, text_length, code_length = _HEAD.unpack_from(data)
    if version != VERSION:
        raise PackCorrupt(f"3-D overview has format version {version}, this reader knows {VERSION}")
    start = _HEAD.size + text_length
    whole = len(data) == start + code_length + 4
    if not whole or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise PackCorrupt("3-D overview is damaged")
    try:
        return _header(json.loads(zlib.decompress(data[_HEAD.size : start]))), data[start:-4]
    except (zlib.error, ValueError, KeyError, TypeError) as exc:
        raise PackCorrupt(f"header of the 3-D overview cannot be read: {exc}") from exc


def _header(text: dict[str, Any]) -> VolumeHeader:
    def of(kind: type[Any], values: dict[str, Any]) -> Any:
        known = {name: values[name] for name in kind.__dataclass_fields__}
        return kind(**{name: _tuples(value) for name, value in known.items()})

    slices, rows, columns = text["shape"]
    return VolumeHeader(
        (slices, rows, columns),
        of(VolumeFacts, text["facts"]),
        of(VolumeCoding, text["coding"]),
        of(VolumeLoss, text["loss"]),
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
