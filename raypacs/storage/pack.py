"""Reads a prepared series: its pack and its header sidecar (``docs/pack-format.md``).

Only range reads, so any tier will do. Every frame is checked against its CRC-32 when it is read
through here. Pixels are not decoded here; where decoded samples are wanted the caller gives the
decoder.
"""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raypacs import dicom
from raypacs.errors import NotFound, PackCorrupt, UnsupportedPixels
from raypacs.records import PackRef
from raypacs.storage import pack_format as fmt
from raypacs.storage.pack_elements import joined_bits, native_element, with_photometric
from raypacs.storage.pack_format import PackInstance
from raypacs.storage.tier import Tier

__all__ = ["LowFrame", "Pack", "PackInstance"]

Extent = tuple[int, int]
DecodeFrame = Callable[[bytes, PackInstance], bytes]

_TAIL_BYTES = 64 * 1024
_PIECE_BYTES = 4 * 1024 * 1024
_ITEM = struct.Struct("<HHI")


@dataclass(frozen=True, slots=True)
class LowFrame:
    """The low part of one frame: it alone gives the frame halved ``low_halvings`` times."""

    sop_instance_uid: str
    frame_number: int
    data: bytes


class Pack:
    """One published pack. Frame numbers count from 1, as in DICOM. Thread-safe, immutable."""

    def __init__(self, tier: Tier, ref: PackRef) -> None:
        """Read footer and index.

        Raises:
            NotFound: no such object. PackCorrupt: damaged, or of a later version.
        """
        self._tier, self._ref = tier, ref
        size = tier.size(ref.pack_path)
        start = max(0, size - _TAIL_BYTES)
        tail = tier.read(ref.pack_path, start, size - start)
        self.footer = fmt.decode_pack_footer(tail, size)
        begin = self.footer.index_offset
        if begin < start:
            data = tier.read(ref.pack_path, begin, self.footer.index_length)
        else:
            data = tail[begin - start : begin - start + self.footer.index_length]
        self._index = fmt.decode_pack_index(data, self.footer)
        if self._index.token != ref.token:
            raise PackCorrupt("pack carries another token than its path", path=ref.pack_path)
        self.instances: dict[str, PackInstance] = {
            one.sop_instance_uid: one for one in self._index.instances
        }
        self._rows: dict[str, list[tuple[int, ...]]] = {}

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return self._index.study_uid

    @property
    def series_uid(self) -> str:
        """Series Instance UID."""
        return self._index.series_uid

    def instance(self, sop_uid: str) -> PackInstance:
        """Return one instance. Raises NotFound."""
        try:
            return self.instances[sop_uid]
        except KeyError as exc:
            raise NotFound(f"no instance {sop_uid} in this pack", sop_instance_uid=sop_uid) from exc

    # ---- frames -------------------------------------------------------------------------------
    def frame_extents(self, sop_uid: str, number: int) -> tuple[Extent, ...]:
        """Return where in the pack file frame ``number`` lies: its bytes are these ranges, joined.

        A prepared frame is its code in the instance's form: low part and rest, or the rest where
        the low part is a code of its own. A copied one is as received.

        Raises:
            NotFound: no such instance or frame.
            UnsupportedPixels: a copied object whose frames do not lie whole (use read_object).
        """
        instance = self.instance(sop_uid)
        row = self._row(instance, number)
        if row is None:
            raise UnsupportedPixels("the frames of this copied object do not lie in one piece each")
        if instance.form == fmt.COPIED:
            return ((instance.object_offset + row[0], row[1]),)
        low, rest, low_length, rest_length = row[:4]
        if instance.low_own:
            return ((rest, rest_length),)
        return ((low, low_length), (rest, rest_length))

    def read_frame(self, sop_uid: str, number: int) -> bytes:
        """Return one frame, checked: its code in the instance's form, or a frame as received.

        Raises:
            NotFound: no such instance or frame. PackCorrupt: the CRC-32 differs.
            UnsupportedPixels: a copied object whose frames do not lie whole (use read_object).
        """
        instance = self.instance(sop_uid)
        row = self._row(instance, number)
        if row is None:
            raise UnsupportedPixels("the frames of this copied object do not lie in one piece each")
        if instance.form == fmt.COPIED:
            return self._read(instance.object_offset + row[0], row[1], row[2])
        low, rest, low_length, rest_length, low_crc, rest_crc = row
        if instance.low_own:
            return self._read(rest, rest_length, rest_crc)
        extents = ((low, low_length), (rest, rest_length))
        first, second = self._tier.read_ranges(self._ref.pack_path, extents)
        self._check(first, low_length, low_crc)
        self._check(second, rest_length, rest_crc)
        return first + second

    def read_rest(self, sop_uid: str, number: int) -> bytes:
        """Return what follows the low part of a prepared frame, checked: as :meth:`read_low`."""
        instance = self.instance(sop_uid)
        row = self._row(instance, number)
        if row is None or instance.form == fmt.COPIED:
            raise UnsupportedPixels("copied objects have no low resolution")
        return self._read(row[1], row[3], row[5])

    def read_low(self, sop_uid: str, number: int) -> bytes:
        """Return the low part of one prepared frame, checked. Raises as :meth:`read_frame`."""
        instance = self.instance(sop_uid)
        row = self._row(instance, number)
        if row is None or instance.form == fmt.COPIED:
            raise UnsupportedPixels("copied objects have no low resolution")
        return self._read(row[0], row[2], row[4])

    def low_extent(self) -> Extent:
        """Return the one range of the pack file that holds the low parts of all frames."""
        return self.footer.low_offset, self.footer.low_length

    def low_resolution(self) -> Iterator[LowFrame]:
        """Yield the low parts of all prepared frames in order, from one range read.

        Raises:
            PackCorrupt: a CRC-32 differs.
        """
        start, length = self.low_extent()
        data = self._tier.read(self._ref.pack_path, start, length)
        for instance in self._index.instances:
            if instance.form == fmt.COPIED:
                continue
            for number in range(1, instance.frames + 1):
                row = self._row(instance, number)
                if row is None:
                    continue
                low = data[row[0] - start : row[0] - start + row[2]]
                self._check(low, row[2], row[4])
                yield LowFrame(instance.sop_instance_uid, number, low)

    def _row(self, instance: PackInstance, number: int) -> tuple[int, ...] | None:
        """Return a frame's row; None where a copied object has none.

        Prepared: (low offset, rest offset, low length, rest length, CRC of low, CRC of rest).
        Copied: (offset in the object, length, CRC).
        """
        if not 1 <= number <= instance.frames:
            raise NotFound(f"no frame {number}; the instance has {instance.frames}")
        if instance.table_rows == 0:
            return None
        rows = self._rows.get(instance.sop_instance_uid)
        if rows is None:
            rows = self._rows[instance.sop_instance_uid] = self._load_rows(instance)
        return rows[number - 1]

    def _load_rows(self, instance: PackInstance) -> list[tuple[int, ...]]:
        begin = instance.first_frame * fmt.FRAME.size
        raw = self._index.table[begin : begin + instance.table_rows * fmt.FRAME.size]
        if len(raw) != instance.frames * fmt.FRAME.size:
            raise PackCorrupt("the frame table is too short", path=self._ref.pack_path)
        if instance.form == fmt.COPIED:
            return list(fmt.COPIED_FRAME.iter_unpack(raw))
        rows = list(fmt.FRAME.iter_unpack(raw))
        lows = itertools.accumulate((row[0] for row in rows), initial=instance.low_offset)
        rests = itertools.accumulate((row[1] for row in rows), initial=instance.rest_offset)
        return [(low, rest, *row) for low, rest, row in zip(lows, rests, rows, strict=False)]

    def _read(self, offset: int, length: int, crc32: int) -> bytes:
        data = self._tier.read(self._ref.pack_path, offset, length)
        self._check(data, length, crc32)
        return data

    def _check(self, data: bytes, length: int, crc32: int) -> None:
        if len(data) != length or zlib.crc32(data) != crc32:
            raise PackCorrupt("a frame differs from its CRC-32", path=self._ref.pack_path)

    # ---- copied objects -----------------------------------------------------------------------
    def read_object(self, sop_uid: str) -> bytes:
        """Return a copied Part 10 file as received, checked. Raises NotFound, PackCorrupt."""
        instance = self.instance(sop_uid)
        if instance.form != fmt.COPIED:
            raise NotFound(f"instance {sop_uid} was prepared, not copied")
        return self._read(instance.object_offset, instance.object_length, instance.object_crc32)

    # ---- 3-D overview -------------------------------------------------------------------------
    @property
    def has_volume(self) -> bool:
        """Whether the pack carries a 3-D overview."""
        return self._index.volume is not None

    def read_volume(self) -> bytes:
        """Return the 3-D overview, checked. Raises NotFound, PackCorrupt."""
        if self._index.volume is None:
            raise NotFound("the series has no 3-D overview", path=self._ref.pack_path)
        return self._read(*self._index.volume)

    # ---- headers ------------------------------------------------------------------------------
    @cached_property
    def _sidecar(self) -> fmt.SidecarIndex:
        path = self._ref.header_path
        size = self._tier.size(path)
        start = max(0, size - _TAIL_BYTES)
        tail = self._tier.read(path, start, size - start)
        offset, length, crc = fmt.decode_sidecar_footer(tail)
        data = (
            tail[offset - start : offset - start + length]
            if offset >= start
            else self._tier.read(path, offset, length)
        )
        index = fmt.decode_sidecar_index(data, crc)
        if index.token != self._ref.token:
            raise PackCorrupt("sidecar carries another token than its pack", path=path)
        return index

    @cached_property
    def _sidecar_instances(self) -> dict[str, fmt.SidecarInstance]:
        return {one.sop_instance_uid: one for one in self._sidecar.instances}

    def _sidecar_instance(self, sop_uid: str) -> fmt.SidecarInstance:
        self.instance(sop_uid)
        try:
            return self._sidecar_instances[sop_uid]
        except KeyError as exc:
            raise PackCorrupt(f"the sidecar has no instance {sop_uid}") from exc

    def metadata_gzip(self) -> bytes:
        """Return the DICOM JSON array of all instances (PS3.18 annex F), gzip'd, as it lies."""
        sidecar = self._sidecar
        data = self._tier.read(self._ref.header_path, sidecar.gzip_offset, sidecar.gzip_length)
        if len(data) != sidecar.gzip_length:
            raise PackCorrupt("the header sidecar is cut off", path=self._ref.header_path)
        return data

    def metadata(self, sop_uid: str) -> dict[str, Any]:
        """Return the DICOM JSON of one instance."""
        span = self._sidecar_instance(sop_uid).metadata
        text = self._span(self._sidecar.metadata_blocks, span)
        result: dict[str, Any] = json.loads(text)
        return result

    def header_bytes(self, sop_uid: str, *, prepared: bool = True) -> bytes:
        """Return the data set before Pixel Data, Explicit VR Little Endian, of a prepared instance.

        ``prepared``: as it goes with the codestreams; otherwise as with decoded samples. They
        differ in Photometric Interpretation where a colour transform was applied.

        Raises:
            NotFound: no such instance, or a copied one (its header is in the object).
        """
        header, _ = self._header_and_trailer(sop_uid)
        instance = self.instance(sop_uid)
        if prepared and instance.colour_transform:
            return with_photometric(header, "YBR_RCT")
        return header

    def _header_and_trailer(self, sop_uid: str) -> tuple[bytes, bytes]:
        entry = self._sidecar_instance(sop_uid)
        if entry.header is None:
            raise NotFound(f"instance {sop_uid} was copied; its header is in the object")
        data = self._span(self._sidecar.header_blocks, entry.header)
        split = len(data) - entry.trailer_length
        return data[:split], data[split:]

    def _span(self, blocks: tuple[fmt.Block, ...], span: fmt.Span) -> bytes:
        if not 0 <= span.block < len(blocks):
            raise PackCorrupt("the header sidecar is damaged", path=self._ref.header_path)
        return self._block(blocks[span.block])[span.offset : span.offset + span.length]

    def _block(self, block: fmt.Block) -> bytes:
        packed = self._tier.read(self._ref.header_path, block.offset, block.length)
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, block.raw_length)
        except zlib.error as exc:
            raise PackCorrupt("the header sidecar is damaged", path=self._ref.header_path) from exc
        if len(data) != block.raw_length or zlib.crc32(data) != block.crc32:
            raise PackCorrupt("the header sidecar is damaged", path=self._ref.header_path)
        return data

    # ---- the whole of it ----------------------------------------------------------------------
    def check_frames(self) -> None:
        """Read every frame, copied object and 3-D overview. Raises NotFound, PackCorrupt."""
        if self.has_volume:
            self.read_volume()
        for uid, instance in self.instances.items():
            if instance.form == fmt.COPIED:
                for _ in self._object_pieces(instance):
                    continue
                continue
            for number in range(1, instance.frames + 1):
                self.read_frame(uid, number)
                if instance.low_own:
                    self.read_low(uid, number)

    def check_headers(self) -> None:
        """Read the whole header sidecar. Raises NotFound, PackCorrupt."""
        try:
            zlib.decompress(self.metadata_gzip(), 16 + zlib.MAX_WBITS)
        except zlib.error as exc:
            raise PackCorrupt(
                "metadata differs from its CRC-32", path=self._ref.header_path
            ) from exc
        sidecar = self._sidecar
        for block in (*sidecar.metadata_blocks, *sidecar.header_blocks):
            self._block(block)

    # ---- whole instances ----------------------------------------------------------------------
    def part10(
        self, sop_uid: str, transfer_syntax_uid: str = "", decode: DecodeFrame | None = None
    ) -> Iterator[bytes]:
        """Return an instance as a Part 10 file, in pieces of at most a frame.

        ``transfer_syntax_uid``: that of the pack (default), or Explicit VR Little Endian with
        ``decode``, which gives the native bytes of a frame's code; those of single bits padded to
        whole bytes.

        Raises:
            NotFound: no such instance. PackCorrupt: damaged.
            UnsupportedPixels: another transfer syntax is asked for.
        """
        instance = self.instance(sop_uid)
        wanted = transfer_syntax_uid or instance.transfer_syntax_uid
        if instance.form == fmt.COPIED and wanted == instance.transfer_syntax_uid:
            return self._object_pieces(instance)
        if instance.form == fmt.HTJ2K and wanted == instance.transfer_syntax_uid:
            return self._encapsulated(instance)
        coded = instance.form != fmt.COPIED
        if coded and wanted == dicom.EXPLICIT_VR_LE and decode is not None:
            return self._native(instance, decode)
        raise UnsupportedPixels(
            f"the pack holds {instance.transfer_syntax_uid}, not {wanted}",
            transfer_syntax_uid=wanted,
        )

    def _object_pieces(self, instance: PackInstance) -> Iterator[bytes]:
        crc, done = 0, 0
        while done < instance.object_length:
            length = min(_PIECE_BYTES, instance.object_length - done)
            piece = self._tier.read(self._ref.pack_path, instance.object_offset + done, length)
            if len(piece) != length:
                raise PackCorrupt("pack is cut off", path=self._ref.pack_path)
            crc, done = zlib.crc32(piece, crc), done + length
            yield piece
        if crc != instance.object_crc32:
            raise PackCorrupt("a copied object differs from its CRC-32", path=self._ref.pack_path)

    def _head(self, instance: PackInstance, transfer_syntax_uid: str) -> bytes:
        prepared = transfer_syntax_uid == instance.transfer_syntax_uid
        return dicom.file_meta(
            instance.sop_class_uid, instance.sop_instance_uid, transfer_syntax_uid
        ) + self.header_bytes(instance.sop_instance_uid, prepared=prepared)

    def _encapsulated(self, instance: PackInstance) -> Iterator[bytes]:
        """One fragment a frame, with a Basic Offset Table where it can hold the offsets (A.4)."""
        uid = instance.sop_instance_uid
        yield self._head(instance, instance.transfer_syntax_uid)
        offsets = []
        at = 0
        for number in range(1, instance.frames + 1):
            offsets.append(at)
            length = sum(length for _, length in self.frame_extents(uid, number))
            at += 8 + length + length % 2
        table = b""
        if instance.frames > 1 and offsets[-1] < 2**32:
            table = struct.pack(f"<{len(offsets)}I", *offsets)
        yield (
            struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
            + _ITEM.pack(0xFFFE, 0xE000, len(table))
            + table
        )
        for number in range(1, instance.frames + 1):
            frame = self.read_frame(uid, number)
            padding = b"\0" * (len(frame) % 2)
            yield _ITEM.pack(0xFFFE, 0xE000, len(frame) + len(padding)) + frame + padding
        yield _ITEM.pack(0xFFFE, 0xE0DD, 0) + self._header_and_trailer(uid)[1]

    def _native(self, instance: PackInstance, decode: DecodeFrame) -> Iterator[bytes]:
        uid = instance.sop_instance_uid
        samples = instance.rows * instance.columns * instance.samples
        length = -(-instance.frames * samples * instance.bits_allocated // 8)
        padding = length % 2
        if length + padding >= 0xFFFFFFFF:
            raise UnsupportedPixels("decoded pixels are longer than an element can be (PS3.5 7.1)")
        tag, vr = native_element(instance)
        yield self._head(instance, dicom.EXPLICIT_VR_LE) + struct.pack(
            "<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length + padding
        )
        frames = (
            decode(self.read_frame(uid, number), instance)
            for number in range(1, instance.frames + 1)
        )
        yield from joined_bits(frames, samples) if instance.form == fmt.BITS else frames
        yield b"\0" * padding + self._header_and_trailer(uid)[1]
