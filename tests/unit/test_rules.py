"""The compression choice as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raypacs.config import CompressionRule
from raypacs.policy.rules import Choice, choose
from raypacs.records import InstanceRecord

CT = InstanceRecord(
    study_uid="1.2",
    series_uid="1.3",
    sop_instance_uid="1.4",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    tier="image1",
    path="x.dcm",
    size_bytes=500_000,
    sha256="",
    dataset_offset_bytes=300,
    source="CT1",
    received_at_s=0.0,
    modality="CT",
    rows=512,
    columns=512,
    frames=1,
    samples=1,
    bits_allocated=16,
    bits_stored=12,
    high_bit=11,
    photometric="MONOCHROME2",
    pixel_offset_bytes=1700,
    pixel_length_bytes=4 * 512 * 512 * 3,
)
_RLE = {"transfer_syntax_uid": "1.2.840.10008.1.2.5", "pixel_length_bytes": -1}


@pytest.mark.parametrize(
    ("change", "form", "reason"),
    [
        ({}, "htj2k", ""),
        ({"photometric": "MONOCHROME1"}, "htj2k", ""),
        ({"photometric": "RGB", "samples": 3}, "htj2k", ""),
        ({"photometric": "YBR_FULL", "samples": 3}, "htj2k", ""),
        ({"bits_allocated": 32, "bits_stored": 32}, "htj2k", ""),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.70"}, "htj2k", ""),
        ({"frames": 0}, "copied", "no pixels"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.50"}, "copied", "JPEG baseline"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.91"}, "copied", "JPEG 2000"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.203"}, "copied", "lossy"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.102"}, "copied", "video"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.106.1"}, "copied", "video"),
        ({"bits_allocated": 1, "bits_stored": 1}, "copied", "1-bit"),
        ({"bits_stored": 0, "bits_allocated": 32}, "copied", "floating-point"),
        ({"photometric": "PALETTE COLOR"}, "copied", "PALETTE COLOR"),
        ({"photometric": "HSV", "samples": 3}, "copied", "HSV"),
        ({"photometric": ""}, "copied", "missing"),
        ({"samples": 3}, "copied", "3 samples"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.7"}, "copied", "label map"),
        ({"rows": 0}, "copied", "no Rows or Columns"),
        ({"frames": 6}, "htj2k", ""),
        ({"frames": 7}, "copied", "fewer pixel bytes than frames"),
        ({"frames": 200_000_000}, "copied", "fewer pixel bytes than frames"),
        ({**_RLE, "frames": 62_500}, "htj2k", ""),
        ({**_RLE, "frames": 62_501}, "copied", "fewer pixel bytes than frames"),
        ({**_RLE, "pixel_length_bytes": 80, "frames": 10}, "htj2k", ""),
        ({**_RLE, "pixel_length_bytes": 80, "frames": 11}, "copied", "fewer pixel bytes"),
    ],
)
def test_pixel_kinds(change: dict, form: str, reason: str) -> None:
    choice = choose(replace(CT, **change))
    assert choice.form == form
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        ({}, True),
        ({"modalities": ("MR", "CT")}, True),
        ({"modalities": ("MR",)}, False),
        ({"sop_class_uids": ("1.2.840.10008.5.1.4.1.1.2",)}, True),
        ({"sop_class_uids": ("1.2",)}, False),
        ({"transfer_syntax_uids": ("1.2.840.10008.1.2.1",)}, True),
        ({"transfer_syntax_uids": ("1.2.840.10008.1.2",)}, False),
        ({"sources": ("CT1",)}, True),
        ({"sources": ("CT2",)}, False),
        ({"min_size_bytes": 500_000}, True),
        ({"min_size_bytes": 500_001}, False),
        ({"modalities": ("CT",), "sources": ("CT2",)}, False),
    ],
)
def test_every_condition_of_a_rule_must_hold(conditions: dict, matches: bool) -> None:
    rule = CompressionRule(name="as it is", action="copy", **conditions)
    expected = Choice("copied", "rule as it is") if matches else Choice("htj2k", "")
    assert choose(CT, [rule]) == expected


def test_the_first_matching_rule_wins_and_cannot_do_the_impossible() -> None:
    compress = CompressionRule(name="big", action="htj2k", min_size_bytes=1000)
    copy = CompressionRule(name="rest", action="copy")
    assert choose(CT, [compress, copy]) == Choice("htj2k", "rule big")
    assert choose(CT, [copy, compress]) == Choice("copied", "rule rest")
    assert choose(replace(CT, frames=0), [compress]) == Choice("copied", "no pixels")
