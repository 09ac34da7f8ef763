"""Tiers: added, changed, drained and looked at while the site runs; the ledger is proven."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from raypacs import layout
from raypacs.autopilot.moving import MigrationSettings
from raypacs.config import Bootstrap
from raypacs.index import ledger
from raypacs.maintenance.recount import recount_objects
from raypacs.records import Outcome
from tests.contract.test_sealing import OTHER, STUDY, files
from tests.moving_site import MovingSite, tier


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[MovingSite]:
    tiers = (tier(tmp_path, "image1"), tier(tmp_path, "web1", "web"))
    site = MovingSite(tmp_path, database_url, tiers)
    site.seen()
    yield site
    site.close()


def told(answer: Any, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def study_objects(site: MovingSite, name: str) -> set[str]:
    return {path for where, path in site.objects() if where == name}


class TestSettings:
    def test_tiers_are_added_changed_and_removed_while_running(
        self, site: MovingSite, tmp_path: Path
    ) -> None:
        url = (tmp_path / "cold").as_uri()
        with site.served() as client:
            before = told(client.get("/api/v1/settings"))["version"]
            values = {"name": "cold", "role": "image", "url": url, "order": 2}
            made = told(client.post("/api/v1/tiers", json=values), 201)
            assert (made["name"], made["order"], made["reachable"]) == ("cold", 2, True)
            assert made["thresholds"] == {"amber_h": 48, "red_h": 24, "web_h": 24}
            told(client.post("/api/v1/tiers", json=values), 409)
            wrong = told(client.post("/api/v1/tiers", json={**values, "name": "x", "rol": 1}), 422)
            assert "rol" in wrong["detail"]
            changed = told(client.patch("/api/v1/tiers/cold", json={"capacity_bytes": 10**9}))
            assert changed["capacity_bytes"] == 10**9
            told(client.patch("/api/v1/tiers/nowhere", json={"order": 3}), 404)
            assert told(client.get("/api/v1/settings"))["version"] == before + 2
            assert [one["name"] for one in told(client.get("/api/v1/tiers"))] == [
                *("image1", "cold", "web1")
            ]
            told(client.delete("/api/v1/tiers/cold"))
            assert len(told(client.get("/api/v1/tiers"))) == 2
        events = site.reader.settings()[0]
        assert events == before + 3

    def test_one_that_holds_objects_is_not_removed(self, site: MovingSite) -> None:
        site.store(*files())
        with site.served() as client:
            answer = told(client.delete("/api/v1/tiers/image1"), 422)
        assert "holds" in answer["detail"]

    def test_a_look_from_the_node_asked(self, site: MovingSite) -> None:
        with site.served() as client:
            seen = told(client.post("/api/v1/tiers/image1/check"))
            told(client.post("/api/v1/tiers/nowhere/check"), 404)
        assert seen["problems"] == []
        assert seen["marker"] == "ours"
        assert (seen["written"], seen["read_back"], seen["deleted"]) == (True, True, True)
        assert seen["write_bytes_per_s"] > 0
        assert seen["free_bytes"] > 0
        assert not list(site.tier("image1").walk("probes/"))
        marker = next(iter(site.tier("image1").walk("site/")))
        site.tier("image1").delete(marker.path)
        site.tier("image1").put_durable(layout.site_marker("other"), b"{}")
        with site.served() as client:
            seen = told(client.post("/api/v1/tiers/image1/check"))
        assert seen["written"] is False
        assert "belongs to site other" in seen["problems"][0]


class TestLanding:
    def test_equal_tiers_share_by_free_space_and_studies_stay_together(
        self, site: MovingSite, tmp_path: Path
    ) -> None:
        site.set_tier("image1", capacity_bytes=10**8)
        settings = site.settings
        more = tier(tmp_path, "image2", capacity_bytes=2 * 10**8)
        last = tier(tmp_path, "image3", order=2, capacity_bytes=10**9)
        site.change(
            settings.model_copy(
                update={"tiers": (*settings.tiers, more, last), "allotment_bytes": 1024**2}
            )
        )
        site.store(*files(STUDY))
        assert {one.record.tier for one in site.reader.instances(STUDY)} == {"image2"}
        site.set_tier("image1", capacity_bytes=5 * 10**8)
        site.store(*files(STUDY, count=5), *files(OTHER))
        assert {one.record.tier for one in site.reader.instances(STUDY)} == {"image2"}
        assert {one.record.tier for one in site.reader.instances(OTHER)} == {"image1"}

    @pytest.mark.parametrize("how", ["draining", "read_only"])
    def test_what_takes_nothing_new_gets_nothing(
        self, site: MovingSite, tmp_path: Path, how: str
    ) -> None:
        site.set_tier("image1", **{how: True})
        assert set(site.store(*files())) == {Outcome.REFUSED}
        site.set(tiers=(*site.settings.tiers, tier(tmp_path, "image2", order=9)))
        assert set(site.store(*files())) == {Outcome.STORED}
        assert {one.record.tier for one in site.reader.instances(STUDY)} == {"image2"}


class TestDrain:
    def test_everything_leaves_an_image_tier(self, site: MovingSite, tmp_path: Path) -> None:
        site.set(migration=MigrationSettings(at_level="never", most_running=10))
        site.store(*files(STUDY), *files(OTHER), b"no DICOM at all")
        other = files(STUDY, series=1, count=1)[0].replace(b"OT", b"XX")
        assert site.store(other) == [Outcome.CONFLICT]
        site.prepare()
        site.set(tiers=(*site.settings.tiers, tier(tmp_path, "image2", order=2)))
        with site.served() as client:
            before = told(client.get("/api/v1/tiers/image1/drain"))
            assert before["lies"]["studies"] == 2
            assert before["lies"]["asides"] == 2
            assert not before["empty"]
            doing = told(client.post("/api/v1/tiers/image1/drain", json={}), 202)
            assert doing["draining"]
            site.refresh()
            assert site.store(*files("1.2.9")) == [Outcome.STORED] * 6
            assert {one.record.tier for one in site.reader.instances("1.2.9")} == {"image2"}
            for _ in range(8):
                site.now += 3
                site.seen()
                site.master.tick()
                for result in site.work_off():
                    assert not result.error
            site.let_go()
            site.refresh()
            after = told(client.get("/api/v1/tiers/image1/drain"))
        assert after["lies"] == {**dict.fromkeys(before["lies"], 0), "granted_bytes": 0}
        assert after["empty"]
        assert site.balanced()
        assert study_objects(site, "image1") == set()
        asides = site.reader.aside()
        assert {one.tier for one in asides} == {"image2"}
        for one in asides:
            assert len(site.tier("image2").read(one.path)) == one.size_bytes
        assert any(path.endswith(".json") for path in study_objects(site, "image2"))
        site.master.tick()
        tiers = tuple(one for one in site.settings.tiers if one.name != "image1")
        site.set(tiers=tiers)  # an empty one may go

    def test_drain_is_undone(self, site: MovingSite, tmp_path: Path) -> None:
        site.set(tiers=(*site.settings.tiers, tier(tmp_path, "image2", order=2)))
        with site.served() as client:
            told(client.post("/api/v1/tiers/image1/drain", json={}), 202)
            undone = told(client.post("/api/v1/tiers/image1/drain", json={"undo": True}), 202)
        assert not undone["draining"]
        site.refresh()
        site.store(*files())
        assert {one.record.tier for one in site.reader.instances(STUDY)} == {"image1"}

    def test_an_archive_of_others_is_never_drained(self, site: MovingSite, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir()
        site.master.order_adoption((tmp_path / "theirs").as_uri(), who="ann")
        name = site.reader.settings()[1].tiers[-1].name
        with site.served() as client:
            answer = told(client.post(f"/api/v1/tiers/{name}/drain", json={}), 422)
        assert "adopted" in answer["detail"]


class TestRecount:
    def test_ledger_count_and_objects_agree(self, site: MovingSite) -> None:
        site.store(*files(STUDY), *files(OTHER), b"no DICOM at all")
        site.prepare()
        site.master.seal_now(STUDY)
        with site.served() as client:
            counted = told(client.post("/api/v1/recount", json={}))
        assert {one["difference_bytes"] for one in counted} == {0}
        assert {one["tier"] for one in counted} == {"image1", "web1"}
        found = recount_objects(site.bootstrap)
        assert found.agree, asdict(found)
        assert found.size_bytes["web1"] == next(
            one["ledger_bytes"] for one in counted if one["tier"] == "web1"
        )

    def test_what_does_not_agree_is_told_and_left_alone(self, site: MovingSite) -> None:
        site.store(*files(STUDY), *files(OTHER))
        site.prepare()
        site.master.seal_now(STUDY)
        image = site.tier("image1")
        lost = site.reader.instances(STUDY)[0].record.path
        image.delete(lost)
        stranger = layout.instance(STUDY, f"{STUDY}.1", f"{STUDY}.1.99", "ab" * 8)
        image.put_durable(stranger, b"x")
        found = recount_objects(Bootstrap(data_dir=site.folder, index_url=site.url), "image1")
        assert (found.missing, found.strangers) == ([("image1", lost)], [("image1", stranger)])
        assert image.exists(stranger)

    def test_a_wrong_ledger_is_set_right_only_when_asked(self, site: MovingSite) -> None:
        site.store(*files())
        with site.master._writer.transaction(site.now) as txn:
            ledger.commit(txn, {"image1": 77})
        with site.served() as client:
            one, _ = told(client.post("/api/v1/recount", json={}))
            assert (one["difference_bytes"], one["repaired"]) == (77, False)
            one, _ = told(client.post("/api/v1/recount", json={"repair": True}))
            assert one["repaired"]
            one, _ = told(client.post("/api/v1/recount", json={}))
            assert one["difference_bytes"] == 0
        assert site.balanced()
