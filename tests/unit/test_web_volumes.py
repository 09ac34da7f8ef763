"""`overview3d` of a series over HTTP: array, pictures, JSON, reasons."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from volume_world import body, enhanced, part10, series_datasets
from web_world import World, image_file, served

from raypacs.codec import volume
from raypacs.errors import PackCorrupt
from raypacs.storage.pack import Pack

ROOT = "/dicom-web/studies/1.2.3/series/1.2.3.1/overview3d"
FORMS = ("?format=npy", "?format=json", "?format=png", "?format=rpv3")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


def prepared(world: World, datasets: list[Dataset]) -> None:
    world.add(*(part10(one) for one in datasets))
    world.prepare()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A prepared series of 24 slices, served."""
    made = World(tmp_path_factory.mktemp("head"))
    prepared(made, series_datasets(24))
    with served(made) as client:
        yield client
    made.intake.close()


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(imagecodecs.png_decode(answer.content))


def test_the_volume_is_a_numpy_array_in_modality_units(head: httpx.Client) -> None:
    answers = [
        head.get(ROOT),
        head.get(ROOT + "?format=npy"),
        head.get(ROOT, headers={"Accept": "application/x-npy"}),
    ]
    for answer in answers:
        assert answer.headers["content-type"] == "application/x-npy"
        voxels = np.load(io.BytesIO(answer.content))
        assert (voxels.shape, voxels.dtype) == ((24, 64, 80), np.int16)
    told = head.get(ROOT, headers={"Accept": "application/json"}).json()
    assert told == head.get(ROOT + "?format=json").json()
    assert told["shape"] == [24, 64, 80]
    assert told["type"] == "int16"
    assert (told["frames"], told["series_frames"], told["complete"]) == (24, 24, True)
    assert (told["units"], told["window"]) == ("HU", {"center": 100.0, "width": 800.0})
    assert told["planes"]["axial"] == {
        "count": 32,
        "step_mm": 1.5,
        "from_mm": pytest.approx(-20.25),
        "to_mm": pytest.approx(26.25),
        "rows": 64,
        "columns": 80,
    }
    i, j, k = 30, 20, 10
    x, y, z, _ = np.array(told["affine"]) @ [i, j, k, 1]
    assert voxels[k, j, i] == pytest.approx(body(np.array([x, y, z])), abs=15)
    assert told["loss"]["psnr_db"] > 50


def test_the_compact_form_is_that_of_the_pack(head: httpx.Client) -> None:
    answer = head.get(ROOT + "?format=rpv3")
    assert answer.headers["content-type"] == volume.MEDIA_TYPE
    assert answer.content == head.get(ROOT, headers={"Accept": volume.MEDIA_TYPE}).content
    found = volume.decode_volume(answer.content)
    assert np.array_equal(found.voxels, np.load(io.BytesIO(head.get(ROOT).content)))
    assert len(answer.content) == head.get(ROOT + "?format=json").json()["bytes"]


def test_entity_tags_and_head(head: httpx.Client) -> None:
    tags = set()
    for query in ("", "?format=json", "?format=rpv3", "?plane=axial", "?plane=axial&index=3"):
        first = head.get(ROOT + query)
        tag = first.headers["etag"]
        tags.add(tag)
        again = head.get(ROOT + query, headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        only = head.head(ROOT + query)
        assert (only.status_code, only.content, only.headers["etag"]) == (200, b"", tag)
    assert len(tags) == 5


@pytest.mark.parametrize("name", ["axial", "coronal", "sagittal"])
def test_planes_have_the_right_side_up(head: httpx.Client, name: str) -> None:
    told = head.get(ROOT + "?format=json").json()["planes"][name]
    grey = picture(head.get(f"{ROOT}?plane={name}&window=100,1600"))
    assert grey.shape == (told["rows"], told["columns"])
    # The body is brighter to the left, the back and the head.
    right, down = {"axial": (1, 1), "coronal": (1, -1), "sagittal": (1, -1)}[name]
    values = grey.astype(float)
    assert np.sign(values[:, -8:].mean() - values[:, :8].mean()) == right
    assert np.sign(values[-8:].mean() - values[:8].mean()) == down


def test_positions_of_planes(head: httpx.Client) -> None:
    told = head.get(ROOT + "?format=json").json()["planes"]["axial"]
    last = told["count"] - 1
    wide = "&window=0,2000"
    for one, other in (
        ("position=0", "index=0"),
        ("position=1", f"index={last}"),
        ("position=0.5", "format=png"),
        ("index=7", f"mm={told['from_mm'] + 7 * told['step_mm']}"),
    ):
        first, second = (
            picture(head.get(f"{ROOT}?plane=axial&{query}{wide}")) for query in (one, other)
        )
        assert np.array_equal(first, second)
    feet = picture(head.get(f"{ROOT}?plane=axial&position=0{wide}"))
    top = picture(head.get(f"{ROOT}?plane=axial&position=1{wide}"))
    assert top.mean() > feet.mean()
    assert np.array_equal(
        picture(head.get(ROOT, params={"format": "png"})),
        picture(head.get(ROOT, headers={"Accept": "image/png"})),
    )


def test_size_and_spacing_keep_the_middle(head: httpx.Client) -> None:
    plain = picture(head.get(ROOT + "?plane=axial"))
    fine = picture(head.get(ROOT + "?plane=axial&spacing=0.75"))
    assert fine.shape == (128, 160)
    assert np.abs(fine[::2, ::2].astype(int) - plain).max() < 12
    small = picture(head.get(ROOT + "?plane=axial&size=40,20"))
    assert small.shape == (20, 40)
    assert np.array_equal(small, plain[22:42, 20:60])
    assert picture(head.get(ROOT + "?plane=coronal&size=30&spacing=3")).shape == (30, 30)


def test_any_oblique_plane(head: httpx.Client) -> None:
    half = math.sqrt(0.5)
    answer = head.get(
        ROOT,
        params={
            "origin": "0,0,-5",
            "row": f"{half},{half},0",
            "column": "0,0,2",
            "size": "30,20",
            "spacing": "1",
            "window": "200,1000",
        },
    )
    grey = picture(answer)
    r, c = np.mgrid[0:20, 0:30]
    points = np.stack([c * half, c * half, r - 5.0], -1)
    expected = np.clip((body(points) - 200) / 1000 + 0.5, 0, 1) * 255
    assert np.abs(grey - expected).mean() < 2
    assert grey.shape == (20, 30)
    # The same as the axial plane, where it lies on it.
    told = head.get(ROOT + "?format=json").json()["planes"]["axial"]
    plain = picture(head.get(ROOT + "?plane=axial&index=5"))
    mm = told["from_mm"] + 5 * told["step_mm"]
    query = f"?origin=-60,-48,{mm}&row=1,0,0&column=0,1,0&size=80,64"
    assert np.array_equal(picture(head.get(ROOT + query)), plain)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("plane=frontal", "plane"),
        ("plane=axial&position=1.1", "position"),
        ("plane=axial&position=x", "position"),
        ("plane=axial&position=nan", "position"),
        ("plane=axial&index=-1", "index"),
        ("plane=axial&index=1e3", "index"),
        ("plane=axial&index=32", "index"),
        ("plane=axial&mm=900", "mm"),
        ("plane=axial&mm=1&index=1", "mm"),
        ("plane=axial&format=npy", "format"),
        ("format=gif", "format"),
        ("format=", "format"),
        ("window=1", "window"),
        ("window=1,0", "window"),
        ("window=1,-5", "window"),
        ("window=a,b", "window"),
        ("origin=1,2,3", "row"),
        ("origin=1,2&row=1,0,0&column=0,1,0", "origin"),
        ("origin=1,2,3&row=0,0,0&column=0,1,0", "row"),
        ("origin=1,2,3&row=1,0,0&column=1,1,0", "column"),
        ("origin=1,2,3&row=1,0,0&column=1,0,0", "column"),
        ("origin=1,2,1e300&row=1,0,0&column=0,1,0", "origin"),
        ("origin=1,2,3&row=1,0,0&column=0,1,0&plane=axial", "plane"),
        ("origin=1,2,3&row=1,0,0&column=0,1,0&index=3", "index"),
        ("plane=axial&size=0", "size"),
        ("plane=axial&size=5000,20", "size"),
        ("plane=axial&size=1,2,3", "size"),
        ("plane=axial&spacing=0", "spacing"),
        ("plane=axial&spacing=inf", "spacing"),
        ("size=20", "size"),
        ("planes=axial", "planes"),
    ],
)
def test_wrong_parameters_are_named(head: httpx.Client, query: str, named: str) -> None:
    answer = head.get(f"{ROOT}?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].startswith(named)


def test_what_cannot_be_accepted(head: httpx.Client) -> None:
    assert head.get(ROOT, headers={"Accept": "image/gif"}).status_code == 406
    npy = {"Accept": "application/x-npy"}
    assert head.get(ROOT + "?plane=axial", headers=npy).status_code == 406


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        (series_datasets(10), "a volume has 16 or more"),
        ([*series_datasets(12), *series_datasets(30)[14:]], "a slice is missing"),
    ],
)
def test_a_series_that_is_no_volume_has_none_with_the_reason(
    world: World, datasets: list[Dataset], reason: str
) -> None:
    prepared(world, datasets)
    with served(world) as client:
        for query in ("", "?plane=axial", "?format=json"):
            answer = client.get(ROOT + query)
            assert answer.status_code == 404
            assert reason in answer.json()["detail"]


def test_what_is_not_prepared_or_colour_or_unknown(world: World) -> None:
    world.add(*(part10(one) for one in series_datasets(20)))
    colour = np.zeros((20, 24, 3), np.uint8)
    with served(world) as client:
        assert "not prepared yet" in client.get(ROOT).json()["detail"]
        assert client.get(ROOT.replace("1.2.3.1", "1.2.3.7")).status_code == 404
    world.add(
        *(image_file(colour, number + 1, series="1.2.3.2") for number in range(20)),
    )
    world.prepare()
    with served(world) as client:
        answer = client.get(ROOT.replace("1.2.3.1", "1.2.3.2"))
        assert "RGB is not grey" in answer.json()["detail"]


def test_an_enhanced_object_is_a_volume(world: World) -> None:
    prepared(world, [enhanced(series_datasets(20))])
    with served(world) as client:
        told = client.get(ROOT + "?format=json").json()
        assert told["shape"] == [20, 64, 80]
        assert (told["instances"], told["frames"], told["complete"]) == (1, 20, True)
        voxels = np.load(io.BytesIO(client.get(ROOT).content))
    x, y, z, _ = np.array(told["affine"]) @ [30, 20, 10, 1]
    assert voxels[10, 20, 30] == pytest.approx(body(np.array([x, y, z])), abs=15)


def test_damage_in_the_pack_is_found(world: World) -> None:
    prepared(world, series_datasets(20))
    ref = world.packs["1.2.3.1"][0]
    tier = world.tiers["web"]
    pack = Pack(tier, ref)
    pack.check_frames()
    data = bytearray(tier.read(ref.pack_path))
    at = data.index(volume.MAGIC)
    assert data[at : at + len(pack.read_volume())] == pack.read_volume()
    data[at + 100] ^= 1
    tier.delete(ref.pack_path)
    tier.put_durable(ref.pack_path, bytes(data))
    with pytest.raises(PackCorrupt):
        Pack(tier, ref).check_frames()
    with served(world) as client:
        assert client.get(ROOT).status_code == 500
        assert client.get(ROOT.replace("overview3d", "metadata")).status_code == 200


def test_inverted_grey(world: World) -> None:
    prepared(world, series_datasets(20, PhotometricInterpretation="MONOCHROME1"))
    with served(world) as client:
        grey = picture(client.get(ROOT + "?plane=axial&window=0,2000")).astype(float)
    assert grey[:, :8].mean() > grey[:, -8:].mean()


def test_of_several_packs_the_largest_volume_answers(world: World) -> None:
    series = series_datasets(44)
    prepared(world, series[:18])
    with served(world) as client:
        told = client.get(ROOT + "?format=json").json()
        assert (told["frames"], told["series_frames"], told["complete"]) == (18, 18, True)
        assert not any("warning" in client.get(ROOT + form).headers for form in FORMS)
    prepared(world, series[18:])
    with served(world) as client:
        told = client.get(ROOT + "?format=json").json()
        assert (told["frames"], told["series_frames"], told["complete"]) == (26, 44, False)
        for form in FORMS:  # pictures and arrays cannot say it themselves
            warning = client.get(ROOT + form).headers["warning"]
            assert warning.startswith("299 http")
            assert warning.endswith(': "26 of 44 frames of the series are in this volume"')
    prepared(world, [*series_datasets(52)[44:]])
    with served(world) as client:
        told = client.get(ROOT + "?format=json").json()
        assert (told["frames"], told["series_frames"], told["complete"]) == (26, 52, False)


def test_frames_that_are_left_out_make_it_incomplete(world: World) -> None:
    localizer = series_datasets(1, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))[0]
    localizer.SOPInstanceUID = "1.2.3.1.99"
    prepared(world, [localizer, *series_datasets(20)])
    with served(world) as client:
        told = client.get(ROOT + "?format=json").json()
    assert (told["frames"], told["series_frames"], told["complete"]) == (20, 21, False)


@pytest.mark.parametrize("error", [ValueError, MemoryError, OSError, ZeroDivisionError])
def test_a_failure_costs_the_overview_only(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def broken(*_: object) -> bytes:
        raise error("made to fail")

    monkeypatch.setattr("raypacs.work.volume.geometry.find_stack", broken)
    prepared(world, series_datasets(20))
    monkeypatch.undo()
    with served(world) as client:
        answer = client.get(ROOT)
        assert answer.status_code == 404
        assert "prepare it again, or see the node's log" in answer.json()["detail"]
        assert client.get(ROOT.replace("overview3d", "metadata")).status_code == 200


def test_a_colour_series_is_not_even_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypacs.work.volume._made", lambda *_: pytest.fail("looked at"))
    colour = np.zeros((20, 24, 3), np.uint8)
    world.add(*(image_file(colour, number + 1) for number in range(20)))
    (done,) = world.prepare()
    assert len(done.instances) == 20
