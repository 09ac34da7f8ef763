"""A gateway that goes on while archives change under it: never another file's bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.uid import RLELossless

from raypacs.web.places import SeriesViews
from tests.adopting_site import AdoptingSite
from tests.web_world import image_file

STUDY, OTHER = "1.2.3", "1.2.4"
NATIVE = "application/octet-stream"


def picture(pixels: np.ndarray, study: str = STUDY) -> bytes:
    return image_file(pixels.astype(np.uint16), 1, study=study, series=f"{study}.1", bits_stored=12)


def rle(pixels: np.ndarray, study: str) -> tuple[bytes, bytes]:
    """Return a file in RLE, and its frame."""
    dataset = pydicom.dcmread(io.BytesIO(picture(pixels, study)))
    dataset.compress(RLELossless, generate_instance_uid=False)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue(), next(generate_frames(dataset.PixelData, number_of_frames=1))


def frame(web: httpx.Client, kind: str, study: str = STUDY) -> httpx.Response:
    url = f"/dicom-web/studies/{study}/series/{study}.1/instances/{study}.1.1/frames/1"
    return web.get(url, headers={"Accept": kind})


@pytest.fixture
def site(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AdoptingSite]:
    # Views are checked at each request: nothing here waits for one to get old.
    monkeypatch.setattr(SeriesViews, "fresh", lambda *_: None)
    site = AdoptingSite(tmp_path / "site", database_url)
    yield site
    site.close()


def test_two_archives_with_the_same_path(site: AdoptingSite, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 4000, (64, 64))
    frames = {}
    for name, study, pixels in (("a", STUDY, np.zeros((64, 64))), ("b", OTHER, noise)):
        (tmp_path / name).mkdir()
        data, frames[study] = rle(pixels, study)
        (tmp_path / name / "IM1").write_bytes(data)
        site.adopt(tmp_path / name)
    with site.served() as web:
        for study, expected in frames.items():
            answer = frame(web, 'multipart/related; type="image/dicom-rle"', study)
            assert answer.status_code == 200
            assert expected in answer.content


def test_a_file_replaced_and_adopted_anew(site: AdoptingSite, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    old, new = np.full((64, 64), 5, np.uint16), np.full((64, 64), 9, np.uint16)
    (archive / "IM1").write_bytes(picture(old))
    site.adopt(archive)
    with site.served() as web:
        assert old.tobytes() in frame(web, NATIVE).content
        (archive / "new").write_bytes(picture(new))
        os.utime(archive / "new", (1, 1))
        os.replace(archive / "new", archive / "IM1")
        assert frame(web, NATIVE).status_code == 404
        site.now += 100
        site.master.delete_study(STUDY)
        site.now += 100
        item_id = site.master.order_adoption(archive.as_uri(), deleted=True, who="ann")["item_id"]
        site.run("ADOPT")
        assert site.told(item_id)["indexed"] == 1
        assert new.tobytes() in frame(web, NATIVE).content


def test_a_file_that_went_and_came_back(site: AdoptingSite, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    pixels = np.full((64, 64), 5, np.uint16)
    (archive / "IM1").write_bytes(picture(pixels))
    os.utime(archive / "IM1", (1, 1))
    site.adopt(archive)
    with site.served() as web:
        assert frame(web, NATIVE).status_code == 200
        os.unlink(archive / "IM1")
        assert frame(web, NATIVE).status_code == 404
        (archive / "IM1").write_bytes(picture(pixels))
        os.utime(archive / "IM1", (1, 1))
        assert frame(web, NATIVE).status_code == 200


def test_a_file_that_moved(site: AdoptingSite, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "IM1").write_bytes(picture(np.full((64, 64), 5)))
    site.adopt(archive)
    with site.served() as web:
        assert frame(web, NATIVE).status_code == 200
        os.rename(archive / "IM1", archive / "IM2")
        site.now += 100
        item_id = site.master.order_adoption(archive.as_uri(), who="ann")["item_id"]
        site.run("ADOPT")
        assert site.told(item_id)["moved"] == 1
        url = f"/dicom-web/studies/{STUDY}/series/{STUDY}.1/instances/{STUDY}.1.1"
        for name in (url, f"{url}/frames/1"):
            assert web.get(name).status_code == 200
