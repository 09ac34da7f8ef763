"""HTJ2K (ISO/IEC 15444-15), reversible 5/3 wavelet, through imagecodecs (OpenJPH).

Every codestream is written in the RPCL order with a TLM marker and one tile-part a resolution
(PS3.5 section 10.18), so that the first bytes are an image at low resolution and the lengths of
all resolutions are known from the main header. The depth in the codestream is Bits Stored, as
PS3.5 section 8.2 asks, although the encoder only knows the depth of the array: samples are level
shifted by hand, encoded as signed, and the depth bytes of the SIZ marker are set afterwards.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from raypacs.dicom import HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL
from raypacs.errors import UnsupportedPixels

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview

BASE_SIDE = 64  # PS3.5 section 10.18: the base resolution is at most this wide or high
DEFAULT_LEVELS = 5
_RPCL = 2
_PRECISION = 24  # bits of the decoder's arithmetic where the wavelet is irreversible
_SIZ_DEPTH = 42  # offset of the first component's depth byte; three bytes a component
_SOC, _SIZ, _COD, _TLM, _SOT = 0xFF4F, 0xFF51, 0xFF52, 0xFF55, 0xFF90
_QCD, _QCC = 0xFF5C, 0xFF5D


@dataclass(frozen=True, slots=True)
class Codestream:
    """One encoded frame.

    ``resolution_ends[r]`` is the length in bytes of the shortest prefix of ``data`` that decodes
    at resolution ``r`` (0 is the base, ``levels`` the full size); the End of Codestream marker is
    in none of them.
    """

    data: bytearray
    resolution_ends: tuple[int, ...]
    levels: int


@dataclass(frozen=True, slots=True)
class MainHeader:
    """What the main header of a JPEG 2000 codestream says (ISO/IEC 15444-1 Annex A)."""

    rows: int
    columns: int
    depths: tuple[int, ...]
    signed: bool
    progression: int
    levels: int
    colour_transform: bool
    reversible: bool
    tile_part_lengths: tuple[int, ...]
    length: int

    @property
    def resolution_ends(self) -> tuple[int, ...]:
        """Prefix lengths by resolution; empty unless there is one tile-part a resolution."""
        if len(self.tile_part_lengths) != self.levels + 1:
            return ()
        ends = []
        end = self.length
        for size in self.tile_part_lengths:
            end += size
            ends.append(end)
        return tuple(ends)


def decomposition_levels(rows: int, columns: int) -> int:
    """Return how many times a frame of rows x columns is halved.

    Five, fewer for frames too small for that, more until the longer side of the base is at most
    64 (PS3.5 section 10.18 asks it of one side).
    """
    needed = max(0, (max(rows, columns) - 1).bit_length() - BASE_SIDE.bit_length() + 1)
    possible = min(rows, columns).bit_length() - 1
    return max(1, needed, min(DEFAULT_LEVELS, possible))  # the encoder takes 0 for its default


def low_resolution(rows: int, columns: int, levels: int) -> int:
    """Return the largest resolution (0 to ``levels``) whose longer side is at most 64 samples."""
    side = max(rows, columns)
    for resolution in range(levels, -1, -1):
        if -(-side >> (levels - resolution)) <= BASE_SIDE:
            return resolution
    return 0


def container(bits: int, *, signed: bool) -> np.dtype[Any]:
    """Return the smallest integer type that holds ``bits``.

    Raises:
        UnsupportedPixels: more than 32 bits.
    """
    for size in (1, 2, 4):
        if bits <= 8 * size:
            return np.dtype(f"{'i' if signed else 'u'}{size}")
    raise UnsupportedPixels(f"{bits} bits a sample", bits=bits)


def encode_frame(
    frame: Array,
    *,
    bits_stored: int,
    signed: bool,
    colour_transform: bool = False,
    levels: int | None = None,
) -> Codestream:
    """Encode one frame, rows x columns or rows x columns x samples, without loss.

    ``colour_transform`` applies the reversible colour transform to three samples (Photometric
    Interpretation YBR_RCT, PS3.3 section C.7.6.3.1.2). Values must fit ``bits_stored``:
    :func:`check_range` tells. ``levels`` is at least 1; None: as many as
    :func:`decomposition_levels` says.

    Raises:
        UnsupportedPixels: not an integer array of a shape and depth that HTJ2K can carry here.
    """
    samples = 1 if frame.ndim == 2 else frame.shape[2]
    if frame.dtype.kind not in "iu" or frame.ndim not in (2, 3) or samples not in (1, 3):
        raise UnsupportedPixels(f"{frame.dtype} frame of shape {frame.shape}")
    if bits_stored > 8 * frame.dtype.itemsize or frame.dtype.itemsize > 4:
        raise UnsupportedPixels(f"{bits_stored} bits in {frame.dtype}")
    rows, columns = frame.shape[:2]
    if levels is None:
        levels = decomposition_levels(rows, columns)
    shifted = _level_shifted(frame, bits_stored, signed)
    form: dict[str, Any] = {}
    if samples == 1:
        shifted = np.ascontiguousarray(shifted.reshape(rows, columns))
    elif colour_transform:
        form = {"rgb": True}
        shifted = np.ascontiguousarray(shifted)
    elif columns == 1:
        # It takes three planes of one column for one plane of three samples a row.
        form = {"planar": False, "rgb": False}
        shifted = np.ascontiguousarray(shifted)
    else:
        # Without the transform the encoder wants one plane a sample.
        form = {"planar": True, "rgb": False}
        shifted = np.ascontiguousarray(shifted.transpose(2, 0, 1))
    data = bytearray(
        imagecodecs.htj2k_encode(shifted, tlm=True, tilepart=1, resolutions=levels, **form)
    )
    _set_depth(data, samples, bits_stored, signed=signed)
    header = read_main_header(data)
    ends = header.resolution_ends or (len(data),) * (levels + 1)
    return Codestream(data, ends, levels)


def encode_plane(plane: Array) -> bytes:
    """Encode a signed plane, rows x columns [x 3 samples], as small as it gets.

    One tile-part, no TLM: for planes that are only read whole. The depth in the codestream is
    that of the array.

    Raises:
        UnsupportedPixels: not a signed integer plane of at most 32 bits.
    """
    if plane.dtype.kind != "i" or plane.dtype.itemsize > 4:
        raise UnsupportedPixels(f"{plane.dtype} plane")
    return bytes(imagecodecs.htj2k_encode(np.ascontiguousarray(plane)))


def decode_frame(data: Buffer, *, skip_resolutions: int = 0) -> Array:
    """Decode a codestream, or a prefix of one, to rows x columns [x samples].

    ``skip_resolutions`` halves both sides that many times. Below the full size the wavelet
    undershoots and overshoots; the values are clamped to the depth of the codestream. The type
    is the smallest that holds Bits Stored.

    Raises:
        UnsupportedPixels: not a codestream that OpenJPH decodes.
    """
    try:
        # Lossy codestreams overshoot at full size, too.
        if skip_resolutions or not read_main_header(data).reversible:
            return _decode_reduced(data, skip_resolutions)
        frame = imagecodecs.htj2k_decode(_contiguous(data))
    except imagecodecs.Htj2kError as exc:
        raise UnsupportedPixels(f"HTJ2K decoder: {exc}") from exc
    return _interleaved(frame, data)


def _decode_reduced(data: Buffer, skip_resolutions: int) -> Array:
    """Decode with spare bits and no level shift, then shift and clamp.

    The decoder lets values outside the depth wrap around; with the depth byte raised and the
    samples called signed it returns them as they are; samples of 32 bits as long as they are not
    further outside than half their range, which only noise between the extremes is. Where the
    wavelet is irreversible they are scaled to the depth, so that the spare bits are bits after the
    point.
    """
    header = read_main_header(data)
    bits, samples = header.depths[0], len(header.depths)
    spare = 2 if header.reversible else max(_PRECISION - bits, 2)
    wide = bytearray(data)
    _set_depth(wide, samples, min(bits + spare, 32), signed=True)
    halved = header.reversible and bits + spare > 32
    if halved:  # no room for the spare bits in what the decoder gives: the lowest one goes
        _halve_coefficients(wide)
    frame = imagecodecs.htj2k_decode(wide, skipres=skip_resolutions, resilient=True)
    values: Array = frame.astype(np.int64 if bits > 28 else np.int32)
    if halved:
        values <<= 1
    if not header.reversible:
        spare = min(bits + spare, 32) - bits
        values = values + (1 << spare >> 1) >> spare
    low, high = (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if header.signed else (0, (1 << bits) - 1)
    )
    if not header.signed:
        values = values + (1 << (bits - 1))
    np.clip(values, low, high, out=values)
    return _interleaved(values.astype(container(bits, signed=header.signed)), data)


def check_range(frame: Array, *, bits_stored: int, signed: bool) -> str:
    """Return why the values of ``frame`` do not fit ``bits_stored``, or '' if they do.

    Bits above High Bit carry data then (old overlays), or the header is wrong.
    """
    container_bits = 8 * frame.dtype.itemsize
    if bits_stored == container_bits or not frame.size:
        return ""
    if signed:
        half = 1 << (bits_stored - 1)
        fits = -half <= int(frame.min()) and int(frame.max()) < half
    else:
        used = int(np.bitwise_or.reduce(_words(frame), axis=None))
        # A word holds several samples: every one of them must have its high bits clear.
        fits = not any(
            used >> shift & ((1 << container_bits) - (1 << bits_stored))
            for shift in range(0, 64, container_bits)
        )
    return "" if fits else f"values outside {bits_stored} bits stored"


def same_samples(first: Array, second: Array) -> bool:
    """Say if two frames are equal, sample by sample, whatever their integer types."""
    alike = first.dtype == second.dtype and first.shape == second.shape
    if not alike or not (first.flags.c_contiguous and second.flags.c_contiguous):
        return bool(np.array_equal(first, second))
    return bool((_words(first) == _words(second)).all())


def _words(frame: Array) -> Array:
    """Return the samples as 64-bit words where they fill them, which is four times faster."""
    if frame.nbytes % 8 or not frame.flags.c_contiguous:
        return frame
    return frame.reshape(-1).view(np.uint64)


def transfer_syntax(data: Buffer) -> str:
    """Return the transfer syntax a lossless codestream qualifies for (PS3.5 section 10.18)."""
    header = read_main_header(data)
    base = min(-(-header.rows >> header.levels), -(-header.columns >> header.levels))
    rpcl = header.progression == _RPCL and bool(header.tile_part_lengths) and base <= BASE_SIDE
    return HTJ2K_LOSSLESS_RPCL if rpcl else HTJ2K_LOSSLESS


def read_main_header(data: Buffer) -> MainHeader:
    """Read the marker segments up to the first tile-part.

    Raises:
        UnsupportedPixels: not a JPEG 2000 codestream, or cut off before its first tile-part.
    """
    siz: tuple[int, int, tuple[int, ...], bool] | None = None
    cod = (0, 0, 0, 0)
    lengths: list[int] = []
    try:
        if struct.unpack_from(">H", data)[0] != _SOC:
            raise UnsupportedPixels("not a JPEG 2000 codestream")
        at = 2
        while (marker := struct.unpack_from(">H", data, at)[0]) != _SOT:
            size = struct.unpack_from(">H", data, at + 2)[0]
            if marker == _SIZ:
                siz = _read_siz(data, at)
            elif marker == _COD:
                progression, _, transform, levels = struct.unpack_from(">BHBB", data, at + 5)
                cod = (progression, transform, levels, data[at + 13])
            elif marker == _TLM:
                lengths += _read_tlm(data, at, size)
            at += 2 + size
    except (struct.error, IndexError) as exc:
        raise UnsupportedPixels("JPEG 2000 codestream cut off in its main header") from exc
    if siz is None:
        raise UnsupportedPixels("JPEG 2000 codestream without SIZ")
    progression, transform, levels, kernel = cod
    return MainHeader(*siz, progression, levels, transform == 1, kernel == 1, tuple(lengths), at)


def _read_siz(data: Buffer, at: int) -> tuple[int, int, tuple[int, ...], bool]:
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 6)
    components = struct.unpack_from(">H", data, at + 38)[0]
    depths = [data[at + 40 + 3 * component] for component in range(components)]
    signed = bool(depths and depths[0] & 0x80)
    return bottom - top, right - left, tuple((depth & 0x7F) + 1 for depth in depths), signed


def _read_tlm(data: Buffer, at: int, size: int) -> list[int]:
    index_bytes = data[at + 5] >> 4 & 3
    long = data[at + 5] >> 6 & 1
    entry = struct.Struct(f">{index_bytes}x{'I' if long else 'H'}")
    count = (size - 4) // entry.size
    return [entry.unpack_from(data, at + 6 + entry.size * number)[0] for number in range(count)]


def _contiguous(data: Buffer) -> bytes | bytearray:
    return data if isinstance(data, bytes | bytearray) else bytes(data)


def _level_shifted(frame: Array, bits_stored: int, signed: bool) -> Array:
    """Return the samples as the encoder has to see them for ``bits_stored``.

    Samples of up to 16 bits go in as 16, whatever the container: OpenJPEG refuses the exponents
    that OpenJPH writes for 32-bit arrays.
    """
    if bits_stored <= 16 and frame.dtype.itemsize == 4:
        frame = frame.astype(np.int16 if signed else np.uint16)
    if bits_stored == 32 and not signed:
        # The encoder would take the upper half of the range for negative: exact, but the wavelet
        # would see cliffs in it.
        return np.bitwise_xor(frame.view(np.int32), np.int32(-(1 << 31)))
    if signed or bits_stored == 8 * frame.dtype.itemsize:
        return frame
    kind = np.dtype(f"i{frame.dtype.itemsize}")
    return np.subtract(frame.view(kind), kind.type(1 << (bits_stored - 1)))


def _set_depth(data: bytearray, samples: int, bits: int, *, signed: bool) -> None:
    depth = bits - 1 | (0x80 if signed else 0)
    for component in range(samples):
        data[_SIZ_DEPTH + 3 * component] = depth


def _halve_coefficients(data: bytearray) -> None:
    """Let a decoder find half of every coefficient of a reversible codestream.

    Coefficients are coded from the top of as many bit planes as the exponents of QCD and QCC say
    (ISO/IEC 15444-1 E.1, equation E-2): with one plane less the lowest bit is behind the point.
    """
    at = 2
    while (marker := struct.unpack_from(">H", data, at)[0]) != _SOT:
        size = struct.unpack_from(">H", data, at + 2)[0]
        if marker in (_QCD, _QCC):
            first = at + (5 if marker == _QCD else 6)  # after Sqcd; one byte of component number
            for place in range(first, at + 2 + size):
                data[place] -= 1 << 3
        at += 2 + size


def _interleaved(frame: Array, data: Buffer) -> Array:
    """Return planes as rows x columns x samples; only streams without transform come as planes."""
    if frame.ndim == 3 and not read_main_header(data).colour_transform:
        return np.ascontiguousarray(frame.transpose(1, 2, 0))
    return frame
