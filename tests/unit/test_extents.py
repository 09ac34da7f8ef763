"""Ranges of one object, read together: the same bytes by fewer reads."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from raypacs.storage.extents import Extent, joined, read_joined

DATA = bytes(range(256)) * 4
extents_ = st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 300)), max_size=30)


@given(extents_, st.integers(0, 300), st.integers(1, 2000))
def test_the_bytes_are_those_of_single_reads(
    extents: list[Extent], gap_bytes: int, most_bytes: int
) -> None:
    asked: list[Extent] = []

    def read_all(wanted: list[Extent]) -> list[bytes]:
        asked.extend(wanted)
        return [DATA[start : start + length] for start, length in wanted]

    found = read_joined(read_all, extents, gap_bytes=gap_bytes, most_bytes=most_bytes)
    assert found == [DATA[start : start + length] for start, length in extents]
    longest = max((length for _, length in extents), default=0)
    assert all(length <= max(most_bytes, longest) for _, length in asked)
    assert len(asked) <= sum(length > 0 for _, length in extents)


@given(extents_, st.integers(0, 300))
def test_reads_do_not_touch_each_other_without_need(extents: list[Extent], gap_bytes: int) -> None:
    reads = joined(extents, gap_bytes=gap_bytes, most_bytes=1 << 30)
    for one, other in itertools.pairwise(reads):
        assert other.start - (one.start + one.length) > gap_bytes
    members = sorted(place for read in reads for place in read.members)
    assert members == [place for place, (_, length) in enumerate(extents) if length > 0]


def test_what_lies_far_apart_stays_apart() -> None:
    near, far = [(0, 10), (15, 10)], [(5000, 10)]
    reads = joined(near + far, gap_bytes=100, most_bytes=1000)
    assert [(one.start, one.length) for one in reads] == [(0, 25), (5000, 10)]
    assert [one.length for one in joined(near, gap_bytes=100, most_bytes=20)] == [10, 10]
