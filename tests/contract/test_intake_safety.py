"""What goes wrong around one object never stops the others, nor is it told as a success."""

from __future__ import annotations

from pathlib import Path

import pytest
from dicom_bytes import SYNTAX, data_set, element
from fake_index import FakeIndex, image_tier, make_intake

from raypacs.dicom import scan
from raypacs.errors import TierUnavailable
from raypacs.records import Outcome
from raypacs.storage.intake import Intake, Stored


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex()


def store(intake: Intake, dataset: bytes) -> Stored:
    return intake.store(dataset, transfer_syntax_uid=SYNTAX, source="SCANNER")


def files(tmp_path: Path, prefix: str = "") -> list[str]:
    return [info.path for info in image_tier(tmp_path / "image").walk(prefix)]


def killed(tmp_path: Path, *datasets: bytes) -> None:
    """A process run "boot1" that stores and ends before the index hears of anything."""
    deaf = FakeIndex()
    deaf.down = True
    intake = make_intake(tmp_path, deaf)
    for dataset in datasets:
        store(intake, dataset)
    assert not intake.close(0.01)


class TestOneBadRecord:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("99999999999999999999", 7),
            ("1e300", 7),
            ("2147483648", 7),
            ("2147483647", 2147483647),
            ("-2147483648", -2147483648),
            ("-2147483649", 7),
        ],
    )
    def test_numbers_stay_in_the_range_of_is(self, text: str, number: int) -> None:
        header = scan(element(0x00200013, "IS", text), SYNTAX)
        assert header.number(0x00200013, 7) == number

    def test_unsigned_long_as_well(self) -> None:
        assert scan(element(0x00280008, "UL", b"\xff" * 4), SYNTAX).number(0x00280008, 1) == 1

    def test_what_the_index_cannot_hold_is_reported_and_the_others_are_registered(
        self, tmp_path: Path, index: FakeIndex
    ) -> None:
        index.refused.add("1.2.3.4")
        intake = make_intake(tmp_path, index, register_interval_s=0.2)
        for n in range(1, 8):
            assert store(intake, data_set(f"1.2.3.{n}")).outcome is Outcome.STORED
        assert intake.flush(10)
        assert set(index.instances) == {f"1.2.3.{n}" for n in (1, 2, 3, 5, 6, 7)}
        (aside,) = index.asides
        assert (aside.outcome, aside.sop_instance_uid) == (Outcome.QUARANTINED, "1.2.3.4")
        assert aside.reason == "cannot be registered: the index cannot hold it: OverflowError"
        assert image_tier(tmp_path / "image").size(aside.path) == aside.size_bytes
        assert intake.close()
        assert files(tmp_path, "intake/") == []

    def test_recovery_reports_it_and_goes_on(self, tmp_path: Path, index: FakeIndex) -> None:
        killed(tmp_path, *(data_set(f"1.2.3.{n}") for n in range(1, 6)))
        index.refused.add("1.2.3.2")
        after = make_intake(tmp_path, index, boot="boot2")
        assert after.recover_lost({"boot1"}) == 4
        assert [aside.sop_instance_uid for aside in index.asides] == ["1.2.3.2"]
        assert files(tmp_path, "intake/") == []
        after.close()

    def test_recovery_leaves_what_cannot_be_read_under_its_marker(
        self, tmp_path: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed(tmp_path, data_set("1.2.3.1"), data_set("1.2.3.2"))
        tier = image_tier(tmp_path / "image")
        read = tier.read

        def bad_sector(path: str) -> bytes:
            if "/1.2.3.1." in path:
                raise TierUnavailable("tier image1: Input/output error")
            return read(path)

        monkeypatch.setattr(tier, "read", bad_sector)
        after = make_intake(tmp_path, index, tiers=[tier], boot="boot2")
        assert after.recover_lost({"boot1"}) == 1
        assert len(files(tmp_path, "intake/boot1.")) == 1
        monkeypatch.setattr(tier, "read", read)
        assert after.recover_lost({"boot1"}) == 1
        assert files(tmp_path, "intake/") == []
        after.close()


class TestDeletedStudy:
    def test_recovery_does_not_bring_back_what_is_to_be_deleted(
        self, tmp_path: Path, index: FakeIndex
    ) -> None:
        killed(tmp_path, data_set("1.2.3.1"), data_set("1.2.3.2"))
        gone = next(path for path in files(tmp_path, "studies/") if "/1.2.3.1." in path)
        index.doomed.add(gone)
        after = make_intake(tmp_path, index, boot="boot2")
        assert after.recover_lost({"boot1"}) == 1
        assert set(index.instances) == {"1.2.3.2"}
        assert files(tmp_path, "intake/") == []
        assert gone in files(tmp_path)  # whoever wrote the intent deletes it
        again = store(after, data_set("1.2.3.1"))
        assert again.outcome is Outcome.STORED
        assert after.flush(5)
        assert index.instances["1.2.3.1"].path != gone
        after.close()

    def test_known_is_answered_only_where_the_bytes_are(
        self, tmp_path: Path, index: FakeIndex
    ) -> None:
        intake, tier = make_intake(tmp_path, index), image_tier(tmp_path / "image")
        store(intake, data_set())
        assert intake.flush(5)
        lost = index.instances["1.2.3.1"].path
        tier.delete(lost)
        index.down = True
        assert store(intake, data_set()).outcome is Outcome.STORED
        (path,) = files(tmp_path, "studies/")
        assert path != lost
        assert tier.read(path).endswith(data_set())
        index.instances.clear()  # as the master does on finding the served bytes lost
        index.down = False
        assert intake.close()
        assert files(tmp_path, "studies/") == [index.instances["1.2.3.1"].path]


class TestAside:
    OTHER = data_set(pixels=b"\xff\x0f" * 32)

    def test_what_could_not_be_reported_is_reported_later_and_kept_once(
        self, tmp_path: Path, index: FakeIndex
    ) -> None:
        intake = make_intake(tmp_path, index)
        store(intake, data_set())
        assert intake.flush(5)
        index.down = True
        for dataset, outcome in (
            (self.OTHER, Outcome.CONFLICT),
            (b"malformed", Outcome.QUARANTINED),
        ) * 2:
            assert store(intake, dataset).outcome is outcome
        assert index.asides == []
        index.down = False
        assert intake.close()
        assert sorted(aside.outcome for aside in index.asides) == ["conflict", "quarantined"]
        assert [path for path in files(tmp_path) if path.endswith(".dcm")] == sorted(
            [aside.path for aside in index.asides] + [index.instances["1.2.3.1"].path]
        )
        assert files(tmp_path, "intake/") == []

    def test_recovery_reports_what_a_killed_process_could_not(
        self, tmp_path: Path, index: FakeIndex
    ) -> None:
        killed(tmp_path, data_set(), self.OTHER, b"malformed")
        after = make_intake(tmp_path, index, boot="boot2")
        assert after.recover_lost({"boot1"}) == 1
        found = {aside.outcome: aside for aside in index.asides}
        assert set(found) == {Outcome.CONFLICT, Outcome.QUARANTINED}
        conflict = found[Outcome.CONFLICT]
        assert (conflict.study_uid, conflict.sop_instance_uid) == ("1.2.3.100", "1.2.3.1")
        assert "has no valid VR" in found[Outcome.QUARANTINED].reason
        assert {aside.source for aside in index.asides} == {"SCANNER"}
        before = files(tmp_path)
        assert store(after, self.OTHER).outcome is Outcome.CONFLICT
        assert store(after, b"malformed").outcome is Outcome.QUARANTINED
        assert files(tmp_path) == before  # recognised by what recovery reported
        assert not any(path.startswith("intake/") for path in before)
        after.close()

    def test_the_same_conflict_after_a_deletion_has_another_path(
        self, tmp_path: Path, index: FakeIndex
    ) -> None:
        """Else the intent for the first one would delete the second."""
        intake = make_intake(tmp_path, index)
        store(intake, data_set())
        store(intake, self.OTHER)
        (first,) = index.asides
        index.asides.clear()  # the study was deleted; the bytes go within the grace period
        store(intake, self.OTHER)
        (second,) = index.asides
        assert first.path != second.path
        assert image_tier(tmp_path / "image").read(second.path).endswith(self.OTHER)
        intake.close()

    def test_unreported_ones_are_bounded(
        self, tmp_path: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("raypacs.storage.aside._MOST_UNREPORTED", 2)
        index.down = True
        intake = make_intake(tmp_path, index)
        outcomes = [store(intake, b"malformed%d" % n).outcome for n in range(3)]
        assert outcomes == [Outcome.QUARANTINED] * 2 + [Outcome.REFUSED]
        assert not intake.close(0.01)
