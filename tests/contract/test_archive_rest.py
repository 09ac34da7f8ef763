"""Archiving over REST and on the command line; the way out of what is archived."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pydicom
import pytest

from raypacs.cli.app import main
from tests.archiving_site import ArchivingSite
from tests.restoring_site import STUDY, files, tiers_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArchivingSite]:
    folder = tmp_path_factory.mktemp("site")
    site = ArchivingSite(folder, f"sqlite:///{folder}/index.sqlite", tiers_of(folder))
    site.store(*files())
    site.quiet(prepared=False)
    site.seen()
    yield site
    site.close()


@pytest.fixture(scope="module")
def http(site: ArchivingSite) -> Iterator[httpx.Client]:
    with site.serving() as client:
        yield client


@pytest.fixture
def run(
    http: httpx.Client,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--url", str(http.base_url)])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return invoke


def test_from_nothing_archived_to_all_verified(
    site: ArchivingSite, http: httpx.Client, run: Run
) -> None:
    told = http.get("/api/v1/archive").json()
    assert told["waiting"]["studies"] == 1
    assert [one["tier"] for one in told["libraries"]] == ["lib1", "lib2"]
    assert told["nights"] is None
    code, out, _ = run("archive", "status")
    assert code == 0
    assert "window 20:00 to 06:00, UTC" in out
    assert "1 studies" in out
    code, out, err = run("archive", "now", "--all", "--json")
    assert code == 0, err
    assert len(json.loads(out)["items"]) == 1
    assert [result.error for result in site.work_off("ARCHIVE")] == [""]
    code, out, _ = run("archive", "status", "--json")
    assert json.loads(out)["waiting"]["studies"] == 0
    assert [one["studies"] for one in json.loads(out)["libraries"]] == [1, 1]
    code, out, _ = run("archive", "verify", "--sample", "5")
    assert (code, "1 studies to verify" in out) == (0, True)
    site.work_off("VERIFY")
    assert site.items("VERIFY")[0]["state"] == "COMPLETED"


def test_what_is_wrong_is_said(http: httpx.Client, run: Run) -> None:
    for body in ({}, {"all": True, "study_uids": [STUDY]}, {"study_uids": [STUDY], "x": 1}):
        assert http.post("/api/v1/archive/orders", json=body).status_code == 400
    wrong = http.post(
        "/api/v1/archive/orders", json={"study_uids": [STUDY], "libraries": ["vault"]}
    )
    assert wrong.status_code == 400
    assert "vault" in wrong.text
    told = http.post("/api/v1/archive/orders", json={"study_uids": ["9.9"]}).json()
    assert told["refused"][0]["study_uid"] == "9.9"
    code, _, err = run("archive", "now")
    assert code != 0
    assert "--all" in err
    code, out, _ = run("archive", "now", "9.9")
    assert code != 0
    assert "9.9" in out


def test_get_gives_an_archived_study_that_left_the_caches(
    site: ArchivingSite, run: Run, tmp_path: Path
) -> None:
    before = {uid: data for uid, (_, data) in site.received(STUDY).items()}
    code, out, _ = run("show", STUDY)
    assert (code, "away from" in out) == (0, False)
    rows = {row.split()[0]: row for row in out[out.index("copies") :].splitlines() if row.strip()}
    assert rows["image1"].split()[2] == "6"
    assert time.strftime("%Y-%m-%d", time.localtime(site.now)) in rows["lib2"]
    site.evict()
    out = run("show", STUDY)[1]
    assert "away from the image tiers since" in out
    assert "lib1" in out
    assert "image1" not in out[out.index("\ncopies") : out.index("away from")]
    assert site.reader.is_away(STUDY)
    with site.working():
        code, _, err = run("get", STUDY, tmp_path / "out", "--no-dicomdir")
    assert code == 0, err
    found = {
        str(pydicom.dcmread(path).SOPInstanceUID): path.read_bytes()
        for path in (tmp_path / "out").rglob("*.dcm")
    }
    assert found == before
