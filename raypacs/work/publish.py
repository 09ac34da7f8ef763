"""Publishes a series: its parts become one pack and one header sidecar, visible at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from raypacs import layout
from raypacs.errors import NotFound
from raypacs.policy import rules
from raypacs.records import InstanceRecord, PreparedInstance, PreparedSeries
from raypacs.storage import pack_format
from raypacs.storage.pack_format import PackIndex, PackInstance, SidecarInstance, Span
from raypacs.storage.pack_writer import DeflatedBlock, PackWriter, SidecarWriter
from raypacs.storage.tier import Tier
from raypacs.work.parts import PartBlock, PartResult, PieceResult, PrepareContext
from raypacs.work.source import find_tier, tier_of
from raypacs.work.volume import series_volume

_PIECE_BYTES = 1024 * 1024


def publish_series(parts: Sequence[PartResult], context: PrepareContext) -> PreparedSeries:
    """Stream the parts of one series into its pack; nothing is deleted.

    The sidecar comes first: a pack that is visible is whole.

    Raises:
        NotFound: a part or an object to copy is gone.
        TierFull, TierUnavailable, AlreadyExists: nothing was published.
    """
    started = time.perf_counter()
    ordered = sorted(parts, key=lambda part: part.number)
    series = _Series(ordered, context)
    token, study_uid, series_uid = context.token, context.study_uid, ordered[0].series_uid
    path = layout.pack(study_uid, series_uid, token)
    header_path = layout.header_sidecar(path)
    web = tier_of(context.web)
    _drop_unfinished(web, (header_path, path))
    # The sidecar is flushed while the pack is being written, and waited for before that is seen.
    with (
        ThreadPoolExecutor(2) as beside,
        PackWriter(web, path, token=token) as pack,
    ):
        sidecar = beside.submit(series.write_sidecar, header_path, web)
        volume = beside.submit(series_volume, ordered, web, series.stays_prepared)
        index = series.write_pack(pack, web)
        if (made := volume.result()) is not None:
            index = replace(index, volume=pack.write_object([made]))
        header_bytes = sidecar.result()
        pack_bytes = pack.finish(index)
    return PreparedSeries(
        study_uid=study_uid,
        series_uid=series_uid,
        token=token,
        tier=context.web.name,
        pack_path=path,
        header_path=header_path,
        pack_bytes=pack_bytes,
        header_bytes=header_bytes,
        instances=tuple(_prepared(one, series.prepared_bytes(one)) for one in index.instances),
        seconds=time.perf_counter() - started + sum(part.seconds for part in parts),
    )


def abandon(context: PrepareContext, *, published: bool = False) -> None:
    """Delete the attempt's parts; with ``published`` also packs it may have published unreported.

    Safe to repeat. Objects are found by the attempt's own token, which nothing else carries.
    """
    web = tier_of(context.web)
    prefix = layout.attempt_prefix(context.token)
    doomed = [info.path for info in web.walk(prefix)]
    if published:
        names = (f"/{context.token}.pack", f"/{context.token}.hdr")
        study = layout.study_prefix(context.study_uid)
        doomed += [info.path for info in web.walk(study) if info.path.endswith(names)]
    for path in doomed:
        _delete(web, path)
    web.prune(prefix)


def _delete(tier: Tier, path: str) -> None:
    try:
        tier.delete(path)
    except NotFound:
        return  # somebody else was faster


def _drop_unfinished(tier: Tier, paths: Iterable[str]) -> None:
    """Remove what an earlier try of this very attempt left; it was never reported."""
    for path in paths:
        if tier.exists(path):
            _delete(tier, path)


def _prepared(instance: PackInstance, prepared_bytes: int) -> PreparedInstance:
    return PreparedInstance(
        sop_instance_uid=instance.sop_instance_uid,
        form=instance.form,
        reason=instance.reason,
        frames=instance.frames,
        raw_bytes=instance.raw_bytes,
        prepared_bytes=prepared_bytes,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        lossless_proven=instance.lossless_proven,
    )


class _Series:
    """The pieces of a series, gathered by instance, and where they lie in the parts."""

    def __init__(self, parts: Sequence[PartResult], context: PrepareContext) -> None:
        self._parts, self._context = parts, context
        self._pieces: dict[str, list[PieceResult]] = {}
        for part in parts:
            for piece in part.pieces:
                self._pieces.setdefault(piece.record.sop_instance_uid, []).append(piece)
        self._copied = {uid for uid, pieces in self._pieces.items() if not _is_whole(pieces)}
        self._bytes: dict[str, int] = {}

    def prepared_bytes(self, instance: PackInstance) -> int:
        """Bytes of an instance's frames, or of its copied object, in the pack."""
        return self._bytes[instance.sop_instance_uid]

    def write_sidecar(self, path: str, web: Tier) -> int:
        """Write and publish metadata and headers of all instances; return the size in bytes."""
        entries = []
        for number, part in enumerate(self._parts):
            for piece in part.pieces:
                if piece.metadata is None:
                    continue
                kept = piece.header is not None and not self._is_copied(piece)
                entries.append(
                    SidecarInstance(
                        piece.record.sop_instance_uid,
                        Span(number, *piece.metadata),
                        Span(number, *piece.header) if piece.header and kept else None,
                        piece.trailer_length if kept else 0,
                    )
                )
        metadata = [_block(web, part, part.metadata) for part in self._parts]
        headers = [_block(web, part, part.headers) for part in self._parts]
        with SidecarWriter(web, path, token=self._context.token) as sidecar:
            return sidecar.finish(metadata, headers, entries)

    def write_pack(self, pack: PackWriter, web: Tier) -> PackIndex:
        """Write low parts, rests and copied objects; return the index."""
        for part in self._parts:
            lows = ((piece, piece.low_length) for piece in part.pieces)
            for data in self._kept(web, part, part.low_offset, lows):
                pack.write_low(data)
        for part in self._parts:
            rests = ((piece, piece.rest_length) for piece in part.pieces)
            for data in self._kept(web, part, 0, rests):
                pack.write_rest(data)
        instances, table = self._index(pack)
        return PackIndex(
            study_uid=self._context.study_uid,
            series_uid=self._parts[0].series_uid,
            token=self._context.token,
            instances=tuple(instances),
            table=b"".join(table),
        )

    def stays_prepared(self, piece: PieceResult) -> bool:
        """Whether a piece is served as it was prepared: no frame of its instance failed."""
        return not self._is_copied(piece)

    def _is_copied(self, piece: PieceResult) -> bool:
        return piece.record.sop_instance_uid in self._copied

    def _kept(
        self,
        web: Tier,
        part: PartResult,
        offset: int,
        lengths: Iterable[tuple[PieceResult, int]],
    ) -> Iterator[bytes]:
        """Yield the bytes of the pieces that stay prepared; neighbours are read together."""
        start = end = offset
        for piece, length in lengths:
            if self._is_copied(piece) and length:
                yield from _range(web, part.path, start, end)
                start = end + length
            end += length
        yield from _range(web, part.path, start, end)

    def _index(self, pack: PackWriter) -> tuple[list[PackInstance], list[bytes]]:
        instances: list[PackInstance] = []
        table: list[bytes] = []
        low, rest, rows = pack.low_offset, pack.rest_offset, 0
        for uid, pieces in self._pieces.items():
            if uid in self._copied:
                fields = self._copied_fields(pieces, pack)
                data = pieces[0].table if len(pieces) == 1 else b""
            else:
                fields = _prepared_fields(pieces) | {"low_offset": low, "rest_offset": rest}
                data = b"".join(piece.table for piece in pieces)
                lows = sum(piece.low_length for piece in pieces)
                rests = sum(piece.rest_length for piece in pieces)
                self._bytes[uid] = lows + rests
                low, rest = low + lows, rest + rests
            count = len(data) // pack_format.FRAME.size
            instances.append(PackInstance(**fields, first_frame=rows, table_rows=count))
            table.append(data)
            rows += count
        return instances, table

    def _copied_fields(self, pieces: Sequence[PieceResult], pack: PackWriter) -> dict[str, Any]:
        """Copy an instance as received; the reason is that of its first piece that has one."""
        record = pieces[0].record
        offset, length, crc = pack.write_object(self._object(record))
        bad = next((piece for piece in pieces if piece.form == rules.COPIED), pieces[0])
        self._bytes[record.sop_instance_uid] = length
        return _common_fields(record) | {
            "form": rules.COPIED,
            "reason": bad.reason,
            "transfer_syntax_uid": record.transfer_syntax_uid,
            "photometric": record.photometric,
            "object_offset": offset,
            "object_length": length,
            "object_crc32": crc,
            "raw_bytes": record.size_bytes,
        }

    def _object(self, record: InstanceRecord) -> Iterator[bytes]:
        tier = find_tier(self._context.tiers, record.tier)
        return _range(tier, record.path, 0, record.size_bytes)


def _is_whole(pieces: Sequence[PieceResult]) -> bool:
    """Whether all frames of an instance were prepared."""
    return all(piece.form != rules.COPIED for piece in pieces) and (
        sum(piece.count for piece in pieces) == pieces[0].record.frames
    )


def _prepared_fields(pieces: Sequence[PieceResult]) -> dict[str, Any]:
    piece = pieces[0]
    return _common_fields(piece.record) | {
        "form": piece.form,
        "reason": piece.reason,
        "transfer_syntax_uid": piece.transfer_syntax_uid,
        "photometric": piece.photometric,
        "colour_transform": piece.colour_transform,
        "pixel_vr": piece.pixel_vr,
        "levels": piece.levels,
        "low_halvings": piece.low_halvings,
        "low_own": piece.low_own,
        "raw_bytes": sum(one.raw_bytes for one in pieces),
        "lossless_proven": True,
    }


def _common_fields(record: InstanceRecord) -> dict[str, Any]:
    return {
        "sop_instance_uid": record.sop_instance_uid,
        "sop_class_uid": record.sop_class_uid,
        "frames": record.frames,
        "rows": record.rows,
        "columns": record.columns,
        "samples": record.samples,
        "bits_allocated": record.bits_allocated,
        "bits_stored": record.bits_stored,
        "pixel_representation": record.pixel_representation,
    }


def _block(web: Tier, part: PartResult, block: PartBlock) -> DeflatedBlock:
    return DeflatedBlock(
        web.read(part.path, block.offset, block.length), block.raw_length, block.crc32
    )


def _range(tier: Tier, path: str, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from ``start`` to ``end`` of an object. Raises NotFound if it is shorter."""
    while start < end:
        data = tier.read(path, start, min(_PIECE_BYTES, end - start))
        if not data:
            raise NotFound(f"{path} ends at byte {start}, {end} expected", path=path)
        yield data
        start += len(data)
