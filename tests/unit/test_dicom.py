"""The fast scan and the JSON headers, against pydicom as the reference."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pydicom
import pytest
from dicom_bytes import SYNTAX, data_set, element

from raypacs.dicom import (
    DEFLATED,
    EXPLICIT_VR_LE,
    describe,
    file_meta,
    inflate,
    scan,
    split_part10,
)
from raypacs.dicom_json import JsonHeaders
from raypacs.errors import MalformedInstance

# Only what the wheel carries: pydicom's own finder tries to download the rest.
WHEEL = Path(pydicom.__file__).parent / "data"
# Deliberately broken in the wheel: pydicom itself reads them only with force=True or not at all.
SAMPLES = sorted(
    path
    for path in WHEEL.rglob("*.dcm")
    if not path.name.startswith(("no_meta", "badVR", "rtplan_trunc", "MR_truncated"))
    and path.read_bytes()[128:132] == b"DICM"
)


def header_of(data: bytes):
    part10 = split_part10(data)
    if part10.transfer_syntax_uid in DEFLATED:
        return scan(inflate(data, part10.dataset_offset), EXPLICIT_VR_LE)
    return scan(data, part10.transfer_syntax_uid, part10.dataset_offset)


def reference(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        dataset.decode()
        return dataset


def comparable(value, *, private: bool):
    """Fold what PS3.18 F.2.5 and PS3.5 leave open: nulls, padding, group lengths, private UN."""
    if isinstance(value, dict):
        if private and value.get("vr") == "UN":
            return "private"
        return {
            key: comparable(item, private=private)
            for key, item in value.items()
            if not (len(key) == 8 and key.endswith("0000")) and item != []
        }
    if isinstance(value, list):
        return [comparable(item, private=private) for item in value]
    return (value.strip() or None) if isinstance(value, str) else value


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_json_equals_pydicom(path: Path) -> None:
    try:
        header = header_of(path.read_bytes())
    except MalformedInstance:
        assert path.name in ("SC_rgb_jpeg.dcm", "meta_missing_tsyntax.dcm")
        return
    mine = json.loads(JsonHeaders(1 << 30).text(header, "/x"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = reference(path)
        for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            if keyword in theirs:
                del theirs[keyword]
        expected = theirs.to_json_dict()
    for tag, value in mine.items():
        if int(tag[:4], 16) % 2 and value["vr"] == "UN":
            continue  # pydicom knows some private dictionaries
        if "UN" in json.dumps(value):
            continue
        assert comparable(value, private=False) == comparable(expected[tag], private=False), tag
    missing = {tag for tag in set(expected) - set(mine) if not tag.endswith("0000")}
    assert missing <= {"FFFCFFFC"}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_describe_equals_pydicom(path: Path) -> None:
    data = path.read_bytes()
    theirs = reference(path)
    try:
        part10 = split_part10(data)
        record = describe(
            data,
            transfer_syntax_uid=part10.transfer_syntax_uid,
            dataset_offset=part10.dataset_offset,
            tier="",
            path="",
            size_bytes=len(data),
            sha256="",
            source="",
            received_at_s=0.0,
        )
    except MalformedInstance:
        assert not theirs.get("StudyInstanceUID") or path.name == "SC_rgb_jpeg.dcm"
        return
    assert record.sop_instance_uid == theirs.SOPInstanceUID
    assert record.study_uid == theirs.StudyInstanceUID
    assert record.rows == (theirs.get("Rows") or 0)
    assert record.bits_stored == (theirs.get("BitsStored") or 0)
    assert record.frames == (int(theirs.get("NumberOfFrames") or 1) if record.rows else 0) or (
        "PixelData" not in theirs
    )
    if record.pixel_length_bytes > 0 and record.pixel_offset_bytes >= 0:
        start = record.pixel_offset_bytes
        stored = data[start : start + record.pixel_length_bytes]
        pixels = theirs.get("PixelData") or theirs.get("FloatPixelData")
        assert pixels is None or stored == pixels


def test_file_meta_is_read_by_pydicom(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(file_meta("1.2.840.10008.5.1.4.1.1.7", "1.2.3", EXPLICIT_VR_LE, "SENDER"))
    meta = pydicom.dcmread(path).file_meta
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == EXPLICIT_VR_LE
    assert meta.SourceApplicationEntityTitle == "SENDER"
    assert split_part10(path.read_bytes()).dataset_offset == path.stat().st_size


def test_text_has_no_null_character() -> None:
    """Which a database may not hold; a UID with one is no UID."""
    name = element(0x00100010, "PN", b"Synthetic^Patient")
    data = (
        data_set()
        .replace(name, element(0x00100010, "PN", b"Synthetic\0^Patien"))
        .replace(element(0x00080060, "CS", b"CT"), element(0x00080060, "CS", b"C\0TX"))
    )
    asked = {"transfer_syntax_uid": SYNTAX, "dataset_offset": 0, "tier": "", "path": ""}
    asked |= {"size_bytes": len(data), "sha256": "", "source": "", "received_at_s": 0.0}
    record = describe(data, **asked)
    assert (record.modality, record.attributes["PatientName"]) == ("CTX", "Synthetic^Patien")
    with pytest.raises(MalformedInstance):
        describe(data_set(study="1.2\x003"), **asked)


def sample(name: str) -> bytes:
    return (WHEEL / "test_files" / name).read_bytes()


@pytest.mark.parametrize("cut", [140, 200, 401, 1000, 20_000])
def test_truncation_is_named(cut: int) -> None:
    data = sample("CT_small.dcm")[:cut]
    with pytest.raises(MalformedInstance, match=r"truncated|ends within|no Transfer Syntax"):
        header_of(data)


def test_no_prefix_is_named() -> None:
    with pytest.raises(MalformedInstance, match="no DICM prefix"):
        split_part10(b"\0" * 200)


def test_truncated_fragment_is_named() -> None:
    data = sample("MR_small_RLE.dcm")
    with pytest.raises(MalformedInstance, match=r"truncated|fragment"):
        header_of(data[: len(data) - 1000])


def test_wrong_transfer_syntax_is_named() -> None:
    data = sample("MR_small_implicit.dcm")
    with pytest.raises(MalformedInstance, match="not in the transfer syntax"):
        scan(data, EXPLICIT_VR_LE, split_part10(data).dataset_offset)


def test_fragments_do_not_mix_values_that_differ() -> None:
    data = bytearray(sample("CT_small.dcm"))
    headers = JsonHeaders()
    before = json.loads(headers.text(header_of(bytes(data)), "/a"))
    element = header_of(bytes(data)).element(0x00200013)
    data[element.value_offset : element.value_offset + element.length] = b"7".ljust(element.length)
    after = json.loads(headers.text(header_of(bytes(data)), "/a"))
    assert after["00200013"]["Value"] == [7]
    assert {k: v for k, v in before.items() if k != "00200013"} == {
        k: v for k, v in after.items() if k != "00200013"
    }


def test_long_binary_values_become_bulk_data() -> None:
    header = header_of(sample("CT_small.dcm"))
    text = JsonHeaders(inline_value_bytes=4).text(header, "/dicom-web/studies/1")
    long_ones = [
        element
        for element in header.elements
        if element.vr in ("OB", "OW", "UN") and element.length > 4 and element.tag != 0x7FE00010
    ]
    assert long_ones
    values = json.loads(text)
    for one in long_ones:
        key = f"{one.tag:08X}"
        assert values[key]["BulkDataURI"] == f"/dicom-web/studies/1/bulkdata/{key}"
