"""The compression choice as a table."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from raypacs.config import CompressionRule, Settings, parse
from raypacs.errors import ConfigError
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
_COLOUR = {"photometric": "RGB", "samples": 3, "bits_allocated": 32, "frames": 1}


@pytest.mark.parametrize(
    ("change", "form", "reason"),
    [
        ({}, "htj2k", ""),
        ({"photometric": "MONOCHROME1"}, "htj2k", ""),
        ({"photometric": "RGB", "samples": 3}, "htj2k", ""),
        ({"photometric": "YBR_FULL", "samples": 3}, "htj2k", ""),
        ({"bits_allocated": 32, "bits_stored": 32}, "htj2k", ""),
        ({**_COLOUR, "bits_stored": 17}, "copied", "colour of 17 bits stored"),
        ({**_COLOUR, "bits_stored": 16}, "htj2k", ""),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.70"}, "htj2k", ""),
        ({"frames": 0}, "copied", "no pixels"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.50"}, "copied", "JPEG baseline"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.111"}, "copied", "JPEG XL"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.91"}, "htj2k", ""),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.203"}, "htj2k", ""),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.94"}, "copied", "JPIP"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.102"}, "copied", "video"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.106.1"}, "copied", "video"),
        ({"bits_allocated": 1, "bits_stored": 1}, "bits", ""),
        ({"bits_stored": 0, "bits_allocated": 32}, "wavelet", ""),
        ({"bits_stored": 0, "bits_allocated": 64}, "wavelet", ""),
        ({"bits_stored": 0}, "copied", "16 bits allocated without Bits Stored"),
        ({"bits_stored": 0, "bits_allocated": 32, "samples": 3}, "copied", "floating-point"),
        ({**_RLE, "bits_stored": 0, "bits_allocated": 32}, "copied", "floating-point"),
        ({"bits_stored": 0, "bits_allocated": 64, "frames": 99}, "copied", "fewer pixel bytes"),
        ({"bits_allocated": 24, "bits_stored": 24}, "copied", "24 bits allocated"),
        ({"bits_allocated": 64, "bits_stored": 64}, "copied", "64 bits allocated"),
        (
            {
                "bits_allocated": 32,
                "bits_stored": 32,
                "transfer_syntax_uid": "1.2.840.10008.1.2.2",
                "pixel_length_bytes": 1 << 30,
            },
            "copied",
            "big endian samples of 32 bits: readers differ in the order of their words",
        ),
        ({"photometric": "PALETTE COLOR"}, "htj2k", ""),
        ({"photometric": "YBR_FULL_422", "samples": 3}, "htj2k", ""),
        ({"photometric": "YBR_FULL_422", "samples": 3, "frames": 4}, "copied", "fewer pixel"),
        ({**_RLE, "photometric": "YBR_FULL_422", "samples": 3}, "copied", "sub-sampled"),
        ({"photometric": "HSV", "samples": 3}, "copied", "HSV"),
        ({"photometric": ""}, "copied", "missing"),
        ({"samples": 3}, "copied", "3 samples"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.7"}, "htj2k", ""),
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
    ("change", "nearest"),
    [
        ({}, False),
        ({"photometric": "PALETTE COLOR"}, True),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.7"}, True),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.7", "frames": 0}, False),
        ({"bits_allocated": 1, "bits_stored": 1}, False),
    ],
)
def test_samples_that_are_names_have_no_averages(change: dict, nearest: bool) -> None:
    assert choose(replace(CT, **change)).nearest is nearest


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        ({}, True),
        ({"modalities": ("MR", "CT")}, True),
        ({"modalities": ("MR",)}, False),
        ({"modalities": ("C?",)}, True),
        ({"modalities": ("M*",)}, False),
        ({"sop_classes": ("1.2.840.10008.5.1.4.1.1.2",)}, True),
        ({"sop_classes": ("1.2",)}, False),
        ({"sop_classes": ("CT Image Storage",)}, True),
        ({"sop_classes": ("ct image storage",)}, True),
        ({"sop_classes": ("CTImageStorage",)}, True),
        ({"sop_classes": ("CT*",)}, True),
        ({"sop_classes": ("*MR*", "*Tomo*")}, False),
        ({"sop_classes": ("1.2.840.10008.5.1.4.1.1.2*",)}, True),
        ({"sop_classes": ("Enhanced CT Image Storage",)}, False),
        ({"sop_classes": ("*",)}, True),
        ({"sop_class_uids": ("1.2.840.10008.5.1.4.1.1.2",)}, True),
        ({"sop_class_uids": ("1.2",)}, False),
        ({"transfer_syntaxes": ("1.2.840.10008.1.2.1",)}, True),
        ({"transfer_syntaxes": ("Explicit VR Little Endian",)}, True),
        ({"transfer_syntaxes": ("ExplicitVR*",)}, True),
        ({"transfer_syntaxes": ("JPEG*",)}, False),
        ({"transfer_syntax_uids": ("1.2.840.10008.1.2.1",)}, True),
        ({"transfer_syntax_uids": ("1.2.840.10008.1.2",)}, False),
        ({"sources": ("CT1",)}, True),
        ({"sources": ("CT2",)}, False),
        ({"sources": ("ct1",)}, False),
        ({"sources": ("CT*",)}, True),
        ({"min_size_bytes": 500_000}, True),
        ({"min_size_bytes": 500_001}, False),
        ({"max_size_bytes": 500_000}, True),
        ({"max_size_bytes": 499_999}, False),
        ({"min_frame_bytes": 524_288, "max_frame_bytes": 524_288}, True),
        ({"min_frame_bytes": 524_289}, False),
        ({"max_frame_bytes": 524_287}, False),
        ({"min_frames": 1, "max_frames": 1}, True),
        ({"min_frames": 2}, False),
        ({"min_rows": 512, "min_columns": 512}, True),
        ({"min_rows": 513}, False),
        ({"max_rows": 511}, False),
        ({"min_columns": 513}, False),
        ({"max_columns": 511}, False),
        ({"modalities": ("CT",), "sources": ("CT2",)}, False),
    ],
)
def test_every_condition_of_a_rule_must_hold(conditions: dict, matches: bool) -> None:
    rule = CompressionRule(name="as it is", action="copy", **conditions)
    expected = Choice("copied", "rule as it is") if matches else Choice("htj2k", "")
    assert choose(CT, [rule]) == expected


def test_a_bracket_in_a_name_is_a_character() -> None:
    name = (
        "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])"
    )
    rule = CompressionRule(name="x", action="copy", transfer_syntaxes=(name,))
    jpeg = replace(CT, transfer_syntax_uid="1.2.840.10008.1.2.4.70")
    assert choose(jpeg, [rule]) == Choice("copied", "rule x")
    assert choose(CT, [rule]) == Choice("htj2k", "")


def test_lossy_by_rule_is_prepared_without_loss() -> None:
    rule = CompressionRule(name="small", action="lossy", ratio=10)
    assert choose(CT, [rule]) == Choice("htj2k", "rule small")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sop_classes": ["CT Image Storag"]}, "sop_classes: no SOP Class 'CT Image Storag'; did "),
        ({"sop_classes": ["CT Image Storag"]}, "did you mean 'CT Image Storage'?"),
        ({"sop_classes": ["*Tomography of*"]}, "no SOP Class has a UID, name or keyword like"),
        ({"sop_classes": ["1.2.840.10008.1.2"]}, "'Implicit VR Little Endian', and no SOP Class"),
        ({"transfer_syntaxes": ["JPEG2001"]}, "did you mean 'JPEG2000'?"),
        ({"transfer_syntaxes": ["HTJ2K Losless"]}, "did you mean 'HTJ2KLossless'?"),
        ({"transfer_syntaxes": ["1.2.840.10008.5.1.4.1.1.2"]}, "and no Transfer Syntax"),
        (
            {"sop_classes": ["1.2.840.10008.5.1.4.1.1.02"]},
            "no SOP Class '1.2.840.10008.5.1.4.1.1.02'",
        ),
        ({"sop_classes": ["1." + "2" * 63]}, "no SOP Class"),
        ({"sop_classes": ["1.2"], "sop_class_uids": ["1.3"]}, "is the older name of sop_classes"),
        ({"modalities": ["ct"]}, "modalities: no Modality 'ct'; did you mean 'CT'?"),
        ({"modalities": ["MAMMO"]}, "no Modality 'MAMMO'"),
        ({"sources": [" "]}, "sources: a source has at least one character"),
        ({"modality": ["CT"]}, "unknown setting 'modality'; did you mean 'modalities'?"),
        ({"action": "drop"}, "action: Input should be 'htj2k', 'copy' or 'lossy'"),
        ({"name": ""}, "name: "),
        ({"min_rows": 5, "max_rows": 4}, "rule 'r': max_rows is less than min_rows"),
        ({"action": "lossy"}, "needs ratio, psnr_db or both"),
        ({"ratio": 5}, "ratio is for action lossy only"),
        ({"action": "lossy", "ratio": 0.5}, "ratio must be more than 1"),
    ],
)
def test_what_can_never_match_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(CompressionRule, {"name": "r", "action": "copy"} | values, "settings")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"modalities": ["XYZ*"]},
        {"sop_classes": ["1.3.12.2.1107.5.9.1"]},
        {"sop_classes": ["1.3.12.2.*"]},
        {"transfer_syntaxes": ["1.2.840.113619.5.2"]},
    ],
)
def test_private_values_are_taken(values: dict) -> None:
    assert parse(CompressionRule, {"name": "r", "action": "copy"} | values, "settings")


def test_the_first_matching_rule_wins_and_cannot_do_the_impossible() -> None:
    compress = CompressionRule(name="big", action="htj2k", min_size_bytes=1000)
    copy = CompressionRule(name="rest", action="copy")
    assert choose(CT, [compress, copy]) == Choice("htj2k", "rule big")
    assert choose(CT, [copy, compress]) == Choice("copied", "rule rest")
    assert choose(replace(CT, frames=0), [compress]) == Choice("copied", "no pixels")


def test_the_examples_of_the_documentation_can_be_applied() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compression-rules.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    rules = [rule for one in blocks for rule in tomllib.loads(one)["compression"]]
    settings = parse(Settings, {"compression": rules}, "docs")
    assert [rule.action for rule in settings.compression] == ["htj2k", "copy", "lossy", "lossy"]
