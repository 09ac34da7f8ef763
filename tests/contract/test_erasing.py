"""Erasing: every copy and every trace goes, the report proves it, and nothing brings it back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from raypacs import layout, stats
from raypacs.errors import InvalidQuery, NotFound
from raypacs.index import erasing
from raypacs.index.schema import metadata
from raypacs.index.tombstones import key_of
from tests.adopting_site import AdoptingSite
from tests.contract.test_judging import image, sent
from tests.real_site import RealSite

STUDY, OTHER = "1.2.3", "1.2.4"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RealSite]:
    site = RealSite(tmp_path, database_url)
    yield site
    site.close()


def until_done(site: RealSite, number: int, ticks: int = 60) -> dict[str, Any]:
    for _ in range(ticks):
        found: dict[str, Any] = site.reader.erasure(number)
        if found["state"] == "done":
            return found["report"]
        site.now += 11
        site.master.tick()
    raise AssertionError(site.reader.erasure(number))


def everything(site: RealSite) -> str:
    """All rows of the index, as text."""
    with site.reader._engine.connect() as conn:
        return "\n".join(
            f"{table.name} {row}"
            for table in metadata.sorted_tables
            for row in conn.execute(sa.select(table))
        )


def filled(site: RealSite, *, sealed: bool = False) -> None:
    sent(site, image(1), image(2), image(1, OTHER, PatientID="P2"))
    sent(site, image(1, StudyDescription="other bytes"))  # a conflict
    site.prepare()
    if sealed:
        site.seal()
    while site.master._flush_stats(site.now):
        pass


class TestErase:
    @pytest.mark.parametrize("sealed", [False, True])
    def test_every_copy_and_every_trace(self, site: RealSite, sealed: bool) -> None:
        filled(site, sealed=sealed)
        assert any(f"/{STUDY}/" in path for _, path in site.objects())
        folder = site.master._stats_dir
        key = stats.pseudonym(STUDY, site.master._writer.site_secret())
        assert key in stats.load_events(folder)["study_key"].to_pylist()
        others = stats.load_events(folder).num_rows
        number = site.master.order_erasure("study", STUDY, "anna")
        assert site.master.order_erasure("study", STUDY, "anna") == number
        report = until_done(site, number)
        assert not any(f"/{STUDY}/" in path for _, path in site.objects())
        assert any(f"/{OTHER}/" in path for _, path in site.objects())
        rows = everything(site)
        assert f"{STUDY}'" not in rows
        assert f"{STUDY}." not in rows
        assert OTHER in rows
        after = stats.load_events(folder)
        assert key not in after["study_key"].to_pylist()
        assert 0 < after.num_rows < others
        assert site.balanced()
        for tier, told in report["tiers"].items():
            assert told["objects"] == told["absent"] > 0, tier
        assert set(report["tiers"]) == {"image1", "web1"}
        assert report["statistics"]["rows"] > 0
        assert report["who"] == "anna"
        assert STUDY not in json.dumps(report)
        with site.reader._engine.connect() as conn:
            assert erasing.signature(conn, report) == report["signature"]
            assert erasing.signature(conn, {**report, "who": "eve"}) != report["signature"]

    def test_a_patient(self, site: RealSite) -> None:
        filled(site)
        sent(site, image(1, "1.2.5", PatientID="P2"))
        with pytest.raises(NotFound):
            site.master.order_erasure("patient", "P9")
        with pytest.raises(InvalidQuery):
            site.master.order_erasure("hospital", "P2")
        assert {
            one["study_uid"] for one in site.reader.erasure_preview("patient", "P2")["studies"]
        } == {OTHER, "1.2.5"}
        until_done(site, site.master.order_erasure("patient", "P2", "anna"))
        assert [one["study_uid"] for one in site.reader.studies()] == [STUDY]
        assert "P2" not in everything(site)

    def test_goes_on_after_a_crash_at_any_step(self, site: RealSite) -> None:
        filled(site, sealed=True)
        number = site.master.order_erasure("study", STUDY, "anna")
        for _ in range(60):
            if site.reader.erasure(number)["state"] == "done":
                break
            site.master = site.start()  # the one before is gone
            site.now += 11
            site.master.tick()
        assert site.reader.erasure(number)["report"]["tiers"]["image1"]["objects"] >= 3
        assert site.balanced()

    def test_what_the_index_does_not_know(self, site: RealSite) -> None:
        filled(site)
        path = layout.instance(STUDY, f"{STUDY}.7", f"{STUDY}.7.7", layout.new_token())
        site.tier("image1").put_durable(path, b"left by somebody")
        name = site.tier("image1").local_path(path)
        assert name is not None
        os.utime(name, (site.now - 100, site.now - 100))
        until_done(site, site.master.order_erasure("study", STUDY, "anna"))
        assert not site.tier("image1").exists(path)
        assert site.balanced()

    def test_waits_for_a_tier_that_is_away(self, site: RealSite, tmp_path: Path) -> None:
        filled(site)
        number = site.master.order_erasure("study", STUDY, "anna")
        (tmp_path / "web").rename(tmp_path / "away")
        (tmp_path / "web").mkdir()
        for _ in range(10):
            site.now += 11
            site.master.tick()
        found = site.reader.erasure(number)
        assert found["state"] != "done"
        assert "web1" in found["progress"]["waits"]
        (tmp_path / "web").rmdir()
        (tmp_path / "away").rename(tmp_path / "web")
        until_done(site, number)


class TestComingBack:
    def test_a_study_sent_anew_is_another_one(self, site: RealSite) -> None:
        filled(site)
        until_done(site, site.master.order_erasure("study", STUDY, "anna"))
        sent(site, image(1))
        site.now += 4000
        site.master.tick()
        again = site.start()
        site.master = again
        for _ in range(5):
            site.now += 11
            site.master.tick()
        assert site.reader.study(STUDY)["instance_count"] == 1

    def test_adopted_files_stay_and_are_not_adopted_again(
        self, tmp_path: Path, sqlite_url: str
    ) -> None:
        folder = tmp_path / "archive"
        folder.mkdir()
        for number in (1, 2):
            (folder / f"IM{number}").write_bytes(image(number))
            os.utime(folder / f"IM{number}", (1_600_000_000, 1_600_000_000))
        site = AdoptingSite(tmp_path / "site", sqlite_url)
        try:
            site.adopt(folder, prepare=True)
            site.prepare()
            report = until_done(site, site.master.order_erasure("study", STUDY, "anna"))
            assert list(report["stays"].values()) == [2]
            assert set(report["tiers"]) == {"web1"}
            assert len(list(folder.iterdir())) == 2
            assert [one["text"] for one in site.reader.why(STUDY)] == [
                "erased: every copy and trace of it (`raypacs erase list`)"
            ]
            told = site.adopt(folder, deleted=True)
            assert (told["refused"], told["indexed"]) == (2, 0)
            assert site.balanced()
            os.utime(folder / "IM1", (site.now + 9, site.now + 9))  # another one, from later on
            told = site.adopt(folder)
            assert (told["refused"], told["indexed"]) == (1, 1)
        finally:
            site.close()

    def test_an_older_index_is_told_by_the_tiers(self, site: RealSite) -> None:
        filled(site)
        until_done(site, site.master.order_erasure("study", STUDY, "anna"))
        uid_key = site.reader.erased_key(STUDY)
        for name in ("image1", "web1"):
            marks = [one.path for one in site.tier(name).walk(layout.TOMBSTONES)]
            assert [layout.erased_at(path)[0] for path in marks] == [uid_key]
        # As a backup has it: the study is there, and nothing is known of its erasure.
        erased_s = site.now
        sent(site, image(1))
        with site.master._writer.transaction(site.now) as txn:
            txn.conn.exec_driver_sql("DELETE FROM erased")
            txn.conn.execute(
                sa.text("UPDATE studies SET created_s = :at WHERE study_uid = :uid"),
                {"at": erased_s - 10_000, "uid": STUDY},
            )
        site.master = site.start()
        for _ in range(40):
            site.now += 11
            site.master.tick()
        with pytest.raises(NotFound):
            site.reader.study(STUDY)
        assert site.reader.erasures()[0]["state"] == "done"
        assert site.reader.erasures()[0]["who"] == "it was erased before"

    def test_hashes_are_of_the_site(self) -> None:
        assert key_of("a", STUDY) != key_of("b", STUDY)
        assert len(key_of("a", STUDY)) == 64
