"""PREPARE: from instances as received to a published pack per series, with proof.

    plan_chunks -> prepare_chunk (a stateless task each) -> publish_series -> abandon (parts)

A chunk's task reads its instances, encodes their frames, decodes each again and compares, and
writes one part object. What cannot be prepared beyond doubt is copied as received when the series
is published, with the reason; a bad frame costs its instance the wavelet form, nothing else.
"""

from __future__ import annotations

import json
import logging
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from raypacs import dicom, layout
from raypacs.codec.pixel_layout import served_colour
from raypacs.config import Settings
from raypacs.dicom_json import with_colour
from raypacs.errors import (
    ConfigError,
    MalformedInstance,
    ProofFailed,
    RaypacsError,
    UnsupportedPixels,
)
from raypacs.policy import placement, rules
from raypacs.records import InstanceRecord, Lease
from raypacs.storage.pack_writer import DeflatedBlock
from raypacs.storage.tier import Buffer, Tier
from raypacs.work.encode import EncodedFrames, copied_table, encode_frames
from raypacs.work.headers import explicit_header, explicit_trailer
from raypacs.work.icons import with_native_icons
from raypacs.work.metadata import SeriesMetadata
from raypacs.work.parts import (
    Chunk,
    PartBlock,
    PartResult,
    Piece,
    PieceResult,
    PrepareContext,
)
from raypacs.work.plan import plan_chunks
from raypacs.work.publish import abandon, publish_series
from raypacs.work.source import Scratch, Source, find_tier, tier_of

__all__ = [
    "Chunk",
    "PartResult",
    "PrepareContext",
    "abandon",
    "make_context",
    "metadata_of",
    "plan_chunks",
    "prepare_chunk",
    "publish_series",
]

# A larger object is read by ranges, so that one never fills a worker's memory.
_WHOLE_BYTES = 16 * 1024 * 1024
_DEFLATE_LEVEL = 4
_PIXEL_GROUP = b"\xe0\x7f"
_PIXEL_GROUP_LENGTH = _PIXEL_GROUP + b"\0\0"
_log = logging.getLogger(__name__)
_NOT_PREPARED = (UnsupportedPixels, ProofFailed, MalformedInstance)
# What a decoder may throw at damaged data that nobody foresaw: one instance is copied as received,
# the rest of the study goes on.
_UNFORESEEN = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError),
    *(BufferError, struct.error),
)


def make_context(
    settings: Settings,
    lease: Lease,
    *,
    available_bytes: Mapping[str, int] | None = None,
    need_bytes: int = 0,
) -> PrepareContext:
    """Return what the tasks of a leased PREPARE need.

    ``available_bytes`` is the room on each tier that may be written now (None: any has room),
    ``need_bytes`` what the study takes, roughly. Where no tier has that room, the roomiest is
    tried: only the tier itself knows.

    Raises:
        ConfigError: there is no web tier to write to.
    """
    webs = {tier.name: tier for tier in settings.tiers if tier.role == "web" and tier.takes_new}
    if not webs:
        raise ConfigError("no web tier that can be written", hint="add a tier with role 'web'")
    rooms = [
        placement.TierRoom(name, "web", tier.order, _room(available_bytes, name, need_bytes))
        for name, tier in webs.items()
    ]
    chosen = placement.choose(rooms, role="web", need_bytes=need_bytes)
    if chosen is None:
        chosen = max(rooms, key=lambda room: (room.available_bytes, -room.order)).name
    return PrepareContext(
        study_uid=lease.study_uid,
        token=lease.token,
        tiers=settings.tiers,
        web=webs[chosen],
        compression=settings.compression,
        inline_value_bytes=settings.inline_value_bytes,
    )


def _room(available_bytes: Mapping[str, int] | None, name: str, need_bytes: int) -> int:
    return need_bytes if available_bytes is None else available_bytes.get(name, -1)


def prepare_chunk(chunk: Chunk, context: PrepareContext) -> PartResult:
    """Prepare the pieces of one chunk and write its part object; safe to repeat.

    Raises:
        NotFound, TierUnavailable: an instance cannot be read.
        TierFull: no room for the part.
    """
    started = time.perf_counter()
    maker = metadata_of(chunk.series_uid, context.inline_value_bytes, threading.get_ident())
    work = _ChunkWork(context, maker, chunk.stack)
    results = [work.piece(piece) for piece in chunk.pieces]
    path = layout.attempt_part(context.token, chunk.series_uid, chunk.number)
    low_offset, metadata, headers = work.write(tier_of(context.web), path)
    return PartResult(
        series_uid=chunk.series_uid,
        number=chunk.number,
        path=path,
        low_offset=low_offset,
        metadata=metadata,
        headers=headers,
        pieces=tuple(results),
        seconds=time.perf_counter() - started,
    )


@lru_cache(maxsize=2)
def metadata_of(series_uid: str, inline_value_bytes: int, thread: int) -> SeriesMetadata:
    """Kept from chunk to chunk of a series, since its slices repeat most elements."""
    del series_uid, thread
    return SeriesMetadata(inline_value_bytes)


@dataclass
class _ChunkWork:
    """What one chunk collects before it is written: at most its pixels' bytes."""

    context: PrepareContext
    metadata: SeriesMetadata
    stack: bool = False
    scratch: Scratch = field(default_factory=Scratch)
    lows: list[memoryview] = field(default_factory=list)
    rests: list[memoryview] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    planes: list[memoryview] = field(default_factory=list)
    _texts_length: int = 0
    _headers_length: int = 0

    def piece(self, piece: Piece) -> PieceResult:
        """Prepare one piece, or say why its instance is copied."""
        record = piece.record
        tier = find_tier(self.context.tiers, record.tier)
        choice = rules.choose(record, self.context.compression)
        with Source(tier, record, self.scratch, whole_bytes=_WHOLE_BYTES) as source:
            reason = choice.reason
            if choice.form != rules.COPIED:
                try:
                    return self._prepared(piece, source, choice)
                except _NOT_PREPARED as exc:
                    reason = str(exc)
                except _UNFORESEEN as exc:
                    if isinstance(exc, RaypacsError):  # the tier, the configuration: not the pixels
                        raise
                    _log.exception("not transcoded", extra={"sop": record.sop_instance_uid})
                    reason = f"cannot be transcoded: {type(exc).__name__}"
            return self._copied(piece, source, reason)

    def _prepared(self, piece: Piece, source: Source, choice: rules.Choice) -> PieceResult:
        encoded = encode_frames(
            source, piece.first, piece.count, nearest=choice.nearest, planes=self.stack
        )
        result = PieceResult(
            record=piece.record,
            first=piece.first,
            count=piece.count,
            form=encoded.form,
            reason=choice.reason,
            transfer_syntax_uid=encoded.transfer_syntax_uid,
            table=b"".join(encoded.table),
            low_length=sum(map(len, encoded.lows)),
            rest_length=sum(map(len, encoded.rests)),
            levels=encoded.levels,
            low_halvings=encoded.low_halvings,
            low_own=encoded.low_own,
            colour_transform=encoded.colour_transform,
            photometric=encoded.photometric,
            pixel_vr=encoded.pixel_vr,
            raw_bytes=encoded.raw_bytes,
            plane_halvings=encoded.plane_halvings,
        )
        if piece.first == 0:
            result = self._with_header(result, source, encoded)
        self.lows += encoded.lows
        self.rests += encoded.rests
        self.planes += encoded.planes
        return result

    def _with_header(
        self, result: PieceResult, source: Source, encoded: EncodedFrames
    ) -> PieceResult:
        """Add header, trailer and metadata, which describe the samples that decoders give."""
        header = _explicit_header(source, encoded)
        trailer = _trailer(source)
        text = self.metadata.of_explicit(header, _uri(source.record))
        offset = self._headers_length
        self.headers += [header, trailer]
        self._headers_length += len(header) + len(trailer)
        return replace(
            result,
            metadata=self._add_text(text),
            header=(offset, len(header) + len(trailer)),
            trailer_length=len(trailer),
            geometry=self.metadata.geometry,
        )

    def _copied(self, piece: Piece, source: Source, reason: str) -> PieceResult:
        whole = piece.count in (0, piece.record.frames)
        return PieceResult(
            record=piece.record,
            first=piece.first,
            count=piece.count,
            form=rules.COPIED,
            reason=reason,
            transfer_syntax_uid=piece.record.transfer_syntax_uid,
            table=_copied_table(source) if whole else b"",
            raw_bytes=piece.record.size_bytes if piece.first == 0 else 0,
            photometric=piece.record.photometric,
            metadata=self._add_text(self._source_text(source)) if piece.first == 0 else None,
        )

    def _source_text(self, source: Source) -> str:
        try:
            text = self.metadata.of_header(source.header(), _uri(source.record))
        except (MalformedInstance, *_UNFORESEEN) as exc:
            if isinstance(exc, RaypacsError) and not isinstance(exc, MalformedInstance):
                raise
            # Received whole, so it stays in the series, with what identifies it.
            return _identity(source.record)
        colour = served_colour(source.record)
        return text if colour is None else with_colour(text, colour)

    def _add_text(self, text: str) -> tuple[int, int]:
        """Append the DICOM JSON of an instance; return its place in the metadata block."""
        data = text.encode()
        if self.texts:
            self.texts.append(b",")
            self._texts_length += 1
        self.texts.append(data)
        offset = self._texts_length
        self._texts_length += len(data)
        return offset, len(data)

    def write(self, tier: Tier, path: str) -> tuple[int, PartBlock, PartBlock]:
        """Write the part: rests, low parts, metadata, headers, planes.

        Returns:
            Where low parts, metadata and headers lie.
        """
        metadata = DeflatedBlock.of(self.texts, level=_DEFLATE_LEVEL)
        headers = DeflatedBlock.of(self.headers, level=_DEFLATE_LEVEL)
        low_offset = sum(map(len, self.rests))
        lows = b"".join(self.lows)
        at = low_offset + len(lows)
        chunks: list[Buffer] = [*self.rests, lows, metadata.data, headers.data, *self.planes]
        # An attempt that was cut off after writing leaves its part; the same bytes come again.
        if tier.exists(path):
            tier.delete(path)
        tier.put_transient(path, chunks)
        return (
            low_offset,
            PartBlock(at, len(metadata.data), metadata.raw_length, metadata.crc32),
            PartBlock(
                at + len(metadata.data), len(headers.data), headers.raw_length, headers.crc32
            ),
        )


def _copied_table(source: Source) -> bytes:
    """Return where frames lie in a copied object; empty where that cannot be told."""
    try:
        return copied_table(source)
    except (*_NOT_PREPARED, *_UNFORESEEN) as exc:
        if isinstance(exc, RaypacsError) and not isinstance(exc, _NOT_PREPARED):
            raise
        return b""


def _explicit_header(source: Source, encoded: EncodedFrames) -> bytes:
    """Return the header in Explicit VR Little Endian, as it goes with decoded samples."""
    record = source.record
    as_it_is = encoded.photometric == record.photometric and not record.planar_configuration
    as_it_is = as_it_is and encoded.high_bit is None
    plain = source.plain_header() if as_it_is else b""
    # A group length before Pixel Data would be wrong for codestreams, and so would offset tables.
    if plain[-12:-8] == _PIXEL_GROUP_LENGTH:
        plain = plain[:-12]
    if plain and _PIXEL_GROUP not in plain:
        return plain
    header = explicit_header(
        source.header(),
        photometric=encoded.photometric,
        interleaved=record.samples > 1,
        high_bit=encoded.high_bit,
    )
    if dicom.is_encapsulated(source.transfer_syntax_uid):
        return with_native_icons(header, source.transfer_syntax_uid)
    return header


def _trailer(source: Source) -> bytes:
    """Return the elements after Pixel Data: rare, but part of the data set."""
    end = source.pixel_offset + source.pixel_length
    if source.pixel_length < 0:
        end = _end_of_fragments(source)
    rest = source.read(end, source.size - end)
    if not len(rest):
        return b""
    header = source.header()
    syntax = dicom.IMPLICIT_VR_LE if header.implicit else dicom.EXPLICIT_VR_LE
    if header.big_endian:
        syntax = dicom.EXPLICIT_VR_BE
    try:
        return explicit_trailer(rest, syntax, 0)
    except MalformedInstance as exc:
        raise UnsupportedPixels(f"after Pixel Data: {exc}") from exc


def _uri(record: InstanceRecord) -> str:
    return (
        f"/dicom-web/studies/{record.study_uid}/series/{record.series_uid}"
        f"/instances/{record.sop_instance_uid}"
    )


def _identity(record: InstanceRecord) -> str:
    values = {
        "00080016": record.sop_class_uid,
        "00080018": record.sop_instance_uid,
        "0020000D": record.study_uid,
        "0020000E": record.series_uid,
    }
    return json.dumps({tag: {"vr": "UI", "Value": [uid]} for tag, uid in values.items()})


def _end_of_fragments(source: Source) -> int:
    """Return the offset after the Sequence Delimitation Item of encapsulated Pixel Data."""
    at = source.pixel_offset
    while True:
        item = source.read(at, 8)
        if len(item) < 8:
            return source.size
        at += 8
        if bytes(item[:4]) == b"\xfe\xff\xdd\xe0":
            return at
        at += int.from_bytes(item[4:], "little")
