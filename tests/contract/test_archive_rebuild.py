"""The disaster: index and image tier are lost, and the library alone gives the studies back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raypacs.config import Bootstrap
from raypacs.maintenance.rebuild import rebuild_index, reconcile_index
from tests.archiving_site import ArchivingSite
from tests.restoring_site import STUDY, files, tiers_of

OTHER = "1.2.4"


@pytest.fixture
def site(tmp_path: Path) -> ArchivingSite:
    return ArchivingSite(tmp_path / "a", f"sqlite:///{tmp_path}/a/index.sqlite", _tiers(tmp_path))


def _tiers(tmp_path: Path) -> tuple:  # type: ignore[type-arg]
    return tiers_of(tmp_path / "tiers")


def bootstrap(site: ArchivingSite, index: str) -> Bootstrap:
    return Bootstrap(data_dir=site.folder, node_name="n1", index_url=f"sqlite:///{index}")


def again(site: ArchivingSite, folder: Path, index: str) -> ArchivingSite:
    return ArchivingSite(folder, f"sqlite:///{index}", site.settings.tiers)


def test_the_library_alone_gives_the_studies_back(site: ArchivingSite, tmp_path: Path) -> None:
    for uid in (STUDY, OTHER):
        site.store(*files(uid))
    site.quiet(prepared=False)
    for result in site.archive(STUDY, OTHER):
        assert not result.error
    before = {uid: site.received(uid) for uid in (STUDY, OTHER)}
    listed = site.reader.search_instances({"StudyInstanceUID": STUDY})
    tiers = site.settings.tiers
    site.close()
    for name in ("image1", "image2", "web1"):
        shutil.rmtree(tmp_path / "tiers" / name)
    index = f"{tmp_path}/new.sqlite"
    settings = site.settings
    found = rebuild_index(
        bootstrap(site, index), now=site.now + 10, settings=settings, workers=1, force=True
    )
    assert found.counts.containers_found == 8
    assert found.counts.instances_in_libraries_alone == 12
    assert found.counts.instances_lost == found.counts.studies_lost == 0
    assert not found.unplaced
    new = again(site, tmp_path / "b", index)
    new.now = site.now + 100
    assert new.settings.tiers == tiers
    assert new.reader.is_away(STUDY)
    told = new.reader.search_instances({"StudyInstanceUID": STUDY})
    assert [one["SOPInstanceUID"] for one in told] == [one["SOPInstanceUID"] for one in listed]
    assert new.reader.study(STUDY)["attributes"]["PatientID"] == "P1"
    assert new.proven(STUDY) == {"lib1": False, "lib2": False}
    assert new.balanced()
    (restored,) = new.restore(STUDY)
    assert not restored.error
    assert new.received(STUDY) == before[STUDY]
    # Read whole, they count; nothing is written again.
    objects = {place for place in new.objects() if place[1].endswith(".zip")}
    (archived,) = new.archive(OTHER)
    assert not archived.error
    assert new.proven(OTHER) == {"lib1": True, "lib2": True}
    assert {place for place in new.objects() if place[1].endswith(".zip")} == objects
    assert new.balanced()
    new.close()


def test_reconcile_leaves_what_is_offline_as_it_is(site: ArchivingSite, tmp_path: Path) -> None:
    site.away(STUDY)
    site.close()
    url = site.url.removeprefix("sqlite:///")
    found = reconcile_index(bootstrap(site, url), now=site.now + 10, workers=1, force=True)
    assert not found.unplaced
    assert not found.lost
    assert found.counts.instances_lost == found.counts.studies_reopened == 0
    new = again(site, tmp_path / "b", url)
    new.now = site.now + 100
    assert new.reader.is_away(STUDY)
    assert new.proven(STUDY) == {"lib1": True, "lib2": True}
    assert new.balanced()
    (result,) = new.restore(STUDY)
    assert not result.error
    new.close()


def test_a_lost_image_tier_is_no_lost_study(site: ArchivingSite, tmp_path: Path) -> None:
    site.store(*files(STUDY))
    site.quiet(prepared=False)
    site.archive(STUDY)
    before = site.received(STUDY)
    site.close()
    for file in (tmp_path / "tiers" / "image1").rglob("*.dcm"):
        file.unlink()
    url = site.url.removeprefix("sqlite:///")
    found = reconcile_index(bootstrap(site, url), now=site.now + 10, workers=1, force=True)
    assert found.counts.instances_lost == 0
    assert found.counts.instances_in_libraries_alone == 6
    new = again(site, tmp_path / "b", url)
    new.now = site.now + 100
    assert new.balanced()
    assert new.reader.is_away(STUDY)
    (result,) = new.restore(STUDY)
    assert not result.error
    assert {uid: data for uid, (_, data) in new.received(STUDY).items()} == {
        uid: data for uid, (_, data) in before.items()
    }
    new.close()


def test_a_lost_container_is_noted(site: ArchivingSite, tmp_path: Path) -> None:
    site.store(*files(STUDY))
    site.quiet(prepared=False)
    site.archive(STUDY)
    ref = site.reader.containers(STUDY)[0]
    site.close()
    (tmp_path / "tiers" / ref.tier / ref.path).unlink()
    url = site.url.removeprefix("sqlite:///")
    found = reconcile_index(bootstrap(site, url), now=site.now + 10, workers=1, force=True)
    assert found.counts.containers_lost == 1
    new = again(site, tmp_path / "b", url)
    assert new.proven(STUDY)[ref.tier] is False
    assert new.balanced()
    new.close()
