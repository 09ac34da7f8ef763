"""Studies move between image tiers as one; reading goes on; what does not count leaves nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs.autopilot.moving import MigrationSettings
from raypacs.errors import ConfigError, IllegalTransition, NotFound
from raypacs.records import Outcome
from raypacs.work.run import TaskFailure
from tests.contract.test_sealing import OTHER, STUDY, files
from tests.inline_tasks import InlineTasks
from tests.moving_site import MovingSite, tier


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[MovingSite]:
    tiers = (
        tier(tmp_path, "image1"),
        tier(tmp_path, "image2", order=2),
        tier(tmp_path, "web1", "web"),
    )
    site = MovingSite(tmp_path, database_url, tiers)
    site.set(migration=MigrationSettings(at_level="never"))
    site.seen()
    yield site
    site.close()


def on(site: MovingSite, name: str) -> set[str]:
    return {path for where, path in site.objects() if where == name}


def bytes_of(site: MovingSite, study: str = STUDY) -> dict[str, bytes]:
    return {
        one.record.sop_instance_uid: site.tier(one.record.tier).read(one.record.path)
        for one in site.reader.instances(study)
    }


class TestOrdered:
    def test_a_study_moves_whole_and_its_bytes_stay(self, site: MovingSite) -> None:
        site.store(*files())
        site.prepare()
        before = bytes_of(site)
        site.master.order_migrate(STUDY, who="ann")
        (result,) = site.work_off()
        assert not result.error
        assert {one.record.tier for one in site.reader.instances(STUDY)} == {"image2"}
        assert bytes_of(site) == before
        assert len(on(site, "image1")) > 0  # until the grace period is over
        assert site.balanced()
        site.let_go()
        assert on(site, "image1") == set()
        assert len(on(site, "image2")) == 8
        assert site.balanced()
        assert {ref.tier for ref in site.reader.manifests(STUDY)} == {"image2"}
        assert "migrated" in [one["event"] for one in site.reader.study(STUDY)["story"]]
        assert site.reader.held(STUDY).keys() == {"image2", "web1"}

    def test_unprepared_studies_move_and_are_prepared_later(self, site: MovingSite) -> None:
        site.store(*files())
        site.now += 600
        site.master.tick()
        with pytest.raises(IllegalTransition):  # its PREPARE waits
            site.master.order_migrate(STUDY)
        site.prepare()
        site.master.order_migrate(STUDY, "image2")
        site.store(*files(count=4)[3:4])  # it grows: it is open again
        (result,) = site.work_off()
        assert result.waits
        site.prepare()
        for _ in range(3):
            site.now += 700
            site.master.tick()
        (result,) = site.work_off()
        assert not result.error
        assert {one.record.tier for one in site.reader.instances(STUDY)} == {"image2"}
        site.let_go()
        assert on(site, "image1") == set()
        assert site.balanced()

    def test_what_cannot_be_is_said(self, site: MovingSite) -> None:
        site.store(*files())
        site.prepare()
        with pytest.raises(NotFound):
            site.master.order_migrate("1.9")
        with pytest.raises(NotFound):
            site.master.order_migrate(STUDY, "nowhere")
        with pytest.raises(ConfigError, match="web tier"):
            site.master.order_migrate(STUDY, "web1")
        site.set_tier("image2", read_only=True)
        with pytest.raises(ConfigError, match="read-only"):
            site.master.order_migrate(STUDY, "image2")


class TestFaults:
    def test_an_attempt_that_dies_leaves_nothing(self, site: MovingSite) -> None:
        site.store(*files())
        site.prepare()
        site.master.order_migrate(STUDY, "image2")
        before = site.objects()
        fate = InlineTasks(lambda key, times: TaskFailure("power cut", True))
        (result,) = site.work_off(tasks=fate)
        assert result.error
        assert site.balanced()
        site.let_go()
        assert {k for k in site.objects() if k[1].endswith(".dcm")} == {
            k for k in before if k[1].endswith(".dcm")
        }
        site.now += 600
        (result,) = site.work_off()
        assert not result.error
        site.let_go()
        assert on(site, "image1") == set()
        assert site.balanced()

    def test_a_damaged_source_is_not_copied(self, site: MovingSite) -> None:
        site.store(*files())
        site.prepare()
        record = site.reader.instances(STUDY)[0].record
        path = site.folder / "image1" / record.path
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.chmod(0o600)
        path.write_bytes(bytes(data))
        site.master.order_migrate(STUDY, "image2")
        with pytest.raises(Exception, match="not what was stored"):
            site.work_off()
        assert {one.record.tier for one in site.reader.instances(STUDY)} == {"image1"}

    def test_a_study_that_changed_meanwhile_stays(self, site: MovingSite) -> None:
        site.store(*files())
        site.prepare()
        site.master.order_migrate(STUDY, "image2")
        grown = files(count=4)[3:4]
        site.work_off(before_report=lambda: site.store(*grown))
        assert {one.record.tier for one in site.reader.instances(STUDY)} == {"image1"}
        site.let_go()
        assert on(site, "image2") == set()
        assert site.balanced()

    def test_no_room_waits(self, site: MovingSite) -> None:
        site.store(*files())
        site.prepare()
        site.master.order_migrate(STUDY, "image2")
        site.set_tier("image2", capacity_bytes=1000)
        (result,) = site.work_off()
        assert result.waits
        assert "no room" in result.error
        assert site.balanced()

    def test_reading_goes_on_all_the_time(self, site: MovingSite) -> None:
        site.store(*files(STUDY), *files(OTHER))
        site.prepare()
        stop = threading.Event()
        seen: list[int] = []
        base = f"/dicom-web/studies/{STUDY}/series/{STUDY}.1/instances/{STUDY}.1.2"
        accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        with site.served() as client:
            first = client.get(base, headers=accept).content

            def read() -> None:
                while not stop.is_set():
                    answer = client.get(base, headers=accept)
                    seen.append(answer.status_code if len(answer.content) == len(first) else 0)

            reading = threading.Thread(target=read)
            reading.start()
            try:
                for _ in range(3):
                    for target in ("image2", "image1"):
                        site.master.order_migrate(STUDY, target)
                        (result,) = site.work_off()
                        assert not result.error
                        wait = threading.Event()
                        wait.wait(1.2)  # longer than a gateway trusts a location
                        site.let_go()
            finally:
                stop.set()
                reading.join()
        assert len(seen) > 20
        assert set(seen) == {200}


class TestDuty:
    def test_old_studies_move_by_age_the_least_recently_accessed_first(
        self, site: MovingSite
    ) -> None:
        site.store(*files(STUDY), *files(OTHER))
        site.prepare()
        site.now += 10
        site.master.touched([STUDY])
        site.set(migration=MigrationSettings(after_days=21, at_level="never", most_running=1))
        site.now += 20 * 86_400
        site.seen()
        site.master.tick()
        assert site.work_off() == []
        site.now += 2 * 86_400
        site.seen()
        site.master.tick()
        leases = site.reader.tasks({"kind": "MIGRATE"})["items"]
        assert [one["study_uid"] for one in leases] == [OTHER]
        (result,) = site.work_off()
        assert not result.error
        site.now += 10
        site.master.tick()
        site.work_off()
        site.let_go()
        assert on(site, "image1") == set()
        assert site.balanced()

    def test_full_tiers_pass_a_received_object_on(self, site: MovingSite) -> None:
        site.set_tier("image1", capacity_bytes=3000)
        assert set(site.store(*files())) == {Outcome.STORED}
        tiers = {one.record.tier for one in site.reader.instances(STUDY)}
        assert tiers == {"image1", "image2"}
        site.prepare()
        site.master.order_migrate(STUDY, "image2")
        site.work_off()
        assert {one.record.tier for one in site.reader.instances(STUDY)} == {"image2"}
        site.let_go()
        assert on(site, "image1") == set()
        assert site.balanced()
