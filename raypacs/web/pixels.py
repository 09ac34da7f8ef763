"""Decoding one frame for the web edge: lossless and lossy syntaxes alike.

The proof of losslessness is the codec package's business; here a frame is only shown or sent
uncompressed, so one decoder is enough and lossy syntaxes are welcome.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.pixels import pixel_array

from raypacs import dicom
from raypacs.codec import bits, inbound, registry
from raypacs.codec.htj2k import decode_frame, read_main_header
from raypacs.codec.pixel_layout import PixelLayout, native_frame
from raypacs.errors import MalformedInstance, UnsupportedPixels
from raypacs.records import InstanceRecord
from raypacs.storage.pack_format import PackInstance

Array = NDArray[Any]
_J2 = "1.2.840.10008.1.2.4."
_LOSSLESS = frozenset(
    {
        dicom.RLE_LOSSLESS,
        dicom.HTJ2K_LOSSLESS,
        dicom.HTJ2K_LOSSLESS_RPCL,
        dicom.ENCAPSULATED_UNCOMPRESSED,
        inbound.JPEG_LS_LOSSLESS,
        inbound.JPEG_2000_LOSSLESS,
        inbound.DEFLATED_IMAGE_FRAME,
        *inbound.JPEG_LOSSLESS,
    }
)
_JPEG_2000 = frozenset({inbound.JPEG_2000_LOSSLESS, _J2 + "91"})
_SOC_SIZ = b"\xff\x4f\xff\x51"
"""How every JPEG 2000 codestream begins (ISO/IEC 15444-1 annex A.2)."""
_YBR = frozenset({"YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422"})


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded frame: rows x columns, or rows x columns x samples, and what the samples mean.

    ``photometric`` is that of the array (PS3.3 section C.7.6.3.1.2): sub-sampled YBR comes out
    as YBR_FULL, the JPEG 2000 colour transforms as RGB. In the header's own cells the samples lie
    ``shift`` bits higher than here: High Bit is not Bits Stored - 1.
    """

    array: Array
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    shift: int = 0

    def native_bytes(self) -> bytes:
        """Return the frame uncompressed, little endian, colour by pixel (PS3.5 section 8.1.1).

        Single bits are padded to whole bytes.
        """
        if self.bits_allocated == 1:
            return bits.packed(self.array)
        kind = "i" if self.signed else "u"
        if self.array.dtype.kind == "f":
            kind = "f"
        wanted = np.dtype(f"<{kind}{max(1, self.bits_allocated // 8)}")
        cells = self.array.astype(wanted, copy=False)
        if self.shift:
            cells = cells << self.shift
        return np.ascontiguousarray(cells).tobytes()


def _jpeg(data: bytes, record: InstanceRecord) -> Array:
    if record.samples == 3 and record.photometric in _YBR:
        # As the header says it: no conversion to RGB.
        return imagecodecs.jpeg8_decode(data, colorspace="YCBCR", outcolorspace="YCBCR")
    if record.samples == 3:
        return imagecodecs.jpeg8_decode(data, colorspace="RGB", outcolorspace="RGB")
    return imagecodecs.jpeg8_decode(data)


def _plain(name: str, data: bytes, record: InstanceRecord) -> Array:
    return getattr(imagecodecs, name)(data)


def _htj2k(data: bytes, record: InstanceRecord) -> Array:
    return decode_frame(data)


Decoder = Callable[[bytes, InstanceRecord], Array]
_LOSSY: dict[str, Decoder] = {
    **dict.fromkeys((_J2 + "50", _J2 + "51", _J2 + "53", _J2 + "55"), _jpeg),
    _J2 + "81": partial(_plain, "jpegls_decode"),
    _J2 + "203": _htj2k,
    **dict.fromkeys((_J2 + "110", _J2 + "111", _J2 + "112"), partial(_plain, "jpegxl_decode")),
}


def decodable(record: InstanceRecord) -> bool:
    """Whether frames of the instance as received can be decoded here."""
    syntax = record.transfer_syntax_uid
    if record.frames == 0 or (record.bits_allocated < 8 and record.bits_allocated != 1):
        return False
    if record.pixel_offset_bytes < 0 and syntax not in dicom.DEFLATED:
        return False
    known = syntax in _LOSSY or syntax in _LOSSLESS or syntax in _JPEG_2000
    return known or syntax in dicom.NATIVE


def _picture(
    record: InstanceRecord, array: Array, photometric: str, *, cells: bool = False
) -> Picture:
    """Return a picture of the header's shape; ``cells``: samples lie as High Bit says."""
    shape: tuple[int, ...] = (record.rows, record.columns)
    if record.samples > 1:
        shape += (record.samples,)
        if array.ndim == 3 and array.shape[0] == record.samples != array.shape[2]:
            array = np.moveaxis(array, 0, 2)
    if array.shape != shape:
        raise UnsupportedPixels(f"decoded to {array.shape}, the header says {shape}")
    shift = record.high_bit + 1 - record.bits_stored if cells and record.bits_stored else 0
    shift = shift if 0 < shift < 8 * array.dtype.itemsize else 0
    return Picture(
        array >> shift if shift else array,
        photometric,
        record.bits_allocated,
        record.bits_stored,
        record.pixel_representation == 1,
        shift,
    )


def from_native(record: InstanceRecord, data: bytes) -> Picture:
    """Return a frame that lies uncompressed, little endian, in the stored file."""
    if record.bits_allocated == 1:
        return from_bits(record, data, 0)
    if record.bits_stored == 0:
        return _picture(record, _floats(record, data), record.photometric)
    array = native_frame(data, PixelLayout.of(record))
    return _picture(record, array, record.photometric, cells=True)


def from_bits(record: InstanceRecord, data: bytes, first_bit: int) -> Picture:
    """Return a frame of single bits that begins at ``first_bit`` of native bytes."""
    array = bits.unpacked(data, rows=record.rows, columns=record.columns, first_bit=first_bit)
    return _picture(record, array, record.photometric)


def _floats(record: InstanceRecord, data: bytes) -> Array:
    if record.bits_allocated not in (32, 64):
        raise UnsupportedPixels(f"{record.bits_allocated} bits allocated without Bits Stored")
    size = record.bits_allocated // 8
    # Swapped as integers: a conversion of floats may quieten a signalling NaN.
    words = np.frombuffer(data, f"<u{size}").astype(f"u{size}", copy=False)
    return words.view(f"f{size}").reshape(record.rows, record.columns)


def from_pack(record: InstanceRecord, data: bytes, prepared: PackInstance) -> Picture:
    """Decode a frame of the web cache, in whatever form it lies there."""
    return _picture(record, registry.decode(data, prepared), prepared.photometric)


def from_encapsulated(record: InstanceRecord, data: bytes) -> Picture:
    """Decode a frame as received.

    Raises:
        UnsupportedPixels: no decoder, or it refused.
    """
    if record.transfer_syntax_uid in _JPEG_2000:
        return _jpeg_2000(record, data)
    decoder = _LOSSY.get(record.transfer_syntax_uid)
    if decoder is None:
        array = inbound.encapsulated_frame(data, PixelLayout.of(record))
        return _picture(record, array, _without_transform(record.photometric), cells=True)
    try:
        array = decoder(data, record)
    except (RuntimeError, ValueError) as exc:
        raise UnsupportedPixels(f"the frame cannot be decoded: {exc}") from exc
    photometric = _without_transform(record.photometric)
    if photometric in _YBR:
        photometric = "YBR_FULL"
    return _picture(record, array, photometric)


def _jpeg_2000(record: InstanceRecord, data: bytes) -> Picture:
    """Decode JPEG 2000 as it is in use: in a JP2 file, or its sign not that of the header.

    Both are against PS3.5 section A.4.4. Boxes of JP2 are passed over, and Pixel Representation
    wins, as elsewhere.
    """
    data = data[max(0, data.find(_SOC_SIZ)) :]
    header = read_main_header(data)
    if (header.rows, header.columns, len(header.depths)) != (
        record.rows,
        record.columns,
        record.samples,
    ):
        # Before decoding: it also says how much memory that takes.
        raise UnsupportedPixels("size in the codestream differs from the header")
    try:
        array = imagecodecs.jpeg2k_decode(data)
    except (RuntimeError, ValueError) as exc:
        raise UnsupportedPixels(f"the frame cannot be decoded: {exc}") from exc
    if header.signed != (record.pixel_representation == 1):
        array = _with_other_sign(array, header.depths[0])
    photometric = _without_transform(record.photometric)
    if photometric in _YBR:
        photometric = "RGB" if header.colour_transform else "YBR_FULL"
    return _picture(record, array, photometric)


def _with_other_sign(array: Array, bits: int) -> Array:
    """Read samples of ``bits`` bits as signed instead of unsigned, or the other way round."""
    wide = array.astype(f"u{array.dtype.itemsize}", copy=False)
    unused = 8 * array.dtype.itemsize - bits
    kind = "i" if array.dtype.kind == "u" else "u"
    result: Array = (wide << unused).view(f"{kind}{array.dtype.itemsize}") >> unused
    return result


def from_dataset(record: InstanceRecord, data: bytes, number: int) -> Picture:
    """Return a frame of an uncompressed data set in any other native syntax, by pydicom.

    Raises:
        UnsupportedPixels: pydicom cannot read its pixels.
    """
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        # It takes the unused bits to be on top, where High Bit may say otherwise.
        on_top = record.high_bit == record.bits_stored - 1
        array = pixel_array(dataset, index=number - 1, raw=True, correct_unused_bits=on_top)
    except (InvalidDicomError, AttributeError, ValueError, NotImplementedError) as exc:
        raise UnsupportedPixels(f"pixels cannot be read: {exc}") from exc
    photometric = "YBR_FULL" if record.photometric in _YBR else record.photometric
    return _picture(record, array, photometric, cells=True)


def read_header(data: bytes, *, meta: bool = True) -> pydicom.Dataset:
    """Parse a Part 10 file, or without ``meta`` an Explicit VR Little Endian data set.

    Raises:
        MalformedInstance: it cannot be parsed.
    """
    try:
        if not meta:
            return read_dataset(io.BytesIO(data), False, True)
        return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
    except (InvalidDicomError, EOFError, ValueError) as exc:
        raise MalformedInstance(f"header cannot be read: {exc}") from exc


def _without_transform(photometric: str) -> str:
    return "RGB" if photometric in ("YBR_RCT", "YBR_ICT") else photometric
