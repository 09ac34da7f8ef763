"""What counts as proof when a study leaves: libraries that are there, with all that there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from raypacs.autopilot.staging import SeriesShare
from raypacs.errors import IllegalTransition
from raypacs.index.candidates import AWAY
from raypacs.index.schema import series, work_items
from raypacs.policy.levels import Level
from raypacs.policy.queue import State
from tests.evicting_site import EvictingSite

A, B, C, D = "1.2.3", "1.2.4", "1.2.5", "1.2.6"
MUCH = 10**12


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[EvictingSite]:
    site = EvictingSite(tmp_path, database_url)
    yield site
    site.close()


def unmount(site: EvictingSite, library: str) -> None:
    """An empty folder is where a library's disk was mounted."""
    there = site.folder / library
    there.rename(site.folder / f"{library}-away")
    there.mkdir()


def mount(site: EvictingSite, library: str) -> None:
    (site.folder / library).rmdir()
    (site.folder / f"{library}-away").rename(site.folder / library)
    site.master._look_at_tiers(site.now)


class TestLibraryAway:
    def test_no_study_leaves_on_its_proof(self, site: EvictingSite) -> None:
        site.ready(A)
        site.ready(B, libraries=("lib1", "lib2"))
        unmount(site, "lib1")
        site.master._look_at_tiers(site.now)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.offline(A, B) == [B]
        assert {one.relies_on for one in site.intents()} == {"lib2"}
        plan = site.reader.evict_plan(now=site.now)
        image = next(one for one in plan["caches"] if one["tier"] == "image1")
        assert image["skipped"] == {AWAY: 1}
        with pytest.raises(IllegalTransition, match="library with its proven copy is away"):
            site.master.evict_study(A, "ann")
        mount(site, "lib1")
        assert site.master.evict_study(A, "ann") > 0

    def test_a_study_whose_library_went_away_since_is_taken_back(self, site: EvictingSite) -> None:
        """Nobody looked at the tiers since: the ledger does not know."""
        site.ready(A)
        site.ready(B, libraries=("lib1", "lib2"))
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.offline(A, B) == [A, B]
        unmount(site, "lib1")
        site.delete()
        assert site.offline(A, B) == [B]
        assert len(site.files("image1", A)) == 2
        assert not site.files("image1", B)
        assert any(AWAY in one["text"] for one in site.reader.why(A))
        assert site.balanced()

    def test_the_last_copy_that_is_there_is_not_purged(self, site: EvictingSite) -> None:
        site.ready(A, libraries=("lib1", "lib2"))
        site.master.evict_study(A)
        site.delete()
        unmount(site, "lib2")
        with pytest.raises(IllegalTransition, match="lib2 is away"):
            site.master.purge_copy(A, "lib1", "ann")
        assert site.files("lib1", A)
        mount(site, "lib2")
        assert site.master.purge_copy(A, "lib1", "ann") == 9

    def test_a_source_without_archiving_loses_nothing_by_it(self, site: EvictingSite) -> None:
        site.ready(A)
        with site.master._writer.transaction(site.now) as txn:
            txn.conn.execute(sa.text("UPDATE studies SET archiving = false, origins = '[]'"))
        unmount(site, "lib1")
        site.master._look_at_tiers(site.now)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.where(A)["image1"] == 2


def test_work_that_only_waits_and_can_do_without_the_bytes_keeps_nothing(
    site: EvictingSite,
) -> None:
    """ARCHIVE to a library that is away waits for ever."""
    site.ready(A, B, C)
    site.ready(D, libraries=())
    for uid, kind in ((A, "ARCHIVE"), (B, "VERIFY"), (C, "ARCHIVE"), (D, "ARCHIVE")):
        site.master.enqueue_item(kind, uid)
    with site.master._writer.transaction(site.now) as txn:
        ours = work_items.c.study_uid == C
        running = sa.update(work_items).where(ours).values(state=State.IN_PROCESS.value)
        txn.conn.execute(running)
    site.level("image1", Level.RED, MUCH)
    site.evict()
    assert site.offline(A, B, C, D) == [A, B]
    site.delete()
    assert not site.files("image1", A)
    assert site.balanced()


def test_what_a_share_kept_leaves_though_it_was_looked_at(site: EvictingSite) -> None:
    site.change(series_shares=(SeriesShare(name="k", percent=5),))
    site.ready(A, series=2, key=True)
    site.level("image1", Level.RED, MUCH)
    site.evict()
    site.delete()
    assert site.where(A)["image1"] == 2
    site.now += 100
    site.master.touched([A])
    site.change(series_shares=(SeriesShare(name="k", percent=0),))
    site.now += 7200
    site.level("image1", Level.RED, MUCH)
    site.evict()
    site.delete()
    assert "image1" not in site.where(A)
    assert not site.files("image1", A)
    assert site.balanced()


def test_a_series_without_instances_needs_no_container(site: EvictingSite) -> None:
    site.ready(A)
    with site.master._writer.transaction(site.now) as txn:
        row = {"study_uid": A, "series_uid": f"{A}.9", "attributes": {}}
        txn.conn.execute(sa.insert(series).values(row))
    site.level("image1", Level.RED, MUCH)
    site.evict()
    assert site.offline(A) == [A]
    site.delete()
    assert not site.files("image1", A)
    assert not site.intents()
    assert site.balanced()
