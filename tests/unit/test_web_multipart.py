"""The incremental multipart reader, fed in every way a network can cut it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypacs.web.multipart import Part, PartReader, read_parts
from raypacs.web.problem import Problem

BODIES = [b"", b"\r\n", b"abc\r\n--abc", b"\0" * 300, b"a--b0undary in the text", b"\r\n--b0undar"]


def encode(bodies: list[bytes], boundary: str = "b0undary", preamble: bytes = b"") -> bytes:
    parts = [
        b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (boundary.encode(), body)
        for body in bodies
    ]
    return preamble + b"".join(parts) + b"--" + boundary.encode() + b"--\r\nepilogue"


def read(data: bytes, cuts: list[int], limit: int = 10_000) -> list[Part]:
    reader = PartReader("b0undary", limit)
    edges = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
    parts = [
        part for start, stop in itertools.pairwise(edges) for part in reader.feed(data[start:stop])
    ]
    reader.close()
    return parts


@given(st.lists(st.integers(0, 900)), st.sampled_from([b"", b"preamble\r\n"]))
def test_any_cuts_give_the_same_parts(cuts: list[int], preamble: bytes) -> None:
    parts = read(encode(BODIES, preamble=preamble), cuts)
    assert [part.body for part in parts] == BODIES
    assert parts[0].headers == {"content-type": "application/dicom"}


@given(st.lists(st.integers(0, 3000)))
def test_oversize_part_is_dropped_and_the_rest_goes_on(cuts: list[int]) -> None:
    parts = read(encode([b"a" * 100, b"b" * 1000, b"c"]), cuts, limit=100)
    assert [(part.body, part.oversize) for part in parts] == [
        (b"a" * 100, False),
        (b"", True),
        (b"c", False),
    ]


def test_memory_is_bounded_while_an_oversize_part_passes() -> None:
    reader = PartReader("b0undary", 100)
    assert not list(reader.feed(b"--b0undary\r\n\r\n"))
    for _ in range(100):
        assert not list(reader.feed(b"x" * 1000))
        assert len(reader._buffer) < 2000


def test_cut_off_body_is_refused() -> None:
    reader = PartReader("b0undary", 100)
    list(reader.feed(b"--b0undary\r\n\r\nabc"))
    with pytest.raises(Problem) as caught:
        reader.close()
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("", 415),
        ("text/plain", 415),
        ("multipart/form-data; boundary=x", 415),
        ('multipart/related; type="application/json"; boundary=x', 415),
        ('multipart/related; type="application/dicom"', 400),
    ],
)
def test_wrong_content_types(content_type: str, status: int) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    async def collect() -> list[Part]:
        found = read_parts(content_type, chunks(), limit_bytes=10, types=("application/dicom",))
        return [part async for part in found]

    with pytest.raises(Problem) as caught:
        asyncio.run(collect())
    assert caught.value.status == status
