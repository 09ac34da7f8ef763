"""The index made again from the tiers, made to agree with them, and what nobody knows."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs import layout
from raypacs.config import Settings
from raypacs.errors import AlreadyExists, ConfigError
from raypacs.index.reader import IndexReader
from raypacs.maintenance.rebuild import (
    Reinventory,
    orphans,
    rebuild_index,
    reconcile_index,
    sweep_index,
)
from raypacs.master import DELETE_GRACE_S
from raypacs.records import Outcome
from raypacs.storage.site import site_of
from tests.down_site import NOW, OTHER, STUDY, Down, files


@pytest.fixture
def down(tmp_path: Path, sqlite_url: str) -> Iterator[Down]:
    down = Down(tmp_path, sqlite_url)
    yield down
    down.close()


@pytest.fixture
def new_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'new' / 'index.sqlite'}"


def rebuild(down: Down, url: str, **options: Any) -> Reinventory:
    return rebuild_index(down.boot(url), now=NOW, workers=1, **options)


def reconcile(down: Down, **options: Any) -> Reinventory:
    return reconcile_index(down.boot(down.url), now=NOW, workers=1, **options)


def age(down: Down, seconds: float = 100.0) -> None:
    """Let everything on the tiers be older: what is written later has a later time."""
    for path in [*(down.folder / "image").rglob("*"), *(down.folder / "web").rglob("*")]:
        at_s = path.stat().st_mtime - seconds
        os.utime(path, (at_s, at_s))


def conflict() -> bytes:
    return files(shade=5)[0]


class TestRebuild:
    @pytest.mark.parametrize("sealed", [False, True])
    def test_everything_is_back(self, down: Down, new_url: str, sealed: bool) -> None:
        site = down.site
        site.store(*files(), *files(OTHER))
        site.prepare()
        assert site.store(conflict(), b"no DICOM") == [Outcome.CONFLICT, Outcome.QUARANTINED]
        if sealed:
            site.seal()
        objects = site.objects()
        before = down.stop()
        done = rebuild(down, new_url)
        assert (done.unplaced, done.lost) == ([], [])
        assert done.counts.instances_registered == 12
        assert done.counts.packs_adopted == 4
        assert done.counts.asides == 2
        assert done.counts.instances_from_manifests == (12 if sealed else 0)
        after = down.start(new_url)
        if sealed:  # of no use any more: deleted by intent
            after.now = NOW + DELETE_GRACE_S
            after.master.tick()
            manifests = {place for place in objects if layout.is_manifest(place[1])}
            assert len(manifests) == 4
            sizes = sum(objects.pop(place) for place in manifests)
            before["used"]["image1"] -= sizes
        assert after.objects() == objects
        assert down.told() == before
        assert after.balanced()
        assert after.reader.reconcile() == ""
        assert after.reader.unprepared(STUDY) == []
        assert set(after.store(*files())) == {Outcome.KNOWN}

    def test_it_is_the_same_site_of_a_later_epoch(self, down: Down, new_url: str) -> None:
        down.site.store(*files())
        site_id, epoch = down.site.reader.site().site_id, down.site.master.epoch
        down.stop()
        done = rebuild(down, new_url)
        assert done.epoch == epoch + 1
        assert down.start(new_url).reader.site().site_id == site_id
        assert site_of(down.site.tier("image1")) == site_id

    def test_a_dry_run_changes_nothing(self, down: Down, new_url: str, tmp_path: Path) -> None:
        down.site.store(*files())
        down.site.prepare()
        objects = down.site.objects()
        down.stop()
        done = rebuild(down, new_url, dry_run=True)
        assert (done.counts.instances_registered, done.counts.packs_adopted) == (6, 2)
        assert not (tmp_path / "new").exists()
        assert down.site.objects() == objects
        assert rebuild(down, new_url).counts == done.counts

    def test_what_cannot_be_placed_is_told_and_stays(self, down: Down, new_url: str) -> None:
        site = down.site
        site.store(*files())
        site.prepare()
        image, web = site.tier("image1"), site.tier("web1")
        token = layout.new_token()
        strange = {
            layout.instance(STUDY, f"{STUDY}.1", f"{STUDY}.1.9", token): b"no DICOM at all",
            layout.instance("1.9", "1.9.1", "1.9.1.1", token): files()[0],
            f"studies/{STUDY}/notes.txt": b"hello",
            layout.manifest(STUDY, f"{STUDY}.1", token): b"no manifest",
        }
        for path, data in strange.items():
            image.put_durable(path, data)
        pack = site.reader.locate(f"{STUDY}.1")[0]
        whole = web.read(pack.pack_path)
        damaged = {
            layout.pack(STUDY, f"{STUDY}.1", token): whole[:-10],
            layout.header_sidecar(layout.pack(STUDY, f"{STUDY}.1", token)): b"",
            layout.header_sidecar(layout.pack(STUDY, f"{STUDY}.2", token)): b"alone",
        }
        for path, data in damaged.items():
            web.put_durable(path, data)
        before = down.stop()
        done = rebuild(down, new_url)
        told = {one.path: one.why for one in done.unplaced}
        expected = {*strange, *damaged} - {
            layout.header_sidecar(layout.pack(STUDY, f"{STUDY}.1", token))
        }
        assert set(told) == expected
        assert all(told.values())
        assert "names series" in told[layout.instance("1.9", "1.9.1", "1.9.1.1", token)]
        down.start(new_url)
        assert down.told() == before
        assert {path for _, path in down.site.objects()} >= {*strange, *damaged}

    def test_the_same_instance_twice_is_registered_once(self, down: Down, new_url: str) -> None:
        down.site.store(*files(count=1, series=1))
        age(down)
        again = layout.instance(STUDY, f"{STUDY}.1", f"{STUDY}.1.1", layout.new_token())
        other = layout.instance(STUDY, f"{STUDY}.1", f"{STUDY}.1.1", layout.new_token())
        image = down.site.tier("image1")
        image.put_durable(again, files(count=1, series=1)[0])
        image.put_durable(other, conflict())
        first = down.site.reader.instances(STUDY)[0].record.path
        down.stop()
        done = rebuild(down, new_url)
        assert [one.path for one in done.unplaced] == [again]
        assert (done.counts.instances_registered, done.counts.conflicts) == (1, 1)
        site = down.start(new_url)
        assert [one.record.path for one in site.reader.instances(STUDY)] == [first]
        assert [one.path for one in site.reader.aside()] == [other]
        assert site.balanced()

    def test_a_pack_older_than_its_instances_is_not_believed(
        self, down: Down, new_url: str
    ) -> None:
        """The study was deleted and came again with other pixels under the same UIDs."""
        down.site.store(*files())
        down.site.prepare()
        for path in (down.folder / "image").rglob("*.dcm"):
            os.utime(path, (path.stat().st_mtime + 100,) * 2)
        down.stop()
        done = rebuild(down, new_url)
        assert done.counts.packs_adopted == 0
        assert len(done.unplaced) == 2
        assert "older than" in done.unplaced[0].why
        site = down.start(new_url)
        assert len(site.reader.unprepared(STUDY)) == 6
        site.now = NOW
        site.prepare()
        assert site.reader.unprepared(STUDY) == []

    def test_several_processes_parse(self, down: Down, new_url: str) -> None:
        down.site.store(*files())
        before = down.stop()
        done = rebuild_index(down.boot(new_url), now=NOW, workers=2)
        assert done.counts.instances_registered == 6
        down.start(new_url)
        assert down.told()["instances"] == before["instances"]

    def test_refusals(self, down: Down, new_url: str, tmp_path: Path) -> None:
        down.site.store(*files())
        down.stop()
        with pytest.raises(ConfigError, match="not empty"):
            rebuild(down, down.url)
        with pytest.raises(ConfigError, match="no index"):
            reconcile_index(down.boot(new_url), now=NOW)
        rebuild(down, new_url)
        (tmp_path / "image").rename(tmp_path / "away")
        (tmp_path / "image").mkdir()
        with pytest.raises(ConfigError, match="not every tier"):
            reconcile(down)

    def test_a_rebuild_that_was_cut_off_goes_on(
        self, down: Down, new_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        down.site.store(*files(), *files(OTHER))
        down.site.prepare()
        before = down.stop()

        def cut(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rebuild(down, new_url, progress=cut)
        site = down.start(new_url)
        assert "not finished" in site.reader.reconcile()
        site.close()
        down.running = False
        done = reconcile_index(down.boot(new_url), now=NOW, workers=1)
        assert done.counts.instances_registered == 6
        down.start(new_url)
        assert down.told() == before
        assert down.site.reader.reconcile() == ""


class TestReconcile:
    def test_a_restored_index_learns_what_came_after(self, down: Down, tmp_path: Path) -> None:
        site = down.site
        site.store(*files())
        site.prepare()
        site.seal()
        site.close()
        backup = tmp_path / "backup"
        shutil.copytree(tmp_path / "index", backup)
        site = down.start()
        site.now = NOW - 10_000
        site.store(*files(count=4), *files(OTHER))
        site.prepare()
        site.now += DELETE_GRACE_S + 100
        site.master.tick()  # the manifests of the backup are gone
        before = down.stop()
        shutil.rmtree(tmp_path / "index")
        backup.rename(tmp_path / "index")
        site = down.start()
        assert "older" in site.reader.reconcile()
        site.close()
        down.running = False
        done = reconcile(down)
        assert done.counts.studies_reopened == 1
        assert len(done.lost) == 2  # manifests
        site = down.start()
        site.now = NOW + 1
        site.master.tick()  # forgets them for good
        assert down.told() == before
        assert site.reader.reconcile() == ""
        assert site.balanced()

    def test_what_agrees_stays_as_it_is(self, down: Down) -> None:
        down.site.store(*files(), conflict())
        down.site.prepare()
        down.site.seal()
        before = down.stop()
        done = reconcile(down)
        assert (done.unplaced, done.lost, done.ledger_was_wrong) == ([], [], {})
        assert set(done.counts.as_dict().values()) == {0}
        down.start()
        assert down.told() == before
        assert len(down.site.reader.manifests(STUDY)) == 2  # not even reopened

    @pytest.mark.parametrize("sealed", [False, True])
    def test_a_lost_pack_is_made_again(self, down: Down, sealed: bool) -> None:
        site = down.site
        site.store(*files())
        site.prepare()
        if sealed:
            site.seal()
        pack = site.reader.locate(f"{STUDY}.1")[0]
        site.tier("web1").delete(pack.pack_path)
        site.close()
        down.running = False
        done = reconcile(down)
        assert [one.path for one in done.lost] == [pack.pack_path]
        site = down.start()
        assert len(site.reader.unprepared(STUDY)) == 3
        assert site.balanced()
        site.now = NOW
        site.prepare()
        assert site.reader.unprepared(STUDY) == []
        assert site.reader.study(STUDY)["prepared_count"] == 6

    def test_lost_instances_are_listed_and_leave(self, down: Down) -> None:
        site = down.site
        site.store(*files())
        record = site.reader.instances(STUDY)[0].record
        site.tier("image1").delete(record.path)
        down.stop()
        done = reconcile(down)
        assert [one.path for one in done.lost] == [record.path]
        assert done.counts.instances_lost == 1
        site = down.start()
        assert len(site.reader.instances(STUDY)) == 5
        assert site.store(files()[0]) == [Outcome.STORED]
        assert site.reader.study(STUDY)["instance_count"] == 6

    def test_a_wrong_ledger_is_told_and_made_right(self, down: Down) -> None:
        down.site.store(*files())
        with down.site.master._writer.transaction(down.site.now) as txn:
            txn.conn.exec_driver_sql("UPDATE ledger SET used_bytes = used_bytes + 7")
        down.stop()
        assert reconcile(down).ledger_was_wrong == {"image1": 7, "web1": 7}
        assert down.start().balanced()

    def test_not_beside_a_running_node(self, down: Down) -> None:
        with (down.folder / "node.lock").open("a+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(AlreadyExists):
                reconcile(down)


class TestOrphans:
    def test_nothing_of_a_site_at_rest_is_one(self, down: Down) -> None:
        site = down.site
        site.store(*files(), *files(OTHER), conflict(), b"no DICOM")
        site.prepare()
        site.seal()
        site.store(*files("1.2.5"))
        site.prepare()
        site.master.delete_study(OTHER)
        tiers = [site.tier(tier.name) for tier in site.settings.tiers]
        assert list(orphans(site.reader, tiers)) == []
        assert sweep_index(down.boot(down.url), now=NOW).orphans == []

    def test_every_kind_is_found_and_only_web_ones_go(self, down: Down) -> None:
        site = down.site
        site.store(*files())
        site.prepare()
        image, web, token = site.tier("image1"), site.tier("web1"), layout.new_token()
        on_image = [
            layout.instance(STUDY, f"{STUDY}.1", "1.9", token),
            layout.manifest(STUDY, f"{STUDY}.1", token),
            layout.conflict("1.8", "1.9", token),
            layout.quarantine(NOW, token),
        ]
        on_web = [
            layout.pack(STUDY, f"{STUDY}.1", token),
            layout.header_sidecar(layout.pack("1.8", "1.8.1", token)),
            layout.attempt_part(token, f"{STUDY}.1", 0),
        ]
        for tier, paths in ((image, on_image), (web, on_web)):
            for path in paths:
                tier.put_durable(path, b"x")
        before = site.objects()
        down.stop()
        swept = sweep_index(down.boot(down.url), now=NOW)
        assert {one.path for one in swept.orphans} == {*on_image, *on_web}
        swept = sweep_index(down.boot(down.url), now=NOW, dry_run=False)
        assert swept.deleted == 3
        assert {path for _, path in down.site.objects()} == {path for _, path in before} - set(
            on_web
        )

    def test_an_index_to_reconcile_sweeps_nothing(self, down: Down) -> None:
        down.site.master._writer.need_reconcile("restored", NOW)
        down.stop()
        with pytest.raises(ConfigError, match="restored"):
            sweep_index(down.boot(down.url), now=NOW, dry_run=False)


def test_settings_can_be_given(down: Down, new_url: str) -> None:
    """An index that is lost has lost its settings, too."""
    down.site.store(*files())
    down.stop()
    given = Settings(tiers=down.site.settings.tiers, quiet_s=77.0)
    rebuild(down, new_url, settings=given)
    reader = IndexReader(new_url)
    assert reader.settings() == (1, given)
    reader.close()


def test_on_postgresql(postgres_url: str, down: Down) -> None:
    """A lost index on one host becomes an index for several; then an older one is reconciled."""
    down.site.store(*files(), *files(OTHER), conflict())
    down.site.prepare()
    down.site.seal()
    manifests = sum(
        size for place, size in down.site.objects().items() if layout.is_manifest(place[1])
    )
    before = down.stop()
    done = rebuild(down, postgres_url)
    assert (done.counts.instances_from_manifests, done.counts.packs_adopted) == (12, 4)
    site = down.start(postgres_url)
    site.now = NOW + DELETE_GRACE_S
    site.master.tick()
    before["used"]["image1"] -= manifests
    assert down.told() == before
    site.seal()
    pack = site.reader.locate(f"{STUDY}.1")[0]
    site.tier("web1").delete(pack.pack_path)
    site.close()
    down.running = False
    done = reconcile_index(down.boot(postgres_url), now=NOW, workers=1)
    assert ([one.path for one in done.lost], done.counts.studies_reopened) == ([pack.pack_path], 1)
    site = down.start(postgres_url)
    assert len(site.reader.unprepared(STUDY)) == 3
    assert site.balanced()
