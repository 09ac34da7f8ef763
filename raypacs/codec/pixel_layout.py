"""What the header says of the pixels of an instance, and native frames as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs import dicom
from raypacs.errors import UnsupportedPixels
from raypacs.records import InstanceRecord

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview


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
        if self.bits_allocated not in (8, 16, 32):
            raise UnsupportedPixels(f"{self.bits_allocated} bits allocated")
        if not 1 <= self.bits_stored <= self.bits_allocated:
            raise UnsupportedPixels(
                f"{self.bits_stored} bits stored of {self.bits_allocated} allocated"
            )
        if self.high_bit != self.bits_stored - 1:
            raise UnsupportedPixels(f"High Bit {self.high_bit} with {self.bits_stored} bits stored")
        if self.photometric == "YBR_FULL_422" and not dicom.is_encapsulated(
            self.transfer_syntax_uid
        ):
            raise UnsupportedPixels("subsampled colour (YBR_FULL_422)")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Integer type of a sample, native byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in native form."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows x columns [x samples]."""
        plane = (self.rows, self.columns)
        return plane if self.samples == 1 else (*plane, self.samples)

    @property
    def decoded_photometric(self) -> str:
        """Photometric Interpretation of the decoded samples: the colour transform is undone."""
        return "RGB" if self.photometric == "YBR_RCT" else self.photometric


def native_frame(data: Buffer, layout: PixelLayout, *, vr: str = "OW") -> Array:
    """Return one native frame from exactly its bytes, without a copy where it can.

    ``vr`` of Pixel Data only matters for big endian, where 8-bit samples in OW come in swapped
    pairs (PS3.5 section 8.2 and annex D).

    Raises:
        UnsupportedPixels: not enough bytes.
    """
    if len(data) != layout.frame_bytes:
        raise UnsupportedPixels(f"frame of {len(data)} bytes, {layout.frame_bytes} expected")
    dtype = layout.dtype
    if layout.transfer_syntax_uid == dicom.EXPLICIT_VR_BE:
        dtype = dtype.newbyteorder(">")
        if layout.bits_allocated == 8 and vr == "OW":
            if len(data) % 2:
                raise UnsupportedPixels("big endian words with an odd number of samples")
            data = np.frombuffer(data, "u2").byteswap().tobytes()
    samples = np.frombuffer(data, dtype)
    if layout.planar:
        planes = samples.reshape(layout.samples, layout.rows, layout.columns)
        samples = np.ascontiguousarray(planes.transpose(1, 2, 0))
    return samples.reshape(layout.shape).astype(layout.dtype, copy=False)
