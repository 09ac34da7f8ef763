"""Frames of instances as received that do not lie ready in them: they are found and put together.

Nothing here takes time or memory of the whole object for each of its frames: they are read by
ranges, and what had to be gone through as a whole is remembered.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from raypacs import dicom
from raypacs.codec import bits
from raypacs.codec.fragments import ReadRange, extended_offset_table, frame_fragments
from raypacs.codec.pixel_layout import PixelLayout
from raypacs.codec.words import paired_bytes
from raypacs.errors import (
    InstanceAway,
    NotFound,
    ObjectChanged,
    TierUnavailable,
    UnsupportedPixels,
)
from raypacs.records import InstanceRecord
from raypacs.storage.adopted import check_unchanged
from raypacs.web import pixels
from raypacs.web.object_file import Extent, ObjectFiles
from raypacs.web.places import Place
from raypacs.web.services import Services

_MOST_LISTS = 512
_MOST_KEPT_BYTES = 256 * 1024 * 1024


def fragments_of(
    stream: io.BufferedIOBase, record: InstanceRecord, frames: int
) -> list[list[Extent]]:
    """Return where each frame's fragments lie (PS3.5 section A.4). Raises UnsupportedPixels."""

    def read(offset: int, length: int) -> bytes:
        stream.seek(offset)
        return stream.read(length)

    start, end = record.dataset_offset_bytes, record.pixel_offset_bytes - 12
    offsets, lengths = extended_offset_table(read(start, end - start))
    return frame_fragments(read, record.pixel_offset_bytes, frames, offsets, lengths)


@dataclass
class Received:
    """Reads what does not lie ready; ``original`` opens an instance as received. Thread-safe."""

    services: Services
    files: ObjectFiles
    original: Callable[[Place], io.BufferedIOBase]
    _in_packs: OrderedDict[tuple[str, str], list[list[Extent]]] = field(default_factory=OrderedDict)
    _inflated: tuple[tuple[str, str], bytearray, int] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def packed_frame(self, place: Place, number: int) -> bytes:
        """Return a frame in fragments of an object that was copied into the pack; blocks.

        Raises:
            UnsupportedPixels: frames cannot be told apart. PackCorrupt: the object is damaged.
        """
        pack, record = place.pack, place.stored.record
        if pack is None:
            raise NotFound(f"instance {record.sop_instance_uid} is in no pack")
        uid, key = record.sop_instance_uid, _key(place)
        with self._lock:
            found = self._in_packs.get(key)
            if found is None:
                # Once through the whole of it, which is checked then.
                whole = io.BytesIO(pack.reader.read_object(uid))
                found = self._in_packs[key] = fragments_of(whole, record, place.frames)
                while len(self._in_packs) > _MOST_LISTS:
                    self._in_packs.popitem(last=False)
        start = pack.reader.instance(uid).object_offset
        return b"".join(pack.file.read(start + at, length) for at, length in found[number - 1])

    def picture(self, place: Place, number: int) -> pixels.Picture:
        """Return a frame of native Pixel Data, however it lies there; blocks.

        Raises:
            UnsupportedPixels: no layout that is known. NotFound: the instance is gone.
        """
        record = place.stored.record
        read, offset = self._reader(place)
        big = record.transfer_syntax_uid == dicom.EXPLICIT_VR_BE
        paired = big and record.bits_allocated <= 8 and read(offset - 8, 2) != b"OB"
        # What is handed on is little endian.
        plain = replace(record, transfer_syntax_uid=dicom.EXPLICIT_VR_LE)
        if record.bits_allocated == 1:
            first, length, bit = bits.extent(number - 1, record.rows * record.columns)
            _check_end(record, first + length)
            data = (paired_bytes if paired else _bytes)(read, offset, first, length)
            return pixels.from_bits(plain, data, bit)
        size, subsampled = _frame_bytes(plain)
        _check_end(record, number * size)
        data = (paired_bytes if paired else _bytes)(read, offset, (number - 1) * size, size)
        if big and record.bits_allocated > 8:
            data = np.frombuffer(data, f"u{record.bits_allocated // 8}").byteswap().tobytes()
        found = pixels.from_native(plain, data)
        return replace(found, photometric="YBR_FULL") if subsampled else found

    def _reader(self, place: Place) -> tuple[ReadRange, int]:
        """Return what reads the data set, and where the value of Pixel Data begins in it."""
        record = place.stored.record
        if record.transfer_syntax_uid in dicom.DEFLATED:
            return self._inflate(place)
        try:
            tier = self.services.tier(record.tier)
            check_unchanged(tier, record)
            return self.files.get(tier, record).read, record.pixel_offset_bytes
        except (NotFound, TierUnavailable) as exc:
            pack = place.pack
            if pack is None or place.is_coded:
                if isinstance(exc, ObjectChanged | TierUnavailable):
                    raise
                raise InstanceAway(
                    f"instance {record.sop_instance_uid} left tier {record.tier}".rstrip(),
                    study_uid=record.study_uid,
                ) from exc
            start = pack.reader.instance(record.sop_instance_uid).object_offset
            return pack.file.read, start + record.pixel_offset_bytes

    def _inflate(self, place: Place) -> tuple[ReadRange, int]:
        """Inflate a data set; the last one is kept, since its other frames are wanted next."""
        with self._lock:
            kept = self._inflated
            if kept is None or kept[0] != _key(place):
                self._inflated = None
                with self.original(place) as stream:
                    packed = stream.read()
                data = dicom.inflate(packed, place.stored.record.dataset_offset_bytes)
                pixel = dicom.scan(data, dicom.EXPLICIT_VR_LE).pixel
                if pixel is None:
                    raise UnsupportedPixels("the instance has no Pixel Data")
                kept = (_key(place), data, pixel.value_offset)
                if len(data) <= _MOST_KEPT_BYTES:
                    self._inflated = kept
        whole = memoryview(kept[1])
        return (lambda at, length: bytes(whole[at : at + length])), kept[2]


def _key(place: Place) -> tuple[str, str]:
    return place.token, place.stored.record.sop_instance_uid


def _frame_bytes(record: InstanceRecord) -> tuple[int, bool]:
    """Return the bytes of a native frame, and whether two pixels of it share their chroma."""
    if record.bits_stored == 0:  # floats
        return record.rows * record.columns * record.bits_allocated // 8, False
    layout = PixelLayout.of(record)
    return layout.frame_bytes, layout.subsampled


def _check_end(record: InstanceRecord, end: int) -> None:
    if end > record.pixel_length_bytes:
        raise UnsupportedPixels(f"Pixel Data of {record.pixel_length_bytes} bytes is too short")


def _bytes(read: ReadRange, offset: int, first: int, length: int) -> bytes:
    return read(offset + first, length)
