"""Rows of the index as DICOM JSON; pydicom reads them back."""

from __future__ import annotations

import json

from pydicom import Dataset

from raypacs.web import qido

ROW = {
    "StudyInstanceUID": "1.2.3",
    "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ModalitiesInStudy": "CT\\SR",
    "NumberOfStudyRelatedInstances": 12,
    "SeriesNumber": "7",
    "StudyDescription": "Kopf\\Hals",
    "ReferringPhysicianName": "",
    "StudyDate": "20240102",
    "state": "prepared",
}


def test_round_trip_through_pydicom() -> None:
    found = json.loads(qido.answer([ROW], "http://h/dicom-web"))
    dataset = Dataset.from_json(found[0])
    assert str(dataset.PatientName) == ROW["PatientName"]
    assert list(dataset.ModalitiesInStudy) == ["CT", "SR"]
    assert dataset.NumberOfStudyRelatedInstances == 12
    assert dataset.SeriesNumber == 7
    assert dataset.RetrieveURL == "http://h/dicom-web/studies/1.2.3"
    assert "Value" not in found[0]["00080090"]
    assert all(len(key) == 8 for key in found[0])


def test_retrieve_url_is_as_deep_as_the_row() -> None:
    row = {"StudyInstanceUID": "1", "SeriesInstanceUID": "2", "SOPInstanceUID": "3"}
    assert qido.retrieve_url("/r", row) == "/r/studies/1/series/2/instances/3"
    del row["SOPInstanceUID"]
    assert qido.retrieve_url("/r", row) == "/r/studies/1/series/2"


def test_numbers_that_are_none_stay_text() -> None:
    found = qido.as_json({"SeriesNumber": "seven"}, "u")
    assert found["00200011"]["Value"] == ["seven"]
