"""Metadata on the hot path are those of JsonHeaders, element by element and from slice to slice."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_files
from stored_series import image, noise, part10

from raypacs import dicom
from raypacs.codec.frame_geometry import GEOMETRY_TAGS
from raypacs.dicom_json import JsonHeaders
from raypacs.errors import MalformedInstance
from raypacs.work.metadata import SeriesMetadata

FILES = sorted(
    path
    for path in map(Path, get_testdata_files())
    if path.suffix == ".dcm" and path.stat().st_size < 300_000
)


def header_of(data: bytes) -> tuple[bytes, dicom.Header] | None:
    """Return the bytes before Pixel Data of an Explicit VR Little Endian file, and its header."""
    try:
        part = dicom.split_part10(data)
        if part.transfer_syntax_uid in (dicom.IMPLICIT_VR_LE, dicom.EXPLICIT_VR_BE):
            return None
        if part.transfer_syntax_uid in dicom.DEFLATED:
            return None
        header = dicom.scan(data, part.transfer_syntax_uid, part.dataset_offset)
    except MalformedInstance:
        return None
    end = header.pixel.start if header.pixel is not None else header.end
    return data[part.dataset_offset : end], header


def test_every_bundled_file_gives_the_same_json() -> None:
    made, compared = SeriesMetadata(1024), 0
    for path in FILES:
        found = header_of(path.read_bytes())
        if found is None:
            continue
        plain, header = found
        expected = JsonHeaders(1024).text(header, f"/uri/{path.name}")
        for _ in range(2):  # the second time from what is kept
            assert made.of_explicit(plain, f"/uri/{path.name}") == expected, path.name
        compared += 1
    assert compared > 50


def test_character_sets_are_not_mixed_up() -> None:
    made = SeriesMetadata(1024)
    for charset, raw in (("ISO_IR 100", b"M\xfcller"), ("ISO_IR 144", b"M\xfcller")):
        dataset = image(noise(1, 4, 4), SpecificCharacterSet=charset)
        data = part10(dataset).replace(b"Synthetic^Patient ", b"M\xfcller^           ")
        plain, header = header_of(data) or (b"", None)
        assert raw in plain
        text = made.of_explicit(plain, "/u")
        assert header is not None
        assert text == JsonHeaders(1024).text(header, "/u")
        assert (pydicom.dcmread(io.BytesIO(data)).PatientName.family_name) in text


def test_bulk_data_of_another_instance_is_not_repeated() -> None:
    made = SeriesMetadata(8)
    dataset = image(noise(1, 4, 4))
    dataset.add_new(0x00091001, "OB", bytes(100))
    plain, _ = header_of(part10(dataset)) or (b"", None)
    for uri in ("/first", "/second"):
        text = json.loads(made.of_explicit(plain, uri))
        assert text["00091001"]["BulkDataURI"] == f"{uri}/bulkdata/00091001"


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("DS", b"1.50"),
        ("DS", b"-0"),
        ("DS", b"1e3 "),
        ("DS", b"1\\\\2 "),
        ("DS", b"007.250\\-3"),
        ("DS", b" 1 "),
        ("DS", b"abcd"),
        ("IS", b"12"),
        ("IS", b"-007\\+3\\5"),
        ("IS", b"1\\-2 "),
        ("UI", b"1.2.3\0"),
        ("UI", b"1.2\\1.3 "),
        ("CS", b"A\\B "),
        ("CS", b'A"B '),
        ("CS", b" LEFT "),
        ("TM", b"101112.123456 "),
        ("DA", b"20240101"),
        ("CS", b""),
        ("FD", struct.pack("<d", 0.1)),
        ("FD", struct.pack("<d", 1e300)),
        ("FD", struct.pack("<d", float("nan"))),
        ("FD", struct.pack("<2d", 1, 2)),
    ],
)
def test_common_elements_are_written_alike(vr: str, value: bytes) -> None:
    data = struct.pack("<HH2sH", 0x0018, 0x9999, vr.encode(), len(value)) + value
    header = dicom.scan(data, dicom.EXPLICIT_VR_LE)
    assert SeriesMetadata(1024).of_explicit(data, "/u") == JsonHeaders(1024).text(header, "/u")


def test_floats_that_json_lacks_are_the_words_that_other_languages_read() -> None:
    value = struct.pack("<4d", float("nan"), float("inf"), float("-inf"), 1.5)
    data = struct.pack("<HH2sH", 0x0018, 0x9087, b"FD", len(value)) + value
    text = JsonHeaders(1024).text(dicom.scan(data, dicom.EXPLICIT_VR_LE), "/u")
    found = json.loads(text)["00189087"]["Value"]
    assert found == ["NaN", "Infinity", "-Infinity", 1.5]


def test_a_truncated_header_is_malformed() -> None:
    plain, _ = header_of(part10(image(noise(1, 4, 4)))) or (b"", None)
    for end in (3, len(plain) - 1):
        with pytest.raises(MalformedInstance):
            SeriesMetadata(1024).of_explicit(plain[:end], "/u")


def elements(*, window: float) -> bytes:
    dataset = image(noise(1, 4, 4), WindowCenter=window, WindowWidth=400)
    plain, _ = header_of(part10(dataset)) or (b"", None)
    return plain


def test_element_texts_of_geometry_are_kept_beside_and_shared() -> None:
    made, found = SeriesMetadata(1024), []
    for window in (40, 40, 50):
        whole = json.loads(made.of_explicit(elements(window=window), "/u"))
        one = json.loads("{" + ",".join(made.geometry) + "}")
        assert one == {tag: whole[tag] for tag in whole if tag in GEOMETRY_TAGS}
        assert {"00280010", "00280011", "00281050", "00080018"} <= one.keys()
        found.append({text[1:9]: text for text in made.geometry})
    first, second, third = found
    assert [tag for tag in first if first[tag] is not second[tag]] == ["00080018"]
    assert [tag for tag in first if first[tag] is not third[tag]] == ["00080018", "00281050"]


def test_there_are_no_texts_of_geometry_where_the_whole_is_to_be_parsed() -> None:
    made = SeriesMetadata(100_000)
    plain = elements(window=40)
    long = struct.pack("<HH2sH", 0x3004, 0x000C, b"DS", 6000) + b"1\\" * 2999 + b"1 "
    undefined = struct.pack("<HH2sHI", 0x3004, 0x0010, b"SQ", 0, 0xFFFFFFFF)
    undefined += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    for after in (long, undefined):
        made.of_explicit(plain, "/u")
        assert made.geometry
        made.of_explicit(plain + after, "/u")
        assert made.geometry == ()
    made.of_explicit(plain, "/u")
    with pytest.raises(MalformedInstance):
        made.of_explicit(plain[:-1], "/u")
    assert made.geometry == ()
