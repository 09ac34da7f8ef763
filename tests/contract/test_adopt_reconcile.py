"""Rebuild, reconcile and sweep beside an adopted archive: nothing there is lost, or touched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs.errors import ConfigError
from raypacs.maintenance.rebuild import rebuild_index, reconcile_index, sweep_index
from tests.adopting_site import AdoptingSite, print_of
from tests.contract.test_adopt import OTHER, STUDY, picture

NOW = 1_700_100_000.0


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
        (folder / f"other{number}").write_bytes(picture(number, study=OTHER))
    for path in folder.iterdir():
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return folder


@pytest.mark.parametrize("state", ["open", "prepared", "sealed"])
def test_reconcile_finds_nothing_to_do(site: AdoptingSite, archive: Path, state: str) -> None:
    before = print_of(archive)
    site.adopt(archive, prepare=state != "open")
    if state != "open":
        site.prepare()
    if state == "sealed":
        site.seal()
    known = site.reader.instances(STUDY)
    boot = site.bootstrap
    site.close()
    done = reconcile_index(boot, now=NOW, workers=1)
    assert (done.lost, done.unplaced) == ([], [])
    assert set(done.counts.as_dict().values()) == {0}
    assert done.ledger_was_wrong == {}
    assert site.reader.instances(STUDY) == known
    swept = sweep_index(boot, now=NOW + 1, dry_run=False)
    assert (swept.orphans, swept.deleted) == ([], 0)
    assert print_of(archive) == before


def test_what_is_gone_leaves_the_index_or_is_served_from_its_pack(
    site: AdoptingSite, archive: Path
) -> None:
    site.adopt(archive)
    site.master.enqueue_item("PREPARE", OTHER)
    (lease,) = site.leases("PREPARE")
    site.master.report(lease, site.work(lease))
    (archive / "IM2").unlink()
    (archive / "other2").unlink()
    boot = site.bootstrap
    site.close()
    done = reconcile_index(boot, now=NOW, workers=1)
    assert sorted(one.path for one in done.lost) == ["IM2", "other2"]
    assert done.counts.instances_lost == 1
    assert {one.record.path for one in site.reader.instances(STUDY)} == {"IM1", "IM3"}
    assert len(site.reader.instances(OTHER)) == 3


def test_an_archive_that_is_not_mounted_loses_nothing(site: AdoptingSite, archive: Path) -> None:
    site.adopt(archive)
    boot = site.bootstrap
    site.close()
    archive.rename(archive.parent / "away")
    with pytest.raises(ConfigError, match="no folder"):
        reconcile_index(boot, now=NOW, workers=1)
    archive.mkdir()  # the folder it is mounted on
    with pytest.raises(ConfigError, match="is empty"):
        reconcile_index(boot, now=NOW, workers=1)
    assert len(site.reader.instances(STUDY)) == 3


def test_rebuilt_from_manifests_and_adopted_again(
    site: AdoptingSite, archive: Path, tmp_path: Path
) -> None:
    site.adopt(archive, prepare=True)
    site.prepare()
    site.seal()
    settings, known = site.settings, site.reader.instances(STUDY)
    site.close()
    boot = site.bootstrap.model_copy(update={"index_url": f"sqlite:///{tmp_path / 'new.sqlite'}"})
    done = rebuild_index(boot, now=NOW, workers=1, settings=settings)
    assert (done.lost, done.unplaced) == ([], [])
    assert done.counts.instances_from_manifests == 6
    assert done.counts.packs_adopted == 2
    again = AdoptingSite.__new__(AdoptingSite)
    again.folder, again.url, again.now = site.folder, boot.database_url, NOW + 1
    again.master = again.start()
    again.bootstrap, again.settings = boot, settings
    again.reader, again.intake = site.reader, site.intake
    again.refresh()
    found = again.reader.instances(STUDY)
    assert [one.record.path for one in found] == [one.record.path for one in known]
    told = again.adopt(archive)
    assert (told["known"], told["indexed"], told["gone"]) == (6, 0, 0)
    again.close()
