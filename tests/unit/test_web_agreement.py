"""What DICOMweb says and gives agrees: before PREPARE, after it, and without the original."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from stored_series import image, noise, part10
from test_forms_web import lose_original, url_of
from web_world import World, served

OCTETS = {"Accept": "application/octet-stream"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


def metadata_of(client: httpx.Client, world: World) -> dict:
    (found,) = client.get(f"{url_of(world)}/metadata").json()
    return found


# ---- bulk data ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_bulk_data_outlive_the_original(world: World, syntax: str) -> None:
    dataset = image(noise(1, 32, 32), transfer_syntax=syntax)
    profile, private = b"\1\2" * 5000, bytes(range(256)) * 40
    inner = Dataset()
    inner.ICCProfile = profile
    dataset.OpticalPathSequence = Sequence([Dataset(), inner])
    if syntax != ImplicitVRLittleEndian:
        block = dataset.private_block(0x0029, "TEST", create=True)
        block.add_new(1, "OB", private)
    world.add(part10(dataset))
    world.prepare()
    for lost in (False, True):
        if lost:
            lose_original(world)
        with served(world) as client:
            found = metadata_of(client, world)
            nested = found["00480105"]["Value"][1]["00282000"]["BulkDataURI"]
            answers = [client.get(nested, headers=OCTETS)]
            expected = [profile]
            if "00291001" in found:
                answers.append(client.get(found["00291001"]["BulkDataURI"], headers=OCTETS))
                expected.append(private)
            assert [answer.content for answer in answers] == expected


# ---- colour -------------------------------------------------------------------------------------
def planar(frames: np.ndarray, syntax: str) -> Dataset:
    dataset = image(frames, transfer_syntax=syntax, PlanarConfiguration=1)
    dataset.PixelData = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).tobytes()
    return dataset


def subsampled(frames: np.ndarray, syntax: str) -> Dataset:
    """``frames`` with the chroma of two pixels alike."""
    dataset = image(frames, transfer_syntax=syntax, PhotometricInterpretation="YBR_FULL_422")
    pairs = [frames[:, :, ::2, 0], frames[:, :, 1::2, 0], *np.moveaxis(frames[:, :, ::2, 1:], 3, 0)]
    dataset.PixelData = np.stack(pairs, axis=-1).tobytes()
    return dataset


def described(found: dict, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Read a native frame as its metadata say."""
    cells = np.frombuffer(data, np.uint8)
    assert found["00280004"]["Value"] in (["RGB"], ["YBR_FULL"])
    if found["00280006"]["Value"] == [1]:
        return np.moveaxis(cells.reshape(shape[2], *shape[:2]), 0, 2)
    return cells.reshape(shape)


@pytest.mark.parametrize("make", [planar, subsampled])
@pytest.mark.parametrize("rules", ["prepared", "copied"])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_uncompressed_colour_is_as_its_metadata_say(
    world: World, make: object, syntax: str, rules: str
) -> None:
    assert callable(make)
    pairs = np.random.default_rng(0).integers(0, 255, (2, 16, 9, 3), np.uint8)
    frames = np.repeat(pairs, 2, axis=2)
    if make is subsampled:
        frames[:, :, 1::2, 0] ^= 255
    dataset = make(frames, syntax)
    if syntax == ExplicitVRBigEndian:
        dataset["PixelData"].VR = "OB"
    world.add(part10(dataset))
    if rules == "copied":
        rule = {"name": "all", "action": "copy"}
        values = {**world.settings.model_dump(), "compression": [rule]}
        world.settings = type(world.settings).model_validate(values)
    for state in ("received", "prepared", "lost"):
        if state == "prepared":
            (series,) = world.prepare()
            assert series.instances[0].form == ("htj2k" if rules == "prepared" else "copied")
        if state == "lost":
            lose_original(world)
        with served(world) as client:
            found = metadata_of(client, world)
            for number in (1, 2):
                answer = client.get(f"{url_of(world)}/frames/{number}", headers=OCTETS)
                assert answer.status_code == 200, answer.text
                frame = described(found, answer.content, frames.shape[1:])
                assert np.array_equal(frame, frames[number - 1]), state


# ---- unused bits of signed samples --------------------------------------------------------------
@pytest.mark.parametrize("extended", [False, True])
def test_signed_frames_have_the_same_bytes_under_one_tag(world: World, extended: bool) -> None:
    values = noise(2, 32, 40).astype(np.int16) - 2048
    cells = values if extended else (values & 0xFFF).astype(np.uint16)
    world.add(part10(image(cells, bits_stored=12, PixelRepresentation=1)))
    (series,) = world.prepare()
    assert series.instances[0].form == "htj2k"
    answers = []
    for lost in (False, True):
        if lost:
            lose_original(world)
        with served(world) as client:
            answers.append(client.get(f"{url_of(world)}/frames/2", headers=OCTETS))
    assert answers[0].headers["etag"] == answers[1].headers["etag"]
    assert answers[0].content == answers[1].content == struct.pack("<1280h", *values[1].flat)
