"""A tier belongs to one site, is not used while unmounted; an older index deletes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from raypacs import layout
from raypacs.config import Settings, TierSettings, default_tiers
from raypacs.errors import ConfigError, StaleEpoch, TierUnavailable
from raypacs.index.engine import open_engine
from raypacs.index.reader import IndexReader
from raypacs.index.writer import IndexWriter
from raypacs.master import DELETE_GRACE_S, Master
from raypacs.master.keeping import MARKS_EVERY_S
from raypacs.storage.placing import ImageTiers
from raypacs.storage.room import Allotments, Markers
from raypacs.storage.site import Mounted, belongs, leave_marker, site_of
from raypacs.storage.tier import Buffer, LocalTier, Tier, open_tier
from raypacs.upkeep import delete, put_checked
from tests.factories import instance_record

T = 1_700_000_000.0
START = Callable[..., Master]


class Clock:
    """Time that stands still until told."""

    def __init__(self) -> None:
        self.now = T

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Iterator[START]:
    """Start masters; each index has a folder, all share the tiers."""
    started: list[Master] = []

    def _start(index: str = "index", data: str = "", **options: object) -> Master:
        url = f"sqlite:///{tmp_path / index / 'index.sqlite'}"
        master = Master(url, tmp_path / data, clock=clock, chance=lambda: 1.0, **options)
        started.append(master)
        return master

    yield _start
    for master in started:
        master.close()


def reader(tmp_path: Path, index: str = "index") -> IndexReader:
    return IndexReader(f"sqlite:///{tmp_path / index / 'index.sqlite'}")


def image(tmp_path: Path) -> Tier:
    return open_tier(default_tiers(tmp_path)[0])


def stored(master: Master, tmp_path: Path, study: str = "1.2.3", count: int = 1) -> list[str]:
    """Put and register instances; return their paths."""
    records = [instance_record(study=study) for _ in range(count)]
    for record in records:
        image(tmp_path).put_durable(record.path, b"x" * 10)
    master.register(records)
    return [record.path for record in records]


class TestSiteMarker:
    def test_every_tier_is_adopted_once(self, start: START, tmp_path: Path) -> None:
        start()
        site = reader(tmp_path).site()
        for settings in default_tiers(tmp_path):
            assert site_of(open_tier(settings)) == site.site_id != ""
            assert settings.url in site.adopted
        start()
        assert reader(tmp_path).site().site_id == site.site_id

    def test_a_new_index_refuses_the_tiers_of_a_site(self, start: START, tmp_path: Path) -> None:
        start()
        with pytest.raises(ConfigError, match="belongs to site") as refused:
            start("another")
        assert "rebuild" in refused.value.hint
        assert site_of(image(tmp_path)) == reader(tmp_path).site().site_id

    def test_a_tier_of_another_site_is_never_used(self, start: START, tmp_path: Path) -> None:
        start()
        (tmp_path / "other").mkdir()
        other = start("other index", "other")
        ours = default_tiers(tmp_path / "other")
        theirs = default_tiers(tmp_path)[0].model_copy(update={"name": "image2", "order": 2})
        other.apply_settings(Settings(tiers=(*ours, theirs)), "me")
        tiers = {tier["name"]: tier["reachable"] for tier in other.status()["tiers"]}
        assert tiers == {"image1": True, "web1": True, "image2": False}
        assert other.grant("image2", "n1", 10) == 0
        assert "belongs to site" in other._tiers.problems["image2"]

    def test_a_tier_that_lost_its_marker_is_not_mounted(
        self, start: START, clock: Clock, tmp_path: Path
    ) -> None:
        master = start()
        (path,) = stored(master, tmp_path)
        master.delete_study("1.2.3")
        (tmp_path / "image").rename(tmp_path / "unmounted")
        (tmp_path / "image").mkdir()  # the mount point
        clock.now += 60 + DELETE_GRACE_S
        assert master.tick().deleted_objects == 0
        assert master.grant("image1", "n1", 10) == 0
        assert list((tmp_path / "image").rglob("*")) == []
        again = start()  # a restart does not make it anew, either
        assert again.status()["tiers"][0]["reachable"] is False
        assert list((tmp_path / "image").rglob("*")) == []

        (tmp_path / "image").rmdir()
        (tmp_path / "unmounted").rename(tmp_path / "image")
        clock.now += 60
        assert again.tick().deleted_objects == 1
        assert not image(tmp_path).exists(path)

    def test_bytes_on_a_tier_that_is_not_mounted_are_not_lost(
        self, start: START, tmp_path: Path
    ) -> None:
        master, record = start(), instance_record()
        image(tmp_path).put_durable(record.path, b"x")
        master.register([record])
        (tmp_path / "image").rename(tmp_path / "unmounted")
        (tmp_path / "image").mkdir()
        assert not master._takes_place(instance_record(number=record.instance_number))

    def test_a_read_only_tier_needs_no_marker(self, tmp_path: Path) -> None:
        settings = TierSettings(
            name="old", role="image", url=(tmp_path / "old").as_uri(), read_only=True
        )
        assert belongs(open_tier(settings), "ab")
        assert not belongs(open_tier(settings.model_copy(update={"read_only": False})), "ab")


class TestOlderIndex:
    def test_one_of_the_same_epoch_is_known_by_its_changes(
        self, start: START, clock: Clock, tmp_path: Path
    ) -> None:
        master = start()
        shutil.copytree(tmp_path / "index", tmp_path / "backup")
        stored(master, tmp_path, count=2)
        clock.now += MARKS_EVERY_S
        master.tick()  # tells the tiers how far it is
        assert reader(tmp_path).reconcile() == ""
        restored = start("backup")
        assert restored.epoch == 2
        assert "older" in reader(tmp_path, "backup").reconcile()

    def test_markers_follow_changes_and_rest_while_there_are_none(
        self, start: START, clock: Clock, tmp_path: Path
    ) -> None:
        master = start()
        tier = image(tmp_path)

        def told() -> list[str]:
            return [info.path for info in tier.walk(layout.EPOCH_MARKERS)]

        for _ in range(3):  # what a start changes
            clock.now += MARKS_EVERY_S
            master.tick()
        before = told()
        stored(master, tmp_path)
        master.tick()  # so soon after the last look: not yet
        assert told() == before
        clock.now += MARKS_EVERY_S
        master.tick()
        after = told()
        assert len(after) == 1
        assert layout.sequence_of(after[0]) == reader(tmp_path).sequence()
        for _ in range(10):  # its work is made
            clock.now += MARKS_EVERY_S
            master.tick()
        after = told()
        written = (tmp_path / "image" / after[0]).stat().st_mtime_ns
        for _ in range(5):
            clock.now += MARKS_EVERY_S
            master.tick()
        assert told() == after
        assert (tmp_path / "image" / after[0]).stat().st_mtime_ns == written

    def test_it_deletes_and_sweeps_nothing_until_it_was_reconciled(
        self, start: START, clock: Clock, tmp_path: Path
    ) -> None:
        master = start()
        paths = stored(master, tmp_path)
        part = layout.attempt_part("0" * 16, "1.2.3.1", 0)
        web = open_tier(default_tiers(tmp_path)[1])
        web.put_transient(part, b"x")
        master.delete_study("1.2.3")
        master._writer.need_reconcile("restored", clock.now)
        clock.now += 10_000
        ticked = master.tick()
        assert (ticked.deleted_objects, ticked.swept_objects) == (0, 0)
        assert image(tmp_path).exists(paths[0])
        assert web.exists(part)
        master._writer.reconciled({}, clock.now)
        clock.now += 10
        ticked = master.tick()
        assert (ticked.deleted_objects, ticked.swept_objects) == (1, 1)

    def test_an_index_that_only_goes_on_needs_nothing(
        self, start: START, clock: Clock, tmp_path: Path
    ) -> None:
        for _ in range(3):
            stored(start(), tmp_path)
            clock.now += 100
        assert reader(tmp_path).reconcile() == ""
        (marker,) = image(tmp_path).walk(layout.EPOCH_MARKERS)
        assert layout.epoch_of(marker.path) == 3
        assert layout.sequence_of(marker.path) > 0


def taking_over(tmp_path: Path, prefix: str) -> Callable[[TierSettings], Tier]:
    """Open tiers that are written to just before another master takes over."""

    class Stopping(LocalTier):
        def put_durable(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
            size = super().put_durable(path, chunks)
            if path.startswith(prefix):
                engine = open_engine(f"sqlite:///{tmp_path / 'index' / 'index.sqlite'}")
                IndexWriter.claim_epoch(engine, [], T)
                engine.dispose()
            return size

    return Stopping


class TestStoppedMaster:
    def test_a_deletion_ends_where_another_master_took_over(
        self, start: START, clock: Clock, tmp_path: Path
    ) -> None:
        """Stopped between two objects (SIGSTOP) and continued after the other one's claim."""
        taken_over: list[str] = []

        class Stopping(LocalTier):
            def delete(self, path: str) -> None:
                super().delete(path)
                if path.startswith("studies/") and not taken_over:
                    taken_over.append(path)
                    engine = open_engine(f"sqlite:///{tmp_path / 'index' / 'index.sqlite'}")
                    IndexWriter.claim_epoch(engine, [], clock.now)
                    engine.dispose()

        master = start(tier_opener=Stopping)
        paths = stored(master, tmp_path, count=3)
        master.delete_study("1.2.3")
        clock.now += DELETE_GRACE_S
        with pytest.raises(StaleEpoch):
            master.tick()
        left = [path for path in paths if image(tmp_path).exists(path)]
        assert sorted([*left, *taken_over]) == sorted(paths)
        assert len(left) == 2

    def test_a_marker_of_a_master_that_was_stopped_does_not_stay(
        self, start: START, clock: Clock, tmp_path: Path
    ) -> None:
        """Stopped while it writes its marker, continued after the other one's claim."""
        master = start()
        tier = image(tmp_path)
        before = [info.path for info in tier.walk(layout.EPOCH_MARKERS)]
        claimed = taking_over(tmp_path, layout.EPOCH_MARKERS)
        stored(master, tmp_path)
        master._tiers.open([], reader(tmp_path).site())  # opened anew, by the tier that stops
        master._tiers._opener = claimed
        clock.now += 61
        with pytest.raises(StaleEpoch):
            master.tick()
        assert [info.path for info in tier.walk(layout.EPOCH_MARKERS)] == before

    def test_nor_does_a_manifest(self, start: START, clock: Clock, tmp_path: Path) -> None:
        master = start()
        stored(master, tmp_path)
        path = layout.manifest("1.2.3", "1.2.3.1", layout.new_token())
        tier = taking_over(tmp_path, "studies/")(default_tiers(tmp_path)[0])
        with pytest.raises(StaleEpoch):
            put_checked(tier, path, b"x", master._still_ours)
        assert not tier.exists(path)
        with pytest.raises(StaleEpoch):  # and nothing is begun
            put_checked(Mock(), path, b"x", master._still_ours)

    def test_a_new_tier_is_not_marked_by_it(
        self, start: START, clock: Clock, tmp_path: Path
    ) -> None:
        master = start()
        engine = open_engine(f"sqlite:///{tmp_path / 'index' / 'index.sqlite'}")
        IndexWriter.claim_epoch(engine, [], clock.now)
        engine.dispose()
        new = TierSettings(name="image2", role="image", url=(tmp_path / "image2").as_uri())
        site = reader(tmp_path).site()
        master._tiers.open([new], site)
        with pytest.raises(StaleEpoch):
            master._tiers.mark(master.epoch, 1, master._still_ours)
        with pytest.raises(StaleEpoch):
            master._tiers.adopt(site, lambda url, name: None, master._still_ours)
        assert list(open_tier(new).walk()) == []

    def test_each_object_is_asked_for(self, tmp_path: Path) -> None:
        tier, asked = image(tmp_path), []
        tier.put_durable("a", b"x")
        assert delete(tier, ["a", "b"], lambda: asked.append(1)) == 1
        assert len(asked) == 2


class TestMounted:
    def test_an_edge_writes_to_no_tier_without_the_marker(self, tmp_path: Path) -> None:
        at = [0.0]
        mounted = Mounted("ab", clock=lambda: at[0])
        tier = image(tmp_path)
        assert not mounted(tier)
        leave_marker(tier, "ab")
        assert not mounted(tier)  # asked a moment ago
        at[0] += Mounted.ASK_EVERY_S
        assert mounted(tier)
        assert Mounted("")(open_tier(default_tiers(tmp_path)[1]))

    def test_an_object_goes_to_the_next_tier(self, tmp_path: Path) -> None:
        tiers = [
            open_tier(TierSettings(name=name, role="image", url=(tmp_path / name).as_uri()))
            for name in ("one", "two")
        ]
        leave_marker(tiers[1], "ab")
        room = Allotments(lambda tier, size: size, 1000)
        placing = ImageTiers(tiers, room, Markers(tiers, "b"), Mounted("ab"))
        assert placing.put("studies/a", (b"x",), 1) == "two"
        with pytest.raises(TierUnavailable, match="not mounted"):
            ImageTiers(tiers[:1], room, Markers(tiers, "b"), Mounted("ab")).put("a", (b"x",), 1)
