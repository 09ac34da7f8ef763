"""Headers of codestreams, read by hand before a decoder sees them: what is cut off, impossible or
of another meaning is refused; and the whole is what its encoder was given.
"""

from __future__ import annotations

import struct

import coded_frames as made
import imagecodecs
import numpy as np
import pytest

from raypacs.codec import jpeg, jpeg_2000, jpeg_xl
from raypacs.errors import UnsupportedPixels

GREY = made.smooth(33, 45, depth=12)
RGB = made.colour(33, 45)


# ---- JPEG and JPEG-LS -------------------------------------------------------------------------
@pytest.mark.parametrize("predictor", range(1, 8))
def test_header_of_lossless_jpeg(predictor: int) -> None:
    header = jpeg.read_header(made.jpeg_lossless(GREY, 12, predictor=predictor))
    assert (header.frame, header.depth, header.rows, header.columns) == (0xC3, 12, 33, 45)
    assert [scan.first for scan in header.scans] == [predictor]
    assert header.declared_colour == ""


def test_colour_that_a_jpeg_names_itself() -> None:
    assert jpeg.read_header(made.jpeg_lossless(RGB, 8)).declared_colour == "RGB"  # Adobe
    assert jpeg.read_header(imagecodecs.jpeg8_encode(RGB)).declared_colour == "YBR"  # JFIF
    assert jpeg.read_header(imagecodecs.jpegls_encode(RGB)).declared_colour == ""


def test_header_of_jpeg_ls() -> None:
    header = jpeg.read_header(imagecodecs.jpegls_encode(GREY, level=2))
    assert header.frame == jpeg.SOF_JPEG_LS
    assert [scan.first for scan in header.scans] == [2]
    assert not header.hp_transform
    code = imagecodecs.jpegls_encode(RGB)
    assert jpeg.read_header(code[:2] + b"\xff\xe8\0\7mrfx\1" + code[2:]).hp_transform


@pytest.mark.parametrize("code", [made.jpeg_lossless(GREY, 12), imagecodecs.jpegls_encode(GREY)])
def test_every_cut_of_a_jpeg_is_seen(code: bytes) -> None:
    assert jpeg.read_header(code + b"\0").rows == 33
    for end in range(len(code) - 1):
        with pytest.raises(UnsupportedPixels):
            jpeg.read_header(code[:end])


def test_two_jpegs_in_one_frame() -> None:
    code = imagecodecs.jpegls_encode(GREY)
    with pytest.raises(UnsupportedPixels, match="two"):
        jpeg.read_header(code + code)


def test_without_an_end_it_can_still_be_looked_at() -> None:
    code = imagecodecs.jpeg8_encode(RGB)
    assert jpeg.read_header(code[:-9], whole=False).columns == 45


# ---- JPEG 2000 --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (made.jpeg_2000(GREY, 12), (1, 12, False, False, True, False)),
        (made.jpeg_2000(RGB, 8), (3, 8, False, True, True, False)),
        (made.jpeg_2000(GREY.astype("i2"), 13), (1, 13, True, False, True, False)),
        (made.jpeg_2000(GREY, 12, reversible=False), (1, 12, False, False, False, False)),
        (imagecodecs.htj2k_encode(GREY, tlm=True, tilepart=1), (1, 16, False, False, True, True)),
        (imagecodecs.htj2k_encode(RGB), (3, 8, False, True, True, True)),
        (imagecodecs.htj2k_encode(GREY, level=0.01), (1, 16, False, False, False, True)),
    ],
)
def test_header_of_jpeg_2000(code: bytes, expected: tuple[object, ...]) -> None:
    header = jpeg_2000.read_header(code)
    assert (header.rows, header.columns, header.tiles) == (33, 45, 1)
    found = (header.components, header.depth, header.signed, header.colour_transform)
    assert (*found, header.reversible, header.high_throughput) == expected


@pytest.mark.parametrize(
    "code", [made.jpeg_2000(GREY, 12), imagecodecs.htj2k_encode(GREY, tlm=True, tilepart=1)]
)
def test_every_cut_of_a_jpeg_2000_codestream_is_seen(code: bytes) -> None:
    assert jpeg_2000.read_header(code + b"\0").rows == 33
    for end in range(len(code) - 1):
        with pytest.raises(UnsupportedPixels):
            jpeg_2000.read_header(code[:end])


def _changed(offset: int, layout: str, *values: int) -> bytes:
    code = bytearray(made.jpeg_2000(RGB, 8))
    struct.pack_into(layout, code, offset, *values)
    return bytes(code)


# SIZ lies at 2, its body at 6: capabilities, then eight sizes at 8; COD's body follows at 57.
_COD = 6 + 36 + 9 + 4


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (_changed(24, ">II", 1, 1)[:], "missing tile-parts"),
        (_changed(8, ">II", 60_000, 60_000), "impossible tiles|missing tile-parts"),
        (_changed(8, ">I", 0), "without an area"),
        (_changed(24, ">I", 0), "without an area"),
        (_changed(32, ">I", 9), "impossible tiles"),
        (_changed(40, ">H", 0), "components"),
        (_changed(40, ">H", 16_384), "components"),
        (_changed(43, "B", 2), "sub-sampled"),
        (_changed(45, "B", 11), "different depths"),
        (_changed(_COD + 1, "B", 9), "impossible coding style"),
        (_changed(_COD + 2, ">H", 0), "impossible coding style"),
        (_changed(_COD + 5, "B", 33), "impossible coding style"),
        (_changed(_COD + 6, "B", 9), "impossible coding style"),
        (_changed(_COD + 9, "B", 2), "impossible coding style"),
        (_changed(_COD, "B", 1), "empty precincts|damaged|cut off"),
    ],
)
def test_what_no_decoder_should_be_given(code: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedPixels, match=reason):
        jpeg_2000.read_header(code)


def test_jp2_files() -> None:
    code = made.jpeg_2000(GREY, 12)
    file = imagecodecs.jpeg2k_encode(GREY, level=0, reversible=True, codecformat="jp2")
    assert jpeg_2000.unwrapped(code) == code
    assert jpeg_2000.read_header(jpeg_2000.unwrapped(file)).rows == 33
    palette = file.replace(b"colr", b"pclr")
    with pytest.raises(UnsupportedPixels, match="palette"):
        jpeg_2000.unwrapped(palette)


# ---- JPEG XL ----------------------------------------------------------------------------------
@pytest.mark.parametrize("effort", [1, 4])
@pytest.mark.parametrize(("depth", "kind"), [(8, "u1"), (10, "u2"), (12, "u2"), (16, "u2")])
@pytest.mark.parametrize("shape", [(33, 45), (64, 64), (520, 600, 3), (1, 1)])
def test_header_of_lossless_jpeg_xl(
    shape: tuple[int, ...], depth: int, kind: str, effort: int
) -> None:
    values = np.random.default_rng(0).integers(0, 1 << depth, shape).astype(kind)
    code = imagecodecs.jpegxl_encode(values, lossless=True, bitspersample=depth, effort=effort)
    header = jpeg_xl.read_header(code)
    assert (header.rows, header.columns) == shape[:2] == jpeg_xl.read_size(code)
    assert (header.samples, header.depth, header.why_lossy) == (len(shape) * 2 - 3, depth, "")


def test_lossy_jpeg_xl() -> None:
    assert "XYB" in jpeg_xl.read_header(imagecodecs.jpegxl_encode(RGB, level=90)).why_lossy
    recompressed = imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(RGB))
    with pytest.raises(UnsupportedPixels, match="recompressed"):
        jpeg_xl.read_header(recompressed)
    assert jpeg_xl.read_size(recompressed) == (33, 45)


def test_rubbish_is_no_jpeg_xl() -> None:
    code = imagecodecs.jpegxl_encode(GREY, lossless=True, bitspersample=16)
    for data in (b"", b"\xff\x0a", b"rubbish" * 9, code[:20], code[:40]):
        with pytest.raises(UnsupportedPixels):
            jpeg_xl.read_header(data)
