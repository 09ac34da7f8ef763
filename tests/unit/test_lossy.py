"""The irreversible codec: targets are met, depth is Bits Stored, decoders agree, nothing wraps."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from stored_series import noise

from raypacs.codec import htj2k, lossy
from raypacs.errors import UnsupportedPixels

# Decoders round at different places: one grey level of 16 bits at most.
NEARLY = 1


def frame_of(bits: int, *, signed: bool, colour: bool = False) -> np.ndarray:
    """A smooth frame with noise that uses ``bits``."""
    shape = [
        noise(1, 96, 80, bits=max(bits, 2), seed=seed)[0] for seed in range(3 if colour else 1)
    ]
    values = np.stack(shape, -1).astype(np.int64) if colour else shape[0].astype(np.int64)
    values = values.clip(0, (1 << bits) - 1) - (1 << bits - 1 if signed else 0)
    return values.astype(htj2k.container(bits, signed=signed))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 7, 8, 9, 10, 12, 14, 15, 16])
def test_every_depth_agrees_with_the_codestream_and_with_openjpeg(bits: int, signed: bool) -> None:
    frame = frame_of(bits, signed=signed)
    coded = lossy.encode(frame, psnr_db=40, bits_stored=bits, signed=signed)
    header = htj2k.read_main_header(coded.data)
    assert (header.depths, header.signed, header.reversible) == ((bits,), signed, False)
    decoded = htj2k.decode_frame(coded.data)
    assert decoded.dtype == frame.dtype
    assert lossy.measure(frame, decoded) == coded.loss
    assert coded.loss.psnr_db >= 40
    other = imagecodecs.jpeg2k_decode(coded.data).astype(np.int64)
    assert np.abs(other - decoded).max() <= NEARLY


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("transform", [False, True])
def test_colour(bits: int, transform: bool) -> None:
    frame = frame_of(bits, signed=False, colour=True)
    coded = lossy.encode(frame, ratio=8, bits_stored=bits, signed=False, colour_transform=transform)
    header = htj2k.read_main_header(coded.data)
    assert (header.depths, header.colour_transform) == ((bits,) * 3, transform)
    assert frame.nbytes / len(coded.data) >= 8
    decoded = htj2k.decode_frame(coded.data)
    other = imagecodecs.jpeg2k_decode(coded.data).astype(np.int64)
    assert np.abs(other - decoded).max() <= NEARLY
    assert coded.loss.psnr_db > 30


@pytest.mark.parametrize("ratio", [3, 5, 10, 30])
def test_the_ratio_is_reached_and_hardly_exceeded(ratio: float) -> None:
    frame = noise(1, 256, 256, bits=12)[0]
    coded = lossy.encode(frame, ratio=ratio, bits_stored=12, signed=False)
    assert ratio <= frame.nbytes / len(coded.data) < 1.12 * ratio


def test_more_quality_takes_more_bytes() -> None:
    frame = noise(1, 128, 128, bits=12)[0]
    wanted = (30, 45, 60)
    coded = [lossy.encode(frame, psnr_db=db, bits_stored=12, signed=False) for db in wanted]
    sizes = [len(one.data) for one in coded]
    assert sizes == sorted(sizes)
    assert [one.loss.psnr_db >= db for one, db in zip(coded, (30, 45, 60), strict=True)] == [
        True
    ] * 3
    steps = [one.step for one in coded]
    assert steps == sorted(steps, reverse=True)
    # The next coarser step would not do.
    coarser = lossy._encoder(frame, 12, False, False)(round(-8 * math.log2(steps[1])) - 1)
    assert lossy.measure(frame, htj2k.decode_frame(coarser)).psnr_db < 45


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 14, 16])
def test_overshoot_does_not_wrap_around(bits: int, signed: bool) -> None:
    low = -(1 << bits - 1) if signed else 0
    blocks = np.random.default_rng(5).integers(0, 2, (16, 16)).repeat(8, 0).repeat(8, 1)
    frame = (blocks * ((1 << bits) - 1) + low).astype(htj2k.container(bits, signed=signed))
    coded = lossy.encode(frame, ratio=4, bits_stored=bits, signed=signed)
    assert coded.loss.max_error < (1 << bits) / 2
    for skip in (1, 2):
        small = htj2k.decode_frame(coded.data, skip_resolutions=skip)
        assert small.shape == (128 >> skip, 128 >> skip)
        assert np.abs(small.astype(int).mean() - frame.mean()) < (1 << bits) / 8


def test_low_resolutions_are_those_of_the_image() -> None:
    frame = noise(1, 256, 256, bits=12)[0]
    exact = htj2k.encode_frame(frame, bits_stored=12, signed=False)
    coded = lossy.encode(frame, psnr_db=50, bits_stored=12, signed=False)
    for skip in (1, 2, 3):
        want = htj2k.decode_frame(exact.data, skip_resolutions=skip).astype(int)
        small = htj2k.decode_frame(coded.data, skip_resolutions=skip)
        assert np.abs(want - small).mean() < 40  # another wavelet, the same picture


@pytest.mark.parametrize("value", [0, 7, 4095])
def test_a_frame_of_one_value(value: int) -> None:
    frame = np.full((40, 30), value, np.uint16)
    coded = lossy.encode(frame, psnr_db=50, bits_stored=12, signed=False)
    assert coded.loss.max_error == 0
    assert coded.loss.psnr_db == math.inf


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (17, 5)])
def test_tiny_frames_are_not_made_larger(shape: tuple[int, int]) -> None:
    frame = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    with pytest.raises(UnsupportedPixels, match="not smaller"):
        lossy.encode(frame, psnr_db=30, bits_stored=8, signed=False)
    with pytest.raises(UnsupportedPixels, match="cannot be reached"):
        lossy.encode(frame, ratio=50, bits_stored=8, signed=False)


def test_both_a_ratio_and_a_psnr() -> None:
    frame = noise(1, 128, 128, bits=12)[0]
    form = {"bits_stored": 12, "signed": False}
    coded = lossy.encode(frame, ratio=4, **form)
    assert lossy.encode(frame, ratio=4, psnr_db=30, **form) == coded
    with pytest.raises(UnsupportedPixels, match="a ratio of 4 leaves a PSNR of less than 90 dB"):
        lossy.encode(frame, ratio=4, psnr_db=90, **form)


@pytest.mark.parametrize(
    ("frame", "bits", "why"),
    [
        (np.zeros((8, 8), np.uint32), 20, "too deep"),
        (np.zeros((8, 8), np.uint8), 12, "too deep"),
        (np.zeros((8, 8), np.float32), 16, "float32"),
        (np.zeros((8, 8, 4), np.uint8), 8, "shape"),
        (np.full((8, 8), 4096, np.uint16), 12, "outside 12 bits"),
    ],
)
def test_what_cannot_be_coded_says_why(frame: np.ndarray, bits: int, why: str) -> None:
    with pytest.raises(UnsupportedPixels, match=why):
        lossy.encode(frame, ratio=4, bits_stored=bits, signed=False)


def test_the_reference_decoder_agrees(tmp_path: Path, peer: Callable[[str], str]) -> None:
    expand = peer("ojph_expand")
    frame = noise(1, 120, 90, bits=12)[0]
    coded = lossy.encode(frame, ratio=10, bits_stored=12, signed=False)
    (tmp_path / "x.j2c").write_bytes(coded.data)
    subprocess.run(
        [expand, "-i", "x.j2c", "-o", "x.pgm"], cwd=tmp_path, check=True, capture_output=True
    )
    data = (tmp_path / "x.pgm").read_bytes()
    assert data.split(None, 4)[:4] == [b"P5", b"90", b"120", b"4095"]
    pixels = np.frombuffer(data, ">u2", offset=len(data) - frame.nbytes).reshape(frame.shape)
    decoded = htj2k.decode_frame(coded.data).astype(np.int64)
    assert np.abs(decoded - pixels).max() <= NEARLY
