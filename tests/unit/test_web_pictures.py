"""Rendered resources and thumbnails over HTTP: prepared and not, of frames up to studies."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import coded_frames
import httpx
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from stored_series import image, part10
from test_web_unprepared import octets
from web_world import World, image_file, served

from raypacs.codec import htj2k
from raypacs.storage.pack import Pack
from raypacs.web.object_file import ObjectFile

STUDY = "/dicom-web/studies/1.2.3"
ROOT = STUDY + "/series/1.2.3.1"
PNG = {"Accept": "image/png"}
PARTS = {"Accept": 'multipart/related; type="image/png"'}
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}


def smooth(number: int, side: int = 300) -> np.ndarray:
    """A 12-bit picture that is smooth enough to look alike at all sizes."""
    rows, columns = np.mgrid[:side, : side + 20]
    wave = 1000 * np.sin(rows / 40 + number) + 900 * np.cos(columns / 50)
    return np.clip(2048 + wave, 0, 4095).astype(np.uint16)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


def series(world: World, count: int = 5) -> list[np.ndarray]:
    frames = [smooth(n) for n in range(count)]
    for number, frame in enumerate(frames, 1):
        world.add(image_file(frame, number, bits_stored=12, **WINDOW))
    return frames


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return imagecodecs.png_decode(answer.content).astype(int)


def shrunk(frame: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Scale by picking, at the middle of each pixel: good enough for smooth frames."""
    y = ((np.arange(rows) + 0.5) * frame.shape[0] / rows).astype(int)
    x = ((np.arange(columns) + 0.5) * frame.shape[1] / columns).astype(int)
    return frame[y][:, x]


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    ("viewport", "shape"),
    [("150,150", (141, 150)), ("64,64", (60, 64)), ("20,20", (19, 20)), ("5,5", (5, 5))],
)
def test_small_pictures_show_the_frame(
    world: World, prepared: bool, viewport: str, shape: tuple[int, int]
) -> None:
    frames = series(world, 2)
    if prepared:
        world.prepare()
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.2/rendered?viewport={viewport}"
        small = picture(client.get(url, headers=PNG))
        flipped = picture(client.get(url + ",0,0,-320,-300", headers=PNG))
    assert small.shape == shape
    expected = shrunk(frames[1], *shape) / 4095 * 255
    assert np.abs(small - expected).max() <= 3 + 60 / shape[0]
    assert np.array_equal(flipped, small[::-1, ::-1])


def test_only_the_resolution_that_is_needed_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = smooth(1, 1000) ^ np.random.default_rng(1).integers(0, 64, (1000, 1020)).astype(
        np.uint16
    )
    world.add(image_file(noisy, 1, bits_stored=12, **WINDOW))
    world.prepare()
    read: list[int] = []
    read_low, read_file = Pack.read_low, ObjectFile.read

    def low(pack: Pack, uid: str, number: int) -> bytes:
        data = read_low(pack, uid, number)
        read.append(len(data))
        return data

    def rest(file: ObjectFile, offset: int, length: int) -> bytes:
        read.append(length)
        return read_file(file, offset, length)

    monkeypatch.setattr(Pack, "read_low", low)
    monkeypatch.setattr(ObjectFile, "read", rest)
    taken = []
    with served(world) as client:
        for side in (60, 250, 500):
            read.clear()
            url = f"{ROOT}/instances/1.2.3.1.1/rendered?viewport={side},{side}"
            assert client.get(url, headers=PNG).status_code == 200
            taken.append(sum(read))
    whole = noisy.nbytes
    assert 0 < taken[0] < 0.01 * whole
    assert taken[0] < taken[1] < 0.1 * whole
    assert taken[1] < taken[2] < 0.3 * whole


@pytest.mark.parametrize("prepared", [False, True])
def test_the_range_of_a_frame_is_that_of_all_its_pixels(world: World, prepared: bool) -> None:
    frame = smooth(1)
    # Of little weight in any mean, and not among the samples that a small level keeps.
    frame[3, 3] = 60000
    world.add(image_file(frame, 1))
    if prepared:
        world.prepare()
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.1"
        whole = picture(client.get(url + "/rendered", headers=PNG))
        small = picture(client.get(url + "/rendered?viewport=80,75", headers=PNG))
        region = picture(client.get(url + "/rendered?viewport=50,50,100,100,200,200", headers=PNG))
        thumbnail = picture(client.get(url + "/thumbnail", headers=PNG))
    assert whole.max() == 255
    assert np.abs(small - shrunk(whole, *small.shape))[3:].max() <= 1
    assert np.abs(region - shrunk(whole[100:300, 100:300], 50, 50)).max() <= 1
    assert thumbnail[3:].max() <= whole[4:].max() + 1


@pytest.mark.parametrize("prepared", [False, True])
def test_padding_is_not_mixed_into_the_range(world: World, prepared: bool) -> None:
    rows, columns = np.mgrid[-1:1:256j, -1:1:256j]
    inside = np.hypot(rows, columns) < 0.8
    values = np.where(inside, 100 * np.cos(9 * columns), -2000).astype(np.int16)
    dataset = pydicom.dcmread(io.BytesIO(image_file(values, 1)))
    dataset.add_new(0x00280120, "SS", -2000)
    world.add(saved(dataset))
    if prepared:
        world.prepare()
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.1/rendered"
        whole = picture(client.get(url, headers=PNG))
        small = picture(client.get(url + "?viewport=64,64", headers=PNG))
    middle = slice(20, 44)
    assert np.ptp(small[middle, middle]) > 240
    assert np.abs(small - shrunk(whole, 64, 64))[middle, middle].max() <= 12


def test_undershoot_is_clamped_not_wrapped(world: World) -> None:
    frame = np.zeros((256, 256), np.uint16)
    frame[:, 101:] = 4095
    world.add(image_file(frame, 1, bits_stored=12, **WINDOW))
    world.prepare()
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.1/rendered?viewport="
        for side in (128, 64, 32):
            small = picture(client.get(f"{url}{side},{side}", headers=PNG))
            edge = 101 * side // 256
            assert small[:, : edge - 2].max() < 30
            assert small[:, edge + 3 :].min() > 225


def test_colour_is_decoded_small(world: World) -> None:
    frame = np.stack([smooth(n, 256)[:, :256] >> 4 for n in range(3)], 2).astype(np.uint8)
    world.add(image_file(frame, 1))
    world.prepare()
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.1/rendered?viewport=64,64"
        small = picture(client.get(url, headers=PNG))
    expected = frame.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(small - expected).max() <= 6


def palette() -> dict[str, object]:
    words = (np.arange(256, dtype="<u2") * 257).tobytes()
    names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    return {
        "PhotometricInterpretation": "PALETTE COLOR",
        **{name + "Descriptor": [256, 0, 16] for name in names},
        **{name + "Data": words for name in names},
    }


@pytest.mark.parametrize("prepared", [False, True])
def test_indices_are_picked_not_mixed(world: World, prepared: bool) -> None:
    values = np.array([3, 90, 250], np.uint8)
    frame = np.random.default_rng(5).choice(values, (512, 512))
    world.add(image_file(frame, 1, **palette()))
    if prepared:
        world.prepare()
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.1"
        full = picture(client.get(url + "/rendered", headers=PNG))
        thumbnail = picture(client.get(url + "/thumbnail?viewport=50,50", headers=PNG))
    assert np.array_equal(full[..., 0], frame)
    assert thumbnail.shape == (50, 50, 3)
    assert set(np.unique(thumbnail)) <= set(values.tolist())


@pytest.mark.parametrize("prepared", [False, True])
def test_overlays_in_unused_bits(world: World, prepared: bool) -> None:
    plane = np.zeros((40, 60), bool)
    plane[10, 20:30] = True
    cells = np.full((40, 60), 100, np.uint16) | (plane.astype(np.uint16) << 12)
    dataset = pydicom.dcmread(io.BytesIO(image_file(cells, 1, bits_stored=12, **WINDOW)))
    for element, value in ((0x10, 40), (0x11, 60), (0x100, 16), (0x102, 12)):
        dataset.add_new((0x6000, element), "US", value)
    world.add(saved(dataset))
    if prepared:
        world.prepare()
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.1/rendered"
        without = picture(client.get(url, headers=PNG))
        drawn = picture(client.get(url + "?overlay=all", headers=PNG))
    assert set(np.unique(without)) == {6}
    assert np.array_equal(drawn == 255, plane)


# What codes a frame with all bits of its cells; None: native.
CELLS: dict[str, Callable[[np.ndarray], bytes] | None] = {
    ExplicitVRBigEndian: None,
    DeflatedExplicitVRLittleEndian: None,
    RLELossless: coded_frames.rle,
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda cells: coded_frames.jpeg_2000(cells, 16),
    HTJ2KLossless: lambda cells: htj2k.encode_frame(cells, bits_stored=16, signed=False).data,
}


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("syntax", list(CELLS))
def test_overlays_in_unused_bits_of_every_syntax(world: World, prepared: bool, syntax: str) -> None:
    plane = np.zeros((40, 60), bool)
    plane[10, 20:30] = True
    cells = np.full((40, 60), 100, np.uint16) | (plane.astype(np.uint16) << 15)
    dataset = image(cells[None], bits_stored=12, transfer_syntax=syntax, **WINDOW)
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = "1.2.3.1", "1.2.3.1.1"
    for element, value in ((0x10, 40), (0x11, 60), (0x100, 16), (0x102, 15)):
        dataset.add_new((0x6000, element), "US", value)
    encode = CELLS[syntax]
    if encode is not None:
        dataset.PixelData = pydicom.encaps.encapsulate([encode(cells)])
        dataset["PixelData"].VR = "OB"
    world.add(part10(dataset))
    if prepared:
        (made,) = world.prepare()
        assert made.instances[0].form == "copied"
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.1/rendered"
        without = picture(client.get(url, headers=PNG))
        small = picture(client.get(url + "?viewport=15,10", headers=PNG))
        drawn = picture(client.get(url + "?overlay=all", headers=PNG))
    assert set(np.unique(without)) == set(np.unique(small)) == {6}
    assert np.array_equal(drawn == 255, plane)


@pytest.mark.parametrize("prepared", [False, True])
def test_a_sign_in_the_highest_stored_bit_alone(world: World, prepared: bool) -> None:
    values = np.array([[-2048, -1, 0, 2047]] * 4, np.int16)
    window = {**WINDOW, "WindowCenter": 0}
    world.add(image_file(values & 0xFFF, 1, bits_stored=12, **window))
    if prepared:
        world.prepare()
    with served(world) as client:
        shown = picture(client.get(f"{ROOT}/instances/1.2.3.1.1/rendered", headers=PNG))
    assert shown[0].tolist() == [0, 127, 128, 255]


def test_frames_of_a_list_come_as_parts(world: World) -> None:
    frames = np.stack([np.full((9, 11), value, np.uint8) for value in (10, 20, 30)])
    window = {"WindowCenter": 127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"}
    world.add(image_file(frames, 1, **window))
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.1/frames/"
        answer = client.get(url + "3,1/rendered", headers=PARTS)
        assert [imagecodecs.png_decode(part)[0, 0] for part in octets(answer)] == [30, 10]
        assert 'type="image/png"' in answer.headers["content-type"]
        one = client.get(url + "2/rendered", headers=PARTS)
        assert [imagecodecs.png_decode(part)[0, 0] for part in octets(one)] == [20]
        assert picture(client.get(url + "2/rendered", headers=PNG))[0, 0] == 20
        assert client.get(url + "3,1/rendered", headers=PNG).status_code == 406
        assert client.get(url + "4/rendered", headers=PNG).status_code == 404
        assert client.get(url + "1,x/rendered", headers=PNG).status_code == 400
        assert client.get(url + "1,2/thumbnail", headers=PNG).status_code == 400
        # A thumbnail of several frames is that of the middle.
        middle = client.get(f"{ROOT}/instances/1.2.3.1.1/thumbnail", headers=PNG)
        assert picture(middle)[0, 0] == 20


def report(study: str = "1.2.3", uid: str = "1.2.3.9") -> bytes:
    """An object without pixels."""
    data = image_file(np.zeros((2, 2), np.uint8), 1, study=study, series=uid)
    dataset = pydicom.dcmread(io.BytesIO(data))
    del dataset.PixelData, dataset.Rows, dataset.Columns
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    dataset.Modality = "SR"
    return saved(dataset)


def saved(dataset: pydicom.Dataset) -> bytes:
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize("prepared", [False, True])
def test_series_and_studies_come_as_parts(world: World, prepared: bool) -> None:
    series(world, 3)
    world.add(report())
    if prepared:
        world.prepare()
    with served(world) as client:
        whole = client.get(ROOT + "/rendered?viewport=30,30", headers=PARTS)
        assert whole.status_code == 200
        assert len(octets(whole)) == 3
        assert b"/instances/1.2.3.1.3/frames/1/rendered" in whole.content
        study = client.get(STUDY + "/rendered?viewport=30,30", headers=PARTS)
        assert study.status_code == 206
        assert octets(study) == octets(whole)
        assert client.get(ROOT + "/rendered", headers=PNG).status_code == 406
        assert client.get(STUDY + "/series/1.2.3.9/rendered").status_code == 406
        assert client.head(ROOT + "/rendered", headers=PARTS).status_code == 200
        tag = whole.headers["etag"]
        again = client.get(
            ROOT + "/rendered?viewport=30,30", headers={**PARTS, "If-None-Match": tag}
        )
        assert again.status_code == 304


def test_thumbnails_up_to_the_study(world: World) -> None:
    frames = series(world, 5)
    other = np.full((20, 20), 7, np.uint8)
    for number in range(1, 9):
        world.add(image_file(other, number, series="1.2.3.2", Modality="SEG"))
    world.add(report())
    with served(world) as client:
        middle = picture(client.get(f"{ROOT}/instances/1.2.3.1.3/thumbnail", headers=PNG))
        assert middle.shape == (120, 128)
        expected = shrunk(frames[2], 120, 128) / 4095 * 255
        assert np.abs(middle - expected).max() <= 4
        for url in (ROOT, STUDY):
            answer = client.get(url + "/thumbnail", headers=PNG)
            assert np.array_equal(picture(answer), middle)
            tag = answer.headers["etag"]
            again = client.get(url + "/thumbnail", headers={**PNG, "If-None-Match": tag})
            assert (again.status_code, again.headers["etag"]) == (304, tag)
        default = client.get(STUDY + "/thumbnail")
        assert default.headers["content-type"] == "image/jpeg"
        assert imagecodecs.jpeg8_decode(default.content).shape == (120, 128)
        large = client.get(ROOT + "/thumbnail?viewport=256,256", headers=PNG)
        assert picture(large).shape == (240, 256)
        assert client.get(ROOT + "/thumbnail", headers=PARTS).status_code == 406


def test_thumbnails_of_what_has_no_pixels(world: World) -> None:
    world.add(report())
    with served(world) as client:
        for url in ("", "/series/1.2.3.9", "/series/1.2.3.9/instances/1.2.3.9.1"):
            answer = client.get(f"{STUDY}{url}/thumbnail")
            assert answer.status_code == 404
            assert "no thumbnail" in answer.json()["detail"]
        assert client.get(f"/dicom-web/studies/{generate_uid()}/thumbnail").status_code == 404


def test_a_series_whose_middle_cannot_be_shown_is_shown_by_another(world: World) -> None:
    series(world, 5)
    world.change("1.2.3.1.3", photometric="CMYK")
    with served(world) as client:
        assert client.get(f"{ROOT}/instances/1.2.3.1.3/thumbnail").status_code == 406
        second = client.get(f"{ROOT}/instances/1.2.3.1.2/thumbnail", headers=PNG)
        assert np.array_equal(
            picture(client.get(ROOT + "/thumbnail", headers=PNG)), picture(second)
        )


def test_bad_requests(world: World) -> None:
    series(world, 1)
    with served(world) as client:
        url = f"{ROOT}/instances/1.2.3.1.1/rendered?"
        for query in (
            *("annotation=patient", "iccprofile=rommrgb", "viewport=10,10,400,0", "overlay=99"),
            *("invert=maybe", "window=1", "quality=200"),
        ):
            answer = client.get(url + query, headers=PNG)
            assert answer.status_code == 400, query
            assert answer.headers["content-type"] == "application/problem+json"
        inverted = picture(client.get(url + "invert=yes", headers=PNG))
        plain = picture(client.get(url, headers=PNG))
        assert np.abs(255 - inverted - plain).max() <= 1
