"""What `raypacs ingest PATH...` finds and what it leaves out, and why."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from raypacs.sender import sources
from raypacs.sender.sources import Candidate, Skipped


@pytest.fixture
def ct() -> Path:
    return Path(str(get_testdata_file("CT_small.dcm")))


def _found(*paths: Path) -> tuple[list[str], dict[str, str]]:
    found = list(sources.find(paths))
    taken = [each.name for each in found if isinstance(each, Candidate)]
    left = {Path(each.name).name: each.reason for each in found if isinstance(each, Skipped)}
    return taken, left


def test_a_file_is_read_in_full_each_time(ct: Path) -> None:
    (candidate,) = sources.find([ct])
    assert isinstance(candidate, Candidate)
    assert candidate.size_bytes == ct.stat().st_size
    assert b"".join(candidate.read()) == b"".join(candidate.read()) == ct.read_bytes()


def test_folders_are_walked_and_other_files_skipped_with_reason(tmp_path: Path, ct: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/image").write_bytes(ct.read_bytes())
    (tmp_path / "a/readme.txt").write_text("hello")
    (tmp_path / "empty").touch()
    taken, left = _found(tmp_path)
    assert taken == [str(tmp_path / "a/b/image")]
    assert left == {"readme.txt": sources.NOT_DICOM, "empty": sources.NOT_DICOM}


@pytest.mark.parametrize("implicit", [True, False])
def test_a_data_set_without_file_meta_is_named(tmp_path: Path, ct: Path, implicit: bool) -> None:
    dataset = pydicom.dcmread(ct)
    path = tmp_path / "bare"
    pydicom.dcmwrite(
        path,
        pydicom.Dataset({elem.tag: elem for elem in dataset}),
        implicit_vr=implicit,
        little_endian=True,
    )
    (skipped,) = sources.find([path])
    assert isinstance(skipped, Skipped)
    assert skipped.reason == sources.NO_FILE_META
    assert skipped.looks_dicom


def test_members_of_a_zip_file_are_read_as_they_are(tmp_path: Path, ct: Path) -> None:
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(ct, "folder/image.dcm")
        archive.writestr("notes.txt", "hello")
        archive.writestr("inner.zip", b"PK\x03\x04rest")
    found = list(sources.find([path]))
    (candidate,) = [each for each in found if isinstance(each, Candidate)]
    assert candidate.size_bytes == ct.stat().st_size
    assert b"".join(candidate.read()) == b"".join(candidate.read()) == ct.read_bytes()
    reasons = {each.reason for each in found if isinstance(each, Skipped)}
    assert reasons == {sources.NOT_DICOM, "zip file inside a zip file"}


def test_a_damaged_zip_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "broken.zip"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    (skipped,) = sources.find([path])
    assert isinstance(skipped, Skipped)
    assert skipped.looks_dicom
    assert "zip file" in skipped.reason


def test_a_dicomdir_stands_for_what_it_references() -> None:
    dicomdir = Path(str(get_testdata_file("DICOMDIR")))
    taken, left = _found(dicomdir)
    assert len(taken) == 31
    assert left == {}
    assert all(Path(name).is_file() for name in taken)


def test_a_dicomdir_met_in_a_folder_is_not_followed_twice() -> None:
    folder = Path(str(get_testdata_file("DICOMDIR"))).parent
    taken, left = _found(folder)
    assert len(taken) == len(set(taken))
    assert left["DICOMDIR"] == sources.MEDIA_DIRECTORY


def test_a_dicomdir_finds_other_case_and_tells_what_is_missing(tmp_path: Path, ct: Path) -> None:
    original = pydicom.dcmread(str(get_testdata_file("DICOMDIR")))
    ids = [r.ReferencedFileID for r in original.DirectoryRecordSequence if "ReferencedFileID" in r]
    original.save_as(tmp_path / "DICOMDIR")
    first = tmp_path.joinpath(*(part.lower() for part in ids[0]))
    first.parent.mkdir(parents=True)
    first.write_bytes(ct.read_bytes())
    found = list(sources.find([tmp_path / "DICOMDIR"]))
    assert [each.name for each in found if isinstance(each, Candidate)] == [str(first)]
    missing = [each for each in found if isinstance(each, Skipped)]
    assert len(missing) == len(ids) - 1
    assert all("not there" in each.reason and each.looks_dicom for each in missing)


def test_a_dicomdir_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    assert sources._referenced(tmp_path / "inside", ["..", "secret"]) is None
    assert sources._referenced(tmp_path / "inside", ["../secret"]) is None
    assert sources._referenced(tmp_path, ["SECRET"]) == tmp_path / "secret"


def test_counting_opens_only_zip_files(tmp_path: Path, ct: Path) -> None:
    (tmp_path / "one").write_bytes(b"12345")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a", b"123")
        archive.writestr("b", b"45")
    assert sources.count([tmp_path]) == (3, 10)
    assert sources.count([tmp_path / "absent"]) == (1, 0)
