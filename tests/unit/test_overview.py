"""The overview container: exact, small, and what docs/overview-format.md says."""

from __future__ import annotations

import json
import struct
import zlib

import imagecodecs
import numpy as np
import pytest

from raypacs.codec import htj2k, overview
from raypacs.codec.overview import OverviewFrame
from raypacs.errors import PackCorrupt


def volume(
    count: int, *, bits: int = 12, signed: bool = False, shape: tuple[int, ...] = (32, 40)
) -> list[OverviewFrame]:
    """Slices through a smooth body, alike from one to the next."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    noise = np.random.default_rng(count)
    frames = []
    for number in range(count):
        body = (1 << (bits - 2)) * (1 + np.sin(5 * x + number / 9) * np.cos(4 * y))
        pixels = body + noise.normal(0, 2, shape[:2])
        if len(shape) == 3:
            pixels = np.stack([pixels, pixels / 2, pixels / 3], axis=-1)
        pixels = pixels.clip(0, (1 << (bits - 1)) - 1) - (1 << (bits - 3) if signed else 0)
        dtype = htj2k.container(bits, signed=signed)
        frames.append(OverviewFrame(f"1.2.{number}", 1, bits, pixels.astype(dtype)))
    return frames


def assert_same(first: list[OverviewFrame], second: list[OverviewFrame]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.sop_instance_uid == other.sop_instance_uid
        assert (one.frame_number, one.bits_stored) == (other.frame_number, other.bits_stored)
        assert one.pixels.dtype == other.pixels.dtype
        assert np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 20])
def test_any_number_of_frames_is_exact(count: int) -> None:
    frames = volume(count)
    level, back = overview.decode_overview(overview.encode_overview(frames, level=3))
    assert level == 3
    assert_same(frames, back)


@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (8, True), (12, True), (16, False), (16, True), (30, False)]
)
def test_extreme_values_are_exact(bits: int, signed: bool) -> None:
    rng = np.random.default_rng(bits)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    dtype = htj2k.container(bits, signed=signed)
    frames = [
        OverviewFrame("1.2", n, bits, rng.choice([low, high], (9, 11)).astype(dtype))
        for n in range(9)
    ]
    assert_same(frames, overview.decode_overview(overview.encode_overview(frames, level=1))[1])


def test_mixed_sizes_and_colour_keep_their_order() -> None:
    frames = volume(5) + volume(6, bits=8, shape=(20, 30, 3)) + volume(2, bits=16, signed=True)
    assert_same(frames, overview.decode_overview(overview.encode_overview(frames, level=2))[1])


def test_the_step_across_frames_pays_on_slices_that_are_alike_and_only_there() -> None:
    def steps(frames: list[OverviewFrame]) -> int:
        data = overview.encode_overview(frames, level=3)
        length = struct.unpack_from("<I", data, 8)[0]
        return json.loads(zlib.decompress(data[12 : 12 + length]))["groups"][0]["steps"]

    alike = volume(12)
    strangers = [
        OverviewFrame("1.2", n, 12, np.random.default_rng(n).integers(0, 4096, (32, 32), "u2"))
        for n in range(12)
    ]
    assert steps(alike) == 2
    assert steps(strangers) == 0


def test_the_format_is_as_documented() -> None:
    """Reads one group by the text of docs/overview-format.md, with OpenJPEG as the decoder."""
    frames = volume(6)
    data = overview.encode_overview(frames, level=3)
    magic, version, zero, length = struct.unpack_from("<4sHHI", data)
    assert (magic, version, zero) == (b"RPOV", 1, 0)
    index = json.loads(zlib.decompress(data[12 : 12 + length]))
    assert index["level"] == 3
    (group,) = index["groups"]
    assert group["shape"] == [32, 40]
    assert group["frames"][4] == ["1.2.4", 1]
    at = 12 + length
    prefix = data[at : at + group["prefix"]]
    at += len(prefix)
    planes = []
    for size in group["planes"]:
        planes.append(imagecodecs.jpeg2k_decode(prefix + data[at : at + size]).astype(int))
        at += size
    assert at + 4 == len(data)
    assert struct.unpack_from("<I", data, at)[0] == zlib.crc32(data[:at])
    # Six frames, two steps: bands of 2 low, 1 high (coarse), 3 high (fine).
    assert group["steps"] == 2
    low, coarse, fine = planes[:2], planes[2:3], planes[3:]
    even = [low[0] - ((coarse[0] * 2 + 2) >> 2), low[1] - ((coarse[0] * 2 + 2) >> 2)]
    first = [even[0], coarse[0] + ((even[0] + even[1]) >> 1), even[1]]
    even = [
        first[0] - ((fine[0] * 2 + 2) >> 2),
        first[1] - ((fine[0] + fine[1] + 2) >> 2),
        first[2] - ((fine[1] + fine[2] + 2) >> 2),
    ]
    assert np.array_equal(even[0], frames[0].pixels)
    assert np.array_equal(fine[0] + ((even[0] + even[1]) >> 1), frames[1].pixels)
    assert np.array_equal(fine[2] + ((even[2] * 2) >> 1), frames[5].pixels)


@pytest.mark.parametrize("where", [0, 5, 20, -1])
def test_damage_is_found(where: int) -> None:
    data = bytearray(overview.encode_overview(volume(4), level=3))
    data[where] ^= 1
    with pytest.raises(PackCorrupt):
        overview.decode_overview(bytes(data))
    with pytest.raises(PackCorrupt):
        overview.decode_overview(b"")
