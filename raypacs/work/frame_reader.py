"""Frames of a stored instance, one at a time: native or encapsulated, integers or floats."""

from __future__ import annotations

import numpy as np

from raypacs import dicom
from raypacs.codec import bits, inbound
from raypacs.codec.fragments import Extent, extended_offset_table, frame_fragments
from raypacs.codec.pixel_layout import Array, PixelLayout, native_frame
from raypacs.codec.words import paired_bytes
from raypacs.errors import UnsupportedPixels
from raypacs.work.source import Source

_LOSSY_IMAGE_COMPRESSION = 0x00282110
_PIECE_BYTES = 4 * 1024 * 1024
_MANY_FRAMES = 200
_walked: list[tuple[tuple[str, str, str, int], list[list[Extent]]]] = []
# Float Pixel Data, Double Float Pixel Data: bits and VR (PS3.5 annex A.2).
_FLOATS = {0x7FE00008: (32, "OF"), 0x7FE00009: (64, "OD")}


class FrameReader:
    """Reads frames of an instance by number (from 0) as they lie in it."""

    def __init__(self, source: Source, layout: PixelLayout) -> None:
        """Raises UnsupportedPixels: frames and Pixel Data do not fit together."""
        self._source, self._layout = source, layout
        self._vr = source.pixel_vr()
        self._fragments: list[list[Extent]] = []
        if dicom.is_encapsulated(source.transfer_syntax_uid):
            _check_lossless(source)
            self._fragments = encapsulated_frames(source, layout.frames)
            return
        needed = layout.frames * layout.frame_bytes
        if layout.bits_allocated == 1:
            samples = layout.frames * layout.rows * layout.columns
            needed = -(-samples // 8)
        _check_length(source, needed, layout.frames)
        if layout.bits_allocated == 1 and self._bytes(needed - 1, 1)[0] >> (samples % 8 or 8):
            raise UnsupportedPixels("bits after the last frame carry data")

    def read(self, number: int) -> Array:
        """Return one frame, rows x columns [x samples]. Raises UnsupportedPixels."""
        layout = self._layout
        if self._fragments:
            parts = [bytes(self._source.read(*extent)) for extent in self._fragments[number]]
            frame = inbound.encapsulated_frame(b"".join(parts), layout)
            if frame.shape != layout.shape or frame.dtype != layout.dtype:
                # The proof compares with this frame: it has to be what the header says.
                raise UnsupportedPixels(f"decoded to {frame.dtype} of shape {frame.shape}")
            return frame
        if layout.bits_allocated == 1:
            first, length, bit = bits.extent(number, layout.rows * layout.columns)
            data = self._bytes(first, length)
            return bits.unpacked(data, rows=layout.rows, columns=layout.columns, first_bit=bit)
        size = layout.frame_bytes
        if layout.bits_allocated == 8:
            return native_frame(self._bytes(number * size, size), layout, vr="OB")
        data = self._source.read(self._source.pixel_offset + number * size, size)
        return native_frame(data, layout)

    def _bytes(self, first: int, length: int) -> memoryview:
        """Return bytes of native Pixel Data, the pairs of big endian OW put right (PS3.5 8.2)."""
        offset = self._source.pixel_offset
        swapped = self._vr == "OW" and self._source.transfer_syntax_uid == dicom.EXPLICIT_VR_BE
        if not swapped:
            return self._source.read(offset + first, length)
        return memoryview(paired_bytes(self._source.read, offset, first, length))


class FloatReader:
    """Reads frames of Float or Double Float Pixel Data (PS3.3 sections C.7.6.24, C.7.6.25)."""

    def __init__(self, source: Source) -> None:
        """Raises UnsupportedPixels: no such element, or not what its header says."""
        record, self._source = source.record, source
        depth, self.pixel_vr = _FLOATS.get(source.pixel_tag(), (0, ""))
        native = not dicom.is_encapsulated(source.transfer_syntax_uid)
        if depth != record.bits_allocated or record.samples != 1 or not native:
            raise UnsupportedPixels(
                f"{record.bits_allocated} bits allocated, {record.samples} samples "
                f"of {depth}-bit floating point"
            )
        if min(record.rows, record.columns, record.frames) < 1:
            raise UnsupportedPixels(f"{record.rows} rows, {record.columns} columns")
        big = source.transfer_syntax_uid == dicom.EXPLICIT_VR_BE
        self._word = np.dtype(f"{'>' if big else '<'}u{depth // 8}")
        self._shape = (record.rows, record.columns)
        self.frame_bytes = record.rows * record.columns * depth // 8
        _check_length(source, record.frames * self.frame_bytes, record.frames)

    def read(self, number: int) -> Array:
        """Return one frame, rows x columns, with every bit as it was sent."""
        at = self._source.pixel_offset + number * self.frame_bytes
        words = np.frombuffer(self._source.read(at, self.frame_bytes), self._word)
        size = self._word.itemsize
        # Swapped as integers: a conversion of floats may quieten a signalling NaN.
        return words.astype(f"u{size}").view(f"f{size}").reshape(self._shape)


def _check_lossless(source: Source) -> None:
    """Raise UnsupportedPixels where the syntax may be lossless and the header says it is not."""
    syntax = source.transfer_syntax_uid
    if syntax not in inbound.MAYBE_LOSSLESS:
        return
    if reason := inbound.lossless_source(syntax, source.header().text(_LOSSY_IMAGE_COMPRESSION)):
        raise UnsupportedPixels(reason)


def encapsulated_frames(source: Source, frames: int) -> list[list[Extent]]:
    """Return where the fragments of each frame lie. Raises UnsupportedPixels.

    Those of the object that was walked last are remembered if it has many frames: its chunks, each
    with some of its frames, come one after another.
    """
    record = source.record
    key = (record.tier, record.path, record.sha256, frames)
    for known, found in tuple(_walked):
        if known == key:
            return found
    found = _walk(source, frames)
    if frames >= _MANY_FRAMES:
        _walked[:] = [(key, found)]
    return found


def _walk(source: Source, frames: int) -> list[list[Extent]]:
    def read(offset: int, length: int) -> bytes:
        return bytes(source.read(offset, length))

    start = source.record.dataset_offset_bytes
    offsets, lengths = extended_offset_table(source.read(start, source.pixel_offset - 12 - start))
    return frame_fragments(read, source.pixel_offset, frames, offsets, lengths)


def _check_length(source: Source, needed: int, frames: int) -> None:
    """Raise UnsupportedPixels unless native Pixel Data is ``needed`` bytes and padding.

    One byte makes the length even (PS3.5 section 8.1.1); more are padding only if they are zero,
    for they are not kept.
    """
    have = source.pixel_length
    if have < needed:
        raise UnsupportedPixels(f"Pixel Data of {have} bytes is too short for {frames} frames")
    if have - needed < 2:
        return
    for at in range(needed, have, _PIECE_BYTES):
        data = source.read(source.pixel_offset + at, min(_PIECE_BYTES, have - at))
        if any(data):
            raise UnsupportedPixels(f"{have - needed} bytes of Pixel Data after the last frame")
