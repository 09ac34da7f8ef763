"""Instances for libraries, losslessly recompressed (HTJ2K), and back to the bytes as received.

Only native pixels are coded, and only where the file that was received comes out of it again, byte
by byte: that is compared with the SHA-256 taken at its arrival, here and when a container is read
back. Whatever else there is stays as received.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypacs import dicom
from raypacs.codec import htj2k
from raypacs.codec.pixel_layout import PixelLayout
from raypacs.errors import ContainerCorrupt, MalformedInstance, ProofFailed, UnsupportedPixels
from raypacs.records import InstanceRecord
from raypacs.storage.container import AS_RECEIVED, Container, Member, Original
from raypacs.storage.tier import Tier
from raypacs.work.encode import EncodedFrames, encode_frames
from raypacs.work.headers import explicit_header, explicit_trailer
from raypacs.work.source import Scratch, Source

# A larger one would fill a worker's memory with its codes.
MOST_BYTES = 512 * 1024 * 1024
_WHOLE_BYTES = 16 * 1024 * 1024
_ITEM = struct.Struct("<HHI")
_PIXEL_DATA = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
_SYNTAXES = (dicom.EXPLICIT_VR_LE, dicom.IMPLICIT_VR_LE)


@dataclass(frozen=True, slots=True)
class Recompressed:
    """A Part 10 file in HTJ2K, and what is needed to give back the one that was received."""

    data: bytes
    transfer_syntax_uid: str
    original: Original


def record_of(row: dict[str, Any]) -> InstanceRecord:
    """Return a row of a manifest as a record; one of an earlier version has fewer columns."""
    return InstanceRecord(**{name: row[name] for name in InstanceRecord.__slots__ if name in row})


def recompressed(tier: Tier, record: InstanceRecord) -> Recompressed:
    """Recompress an instance, and prove it.

    Raises:
        UnsupportedPixels, MalformedInstance: it is to stay as received.
        ProofFailed: the received bytes do not come out of it again.
        NotFound, TierUnavailable: it cannot be read.
    """
    if record.transfer_syntax_uid not in _SYNTAXES or record.pixel_length_bytes <= 0:
        raise UnsupportedPixels("no native pixels in little endian")
    if record.size_bytes > MOST_BYTES:
        raise UnsupportedPixels(f"more than {MOST_BYTES} bytes")
    if record.bits_allocated not in (8, 16, 32):
        raise UnsupportedPixels(f"{record.bits_allocated} bits allocated")
    with Source(tier, record, Scratch(), whole_bytes=_WHOLE_BYTES) as source:
        layout = PixelLayout.of(record)
        if layout.shift or layout.subsampled or source.pixel_tag() != dicom.PIXEL_DATA:
            raise UnsupportedPixels("pixels that do not come back as they lie")
        encoded = encode_frames(source, 0, record.frames)
        data = _file(source, encoded)
        end = source.pixel_offset + source.pixel_length
        original = Original(
            bytes(source.read(0, source.pixel_offset)),
            bytes(source.read(end, source.size - end)),
            source.pixel_length,
        )
    found = Recompressed(data, encoded.transfer_syntax_uid, original)
    if not record.sha256 or _dataset_sha256(record, found.data, original) != record.sha256:
        raise ProofFailed("the received bytes do not come out of it again")
    return found


def as_received(container: Container, sop_instance_uid: str) -> Iterator[bytes]:
    """Yield an instance's file as it was received, from a container, in pieces of at most a frame.

    After the last piece it is checked.

    Raises:
        NotFound: no such instance, or container. TierUnavailable: it cannot be read.
        ContainerCorrupt: it is damaged.
    """
    member = container.member(sop_instance_uid)
    if member.form == AS_RECEIVED:
        yield from container.pieces(sop_instance_uid)
        return
    data = b"".join(container.pieces(sop_instance_uid))
    digest = hashlib.sha256()
    start, at = int(member.row["dataset_offset_bytes"]), 0
    for piece in _restored(record_of(member.row), data, _original_of(member)):
        digest.update(piece[max(0, start - at) :])
        at += len(piece)
        yield piece
    if digest.hexdigest() != member.sha256:
        raise ContainerCorrupt(f"{member.name} does not give what was received")


def differs(member: Member, data: bytes) -> str:
    """Say why a recompressed member does not give what was received; '' if it does."""
    try:
        found = _dataset_sha256(record_of(member.row), data, _original_of(member))
    except (ContainerCorrupt, MalformedInstance, UnsupportedPixels, LookupError) as exc:
        return str(exc)
    return "" if found == member.sha256 else "decoded, it differs from the SHA-256 at its arrival"


def _original_of(member: Member) -> Original:
    if member.original is None:
        raise ContainerCorrupt(f"{member.name} does not say what was received")
    return member.original


def _dataset_sha256(record: InstanceRecord, data: bytes, original: Original) -> str:
    digest = hashlib.sha256()
    start, at = record.dataset_offset_bytes, 0
    for piece in _restored(record, data, original):
        digest.update(piece[max(0, start - at) :])
        at += len(piece)
    return digest.hexdigest()


def _restored(record: InstanceRecord, data: bytes, original: Original) -> Iterator[bytes]:
    """Yield the file as received from its recompressed form."""
    yield original.head
    count = 0
    for code in _codes(data):
        frame = _native(htj2k.decode_frame(code), record)
        count += len(frame)
        yield frame
    if count > original.pixel_bytes:
        raise ContainerCorrupt("it has more frames than were received")
    yield bytes(original.pixel_bytes - count)
    yield original.tail


def _native(frame: np.ndarray[Any, Any], record: InstanceRecord) -> bytes:
    kind = "i" if record.pixel_representation == 1 else "u"
    if frame.ndim == 3 and record.planar_configuration == 1:
        frame = frame.transpose(2, 0, 1)
    return np.ascontiguousarray(frame.astype(f"<{kind}{record.bits_allocated // 8}")).tobytes()


def _codes(data: bytes) -> Iterator[memoryview]:
    """Yield the fragments of a file of ours: one a frame."""
    part10 = dicom.split_part10(data)
    header = dicom.scan(data, part10.transfer_syntax_uid, part10.dataset_offset)
    if header.pixel is None:
        raise ContainerCorrupt("it has no Pixel Data")
    view = memoryview(data)
    at = header.pixel.value_offset
    is_table = True
    while True:
        group, number, length = _ITEM.unpack_from(view, at)
        at += _ITEM.size
        if (group, number) != (0xFFFE, 0xE000):
            return
        if not is_table:
            yield view[at : at + length]
        is_table = False
        at += length


def _file(source: Source, encoded: EncodedFrames) -> bytes:
    """Return the Part 10 file of an instance with coded frames (PS3.5 annex A.4)."""
    record = source.record
    header = explicit_header(
        source.header(),
        photometric="YBR_RCT" if encoded.colour_transform else encoded.photometric,
        interleaved=record.samples > 1,
    )
    parts: list[bytes] = [
        dicom.file_meta(record.sop_class_uid, record.sop_instance_uid, encoded.transfer_syntax_uid),
        header,
        _PIXEL_DATA,
    ]
    codes = [
        bytes(rest) if encoded.low_own else b"".join((low, rest))
        for low, rest in zip(encoded.lows, encoded.rests, strict=True)
    ]
    codes = [code + b"\0" * (len(code) % 2) for code in codes]
    offsets, at = [], 0
    for code in codes:
        offsets.append(at)
        at += _ITEM.size + len(code)
    table = b""
    if len(codes) > 1 and offsets[-1] < 2**32:
        table = struct.pack(f"<{len(offsets)}I", *offsets)
    parts.append(_ITEM.pack(0xFFFE, 0xE000, len(table)) + table)
    for code in codes:
        parts += [_ITEM.pack(0xFFFE, 0xE000, len(code)), code]
    parts.append(_ITEM.pack(0xFFFE, 0xE0DD, 0))
    end = source.pixel_offset + source.pixel_length
    rest = source.read(end, source.size - end)
    if len(rest):
        syntax = dicom.IMPLICIT_VR_LE if source.header().implicit else dicom.EXPLICIT_VR_LE
        parts.append(explicit_trailer(rest, syntax, 0))
    return b"".join(parts)
