"""DICOMDIR: every file is moved byte for byte, has a record, and other programs read it."""

from __future__ import annotations

import io
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.tag import Tag
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    MRSpectroscopyStorage,
)
from web_world import image_file

from raypacs.errors import AlreadyExists
from raypacs.sender.media import check_free, write_medium

STUDY = "1.2.3"
STUDY_ELEMENTS = {"StudyTime": "101500", "StudyID": "7", "SeriesNumber": 1}


def other_file(sop_class: str, number: int, **elements: object) -> bytes:
    """A Part 10 file without pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, f"{STUDY}.9.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, f"{STUDY}.9"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID, dataset.Modality = "M\u00fcller^J\u00f6rg", "P1", "OT"
    dataset.StudyDate, dataset.InstanceNumber = "20240102", number
    for keyword, value in {**STUDY_ELEMENTS, "SeriesNumber": 9, **elements}.items():
        setattr(dataset, keyword, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def report() -> bytes:
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "121", "DCM", "Report"
    return other_file(
        BasicTextSRStorage,
        1,
        Modality="SR",
        CompletionFlag="COMPLETE",
        VerificationFlag="UNVERIFIED",
        ContentDate="20240102",
        ContentTime="101500",
        ConceptNameCodeSequence=[title],
    )


def document() -> bytes:
    return other_file(
        EncapsulatedPDFStorage,
        2,
        Modality="DOC",
        EncapsulatedDocument=b"%PDF-1.4 ",
        MIMETypeOfEncapsulatedDocument="application/pdf",
        ContentDate="20240102",
        ContentTime="101500",
        DocumentTitle="A letter",
        ConceptNameCodeSequence=[],
        HL7InstanceIdentifier="",
    )


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two series of images, a report and a document."""
    made = [
        image_file(
            np.full((8, 8), number, np.uint16),
            number,
            series=f"{STUDY}.{one}",
            **{**STUDY_ELEMENTS, "SeriesNumber": one},
        )
        for one in (1, 2)
        for number in (1, 2, 3)
    ]
    made += [report(), document()]
    folder = tmp_path / "loose"
    folder.mkdir()
    paths = []
    for number, data in enumerate(made):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(data)
    return paths


def test_every_file_has_a_record_and_its_bytes(files: list[Path], tmp_path: Path) -> None:
    before = sorted(path.read_bytes() for path in files)
    out = tmp_path / "out"
    out.mkdir()
    medium = write_medium(files, out)
    assert (medium.objects, medium.left_out) == (8, {})
    assert not medium.invented
    records = FileSet(out / "DICOMDIR")
    assert sorted(Path(one.path).read_bytes() for one in records) == before
    kinds = {one.node._record.DirectoryRecordType for one in records}
    assert kinds == {"IMAGE", "SR DOCUMENT", "ENCAP DOC"}
    assert records.find_values("PatientName") == ["M\u00fcller^J\u00f6rg"]
    named = {path for path in out.rglob("*") if path.is_file()}
    assert named == {Path(one.path) for one in records} | {out / "DICOMDIR"}
    for path in named:  # File IDs: PS3.10 section 8.2
        for part in path.relative_to(out).parts:
            assert len(part) <= 8
            assert part.replace("_", "A").isalnum()
            assert part == part.upper()


def test_dcmtk_reads_it(files: list[Path], tmp_path: Path, peer: Callable[[str], str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_medium(files, out)
    done = subprocess.run(
        [peer("dcmdump"), "+P", "0004,1500", "+P", "0004,1430", str(out / "DICOMDIR")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("[IMAGE") == 6
    assert done.stdout.count("[SR DOCUMENT") == 1
    assert done.stderr == ""


def test_what_is_missing_is_made_up_in_the_dicomdir_alone(tmp_path: Path) -> None:
    data = image_file(np.zeros((8, 8), np.uint16), 1, PatientID="", SeriesDate="20240105")
    dataset = pydicom.dcmread(io.BytesIO(data))
    del dataset.StudyDate
    path = tmp_path / "a.dcm"
    dataset.save_as(path)
    data = path.read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    medium = write_medium([path], out)
    assert medium.invented == dict.fromkeys(
        ("PatientID", "StudyDate", "StudyTime", "StudyID", "SeriesNumber"), 1
    )
    (one,) = FileSet(out / "DICOMDIR")
    assert Path(one.path).read_bytes() == data
    assert one.StudyDate == "20240105"


def test_what_has_no_record_is_there_and_named(files: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "loose" / "odd.dcm"
    odd.write_bytes(other_file(MRSpectroscopyStorage, 3))
    data = odd.read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    medium = write_medium([*files, odd], out)
    assert list(medium.left_out) == ["EXTRA/IM000000"]
    assert "missing" in medium.left_out["EXTRA/IM000000"]
    assert (out / "EXTRA" / "IM000000").read_bytes() == data
    assert len(list(FileSet(out / "DICOMDIR"))) == 8


def test_a_medium_is_never_mixed_with_another(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    check_free(out)
    write_medium(files[:1], out)
    with pytest.raises(AlreadyExists):
        write_medium(files[1:], out)


def test_real_files_of_other_kinds(tmp_path: Path) -> None:
    """What pydicom carries: presentation states, RT, waveforms."""
    names = ("rtplan.dcm", "rtdose.dcm", "reportsi.dcm", "CT_small.dcm", "US1_J2KR.dcm")
    paths = []
    for name in names:
        found = get_testdata_file(name)
        if found:
            paths.append(tmp_path / name)
            paths[-1].write_bytes(Path(found).read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    medium = write_medium(paths, out)
    assert len(list(FileSet(out / "DICOMDIR"))) + len(medium.left_out) == len(paths)
    assert len(medium.left_out) <= 1


@pytest.mark.parametrize("name", ["PT000000/ST000000/SE000000/IM000000", "EXTRA/IM000000"])
def test_nothing_is_overwritten(files: list[Path], tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("precious")
    with pytest.raises(AlreadyExists):
        check_free(out)  # before anything is fetched
    with pytest.raises(AlreadyExists):
        write_medium(files, out)
    assert [path for path in out.rglob("*") if path.is_file()] == [out / name]
    assert (out / name).read_text() == "precious"
    assert all(path.exists() for path in files)


def test_a_name_taken_meanwhile_is_not_overwritten(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypacs.sender.media.check_free", lambda *_: None)
    (tmp_path / "DICOMDIR").write_text("precious")
    with pytest.raises(AlreadyExists):
        write_medium(files[:1], tmp_path)
    assert (tmp_path / "DICOMDIR").read_text() == "precious"


@pytest.mark.parametrize(
    ("keyword", "value", "recorded"),
    [
        ("StudyDate", "2020-01-31", "20200131"),
        ("StudyDate", "2020.01.31", "20200131"),
        ("StudyDate", "20200231", "19000101"),
        ("StudyDate", "31.1.2020", "19000101"),
        ("StudyTime", "10:11:12.5", "101112.5"),
        ("StudyTime", "25", "000000"),
        ("StudyID", "x" * 30, "x" * 16),
        ("PatientID", "A" * 70, "A" * 64),
        ("PatientID", "A\\B", "Synthetic^Patient"),
        ("Modality", "ct", "CT"),
        ("StudyDescription", "\u00fc" * 65, "\u00fc" * 64),
        ("AccessionNumber", "1\n2", "1 2"),
    ],
)
def test_records_have_valid_values_whatever_the_files_have(
    tmp_path: Path, keyword: str, value: str, recorded: str
) -> None:
    data = image_file(np.zeros((8, 8), np.uint16), 1, PatientID="P", **STUDY_ELEMENTS)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.PatientName, dataset.SpecificCharacterSet = "Synthetic^Patient", "ISO_IR 192"
    vr, raw = dictionary_VR(keyword), value.encode()
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, vr, len(raw), raw + b" " * (len(raw) % 2), 0, False, True)
    path = tmp_path / "a.dcm"
    dataset.save_as(path)
    data = path.read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    with warnings.catch_warnings(record=True) as told:
        medium = write_medium([path], out)
    assert (medium.replaced, medium.left_out, told) == ({keyword: 1}, {}, [])
    (one,) = FileSet(out / "DICOMDIR")
    assert one[keyword].value == recorded
    assert Path(one.path).read_bytes() == data


def test_an_integer_that_is_none_and_a_date_beside_the_study(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(io.BytesIO(report()))
    for keyword, raw in (("SeriesNumber", b"1.5 "), ("ContentDate", b"soon")):
        tag = Tag(keyword)
        vr = dictionary_VR(keyword)
        dataset[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)
    path = tmp_path / "a.dcm"
    dataset.save_as(path)
    medium = write_medium([path], tmp_path)
    assert medium.replaced == {"SeriesNumber": 1, "ContentDate": 1}
    (one,) = FileSet(tmp_path / "DICOMDIR")
    assert (one.SeriesNumber, one.ContentDate) == (1, "20240102")
