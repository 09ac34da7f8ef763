"""RESTORE: what is only in a library comes back, from the first library that has it sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs.errors import NotFound
from raypacs.policy.queue import Priority, State
from raypacs.records import Outcome
from tests.inline_tasks import InlineTasks
from tests.restoring_site import (
    ALL_RUNS,
    STUDY,
    RestoringSite,
    container_of,
    damage,
    files,
    tiers_of,
)


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RestoringSite]:
    site = RestoringSite(tmp_path, database_url, tiers_of(tmp_path))
    yield site
    site.close()


@pytest.fixture
def quick(tmp_path: Path, sqlite_url: str) -> Iterator[RestoringSite]:
    """Where it is about tiers, one database is enough."""
    site = RestoringSite(tmp_path, sqlite_url, tiers_of(tmp_path))
    yield site
    site.close()


def test_what_left_comes_back_as_it_was(site: RestoringSite) -> None:
    site.store(*files())
    before = site.received()
    site.quiet(prepared=False)
    site.archive()
    site.evict()
    assert not [path for name, path in site.objects() if name == "image1" and ".dcm" in path]
    assert site.balanced()
    assert site.reader.is_away(STUDY)
    (result,) = site.restore()
    assert not result.error
    assert not result.warning
    assert site.received() == before
    assert not site.reader.is_away(STUDY)
    assert site.balanced()
    site.let_go()
    assert site.received() == before
    assert site.balanced()
    assert site.items()[0]["state"] == "COMPLETED"
    assert "restored" in [one["event"] for one in site.reader.why(STUDY)]


def there(site: RestoringSite) -> list[str]:
    """Instances on image tiers, as the tiers list them."""
    return [path for name, path in site.objects() if "image" in name and path.endswith(".dcm")]


def test_a_damaged_container_is_passed_over_and_told(quick: RestoringSite) -> None:
    quick.away()
    ref = container_of(quick, "lib1")
    damage(quick, ref)
    (result,) = quick.restore()
    assert not result.error
    assert "lib1" in result.warning
    assert [(one.tier, one.path) for one in result.checked] == [("lib1", ref.path)]
    assert len(quick.received()) == 6
    assert quick.items()[0]["state"] == "WARNING"
    assert container_of(quick, "lib1").damaged or container_of(quick, "lib1").path != ref.path
    assert quick.balanced()


def test_a_missing_container_is_damage_too(quick: RestoringSite) -> None:
    quick.away()
    ref = container_of(quick, "lib1")
    quick.tier("lib1").delete(ref.path)
    (result,) = quick.restore()
    assert not result.error
    assert result.checked
    assert len(quick.received()) == 6


def test_what_no_library_has_sound_is_named_and_the_rest_comes_back(quick: RestoringSite) -> None:
    quick.away()
    for library in ("lib1", "lib2"):
        damage(quick, container_of(quick, library), 300)
    (result,) = quick.restore()
    assert "sound in no library" in result.error
    assert quick.items()[0]["state"] == "FAILED"
    again = quick.master.order_restore(STUDY, seen_away=True)
    assert again["state"] == "failed"
    assert "sound in no library" in again["error"]
    assert {path.split("/")[2] for path in there(quick)} >= {f"{STUDY}.2"}
    assert quick.reader.is_away(STUDY)
    assert quick.balanced()
    quick.let_go()
    assert len(there(quick)) >= 5
    assert quick.balanced()


def test_a_full_tier_is_passed_over(tmp_path: Path, sqlite_url: str) -> None:
    tiers = tiers_of(tmp_path, capacity_bytes=6000)
    site = RestoringSite(tmp_path, sqlite_url, tiers)
    site.away()
    site.store(*files("1.2.9", series=1, count=5))
    (result,) = site.restore()
    assert not result.error, result
    assert {tier for tier, _ in site.received().values()} == {"image2"}
    assert site.balanced()
    site.close()


def test_without_any_room_it_waits_and_nothing_is_left(tmp_path: Path, sqlite_url: str) -> None:
    tiers = [one for one in tiers_of(tmp_path, capacity_bytes=6000) if one.name != "image2"]
    site = RestoringSite(tmp_path, sqlite_url, tuple(tiers))
    site.away()
    site.store(*files("1.2.9", series=1, count=5))
    (result,) = site.restore()
    assert result.waits
    assert "room" in result.error
    assert site.items()[0]["state"] == "SCHEDULED FOR RETRY"
    site.let_go()
    assert {path.split("/")[1] for path in there(site)} == {"1.2.9"}
    assert site.balanced()
    assert not site.reader.ledger()["image1"].granted_bytes > 10**9
    site.close()


def test_one_item_stands_for_all_who_ask(site: RestoringSite) -> None:
    site.away()
    first = site.master.order_restore(STUDY, "low", "ann")
    again = [site.master.order_restore(STUDY, seen_away=True) for _ in range(20)]
    assert {one["item_id"] for one in again} == {first["item_id"]}
    (item,) = site.items()
    assert item["priority"] == Priority.STAT
    (lease,) = site.leases("RESTORE")
    assert site.master.order_restore(STUDY)["item_id"] == lease.item_id
    assert len(site.items()) == 1


def test_what_is_there_is_not_brought_back(quick: RestoringSite) -> None:
    quick.store(*files())
    assert quick.master.order_restore(STUDY)["state"] == "online"
    with pytest.raises(NotFound):
        quick.master.order_restore("9.9")
    assert not quick.items()


def test_an_eviction_of_which_no_byte_went_is_taken_back(site: RestoringSite) -> None:
    site.store(*files())
    site.quiet(prepared=False)
    site.archive()
    site.evict(gone=False)
    assert site.reader.is_away(STUDY)
    assert site.master.order_restore(STUDY, seen_away=True)["state"] == "online"
    assert not site.items()
    site.let_go()
    assert len(site.received()) == 6
    assert site.balanced()


def test_an_attempt_that_dies_leaves_nothing_and_the_next_one_goes_on(site: RestoringSite) -> None:
    site.away()
    site.master.order_restore(STUDY)
    (lease,) = site.leases("RESTORE")
    ALL_RUNS["RESTORE"](lease, site.ports()).run(InlineTasks())  # never reported
    assert there(site)
    site.now += 3600
    site.master.tick()
    site.let_go(600)
    site.let_go(600)
    assert not there(site)
    assert site.balanced()
    (result,) = site.work_off("RESTORE")
    assert not result.error
    assert len(there(site)) == len(site.received()) == 6
    site.let_go(600)
    assert len(site.received()) == 6
    assert site.balanced()


def test_a_report_told_twice_changes_nothing(site: RestoringSite) -> None:
    site.away()
    site.master.order_restore(STUDY)
    (lease,) = site.leases("RESTORE")
    result = ALL_RUNS["RESTORE"](lease, site.ports()).run(InlineTasks())
    assert site.master.report(lease, result) == State.COMPLETED
    before = site.received()
    assert site.master.report(lease, result) == State.COMPLETED
    site.let_go()
    assert site.received() == before
    assert site.balanced()


def test_some_of_a_series_that_is_lost_comes_back(quick: RestoringSite) -> None:
    quick.store(*files())
    quick.quiet(prepared=False)
    quick.archive()
    before = quick.received()
    lost = next(one.record for one in quick.reader.instances(STUDY))
    quick.tier(lost.tier).delete(lost.path)
    (result,) = quick.restore(seen_away=True)
    assert not result.error
    assert quick.received() == before
    assert sum(len(one.objects) for one in result.moved) == 1
    assert quick.balanced()
    quick.let_go()
    assert quick.received() == before
    assert quick.balanced()


def test_a_study_that_changed_meanwhile_is_not_switched(site: RestoringSite) -> None:
    site.away()
    site.master.order_restore(STUDY)
    new = files(series=3, count=1)[2:]
    site.work_off("RESTORE", before_report=lambda: site.store(*new))
    (item,) = site.items()
    assert item["state"] == "SCHEDULED FOR RETRY"
    assert "changed meanwhile" in item["error"]
    site.let_go(900)
    assert site.balanced()
    site.work_off("RESTORE")
    assert len(site.received()) == 7
    assert site.balanced()


def test_a_study_that_grew_while_it_was_away_comes_back_whole(site: RestoringSite) -> None:
    site.store(*files())
    before = site.received()
    site.quiet(prepared=False)
    site.archive()
    site.evict()
    site.store(*files(series=3, count=1)[2:], *files()[:2])
    assert site.reader.is_away(STUDY)
    assert site.balanced()
    site.now += 10
    site.master.tick()
    (item,) = site.items()
    assert item["priority"] == Priority.HIGH
    (result,) = site.work_off("RESTORE")
    assert not result.error
    assert result.restored
    after = site.received()
    assert {uid: after[uid] for uid in before} == before
    assert len(after) == 7
    assert not site.reader.is_away(STUDY)
    assert site.balanced()
    site.now += 600
    site.let_go(600)
    assert site.received() == after
    assert site.balanced()
    site.master.cancel_items_matching({"kind": "PREPARE"})
    (archived,) = site.archive()
    assert not archived.error
    site.evict()
    site.restore()
    assert site.received().keys() == after.keys()
    assert site.balanced()


def test_new_instances_are_prepared_while_the_old_ones_are_away(quick: RestoringSite) -> None:
    quick.away()
    quick.store(*files(series=3, count=1)[2:])
    quick.prepare()
    forms = {one.record.series_uid: one.form for one in quick.reader.instances(STUDY)}
    assert forms[f"{STUDY}.3"]
    assert not forms[f"{STUDY}.1"]
    quick.work_off("RESTORE")
    quick.prepare()
    assert all(one.form for one in quick.reader.instances(STUDY))
    assert quick.balanced()


def test_what_no_library_has_sound_is_taken_when_it_is_sent_again(quick: RestoringSite) -> None:
    quick.store(*files())
    before = quick.received()
    quick.quiet(prepared=False)
    quick.archive()
    quick.evict()
    assert quick.store(files()[0]) == [Outcome.KNOWN]
    assert not there(quick)
    for library in ("lib1", "lib2"):
        damage(quick, container_of(quick, library))
    (result,) = quick.restore()
    assert "sound in no library" in result.error
    missing = sorted(set(before) - set(received_of(quick)))
    assert missing
    quick.now += 600
    assert quick.store(*files()).count(Outcome.STORED) == len(missing)
    assert received_of(quick) == before.keys()
    assert {uid: data for uid, (_, data) in quick.received().items()} == {
        uid: data for uid, (_, data) in before.items()
    }
    assert not quick.reader.is_away(STUDY)
    assert quick.balanced()


def received_of(site: RestoringSite) -> set[str]:
    """SOP Instance UIDs of what can be read."""
    found = set()
    for one in site.reader.instances(STUDY):
        try:
            site.tier(one.record.tier).read(one.record.path)
            found.add(one.record.sop_instance_uid)
        except (NotFound, StopIteration):
            continue
    return found


def test_what_left_both_caches_is_prepared_again_once_it_is_back(quick: RestoringSite) -> None:
    quick.store(*files())
    quick.quiet(prepared=True)
    quick.archive()
    quick.evict()
    quick.master.evict_study(STUDY, "test", "web1")
    quick.let_go()
    assert not quick.reader.packs(STUDY)
    quick.restore()
    for _ in range(10):
        quick.now += 5
        quick.master.tick()
    quick.prepare()
    assert len(quick.reader.packs(STUDY)) == 2
    assert len(quick.received()) == 6
    assert quick.balanced()
