"""Frames that are only looked at: what real archives hold, lossy or not quite right."""

from __future__ import annotations

from dataclasses import replace

import coded_frames as made
import factories
import imagecodecs
import numpy as np
import pytest

from raypacs.codec import shown
from raypacs.errors import UnsupportedPixels

J = made.J
GREY = made.smooth(33, 45, depth=12)
RGB = made.colour(33, 45)
MONO = replace(
    factories.instance_record(),
    rows=33,
    columns=45,
    frames=1,
    samples=1,
    bits_allocated=16,
    bits_stored=12,
    high_bit=11,
    pixel_representation=0,
    photometric="MONOCHROME2",
)
COLOUR = replace(MONO, samples=3, bits_allocated=8, bits_stored=8, high_bit=7, photometric="RGB")
SMOOTH = (GREY >> 4).astype("u1")


def test_jpeg_of_twelve_bits_and_progressive() -> None:
    code = imagecodecs.jpeg8_encode(GREY, bitspersample=12, level=95)
    array, photometric = shown.decode(code, replace(MONO, transfer_syntax_uid=J + "51"))
    assert (array.dtype, photometric) == (np.uint16, "MONOCHROME2")
    assert np.abs(array.astype(int) - GREY).max() < 400


@pytest.mark.parametrize("said", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_a_jpeg_that_names_its_colour_space_is_believed(said: str) -> None:
    record = replace(COLOUR, transfer_syntax_uid=J + "50", photometric=said)
    array, photometric = shown.decode(imagecodecs.jpeg8_encode(RGB, level=95), record)
    assert photometric == "YBR_FULL"  # a JFIF segment says so
    assert np.abs(array[..., 0].astype(int) - RGB.mean(axis=2)).mean() < 40
    plain = imagecodecs.jpeg8_encode(RGB, level=95, colorspace="RGB", outcolorspace="RGB")
    array, photometric = shown.decode(plain, record)
    assert photometric == "RGB"  # an Adobe segment says so
    assert np.abs(array.astype(int) - RGB).mean() < 10


@pytest.mark.parametrize(("said", "meant"), [("RGB", "RGB"), ("YBR_FULL", "YBR_FULL")])
def test_without_a_name_the_header_says_what_the_samples_are(said: str, meant: str) -> None:
    code = imagecodecs.jpeg8_encode(RGB, level=95)
    at = code.index(b"\xff\xe0")
    bare = code[:at] + code[at + 18 :]  # without the JFIF segment
    record = replace(COLOUR, transfer_syntax_uid=J + "50", photometric=said)
    array, photometric = shown.decode(bare, record)
    whole, _ = shown.decode(code, record)
    assert photometric == meant
    assert np.array_equal(array, whole)


def test_a_jpeg_without_an_end() -> None:
    code = imagecodecs.jpeg8_encode(RGB)
    record = replace(COLOUR, transfer_syntax_uid=J + "50")
    assert shown.decode(code[:-10], record)[0].shape == RGB.shape


def test_near_lossless_jpeg_ls_of_signed_samples() -> None:
    signed = made.smooth(33, 45, depth=12, signed=True)
    code = imagecodecs.jpegls_encode(signed.view("u2") & 0x0FFF, level=2)
    record = replace(MONO, transfer_syntax_uid=J + "81", pixel_representation=1)
    array, _ = shown.decode(code, record)
    assert array.dtype == np.int16
    assert np.abs(array.astype(int) - signed).max() <= 2
    with pytest.raises(UnsupportedPixels):
        shown.decode(code[:-20], record)


@pytest.mark.parametrize("signed", [False, True])
def test_pixel_representation_wins_over_the_codestream(signed: bool) -> None:
    code = made.jpeg_2000(made.smooth(33, 45, depth=12, signed=not signed), 12)
    record = replace(MONO, transfer_syntax_uid=J + "90", pixel_representation=int(signed))
    assert shown.decode(code, record)[0].dtype.kind == ("i" if signed else "u")


@pytest.mark.parametrize("said", ["YBR_RCT", "YBR_ICT", "YBR_FULL", "RGB"])
@pytest.mark.parametrize("uid", [J + "91", J + "93", J + "203"])
def test_colour_transforms_of_jpeg_2000_are_undone(uid: str, said: str) -> None:
    lossy = imagecodecs.htj2k_encode(RGB, level=0.001) if uid.endswith("3") else None
    code = lossy or made.jpeg_2000(RGB, 8, reversible=False)
    record = replace(COLOUR, transfer_syntax_uid=uid, photometric=said)
    array, photometric = shown.decode(code, record)
    assert photometric == "RGB"
    assert np.abs(array.astype(int) - RGB).mean() < 40


def test_jpeg_xl_lossy_and_recompressed() -> None:
    record = replace(COLOUR, transfer_syntax_uid=J + "112")
    array, photometric = shown.decode(imagecodecs.jpegxl_encode(RGB, level=95), record)
    assert photometric == "RGB"
    assert np.abs(array.astype(int) - RGB).mean() < 10
    jpeg = imagecodecs.jpeg8_encode(RGB, level=95)
    record = replace(COLOUR, transfer_syntax_uid=J + "111", photometric="YBR_FULL_422")
    array, photometric = shown.decode(imagecodecs.jpegxl_encode_jpeg(jpeg), record)
    assert photometric == "RGB"
    assert np.abs(array.astype(int) - imagecodecs.jpeg8_decode(jpeg)).mean() < 10


@pytest.mark.parametrize("number", ["50", "51", "70", "80", "81", "90", "91", "111", "201", "203"])
def test_what_has_another_size_or_is_rubbish_is_not_given_to_a_decoder(number: str) -> None:
    record = replace(MONO, transfer_syntax_uid=J + number)
    codes = [made.jpeg_lossless(GREY, 12), made.jpeg_2000(GREY, 12), b"", b"rubbish" * 50]
    codes += [imagecodecs.jpegls_encode(GREY), imagecodecs.jpegxl_encode(GREY)]
    for code in codes:
        with pytest.raises(UnsupportedPixels):
            shown.decode(code, replace(record, rows=34))
    with pytest.raises(UnsupportedPixels, match="60000 x 60000"):
        shown.decode(b"", replace(record, rows=60_000, columns=60_000))
