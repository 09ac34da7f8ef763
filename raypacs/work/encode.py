"""Frames of one piece: decoded from their source, encoded, decoded again and compared."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np

from raypacs import dicom
from raypacs.codec import bits, floats, htj2k
from raypacs.codec.fragments import Extent
from raypacs.codec.pixel_layout import Array, PixelLayout, sample_values
from raypacs.codec.registry import codec_of
from raypacs.codec.volume import plane_halvings
from raypacs.errors import MalformedInstance, ProofFailed, UnsupportedPixels
from raypacs.policy import rules
from raypacs.storage import pack_format
from raypacs.work.frame_reader import FloatReader, FrameReader, encapsulated_frames
from raypacs.work.source import Source

Buffer = bytes | bytearray | memoryview

_CRC_PIECE_BYTES = 4 * 1024 * 1024
_DIFFERS = "proof failed: a frame decoded again differs from its source"
_PIXEL_PRESENTATION = 0x00089205
_PIXEL_PRESENTATION_CS = b"\x08\0\x05\x92CS"
_OVERLAY_GROUPS = range(0x6000, 0x6100, 2)
_OVERLAY_BIT_POSITION, _OVERLAY_DATA = 0x0102, 0x3000
# Most instances there are: classic CT, MR, PET, CR and DX know no supplemental palette.
_WITHOUT_PALETTE = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("1", "1.1", "2", "4", "128")
)


@dataclass(slots=True)
class EncodedFrames:
    """Codes of consecutive frames, each split into low part and rest, and their table."""

    form: str = rules.HTJ2K
    transfer_syntax_uid: str = ""
    levels: int = 0
    low_halvings: int = 0
    low_own: bool = False
    colour_transform: bool = False
    photometric: str = ""
    high_bit: int | None = None
    pixel_vr: str = ""
    lows: list[memoryview] = field(default_factory=list)
    rests: list[memoryview] = field(default_factory=list)
    table: list[bytes] = field(default_factory=list)
    raw_bytes: int = 0
    plane_halvings: int = 0
    planes: list[memoryview] = field(default_factory=list)

    def add(self, low: Buffer, rest: Buffer) -> None:
        """Append one frame."""
        self.lows.append(memoryview(low))
        self.rests.append(memoryview(rest))
        self.table.append(
            pack_format.FRAME.pack(len(low), len(rest), zlib.crc32(low), zlib.crc32(rest))
        )


def encode_frames(
    source: Source, first: int, count: int, *, nearest: bool = False, planes: bool = False
) -> EncodedFrames:
    """Encode frames ``first`` to ``first + count`` (from 0) of an instance, each with its proof.

    The form follows from the pixels: floating point, single bits, or integers. ``nearest``: low
    resolutions are samples picked out, since averages of them mean nothing. ``planes``: keep grey
    frames at the resolution of a 3-D overview as well, while both cores are at it.

    Raises:
        UnsupportedPixels: a frame cannot be decoded beyond doubt, or not be coded without loss.
        ProofFailed: a code, decoded again, differed from its frame.
    """
    if source.pixel_tag() != dicom.PIXEL_DATA:
        return _encode_floats(source, range(first, first + count))
    layout = PixelLayout.of(source.record)
    frames = FrameReader(source, layout)
    result = EncodedFrames(photometric=layout.decoded_photometric, pixel_vr=source.pixel_vr())
    if layout.bits_allocated == 1:
        _be_native(result, rules.BITS, layout.rows, layout.columns)
    else:
        result.colour_transform = layout.samples == 3 and layout.decoded_photometric == "RGB"
        result.low_own = nearest or _is_palette(source)
        if layout.shift:
            result.high_bit = layout.bits_stored - 1
        if planes and layout.samples == 1 and not result.low_own:
            levels = htj2k.decomposition_levels(layout.rows, layout.columns)
            result.plane_halvings = plane_halvings(max(layout.rows, layout.columns), levels)
    for number in range(first, first + count):
        if result.form == rules.BITS:
            _encode_bits(frames.read(number), result)
        else:
            cells = frames.read(number)
            values = sample_values(cells, layout)
            if values is not cells:
                _check_overlays(source, layout)
            _encode_one(values, layout, result)
        result.raw_bytes += layout.decoded_bytes
    return result


def _check_overlays(source: Source, layout: PixelLayout) -> None:
    """Raise UnsupportedPixels if an overlay lies in bits of the cells that are not kept.

    Overlays without Overlay Data lie in the samples' cells, by Overlay Bit Position (60xx,0102)
    (retired, PS3.5 section 8.1.2): shifted or sign-extended, their bit would mean something else.
    """
    header = source.header()
    for element in header.elements:
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if group not in _OVERLAY_GROUPS or number != _OVERLAY_BIT_POSITION:
            continue
        bit = header.number(element.tag)
        embedded = not header.has(group << 16 | _OVERLAY_DATA)
        if embedded and (layout.shift or bit > layout.high_bit):
            raise UnsupportedPixels(f"overlay {group:04X} lies in bit {bit} of the samples' cells")


def _encode_one(frame: Array, layout: PixelLayout, result: EncodedFrames) -> None:
    codec = codec_of(rules.HTJ2K)
    stream = codec.encode(
        frame,
        bits_stored=layout.bits_stored,
        signed=layout.signed,
        colour_transform=result.colour_transform,
        levels=1 if result.low_own else None,
    )
    if not htj2k.same_samples(codec.decode(stream.data), frame):
        raise ProofFailed(_DIFFERS)
    if not result.transfer_syntax_uid:  # the same for all frames of one size
        result.levels = stream.levels
        if result.low_own:
            # Resolutions of the codestream are averages, which nobody should be led to.
            result.transfer_syntax_uid = dicom.HTJ2K_LOSSLESS
            result.low_halvings = _halvings(layout.rows, layout.columns)
        else:
            result.transfer_syntax_uid = htj2k.transfer_syntax(stream.data)
            low = htj2k.low_resolution(layout.rows, layout.columns, stream.levels)
            result.low_halvings = stream.levels - low
    if result.low_own:
        small = bits.nearest(frame, result.low_halvings)
        low_stream = codec.encode(
            small,
            bits_stored=layout.bits_stored,
            signed=layout.signed,
            colour_transform=result.colour_transform,
            levels=1,
        )
        if not htj2k.same_samples(codec.decode(low_stream.data), small):
            raise ProofFailed(_DIFFERS)
        result.add(low_stream.data, stream.data)
        return
    view = memoryview(stream.data)
    split = stream.resolution_ends[result.levels - result.low_halvings]
    result.add(view[:split], view[split:])
    if result.plane_halvings:
        end = stream.resolution_ends[result.levels - result.plane_halvings]
        plane = htj2k.decode_frame(view[:end], skip_resolutions=result.plane_halvings)
        result.planes.append(np.ascontiguousarray(plane).data.cast("B"))


def _encode_bits(frame: Array, result: EncodedFrames) -> None:
    rows, columns = frame.shape
    code = bits.encode_frame(frame)
    if not np.array_equal(bits.decode_frame(code, rows=rows, columns=columns), frame):
        raise ProofFailed(_DIFFERS)
    if result.low_own:
        result.add(bits.encode_frame(bits.nearest(frame, result.low_halvings)), code)
    else:
        result.add(code, b"")


def _encode_floats(source: Source, numbers: range) -> EncodedFrames:
    frames, record = FloatReader(source), source.record
    result = EncodedFrames(photometric=record.photometric, pixel_vr=frames.pixel_vr)
    _be_native(result, rules.WAVELET, record.rows, record.columns)
    for number in numbers:
        frame = frames.read(number)
        code = floats.encode_frame(frame)
        decoded = floats.decode_frame(
            code, rows=record.rows, columns=record.columns, bits=record.bits_allocated
        )
        if not floats.same_bits(decoded, frame):
            raise ProofFailed(_DIFFERS)
        if result.low_own:
            result.add(floats.encode_low(frame, result.low_halvings), code)
        else:
            result.add(code, b"")
        result.raw_bytes += frames.frame_bytes
    return result


def _be_native(result: EncodedFrames, form: str, rows: int, columns: int) -> None:
    """Note a form that no transfer syntax has: decoded, its frames are native.

    A frame of at most 64 x 64 is its own low resolution.
    """
    result.form = form
    result.transfer_syntax_uid = dicom.EXPLICIT_VR_LE
    result.low_halvings = _halvings(rows, columns)
    result.low_own = result.low_halvings > 0


def _halvings(rows: int, columns: int) -> int:
    """Return how often the longer side is halved until it is at most 64."""
    side = max(rows, columns)
    return next(count for count in range(32) if -(-side >> count) <= htj2k.BASE_SIDE)


def _is_palette(source: Source) -> bool:
    """Whether grey samples are mapped through a supplemental palette (PS3.3 section C.8.15.3.1.1).

    Pixel Presentation (0008,9205) says so. Functional groups may have one of their own, which does
    not count.
    """
    record = source.record
    if record.photometric != "MONOCHROME2" or record.sop_class_uid in _WITHOUT_PALETTE:
        return False
    if plain := source.plain_header():
        # Most have none, which is seen without a scan.
        at = plain.find(_PIXEL_PRESENTATION_CS)
        if at < 0:
            return False
        end = at + 8 + int.from_bytes(plain[at + 6 : at + 8], "little")
        try:
            header = dicom.scan(plain[:end], dicom.EXPLICIT_VR_LE)
        except MalformedInstance:  # within a sequence, or bytes of another value
            header = source.header()
    else:
        header = source.header()
    return header.text(_PIXEL_PRESENTATION) in ("COLOR", "MIXED")


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
    length = record.rows * record.columns * record.samples * record.bits_allocated
    if record.photometric == "YBR_FULL_422":
        length = length * 2 // 3
    size = length // 8
    if length == 0 or length % 8 or record.frames * size > record.pixel_length_bytes:
        return []
    return [(record.pixel_offset_bytes + n * size, size) for n in range(record.frames)]


def _crc32(source: Source, offset: int, length: int) -> int:
    crc = 0
    for at in range(offset, offset + length, _CRC_PIECE_BYTES):
        crc = zlib.crc32(source.read(at, min(_CRC_PIECE_BYTES, offset + length - at)), crc)
    return crc
