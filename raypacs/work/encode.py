"""Frames of one piece: decoded from their source, encoded, decoded again and compared."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from raypacs import dicom
from raypacs.codec import htj2k, inbound
from raypacs.codec.fragments import Extent, frame_fragments
from raypacs.codec.pixel_layout import PixelLayout, native_frame
from raypacs.codec.registry import codec_of
from raypacs.errors import ProofFailed, UnsupportedPixels
from raypacs.storage import pack_format
from raypacs.work.source import Source

_EXTENDED_OFFSET_TABLE = 0x7FE00001
_CRC_PIECE_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class EncodedFrames:
    """Codestreams of consecutive frames, each split into low part and rest, and their table."""

    transfer_syntax_uid: str = ""
    levels: int = 0
    low_halvings: int = 0
    colour_transform: bool = False
    photometric: str = ""
    lows: list[memoryview] = field(default_factory=list)
    rests: list[memoryview] = field(default_factory=list)
    table: list[bytes] = field(default_factory=list)
    raw_bytes: int = 0

    def add(self, stream: htj2k.Codestream, low_resolution: int) -> None:
        """Append one frame."""
        view = memoryview(stream.data)
        split = stream.resolution_ends[low_resolution]
        low, rest = view[:split], view[split:]
        self.lows.append(low)
        self.rests.append(rest)
        self.table.append(
            pack_format.FRAME.pack(len(low), len(rest), zlib.crc32(low), zlib.crc32(rest))
        )


def encode_frames(source: Source, first: int, count: int) -> EncodedFrames:
    """Encode frames ``first`` to ``first + count`` (from 0) of an instance, each with its proof.

    Raises:
        UnsupportedPixels: a frame cannot be decoded beyond doubt, or not be coded without loss.
        ProofFailed: a codestream, decoded again, differed from its frame.
    """
    layout = PixelLayout.of(source.record)
    if source.pixel_tag() != dicom.PIXEL_DATA:
        raise UnsupportedPixels("floating-point samples")
    frames = FrameReader(source, layout)
    result = EncodedFrames(
        colour_transform=layout.samples == 3 and layout.decoded_photometric == "RGB",
        photometric=layout.decoded_photometric,
    )
    for number in range(first, first + count):
        _encode_one(frames.read(number), layout, result)
        result.raw_bytes += layout.frame_bytes
    return result


def _encode_one(frame: htj2k.Array, layout: PixelLayout, result: EncodedFrames) -> None:
    reason = htj2k.check_range(frame, bits_stored=layout.bits_stored, signed=layout.signed)
    if reason:
        raise UnsupportedPixels(reason)
    codec = codec_of("htj2k")
    stream = codec.encode(
        frame,
        bits_stored=layout.bits_stored,
        signed=layout.signed,
        colour_transform=result.colour_transform,
    )
    if not htj2k.same_samples(codec.decode(stream.data), frame):
        raise ProofFailed("proof failed: a frame decoded again differs from its source")
    if not result.transfer_syntax_uid:  # the same for all frames of one size
        result.transfer_syntax_uid = htj2k.transfer_syntax(stream.data)
        result.levels = stream.levels
        low = htj2k.low_resolution(layout.rows, layout.columns, stream.levels)
        result.low_halvings = stream.levels - low
    result.add(stream, result.levels - result.low_halvings)


class FrameReader:
    """Reads frames of an instance by number (from 0), native or encapsulated."""

    def __init__(self, source: Source, layout: PixelLayout) -> None:
        """Raises UnsupportedPixels: frames and Pixel Data do not fit together."""
        self._source, self._layout = source, layout
        self._vr = source.pixel_vr()
        self._fragments: list[list[Extent]] = []
        if dicom.is_encapsulated(source.transfer_syntax_uid):
            self._fragments = encapsulated_frames(source, layout.frames)
        elif source.pixel_length < layout.frames * layout.frame_bytes:
            raise UnsupportedPixels(
                f"Pixel Data of {source.pixel_length} bytes is too short for {layout.frames} frames"
            )

    def read(self, number: int) -> htj2k.Array:
        """Return one frame, rows x columns [x samples]. Raises UnsupportedPixels."""
        size = self._layout.frame_bytes
        if not self._fragments:
            data = self._source.read(self._source.pixel_offset + number * size, size)
            return native_frame(data, self._layout, vr=self._vr)
        parts = [bytes(self._source.read(*extent)) for extent in self._fragments[number]]
        return inbound.encapsulated_frame(b"".join(parts), self._layout)


def encapsulated_frames(source: Source, frames: int) -> list[list[Extent]]:
    """Return where the fragments of each frame lie. Raises UnsupportedPixels."""
    raw = source.header().raw(_EXTENDED_OFFSET_TABLE)
    extended = struct.unpack_from(f"<{len(raw) // 8}Q", raw)

    def read(offset: int, length: int) -> bytes:
        return bytes(source.read(offset, length))

    return frame_fragments(read, source.pixel_offset, frames, extended)


def copied_table(source: Source) -> bytes:
    """Return the frame table of an object that is copied: where each frame lies whole in it.

    Empty where frames do not: several fragments each, or native ones that do not begin at a byte.
    """
    extents = _whole_frames(source)
    return b"".join(
        pack_format.COPIED_FRAME.pack(offset, length, _crc32(source, offset, length))
        for offset, length in extents
    )


def _whole_frames(source: Source) -> list[Extent]:
    record = source.record
    if record.frames == 0 or record.pixel_offset_bytes < 0:
        return []
    if dicom.is_encapsulated(record.transfer_syntax_uid):
        try:
            frames = encapsulated_frames(source, record.frames)
        except UnsupportedPixels:
            return []
        return [frame[0] for frame in frames] if all(len(f) == 1 for f in frames) else []
    bits = record.rows * record.columns * record.samples * record.bits_allocated
    if record.photometric == "YBR_FULL_422":
        bits = bits * 2 // 3
    size = bits // 8
    if bits == 0 or bits % 8 or record.frames * size > record.pixel_length_bytes:
        return []
    return [(record.pixel_offset_bytes + n * size, size) for n in range(record.frames)]


def _crc32(source: Source, offset: int, length: int) -> int:
    crc = 0
    for at in range(offset, offset + length, _CRC_PIECE_BYTES):
        crc = zlib.crc32(source.read(at, min(_CRC_PIECE_BYTES, offset + length - at)), crc)
    return crc
