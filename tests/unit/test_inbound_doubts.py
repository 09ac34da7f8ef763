"""Headers that contradict their codestreams, and frames that one decoder alone would let pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import coded_frames as made
import imagecodecs
import numpy as np
import pytest
from stored_series import Store

from raypacs import dicom
from raypacs.codec import gdcm_decoder, inbound, registry, shown
from raypacs.codec.pixel_layout import PixelLayout
from raypacs.errors import UnsupportedPixels

J = made.J
GREY = made.smooth(33, 45, depth=12)
RGB = made.colour(33, 45)
MONO = PixelLayout(
    transfer_syntax_uid=J + "80",
    rows=33,
    columns=45,
    frames=1,
    samples=1,
    bits_allocated=16,
    bits_stored=12,
    high_bit=11,
    signed=False,
    photometric="MONOCHROME2",
    planar=False,
)
COLOUR = replace(MONO, samples=3, bits_allocated=8, bits_stored=8, high_bit=7, photometric="RGB")


def decoded(code: bytes, layout: PixelLayout, uid: str, **changes: Any) -> np.ndarray:
    return inbound.encapsulated_frame(code, replace(layout, transfer_syntax_uid=uid, **changes))


@pytest.mark.parametrize("form", made.every_form(), ids=lambda form: form.name)
def test_every_form_is_prepared_and_comes_back(form: made.Coded, tmp_path: Any) -> None:
    store = Store(tmp_path)
    series = store.prepare([store.add(form.data)])
    (instance,) = series.instances
    assert instance.lossless_proven, instance.reason
    pack = store.open(series)
    prepared = pack.instance(instance.sop_instance_uid)
    for number, frame in enumerate(form.frames):
        code = pack.read_frame(instance.sop_instance_uid, 1 + number)
        assert np.array_equal(registry.decode(code, prepared), frame)


@pytest.mark.parametrize("depth", [2, 5, 8, 10, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_jpeg_of_all_predictors_and_depths(predictor: int, depth: int) -> None:
    frame = made.smooth(33, 45, depth=depth)
    code = made.jpeg_lossless(frame, depth, predictor=predictor)
    found = decoded(code, MONO, J + "57", bits_stored=depth, high_bit=depth - 1)
    assert np.array_equal(found, frame)


# ---- maybe lossy ------------------------------------------------------------------------------
def test_what_the_header_says_of_lossy_compression() -> None:
    assert inbound.lossless_source(J + "91", "01 ")
    assert not inbound.lossless_source(J + "91", "00")
    assert not inbound.lossless_source(J + "90", "01")  # lossy once, kept without loss


@pytest.mark.parametrize(
    ("uid", "code", "reason"),
    [
        (J + "81", imagecodecs.jpegls_encode(GREY, level=1), "near-lossless"),
        (J + "91", made.jpeg_2000(GREY, 12, reversible=False), "irreversible"),
        (J + "203", imagecodecs.htj2k_encode(GREY, level=0.01), "irreversible"),
        (J + "110", imagecodecs.jpegxl_encode(GREY, level=90, bitspersample=16), "lossy"),
        (J + "70", imagecodecs.jpeg8_encode((GREY >> 4).astype("u1")), "lossy JPEG"),
    ],
)
def test_lossy_codestreams_are_refused(uid: str, code: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedPixels, match=reason):
        decoded(code, MONO, uid)


def test_lossy_instances_are_copied_though_their_codestream_is_reversible(tmp_path: Any) -> None:
    store = Store(tmp_path)
    form = made.coded("", J + "91", GREY[None], 12, LossyImageCompression="01")
    (instance,) = store.prepare([store.add(form.data)]).instances
    assert (instance.form, instance.lossless_proven) == ("copied", False)
    assert "Lossy Image Compression" in instance.reason


# ---- size, depth, sign ------------------------------------------------------------------------
@pytest.mark.parametrize("uid", [J + n for n in ("70", "80", "90", "110", "201")])
def test_another_size_is_seen_before_anything_is_decoded(uid: str) -> None:
    code = made.ENCODERS[uid](GREY, 12)
    for change in ({"rows": 60_000}, {"columns": 44}, {"samples": 3, "photometric": "RGB"}):
        with pytest.raises(UnsupportedPixels, match="size in the codestream"):
            decoded(code, MONO, uid, **change)


def test_a_frame_larger_than_any_real_one_is_not_decoded() -> None:
    with pytest.raises(UnsupportedPixels, match="60000 x 60000"):
        decoded(b"", MONO, J + "90", rows=60_000, columns=60_000)


@pytest.mark.parametrize("uid", [J + n for n in ("70", "80", "90", "110")])
def test_more_bits_in_the_codestream_than_allocated_are_not_cut_off(uid: str) -> None:
    code = made.ENCODERS[uid](GREY, 12)
    with pytest.raises(UnsupportedPixels, match="allocated"):
        decoded(code, MONO, uid, bits_allocated=8, bits_stored=8, high_bit=7)


@pytest.mark.parametrize("uid", [J + n for n in ("70", "80", "90", "110", "201")])
def test_fewer_bits_in_the_codestream_than_allocated_or_stored(uid: str) -> None:
    small = (GREY >> 4).astype("u1")
    found = decoded(made.ENCODERS[uid](small, 8), MONO, uid)
    assert found.dtype == np.uint16
    assert np.array_equal(found, small)


def test_bit_patterns_of_signed_samples() -> None:
    signed = made.smooth(33, 45, depth=12, signed=True)
    layout = replace(MONO, signed=True)
    cells = signed.view("u2") & 0x0FFF
    assert np.array_equal(decoded(made.jpeg_lossless(cells, 12), layout, J + "70"), signed)
    # Some senders extend the sign to the whole cell.
    whole = made.jpeg_lossless(signed.view("u2"), 16)
    assert np.array_equal(decoded(whole, layout, J + "70"), signed)
    with pytest.raises(UnsupportedPixels, match="signed samples of 16 bits"):
        decoded(made.jpeg_lossless(cells, 12), layout, J + "70", bits_stored=16, high_bit=15)


@pytest.mark.parametrize("uid", [J + "90", J + "201"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_sign_that_the_header_denies(uid: str, signed: bool) -> None:
    frame = made.smooth(33, 45, depth=12, signed=signed)
    with pytest.raises(UnsupportedPixels, match="Pixel Representation"):
        decoded(made.ENCODERS[uid](frame, 12), MONO, uid, signed=not signed)


# ---- colour -----------------------------------------------------------------------------------
def test_a_colour_space_that_the_codestream_denies() -> None:
    code = made.jpeg_lossless(RGB, 8)  # an Adobe segment says RGB
    with pytest.raises(UnsupportedPixels, match="the codestream says RGB"):
        decoded(code, COLOUR, J + "70", photometric="YBR_FULL")
    claimed = code.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\1")
    assert claimed != code
    with pytest.raises(UnsupportedPixels, match="the codestream says YBR"):
        decoded(claimed, COLOUR, J + "70")
    assert np.array_equal(decoded(claimed, COLOUR, J + "70", photometric="YBR_FULL"), RGB)


def test_colour_of_lossless_jpeg_is_never_converted() -> None:
    code = made.jpeg_lossless(RGB, 8)
    at = code.index(b"\xff\xee")
    bare = code[:at] + code[at + 16 :]  # without the Adobe segment
    bare = bare.replace(b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0")
    bare = bare.replace(b"\3R\0G\0B\0", b"\3\1\0\2\0\3\0")
    for photometric in ("RGB", "YBR_FULL"):
        assert np.array_equal(decoded(bare, COLOUR, J + "70", photometric=photometric), RGB)


@pytest.mark.parametrize("uid", [J + "90", J + "201"])
def test_colour_transform_and_photometric_interpretation(uid: str) -> None:
    code = made.ENCODERS[uid](RGB, 8)
    for photometric in ("RGB", "YBR_RCT"):
        assert np.array_equal(decoded(code, COLOUR, uid, photometric=photometric), RGB)
    with pytest.raises(UnsupportedPixels, match="has a colour transform"):
        decoded(code, COLOUR, uid, photometric="YBR_FULL")


def test_planes_in_the_header_do_not_matter_to_codestreams() -> None:
    for uid in (J + "70", J + "80", J + "90", dicom.RLE_LOSSLESS):
        assert np.array_equal(decoded(made.ENCODERS[uid](RGB, 8), COLOUR, uid, planar=True), RGB)


def test_hp_colour_transform_is_refused() -> None:
    code = imagecodecs.jpegls_encode(RGB)
    changed = code[:2] + b"\xff\xe8\0\7mrfx\1" + code[2:]
    with pytest.raises(UnsupportedPixels, match="HP colour transform"):
        decoded(changed, COLOUR, J + "80")


# ---- two decoders -----------------------------------------------------------------------------
@pytest.mark.parametrize("uid", [J + "80", J + "90"])
@pytest.mark.parametrize("answer", [None, "other"])
def test_a_second_decoder_that_differs_or_fails(
    uid: str, answer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = made.ENCODERS[uid](GREY, 12)
    other = None if answer is None else GREY ^ 1
    monkeypatch.setattr(gdcm_decoder, "decode", lambda data, **form: other)
    with pytest.raises(UnsupportedPixels, match="two decoders disagree"):
        decoded(code, MONO, uid)
    layout = replace(MONO, transfer_syntax_uid=uid)
    assert np.array_equal(inbound.encapsulated_frame(code, layout, agreed=False), GREY)


@pytest.mark.parametrize(
    ("uid", "name"),
    [(J + "70", "jpegsof3_decode"), (J + "201", "htj2k_decode")],
)
def test_decoders_of_one_package_are_compared_too(
    uid: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = made.ENCODERS[uid](GREY, 12)
    monkeypatch.setattr(imagecodecs, name, lambda data, **form: GREY ^ 1)
    with pytest.raises(UnsupportedPixels, match="two decoders disagree"):
        decoded(code, MONO, uid)


def test_forms_that_the_second_decoder_does_not_know_are_decoded_by_the_first() -> None:
    assert not gdcm_decoder.knows_jpeg_ls(7, 1)
    assert not gdcm_decoder.knows_jpeg_2000(25, 1)
    deep = made.smooth(33, 45, depth=32)
    code = imagecodecs.htj2k_encode(deep)
    change = {"bits_allocated": 32, "bits_stored": 32, "high_bit": 31}
    assert np.array_equal(decoded(code, MONO, J + "201", **change), deep)


def test_a_cut_that_a_decoder_fills_up_without_an_error() -> None:
    for uid in (J + "70", J + "80", J + "90", J + "201", J + "110"):
        code = made.ENCODERS[uid](GREY, 12)
        for end in (len(code) // 2, len(code) - 3):
            for tail in (b"", b"\xff\xd9"):
                with pytest.raises(UnsupportedPixels):
                    decoded(code[:end] + tail, MONO, uid)


def test_deflated_and_plain_frames_of_another_length() -> None:
    raw = GREY.tobytes()
    for data in (raw[:-1], raw + b"\0\0", raw * 2):
        with pytest.raises(UnsupportedPixels):
            decoded(data, MONO, dicom.ENCAPSULATED_UNCOMPRESSED)
        with pytest.raises(UnsupportedPixels):
            decoded(made.deflate(data), MONO, inbound.DEFLATED_IMAGE_FRAME)
    with pytest.raises(UnsupportedPixels, match="cut off"):
        decoded(made.deflate(raw)[:-9], MONO, inbound.DEFLATED_IMAGE_FRAME)
    with pytest.raises(UnsupportedPixels):  # a megabyte of zeros in a kilobyte
        decoded(made.deflate(bytes(1 << 20)), MONO, inbound.DEFLATED_IMAGE_FRAME)


def test_syntaxes_that_can_be_shown_are_those_that_are_decoded_and_the_lossy_ones() -> None:
    assert all(shown.is_decodable(uid) for uid in made.ENCODERS)
    for number in ("50", "51", "53", "55", "93", "111", "112"):
        assert shown.is_decodable(J + number)
        assert not inbound.is_decoded(J + number)
    assert not shown.is_decodable(J + "100")  # MPEG2
