"""Which fragments make which frame: offset tables, wrong ones, none, and the codestreams."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from coded_frames import encapsulated

from raypacs.codec.fragments import frame_fragments
from raypacs.errors import UnsupportedPixels

JPEG = b"\xff\xd8\xff\xf7%s\xff\xd9"
FIRST, SECOND = JPEG % b"first frame.", JPEG % b"second frame, longer"
HALVES = [FIRST[:8], FIRST[8:], SECOND[:10], SECOND[10:]]
STARTS = [0, 16 + len(FIRST)]


def frames_of(
    data: bytes, frames: int, offsets: Sequence[int] = (), lengths: Sequence[int] = ()
) -> list[bytes]:
    found = frame_fragments(lambda at, n: data[at : at + n], 0, frames, offsets, lengths)
    return [b"".join(data[at : at + size] for at, size in frame) for frame in found]


@pytest.mark.parametrize(
    "table",
    [
        STARTS,
        (),
        [0],
        [0, 7],
        [0, 8 + len(HALVES[0])],  # an item, but not one that begins a codestream
        [STARTS[1], 0],
        [4, STARTS[1]],
        [0, 0],
        [0, STARTS[1], 99],
    ],
)
def test_frames_of_several_fragments_whatever_the_table_says(table: list[int]) -> None:
    assert frames_of(encapsulated(HALVES, table), 2) == [FIRST, SECOND]


def test_a_table_is_needed_where_codestreams_have_no_beginning() -> None:
    parts = [b"aaaa", b"bb", b"cccccc"]
    assert frames_of(encapsulated(parts, [0, 22]), 2) == [b"aaaabb", b"cccccc"]
    with pytest.raises(UnsupportedPixels, match="3 fragments for 2 frames"):
        frames_of(encapsulated(parts), 2)


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_a_number_of_frames_that_the_codestreams_deny(frames: int) -> None:
    with pytest.raises(UnsupportedPixels, match=f"4 fragments for {frames} frames"):
        frames_of(encapsulated(HALVES), frames)


def test_one_frame_in_fragments() -> None:
    assert frames_of(encapsulated([FIRST[:8], FIRST[8:]]), 1) == [FIRST]
    assert frames_of(encapsulated([b"aa", b"bb"], [0]), 1) == [b"aabb"]


def test_bytes_that_look_like_a_beginning_inside_a_codestream() -> None:
    tricky = [b"\xff\xd8\xff\xf7abcd", b"\xff\xd8\xffmore!\xff\xd9"]
    assert frames_of(encapsulated(tricky), 1) == [b"".join(tricky)]


def test_extended_offset_table_cuts_off_the_padding() -> None:
    odd = [b"aaa", b"bbbbb"]
    data = encapsulated(odd)
    assert frames_of(data, 2) == [b"aaa\0", b"bbbbb\0"]
    assert frames_of(data, 2, [0, 12]) == [b"aaa\0", b"bbbbb\0"]
    assert frames_of(data, 2, [0, 12], [3, 5]) == odd


@pytest.mark.parametrize("lengths", [[3], [3, 4], [9, 5], [0, 5]])
def test_extended_lengths_that_cannot_be(lengths: list[int]) -> None:
    data = encapsulated([b"aaa", b"bbbbb"])
    assert frames_of(data, 2, [0, 12], lengths) == [b"aaa\0", b"bbbbb\0"]


@pytest.mark.parametrize("offsets", [[0, 13], [0], [0, 0], [0, 12, 20], [2**63, 12]])
def test_extended_offsets_that_cannot_be(offsets: list[int]) -> None:
    data = encapsulated([b"aaa", b"bbbbb"])
    assert frames_of(data, 2, offsets, [3, 5]) == [b"aaa\0", b"bbbbb\0"]


def test_extended_offsets_of_frames_in_fragments_are_used_like_basic_ones() -> None:
    assert frames_of(encapsulated(HALVES), 2, STARTS) == [FIRST, SECOND]


def test_the_end_may_lack_the_delimiter_but_no_byte() -> None:
    assert frames_of(encapsulated(HALVES, end=False), 2) == [FIRST, SECOND]
    with pytest.raises(UnsupportedPixels, match="cut off"):
        frames_of(encapsulated(HALVES, end=False)[:-1], 2)


def test_an_item_of_odd_length() -> None:
    items = [b"", b"odd", b"even"]
    data = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    assert frames_of(data, 2) == [b"odd", b"even"]
