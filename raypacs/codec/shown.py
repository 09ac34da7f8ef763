"""Encapsulated frames decoded to be looked at: one decoder, lossy syntaxes too.

Nothing is proved here, so what real archives hold is taken as it is where the size is beyond doubt:
JPEG without an end, JP2 files, a sign or a colour space that the header gets wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np

from raypacs import dicom
from raypacs.codec import htj2k, inbound, jpeg, jpeg_2000, jpeg_xl
from raypacs.codec.pixel_layout import Array, PixelLayout
from raypacs.errors import UnsupportedPixels
from raypacs.records import InstanceRecord
from raypacs.uids import HTJ2K_GENERAL

_JPEG = "1.2.840.10008.1.2.4."
_YBR = frozenset({"YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422"})
_DCT = frozenset({0xC0, 0xC1, 0xC2, jpeg.SOF_LOSSLESS})
_MOST_OPENJPEG_HT_BITS = 16
_LOSSLESS = inbound.JPEG_LOSSLESS | {
    inbound.JPEG_LS_LOSSLESS,
    inbound.JPEG_2000_LOSSLESS,
    inbound.JPEG_2000_PART_2_LOSSLESS,
    inbound.JPEG_XL_LOSSLESS,
    dicom.HTJ2K_LOSSLESS,
    dicom.HTJ2K_LOSSLESS_RPCL,
}
Shown = tuple[Array, str]


def is_decodable(transfer_syntax_uid: str) -> bool:
    """Whether frames of an encapsulated transfer syntax can be shown."""
    return transfer_syntax_uid in _DECODERS or inbound.is_decoded(transfer_syntax_uid)


def keeps_cells(transfer_syntax_uid: str) -> bool:
    """Whether samples come in the cells of the header, High Bit and all, and not as values."""
    return transfer_syntax_uid not in _DECODERS


def keeps_all_bits(transfer_syntax_uid: str) -> bool:
    """Whether a codestream may hold old overlays beside Bits Stored: no lossy encoder's overshoot.

    Of cells that were compressed with all their bits (PS3.5 section 8.1.1 before 2004).
    """
    return transfer_syntax_uid in _LOSSLESS


def decode(data: bytes, record: InstanceRecord) -> tuple[Array, str]:
    """Return the samples of a frame, rows x columns [x samples], and what they mean.

    The Photometric Interpretation is that of the array: colour transforms are undone, sub-sampled
    colour comes out as YBR_FULL, and where the codestream itself names its colour space, as JFIF
    and Adobe segments do, that is believed and not the header.

    Raises:
        UnsupportedPixels: no decoder, damaged, or not of the size in the header.
    """
    if record.rows * record.columns * record.samples > inbound.MOST_SAMPLES:
        raise UnsupportedPixels(f"a compressed frame of {record.columns} x {record.rows} pixels")
    decoder = _DECODERS.get(record.transfer_syntax_uid)
    if decoder is None:
        layout = PixelLayout.of(record)
        return inbound.encapsulated_frame(data, layout, agreed=False), _meaning(record)
    try:
        return decoder(data, record)
    except inbound.DECODER_ERRORS as exc:
        if isinstance(exc, UnsupportedPixels):
            raise
        raise UnsupportedPixels(f"the frame cannot be decoded: {exc}") from exc


def _meaning(record: InstanceRecord) -> str:
    """Return the Photometric Interpretation once any colour transform is undone."""
    if record.photometric in _YBR:
        return "YBR_FULL"
    return "RGB" if record.photometric in ("YBR_RCT", "YBR_ICT") else record.photometric


def _check_size(found: tuple[int, int, int], record: InstanceRecord) -> None:
    """Before decoding: the size also says how much memory that takes."""
    if found != (record.rows, record.columns, record.samples):
        raise UnsupportedPixels("size in the codestream differs from the header")


def _read_jpeg(
    data: bytes, record: InstanceRecord, frames: frozenset[int], *, whole: bool
) -> jpeg.JpegHeader:
    header = jpeg.read_header(data, whole=whole)
    if header.frame not in frames:
        raise UnsupportedPixels("another kind of JPEG than the transfer syntax says")
    _check_size((header.rows, header.columns, len(header.component_ids)), record)
    return header


def _dct(data: bytes, record: InstanceRecord) -> Shown:
    """JPEG of 8, 12 and 16 bits, sequential, progressive or lossless."""
    header = _read_jpeg(data, record, _DCT, whole=False)
    if record.samples != 3:
        return _signed(imagecodecs.jpeg8_decode(data), header.depth, record), record.photometric
    ybr = header.declared_colour == "YBR" or (
        not header.declared_colour and record.photometric in _YBR
    )
    # The same on both sides: no conversion, only chroma repeated.
    space = "YCBCR" if ybr else "RGB"
    array = imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace=space)
    return array, "YBR_FULL" if ybr else "RGB"


def _jpeg_ls(data: bytes, record: InstanceRecord) -> Shown:
    # CharLS looks for the end for seconds where it is cut off, and then gives nothing.
    header = _read_jpeg(data, record, frozenset({jpeg.SOF_JPEG_LS}), whole=True)
    array = imagecodecs.jpegls_decode(data)
    return _signed(array, header.depth, record), _meaning(record)


def _signed(array: Array, depth: int, record: InstanceRecord) -> Array:
    """Return bit patterns as the signed samples that the header says they are."""
    if record.pixel_representation != 1:
        return array
    return _with_sign(array, record.bits_stored if depth > record.bits_stored > 0 else depth)


def _with_sign(array: Array, depth: int, *, signed: bool = True) -> Array:
    """Read samples of ``depth`` bits as signed, or the other way round."""
    size = array.dtype.itemsize
    wide = array.astype(f"u{size}", copy=False)
    unused = wide.dtype.type(8 * size - depth)
    kind: np.dtype[Any] = np.dtype(f"{'i' if signed else 'u'}{size}")
    result: Array = (wide << unused).view(kind) >> kind.type(unused)
    return result


def _jpeg_2000(data: bytes, record: InstanceRecord) -> Shown:
    data = jpeg_2000.unwrapped(data)
    header = jpeg_2000.read_main_header(data)
    _check_size((header.rows, header.columns, header.components), record)
    if header.high_throughput and header.depth > _MOST_OPENJPEG_HT_BITS:
        array = htj2k.decode_frame(data)
    else:
        array = imagecodecs.jpeg2k_decode(data)  # also high throughput; it stands any damage
    signed = record.pixel_representation == 1
    if header.signed != signed:
        array = _with_sign(array, header.depth, signed=signed)
    if record.photometric in _YBR and header.colour_transform:
        return array, "RGB"
    return array, _meaning(record)


def _jpeg_xl(data: bytes, record: InstanceRecord) -> Shown:
    rows, columns = jpeg_xl.read_size(data)
    _check_size((rows, columns, record.samples), record)
    array = imagecodecs.jpegxl_decode(data)
    # The decoder undoes XYB and the YCbCr of recompressed JPEG.
    photometric = "RGB" if record.samples == 3 else record.photometric
    return _signed(array, 8 * array.dtype.itemsize, record), photometric


_DECODERS: dict[str, Callable[[bytes, InstanceRecord], Shown]] = {
    **dict.fromkeys((_JPEG + "50", _JPEG + "51", _JPEG + "53", _JPEG + "55"), _dct),
    **dict.fromkeys(inbound.JPEG_LOSSLESS, _dct),
    **dict.fromkeys((inbound.JPEG_LS_LOSSLESS, inbound.JPEG_LS_NEAR), _jpeg_ls),
    **dict.fromkeys((inbound.JPEG_2000_LOSSLESS, inbound.JPEG_2000), _jpeg_2000),
    **dict.fromkeys((_JPEG + "92", _JPEG + "93"), _jpeg_2000),
    **dict.fromkeys((dicom.HTJ2K_LOSSLESS, dicom.HTJ2K_LOSSLESS_RPCL, HTJ2K_GENERAL), _jpeg_2000),
    **dict.fromkeys((_JPEG + "110", _JPEG + "111", _JPEG + "112"), _jpeg_xl),
}
