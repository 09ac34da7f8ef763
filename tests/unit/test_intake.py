"""The one way in: what becomes of each kind of object, and what is on the tier afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path

import pytest
from dicom_bytes import CT, SYNTAX, data_set, element
from fake_index import FakeIndex, image_tier, make_intake

from raypacs.dicom import file_meta, split_part10
from raypacs.records import Outcome
from raypacs.storage.intake import Intake, Stored


@pytest.fixture
def index() -> FakeIndex:
    return FakeIndex()


def store(intake: Intake, dataset: bytes, **said: str) -> Stored:
    return intake.store(dataset, transfer_syntax_uid=SYNTAX, source="SCANNER", **said)


def files(tmp_path: Path, prefix: str = "") -> list[str]:
    return [info.path for info in image_tier(tmp_path / "image").walk(prefix)]


def test_a_stored_instance_is_byte_identical_and_registered(
    tmp_path: Path, index: FakeIndex
) -> None:
    intake, dataset = make_intake(tmp_path, index), data_set()
    answer = store(intake, dataset, sop_class_uid=CT, sop_instance_uid="1.2.3.1")
    assert (answer.outcome, answer.status, answer.study_uid) == (Outcome.STORED, 0, "1.2.3.100")
    path = files(tmp_path, "studies/")[0]
    content = image_tier(tmp_path / "image").read(path)
    part10 = split_part10(content)
    assert content[part10.dataset_offset :] == dataset
    assert (part10.transfer_syntax_uid, part10.source_ae) == (SYNTAX, "SCANNER")
    assert intake.flush(5)
    record = index.instances["1.2.3.1"]
    assert (record.tier, record.path, record.size_bytes) == ("image1", path, len(content))
    assert record.sha256 == hashlib.sha256(dataset).hexdigest()
    start = record.pixel_offset_bytes
    assert content[start : start + record.pixel_length_bytes] == b"\x01\x02" * 32
    assert record.dataset_offset_bytes == part10.dataset_offset
    assert intake.close()
    assert files(tmp_path, "intake/") == []
    assert list((tmp_path / "claims").iterdir()) == []


def test_part10_is_kept_as_sent_and_known_by_its_data_set(tmp_path: Path, index: FakeIndex) -> None:
    intake, dataset = make_intake(tmp_path, index), data_set()
    file = b"preamble" * 16 + file_meta(CT, "1.2.3.1", SYNTAX, "OTHER")[128:] + dataset
    assert intake.store_part10(file, source="stow").outcome is Outcome.STORED
    assert image_tier(tmp_path / "image").read(files(tmp_path, "studies/")[0]) == file
    answer = store(intake, dataset)  # the same data set through another door
    assert (answer.outcome, answer.status) == (Outcome.KNOWN, 0)
    intake.close()
    assert len(index.instances) == 1


def test_part10_whose_meta_names_another_instance_is_kept(tmp_path: Path, index: FakeIndex) -> None:
    intake = make_intake(tmp_path, index)
    file = file_meta(CT, "9.9.9", SYNTAX) + data_set()
    answer = intake.store_part10(file, source="cli")
    assert (answer.outcome, answer.sop_instance_uid) == (Outcome.STORED, "1.2.3.1")
    assert image_tier(tmp_path / "image").read(files(tmp_path, "studies/")[0]) == file
    intake.close()


@pytest.mark.parametrize("registered", [False, True])
def test_the_same_again_changes_nothing(tmp_path: Path, index: FakeIndex, registered: bool) -> None:
    intake = make_intake(tmp_path, index, register_interval_s=0.02 if registered else 1.0)
    store(intake, data_set())
    if registered:
        intake.flush(5)
    before = files(tmp_path)
    assert store(intake, data_set()).outcome is Outcome.KNOWN
    assert files(tmp_path) == before
    intake.close()


def test_other_bytes_are_kept_aside_once_and_the_first_stays(
    tmp_path: Path, index: FakeIndex
) -> None:
    intake = make_intake(tmp_path, index)
    store(intake, data_set())
    other = data_set(pixels=b"\xff\x0f" * 32)
    for _ in range(2):
        answer = store(intake, other)
        assert (answer.outcome, answer.status) == (Outcome.CONFLICT, 0x0111)
    assert len(files(tmp_path, "conflicts/1.2.3.100/1.2.3.1.")) == 1
    assert len(files(tmp_path, "studies/")) == 1
    assert [(a.outcome, a.sop_instance_uid) for a in index.asides] == [
        (Outcome.CONFLICT, "1.2.3.1")
    ]
    intake.close()
    assert index.instances["1.2.3.1"].sha256 == hashlib.sha256(data_set()).hexdigest()


def test_another_transfer_syntax_is_other_bytes(tmp_path: Path, index: FakeIndex) -> None:
    intake = make_intake(tmp_path, index)
    store(intake, data_set())
    answer = intake.store(
        data_set(), transfer_syntax_uid="1.2.840.10008.1.2.4.202", source="SCANNER"
    )
    assert answer.outcome is Outcome.CONFLICT
    intake.close()


@pytest.mark.parametrize(
    ("dataset", "said", "status"),
    [
        (data_set()[:-3], {}, 0xC000),
        (b"this is not DICOM at all", {}, 0xC000),
        (b"", {}, 0xC000),
        (data_set(study="../../etc"), {}, 0xC000),
        (data_set(), {"sop_instance_uid": "1.2.3.9"}, 0xA900),
        (data_set(), {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"}, 0xA900),
    ],
    ids=["truncated", "garbage", "empty", "unsafe UID", "other instance", "other class"],
)
def test_malformed_is_quarantined_with_its_reason(
    tmp_path: Path, index: FakeIndex, dataset: bytes, said: dict[str, str], status: int
) -> None:
    intake = make_intake(tmp_path, index)
    answer = store(intake, dataset, **said)
    assert (answer.outcome, answer.status) == (Outcome.QUARANTINED, status)
    assert answer.reason
    store(intake, dataset, **said)  # once more: no second copy
    kept = files(tmp_path, "quarantine/")
    assert [Path(path).suffix for path in kept] == [".dcm", ".json"]
    tier = image_tier(tmp_path / "image")
    assert tier.read(kept[0]).endswith(dataset)
    assert json.loads(tier.read(kept[1]))["reason"] == answer.reason
    assert len(index.asides) == 1
    assert store(intake, data_set("1.2.3.5")).outcome is Outcome.STORED  # the rest goes on
    intake.close()


def test_not_even_part10_is_quarantined_as_sent(tmp_path: Path, index: FakeIndex) -> None:
    intake = make_intake(tmp_path, index)
    answer = intake.store_part10(b"hello", source="stow")
    assert (answer.outcome, answer.status) == (Outcome.QUARANTINED, 0xC000)
    assert image_tier(tmp_path / "image").read(files(tmp_path, "quarantine/")[0]) == b"hello"
    intake.close()


def test_a_full_tier_refuses_and_keeps_nothing(tmp_path: Path, index: FakeIndex) -> None:
    index.room_bytes["image1"] = 0
    intake = make_intake(tmp_path, index)
    answer = store(intake, data_set())
    assert (answer.outcome, answer.status) == (Outcome.REFUSED, 0xA700)
    assert store(intake, b"malformed").outcome is Outcome.REFUSED
    assert files(tmp_path) == []
    assert index.asides == []
    index.room_bytes["image1"] = 100_000  # space was made
    assert store(intake, data_set()).outcome is Outcome.STORED
    intake.close()


def test_the_next_tier_takes_what_the_first_has_no_room_for(
    tmp_path: Path, index: FakeIndex
) -> None:
    index.room_bytes["image1"] = 0
    tiers = [image_tier(tmp_path / "image"), image_tier(tmp_path / "second", "image2")]
    intake = make_intake(tmp_path, index, tiers=tiers)
    assert store(intake, data_set()).outcome is Outcome.STORED
    intake.close()
    assert index.instances["1.2.3.1"].tier == "image2"


def test_too_large_is_refused(tmp_path: Path, index: FakeIndex) -> None:
    intake = make_intake(tmp_path, index, max_instance_bytes=1024)
    assert store(intake, data_set(pixels=bytes(1024))).outcome is Outcome.REFUSED
    assert files(tmp_path) == []
    intake.close()


def test_without_a_master_receiving_goes_on_up_to_a_bound(
    tmp_path: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypacs.storage.intake._MOST_UNREGISTERED", 3)
    index.down = True
    intake = make_intake(tmp_path, index)
    outcomes = [store(intake, data_set(f"1.2.3.{n}")).outcome for n in range(1, 6)]
    assert outcomes == [Outcome.STORED] * 3 + [Outcome.REFUSED] * 2
    assert not intake.flush(0.05)
    assert intake.unregistered() == 3
    index.down = False
    assert intake.flush(10)
    assert len(index.instances) == 3
    assert intake.close()


def test_a_duplicate_of_another_node_is_deleted(tmp_path: Path, index: FakeIndex) -> None:
    """Two nodes do not share claims: the index says whose copy is served."""
    other = make_intake(tmp_path / "other", index, tiers=[image_tier(tmp_path / "image")])
    index.down = True
    intake = make_intake(tmp_path, index, boot="boot2")
    assert store(intake, data_set()).outcome is Outcome.STORED
    assert store(other, data_set()).outcome is Outcome.STORED
    assert len(files(tmp_path, "studies/")) == 2
    index.down = False
    assert intake.close(20)
    assert other.close(20)
    assert files(tmp_path, "studies/") == [index.instances["1.2.3.1"].path]


def test_one_of_many_threads_stores_and_the_others_know(tmp_path: Path, index: FakeIndex) -> None:
    intake = make_intake(tmp_path, index)
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(store(intake, data_set()).outcome))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted([Outcome.STORED] + [Outcome.KNOWN] * 5)
    intake.close()
    assert len(files(tmp_path, "studies/")) == 1


def test_a_claim_of_another_process_is_waited_for_then_refused(
    tmp_path: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypacs.storage.intake._CLAIM_WAIT_S", 0.05)
    index.down = True
    first = make_intake(tmp_path, index)
    second = make_intake(tmp_path, index, boot="boot2")
    store(first, data_set())
    assert store(second, data_set()).outcome is Outcome.REFUSED
    index.down = False
    first.close(20)
    assert store(second, data_set()).outcome is Outcome.KNOWN
    second.close()


def test_no_patient_data_in_logs(
    tmp_path: Path, index: FakeIndex, caplog: pytest.LogCaptureFixture
) -> None:
    index.room_bytes["image1"] = 0
    intake = make_intake(tmp_path, index)
    with caplog.at_level(logging.DEBUG):
        store(intake, data_set())
        store(intake, element(0x00100010, "PN", "Synthetic^Patient"))
    intake.close()
    assert "Synthetic" not in caplog.text
