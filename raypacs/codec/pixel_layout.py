"""What the header says of the pixels of an instance, and native frames as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs import dicom
from raypacs.codec import bits
from raypacs.codec.htj2k import check_range
from raypacs.errors import UnsupportedPixels
from raypacs.records import InstanceRecord

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview

_DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
# Transfer syntaxes that keep the whole cell of a sample, unused bits and all.
_CELLS = dicom.NATIVE | {
    dicom.ENCAPSULATED_UNCOMPRESSED,
    dicom.RLE_LOSSLESS,
    _DEFLATED_IMAGE_FRAME,
}


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The Image Pixel Module (PS3.3 section C.7.6.3) of one instance, and its transfer syntax."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    planar: bool

    @classmethod
    def of(cls, record: InstanceRecord) -> PixelLayout:
        """Return the layout an instance record describes.

        Raises:
            UnsupportedPixels: not whole bytes a sample, bits outside the container, or no pixels.
        """
        layout = cls(
            transfer_syntax_uid=record.transfer_syntax_uid,
            rows=record.rows,
            columns=record.columns,
            frames=record.frames,
            samples=record.samples,
            bits_allocated=record.bits_allocated,
            bits_stored=record.bits_stored,
            high_bit=record.high_bit,
            signed=record.pixel_representation == 1,
            photometric=record.photometric,
            planar=record.planar_configuration == 1 and record.samples > 1,
        )
        layout.check()
        return layout

    def check(self) -> None:
        """Raise UnsupportedPixels unless these are whole integer samples."""
        if min(self.rows, self.columns, self.frames, self.samples) < 1:
            raise UnsupportedPixels(f"{self.rows} rows, {self.columns} columns")
        if self.bits_allocated not in (1, 8, 16, 32):
            raise UnsupportedPixels(f"{self.bits_allocated} bits allocated")
        if self.bits_allocated == 1 and (self.samples != 1 or self.signed):
            raise UnsupportedPixels("single bits that are signed, or several a pixel")
        if not 1 <= self.bits_stored <= self.bits_allocated:
            raise UnsupportedPixels(
                f"{self.bits_stored} bits stored of {self.bits_allocated} allocated"
            )
        if not self.bits_stored - 1 <= self.high_bit < self.bits_allocated:
            raise UnsupportedPixels(f"High Bit {self.high_bit} with {self.bits_stored} bits stored")
        if self.shift and self.transfer_syntax_uid not in _CELLS:
            # A codestream has samples, not cells: what High Bit means there nobody can say.
            raise UnsupportedPixels(f"High Bit {self.high_bit} of compressed samples")
        if self.subsampled and (self.columns % 2 or self.samples != 3 or self.planar):
            raise UnsupportedPixels("YBR_FULL_422 with odd Columns or in planes")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Integer type of a sample, native byte order; single bits come as bytes."""
        return np.dtype(f"{'i' if self.signed else 'u'}{max(1, self.bits_allocated // 8)}")

    @property
    def shift(self) -> int:
        """Unused bits below a sample in its cell: High Bit counts from the cell's lowest bit."""
        return self.high_bit + 1 - self.bits_stored

    @property
    def subsampled(self) -> bool:
        """Whether two pixels share their chroma in native form (YBR_FULL_422)."""
        return self.photometric == "YBR_FULL_422" and not dicom.is_encapsulated(
            self.transfer_syntax_uid
        )

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in native form; of single bits when it is packed on its own."""
        samples = 2 if self.subsampled else self.samples
        return -(-self.rows * self.columns * samples * self.bits_allocated // 8)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of one frame's decoded samples in native form, chroma repeated."""
        return -(-self.rows * self.columns * self.samples * self.bits_allocated // 8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows x columns [x samples]."""
        plane = (self.rows, self.columns)
        return plane if self.samples == 1 else (*plane, self.samples)

    @property
    def decoded_photometric(self) -> str:
        """Photometric Interpretation of the decoded samples (PS3.3 section C.7.6.3.1.2).

        The colour transform is undone, and chroma repeated for each pixel.
        """
        return {"YBR_RCT": "RGB", "YBR_FULL_422": "YBR_FULL"}.get(
            self.photometric, self.photometric
        )


def served_colour(record: InstanceRecord) -> str | None:
    """Return the Photometric Interpretation of frames that are served otherwise than they lie.

    So are those of uncompressed colour that is sub-sampled (YBR_FULL_422), or by plane in another
    byte order or deflated: they are never had as they lie, but by pixel. None: as the header says.
    """
    if record.samples != 3 or dicom.is_encapsulated(record.transfer_syntax_uid):
        return None
    as_it_lies = record.transfer_syntax_uid in (dicom.IMPLICIT_VR_LE, dicom.EXPLICIT_VR_LE)
    planes = record.planar_configuration == 1
    if record.photometric == "YBR_FULL_422":
        return None if planes or record.columns % 2 else "YBR_FULL"
    return record.photometric if planes and not as_it_lies else None


def native_frame(data: Buffer, layout: PixelLayout, *, vr: str = "OW") -> Array:
    """Return one native frame from exactly its bytes, without a copy where it can.

    The samples are as they lie: :func:`sample_values` gives their values. Single bits begin at the
    first bit of ``data``.

    ``vr`` of Pixel Data only matters for big endian, where 8-bit samples in OW come in swapped
    pairs (PS3.5 section 8.2 and annex D).

    Raises:
        UnsupportedPixels: not enough bytes.
    """
    if len(data) != layout.frame_bytes:
        raise UnsupportedPixels(f"frame of {len(data)} bytes, {layout.frame_bytes} expected")
    if layout.bits_allocated == 1:
        return bits.unpacked(data, rows=layout.rows, columns=layout.columns)
    dtype = layout.dtype
    if layout.transfer_syntax_uid == dicom.EXPLICIT_VR_BE:
        dtype = dtype.newbyteorder(">")
        if layout.bits_allocated == 8 and vr == "OW":
            if len(data) % 2:
                raise UnsupportedPixels("big endian words with an odd number of samples")
            data = np.frombuffer(data, "u2").byteswap().tobytes()
    samples = np.frombuffer(data, dtype)
    if layout.subsampled:
        samples = _chroma_repeated(samples.reshape(layout.rows, -1, 4))
    if layout.planar:
        planes = samples.reshape(layout.samples, layout.rows, layout.columns)
        samples = np.ascontiguousarray(planes.transpose(1, 2, 0))
    return samples.reshape(layout.shape).astype(layout.dtype, copy=False)


def _chroma_repeated(pairs: Array) -> Array:
    """Return rows x columns x 3 from Y1 Y2 Cb Cr of each two pixels (PS3.3 C.7.6.3.1.2)."""
    rows, count, _ = pairs.shape
    pixels = np.empty((rows, count, 2, 3), pairs.dtype)
    pixels[..., 0] = pairs[..., :2]
    pixels[..., 1:] = pairs[:, :, None, 2:]
    return pixels


def sample_values(frame: Array, layout: PixelLayout) -> Array:
    """Return the values of samples from the cells they lie in (PS3.5 section 8.1.1).

    Unused bits below the sample must be zero. Those above may be zero, or copies of the sign of a
    signed sample; either way the value is the same, and comes sign-extended.

    Raises:
        UnsupportedPixels: unused bits carry data, such as an old overlay; or Bits Stored is wrong.
    """
    depth, shift = layout.bits_stored, layout.shift
    if not shift:
        reason = check_range(frame, bits_stored=depth, signed=layout.signed)
        if not reason:
            return frame
        if not layout.signed:
            raise UnsupportedPixels(reason)
    cells = np.ascontiguousarray(frame).view(f"u{frame.dtype.itemsize}")
    kind = cells.dtype.type
    if shift and np.any(cells & kind((1 << shift) - 1)):
        raise UnsupportedPixels(f"unused bits below bit {shift} carry data")
    cells = cells >> kind(shift)
    unused = 8 * cells.dtype.itemsize - shift - depth
    if unused and np.any(over := cells >> kind(depth)):
        negative = (cells >> kind(depth - 1) & kind(1)) == 1
        if not layout.signed or np.any((over != 0) & ~(negative & (over == (1 << unused) - 1))):
            raise UnsupportedPixels(f"values outside {depth} bits stored")
    if not layout.signed:
        return cells
    spare = 8 * cells.dtype.itemsize - depth
    return (cells << kind(spare)).view(layout.dtype) >> layout.dtype.type(spare)
