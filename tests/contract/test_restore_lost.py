"""RESTORE of a study whose manifests are gone or damaged: its containers tell what they listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs.errors import ManifestCorrupt, NotFound
from raypacs.policy.retry import After, after
from raypacs.storage.manifest import Manifests
from tests.restoring_site import STUDY, RestoringSite, container_of, damage, files, tiers_of


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RestoringSite]:
    site = RestoringSite(tmp_path, database_url, tiers_of(tmp_path))
    site.store(*files())
    site.quiet(prepared=False)
    (archived,) = site.archive()
    assert not archived.error
    yield site
    site.close()


def spoil(site: RestoringSite) -> list[str]:
    """Delete the manifest of one series, damage that of the other; return their paths."""
    gone, bad = site.reader.manifests(STUDY)
    site.tier(gone.tier).delete(gone.path)
    site.tier(bad.tier).delete(bad.path)
    with site.tier(bad.tier).create(bad.path) as writer:
        writer.write(b"no manifest")
        writer.commit()
    rows = Manifests(site.tier).rows  # nothing is kept of the old ones
    site.reader._manifest_rows = rows
    return [gone.path, bad.path]


def instances_there(site: RestoringSite) -> set[str]:
    return {path for name, path in site.objects() if "image" in name and path.endswith(".dcm")}


def whole_again(site: RestoringSite, before: dict[str, tuple[str, bytes]], lost: list[str]) -> None:
    assert site.received() == before
    assert not site.reader.is_away(STUDY)
    assert site.balanced()
    assert not {one.path for one in site.reader.manifests(STUDY)} & set(lost)
    for _ in range(3):
        site.now += 700
        site.let_go()
    assert site.received() == before
    assert site.balanced()
    assert not site.reader.places(STUDY).gone


def test_of_one_online_what_lies_there_stays_and_the_rest_comes_back(site: RestoringSite) -> None:
    before = site.received()
    objects = instances_there(site)
    lost = sorted(objects)[0]
    changed = sorted(objects)[-1]
    where = next(iter(before.values()))[0]
    site.tier(where).delete(lost)
    data = bytearray(site.tier(where).read(changed))
    data[-1] ^= 1
    site.tier(where).delete(changed)
    with site.tier(where).create(changed) as writer:
        writer.write(bytes(data))
        writer.commit()
    paths = spoil(site)
    with pytest.raises((NotFound, ManifestCorrupt)):
        site.received()
    (result,) = site.restore(seen_away=True)
    assert not result.error
    assert sum(len(one.objects) for one in result.moved) == 2
    whole_again(site, before, paths)


def test_of_one_online_nothing_is_written_but_manifests(site: RestoringSite) -> None:
    before, objects = site.received(), instances_there(site)
    paths = spoil(site)
    (result,) = site.restore(seen_away=True)
    assert not result.error
    assert instances_there(site) == objects
    whole_again(site, before, paths)


@pytest.mark.parametrize("is_deleted", [True, False])
def test_of_one_offline_everything_comes_back(site: RestoringSite, is_deleted: bool) -> None:
    before = site.received()
    site.evict(gone=is_deleted)
    if not is_deleted:  # begun, so nobody takes it back, and what it lists nobody knows any more
        refs = site.reader.manifests(STUDY)
        paths = spoil(site)
        site.let_go()
        assert {one.path for one in refs} == set(paths)
    else:
        paths = spoil(site)
    (result,) = site.restore()
    assert not result.error
    whole_again(site, before, paths)


def test_without_a_proven_container_it_fails_and_names_the_manifest(site: RestoringSite) -> None:
    objects = instances_there(site)
    paths = spoil(site)
    for library in ("lib1", "lib2"):
        ref = container_of(site, library)
        damage(site, ref, ref.size_bytes - 10)
    with pytest.raises(ManifestCorrupt, match="no library has a proven container") as refused:
        site.restore(seen_away=True)
    assert any(path in str(refused.value) for path in paths)
    assert after(refused.value)[0] == After.GIVE_UP  # FAILED, once it is a task of its own
    assert instances_there(site) == objects
    assert site.balanced()


def test_who_orders_it_need_not_know(site: RestoringSite) -> None:
    before = site.received()
    with site.serving() as http:
        order = {"study_uid": STUDY, "priority": "high"}
        assert http.post("/api/v1/restores", json=order).json()["state"] == "online"
        paths = spoil(site)
        told = http.post("/api/v1/restores", json=order).json()
        assert told["item_id"]
        assert [one.error for one in site.work_off("RESTORE")] == [""]
    whole_again(site, before, paths)
