"""HTJ2K frames: every depth exact in two decoders, low resolutions against PyWavelets."""

from __future__ import annotations

import imagecodecs
import numpy as np
import openjpeg
import pytest

from raypacs.codec import htj2k
from raypacs.codec.wavelet import approximation
from raypacs.errors import UnsupportedPixels


def noise(bits: int, signed: bool, dtype: str, shape: tuple[int, ...] = (37, 53)) -> np.ndarray:
    """Random values over the whole range, with its ends."""
    rng = np.random.default_rng(bits)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    frame = rng.integers(low, high, size=shape, endpoint=True).astype(dtype)
    frame[0, :5] = low
    frame[1, :5] = high
    return frame


def phantom(side: int = 256) -> np.ndarray:
    """A smooth 12-bit picture that touches zero, with noise."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    body = np.where(x * x + y * y < 0.7, 1000 + 300 * np.sin(6 * x) * np.cos(5 * y), 0)
    noisy = body + np.random.default_rng(5).normal(0, 8, (side, side)) * (body > 0)
    return noisy.clip(0, 4095).astype(np.uint16)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_depth_is_exact_in_openjph_and_openjpeg(size: int, bits: int, signed: bool) -> None:
    if bits > 8 * size:
        return
    frame = noise(bits, signed, f"{'i' if signed else 'u'}{size}")
    stream = htj2k.encode_frame(frame, bits_stored=bits, signed=signed)
    header = htj2k.read_main_header(stream.data)
    assert header.depths == (bits,)
    assert header.signed is signed
    assert header.reversible
    assert np.array_equal(htj2k.decode_frame(stream.data), frame)
    assert np.array_equal(imagecodecs.jpeg2k_decode(bytes(stream.data)), frame)
    assert np.array_equal(openjpeg.decode(bytes(stream.data)), frame)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [17, 20, 24, 31, 32])
def test_deep_samples_are_exact(bits: int, signed: bool) -> None:
    frame = noise(bits, signed, "i4" if signed else "u4")
    stream = htj2k.encode_frame(frame, bits_stored=bits, signed=signed)
    assert np.array_equal(htj2k.decode_frame(stream.data), frame)


@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 16)])
@pytest.mark.parametrize("transform", [True, False])
def test_three_samples_are_exact_in_two_decoders(dtype: str, bits: int, transform: bool) -> None:
    frame = noise(bits, False, dtype, (37, 53, 3))
    stream = htj2k.encode_frame(frame, bits_stored=bits, signed=False, colour_transform=transform)
    assert htj2k.read_main_header(stream.data).colour_transform is transform
    assert np.array_equal(htj2k.decode_frame(stream.data), frame)
    assert np.array_equal(imagecodecs.jpeg2k_decode(bytes(stream.data)), frame)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 70), (70, 1), (2, 3), (64, 64), (65, 64), (63, 1000), (1, 5000)]
)
def test_odd_shapes_hold_the_rpcl_rules(shape: tuple[int, int]) -> None:
    frame = noise(12, False, "u2", shape) if min(shape) > 4 else np.full(shape, 7, np.uint16)
    stream = htj2k.encode_frame(frame, bits_stored=12, signed=False)
    assert np.array_equal(htj2k.decode_frame(stream.data), frame)
    assert np.array_equal(imagecodecs.jpeg2k_decode(bytes(stream.data)).reshape(shape), frame)
    assert htj2k.transfer_syntax(stream.data) == htj2k.HTJ2K_LOSSLESS_RPCL
    assert max(shape) / 2**stream.levels <= 64
    assert len(stream.resolution_ends) == stream.levels + 1


def test_a_stream_without_tlm_is_only_lossless() -> None:
    data = imagecodecs.htj2k_encode(phantom())
    assert htj2k.transfer_syntax(data) == htj2k.HTJ2K_LOSSLESS


def test_a_base_of_more_than_64_is_only_lossless() -> None:
    data = imagecodecs.htj2k_encode(phantom(), tlm=True, tilepart=1, resolutions=1)
    assert htj2k.transfer_syntax(data) == htj2k.HTJ2K_LOSSLESS


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_prefixes_decode_at_their_resolution_clamped(bits: int, signed: bool) -> None:
    frame = phantom().astype(np.int32)
    frame = frame.astype(np.uint16) if not signed else (frame - 1024).astype(np.int16)
    stream = htj2k.encode_frame(frame, bits_stored=bits, signed=signed)
    assert stream.levels == 5
    reference = frame.astype(float)
    for skip in range(1, 4):
        prefix = stream.data[: stream.resolution_ends[5 - skip]]
        small = htj2k.decode_frame(prefix, skip_resolutions=skip)
        reference = approximation(reference)
        assert small.dtype == frame.dtype
        assert small.shape == reference.shape
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        assert np.abs(small - reference.clip(low, high)).max() < 4
        assert np.array_equal(small, htj2k.decode_frame(stream.data, skip_resolutions=skip))


def test_low_resolution_of_colour_is_clamped() -> None:
    frame = np.zeros((128, 128, 3), np.uint8)
    frame[:, 37:, 0] = 255
    stream = htj2k.encode_frame(frame, bits_stored=8, signed=False, colour_transform=True)
    small = htj2k.decode_frame(stream.data, skip_resolutions=2)
    assert small.shape == (32, 32, 3)
    assert small[:, :8, 0].max() < 64
    assert small[:, 11:, 0].min() > 192


def test_low_resolution_is_the_largest_within_64() -> None:
    assert htj2k.low_resolution(512, 512, 5) == 2
    assert htj2k.low_resolution(513, 512, 5) == 1
    assert htj2k.low_resolution(64, 64, 5) == 5
    assert htj2k.low_resolution(1, 5000, 7) == 0


def test_values_outside_bits_stored_are_told() -> None:
    frame = phantom()
    assert htj2k.check_range(frame, bits_stored=12, signed=False) == ""
    frame[3, 4] |= 0x8000
    assert "12 bits" in htj2k.check_range(frame, bits_stored=12, signed=False)
    low = np.array([[-129, 0]], np.int16)
    assert "8 bits" in htj2k.check_range(low, bits_stored=8, signed=True)
    assert htj2k.check_range(low, bits_stored=9, signed=True) == ""


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((2, 2), "u8")]
)
def test_what_htj2k_cannot_carry_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(UnsupportedPixels):
        htj2k.encode_frame(frame, bits_stored=8, signed=False)


@pytest.mark.parametrize("data", [b"", b"\xff\x4f", b"no codestream at all", b"\xff\x4f\xff\x51"])
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedPixels):
        htj2k.read_main_header(data)
    with pytest.raises(UnsupportedPixels):
        htj2k.decode_frame(data)


def test_same_samples_of_frames_that_lie_differently_in_memory() -> None:
    frame = np.arange(30_000, dtype=np.uint8).reshape(100, 100, 3)
    planes = np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert not planes.flags.c_contiguous
    assert htj2k.same_samples(frame, planes)
    other = planes.copy()
    other[5, 5, 1] ^= 1
    assert not htj2k.same_samples(planes, other)


def test_lossy_codestreams_are_clamped_at_full_size() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[20:40, 20:40] = 255
    data = imagecodecs.htj2k_encode(frame, level=0.05, reversible=False)
    wrapped = imagecodecs.htj2k_decode(data).astype(int)
    decoded = htj2k.decode_frame(data).astype(int)
    assert np.abs(wrapped - frame).max() > 128, "the decoder wraps around: see ARCHITECTURE"
    assert np.abs(decoded - frame).max() < 64
