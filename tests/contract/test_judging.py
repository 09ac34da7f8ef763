"""Status, sources and rules on a real index: what they do, once, and what the story tells."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian

from raypacs.config import ArrivalRule, SourceSettings
from raypacs.errors import InvalidQuery, NotFound
from raypacs.index import judging
from raypacs.records import Outcome
from tests.adopting_site import AdoptingSite
from tests.real_site import RealSite
from tests.web_world import image_file

STUDY, OTHER = "1.2.3", "1.2.4"
DAY = 86400.0
OFF = SourceSettings(
    name="trauma", ae_titles=("TRAUMA*",), addresses=("10.1.0.0/16",), archiving=False
)


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RealSite]:
    site = RealSite(tmp_path, database_url)
    yield site
    site.close()


def image(number: int = 1, study: str = STUDY, **elements: Any) -> bytes:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) + number
    return image_file(pixels, number, study=study, series=f"{study}.1", bits_stored=12, **elements)


def report(flag: str, number: int, study: str = STUDY) -> bytes:
    """A structured report."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = BasicTextSRStorage, f"{study}.9.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.9"
    dataset.Modality, dataset.VerificationFlag = "SR", flag
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def sent(site: RealSite, *files: bytes, source: str = "CT1", peer: str = "10.2.0.1") -> None:
    for data in files:
        answer = site.intake.store_part10(data, source=source, peer=peer)
        assert answer.outcome in (Outcome.STORED, Outcome.KNOWN, Outcome.CONFLICT), answer
    assert site.intake.flush(10)


def applied(site: RealSite, **values: Any) -> None:
    site.settings = site.settings.model_copy(update=values)
    site.master.apply_settings(site.settings, "test")
    site.intake.apply(site.settings)


def ticked(site: RealSite, seconds: float = 6.0) -> None:
    site.now += seconds
    site.master.tick()


def status(site: RealSite, study: str = STUDY) -> dict[str, Any]:
    return site.reader.study_status(study)


def told(site: RealSite, event: str, study: str = STUDY) -> list[str]:
    return [one["text"] for one in site.reader.why(study) if one["event"] == event]


class TestStatus:
    def test_is_set_and_told_once(self, site: RealSite) -> None:
        sent(site, image())
        assert status(site)["status"] == "new"
        for _ in range(2):
            now = site.master.set_study(STUDY, {"status": "dictated", "exported": True}, "anna")
            assert (now["status"], now["exported"], now["his_verified"]) == (
                "dictated",
                True,
                False,
            )
        assert told(site, "status") == ["status new -> dictated, exported no -> yes, asked by anna"]
        site.master.set_study(STUDY, {"status": "new"}, "anna")  # a person may lower it
        assert status(site)["status"] == "new"
        assert site.reader.study(STUDY)["exported"] is True

    def test_what_there_is_not(self, site: RealSite) -> None:
        sent(site, image())
        with pytest.raises(InvalidQuery, match="did you mean 'approved'"):
            site.master.set_study(STUDY, {"status": "aproved"})
        with pytest.raises(InvalidQuery, match="did you mean 'exported'"):
            site.master.set_study(STUDY, {"export": True})
        with pytest.raises(NotFound):
            site.master.set_study("1.9", {"exported": True})

    def test_a_verified_report_approves(self, site: RealSite) -> None:
        sent(site, image(), report("UNVERIFIED", 1))
        assert status(site)["status"] == "new"
        sent(site, report("VERIFIED", 2))
        assert status(site)["status"] == "approved"
        assert told(site, "status") == [f"status new -> approved, by verified report {STUDY}.9.2"]
        sent(site, report("UNVERIFIED", 3), report("VERIFIED", 4))
        assert status(site)["status"] == "approved"
        assert len(told(site, "status")) == 1
        sent(site, report("VERIFIED", 1, OTHER))  # the first instance of its study
        assert status(site, OTHER)["status"] == "approved"

    def test_an_adopted_report_approves(self, tmp_path: Path, sqlite_url: str) -> None:
        folder = tmp_path / "archive"
        folder.mkdir()
        (folder / "image").write_bytes(image())
        (folder / "report").write_bytes(report("VERIFIED", 1))
        site = AdoptingSite(tmp_path / "site", sqlite_url)
        try:
            site.adopt(folder)
            assert status(site)["status"] == "approved"
            assert status(site)["archiving"] is True
        finally:
            site.close()

    def test_lists(self, site: RealSite) -> None:
        sent(site, image(), image(study=OTHER))
        site.master.set_study(OTHER, {"status": "reported", "his_verified": True}, "anna")
        found = site.reader.study_statuses({"status": "reported"}, limit=10)
        assert [one["study_uid"] for one in found] == [OTHER]
        every = site.reader.study_statuses({}, limit=1)
        rest = site.reader.study_statuses({}, limit=10, before=every[0]["list_no"])
        assert {one["study_uid"] for one in (*every, *rest)} == {STUDY, OTHER}
        assert [one["study_uid"] for one in rest] != [one["study_uid"] for one in every]
        assert site.reader.study_statuses({"exported": True}, limit=10) == []


class TestSources:
    def test_archiving_is_off_only_if_all_senders_have_it_off(self, site: RealSite) -> None:
        applied(site, sources=(OFF,))
        sent(site, image(), source="TRAUMA1", peer="10.1.2.3")
        assert status(site)["archiving"] is False
        assert status(site)["origins"] == [["TRAUMA1", "10.1.2.3"]]
        sent(site, image(2), source="TRAUMA2", peer="10.1.2.4")
        assert status(site)["archiving"] is False
        sent(site, image(3), source="TRAUMA1", peer="10.2.0.1")  # the same title from elsewhere
        assert status(site)["archiving"] is True
        assert [one.record.peer for one in site.reader.instances(STUDY)] == [
            "10.1.2.3",
            "10.1.2.4",
            "10.2.0.1",
        ]

    def test_known_bytes_of_another_sender_count(self, site: RealSite) -> None:
        applied(site, sources=(OFF,))
        sent(site, image(), source="TRAUMA1", peer="10.1.2.3")
        sent(site, image(), source="TRAUMA1", peer="10.1.2.3")
        assert status(site)["archiving"] is False
        sent(site, image(), source="CT1")
        assert status(site)["archiving"] is True

    def test_a_conflict_counts(self, site: RealSite) -> None:
        applied(site, sources=(OFF,))
        sent(site, image(), source="TRAUMA1", peer="10.1.2.3")
        sent(site, image(StudyDescription="other"), source="CT1")
        assert status(site)["archiving"] is True

    def test_senders_are_bounded(self, site: RealSite) -> None:
        applied(site, sources=(OFF,))
        for number in range(1, 23):
            sent(site, image(number), source="TRAUMA1", peer=f"10.1.2.{number}")
        assert len(status(site)["origins"]) == 21
        assert status(site)["origins"][-1] == ["*", "*"]
        assert status(site)["archiving"] is True

    def test_new_settings_count_for_what_is_there(self, site: RealSite) -> None:
        for number in range(1, 6):
            sent(site, image(study=f"1.2.{number}"), source="TRAUMA1", peer="10.1.2.3")
        ticked(site)
        assert status(site, "1.2.5")["archiving"] is True
        applied(site, sources=(OFF,))
        ticked(site)
        assert [status(site, f"1.2.{n}")["archiving"] for n in range(1, 6)] == [False] * 5
        copies = site.reader.study("1.2.5")["copies"]
        assert {copy["hold"] for copy in copies} == {""}
        applied(site, sources=())
        ticked(site)
        assert status(site, "1.2.5")["archiving"] is True
        assert {copy["hold"] for copy in site.reader.study("1.2.5")["copies"]} == {"unarchived"}
        assert len(told(site, "archiving", "1.2.5")) == 2

    def test_retention_is_the_longest_and_all_must_have_one(self, site: RealSite) -> None:
        short = SourceSettings(name="short", ae_titles=("S",), retention_days=1)
        longer = SourceSettings(name="longer", ae_titles=("L",), retention_days=10)
        applied(site, sources=(short, longer))
        sent(site, image(), source="S")
        ticked(site)
        assert status(site)["delete_after_s"] == status(site)["last_received_s"] + DAY
        sent(site, image(2), source="L")
        ticked(site)
        assert status(site)["delete_after_s"] == status(site)["last_received_s"] + 10 * DAY
        sent(site, image(3), source="X")
        ticked(site)
        assert status(site)["delete_after_s"] == 0


class TestRules:
    RULES = (
        ArrivalRule(
            name="trauma CT",
            when={"Modality": "OT", "StudyDescription": "*trauma*"},
            keep_days=7,
            priority="high",
            compress="copy",
        ),
        ArrivalRule(name="old", when={"study_age": "1y.."}, delete_after_days=30, keep_days=3),
        ArrivalRule(name="pacs2", when={"status": "approved"}, route=("PACS2",)),
    )

    def test_are_asked_when_a_study_is_quiet(self, site: RealSite) -> None:
        applied(site, rules=self.RULES)
        sent(site, image(StudyDescription="poly trauma", StudyDate="20100101"))
        assert status(site)["decided"] == {}
        ticked(site)
        found = status(site)
        received_s = found["last_received_s"]
        assert found["decided"]["compress"] == {"value": "copy", "by": "rule trauma CT"}
        assert found["pinned_until_s"] == received_s + 7 * DAY
        assert found["delete_after_s"] == received_s + 30 * DAY
        assert [lease.priority for lease in site.lease()] == [20]
        assert "pinned until" in told(site, "decided")[0]
        assert "(rule trauma CT)" in told(site, "decided")[0]

    def test_again_changes_nothing(self, site: RealSite) -> None:
        applied(site, rules=self.RULES)
        sent(site, image(StudyDate="20100101"))
        ticked(site)
        events = len(site.reader.why(STUDY))
        writer = site.master._writer
        with writer.transaction(site.now) as txn:
            judging.judge(txn, [STUDY], site.settings)
        for _ in range(3):
            ticked(site)
        assert len(site.reader.why(STUDY)) == events

    def test_later_by_status_and_by_settings(self, site: RealSite) -> None:
        applied(site, rules=self.RULES)
        sent(site, image())
        ticked(site)
        assert told(site, "route wanted") == []
        site.master.set_study(STUDY, {"status": "approved"}, "anna")
        ticked(site)
        assert len(told(site, "route wanted")) == 1
        assert "to be sent to PACS2 by rule pacs2" in told(site, "route wanted")[0]
        applied(site, rules=())
        ticked(site)
        assert status(site)["decided"] == {}
        assert "no more to be sent to" in told(site, "decided")[-1]

    def test_what_an_operator_unpinned_stays_so(self, site: RealSite) -> None:
        applied(site, rules=(ArrivalRule(name="keep", keep_days=2),))
        sent(site, image())
        ticked(site)
        assert status(site)["pinned_until_s"] > 0
        with site.master._writer.transaction(site.now) as txn:
            txn.conn.exec_driver_sql("UPDATE studies SET pinned_until_s = 0, judge_due_s = 1")
        ticked(site)
        assert status(site)["pinned_until_s"] == 0

    def test_explained(self, site: RealSite) -> None:
        applied(site, rules=self.RULES)
        sent(site, image(StudyDescription="knee"))
        found = site.reader.explain_study(STUDY, site.now)
        assert [one["matches"] for one in found["rules"]] == [False, False, False]
        assert found["rules"][0]["failed"] == ["StudyDescription is knee, not *trauma*"]
        assert found["rules"][2]["failed"] == ["status is new, not approved"]


class TestDeletion:
    def test_by_rule_everywhere_with_its_name(self, site: RealSite) -> None:
        applied(site, rules=(ArrivalRule(name="short", delete_after_days=1),))
        sent(site, image())
        site.prepare()
        site.seal()
        ticked(site, DAY - 8000)
        assert status(site)["delete_after_s"] > site.now
        ticked(site, 8000)
        for _ in range(3):
            ticked(site)
        with pytest.raises(NotFound):
            site.reader.study(STUDY)
        assert "by rule short" in told(site, "deleted")[0]
        assert site.objects() == {}
        assert site.balanced()

    @pytest.mark.parametrize(
        ("how", "why"),
        [
            ("committed", "under storage commitment"),
            ("pinned", "pinned"),
        ],
    )
    def test_what_stays_says_why_once(self, site: RealSite, how: str, why: str) -> None:
        applied(site, rules=(ArrivalRule(name="short", delete_after_days=1),))
        sent(site, image(), image(study=OTHER))
        ticked(site)
        if how == "committed":
            site.master.set_study(STUDY, {"committed": True}, "test")
        else:
            with site.master._writer.transaction(site.now) as txn:
                txn.conn.exec_driver_sql(
                    "UPDATE studies SET pinned_until_s = 1e11 WHERE study_uid = '1.2.3'"
                )
        ticked(site, DAY + 100)
        for _ in range(3):
            ticked(site, 70)
        assert told(site, "not deleted") == [f"not deleted, though rule short wants it: {why}"]
        with pytest.raises(NotFound):
            site.reader.study(OTHER)
