"""Frames that do not lie ready in instances as received: found by ranges, and the right ones."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)
from stored_series import image, noise, part10
from web_world import World, served

from raypacs import dicom
from raypacs.storage.pack import Pack
from raypacs.web import frames as frames_module
from raypacs.web import received

OCTETS = {"Accept": "application/octet-stream"}
ITEM = b"\xfe\xff\x00\xe0"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


def url_of(dataset: Dataset) -> str:
    return (
        f"/dicom-web/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        f"/instances/{dataset.SOPInstanceUID}"
    )


def item(data: bytes) -> bytes:
    return ITEM + struct.pack("<I", len(data)) + data


def rle(frames: np.ndarray) -> tuple[Dataset, list[bytes]]:
    dataset = image(frames)
    dataset.compress(RLELossless, generate_instance_uid=False)
    return dataset, list(generate_frames(dataset.PixelData, number_of_frames=len(frames)))


def with_table(dataset: Dataset, offsets: list[int], codes: list[bytes]) -> None:
    dataset.ExtendedOffsetTable = struct.pack(f"<{len(offsets)}Q", *offsets)
    dataset.ExtendedOffsetTableLengths = struct.pack(f"<{len(codes)}Q", *map(len, codes))


def check(client: httpx.Client, dataset: Dataset, frames: np.ndarray, *numbers: int) -> None:
    for number in numbers or range(1, len(frames) + 1):
        answer = client.get(f"{url_of(dataset)}/frames/{number}", headers=OCTETS)
        assert answer.status_code == 200, answer.text
        assert answer.content[: frames[number - 1].nbytes] == frames[number - 1].tobytes()


def test_frames_are_where_the_extended_offset_table_says(world: World) -> None:
    """PS3.3 section C.7.6.3.1.8: frames need not lie in the order of their numbers."""
    frames = noise(3, 8, 8)
    dataset, codes = rle(frames)
    stream, offsets = item(b""), [0, 0, 0]
    for number in (2, 0, 1):
        offsets[number] = len(stream) - 8
        stream += item(codes[number])
    dataset.PixelData = stream
    with_table(dataset, offsets, codes)
    world.add(part10(dataset))
    with served(world) as client:
        check(client, dataset, frames)


def test_the_extended_offset_table_tells_fragments_apart_before_prepare(world: World) -> None:
    frames = noise(3, 8, 8)
    dataset, codes = rle(frames)
    stream, offsets = item(b""), []
    for code in codes:
        offsets.append(len(stream) - 8)
        half = len(code) // 4 * 2
        stream += item(code[:half]) + item(code[half:])
    dataset.PixelData = stream
    with_table(dataset, offsets, codes)
    world.add(part10(dataset))
    with served(world) as client:
        check(client, dataset, frames)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("kind", ["u1 odd", "u2", "i2", "u4", "colour", "planes", "f4"])
def test_native_frames_in_other_byte_orders(world: World, syntax: str, kind: str) -> None:
    shape = (3, 5, 7, 3) if kind in ("colour", "planes") else (3, 5, 7)
    type_ = {"u1 odd": "u1", "colour": "u1", "planes": "u1"}.get(kind, kind)
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 100, shape).astype(type_)
    dataset = image(frames)
    raw = frames.transpose(0, 3, 1, 2) if kind == "planes" else frames
    cells = np.ascontiguousarray(raw).view(f"u{raw.itemsize}")
    if syntax == ExplicitVRBigEndian:
        cells = cells.astype(f">u{raw.itemsize}")
    data = cells.tobytes() + b"\0" * (cells.nbytes % 2)
    if syntax == ExplicitVRBigEndian and raw.itemsize == 1:
        data = np.frombuffer(data, "<u2").astype(">u2").tobytes()
    if kind == "planes":
        dataset.PlanarConfiguration = 1
    del dataset.PixelData
    if kind == "f4":
        del dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    # Written by hand: the value as it lies, whatever pydicom would make of it.
    vr, tag = ("OF", 0x7FE00008) if kind == "f4" else ("OW", 0x7FE00010)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        head = part10(dataset) if kind == "f4" else _without_pixels(dataset)
        element = struct.pack(order + "HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, len(data))
        world.add(head + element + data)
    else:
        dataset.add_new(tag, vr, data)
        world.add(part10(dataset))
    with served(world) as client:
        check(client, dataset, frames)


def _without_pixels(dataset: Dataset) -> bytes:
    """Write the header in big endian; part10 would look for pixels to swap."""
    bits = dataset.BitsAllocated
    dataset.BitsAllocated = 8
    data = part10(dataset)
    dataset.BitsAllocated = bits
    at = data.index(struct.pack(">HH2sHH", 0x0028, 0x0100, b"US", 2, 8)) + 8
    return data[:at] + struct.pack(">H", bits) + data[at + 2 :]


def test_chroma_is_repeated_frame_by_frame(world: World) -> None:
    frames = np.random.default_rng(2).integers(0, 256, (3, 4, 6, 2), np.uint8)
    dataset = image(np.zeros((3, 4, 6, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422")
    dataset.PixelData = frames.tobytes()
    world.add(part10(dataset))
    pairs = frames.reshape(3, 4, 3, 4)
    wanted = np.empty((3, 4, 3, 2, 3), np.uint8)
    wanted[..., 0], wanted[..., 1:] = pairs[..., :2], pairs[..., None, 2:]
    with served(world) as client:
        check(client, dataset, wanted.reshape(3, 4, 6, 3))


def test_a_big_endian_frame_is_read_without_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = noise(50, 16, 16)
    dataset = image(frames, transfer_syntax=ExplicitVRBigEndian)
    world.add(part10(dataset))

    def never(*_: object) -> None:
        raise AssertionError("the whole object was opened")

    monkeypatch.setattr(frames_module.Frames, "original", never)
    with served(world) as client:
        check(client, dataset, frames, 1, 25, 50)


def test_a_deflated_data_set_is_inflated_once_for_its_frames(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = noise(20, 16, 16)
    dataset = image(frames, transfer_syntax=DeflatedExplicitVRLittleEndian)
    world.add(part10(dataset))
    inflated, calls = dicom.inflate, []

    def counted(data: bytes, offset: int) -> bytearray:
        calls.append(len(data))
        return inflated(data, offset)

    monkeypatch.setattr(received.dicom, "inflate", counted)
    with served(world) as client:
        check(client, dataset, frames, 1, 7, 20)
    assert len(calls) == 1


def test_copied_frames_in_fragments_are_found_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [imagecodecs.jpeg8_encode(frame) for frame in noise(9, 16, 16, bits=8).astype(np.uint8)]
    codes = [code + b"\0" * (len(code) % 2) for code in codes]
    dataset = image(np.zeros((9, 16, 16), np.uint8))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    halves = [(code[: len(code) // 4 * 2], code[len(code) // 4 * 2 :]) for code in codes]
    dataset.PixelData = item(b"") + b"".join(item(a) + item(b) for a, b in halves)
    dataset["PixelData"].VR = "OB"
    world.add(part10(dataset))
    (series,) = world.prepare()
    assert series.instances[0].form == "copied"
    for record in world.index.instances.values():
        world.tiers["image"].delete(record.path)
    whole, calls = Pack.read_object, []

    def counted(pack: Pack, sop_uid: str) -> bytes:
        calls.append(sop_uid)
        return whole(pack, sop_uid)

    monkeypatch.setattr(Pack, "read_object", counted)
    with served(world) as client:
        for number, code in enumerate(codes, 1):
            url = f"{url_of(dataset)}/frames/{number}"
            answer = client.get(url, headers={"Accept": "image/jpeg"})
            assert (answer.status_code, answer.content) == (200, code)
    assert len(calls) == 1


def test_plain_frames_stay_where_they_lie(world: World) -> None:
    frames = noise(3, 8, 8)
    dataset = image(frames, transfer_syntax=ExplicitVRLittleEndian)
    world.add(part10(dataset))
    with served(world) as client:
        check(client, dataset, frames)
