"""The overview of a series: all its frames at low resolution in one small object.

Neighbouring slices are alike, so the reversible 5/3 wavelet is applied across frames before each
plane is coded with HTJ2K; the bytes that all planes of a group begin with are kept once. The
format is specified in ``docs/overview-format.md``.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs.codec import htj2k, wavelet
from raypacs.errors import PackCorrupt

Array = NDArray[Any]

MAGIC = b"RPOV"
VERSION = 1
MEDIA_TYPE = "application/vnd.raypacs.overview"
_HEAD = struct.Struct("<4sHHI")  # magic, version, 0, length of the index
_STEPS = 2  # wavelet steps across frames, where they pay
_SAMPLE = 16  # frames on which it is tried whether they do
_SPARE_BITS = 2  # what the steps add to the depth


@dataclass(frozen=True, slots=True)
class OverviewFrame:
    """One frame at low resolution: ``pixels`` is rows x columns [x samples]."""

    sop_instance_uid: str
    frame_number: int
    bits_stored: int
    pixels: Array


def encode_overview(frames: Iterable[OverviewFrame], *, level: int) -> bytes:
    """Code frames in the order given, without loss; ``level`` halvings were done before.

    Frames that follow each other with the same size and depth form a group.

    Raises:
        UnsupportedPixels: samples that HTJ2K cannot carry.
    """
    groups: list[list[OverviewFrame]] = []
    for frame in frames:
        if groups and _kind(groups[-1][0]) == _kind(frame):
            groups[-1].append(frame)
        else:
            groups.append([frame])
    entries = []
    body: list[bytes] = []
    for group in groups:
        entry, planes = _encode_group(group)
        entries.append(entry)
        body += planes
    index = zlib.compress(
        json.dumps({"level": level, "groups": entries}, separators=(",", ":")).encode(), 9
    )
    data = b"".join([_HEAD.pack(MAGIC, VERSION, 0, len(index)), index, *body])
    return data + struct.pack("<I", zlib.crc32(data))


def decode_overview(data: bytes) -> tuple[int, list[OverviewFrame]]:
    """Return (level, frames in order).

    Raises:
        PackCorrupt: not an overview, of a later version, or damaged.
    """
    if len(data) < _HEAD.size + 4 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise PackCorrupt("overview is damaged")
    magic, version, _, length = _HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise PackCorrupt(f"not an overview of version {VERSION}")
    at = _HEAD.size + length
    index = json.loads(zlib.decompress(data[_HEAD.size : at]))
    frames: list[OverviewFrame] = []
    for entry in index["groups"]:
        size = entry["prefix"] + sum(entry["planes"])
        frames += _decode_group(entry, data[at : at + size])
        at += size
    return index["level"], frames


def _kind(frame: OverviewFrame) -> tuple[Any, ...]:
    return frame.pixels.shape, frame.pixels.dtype.str, frame.bits_stored


def _encode_group(group: list[OverviewFrame]) -> tuple[dict[str, Any], list[bytes]]:
    first = group[0]
    wide = np.int64 if first.bits_stored > 28 else np.int32
    volume = np.stack([frame.pixels for frame in group]).astype(wide)
    steps = _best_steps(volume, first.bits_stored)
    planes = _encode_planes(volume, first.bits_stored, steps)
    prefix = _common_prefix(planes)
    rests = [plane[len(prefix) :] for plane in planes]
    entry = {
        "shape": list(first.pixels.shape),
        "type": first.pixels.dtype.name,
        "bits_stored": first.bits_stored,
        "steps": steps,
        "frames": [[frame.sop_instance_uid, frame.frame_number] for frame in group],
        "prefix": len(prefix),
        "planes": [len(rest) for rest in rests],
    }
    return entry, [prefix, *rests]


def _best_steps(volume: Array, bits_stored: int) -> int:
    """Say whether the wavelet across frames makes the middle of the volume smaller."""
    if len(volume) < 4 or bits_stored > 28:
        return 0
    middle = max(0, (len(volume) - _SAMPLE) // 2)
    sample = volume[middle : middle + _SAMPLE]
    sizes = {
        steps: sum(map(len, _encode_planes(sample, bits_stored, steps))) for steps in (_STEPS, 0)
    }
    return min(sizes, key=lambda steps: sizes[steps])


def _encode_planes(volume: Array, bits_stored: int, steps: int) -> list[bytes]:
    """Return one codestream a plane: the low band first, then the high bands, coarse to fine."""
    highs: list[Array] = []
    low = volume
    for _ in range(steps):
        low, high = wavelet.forward(low)
        highs.insert(0, high)
    # Signed throughout, and wide enough for what the steps and unsigned samples add.
    dtype = htj2k.container(min(bits_stored + 1 + _SPARE_BITS, 32), signed=True)
    return [htj2k.encode_plane(plane.astype(dtype)) for band in (low, *highs) for plane in band]


def _decode_group(entry: dict[str, Any], data: bytes) -> list[OverviewFrame]:
    prefix = data[: entry["prefix"]]
    at = len(prefix)
    planes = []
    for length in entry["planes"]:
        plane = htj2k.decode_frame(prefix + data[at : at + length])
        planes.append(plane.astype(np.int64 if entry["bits_stored"] > 28 else np.int32))
        at += length
    volume = np.stack(planes)
    done, highs = _band_sizes(len(volume), entry["steps"])
    frames = volume[:done]
    for size in highs:
        frames = wavelet.inverse(frames, volume[done : done + size])
        done += size
    pixels = frames.astype(entry["type"])
    return [
        OverviewFrame(sop, number, entry["bits_stored"], pixels[position])
        for position, (sop, number) in enumerate(entry["frames"])
    ]


def _band_sizes(count: int, steps: int) -> tuple[int, list[int]]:
    """Return the number of low planes and of each high band, coarse to fine."""
    highs: list[int] = []
    for _ in range(steps):
        highs.insert(0, count // 2)
        count -= count // 2
    return count, highs


def _common_prefix(planes: Sequence[bytes]) -> bytes:
    if len(planes) < 2:
        return b""
    first, last = min(planes), max(planes)  # whatever these two share, all share
    shortest = min(len(first), len(last))
    differing = (at for at in range(shortest) if first[at] != last[at])
    return first[: next(differing, shortest)]
