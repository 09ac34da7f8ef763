"""DICOMweb over prepared series: frames from the pack, metadata from its sidecar, overviews."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pydicom
import pytest
from test_web_unprepared import octets
from web_world import SAMPLES, World, image_file, served

from raypacs.codec.htj2k import decode_frame
from raypacs.codec.overview import decode_overview

LE = "1.2.840.10008.1.2.1"
RPCL = "1.2.840.10008.1.2.4.202"
HTJ2K = "1.2.840.10008.1.2.4.201"
ROOT = "/dicom-web/studies/1.2.3/series/1.2.3.1"
JPHC = {"Accept": "image/jphc"}
OCTETS = {"Accept": "application/octet-stream"}


def smooth(number: int, side: int = 200) -> np.ndarray:
    """A 12-bit picture that compresses, with a little noise."""
    rows, columns = np.mgrid[:side, : side + 8]
    noise = np.random.default_rng(number).normal(0, 12, rows.shape)
    shape = 1000 + 900 * np.sin(rows / 37 + number / 5) + 800 * np.cos(columns / 23) + noise
    return np.clip(shape, 0, 4095).astype(np.uint16)


FRAMES = np.stack([smooth(n) for n in range(10)])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    for number in range(9):
        made.add(image_file(FRAMES[number], number + 1, bits_stored=12))
    made.prepare()
    yield made
    made.intake.close()


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    with served(world) as made:
        yield made


def frame_url(number: int, frame: int = 1) -> str:
    return f"{ROOT}/instances/1.2.3.1.{number}/frames/{frame}"


def test_frames_as_prepared_decode_to_the_source(client: httpx.Client) -> None:
    for number in (1, 9):
        single = client.get(frame_url(number), headers=JPHC)
        assert single.headers["content-type"] == f"image/jphc; transfer-syntax={RPCL}"
        # OpenJPEG is another decoder than the one that made it.
        assert np.array_equal(imagecodecs.jpeg2k_decode(single.content), FRAMES[number - 1])
        multi = client.get(
            frame_url(number),
            headers={
                "Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
            },
        )
        assert octets(multi) == [single.content]
        assert multi.headers["content-type"].startswith('multipart/related; type="image/jphc"')


def test_ranges_give_the_picture_step_by_step(client: httpx.Client) -> None:
    whole = client.get(frame_url(1), headers=JPHC).content
    for start, stop in ((0, 100), (50, len(whole) // 2), (len(whole) - 10, len(whole))):
        part = client.get(frame_url(1), headers={**JPHC, "Range": f"bytes={start}-{stop - 1}"})
        assert (part.status_code, part.content) == (206, whole[start:stop])
    early = client.get(frame_url(1), headers={**JPHC, "Range": f"bytes=0-{len(whole) // 10}"})
    small = decode_frame(early.content, skip_resolutions=3)
    assert small.shape == (25, 26)
    assert np.abs(small - FRAMES[0][::8, ::8].astype(int)).mean() < 15


def test_native_frames_of_prepared_instances(client: httpx.Client, world: World) -> None:
    assert client.get(frame_url(3), headers=OCTETS).content == FRAMES[2].tobytes()
    # The instance as received has left the image cache: the pack alone gives the same bytes.
    record = world.index.instances["1.2.3.1.4"]
    world.tiers["image"].delete(record.path)
    assert client.get(frame_url(4), headers=OCTETS).content == FRAMES[3].tobytes()
    rendered = client.get(frame_url(4) + "/rendered", headers={"Accept": "image/png"})
    assert rendered.status_code == 200
    whole = client.get(f"{ROOT}/instances/1.2.3.1.4", headers={"Accept": "application/dicom"})
    assert np.array_equal(pydicom.dcmread(io.BytesIO(whole.content)).pixel_array, FRAMES[3])


@pytest.mark.parametrize("syntax", [RPCL, HTJ2K])
def test_instances_as_prepared(client: httpx.Client, syntax: str) -> None:
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={syntax}'
    found = octets(client.get(ROOT, headers={"Accept": accept}))
    assert len(found) == 9
    for number, data in enumerate(found):
        dataset = pydicom.dcmread(io.BytesIO(data))
        assert dataset.file_meta.TransferSyntaxUID == syntax
        frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
        assert np.array_equal(imagecodecs.jpeg2k_decode(frame), FRAMES[number])


def test_explicit_little_endian_is_the_default_and_star_is_as_received(
    client: httpx.Client,
) -> None:
    native = octets(client.get(ROOT))
    assert len(native) == 9
    assert native[0] == image_file(FRAMES[0], 1, bits_stored=12)
    star = client.get(
        ROOT, headers={"Accept": "multipart/related; type=application/dicom; transfer-syntax=*"}
    )
    assert octets(star) == native


def test_metadata_is_the_sidecar_as_it_lies(client: httpx.Client, world: World) -> None:
    with client.stream("GET", ROOT + "/metadata") as raw:
        packed = b"".join(raw.iter_raw())
    (ref,) = world.packs["1.2.3.1"]
    assert packed in world.tiers["web"].read(ref.header_path)
    found = client.get(ROOT + "/metadata").json()
    assert [one["00200013"]["Value"] for one in found] == [[n] for n in range(1, 10)]
    one = client.get(f"{ROOT}/instances/1.2.3.1.5/metadata").json()
    assert one == [found[4]]


def test_overview_container(client: httpx.Client) -> None:
    answer = client.get(ROOT + "/overview?level=3")
    assert answer.headers["content-type"] == "application/vnd.raypacs.overview"
    level, frames = decode_overview(answer.content)
    assert level == 3
    assert [one.sop_instance_uid for one in frames] == [f"1.2.3.1.{n}" for n in range(1, 10)]
    for number, one in enumerate(frames):
        full = client.get(frame_url(number + 1), headers=JPHC).content
        assert np.array_equal(one.pixels, decode_frame(full, skip_resolutions=3))
    again = client.get(
        ROOT + "/overview?level=3", headers={"If-None-Match": answer.headers["etag"]}
    )
    assert again.status_code == 304


@pytest.mark.parametrize("level", [0, 1, 3, 6])
def test_overview_as_codestreams(client: httpx.Client, level: int) -> None:
    accept = {"Accept": 'multipart/related; type="image/jphc"'}
    answer = client.get(f"{ROOT}/overview?level={level}", headers=accept)
    found = octets(answer)
    assert len(found) == 9
    for number, data in enumerate(found):
        full = client.get(frame_url(number + 1), headers=JPHC).content
        assert full.startswith(data)
        skip = min(level, 5)
        expected = decode_frame(full, skip_resolutions=skip)
        assert np.array_equal(decode_frame(data, skip_resolutions=skip), expected)
    assert (len(answer.content) < 0.2 * FRAMES[:9].nbytes) == (level > 0)


def test_a_series_that_grows_has_several_packs(world: World) -> None:
    with served(world) as client:
        assert len(client.get(ROOT + "/metadata").json()) == 9
        world.add(image_file(FRAMES[9], 10, bits_stored=12))
        deadline = time.monotonic() + 10
        while client.get(frame_url(10), headers=OCTETS).status_code == 404:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.get(frame_url(10), headers=OCTETS).content == FRAMES[9].tobytes()
        assert client.get(frame_url(10), headers=JPHC).status_code == 406
        assert len(client.get(ROOT + "/metadata").json()) == 10
        world.prepare()
        assert len(world.packs["1.2.3.1"]) == 2
    with served(world) as client:
        found = client.get(frame_url(10), headers=JPHC)
        assert np.array_equal(imagecodecs.jpeg2k_decode(found.content), FRAMES[9])
        assert len(client.get(ROOT + "/metadata").json()) == 10
        _, frames = decode_overview(client.get(ROOT + "/overview").content)
        assert len(frames) == 10


def test_multi_frame_signed_and_colour(tmp_path: Path) -> None:
    world = World(tmp_path)
    signed = FRAMES[:3].astype(np.int16) - 2000
    rgb = np.stack([(FRAMES[n, :64, :48] >> 4).astype(np.uint8) for n in range(3)], -1)
    world.add(image_file(signed, 1), image_file(rgb, 2))
    world.prepare()
    with served(world) as client:
        both = client.get(
            frame_url(1) + ",3", headers={"Accept": "multipart/related; type=image/jphc"}
        )
        assert [
            np.array_equal(imagecodecs.jpeg2k_decode(data), signed[n])
            for n, data in zip((0, 2), octets(both), strict=True)
        ] == [True, True]
        assert client.get(frame_url(1, 2), headers=OCTETS).content == signed[1].tobytes()
        colour = client.get(frame_url(2), headers=JPHC)
        assert np.array_equal(imagecodecs.htj2k_decode(colour.content), rgb)
        assert client.get(frame_url(2), headers=OCTETS).content == rgb.tobytes()
        png = client.get(frame_url(2) + "/rendered", headers={"Accept": "image/png"})
        assert np.array_equal(imagecodecs.png_decode(png.content), rgb)
    world.intake.close()


@pytest.mark.parametrize("name", ["SC_rgb_small_odd_jpeg.dcm", "MR_small_RLE.dcm", "CT_small.dcm"])
def test_copied_and_transcoded_samples(tmp_path: Path, name: str) -> None:
    world = World(tmp_path)
    (stored,) = world.add((SAMPLES / name).read_bytes())
    record = stored.record
    (prepared,) = world.prepare()
    source = pydicom.dcmread(SAMPLES / name)
    raw = pydicom.pixels.pixel_array(source, raw=True, index=0)
    url = (
        f"/dicom-web/studies/{record.study_uid}/series/{record.series_uid}"
        f"/instances/{record.sop_instance_uid}"
    )
    with served(world) as client:
        star = octets(
            client.get(
                url + "/frames/1",
                headers={
                    "Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"
                },
            )
        )[0]
        if prepared.instances[0].form == "copied":
            assert star == next(
                pydicom.encaps.generate_frames(source.PixelData, number_of_frames=1)
            )
        else:
            assert np.array_equal(imagecodecs.htj2k_decode(star), raw)
        native = client.get(url + "/frames/1", headers=OCTETS).content
        got = np.frombuffer(native, raw.dtype.newbyteorder("<")).reshape(raw.shape)
        assert np.abs(got.astype(np.int64) - raw).max() <= 3
        # Without the image cache everything still comes from the pack.
        world.tiers["image"].delete(record.path)
    with served(world) as client:
        assert octets(
            client.get(
                url + "/frames/1",
                headers={
                    "Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"
                },
            )
        ) == [star]
        assert client.get(url + "/frames/1", headers=OCTETS).content == native
        assert client.get(url, headers={"Accept": "application/dicom"}).status_code == 200
        assert client.get(url + "/metadata").status_code == 200
        assert client.get(url + "/rendered").status_code == 200
    world.intake.close()
