"""Drained: offline studies, prepared studies, libraries; and moves by level."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs.autopilot.moving import MigrationSettings
from raypacs.index import levels
from raypacs.index.levels import LevelRow
from raypacs.policy.levels import Level
from tests.restoring_site import STUDY, RestoringSite, container_of, damage, files, tiers_of

OTHER = "1.2.4"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RestoringSite]:
    site = RestoringSite(tmp_path, database_url, tiers_of(tmp_path))
    site.set(migration=MigrationSettings(at_level="never", most_running=10))
    site.seen()
    yield site
    site.close()


def on(site: RestoringSite, name: str) -> list[str]:
    return [path for where, path in site.objects() if where == name]


def look(site: RestoringSite, times: int = 4, *kinds: str) -> None:
    """Let the duty look again and again, and do what it orders."""
    for _ in range(times):
        site.now += 3
        site.seen()
        site.master.tick()
        for kind in kinds:
            for result in site.work_off(kind):
                assert not result.error, result


def drain(site: RestoringSite, name: str) -> dict[str, int]:
    site.set_tier(name, draining=True)
    return site.reader.what_lies(name)


def test_manifests_of_offline_studies_leave_an_image_tier(site: RestoringSite) -> None:
    site.away(STUDY)
    before = {one.record.sop_instance_uid for one in site.reader.instances(STUDY)}
    assert drain(site, "image1")["manifests"] == 2
    look(site, 3, "MIGRATE")
    site.let_go()
    site.refresh()
    assert site.reader.is_empty("image1")
    assert on(site, "image1") == []
    assert {ref.tier for ref in site.reader.manifests(STUDY)} == {"image2"}
    assert {one.record.sop_instance_uid for one in site.reader.instances(STUDY)} == before
    assert site.reader.study(STUDY)["offline_s"] > 0
    assert site.balanced()
    (result,) = site.restore(STUDY)
    assert not result.error
    assert {tier for tier, _ in site.received().values()} == {"image2"}
    assert site.balanced()


def test_prepared_studies_leave_a_web_tier_and_are_prepared_elsewhere(
    site: RestoringSite, tmp_path: Path
) -> None:
    site.store(*files(STUDY))
    site.prepare()
    more = site.settings.tiers[2].model_copy(
        update={"name": "web2", "url": (tmp_path / "web2").as_uri()}
    )
    site.set(tiers=(*site.settings.tiers, more))
    assert drain(site, "web1")["packs"] == 2
    look(site, 2)
    site.let_go(120)
    site.let_go(120)
    assert on(site, "web1") == []
    assert site.reader.is_empty("web1")
    assert site.balanced()
    site.master.touched([STUDY])
    site.now += 20
    site.master.tick()
    site.prepare()
    assert site.reader.held(STUDY).keys() >= {"web2"}
    assert site.balanced()


def test_a_library_is_drained_into_the_other_one(site: RestoringSite) -> None:
    site.set_tier("lib2", read_only=True)  # only one has them
    site.store(*files(OTHER))
    site.quiet(prepared=False)
    site.away(STUDY)
    site.archive(OTHER)
    assert site.reader.proven_in(STUDY) == {"lib1"}
    site.set_tier("lib2", read_only=False)
    assert drain(site, "lib1")["containers"] == 4
    look(site, 6, "ARCHIVE")
    site.let_go()
    assert on(site, "lib1") == []
    assert site.reader.is_empty("lib1")
    assert site.reader.proven_in(STUDY) == site.reader.proven_in(OTHER) == {"lib2"}
    assert site.balanced()
    (result,) = site.restore(STUDY)
    assert not result.error


def test_what_cannot_be_archived_elsewhere_is_not_tried_every_moment(site: RestoringSite) -> None:
    site.set_tier("lib2", read_only=True)
    site.away(STUDY)
    damage(site, container_of(site, "lib1"))
    site.set_tier("lib2", read_only=False)
    assert drain(site, "lib1")["failed_archives"] == 0

    def tried(seconds: int) -> int:
        count = 0
        for _ in range(seconds // 60):
            site.now += 60
            site.seen()
            site.master.tick()
            count += len(site.work_off("ARCHIVE"))
        return count

    assert tried(1200) < 8
    assert site.items("ARCHIVE")[0]["state"] == "FAILED"
    assert site.reader.what_lies("lib1")["failed_archives"] == 1
    assert site.reader.proven_in(STUDY) <= {"lib1"}


def test_nothing_leaves_a_library_that_no_other_has(site: RestoringSite) -> None:
    site.set_tier("lib2", read_only=True)
    site.away(STUDY)
    drain(site, "lib1")
    look(site, 4, "ARCHIVE")
    site.let_go()
    assert len(on(site, "lib1")) == 2
    assert site.reader.proven_in(STUDY) == {"lib1"}
    with site.serving() as client:
        answer = client.post("/api/v1/tiers/lib1/drain", json={})
        assert answer.status_code == 422
        assert "only library tier" in answer.json()["detail"]


def test_studies_leave_a_tier_by_its_level_the_least_recently_accessed_first(
    site: RestoringSite,
) -> None:
    site.store(*files(STUDY), *files(OTHER))
    site.prepare()
    site.now += 10
    site.master.touched([STUDY])
    size = int(site.reader.study(OTHER)["size_bytes"])
    site.set(migration=MigrationSettings(at_level="red", most_running=10))

    def judged(level: Level) -> None:
        row = LevelRow("image1", level, site.now, site.now, {"need_bytes_amber": size})
        with site.master._writer.transaction(site.now) as txn:
            levels.keep(txn, [row])
        site.master._due.judge_s = site.now + 1000

    site.master._judge_due = lambda now: None  # type: ignore[method-assign,attr-defined]
    site.master._forecast_due = lambda now: None  # type: ignore[method-assign]
    judged(Level.AMBER)
    look(site, 2)
    assert site.items("MIGRATE") == []
    judged(Level.RED)
    look(site, 1)
    assert [one["study_uid"] for one in site.items("MIGRATE")] == [OTHER]
    for result in site.work_off("MIGRATE"):
        assert not result.error
    assert {tier for tier, _ in site.received(OTHER).values()} == {"image2"}
    assert {tier for tier, _ in site.received(STUDY).values()} == {"image1"}
