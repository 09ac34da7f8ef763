"""How the instances of a series are divided into chunks: pure.

Chunks hold at most ``chunk_bytes`` of decoded pixels, so that a worker's memory is bounded, and
get smaller towards the end, so that all workers finish together: each takes a share of what is
left, as in guided self-scheduling. A deflated instance is in one chunk, however large: it can only
be inflated as a whole, so a worker that takes a part of it has all of it in memory anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from raypacs import dicom
from raypacs.codec.geometry import FEWEST_FRAMES
from raypacs.config import CompressionRule
from raypacs.policy import rules
from raypacs.records import InstanceRecord, StoredInstance
from raypacs.work.parts import Chunk, Piece

_SMALLEST_CHUNK_BYTES = 2 * 1024 * 1024
_LOOK_BYTES = 64 * 1024  # what an instance that is only copied weighs
_LAST = 2**62


def plan_chunks(
    instances: Iterable[StoredInstance],
    chunk_bytes: int,
    *,
    compression: Sequence[CompressionRule] = (),
    workers: int = 2,
) -> list[Chunk]:
    """Divide the instances of one series (or several) into chunks, in the order of the pack.

    The order is that of Instance Number; a chunk never spans two series, and a multi-frame
    instance may span many chunks. ``workers`` is how many are expected to share the work.
    """
    ordered = sorted((stored.record for stored in instances), key=_order)
    sizes = [_size(record, compression) for record in ordered]
    left = sum(max(size * record.frames, _LOOK_BYTES) for record, size in _with(ordered, sizes))
    chunks: list[Chunk] = []
    pieces: list[Piece] = []
    series, room = "", 0
    for record, size in _with(ordered, sizes):
        if record.series_uid != series:
            _close(chunks, series, pieces)
            series, room = record.series_uid, _target(left, chunk_bytes, workers)
        for piece, weight in _pieces(record, size, chunk_bytes):
            if pieces and weight > room:
                _close(chunks, series, pieces)
                room = _target(left, chunk_bytes, workers)
            pieces.append(piece)
            room -= weight
            left -= weight
    _close(chunks, series, pieces)
    grey: Counter[str] = Counter()
    for record, size in _with(ordered, sizes):
        if size and record.samples == 1:
            grey[record.series_uid] += record.frames
    return [replace(chunk, stack=grey[chunk.series_uid] >= FEWEST_FRAMES) for chunk in chunks]


def _with(records: list[InstanceRecord], sizes: list[int]) -> Iterable[tuple[InstanceRecord, int]]:
    return zip(records, sizes, strict=True)


def _order(record: InstanceRecord) -> tuple[str, int, str]:
    number = record.instance_number
    return record.series_uid, _LAST if number is None else number, record.sop_instance_uid


def _close(chunks: list[Chunk], series_uid: str, pieces: list[Piece]) -> None:
    if pieces:
        follows = chunks and chunks[-1].series_uid == series_uid
        number = chunks[-1].number + 1 if follows else 0
        chunks.append(Chunk(series_uid, number, tuple(_joined(pieces))))
        pieces.clear()


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Join neighbouring frames of one instance."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last is not None and last.record is piece.record:
            joined[-1] = replace(last, count=last.count + piece.count)
        else:
            joined.append(piece)
    return joined


def _target(left: int, chunk_bytes: int, workers: int) -> int:
    return min(chunk_bytes, max(_SMALLEST_CHUNK_BYTES, left // (2 * max(1, workers))))


def _size(record: InstanceRecord, compression: Sequence[CompressionRule]) -> int:
    """Return the bytes of one decoded frame, 0 for an instance that is only copied."""
    if rules.choose(record, compression).form == rules.COPIED:
        return 0
    return record.rows * record.columns * record.samples * max(1, record.bits_allocated // 8)


def _pieces(record: InstanceRecord, size: int, chunk_bytes: int) -> Iterable[tuple[Piece, int]]:
    """Yield the smallest pieces of an instance that chunks are made of, with their weights.

    Frames go in runs of at most an eighth of a chunk, so that a chunk is filled well; those of a
    deflated instance in one.
    """
    slim = replace(record, attributes={})  # search attributes are of no use to a worker
    if size == 0:
        yield Piece(slim), _LOOK_BYTES
        return
    run = max(1, chunk_bytes // 8 // size)
    if record.transfer_syntax_uid in dicom.DEFLATED:
        run = max(1, record.frames)
    for first in range(0, record.frames, run):
        count = min(run, record.frames - first)
        yield Piece(slim, first, count), count * size
