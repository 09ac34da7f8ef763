"""Adoptions over REST and the command line; a study as a zip stream, and as a folder."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.fileset import FileSet

from raypacs.cli.app import main
from raypacs.records import Outcome
from tests.adopting_site import AdoptingSite, print_of
from tests.contract.test_adopt import OTHER, STUDY, picture


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[AdoptingSite]:
    site = AdoptingSite(tmp_path / "site", sqlite_url)
    yield site
    site.close()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"IM{number}").write_bytes(picture(number))
    (folder / "other").write_bytes(picture(1, study=OTHER))
    (folder / "notes.txt").write_text("not DICOM")
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    out = capsys.readouterr().out
    return int(ended.value.code or 0), json.loads(out) if out else None


def test_ordered_watched_and_reported(site: AdoptingSite, archive: Path) -> None:
    with site.served() as web:
        order = {"url": archive.as_uri(), "name": "old", "format": "folder"}
        told = web.post("/api/v1/adoptions", json=order, headers={"X-Raypacs-Source": "ann"}).json()
        assert (told["tier"], told["state"], told["progress"]["seen"]) == ("old", "SCHEDULED", 0)
        url = f"/api/v1/adoptions/{told['item_id']}"
        assert web.get(f"{url}/report").status_code == 404
    site.refresh()
    site.run("ADOPT")
    with site.served() as web:
        done = web.get(url).json()
        assert (done["state"], done["progress"]["indexed"]) == ("COMPLETED", 4)
        lines = [json.loads(line) for line in web.get(f"{url}/report").text.splitlines()]
        assert [(line["what"], line["path"]) for line in lines] == [("skipped", "notes.txt")]
        assert web.get("/api/v1/adoptions/999").status_code == 404
        settings = web.get("/api/v1/settings").json()["settings"]
        assert [one["name"] for one in settings["tiers"]] == ["image1", "web1", "old"]


@pytest.mark.parametrize(
    ("order", "status", "said"),
    [
        ({"url": "/nowhere/at/all"}, 503, "no folder"),
        ({"url": "{site}"}, 422, "lie in one another"),
        ({"url": "{archive}", "name": "web1"}, 422, "web1"),
        ({"url": "{archive}", "format": "zip"}, 400, "format"),
        ({"url": ""}, 400, "url"),
        ({"url": "{archive}", "copy": True}, 400, "copy"),
    ],
)
def test_what_cannot_be_is_a_problem(
    site: AdoptingSite, archive: Path, order: dict[str, Any], status: int, said: str
) -> None:
    order["url"] = order["url"].format(site=site.folder, archive=archive)
    with site.served() as web:
        answer = web.post("/api/v1/adoptions", json=order)
        assert (answer.status_code, said in answer.json()["detail"]) == (status, True)
        assert len(web.get("/api/v1/settings").json()["settings"]["tiers"]) == 2


def test_open_access_adopts_from_named_places_only(site: AdoptingSite, archive: Path) -> None:
    assert site.bootstrap.adoptable is None
    opened = site.bootstrap.model_copy(update={"access": "open"})
    tier = {"name": "etc", "role": "image", "read_only": True, "adopted": "folder"}
    (archive.parent / "way").symlink_to("/etc")
    for roots in (None, ("s3://bucket/old", (archive / "none").as_uri())):
        site.bootstrap = opened.model_copy(update={"adopt_roots": roots})
        with site.served() as web:
            settings = web.get("/api/v1/settings").json()["settings"]
            settings["tiers"].append(tier | {"url": archive.as_uri()})
            for answer in (
                web.post("/api/v1/adoptions", json={"url": archive.as_uri()}),
                web.put("/api/v1/settings", json=settings),
            ):
                assert (answer.status_code, "adopt_roots" in answer.text) == (422, True)
    site.bootstrap = opened.model_copy(update={"adopt_roots": (str(archive.parent),)})
    with site.served() as web:
        for url in (
            "file:///etc",
            (archive.parent / "way").as_uri(),
            f"{archive}/../../x",
            "s3://b",
        ):
            assert web.post("/api/v1/adoptions", json={"url": url}).status_code == 422, url
        assert web.post("/api/v1/adoptions", json={"url": archive.as_uri()}).status_code == 202


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "memory://x", "a::file:///etc", "etc"])
def test_only_folders_and_buckets_are_adopted(site: AdoptingSite, url: str) -> None:
    with site.served() as web:
        answer = web.post("/api/v1/adoptions", json={"url": url})
        assert (answer.status_code, "url: " in answer.json()["detail"]) == (422, True)


def test_by_command(
    site: AdoptingSite, archive: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = print_of(archive)
    with site.served() as web:
        url = str(web.base_url)
        code, told = run(capsys, "--url", url, "adopt", str(archive), "--no-wait")
        assert (code, told["state"], told["tier"]) == (0, "SCHEDULED", "archive")
        site.refresh()
        site.run("ADOPT")
    with site.served() as web:
        url = str(web.base_url)
        out = tmp_path / "out"
        code, told = run(capsys, "--url", url, "get", STUDY, str(out))
        assert (code, told["objects"], told["left_out"]) == (0, 3, {})
        files = sorted(Path(one.path).read_bytes() for one in FileSet(out / "DICOMDIR"))
        assert files == sorted((archive / f"IM{number}").read_bytes() for number in (1, 2, 3))
        assert sorted(path.name for path in out.iterdir()) == ["DICOMDIR", "PT000000"]
        assert run(capsys, "--url", url, "get", STUDY, str(out))[0] == 1, "not mixed"
        code, _ = run(capsys, "--url", url, "get", STUDY, "--zip", str(tmp_path / "a.zip"))
        names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
        assert (code, "DICOMDIR" in names, len(names)) == (0, True, 4)
        assert run(capsys, "--url", url, "get", STUDY)[0] == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert print_of(archive) == before


def test_a_study_as_a_zip_stream(site: AdoptingSite, archive: Path) -> None:
    site.adopt(archive)
    with site.served() as web:
        answer = web.get(f"/api/v1/studies/{STUDY}/archive")
        assert answer.headers["content-type"] == "application/zip"
        packed = zipfile.ZipFile(io.BytesIO(answer.content))
        assert packed.testzip() is None
        assert {name: packed.read(name) for name in packed.namelist()} == {
            f"{STUDY}.1/{STUDY}.1.{number}.dcm": (archive / f"IM{number}").read_bytes()
            for number in (1, 2, 3)
        }
        assert web.get("/api/v1/studies/9.9/archive").status_code == 404


def test_what_left_the_image_cache_is_decoded(
    site: AdoptingSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.store(*(picture(number) for number in (1, 2))) == [Outcome.STORED] * 2
    site.prepare()
    for tier, path in site.objects():
        if tier == "image1" and path.startswith("studies/"):
            site.tier(tier).delete(path)
    with site.served() as web:
        out = tmp_path / "out"
        code, told = run(capsys, "--url", str(web.base_url), "get", STUDY, str(out))
        assert (code, told["decoded"]) == (0, 2)
        for one in FileSet(out / "DICOMDIR"):
            dataset = one.load()
            wanted = pydicom.dcmread(io.BytesIO(picture(int(dataset.InstanceNumber))))
            assert (dataset.pixel_array == wanted.pixel_array).all()
        packed = zipfile.ZipFile(io.BytesIO(web.get(f"/api/v1/studies/{STUDY}/archive").content))
        assert packed.testzip() is None
        assert len(packed.namelist()) == 2
