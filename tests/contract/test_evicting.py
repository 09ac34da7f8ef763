"""Eviction: what leaves, what stays, and that nothing is ever lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from raypacs.autopilot.staging import EvictionSettings, SeriesShare, StagingRule
from raypacs.config import SourceSettings
from raypacs.errors import IllegalTransition, InvalidQuery, NotFound
from raypacs.index import ledger
from raypacs.index.schema import copies, delete_intents, instances, studies, work_items
from raypacs.master import deleting, evicting
from raypacs.policy.levels import Level
from raypacs.policy.queue import Priority
from tests.evicting_site import EvictingSite

A, B, C = "1.2.3", "1.2.4", "1.2.5"
MUCH = 10**12


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[EvictingSite]:
    site = EvictingSite(tmp_path, database_url)
    yield site
    site.close()


OFF = SourceSettings(name="off", addresses=("192.0.2.7",), archiving=False)


def set_study(site: EvictingSite, uid: str, **values: Any) -> None:
    if values.get("archiving") is False:
        values["origins"] = [["TEST", "192.0.2.7"]]
        settings = site.reader.settings()[1].model_copy(update={"sources": (OFF,)})
        site.master.apply_settings(settings, "test")
    with site.master._writer.transaction(site.now) as txn:
        txn.conn.execute(sa.update(studies).where(studies.c.study_uid == uid).values(**values))


def events(site: EvictingSite, uid: str) -> list[str]:
    return [one["event"] for one in site.reader.why(uid)]


def texts(site: EvictingSite, uid: str) -> str:
    return "\n".join(one["text"] for one in site.reader.why(uid))


class TestWhatLeaves:
    def test_the_least_recently_accessed_first_and_no_more_than_is_needed(
        self, site: EvictingSite
    ) -> None:
        site.ready(A, B, C)
        site.master.touched([A])  # so B is the one that was not accessed for longest
        site.level("image1", Level.AMBER, 1)
        site.evict()
        assert site.offline(A, B, C) == [B]
        assert site.where(B) == {"web1": 2, "lib1": 1}
        assert site.balanced()
        site.evict()
        assert site.offline(A, B, C) == [B]  # what is on its way out counts as freed
        assert site.files("image1", B)  # grace
        site.delete()
        assert not site.files("image1", B)
        assert site.files("image1", A)
        assert site.reader.manifests(B)
        assert not site.intents()
        assert site.balanced()
        assert [one.record.path for one in site.reader.instances(B)]
        told = texts(site, B)
        assert "rule built-in, amber" in told
        assert "20.5 h" in told
        assert "lib1" in told

    def test_nothing_on_green_nor_without_a_proof(self, site: EvictingSite) -> None:
        site.ready(A)
        site.ready(B, libraries=())
        site.level("image1", Level.GREEN, MUCH)
        site.evict()
        assert site.offline(A, B) == []
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.offline(A, B) == [A]

    def test_of_an_older_generation_no_proof_counts(self, site: EvictingSite) -> None:
        site.ready(A)
        set_study(site, A, generation=99)  # grew, in another transaction's words
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.offline(A) == []

    def test_a_container_that_is_damaged_or_doomed_is_no_proof(self, site: EvictingSite) -> None:
        """F2: also where nobody refreshed what holds the copy."""
        site.ready(A, B)
        site.damage(A)
        with site.master._writer.transaction(site.now) as txn:
            txn.conn.execute(sa.update(copies).values(hold="").where(copies.c.tier == "image1"))
            txn.conn.execute(
                sa.update(copies).values(archive_proven=True).where(copies.c.tier == "lib1")
            )
        ref = site.reader.containers(B)[0]
        with site.master._writer.transaction(site.now) as txn:
            row = {"study_uid": B, "tier": "lib1", "path": ref.path, "due_s": 9e12}
            txn.conn.execute(sa.insert(delete_intents).values(row))
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.offline(A, B) == []

    def test_pinned_busy_and_growing_studies_stay(self, site: EvictingSite) -> None:
        site.ready(A, B, C)
        site.master.pin(A, 0, "ann")
        site.master.enqueue_item("PREPARE", B)
        set_study(site, C, prepare_due_s=site.now + 9)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.offline(A, B, C) == []
        plan = site.reader.evict_plan(now=site.now)
        image = next(one for one in plan["caches"] if one["tier"] == "image1")
        assert image["held"]["pinned"]["copies"] == 1
        assert image["skipped"] == {"PREPARE is to be done": 1, "it is being received": 1}
        assert not image["enough"]
        site.master.unpin(A, "ann")
        site.now += 120  # after a rest
        site.evict()
        assert site.offline(A, B, C) == [A]

    def test_a_pin_ends_by_itself(self, site: EvictingSite) -> None:
        site.ready(A)
        assert site.master.pin(A, site.now + 100, "ann") == site.now + 100
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.offline(A) == []
        site.now += 200
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.offline(A) == [A]
        assert "unpinned" in events(site, A)
        with pytest.raises(InvalidQuery):
            site.master.pin(A, site.now - 1, "ann")
        with pytest.raises(NotFound):
            site.master.pin("1.9", 0, "ann")

    def test_amber_rules_first_then_red_ones(self, site: EvictingSite) -> None:
        site.change(
            staging=(
                StagingRule(
                    name="seen", action="delete from cache", level="amber", exported="must be"
                ),
                StagingRule(name="any", action="delete from cache", level="red"),
            )
        )
        site.ready(A, B, C)
        set_study(site, C, exported=True)
        site.level("image1", Level.AMBER, MUCH)
        site.evict()
        assert site.offline(A, B, C) == [C]
        size = site.reader.study(C)["size_bytes"]
        site.level("image1", Level.RED, MUCH, amber=size, red=size + 1)
        site.evict()
        assert site.offline(A, B, C) == [A, C]  # red needs one more than is on its way
        assert "rule any, red" in texts(site, A)

    def test_red_comes_however_long_amber_looks(
        self, site: EvictingSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A walk that takes longer than a rest goes on where it is, also as amber becomes red."""
        monkeypatch.setattr(evicting, "STUDIES_AT_ONCE", 1)
        monkeypatch.setattr(evicting, "EVICT_FOR_S", -1.0)
        monkeypatch.setattr(evicting, "REST_S", 1.0)
        rule = StagingRule(
            name="seen", action="delete from cache", level="amber", exported="must be"
        )
        anything = StagingRule(name="any", action="delete from cache", level="red")
        site.change(staging=(rule, anything))
        site.ready(A, B, C)
        site.level("image1", Level.AMBER, MUCH)
        site.evict(2)
        place = site.master._due.walks["image1"].after
        assert place[1] == B
        site.level("image1", Level.RED, MUCH)
        site.evict(1)
        assert site.master._due.walks["image1"].after[1] == C
        assert site.offline(A, B, C) == []
        site.evict(2)
        assert site.offline(A, B, C) == [A]
        site.evict(4)
        assert site.offline(A, B, C) == [A, B, C]

    def test_a_walk_begins_anew_where_its_need_is_met(self, site: EvictingSite) -> None:
        """So what became free behind it leaves in its turn."""
        site.ready(A, B, C)
        site.master.pin(A, 0, "ann")
        site.level("image1", Level.AMBER, 1)
        site.evict()
        assert site.offline(A, B, C) == [B]
        site.master.unpin(A, "ann")
        site.now += evicting.ANEW_S
        site.evict()
        site.level("image1", Level.AMBER, 1 + site.reader.study(B)["size_bytes"])
        site.evict()
        assert site.offline(A, B, C) == [A, B]

    def test_a_dry_run_changes_nothing_and_says_the_same(self, site: EvictingSite) -> None:
        site.ready(A, B)
        site.level("image1", Level.AMBER, 1)
        plan = site.reader.evict_plan(now=site.now)
        assert [one["study_uid"] for one in plan["evictions"]] == [A]
        assert plan["evictions"][0]["rule"] == "built-in, amber"
        assert plan["evictions"][0]["relies_on"] == ["lib1"]
        assert site.offline(A, B) == []
        assert not site.intents()
        site.evict()
        assert site.offline(A, B) == [A]

    def test_a_dry_run_that_is_cut_off_does_not_say_that_it_is_not_enough(
        self, site: EvictingSite
    ) -> None:
        site.ready(A, B, C)
        size = site.reader.study(A)["size_bytes"]
        site.level("web1", Level.AMBER, 1)
        site.level("image1", Level.AMBER, size + 1)
        for limit, enough in ((2, True), (1, None)):
            plan = site.reader.evict_plan(limit=limit, now=site.now)
            told = {one["tier"]: one for one in plan["caches"]}
            assert told["image1"]["enough"] is enough
            assert told["web1"]["enough"] is True  # a limit of its own
            tiers = [one["tier"] for one in plan["evictions"]]
            assert (tiers.count("image1"), tiers.count("web1")) == (limit, 1)
        site.level("image1", Level.AMBER, MUCH)
        plan = site.reader.evict_plan("image1", limit=1, now=site.now)
        assert plan["caches"][0]["enough"] is False  # nor would all that nothing holds be

    def test_what_is_promised_to_writers_is_no_need(self, site: EvictingSite) -> None:
        site.ready(A)
        site.level("image1", Level.AMBER, 0)
        with site.master._writer.transaction(site.now) as txn:
            assert ledger.grant(txn, "image1", "somebody", 10**6)
        (need,) = site.reader.needs()
        assert need.by_level == {Level.AMBER: 0}


class TestCopying:
    RULE = StagingRule(name="all", action="copy to library", level="green")

    def test_no_more_at_a_time_and_no_more_than_once_in_the_night_it_failed(
        self, site: EvictingSite
    ) -> None:
        site.ready(A, B, C, libraries=())
        archive = site.settings.archive.model_copy(update={"items": 1})
        site.change(staging=(self.RULE,), archive=archive)
        site.evict(12)
        waits = open_items(site)
        assert [one["study_uid"] for one in waits] == [A, B]  # one might be parked
        assert {one["priority"] for one in waits} == {Priority.LOW}
        with site.master._writer.transaction(site.now) as txn:
            values = {"state": "FAILED", "finished_s": site.now}
            txn.conn.execute(sa.update(work_items).values(values))
        site.evict(24)
        assert [one["study_uid"] for one in open_items(site)] == [C]

    def test_without_a_library_the_rest_of_a_tick_goes_on(
        self, tmp_path: Path, database_url: str
    ) -> None:
        site = EvictingSite(tmp_path, database_url)
        try:
            site.ready(A, libraries=())
            tiers = tuple(one for one in site.settings.tiers if one.role != "library")
            site.change(staging=(self.RULE,), tiers=tiers)
            site.evict(12)
            assert open_items(site) == []
        finally:
            site.close()


def open_items(site: EvictingSite) -> list[Any]:
    with site.reader._engine.connect() as conn:
        rows = conn.execute(
            sa.select(work_items)
            .where(work_items.c.kind == "ARCHIVE", work_items.c.state != "FAILED")
            .order_by(work_items.c.item_id)
        )
        return [dict(row) for row in rows.mappings()]


class TestArchivingOff:
    def test_it_leaves_altogether_and_the_audit_says_so(self, site: EvictingSite) -> None:
        site.ready(A, libraries=())
        set_study(site, A, archiving=False)
        with site.master._writer.transaction(site.now) as txn:
            txn.conn.execute(sa.update(copies).values(hold="").where(copies.c.tier == "image1"))
        site.level("image1", Level.AMBER, MUCH)
        site.evict()
        with pytest.raises(NotFound):
            site.reader.study(A)
        assert site.balanced()
        site.delete()
        assert not [path for _, path in site.objects() if A in path]
        assert site.balanced()
        assert not site.intents()
        assert not site.intents("")
        told = texts(site, A)
        assert "without an archived copy" in told
        assert "TEST" in told

    def test_an_open_one_as_well(self, site: EvictingSite) -> None:
        site.study(A)
        site.prepare()
        set_study(site, A, archiving=False)
        with site.master._writer.transaction(site.now) as txn:
            txn.conn.execute(sa.update(copies).values(hold="").where(copies.c.tier == "image1"))
        site.level("image1", Level.AMBER, MUCH)
        site.evict()
        site.delete()
        assert not [path for _, path in site.objects() if A in path]
        assert site.balanced()

    def test_settings_of_the_moment_count(self, site: EvictingSite) -> None:
        site.ready(A, libraries=())
        set_study(site, A, archiving=False)
        settings = site.reader.settings()[1].model_copy(update={"sources": ()})
        site.master.apply_settings(settings, "test")
        with site.master._writer.transaction(site.now) as txn:
            txn.conn.execute(sa.update(copies).values(hold="").where(copies.c.tier == "image1"))
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.where(A)["image1"] == 2

    def test_never_under_storage_commitment(self, site: EvictingSite) -> None:
        site.ready(A, libraries=())
        set_study(site, A, archiving=False, committed=True)
        with site.master._writer.transaction(site.now) as txn:
            txn.conn.execute(sa.update(copies).values(hold="").where(copies.c.tier == "image1"))
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.where(A)["image1"] == 2


class TestBegin:
    def test_damage_that_verify_found_takes_it_back(self, site: EvictingSite) -> None:
        site.ready(A)
        before = site.where(A), site.files("image1", A)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.damage(A)
        site.level("image1", Level.GREEN, 0)
        site.delete()
        assert (site.where(A), site.files("image1", A)) == before
        assert site.offline(A) == []
        assert not site.intents()
        assert site.balanced()
        assert "no library has a sound, proven copy" in texts(site, A)
        row = next(one for one in site.reader.study(A)["copies"] if one["tier"] == "image1")
        assert row["hold"] == "unarchived"

    def test_another_library_is_as_good(self, site: EvictingSite) -> None:
        site.ready(A, libraries=("lib1", "lib2"))
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.damage(A, "lib1")
        site.delete()
        assert not site.files("image1", A)

    @pytest.mark.parametrize("what", ["pin", "touch", "work"])
    def test_what_is_wanted_again_stays(self, site: EvictingSite, what: str) -> None:
        site.ready(A)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.level("image1", Level.GREEN, 0)
        site.now += 1
        if what == "pin":
            site.master.pin(A, 0, "ann")
            assert site.offline(A) == []  # at once
        elif what == "touch":
            site.master.touched([A])
        else:
            site.master.enqueue_item("PREPARE", A)
        site.delete()
        assert site.offline(A) == []
        assert len(site.files("image1", A)) == 2
        assert site.balanced()

    def test_growth_within_the_grace_period_keeps_all(self, site: EvictingSite) -> None:
        site.ready(A)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.study(A, count=3)
        assert site.offline(A) == []
        assert site.balanced()
        site.delete()
        assert len(site.files("image1", A)) >= 3
        assert site.balanced()
        assert {one.record.tier for one in site.reader.instances(A)} == {"image1"}

    def test_growth_after_that_leaves_the_rest_in_the_library(self, site: EvictingSite) -> None:
        site.ready(A)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.delete()
        site.study(A, count=3)
        assert site.balanced()
        assert sorted(one.record.tier for one in site.reader.instances(A)) == ["", "", "image1"]

    def test_a_deleted_study_goes_on_going(self, site: EvictingSite) -> None:
        site.ready(A, B)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.master.delete_study(A)
        site.delete()
        site.delete()
        assert not [path for _, path in site.objects() if f"/{A}/" in path]
        assert site.balanced()
        assert not site.intents()


class TestCrashes:
    def test_between_any_two_steps(
        self, site: EvictingSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The master dies at each object that is deleted, and before each confirmation."""
        monkeypatch.setattr(deleting, "OBJECTS_AT_ONCE", 1)
        site.ready(A, series=2, count=3)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.now += site.settings.eviction.grace_s + 1
        real = deleting.delete
        done = 0

        class Died(Exception):
            pass

        def dies(tier: Any, paths: Any, check: Any) -> int:
            nonlocal done
            real(tier, paths, check)
            done += 1
            raise Died

        monkeypatch.setattr(deleting, "delete", dies)
        for _ in range(40):
            if not site.intents():
                break
            site.now += 1
            try:
                site.master._delete_due(site.now)
            except Died:
                site.master.close()
                site.master = site.start()
            assert site.balanced()
            assert site.offline(A) == [A]
            if done == 8:
                monkeypatch.setattr(deleting, "delete", real)
        assert not site.intents()
        assert not site.files("image1", A)
        assert site.balanced()

    def test_begun_is_never_taken_back(self, site: EvictingSite) -> None:
        site.ready(A)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.now += 100
        assert site.master._writer.begin_listed([A], site.now)
        assert not site.master.take_back(A)
        site.damage(A)
        assert site.offline(A) == [A]

    def test_a_time_share_is_kept_and_the_rest_comes_next(
        self, site: EvictingSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deleting, "OBJECTS_AT_ONCE", 1)
        monkeypatch.setattr(deleting, "DELETE_FOR_S", -1.0)
        site.ready(A, count=4)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.now += 100
        left = []
        for _ in range(8):
            site.now += 1
            site.master._delete_due(site.now)
            left.append(len(site.files("image1", A)))
        assert left[:4] == [3, 2, 1, 0]
        assert site.balanced()

    def test_not_while_the_index_is_to_be_reconciled(
        self, site: EvictingSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.ready(A, B)
        site.level("image1", Level.AMBER, 1)
        site.evict()
        monkeypatch.setattr(site.master, "_may_delete", lambda: False)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        site.delete()
        assert site.offline(A, B) == [A]
        assert site.files("image1", A)
        with pytest.raises(IllegalTransition):
            site.master.evict_study(B, "ann")


class TestOrdered:
    def test_evict_study_and_its_refusals(self, site: EvictingSite) -> None:
        site.ready(A)
        site.ready(B, libraries=())
        assert site.master.evict_study(A, "ann") > 0
        assert site.offline(A) == [A]
        with pytest.raises(IllegalTransition, match="no library"):
            site.master.evict_study(B, "ann")
        set_study(site, B, archiving=False)
        with pytest.raises(IllegalTransition, match="no library"):
            site.master.evict_study(B, "ann")
        assert site.master.evict_study(B, "ann", "web1") > 0
        with pytest.raises(NotFound):
            site.master.evict_study("1.9", "ann")

    def test_purge_never_takes_what_is_relied_on(self, site: EvictingSite) -> None:
        site.ready(A, libraries=("lib1", "lib2"))
        site.ready(B)
        site.master.evict_study(A)
        site.master.evict_study(B)
        with pytest.raises(IllegalTransition, match="no other library"):
            site.master.purge_copy(B, "lib1", "ann")
        assert site.master.purge_copy(A, "lib1", "ann") == 9
        with pytest.raises(IllegalTransition):
            site.master.purge_copy(A, "lib2", "ann")
        site.delete()
        with pytest.raises(IllegalTransition):
            site.master.purge_copy(A, "lib2", "ann")
        with pytest.raises(NotFound):
            site.master.purge_copy(A, "lib1", "ann")
        assert site.balanced()

    def test_purging_what_is_in_the_cache_holds_it_there(self, site: EvictingSite) -> None:
        site.ready(A)
        site.master.purge_copy(A, "lib1", "ann")
        site.level("image1", Level.RED, MUCH)
        site.evict()
        assert site.offline(A) == []
        site.delete()
        assert site.balanced()


class TestSeriesShares:
    @pytest.fixture
    def kept(self, site: EvictingSite) -> EvictingSite:
        site.change(series_shares=(SeriesShare(name="key images", percent=5),))
        site.ready(A, B, series=2, key=True)
        site.level("image1", Level.RED, MUCH)
        site.evict()
        return site

    def test_the_rest_of_the_study_goes(self, kept: EvictingSite) -> None:
        assert kept.where(A) == {"image1": 2, "web1": 4, "lib1": 2}
        assert kept.offline(A) == [A]
        assert kept.balanced()
        kept.delete()
        assert kept.balanced()
        assert len(kept.files("image1", A)) == 2
        gone = {one.path for one in kept.reader.manifests(A, f"{A}.1")}
        assert kept.reader.gone_manifests(A) == gone
        assert "1 series is kept" in texts(kept, A)

    def test_growth_knows_what_is_away(self, kept: EvictingSite) -> None:
        kept.delete()
        kept.study(A, series=3, key=True)
        tiers = {one.record.series_uid: one.record.tier for one in kept.reader.instances(A)}
        assert tiers == {f"{A}.1": "", f"{A}.2": "image1", f"{A}.3": "image1"}
        assert kept.balanced()

    def test_beyond_its_share_it_leaves_too(self, kept: EvictingSite) -> None:
        kept.delete()
        kept.change(series_shares=(SeriesShare(name="key images", percent=0),))
        kept.level("image1", Level.AMBER, 1)
        kept.evict()
        kept.delete()
        assert not kept.files("image1", A)
        assert not kept.files("image1", B)
        assert "image1" not in kept.where(A)
        assert kept.balanced()

    def test_taking_back_both_parts(self, kept: EvictingSite) -> None:
        kept.master.evict_study(A)
        assert "image1" not in kept.where(A)
        kept.master.take_back(A)
        assert kept.where(A)["image1"] == 4
        assert kept.offline(A) == []
        assert kept.balanced()


class TestWeb:
    def test_by_its_own_threshold_and_prepared_again_once(self, site: EvictingSite) -> None:
        site.ready(A, B, libraries=())
        site.level("web1", Level.AMBER, 1)
        site.evict()
        assert site.where(A) == {"image1": 2}
        assert "web1" in site.where(B)
        assert site.reader.study(A)["state"] == "received"
        assert site.balanced()
        site.delete()
        assert not site.reader.packs(A)
        assert site.balanced()
        assert site.files("web1", A) == []
        site.level("web1", Level.GREEN, 0)
        for _ in range(3):
            site.master.touched([A])
            site.now += 1
            site.master.tick()
            site.now += 1
        leases = site.lease()
        assert [lease.kind for lease in leases] == ["PREPARE"]
        for lease in leases:
            site.master.report(lease, site.work(lease))
        assert site.reader.study(A)["state"] == "prepared"
        assert site.where(A)["web1"] == 2
        assert site.balanced()
        site.master.touched([A])
        site.now += 1
        site.master.tick()
        assert not site.lease()
        assert "web cache" in texts(site, A)

    def test_one_that_is_away_comes_back_first(
        self, site: EvictingSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.ready(A)
        site.level("web1", Level.AMBER, MUCH)
        site.evict()
        site.master.evict_study(A)
        site.delete()
        asked: list[str] = []
        monkeypatch.setattr(site.master, "order_restore", lambda uid, *_, **__: asked.append(uid))
        site.master.touched([A])
        site.evict(3)
        assert asked == [A]
        assert site.reader.study(A)["prepare_due_s"] is None

    def test_those_that_cannot_come_back_hinder_no_other(
        self, site: EvictingSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evicting, "WANTED_AT_ONCE", 1)
        site.ready(A, B)
        site.ready(C, libraries=())
        site.level("web1", Level.AMBER, MUCH)
        site.evict()
        for uid in (A, B):
            site.master.evict_study(uid)
        site.delete()
        asked: list[str] = []
        monkeypatch.setattr(site.master, "order_restore", lambda uid, *_, **__: asked.append(uid))
        site.master.touched([A, B, C])
        site.evict(4)
        assert asked == [A, B]
        assert site.reader.study(C)["prepare_due_s"] is not None
        site.evict(20)
        assert asked[2:4] == [A, B]


class TestSpread:
    def test_manifests_tell_what_lies_where(self, tmp_path: Path, database_url: str) -> None:
        site = EvictingSite(tmp_path, database_url, images=2)
        try:
            site.study(A, count=2)
            _spread(site)
            site.prepare()
            site.seal()
            site.prove(A)
            assert site.balanced()
            site.level("image1", Level.RED, MUCH)
            site.evict()
            assert site.offline(A) == [A]
            assert site.balanced()
            assert {one.tier for one in site.intents()} == {"image1", "image2"}
            site.delete()
            assert site.balanced()
            assert not site.files("image1", A)
            assert not site.files("image2", A)
        finally:
            site.close()


def _spread(site: EvictingSite) -> None:
    """Let one instance of the study lie on the second image tier."""
    one = site.reader.instances(A)[0].record
    data = site.tier("image1").read(one.path)
    site.tier("image2").put_durable(one.path, data)
    site.tier("image1").delete(one.path)
    with site.master._writer.transaction(site.now) as txn:
        ours = instances.c.sop_instance_uid == one.sop_instance_uid
        txn.conn.execute(sa.update(instances).where(ours).values(tier="image2"))
        txn.conn.execute(
            sa.update(copies)
            .where(copies.c.tier == "image1")
            .values(objects=copies.c.objects - 1, size_bytes=copies.c.size_bytes - one.size_bytes)
        )
        row = {"study_uid": A, "tier": "image2", "objects": 1, "size_bytes": one.size_bytes}
        txn.conn.execute(sa.insert(copies).values(**row, generation=1))
        ledger.commit(txn, {"image1": -one.size_bytes, "image2": one.size_bytes})


def test_copies_are_judged_after_tiers_changed(site: EvictingSite) -> None:
    site.ready(A)
    with site.master._writer.transaction(site.now) as txn:
        txn.conn.execute(sa.update(copies).values(hold="unjudged"))
    site.evict(30)
    rows = {one["tier"]: one["hold"] for one in site.reader.study(A)["copies"]}
    assert rows == {"image1": "", "web1": "", "lib1": "library"}


def test_grace_is_a_setting(site: EvictingSite) -> None:
    site.change(eviction=EvictionSettings(grace_s=5000))
    site.ready(A)
    site.master.evict_study(A)
    site.now += 4000
    site.master._delete_due(site.now)
    assert site.files("image1", A)
    site.now += 1001
    site.master._delete_due(site.now)
    assert not site.files("image1", A)
