"""The whole life of a study on both databases, and what damage in a library means for a cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs.errors import IllegalTransition, NotFound
from tests.archiving_site import ArchivingSite
from tests.restoring_site import STUDY, files, tiers_of


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[ArchivingSite]:
    site = ArchivingSite(tmp_path, database_url, tiers_of(tmp_path))
    yield site
    site.close()


def damage(site: ArchivingSite, library: str, study: str = STUDY) -> list[str]:
    """Flip a byte in each container that a library has of a study, behind everybody's back."""
    paths = [ref.path for ref in site.reader.containers(study) if ref.tier == library]
    for path in paths:
        file = site.folder / library / path
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 0x01
        file.chmod(0o644)
        file.write_bytes(data)
    return paths


def verify(site: ArchivingSite, study: str = STUDY) -> None:
    """Let VERIFY read everything that there is of a study."""
    site.master.enqueue_item("VERIFY", study)
    site.work_off("VERIFY")


def image_copies(site: ArchivingSite, study: str = STUDY) -> dict[str, str]:
    """Image tiers that a study is on, and what holds it there."""
    return {
        row["tier"]: row["hold"]
        for row in site.reader.study(study)["copies"]
        if row["tier"].startswith("image")
    }


def same(site: ArchivingSite, sent: dict[str, bytes]) -> bool:
    """Whether every instance is there, byte for byte as it was sent."""
    found = {uid: data for uid, (_, data) in site.received().items()}
    return found == sent and site.balanced()


def test_a_flipped_byte_in_a_library_is_found_and_keeps_the_cached_copy(
    site: ArchivingSite,
) -> None:
    site.store(*files())
    site.quiet(prepared=False)
    site.archive()
    assert image_copies(site) == {"image1": ""}  # it may go
    for library in ("lib1", "lib2"):
        assert damage(site, library)
    verify(site)
    assert image_copies(site) == {"image1": "unarchived"}
    assert all(ref.damaged for ref in site.reader.containers(STUDY))
    site.master.cancel_items_matching({"kind": "ARCHIVE"})
    with pytest.raises(IllegalTransition):
        site.master.evict_study(STUDY, "ann")
    assert image_copies(site) == {"image1": "unarchived"}
    # The cached copy is what makes the libraries whole again.
    site.archive()
    assert not any(ref.damaged for ref in site.reader.containers(STUDY))
    site.evict()
    assert image_copies(site) == {}
    assert site.balanced()


def test_damage_that_is_found_before_bytes_go_brings_the_study_back(site: ArchivingSite) -> None:
    site.store(*files())
    sent = {uid: data for uid, (_, data) in site.received().items()}
    site.quiet(prepared=False)
    site.archive()
    site.evict(gone=False)
    assert image_copies(site) == {}
    for library in ("lib1", "lib2"):
        damage(site, library)
    verify(site)
    site.let_go()
    assert image_copies(site) == {"image1": "unarchived"}
    assert not site.reader.is_away(STUDY)
    assert same(site, sent)


def test_one_sound_library_is_enough(site: ArchivingSite) -> None:
    site.store(*files())
    sent = {uid: data for uid, (_, data) in site.received().items()}
    site.quiet(prepared=False)
    site.archive()
    damage(site, "lib1")
    verify(site)
    site.master.cancel_items_matching({"kind": "ARCHIVE"})
    site.evict()
    site.restore()
    assert same(site, sent)


def test_a_whole_life(site: ArchivingSite) -> None:
    """Received, prepared, sealed, archived, evicted, viewed, moved, evicted, grown, deleted."""
    site.store(*files())
    sent = {uid: data for uid, (_, data) in site.received().items()}
    assert same(site, sent)
    site.quiet(prepared=True)
    assert site.reader.study(STUDY)["state"] == "prepared"
    site.seal()
    assert site.reader.manifests(STUDY)
    assert same(site, sent)
    site.archive()
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    site.evict()
    assert not [one for one in site.objects() if one[0] == "image1" and one[1].endswith(".dcm")]
    assert site.balanced()
    # Somebody looks at it, and it is moved on.
    site.restore()
    assert same(site, sent)
    site.master.order_migrate(STUDY, "image2", "ann")
    (moved,) = site.work_off("MIGRATE")
    assert not moved.error
    site.let_go()
    assert image_copies(site) == {"image2": ""}
    assert same(site, sent)
    site.evict()
    assert site.balanced()
    # It grows while it is away: what came first comes back, and all of it is archived anew.
    more = files(count=4)
    site.store(*more)
    site.quiet(prepared=False)
    site.now += 5
    site.master.tick()
    site.work_off("RESTORE")
    sent |= {uid: data for uid, (_, data) in site.received().items() if uid not in sent}
    assert len(sent) == 8
    assert same(site, sent)
    assert site.proven(STUDY) != {"lib1": True, "lib2": True}
    with pytest.raises(IllegalTransition):
        site.master.evict_study(STUDY, "ann")
    site.archive()
    assert site.proven(STUDY) == {"lib1": True, "lib2": True}
    site.evict(gone=False)
    # One library may be emptied; the other one is all there is.
    site.master.purge_copy(STUDY, "lib1", "ann")
    assert site.balanced()
    with pytest.raises(IllegalTransition):
        site.master.purge_copy(STUDY, "lib2", "ann")
    site.let_go(4000)
    site.let_go(4000)
    assert site.balanced()
    site.restore()
    assert same(site, sent)
    site.master.delete_study(STUDY, "ann")
    for _ in range(3):
        site.let_go(4000)
    assert site.balanced()
    assert site.objects() == {}
    with pytest.raises(NotFound):
        site.reader.study(STUDY)
    assert not any(row.used_bytes for row in site.reader.ledger().values())
