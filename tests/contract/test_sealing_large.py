"""A study of many series is sealed over several ticks, so that the master answers meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs.errors import IllegalTransition
from raypacs.master import sealing
from tests.archiving_site import ArchivingSite
from tests.restoring_site import STUDY, files, tiers_of

SERIES = 7


@pytest.fixture
def site(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ArchivingSite]:
    monkeypatch.setattr(sealing, "SERIES_PER_TICK", 3)
    site = ArchivingSite(tmp_path, database_url, tiers_of(tmp_path))
    site.store(*files(series=SERIES, count=1))
    site.quiet(prepared=False)
    yield site
    site.close()


def manifests(site: ArchivingSite) -> int:
    return len([path for _, path in site.objects() if "manifest" in path])


def test_a_few_manifests_a_call(site: ArchivingSite) -> None:
    before = manifests(site)
    seen = []
    for _ in range(2):
        assert not site.master.seal_now(STUDY)
        assert site.master.being_sealed(STUDY)
        seen.append(manifests(site) - before)
    assert seen == [3, 6]
    assert site.master.seal_now(STUDY)
    assert manifests(site) - before == SERIES
    assert not site.master.being_sealed(STUDY)
    assert len(site.reader.manifests(STUDY)) == SERIES
    assert site.balanced()


def test_orders_say_that_it_is_being_sealed(site: ArchivingSite) -> None:
    with pytest.raises(IllegalTransition, match="being sealed"):
        site.master.order_migrate(STUDY, "image2", "ann")
    with pytest.raises(IllegalTransition, match="being sealed"):
        site.master.evict_study(STUDY, "ann")
    site.ticks(3)
    assert site.master.order_migrate(STUDY, "image2", "ann")


def test_archive_waits_for_it_while_ticks_write(site: ArchivingSite) -> None:
    (told,) = site.archive()
    assert told.waits
    site.ticks(3)
    site.now += 60
    (told,) = site.work_off("ARCHIVE")
    assert not told.error
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    assert site.balanced()


def test_one_that_grows_meanwhile_is_begun_anew(site: ArchivingSite) -> None:
    assert not site.master.seal_now(STUDY)
    site.store(*files(series=SERIES + 1, count=1)[SERIES:])
    site.quiet(prepared=False)
    for _ in range(6):
        site.master.seal_now(STUDY)
    assert len(site.reader.manifests(STUDY)) == SERIES + 1
    site.let_go(3700)
    assert manifests(site) == SERIES + 1
    assert site.balanced()


def test_quiet_ones_are_sealed_so_too(site: ArchivingSite) -> None:
    other = "1.2.4"
    site.archives(window_start="03:00", window_end="03:01", red_opens=False)
    site.store(*files(other, series=SERIES, count=1))
    site.quiet(prepared=True)
    before = manifests(site)
    site.now += site.reader.settings()[1].seal_after_s + 1
    site.master.tick()
    assert manifests(site) - before == 3
    assert site.reader.manifests(other) == []
    for _ in range(2):
        site.now += 1.1
        site.master.tick()
    assert len(site.reader.manifests(other)) == SERIES
    assert site.balanced()
