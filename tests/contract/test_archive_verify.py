"""VERIFY of libraries: what is damaged is found, counts no more, and is archived again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs.errors import TierUnavailable
from raypacs.work import archive_series
from raypacs.work.verify import VerifyRun
from tests.archiving_site import ArchivingSite
from tests.inline_tasks import InlineTasks
from tests.moving_site import tier
from tests.restoring_site import STUDY, files, tiers_of


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[ArchivingSite]:
    site = ArchivingSite(tmp_path, database_url, tiers_of(tmp_path))
    site.store(*files())
    site.quiet(prepared=False)
    site.archives(libraries=["lib1"])
    assert not site.archive()[0].error
    yield site
    site.close()


def held(site: ArchivingSite) -> str:
    return next(one["hold"] for one in site.copies(STUDY) if one["tier"] == "image1")


def verify(site: ArchivingSite, study: str = STUDY) -> None:
    site.seen()
    told = site.master.order_verify([study], "ann")
    assert len(told["items"]) == 1
    site.work_off("VERIFY")


def test_a_sound_library_is_told(site: ArchivingSite) -> None:
    before = site.copies(STUDY)[1]["verified_s"]
    site.now += 100
    verify(site)
    assert site.items("VERIFY")[0]["state"] == "COMPLETED"
    assert next(c for c in site.copies(STUDY) if c["tier"] == "lib1")["verified_s"] > before
    assert held(site) == ""


@pytest.mark.parametrize("offset", [3, 500, -30])
def test_a_flipped_byte_is_found_and_the_series_archived_again(
    site: ArchivingSite, offset: int
) -> None:
    ref = site.reader.containers(STUDY)[0]
    site.damage("lib1", ref.path, offset)
    verify(site)
    item = site.items("VERIFY")[0]
    assert item["state"] == "FAILED"
    assert ref.path in item["error"]
    assert site.proven(STUDY) == {"lib1": False}
    assert held(site) == "unarchived"
    assert site.reader.archive_status(site.now)["libraries"][0]["damaged"] == 1
    assert "container damaged" in site.events(STUDY)
    assert site.balanced()
    (again,) = site.work_off("ARCHIVE")
    assert not again.error
    assert site.proven(STUDY) == {"lib1": True}
    assert held(site) == ""
    assert ref.path not in {one.path for one in site.reader.containers(STUDY)}
    site.let_go(3700)
    assert not (site.folder / "lib1" / ref.path).exists()
    assert site.balanced()


def test_a_missing_container_is_damage(site: ArchivingSite) -> None:
    ref = site.reader.containers(STUDY)[1]
    (site.folder / "lib1" / ref.path).unlink()
    verify(site)
    assert "not there" in site.items("VERIFY")[0]["error"]
    assert site.proven(STUDY) == {"lib1": False}
    assert held(site) == "unarchived"


def test_a_library_that_is_away_is_no_damage(site: ArchivingSite) -> None:
    away = site.folder / "lib1"
    away.rename(site.folder / "elsewhere")
    away.mkdir()  # an empty mount point
    site.seen()
    site.master.order_verify([STUDY])
    (lease,) = site.leases("VERIFY")
    with pytest.raises(TierUnavailable):
        VerifyRun(lease, site.ports()).run(InlineTasks())
    assert site.proven(STUDY) == {"lib1": True}
    away.rmdir()
    (site.folder / "elsewhere").rename(away)


def test_an_offline_study_is_sound_where_its_containers_are(site: ArchivingSite) -> None:
    site.evict()
    verify(site)
    assert [(one["state"], one["error"]) for one in site.items("VERIFY")] == [("COMPLETED", "")]
    ref = site.reader.containers(STUDY)[0]
    site.damage("lib1", ref.path)
    verify(site)
    item = max(site.items("VERIFY"), key=lambda one: int(one["item_id"]))
    assert (item["state"], item["error"].count("on lib1")) == ("FAILED", 1)
    assert "1 objects differ" in item["error"]


def test_what_grew_while_it_was_away_is_verified(site: ArchivingSite) -> None:
    site.evict()
    site.store(*files(series=3)[6:])
    site.quiet(prepared=False)
    assert {one.record.tier for one in site.reader.instances(STUDY)} == {"", "image1"}
    verify(site)
    assert [(one["state"], one["error"]) for one in site.items("VERIFY")] == [("COMPLETED", "")]


def test_what_is_damaged_and_offline_is_read_from_another_library(site: ArchivingSite) -> None:
    site.archives(libraries=["lib1", "lib2"])
    assert not site.archive()[0].error
    site.evict()
    ref = next(one for one in site.reader.containers(STUDY) if one.tier == "lib1")
    site.damage("lib1", ref.path)
    verify(site)
    assert site.proven(STUDY) == {"lib1": False, "lib2": True}
    (again,) = site.work_off("ARCHIVE")
    assert not again.error
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    assert site.reader.is_away(STUDY)
    assert site.balanced()


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("also", [False, True])
def test_damage_that_archive_finds_is_noted_and_the_next_library_tried(
    site: ArchivingSite, monkeypatch: pytest.MonkeyPatch, small: bool, also: bool
) -> None:
    if not small:
        monkeypatch.setattr(archive_series, "_WHOLE_BYTES", 10)
    site.archives(libraries=["lib1", "lib2"])
    assert not site.archive()[0].error
    site.evict()
    lib3 = tier(site.folder, "lib3", "library", order=3)
    site.set(tiers=(*site.reader.settings()[1].tiers, lib3))
    site.seen()
    series = site.reader.containers(STUDY)[0].series_uid
    refs = {o.tier: o for o in site.reader.containers(STUDY) if o.series_uid == series}
    site.damage("lib1", refs["lib1"].path)
    if also:
        site.damage("lib2", refs["lib2"].path)
    site.archives(libraries=["lib3"])
    site.master.order_archive([STUDY], "ann", ["lib3"])
    (told,) = site.work_off("ARCHIVE")
    damaged = {(one.tier, one.path) for one in site.reader.containers(STUDY) if one.damaged}
    if not also:
        assert not told.error
        assert damaged == {("lib1", refs["lib1"].path)}
        assert site.proven(STUDY) == {"lib1": False, "lib2": True, "lib3": True}
    else:
        assert refs["lib1"].path in told.error
        assert refs["lib2"].path in told.error
        assert damaged == {(name, one.path) for name, one in refs.items()}
        assert site.proven(STUDY) == {"lib1": False, "lib2": False, "lib3": False}
        for _ in range(4):  # it is no work for ever
            site.now += 300
            site.work_off("ARCHIVE")
        assert {one["state"] for one in site.items("ARCHIVE")} <= {"FAILED", "COMPLETED"}
    assert site.balanced()
