"""What the master archives by itself: when, in which order, and what not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs.autopilot.staging import StagingRule
from raypacs.index import holds, levels
from raypacs.index.candidates import START
from raypacs.index.schema import studies
from raypacs.policy.levels import Level
from tests.archiving_site import NOON, ArchivingSite
from tests.restoring_site import files, tiers_of

A, B, C = "1.2.1", "1.2.2", "1.2.3"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[ArchivingSite]:
    site = ArchivingSite(tmp_path, database_url, tiers_of(tmp_path))
    yield site
    site.close()


def received(site: ArchivingSite, *studies: str) -> None:
    for uid in studies:
        site.store(*files(uid, series=1, count=1))
        site.now += 1
    site.quiet(prepared=False)
    site.now += 61


def test_least_recently_accessed_first_and_never_too_many(site: ArchivingSite) -> None:
    received(site, A, B, C)
    site.archives(items=1)
    site.master.touched([A])
    site.ticks(5)
    (item,) = site.items("ARCHIVE")
    assert item["study_uid"] == B
    assert site.night() == [B, C, A]
    assert all(site.proven(uid) == {"lib1": True, "lib2": True} for uid in (A, B, C))
    assert site.night() == []
    told = site.reader.archive_status(site.now)
    assert told["waiting"]["studies"] == 0
    assert [one["studies"] for one in told["libraries"]] == [3, 3]
    assert told["rate_bytes_per_s"] > 0


def test_nothing_by_day_and_all_of_it_at_night(site: ArchivingSite) -> None:
    site.now = NOON
    received(site, A)
    assert site.night() == []
    told = site.reader.archive_status(site.now)
    assert told["window"]["open_by"] == ""
    assert told["waiting"]["studies"] == 1
    site.now = told["window"]["opens_s"] + 1
    assert site.night() == [A]


def red(site: ArchivingSite, level: Level) -> None:
    with site.master._writer.transaction(site.now) as txn:
        levels.keep(txn, [levels.LevelRow("image1", level, site.now, site.now, {})])


def test_red_opens_the_window_unless_it_may_not(site: ArchivingSite) -> None:
    site.now = NOON
    received(site, A)
    site.master._forecast_due = lambda now: None  # type: ignore[method-assign]
    red(site, Level.RED)
    site.archives(red_opens=False)
    assert site.reader.archiving_open(site.now) == ""
    site.archives(red_opens=True)
    red(site, Level.RED)
    assert site.reader.archiving_open(site.now) == "red"
    site.now += 5
    site.ticks(3)
    assert [one["study_uid"] for one in site.items("ARCHIVE")] == [A]
    red(site, Level.GREEN)
    assert site.reader.archiving_open(site.now) == ""


@pytest.mark.parametrize(
    ("settings", "change", "due"),
    [
        ({"min_age_s": 86400}, {}, False),
        ({"min_age_s": 60}, {}, True),
        ({"statuses": ["approved"]}, {}, False),
        ({"statuses": ["approved", "reported"]}, {"status": "reported"}, True),
        ({"his_verified_only": True}, {}, False),
        ({"his_verified_only": True}, {"his_verified": True}, True),
    ],
)
def test_age_status_and_verification(
    site: ArchivingSite, settings: dict[str, Any], change: dict[str, Any], due: bool
) -> None:
    received(site, A)
    site.archives(**settings)
    if change:
        site.master.set_study(A, change, "ann")
    assert (site.night() == [A]) is due


def test_a_study_whose_source_is_not_archived_is_not(site: ArchivingSite) -> None:
    received(site, A, B)
    with site.master._writer.transaction(site.now) as txn:
        ours = studies.c.study_uid == A
        txn.conn.execute(studies.update().where(ours).values(archiving=False))
        holds.refresh(txn, [A])
    assert site.night() == [B]
    assert site.proven(A) == {}


def test_one_under_storage_commitment_is_archived_though_its_source_is_not(
    site: ArchivingSite,
) -> None:
    received(site, A, B)
    with site.master._writer.transaction(site.now) as txn:
        txn.conn.execute(studies.update().values(archiving=False))
        ours = studies.c.study_uid == B
        txn.conn.execute(studies.update().where(ours).values(committed=True))
        holds.refresh(txn, [A, B])
    rules = [StagingRule(name="all", level="amber", action="copy to library")]
    page, _ = site.reader.to_copy("image1", rules, START, 10, site.now)
    assert page == [(B, "all")]
    assert site.night() == [B]
    assert site.proven(A) == {}


MANY = [f"1.2.{number}" for number in range(1, 8)]


def nights(site: ArchivingSite, count: int) -> None:
    for _ in range(count):
        site.ticks()
        site.work_off("ARCHIVE")
        site.now += 120


def test_a_library_that_is_away_holds_up_no_other_study(site: ArchivingSite) -> None:
    received(site, *MANY)
    site.archives(items=2)
    away = site.folder / "lib1"
    away.rename(site.folder / "elsewhere")
    away.mkdir()
    nights(site, 6)
    assert all(site.proven(uid) == {"lib2": True} for uid in MANY)
    assert [one for one in site.items("ARCHIVE") if one["state"] == "FAILED"] == []
    away.rmdir()
    (site.folder / "elsewhere").rename(away)
    nights(site, 6)
    assert all(site.proven(uid) == {"lib1": True, "lib2": True} for uid in MANY)
    assert {one["state"] for one in site.items("ARCHIVE")} == {"COMPLETED"}


def test_a_full_library_holds_up_no_other_study(site: ArchivingSite) -> None:
    received(site, *MANY)
    site.archives(items=2)
    site.set_tier("lib1", capacity_bytes=10_000)
    site.ticks()
    nights(site, 6)
    assert all(site.proven(uid) == {"lib2": True} for uid in MANY)
    waiting = [one for one in site.items("ARCHIVE") if one["state"] != "COMPLETED"]
    assert 0 < len(waiting) <= 2
    site.set_tier("lib1", capacity_bytes=10_000_000)
    nights(site, 6)
    assert all(site.proven(uid) == {"lib1": True, "lib2": True} for uid in MANY)


def test_a_library_that_is_added_gets_what_is_archived_elsewhere(site: ArchivingSite) -> None:
    received(site, A)
    site.archives(libraries=["lib1"])
    assert site.night() == [A]
    assert site.proven(A) == {"lib1": True}
    site.archives(libraries=["lib1", "lib2"])
    site.now += 601
    assert site.night() == [A]
    assert site.proven(A) == {"lib1": True, "lib2": True}


def test_a_pinned_study_is_archived_too(site: ArchivingSite) -> None:
    received(site, A)
    site.master.pin(A, site.now + 1e6, "ann")
    assert site.night() == [A]


def test_without_a_library_nothing_is_done(tmp_path: Path, database_url: str) -> None:
    site = ArchivingSite(tmp_path, database_url, tiers_of(tmp_path)[:3])
    received(site, A)
    assert site.night() == []
    assert site.items("ARCHIVE") == []
    site.close()
