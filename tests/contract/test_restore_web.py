"""A viewer asks for a study that is only in a library: it comes back, and is served."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from raypacs.autopilot.moving import RestoreSettings
from raypacs.policy.queue import Priority
from tests.restoring_site import (
    STUDY,
    RestoringSite,
    container_of,
    damage,
    files,
    tiers_of,
)

ROOT = f"/dicom-web/studies/{STUDY}"
ONE = f"{ROOT}/series/{STUDY}.1/instances/{STUDY}.1.2"
DICOM = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
ASKED = [
    (f"{ONE}/frames/1", {"Accept": "application/octet-stream"}),
    (f"{ONE}/metadata", {}),
    (f"{ROOT}/series/{STUDY}.1/metadata", {}),
    (f"{ROOT}/metadata", {}),
    (f"{ONE}/rendered", {"Accept": "image/png"}),
    (f"{ROOT}/series/{STUDY}.1/rendered", {"Accept": 'multipart/related; type="image/png"'}),
    (f"{ROOT}/thumbnail", {"Accept": "image/png"}),
    (ONE, {"Accept": "application/dicom; transfer-syntax=*"}),
    (ROOT, DICOM),
    (f"/api/v1/studies/{STUDY}/archive", {}),
]


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RestoringSite]:
    site = RestoringSite(tmp_path, database_url, tiers_of(tmp_path))
    yield site
    site.close()


@pytest.fixture
def quick(tmp_path: Path, sqlite_url: str) -> Iterator[RestoringSite]:
    site = RestoringSite(tmp_path, sqlite_url, tiers_of(tmp_path))
    yield site
    site.close()


@pytest.mark.parametrize(("path", "headers"), ASKED, ids=[path for path, _ in ASKED])
def test_every_resource_of_a_study_in_a_library_is_served(
    quick: RestoringSite, path: str, headers: dict[str, str]
) -> None:
    quick.store(*files())
    with quick.serving() as client:
        before = client.get(path, headers=headers)
        assert before.status_code == 200, before.text
    quick.quiet(prepared=False)
    quick.archive()
    quick.evict()
    with quick.working() as done, quick.serving() as client:
        after = client.get(path, headers=headers)
        assert after.status_code == 200, after.text
        if "multipart" not in after.headers["content-type"]:
            assert after.content == before.content
        assert len(after.content) == len(before.content)
        assert len(done) == 1
        assert client.get(path, headers=headers).status_code == 200
    assert len(done) == 1
    assert quick.balanced()


def test_what_packs_answer_needs_no_restore(quick: RestoringSite) -> None:
    quick.away(prepared=True)
    with quick.serving() as client:
        for path, headers in ASKED:
            answer = client.get(path, headers=headers)
            assert answer.status_code == 200, (path, answer.text)
    assert not quick.items()
    assert quick.reader.is_away(STUDY)


def test_the_original_itself_is_brought_back_though_packs_are_there(quick: RestoringSite) -> None:
    quick.store(*files())
    before = quick.received()
    quick.quiet(prepared=True)
    quick.archive()
    quick.evict()
    wanted = "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    with quick.working() as done, quick.serving() as client:
        answer = client.get(ONE, headers={"Accept": wanted})
        assert answer.status_code == 200
    assert len(done) <= 1
    assert before[f"{STUDY}.1.2"][1][-128:] == answer.content[-128:]


def test_twenty_readers_at_once_make_one_restore(site: RestoringSite) -> None:
    site.away()
    release = threading.Event()

    def work() -> None:
        release.wait(10)
        site.work_off("RESTORE")

    worker = threading.Thread(target=work)
    worker.start()
    with site.serving() as client, ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(client.get, f"{ONE}/frames/1") for _ in range(20)]
        while not site.items():
            pass
        release.set()
        answers = [one.result() for one in asked]
    worker.join()
    assert {one.status_code for one in answers} == {200}
    (item,) = site.items()
    assert item["priority"] == Priority.STAT
    assert item["state"] == "COMPLETED"


def test_who_waits_too_long_is_told_how_far_it_is(quick: RestoringSite) -> None:
    quick.away()
    quick.set(restore=RestoreSettings(wait_s=0.2))
    with quick.serving() as client:
        answer = client.get(f"{ONE}/frames/1")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        told = answer.json()
        (item,) = quick.items()
        assert told["restore"]["item_id"] == item["item_id"]
        assert told["restore"]["percent"] == 0
        assert "0 %" in told["detail"]
        shown = client.get(told["restore"]["url"])
        assert shown.status_code == 200
        assert shown.json()["state"] == "SCHEDULED"
        quick.work_off("RESTORE")
        assert client.get(f"{ONE}/frames/1").status_code == 200
    assert len(quick.items()) == 1


def test_what_no_library_has_is_not_found(quick: RestoringSite) -> None:
    quick.store(*files())
    with quick.serving() as client:
        for name, path in quick.objects():
            if path.endswith(".dcm"):
                quick.tier(name).delete(path)
        answer = client.get(f"{ONE}/metadata")
        assert answer.status_code == 404, answer.text
        assert "no library" in answer.json()["detail"]
    assert not quick.items()


def test_reading_counts_as_an_access(site: RestoringSite) -> None:
    site.away()
    site.now += 1000
    with site.working(), site.serving() as client:
        assert client.get(f"{ONE}/frames/1").status_code == 200
    (copy,) = [one for one in copies(site) if one["tier"].startswith("image")]
    assert copy["accessed_s"] == site.now


def copies(site: RestoringSite) -> list[dict[str, Any]]:
    return list(site.reader.study(STUDY)["copies"])


def test_availability_is_told_in_searches(site: RestoringSite) -> None:
    def told(client: httpx.Client) -> set[str]:
        found = []
        for path in ("/studies", "/series", "/instances"):
            answer = client.get(f"/dicom-web{path}", params={"StudyInstanceUID": STUDY})
            found += [one["00080056"]["Value"][0] for one in answer.json()]
        return set(found)

    site.store(*files())
    with site.serving() as client:
        assert told(client) == {"ONLINE"}
        site.quiet(prepared=False)
        site.archive()
        site.evict()
        assert told(client) == {"NEARLINE"}
        site.restore()
        assert told(client) == {"ONLINE"}


def test_what_is_lost_does_not_keep_the_rest_from_being_read(quick: RestoringSite) -> None:
    quick.away()
    for library in ("lib1", "lib2"):
        damage(quick, container_of(quick, library))
    with quick.working(), quick.serving() as client:
        answer = client.get(ROOT, headers=DICOM)
        assert answer.status_code == 206
        assert answer.content.count(b"DICM") == 5
        lost = client.get(f"{ROOT}/series/{STUDY}.1/instances/{STUDY}.1.1/metadata")
        assert lost.status_code == 503
        assert lost.json()["kind"] == "RestoreFailed"
        assert "sound in no library" in lost.json()["detail"]
        assert client.get(f"{ONE}/metadata").status_code == 200
