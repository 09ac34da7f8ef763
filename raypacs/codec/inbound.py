"""Losslessly encapsulated frames of a received instance as arrays.

A decoder is never trusted alone where a second one is at hand: both have to agree, sample by
sample. What cannot be decoded beyond doubt raises UnsupportedPixels with the reason, and the
instance is copied as received.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import imagecodecs
import numpy as np

from raypacs import dicom
from raypacs.codec import htj2k
from raypacs.codec.pixel_layout import Array, PixelLayout, native_frame
from raypacs.errors import UnsupportedPixels

DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
# What a damaged codestream makes the decoders raise.
_DECODER_ERRORS = (
    imagecodecs.Htj2kError,
    imagecodecs.Jpeg2kError,
    imagecodecs.JpeglsError,
    imagecodecs.Jpegsof3Error,
    imagecodecs.LjpegError,
    imagecodecs.DicomrleError,
    imagecodecs.PackbitsError,
    zlib.error,
    struct.error,
    ValueError,
    IndexError,
)


def encapsulated_frame(data: bytes, layout: PixelLayout) -> Array:
    """Decode one encapsulated frame, with a second decoder where there is one.

    Raises:
        UnsupportedPixels: unknown transfer syntax, damaged, lossy, not what the header says, or
            two decoders disagree.
    """
    decoder = _DECODERS.get(layout.transfer_syntax_uid)
    if decoder is None:
        raise UnsupportedPixels(
            f"transfer syntax {layout.transfer_syntax_uid} is not decoded by this version",
            transfer_syntax_uid=layout.transfer_syntax_uid,
        )
    try:
        frame = decoder(data, layout)
    except _DECODER_ERRORS as exc:
        if isinstance(exc, UnsupportedPixels):
            raise
        raise UnsupportedPixels(f"frame cannot be decoded: {exc}") from exc
    return _as_stored(frame, layout)


def _as_stored(frame: Array, layout: PixelLayout) -> Array:
    """Return what a decoder gave in the sample type of the header, sign-extended from Bits Stored.

    Decoders without a notion of signed samples return the bits that were stored.
    """
    if frame.size != int(np.prod(layout.shape)):
        raise UnsupportedPixels(f"decoded frame of shape {frame.shape}, {layout.shape} expected")
    frame = frame.reshape(layout.shape)
    if layout.signed and frame.dtype.kind == "u":
        if reason := htj2k.check_range(frame, bits_stored=layout.bits_stored, signed=False):
            raise UnsupportedPixels(reason)
        unused = layout.bits_allocated - layout.bits_stored
        wide = frame.astype(layout.dtype.str.replace("i", "u"))
        return (wide << unused).view(layout.dtype) >> unused
    if layout.signed != (frame.dtype.kind == "i"):
        raise UnsupportedPixels("sign in the codestream differs from Pixel Representation")
    return frame.astype(layout.dtype, copy=False)


def _agreed(first: Array, second: Array, names: str) -> Array:
    if not np.array_equal(first.reshape(-1), second.reshape(-1)):
        raise UnsupportedPixels(f"two decoders disagree ({names})")
    return first


def _rle(data: bytes, layout: PixelLayout) -> Array:
    """RLE Lossless (PS3.5 annex G): segments are bytes of samples, most significant first."""
    if layout.bits_allocated == 1:  # packed on its own before (PS3.5 section 8.1.1), one segment
        whole = replace(layout, rows=1, columns=layout.frame_bytes, bits_allocated=8)
        return native_frame(_rle(data, whole).tobytes(), layout)
    kind = np.dtype(f"u{layout.bits_allocated // 8}")
    # Segment by segment first: it checks the header, which the faster decoder trusts (a damaged
    # one makes it write outside its buffer).
    first = _rle_by_segments(data, layout, kind)
    second = np.frombuffer(imagecodecs.dicomrle_decode(data, kind), kind)
    planes = _agreed(first, second, "RLE").reshape(layout.samples, layout.rows, layout.columns)
    pixels = np.ascontiguousarray(planes.transpose(1, 2, 0))
    return pixels.view(layout.dtype)  # the bits of the cell, sign and all, as in native form


def _rle_by_segments(data: bytes, layout: PixelLayout, kind: np.dtype[Any]) -> Array:
    count, *offsets = struct.unpack_from("<16I", data)
    if count != layout.samples * kind.itemsize:
        raise UnsupportedPixels(f"RLE frame of {count} segments")
    pixels = layout.rows * layout.columns
    ends = [*offsets[1:count], len(data)]
    starts = offsets[:count]
    if starts[0] != 64 or any(a >= b for a, b in zip(starts, ends, strict=True)):
        raise UnsupportedPixels("RLE header with offsets that do not ascend")
    planes = np.empty((layout.samples, pixels, kind.itemsize), np.uint8)
    for number in range(count):
        segment = imagecodecs.packbits_decode(data[offsets[number] : ends[number]])
        if not pixels <= len(segment) <= pixels + 1:  # one byte may pad it to even length
            raise UnsupportedPixels(f"RLE segment of {len(segment)} bytes for {pixels} pixels")
        sample, byte = divmod(number, kind.itemsize)
        planes[sample, :, byte] = np.frombuffer(segment, np.uint8, pixels)
    return planes.view(kind.newbyteorder(">"))[..., 0].astype(kind)


def _jpeg_lossless(data: bytes, layout: PixelLayout) -> Array:
    del layout
    return _agreed(
        imagecodecs.jpegsof3_decode(data), imagecodecs.ljpeg_decode(data), "JPEG lossless"
    )


def _jpeg_ls(data: bytes, layout: PixelLayout) -> Array:
    if layout.samples > 1 and b"mrfx" in data[:256]:
        raise UnsupportedPixels("JPEG-LS with the HP colour transform")
    if _jpeg_ls_near(data) != 0:
        raise UnsupportedPixels("JPEG-LS near-lossless in a lossless transfer syntax")
    return imagecodecs.jpegls_decode(data)


def _jpeg_ls_near(data: bytes) -> int:
    """Return NEAR of the first scan (ISO/IEC 14495-1 annex C.2.3)."""
    at = 2
    while at + 4 <= len(data):
        marker, size = struct.unpack_from(">HH", data, at)
        if marker == 0xFFDA:
            return data[at + 5 + 2 * data[at + 4]]
        at += 2 + size
    raise UnsupportedPixels("JPEG-LS codestream without a scan")


def _jpeg_2000(data: bytes, layout: PixelLayout) -> Array:
    header = _checked_jpeg_2000(data, layout)
    frame = imagecodecs.jpeg2k_decode(data)
    if header.signed != layout.signed:
        raise UnsupportedPixels("sign in the codestream differs from Pixel Representation")
    return frame


def _htj2k(data: bytes, layout: PixelLayout) -> Array:
    _checked_jpeg_2000(data, layout)
    return _agreed(htj2k.decode_frame(data), imagecodecs.jpeg2k_decode(data), "HTJ2K")


def _checked_jpeg_2000(data: bytes, layout: PixelLayout) -> htj2k.MainHeader:
    header = htj2k.read_main_header(data)
    if not header.reversible:
        raise UnsupportedPixels("irreversible wavelet in a lossless transfer syntax")
    if layout.photometric == "YBR_RCT" and not header.colour_transform:
        raise UnsupportedPixels("YBR_RCT, but the codestream has no colour transform")
    if layout.photometric.startswith("YBR_F") and header.colour_transform:
        raise UnsupportedPixels(f"{layout.photometric}, but the codestream has a colour transform")
    if (header.rows, header.columns, len(header.depths)) != (
        layout.rows,
        layout.columns,
        layout.samples,
    ):
        raise UnsupportedPixels("size in the codestream differs from the header")
    return header


def _deflated(data: bytes, layout: PixelLayout) -> Array:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    return _uncompressed(decoder.decompress(data, layout.frame_bytes), layout)


def _uncompressed(data: bytes, layout: PixelLayout) -> Array:
    return native_frame(data[: layout.frame_bytes], layout)


_DECODERS: dict[str, Callable[[bytes, PixelLayout], Array]] = {
    dicom.RLE_LOSSLESS: _rle,
    **dict.fromkeys(JPEG_LOSSLESS, _jpeg_lossless),
    JPEG_LS_LOSSLESS: _jpeg_ls,
    JPEG_2000_LOSSLESS: _jpeg_2000,
    dicom.HTJ2K_LOSSLESS: _htj2k,
    dicom.HTJ2K_LOSSLESS_RPCL: _htj2k,
    DEFLATED_IMAGE_FRAME: _deflated,
    dicom.ENCAPSULATED_UNCOMPRESSED: _uncompressed,
}
