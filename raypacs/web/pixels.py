"""Decoding one frame for the web edge: lossless and lossy syntaxes alike.

The proof of losslessness is the codec package's business; here a frame is only shown or sent
uncompressed, so one decoder is enough and lossy syntaxes are welcome.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset

from raypacs import dicom
from raypacs.codec import bits, registry, shown
from raypacs.codec.pixel_layout import PixelLayout, native_frame
from raypacs.errors import MalformedInstance, UnsupportedPixels
from raypacs.records import InstanceRecord
from raypacs.storage.pack_format import PackInstance

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded frame: rows x columns, or rows x columns x samples, and what the samples mean.

    ``photometric`` is that of the array (PS3.3 section C.7.6.3.1.2): sub-sampled YBR comes out
    as YBR_FULL, the JPEG 2000 colour transforms as RGB. In the header's own cells the samples lie
    ``shift`` bits higher than here: High Bit is not Bits Stored - 1. ``cells``: the samples with
    all their bits, where the transfer syntax keeps those beside the stored ones.
    """

    array: Array
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    shift: int = 0
    cells: Array | None = None

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


def decodable(record: InstanceRecord) -> bool:
    """Whether frames of the instance as received can be decoded here."""
    syntax = record.transfer_syntax_uid
    if record.frames == 0 or (record.bits_allocated < 8 and record.bits_allocated != 1):
        return False
    if record.pixel_offset_bytes < 0 and syntax not in dicom.DEFLATED:
        return False
    return syntax in dicom.NATIVE or shown.is_decodable(syntax)


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
        array if cells else None,
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
    array, photometric = shown.decode(data, record)
    cells = shown.keeps_cells(record.transfer_syntax_uid)
    picture = _picture(record, array, photometric, cells=cells)
    low = record.high_bit == record.bits_stored - 1
    if low and shown.keeps_all_bits(record.transfer_syntax_uid):
        return replace(picture, cells=array)
    return picture


def read_header(data: bytes, *, meta: bool = True) -> pydicom.Dataset:
    """Parse a Part 10 file, or without ``meta`` an Explicit VR Little Endian data set.

    Raises:
        MalformedInstance: it cannot be parsed.
    """
    try:
        if not meta:
            return read_dataset(io.BytesIO(data), False, True)
        return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
    except (InvalidDicomError, EOFError, OSError, ValueError) as exc:
        # OSError: so pydicom names an encoding that contradicts itself.
        raise MalformedInstance(f"header cannot be read: {exc}") from exc
