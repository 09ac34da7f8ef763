"""Losslessly encapsulated frames of a received instance as arrays.

A decoder is never trusted alone where a second one is at hand: both have to agree, sample by
sample (docs/transfer-syntaxes.md names the pairs). Which frames the second one gets is decided by
their headers before it is called; when it then fails, that is a disagreement like any other. What
cannot be decoded beyond doubt raises UnsupportedPixels with the reason, and the instance is copied
as received.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import imagecodecs
import numpy as np

from raypacs import dicom
from raypacs.codec import gdcm_decoder, htj2k, jpeg, jpeg_2000, jpeg_xl, rle
from raypacs.codec.pixel_layout import Array, PixelLayout, native_frame, sample_values
from raypacs.errors import UnsupportedPixels
from raypacs.uids import HTJ2K_GENERAL

_JPEG = "1.2.840.10008.1.2.4."
DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
JPEG_LOSSLESS = frozenset({_JPEG + "57", _JPEG + "70"})
JPEG_LS_LOSSLESS = _JPEG + "80"
JPEG_LS_NEAR = _JPEG + "81"
JPEG_2000_LOSSLESS = _JPEG + "90"
JPEG_2000 = _JPEG + "91"
JPEG_2000_PART_2_LOSSLESS = _JPEG + "92"
JPEG_XL_LOSSLESS = _JPEG + "110"
#: Syntaxes whose frames may be lossless: only header and codestream together tell.
MAYBE_LOSSLESS = frozenset({JPEG_LS_NEAR, JPEG_2000, HTJ2K_GENERAL})
#: The largest frame that is decoded: anyone can claim any size in a few bytes.
MOST_SAMPLES = 1 << 27
# OpenJPEG works in words of 32 bits, of which a wavelet takes a few; it refuses what OpenJPH codes
# in words of 64.
_MOST_OPENJPEG_BITS = 24
_MOST_OPENJPEG_HT_BITS = 16
_MOST_PADDING_BYTES = 1
_DIFFERENT_SIZE = "size in the codestream differs from the header"
#: What a damaged codestream makes the decoders raise; their own errors are all RuntimeErrors.
DECODER_ERRORS = (RuntimeError, zlib.error, struct.error, ValueError, IndexError, MemoryError)


class Decoded(NamedTuple):
    """Samples of a codestream and the depth and sign it says they have.

    ``signed`` is None where the codestream has no notion of sign: samples are bit patterns.
    """

    frame: Array
    depth: int
    signed: bool | None


def lossless_source(transfer_syntax_uid: str, lossy_image_compression: str) -> str:
    """Return why frames of a syntax that may be lossless are taken for lossy; '' if they are not.

    ``lossy_image_compression`` is the text of (0028,2110): 01 says that the pixels went through a
    lossy compression (PS3.3 section C.7.6.1.1.5), though perhaps not this one. What the codestream
    says is seen when it is decoded.
    """
    if transfer_syntax_uid in MAYBE_LOSSLESS and lossy_image_compression.strip() == "01":
        return "lossy compressed, the header says (Lossy Image Compression 01)"
    return ""


def encapsulated_frame(data: bytes, layout: PixelLayout, *, agreed: bool = True) -> Array:
    """Decode one encapsulated frame to cells as native form has them.

    ``agreed``: with a second decoder where there is one, as a proof needs it; a frame that is only
    shown does not.

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
    if layout.rows * layout.columns * layout.samples > MOST_SAMPLES:
        raise UnsupportedPixels(f"a compressed frame of {layout.columns} x {layout.rows} pixels")
    try:
        return decoder(data, layout, agreed)
    except DECODER_ERRORS as exc:
        if isinstance(exc, UnsupportedPixels):
            raise
        raise UnsupportedPixels(f"frame cannot be decoded: {exc}") from exc


def is_decoded(transfer_syntax_uid: str) -> bool:
    """Whether :func:`encapsulated_frame` knows the syntax."""
    return transfer_syntax_uid in _DECODERS


def _as_stored(decoded: Decoded, layout: PixelLayout) -> Array:
    """Return what a decoder gave in the cells of the header.

    Bit patterns become signed cells where the header says so: they hold Bits Stored, or the whole
    cell, its sign extended by the sender.
    """
    frame, depth, signed = decoded
    if frame.size != int(np.prod(layout.shape)):
        raise UnsupportedPixels(f"decoded frame of shape {frame.shape}, {layout.shape} expected")
    frame = frame.reshape(layout.shape)
    if depth > layout.bits_allocated:
        raise UnsupportedPixels(
            f"{depth} bits in the codestream, {layout.bits_allocated} allocated"
        )
    if signed is None and layout.signed:
        if depth < layout.bits_stored:
            raise UnsupportedPixels(
                f"{depth} bits in the codestream of signed samples of {layout.bits_stored} bits"
            )
        cells = frame.astype(layout.dtype.str.replace("i", "u")).view(layout.dtype)
        return sample_values(cells, layout)
    if signed is not None and signed != layout.signed:
        raise UnsupportedPixels("sign in the codestream differs from Pixel Representation")
    return frame.astype(layout.dtype, copy=False)


def _require_agreement(first: Array, second: Array | None, names: str) -> None:
    """Raise UnsupportedPixels unless a second decoder gave the same samples."""
    if second is None:
        raise UnsupportedPixels(f"two decoders disagree ({names}): the second cannot decode it")
    if not htj2k.same_samples(first.reshape(-1), second.reshape(-1)):
        raise UnsupportedPixels(f"two decoders disagree ({names})")


def _rle(data: bytes, layout: PixelLayout, agreed: bool) -> Array:
    return rle.decode_frame(data, layout, agreed=agreed)


def _check_jpeg(header: jpeg.JpegHeader, layout: PixelLayout) -> None:
    count = len(header.component_ids)
    if (header.rows, header.columns, count) != (layout.rows, layout.columns, layout.samples):
        raise UnsupportedPixels(_DIFFERENT_SIZE)
    if not header.sampled_alike:
        raise UnsupportedPixels("sub-sampled components in a lossless transfer syntax")
    if sum(scan.components for scan in header.scans) != count:
        raise UnsupportedPixels("JPEG scans that do not cover the components once")
    declared = header.declared_colour
    if declared and declared != ("YBR" if layout.photometric.startswith("YBR") else "RGB"):
        raise UnsupportedPixels(f"{layout.photometric}, but the codestream says {declared}")


def _jpeg_lossless(data: bytes, layout: PixelLayout, agreed: bool) -> Array:
    header = jpeg.read_header(data)
    if header.frame != jpeg.SOF_LOSSLESS:
        raise UnsupportedPixels("lossy JPEG in a lossless transfer syntax")
    _check_jpeg(header, layout)
    if not 2 <= header.depth <= 16 or any(not 1 <= scan.first <= 7 for scan in header.scans):
        raise UnsupportedPixels("JPEG lossless codestream with an impossible depth or predictor")
    # At least a bit a sample: more than that nobody can have coded.
    if 8 * len(data) < layout.rows * layout.columns * layout.samples:
        raise UnsupportedPixels("JPEG lossless codestream too short for its samples")
    space = "RGB" if layout.samples == 3 else None  # as it is, whatever it is
    frame = imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace=space)
    if agreed:
        second = imagecodecs.jpegsof3_decode(data)
        _require_agreement(frame, np.ascontiguousarray(second), "libjpeg-turbo, jpegsof3")
    return _as_stored(Decoded(frame, header.depth, None), layout)


def _jpeg_ls(data: bytes, layout: PixelLayout, agreed: bool) -> Array:
    header = jpeg.read_header(data)
    if header.frame != jpeg.SOF_JPEG_LS:
        raise UnsupportedPixels("no JPEG-LS codestream in a JPEG-LS transfer syntax")
    _check_jpeg(header, layout)
    if header.hp_transform:
        raise UnsupportedPixels("JPEG-LS with the HP colour transform")
    if any(scan.first for scan in header.scans):
        raise UnsupportedPixels("JPEG-LS near-lossless")
    if any(scan.shift or scan.second > 2 or any(scan.tables) for scan in header.scans):
        raise UnsupportedPixels("JPEG-LS with mapping tables or a point transform")
    if not 2 <= header.depth <= 16:
        raise UnsupportedPixels(f"JPEG-LS of {header.depth} bits")
    frame = imagecodecs.jpegls_decode(data)
    if agreed and gdcm_decoder.knows_jpeg_ls(header.depth, layout.samples):
        second = gdcm_decoder.decode(
            data,
            transfer_syntax_uid=JPEG_LS_LOSSLESS,
            rows=header.rows,
            columns=header.columns,
            samples=layout.samples,
            depth=header.depth,
            signed=False,
        )
        _require_agreement(frame, second, "CharLS 2.4, CharLS 2.0 of GDCM")
    return _as_stored(Decoded(frame, header.depth, None), layout)


def _jpeg_2000(data: bytes, layout: PixelLayout, agreed: bool) -> Array:
    """JPEG 2000 of every syntax, high throughput or not: the codestream tells, not the syntax."""
    data = jpeg_2000.unwrapped(data)
    header = checked_jpeg_2000(data, layout)
    if header.high_throughput:
        frame = _high_throughput(data, header, agreed)
    elif header.depth > _MOST_OPENJPEG_BITS:
        raise UnsupportedPixels(f"JPEG 2000 of {header.depth} bits, beyond OpenJPEG")
    else:
        frame = imagecodecs.jpeg2k_decode(data)
        if agreed and gdcm_decoder.knows_jpeg_2000(header.depth, header.components):
            second = gdcm_decoder.decode(
                data,
                transfer_syntax_uid=JPEG_2000_LOSSLESS,
                rows=header.rows,
                columns=header.columns,
                samples=header.components,
                depth=header.depth,
                signed=header.signed,
            )
            _require_agreement(frame, second, "OpenJPEG 2.5, OpenJPEG 2.3 of GDCM")
    return _as_stored(Decoded(frame, header.depth, header.signed), layout)


def _high_throughput(data: bytes, header: jpeg_2000.StreamHeader, agreed: bool) -> Array:
    """Decode with OpenJPEG, which stands any damage, and then OpenJPH; above 16 bits only this."""
    if header.depth > _MOST_OPENJPEG_HT_BITS:
        return htj2k.decode_frame(data)
    frame = imagecodecs.jpeg2k_decode(data)
    if agreed:
        _require_agreement(frame, htj2k.decode_frame(data), "OpenJPEG, OpenJPH")
    return frame


def checked_jpeg_2000(data: bytes, layout: PixelLayout) -> jpeg_2000.StreamHeader:
    """Return the header of a codestream that loses nothing and is what the instance's says.

    Raises:
        UnsupportedPixels: it is not.
    """
    header = jpeg_2000.read_header(data)
    size = (header.rows, header.columns, header.components)
    if size != (layout.rows, layout.columns, layout.samples):
        raise UnsupportedPixels(_DIFFERENT_SIZE)
    if not header.reversible or header.quantised:
        raise UnsupportedPixels("irreversible wavelet: lossy JPEG 2000")
    if header.part_2:
        raise UnsupportedPixels("JPEG 2000 with extensions of Part 2")
    if layout.photometric == "YBR_RCT" and not header.colour_transform:
        raise UnsupportedPixels("YBR_RCT, but the codestream has no colour transform")
    if layout.photometric.startswith("YBR_F") and header.colour_transform:
        raise UnsupportedPixels(f"{layout.photometric}, but the codestream has a colour transform")
    return header


def _jpeg_xl(data: bytes, layout: PixelLayout, agreed: bool) -> Array:
    del agreed  # libjxl is the only decoder there is
    header = jpeg_xl.read_header(data)
    if header.why_lossy:
        raise UnsupportedPixels(f"lossy JPEG XL: {header.why_lossy}")
    size = (header.rows, header.columns, header.samples)
    if size != (layout.rows, layout.columns, layout.samples):
        raise UnsupportedPixels(_DIFFERENT_SIZE)
    if layout.photometric.startswith("YBR"):
        raise UnsupportedPixels(f"{layout.photometric}, but JPEG XL says RGB")
    frame = imagecodecs.jpegxl_decode(data)
    if frame.dtype.kind != "u":
        raise UnsupportedPixels(f"JPEG XL decoded to {frame.dtype}")
    return _as_stored(Decoded(frame, header.depth, None), layout)


def _deflated(data: bytes, layout: PixelLayout, agreed: bool) -> Array:
    del agreed  # no decoder but the one of the standard library, and no room for doubt
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    # One byte more than a frame with its padding: what is longer is not this frame.
    raw = decoder.decompress(data, layout.frame_bytes + _MOST_PADDING_BYTES + 1)
    if not decoder.eof:
        raise UnsupportedPixels("deflated frame is cut off, or longer than a frame")
    return _uncompressed(raw, layout, False)


def _uncompressed(data: bytes, layout: PixelLayout, agreed: bool) -> Array:
    del agreed
    if not 0 <= len(data) - layout.frame_bytes <= _MOST_PADDING_BYTES:
        raise UnsupportedPixels(f"frame of {len(data)} bytes, {layout.frame_bytes} expected")
    return native_frame(data[: layout.frame_bytes], layout)


_DECODERS: dict[str, Callable[[bytes, PixelLayout, bool], Array]] = {
    dicom.RLE_LOSSLESS: _rle,
    **dict.fromkeys(JPEG_LOSSLESS, _jpeg_lossless),
    **dict.fromkeys((JPEG_LS_LOSSLESS, JPEG_LS_NEAR), _jpeg_ls),
    **dict.fromkeys((JPEG_2000_LOSSLESS, JPEG_2000, JPEG_2000_PART_2_LOSSLESS), _jpeg_2000),
    **dict.fromkeys((dicom.HTJ2K_LOSSLESS, dicom.HTJ2K_LOSSLESS_RPCL, HTJ2K_GENERAL), _jpeg_2000),
    JPEG_XL_LOSSLESS: _jpeg_xl,
    DEFLATED_IMAGE_FRAME: _deflated,
    dicom.ENCAPSULATED_UNCOMPRESSED: _uncompressed,
}
