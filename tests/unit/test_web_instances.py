"""Whole instances: what cannot be decoded among others, conversions, entity tags, HEAD."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless
from test_web_unprepared import octets
from web_world import World, image_file, served

from raypacs import dicom

LE = "1.2.840.10008.1.2.1"
BE = "1.2.840.10008.1.2.2"
ROOT = "/dicom-web/studies/1.2.3/series/1.2.3.1"
ONE = ROOT + "/instances/1.2.3.1.1"
SINGLE = {"Accept": "application/dicom"}
RNG = np.random.default_rng(9)
PIXELS = RNG.integers(0, 4096, (3, 6, 8), np.uint16)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


def encapsulated(
    pixels: np.ndarray, number: int, *, damaged: bool = False, icon: bool = False, **elements: Any
) -> bytes:
    """An RLE file; ``damaged``: in its last frame. ``elements`` may lie after Pixel Data."""
    dataset = pydicom.dcmread(io.BytesIO(image_file(pixels, number, bits_stored=12)))
    frames = pixels if pixels.ndim == 3 else pixels[None]
    runs = [pydicom.pixels.get_encoder(RLELossless).encode(f, **_runs(f)) for f in frames]
    if damaged:
        runs[-1] = b"\0" * len(runs[-1])
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate(runs)
    dataset["PixelData"].is_undefined_length = True
    if icon:
        item = Dataset()
        item.Rows = item.Columns = 2
        item.PixelData = encapsulate([b"\1\2\3\4"])
        item["PixelData"].VR = "OB"
        item["PixelData"].is_undefined_length = True
        dataset.IconImageSequence = Sequence([item])
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def _runs(frame: np.ndarray) -> dict[str, Any]:
    return {
        "rows": frame.shape[0],
        "columns": frame.shape[1],
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": 16,
        "bits_stored": 12,
        "pixel_representation": 0,
        "photometric_interpretation": "MONOCHROME2",
    }


def big_endian(**elements: Any) -> bytes:
    """A file in Explicit VR Big Endian; words are given as they are to lie in it."""
    dataset = pydicom.dcmread(io.BytesIO(image_file(PIXELS[0], 1, bits_stored=12)))
    dataset.file_meta.TransferSyntaxUID = BE
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True)
    return out.getvalue()


def test_one_that_cannot_be_decoded_does_not_break_the_series(world: World) -> None:
    good, bad = encapsulated(PIXELS[0], 1), encapsulated(PIXELS[1], 2, damaged=True)
    world.add(good, bad, encapsulated(PIXELS[2], 3))
    strict = {
        "Accept": f'multipart/related; type="application/dicom"; transfer-syntax={LE}',
    }
    with served(world) as client:
        for url in (ROOT, "/dicom-web/studies/1.2.3"):
            lenient = client.get(url)
            assert lenient.status_code == 200
            found = octets(lenient)
            assert len(found) == 3
            assert found[1] == bad
            partly = client.get(url, headers=strict)
            assert partly.status_code == 206
            assert "etag" not in partly.headers
            arrays = [pydicom.dcmread(io.BytesIO(data)).pixel_array for data in octets(partly)]
            assert np.array_equal(arrays, PIXELS[[0, 2]])


def test_damage_in_a_later_frame_is_seen_before_anything_is_sent(world: World) -> None:
    data = encapsulated(PIXELS, 1, damaged=True)
    world.add(data)
    with served(world) as client:
        assert client.get(ONE, headers=SINGLE).content == data
        assert octets(client.get(ROOT)) == [data]
        strict = {"Accept": f"application/dicom; transfer-syntax={LE}"}
        assert client.get(ONE, headers=strict).status_code == 406


def test_one_whose_bytes_are_gone_does_not_break_the_series(world: World) -> None:
    stored = world.add(*(image_file(PIXELS[n], n + 1, bits_stored=12) for n in range(3)))
    world.tiers["image"].delete(stored[1].record.path)
    with served(world) as client:
        assert len(octets(client.get(ROOT))) == 2
        for one in (stored[0], stored[2]):
            world.tiers["image"].delete(one.record.path)
        assert client.get(ROOT).status_code == 404


def test_big_endian_words_are_swapped_wherever_they_are(world: World) -> None:
    item = Dataset()
    item.LUTDescriptor = [4, 0, 16]
    item.add_new("LUTData", "OW", np.arange(4, dtype=">u2").tobytes())
    world.add(
        big_endian(
            PixelData=PIXELS[0].astype(">u2").tobytes(),
            ModalityLUTSequence=Sequence([item]),
            RedPaletteColorLookupTableData=np.arange(5, dtype=">u2").tobytes(),
            WindowCenter="40",
        )
    )
    with served(world) as client:
        again = pydicom.dcmread(io.BytesIO(client.get(ONE, headers=SINGLE).content))
    assert again.file_meta.TransferSyntaxUID == LE
    assert np.array_equal(again.pixel_array, PIXELS[0])
    assert again.RedPaletteColorLookupTableData == np.arange(5, dtype="<u2").tobytes()
    assert again.ModalityLUTSequence[0].LUTData == np.arange(4, dtype="<u2").tobytes()
    assert (again.Rows, again.WindowCenter) == (6, 40)


def test_big_endian_single_bits_stay_bits(world: World) -> None:
    bits = RNG.integers(0, 2, (2, 8, 12), np.uint8)
    packed = np.packbits(bits.reshape(-1), bitorder="little")
    (stored,) = world.add(
        big_endian(
            PixelData=packed.view("u2").byteswap().tobytes(),
            NumberOfFrames=2,
            Rows=8,
            Columns=12,
            BitsAllocated=1,
            BitsStored=1,
            HighBit=0,
        )
    )
    assert stored.record.frames == 2
    with served(world) as client:
        again = pydicom.dcmread(io.BytesIO(client.get(ONE, headers=SINGLE).content))
    assert again.PixelData == packed.tobytes()
    assert np.array_equal(again.pixel_array, bits)


def test_native_form_has_no_compressed_icon_and_keeps_what_follows_the_pixels(
    world: World,
) -> None:
    padding = b"\0" * 10
    world.add(
        encapsulated(PIXELS, 1, icon=True, DataSetTrailingPadding=padding),
        encapsulated(PIXELS[0], 2, DigitalSignaturesSequence=Sequence([_signature()])),
    )
    with served(world) as client:
        first = client.get(ONE, headers=SINGLE).content
        second = client.get(ROOT + "/instances/1.2.3.1.2", headers=SINGLE).content
    again = pydicom.dcmread(io.BytesIO(first))
    assert "IconImageSequence" not in again
    assert "DataSetTrailingPadding" not in again
    assert np.array_equal(again.pixel_array, PIXELS)
    meta = dicom.split_part10(second)
    assert meta.transfer_syntax_uid == LE
    signed = pydicom.dcmread(io.BytesIO(second))
    assert np.array_equal(signed.pixel_array, PIXELS[0])
    assert signed.DigitalSignaturesSequence[0].MACIDNumber == 7


def _signature() -> Dataset:
    item = Dataset()
    item.MACIDNumber = 7
    return item


@pytest.mark.parametrize("accept", ["*/*", "application/dicom"])
def test_head_does_not_say_that_there_is_nothing(world: World, accept: str) -> None:
    world.add(image_file(PIXELS[0], 1, bits_stored=12))
    with served(world) as client:
        head = client.head(ONE, headers={"Accept": accept})
        whole = client.get(ONE, headers={"Accept": accept})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers.get("content-length", str(len(whole.content))) == str(len(whole.content))
    for name in ("content-type", "etag"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/metadata", "*/*"),
        ("", "*/*"),
        ("", "application/dicom"),
        ("/rendered", "*/*"),
        ("/rendered?quality=5", "*/*"),
        ("/frames/1", "*/*"),
        ("/frames/1,1", "*/*"),
        ("/frames/1", "application/octet-stream"),
        ("/bulkdata/00420011", "*/*"),
        ("/bulkdata/00420011", "application/octet-stream"),
    ],
)
def test_everything_has_an_entity_tag(world: World, path: str, accept: str, prepared: bool) -> None:
    document = bytes(range(256)) * 40
    world.add(image_file(PIXELS[0], 1, bits_stored=12, EncapsulatedDocument=document))
    if prepared:
        world.prepare()
    with served(world) as client:
        first = client.get(ONE + path, headers={"Accept": accept})
        tag = first.headers["etag"]
        # Bodies with a random boundary are the same in content only.
        multipart = first.headers["content-type"].startswith("multipart/")
        assert not multipart or tag.startswith("W/")
        again = client.get(ONE + path, headers={"Accept": accept, "If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        other = client.get(ONE + path, headers={"Accept": accept, "If-None-Match": '"x"'})
        assert other.status_code == 200


def test_any_syntax_gives_the_prepared_form_once_the_received_one_left(world: World) -> None:
    (stored,) = world.add(image_file(PIXELS[0], 1, bits_stored=12))
    world.prepare()
    world.tiers["image"].delete(stored.record.path)
    with served(world) as client:
        any_form = {"Accept": "application/dicom; transfer-syntax=*"}
        answer = client.get(ONE, headers=any_form)
        assert answer.status_code == 200
        again = pydicom.dcmread(io.BytesIO(answer.content))
        assert again.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.202"
        assert answer.headers["content-type"].endswith("1.2.840.10008.1.2.4.202")
        named = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        assert octets(client.get(ROOT, headers={"Accept": named})) == [answer.content]
