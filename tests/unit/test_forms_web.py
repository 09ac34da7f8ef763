"""Every form over DICOMweb, while the instance as received is there and after it left."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from stored_series import image, noise, part10
from test_forms import LABEL_MAP, float_frames, labels, masks, parametric_map, segmentation
from test_web_unprepared import octets
from web_world import World, served

from raypacs.codec.overview import decode_overview

OCTETS = {"Accept": "application/octet-stream"}
DICOM = {"Accept": "application/dicom"}
SHAPE = (3, 85, 133)


def shifted(frames: np.ndarray) -> bytes:
    return part10(image(frames << 4, bits_stored=12, HighBit=15))


def subsampled(pairs: np.ndarray) -> bytes:
    rows, count = pairs.shape[1:3]
    dataset = image(np.zeros((len(pairs), rows, 2 * count, 3), np.uint8))
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.PixelData = pairs.tobytes()
    return part10(dataset)


def compressed(data: bytes) -> bytes:
    """The same segmentation as JPEG 2000."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    parts = [
        imagecodecs.jpeg2k_encode(
            frame, level=0, codecformat="j2k", reversible=True, bitspersample=1
        )
        for frame in dataset.pixel_array
    ]
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    dataset.PixelData = pydicom.encaps.encapsulate(parts)
    dataset["PixelData"].VR = "OB"
    return part10(dataset)


def with_bits_stored(data: bytes) -> bytes:
    """The same parametric map with what only integers have (PS3.3 section C.7.6.24)."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 32, 31, 1
    return part10(dataset)


FLOATS = float_frames("f4", SHAPE)
DOUBLES = float_frames("f8", SHAPE)
MASKS = masks(*SHAPE)
PALETTE = labels(*SHAPE)
SHIFTED = noise(*SHAPE)
PAIRS = np.random.default_rng(0).integers(0, 255, (3, 20, 70, 4), np.uint8)
CASES = {
    "float": (parametric_map(FLOATS), "wavelet"),
    "double": (parametric_map(DOUBLES), "wavelet"),
    "float with Bits Stored": (with_bits_stored(parametric_map(FLOATS)), "wavelet"),
    "bits": (segmentation(MASKS), "bits"),
    "compressed bits": (compressed(segmentation(MASKS)), "bits"),
    "palette": (part10(image(PALETTE, PhotometricInterpretation="PALETTE COLOR")), "htj2k"),
    "labels": (part10(image(PALETTE, SOPClassUID=LABEL_MAP)), "htj2k"),
    "shifted": (shifted(SHIFTED), "htj2k"),
    "subsampled": (subsampled(PAIRS), "htj2k"),
}


def chroma_repeated(pairs: np.ndarray) -> np.ndarray:
    frames = np.empty((*pairs.shape[:2], 2 * pairs.shape[2], 3), np.uint8)
    frames[:, :, ::2, 0], frames[:, :, 1::2, 0] = pairs[..., 0], pairs[..., 1]
    frames[..., 1:] = np.repeat(pairs[..., 2:], 2, axis=2)
    return frames


def expected_frame(name: str, number: int) -> bytes:
    """The native bytes of a prepared frame (from 1), little endian."""
    if "bits" in name:
        return np.packbits(MASKS[number - 1].reshape(-1), bitorder="little").tobytes()
    frames = {
        "float": FLOATS,
        "double": DOUBLES,
        "float with Bits Stored": FLOATS,
        "palette": PALETTE,
        "labels": PALETTE,
        "shifted": SHIFTED,
        "subsampled": chroma_repeated(PAIRS),
    }[name]
    return frames[number - 1].tobytes()


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def world(tmp_path: Path, case: str) -> Iterator[World]:
    made = World(tmp_path)
    made.add(CASES[case][0])
    yield made
    made.intake.close()


def url_of(world: World) -> str:
    (record,) = world.index.instances.values()
    return (
        f"/dicom-web/studies/{record.study_uid}/series/{record.series_uid}"
        f"/instances/{record.sop_instance_uid}"
    )


def lose_original(world: World) -> None:
    (record,) = world.index.instances.values()
    world.tiers["image"].delete(record.path)


@pytest.mark.parametrize("lost", [False, True])
def test_frames_of_every_form(world: World, case: str, lost: bool) -> None:
    (series,) = world.prepare()
    assert series.instances[0].form == CASES[case][1]
    if lost:
        lose_original(world)
    with served(world) as client:
        for number in (1, 2, 3):
            answer = client.get(f"{url_of(world)}/frames/{number}", headers=OCTETS)
            assert answer.status_code == 200
            assert answer.content == expected_frame(case, number)
            assert "transfer-syntax=1.2.840.10008.1.2.1" in answer.headers["content-type"]
        several = client.get(f"{url_of(world)}/frames/3,1")
        assert octets(several) == [expected_frame(case, 3), expected_frame(case, 1)]
        star = client.get(
            f"{url_of(world)}/frames/2",
            headers={"Accept": "application/octet-stream; transfer-syntax=*"},
        )
        assert star.status_code == 200
        if CASES[case][1] != "htj2k":
            assert star.content == expected_frame(case, 2)
            refused = client.get(f"{url_of(world)}/frames/2", headers={"Accept": "image/jphc"})
            assert refused.status_code == 406


@pytest.mark.parametrize("lost", [False, True])
def test_instances_of_every_form(world: World, case: str, lost: bool) -> None:
    world.prepare()
    if lost:
        lose_original(world)
    source = pydicom.dcmread(io.BytesIO(CASES[case][0]))
    with served(world) as client:
        answer = client.get(url_of(world), headers=DICOM)
        assert answer.status_code == 200
        found = pydicom.dcmread(io.BytesIO(answer.content))
        assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        if case in ("float", "double"):
            keyword = "FloatPixelData" if case == "float" else "DoubleFloatPixelData"
            assert found[keyword].value == source[keyword].value
        elif case == "bits":
            assert found.PixelData == source.PixelData
        if lost or case == "compressed bits":
            pixels = pydicom.pixels.pixel_array(found, raw=True)
            if "bits" in case:
                assert np.array_equal(pixels, MASKS)
            else:
                assert pixels.tobytes() == b"".join(expected_frame(case, n) for n in (1, 2, 3))
        received = client.get(
            url_of(world), headers={"Accept": "application/dicom; transfer-syntax=*"}
        )
        assert received.status_code == 200
        if not lost:
            assert received.content == CASES[case][0]


def test_metadata_describes_what_frames_give(world: World, case: str) -> None:
    world.prepare()
    with served(world) as client:
        (one,) = client.get(f"{url_of(world)}/metadata").json()
    if case == "shifted":
        assert one["00280102"]["Value"] == [11]
    if case == "subsampled":
        assert one["00280004"]["Value"] == ["YBR_FULL"]
    if case in ("float", "double"):
        assert "00280101" not in one


@pytest.mark.parametrize("level", [0, 1, 2, 5])
def test_overviews_of_every_form(world: World, case: str, level: int) -> None:
    world.prepare()
    lose_original(world)
    series = url_of(world).rsplit("/instances", 1)[0]
    with served(world) as client:
        answer = client.get(f"{series}/overview", params={"level": level})
        parts = client.get(
            f"{series}/overview",
            params={"level": level},
            headers={"Accept": 'multipart/related; type="image/jphc"'},
        )
    if CASES[case][1] == "wavelet":
        assert (answer.status_code, parts.status_code) == (406, 406)
        assert "floating-point" in answer.text
        return
    _, frames = decode_overview(answer.content)
    assert [frame.frame_number for frame in frames] == [1, 2, 3]
    picked = MASKS if "bits" in case else PALETTE
    if case in ("bits", "compressed bits", "palette", "labels"):
        step = 1 << level
        for frame, code, whole in zip(frames, octets(parts), picked, strict=True):
            small = whole[::step, ::step]
            assert np.array_equal(frame.pixels, small)
            assert np.array_equal(imagecodecs.jpeg2k_decode(code).reshape(small.shape), small)


@pytest.mark.parametrize("case", ["bits", "compressed bits"], indirect=True)
def test_unprepared_single_bits_are_taken_out_of_their_bytes(world: World, case: str) -> None:
    with served(world) as client:
        for number in (1, 2, 3):
            answer = client.get(f"{url_of(world)}/frames/{number}", headers=OCTETS)
            assert answer.content == expected_frame(case, number)
        whole = client.get(url_of(world), headers=DICOM).content
    found = pydicom.dcmread(io.BytesIO(whole))
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert np.array_equal(found.pixel_array, MASKS)


def test_compressed_frames_that_left_are_not_taken_for_others(tmp_path: Path) -> None:
    world = World(tmp_path)
    frame = noise(1, 30, 40)
    dataset = image(frame, transfer_syntax="1.2.840.10008.1.2.4.80")
    dataset.PixelData = pydicom.encaps.encapsulate([imagecodecs.jpegls_encode(frame[0])])
    world.add(part10(dataset))
    world.prepare()
    with served(world) as client:
        url = f"{url_of(world)}/frames/1"
        assert client.get(url, headers={"Accept": "image/jls"}).status_code == 200
        lose_original(world)
    with served(world) as client:
        assert client.get(url, headers={"Accept": "image/jls"}).status_code == 404
        assert client.get(url, headers={"Accept": "image/jphc"}).status_code == 200
    world.intake.close()
