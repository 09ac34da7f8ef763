"""Archiving: what is written, proven, written again, and what is not."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypacs.errors import InvalidQuery, StaleLease
from raypacs.records import Poll
from raypacs.work.archive import CLOSED, ArchiveRun
from tests.archiving_site import NOON, ArchivingSite
from tests.inline_tasks import InlineTasks
from tests.restoring_site import STUDY, files, tiers_of

OTHER = "1.2.4"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[ArchivingSite]:
    site = ArchivingSite(tmp_path, database_url, tiers_of(tmp_path))
    yield site
    site.close()


def received(site: ArchivingSite, *studies: str, prepared: bool = False) -> None:
    for uid in studies or (STUDY,):
        site.store(*files(uid))
    site.quiet(prepared=prepared)


def test_a_study_is_in_every_library_and_proven(site: ArchivingSite) -> None:
    received(site)
    told = site.master.order_archive([STUDY], "ann")
    assert len(told["items"]) == 1
    (result,) = site.work_off("ARCHIVE")
    assert not result.error
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    refs = site.reader.containers(STUDY)
    assert [(ref.series_uid, ref.tier) for ref in refs] == [
        (f"{STUDY}.{series}", tier) for series in (1, 2) for tier in ("lib1", "lib2")
    ]
    for ref in refs:
        path = site.folder / ref.tier / ref.path
        assert hashlib.sha256(path.read_bytes()).hexdigest() == ref.sha256
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert len(archive.namelist()) == 4
    assert site.balanced()
    assert [row["hold"] for row in site.copies(STUDY) if row["tier"] == "image1"] == [""]
    assert site.events(STUDY).count("archived") == 2
    assert site.reader.task(told["items"][0])["payload"]["progress"]["series"] == 4


def test_what_is_there_is_not_written_again(site: ArchivingSite) -> None:
    received(site)
    site.archive()
    before = site.objects()
    (result,) = site.archive()
    assert not result.error
    assert len(result.archived) == 4
    assert site.objects() == before
    assert site.balanced()
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    assert site.events(STUDY).count("archived") == 2


def test_a_study_that_grew_is_archived_anew_and_the_old_container_goes(
    site: ArchivingSite,
) -> None:
    site.store(*files(count=2))
    site.quiet(prepared=False)
    site.archive()
    old = {ref.path for ref in site.reader.containers(STUDY)}
    site.store(*files(series=1, count=3)[2:])
    site.quiet(prepared=False)
    assert site.proven(STUDY) == {"lib1": False, "lib2": False}
    assert {one["hold"] for one in site.copies(STUDY) if one["tier"] == "image1"} == {"unarchived"}
    (result,) = site.archive()
    assert not result.error
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    new = {ref.path for ref in site.reader.containers(STUDY)}
    assert len(old & new) == 1  # the series that did not grow
    assert site.balanced()
    site.let_go(3700)
    left = {path for name, path in site.objects() if name == "lib1" and path.endswith(".zip")}
    assert left == new
    assert site.balanced()


def test_a_damaged_original_is_named_and_not_archived(site: ArchivingSite) -> None:
    received(site)
    record = site.reader.instances(STUDY)[0].record
    site.damage(record.tier, record.path, record.size_bytes - 3)
    (result,) = site.archive()
    assert record.sop_instance_uid in result.error
    assert not result.retryable
    assert site.items("ARCHIVE")[0]["state"] == "FAILED"
    refs = site.reader.containers(STUDY)
    assert {ref.series_uid for ref in refs} == {f"{STUDY}.2"}
    assert site.proven(STUDY) == {"lib1": False, "lib2": False}
    site.let_go()
    zips = [path for name, path in site.objects() if path.endswith(".zip")]
    assert len(zips) == 2
    assert site.balanced()


def test_a_library_that_is_away_holds_up_no_other(site: ArchivingSite) -> None:
    received(site)
    away = site.folder / "lib1"
    away.rename(site.folder / "elsewhere")
    away.mkdir()  # an empty mount point
    (result,) = site.archive()
    assert result.waits
    assert "lib1" in result.error
    assert site.proven(STUDY) == {"lib2": True}
    assert not list(away.rglob("*.zip"))
    item = site.items("ARCHIVE")[0]
    assert item["state"] == "SCHEDULED FOR RETRY"
    away.rmdir()
    (site.folder / "elsewhere").rename(away)
    site.now += 60
    (result,) = site.work_off("ARCHIVE")
    assert not result.error
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    assert site.balanced()


def test_a_full_library_holds_up_no_other(tmp_path: Path, database_url: str) -> None:
    image1, image2, web1, lib1, lib2 = tiers_of(tmp_path)
    small = lib1.model_copy(update={"capacity_bytes": 10_000})
    site = ArchivingSite(tmp_path, database_url, (image1, image2, web1, small, lib2))
    received(site)
    (result,) = site.archive()
    assert result.waits
    assert "no room" in result.error
    assert site.proven(STUDY) == {"lib2": True}
    assert site.balanced()
    site.set_tier("lib1", capacity_bytes=10_000_000)
    site.now += 60
    site.ticks(12)
    (result,) = site.work_off("ARCHIVE")
    assert not result.error
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    site.close()


def test_a_container_that_does_not_read_back_is_not_counted(
    site: ArchivingSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    received(site)
    site.archives(libraries=["lib1"])

    def forget(tier: object, path: str) -> None:
        if not done:
            done.append(path)
            site.damage("lib1", path)

    done: list[str] = []
    monkeypatch.setattr("raypacs.work.archive_series.forget_cached", forget)
    (result,) = site.archive()
    assert "read back" in result.error
    assert result.retryable
    assert done[0] not in {ref.path for ref in site.reader.containers(STUDY)}
    site.now += 400
    (result,) = site.work_off("ARCHIVE")
    assert not result.error
    assert site.proven(STUDY) == {"lib1": True}
    site.let_go()
    assert ("lib1", done[0]) not in site.objects()
    assert site.balanced()


def test_a_killed_attempt_goes_on_where_it_stopped(site: ArchivingSite) -> None:
    received(site)
    site.archives(libraries=["lib1"])
    site.master.order_archive([STUDY])
    (lease,) = site.leases("ARCHIVE")

    class Killed(InlineTasks):
        """The node dies after the first series was told, while the second is written."""

        def finished(self) -> Iterator[tuple[Any, Any]]:
            for number, found in enumerate(super().finished()):
                if number:
                    raise RuntimeError("killed")
                yield found

    with pytest.raises(RuntimeError):
        ArchiveRun(lease, site.ports()).run(Killed())
    (kept,) = site.reader.containers(STUDY)
    site.expire()
    (result,) = site.work_off("ARCHIVE")
    assert not result.error
    assert kept.path in {ref.path for ref in site.reader.containers(STUDY)}
    assert site.proven(STUDY) == {"lib1": True}
    site.let_go(3600)
    assert len([path for name, path in site.objects() if path.endswith(".zip")]) == 2
    assert site.balanced()


def test_a_stale_attempt_registers_nothing(site: ArchivingSite) -> None:
    received(site)
    site.master.order_archive([STUDY])
    (lease,) = site.leases("ARCHIVE")
    site.expire()
    with pytest.raises(StaleLease):
        ArchiveRun(lease, site.ports()).run(InlineTasks())
    assert site.reader.containers(STUDY) == []
    assert site.balanced()


def test_a_report_told_twice_changes_nothing(site: ArchivingSite) -> None:
    received(site)
    site.master.order_archive([STUDY])
    (lease,) = site.leases("ARCHIVE")
    result = ArchiveRun(lease, site.ports()).run(InlineTasks())
    assert site.master.report(lease, result) == "COMPLETED"
    before = site.reader.containers(STUDY)
    assert site.master.report(lease, result) == "COMPLETED"
    assert site.reader.containers(STUDY) == before
    assert site.balanced()


def test_the_window_closes_while_a_study_is_archived(site: ArchivingSite) -> None:
    received(site)
    site.archives(libraries=["lib1"])
    site.now += 61
    site.ticks()
    (item,) = site.items("ARCHIVE")
    assert item["payload"]["by"] == "window"
    (lease,) = site.leases("ARCHIVE")

    class Slow(InlineTasks):
        """The window closes while the first series is written."""

        def finished(self) -> Iterator[tuple[Any, Any]]:
            for found in super().finished():
                site.now = max(site.now, NOON)
                held = ((lease.item_id, lease.token),)
                site.master.poll(Poll("n1", "b1", ("ARCHIVE",), held, 0))
                yield found

    result = ArchiveRun(lease, replace(site.ports(), cores=1)).run(Slow())
    assert (result.error, result.waits, len(result.archived)) == (CLOSED, True, 1)
    site.master.report(lease, result)
    (item,) = site.items("ARCHIVE")
    assert (item["state"], item["attempt"]) == ("SCHEDULED FOR RETRY", 0)
    (kept,) = site.reader.containers(STUDY)
    site.now += 60
    site.ticks()
    assert site.leases("ARCHIVE") == []  # it is parked until the evening
    (item,) = site.items("ARCHIVE")
    assert item["due_s"] == site.reader.archive_status(site.now)["window"]["opens_s"]
    site.now = item["due_s"] + 1
    site.ticks()
    (result,) = site.work_off("ARCHIVE")
    assert not result.error
    assert kept in site.reader.containers(STUDY)
    assert site.proven(STUDY) == {"lib1": True}
    assert site.balanced()


def test_orders_say_what_is_wrong(site: ArchivingSite) -> None:
    received(site)
    site.seen()
    told = site.master.order_archive([STUDY, "9.9"])
    assert len(told["items"]) == 1
    assert told["refused"][0]["study_uid"] == "9.9"
    with pytest.raises(InvalidQuery, match="lib9"):
        site.master.order_archive([STUDY], libraries=["lib9"])


def test_an_order_for_one_library(site: ArchivingSite) -> None:
    received(site)
    site.seen()
    site.master.order_archive([STUDY], libraries=["lib2"])
    site.work_off("ARCHIVE")
    assert site.proven(STUDY) == {"lib2": True}


def test_what_was_sealed_unprepared_can_be_prepared(site: ArchivingSite) -> None:
    """PREPARE failed, so archiving sealed the study as it was; then somebody tries again."""
    received(site)
    site.master.order_archive([STUDY], "ann")
    site.work_off("ARCHIVE")
    assert site.reader.manifests(STUDY)
    count = len(site.reader.unprepared(STUDY))
    assert count
    site.master.enqueue_item("PREPARE", STUDY)
    for lease in site.lease():
        site.master.report(lease, site.work(lease))
    assert not site.reader.unprepared(STUDY)
    assert site.reader.study(STUDY)["state"] == "prepared"
    assert site.reader.study(STUDY)["prepared_count"] == count
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    assert site.balanced()
