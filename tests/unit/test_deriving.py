"""Which instances get a lossy object, under which UIDs: a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import instance_record

from raypacs.config import CompressionRule
from raypacs.policy import deriving

CT = instance_record(number=1)
TEN = CompressionRule(name="ten", action="lossy", ratio=10)
GOOD = CompressionRule(name="good", action="lossy", psnr_db=50)
_STORAGE = "1.2.840.10008.5.1.4.1.1."


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"photometric": "MONOCHROME1"}, ""),
        ({"photometric": "RGB", "samples": 3, "bits_allocated": 8, "bits_stored": 8}, ""),
        ({"photometric": "YBR_FULL", "samples": 3, "bits_allocated": 8, "bits_stored": 8}, ""),
        ({"pixel_representation": 1, "bits_stored": 16, "high_bit": 15}, ""),
        ({"source": "raypacs"}, "raypacs itself"),
        ({"frames": 0}, "no pixels"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.50"}, "lossy compressed (JPEG baseline)"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.51"}, "lossy compressed (JPEG extended)"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.102"}, "video"),
        ({"sop_class_uid": _STORAGE + "66.4"}, "segmentation"),
        ({"sop_class_uid": _STORAGE + "66.7"}, "label map"),
        ({"sop_class_uid": _STORAGE + "481.2"}, "dose"),
        ({"sop_class_uid": _STORAGE + "30"}, "parametric map"),
        ({"photometric": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"bits_allocated": 32, "bits_stored": 32, "high_bit": 31}, "too deep"),
        ({"bits_allocated": 32, "bits_stored": 0}, "floating-point"),
        ({"bits_allocated": 1, "bits_stored": 1, "high_bit": 0}, "1-bit"),
        ({"samples": 3}, "3 samples"),
        ({"frames": 100_000, "pixel_length_bytes": 524_288}, "fewer pixel bytes than frames"),
    ],
)
def test_what_is_no_picture_is_left_alone(change: dict, why: str) -> None:
    record = instance_record(number=1, **change)
    assert why in deriving.obstacle(record)
    assert (deriving.obstacle(record) == "") == (why == "")
    assert len(deriving.wanted([record], [TEN])) == (why == "")


def test_the_first_matching_rule_decides() -> None:
    copy = CompressionRule(name="as it is", action="copy", modalities=("CT",))
    prepare = CompressionRule(name="plain", action="htj2k", modalities=("CT",))
    assert deriving.wanted([CT], []) == []
    assert deriving.wanted([CT], [copy, TEN]) == []
    assert deriving.wanted([CT], [prepare, TEN]) == []
    (found,) = deriving.wanted([CT], [TEN, GOOD])
    assert (found.record, found.rule) == (CT, TEN)
    us = CompressionRule(name="us", action="lossy", ratio=5, modalities=("US",))
    assert deriving.wanted([CT], [us]) == []


def test_uids_follow_from_source_and_parameters() -> None:
    (one,) = deriving.wanted([CT], [TEN])
    (again,) = deriving.wanted([CT], [replace_rule(TEN, name="another name")])
    assert (one.sop_instance_uid, one.series_uid) == (again.sop_instance_uid, again.series_uid)
    (other,) = deriving.wanted([CT], [GOOD])
    (neighbour,) = deriving.wanted([instance_record(number=2)], [TEN])
    assert neighbour.series_uid == one.series_uid
    uids = {one.sop_instance_uid, other.sop_instance_uid, neighbour.sop_instance_uid}
    uids |= {one.series_uid, other.series_uid, CT.sop_instance_uid, CT.series_uid}
    assert len(uids) == 7
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids if "2.25" in uid)
    # Those of an archive must not change from version to version.
    assert deriving.derived_uid("1.2.3", TEN) == "2.25.149345600782029811847734733614317514084"


def test_what_is_there_is_not_made_again() -> None:
    (one,) = deriving.wanted([CT], [TEN])
    made = replace(
        CT,
        sop_instance_uid=one.sop_instance_uid,
        series_uid=one.series_uid,
        source=deriving.SOURCE,
        transfer_syntax_uid="1.2.840.10008.1.2.4.203",
    )
    assert deriving.wanted([CT, made], [TEN]) == []
    assert [one.record for one in deriving.wanted([CT, made], [GOOD])] == [CT]


def test_explained() -> None:
    assert deriving.explain(CT, []) == {
        "rule": "",
        "action": "htj2k",
        "form": "htj2k",
        "reason": "",
    }
    told = deriving.explain(CT, [TEN])
    (one,) = deriving.wanted([CT], [TEN])
    assert told["rule"] == "ten"
    assert (told["form"], told["derives"]) == ("htj2k", True)
    assert told["derived_sop_instance_uid"] == one.sop_instance_uid
    sr = instance_record(number=3, frames=0, modality="SR")
    assert deriving.explain(sr, [TEN])["why_not"] == "no pixels"
    copy = CompressionRule(name="as it is", action="copy")
    assert deriving.explain(CT, [copy])["reason"] == "rule as it is"


def replace_rule(rule: CompressionRule, **changes: object) -> CompressionRule:
    return rule.model_copy(update=changes)
