"""Division of a series into chunks."""

from __future__ import annotations

import pytest
from factories import instance_record

from raypacs.config import CompressionRule
from raypacs.dicom import DEFLATED_EXPLICIT_VR_LE
from raypacs.records import StoredInstance
from raypacs.work.parts import Chunk
from raypacs.work.plan import plan_chunks

MIB = 1024 * 1024


def stored(**changes: object) -> StoredInstance:
    return StoredInstance(instance_record(**changes))


def frames_of(chunks: list[Chunk]) -> list[tuple[str, int]]:
    return [
        (piece.record.sop_instance_uid, number)
        for chunk in chunks
        for piece in chunk.pieces
        for number in range(piece.first, piece.first + piece.count)
    ]


def pixel_bytes(chunk: Chunk) -> int:
    return sum(p.count * p.record.rows * p.record.columns * 2 for p in chunk.pieces)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_frame_once_in_order_and_no_chunk_too_large(workers: int) -> None:
    instances = [stored(number=number) for number in range(140, 0, -1)]
    chunks = plan_chunks(instances, 16 * MIB, workers=workers)
    assert frames_of(chunks) == [(f"1.2.3.1.{number}", 0) for number in range(1, 141)]
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert max(map(pixel_bytes, chunks)) <= 16 * MIB


def test_the_last_chunks_are_small_so_that_workers_finish_together() -> None:
    chunks = plan_chunks([stored(number=n) for n in range(140)], 16 * MIB, workers=2)
    sizes = [pixel_bytes(chunk) for chunk in chunks]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 4 * MIB
    busy = [0, 0]
    for size in sizes:  # whoever is free takes the next
        busy[busy.index(min(busy))] += size
    assert max(busy) <= 1.05 * sum(sizes) / 2


def test_a_multi_frame_instance_spans_chunks() -> None:
    chunks = plan_chunks([stored(number=1, frames=2000)], 16 * MIB)
    assert frames_of(chunks) == [("1.2.3.1.1", number) for number in range(2000)]
    assert all(len(chunk.pieces) == 1 for chunk in chunks)
    assert max(map(pixel_bytes, chunks)) <= 16 * MIB


def test_a_deflated_instance_is_in_one_chunk_for_it_is_inflated_as_a_whole() -> None:
    deflated = stored(number=2, frames=2000, transfer_syntax_uid=DEFLATED_EXPLICIT_VR_LE)
    instances = [stored(number=1), deflated, *(stored(number=n) for n in range(3, 200))]
    chunks = plan_chunks(instances, 16 * MIB)
    holders = [chunk for chunk in chunks for p in chunk.pieces if p.record.frames == 2000]
    assert len(holders) == 1
    assert sorted(frames_of(chunks)) == sorted(set(frames_of(chunks)))
    assert len(frames_of(chunks)) == 2198


def test_a_frame_larger_than_a_chunk_is_a_chunk() -> None:
    chunks = plan_chunks([stored(number=n, rows=4096, columns=4096) for n in (1, 2)], MIB)
    assert [len(chunk.pieces) for chunk in chunks] == [1, 1]


def test_copied_instances_are_not_divided_and_weigh_little() -> None:
    rule = CompressionRule(name="as is", action="copy")
    instances = [stored(number=n, frames=100) for n in range(20)]
    (chunk,) = plan_chunks(instances, 16 * MIB, compression=[rule])
    assert [(piece.first, piece.count) for piece in chunk.pieces] == [(0, 0)] * 20


def test_series_are_kept_apart_and_search_attributes_left_behind() -> None:
    instances = [stored(number=1, series=series) for series in ("1.9", "1.8", "1.9")]
    chunks = plan_chunks(instances, 16 * MIB)
    assert [(chunk.series_uid, chunk.number) for chunk in chunks] == [("1.8", 0), ("1.9", 0)]
    assert all(not piece.record.attributes for chunk in chunks for piece in chunk.pieces)


def test_a_false_number_of_frames_costs_no_more_than_a_look() -> None:
    """Two such objects of 130 kB once stopped all preparation."""
    for syntax, length in (("1.2.840.10008.1.2.1", 131_072), ("1.2.840.10008.1.2.5", -1)):
        false = stored(
            number=1,
            frames=200_000_000,
            rows=256,
            columns=256,
            size_bytes=133_000,
            transfer_syntax_uid=syntax,
            pixel_length_bytes=length,
        )
        (chunk,) = plan_chunks([false, stored(number=2)], 16 * MIB)
        assert [(piece.first, piece.count) for piece in chunk.pieces] == [(0, 0), (0, 1)]


def test_chunks_are_numbered_by_series() -> None:
    big = [
        stored(number=n, series=s, rows=2048, columns=2048) for s in ("1.8", "1.9") for n in (1, 2)
    ]
    chunks = plan_chunks(big, MIB)
    assert [(c.series_uid, c.number) for c in chunks] == [
        ("1.8", 0),
        ("1.8", 1),
        ("1.9", 0),
        ("1.9", 1),
    ]


def test_nothing_to_do() -> None:
    assert plan_chunks([], 16 * MIB) == []
