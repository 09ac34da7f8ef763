"""Decoding for display: JPEG 2000 that does not say what the header says."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from raypacs.errors import UnsupportedPixels
from raypacs.records import InstanceRecord
from raypacs.web import pixels
from tests.factories import instance_record

BITS = 12
SIGNED = np.random.default_rng(3).integers(-2048, 2048, (9, 11)).astype(np.int16)
UNSIGNED = SIGNED.view(np.uint16) & 0xFFF


def record(syntax: str, *, signed: bool) -> InstanceRecord:
    return instance_record(
        transfer_syntax_uid=syntax,
        rows=9,
        columns=11,
        samples=1,
        bits_allocated=16,
        bits_stored=BITS,
        high_bit=BITS - 1,
        pixel_representation=int(signed),
        photometric="MONOCHROME2",
    )


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"])
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("header_signed", [False, True])
@pytest.mark.parametrize("stream_signed", [False, True])
def test_pixel_representation_wins_and_boxes_are_passed_over(
    syntax: str, boxed: bool, header_signed: bool, stream_signed: bool
) -> None:
    coded = imagecodecs.jpeg2k_encode(
        SIGNED if stream_signed else UNSIGNED,
        codecformat="JP2" if boxed else "J2K",
        reversible=True,
        bitspersample=BITS,
    )
    assert coded.startswith(b"\xff\x4f") != boxed
    got = pixels.from_encapsulated(record(syntax, signed=header_signed), coded)
    expected = SIGNED if header_signed else UNSIGNED
    assert np.array_equal(got.array, expected)
    assert got.native_bytes() == expected.tobytes()


@pytest.mark.parametrize("data", [b"", b"\0" * 40, b"\xff\x4f\xff\x51\0"])
def test_what_is_no_codestream_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedPixels):
        pixels.from_encapsulated(record("1.2.840.10008.1.2.4.90", signed=False), data)


def test_a_codestream_of_another_size_is_not_decoded() -> None:
    coded = imagecodecs.jpeg2k_encode(np.zeros((99, 99), np.uint16), codecformat="J2K")
    with pytest.raises(UnsupportedPixels, match="size"):
        pixels.from_encapsulated(record("1.2.840.10008.1.2.4.90", signed=False), coded)
